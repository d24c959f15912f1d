//go:build unix

package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/internal/adminrpc"
)

// envelope is a reply of the admin API.
type envelope struct {
	Status   int             `json:"status"`
	Resource string          `json:"resource"`
	Body     json.RawMessage `json:"body"`
	Error    *string         `json:"error"`
	Version  string          `json:"version"`
}

func (e envelope) fields(t testing.TB) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal(e.Body, &m); err != nil {
		t.Fatalf("%s: %s: %v", e.Resource, e.Body, err)
	}
	return m
}

// rpc sends a raw request to a path of the site.
func (h *house) rpc(path, raw string, fields ...string) (int, http.Header, envelope) {
	h.t.Helper()
	r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d%s", h.ports["http"], path), strings.NewReader(raw))
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := h.web().Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	var e envelope
	if resp.StatusCode == 200 {
		if err := json.Unmarshal(body, &e); err != nil {
			h.t.Fatalf("%s: %v", body, err)
		}
	}
	return resp.StatusCode, resp.Header, e
}

func (h *house) web() *http.Client {
	tr := &http.Transport{DisableKeepAlives: true}
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (h *house) token() string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, "admin_token"))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// admin asks as the operators' page does.
func (h *house) admin(method, resource, body string) envelope {
	h.t.Helper()
	_, _, e := h.rpc("/api/admin", fmt.Sprintf(`{"method":%q,"resource":%q,"headers":{"Authorization":"Bearer %s"},"body":%s}`, method, resource, h.token(), body))
	return e
}

// TestREQ10TheTokenOpensTheAdminAPI, and nothing else does.
func TestREQ10TheTokenOpensTheAdminAPI(t *testing.T) {
	h := newHouse(t)
	h.start()
	ask := func(token string) envelope {
		t.Helper()
		_, _, e := h.rpc("/api/admin", fmt.Sprintf(`{"resource":"/admin/status","headers":{"authorization":%q}}`, token))
		return e
	}
	good := h.token()
	for _, bad := range []string{"", "Bearer ", "Bearer x", "Bearer " + good[:63], "Basic " + good, good} {
		if e := ask(bad); e.Status != 401 || e.Error == nil || *e.Error != "unauthorized" || string(e.Body) != "null" || e.Resource != "" {
			t.Errorf("%q: %+v", bad, e)
		}
	}
	if e := ask("Bearer " + good); e.Status != 200 || e.Error != nil || !strings.HasPrefix(e.Version, "3.") {
		t.Errorf("%+v", e)
	}
	// Users try the real header.
	if _, _, e := h.rpc("/api/admin", `{"resource":"/admin/status"}`, "Authorization", "Bearer "+good); e.Status != 200 {
		t.Errorf("%+v", e)
	}
}

func TestTheEnvelope(t *testing.T) {
	h := newHouse(t)
	h.start()
	for raw, want := range map[string]int{
		`{`: 400, `[]`: 400, `{"method":"GET"}`: 400, ``: 400, `{"resource":"/admin/nothing"}`: 401, strings.Repeat(" ", 1<<20+1): 413,
		`{"resource":"/admin/status","body":"` + strings.Repeat("x", 1<<20) + `"}`: 413,
	} {
		if code, _, e := h.rpc("/api/admin", raw); code != 200 || e.Status != want || e.Error == nil {
			t.Errorf("%.40q: %d %+v", raw, code, e)
		}
	}
	for _, c := range []struct {
		method, resource, body string
		status                 int
		text                   string
	}{
		{"GET", "/admin/nothing", "{}", 404, "unknown resource: /admin/nothing"},
		{"DELETE", "/admin/status", "{}", 405, "/admin/status"},
		{"POST", "/admin/services/turn", `{"action":"perhaps"}`, 400, "enable"},
		{"POST", "/admin/services/turn", `[]`, 400, "body"},
		{"DELETE", "/admin/accounts", `{}`, 400, "username is required"},
		{"POST", "/admin/reload", `{"scope":"moon"}`, 400, "scope"},
		{"GET", "/admin/reload", `{}`, 405, ""},
		{"", "/admin/status", "null", 200, ""},
		{"get", "/admin/status", "{}", 200, ""},
	} {
		e := h.admin(c.method, c.resource, c.body)
		text := ""
		if e.Error != nil {
			text = *e.Error
		}
		if e.Status != c.status || (e.Error != nil) != (c.status >= 400) || !strings.Contains(text, c.text) || e.Resource != c.resource {
			t.Errorf("%s %s %s: %+v %s", c.method, c.resource, c.body, e, text)
		}
	}
	r, err := h.web().Get(fmt.Sprintf("http://127.0.0.1:%d/api/admin", h.ports["http"]))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || r.StatusCode != 200 || !bytes.Contains(b, []byte(`"status":405`)) {
		t.Errorf("GET: %d %s %v", r.StatusCode, b, err)
	}
}

// TestREQ09DisabledRemovesTheAdminAPI: it answers like a page that never was.
func TestREQ09DisabledRemovesTheAdminAPI(t *testing.T) {
	h := newHouse(t)
	h.lines["admin_token"] = `"disabled"`
	h.write()
	h.start()
	get := func(path string) string {
		t.Helper()
		r, err := h.web().Post(fmt.Sprintf("http://127.0.0.1:%d%s", h.ports["http"], path), "application/json", strings.NewReader(`{"resource":"/admin/status"}`))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(r.StatusCode, string(b))
	}
	if a, b := get("/api/admin"), get("/never/was"); a != b || !strings.HasPrefix(a, "404") {
		t.Errorf("%q, %q", a, b)
	}
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		for _, path := range []string{"/api/admin", "/api/admin/", "/api/admin/admin/status"} {
			r, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", h.ports["http"], path), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Origin", "https://admin.madmail.chat")
			resp, err := h.web().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 404 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: %d %v", method, path, resp.StatusCode, resp.Header)
			}
		}
	}
	if _, err := h.op("admin-token", `{}`); err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Error(err)
	}
}

// TestWhoMayCall: pages of this host, of the list and of the hosted panel.
func TestWhoMayCall(t *testing.T) {
	h := newHouse(t)
	h.env["CHATMAIL_ADMIN_CORS_ORIGINS"] = "http://localhost:5173, https://panel.example"
	h.start()
	for origin, want := range map[string]bool{
		"https://admin.madmail.chat": true, "http://localhost:5173": true, "https://panel.example": true, "https://127.0.0.1:8443": true,
		"http://localhost": false, "https://evil.example": false, "null": false, "https://127.0.0.1.evil.example": false,
	} {
		r, err := http.NewRequest(http.MethodOptions, fmt.Sprintf("http://127.0.0.1:%d/api/admin", h.ports["http"]), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		resp, err := h.web().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		code := map[bool]int{true: 204, false: 403}[want]
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != code || (got == origin) != want || resp.Header.Get("Vary") != "Origin" {
			t.Errorf("%s: %d %v", origin, resp.StatusCode, resp.Header)
		}
		_, head, _ := h.rpc("/api/admin", `{"resource":"/admin/status"}`, "Origin", origin)
		if got := head.Get("Access-Control-Allow-Origin"); (got == origin) != want {
			t.Errorf("%s, POST: %q", origin, got)
		}
	}
}

// A proxy on this machine speaks for others: they are shut out, it is not.
func TestTenFailuresShutAnAddressOut(t *testing.T) {
	h := newHouse(t)
	h.start()
	ask := func(token, from string) int {
		t.Helper()
		_, _, e := h.rpc("/api/admin", fmt.Sprintf(`{"resource":"/admin/status","headers":{"Authorization":"Bearer %s"}}`, token), "X-Forwarded-For", from)
		return e.Status
	}
	for range 10 {
		ask("wrong", "198.51.100.7")
	}
	if got := ask(h.token(), "198.51.100.7"); got != 401 {
		t.Error("the right token after ten wrong ones:", got)
	}
	if got := ask(h.token(), "198.51.100.8"); got != 200 {
		t.Error("another address:", got)
	}
	if got := ask(h.token(), "198.51.100.8, 198.51.100.7"); got != 401 {
		t.Error("a list that somebody made up:", got)
	}
	for range 20 {
		h.rpc("/api/admin", `{"resource":"/admin/status","headers":{"Authorization":"Bearer wrong"}}`)
	}
	if e := h.admin("GET", "/admin/status", "{}"); e.Status != 200 {
		t.Error("the machine itself:", e.Status)
	}
}

// unset are fields that are null while nobody stored a value.
var unset = map[string]bool{"max_federation_size": true, "appendlimit": true, "max_message_size": true, "message_retention": true, "unused_account_retention": true, "last_upgrade": true, "dns_fqdn": true, "txt": true}

// noNulls fails for null where pages expect a list or a number.
func noNulls(t *testing.T, at string, v any) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			noNulls(t, at+"."+k, x)
		}
	case []any:
		for _, x := range v {
			noNulls(t, at+"[]", x)
		}
	case nil:
		if !unset[at[strings.LastIndexByte(at, '.')+1:]] {
			t.Error(at, "is null")
		}
	}
}

// TestEveryResourceAnswers asks every resource of the table with every method that
// needs no argument.
func TestEveryResourceAnswers(t *testing.T) {
	h := newHouse(t)
	h.lines["enable_contact_sharing"] = `true`
	h.write()
	h.start()
	h.login("somebody")
	n := 0
	for _, r := range adminrpc.Resources() {
		for _, m := range r.Methods {
			if m.Method != "GET" {
				continue
			}
			n++
			e := h.admin("GET", r.Name, "{}")
			if e.Status != 200 || e.Error != nil {
				t.Errorf("%s: %+v", r.Name, e)
				continue
			}
			noNulls(t, r.Name, e.fields(t))
		}
		for _, alias := range r.Aliases {
			if e := h.admin("GET", alias, "{}"); e.Status != 200 {
				t.Errorf("%s: %+v", alias, e)
			}
		}
		if e := h.admin("TRACE", r.Name, "{}"); e.Status != 405 {
			t.Errorf("TRACE %s: %+v", r.Name, e)
		}
	}
	if n < 30 {
		t.Error("only", n, "resources were asked")
	}
}

// TestTheAdminAPIChangesWhatItSays goes through the changes that pages make.
func TestTheAdminAPIChangesWhatItSays(t *testing.T) {
	h := newHouse(t)
	h.lines["turn_enable"], h.lines["turn_secret"] = "true", `"s3cret"`
	h.lines["turn_listen_udp"] = fmt.Sprintf(`"127.0.0.1:%d"`, h.spare)
	h.write()
	h.start()
	h.login("somebody")
	const user = "somebody@[127.0.0.1]"
	for _, c := range []struct {
		method, resource, body string
		status                 int
		want                   string // JSON that the body contains
	}{
		{"POST", "/admin/registration", `{"action":"close"}`, 200, `"status":"closed"`},
		{"GET", "/admin/registration", `{}`, 200, `"status":"closed"`},
		{"POST", "/admin/registration", `{"action":"open"}`, 200, `"status":"open"`},
		{"POST", "/admin/registration/jit", `{"action":"disable"}`, 200, `"status":"disabled"`},
		{"POST", "/admin/registration/jit", `{"action":"enable"}`, 200, `"status":"enabled"`},
		{"POST", "/admin/services/turn", `{"action":"disable"}`, 200, `"status":"disabled"`},
		{"GET", "/admin/services/turn", `{}`, 200, `"status":"disabled"`},
		{"POST", "/admin/services/turn", `{"action":"enable"}`, 200, `"status":"enabled"`},
		{"PUT", "/admin/quota", `{"username":"` + user + `","max_bytes":5000000}`, 200, `"max_bytes":5000000`},
		{"GET", "/admin/quota", `{"username":"` + user + `"}`, 200, `"max_bytes":5000000`},
		{"DELETE", "/admin/quota", `{"username":"` + user + `"}`, 200, `"reset":"` + user + `"`},
		{"PUT", "/admin/message-size", `{"size":"50M"}`, 200, `"effective_bytes":52428800`},
		{"DELETE", "/admin/message-size", `{}`, 200, `"effective_bytes":104857600`},
		{"PUT", "/admin/message-size", `{"size":"a lot"}`, 400, ``},
		{"PUT", "/admin/federation-size", `{"size":"10M"}`, 200, `"effective_bytes":10485760`},
		{"POST", "/admin/dns", `{"lookup_key":"Peer.Example","target_host":"192.0.2.7","comment":"x"}`, 201, `"lookup_key":"peer.example"`},
		{"GET", "/admin/dns", `{}`, 200, `"target_host":"192.0.2.7"`},
		{"DELETE", "/admin/dns", `{"lookup_key":"peer.example"}`, 200, `"deleted":"peer.example"`},
		{"DELETE", "/admin/dns", `{"lookup_key":"peer.example"}`, 200, `"deleted"`},
		{"POST", "/admin/federation/rules", `{"domain":" Spam.Example "}`, 200, `"total":1`},
		{"GET", "/admin/federation/rules", `{}`, 200, `"domain":"spam.example"`},
		{"DELETE", "/admin/federation/rules", `{"domain":"spam.example"}`, 200, `"remaining":0`},
		{"POST", "/admin/federation/silent-dismiss", `{"domain":"gone.example"}`, 200, `"total":1`},
		{"GET", "/admin/federation/silent-dismiss", `{}`, 200, `"domains":["gone.example"]`},
		{"DELETE", "/admin/federation/silent-dismiss", `{"domain":"gone.example"}`, 200, `"remaining":0`},
		{"POST", "/admin/settings/federation", `{"policy":"REJECT"}`, 200, `"policy":"REJECT"`},
		{"POST", "/admin/settings/federation", `{"enabled":false,"policy":"ACCEPT"}`, 200, `"enabled":false`},
		{"POST", "/admin/settings/federation", `{"enabled":true}`, 200, `"enabled":true`},
		{"POST", "/admin/registration-token", `{"token":"join-us","max_uses":3,"comment":"club"}`, 201, `"max_uses":3`},
		{"POST", "/admin/registration-token", `{"token":"join-us","max_uses":4}`, 200, `"max_uses":4`},
		{"GET", "/admin/registration-token", `{}`, 200, `"token":"join-us"`},
		{"DELETE", "/admin/registration-token", `{"token":"join-us"}`, 200, `"deleted":"join-us"`},
		{"POST", "/admin/exchangers", `{"name":"relief","url":"https://box.example"}`, 201, `"poll_interval":60`},
		{"POST", "/admin/exchangers", `{"name":"relief","url":"https://box.example","poll_interval":90}`, 201, `"poll_interval":90`},
		{"PUT", "/admin/exchangers", `{"name":"relief","enabled":false}`, 200, `"updated":"relief"`},
		{"PUT", "/admin/exchangers", `{"name":"relief"}`, 400, ``},
		{"PUT", "/admin/exchangers", `{"name":"other","enabled":false}`, 404, ``},
		{"GET", "/admin/exchangers", `{}`, 200, `"enabled":false`},
		{"DELETE", "/admin/exchangers", `{"name":"relief"}`, 200, `"deleted":"relief"`},
		{"GET", "/admin/dkim", `{}`, 200, `"publishable":false`},
		{"POST", "/admin/services/push", `{"action":"auto"}`, 200, `"mode":"auto"`},
		{"POST", "/admin/services/push", `{"action":"disable"}`, 200, `"status":"disabled"`},
		{"POST", "/admin/blocklist", `{"username":"bad@[127.0.0.1]","reason":"spam"}`, 200, `"blocked":"bad@[127.0.0.1]"`},
		{"GET", "/admin/blocklist", `{}`, 200, `"reason":"spam"`},
		{"DELETE", "/admin/blocklist", `{"username":"bad@[127.0.0.1]"}`, 200, `"unblocked":"bad@[127.0.0.1]"`},
		{"POST", "/admin/accounts", `{}`, 201, `"dclogin":"dclogin:`},
		{"GET", "/admin/accounts", `{"query":"SOME","limit":1}`, 200, `"username":"` + user + `"`},
		{"POST", "/admin/notice", `{"username":"` + user + `","subject":"hello","body":"text"}`, 200, ``},
		{"POST", "/admin/queue", `{"action":"purge_user","username":"` + user + `"}`, 200, `"deleted":1`},
		{"POST", "/admin/queue", `{"action":"purge_queue"}`, 200, `"deleted":0`},
		{"POST", "/admin/queue", `{"action":"burn"}`, 400, ``},
		{"PATCH", "/admin/accounts", `{"action":"import","users":[{"username":"imported","password":"correct-horse-battery-33"}]}`, 200, `"imported":1`},
		{"PATCH", "/admin/accounts", `{"action":"export"}`, 200, `"username":"imported@[127.0.0.1]"`},
		{"DELETE", "/admin/accounts", `{"username":"` + user + `"}`, 200, `"blocked":"` + user + `"`},
		{"POST", "/admin/reload", `{"scope":"full","wait":true}`, 200, `"status":"reloaded"`},
		{"POST", "/admin/cache/reload", `{}`, 200, `"credentials_cache_reloaded":true`},
		{"PATCH", "/admin/accounts", `{"action":"delete_all"}`, 200, `"deleted":2`},
	} {
		e := h.admin(c.method, c.resource, c.body)
		if e.Status != c.status || !strings.Contains(string(e.Body), c.want) || (e.Error == nil) != (c.status < 400) {
			text := ""
			if e.Error != nil {
				text = *e.Error
			}
			t.Errorf("%s %s %s: %d %s %s", c.method, c.resource, c.body, e.Status, e.Body, text)
		}
	}
	if r, err := h.target().Login("somebody"); err == nil {
		r.Close()
		t.Error("a deleted account logs in")
	}
}

// TestREQ03ListenerPortsTellWhatIsBound, before and after a change.
func TestREQ03ListenerPortsTellWhatIsBound(t *testing.T) {
	h := newHouse(t)
	h.start()
	look := func() map[string]any { t.Helper(); return h.admin("GET", "/admin/listener-ports", "{}").fields(t) }
	m := look()
	if got, want := m["imap_tls_addr"], fmt.Sprintf("127.0.0.1:%d", h.ports["imap_tls"]); got != want {
		t.Error(got, want)
	}
	h.must("settings.set", fmt.Sprintf(`{"name":"imap_tls_port","value":"%d"}`, h.spare))
	if got, want := look()["imap_tls_addr"], fmt.Sprintf("127.0.0.1:%d", h.spare); got != want {
		t.Error("after a change:", got, want)
	}
	if list := m["listeners"].([]any); len(list) != 7 {
		t.Error(len(list), "listeners")
	}
	h.must("settings.set", `{"name":"https_enabled","value":"false"}`)
	if m := look(); m["http_tls_addr"] != nil || m["http_tls_port"] != "" {
		t.Error("switched off:", m["http_tls_addr"], m["http_tls_port"])
	}
}

// TestThePathOfTheAdminAPIChangesAtOnce; the page that changed it can still follow.
func TestThePathOfTheAdminAPIChangesAtOnce(t *testing.T) {
	h := newHouse(t)
	h.start()
	at := func(path, resource string) (int, int) {
		t.Helper()
		code, _, e := h.rpc(path, fmt.Sprintf(`{"method":"GET","resource":%q,"headers":{"Authorization":"Bearer %s"}}`, resource, h.token()))
		return code, e.Status
	}
	if e := h.admin("POST", "/admin/settings/admin_path", `{"action":"set","value":"secret/door"}`); e.Status != 200 {
		t.Fatalf("%+v", *e.Error)
	}
	if code, status := at("/secret/door", "/admin/accounts"); code != 200 || status != 200 {
		t.Error("the new path:", code, status)
	}
	if code, status := at("/api/admin", "/admin/status"); code != 200 || status != 200 {
		t.Error("the old path, to follow:", code, status)
	}
	if code, status := at("/api/admin", "/admin/accounts"); code != 200 || status != 404 {
		t.Error("the old path, for more:", code, status)
	}
}

// TestThePageOnLoopbackReachesItsServer: a page whose host is 127.0.0.1 sends what it
// asks through its own site. It gets this server and no other, and only there.
func TestThePageOnLoopbackReachesItsServer(t *testing.T) {
	h := newHouse(t)
	h.start()
	payload := fmt.Sprintf(`{"method":"GET","resource":"/admin/status","headers":{"Authorization":"Bearer %s"},"body":{}}`, h.token())
	ask := func(target, host, origin string) (int, string) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/__proxy", h.ports["http"]), strings.NewReader(fmt.Sprintf(`{"targetUrl":%q,"payload":%s}`, target, payload)))
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			r.Host = host
		}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		resp, err := h.web().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	const api = "http://127.0.0.1:9/api/admin" // the near end of a tunnel: any port
	if code, body := ask(api, "", ""); code != 404 {
		t.Error("while the page is switched off:", code, body)
	}
	h.must("settings.set", `{"name":"admin_web_enabled","value":"true"}`)
	for _, target := range []string{api, "https://first.example.org/api/admin", "http://localhost/api/admin/"} {
		if code, body := ask(target, "127.0.0.1:8080", "http://127.0.0.1:8080"); code != 200 || !strings.Contains(body, `"status":200`) {
			t.Errorf("%s: %d %s", target, code, body)
		}
	}
	for _, c := range [][3]string{
		{"https://other.example/api/admin", "", ""}, {"http://127.0.0.1/new", "", ""}, {"ftp://127.0.0.1/api/admin", "", ""}, {"::", "", ""}, {api, "mail.example.org", ""},
	} {
		if code, body := ask(c[0], c[1], c[2]); code != 404 {
			t.Errorf("%q: %d %s", c, code, body)
		}
	}
	if code, _ := ask(api, "127.0.0.1:8080", "https://evil.example"); code != 403 {
		t.Error("a page from elsewhere:", code)
	}
	h.lines["admin_token"] = `"disabled"`
	h.write()
	h.must("reload", `{}`)
	if code, _ := ask(api, "", ""); code != 404 {
		t.Error("a disabled API:", code)
	}
}

//go:build unix

package app

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"madmail/internal/address"
	"madmail/internal/peers"
	"madmail/test/load"
	"madmail/test/testport"
)

// What follows is what the operators' page of earlier versions reads, page by page, and
// how it goes where its server moves. It is written down from the page's side: a field
// stands here because the page would break, or show something wrong, without it.

// pageForms are the requests that its places make when they open, and the fields that
// they read.
func pageForms() []asked {
	numbers := func(names string) string {
		var b strings.Builder
		for _, n := range strings.Fields(names) {
			fmt.Fprintf(&b, `,%q:"i"`, n)
		}
		return b.String()
	}
	return []asked{
		{"GET", "/admin/overview", `{}`, 200, `{"version":"S","users":{"registered":"i"},"uptime":{"duration":"S"},"disk":{"total_bytes":"i","used_bytes":"i","available_bytes":"i","percent_used":"n"},
			"tokens":{"total":"i"},"sent_messages":"i","outbound_messages":"i","received_messages":"i","imap?":{"connections":"i","unique_ips":"i"},"turn?":{"relays":"i"},
			"shadowsocks?":{"connections":"i","unique_ips":"i"},"email_servers?":{"connections":"i","domain_servers":"i","ip_servers":"i"},
			"federation_traffic?":{"inbound":"i","outbound":"i","queued":"i","expired":"i","mean_latency_ms":"i","health":{"perfect":"i","federated":"i","bad":"i"}},
			"message_retention":{"enabled":"b","days":"i"},"push":{"enabled":"b","successful_notifications":"i"},"settings":` + formSettings() + `}`},
		{"GET", "/admin/status", `{}`, 200, `{"version":"S","sent_messages":"i","users":{"registered":"i"},"uptime":{"duration":"S"}}`},
		{"GET", "/admin/storage", `{}`, 200, `{"disk":{"total_bytes":"i","used_bytes":"i","available_bytes":"i","percent_used":"n"}}`},
		{"GET", "/admin/settings", `{}`, 200, formSettings()},
		{"GET", "/admin/services/webhooks", `{}`, 200, formHooks},
		{"GET", "/admin/accounts", `{}`, 200, `{"accounts":[{"username":"S","used_bytes":"i","max_bytes":"i","is_default_quota":"b","created_at":"i","last_login_at":"i"}],"total":"i"}`},
		{"GET", "/admin/quota", `{}`, 200, `{"total_storage_bytes":"i","accounts_count":"i","default_quota_bytes":"i"}`},
		{"GET", "/admin/blocklist", `{}`, 200, `{"blocked":[{"username":"S","reason":"s","blocked_at":"t"}],"total":"i"}`},
		{"GET", "/admin/registration-token", `{}`, 200, `{"tokens":[{"token":"S","max_uses":"i","used_count":"i","pending_reservations":"i","comment":"s","created_at":"t","expires_at?":"t",
			"status":"active|exhausted|expired"}],"total":"i"}`},
		{"GET", "/admin/settings/federation", `{}`, 200, `{"enabled":"b","policy":"ACCEPT|REJECT","max_federation_size":"?s","federation_size_effective":"S"}`},
		{"GET", "/admin/federation-size", `{}`, 200, `{"effective":"S","max_federation_size":"?s"}`},
		{"GET", "/admin/federation/rules", `{}`, 200, `{"rules":[{"domain":"S","created_at":"i"}],"total":"i"}`},
		{"GET", "/admin/federation/servers", `{}`, 200, `{"servers":[{"domain":"S","mean_latency_ms":"n"` +
			numbers("queued_messages failed_http failed_https failed_smtp success_http success_https success_smtp inbound_deliveries successful_deliveries last_active") + `}],"total":"i"}`},
		{"GET", "/admin/dns", `{}`, 200, `{"overrides":[{"lookup_key":"S","target_host":"S","comment?":"s"}],"total":"i"}`},
		{"GET", "/admin/exchangers", `{}`, 200, `{"exchangers":[{"name":"S","url":"S","enabled":"b","poll_interval":"i","last_poll_at?":"t"}],"total":"i"}`},
		{"GET", "/admin/dkim", `{}`, 200, `{"selector":"s","domain":"s","dns_name":"s","dns_fqdn":"?s","private_key_path":"s","txt_path":"s","txt":"?s","publishable":"b","generated":"b","reason?":"s"}`},
		{"GET", "/admin/dkim/check", `{}`, 200, `{"checked":"b","matched":"b","lookup_error?":"s"}`},
	}
}

// filled is a server on which every list has something in it, and every service is on.
func filled(t *testing.T) *house {
	h := newHouse(t)
	h.lines["turn_enable"], h.lines["turn_secret"] = "true", `"s3cret"`
	h.lines["turn_listen_udp"] = fmt.Sprintf(`"127.0.0.1:%d"`, h.spare)
	h.lines["ss_addr"], h.lines["ss_password"] = fmt.Sprintf(`"127.0.0.1:%d"`, testport.Ports(t, 1)[0]), `"abcdefgh12345678"`
	h.write()
	h.start()
	h.login("somebody")
	s, err := h.target().NewSender("somebody")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Send([]string{"somebody@[127.0.0.1]"}, load.Message("somebody@[127.0.0.1]", 4000)); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{"POST", "/admin/accounts", `{}`}, // never logged in
		{"PUT", "/admin/quota", `{"username":"somebody@[127.0.0.1]","max_bytes":209715200}`},
		{"POST", "/admin/blocklist", `{"username":"bad@[127.0.0.1]","reason":"manually blocked"}`},
		{"POST", "/admin/registration-token", `{"max_uses":null}`},
		{"POST", "/admin/registration-token", `{"token":"club","max_uses":5,"comment":"c","expires_in":"72h"}`},
		{"POST", "/admin/federation/rules", `{"domain":"[192.0.2.9]"}`},
		{"POST", "/admin/dns", `{"lookup_key":"peer.example","target_host":"127.0.0.1:1","comment":""}`},
		{"POST", "/admin/exchangers", `{"name":"relief","url":"https://127.0.0.1:1/me/full","poll_interval":1}`},
		{"PUT", "/admin/services/webhooks", `{"enabled":true,"url":"https://127.0.0.1:1/h","event_user_registered":false,"event_quota_exceeded":true,"timeout_seconds":1,"retry_attempts":0,"secret":"quiet"}`},
		{"POST", "/admin/services/webmail_dev", `{"action":"enable","origin":"http://127.0.0.1:5173"}`},
		{"POST", "/admin/services/message_retention", `{"action":"enable"}`},
		{"POST", "/admin/services/push", `{"action":"auto"}`},
		{"PUT", "/admin/federation-size", `{"size":"50M"}`},
		{"POST", "/admin/settings/smtp_hostname", `{"action":"set","value":"localhost"}`},
	} {
		if e := h.admin(c[0], c[1], c[2]); e.Error != nil {
			t.Fatalf("%s %s: %s", c[0], c[1], *e.Error)
		}
	}
	h.fed.peers.Received("peer.example")
	h.fed.peers.Tried("peer.example", peers.HTTPS, false)
	h.fed.peers.Sent("peer.example", time.Second)
	h.fed.peers.Received(address.Domain("[192.0.2.9]"))
	return h
}

// switchedOff is a server with nothing but what cannot be switched off.
func switchedOff(t *testing.T) *house {
	h := newHouse(t)
	h.lines["alpn_imap"], h.lines["alpn_smtp"] = `"off"`, `"off"`
	h.write()
	h.start()
	for _, name := range []string{"registration/jit", "services/turn", "services/iroh", "services/push", "services/admin_web", "services/auto_purge_seen", "services/message_retention", "services/shadowsocks",
		"services/ss_ws", "services/ss_grpc", "services/http_proxy", "services/webimap", "services/websmtp", "services/log"} {
		if e := h.admin("POST", "/admin/"+name, `{"action":"disable"}`); e.Error != nil {
			t.Fatalf("%s: %s", name, *e.Error)
		}
	}
	h.admin("POST", "/admin/registration", `{"action":"close"}`)
	h.admin("POST", "/admin/settings/federation", `{"enabled":false,"policy":"REJECT"}`)
	return h
}

// TestEveryPlaceOfThePageFindsWhatItReads, on an empty server, on one with something in
// every list, and on one whose services are off.
func TestEveryPlaceOfThePageFindsWhatItReads(t *testing.T) {
	for name, house := range map[string]func(*testing.T) *house{
		"empty": func(t *testing.T) *house { h := newHouse(t); h.start(); return h }, "filled": filled, "off": switchedOff,
	} {
		t.Run(name, func(t *testing.T) {
			h := house(t)
			for _, c := range pageForms() {
				e := h.admin(c.method, c.resource, c.body)
				if e.Status != c.status || e.Error != nil {
					t.Errorf("%s: %+v", c.resource, e)
					continue
				}
				got := compare(t, c.resource, c.form, e.Body)
				for k, v := range got.(map[string]any) {
					list, ok := v.([]any)
					if !ok {
						continue
					}
					if total := got.(map[string]any)["total"]; total != nil && total != float64(len(list)) {
						t.Errorf("%s: %v of %s, and %d are listed", c.resource, total, k, len(list))
					}
					if name == "filled" && len(list) == 0 && k != "dns_txt" {
						t.Errorf("%s: no %s were compared", c.resource, k)
					}
				}
				if name == "filled" && c.resource == "/admin/overview" {
					for _, k := range []string{"imap", "turn", "shadowsocks", "email_servers", "federation_traffic"} {
						if got.(map[string]any)[k] == nil {
							t.Errorf("no %s was compared", k)
						}
					}
				}
			}
		})
	}
}

// TestLoginLinksOfThePageWork: it takes the values of two ports for STARTTLS, whether
// they are set or not, and writes them into a link that says TLS. Where they are empty it
// takes 993 and 465.
func TestLoginLinksOfThePageWork(t *testing.T) {
	h := newHouse(t)
	h.start()
	ports := func(resource string) (string, string, string) {
		t.Helper()
		m := h.admin("GET", resource, `{}`).fields(t)
		if s, ok := m["settings"].(map[string]any); ok {
			m = s
		}
		text := func(name string) string { return m[name].(map[string]any)["value"].(string) }
		return text("imap_port"), text("submission_port"), text("imap_tls_port")
	}
	for _, resource := range []string{"/admin/settings", "/admin/overview"} {
		if i, s, secure := ports(resource); i != "" || s != "" || secure != fmt.Sprint(h.ports["imap_tls"]) {
			t.Errorf("%s: %q, %q, %q", resource, i, s, secure)
		}
	}
	h.admin("POST", "/admin/settings/imap_port", fmt.Sprintf(`{"action":"set","value":%d}`, h.spare))
	if i, _, _ := ports("/admin/settings"); i != fmt.Sprint(h.spare) {
		t.Errorf("one that is set: %q", i)
	}
}

// following is the page's idea of where its server is. It changes as the page changes it.
type following struct {
	*house
	at url.URL
}

func (f *following) ask(method, resource, body string) (e envelope, err error) {
	raw := fmt.Sprintf(`{"method":%q,"resource":%q,"headers":{"Authorization":"Bearer %s"},"body":%s}`, method, resource, f.token(), body)
	// The page stays where it was loaded: it needs leave to ask on another port.
	origin := fmt.Sprintf("http://localhost:%d", f.ports["http"])
	for _, m := range []string{http.MethodOptions, http.MethodPost} {
		r, err := http.NewRequest(m, f.at.String(), strings.NewReader(raw))
		if err != nil {
			f.t.Fatal(err)
		}
		r.Header.Set("Origin", origin)
		r.Header.Set("Content-Type", "application/json")
		if m == http.MethodOptions {
			r.Header.Set("Access-Control-Request-Method", http.MethodPost)
			r.Header.Set("Access-Control-Request-Headers", "content-type")
		}
		resp, err := f.web().Do(r)
		if err != nil {
			return e, err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return e, err
		}
		if got := resp.Header.Get("Access-Control-Allow-Origin"); got != origin {
			return e, fmt.Errorf("%s %s: a page of %s may not ask: %d", m, f.at.String(), origin, resp.StatusCode)
		}
		if m == http.MethodPost {
			if err := json.Unmarshal(text, &e); err != nil {
				return e, fmt.Errorf("%s: %w", text, err)
			}
		}
	}
	if e.Error != nil {
		return e, fmt.Errorf("%s %s: %s", method, resource, *e.Error)
	}
	return e, nil
}

// load reads the settings and moves the URL as the page does.
func (f *following) load() error {
	e, err := f.ask("GET", "/admin/settings", `{}`)
	if err != nil {
		return err
	}
	m := e.fields(f.t)
	set := func(name string) string {
		v := m[name].(map[string]any)
		if v["is_set"] != true {
			return ""
		}
		return v["value"].(string)
	}
	host, port := f.at.Hostname(), f.at.Port()
	if s := set("smtp_hostname"); s != "" {
		host = s
	}
	if s := set("http_port"); s != "" {
		port = s
	}
	if s := set("admin_path"); s != "" {
		f.at.Path = s
	}
	f.at.Host = host + ":" + port
	return nil
}

// TestThePageFollowsItsServer to another port, path and name: after each change it asks
// where it thinks the server is now, and finds it.
func TestThePageFollowsItsServer(t *testing.T) {
	h := newHouse(t)
	h.start()
	f := &following{h, url.URL{Scheme: "http", Host: fmt.Sprintf("localhost:%d", h.ports["http"]), Path: "/api/admin"}}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	ask := func(method, resource, body string) map[string]any {
		t.Helper()
		e, err := f.ask(method, resource, body)
		must(resource, err)
		return e.fields(t)
	}
	// A port: the page sends the reload to the new one, once the reply says that it needs one.
	if m := ask("POST", "/admin/settings/http_port", fmt.Sprintf(`{"action":"set","value":%d}`, h.spare)); m["restart_required"] != true {
		t.Fatalf("%v", m)
	}
	f.at.Host = fmt.Sprintf("localhost:%d", h.spare)
	ask("POST", "/admin/reload", `{}`)
	ask("GET", "/admin/status", `{}`)
	must("after the port", f.load())
	// The path: the reload goes to the old one.
	ask("POST", "/admin/settings/admin_path", `{"action":"set","value":"/x7f3secret"}`)
	ask("POST", "/admin/reload", `{"scope":"http","wait":true}`)
	f.at.Path = "/x7f3secret"
	ask("GET", "/admin/status", `{}`)
	must("after the path", f.load())
	// And back to what the page thinks is there without one.
	ask("POST", "/admin/settings/admin_path", `{"action":"reset"}`)
	ask("POST", "/admin/reload", `{"scope":"http","wait":true}`)
	f.at.Path = "/api/admin"
	ask("GET", "/admin/status", `{}`)
	must("after the reset", f.load())
	// The name, which it takes from the settings.
	ask("POST", "/admin/settings/smtp_hostname", `{"action":"set","value":"localhost"}`)
	must("the name", f.load())
	ask("GET", "/admin/overview", `{}`)
	if f.at.Hostname() != "localhost" {
		t.Error(f.at.Host)
	}
}

// TestThePageIsNotSentAway: where a change of the path would leave the page asking where
// nothing is, it is refused, with what to do instead.
func TestThePageIsNotSentAway(t *testing.T) {
	h := newHouse(t)
	h.lines["admin_path"] = `"/hidden"`
	h.write()
	h.start()
	ask := func(body string) envelope {
		_, _, e := h.rpc("/hidden", fmt.Sprintf(`{"method":"POST","resource":"/admin/settings/admin_path","headers":{"Authorization":"Bearer %s"},"body":%s}`, h.token(), body))
		return e
	}
	if e := ask(`{"action":"reset"}`); e.Status != 400 || e.Error == nil || !strings.Contains(*e.Error, "/hidden") {
		t.Errorf("%+v", e)
	}
	if e := ask(`{"action":"set","value":"/hidden"}`); e.Status != 200 {
		t.Errorf("%+v", e)
	}
	h.stop()
	h.env["CHATMAIL_ADMIN_PATH"] = "/hidden"
	h.start()
	if e := ask(`{"action":"set","value":"/elsewhere"}`); e.Status != 400 || e.Error == nil || !strings.Contains(*e.Error, "CHATMAIL_ADMIN_PATH") {
		t.Errorf("%+v", e)
	}
}

// TestWhatThePageSendsIsUnderstood: what its forms offer, and what their fields become.
func TestWhatThePageSendsIsUnderstood(t *testing.T) {
	h := newHouse(t)
	h.start()
	// The form of exchangers offers one second.
	for interval, want := range map[string]float64{"-1": 60, "0": 60, "1": 5, "90": 90, "999999": 86400} {
		m := h.admin("POST", "/admin/exchangers", `{"name":"relief","url":"https://127.0.0.1:1/me/full","poll_interval":`+interval+`}`).fields(t)
		if m["poll_interval"] != want {
			t.Errorf("every %s s: %v", interval, m)
		}
	}
	if e := h.admin("PUT", "/admin/exchangers", `{"name":"relief","poll_interval":2}`); e.Status != 200 {
		t.Errorf("%+v", e)
	}
	// Origins stand on lines of their own in what earlier versions stored.
	if m := h.admin("POST", "/admin/settings/webmail_cors_origins", `{"action":"set","value":"https://a.example\nhttps://b.example"}`).fields(t); m["value"] != "https://a.example,https://b.example" {
		t.Errorf("%v", m)
	}
	h.must("settings.set", `{"name":"webmail_cors_origins","value":"https://a.example\nhttps://c.example"}`)
	s := h.admin("GET", "/admin/settings", `{}`).fields(t)
	if v := s["webmail_cors_origins"].(map[string]any)["value"]; v != "https://a.example,https://c.example" {
		t.Errorf("%v", v)
	}
	// It shows the message of a removal and nothing else of it.
	h.admin("POST", "/admin/accounts", `{}`)
	h.admin("POST", "/admin/notice", `{"subject":"s","body":"b"}`)
	if m := h.admin("POST", "/admin/queue", `{"action":"purge_blobs"}`).fields(t); m["deleted"] != 1.0 || !strings.HasSuffix(m["message"].(string), ": 1") {
		t.Errorf("%v", m)
	}
	// A file that is no list of accounts is sent as it is: the refusal is for people.
	if e := h.admin("PATCH", "/admin/accounts", `{"action":"import","users":{"users":[]}}`); e.Status != 400 || *e.Error != "invalid body: users cannot be of the JSON type object" {
		t.Errorf("%+v", e)
	}
	if e := h.admin("POST", "/admin/reload", `{}`); strings.Contains(string(e.Body), "null") {
		t.Errorf("%s", e.Body)
	}
}

// TestMailOnThePortOfHTTPSFromThePage: every form in which pages may switch it, and the
// reply in every form that they may read.
func TestMailOnThePortOfHTTPSFromThePage(t *testing.T) {
	h := newHouse(t)
	h.start()
	served := func() (imap, smtp bool) {
		return h.byProtocol("imap") != nil, h.byProtocol("smtp") != nil
	}
	for _, c := range []struct {
		body string
		on   bool
	}{
		{`{"action":"disable"}`, false}, {`{"action":"enable"}`, true}, {`{"action":"set","value":"false"}`, false}, {`{"action":"set","value":true}`, true},
		{`{"enabled":false}`, false}, {`{"enabled":true}`, true}, {`{"action":"disable"}`, false}, {`{"action":"reset"}`, true},
	} {
		for _, name := range []string{"imap", "smtp"} {
			m := h.admin("POST", "/admin/settings/shared_port_"+name, c.body).fields(t)
			status := map[bool]string{true: "enabled", false: "disabled"}[c.on]
			if m["status"] != status || m["enabled"] != c.on || m["restart_required"] != false || m["is_set"] != (c.body != `{"action":"reset"}`) {
				t.Errorf("%s %s: %v", name, c.body, m)
			}
		}
		all := h.admin("GET", "/admin/settings", `{}`).fields(t)
		if imap, smtp := served(); imap != c.on || smtp != c.on || all["shared_port_imap"] != c.on || all["shared_port_smtp"] != c.on {
			t.Errorf("%s: IMAP %v, submission %v; %v, %v", c.body, imap, smtp, all["shared_port_imap"], all["shared_port_smtp"])
		}
	}
	h.admin("POST", "/admin/settings/shared_port_imap", `{"action":"disable"}`)
	if imap, smtp := served(); imap || !smtp {
		t.Errorf("IMAP alone is off: %v, %v", imap, smtp)
	}
	if e := h.admin("POST", "/admin/settings/shared_port_imap", `{"action":"burn"}`); e.Status != 400 {
		t.Errorf("%+v", e)
	}
}

// TestTheLoginLinkLeadsToOurPage where this server has one.
func TestTheLoginLinkLeadsToOurPage(t *testing.T) {
	h := newHouse(t)
	opt := h.options()
	opt.Panel = fstest.MapFS{"index.html": {Data: []byte("<html><head></head></html>")}}
	a, err := New(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	h.App = a
	panel := func() any { return h.must("admin-token", `{}`)["panel_url"] }
	if got := panel(); got != nil {
		t.Errorf("while it is off: %v", got)
	}
	h.must("admin-web", `{"Enabled":true,"Path":"/desk"}`)
	want := fmt.Sprintf("https://first.example.org:%d/desk/", h.ports["http_tls"])
	if got := panel(); got != want {
		t.Errorf("%v, want %s", got, want)
	}
	// Links of either kind reach the page.
	resp, err := h.web().Get(fmt.Sprintf("http://127.0.0.1:%d/desk?madmail_u=a&madmail_t=b", h.ports["http"]))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if to := resp.Header.Get("Location"); resp.StatusCode != http.StatusPermanentRedirect || to != "/desk/?madmail_u=a&madmail_t=b" {
		t.Errorf("%d %s", resp.StatusCode, to)
	}
}

// TestThePageFollowsAPortThatIsReset: it goes on asking at the one that was set, over the
// connections that it has, and follows to a port that is set only.
func TestThePageFollowsAPortThatIsReset(t *testing.T) {
	for scheme, name := range map[string]string{"http": "http", "https": "http_tls"} {
		h := newHouse(t)
		h.start()
		setting := scheme + "_port"
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		ask := func(port int, method, resource, body string) map[string]any {
			t.Helper()
			resp, err := c.Post(fmt.Sprintf("%s://127.0.0.1:%d/api/admin", scheme, port), "application/json",
				strings.NewReader(fmt.Sprintf(`{"method":%q,"resource":%q,"headers":{"Authorization":"Bearer %s"},"body":%s}`, method, resource, h.token(), body)))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var e envelope
			if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Error != nil {
				t.Fatalf("%s: %+v, %v", resource, e, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil { // else the connection is not used again
				t.Fatal(err)
			}
			return e.fields(t)
		}
		own := h.ports[name]
		told := func(port int) any { return ask(port, "GET", "/admin/settings", `{}`)[setting] }
		ask(own, "POST", "/admin/settings/"+setting, fmt.Sprintf(`{"action":"set","value":%d}`, h.spare))
		ask(h.spare, "POST", "/admin/reload", `{}`)
		ask(h.spare, "POST", "/admin/settings/"+setting, `{"action":"reset"}`)
		want := map[string]any{"key": "__" + strings.ToUpper(setting) + "__", "value": fmt.Sprint(own), "is_set": true, "restart_required": false}
		if got := told(h.spare); !reflect.DeepEqual(got, want) {
			t.Errorf("%s, where it was: %v", scheme, got)
		}
		if got := ask(h.spare, "GET", "/admin/overview", `{}`)["settings"].(map[string]any)[setting]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s, where it was: %v", scheme, got)
		}
		want["is_set"] = false
		tr.CloseIdleConnections()
		if got := told(own); !reflect.DeepEqual(got, want) {
			t.Errorf("%s, where it is: %v", scheme, got)
		}
	}
}

package website

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/html"

	"madmail/internal/fault"
)

// desk is a fake of what makes accounts; it remembers what it was asked.
type desk struct {
	mu    sync.Mutex // guards the fields below
	asked []string   // token and host of each request
	fail  error
	facts Facts
}

func (d *desk) register(_ context.Context, token, host string) (Account, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, token+" "+host)
	if d.fail != nil {
		return Account{}, d.fail
	}
	return Account{Email: "u1@example.org", Password: "p<&>w", Link: "dclogin:u1@example.org?p=p%3C%26%3Ew&v=1"}, nil
}

func open() Facts {
	return Facts{
		Domain: "example.org", Host: "mx.example.org", Open: true, Quota: 1 << 30, MaxMessage: 100 << 20,
		IMAPTLS: 993, IMAP: 143, SMTPTLS: 465, SMTP: 587, SelfSigned: true,
	}
}

func site(t testing.TB, d *desk) *Server {
	t.Helper()
	s, err := New(Options{Register: d.register, Facts: func() Facts { return d.facts }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends one request to the handler, without a socket.
func ask(s *Server, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:4711"
	for i := 0; i+1 < len(header); i += 2 {
		switch header[i] {
		case "from":
			r.RemoteAddr = header[i+1]
		default:
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, r)
	return w
}

func TestEveryRouteAndMethod(t *testing.T) {
	s := site(t, &desk{facts: open()})
	const page, text, js = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"
	for _, x := range []struct {
		method, target string
		status         int
		typ            string
	}{
		{"GET", "/", 200, page}, {"HEAD", "/", 200, page}, {"GET", "/?lang=fa", 200, page}, {"GET", "/index.html", 200, page},
		{"POST", "/", 405, page}, {"PUT", "/index.html", 405, page}, {"DELETE", "/", 405, page}, {"OPTIONS", "/", 405, page},
		{"GET", "/main.css", 200, "text/css; charset=utf-8"}, {"POST", "/main.css", 405, page},
		{"GET", "/qr?data=x", 200, "image/png"}, {"HEAD", "/qr?data=x", 200, "image/png"}, {"GET", "/qr", 400, text}, {"POST", "/qr", 405, page},
		{"GET", "/.well-known/autoconfig/mail/config-v1.1.xml", 200, "application/xml"},
		{"GET", "/.well-known/autoconfig/mail/config-v1.1.xml?emailaddress=a%40b", 200, "application/xml"},
		{"GET", "/mail/config-v1.1.xml", 200, "application/xml"}, {"PUT", "/mail/config-v1.1.xml", 405, page},
		{"POST", "/new", 200, js}, {"GET", "/new", 302, page}, {"OPTIONS", "/new", 204, ""}, {"HEAD", "/new", 405, js}, {"PUT", "/new", 405, js},
		{"GET", "/none", 404, page}, {"POST", "/none", 404, page}, {"GET", "/new/", 404, page}, {"GET", "/assets/index.html", 404, page},
		{"GET", "/.git/config", 404, page}, {"GET", "/api/admin", 404, page}, {"GET", "/admin", 404, page},
		{"GET", "/..%2f..%2fetc/passwd", 404, page}, {"GET", "/%2e%2e/etc/passwd", 404, page}, {"GET", "/%00", 404, page}, {"GET", "/\\..\\x", 404, page},
		{"GET", "//", 307, ""}, {"GET", "/../main.css", 404, page},
	} {
		w := ask(s, x.method, x.target, "")
		typ := w.Header().Get("Content-Type")
		if x.typ == "" {
			typ = ""
		}
		if w.Code != x.status || typ != x.typ {
			t.Errorf("%s %s: %d %q, want %d %q", x.method, x.target, w.Code, w.Header().Get("Content-Type"), x.status, x.typ)
		}
		h := w.Header()
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s %s: headers %v", x.method, x.target, h)
		}
		if h.Get("Server") != "" || strings.Contains(w.Body.String(), "madmail") {
			t.Errorf("%s %s says what software this is", x.method, x.target)
		}
		if x.status == 405 && h.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", x.method, x.target)
		}
	}
}

// elements parses a page and checks its form: nothing stays open, nothing is
// fetched from elsewhere.
func elements(t *testing.T, page string) (attrs map[string][]string, text string) {
	t.Helper()
	attrs = make(map[string][]string)
	var stack []string
	void := []string{"meta", "link", "img", "input", "br"}
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) || len(stack) > 0 {
				t.Errorf("page ends with %v open: %v", stack, z.Err())
			}
			return attrs, text
		case html.StartTagToken:
			tok := z.Token()
			for _, a := range tok.Attr {
				attrs[tok.Data+" "+a.Key] = append(attrs[tok.Data+" "+a.Key], a.Val)
				switch a.Key {
				case "href", "src", "action":
					scheme, _, _ := strings.Cut(a.Val, ":")
					if !strings.HasPrefix(a.Val, "/") && !slices.Contains([]string{"data", "dclogin", "dcaccount", "ss"}, scheme) || strings.HasPrefix(a.Val, "//") {
						t.Errorf("<%s %s=%q> leads elsewhere", tok.Data, a.Key, a.Val)
					}
				case "style", "onclick", "onload":
					t.Errorf("<%s %s>: the policy forbids it", tok.Data, a.Key)
				}
			}
			if tok.Data == "script" || tok.Data == "style" {
				t.Errorf("<%s>: the policy forbids it", tok.Data)
			}
			if !slices.Contains(void, tok.Data) {
				stack = append(stack, tok.Data)
			}
		case html.EndTagToken:
			name := z.Token().Data
			if len(stack) == 0 || stack[len(stack)-1] != name {
				t.Errorf("</%s> closes %v", name, stack)
				return attrs, text
			}
			stack = stack[:len(stack)-1]
		case html.TextToken:
			text += z.Token().Data
		}
	}
}

func TestThePageSpeaksFourLanguages(t *testing.T) {
	for lang, w := range words {
		for key := range words["en"] {
			if w[key] == "" {
				t.Errorf("%s has no words for %q", lang, key)
			}
		}
		for _, facts := range []Facts{open(), {Domain: "[192.0.2.1]", Host: "192.0.2.1"}, {Domain: "example.org", Open: true, Quota: 1<<63 - 1, IMAP: 143}} {
			s := site(t, &desk{facts: facts})
			attrs, text := elements(t, ask(s, "GET", "/?lang="+lang, "").Body.String())
			dir := "ltr"
			if lang == "fa" {
				dir = "rtl"
			}
			if !slices.Equal(attrs["html lang"], []string{lang}) || !slices.Equal(attrs["html dir"], []string{dir}) {
				t.Errorf("%s: lang %q, dir %q", lang, attrs["html lang"], attrs["html dir"])
			}
			for _, want := range []string{w["what"], w["limits"], facts.Domain} {
				if !strings.Contains(text, want) {
					t.Errorf("%s: the page lacks %q", lang, want)
				}
			}
			if closed := strings.Contains(text, w["closed"]); closed == facts.Open {
				t.Errorf("%s: open %v, says closed %v", lang, facts.Open, closed)
			}
			if strings.Contains(text, "9223372036854775807") {
				t.Errorf("%s: no limit is shown as a number", lang)
			}
			// A link to the same page in another language must not be one to /new.
			for _, href := range attrs["a href"] {
				if strings.Contains(href, "?lang=") && !strings.HasPrefix(href, "/?lang=") {
					t.Errorf("%s: %s is relative", lang, href)
				}
			}
		}
	}
}

// TestTheFirstPageTellsOfTheProxyAndOfRetention, where there is either.
func TestTheFirstPageTellsOfTheProxyAndOfRetention(t *testing.T) {
	facts := open()
	for _, on := range []bool{false, true} {
		if on {
			facts.SSURL, facts.Retention = "ss://YTpi@192.0.2.1:8388#a+b", 20*24*time.Hour
		}
		attrs, text := elements(t, ask(site(t, &desk{facts: facts}), "GET", "/?lang=es", "").Body.String())
		if slices.Contains(attrs["a href"], "ss://YTpi@192.0.2.1:8388#a+b") != on || (len(attrs["img src"]) == 1) != on || strings.Contains(text, "20.") != on || strings.Contains(text, words["es"]["through"]) != on {
			t.Errorf("on %v: links %q, pictures %d, %q", on, attrs["a href"], len(attrs["img src"]), text)
		}
	}
}

func TestWhoChoosesTheLanguage(t *testing.T) {
	for _, x := range []struct{ target, set, accept, want string }{
		{"/", "", "", "en"},
		{"/", "fa", "", "fa"},
		{"/", "en", "ru", "en"},
		{"/", "ru", "es", "ru"},
		{"/?lang=es", "ru", "fa", "es"},
		{"/?lang=de", "ru", "", "ru"},
		{"/?lang=../x", "", "", "en"},
		{"/", "xx", "es", "es"},
		{"/", "", "ru", "ru"},
		{"/", "", "RU-ru,en;q=0.5", "ru"},
		{"/", "", "de-DE, de;q=0.9, es;q=0.8, ru;q=0.7", "es"},
		{"/", "", "en;q=0.1, fa;q=0.9", "fa"},
		{"/", "", "ru;q=0, es;q=0.1", "es"},
		{"/", "", "ru;q=abc, es;q=0.1", "es"},
		{"/", "", "ru;q=Inf", "en"},
		{"/", "", ";;,,;q=;-", "en"},
	} {
		r := httptest.NewRequest("GET", x.target, nil)
		r.Header.Set("Accept-Language", x.accept)
		if got := language(r, x.set); got != x.want {
			t.Errorf("%+v: got %s", x, got)
		}
	}
}

func TestHowToJoinDependsOnTheCertificate(t *testing.T) {
	facts := open()
	s := site(t, &desk{facts: facts})
	attrs, _ := elements(t, ask(s, "GET", "/", "").Body.String())
	if !slices.Equal(attrs["form action"], []string{"/new"}) || attrs["img src"] != nil {
		t.Errorf("own certificate: form %q, pictures %q", attrs["form action"], attrs["img src"])
	}
	facts.SelfSigned = false
	s = site(t, &desk{facts: facts})
	attrs, text := elements(t, ask(s, "GET", "/", "").Body.String())
	if !slices.Contains(attrs["a href"], "dcaccount:example.org") || len(attrs["img src"]) != 1 || attrs["form action"] != nil {
		t.Errorf("public certificate: links %q", attrs["a href"])
	}
	for _, want := range []string{"1G", "100M", "mx.example.org:993", "mx.example.org:587"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	facts.Open = false
	s = site(t, &desk{facts: facts})
	if attrs, _ = elements(t, ask(s, "GET", "/", "").Body.String()); !slices.Equal(attrs["form action"], []string{"/new"}) {
		t.Error("closed: no place for a token")
	}
}

func TestNewAnswersPrograms(t *testing.T) {
	const js, form = "application/json", "application/x-www-form-urlencoded"
	for _, x := range []struct {
		name, method, target, typ, body string
		fail                            error
		facts                           func(*Facts)
		status                          int
		want                            string // of the body, or of Location
		asked                           string
	}{
		{name: "no body, no type", method: "POST", target: "/new", status: 200, want: `"email":"u1@example.org"`, asked: " example.com"},
		{name: "token in the query", method: "POST", target: "/new?token=T1", status: 200, want: `"dclogin_url":"dclogin:u1@`, asked: "T1 example.com"},
		{name: "token in JSON", method: "POST", target: "/new", typ: js, body: `{"token":"T2"}`, status: 200, want: `"password":"p`, asked: "T2 example.com"},
		{name: "token in a form", method: "POST", target: "/new", typ: form, body: "token=T3", status: 200, want: `"email"`, asked: "T3 example.com"},
		{name: "the query wins", method: "POST", target: "/new?token=T1", typ: js, body: `{"token":"T2"}`, status: 200, want: `"email"`, asked: "T1 example.com"},
		{name: "empty JSON", method: "POST", target: "/new", typ: js, status: 200, want: `"email"`, asked: " example.com"},
		{name: "unknown type", method: "POST", target: "/new", typ: "multipart/form-data", body: "x", status: 200, want: `"email"`, asked: " example.com"},
		{name: "bad JSON", method: "POST", target: "/new", typ: js, body: `{"token":`, status: 400, want: `"reason":"the body is not JSON"`},
		{name: "JSON of another shape", method: "POST", target: "/new", typ: js, body: `["T"]`, status: 400, want: `"reason"`},
		{name: "token that is no text", method: "POST", target: "/new", typ: js, body: `{"token":7}`, status: 400, want: `"reason"`},
		{name: "too much JSON", method: "POST", target: "/new", typ: js, body: `{"token":"` + strings.Repeat("x", 70<<10) + `"}`, status: 400, want: `"reason"`},
		{name: "bad form", method: "POST", target: "/new", typ: form, body: "token=%zz", status: 400, want: `"reason":"the form cannot be read"`},
		{name: "too much form", method: "POST", target: "/new", typ: form, body: "token=" + strings.Repeat("x", 70<<10), status: 400, want: `"reason"`},
		{name: "closed", method: "POST", target: "/new", fail: fault.New(fault.Refused, "Registration is closed"), status: 403,
			want: `{"error":"Registration is closed","reason":"Registration is closed"}`, asked: " example.com"},
		{name: "used-up token", method: "POST", target: "/new?token=T", fail: fault.New(fault.Refused, "Invalid registration token: exhausted"), status: 403,
			want: `"reason":"Invalid registration token: exhausted"`, asked: "T example.com"},
		{name: "busy", method: "POST", target: "/new", fail: fault.Wrap(fault.Busy, errors.New("disk /var/lib/x"), "write"), status: 503,
			want: `"reason":"Temporarily unavailable, try again later"`, asked: " example.com"},
		{name: "a fault of ours", method: "POST", target: "/new", fail: errors.New("secret detail"), status: 503,
			want: `"reason":"Internal server error"`, asked: " example.com"},
		{name: "GET, own certificate", method: "GET", target: "/new", status: 302, want: "dclogin:u1@example.org?p=p%3C%26%3Ew&v=1", asked: " example.com"},
		{name: "GET, public certificate", method: "GET", target: "/new", facts: func(f *Facts) { f.SelfSigned = false }, status: 301,
			want: "dcaccount:https://example.org/new"},
		{name: "GET with a token, closed", method: "GET", target: "/new?token=T", facts: func(f *Facts) { f.SelfSigned, f.Open = false, false }, status: 302,
			want: "dclogin:", asked: "T example.com"},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := &desk{facts: open(), fail: x.fail}
			if x.facts != nil {
				x.facts(&d.facts)
			}
			w := ask(site(t, d), x.method, x.target, x.body, "Content-Type", x.typ)
			got := w.Body.String()
			if x.status/100 == 3 {
				got = w.Header().Get("Location")
			}
			if w.Code != x.status || !strings.Contains(got, x.want) {
				t.Errorf("%d %s, want %d %s", w.Code, got, x.status, x.want)
			}
			if strings.Contains(w.Body.String(), "secret detail") || strings.Contains(w.Body.String(), "/var/lib") {
				t.Errorf("the answer tells what is inside: %s", w.Body)
			}
			if w.Header().Get("Cache-Control") != "no-store" && x.status != 301 {
				t.Errorf("Cache-Control %q", w.Header().Get("Cache-Control"))
			}
			if x.status == 503 && w.Header().Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			var want []string
			if x.asked != "" {
				want = []string{x.asked}
			}
			if !slices.Equal(d.asked, want) {
				t.Errorf("asked %q, want %q", d.asked, want)
			}
		})
	}
	w := ask(site(t, &desk{facts: open()}), "POST", "/new", "")
	var a struct {
		Email, Password string
		URL             string `json:"dclogin_url"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.Email != "u1@example.org" || a.Password != "p<&>w" || !strings.HasPrefix(a.URL, "dclogin:") {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestNewAnswersPeople(t *testing.T) {
	d := &desk{facts: open()}
	s := site(t, d)
	const form = "application/x-www-form-urlencoded"
	w := ask(s, "POST", "/new", "page=1&token=T", "Content-Type", form)
	attrs, text := elements(t, w.Body.String())
	if w.Code != 200 || !strings.Contains(text, "u1@example.org") || !slices.Contains(attrs["a href"], "dclogin:u1@example.org?p=p%3C%26%3Ew&v=1") || len(attrs["img src"]) != 1 {
		t.Errorf("%d, links %q", w.Code, attrs["a href"])
	}
	d.fail = fault.New(fault.Refused, "Invalid <registration> token")
	w = ask(s, "POST", "/new", "page=1", "Content-Type", form)
	attrs, text = elements(t, w.Body.String())
	if w.Code != 403 || !strings.Contains(text, "Invalid <registration> token") || !slices.Contains(attrs["p role"], "alert") {
		t.Errorf("%d, %q", w.Code, text)
	}
	var last *httptest.ResponseRecorder
	for range 6 {
		last = ask(s, "POST", "/new", "page=1", "Content-Type", form, "from", "192.0.2.9:1")
	}
	if _, text = elements(t, last.Body.String()); last.Code != 429 || !strings.Contains(text, "Too many new accounts") {
		t.Errorf("%d, %q", last.Code, text)
	}
}

// TestNewIsLimitedByNetwork: two a second, five at once, sixty an hour.
func TestNewIsLimitedByNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := site(t, &desk{facts: open()})
		made := func(from string, n int) (ok int) {
			for range n {
				switch w := ask(s, "POST", "/new", "", "from", from); w.Code {
				case 200:
					ok++
				case 429:
					if !strings.Contains(w.Body.String(), `"reason"`) || w.Header().Get("Retry-After") == "" {
						t.Errorf("%s, %v", w.Body, w.Header())
					}
				default:
					t.Errorf("%d", w.Code)
				}
			}
			return ok
		}
		for _, x := range []struct {
			from string
			want int
		}{
			{"192.0.2.1:1", 5}, {"192.0.2.1:2", 0}, {"192.0.2.2:1", 5}, {"[::ffff:192.0.2.3]:1", 5}, {"192.0.2.3:1", 0},
			{"[2001:db8::1]:1", 5}, {"[2001:db8::ffff]:1", 0}, {"[2001:db8:0:1::1]:1", 5}, {"[fe80::1%eth0]:1", 5}, {"[fe80::2%eth1]:1", 0},
			{"127.0.0.1:1", 20}, {"[::1]:1", 20}, {"[::ffff:127.0.0.1]:1", 20}, {"", 0}, {"@", 0},
		} {
			if got := made(x.from, 20); got != x.want {
				t.Errorf("%q: %d accounts, want %d", x.from, got, x.want)
			}
		}
		<-time.After(time.Second)
		if got := made("192.0.2.1:1", 20); got != 2 {
			t.Errorf("a second later: %d, want 2", got)
		}
		total := 0
		for range 3500 { // most of an hour
			<-time.After(time.Second)
			total += made("192.0.2.77:1", 2)
		}
		if total < 60 || total > 60+60 {
			t.Errorf("%d accounts in an hour, want about 60 and those of the first minutes", total)
		}
	})
}

// TestNewIsLimitedForAllTogether, so that many networks together do not fill the
// server either, and the limit can be changed at any time.
func TestNewIsLimitedForAllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{facts: open()}
		perMinute := 30
		s, err := New(Options{Register: d.register, Facts: func() Facts { return d.facts }, PerMinute: func() int { return perMinute }})
		if err != nil {
			t.Fatal(err)
		}
		host := 0
		made := func(n int) (ok int) {
			for range n {
				host++
				if w := ask(s, "POST", "/new", "", "from", fmt.Sprintf("198.18.%d.%d:1", host>>8, host&255)); w.Code == 200 {
					ok++
				} else if w.Code != 429 {
					t.Errorf("%d", w.Code)
				}
			}
			return ok
		}
		if n := made(100); n != 30 {
			t.Errorf("%d accounts at once, want 30", n)
		}
		if w := ask(s, "POST", "/new", "", "from", "127.0.0.1:1"); w.Code != 200 {
			t.Errorf("loopback: %d", w.Code)
		}
		<-time.After(10 * time.Second)
		if n := made(100); n != 5 {
			t.Errorf("%d accounts after 10 s, want 5", n)
		}
		perMinute = 60
		if n := made(100); n != 60 {
			t.Errorf("%d accounts under a new limit, want 60", n)
		}
	})
}

func TestTheTableOfNetworksIsBounded(t *testing.T) {
	s := site(t, &desk{facts: open()})
	for i := range maxVisitors + 10 {
		r := &http.Request{RemoteAddr: net.JoinHostPort(net.IPv4(10, byte(i>>16), byte(i>>8), byte(i)).String(), "1")}
		s.allow(r)
	}
	if n := len(s.visits); n > maxVisitors {
		t.Errorf("%d networks are remembered", n)
	}
}

// TestAnAssetIsFetchedOnce: who has it is told so.
func TestAnAssetIsFetchedOnce(t *testing.T) {
	s := site(t, &desk{facts: open()})
	w := ask(s, "GET", "/main.css", "")
	tag := w.Header().Get("ETag")
	if w.Code != 200 || tag == "" || w.Header().Get("Cache-Control") != "public, max-age=86400" || w.Body.Len() == 0 {
		t.Fatalf("%d, %v", w.Code, w.Header())
	}
	if w := ask(s, "GET", "/main.css", "", "If-None-Match", tag); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("%d with %d octets", w.Code, w.Body.Len())
	}
}

func TestQR(t *testing.T) {
	s := site(t, &desk{facts: open()})
	w := ask(s, "GET", "/qr?data=dcaccount%3Aexample.org", "")
	if c, err := png.DecodeConfig(w.Body); err != nil || c.Width != 256 || c.Height != 256 || !strings.Contains(w.Header().Get("Cache-Control"), "no-store") {
		t.Errorf("%+v, %v, %v", c, err, w.Header())
	}
	for target, want := range map[string]string{
		"/qr": "Missing 'data' parameter\n", "/qr?data=": "Missing 'data' parameter\n", "/qr?data=%zz": "Missing 'data' parameter\n",
		"/qr?data=" + strings.Repeat("x", 2049): "Too long for a QR code\n", "/qr?data=" + strings.Repeat("x", 200<<10): "Too long for a QR code\n",
	} {
		if w := ask(s, "GET", target, ""); w.Code != 400 || w.Body.String() != want {
			t.Errorf("%.40s: %d %q", target, w.Code, w.Body)
		}
	}
	if w := ask(s, "GET", "/qr?data="+strings.Repeat("x", 2048), ""); w.Code != 200 {
		t.Errorf("2048 bytes: %d", w.Code)
	}
}

func TestAutoconfigListsWhatListens(t *testing.T) {
	type server struct {
		Type     string `xml:"type,attr"`
		Hostname string `xml:"hostname"`
		Port     int    `xml:"port"`
		Socket   string `xml:"socketType"`
		Auth     string `xml:"authentication"`
		Username string `xml:"username"`
	}
	var c struct {
		Version  string `xml:"version,attr"`
		Provider struct {
			ID       string   `xml:"id,attr"`
			Domain   string   `xml:"domain"`
			Name     string   `xml:"displayName"`
			Incoming []server `xml:"incomingServer"`
			Outgoing []server `xml:"outgoingServer"`
		} `xml:"emailProvider"`
	}
	d := &desk{facts: open()}
	s := site(t, d)
	const path = "/.well-known/autoconfig/mail/config-v1.1.xml"
	get := func() {
		t.Helper()
		w := ask(s, "GET", path, "")
		c.Provider.Incoming, c.Provider.Outgoing = nil, nil
		if err := xml.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Header().Get("Cache-Control") != "max-age=3600" {
			t.Fatalf("%v\n%s", err, w.Body)
		}
	}
	get()
	one := func(typ string, port int, socket string) server {
		return server{typ, "mx.example.org", port, socket, "password-cleartext", "%EMAILADDRESS%"}
	}
	if c.Version != "1.1" || c.Provider.ID != "example.org" || c.Provider.Domain != "example.org" || c.Provider.Name != "example.org chatmail" {
		t.Errorf("%+v", c)
	}
	if want := []server{one("imap", 993, "SSL"), one("imap", 143, "STARTTLS")}; !slices.Equal(c.Provider.Incoming, want) {
		t.Errorf("incoming %+v", c.Provider.Incoming)
	}
	if want := []server{one("smtp", 465, "SSL"), one("smtp", 587, "STARTTLS")}; !slices.Equal(c.Provider.Outgoing, want) {
		t.Errorf("outgoing %+v", c.Provider.Outgoing)
	}
	d.facts.IMAP, d.facts.SMTPTLS, d.facts.Domain = 0, 0, "a<&>b"
	get()
	if len(c.Provider.Incoming) != 1 || len(c.Provider.Outgoing) != 1 || c.Provider.Domain != "a<&>b" {
		t.Errorf("%+v", c.Provider)
	}
}

func TestAPanicEndsOneRequest(t *testing.T) {
	var log bytes.Buffer
	s, err := New(Options{
		Register: func(context.Context, string, string) (Account, error) { panic("by design") },
		Facts:    open, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if w := ask(s, "POST", "/new?token=canary", ""); w.Code != 500 || strings.Contains(w.Body.String(), "design") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "by design") || strings.Contains(log.String(), "canary") {
		t.Errorf("log: %s", log.String())
	}
	if w := ask(s, "GET", "/", ""); w.Code != 200 {
		t.Errorf("after it: %d", w.Code)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	for _, opt := range []Options{{}, {Facts: open}, {Register: (&desk{}).register}} {
		if _, err := New(opt); err == nil {
			t.Errorf("%+v was taken", opt)
		}
	}
}

// TestTheRequestOfClients plays Delta Chat's own request over a socket:
// absolute form, no length, no type; and stops while a connection is idle.
func TestTheRequestOfClients(t *testing.T) {
	s := site(t, &desk{facts: open()})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l, false) }() // ends with Stop, below
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "POST http://example.org/new HTTP/1.1\r\nHost: example.org\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != 200 || !strings.Contains(string(body), `"email"`) || res.Header.Get("Server") != "" {
		t.Errorf("%d %v\n%s", res.StatusCode, res.Header, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve ended with %v", err)
	}
}

func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\nAccept-Language: ru;q=0.5, fa\r\n\r\n",
		"POST /new?token=T HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /new HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"token\":\"T\"}",
		"POST /new HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 14\r\n\r\npage=1&token=T",
		"POST http://x/new HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
		"GET /qr?data=%ff%00 HTTP/1.0\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n",
		"GET /mail/config-v1.1.xml HTTP/1.1\r\nHost: x\r\n\r\n", "GET /..%2f%2e%2e/ HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	var log bytes.Buffer
	s, err := New(Options{Register: (&desk{}).register, Facts: open, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		if w.Code >= 500 || log.Len() > 0 {
			t.Fatalf("%d\n%s", w.Code, log.String())
		}
		if w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Fatal("a header is missing")
		}
	})
}

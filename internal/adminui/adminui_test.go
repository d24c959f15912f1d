package adminui

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"madmail/internal/fault"
)

// start is a start page as the usual build writes it.
const start = `<!doctype html><html><head><link rel="icon" href="/favicon.ico">
<link rel="modulepreload" href="/_app/immutable/entry/start.AbC.js"></head>
<body><script>
{
	__sveltekit_1x2y = {
		base: ""
	};
	Promise.all([
		import("/_app/immutable/entry/start.AbC.js"),
		import("/_app/immutable/entry/app.DeF.js")
	]);
}
</script><img src="/logo.png"><a href="https://example.org/">x</a></body></html>
`

func page(t *testing.T) *Page {
	t.Helper()
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	p, err := New(fstest.MapFS{
		"index.html": file(start), "favicon.ico": file("i"), "logo.png": file("p"), "sw.js": file("s"), "manifest.json": file("{}"), "app.webmanifest": file("{}"),
		"_app/version.json": file("{}"), "_app/immutable/entry/start.AbC.js": file("js"), "_app/immutable/assets/a.css": file("css"), "_app/immutable/assets/f.woff2": file("w"),
		".hidden": file("h"), "x/.git/config": file("h"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ask(h http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

// TestThePageWorksBelowAPrefix: its own links move with it, those of others stay.
func TestThePageWorksBelowAPrefix(t *testing.T) {
	h := page(t).Handler("/secret/panel", "/api/x")
	w := ask(h, "GET", "/secret/panel/")
	body := w.Body.String()
	for _, want := range []string{`href="/secret/panel/favicon.ico"`, `href="/secret/panel/_app/immutable/entry/start.AbC.js"`, `import("/secret/panel/_app/immutable/entry/app.DeF.js")`,
		`src="/secret/panel/logo.png"`, `base: "/secret/panel"`, `href="https://example.org/"`,
		`<head><script>window.__MADMAIL_ADMIN_PREFIX__="/secret/panel";window.__MADMAIL_API_DEFAULT__="/api/x"</script>`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if w.Code != 200 || w.Header().Get("Cache-Control") != "no-cache" || w.Header().Get("X-Frame-Options") != "DENY" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	// Another prefix of the same page: nothing of the first stays.
	if again := ask(page(t).Handler("/b", "/c"), "GET", "/b/accounts").Body.String(); !strings.Contains(again, `base: "/b"`) || strings.Contains(again, "secret") {
		t.Error(again)
	}
}

// TestWhatIsAnsweredBelowThePrefix, with the headers that browsers need.
func TestWhatIsAnsweredBelowThePrefix(t *testing.T) {
	h := page(t).Handler("/admin", "/api/admin")
	for _, c := range []struct {
		method, path string
		code         int
		kind, cache  string
	}{
		{"GET", "/admin", 308, "", ""},
		{"GET", "/admin/", 200, "text/html; charset=utf-8", "no-cache"},
		{"GET", "/admin/accounts/blocked", 200, "text/html; charset=utf-8", "no-cache"},
		{"HEAD", "/admin/favicon.ico", 200, "image/x-icon", "public, max-age=3600"},
		{"GET", "/admin/logo.png", 200, "image/png", "public, max-age=3600"},
		{"GET", "/admin/manifest.json", 200, "application/json", "public, max-age=3600"},
		{"GET", "/admin/app.webmanifest", 200, "application/manifest+json", "public, max-age=3600"},
		{"GET", "/admin/sw.js", 200, "text/javascript", "no-cache, no-store, must-revalidate"},
		{"GET", "/admin/_app/version.json", 200, "application/json", "no-cache, no-store, must-revalidate"},
		{"GET", "/admin/_app/immutable/entry/start.AbC.js", 200, "text/javascript", "public, max-age=31536000, immutable"},
		{"GET", "/admin/_app/immutable/assets/a.css", 200, "text/css", "public, max-age=31536000, immutable"},
		{"GET", "/admin/_app/immutable/assets/f.woff2", 200, "font/woff2", "public, max-age=31536000, immutable"},
		{"GET", "/admin/_app/immutable/entry/old.js", 404, "text/html; charset=utf-8", ""},
		{"GET", "/admin/_app", 200, "text/html; charset=utf-8", "no-cache"},
		{"GET", "/admin/.hidden", 404, "text/html; charset=utf-8", ""},
		{"GET", "/admin/x/.git/config", 404, "text/html; charset=utf-8", ""},
		{"GET", "/admin/%2e%2e/%2e%2e/etc/passwd", 404, "text/html; charset=utf-8", ""},
		{"GET", "/admin/..%5c..%5cetc", 404, "text/html; charset=utf-8", ""},
		{"POST", "/admin/", 405, "text/html; charset=utf-8", ""},
		{"OPTIONS", "/admin/", 204, "", ""},
	} {
		w := ask(h, c.method, c.path)
		if w.Code != c.code || w.Header().Get("Cache-Control") != c.cache || c.kind != "" && w.Header().Get("Content-Type") != c.kind {
			t.Errorf("%s %s: %d %v", c.method, c.path, w.Code, w.Header())
		}
	}
	for from, want := range map[string]string{"/admin": "/admin/", "/admin?u=https://a.example/api&t=x": "/admin/?u=https://a.example/api&t=x"} {
		if to := ask(h, "GET", from).Header().Get("Location"); to != want {
			t.Errorf("%s: %s", from, to)
		}
	}
	if origin := ask(h, "OPTIONS", "/admin/").Header().Get("Access-Control-Allow-Origin"); origin != "*" {
		t.Error(origin)
	}
}

// TestAProgramWithoutThePageSaysHowToBuildIt.
func TestAProgramWithoutThePageSaysHowToBuildIt(t *testing.T) {
	p, err := New(nil)
	if err != nil || p.Built() {
		t.Fatal(err)
	}
	for _, path := range []string{"/admin", "/admin/", "/admin/_app/x.js"} {
		if w := ask(p.Handler("/admin", "/api/admin"), "GET", path); w.Code != 503 || !strings.Contains(w.Body.String(), MakeTarget) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if _, err := New(fstest.MapFS{"other.html": {}}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

// TestPrefixes: a neighbour whose name begins alike is not ours.
func TestPrefixes(t *testing.T) {
	for path, want := range map[string]bool{"/admin": true, "/admin/": true, "/admin/x": true, "/administrator": false, "/": false, "/x/admin": false} {
		if got := Owns("/admin", path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
	if Owns("", "/x") {
		t.Error("an empty prefix owns nothing")
	}
}

// TestPrefixesAreQuoted: whatever a setting held, the page's script stays one.
func TestPrefixesAreQuoted(t *testing.T) {
	w := ask(page(t).Handler(`/a"</script>$1`, "/api"), "GET", `/a%22%3C/script%3E$1/x`)
	if strings.Contains(strings.SplitN(w.Body.String(), "</script>", 2)[0], `"</`) || !strings.Contains(w.Body.String(), `base: "/a\"\x3c/script\x3e$1"`) {
		t.Error(w.Body)
	}
}

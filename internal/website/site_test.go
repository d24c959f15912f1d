package website

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/internal/page"
)

// tree writes files of a site, each "name: content".
func tree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// own is a server with an operator's site, and what it logs.
func own(t testing.TB, files map[string]string, change func(*Options)) (s *Server, dir string, log *bytes.Buffer) {
	t.Helper()
	dir, log = t.TempDir(), new(bytes.Buffer)
	tree(t, dir, files)
	d := &desk{facts: open()}
	d.facts.MailDomain, d.facts.SSURL = "[192.0.2.1]", "ss://YTpi@192.0.2.1:8388"
	o := Options{Register: d.register, Facts: func() Facts { return d.facts }, Own: func() Own { return Own{Dir: dir} }, Logger: slog.New(slog.NewJSONHandler(log, nil))}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir, log
}

// TestAFileThatIsNotThereIsOurs is decision H06 of the HTTP specification.
func TestAFileThatIsNotThereIsOurs(t *testing.T) {
	files := map[string]string{"index.html": "mine", "info.html": "info", "logo.svg": "<svg/>", "docs/index.html": "docs", "a/b/c.txt": "deep", "plain": "plain", "x.y.html": "xy"}
	strict := false
	s, dir, log := own(t, files, func(o *Options) {
		inner := o.Own
		o.Own = func() Own { x := inner(); x.Strict = strict; return x }
	})
	for _, x := range []struct {
		path         string
		status, only int // without and with --strict
		body         string
	}{
		{"/", 200, 200, "mine"}, {"/index.html", 200, 200, "mine"}, {"/info", 200, 200, "info"}, {"/info.html", 200, 200, "info"},
		{"/logo.svg", 200, 200, "<svg/>"}, {"/docs/", 200, 200, "docs"}, {"/docs", 308, 308, ""}, {"/a/b/c.txt", 200, 200, "deep"}, {"/plain", 200, 200, "plain"},
		{"/x.y", 200, 200, "xy"}, {"/a", 404, 404, ""}, {"/a/", 404, 404, ""}, {"/none", 404, 404, ""}, {"/info/more", 404, 404, ""}, {"/index.html/", 404, 404, ""},
		{"/main.css", 200, 404, ""},
	} {
		for _, strict = range []bool{false, true} {
			want := x.status
			if strict {
				want = x.only
			}
			w := ask(s, "GET", x.path, "")
			if w.Code != want || x.body != "" && w.Body.String() != x.body {
				t.Errorf("%s, strict %v: %d %q, want %d %q", x.path, strict, w.Code, w.Body, want, x.body)
			}
		}
	}
	if l := ask(s, "GET", "/docs", "").Header().Get("Location"); l != "/docs/" && l != "docs/" {
		t.Errorf("/docs leads to %q", l)
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", log)
	}
	// Without the directory there is ours, said once; or nothing.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	strict = false
	for range 3 {
		if w := ask(s, "GET", "/", ""); w.Code != 200 || !strings.Contains(w.Body.String(), "example.org") {
			t.Errorf("no directory: %d %q", w.Code, w.Body)
		}
	}
	if n := strings.Count(log.String(), "is not there"); n != 1 {
		t.Errorf("said %d times: %s", n, log)
	}
	strict = true
	if w := ask(s, "GET", "/", ""); w.Code != 500 {
		t.Errorf("no directory, strict: %d", w.Code)
	}
}

func TestARefusedDirectoryShowsNothing(t *testing.T) {
	s, dir, log := own(t, map[string]string{"index.html": "SECRET", "key.pem": "SECRET"}, nil)
	s.opt.Own = func() Own { return Own{Dir: dir, Refused: "it holds keys"} }
	for _, p := range []string{"/", "/key.pem", "/main.css", "/none"} {
		if w := ask(s, "GET", p, ""); w.Code != 500 || strings.Contains(w.Body.String(), "SECRET") {
			t.Errorf("%s: %d %q", p, w.Code, w.Body)
		}
	}
	if _, err := Check(s.own()); err == nil || strings.Count(log.String(), "it holds keys") != 1 {
		t.Errorf("%v %s", err, log)
	}
}

func TestCacheHeaders(t *testing.T) {
	s, _, _ := own(t, map[string]string{"info.html": "{{.MailDomain}}", "app.js": "1", "old.htm": "x"}, nil)
	for path, want := range map[string]string{
		"/": "no-cache", "/info": "no-cache", "/app.js": "no-cache, must-revalidate", "/old.htm": "no-cache, must-revalidate", "/main.css": "public, max-age=86400", "/none": "",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			w := ask(s, method, path, "")
			if got := w.Header().Get("Cache-Control"); got != want {
				t.Errorf("%s %s: %q, want %q", method, path, got, want)
			}
		}
	}
	for _, path := range []string{"/app.js", "/main.css"} {
		tag := ask(s, "GET", path, "").Header().Get("ETag")
		if w := ask(s, "GET", path, "", "If-None-Match", tag); tag == "" || w.Code != 304 {
			t.Errorf("%s: %q, %d", path, tag, w.Code)
		}
	}
	if w := ask(s, "GET", "/app.js", "", "Range", "bytes=0-0"); w.Code != 206 || w.Header().Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("a part: %d %v", w.Code, w.Header())
	}
	// Whose page it is says what it may do.
	for path, ours := range map[string]bool{"/": true, "/info": false, "/app.js": false, "/main.css": true} {
		h := ask(s, "GET", path, "").Header()
		if got := h.Get("Content-Security-Policy") != ""; got != ours || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, h)
		}
	}
}

func TestFilesAreReadLive(t *testing.T) {
	s, dir, _ := own(t, map[string]string{"index.html": "one {{.MailDomain}}", "a.css": "one"}, nil)
	same := time.Unix(1e9, 0)
	for i, text := range []string{"two {{.MailDomain}}", "tri {{ MailDomain }}", "for {{if .RegistrationOpen}}x{{end}}"} {
		tree(t, dir, map[string]string{"index.html": text, "a.css": text[:3]})
		for _, name := range []string{"index.html", "a.css"} { // its time is no sign
			if err := os.Chtimes(filepath.Join(dir, name), same, same); err != nil {
				t.Fatal(err)
			}
		}
		want := text[:4] + []string{"[192.0.2.1]", "[192.0.2.1]", "x"}[i]
		if got := ask(s, "GET", "/", "").Body.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got := ask(s, "GET", "/a.css", "").Body.String(); got != text[:3] {
			t.Errorf("a.css: %q", got)
		}
	}
	if err := os.Remove(filepath.Join(dir, "index.html")); err != nil {
		t.Fatal(err)
	}
	if got := ask(s, "GET", "/", ""); got.Code != 200 || !strings.Contains(got.Body.String(), "</html>") {
		t.Errorf("removed: %d %q", got.Code, got.Body)
	}
}

// TestABrokenPageIsNotOurs: a mistake is not hidden behind the built-in page, and the
// operator learns file and line, once for each mistake.
func TestABrokenPageIsNotOurs(t *testing.T) {
	s, dir, log := own(t, nil, nil)
	for i, x := range []struct {
		text string
		line int
	}{
		{"a\n{{if .Language}}", 2}, {"a\n\n{% if X %}{% endfor %}", 3}, {"a\n<a href={{.Language", 2}, {"\xff", 1}, {strings.Repeat("x", page.MaxSource+1), 0},
		{"{{define \"a\"}}{{template \"a\"}}{{end}}\n{{template \"a\"}}", 1}, {"\n\n\n<a href=\"{{if .RegistrationOpen}}\">{{end}}</a>", 4},
	} {
		tree(t, dir, map[string]string{"index.html": x.text})
		log.Reset()
		for range 3 {
			w := ask(s, "GET", "/", "")
			if w.Code != 500 || w.Body.Len() > 200 || !strings.Contains(w.Body.String(), "cannot be shown") || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("%d: %d %q", i, w.Code, w.Body)
			}
		}
		var said struct {
			Level, File, Reason string
			Line                int
		}
		lines := bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n"))
		if err := json.Unmarshal(lines[0], &said); err != nil || len(lines) != 1 || said.Level != "ERROR" || said.File != "index.html" || said.Line != x.line || said.Reason == "" {
			t.Errorf("%d: %v, %d lines, %+v", i, err, len(lines), said)
		}
		list, err := Check(Own{Dir: dir})
		if err != nil || len(list) != 1 || !list[0].Broken || list[0].File != "index.html" || list[0].Line != x.line {
			t.Errorf("%d: Check: %v, %v", i, err, list)
		}
	}
	if w := ask(s, "GET", "/main.css", ""); w.Code != 200 {
		t.Errorf("other files: %d", w.Code)
	}
}

func TestUnknownVariablesAreLoggedOnce(t *testing.T) {
	s, dir, log := own(t, map[string]string{"info.html": "<p>\n{{ Nobody }}{{.MailDomain}}{{ Custom.Slug }}{{ Words.title }}</p>", "b.html": "{{.Nobody}}"}, nil)
	for range 3 {
		if w := ask(s, "GET", "/info", ""); w.Code != 200 || strings.Contains(w.Body.String(), "Nobody") {
			t.Fatalf("%d %q", w.Code, w.Body)
		}
		tree(t, dir, map[string]string{"info.html": "<p>\n{{ Nobody }}changed"})
	}
	if n := strings.Count(log.String(), `"file":"info.html","line":2,"variable":"Nobody"`); n != 1 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("log: %s", log)
	}
	list, err := Check(Own{Dir: dir})
	if err != nil || len(list) != 2 || list[0].Broken || list[1].String() != "info.html:2: the variable Nobody is not known; it is empty" {
		t.Errorf("%v, %v", err, list)
	}
}

// TestASiteCannotTakeARoute: what belongs to the program stays the program's, even what
// is switched off.
func TestASiteCannotTakeARoute(t *testing.T) {
	files := make(map[string]string)
	for _, name := range []string{"mxdeliv", "new", "qr", "inv/x", "share", "madmail", "webimap/x", "websmtp/send", "relay", "generate_204", "ping", "metrics", "__proxy", "api/admin", "api/admin/x", "admin/index",
		".well-known/mta-sts.txt", ".well-known/acme-challenge/x", ".well-known/autoconfig/mail/config-v1.1.xml", "mail/config-v1.1.xml"} {
		files[name+".html"] = "stolen"
		if !strings.HasPrefix(name, "api/admin") {
			files[name+".d/x"] = "stolen"
		}
	}
	s, dir, _ := own(t, files, func(o *Options) {
		o.Reserved = func(p string) bool {
			return p == "/api/admin" || strings.HasPrefix(p, "/api/admin/") || p == "/admin" || strings.HasPrefix(p, "/admin/")
		}
	})
	for name := range files {
		p, isPage := strings.CutSuffix(name, ".html")
		if !isPage {
			continue
		}
		for _, method := range []string{"GET", "HEAD", "POST"} {
			if w := ask(s, method, "/"+p, ""); strings.Contains(w.Body.String(), "stolen") || method == "HEAD" && w.Code == 200 && !strings.Contains(p, "config-v1.1.xml") {
				t.Errorf("%s /%s: %d %q", method, p, w.Code, w.Body)
			}
		}
	}
	tree(t, dir, map[string]string{"news.html": "news"})
	if w := ask(s, "GET", "/news", ""); w.Body.String() != "news" {
		t.Errorf("/news: %d %q", w.Code, w.Body)
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		if w := ask(s, method, "/news", ""); w.Code != 404 {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// TestNothingOutsideTheDirectoryIsShown is acceptance check 13 of the HTTP specification.
func TestNothingOutsideTheDirectoryIsShown(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "www")
	tree(t, above, map[string]string{"secret": "SECRET", "secret.html": "SECRET", "www/index.html": "mine", "www/.git/config": "SECRET", "www/.hidden.html": "SECRET", "www/sub/x.txt": "x", "www/index.html" + backupSuffix: "SECRET"})
	var links []string
	for name, to := range map[string]string{"out.html": "../secret.html", "out": "../secret", "abs": filepath.Join(above, "secret"), "up": "..", "round": "round"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		links = append(links, name)
	}
	if err := os.Symlink("sub/x.txt", filepath.Join(dir, "inside.txt")); err != nil {
		t.Fatal(err)
	}
	s, _, _ := own(t, nil, func(o *Options) { o.Own = func() Own { return Own{Dir: dir} } })
	request := func(raw string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", nil)
		p, err := url.PathUnescape(raw)
		if err != nil {
			t.Fatal(err)
		}
		r.URL, r.RequestURI = &url.URL{Path: p, RawPath: raw}, raw
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r)
		return w
	}
	var paths []string
	for _, up := range []string{"..", "%2e%2e", ".%2e", "..%00", "...", "%5c..", "..%5c", "sub/..", "sub%2f.."} {
		for _, slash := range []string{"/", "%2f", "%2F", "//", "/./", "%5c"} {
			for _, target := range []string{"secret", "secret.html", "www/index.html", ".git/config", "etc/passwd", "%2fetc/passwd"} {
				for n := 1; n <= 2; n++ {
					paths = append(paths, "/"+strings.Repeat(up+slash, n)+target, slash+strings.Repeat(up+slash, n)+target)
				}
			}
		}
	}
	if len(paths) < 500 {
		t.Fatalf("only %d", len(paths))
	}
	paths = append(paths, "/.git/config", "/.hidden", "/.hidden.html", "/sub/../.hidden", "/index.html"+backupSuffix, "/"+strings.Repeat("a/", 5000), "/C:/x", "/%00", "/a%0ab")
	for _, p := range paths {
		w := request(p)
		if strings.Contains(w.Body.String(), "SECRET") || strings.Contains(w.Body.String(), "mine") || w.Code != 404 && w.Code/100 != 3 {
			t.Errorf("%s: %d %q", p, w.Code, w.Body)
		}
		if w.Code/100 == 3 {
			if w := request(w.Header().Get("Location")); strings.Contains(w.Body.String(), "SECRET") || w.Code != 404 {
				t.Errorf("%s: after a redirection %d %q", p, w.Code, w.Body)
			}
		}
	}
	for _, name := range links {
		for _, p := range []string{"/" + name, "/" + name + "/secret"} {
			if w := request(p); w.Code == 200 || strings.Contains(w.Body.String(), "SECRET") {
				t.Errorf("link %s: %d %q", p, w.Code, w.Body)
			}
		}
	}
	if w := request("/inside.txt"); w.Code != 200 || w.Body.String() != "x" {
		t.Errorf("a link inside: %d %q", w.Code, w.Body)
	}
}

// TestTheResultOfTheFormIsNotLost: the account is made; a page that has no place for it
// must not swallow it.
func TestTheResultOfTheFormIsNotLost(t *testing.T) {
	for text, mine := range map[string]bool{
		"a site": false, "{{.Account.Email}}{{.Problem}} MINE {{if": false, "<p>MINE {{.Account.Email}} {{.Problem}}</p>": true,
	} {
		s, _, _ := own(t, map[string]string{"index.html": text}, nil)
		w := ask(s, "POST", "/new", "page=1", "Content-Type", "application/x-www-form-urlencoded")
		if w.Code != 200 || !strings.Contains(w.Body.String(), "u1@example.org") || strings.Contains(w.Body.String(), "MINE") != mine || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%q: %d %v %q", text, w.Code, w.Header(), w.Body)
		}
	}
}

// TestWhatIsExportedIsTheSameSite: the built-in tree, written out and served from there.
func TestWhatIsExportedIsTheSameSite(t *testing.T) {
	s, dir, log := own(t, nil, nil)
	before := map[string]string{}
	dest := filepath.Join(dir, "new", "site")
	files, err := Export(dest, false)
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	paths := []string{"/", "/?lang=fa", "/?lang=ru", "/?lang=es"}
	for _, f := range files {
		if !isContactPage(f) { // not shown by name
			paths = append(paths, "/"+f)
		}
	}
	for _, p := range paths {
		before[p] = ask(s, "GET", p, "").Body.String()
	}
	s.opt.Own = func() Own { return Own{Dir: dest, Strict: true} }
	for _, p := range paths {
		if w := ask(s, "GET", p, ""); w.Code != 200 || w.Body.String() != before[p] || w.Body.Len() == 0 {
			t.Errorf("%s differs: %d", p, w.Code)
		}
	}
	if list, err := Check(Own{Dir: dest}); err != nil || len(list) > 0 || log.Len() > 0 {
		t.Errorf("%v %v %s", err, list, log)
	}
	// What was changed is not overwritten, and then nothing is.
	tree(t, dest, map[string]string{"index.html": "mine"})
	if err := os.Remove(filepath.Join(dest, "main.css")); err != nil {
		t.Fatal(err)
	}
	if _, err := Export(dest, false); err == nil {
		t.Error("overwritten")
	}
	if _, err := os.Stat(filepath.Join(dest, "main.css")); err == nil {
		t.Error("a part was written")
	}
	if _, err := Export(dest, true); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(dest, "index.html")); err != nil || string(data) == "mine" {
		t.Errorf("%v %q", err, data)
	}
}

// TestPagesTakeBoundedMemory: when all memory for pages is in use visitors are sent away.
func TestPagesTakeBoundedMemory(t *testing.T) {
	s, dir, _ := own(t, map[string]string{"index.html": "{{.MailDomain}}"}, nil)
	s.pages.shown.Store(maxShown + 1)
	if w := ask(s, "GET", "/", ""); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d", w.Code)
	}
	s.pages.shown.Store(0)
	for i := range 2 * maxPages {
		name := fmt.Sprintf("p%d.html", i)
		tree(t, dir, map[string]string{name: "{{.MailDomain}}{{.Nobody}}"})
		if w := ask(s, "GET", "/"+name, ""); w.Code != 200 {
			t.Fatalf("%d", w.Code)
		}
	}
	if len(s.pages.kept) > maxPages || len(s.pages.told) > maxPages || s.pages.shown.Load() != 0 {
		t.Errorf("%d pages, %d lines, %d octets", len(s.pages.kept), len(s.pages.told), s.pages.shown.Load())
	}
	big := filepath.Join(dir, "big.bin")
	tree(t, dir, map[string]string{"big.bin": ""})
	if err := os.Truncate(big, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if w := ask(s, "GET", "/big.bin", ""); w.Code != 500 {
		t.Errorf("too large a file: %d", w.Code)
	}
}

// TestVisitorsComeWhileFilesChange: each gets one page or the other, whole.
func TestVisitorsComeWhileFilesChange(t *testing.T) {
	s, dir, _ := own(t, map[string]string{"index.html": "{{.MailDomain}} a {{.MailDomain}}"}, nil)
	var g sync.WaitGroup
	for range 8 {
		g.Go(func() {
			for range 30 {
				w := ask(s, "GET", "/", "")
				if got := w.Body.String(); w.Code != 200 || got != "[192.0.2.1] a [192.0.2.1]" && got != "[192.0.2.1] b [192.0.2.1]" {
					t.Errorf("%d %q", w.Code, got)
				}
			}
		})
	}
	for i := range 60 {
		next := filepath.Join(dir, "next")
		if err := os.WriteFile(next, []byte("{{.MailDomain}} "+string("ab"[i%2])+" {{ MailDomain }}"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(dir, "index.html")); err != nil {
			t.Fatal(err)
		}
	}
	g.Wait()
	if n := s.pages.shown.Load(); n != 0 {
		t.Errorf("%d octets are counted for ever", n)
	}
}

// TestSlowClientsGetWholeFiles: each piece has its time, not the whole.
func TestSlowClientsGetWholeFiles(t *testing.T) {
	s, _, _ := own(t, map[string]string{"a.bin": strings.Repeat("x", 200_000)}, nil)
	var pieces int
	rec := httptest.NewRecorder()
	p := &patient{ResponseWriter: rec, until: func(d time.Time) error { pieces++; return nil }}
	f, _, _, err := find(s.own(), "/a.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	http.ServeContent(p, httptest.NewRequest("GET", "/a.bin", nil), "", time.Time{}, f.(io.ReadSeeker))
	if pieces < 3 || rec.Body.Len() != 200_000 {
		t.Errorf("%d pieces, %d octets", pieces, rec.Body.Len())
	}
}

// TestEachVariableOfEarlierVersions is the table of 3.9 of the HTTP specification.
func TestEachVariableOfEarlierVersions(t *testing.T) {
	for _, name := range []string{"MailDomain", "MXDomain", "WebDomain", "PublicIP", "TurnOffTLS", "Version", "RegistrationOpen", "JitRegistrationEnabled", "TurnEnabled", "Language", "ClientHost",
		"ImapPortTLS", "ImapPortStartTLS", "SmtpPortTLS", "SmtpPortStartTLS", "DcloginImapSecurity", "DcloginSmtpSecurity", "DefaultQuota", "MaxMessageSize", "SSURL", "SSGrpcURL", "SSWsURL",
		"V2rayNGConfigWS", "V2rayNGConfigGRPC", "STUNAddr", "MessageRetentionLine", "Custom.Slug", "Custom.URL", "Custom.Name"} {
		if !known(name) {
			t.Errorf("%s is not known", name)
		}
	}
	if known("Nobody") || known("Custom.Nobody") || known("MailDomain.x") {
		t.Error("everything is known")
	}
	for lang := range words {
		for d, want := range map[time.Duration]string{30 * 24 * time.Hour: "30", 36 * time.Hour: "36", 0: ""} {
			if got := retention(d, lang); want == "" && got != "" || !strings.Contains(got, want) || strings.Contains(got, "%") {
				t.Errorf("%s, %v: %q", lang, d, got)
			}
		}
	}
}

func FuzzPaths(f *testing.F) {
	for _, p := range []string{"/", "/a", "/..", "/a/../b", "/%00", "/.git", "/a\\b", "/index.html", "//", "/a//b"} {
		f.Add(p)
	}
	dir := f.TempDir()
	tree(f, dir, map[string]string{"www/index.html": "x", "secret.html": "SECRET"})
	f.Fuzz(func(t *testing.T, p string) {
		file, src, _, err := find(Own{Dir: filepath.Join(dir, "www")}, p)
		if err != nil {
			return
		}
		if file == nil {
			return
		}
		defer file.Close()
		data, err := io.ReadAll(file)
		if err != nil || strings.Contains(string(data), "SECRET") || src.name == "" {
			t.Fatalf("%q: %v %+v", p, err, src)
		}
	})
}

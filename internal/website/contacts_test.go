package website

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"mime/multipart"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/fault"
	"madmail/internal/route"
	"madmail/internal/share"
)

const (
	inviteFPR  = "0123456789abcdef0123456789ABCDEF01234567"
	inviteLink = "https://i.delta.chat/#" + inviteFPR + "&i=70lZf7fOpNJw&s=-iSBbDKGeJm9&a=alice%40example.org&n=A"
	storedLink = "openpgp4fpr:" + inviteFPR + "#i=70lZf7fOpNJw&s=-iSBbDKGeJm9&a=alice%40example.org&n=A"
)

// sharing is a site with contact pages in a real store.
func sharing(t testing.TB, f Facts, log *slog.Logger) (*Server, *share.Store) {
	t.Helper()
	store := share.New(share.Options{Path: filepath.Join(t.TempDir(), share.FileName), Taken: route.Taken})
	t.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	d := &desk{facts: f}
	d.facts.Sharing = true
	s, err := New(Options{Register: d.register, Facts: func() Facts { return d.facts }, Contacts: store, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return s, store
}

func form(fields ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(fields); i += 2 {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(fields[i] + "=" + strings.NewReplacer("%", "%25", "&", "%26", "#", "%23", " ", "+").Replace(fields[i+1]))
	}
	return b.String()
}

func multi(t testing.TB, fields ...string) (body, typ string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		if err := m.WriteField(fields[i], fields[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String(), m.FormDataContentType()
}

const urlencoded = "application/x-www-form-urlencoded"

// TestContactPagesOfEveryEncoding: the page of the second version sent its form in an
// encoding that its server did not read (#94).
func TestContactPagesOfEveryEncoding(t *testing.T) {
	s, _ := sharing(t, open(), nil)
	body, typ := multi(t, "url", inviteLink, "name", "Bob", "slug", "bob")
	for _, x := range []struct{ slug, body, typ string }{
		{"alice", form("url", inviteLink, "name", "Alice", "slug", "alice"), urlencoded},
		{"alice2", form("url", inviteLink, "name", "Alice", "slug", " alice2 ", "page", "1"), urlencoded + "; charset=UTF-8"},
		{"bob", body, typ},
	} {
		w := ask(s, "POST", "/share", x.body, "Content-Type", x.typ, "Accept", "text/html,application/xhtml+xml")
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.Contains(w.Body.String(), `href="/`+x.slug+`"`) ||
			!strings.Contains(w.Body.String(), "http://example.com/"+x.slug) {
			t.Errorf("%s: %d %s", x.slug, w.Code, w.Body)
		}
	}
	var got map[string]string
	for _, x := range []struct{ body, typ, accept string }{
		{`{"url":"` + inviteLink + `","name":"Carol","slug":"carol"}`, "application/json", ""},
		{form("url", inviteLink, "name", "Carol", "slug", "carol2"), urlencoded, "application/json"},
	} {
		w := ask(s, "POST", "/share", x.body, "Content-Type", x.typ, "Accept", x.accept)
		clear(got)
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || len(got) != 3 || !strings.HasPrefix(got["Slug"], "carol") || got["URL"] != storedLink || got["Name"] != "Carol" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	w := ask(s, "POST", "/share", form("url", inviteLink), "Content-Type", urlencoded, "Accept", "application/json")
	clear(got)
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || len(got["Slug"]) != 8 {
		t.Errorf("a slug of ours: %d %s", w.Code, w.Body)
	}
	w = ask(s, "GET", "/"+got["Slug"], "")
	if w.Code != 200 || w.Header().Get("X-Robots-Tag") != "noindex" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	for _, want := range []string{`href="` + strings.ReplaceAll(storedLink, "&", "&amp;") + `"`, `href="` + strings.ReplaceAll(inviteLink, "&", "&amp;") + `"`, `src="data:image/png;base64,`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page has no %s:\n%s", want, w.Body)
		}
	}
	if w := ask(s, "HEAD", "/alice", ""); w.Code != 200 {
		t.Errorf("HEAD: %d", w.Code)
	}
	if w := ask(s, "POST", "/alice", ""); w.Code != 404 {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestWhatIsNoContactIsRefusedInTheLanguageOfThePage(t *testing.T) {
	s, _ := sharing(t, open(), nil)
	if w := ask(s, "POST", "/share", form("url", inviteLink, "slug", "alice"), "Content-Type", urlencoded); w.Code != 200 {
		t.Fatal(w.Code)
	}
	good := form("url", inviteLink)
	for _, x := range []struct{ body, typ, word string }{
		{form("url", "https://example.org/"), urlencoded, "badURL"}, {"", urlencoded, "badURL"}, {form("url", "javascript:alert(1)"), urlencoded, "badURL"},
		{form("url", storedLink), urlencoded, "badURL"},
		{good + "&name=" + strings.Repeat("x", 65), urlencoded, "badName"}, {good + "&slug=ab", urlencoded, "badSlug"}, {good + "&slug=a-bcd", urlencoded, "badSlug"},
		{good + "&slug=..%2Fetc", urlencoded, "badSlug"}, {good + "&slug=Share", urlencoded, "reserved"}, {good + "&slug=mxdeliv", urlencoded, "reserved"},
		{good + "&slug=security", urlencoded, "reserved"}, {good + "&slug=ALICE", urlencoded, "taken"},
		{good, "", "badForm"}, {good, "text/plain", "badForm"}, {"{", "application/json", "badForm"}, {`"x"`, "application/json", "badForm"}, {"x", "multipart/form-data", "badForm"},
		{"x", "multipart/form-data; boundary=y", "badForm"}, {good + "&name=%zz", urlencoded, "badForm"}, {good + "&name=" + strings.Repeat("x", 65<<10), urlencoded, "badForm"},
	} {
		for lang := range words {
			w := ask(s, "POST", "/share?lang="+lang, x.body, "Content-Type", x.typ)
			text := strings.TrimSpace(w.Body.String())
			if x.typ == "application/json" {
				var e map[string]string
				if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
					t.Errorf("%.80s: %s", x.body, w.Body)
				}
				text = e["error"]
			} else if w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("%.80s: %v", x.body, w.Header())
			}
			if w.Code != 400 || text == "" || text != words[lang][x.word] {
				t.Errorf("%.80s in %s: %d %q, want %q", x.body, lang, w.Code, text, words[lang][x.word])
			}
		}
	}
	// Our own page shows its form again.
	w := ask(s, "POST", "/share?lang=fa", form("url", "x", "page", "1"), "Content-Type", urlencoded, "Accept", "text/html")
	if w.Code != 400 || !strings.Contains(w.Body.String(), words["fa"]["badURL"]) || !strings.Contains(w.Body.String(), `dir="rtl"`) || !strings.Contains(w.Body.String(), "<form") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = ask(s, "POST", "/share", form("url", "x"), "Content-Type", urlencoded, "Accept", "application/json")
	if w.Code != 400 || w.Header().Get("Content-Type") != "application/json" || !strings.Contains(w.Body.String(), words["en"]["badURL"]) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestEveryLanguageHasEveryWord: an empty label or refusal would be seen by few of us.
func TestEveryLanguageHasEveryWord(t *testing.T) {
	for lang, w := range words {
		for key := range words["en"] {
			if w[key] == "" {
				t.Errorf("%s has no %s", lang, key)
			}
		}
		if len(w) != len(words["en"]) {
			t.Errorf("%s has %d words, en %d", lang, len(w), len(words["en"]))
		}
	}
}

func TestWithoutSharingThereIsNothing(t *testing.T) {
	f := open()
	s, store := sharing(t, f, nil)
	if _, err := store.Add(t.Context(), "alice", inviteLink, "Alice"); err != nil {
		t.Fatal(err)
	}
	s.opt.Facts = func() Facts { return f }
	none := site(t, &desk{facts: f})
	never := ask(none, "GET", "/never", "")
	for _, x := range []*Server{s, none} {
		for _, at := range []string{"GET /share", "POST /share", "HEAD /share", "PUT /share", "GET /alice"} {
			method, target, _ := strings.Cut(at, " ")
			if w := ask(x, method, target, form("url", inviteLink), "Content-Type", urlencoded); w.Code != 404 || w.Body.String() != never.Body.String() || w.Header().Get("X-Robots-Tag") != "" {
				t.Errorf("%s: %d %s", at, w.Code, w.Body)
			}
		}
		if w := ask(x, "GET", "/", ""); strings.Contains(w.Body.String(), "/share") {
			t.Error("the index leads there")
		}
	}
	s, _ = sharing(t, f, nil)
	if w := ask(s, "GET", "/", ""); !strings.Contains(w.Body.String(), `href="/share?lang=en"`) {
		t.Error("the index does not lead there")
	}
	for _, lang := range []string{"en", "fa", "ru", "es"} {
		w := ask(s, "GET", "/share?lang="+lang, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), words[lang]["shareURL"]) || !strings.Contains(w.Body.String(), `lang="`+lang+`"`) {
			t.Errorf("%s: %d %s", lang, w.Code, w.Body)
		}
	}
	if w := ask(s, "PUT", "/share", ""); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// TestNoSlugShadowsARoute: what the site serves is reserved, and a link of that name
// that an earlier version took is not shown in its place.
func TestNoSlugShadowsARoute(t *testing.T) {
	s, store := sharing(t, open(), nil)
	for _, path := range []string{"/index.html", "/main.css", "/qr", "/new", "/share", "/mail/config-v1.1.xml", "/.well-known/mta-sts.txt"} {
		if w := ask(s, "GET", path, ""); w.Code == 404 && path != "/.well-known/mta-sts.txt" {
			t.Errorf("%s is no route any more", path)
		}
		if !route.Taken(route.First(path)) {
			t.Errorf("%s is not known to be a route", path)
		}
	}
	for _, slug := range []string{"former_name", "former.name"} {
		s.opt.Contacts = &memory{shown: slug}
		if w := ask(s, "GET", "/"+slug, ""); w.Code != 200 {
			t.Errorf("%s of an earlier version: %d", slug, w.Code)
		}
	}
	s.opt.Contacts = store
	if _, err := store.Reserve(t.Context(), "kept"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/kept", "/never", "/../kept", "/a.b", "/%00", "/" + strings.Repeat("a", 65), "/kept/", "/kept/x"} {
		if w := ask(s, "GET", path, ""); w.Code != 404 && w.Code != 307 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// TestTextOfStrangersStaysText: names and links are shown to others.
func TestTextOfStrangersStaysText(t *testing.T) {
	s, _ := sharing(t, open(), nil)
	body := form("url", inviteLink, "slug", "mallory", "name", `<script>alert("x")</script>{{.Domain}}`)
	made := ask(s, "POST", "/share", body, "Content-Type", urlencoded, "Host", "x")
	for _, w := range []*httptest.ResponseRecorder{made, ask(s, "GET", "/mallory", "")} {
		if w.Code != 200 || strings.Contains(w.Body.String(), "<script") || !strings.Contains(w.Body.String(), "&lt;script&gt;") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
}

func TestContactPagesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{facts: open()}
		d.facts.Sharing = true
		kept := &memory{}
		s, err := New(Options{Register: d.register, Facts: func() Facts { return d.facts }, Contacts: kept})
		if err != nil {
			t.Fatal(err)
		}
		post := func(from string) int {
			return ask(s, "POST", "/share", form("url", inviteLink), "Content-Type", urlencoded, "from", from).Code
		}
		many := func(from ...string) (codes []int) {
			for i := range 12 {
				codes = append(codes, post(from[i%len(from)]))
			}
			return codes
		}
		ten := append(slices.Repeat([]int{200}, 10), 429, 429)
		for _, from := range [][]string{{"192.0.2.1:1", "192.0.2.1:2", "[::ffff:192.0.2.1]:3"}, {"192.0.2.2:1"}, {"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:0:ffff::]:1"}, {"[2001:db8:0:1::1]:1"}} {
			if got := many(from...); !slices.Equal(got, ten) {
				t.Errorf("from %v: %v", from, got)
			}
		}
		if w := ask(s, "POST", "/share", form("url", "x"), "Content-Type", urlencoded, "from", "192.0.2.1:1"); w.Code != 429 || w.Header().Get("Retry-After") == "" || strings.TrimSpace(w.Body.String()) != words["en"]["tooMany"] {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if n := kept.n; n != 40 {
			t.Errorf("%d were made", n)
		}
		time.Sleep(59 * time.Minute)
		if got := post("192.0.2.1:1"); got != 429 {
			t.Errorf("within the hour: %d", got)
		}
		time.Sleep(time.Minute)
		if got := post("192.0.2.1:1"); got != 200 {
			t.Errorf("an hour later: %d", got)
		}
	})
}

// memory counts what it is asked to keep.
type memory struct {
	mu   sync.Mutex // guards the fields below
	n    int
	fail error

	shown string // the only one
}

func (m *memory) Create(_ context.Context, slug, _, name string) (share.Link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	return share.Link{Slug: "abcdefgh", URL: storedLink, Name: name}, m.fail
}

func (m *memory) Show(_ context.Context, slug string) (share.Link, error) {
	if m.fail == nil && m.shown != slug {
		return share.Link{}, fault.New(fault.NotFound, "none")
	}
	return share.Link{Slug: slug, URL: storedLink}, m.fail
}

// TestTroubleWithContactPagesIsTold: to visitors that it is so, to the operator why, and
// to nobody whose.
func TestTroubleWithContactPagesIsTold(t *testing.T) {
	var log bytes.Buffer
	d := &desk{facts: open()}
	d.facts.Sharing = true
	s, err := New(Options{Register: d.register, Facts: func() Facts { return d.facts }, Contacts: &memory{fail: fault.Wrap(fault.Busy, errors.New("disk on fire"), "share")},
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	w := ask(s, "POST", "/share", form("url", inviteLink, "slug", "alice", "name", "Alice"), "Content-Type", urlencoded)
	if w.Code != 503 || strings.TrimSpace(w.Body.String()) != words["en"]["noRoom"] {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := ask(s, "GET", "/alice", ""); w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
	if text := log.String(); strings.Count(text, "disk on fire") != 2 || strings.Contains(strings.ToLower(text), "alice") || strings.Contains(text, inviteFPR) {
		t.Errorf("log: %s", text)
	}
}

func FuzzShare(f *testing.F) {
	s, err := New(Options{Register: (&desk{}).register, Facts: func() Facts { f := open(); f.Sharing = true; return f }, Contacts: &memory{}})
	if err != nil {
		f.Fatal(err)
	}
	body, typ := multi(f, "url", inviteLink, "slug", "bob")
	for _, x := range [][3]string{
		{form("url", inviteLink, "page", "1"), urlencoded, "text/html"}, {body, typ, ""}, {`{"url":"x","Slug":1}`, "application/json", "application/json"}, {"", "multipart/form-data; boundary=\"", "*/*"},
	} {
		f.Add([]byte(x[0]), x[1], x[2])
	}
	f.Fuzz(func(t *testing.T, body []byte, typ, accept string) {
		w := ask(s, "POST", "/share", string(body), "Content-Type", typ, "Accept", accept)
		if w.Code != 200 && w.Code != 400 || w.Body.Len() == 0 {
			t.Errorf("%q %q %q: %d %s", body, typ, accept, w.Code, w.Body)
		}
	})
}

// TestContactPagesOfAnOperatorsSite: theirs are used, with the variables of earlier
// versions, ours where there is none; and their other pages are not names to be taken.
func TestContactPagesOfAnOperatorsSite(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"contact_view.html": `MINE {{.Custom.Name}} <a href="{{.Custom.URL | safeURL}}">{{.Custom.Slug}}</a>`, "contact_share_success.html": `{% if Custom.Slug %}MINE {{ Custom.Slug }}{% endif %}`, "about.html": "about",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, strict := range []bool{false, true} {
		site := Own{Dir: dir, Strict: strict}
		store := share.New(share.Options{Path: filepath.Join(t.TempDir(), share.FileName), Taken: func(slug string) bool { return Shows(site, "/"+slug) }})
		f := open()
		f.Sharing = true
		s, err := New(Options{Register: (&desk{}).register, Facts: func() Facts { return f }, Contacts: store, Own: func() Own { return site }})
		if err != nil {
			t.Fatal(err)
		}
		if w := ask(s, "POST", "/share", form("url", inviteLink, "slug", "alice", "name", "Alice"), "Content-Type", urlencoded); w.Code != 200 || w.Body.String() != "MINE alice" {
			t.Errorf("%d %q", w.Code, w.Body)
		}
		want := `MINE Alice <a href="` + strings.ReplaceAll(storedLink, "&", "&amp;") + `">alice</a>`
		if w := ask(s, "GET", "/alice", ""); w.Code != 200 || w.Body.String() != want || w.Header().Get("X-Robots-Tag") != "noindex" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%d %q %v, want %q", w.Code, w.Body, w.Header(), want)
		}
		if w := ask(s, "GET", "/share", ""); w.Code != 200 || !strings.Contains(w.Body.String(), words["en"]["shareURL"]) {
			t.Errorf("our form: %d %q", w.Code, w.Body)
		}
		if w := ask(s, "POST", "/share", form("url", inviteLink, "slug", "about"), "Content-Type", urlencoded); w.Code != 400 || strings.TrimSpace(w.Body.String()) != words["en"]["reserved"] {
			t.Errorf("a page of the site: %d %q", w.Code, w.Body)
		}
		if w := ask(s, "GET", "/about", ""); w.Body.String() != "about" {
			t.Errorf("%q", w.Body)
		}
		if err := store.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// Ours have nothing to show by their names.
	s, _ := sharing(t, open(), nil)
	for _, path := range []string{"/contact_view", "/contact_share.html", "/contact_share_success"} {
		if w := ask(s, "GET", path, ""); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

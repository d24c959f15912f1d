package mtasts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/internal/fault"
)

func TestParse(t *testing.T) {
	const good = "version: STSv1\nmode: enforce\nmx: mx.example.org\nmx: *.Example.net\nmax_age: 86400\n"
	p, err := Parse(good)
	if err != nil || p.Mode != Enforce || fmt.Sprint(p.MX) != "[mx.example.org *.example.net]" || p.MaxAge != 24*time.Hour {
		t.Fatalf("%+v %v", p, err)
	}
	if again, err := Parse(p.Text()); err != nil || fmt.Sprint(again) != fmt.Sprint(p) {
		t.Errorf("%q %v", p.Text(), err)
	}
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n"), true},
		{"no last line end", strings.TrimSuffix(good, "\n"), true},
		{"blanks around values", strings.ReplaceAll(good, "\n", " \t\n"), true},
		{"no blank behind the colon", strings.ReplaceAll(good, ": ", ":"), true},
		{"unknown field", good + "x-new_field.1: caf\xc3\xa9\n", true},
		{"mode twice", good + "mode: none\n", true},
		{"none without mx", "version: STSv1\nmode: none\nmax_age: 0\n", true},
		{"longest age", strings.Replace(good, "86400", "9999999999", 1), true},
		{"empty", "", false},
		{"blank line", strings.Replace(good, "\nmx: mx", "\n\nmx: mx", 1), false},
		{"no version", strings.Replace(good, "version: STSv1\n", "", 1), false},
		{"other version", strings.Replace(good, "STSv1", "STSv2", 1), false},
		{"no mode", strings.Replace(good, "mode: enforce\n", "", 1), false},
		{"other mode", strings.Replace(good, "enforce", "Enforce", 1), false},
		{"no age", strings.Replace(good, "max_age: 86400\n", "", 1), false},
		{"negative age", strings.Replace(good, "86400", "-1", 1), false},
		{"signed age", strings.Replace(good, "86400", "+1", 1), false},
		{"empty age", strings.Replace(good, "86400", "", 1), false},
		{"age in words", strings.Replace(good, "86400", "1d", 1), false},
		{"no mx", "version: STSv1\nmode: testing\nmax_age: 1\n", false},
		{"mx with two wildcards", good + "mx: *.*.example.org\n", false},
		{"mx with a wildcard inside", good + "mx: a.*.example.org\n", false},
		{"mx address", good + "mx: 192.0.2.1\n", false},
		{"mx literal", good + "mx: [192.0.2.1]\n", false},
		{"mx alone", good + "mx: *\n", false},
		{"mx empty", good + "mx: \n", false},
		{"mx with blanks", good + "mx: a b\n", false},
		{"many mx", good + strings.Repeat("mx: a.b\n", maxMX), false},
		{"HTML", "<!DOCTYPE html>\n<html>\n", false},
		{"control characters", good + "x: \x00\n", false},
		{"blank before the colon", good + "x : y\n", false},
		{"too large", good + "x: " + strings.Repeat("a", MaxPolicy) + "\n", false},
	} {
		p, err := Parse(c.text)
		if (err == nil) != c.ok || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %+v %v", c.name, p, err)
		}
		if p.MaxAge > MaxAge {
			t.Errorf("%s: %v", c.name, p.MaxAge)
		}
	}
}

func TestMatches(t *testing.T) {
	p := Policy{MX: []string{"mx.example.org", "*.example.net"}}
	for host, want := range map[string]bool{
		"mx.example.org": true, "MX.Example.Org.": true, "a.example.net": true, "a.b.example.net": false, "example.net": false,
		".example.net": false, "aexample.net": false, "mx.example.org.evil.com": false, "x.mx.example.org": false, "": false,
	} {
		if p.Matches(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
	if (Policy{}).Matches("mx.example.org") {
		t.Error("the zero policy names no host")
	}
}

func TestParseRecord(t *testing.T) {
	for _, c := range []struct {
		name string
		txts []string
		id   string
	}{
		{"usual", []string{"v=STSv1; id=20160831085700Z;"}, "20160831085700Z"},
		{"tight", []string{"v=STSv1;id=1"}, "1"},
		{"official form", []string{"v=STSv1; id=202608201000"}, "202608201000"},
		{"beside others", []string{"hello", "v=STSv1 ; x=y; id=a"}, "a"},
		{"two", []string{"v=STSv1; id=1", "v=STSv1; id=2"}, ""},
		{"none", nil, ""}, {"no id", []string{"v=STSv1;"}, ""}, {"version alone", []string{"v=STSv1"}, ""},
		{"other version", []string{"v=STSv10; id=1"}, ""}, {"id with signs", []string{"v=STSv1; id=a-b"}, ""},
		{"id too long", []string{"v=STSv1; id=" + strings.Repeat("a", 33)}, ""}, {"id first", []string{"id=1; v=STSv1"}, ""},
	} {
		if id, ok := ParseRecord(c.txts); ok != (c.id != "") || ok && id != c.id {
			t.Errorf("%s: %q %v", c.name, id, ok)
		}
	}
}

// world is the DNS and the web as the cache sees them.
type world struct {
	mu      sync.Mutex
	txt     []string
	txtErr  error
	status  int
	typ     string
	body    string
	err     error
	fetches int
	now     time.Time
	asked   chan struct{} // when not nil, receives before each answer of the web
}

func (w *world) LookupTXT(_ context.Context, name string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.HasPrefix(name, "_mta-sts.") {
		return nil, errors.New("asked for " + name)
	}
	return w.txt, w.txtErr
}

func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.asked != nil {
		select {
		case w.asked <- struct{}{}:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetches++
	if r.URL.Scheme != "https" || !strings.HasPrefix(r.URL.Host, "mta-sts.") || r.URL.Path != "/.well-known/mta-sts.txt" {
		return nil, errors.New("fetched " + r.URL.String())
	}
	if w.err != nil {
		return nil, w.err
	}
	h := http.Header{"Content-Type": {w.typ}}
	if w.status/100 == 3 {
		h.Set("Location", "https://mta-sts.example.com/.well-known/mta-sts.txt")
	}
	return &http.Response{StatusCode: w.status, Header: h, Body: io.NopCloser(strings.NewReader(w.body)), Request: r}, nil
}

func (w *world) Now() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

const enforce = "version: STSv1\nmode: enforce\nmx: mx.example.org\nmax_age: 604800\n"

func newWorld() *world {
	return &world{txt: []string{"v=STSv1; id=1"}, status: 200, typ: "text/plain; charset=utf-8", body: enforce, now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
}

func (w *world) open(t *testing.T, dir string) *Cache {
	t.Helper()
	c, err := Open(Options{Dir: dir, LookupTXT: w.LookupTXT, Client: &http.Client{Transport: w}, Now: w.Now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) expect(t *testing.T, c *Cache, what string, mode Mode, fetches int) {
	t.Helper()
	p, err := c.Lookup(t.Context(), "Example.org.")
	if err != nil || p.Mode != mode || w.fetches != fetches {
		t.Errorf("%s: %v after %d fetches, want %v after %d (%v)", what, p.Mode, w.fetches, mode, fetches, err)
	}
}

func TestAPolicyStaysInForce(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	c := w.open(t, dir)
	w.expect(t, c, "first", Enforce, 1)
	w.expect(t, c, "cached", Enforce, 1)
	w.txt = nil
	w.expect(t, c, "record gone", Enforce, 1)
	w.txtErr = errors.New("no answer")
	w.expect(t, c, "no answer", Enforce, 1)
	c = w.open(t, dir)
	w.expect(t, c, "after a restart", Enforce, 1)
	w.txt, w.txtErr, w.err = []string{"v=STSv1; id=2"}, nil, errors.New("refused")
	w.expect(t, c, "new id, web server down", Enforce, 2)
	w.expect(t, c, "not tried again at once", Enforce, 2)
	w.now = w.now.Add(retryAfter)
	w.err, w.body = nil, strings.Replace(enforce, "enforce", "testing", 1)
	w.expect(t, c, "new policy", Testing, 3)
	w.txt = []string{"v=STSv1; id=3"}
	w.body = "version: STSv1\nmode: none\nmax_age: 86400\n"
	w.expect(t, c, "taken back", None, 4)
	w.expect(t, c, "and kept so", None, 4)
	w.now = w.now.Add(25 * time.Hour)
	w.txt = nil
	w.expect(t, c, "ended", None, 4)
}

func TestAPolicyIsRefreshedBeforeItEnds(t *testing.T) {
	w := newWorld()
	c := w.open(t, "")
	w.expect(t, c, "first", Enforce, 1)
	w.now = w.now.Add(3 * 24 * time.Hour)
	w.expect(t, c, "young", Enforce, 1)
	w.now = w.now.Add(24 * time.Hour)
	w.err = errors.New("refused")
	w.expect(t, c, "old", Enforce, 2)
	w.expect(t, c, "once a day", Enforce, 2)
	w.err = nil
	w.now = w.now.Add(24 * time.Hour)
	w.expect(t, c, "the next day", Enforce, 3)
	w.now = w.now.Add(3 * 24 * time.Hour)
	w.txt = nil
	w.expect(t, c, "lives on", Enforce, 3)
}

func TestBadAnswersMakeNoPolicy(t *testing.T) {
	for name, change := range map[string]func(*world){
		"no record":       func(w *world) { w.txt = nil },
		"DNS fails":       func(w *world) { w.txtErr = errors.New("no answer") },
		"not found":       func(w *world) { w.status = 404 },
		"redirect":        func(w *world) { w.status = 302 },
		"HTML":            func(w *world) { w.typ = "text/html" },
		"no type":         func(w *world) { w.typ = "" },
		"no connection":   func(w *world) { w.err = errors.New("refused") },
		"nonsense":        func(w *world) { w.body = "hello" },
		"too large":       func(w *world) { w.body = enforce + "x: " + strings.Repeat("a", MaxPolicy) },
		"certificate bad": func(w *world) { w.err = errors.New("x509: unknown authority") },
	} {
		w := newWorld()
		change(w)
		c := w.open(t, t.TempDir())
		want := 1
		if w.txt == nil || w.txtErr != nil {
			want = 0
		}
		w.expect(t, c, name, None, want)
		w.expect(t, c, name+", again", None, want)
		w.now = w.now.Add(retryAfter)
		w.expect(t, c, name+", later", None, 2*want)
	}
}

func TestNamesWithoutPolicy(t *testing.T) {
	w := newWorld()
	c := w.open(t, t.TempDir())
	for _, d := range []string{"", "[192.0.2.1]", "192.0.2.1", "../etc", "a/b", "a b", "a..b", strings.Repeat("abcdefg.", 40) + "org"} {
		if p, err := c.Lookup(t.Context(), d); err != nil || p.Mode != None || w.fetches != 0 {
			t.Errorf("%q: %v %v", d, p, err)
		}
	}
}

func TestWaitersShareOneFetch(t *testing.T) {
	w := newWorld()
	w.asked = make(chan struct{})
	c := w.open(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { // ends with cancel
		_, err := c.Lookup(ctx, "example.org")
		left <- err
	}()
	cancel()
	if err := <-left; !fault.Is(err, fault.Busy) {
		t.Error(err)
	}
	// That one gave up is not held against the domain.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if p, err := c.Lookup(t.Context(), "example.org"); err != nil || p.Mode != Enforce {
				t.Error(p, err)
			}
		})
	}
	<-w.asked
	wg.Wait()
	if w.fetches != 1 {
		t.Error(w.fetches)
	}
}

func TestCacheIsBounded(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	c, err := Open(Options{Dir: dir, LookupTXT: w.LookupTXT, Client: &http.Client{Transport: w}, Now: w.Now, MaxDomains: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		w.now = w.now.Add(time.Minute)
		if p, err := c.Lookup(t.Context(), fmt.Sprintf("d%d.org", i)); err != nil || p.Mode != Enforce {
			t.Fatal(p, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 3 || len(c.known) != 3 || filepath.Base(files[0]) != "d3.org.json" {
		t.Error(files, err)
	}
	w.err = errors.New("refused")
	for i := range 10 {
		_, _ = c.Lookup(t.Context(), fmt.Sprintf("e%d.org", i))
	}
	if len(c.failed) > 3 {
		t.Error(len(c.failed))
	}
}

func TestUselessFilesAreRemoved(t *testing.T) {
	w, dir := newWorld(), t.TempDir()
	w.expect(t, w.open(t, dir), "first", Enforce, 1)
	for name, text := range map[string]string{"bad.org.json": "{", "empty.org.json": "", ".x.json.1.tmp": "x", "..json": "{}", "old.org.json": `{"id":"1","fetched":"2020-01-01T00:00:00Z","policy":"version: STSv1\r\nmode: none\r\nmax_age: 1\r\n"}`, "mine.txt": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(t, w.open(t, dir), "again", Enforce, 1)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 || left[0].Name() != "example.org.json" || left[1].Name() != "mine.txt" {
		t.Error(left, err)
	}
	if _, err := Open(Options{Dir: filepath.Join(dir, "mine.txt"), LookupTXT: w.LookupTXT}); err == nil {
		t.Error("a file as directory")
	}
	if _, err := Open(Options{}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(enforce)
	f.Add(strings.ReplaceAll(enforce, "\n", "\r\n"))
	f.Add("version: STSv1\nmode: none\nmax_age: 0")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(p.Text())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(p) {
			t.Errorf("%+v %+v %v", p, again, err)
		}
		p.Matches(text)
	})
}

func FuzzRecord(f *testing.F) {
	f.Add("v=STSv1; id=1;", "x")
	f.Fuzz(func(t *testing.T, a, b string) {
		if id, ok := ParseRecord([]string{a, b}); ok && !recordID(id) {
			t.Error(id)
		}
	})
}

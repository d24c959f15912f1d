package exchange

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// box is an exchanger.
type box struct {
	mu       sync.Mutex // guards the fields below
	status   int
	messages []letter
	acked    []string
	asked    []string
	auth     string
	location string
}

func (b *box) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	b.ServeHTTP(w, r)
	return w.Result(), nil
}

func (b *box) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked, b.auth = append(b.asked, r.Method+" "+r.URL.String()), r.Header.Get("Authorization")
	if b.location != "" {
		http.Redirect(w, r, b.location, http.StatusFound)
		return
	}
	if b.status != 0 {
		w.WriteHeader(b.status)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/ack") {
		var ids struct{ IDs []string }
		if err := json.NewDecoder(r.Body).Decode(&ids); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		b.acked = append(b.acked, ids.IDs...)
		b.messages = slices.DeleteFunc(b.messages, func(l letter) bool { return slices.Contains(ids.IDs, l.ID) })
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"hash": "x", "count": len(b.messages), "messages": b.messages})
}

func (b *box) put(l ...letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages = append(b.messages, l...)
}

// intake keeps what it is given.
type intake struct {
	err error
	got []string
}

func (i *intake) accept(_ context.Context, from address.Addr, to []address.Addr, _ int64, r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil || i.err != nil {
		return errors.Join(err, i.err)
	}
	line := from.Wire() + ":"
	for _, a := range to {
		line += " " + a.Wire()
	}
	i.got = append(i.got, line+" "+string(text))
	return nil
}

type fixture struct {
	*Store
	*Poller
	box *box
	in  *intake
	d   *db.DB
	dir string
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{box: &box{}, in: &intake{}, dir: t.TempDir()}
	f.open(t)
	return f
}

func (f *fixture) open(t *testing.T) {
	t.Helper()
	var err error
	if f.d, err = db.Open(t.Context(), db.Options{StateDir: f.dir}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if f.Store, err = Open(t.Context(), f.d, nil); err != nil {
		t.Fatal(err)
	}
	f.Poller, err = New(Options{
		Store: f.Store, Accept: f.in.accept, Known: func(a address.Addr) bool { return a.Local() != "nobody" },
		Domains: func() []address.Domain { return []address.Domain{"here.example", "[192.0.2.1]"} }, Transport: f.box,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) add(t *testing.T, url string) Exchanger {
	t.Helper()
	if err := f.Add(t.Context(), Exchanger{Name: "one", URL: url, Enabled: true}); err != nil {
		t.Fatal(err)
	}
	x, err := f.Get("one")
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestABoxThatCannotBeTold(t *testing.T) {
	f := setUp(t)
	x := f.add(t, "https://box.example/")
	f.box.put(
		letter{ID: "1", From: "a@there.example", To: recipients{"b@here.example", "nobody@here.example", "c@elsewhere.example"}, Body: []byte("first")},
		letter{ID: "2", From: "", To: recipients{"b@192.0.2.1"}, Body: []byte("second")},
		letter{ID: "3", From: "a@there.example", To: recipients{"nobody@here.example"}, Body: []byte("for nobody")},
		letter{ID: "4", From: "not an address", To: recipients{"b@here.example"}, Body: []byte("odd")},
		letter{ID: "5", From: "a@there.example", To: recipients{"b@here.example"}, Body: []byte("first")},
	)
	for range 2 {
		if err := f.Poll(t.Context(), x); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"a@there.example: b@here.example first", ": b@[192.0.2.1] second"}
	if !slices.Equal(f.in.got, want) {
		t.Errorf("%q", f.in.got)
	}
	if want := []string{"GET https://box.example/me/full", "GET https://box.example/me/full"}; !slices.Equal(f.box.asked, want) {
		t.Error(f.box.asked)
	}
	if x, _ = f.Get("one"); x.Received != 2 || x.LastPoll.IsZero() || x.LastError != "" {
		t.Errorf("%+v", x)
	}
	// What was fetched is known after a restart.
	if err := f.d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.open(t)
	if err := f.Poll(t.Context(), x); err != nil || len(f.in.got) != 2 {
		t.Error(err, f.in.got)
	}
}

func TestABoxThatIsTold(t *testing.T) {
	f := setUp(t)
	x := f.add(t, "https://secret@box.example/pull")
	if x.Token != "secret" || strings.Contains(x.URL, "secret") || !x.Pulls() {
		t.Fatalf("%+v", x)
	}
	f.box.put(letter{ID: "1", From: "a@there.example", To: recipients{"b@here.example"}, Body: []byte("first")})
	f.in.err = fault.New(fault.Busy, "full disk")
	if err := f.Poll(t.Context(), x); err == nil || len(f.box.acked) != 0 {
		t.Error("told of what is not stored:", err, f.box.acked)
	}
	if x, _ := f.Get("one"); !strings.Contains(x.LastError, "could not be stored") {
		t.Errorf("%+v", x)
	}
	f.in.err = nil
	if err := f.Poll(t.Context(), x); err != nil || !slices.Equal(f.box.acked, []string{"1"}) || f.box.auth != "Bearer secret" {
		t.Error(err, f.box.acked, f.box.auth)
	}
	f.box.put(letter{ID: "2", From: "a@there.example", To: recipients{"b@here.example"}, Body: []byte("clear")})
	f.in.err = fault.New(fault.Unencrypted, "clear text")
	if err := f.Poll(t.Context(), x); err != nil || !slices.Equal(f.box.acked, []string{"1", "2"}) || len(f.in.got) != 1 {
		t.Error("what is refused need not come again:", err, f.box.acked, f.in.got)
	}
	if want := "GET https://box.example/pull?domain=192.0.2.1"; !slices.Contains(f.box.asked, want) {
		t.Error(f.box.asked)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	f := setUp(t)
	x := f.add(t, "https://box.example")
	for _, c := range []struct {
		status   int
		location string
		bad      bool
	}{{404, "", false}, {204, "", false}, {500, "", true}, {403, "", true}, {0, "https://elsewhere.example/", true}} {
		f.box.status, f.box.location = c.status, c.location
		if err := f.Poll(t.Context(), x); (err != nil) != c.bad {
			t.Error(c, err)
		}
	}
	if len(f.box.asked) != 5 {
		t.Error("a redirect was followed:", f.box.asked)
	}
}

func TestWhatAnOperatorMaySay(t *testing.T) {
	f := setUp(t)
	ctx := t.Context()
	for _, x := range []Exchanger{
		{}, {Name: "a"}, {Name: "a", URL: "ftp://box.example"}, {Name: "a", URL: "https://"}, {Name: strings.Repeat("a", 65), URL: "https://b"},
		{Name: "a\nb", URL: "https://b"}, {Name: "a", URL: "https://b/\x00"}, {Name: "a", URL: "https://b", Interval: time.Second}, {Name: "a", URL: "https://b", Token: "a b"},
	} {
		if err := f.Add(ctx, x); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	f.add(t, "https://b")
	if err := f.Add(ctx, Exchanger{Name: "one", URL: "https://c"}); !fault.Is(err, fault.Exists) {
		t.Error(err)
	}
	off, url, every, zero := false, "https://c/pull", time.Hour, time.Duration(0)
	if err := f.Set(ctx, "one", Change{Enabled: &off, URL: &url, Interval: &every}); err != nil {
		t.Error(err)
	}
	if err := f.Set(ctx, "one", Change{Interval: &zero}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if x, err := f.Get("one"); err != nil || x.Enabled || x.URL != url || x.Interval != every {
		t.Errorf("%+v, %v", x, err)
	}
	for range 2 {
		err := f.Remove(ctx, "one")
		if len(f.List()) != 0 || err != nil && !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
	}
	if err := f.Set(ctx, "one", Change{}); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

// TestRounds: each box is asked at its interval, less often while it fails, and a
// change counts at once.
func TestRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		f.add(t, "https://box.example")
		count := func() int {
			f.box.mu.Lock()
			defer f.box.mu.Unlock()
			return len(f.box.asked)
		}
		if err := f.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := f.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(startDelay - time.Second)
		synctest.Wait()
		if n := count(); n != 0 {
			t.Error("asked before the start is over:", n)
		}
		time.Sleep(2*time.Second + 10*time.Minute)
		synctest.Wait()
		if n := count(); n < 10 || n > 11 {
			t.Error("in ten minutes:", n)
		}
		f.box.mu.Lock()
		f.box.status = 500
		f.box.mu.Unlock()
		before := count()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := count() - before; n < 5 || n > 12 {
			t.Error("in an hour of failures:", n)
		}
		off := false
		if err := f.Set(t.Context(), "one", Change{Enabled: &off}); err != nil {
			t.Fatal(err)
		}
		before = count()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := count() - before; n != 0 {
			t.Error("asked although it is off:", n)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"hash":"x","count":1,"messages":[{"id":"1","from":"a@b.c","to":["d@here.example"],"size":3,"date":"","body":"YWJj"}]}`))
	f.Add([]byte(`{"messages":[{"to":"d@here.example"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a struct {
			Messages []letter `json:"messages"`
		}
		if json.Unmarshal(b, &a) == nil {
			for _, l := range a.Messages {
				if len(l.Body) > len(b) || len(l.To) > len(b) {
					t.Error("more than came")
				}
			}
		}
	})
}

package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/address"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// service is a notification service and what it was asked.
type service struct {
	mu     sync.Mutex // guards the fields below
	status int        // 0 is 200
	after  string
	down   bool
	slow   time.Duration
	got    []string
	at     []time.Time
	fields http.Header
	open   int // requests under way
	most   int
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.got, s.at, s.fields = append(s.got, string(body)), append(s.at, time.Now()), r.Header
	s.open++
	s.most = max(s.most, s.open)
	slow, down, status, after := s.slow, s.down, s.status, s.after
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.open--; s.mu.Unlock() }()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if down {
		return nil, errors.New("connection refused")
	}
	if status == 0 {
		status = 200
	}
	h := http.Header{}
	if after != "" {
		h.Set("Retry-After", after)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader("ok"))}, nil
}

func (s *service) set(f func(*service)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *service) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// tokens are those of all accounts.
type tokens struct {
	mu sync.Mutex // guards the field below
	m  map[address.Addr][]string
}

func (k *tokens) List(a address.Addr) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.m[a])
}

func (k *tokens) RemoveToken(_ context.Context, a address.Addr, token string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m[a] = slices.DeleteFunc(k.m[a], func(t string) bool { return t == token })
	return nil
}

type fixture struct {
	*Notifier
	t      *testing.T
	dir    string
	srv    *service
	tokens *tokens
	mode   atomic.Uint32
	gaveUp atomic.Int32
}

// bubble runs f in fake time with a started notifier.
func bubble(t *testing.T, f func(*fixture)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		x := &fixture{t: t, dir: dir, srv: &service{}, tokens: &tokens{m: map[address.Addr][]string{
			addr(t, "a@x.org"): {"openpgp:one"}, addr(t, "b@x.org"): {"two", "three"},
		}}}
		x.mode.Store(uint32(On))
		x.start()
		defer x.stop()
		f(x)
	})
}

func (f *fixture) start() {
	f.t.Helper()
	n, err := New(Options{Dir: f.dir, Tokens: f.tokens, Mode: func() Mode { return Mode(f.mode.Load()) }, GaveUp: func(context.Context) { f.gaveUp.Add(1); f.mode.Store(uint32(Off)) }, Transport: f.srv})
	if err != nil {
		f.t.Fatal(err)
	}
	f.Notifier = n
	if err := n.Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) stop() {
	f.t.Helper()
	for range 2 {
		if err := f.Stop(context.Background()); err != nil {
			f.t.Error(err)
		}
	}
}

func (f *fixture) after(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	return f.srv.asked()
}

func (f *fixture) kept() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wakes)
}

func (f *fixture) files() int {
	f.t.Helper()
	list, err := os.ReadDir(f.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	return len(list)
}

// The token goes out at once, as it is, with nothing that tells more.
func TestAMessageWakesEachDeviceOnce(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.Notify(addr(t, "b@x.org"))
		f.Notify(addr(t, "nobody@x.org"))
		got := f.after(0)
		slices.Sort(got)
		if !slices.Equal(got, []string{"three", "two"}) {
			t.Error(got)
		}
		if f.srv.fields.Get("User-Agent") != "" || len(f.srv.fields) > 1 {
			t.Error("the request tells more:", f.srv.fields)
		}
		if s := f.Stats(); s.Sent != 2 || s.Pending != 0 || f.files() != 0 {
			t.Errorf("%+v, %d files", s, f.files())
		}
	})
}

func TestManyMessagesAreOneRequest(t *testing.T) {
	bubble(t, func(f *fixture) {
		for range 50 {
			f.Notify(addr(t, "a@x.org"))
			time.Sleep(100 * time.Millisecond)
		}
		if got := f.after(quiet); len(got) != 2 {
			t.Error("50 messages in five seconds:", len(got))
		}
		f.after(2 * quiet)
		f.Notify(addr(t, "a@x.org"))
		if got := f.after(0); len(got) != 3 {
			t.Error("a message later on waits:", len(got))
		}
		if n := f.kept(); n != 1 {
			t.Error("kept:", n)
		}
		f.after(time.Hour)
		if n := f.kept(); n != 0 {
			t.Error("never forgotten:", n)
		}
	})
}

// A client with several accounts here leaves one token with all of them.
func TestAccountsThatShareATokenAreOneRequest(t *testing.T) {
	bubble(t, func(f *fixture) {
		a, b := addr(t, "a@x.org"), addr(t, "c@x.org")
		f.tokens.m[b] = []string{"openpgp:one"}
		f.srv.down = true
		f.Notify(a)
		f.Notify(b)
		if got := f.after(time.Second); len(got) != 1 || f.files() != 1 {
			t.Error(got, f.files())
		}
		f.Forget(a) // the other one waits still, also over a restart
		f.stop()
		f.srv.set(func(s *service) { s.down, s.status = false, http.StatusGone })
		f.start()
		if got := f.after(time.Minute); len(got) != 2 || f.files() != 0 || len(f.tokens.List(b)) != 0 {
			t.Error(got, f.files(), f.tokens.m)
		}
	})
	bubble(t, func(f *fixture) {
		a, b := addr(t, "a@x.org"), addr(t, "c@x.org")
		f.tokens.m[b] = []string{"openpgp:one"}
		f.srv.slow, f.srv.status = time.Second, http.StatusGone
		f.Notify(a)
		f.after(time.Millisecond)
		f.Notify(b)
		if got := f.after(time.Minute); len(got) != 1 || len(f.tokens.List(a))+len(f.tokens.List(b)) != 0 {
			t.Error("a dead token stays with one of them:", got, f.tokens.m)
		}
	})
}

// Who got mail first is woken first, also after a restart.
func TestTheOrderOfMessagesIsThatOfRequests(t *testing.T) {
	bubble(t, func(f *fixture) {
		const n = 10 * parallel
		name := func(i int) address.Addr { return addr(t, fmt.Sprintf("user%03d@x.org", i)) }
		inOrder := func(what string, got []string, of func(i int) int) {
			t.Helper()
			if len(got) != n {
				t.Fatalf("%s: %d requests", what, len(got))
			}
			for at := 0; at < n; at += parallel { // those of one moment are under way together
				batch := slices.Clone(got[at : at+parallel])
				slices.Sort(batch)
				var want []string
				for i := at; i < at+parallel; i++ {
					want = append(want, fmt.Sprintf("token%03d", of(i)))
				}
				if slices.Sort(want); !slices.Equal(batch, want) {
					t.Errorf("%s: requests from %d are %v, want %v", what, at, batch, want)
				}
			}
		}
		for i := range n {
			f.tokens.m[name(i)] = []string{fmt.Sprintf("token%03d", i)}
		}
		f.srv.slow = time.Second
		for i := range n {
			f.Notify(name(i))
		}
		inOrder("at first", f.after(time.Minute), func(i int) int { return i })
		// They were all taken at once, so the next ones come from disk.
		f.stop()
		f.srv.set(func(s *service) { s.got = nil })
		for i := range n { // the latest first
			text := format(name(i), time.Now().Add(-time.Duration(i)*time.Second), fmt.Sprintf("token%03d", i))
			if err := os.WriteFile(filepath.Join(f.dir, fmt.Sprintf("f%03d", i)), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f.start()
		inOrder("after a restart", f.after(time.Minute), func(i int) int { return n - 1 - i })
	})
}

// A message that comes while the service is asked for the one before is not lost.
func TestAMessageDuringARequest(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.srv.slow = 5 * time.Second
		f.Notify(addr(t, "a@x.org"))
		f.after(time.Second)
		f.Notify(addr(t, "a@x.org"))
		if got := f.after(time.Minute); len(got) != 2 || f.files() != 0 {
			t.Error(got, f.files())
		}
	})
}

func TestADeadTokenIsRemoved(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.srv.status = http.StatusGone
		f.Notify(addr(t, "a@x.org"))
		f.after(time.Hour)
		f.Notify(addr(t, "a@x.org"))
		if got := f.after(time.Hour); len(got) != 1 || len(f.tokens.List(addr(t, "a@x.org"))) != 0 || f.files() != 0 || f.Stats().Gone != 1 {
			t.Error(got, f.tokens.m, f.files(), f.Stats())
		}
	})
}

func TestFailuresAreTriedAgainForAWhile(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.srv.down = true
		f.Notify(addr(t, "a@x.org"))
		f.after(6 * time.Hour)
		n := len(f.srv.at)
		if n < 20 || n > 40 {
			t.Error("tries in five hours:", n)
		}
		for i, at := range f.srv.at {
			if i > 0 && at.Sub(f.srv.at[i-1]) > maxRetry+time.Second {
				t.Error("pause before try", i, at.Sub(f.srv.at[i-1]))
			}
		}
		if last := f.srv.at[n-1].Sub(f.srv.at[0]); last > giveUp {
			t.Error("tried after", last)
		}
		if s := f.Stats(); s.Pending != 0 || s.Dropped != 1 || f.files() != 0 {
			t.Errorf("%+v, %d files", s, f.files())
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.srv.status, f.srv.after = 429, "120"
		f.Notify(addr(t, "a@x.org"))
		if got := f.after(119 * time.Second); len(got) != 1 {
			t.Error(got)
		}
		f.srv.set(func(s *service) { s.status = 200 })
		if got := f.after(2 * time.Second); len(got) != 2 || f.Stats().Sent != 1 {
			t.Error(got)
		}
		if d := f.Notifier.after("Mon, 01 Jan 1990 00:00:00 GMT"); d != 0 {
			t.Error(d)
		}
		if d := f.Notifier.after(time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)); d < 28*time.Second || d > 30*time.Second {
			t.Error(d)
		}
		if d := f.Notifier.after("999999999"); d != maxAfter {
			t.Error(d)
		}
	})
}

// A service that is down is not asked for everybody again and again.
func TestTheServiceIsLeftAloneWhileItIsDown(t *testing.T) {
	bubble(t, func(f *fixture) {
		for i := range 500 {
			f.tokens.m[addr(t, "u"+strings.Repeat("i", i%50)+string(rune('a'+i/50))+"@x.org")] = []string{"t" + time.Duration(i).String()}
		}
		f.srv.down = true
		for a := range f.tokens.m {
			f.Notify(a)
		}
		if got := f.after(10 * time.Minute); len(got) > 60 {
			t.Error("requests in ten minutes:", len(got))
		}
		if f.srv.most > parallel {
			t.Error("at a time:", f.srv.most)
		}
		f.srv.set(func(s *service) { s.down = false })
		f.after(maxPause + maxRetry)
		if s := f.Stats(); s.Pending != 0 || s.Sent < 500 || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAutoGivesUpAndComesBack(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.mode.Store(uint32(Auto))
		f.srv.slow = time.Minute // longer than anybody waits
		f.Notify(addr(t, "a@x.org"))
		f.after(time.Hour)
		if f.gaveUp.Load() != 1 || len(f.srv.asked()) != Threshold || f.files() != 0 {
			t.Error(f.gaveUp.Load(), len(f.srv.asked()), f.files())
		}
		f.Notify(addr(t, "a@x.org"))
		if got := f.after(time.Minute); len(got) != Threshold {
			t.Error("asked although it is off")
		}
		f.srv.set(func(s *service) { s.slow = 0 })
		f.mode.Store(uint32(Auto))
		f.Reset()
		f.Notify(addr(t, "a@x.org"))
		if got := f.after(0); len(got) != Threshold+1 || f.Stats().Failures != 0 {
			t.Error(got, f.Stats())
		}
	})
}

// A restart in the middle goes on, and remembers when it began.
func TestRestartInTheMiddle(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.srv.down = true
		f.Notify(addr(t, "a@x.org"))
		f.Notify(addr(t, "b@x.org"))
		f.after(4 * time.Hour)
		f.stop()
		for name, text := range map[string]string{"odd": "nonsense", "half.tmp": "a@x.org\n1\nt\n", "large": strings.Repeat("x", maxFile+1)} {
			if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f.start()
		if f.Stats().Pending != 3 || f.files() != 3 {
			t.Error(f.Stats(), f.files())
		}
		f.after(2 * time.Hour)
		if f.files() != 0 || f.Stats().Dropped != 3 {
			t.Error("the five hours began anew:", f.files(), f.Stats())
		}
		f.Notify(addr(t, "a@x.org"))
		f.stop()
		f.srv.set(func(s *service) { s.down = false })
		f.start()
		f.after(time.Minute)
		if s := f.Stats(); s.Sent != 1 || f.files() != 0 {
			t.Error(s, f.files())
		}
	})
}

func TestForget(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.srv.down = true
		f.Notify(addr(t, "a@x.org"))
		f.Notify(addr(t, "b@x.org"))
		f.after(time.Second)
		f.Forget(addr(t, "b@x.org"))
		if f.Stats().Pending != 1 || f.files() != 1 {
			t.Error(f.Stats(), f.files())
		}
		f.mode.Store(uint32(Off))
		f.Reset()
		f.after(0)
		if f.Stats().Pending != 0 || f.files() != 0 {
			t.Error("off:", f.Stats(), f.files())
		}
	})
}

func TestPendingIsBounded(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.srv.down = true
		now := time.Now()
		f.mu.Lock()
		for i := range maxPending {
			f.wakes[time.Duration(i).String()] = &wake{at: -1}
		}
		f.mu.Unlock()
		f.add(addr(t, "a@x.org"), "one more", now)
		if n := f.kept(); n != maxPending || f.Stats().Dropped != 1 {
			t.Error(n, f.Stats().Dropped)
		}
	})
}

func FuzzPending(f *testing.F) {
	f.Add("a@x.org\n1700000000\nopenpgp:token\n")
	f.Add("a@[192.0.2.1]\n1700000000.25\nt")
	f.Add("\n\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		who, first, token, err := parse(text)
		if err != nil {
			return
		}
		again, at, same, err := parse(format(who, first, token))
		if err != nil || again != who || same != token || !at.Equal(first) {
			t.Errorf("%q: %v %v %v %v", text, again, at, same, err)
		}
	})
}

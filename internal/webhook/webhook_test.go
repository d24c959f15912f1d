package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/settings"
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

// service is where events go.
type service struct {
	mu      sync.Mutex // guards the fields below
	answers []int      // of the next requests; then 200
	down    int        // so many requests fail before an answer
	bodies  []string
	at      []time.Time
	fields  http.Header
	hold    chan struct{} // when not nil, requests wait for it
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.bodies, s.at, s.fields = append(s.bodies, string(body)), append(s.at, time.Now()), r.Header
	code, hold := 200, s.hold
	down := s.down > 0
	if down {
		s.down--
	} else if len(s.answers) > 0 {
		code, s.answers = s.answers[0], s.answers[1:]
	}
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if down {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Location": {"https://elsewhere.example/"}}, Body: http.NoBody}, nil
}

func (s *service) seen() (bodies []string, at []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...), append([]time.Time(nil), s.at...)
}

func run(t *testing.T, w settings.Webhooks, s *service, f func(n *Notifier)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n, err := New(Options{Config: func() settings.Webhooks { return w }, Transport: s})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		f(n)
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

var all = settings.Webhooks{Enabled: true, URL: "https://hooks.example/x", Secret: "quiet", UserRegistered: true, QuotaExceeded: true, Timeout: 5, Retries: 2}

// TestEventsAreSignedAndSaidOnce: http.md 2.7, thread #74.
func TestEventsAreSignedAndSaidOnce(t *testing.T) {
	s := &service{}
	run(t, all, s, func(n *Notifier) {
		who := addr(t, "somebody@example.org")
		n.Registered(who, JIT, true)
		synctest.Wait()
		bodies, at := s.seen()
		var m map[string]any
		if len(bodies) != 1 || json.Unmarshal([]byte(bodies[0]), &m) != nil {
			t.Fatalf("%q", bodies)
		}
		for k, v := range map[string]any{"event": "user.registered", "timestamp": float64(at[0].Unix()), "username": "somebody@example.org", "source": "jit", "registration_token_used": true} {
			if m[k] != v {
				t.Errorf("%s is %v, want %v", k, m[k], v)
			}
		}
		mac := hmac.New(sha256.New, []byte("quiet"))
		mac.Write([]byte(bodies[0]))
		if got := s.fields.Get("X-Madmail-Signature"); got != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
			t.Error("signature", got)
		}
		// A full account is told of once in an hour.
		for range 5 {
			n.QuotaExceeded(who, 90, 100, 20, "mxdeliv")
		}
		synctest.Wait()
		time.Sleep(quotaRest)
		n.QuotaExceeded(who, 91, 100, 20, "imap.append")
		synctest.Wait()
		bodies, _ = s.seen()
		if len(bodies) != 3 || !strings.Contains(bodies[1], `"used_bytes":90,"max_bytes":100,"incoming_bytes":20,"path":"mxdeliv"`) || !strings.Contains(bodies[2], "imap.append") {
			t.Errorf("%q", bodies)
		}
		if got := n.Stats(); got != (Stats{Delivered: 3}) {
			t.Errorf("%+v", got)
		}
	})
}

// TestNobodyIsToldUnlessTheOperatorSaysSo: off, or without the event.
func TestNobodyIsToldUnlessTheOperatorSaysSo(t *testing.T) {
	fresh, err := settings.ParseWebhooks("")
	if err != nil {
		t.Fatal(err)
	}
	off, none := all, all
	off.Enabled = false
	none.UserRegistered, none.QuotaExceeded = false, false
	for _, w := range []settings.Webhooks{fresh, off, none} {
		s := &service{}
		run(t, w, s, func(n *Notifier) {
			n.Registered(addr(t, "a@example.org"), Web, false)
			n.QuotaExceeded(addr(t, "a@example.org"), 1, 1, 1, "websmtp")
			synctest.Wait()
			if bodies, _ := s.seen(); len(bodies) > 0 {
				t.Errorf("%+v: %q", w, bodies)
			}
		})
	}
}

// TestTriesAgainOnlyWhereThatCanHelp: after 1 and 2 s, on failures of the network, 429 and
// 5xx; a redirect is not followed.
func TestTriesAgainOnlyWhereThatCanHelp(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []int
		down    int
		tries   int
		want    Stats
	}{
		{"arrives at last", []int{503, 429}, 0, 3, Stats{Delivered: 1}},
		{"network", nil, 2, 3, Stats{Delivered: 1}},
		{"given up", []int{500, 500, 500}, 0, 3, Stats{Failures: 1, Failed: 1}},
		{"refused", []int{400}, 0, 1, Stats{Failures: 1, Failed: 1}},
		{"redirect", []int{302}, 0, 1, Stats{Failures: 1, Failed: 1}},
	} {
		s := &service{answers: c.answers, down: c.down}
		run(t, all, s, func(n *Notifier) {
			n.Registered(addr(t, "a@example.org"), Admin, false)
			time.Sleep(time.Minute)
			synctest.Wait()
			bodies, at := s.seen()
			if len(bodies) != c.tries || n.Stats() != c.want {
				t.Errorf("%s: %d tries, %+v", c.name, len(bodies), n.Stats())
			}
			if len(at) == 3 && (at[1].Sub(at[0]) != time.Second || at[2].Sub(at[1]) != 2*time.Second) {
				t.Errorf("%s: %v", c.name, at)
			}
		})
	}
}

// TestTheQueueHasABound: what does not fit is dropped and counted, and nobody waits.
func TestTheQueueHasABound(t *testing.T) {
	s := &service{}
	w := all
	w.Timeout, w.Retries = 30, 0
	run(t, w, s, func(n *Notifier) {
		s.hold = make(chan struct{})
		n.Registered(addr(t, "a@example.org"), Web, false)
		synctest.Wait() // it is under way
		for range maxJobs + 10 {
			n.Registered(addr(t, "a@example.org"), Web, false)
		}
		if got := n.Stats(); got.Dropped != 10 {
			t.Errorf("%+v", got)
		}
		close(s.hold)
		synctest.Wait()
		if got := n.Stats(); got.Delivered != maxJobs+1 {
			t.Errorf("%+v", got)
		}
	})
	// A service that never answers is left at the end of the time, and Stop does not wait for it.
	s = &service{}
	w.Timeout = 3
	run(t, w, s, func(n *Notifier) {
		s.hold = make(chan struct{})
		begun := time.Now()
		if err := n.Test(context.Background()); !fault.Is(err, fault.Busy) || time.Since(begun) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		n.Registered(addr(t, "a@example.org"), Web, false)
		synctest.Wait()
	})
}

// TestPlainHTTPStaysOnThisMachine, whatever a name resolves to.
func TestPlainHTTPStaysOnThisMachine(t *testing.T) {
	if err := onlyLoopback("tcp", "127.0.0.1:80", nil); err != nil {
		t.Error(err)
	}
	for _, a := range []string{"192.0.2.1:80", "[2001:db8::1]:80", "localhost:80"} {
		if err := onlyLoopback("tcp", a, nil); !fault.Is(err, fault.Refused) {
			t.Error(a, err)
		}
	}
	for url, good := range map[string]bool{
		"https://hooks.example/x": true, "http://127.0.0.1:8/x": true, "http://[::1]/": true, "http://localhost/": true,
		"http://hooks.example/": false, "ftp://hooks.example/": false, "https://user:pass@hooks.example/": false, "https:///x": false, "hooks.example": false, "https://h/#x": false,
	} {
		w := all
		w.URL = url
		text, err := w.Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := settings.ParseWebhooks(text); (err == nil) != good {
			t.Error(url, err)
		}
	}
}

// TestATestEventGoesOut over a real socket, also while webhooks are off.
func TestATestEventGoesOut(t *testing.T) {
	got := make(chan string, 1)
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.Method + " " + r.Header.Get("Content-Type") + " " + string(b)
	}))
	defer web.Close()
	w := settings.Webhooks{URL: web.URL, Timeout: 5}
	n, err := New(Options{Config: func() settings.Webhooks { return w }})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Test(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := <-got; !strings.HasPrefix(text, `POST application/json {"event":"webhook.test","timestamp":`) {
		t.Error(text)
	}
	n.opt.Transport.(ways).plain.(*http.Transport).CloseIdleConnections()
	w.URL = ""
	if err := n.Test(t.Context()); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

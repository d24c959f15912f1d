package mxdeliv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"madmail/internal/address"
	"madmail/internal/delivery"
	"madmail/internal/fault"
)

// intake keeps what it is given.
type intake struct {
	err error

	mu   sync.Mutex // guards the fields below, while requests are under way
	env  *delivery.Envelope
	text string
}

func (i *intake) Accept(_ context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return delivery.Result{}, err
	}
	i.mu.Lock()
	i.env, i.text = e, string(b)
	i.mu.Unlock()
	if i.err == nil && !slices.ContainsFunc(e.To, func(a address.Addr) bool { return a.Local() != "nobody" }) {
		return delivery.Result{}, fault.New(fault.NotFound, "No such user here")
	}
	return delivery.Result{Local: len(e.To)}, i.err
}

const limit = 1000

func door(t testing.TB, i *intake, change func(*Options)) *Handler {
	t.Helper()
	o := Options{
		Intake:  i,
		Known:   func(a address.Addr) bool { return a.Local() != "nobody" },
		Local:   func(d address.Domain) bool { return d == "here.example" || d == "[192.0.2.1]" },
		Takes:   func(address.Domain) error { return nil },
		MaxSize: func() int64 { return limit },
		Plain:   func(address.Domain) bool { return true },
	}
	if change != nil {
		change(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// post sends a message and returns the answer.
func post(h http.Handler, body string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/mxdeliv", strings.NewReader(body))
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	const from, to = "X-Mail-From", "X-Mail-To"
	many := []string{from, "a@there.example"}
	for i := range MaxRecipients + 1 {
		many = append(many, to, fmt.Sprintf("u%d@here.example", i))
	}
	for _, c := range []struct {
		name   string
		err    error
		change func(*Options)
		body   string
		fields []string
		status int
		text   string
		to     string // whom the intake got it for; "" says that it was not asked
	}{
		{"stored", nil, nil, "x", []string{from, "a@there.example", to, "b@here.example"}, 200, "OK", "b@here.example"},
		{"names of fields in another case", nil, nil, "x", []string{"x-mail-from", "a@there.example", "X-MAIL-TO", "b@here.example"}, 200, "OK", "b@here.example"},
		{"null sender by absence", nil, nil, "x", []string{to, "b@here.example"}, 200, "OK", "b@here.example"},
		{"null sender", nil, nil, "x", []string{from, "<>", to, "<b@here.example>"}, 200, "OK", "b@here.example"},
		{"three, one unknown", nil, nil, "x", []string{from, "a@there.example", to, "b@here.example", to, "nobody@here.example", to, "c@here.example"}, 200, "OK", "b@here.example nobody@here.example c@here.example"},
		{"a list", nil, nil, "x", []string{from, "a@there.example", to, `b@here.example, c@here.example`}, 200, "OK", "b@here.example c@here.example"},
		{"a comma in quotes", nil, nil, "x", []string{from, "a@there.example", to, `"b,c"@elsewhere.example,d@here.example`}, 200, "OK", "d@here.example"},
		{"twice the same", nil, nil, "x", []string{from, "a@there.example", to, "B@Here.Example", to, "b@here.example"}, 200, "OK", "b@here.example"},
		{"a literal without brackets", nil, nil, "x", []string{from, "a@there.example", to, "b@192.0.2.1"}, 200, "OK", "b@[192.0.2.1]"},
		{"nobody named", nil, nil, "x", []string{from, "a@there.example"}, 400, "bad request", ""},
		{"too many", nil, nil, "x", many, 400, "bad request", ""},
		{"a sender that is none", nil, nil, "x", []string{from, "nonsense", to, "b@here.example"}, 400, "bad request", ""},
		{"unknown", nil, nil, "clear text", []string{from, "a@there.example", to, "nobody@here.example"}, 200, "OK", "nobody@here.example"},
		{"unknown, clear text", fault.New(fault.Unencrypted, "Encryption Needed"), nil, "x", []string{to, "nobody@here.example"}, 200, "OK", "nobody@here.example"},
		{"unknown, unsigned", fault.New(fault.Refused, "No DKIM signature found"), nil, "x", []string{to, "nobody@here.example"}, 200, "OK", "nobody@here.example"},
		{"unknown, not a message", fault.New(fault.Invalid, "Malformed header"), nil, "x", []string{to, "nobody@here.example"}, 200, "OK", "nobody@here.example"},
		{"unknown, full disk", fault.New(fault.Busy, "full disk"), nil, "x", []string{to, "nobody@here.example"}, 503, "try again later", "nobody@here.example"},
		{"unknown, policy", nil, func(o *Options) { o.Takes = func(address.Domain) error { return fault.New(fault.Refused, "no") } }, "x", []string{to, "nobody@here.example"}, 200, "OK", "nobody@here.example"},
		{"elsewhere", nil, nil, "x", []string{from, "a@there.example", to, "b@elsewhere.example"}, 200, "OK", ""},
		{"not an address", nil, nil, "x", []string{from, "a@there.example", to, "b"}, 200, "OK", ""},
		{"a long address", nil, nil, "x", []string{from, "a@there.example", to, strings.Repeat("b", 400) + "@here.example"}, 200, "OK", ""},
		{"reserved", nil, nil, "x", []string{from, "a@there.example", to, "Postmaster@here.example"}, 200, "OK", ""},
		{"from an administrator", nil, nil, "x", []string{from, "admin@there.example", to, "b@here.example"}, 200, "OK", ""},
		{"unknown, and too large", nil, nil, strings.Repeat("x", limit+1), []string{to, "nobody@here.example"}, 413, "message too large", ""},
		{"policy", nil, func(o *Options) {
			o.Takes = func(d address.Domain) error {
				if d == "there.example" {
					return fault.New(fault.Refused, "no")
				}
				return nil
			}
		}, "x", []string{from, "a@there.example", to, "b@here.example"}, 403, "Forbidden", ""},
		{"without TLS", nil, func(o *Options) { o.Plain = func(d address.Domain) bool { return d != "there.example" } }, "x", []string{from, "a@there.example", to, "b@here.example"}, 403, "HTTPS required", ""},
		{"nobody has room", fault.New(fault.Full, "full"), nil, "x", []string{to, "b@here.example"}, 507, "quota", "b@here.example"},
		{"gone since", fault.New(fault.NotFound, "No such user"), nil, "x", []string{to, "b@here.example"}, 200, "OK", "b@here.example"},
		{"clear text", fault.New(fault.Unencrypted, "Encryption Needed: Invalid Unencrypted Mail"), nil, "x", []string{to, "b@here.example"}, 403, "Encryption Needed: Invalid Unencrypted Mail", "b@here.example"},
		{"not a message", fault.New(fault.Invalid, "Malformed header"), nil, "x", []string{to, "b@here.example"}, 400, "bad request", "b@here.example"},
		{"unsigned", fault.New(fault.Refused, "No DKIM signature found"), nil, "x", []string{to, "b@here.example"}, 400, "554 5.7.1 No DKIM signature found", "b@here.example"},
		{"too large for the intake", fault.New(fault.TooBig, "big"), nil, "x", []string{to, "b@here.example"}, 413, "message too large", "b@here.example"},
		{"full disk", fault.New(fault.Busy, "full disk"), nil, "x", []string{to, "b@here.example"}, 503, "try again later", "b@here.example"},
		{"a fault", errors.New("secret path"), nil, "x", []string{to, "b@here.example"}, 500, "error", "b@here.example"},
	} {
		i := &intake{err: c.err}
		w := post(door(t, i, c.change), c.body, c.fields...)
		got := ""
		if i.env != nil {
			for _, a := range i.env.To {
				got += " " + a.Wire()
			}
			got = got[1:]
		}
		if w.Code != c.status || w.Body.String() != c.text || got != c.to {
			t.Errorf("%s: %d %q for %q, want %d %q for %q", c.name, w.Code, w.Body, got, c.status, c.text, c.to)
		}
		if retry := w.Header().Get("Retry-After"); (retry != "") != (c.status == 503) {
			t.Errorf("%s: Retry-After: %q", c.name, retry)
		}
	}
}

func TestMethods(t *testing.T) {
	h := door(t, &intake{}, nil)
	for _, m := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(m, "/mxdeliv", nil))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" || w.Body.Len() != 0 {
			t.Error(m, w.Code, w.Header())
		}
	}
}

// The size is announced by some servers and not by others.
func TestSizeLimit(t *testing.T) {
	i := &intake{}
	h := door(t, i, nil)
	r := httptest.NewRequest(http.MethodPost, "/mxdeliv", iotest.ErrReader(errors.New("was read")))
	r.ContentLength = limit + 1
	r.Header.Set("X-Mail-To", "b@here.example")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Error(w.Code, w.Body)
	}
}

// A connection that is lost in the middle stores nothing, and whoever hears the answer
// comes again: at any 4xx releases of the second version drop the message.
func TestCutOff(t *testing.T) {
	i := &intake{}
	h := door(t, i, nil)
	r := httptest.NewRequest(http.MethodPost, "/mxdeliv", io.MultiReader(strings.NewReader("From: a"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	r.Header.Set("X-Mail-To", "b@here.example")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || i.env != nil {
		t.Error(w.Code, w.Body, i.env)
	}
}

func TestTooSlow(t *testing.T) {
	now := time.Unix(0, 0)
	p := &paced{r: iotest.OneByteReader(neverending{}), control: http.NewResponseController(httptest.NewRecorder()), now: func() time.Time { now = now.Add(time.Second); return now }, since: now}
	n, err := io.Copy(io.Discard, p)
	if !errors.Is(err, errCut) || n > 60 {
		t.Error(n, err)
	}
}

// storing is an intake that needs between 1 and 5 ms for somebody.
type storing struct{ intake }

func (s *storing) Accept(ctx context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error) {
	res, err := s.intake.Accept(ctx, e, r)
	if err == nil {
		time.Sleep(time.Millisecond + rand.N(4*time.Millisecond))
	}
	return res, err
}

// TestTheWaitDoesNotTellWhoExists compares how long answers take for somebody and for
// nobody, in a time of its own: nothing but what the handler does is in it.
func TestTheWaitDoesNotTellWhoExists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &storing{}
		h := door(t, &in.intake, func(o *Options) { o.Intake = in })
		h.waits.sleep = time.Sleep
		const n = burst / 2 // what one peer may bring at once
		var sum, squares [2]float64
		for range n {
			for k, to := range []string{"b@here.example", "nobody@here.example"} {
				start := time.Now()
				if w := post(h, "a message", "X-Mail-From", "a@there.example", "X-Mail-To", to); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != "OK" {
					t.Fatal(to, w.Code, w.Body)
				}
				ms := time.Since(start).Seconds() * 1000
				sum[k] += ms
				squares[k] += ms * ms
			}
		}
		var mean, deviation [2]float64
		for k := range 2 {
			mean[k] = sum[k] / n
			deviation[k] = math.Sqrt(squares[k]/n - mean[k]*mean[k])
		}
		// The difference of two such means deviates by 0.05 ms from none.
		if math.Abs(mean[0]-mean[1]) > 0.4 || math.Abs(deviation[0]-deviation[1]) > 0.4 || mean[0] < 2 {
			t.Errorf("%.3f ms for somebody, %.3f ms for nobody, deviations %.3f and %.3f", mean[0], mean[1], deviation[0], deviation[1])
		}
	})
}

// TestNobodyTakesAsLongAsSomebody.
func TestNobodyTakesAsLongAsSomebody(t *testing.T) {
	var w waits
	if got := w.pick(1000); got != 0 {
		t.Error("before anything was stored:", got)
	}
	for i := range 1000 {
		w.saw(1000, time.Duration(i)*time.Microsecond)
		w.saw(1<<20, time.Second)
		w.saw(1<<40, time.Hour)
	}
	var sum time.Duration
	for range 1000 {
		got := w.pick(1100)
		if got < (1000-maxSeen)*time.Microsecond || got >= time.Millisecond {
			t.Fatal("not one of the latest:", got)
		}
		sum += got
	}
	if mean := sum / 1000; mean < (1000-maxSeen*2/3)*time.Microsecond || mean > (1000-maxSeen/3)*time.Microsecond {
		t.Error("the mean is", mean)
	}
	if got := w.pick(10 << 20); got != time.Second {
		t.Error("a size that was never seen takes", got)
	}
	if got := w.pick(1 << 50); got != maxWait {
		t.Error("the longest wait is", got)
	}
	read := time.Now()
	w.wait(t.Context(), 1000, read)
	if took := time.Since(read); took < (1000-maxSeen)*time.Microsecond {
		t.Error("waited", took)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	w.wait(ended, 1<<50, time.Now())
}

type neverending struct{}

func (neverending) Read(p []byte) (int, error) { return len(p), nil }

func TestOnePeerCannotTakeAll(t *testing.T) {
	now := time.Unix(1000, 0)
	h := door(t, &intake{}, func(o *Options) { o.Now = func() time.Time { return now } })
	refused := 0
	for range burst + 100 {
		if w := post(h, "x", "X-Mail-To", "b@here.example"); w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") != "" {
			refused++
		}
	}
	if refused != 100 {
		t.Error("refused:", refused)
	}
	r := httptest.NewRequest(http.MethodPost, "/mxdeliv", strings.NewReader("x"))
	r.RemoteAddr = "198.51.100.9:1"
	r.Header.Set("X-Mail-To", "b@here.example")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusOK {
		t.Error("another peer:", w.Code)
	}
	now = now.Add(time.Second)
	if w := post(h, "x", "X-Mail-To", "b@here.example"); w.Code != http.StatusOK {
		t.Error("a second later:", w.Code)
	}
}

// Requests that do not end take room from nobody but their own network.
func TestSlowRequestsOfOnePeer(t *testing.T) {
	h := door(t, &intake{}, nil)
	var wg sync.WaitGroup
	pr, pw := io.Pipe()
	begun := make(chan struct{}, perPeer)
	for range perPeer {
		wg.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/mxdeliv", &announced{Reader: pr, begun: begun})
			r.Header.Set("X-Mail-To", "b@here.example")
			h.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	for range perPeer {
		<-begun
	}
	if w := post(h, "x", "X-Mail-To", "b@here.example"); w.Code != http.StatusServiceUnavailable {
		t.Error("one more of the same network:", w.Code)
	}
	r := httptest.NewRequest(http.MethodPost, "/mxdeliv", strings.NewReader("x"))
	r.RemoteAddr = "198.51.100.9:1"
	r.Header.Set("X-Mail-To", "b@here.example")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != http.StatusOK {
		t.Error("another network:", w.Code)
	}
	pw.Close()
	wg.Wait()
	if w := post(h, "x", "X-Mail-To", "b@here.example"); w.Code != http.StatusOK {
		t.Error("when they have ended:", w.Code)
	}
}

// announced tells when it is read first.
type announced struct {
	io.Reader
	begun chan<- struct{}
	once  sync.Once
}

func (a *announced) Read(p []byte) (int, error) {
	a.once.Do(func() { a.begun <- struct{}{} })
	return a.Reader.Read(p)
}

func FuzzEnvelope(f *testing.F) {
	f.Add("a@there.example", "b@here.example,\"c,d\"@here.example")
	f.Add("<>", "<b@here.example>")
	f.Add("", "\"\\")
	h := door(f, &intake{}, nil)
	f.Fuzz(func(t *testing.T, from, to string) {
		r := httptest.NewRequest(http.MethodPost, "/mxdeliv", nil)
		r.Header["X-Mail-From"], r.Header["X-Mail-To"] = []string{from}, []string{to, to}
		e, known, bad := h.envelope(r)
		if bad != nil {
			return
		}
		if known && len(e.To) == 0 {
			t.Error("nobody is known")
		}
		for i, a := range e.To {
			if !h.opt.Local(a.Domain()) || slices.Contains(e.To[:i], a) {
				t.Error(e.To)
			}
		}
	})
}

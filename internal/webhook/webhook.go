// Package webhook tells a service of the operator's what happens to accounts: that one
// was made, that one is full. Nobody is told anything unless the operator names a URL
// and the events.
//
// An event is a JSON object, sent by POST and signed when there is a secret. It waits in
// memory, in a queue with a bound, and is tried again after 1, 2, 4 seconds and so on;
// what does not fit, and what is left when the server stops, is dropped and counted.
// Redirects are not followed, and plain HTTP goes to this machine only, whatever its
// names resolve to.
//
// All methods may be called from many goroutines, and none but Test and Stop waits.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/settings"
	"madmail/internal/task"
	"madmail/internal/version"
)

// Bounds.
const (
	maxJobs   = 256
	quotaRest = time.Hour // between two events of one full account
	maxFull   = 10_000    // accounts whose last event is remembered
	maxAnswer = 4 << 10   // octets of an answer that are read, to use the connection again
)

// Source says who made an account.
type Source string

// The sources.
const (
	JIT   Source = "jit"   // a first login
	Web   Source = "web"   // the page for new accounts
	Admin Source = "admin" // the operator
)

// Options configure a Notifier. Config must be set.
type Options struct {
	// Config is asked at each event and at each try.
	Config func() settings.Webhooks
	// Transport carries the requests; nil makes one with the rules of the package.
	Transport http.RoundTripper
	Logger    *slog.Logger
	Now       func() time.Time
}

// Stats are counts since the start, and the present state.
type Stats struct {
	Delivered int64 // events
	Failures  int64 // events in a row that did not arrive
	Failed    int64 // events that did not arrive, in all
	Dropped   int64 // events that were not tried
}

// job is an event on its way.
type job struct {
	event string
	body  []byte
}

// Notifier tells. Make one with New, then Start it.
type Notifier struct {
	opt   Options
	jobs  chan job
	group task.Group

	delivered, failures, failed, dropped atomic.Int64

	mu      sync.Mutex // guards the fields below
	cancel  context.CancelFunc
	running bool
	full    map[address.Addr]time.Time // when an account's last quota event was made
}

// New checks o.
func New(o Options) (*Notifier, error) {
	if o.Config == nil {
		return nil, errors.New("webhook: no configuration")
	}
	if o.Transport == nil {
		o.Transport = ways{byTLS: transport(nil), plain: transport(onlyLoopback)}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Notifier{opt: o, jobs: make(chan job, maxJobs), full: make(map[address.Addr]time.Time)}, nil
}

// ways picks the transport by scheme.
type ways struct{ byTLS, plain http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (w ways) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return w.byTLS.RoundTrip(r)
	}
	return w.plain.RoundTrip(r)
}

func transport(control func(network, addr string, c syscall.RawConn) error) http.RoundTripper {
	d := &net.Dialer{Timeout: 10 * time.Second, Control: control}
	return &http.Transport{DialContext: d.DialContext, ForceAttemptHTTP2: true, MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10}
}

// onlyLoopback refuses to connect elsewhere: what a name of this machine leads to is for
// its resolver to say.
func onlyLoopback(_, addr string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().Unmap().IsLoopback() {
		return fault.New(fault.Refused, "plain HTTP goes to this machine only")
	}
	return nil
}

// Start begins to deliver, until Stop.
func (n *Notifier) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	n.mu.Lock()
	n.cancel, n.running = cancel, true
	n.mu.Unlock()
	n.group.Go("webhooks", func() {
		for {
			select {
			case <-ctx.Done():
				return
			case j := <-n.jobs:
				n.deliver(ctx, j)
			}
		}
	})
	return nil
}

// Stop ends what is under way and drops what waits.
func (n *Notifier) Stop(ctx context.Context) error {
	n.mu.Lock()
	cancel := n.cancel
	n.running = false
	n.mu.Unlock()
	if cancel == nil {
		return nil
	}
	cancel()
	return n.group.Wait(ctx)
}

// Stats returns the counts.
func (n *Notifier) Stats() Stats {
	return Stats{Delivered: n.delivered.Load(), Failures: n.failures.Load(), Failed: n.failed.Load(), Dropped: n.dropped.Load()}
}

// head is what every event begins with.
type head struct {
	Event string `json:"event"`
	Time  int64  `json:"timestamp"` // unix seconds
}

// Registered tells that an account was made, and whether a registration token paid for it.
func (n *Notifier) Registered(a address.Addr, by Source, token bool) {
	if w := n.opt.Config(); !w.Enabled || !w.UserRegistered {
		return
	}
	const event = "user.registered"
	n.put(event, struct {
		head
		Username string `json:"username"`
		Source   Source `json:"source"`
		Token    bool   `json:"registration_token_used"`
	}{n.head(event), a.Wire(), by, token})
}

// QuotaExceeded tells, at most once in an hour for each account, that a message of
// incoming octets did not fit. path is the door that it came to.
func (n *Notifier) QuotaExceeded(a address.Addr, used, most, incoming int64, path string) {
	if w := n.opt.Config(); !w.Enabled || !w.QuotaExceeded || !n.rested(a) {
		return
	}
	const event = "user.quota_exceeded"
	n.put(event, struct {
		head
		Username string `json:"username"`
		Used     int64  `json:"used_bytes"`
		Max      int64  `json:"max_bytes"`
		Incoming int64  `json:"incoming_bytes"`
		Path     string `json:"path"`
	}{n.head(event), a.Wire(), used, most, incoming, path})
}

// rested reports whether an account had no event for a while, and notes that it has one now.
func (n *Notifier) rested(a address.Addr) bool {
	now := n.opt.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if last, ok := n.full[a]; ok && now.Sub(last) < quotaRest {
		return false
	}
	if len(n.full) >= maxFull {
		for k, last := range n.full {
			if now.Sub(last) >= quotaRest {
				delete(n.full, k)
			}
		}
		if len(n.full) >= maxFull {
			n.dropped.Add(1)
			return false
		}
	}
	n.full[a] = now
	return true
}

func (n *Notifier) head(event string) head { return head{event, n.opt.Now().Unix()} }

// put queues an event, or drops it.
func (n *Notifier) put(event string, v any) {
	body, err := json.Marshal(v)
	n.mu.Lock()
	running := n.running
	n.mu.Unlock()
	if err == nil && running {
		select {
		case n.jobs <- job{event, body}:
			return
		default:
		}
	}
	n.dropped.Add(1)
}

// deliver tries until the event arrives or the tries are used up.
func (n *Notifier) deliver(ctx context.Context, j job) {
	wait := time.Second
	for try := 0; ; try++ {
		w := n.opt.Config()
		if !w.Enabled { // switched off meanwhile: nothing more leaves
			n.dropped.Add(1)
			return
		}
		again, err := n.send(ctx, w, j)
		if err == nil {
			n.delivered.Add(1)
			n.failures.Store(0)
			return
		}
		if !again || try >= w.Retries || ctx.Err() != nil {
			n.failed.Add(1)
			if n.failures.Add(1) == 1 {
				n.opt.Logger.Warn("a webhook did not arrive", "event", j.event, "err", err)
			}
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		wait *= 2
	}
}

// Test sends a trial event, once, also while webhooks are off. The error is of kind
// fault.Invalid when there is no URL, else fault.Busy.
func (n *Notifier) Test(ctx context.Context) error {
	w := n.opt.Config()
	if w.URL == "" {
		return fault.WithHint(fault.New(fault.Invalid, "no webhook URL is set"), "madmail webhooks set url=https://...")
	}
	const event = "webhook.test"
	body, err := json.Marshal(struct {
		head
		Message string `json:"message"`
	}{n.head(event), "This is a test of " + version.Name + "."})
	if err != nil {
		return fault.Wrap(fault.Internal, err, "webhook")
	}
	if _, err = n.send(ctx, w, job{event, body}); err == nil {
		n.delivered.Add(1)
		n.failures.Store(0)
	}
	return err
}

// send tries once. again says whether another try can help.
func (n *Notifier) send(ctx context.Context, w settings.Webhooks, j job) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(w.Timeout)*time.Second)
	defer cancel()
	u, err := url.Parse(w.URL)
	if err != nil {
		return false, fault.New(fault.Busy, "the webhook's URL cannot be read")
	}
	r := (&http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Header: http.Header{
		"Content-Type": {"application/json"}, "User-Agent": {version.Name},
	}, Body: io.NopCloser(bytes.NewReader(j.body)), ContentLength: int64(len(j.body)),
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(j.body)), nil }}).WithContext(ctx)
	if w.Secret != "" {
		mac := hmac.New(sha256.New, []byte(w.Secret))
		mac.Write(j.body)
		r.Header.Set("X-Madmail-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := n.opt.Transport.RoundTrip(r) // and no client: redirects are answers
	if err != nil {
		return !fault.Is(err, fault.Refused), fault.Wrap(fault.Busy, err, "webhook")
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)
	switch code := resp.StatusCode; {
	case code/100 == 2:
		return false, nil
	case code/100 == 3:
		return false, fault.Newf(fault.Busy, "the webhook answered %d: redirects are not followed", code)
	default:
		return code == http.StatusTooManyRequests || code >= 500, fault.Newf(fault.Busy, "the webhook answered %d", code)
	}
}

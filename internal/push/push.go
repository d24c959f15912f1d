// Package push asks a notification service to wake clients for which mail arrived.
//
// What leaves the server is the token that the client left for this purpose, and
// nothing else: no address, no count, no time. Each token is asked for soon after the
// first message, in the order of these, and at most once in ten seconds however many
// follow, also when several accounts share it. A token that the
// service no longer knows is removed. What is not yet done lies as small files in a
// directory and is gone on with after a restart; they are not synced, since a wake-up
// that a power failure takes is made good by the next message.
//
// All methods may be called from many goroutines.
package push

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/task"
)

// Service is where clients of this network are woken.
const Service = "https://notifications.delta.chat/notify"

// Threshold is how many failures in a row let a notifier with mode Auto give up.
const Threshold = 5

// Times and bounds.
const (
	quiet      = 10 * time.Second // between two requests for a token
	firstRetry = 10 * time.Second
	maxRetry   = 15 * time.Minute
	giveUp     = 5 * time.Hour // after the first try
	tryLimit   = 20 * time.Second
	firstPause = 30 * time.Second // of all, when the service fails again and again
	maxPause   = 5 * time.Minute
	maxAfter   = time.Hour // of a Retry-After
	maxPending = 20_000
	maxSharing = 16 // accounts of one token that are remembered
	parallel   = 8
)

// Mode says whether there are notifications.
type Mode uint8

// The modes.
const (
	Off  Mode = iota
	On        // whatever happens
	Auto      // until the service fails Threshold times in a row
)

// Tokens are what clients left.
type Tokens interface {
	// List returns the live tokens of an account, from memory.
	List(address.Addr) []string
	// RemoveToken forgets one that the service does not know.
	RemoveToken(ctx context.Context, a address.Addr, token string) error
}

// Options configure a Notifier. Dir, Tokens and Mode must be set.
type Options struct {
	// Dir holds what is pending.
	Dir    string
	Tokens Tokens
	// Mode is asked at every turn; with Auto that has given up it says Off.
	Mode func() Mode
	// GaveUp is told when Mode is Auto and the service has failed too often.
	GaveUp func(ctx context.Context)
	// URL is the service; "" is Service. Transport carries the requests.
	URL       string
	Transport http.RoundTripper
	Logger    *slog.Logger
	Now       func() time.Time
}

// Stats are counts since the start, and the present state.
type Stats struct {
	Pending  int
	Sent     int64 // that the service took
	Gone     int64 // tokens that it did not know
	Failed   int64 // tries
	Dropped  int64 // that were too old or too many
	Failures int   // in a row
}

// Notifier is the way to the service. Make one with New, then Start it.
type Notifier struct {
	opt    Options
	client http.RoundTripper
	slots  chan struct{}
	poke   chan struct{} // something may be due
	group  task.Group

	sent, gone, failed, dropped atomic.Int64

	mu       sync.Mutex       // guards the fields below
	wakes    map[string]*wake // by token
	begun    uint64           // wakes, so far
	order    order            // by time
	failures int
	pause    time.Time // nothing before, because the service fails
	cancel   context.CancelFunc
	closed   bool
}

// wake is a request that is due, under way, or was made a moment ago.
type wake struct {
	token   string
	who     []address.Addr // whose messages it is for: a client may have several accounts here
	nth     uint64         // of those that begin at the same time
	at      int            // in the order, or -1
	due     time.Time      // of the next try; of being forgotten when done
	first   time.Time      // when the first message came
	tries   int
	running bool
	again   bool // another message came while it was running
	done    bool
	file    string // name in the directory, or ""
}

type order []*wake

func (o order) Len() int { return len(o) }
func (o order) Less(i, j int) bool {
	return cmp.Or(o[i].due.Compare(o[j].due), o[i].first.Compare(o[j].first), cmp.Compare(o[i].nth, o[j].nth)) < 0
}
func (o order) Swap(i, j int) { o[i], o[j] = o[j], o[i]; o[i].at, o[j].at = i, j }
func (o *order) Push(x any)   { w := x.(*wake); w.at = len(*o); *o = append(*o, w) }
func (o *order) Pop() any {
	old := *o
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*o, w.at = old[:len(old)-1], -1
	return w
}

// New reads what is pending and returns a notifier that is not started. A directory
// that cannot be read is an error; a file that makes no sense is removed.
func New(o Options) (*Notifier, error) {
	if o.Dir == "" || o.Tokens == nil || o.Mode == nil {
		return nil, errors.New("push: an option is missing")
	}
	if o.URL == "" {
		o.URL = Service
	}
	if o.GaveUp == nil {
		o.GaveUp = func(context.Context) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	n := &Notifier{opt: o, client: o.Transport, slots: make(chan struct{}, parallel), poke: make(chan struct{}, 1), wakes: make(map[string]*wake)}
	if n.client == nil {
		n.client = &http.Transport{ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 1, MaxConnsPerHost: parallel, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second}
	}
	n.group.Panicked = func(name string, v any, _ []byte) { o.Logger.Error("panic", "in", name) }
	return n, n.read()
}

// Start begins to ask the service.
func (n *Notifier) Start(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cancel != nil || n.closed {
		return errors.New("push: started twice")
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.group.Go("push", func() { n.run(ctx) })
	return nil
}

// Stop breaks off what is under way and waits for it until ctx ends. It may be called
// twice, and before Start.
func (n *Notifier) Stop(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	if n.cancel != nil {
		n.cancel()
	}
	n.mu.Unlock()
	err := n.group.Wait(ctx)
	if t, ok := n.client.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
	return err
}

// Notify wakes the clients of an account soon. It reads memory, writes a file for each
// token that was not pending, and never waits for the service.
func (n *Notifier) Notify(who address.Addr) {
	if n.opt.Mode() == Off {
		return
	}
	now := n.opt.Now()
	for _, token := range n.opt.Tokens.List(who) {
		n.add(who, token, now)
	}
}

func (n *Notifier) add(who address.Addr, token string, now time.Time) {
	n.mu.Lock()
	w := n.wakes[token]
	if w != nil && !slices.Contains(w.who, who) && len(w.who) < maxSharing {
		w.who = append(w.who, who)
	}
	switch {
	case w == nil && len(n.wakes) >= maxPending:
		n.mu.Unlock()
		n.dropped.Add(1)
		return
	case w == nil:
		w = &wake{token: token, who: []address.Addr{who}, due: now, first: now}
		n.pushLocked(w)
	case w.running:
		w.again = true
		n.mu.Unlock()
		return
	case w.done: // asked a moment ago: once more when that is over
		w.done, w.first, w.tries, w.who = false, now, 0, []address.Addr{who}
	default:
		n.mu.Unlock()
		return // pending already
	}
	n.mu.Unlock()
	n.save(w)
	n.wake()
}

// pushLocked begins a wake.
func (n *Notifier) pushLocked(w *wake) {
	n.begun++
	w.nth = n.begun
	n.wakes[w.token] = w
	heap.Push(&n.order, w)
}

// Forget drops what is pending for an account.
func (n *Notifier) Forget(who address.Addr) {
	n.mu.Lock()
	var files []string
	var named []*wake // in their file; somebody else waits, too
	for _, w := range n.wakes {
		i := slices.Index(w.who, who)
		switch {
		case i < 0:
		case len(w.who) == 1:
			files = append(files, n.removeLocked(w))
		default:
			if w.who = slices.Delete(w.who, i, i+1); i == 0 && w.file != "" {
				named = append(named, w)
			}
		}
	}
	n.mu.Unlock()
	n.erase(files...)
	for _, w := range named {
		n.save(w)
	}
}

// Reset begins to count failures anew, and asks again at once.
func (n *Notifier) Reset() {
	n.mu.Lock()
	n.failures, n.pause = 0, time.Time{}
	n.mu.Unlock()
	n.wake()
}

// Stats returns counts and state.
func (n *Notifier) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := Stats{Sent: n.sent.Load(), Gone: n.gone.Load(), Failed: n.failed.Load(), Dropped: n.dropped.Load(), Failures: n.failures}
	for _, w := range n.wakes {
		if !w.done {
			s.Pending++
		}
	}
	return s
}

func (n *Notifier) wake() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

// removeLocked forgets a wake and returns its file.
func (n *Notifier) removeLocked(w *wake) (file string) {
	delete(n.wakes, w.token)
	if w.at >= 0 {
		heap.Remove(&n.order, w.at)
	}
	file, w.file = w.file, ""
	return file
}

// run starts what is due.
func (n *Notifier) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		next := n.turn(ctx)
		timer.Reset(next)
		select {
		case <-ctx.Done():
		case <-n.poke:
		case <-timer.C:
		}
	}
}

// turn starts every request that is due and returns how long nothing else is.
func (n *Notifier) turn(ctx context.Context) time.Duration {
	mode := n.opt.Mode()
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.opt.Now()
	if mode == Off {
		var files []string
		for _, w := range n.wakes {
			files = append(files, n.removeLocked(w))
		}
		n.erase(files...)
	}
	for len(n.order) > 0 {
		w := n.order[0]
		if d := w.due.Sub(now); d > 0 {
			return d
		}
		switch {
		case w.done:
			n.removeLocked(w)
			continue
		case now.Sub(w.first) > giveUp:
			n.dropped.Add(1)
			n.erase(n.removeLocked(w))
			continue
		case now.Before(n.pause):
			return n.pause.Sub(now)
		}
		select {
		case n.slots <- struct{}{}:
		default:
			return time.Minute // a request that ends pokes
		}
		heap.Pop(&n.order)
		w.running = true
		if n.failures >= Threshold {
			// One at a time, until the service is well.
			n.pause = now.Add(tryLimit)
		}
		n.group.Go("push try", func() { n.try(ctx, w) })
	}
	return time.Hour
}

// outcome is what the service said.
type outcome uint8

const (
	taken outcome = iota
	unknown
	failed
)

// try asks the service once.
func (n *Notifier) try(ctx context.Context, w *wake) {
	got, after := n.ask(ctx, w.token)
	defer func() { <-n.slots; n.wake() }()
	if ctx.Err() != nil {
		return // it lies in the directory
	}
	if got == unknown {
		n.mu.Lock()
		who := slices.Clone(w.who)
		n.mu.Unlock()
		for _, who := range who {
			if err := n.opt.Tokens.RemoveToken(ctx, who, w.token); err != nil {
				n.opt.Logger.WarnContext(ctx, "a dead token stays", "err", err)
			}
		}
	}
	var erase string
	gaveUp := false
	n.mu.Lock()
	now := n.opt.Now()
	w.running = false
	switch {
	case n.wakes[w.token] != w: // forgotten meanwhile
	case got == unknown:
		n.gone.Add(1)
		erase = n.removeLocked(w)
	case got == taken:
		n.sent.Add(1)
		w.due = now.Add(quiet)
		if w.again {
			w.first, w.tries, w.again = now, 0, false
		} else {
			w.done = true
			erase, w.file = w.file, ""
		}
		heap.Push(&n.order, w)
	default:
		n.failed.Add(1)
		w.again = false // the next try is for that message, too
		w.due = now.Add(max(min(firstRetry<<min(w.tries, 10), maxRetry), after))
		w.tries++
		heap.Push(&n.order, w)
	}
	if got == failed {
		n.failures++
		if n.failures >= Threshold {
			n.pause = now.Add(max(min(firstPause<<min(n.failures-Threshold, 10), maxPause), after))
			gaveUp = n.failures == Threshold && n.opt.Mode() == Auto
		}
	} else {
		n.failures, n.pause = 0, time.Time{}
	}
	n.mu.Unlock()
	n.erase(erase)
	if gaveUp {
		n.opt.Logger.WarnContext(ctx, "the notification service fails again and again; push is off until somebody switches it on")
		n.opt.GaveUp(ctx)
	}
}

// ask makes one request. after is what the service asks to wait.
func (n *Notifier) ask(ctx context.Context, token string) (got outcome, after time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.opt.URL, strings.NewReader(token))
	if err != nil {
		n.opt.Logger.Error("the notification service's URL cannot be used", "err", err)
		return failed, 0
	}
	r.Header.Set("User-Agent", "") // none of ours
	resp, err := n.client.RoundTrip(r)
	if err != nil {
		n.opt.Logger.DebugContext(ctx, "the notification service was not reached", "err", err)
		return failed, 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch {
	case resp.StatusCode == http.StatusGone:
		return unknown, 0
	case resp.StatusCode/100 == 2:
		return taken, 0
	}
	n.opt.Logger.DebugContext(ctx, "the notification service refused", "status", resp.StatusCode)
	return failed, n.after(resp.Header.Get("Retry-After"))
}

// after reads a Retry-After field (RFC 9110 section 10.2.3).
func (n *Notifier) after(v string) time.Duration {
	if s, err := strconv.Atoi(v); err == nil {
		return time.Duration(min(max(s, 0), int(maxAfter/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(t.Sub(n.opt.Now()), 0), maxAfter)
	}
	return 0
}

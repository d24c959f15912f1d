package outbound

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
	"madmail/internal/task"
)

// Options are what New needs. Queue, Policy, Peers, Resolver, Local, Domain and one of
// HTTP and SMTP must be set.
type Options struct {
	Queue    *queue.Queue
	Policy   *policy.Store
	Peers    *peers.Store
	Resolver Resolver
	HTTP     Transport // for HTTPS, too
	SMTP     Transport
	Trust    Trust   // nil: public authorities only
	Signer   Signer  // nil: nothing is signed
	Bouncer  Bouncer // nil: nobody is told about failures
	// Local says which domains are ours; only their senders are told about failures.
	Local func(address.Domain) bool
	// Hostname is our name, Domain the domain that notifications come from.
	Hostname func() string
	Domain   func() address.Domain
	// Rewrite returns where all mail goes by HTTP, a host or a URL, or "".
	Rewrite func() string
	// Schedule says when messages are tried again.
	Schedule Schedule
	// MaxParallel is how many entries are in flight (16), PerDomain how many of one
	// destination (2).
	MaxParallel, PerDomain int
	Logger                 *slog.Logger
	Now                    func() time.Time
	Random                 func() float64 // in [0, 1)
}

// DefaultParallel is how many entries are in flight when nobody says otherwise.
const DefaultParallel = 16

// Worker empties the queue. Make one with New.
type Worker struct {
	opt    Options
	recall recall
	freed  chan struct{}

	tries task.Group
	loop  task.Group

	mu       sync.Mutex // guards the fields below
	started  bool
	stopped  bool
	cancel   context.CancelFunc // of the loop
	abort    context.CancelFunc // of the tries
	domains  map[address.Domain]*state
	inFlight int
	doubtful int // in flight to destinations that did not answer last time
	unknown  int // and to those never tried
}

// state is what is known about a destination.
type state struct {
	inFlight int
	failures int // in a row, to reach it
	proven   bool
	last     Outcome // why it was not reached
}

// maxDomains bounds the memory of destinations that nothing is in flight to.
const maxDomains = 10_000

// New checks o.
func New(o Options) (*Worker, error) {
	switch {
	case o.Queue == nil:
		return nil, errors.New("outbound: no queue")
	case o.Policy == nil:
		return nil, errors.New("outbound: no policy")
	case o.Peers == nil:
		return nil, errors.New("outbound: no peers")
	case o.Resolver == nil:
		return nil, errors.New("outbound: no resolver")
	case o.HTTP == nil && o.SMTP == nil:
		return nil, errors.New("outbound: no transport")
	case o.Local == nil:
		return nil, errors.New("outbound: no local domains")
	case o.Domain == nil:
		return nil, errors.New("outbound: no domain")
	}
	if o.Hostname == nil {
		o.Hostname = func() string { return o.Domain().Host() }
	}
	if o.Rewrite == nil {
		o.Rewrite = func() string { return "" }
	}
	if o.MaxParallel <= 0 {
		o.MaxParallel = DefaultParallel
	}
	if o.PerDomain <= 0 {
		o.PerDomain = 2
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	o.Schedule = o.Schedule.WithDefaults()
	w := &Worker{opt: o, freed: make(chan struct{}, 1), domains: make(map[address.Domain]*state)}
	panicked := func(name string, v any, stack []byte) {
		o.Logger.Error("outbound: panic", "task", name, "value", v, "stack", string(stack))
	}
	w.tries.Panicked, w.loop.Panicked = panicked, panicked
	return w, nil
}

// Resume finishes the notifications that were interrupted by the end of the last server.
// Called before mailboxes can be changed from outside, none is delivered twice.
func (w *Worker) Resume(ctx context.Context) {
	for _, id := range w.opt.Queue.Noticed() {
		if ctx.Err() != nil {
			return
		}
		e, err := w.opt.Queue.Take(id)
		if err != nil {
			continue // it was set aside
		}
		w.settle(ctx, e, nil)
	}
}

// Start begins to work. It returns at once.
func (w *Worker) Start(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started || w.stopped {
		return fault.New(fault.Invalid, "outbound: started before")
	}
	w.started = true
	var ctx, tries context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	tries, w.abort = context.WithCancel(context.Background())
	w.loop.Go("outbound", func() { w.run(ctx, tries) })
	return nil
}

// leisure is how long a stop waits for tries to end by themselves: most are done in
// less, and a server that does not answer must not hold up a restart.
const leisure = 3 * time.Second

// Stop takes up nothing more and lets what is in flight end for a moment. When that or
// ctx ends before, the connections are broken; what was not delivered stays in the
// queue. It may be called twice, and before Start.
func (w *Worker) Stop(ctx context.Context) error {
	w.mu.Lock()
	w.stopped = true
	started := w.started
	if started {
		w.cancel()
	}
	w.mu.Unlock()
	if !started {
		return nil
	}
	patient, done := context.WithTimeout(ctx, leisure)
	defer done()
	err := errors.Join(w.loop.Wait(patient), w.tries.Wait(patient))
	w.abort()
	if err == nil {
		return nil
	}
	// Broken connections end their tries at once.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if errors.Join(w.loop.Wait(last), w.tries.Wait(last)) == nil {
		return nil
	}
	return fault.Wrap(fault.Busy, err, "outbound: stop")
}

// run takes up what is due.
func (w *Worker) run(ctx, tries context.Context) {
	for ctx.Err() == nil {
		var at time.Time
		for {
			var e *queue.Entry
			if e, at = w.next(); e == nil {
				break
			}
			w.tries.Go("outbound try", func() {
				defer w.release(e.Destination)
				w.try(tries, e)
			})
		}
		var timer <-chan time.Time
		var t *time.Timer
		if !at.IsZero() {
			t = time.NewTimer(max(at.Sub(w.opt.Now()), time.Millisecond))
			timer = t.C
		}
		select {
		case <-ctx.Done():
		case <-w.opt.Queue.Changed():
		case <-w.freed:
		case <-timer:
		}
		if t != nil {
			t.Stop()
		}
	}
}

// next takes up an entry and counts it.
func (w *Worker) next() (*queue.Entry, time.Time) {
	w.mu.Lock()
	full := w.inFlight >= w.opt.MaxParallel
	w.mu.Unlock()
	if full {
		return nil, time.Time{}
	}
	e, at := w.opt.Queue.Next(w.allow)
	if e == nil {
		return nil, at
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stateLocked(e.Destination)
	s.inFlight++
	w.inFlight++
	w.countLocked(s, 1)
	return e, at
}

// allow keeps a destination back that has its share. Those that did not answer last
// time have half of the workers together, and with those never tried three quarters.
func (w *Worker) allow(d address.Domain) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.domains[d]
	switch {
	case s != nil && s.failures > 0:
		return s.inFlight == 0 && w.doubtful < max(1, w.opt.MaxParallel/2)
	case s != nil && s.inFlight >= w.opt.PerDomain:
		return false
	case s == nil || !s.proven:
		return w.doubtful+w.unknown < max(1, w.opt.MaxParallel*3/4)
	}
	return true
}

func (w *Worker) stateLocked(d address.Domain) *state {
	s := w.domains[d]
	if s == nil {
		if len(w.domains) >= maxDomains {
			for k, old := range w.domains { // any that is idle
				if old.inFlight == 0 {
					delete(w.domains, k)
					break
				}
			}
		}
		s = &state{}
		w.domains[d] = s
	}
	return s
}

// countLocked counts a state's entries in flight in or out, n times.
func (w *Worker) countLocked(s *state, n int) {
	switch {
	case s.failures > 0:
		w.doubtful += n
	case !s.proven:
		w.unknown += n
	}
}

func (w *Worker) release(d address.Domain) {
	w.mu.Lock()
	s := w.stateLocked(d)
	w.countLocked(s, -1)
	s.inFlight--
	w.inFlight--
	w.mu.Unlock()
	select {
	case w.freed <- struct{}{}:
	default:
	}
}

// reached notes that a destination answered; what waits for it is due.
func (w *Worker) reached(d address.Domain) {
	w.mu.Lock()
	s := w.stateLocked(d)
	was := s.failures
	w.countLocked(s, -s.inFlight)
	s.failures, s.proven, s.last = 0, true, Outcome{}
	w.countLocked(s, s.inFlight)
	w.mu.Unlock()
	if was > 0 {
		n := w.opt.Queue.Wake(d)
		w.opt.Logger.Info("a server is back", "domain", d, "waiting", n)
	}
}

// notReached notes that a destination did not answer, and leaves it alone for a while.
func (w *Worker) notReached(d address.Domain, o Outcome) {
	w.mu.Lock()
	s := w.stateLocked(d)
	w.countLocked(s, -s.inFlight)
	s.failures++
	s.proven, s.last = false, o
	w.countLocked(s, s.inFlight)
	wait := max(pause(s.failures, w.opt.Random()), min(o.After, time.Hour))
	w.mu.Unlock()
	w.opt.Queue.Hold(d, w.opt.Now().Add(wait))
}

// Alive tells that a server was heard of, as when mail came from it: what waits for it
// because it did not answer is tried now.
func (w *Worker) Alive(d address.Domain) {
	w.mu.Lock()
	s := w.domains[d]
	waits := s != nil && s.failures > 1
	if waits {
		s.failures = 1 // once per pause: it may be heard and not reached
	}
	w.mu.Unlock()
	if waits {
		w.opt.Queue.Wake(d)
	}
}

// Trouble returns the destinations that were not reached last time, and why.
func (w *Worker) Trouble() map[address.Domain]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := make(map[address.Domain]string)
	for d, s := range w.domains {
		if s.failures > 0 {
			m[d] = s.last.Reply
		}
	}
	return m
}

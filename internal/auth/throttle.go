package auth

import (
	"net/netip"
	"sync"
	"time"

	"madmail/internal/address"
)

const (
	firstDelay   = time.Second // of the second refusal in a row; it doubles
	longestDelay = 16 * time.Second
	forgetAfter  = 15 * time.Minute

	maxStates        = 8192 // sources and users with failures, each
	pendingPerUser   = 4    // refusals being delayed, beyond which nothing is compared
	pendingPerRemote = 16
	maxWaiting       = 1024 // attempts that only wait
)

// keys are what failures are counted by: the source, and the user.
type keys struct {
	remote netip.Addr // not valid when there is none
	user   address.Addr
}

// throttle slows failures down. It never delays by itself: it says how long.
type throttle struct {
	now func() time.Time

	mu      sync.Mutex // guards the fields below
	remotes map[netip.Addr]*state
	users   map[address.Addr]*state
	waiting int
}

type state struct {
	failures int
	last     time.Time
	pending  int
}

func newThrottle(now func() time.Time) *throttle {
	if now == nil {
		now = time.Now
	}
	return &throttle{now: now, remotes: make(map[netip.Addr]*state), users: make(map[address.Addr]*state)}
}

func lookup[K comparable](m map[K]*state, k K, now time.Time, room bool) *state {
	st := m[k]
	if st != nil && st.pending == 0 && now.Sub(st.last) > forgetAfter {
		st.failures = 0
	}
	if st != nil || !room {
		return st
	}
	if len(m) >= maxStates {
		makeRoom(m, now)
	}
	st = &state{last: now}
	m[k] = st
	return st
}

// makeRoom drops what is forgotten, else an arbitrary state without pending
// refusals: a new guesser is worth more watching than an old one.
func makeRoom[K comparable](m map[K]*state, now time.Time) {
	looked := 0
	for k, st := range m {
		if st.pending == 0 {
			delete(m, k)
			return
		}
		if looked++; looked > 64 {
			return // pending is bounded elsewhere, so the map is, too
		}
	}
}

// both returns the states that keys name; absent ones are made when room is
// true and nil otherwise.
func (t *throttle) bothLocked(k keys, room bool) (remote, user *state) {
	now := t.now()
	if k.remote.IsValid() {
		remote = lookup(t.remotes, k.remote, now, room)
	}
	if !k.user.IsZero() {
		user = lookup(t.users, k.user, now, room)
	}
	return remote, user
}

func full(st *state, limit int) bool { return st != nil && st.failures > 0 && st.pending >= limit }

// saturated reports whether so many refusals are pending that the next
// attempt would not be compared.
func (t *throttle) saturated(k keys) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	remote, user := t.bothLocked(k, false)
	return full(remote, pendingPerRemote) || full(user, pendingPerUser)
}

// enter takes a pending place, to be given back by leave. It fails when k is
// saturated.
func (t *throttle) enter(k keys) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	remote, user := t.bothLocked(k, true)
	if full(remote, pendingPerRemote) || full(user, pendingPerUser) {
		return false
	}
	for _, st := range []*state{remote, user} {
		if st != nil {
			st.pending++
		}
	}
	return true
}

// leave gives the place back.
func (t *throttle) leave(k keys) {
	t.mu.Lock()
	defer t.mu.Unlock()
	remote, user := t.bothLocked(k, false)
	for _, st := range []*state{remote, user} {
		if st != nil && st.pending > 0 {
			st.pending--
		}
	}
	if remote != nil && *remote == (state{last: remote.last}) {
		delete(t.remotes, k.remote)
	}
	if user != nil && *user == (state{last: user.last}) {
		delete(t.users, k.user)
	}
}

// fail counts a failure of an attempt that entered and says how long its
// refusal is to be delayed: the first not at all.
func (t *throttle) fail(k keys) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	var d time.Duration
	remote, user := t.bothLocked(k, true)
	for _, st := range []*state{remote, user} {
		if st != nil {
			st.failures++
			st.last = t.now()
			d = max(d, delayOf(st.failures))
		}
	}
	return d
}

// wait says how long an attempt that could not enter is to wait, and takes
// one of the places for waiting; without a free one it is refused at once.
func (t *throttle) wait(k keys) (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting >= maxWaiting {
		return 0, false
	}
	t.waiting++
	d := firstDelay
	remote, user := t.bothLocked(k, false)
	for _, st := range []*state{remote, user} {
		if st != nil {
			d = max(d, delayOf(st.failures))
		}
	}
	return d, true
}

// waited gives the place of wait back.
func (t *throttle) waited() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting--
}

// reset forgets the failures of k after a success.
func (t *throttle) reset(k keys) {
	t.mu.Lock()
	defer t.mu.Unlock()
	remote, user := t.bothLocked(k, false)
	if remote != nil {
		if remote.failures = 0; remote.pending == 0 {
			delete(t.remotes, k.remote)
		}
	}
	if user != nil {
		if user.failures = 0; user.pending == 0 {
			delete(t.users, k.user)
		}
	}
}

func delayOf(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	return min(firstDelay<<min(failures-2, 10), longestDelay)
}

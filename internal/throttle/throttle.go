// Package throttle bounds how many messages are in progress and how many begin in a
// time: in all, of one client's address, of one sender's domain, for one recipient's
// domain. It counts what it is told to; who waits or is sent away is the caller's affair.
//
// Its rules are lines as the block files of the first version have them:
//
//	all rate 200 1s
//	ip concurrency 20
//
// All methods may be called from many goroutines.
package throttle

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"madmail/internal/fault"
	"madmail/internal/units"
)

// Scope says what is counted together.
type Scope uint8

// The scopes.
const (
	All         Scope = iota // every message
	IP                       // those of one client's address
	Source                   // those of one sender's domain
	Destination              // those for one recipient's domain
	scopes
)

var names = [scopes]string{"all", "ip", "source", "destination"}

// String returns the word of a rule.
func (s Scope) String() string { return names[s] }

// Rule is one limit.
type Rule struct {
	Scope Scope
	N     int
	// Per is the time in which N messages may begin; 0 is for N messages at a time.
	Per time.Duration
}

// Rules are limits that all have to be kept.
type Rules []Rule

const maxN = 1_000_000

// Parse reads rules with semicolons between them. N may be 0 for a rule that does not
// count; a rate without a time is one of a second. Errors are of kind fault.Invalid.
func Parse(text string) (Rules, error) {
	var list Rules
	for line := range strings.SplitSeq(text, ";") {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		r, err := parse(w)
		if err != nil {
			return nil, err
		}
		if r.N > 0 {
			list = append(list, r)
		}
	}
	return list, nil
}

func parse(w []string) (r Rule, err error) {
	bad := func(what string) (Rule, error) {
		return r, fault.Newf(fault.Invalid, "%q: %s", strings.Join(w, " "), what)
	}
	for r.Scope < scopes && names[r.Scope] != w[0] {
		r.Scope++
	}
	if r.Scope == scopes {
		return bad("limits begin with all, ip, source or destination")
	}
	if len(w) < 3 || len(w) > 4 {
		return bad("a limit has a kind and a number")
	}
	if r.N, err = strconv.Atoi(w[2]); err != nil || r.N < 0 || r.N > maxN {
		return bad("not a number of messages")
	}
	switch {
	case w[1] == "concurrency" && len(w) == 3:
	case w[1] == "rate" && len(w) == 3:
		r.Per = time.Second
	case w[1] == "rate":
		if r.Per, err = units.ParseDuration(w[3]); err != nil || r.Per <= 0 {
			return bad("not a time")
		}
	default:
		return bad("a limit is rate N TIME or concurrency N")
	}
	return r, nil
}

type key struct {
	rule int
	who  string
}

// Throttle keeps rules. Make one with New; a nil one lets everything pass.
type Throttle struct {
	rules Rules

	mu   sync.Mutex // guards the fields below
	now  map[key]int
	next map[key]time.Time // when a rate would be at rest
	// left is closed when a message ends, for those who wait.
	left chan struct{}
}

// maxKeys bounds the table of rates; who is at rest is forgotten first, and at the
// bound strangers are sent away.
const maxKeys = 100_000

// New returns a throttle, or nil when there are no rules.
func New(rules Rules) *Throttle {
	if len(rules) == 0 {
		return nil
	}
	return &Throttle{rules: rules, now: make(map[key]int), next: make(map[key]time.Time), left: make(chan struct{})}
}

// Counts reports whether there are rules of a scope; where there are none, nobody has to
// ask.
func (t *Throttle) Counts(s Scope) bool {
	return t != nil && slices.ContainsFunc(t.rules, func(r Rule) bool { return r.Scope == s })
}

// Wait is Begin for who has until ctx ends. Errors are of kind fault.Busy.
func (t *Throttle) Wait(ctx context.Context, s Scope, who string) (end func(), err error) {
	for {
		end, ok := t.Begin(s, who, time.Now())
		if ok {
			return end, nil
		}
		t.mu.Lock()
		left, pause := t.left, t.pause(s, who, time.Now())
		t.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-left:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fault.Wrap(fault.Busy, ctx.Err(), "throttle: "+s.String())
		}
		timer.Stop()
	}
}

// Full reports whether a rate lets nobody of who begin now.
func (t *Throttle) Full(s Scope, who string, now time.Time) bool {
	if t == nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pause(s, who, now) < noPause
}

// noPause is what pause says where no rate is used up.
const noPause = time.Duration(1<<63 - 1)

// pause is how long a rate lets nobody pass, and longer than anybody waits where it is
// not a rate. The caller holds t.mu.
func (t *Throttle) pause(s Scope, who string, now time.Time) time.Duration {
	pause := noPause
	for i, r := range t.rules {
		if r.Scope != s || r.Per == 0 {
			continue
		}
		room := r.every() * time.Duration(r.N-1)
		if full := t.next[key{i, who}].Sub(now); full > room {
			pause = min(pause, full-room)
		}
	}
	return pause
}

// every is the time from one message to the next of a rate that is used up.
func (r Rule) every() time.Duration { return r.Per / time.Duration(r.N) }

// Begin counts a message of who in a scope. When a limit is reached nothing is counted,
// and ok is false; else end has to be called, once, when the message is no longer in
// progress.
func (t *Throttle) Begin(s Scope, who string, now time.Time) (end func(), ok bool) {
	if t == nil {
		return func() {}, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var busy []key
	rates := make(map[key]time.Time)
	for i, r := range t.rules {
		if r.Scope != s {
			continue
		}
		k := key{i, who}
		if r.Per == 0 {
			if t.now[k] >= r.N {
				return nil, false
			}
			busy = append(busy, k)
			continue
		}
		// A leaky bucket as one time stamp.
		every := r.every()
		at := t.next[k]
		if at.Before(now) {
			at = now
		}
		if at.Sub(now) > every*time.Duration(r.N-1) || !t.room(k, now) {
			return nil, false
		}
		rates[k] = at.Add(every)
	}
	for _, k := range busy {
		t.now[k]++
	}
	for k, at := range rates {
		t.next[k] = at
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, k := range busy {
			if t.now[k]--; t.now[k] <= 0 {
				delete(t.now, k)
			}
		}
		if len(busy) > 0 {
			close(t.left)
			t.left = make(chan struct{})
		}
	}, true
}

// room makes room for one more rate. The caller holds t.mu.
func (t *Throttle) room(k key, now time.Time) bool {
	if _, known := t.next[k]; known || len(t.next) < maxKeys {
		return true
	}
	for o, at := range t.next {
		if at.Before(now) {
			delete(t.next, o)
		}
	}
	return len(t.next) < maxKeys
}

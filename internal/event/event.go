// Package event wakes those who wait for a mailbox to change.
//
// It is level-triggered: a waiter is woken at least once after the last
// change, and learns nothing but that. Wake-ups coalesce and never block, so
// a slow client cannot hold up a delivery, and nothing has to be buffered.
// The package never carries a message and does not know what changed.
//
// A mailbox without a name stands for its account: who waits for it is woken by
// changes of all mailboxes of the account, and by changes of the list of them.
//
// All methods may be called from many goroutines.
package event

import (
	"slices"
	"sync"
	"sync/atomic"

	"madmail/internal/mailbox"
)

// Waker is told that something changed. Wake must return at once: set a flag,
// fill a slot, poke a deadline. It may be called from any goroutine, also once
// more just after the subscription was cancelled.
//
// It reports whether that is news: false when it was told before and has not looked yet.
type Waker interface{ Wake() bool }

// shards spreads locks; a power of two.
const shards = 64

// Bus connects changes with waiters. Make one with New.
type Bus struct {
	shard    [shards]shard
	accounts atomic.Int64 // subscriptions of whole accounts

	woken, merged atomic.Int64
}

// Stats are counts since New.
type Stats struct {
	Woken  int64 // calls of Wake
	Merged int64 // of them, those that were no news
}

// Stats returns the counts.
func (b *Bus) Stats() Stats { return Stats{b.woken.Load(), b.merged.Load()} }

type shard struct {
	mu sync.RWMutex // guards the field below
	m  map[mailbox.Box][]*Subscription
}

// Subscription is one waiter's interest in one mailbox.
type Subscription struct {
	bus    *Bus
	box    mailbox.Box
	waker  Waker
	closed atomic.Bool
}

// New returns an empty bus.
func New() *Bus {
	b := &Bus{}
	for i := range b.shard {
		b.shard[i].m = make(map[mailbox.Box][]*Subscription)
	}
	return b
}

func (b *Bus) of(box mailbox.Box) *shard {
	// FNV-1a over the two strings that name a mailbox.
	h := uint32(2166136261)
	for _, s := range [2]string{box.Account.Local(), box.Name} {
		for i := 0; i < len(s); i++ {
			h = (h ^ uint32(s[i])) * 16777619
		}
	}
	return &b.shard[h%shards]
}

// Subscribe wakes w after each later Publish of box, until Close.
func (b *Bus) Subscribe(box mailbox.Box, w Waker) *Subscription {
	s := &Subscription{bus: b, box: box, waker: w}
	if box.Name == "" {
		b.accounts.Add(1)
	}
	sh := b.of(box)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	// Nearly always one or two: a slice is a fifth of a map.
	sh.m[box] = append(sh.m[box], s)
	return s
}

// Close ends the subscription. It may be called twice.
func (s *Subscription) Close() {
	if s.closed.Swap(true) {
		return
	}
	if s.box.Name == "" {
		s.bus.accounts.Add(-1)
	}
	sh := s.bus.of(s.box)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	all := sh.m[s.box]
	if i := slices.Index(all, s); i >= 0 {
		all = slices.Delete(all, i, i+1)
	}
	if len(all) == 0 {
		delete(sh.m, s.box)
	} else {
		sh.m[s.box] = all
	}
}

// Publish wakes everybody who waits for box, or for its account.
func (b *Bus) Publish(box mailbox.Box) {
	b.publish(box)
	if box.Name != "" && b.accounts.Load() > 0 {
		b.publish(mailbox.Box{Account: box.Account})
	}
}

func (b *Bus) publish(box mailbox.Box) {
	sh := b.of(box)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for _, s := range sh.m[box] {
		b.woken.Add(1)
		if !s.waker.Wake() {
			b.merged.Add(1)
		}
	}
}

// Package quota counts the bytes that accounts use and reserves room for
// deliveries. It knows numbers in memory; it does not know how bytes are
// stored or why somebody wants them.
//
// The counters are the truth while the server runs. The store's hook adds and
// subtracts the exact size of each stored and removed message; hydration and
// repair set them from the disk.
//
// All methods may be called from many goroutines, and none but Save blocks on disk.
package quota

import (
	"math"
	"sync"
	"sync/atomic"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Unlimited is the limit of an account that has none.
const Unlimited int64 = math.MaxInt64

// Cache holds usage and reservations. Make one with New.
type Cache struct {
	limit   func(address.Addr) int64
	refused atomic.Int64

	saving   sync.Mutex // one Save at a time; above mu
	compared bool       // guarded by saving: all rows were looked at

	mu      sync.Mutex // guards the fields below
	m       map[address.Addr]*entry
	unsaved map[address.Addr]struct{} // changed since the last Save
	suspect map[address.Addr]struct{} // were full since the last Suspects
}

type entry struct {
	used, messages, reserved int64
}

func (e *entry) taken() int64 { return max(0, e.used) + e.reserved }

// New returns an empty cache. limit gives an account's storage limit in bytes;
// it is called often, from many goroutines, and must only read memory.
func New(limit func(address.Addr) int64) *Cache {
	return &Cache{limit: limit, m: make(map[address.Addr]*entry), unsaved: make(map[address.Addr]struct{}), suspect: make(map[address.Addr]struct{})}
}

func (c *Cache) entryLocked(a address.Addr) *entry {
	e := c.m[a]
	if e == nil {
		e = &entry{}
		c.m[a] = e
	}
	return e
}

// Reservation is room set aside until Release.
type Reservation struct {
	c    *Cache
	a    address.Addr
	n    int64
	once sync.Once
}

// Reserve sets n bytes of a's storage aside. The error is of kind fault.Full
// when used, reserved and n together would pass the limit.
//
// The bytes that are stored are counted by the store's hook; so a reservation
// is always released, whether the delivery succeeded or not.
func (c *Cache) Reserve(a address.Addr, n int64) (*Reservation, error) {
	limit := c.limit(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := int64(0)
	if e := c.m[a]; e != nil {
		taken = e.taken()
	}
	if n > limit-taken {
		if taken > 0 {
			c.suspect[a] = struct{}{}
		}
		c.refused.Add(1)
		return nil, fault.New(fault.Full, "Mailbox is full")
	}
	c.entryLocked(a).reserved += n
	return &Reservation{c: c, a: a, n: n}, nil
}

// Release gives the room back. It may be called more than once.
func (r *Reservation) Release() {
	r.once.Do(func() {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		e := r.c.entryLocked(r.a)
		e.reserved -= r.n
		if *e == (entry{}) {
			delete(r.c.m, r.a)
		}
	})
}

// Refused returns how many reservations did not fit.
func (c *Cache) Refused() int64 { return c.refused.Load() }

// HasRoom reports whether n more bytes would fit now. It reserves nothing.
func (c *Cache) HasRoom(a address.Addr, n int64) bool {
	limit := c.limit(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.m[a]
	if e == nil {
		return n <= limit
	}
	return n <= limit-e.taken()
}

// Suspects returns up to n accounts that something did not fit into since they were
// last returned: whoever is full has reason to remove files by hand, and should be
// measured soon.
func (c *Cache) Suspects(n int) (list []address.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.suspect {
		if len(list) == n {
			break
		}
		list = append(list, a)
		delete(c.suspect, a)
	}
	return list
}

// Add counts stored (positive) or removed (negative) bytes and messages. It is
// the store's hook. A removal may be told before what was stored: the sum counts,
// whatever the order, and what is read of it is never below zero.
func (c *Cache) Add(a address.Addr, bytes, messages int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryLocked(a)
	e.used += bytes
	e.messages += messages
	c.unsaved[a] = struct{}{}
	if *e == (entry{}) {
		delete(c.m, a)
	}
}

// Usage returns used bytes, messages and the limit.
func (c *Cache) Usage(a address.Addr) (used, messages, limit int64) {
	limit = c.limit(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.m[a]; e != nil {
		return max(0, e.used), max(0, e.messages), limit
	}
	return 0, 0, limit
}

// Total returns the sum over all accounts.
func (c *Cache) Total() (bytes, messages int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.m {
		bytes += max(0, e.used)
		messages += max(0, e.messages)
	}
	return bytes, messages
}

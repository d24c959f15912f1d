package queue

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Filter picks entries. Its zero value picks all.
type Filter struct {
	Destination address.Domain
	From        address.Addr // sender
	To          address.Addr // one of the recipients
}

func (f Filter) wants(e *Entry) bool {
	return (f.From.IsZero() || e.From == f.From) &&
		(f.To.IsZero() || slices.ContainsFunc(e.To, func(r Recipient) bool { return r.Addr == f.To }))
}

// Info is an entry as an operator sees it.
type Info struct {
	Entry
	Size  int64 // octets of the body
	Taken bool  // it is being delivered
}

// List returns up to limit entries that f picks, after skipping some, the first due
// first, and how many there are in all. The total is exact for filters by destination
// only; else it counts what was looked at. Entries that vanish meanwhile are left out.
func (q *Queue) List(ctx context.Context, f Filter, skip, limit int) (list []Info, total int, err error) {
	ids := q.ids(f.Destination)
	total = len(ids)
	exact := f.From.IsZero() && f.To.IsZero()
	if exact {
		ids = ids[min(skip, len(ids)):]
		skip = 0
	} else {
		total = 0
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return list, total, fault.Wrap(fault.Busy, err, "queue: list")
		}
		if exact && len(list) >= limit {
			break
		}
		i, err := q.Get(id)
		if err != nil || !f.wants(&i.Entry) {
			continue
		}
		if !exact {
			total++
		}
		if skip > 0 {
			skip--
		} else if len(list) < limit {
			list = append(list, i)
		}
	}
	return list, total, nil
}

// ids returns the entries of a destination, all when to is "", by the time they are due.
func (q *Queue) ids(to address.Domain) []ID {
	type due struct {
		id ID
		at int64
	}
	q.mu.Lock()
	all := make([]due, 0, len(q.all))
	for _, r := range q.all {
		if to == "" || r.lane.to == to {
			all = append(all, due{r.id, max(r.due, r.lane.hold)})
		}
	}
	q.mu.Unlock()
	slices.SortFunc(all, func(a, b due) int { return cmp.Compare(a.at, b.at) })
	ids := make([]ID, len(all))
	for i, d := range all {
		ids[i] = d.id
	}
	return ids
}

// Get returns one entry. Errors: fault.NotFound; fault.Busy when it cannot be read.
func (q *Queue) Get(id ID) (Info, error) {
	q.mu.Lock()
	r := q.all[id]
	busy := r != nil && r.pos == taken
	q.mu.Unlock()
	if r == nil {
		return Info{}, fault.New(fault.NotFound, "no such queue entry")
	}
	e, err := q.read(id)
	if err != nil {
		return Info{}, kinded(err, "queue: get")
	}
	i := Info{Entry: *e, Taken: busy}
	b, err := q.Body(id)
	if err != nil {
		return Info{}, err
	}
	i.Size = b.Size()
	return i, b.Close()
}

// Remove takes an entry out of the queue; its sender is not told. One that is being
// delivered goes when that try has ended, whatever its result. The error is of kind
// fault.NotFound, or fault.Busy when the disk fails.
func (q *Queue) Remove(id ID) error {
	q.mu.Lock()
	r := q.all[id]
	if r == nil {
		q.mu.Unlock()
		return fault.New(fault.NotFound, "no such queue entry")
	}
	if r.pos == taken {
		r.drop = true
		q.mu.Unlock()
		return nil
	}
	q.takeLocked(r) // so that nobody takes it up now
	q.mu.Unlock()
	return q.Done(id)
}

// Purge removes the entries that f picks and returns how many.
func (q *Queue) Purge(ctx context.Context, f Filter) (int, error) {
	n := 0
	var errs []error
	for _, id := range q.ids(f.Destination) {
		if err := ctx.Err(); err != nil {
			return n, fault.Wrap(fault.Busy, err, "queue: purge")
		}
		if f.From != (address.Addr{}) || f.To != (address.Addr{}) {
			e, err := q.read(id)
			if err != nil || !f.wants(e) {
				continue
			}
		}
		switch err := q.Remove(id); {
		case err == nil:
			n++
		case !fault.Is(err, fault.NotFound):
			errs = append(errs, err)
		}
	}
	return n, errors.Join(errs...)
}

// Broken is an entry that was set aside.
type Broken struct {
	Name string // of its files, without suffix
	Note string // when and why
}

// Broken returns up to limit entries that were set aside.
func (q *Queue) Broken(limit int) ([]Broken, error) {
	var list []Broken
	err := q.dir.names(func(name string) {
		if base, suffix := split(name); suffix == brokenSuffix && len(list) < limit {
			list = append(list, Broken{Name: base})
		}
	})
	for i := range list {
		if b, err := q.dir.read(list[i].Name+noteSuffix, 4096); err == nil {
			list[i].Note = strings.TrimSpace(string(b))
		}
	}
	return list, kinded(err, "queue: list what was set aside")
}

// Oldest returns when the entry that was accepted first will expire, zero when the
// queue is empty.
func (q *Queue) Oldest() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	var first uint32
	for _, r := range q.all {
		if first == 0 || r.expires < first {
			first = r.expires
		}
	}
	return fromUnix(int64(first))
}

package maildir

import (
	"context"
	"time"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// Add puts messages into a mailbox and removes one, all as one record of the
// journal. See mailbox.Store.
func (s *Store) Add(ctx context.Context, to mailbox.Box, list []mailbox.Arrival, replaced *mailbox.Ref) ([]mailbox.Placed, error) {
	defer s.latency[opAdd].Since(time.Now())
	to, err := clean(to)
	if err != nil {
		return nil, err
	}
	a := &adding{s: s, list: list}
	if replaced != nil {
		a.replaced = *replaced
		if a.replaced.Box, err = clean(replaced.Box); err != nil {
			return nil, err
		}
	}
	done, err := a.prepare(ctx)
	defer done()
	if err != nil || len(list) == 0 && replaced == nil {
		return nil, err
	}
	o := &op{}
	o.plan = func() error { return a.plan(o, to) }
	o.apply = func() { a.apply(o) }
	if err := s.do(ctx, o); err != nil {
		return nil, err
	}
	return a.placed, nil
}

// adding is one Add on its way.
type adding struct {
	s        *Store
	list     []mailbox.Arrival
	bodies   []mailbox.Body // of this store
	replaced mailbox.Ref    // of UID 0: none

	b      *box
	msgs   []placed
	placed []mailbox.Placed
	view   *mailbox.View
	next   mailbox.UID
	mod    mailbox.ModSeq
	rm     *removal
}

// prepare makes sure that all bodies are of this store, and that their record
// is not too large: what does not fit is spooled. done gives back what that took.
func (a *adding) prepare(ctx context.Context) (done func(), err error) {
	var ours []mailbox.Body
	done = func() {
		for _, b := range ours {
			b.Close()
		}
	}
	room := int(a.s.opt.SegmentSize / 4)
	for _, x := range a.list {
		body, _, err := a.s.own(ctx, x.Body)
		if err != nil {
			return done, err
		}
		m, inMemory := body.(*memBody)
		if body != x.Body {
			ours = append(ours, body)
		}
		if inMemory {
			if room -= len(m.data); room < 0 {
				w := &writer{s: a.s, buf: m.data}
				if err := w.spill(); err != nil {
					w.drop()
					return done, trouble(err, "spool a message")
				}
				if body, err = w.Seal(); err != nil {
					return done, err
				}
				ours = append(ours, body)
			}
		}
		a.bodies = append(a.bodies, body)
	}
	return done, nil
}

func (a *adding) plan(o *op, to mailbox.Box) (err error) {
	s := a.s
	if s.full.Load() {
		return fault.WithHint(fault.New(fault.Busy, "Insufficient system storage"), "the last checkpoint failed: the disk is full or broken")
	}
	// Both mailboxes first: reading one may have to flush what is planned. From
	// where something is planned on nothing may fail.
	if a.b, err = s.headed(to); err != nil {
		return err
	}
	var src *box
	if a.replaced.UID != 0 {
		if src, err = s.ready(a.replaced.Box); err != nil {
			return err
		}
		if _, there := src.planned.Index(a.replaced.UID); !there {
			return fault.New(fault.NotFound, "Message does not exist")
		}
	}
	if uint64(a.b.next)+uint64(len(a.list)) > 1<<32-1 {
		return fault.New(fault.Full, "Mailbox has no UIDs left")
	}
	all := &record{kind: recAll}
	if len(a.list) > 0 {
		a.planMessages(all)
		o.holds(a.b)
	}
	if src != nil {
		var r *record
		a.rm, r = takeOut(o, src, mailbox.UIDSet{{First: a.replaced.UID, Last: a.replaced.UID}}, nil)
		all.all = append(all.all, r)
		if src == a.b {
			a.view = nil // both changes become visible with the removal
		}
	}
	s.record(all)
	return nil
}

// planMessages gives the messages their UIDs and writes their records.
func (a *adding) planMessages(all *record) {
	s, b := a.s, a.b
	now := s.opt.Now()
	b.mod++
	var added []mailbox.Message
	for i, x := range a.list {
		internal := x.Internal
		if internal.IsZero() {
			internal = now
		}
		m := mailbox.Message{
			UID: b.next, Size: a.bodies[i].Size(), Internal: internal.Unix(), ModSeq: b.mod, Flags: x.Flags, Keywords: mailbox.Keywords(x.Keywords),
		}
		m = m.Arrived(now.Unix())
		b.next++
		added = append(added, m)
		a.msgs = append(a.msgs, placed{m, baseOf(b.validity, m.UID)})
		a.placed = append(a.placed, mailbox.Placed{UID: m.UID, UIDValidity: b.validity})
	}
	a.next, a.mod = b.next, b.mod
	if b.planned != nil {
		b.planned = b.planned.With(b.next, b.mod, added...)
		a.view = b.planned
	}
	for i := range a.msgs {
		r := &record{kind: recDeliver, boxes: []recBox{{key: b.key, validity: b.validity, next: b.next, mod: b.mod, msgs: a.msgs[i : i+1]}}}
		switch body := a.bodies[i].(type) {
		case *memBody:
			r.body = body.data
		case *fileBody:
			r.spool = body.name
			body.kept.Store(true)
			// The segment may be a later one; the later checkpoint removes it.
			s.spooled[s.j.epoch+1] = append(s.spooled[s.j.epoch+1], body.name)
		}
		all.all = append(all.all, r)
	}
}

func (a *adding) apply(o *op) {
	if len(a.msgs) > 0 {
		a.applyMessages(o)
	}
	a.s.applyRemoval(o, a.rm)
}

func (a *adding) applyMessages(o *op) {
	s, b := a.s, a.b
	var bytes int64
	b.mu.Lock()
	if b.held == nil {
		b.held = make(map[mailbox.UID]held)
	}
	for i, m := range a.msgs {
		src := &source{}
		switch body := a.bodies[i].(type) {
		case *memBody:
			src.data = body.data
		case *fileBody:
			src.spool = body.name
		}
		b.held[m.UID] = held{m, src}
		bytes += m.Size
	}
	s.applied(b, a.next, a.mod)
	if a.view != nil {
		b.show(a.view)
	}
	b.mu.Unlock()
	s.mark(b)
	n := len(a.msgs)
	b.bytes += bytes
	b.count += n
	s.stats.delivered.Add(int64(n))
	s.stats.bytes.Add(bytes)
	o.after = append(o.after, func() {
		s.opt.Used(b.key.Account, bytes, int64(n))
		s.opt.Changed(b.key)
	})
}

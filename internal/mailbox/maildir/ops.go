package maildir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/threads"
)

// clean checks key and gives its name the one spelling.
func clean(key mailbox.Box) (mailbox.Box, error) {
	if key.Account.IsZero() {
		return key, fault.New(fault.Invalid, "no account")
	}
	var err error
	key.Name, err = cleanName(key.Name)
	return key, err
}

// ready returns a mailbox with its messages in memory. Like everything that
// makes or drops boxes it runs in the sequencer.
func (s *Store) ready(key mailbox.Box) (*box, error) { return s.readyFrom(key, nil) }

func (s *Store) readyFrom(key mailbox.Box, ahead *reading) (*box, error) {
	b := s.box(key)
	if b.planned != nil {
		b.used.Store(s.opt.Now().UnixNano())
		return b, nil
	}
	return b, s.orDrop(b, s.loadFrom(b, ahead))
}

// headed returns a mailbox whose next UID is known.
func (s *Store) headed(key mailbox.Box) (*box, error) {
	b := s.box(key)
	return b, s.orDrop(b, s.head(b))
}

// orDrop forgets a mailbox that turned out not to exist, so that asking for
// invented names does not fill the memory.
func (s *Store) orDrop(b *box, err error) error {
	if err != nil && !b.known && b.inflight.Load() == 0 {
		s.forget(b)
	}
	return err
}

// View returns the present state of a mailbox. See mailbox.Store.
func (s *Store) View(ctx context.Context, key mailbox.Box) (*mailbox.View, error) {
	defer s.latency[opView].Since(time.Now())
	key, err := clean(key)
	if err != nil {
		return nil, err
	}
	reload := false
	var v *mailbox.View
	var ahead *reading
	if b := s.lookup(key); b != nil {
		now := s.opt.Now().UnixNano()
		b.used.Store(now)
		if v = b.view.Load(); v != nil {
			if reload = s.touched(b, now); !reload {
				return v, nil
			}
		}
	}
	if v == nil {
		ahead = s.readAhead(key)
	}
	o := &op{}
	o.plan = func() error {
		b, err := s.readyFrom(key, ahead)
		if err == nil && reload {
			err = s.load(b)
		}
		if err != nil {
			return err
		}
		v = b.view.Load()
		return s.remember(o, b)
	}
	if err := s.do(ctx, o); err != nil {
		return nil, err
	}
	return v, nil
}

// remember makes sure that a mailbox whose UIDVALIDITY a client is about to
// learn exists on disk.
func (s *Store) remember(o *op, b *box) error {
	if _, err := os.Stat(b.index()); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.record(&record{kind: recCreate, boxes: []recBox{{key: b.key, validity: b.validity, next: b.next, mod: b.mod}}})
	o.holds(b)
	next, mod := b.next, b.mod
	o.apply = func() {
		b.mu.Lock()
		s.applied(b, next, mod)
		b.mu.Unlock()
		s.mark(b)
	}
	return nil
}

// touched looks, now and then, whether somebody else changed the directories.
func (s *Store) touched(b *box, now int64) bool {
	last := b.checked.Load()
	if now-last < int64(s.opt.RecheckAfter) || b.inflight.Load() > 0 || b.flushing.Load() || !b.checked.CompareAndSwap(last, now) {
		return false
	}
	ours := b.mtimes.Load()
	t, err := dirTimes(b.dir)
	if err != nil {
		return ours != nil && errors.Is(err, fs.ErrNotExist)
	}
	// A change of our own in the meantime shows in one of these.
	return (ours == nil || t != *ours) && b.inflight.Load() == 0 && !b.flushing.Load() && b.mtimes.Load() == ours
}

// Open opens the content of a message. See mailbox.Store.
func (s *Store) Open(ctx context.Context, key mailbox.Box, uid mailbox.UID) (mailbox.Content, error) {
	defer s.latency[opOpen].Since(time.Now())
	v, err := s.View(ctx, key)
	if err != nil {
		return nil, err
	}
	i, ok := v.Index(uid)
	if !ok {
		return nil, fault.New(fault.NotFound, "Message does not exist")
	}
	key, _ = clean(key)
	b := s.lookup(key)
	if b == nil {
		return nil, fault.New(fault.NotFound, "Mailbox does not exist")
	}
	b.mu.Lock()
	h, isHeld := b.held[uid]
	b.mu.Unlock()
	if isHeld && h.spool == "" {
		return &memContent{memBody{h.data}}, nil
	}
	base := b.base(v, uid)
	if isHeld {
		if c, err := openFile(filepath.Join(s.spool, h.spool)); err == nil {
			return c, nil
		}
	}
	m := v.At(i)
	path := b.dir + string(filepath.Separator) + place(base, m.Flags)
	if c := openSmall(path, m.Size); c != nil {
		return c, nil
	}
	c, err := openFile(path)
	for try := 0; errors.Is(err, fs.ErrNotExist) && try < 3; try++ {
		// Its flags changed meanwhile, or another program moved it.
		if path, err = b.search(base); err == nil {
			c, err = openFile(path)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		b.checked.Store(0) // look at the directory next time
		return nil, fault.New(fault.NotFound, "Message does not exist")
	}
	if err != nil {
		return nil, trouble(err, "open a message")
	}
	return c, nil
}

func openFile(path string) (mailbox.Content, error) {
	threads.Enter()
	defer threads.Leave()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &content{File: f, size: st.Size()}, nil
}

// Deliver puts one body into many mailboxes. See mailbox.Store.
func (s *Store) Deliver(ctx context.Context, to []mailbox.Target, body mailbox.Body) ([]mailbox.Placed, error) {
	defer s.latency[opDeliver].Since(time.Now())
	if len(to) == 0 {
		return nil, nil
	}
	body, done, err := s.own(ctx, body)
	if err != nil {
		return nil, err
	}
	defer done()
	d := &delivering{s: s, to: to, body: body, placed: make([]mailbox.Placed, len(to)), boxes: make([]*box, len(to))}
	o := &op{}
	o.plan = func() error { return d.plan(o) }
	o.apply = func() { d.apply(o) }
	if err := s.do(ctx, o); err != nil {
		for i := range d.placed {
			if d.placed[i].Err == nil {
				d.placed[i] = mailbox.Placed{Err: err}
			}
		}
		return d.placed, err
	}
	return d.placed, nil
}

// delivering is one Deliver on its way.
type delivering struct {
	s      *Store
	to     []mailbox.Target
	body   mailbox.Body
	placed []mailbox.Placed
	boxes  []*box // nil where the target failed
	msgs   []placed
	views  []*mailbox.View
	nexts  []mailbox.UID
}

func (d *delivering) plan(o *op) error {
	s := d.s
	if s.full.Load() {
		return fault.WithHint(fault.New(fault.Busy, "Insufficient system storage"), "the last checkpoint failed: the disk is full or broken")
	}
	r := &record{kind: recDeliver}
	d.msgs = make([]placed, len(d.to))
	d.views = make([]*mailbox.View, len(d.to))
	d.nexts = make([]mailbox.UID, len(d.to))
	size := d.body.Size()
	now := s.opt.Now()
	for i, t := range d.to {
		// All heads first: reading one may have to flush what is planned.
		key, err := clean(t.Box)
		if err == nil {
			d.boxes[i], err = s.headed(key)
		}
		if err == nil && d.boxes[i].next == ^mailbox.UID(0) {
			err = fault.New(fault.Full, "Mailbox has no UIDs left")
		}
		if err != nil {
			d.boxes[i], d.placed[i].Err = nil, err
		}
	}
	for i, t := range d.to {
		b := d.boxes[i]
		if b == nil {
			continue
		}
		internal := t.Internal
		if internal.IsZero() {
			internal = now
		}
		m := mailbox.Message{UID: b.next, Size: size, Internal: internal.Unix(), Flags: t.Flags, Keywords: mailbox.Keywords(t.Keywords)}
		m = m.Arrived(now.Unix())
		b.next++
		b.mod++
		m.ModSeq = b.mod
		d.msgs[i] = placed{m, baseOf(b.validity, m.UID)}
		d.nexts[i] = b.next
		d.placed[i] = mailbox.Placed{UID: m.UID, UIDValidity: b.validity}
		r.boxes = append(r.boxes, recBox{key: b.key, validity: b.validity, next: b.next, mod: b.mod, msgs: d.msgs[i : i+1]})
		if b.planned != nil {
			b.planned = b.planned.With(b.next, b.mod, m)
			d.views[i] = b.planned
		}
	}
	if len(r.boxes) == 0 {
		for _, p := range d.placed {
			if fault.KindOf(p.Err) != fault.KindOf(d.placed[0].Err) {
				return nil // each has its own reason
			}
		}
		return d.placed[0].Err
	}
	for _, b := range d.boxes {
		if b != nil {
			o.holds(b)
		}
	}
	switch body := d.body.(type) {
	case *memBody:
		r.body = body.data
	case *fileBody:
		r.spool = body.name
		body.kept.Store(true)
		// The segment may be a later one; the later checkpoint removes it.
		s.spooled[s.j.epoch+1] = append(s.spooled[s.j.epoch+1], body.name)
	}
	s.record(r)
	return nil
}

func (d *delivering) apply(o *op) {
	s := d.s
	src := &source{}
	switch body := d.body.(type) {
	case *memBody:
		src.data = body.data
	case *fileBody:
		src.spool = body.name
	}
	for i, b := range d.boxes {
		if b == nil {
			continue
		}
		m := d.msgs[i]
		b.mu.Lock()
		if b.held == nil {
			b.held = make(map[mailbox.UID]held)
		}
		b.held[m.UID] = held{m, src}
		s.applied(b, d.nexts[i], m.ModSeq)
		if v := d.views[i]; v != nil {
			b.show(v)
		}
		b.mu.Unlock()
		s.mark(b)
		b.bytes += m.Size
		b.count++
		s.stats.delivered.Add(1)
		s.stats.bytes.Add(m.Size)
	}
	o.after = append(o.after, func() {
		for i, b := range d.boxes {
			if b != nil {
				s.opt.Used(b.key.Account, d.msgs[i].Size, 1)
				s.opt.Changed(b.key)
			}
		}
	})
}

// show publishes a view, less what a failed copy planned into it. b.mu is held.
func (b *box) show(v *mailbox.View) {
	if len(b.failed) > 0 {
		v = v.Without(v.HighestMod, b.failed)
	}
	b.view.Store(v)
}

type deliverFailure struct {
	b *box
	m placed
}

// takeBack records that messages which the journal promises were refused after
// all, so that a replay does not bring them. Should this record fail as well,
// a crash makes them duplicates: their senders try again.
func (s *Store) takeBack(list []*deliverFailure) {
	o := &op{}
	o.plan = func() error {
		r := &record{kind: recGone}
		for _, u := range list {
			u.b.mod++
			r.boxes = append(r.boxes, recBox{key: u.b.key, validity: u.b.validity, next: u.b.next, mod: u.b.mod, msgs: []placed{u.m}})
			if u.b.planned != nil {
				u.b.planned = u.b.planned.Without(u.b.mod, []mailbox.UID{u.m.UID})
			}
			o.holds(u.b)
		}
		s.record(r)
		return nil
	}
	o.apply = func() {
		for _, u := range list {
			u.b.failed = nil
		}
	}
	s.self(o)
}

// Change stores flags. See mailbox.Store.
func (s *Store) Change(ctx context.Context, key mailbox.Box, set mailbox.UIDSet, c mailbox.FlagChange) (res mailbox.Changed, err error) {
	defer s.latency[opChange].Since(time.Now())
	key, err = clean(key)
	if err != nil {
		return res, err
	}
	var b *box
	type move struct {
		m   placed
		old mailbox.Flags
	}
	var moves []move
	var view *mailbox.View
	var next mailbox.UID
	o := &op{}
	o.plan = func() (err error) {
		if b, err = s.ready(key); err != nil {
			return err
		}
		var changed []mailbox.Message
		b.planned.Each(set, func(_ int, m mailbox.Message) {
			if (c.IfUnchanged || c.UnchangedSince > 0) && m.ModSeq > c.UnchangedSince {
				res.Modified = res.Modified.Add(m.UID)
				return
			}
			n, differs := c.Apply(m)
			if !differs {
				return
			}
			n.ModSeq = b.mod + 1
			changed = append(changed, n)
			moves = append(moves, move{placed{n, b.base(b.planned, n.UID)}, m.Flags})
		})
		if len(changed) == 0 {
			return nil
		}
		b.mod++
		res.ModSeq = b.mod
		b.planned = b.planned.Replaced(b.mod, changed)
		view, next = b.planned, b.next
		rb := recBox{key: b.key, validity: b.validity, next: b.next, mod: b.mod}
		for _, m := range moves {
			rb.msgs = append(rb.msgs, m.m)
		}
		s.record(&record{kind: recFlags, boxes: []recBox{rb}})
		o.holds(b)
		return nil
	}
	o.apply = func() {
		if view == nil {
			return
		}
		b.mu.Lock()
		for _, m := range moves {
			if h, ok := b.held[m.m.UID]; ok {
				if b.half && place(m.m.base, m.old) != place(m.m.base, m.m.Flags) {
					s.unwrite(b, m.m.base, m.old)
				}
				b.held[m.m.UID] = held{m.m, h.source}
				continue
			}
			if fileFlags(m.old) != fileFlags(m.m.Flags) {
				s.move(b, m.m.base, m.old, m.m.Flags)
			}
			b.lines = appendEntry(b.lines, m.m.Message, next, m.m.base)
		}
		s.applied(b, next, res.ModSeq)
		b.show(view)
		s.noteTimes(b)
		b.mu.Unlock()
		s.mark(b)
		o.after = append(o.after, func() { s.opt.Changed(b.key) })
	}
	err = s.do(ctx, o)
	return res, err
}

// move lets a file's name follow its flags. The index is the truth, so a
// failure is only worth a line.
func (s *Store) move(b *box, base string, old, now mailbox.Flags) {
	s.moves.RLock()
	defer s.moves.RUnlock()
	from, err := b.find(base, old)
	if err == nil {
		err = s.disk.rename(from, filepath.Join(b.dir, place(base, now)))
	}
	if err != nil {
		s.log.Debug("a message file could not follow its flags", "err", err)
	}
}

// Still runs f while no message file changes its name. A directory that is listed
// while files are renamed in it may show some of them under neither name.
func (s *Store) Still(f func()) {
	s.moves.Lock()
	defer s.moves.Unlock()
	f()
}

// removal is the common part of Expunge and Move.
type removal struct {
	b    *box
	msgs []placed
	view *mailbox.View
	next mailbox.UID
	mod  mailbox.ModSeq
}

// planRemoval takes messages out of the planned view of a loaded mailbox.
func (s *Store) planRemoval(o *op, b *box, set mailbox.UIDSet, keep func(mailbox.Message) bool) *removal {
	rm, r := takeOut(o, b, set, keep)
	if r != nil {
		s.record(r)
	}
	return rm
}

// takeOut is planRemoval with the record, or nil when there is nothing to remove,
// still to be written.
func takeOut(o *op, b *box, set mailbox.UIDSet, keep func(mailbox.Message) bool) (*removal, *record) {
	rm := &removal{b: b}
	var uids []mailbox.UID
	b.planned.Each(set, func(_ int, m mailbox.Message) {
		if keep != nil && keep(m) {
			return
		}
		uids = append(uids, m.UID)
		rm.msgs = append(rm.msgs, placed{m, b.base(b.planned, m.UID)})
	})
	if len(uids) == 0 {
		return rm, nil
	}
	b.mod++
	rm.mod, rm.next = b.mod, b.next
	b.planned = b.planned.Without(b.mod, uids)
	rm.view = b.planned
	o.holds(b)
	return rm, &record{kind: recGone, boxes: []recBox{{key: b.key, validity: b.validity, next: b.next, mod: b.mod, msgs: rm.msgs}}}
}

func (s *Store) applyRemoval(o *op, rm *removal) {
	if rm == nil || rm.view == nil {
		return
	}
	b := rm.b
	var bytes int64
	files := false
	b.mu.Lock()
	for _, m := range rm.msgs {
		bytes += m.Size
		if _, ok := b.held[m.UID]; ok {
			delete(b.held, m.UID) // it never became a file, unless
			if b.half {
				s.unwrite(b, m.base, m.Flags)
			}
			continue
		}
		files = true
		path, err := b.find(m.base, m.Flags)
		if err == nil {
			err = s.disk.remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("a message file could not be removed", "err", err)
		}
		b.lines = appendGone(b.lines, m.UID, rm.mod, rm.next, m.base)
	}
	s.applied(b, rm.next, rm.mod)
	b.show(rm.view)
	if files {
		s.noteTimes(b)
	}
	b.mu.Unlock()
	s.mark(b)
	n := len(rm.msgs)
	b.bytes -= bytes
	b.count -= n
	o.after = append(o.after, func() {
		s.opt.Used(b.key.Account, -bytes, -int64(n))
		s.opt.Changed(b.key)
	})
}

// Expunge removes messages. See mailbox.Store.
func (s *Store) Expunge(ctx context.Context, key mailbox.Box, set mailbox.UIDSet, onlyDeleted bool) ([]mailbox.UID, error) {
	defer s.latency[opExpunge].Since(time.Now())
	key, err := clean(key)
	if err != nil {
		return nil, err
	}
	if s.nothingDeleted(key, set, onlyDeleted) {
		return nil, nil
	}
	var rm *removal
	o := &op{}
	o.plan = func() error {
		b, err := s.ready(key)
		if err != nil {
			return err
		}
		rm = s.planRemoval(o, b, set, func(m mailbox.Message) bool { return onlyDeleted && m.Flags&mailbox.Deleted == 0 })
		return nil
	}
	o.apply = func() { s.applyRemoval(o, rm) }
	if err := s.do(ctx, o); err != nil {
		return nil, err
	}
	uids := make([]mailbox.UID, len(rm.msgs))
	for i, m := range rm.msgs {
		uids[i] = m.UID
	}
	return uids, nil
}

// nothingDeleted tells the common case of CLOSE from memory: it then needs no
// turn in the queue.
func (s *Store) nothingDeleted(key mailbox.Box, set mailbox.UIDSet, onlyDeleted bool) bool {
	b := s.lookup(key)
	if b == nil || !onlyDeleted || b.inflight.Load() > 0 {
		return false
	}
	v := b.view.Load()
	if v == nil {
		return false
	}
	found := false
	v.Each(set, func(_ int, m mailbox.Message) { found = found || m.Flags&mailbox.Deleted != 0 })
	return !found
}

// Copy copies messages by linking their files. See mailbox.Store.
func (s *Store) Copy(ctx context.Context, from, to mailbox.Box, set mailbox.UIDSet) (mailbox.Copied, error) {
	return s.transfer(ctx, from, to, set, false)
}

// Move is Copy and Expunge as one change. See mailbox.Store.
func (s *Store) Move(ctx context.Context, from, to mailbox.Box, set mailbox.UIDSet) (mailbox.Copied, error) {
	return s.transfer(ctx, from, to, set, true)
}

func (s *Store) transfer(ctx context.Context, from, to mailbox.Box, set mailbox.UIDSet, move bool) (res mailbox.Copied, err error) {
	if from, err = clean(from); err != nil {
		return res, err
	}
	if to, err = clean(to); err != nil {
		return res, err
	}
	c := &transfer{s: s}
	o := &op{}
	o.plan = func() error { return c.plan(o, from, to, set, move) }
	o.apply = func() { c.apply(o) }
	if err := s.do(ctx, o); err != nil {
		return res, err
	}
	return c.res, nil
}

// transfer is one Copy or Move on its way.
type transfer struct {
	s        *Store
	src, dst *box
	from, to []placed
	view     *mailbox.View // of dst
	next     mailbox.UID
	rm       *removal
	res      mailbox.Copied
}

func (c *transfer) plan(o *op, from, to mailbox.Box, set mailbox.UIDSet, move bool) (err error) {
	s := c.s
	if c.dst, err = s.headed(to); err != nil {
		return err
	}
	if c.src, err = s.ready(from); err != nil {
		return err
	}
	c.res.UIDValidity = c.dst.validity
	c.src.planned.Each(set, func(_ int, m mailbox.Message) {
		c.from = append(c.from, placed{m, c.src.base(c.src.planned, m.UID)})
	})
	if len(c.from) == 0 {
		return nil
	}
	c.dst.mod++
	var added []mailbox.Message
	now := s.opt.Now().Unix()
	for _, f := range c.from {
		m := f.Arrived(now)
		m.UID, m.ModSeq = c.dst.next, c.dst.mod
		c.dst.next++
		c.to = append(c.to, placed{m, baseOf(c.dst.validity, m.UID)})
		added = append(added, m)
		c.res.From = append(c.res.From, f.UID)
		c.res.To = append(c.res.To, m.UID)
	}
	if c.dst.planned != nil {
		c.dst.planned = c.dst.planned.With(c.dst.next, c.dst.mod, added...)
		c.view = c.dst.planned
	}
	c.next = c.dst.next
	s.record(&record{
		kind:  recLink,
		boxes: []recBox{{key: c.dst.key, validity: c.dst.validity, next: c.dst.next, mod: c.dst.mod, msgs: c.to}},
		from:  recBox{key: c.src.key, validity: c.src.validity, next: c.src.next, mod: c.src.mod, msgs: c.from},
	})
	o.holds(c.dst)
	o.holds(c.src)
	if move {
		uids := make(mailbox.UIDSet, 0, 4)
		for _, f := range c.from {
			uids = uids.Add(f.UID)
		}
		c.rm = s.planRemoval(o, c.src, uids, nil)
	}
	return nil
}

func (c *transfer) apply(o *op) {
	if len(c.to) == 0 {
		return
	}
	s := c.s
	var bytes int64
	for i, m := range c.to {
		if o.err = s.copyOne(c.src, c.dst, c.from[i], m); o.err != nil {
			c.undo()
			return
		}
		bytes += m.Size
	}
	c.dst.mu.Lock()
	s.applied(c.dst, c.next, c.to[0].ModSeq)
	if c.view != nil {
		c.dst.show(c.view)
	}
	s.noteTimes(c.dst)
	c.dst.mu.Unlock()
	s.mark(c.dst)
	c.dst.bytes += bytes
	c.dst.count += len(c.to)
	n := int64(len(c.to))
	o.after = append(o.after, func() {
		s.opt.Used(c.dst.key.Account, bytes, n)
		s.opt.Changed(c.dst.key)
	})
	s.applyRemoval(o, c.rm)
}

// copyOne brings one message from src to dst: held ones share their octets,
// others their file.
func (s *Store) copyOne(src, dst *box, from, to placed) error {
	src.mu.Lock()
	h, ok := src.held[from.UID]
	src.mu.Unlock()
	if !ok {
		path, err := src.find(from.base, from.Flags)
		if err != nil {
			return trouble(err, "copy a message")
		}
		dst.mu.Lock()
		defer dst.mu.Unlock()
		if _, err := s.put(dst, to, nil, path); err != nil {
			return trouble(err, "copy a message")
		}
		dst.lines = appendEntry(dst.lines, to.Message, to.UID+1, to.base)
		return nil
	}
	dst.mu.Lock()
	defer dst.mu.Unlock()
	if dst.held == nil {
		dst.held = make(map[mailbox.UID]held)
	}
	dst.held[to.UID] = held{to, h.source}
	return nil
}

// undo takes back a copy that failed halfway: all or none.
func (c *transfer) undo() {
	s := c.s
	var failed []*deliverFailure
	c.dst.mu.Lock()
	for _, m := range c.to {
		if _, ok := c.dst.held[m.UID]; ok {
			delete(c.dst.held, m.UID)
		} else if path, err := c.dst.find(m.base, m.Flags); err == nil {
			_ = s.disk.remove(path)
		}
		c.dst.lines = appendGone(c.dst.lines, m.UID, m.ModSeq, c.next, m.base)
		failed = append(failed, &deliverFailure{c.dst, m})
		c.dst.failed = append(c.dst.failed, m.UID)
	}
	s.applied(c.dst, c.next, c.to[0].ModSeq)
	if c.view != nil {
		c.dst.show(c.view)
	}
	c.dst.mu.Unlock()
	s.mark(c.dst)
	s.takeBack(failed)
	if c.rm != nil {
		s.bringBack(c.rm)
	}
}

// bringBack undoes the planned removal of a Move whose copies failed: the
// journal says that the messages went, so they are recorded anew.
func (s *Store) bringBack(rm *removal) {
	o := &op{}
	var view *mailbox.View
	o.plan = func() error {
		s.record(&record{kind: recFlags, boxes: []recBox{{key: rm.b.key, validity: rm.b.validity, next: rm.b.next, mod: rm.b.mod, msgs: rm.msgs}}})
		o.holds(rm.b)
		if rm.b.planned == nil {
			return nil
		}
		msgs := make([]mailbox.Message, 0, rm.b.planned.Len()+len(rm.msgs))
		back := rm.msgs
		for i := range rm.b.planned.Len() {
			m := rm.b.planned.At(i)
			for len(back) > 0 && back[0].UID < m.UID {
				msgs = append(msgs, back[0].Message)
				back = back[1:]
			}
			msgs = append(msgs, m)
		}
		for _, m := range back {
			msgs = append(msgs, m.Message)
		}
		rm.b.planned = mailbox.NewView(rm.b.validity, rm.b.next, rm.b.mod, msgs)
		view = rm.b.planned
		return nil
	}
	o.apply = func() {
		if view != nil {
			rm.b.mu.Lock()
			rm.b.show(view)
			rm.b.mu.Unlock()
		}
	}
	s.self(o)
}

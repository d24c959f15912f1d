package maildir

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/threads"
)

// head makes sure that b's UIDVALIDITY, next UID and modseq are known, from the
// end of its index where that is enough. It runs in the sequencer.
func (s *Store) head(b *box) error {
	if b.known {
		return nil
	}
	t, ok, err := readTail(b.index())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if b.key.Name != mailbox.Inbox {
			if _, err := os.Stat(b.dir); err != nil {
				return fault.New(fault.NotFound, "Mailbox does not exist")
			}
		}
		if empty, err := noFiles(b.dir); err != nil {
			return trouble(err, "look into a mailbox")
		} else if !empty {
			return s.load(b) // the index was lost: rebuild it
		}
		s.fresh(b)
		return nil
	case err != nil:
		return trouble(err, "read an index")
	case !ok:
		return s.load(b)
	}
	b.validity, b.next, b.mod, b.known = t.validity, t.next, t.mod, true
	return nil
}

// fresh gives a mailbox that is not on disk its UIDVALIDITY: the present time,
// and more than any mailbox had that was removed or that can be renamed.
func (s *Store) fresh(b *box) {
	now := s.opt.Now().Unix()
	b.validity = max(uint32(min(max(now, 1), 1<<32-1)), s.floor)
	b.next, b.mod, b.known = 1, 1, true
}

func noFiles(dir string) (bool, error) {
	for _, sub := range [2]string{"new", "cur"} {
		f, err := os.Open(filepath.Join(dir, sub))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		names, _ := f.Readdirnames(1)
		f.Close()
		if len(names) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// file is a message file that was found in a mailbox.
type file struct {
	path  string
	flags mailbox.Flags
	cur   bool
	has   bool // the name shows flags
}

// files lists the message files of a mailbox by base name.
func files(dir string) (map[string]file, error) {
	all := make(map[string]file)
	for _, sub := range [2]string{"new", "cur"} {
		list, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.Name()[0] == '.' || e.IsDir() {
				continue
			}
			base, flags, has := splitName(e.Name())
			if base == "" {
				continue
			}
			all[base] = file{path: filepath.Join(dir, sub, e.Name()), flags: flags, cur: sub == "cur", has: has}
		}
	}
	return all, nil
}

func sortEntries(e []entry) {
	sort.SliceStable(e, func(i, j int) bool { return e[i].UID < e[j].UID })
}

// reading is a mailbox as it was read from disk, and when.
type reading struct {
	moment
	data    []byte // the index
	ix      *index // nil: lost or damaged
	missing bool   // there is no index
	torn    bool   // its last line is not whole
	damage  error
	found   map[string]file
}

// moment tells whether a mailbox has changed between two looks at it: our own
// changes by their counts, those of other programs by the times on disk.
type moment struct {
	plans, writes int64
	dirs          [2]int64
	index, size   int64
}

func (b *box) moment() moment {
	m := moment{plans: b.plans.Load(), writes: b.writes.Load()}
	m.dirs, _ = dirTimes(b.dir)
	if st, err := os.Stat(b.index()); err == nil {
		m.index, m.size = st.ModTime().UnixNano(), st.Size()
	}
	return m
}

func (b *box) read() (*reading, error) {
	threads.Enter()
	defer threads.Leave()
	r := &reading{moment: b.moment()}
	var err error
	r.data, err = os.ReadFile(b.index())
	r.missing = errors.Is(err, fs.ErrNotExist)
	if err != nil && !r.missing {
		return nil, trouble(err, "read an index")
	}
	if r.found, err = files(b.dir); err != nil {
		return nil, trouble(err, "list a mailbox")
	}
	r.torn = len(r.data) > 0 && r.data[len(r.data)-1] != '\n'
	if !r.missing {
		r.ix, r.damage = parseIndex(r.data)
	}
	return r, nil
}

// overlay makes of r what it will be when all that b holds is written. b.mu is
// held.
func (r *reading) overlay(b *box) {
	data := appendHeader(nil, header{validity: b.validity, next: b.doneNext, mod: b.doneMod})
	if _, lines, ok := bytes.Cut(r.data, []byte{'\n'}); ok {
		data = append(data, lines...)
		if r.torn {
			data = append(data, '\n')
		}
	}
	data = append(data, b.lines...)
	for _, uid := range slices.Sorted(maps.Keys(b.held)) {
		h := b.held[uid]
		data = appendEntry(data, h.Message, b.doneNext, h.base)
		if _, there := r.found[h.base]; !there {
			r.found[h.base] = file{flags: h.Flags}
		}
	}
	r.missing, r.torn = false, false
	r.ix, r.damage = parseIndex(data)
}

// readAhead reads a mailbox that nobody has loaded, outside the sequencer: a
// large one takes long, and everybody's deliveries would wait for it. It is nil
// when that is not worth while.
func (s *Store) readAhead(key mailbox.Box) *reading {
	if b := s.lookup(key); b != nil && b.view.Load() != nil {
		return nil
	}
	return s.readOutside(key)
}

// readOutside reads a mailbox outside the sequencer, loaded or not.
func (s *Store) readOutside(key mailbox.Box) *reading {
	b := s.lookup(key)
	if b == nil {
		b = &box{key: key, dir: s.boxDir(key)}
	}
	if b.inflight.Load() > 0 || s.flushBox(b) != nil {
		return nil
	}
	r, err := b.read()
	if err != nil {
		return nil
	}
	return r
}

// load reads a mailbox into memory and mends its index where it and the
// directory disagree: files that nobody listed get the next UIDs, lines
// whose file is gone are expunged. It runs in the sequencer, and waits until
// nothing is in flight for b, so that no file under way is taken for foreign.
func (s *Store) load(b *box) error { return s.loadFrom(b, nil) }

// loadFrom is load of what was read ahead, if that still holds.
func (s *Store) loadFrom(b *box, r *reading) error {
	s.quiet(b)
	// When the disk is full its owner must be able to read and to delete: what
	// cannot be written is read from memory.
	held := s.flushBox(b) != nil
	b.mu.Lock()
	defer b.mu.Unlock()
	if r == nil || held || r.moment != b.moment() {
		var err error
		if r, err = b.read(); err != nil {
			return err
		}
		if held {
			r.overlay(b)
		}
	}
	if r.damage != nil {
		s.log.Warn("a damaged index is rebuilt from its directory", "err", r.damage)
	}
	ix, lost := r.ix, r.ix == nil
	if lost {
		if r.missing && len(r.found) == 0 {
			if b.key.Name != mailbox.Inbox {
				if _, err := os.Stat(b.dir); err != nil {
					return fault.New(fault.NotFound, "Mailbox does not exist")
				}
			}
			return s.loadEmpty(b)
		}
		if !b.known {
			s.fresh(b)
		}
		// UIDs start again, so they need another UIDVALIDITY than before.
		ix = &index{header: header{validity: max(b.validity, s.floor, uint32(s.opt.Now().Unix())), next: 1, mod: b.mod, ours: true}}
		if b.known && b.validity >= ix.validity {
			ix.validity = b.validity + 1
		}
	}
	return s.install(b, ix, r.found, lost || r.torn || !ix.ours || ix.bad > 0)
}

// loadEmpty is load for a mailbox that is not on disk yet. The journal
// remembers it, so that its UIDVALIDITY is not lost.
func (s *Store) loadEmpty(b *box) error {
	if !b.known {
		s.fresh(b)
	}
	b.nlines = 0
	s.show(b, mailbox.NewView(b.validity, b.next, b.mod, nil), nil)
	return nil
}

// install makes the index and the files found in the directory agree, and
// shows the result.
func (s *Store) install(b *box, ix *index, found map[string]file, rewrite bool) error {
	names := make(map[mailbox.UID]string)
	msgs := make([]mailbox.Message, 0, len(ix.live)+len(found))
	var lines []byte
	gone, added := 0, 0
	mod := ix.mod
	for _, e := range ix.live {
		f, ok := found[e.base]
		if !ok {
			if gone == 0 {
				mod++
			}
			gone++
			lines = appendGone(lines, e.UID, mod, ix.next, e.base)
			continue
		}
		delete(found, e.base)
		if !e.ours {
			e.Flags = f.flags
			if f.cur && !f.has && !ix.ours {
				e.Flags |= mailbox.Seen // earlier servers moved what was seen, without a flag
			}
			if st, err := os.Stat(f.path); err == nil {
				e.Size = st.Size()
			}
		}
		if e.ModSeq == 0 {
			e.ModSeq = 1
		}
		if e.base != baseOf(ix.validity, e.UID) {
			names[e.UID] = e.base
		}
		msgs = append(msgs, e.Message)
	}
	for _, n := range foreign(found) {
		if gone == 0 && added == 0 {
			mod++
		}
		added++
		m := mailbox.Message{UID: ix.next, Size: n.size, Internal: n.mtime, ModSeq: mod, Flags: n.flags}
		ix.next++
		names[m.UID] = n.base
		msgs = append(msgs, m)
		lines = appendEntry(lines, m, ix.next, n.base)
	}
	mod = max(mod, 1)
	v := mailbox.NewView(ix.validity, ix.next, mod, msgs)
	b.validity, b.next, b.mod, b.known = ix.validity, ix.next, mod, true
	b.nlines = ix.lines
	if rewrite || gone+added > 0 {
		// What clients have been told must not change again: durable now.
		b.names.Store(&names)
		data := appendHeader(nil, header{validity: v.UIDValidity, next: v.UIDNext, mod: v.HighestMod})
		for _, m := range msgs {
			data = appendEntry(data, m, v.UIDNext, b.base(v, m.UID))
		}
		if err := s.disk.replace(b.index(), data); err != nil {
			b.known, b.planned = false, nil
			return trouble(err, "mend an index")
		}
		b.nlines = len(msgs)
	}
	s.show(b, v, names)
	return nil
}

type foreignFile struct {
	base  string
	flags mailbox.Flags
	size  int64
	mtime int64
	nano  int64
}

// foreign orders files that no index line names: by time, then by name.
func foreign(found map[string]file) []foreignFile {
	list := make([]foreignFile, 0, len(found))
	for base, f := range found {
		st, err := os.Stat(f.path)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		list = append(list, foreignFile{base, f.flags, st.Size(), st.ModTime().Unix(), st.ModTime().UnixNano()})
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].nano != list[j].nano {
			return list[i].nano < list[j].nano
		}
		return list[i].base < list[j].base
	})
	return list
}

// show publishes a loaded view and tells the hook what it did not know yet.
func (s *Store) show(b *box, v *mailbox.View, names map[mailbox.UID]string) {
	if len(names) == 0 {
		b.names.Store(nil)
	} else {
		b.names.Store(&names)
	}
	if b.planned == nil {
		s.loaded.Add(1)
	}
	old := b.view.Load()
	b.planned = v
	b.doneNext, b.doneMod = v.UIDNext, v.HighestMod
	b.view.Store(v)
	b.used.Store(s.opt.Now().UnixNano())
	s.noteTimes(b)
	var bytes int64
	for i := range v.Len() {
		bytes += v.At(i).Size
	}
	if bytes != b.bytes || v.Len() != b.count {
		s.opt.Used(b.key.Account, bytes-b.bytes, int64(v.Len()-b.count))
		b.bytes, b.count = bytes, v.Len()
	}
	if old != nil && old.HighestMod != v.HighestMod {
		s.opt.Changed(b.key)
	}
}

package maildir

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"madmail/internal/mailbox"
	"madmail/internal/message"
	"madmail/internal/threads"
)

// held is a message that has no file yet. Copies of one delivery share source.
type held struct {
	placed
	*source
}

// source is where the octets of held messages are.
type source struct {
	data  []byte // or
	spool string // a file in the spool

	mu   sync.Mutex // guards the field below
	path string     // a message file that was made of it, to link further ones to
}

// materialise is the materialiser: it applies batches in their order.
func (s *Store) materialise() {
	for w := range s.mat {
		for _, o := range w.ops {
			if o.apply != nil {
				o.apply()
			}
			s.settle(o)
			for _, f := range o.after {
				f()
			}
			close(o.done)
		}
		if w.epoch != 0 {
			s.sync(w.epoch)
		}
		if w.barrier != nil {
			close(w.barrier)
		}
	}
}

// sync begins a checkpoint: everything up to epoch is applied at this point.
func (s *Store) sync(epoch uint64) {
	s.group.Go("checkpoint", func() {
		err := s.flushAll()
		if err == nil {
			err = s.disk.syncAll(s.opt.Dir)
		}
		if err == nil && s.hurry.Load() {
			err = errHurry // the directory may be another process's by now
		}
		if err == nil {
			err = s.j.saveCheckpoint(epoch + 1)
		}
		s.synced <- syncResult{epoch, err}
	})
}

// mark notes that b has something to write at the next checkpoint.
func (s *Store) mark(b *box) {
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	s.dirty[b] = true
}

// flushAll writes what all mailboxes hold.
func (s *Store) flushAll() error {
	s.dirtyMu.Lock()
	dirty := s.dirty
	s.dirty = make(map[*box]bool)
	s.dirtyMu.Unlock()
	var failed error
	for b := range dirty {
		if failed == nil && s.hurry.Load() {
			failed = errHurry
		}
		if failed == nil {
			failed = s.flushBox(b)
		}
		if failed != nil {
			s.mark(b)
		}
	}
	return failed
}

// applied notes a change of b. b.mu is held.
func (s *Store) applied(b *box, next mailbox.UID, mod mailbox.ModSeq) {
	b.doneNext, b.doneMod = max(b.doneNext, next), max(b.doneMod, mod)
	b.stale = true
}

// flushBox writes files and index lines of one mailbox. When it fails
// everything stays held, and doing it again does no harm.
func (s *Store) flushBox(b *box) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stale {
		return nil
	}
	b.writes.Add(1)
	b.flushing.Store(true)
	defer b.flushing.Store(false)
	b.half = true
	uids := make([]mailbox.UID, 0, len(b.held))
	for uid := range b.held {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	lines := slices.Clip(b.lines)
	for _, uid := range uids {
		h := b.held[uid]
		if err := s.file(b, h); err != nil {
			return err
		}
		lines = appendEntry(lines, h.Message, b.doneNext, h.base)
		if end := message.HeaderEnd(h.data[:min(len(h.data), maxHead)]); end > 0 {
			// Phones that come back list what waited for them. A copy: the body is large.
			s.heads.put(headKey{b.key, b.validity, uid}, append(make([]byte, 0, end), h.data[:end]...))
		}
	}
	h := header{validity: b.validity, next: b.doneNext, mod: b.doneMod}
	err := s.disk.extend(b.index(), lines, appendHeader(nil, h))
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeBox(b); err == nil {
			err = s.disk.extend(b.index(), lines, appendHeader(nil, h))
		}
	}
	if err != nil {
		return err
	}
	b.nlines += bytes.Count(lines, []byte{'\n'})
	clear(b.held)
	b.lines, b.stale, b.half = nil, false, false
	if v := b.view.Load(); v != nil {
		s.noteTimes(b)
		if dead := b.nlines - v.Len(); dead > 64 && dead > 2*v.Len() {
			s.compact(b, v)
		}
	}
	return nil
}

// unwrite removes the file that a held message got before writing failed. b.mu is
// held.
func (s *Store) unwrite(b *box, base string, flags mailbox.Flags) {
	if err := s.disk.remove(filepath.Join(b.dir, place(base, flags))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a message file could not be removed", "err", err)
	}
}

// file makes the file of a held message: the first of a delivery is written,
// further ones are links to it.
func (s *Store) file(b *box, h held) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := h.path
	if from == "" && h.spool != "" {
		from = filepath.Join(s.spool, h.spool)
	}
	path, err := s.put(b, h.placed, h.data, from)
	if errors.Is(err, fs.ErrNotExist) && h.path != "" {
		// The file to link to went meanwhile.
		h.path = ""
		if from = ""; h.spool != "" {
			from = filepath.Join(s.spool, h.spool)
		}
		path, err = s.put(b, h.placed, h.data, from)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	h.path = path
	return nil
}

// noteTimes remembers the times of the directories as our change left them.
func (s *Store) noteTimes(b *box) {
	if t, err := dirTimes(b.dir); err == nil {
		b.mtimes.Store(&t)
	}
}

func dirTimes(dir string) (t [2]int64, err error) {
	for i, sub := range [2]string{"new", "cur"} {
		st, err := os.Stat(filepath.Join(dir, sub))
		if err != nil {
			return t, err
		}
		t[i] = st.ModTime().UnixNano()
	}
	return t, nil
}

// makeBox makes the directories and the index of a mailbox. The parents are
// synced by the next checkpoint; until then the journal knows them.
func (s *Store) makeBox(b *box) error {
	for _, d := range [3]string{"new", "cur", "tmp"} {
		if err := s.disk.mkdirAll(filepath.Join(b.dir, d)); err != nil {
			return err
		}
	}
	err := s.disk.create(b.index(), appendHeader(nil, header{validity: b.validity, next: 1}))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// compact rewrites an index that is mostly dead lines. The view is the truth,
// b.mu is held.
func (s *Store) compact(b *box, v *mailbox.View) {
	data := appendHeader(nil, header{validity: v.UIDValidity, next: v.UIDNext, mod: v.HighestMod})
	for i := range v.Len() {
		m := v.At(i)
		data = appendEntry(data, m, v.UIDNext, b.base(v, m.UID))
	}
	if err := s.disk.replace(b.index(), data); err != nil {
		s.log.Warn("index could not be compacted", "err", err)
		return
	}
	b.nlines = v.Len()
}

// baseOf is the name that the store gives to the file of a message.
func baseOf(validity uint32, uid mailbox.UID) string {
	b := make([]byte, 0, 24)
	b = strconv.AppendUint(b, uint64(validity), 16)
	b = append(b, '.')
	b = strconv.AppendUint(b, uint64(uid), 16)
	return string(append(b, ".madmail"...))
}

// base returns the name of a message's file without its directory and flags.
func (b *box) base(v *mailbox.View, uid mailbox.UID) string {
	if m := b.names.Load(); m != nil {
		if n, ok := (*m)[uid]; ok {
			return n
		}
	}
	return baseOf(v.UIDValidity, uid)
}

// find returns the path of a message's file: where its flags say, or wherever
// else in the mailbox another program has put it.
func (b *box) find(base string, flags mailbox.Flags) (string, error) {
	path := filepath.Join(b.dir, place(base, flags))
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	return b.search(base)
}

func (b *box) search(base string) (string, error) {
	for _, sub := range [2]string{"new", "cur"} {
		threads.Enter()
		list, err := os.ReadDir(filepath.Join(b.dir, sub))
		threads.Leave()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, e := range list {
			if n, _, _ := splitName(e.Name()); n == base {
				return filepath.Join(b.dir, sub, e.Name()), nil
			}
		}
	}
	return "", fs.ErrNotExist
}

// put creates a message file: from bytes, or as a link to a file.
func (s *Store) put(b *box, m placed, data []byte, from string) (string, error) {
	path := filepath.Join(b.dir, place(m.base, m.Flags))
	write := func() error {
		if from != "" {
			err := s.disk.link(from, path)
			if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
				return err
			}
			// Too many links, or a file system without them: a copy does too.
			copied, rerr := os.ReadFile(from)
			if rerr != nil {
				return rerr
			}
			return s.disk.create(path, copied)
		}
		return s.disk.create(path, data)
	}
	err := write()
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeBox(b); err == nil {
			err = write()
		}
	}
	return path, err
}

package maildir

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"madmail/internal/mailbox"
)

// materialise is the materialiser: it applies batches in their order.
func (s *Store) materialise() {
	stuck := make(map[*box]bool) // index lines could not be written
	for w := range s.mat {
		touched := make(map[*box]bool)
		for _, o := range w.ops {
			for _, b := range o.boxes {
				touched[b] = true
			}
			if o.apply != nil {
				o.apply()
			}
		}
		for b := range touched {
			s.writeLines(b, stuck)
		}
		for _, o := range w.ops {
			s.settle(o)
			for _, f := range o.after {
				f()
			}
			close(o.done)
		}
		if w.epoch != 0 {
			s.sync(w.epoch, stuck)
		}
		if w.barrier != nil {
			close(w.barrier)
		}
	}
}

// sync begins a checkpoint: everything up to epoch is applied at this point.
func (s *Store) sync(epoch uint64, stuck map[*box]bool) {
	for b := range stuck {
		s.writeLines(b, stuck)
	}
	if len(stuck) > 0 {
		s.synced <- syncResult{epoch, errors.New("maildir: index lines could not be written")}
		return
	}
	s.group.Go("checkpoint", func() {
		err := s.disk.syncAll(s.opt.Dir)
		if err == nil {
			err = s.j.saveCheckpoint(epoch + 1)
		}
		s.synced <- syncResult{epoch, err}
	})
}

// writeLines appends the waiting lines of a mailbox to its index. When that
// fails they stay in memory, and in the journal, which is then not freed.
func (s *Store) writeLines(b *box, stuck map[*box]bool) {
	if len(b.lines) > 0 {
		err := s.disk.appendTo(b.index(), b.lines)
		if errors.Is(err, fs.ErrNotExist) {
			if err = s.makeBox(b); err == nil {
				err = s.disk.appendTo(b.index(), b.lines)
			}
		}
		if err != nil {
			s.log.Error("index write failed, will be tried again", "err", err)
			stuck[b] = true
			return
		}
		b.nlines += bytes.Count(b.lines, []byte{'\n'})
		b.lines = nil
		delete(stuck, b)
	}
	if v := b.view.Load(); v != nil {
		s.noteTimes(b)
		if dead := b.nlines - v.Len(); dead > 64 && dead > 2*v.Len() {
			s.compact(b, v)
		}
	}
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

// compact rewrites an index that is mostly dead lines. The view is the truth.
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
		list, err := os.ReadDir(filepath.Join(b.dir, sub))
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

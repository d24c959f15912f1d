package maildir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// Restore puts mailboxes into the store as another server kept them: with their
// UIDs and their UIDVALIDITY. Several share the cost of making them durable.
//
// Nobody may use these mailboxes meanwhile. Until Commit returns they are what
// they were; an attempt that was broken off is repeated from its beginning and
// neither loses nor doubles a message.
type Restore struct {
	s     *Store
	boxes []*RestoredBox
}

// Restore begins one.
func (s *Store) Restore() *Restore { return &Restore{s: s} }

// Kept is how another server kept a mailbox.
type Kept struct {
	UIDValidity uint32      // 0: it had none that can be used
	UIDNext     mailbox.UID // at least
	SpecialUse  string
	Hidden      bool // not subscribed
}

// RestoredBox is a mailbox that is being put together.
type RestoredBox struct {
	s     *Store
	key   mailbox.Box
	dir   string
	kept  Kept
	msgs  []mailbox.Message
	bases map[string]bool
	found map[string]file // what was there before
}

// Box begins a mailbox. Messages that it has already get UIDs behind those of the
// messages that are restored: its UIDVALIDITY changes, so clients ask anew.
//
// Errors: fault.Exists when the mailbox has this UIDVALIDITY already, which means
// that it was restored before; fault.Invalid for a name that cannot be.
func (r *Restore) Box(key mailbox.Box, k Kept) (*RestoredBox, error) {
	key, err := clean(key)
	if err != nil {
		return nil, err
	}
	b := &RestoredBox{s: r.s, key: key, dir: r.s.boxDir(key), kept: k, bases: make(map[string]bool)}
	before, err := validityOf(filepath.Join(b.dir, indexName))
	if err != nil {
		return nil, trouble(err, "read an index")
	}
	switch {
	case b.kept.UIDValidity == 0:
		b.kept.UIDValidity = max(uint32(r.s.opt.Now().Unix()), before+1)
	case before == b.kept.UIDValidity:
		return nil, fault.New(fault.Exists, "Mailbox was restored before")
	}
	if b.found, err = files(b.dir); err != nil {
		return nil, trouble(err, "list a mailbox")
	}
	for _, sub := range [3]string{"new", "cur", "tmp"} {
		if err := r.s.disk.mkdirAll(filepath.Join(b.dir, sub)); err != nil {
			return nil, trouble(err, "make a mailbox")
		}
	}
	r.boxes = append(r.boxes, b)
	return b, nil
}

// validityOf reads the UIDVALIDITY of an index; 0 when there is none that can be read.
func validityOf(path string) (uint32, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var buf [256]byte
	n, err := io.ReadFull(f, buf[:])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return 0, err
	}
	line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	h, err := parseHeader(line)
	if err != nil {
		return 0, nil // a damaged index is rebuilt from the files
	}
	return h.validity, nil
}

// Link adds a message whose content is a file, as a link to it: the file must not
// change any more. m.Size is what the file has. linked is false where the file system
// cannot; then nothing was done.
func (b *RestoredBox) Link(m mailbox.Message, path string) (linked bool, err error) {
	to, err := b.place(m.UID, m.Flags)
	if err != nil {
		return false, err
	}
	err = b.s.disk.link(path, to)
	if errors.Is(err, fs.ErrExist) {
		if err = b.s.disk.remove(to); err == nil {
			err = b.s.disk.link(path, to)
		}
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, trouble(err, "link a message")
		}
		return false, nil
	}
	st, err := os.Stat(to)
	if err != nil {
		return false, trouble(err, "link a message")
	}
	b.add(m, st.Size())
	return true, nil
}

// Copy adds a message and returns the number of its octets. When body cannot be read
// the error is that of body, and the mailbox is as before.
func (b *RestoredBox) Copy(m mailbox.Message, body io.Reader) (int64, error) {
	to, err := b.place(m.UID, m.Flags)
	if err != nil {
		return 0, err
	}
	tmp := filepath.Join(b.dir, "tmp", baseOf(b.kept.UIDValidity, m.UID))
	if err := b.s.disk.ask("create", tmp); err != nil {
		return 0, trouble(err, "write a message")
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, trouble(err, "write a message")
	}
	src := &reader{r: body}
	n, err := io.Copy(f, src)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = b.s.disk.rename(tmp, to)
	}
	if err != nil {
		_ = os.Remove(tmp)
		if src.err != nil {
			return 0, src.err
		}
		return 0, trouble(err, "write a message")
	}
	b.add(m, n)
	return n, nil
}

// reader remembers its failure, to tell it from one of the writer.
type reader struct {
	r   io.Reader
	err error
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// place returns where a message's file goes, and removes what an earlier attempt left
// elsewhere.
func (b *RestoredBox) place(uid mailbox.UID, f mailbox.Flags) (string, error) {
	base := baseOf(b.kept.UIDValidity, uid)
	to := filepath.Join(b.dir, place(base, f))
	if old, ok := b.found[base]; ok && old.path != to {
		if err := b.s.disk.remove(old.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", trouble(err, "remove what an earlier attempt left")
		}
	}
	return to, nil
}

func (b *RestoredBox) add(m mailbox.Message, size int64) {
	m.Size, m.ModSeq = size, 1
	b.msgs = append(b.msgs, m)
	b.bases[baseOf(b.kept.UIDValidity, m.UID)] = true
	b.kept.UIDNext = max(b.kept.UIDNext, m.UID+1)
}

// Commit makes all mailboxes that were begun durable and visible.
func (r *Restore) Commit(ctx context.Context) error {
	s := r.s
	err := s.do(ctx, s.structural(true, func() error {
		for _, b := range r.boxes {
			if err := b.stage(); err != nil {
				return err
			}
		}
		if err := s.disk.syncAll(s.opt.Dir); err != nil {
			return trouble(err, "sync restored mail")
		}
		for _, b := range r.boxes {
			index := filepath.Join(b.dir, indexName)
			if err := s.disk.rename(index+".tmp", index); err != nil {
				return trouble(err, "write an index")
			}
			if old := s.lookup(b.key); old != nil {
				s.forget(old)
			}
			s.opt.Changed(b.key)
		}
		return trouble(s.disk.syncAll(s.opt.Dir), "sync restored mail")
	}))
	if err == nil {
		r.boxes = nil
	}
	return err
}

// stage writes the index beside its place, and what the index does not tell. It runs
// in the sequencer.
func (b *RestoredBox) stage() error {
	sort.Slice(b.msgs, func(i, j int) bool { return b.msgs[i].UID < b.msgs[j].UID })
	others, err := b.others()
	if err != nil {
		return err
	}
	first := max(b.kept.UIDNext, 1)
	if uint64(first)+uint64(len(others)) > 1<<32-1 {
		return fault.New(fault.Full, "Mailbox has no UIDs left")
	}
	next := first + mailbox.UID(len(others))
	data := appendHeader(nil, header{validity: b.kept.UIDValidity, next: next, mod: 1})
	for _, m := range b.msgs {
		data = appendEntry(data, m, next, baseOf(b.kept.UIDValidity, m.UID))
	}
	for i, o := range others {
		o.UID, o.ModSeq = first+mailbox.UID(i), 1
		data = appendEntry(data, o.Message, next, o.base)
	}
	if err := b.s.disk.write(filepath.Join(b.dir, indexName+".tmp"), data); err != nil {
		return trouble(err, "write an index")
	}
	return b.stageMeta()
}

// others are the messages that the mailbox had before.
func (b *RestoredBox) others() ([]placed, error) {
	foreign := false
	for base := range b.found {
		foreign = foreign || !b.bases[base]
	}
	if !foreign {
		return nil, nil
	}
	old, err := b.s.ready(b.key)
	if err != nil {
		return nil, err
	}
	var list []placed
	for i := range old.planned.Len() {
		m := old.planned.At(i)
		if base := old.base(old.planned, m.UID); !b.bases[base] {
			list = append(list, placed{m, base})
		}
	}
	return list, nil
}

func (b *RestoredBox) stageMeta() error {
	if b.kept.SpecialUse == "" && !b.kept.Hidden {
		return nil
	}
	m := b.s.readMeta(b.key.Account)
	if b.kept.SpecialUse != "" && b.key.Name != mailbox.Inbox {
		m.Special[b.key.Name] = b.kept.SpecialUse
	}
	m.hide(b.key.Name, b.kept.Hidden)
	return b.s.writeMeta(b.key.Account, m)
}

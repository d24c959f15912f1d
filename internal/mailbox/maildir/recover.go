package maildir

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"madmail/internal/address"
	"madmail/internal/mailbox"
)

// recover replays what no checkpoint covers and removes left-overs.
func (s *Store) recover(ctx context.Context) error {
	if err := s.j.load(); err != nil {
		return err
	}
	live := s.j.live()
	if len(live) > 0 {
		rp := &replay{s: s, boxes: make(map[mailbox.Box]*replayBox)}
		for _, seg := range live {
			got, err := seg.scan(s.j.size, func(p []byte) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return rp.record(p)
			})
			if err != nil {
				return trouble(err, "replay the journal")
			}
			if got.damaged > 0 {
				s.log.Error("the journal is damaged; what could be read was replayed", "gaps", got.damaged)
			}
			s.stats.replayed.Add(int64(got.records))
		}
		if err := rp.finish(); err != nil {
			return trouble(err, "replay the journal")
		}
		if s.stats.replayed.Load() > 0 {
			if err := s.disk.syncAll(s.opt.Dir); err != nil {
				return trouble(err, "sync the replayed journal")
			}
		}
		last := live[len(live)-1].epoch
		if err := s.j.saveCheckpoint(last + 1); err != nil {
			return trouble(err, "write the checkpoint")
		}
		s.j.release(last)
	}
	return s.tidy()
}

// tidy removes spool files and temporary names of an earlier run.
func (s *Store) tidy() error {
	list, err := os.ReadDir(s.spool)
	if err != nil {
		return trouble(err, "clear the spool")
	}
	for _, e := range list {
		_ = os.Remove(filepath.Join(s.spool, e.Name()))
	}
	list, err = os.ReadDir(s.mail)
	if err != nil {
		return trouble(err, "list the mail")
	}
	for _, e := range list {
		if dir := filepath.Join(s.mail, e.Name()); strings.HasPrefix(e.Name(), ".trash-") {
			s.group.Go("trash", func() { _ = os.RemoveAll(dir) })
		}
	}
	return nil
}

// replay brings files and indexes to the state after the last record.
type replay struct {
	s     *Store
	boxes map[mailbox.Box]*replayBox
}

type replayBox struct {
	*box
	files map[string]string // base name to path
	lines []byte
	gone  map[string]bool // to be unlinked at the end
}

func (rp *replay) box(r recBox) (*replayBox, error) {
	if b := rp.boxes[r.key]; b != nil {
		return b, nil
	}
	b := &replayBox{
		box:   &box{key: r.key, dir: rp.s.boxDir(r.key), validity: r.validity},
		files: make(map[string]string),
		gone:  make(map[string]bool),
	}
	if err := rp.s.makeBox(b.box); err != nil {
		return nil, err
	}
	found, err := files(b.dir)
	if err != nil {
		return nil, err
	}
	for base, f := range found {
		b.files[base] = f.path
	}
	rp.boxes[r.key] = b
	return b, nil
}

func (rp *replay) record(p []byte) error {
	r, err := parseRecord(p)
	if err != nil {
		rp.s.log.Error("a journal record could not be read", "err", err)
		return nil
	}
	return rp.apply(r)
}

func (rp *replay) apply(r *record) error {
	switch r.kind {
	case recAll:
		for _, one := range r.all {
			if err := rp.apply(one); err != nil {
				return err
			}
		}
		return nil
	case recDeliver:
		return rp.deliver(r)
	case recLink:
		return rp.link(r)
	}
	for _, rb := range r.boxes {
		b, err := rp.box(rb)
		if err != nil {
			return err
		}
		for _, m := range rb.msgs {
			switch r.kind {
			case recFlags:
				b.gone[m.base] = false
				if path, ok := b.files[m.base]; ok {
					if err := rp.rename(b, m, path); err != nil {
						return err
					}
				}
				b.lines = appendEntry(b.lines, m.Message, rb.next, m.base)
			case recGone:
				b.gone[m.base] = true
				b.lines = appendGone(b.lines, m.UID, rb.mod, rb.next, m.base)
			}
		}
	}
	return nil
}

func (rp *replay) rename(b *replayBox, m placed, path string) error {
	want := filepath.Join(b.dir, place(m.base, m.Flags))
	if want == path {
		return nil
	}
	if err := rp.s.disk.rename(path, want); err != nil {
		return err
	}
	b.files[m.base] = want
	return nil
}

func (rp *replay) deliver(r *record) error {
	from := ""
	if r.spool != "" {
		from = filepath.Join(rp.s.spool, filepath.Base(r.spool))
		if _, err := os.Stat(from); err != nil {
			from = ""
		}
	}
	for _, rb := range r.boxes {
		b, err := rp.box(rb)
		if err != nil {
			return err
		}
		for _, m := range rb.msgs {
			if err := rp.place(b, m, r, from); err != nil {
				return err
			}
			b.gone[m.base] = false
			b.lines = appendEntry(b.lines, m.Message, rb.next, m.base)
		}
	}
	return nil
}

// place makes sure that a delivered message's file is there and whole: after a
// loss of power it may be empty or torn.
func (rp *replay) place(b *replayBox, m placed, r *record, from string) error {
	if path, ok := b.files[m.base]; ok {
		if r.spool != "" {
			if st, err := os.Stat(path); err == nil && st.Size() == m.Size {
				return nil
			}
			if from == "" {
				return nil
			}
		} else if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, r.body) {
			return nil
		}
		if err := rp.s.disk.remove(path); err != nil {
			return err
		}
		delete(b.files, m.base)
	} else if r.spool != "" && from == "" {
		return nil // its checkpoint was under way: the file was linked, and later expunged
	}
	path, err := rp.s.put(b.box, m, r.body, from)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	b.files[m.base] = path
	return nil
}

func (rp *replay) link(r *record) error {
	src, err := rp.box(r.from)
	if err != nil {
		return err
	}
	for _, rb := range r.boxes {
		b, err := rp.box(rb)
		if err != nil {
			return err
		}
		for i, m := range rb.msgs {
			if _, ok := b.files[m.base]; !ok && i < len(r.from.msgs) {
				if path, ok := src.files[r.from.msgs[i].base]; ok {
					to, err := rp.s.put(b.box, m, nil, path)
					if err != nil && !errors.Is(err, fs.ErrExist) {
						return err
					}
					b.files[m.base] = to
				}
			}
			b.gone[m.base] = false
			b.lines = appendEntry(b.lines, m.Message, rb.next, m.base)
		}
	}
	return nil
}

// finish unlinks what went and writes the lines. An index that ends in a torn
// line gets its line end first.
func (rp *replay) finish() error {
	for _, b := range rp.boxes {
		for base, gone := range b.gone {
			if path, ok := b.files[base]; ok && gone {
				if err := rp.s.disk.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
		}
		if err := rp.lines(b); err != nil {
			return err
		}
	}
	return nil
}

func (rp *replay) lines(b *replayBox) error {
	data, err := os.ReadFile(b.index())
	if err != nil {
		return err
	}
	if _, err := parseIndex(data); err != nil && len(bytes.TrimLeft(data, "\x00")) == 0 {
		// The file was made after the last checkpoint and its bytes were lost.
		return rp.s.disk.replace(b.index(), append(appendHeader(nil, header{validity: b.validity, next: 1}), b.lines...))
	}
	lines := b.lines
	if n := len(data); n > 0 && data[n-1] != '\n' {
		lines = append([]byte{'\n'}, lines...)
	}
	if len(lines) == 0 {
		return nil
	}
	return rp.s.disk.appendTo(b.index(), lines)
}

// respell gives the directories of mailboxes that others made the names that the
// store looks for: the second version wrote "100%" and ".drafts" as they are, and other
// letters than those of ASCII as clients spell them. any is false when the account has no
// mailbox but INBOX.
func (s *Store) respell(a address.Addr) (any bool, err error) {
	folders := filepath.Join(s.accountDir(a), "folders")
	list, err := os.ReadDir(folders)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, trouble(err, "list mailboxes")
	}
	for _, e := range list {
		raw := e.Name()
		if !e.IsDir() {
			continue
		}
		name := s.spelled(filepath.Join(folders, raw, "Maildir", indexName), raw)
		if name == raw && encodeName(decodeName(raw)) == raw {
			continue
		}
		if c, err := cleanName(name); err != nil || c != name {
			s.log.Warn("a directory beside the mailboxes cannot be one", "err", err)
			continue
		}
		if err := s.adopt(folders, raw, encodeName(name)); err != nil {
			return true, err
		}
	}
	return len(list) > 0, nil
}

// respellAccounts gives the directories of accounts the normal form of their address:
// the second version knew no tag of IPv6 literals and folds no letters but those of ASCII.
func (s *Store) respellAccounts(ctx context.Context) error {
	dir, err := os.Open(s.mail)
	if err != nil {
		return trouble(err, "list accounts")
	}
	defer dir.Close()
	others := make(map[string]string)
	for err == nil {
		var names []string
		names, err = dir.Readdirnames(1024)
		for _, n := range names {
			if a, perr := address.Parse(n); perr == nil && a.Wire() != n {
				others[n] = a.Wire()
			}
		}
	}
	for _, n := range slices.Sorted(maps.Keys(others)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.adopt(s.mail, n, others[n]); err != nil {
			return err
		}
	}
	return nil
}

// adopt gives a directory of an earlier version its name here. Where that is taken, the
// other stays as it is.
func (s *Store) adopt(dir, raw, name string) error {
	from, to := filepath.Join(dir, raw), filepath.Join(dir, name)
	is, err := os.Stat(from)
	if err != nil || !is.IsDir() {
		return nil
	}
	if other, err := os.Lstat(to); err == nil && !os.SameFile(is, other) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("two directories stand for one name; one is left aside")
		return nil
	}
	if err := s.disk.rename(from, to); err != nil {
		return trouble(err, "rename a directory of an earlier version")
	}
	return trouble(s.disk.syncDir(dir), "rename a directory of an earlier version")
}

// spelled returns the name that clients know a directory of another server's by. What has
// our index is ours, as it is.
func (s *Store) spelled(index, raw string) string {
	if s.opt.Spelled == nil {
		return raw
	}
	name, ok := s.opt.Spelled(raw)
	if !ok || name == raw {
		return raw
	}
	f, err := os.Open(index)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return name // nobody has listed it yet; our mailboxes have an index from the start
		}
		return raw
	}
	defer f.Close()
	line, _ := bufio.NewReader(io.LimitReader(f, 256)).ReadBytes('\n')
	if h, err := parseHeader(bytes.TrimSuffix(line, []byte("\n"))); err != nil || h.ours {
		return raw
	}
	return name
}

// agreed reads an index and compares it with the names in the directory. When
// they agree the index tells the sizes.
func agreed(dir string) (*index, int64, bool) {
	data, err := os.ReadFile(filepath.Join(dir, indexName))
	if err != nil || len(data) == 0 || data[len(data)-1] != '\n' {
		return nil, 0, false
	}
	ix, err := parseIndex(data)
	if err != nil || !ix.ours || ix.bad > 0 {
		return nil, 0, false
	}
	names := make(map[string]bool, len(ix.live))
	for _, sub := range [2]string{"new", "cur"} {
		f, err := os.Open(filepath.Join(dir, sub))
		if err != nil {
			return nil, 0, false
		}
		list, err := f.Readdirnames(-1)
		f.Close()
		if err != nil {
			return nil, 0, false
		}
		for _, n := range list {
			if base, _, _ := splitName(n); n[0] != '.' && base != "" {
				names[base] = true
			}
		}
	}
	if len(names) != len(ix.live) {
		return nil, 0, false
	}
	var bytes int64
	for _, e := range ix.live {
		if !names[e.base] || !e.ours {
			return nil, 0, false
		}
		bytes += e.Size
	}
	return ix, bytes, true
}

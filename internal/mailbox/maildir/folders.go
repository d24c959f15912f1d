package maildir

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/threads"
)

// meta is the file mailboxes.json of an account: what the directories do not tell.
type meta struct {
	// Hidden are mailboxes that are not subscribed; a new one is.
	Hidden  []string          `json:"unsubscribed,omitempty"`
	Special map[string]string `json:"special_use,omitempty"`
}

func (s *Store) metaPath(a address.Addr) string {
	return filepath.Join(s.accountDir(a), "mailboxes.json")
}

func (s *Store) readMeta(a address.Addr) meta {
	var m meta
	threads.Enter()
	data, err := os.ReadFile(s.metaPath(a))
	threads.Leave()
	if err == nil {
		if err = json.Unmarshal(data, &m); err != nil {
			s.log.Warn("subscriptions of an account could not be read", "err", err)
			m = meta{}
		}
	}
	if m.Special == nil {
		m.Special = make(map[string]string)
	}
	return m
}

func (s *Store) writeMeta(a address.Addr, m meta) error {
	if err := s.disk.mkdirAll(s.accountDir(a)); err != nil {
		return trouble(err, "write subscriptions")
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return trouble(s.disk.replace(s.metaPath(a), append(data, '\n')), "write subscriptions")
}

func (m *meta) hide(name string, hidden bool) {
	keep := m.Hidden[:0]
	for _, n := range m.Hidden {
		if n != name {
			keep = append(keep, n)
		}
	}
	if m.Hidden = keep; hidden {
		m.Hidden = append(m.Hidden, name)
	}
}

// folderNames lists an account's mailboxes other than INBOX from the directory.
func (s *Store) folderNames(a address.Addr) ([]string, error) {
	threads.Enter()
	list, err := os.ReadDir(filepath.Join(s.accountDir(a), "folders"))
	threads.Leave()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, trouble(err, "list mailboxes")
	}
	var names []string
	for _, e := range list {
		name := decodeName(e.Name())
		if c, err := cleanName(name); err != nil || c != name || !e.IsDir() || name == mailbox.Inbox || encodeName(name) != e.Name() {
			continue
		}
		names = append(names, name)
	}
	sort.Strings(names)
	return names, nil
}

// Boxes lists an account's mailboxes. See mailbox.Store.
func (s *Store) Boxes(_ context.Context, a address.Addr) ([]mailbox.Info, error) {
	names, err := s.folderNames(a)
	if err != nil {
		return nil, err
	}
	m := s.readMeta(a)
	hidden := make(map[string]bool, len(m.Hidden))
	for _, n := range m.Hidden {
		hidden[n] = true
	}
	infos := []mailbox.Info{{Name: mailbox.Inbox, Subscribed: !hidden[mailbox.Inbox]}}
	for _, n := range names {
		infos = append(infos, mailbox.Info{Name: n, SpecialUse: m.Special[n], Subscribed: !hidden[n]})
	}
	return infos, nil
}

func (s *Store) boxExists(key mailbox.Box) bool {
	if key.Name == mailbox.Inbox {
		return true
	}
	_, err := os.Stat(s.boxDir(key))
	return err == nil
}

// CreateBox makes a mailbox. See mailbox.Store.
func (s *Store) CreateBox(ctx context.Context, key mailbox.Box, specialUse string) error {
	key, err := clean(key)
	if err != nil {
		return err
	}
	return s.do(ctx, s.structural(false, func() error {
		if s.boxExists(key) {
			return fault.New(fault.Exists, "Mailbox exists")
		}
		names, err := s.folderNames(key.Account)
		if err != nil {
			return err
		}
		if len(names)+2 > s.opt.MaxBoxes() {
			return fault.New(fault.Refused, "Too many mailboxes")
		}
		b := s.box(key)
		s.fresh(b)
		// Mailboxes can take each other's names, so no two may share a UIDVALIDITY.
		err = s.raise(b.validity)
		if err == nil {
			err = s.makeBox(b)
		}
		if err != nil {
			s.forget(b)
			return trouble(err, "make a mailbox")
		}
		if specialUse != "" {
			m := s.readMeta(key.Account)
			m.Special[key.Name] = specialUse
			if err := s.writeMeta(key.Account, m); err != nil {
				return err
			}
		}
		s.listed(key.Account)
		return s.syncPath(b.dir)
	}))
}

// listed tells that an account's list of mailboxes changed.
func (s *Store) listed(a address.Addr) { s.opt.Changed(mailbox.Box{Account: a}) }

// syncPath makes a directory's way down from mail/ durable.
func (s *Store) syncPath(dir string) error {
	for d := dir; len(d) >= len(s.mail); d = filepath.Dir(d) {
		if err := s.disk.syncDir(d); err != nil {
			return trouble(err, "sync a directory")
		}
	}
	return nil
}

// structural is an operation that changes directories at once instead of
// through the journal. With undoes it first empties the journal, because a
// replay of older records would undo the change.
func (s *Store) structural(undoes bool, f func() error) *op {
	o := &op{}
	o.plan = func() error {
		if undoes {
			if err := s.checkpointNow(); err != nil {
				return trouble(err, "prepare to change mailboxes")
			}
		}
		return f()
	}
	return o
}

// RemoveBox removes a mailbox with its messages. See mailbox.Store.
func (s *Store) RemoveBox(ctx context.Context, key mailbox.Box) error {
	key, err := clean(key)
	if err != nil {
		return err
	}
	if key.Name == mailbox.Inbox {
		return fault.New(fault.Refused, "INBOX cannot be removed")
	}
	return s.do(ctx, s.structural(true, func() error {
		if !s.boxExists(key) {
			return fault.New(fault.NotFound, "Mailbox does not exist")
		}
		b, err := s.ready(key) // so that what goes is counted
		if err != nil {
			return err
		}
		if err := s.trash(filepath.Dir(b.dir)); err != nil {
			return trouble(err, "remove a mailbox")
		}
		s.drop(b)
		m := s.readMeta(key.Account)
		delete(m.Special, key.Name)
		m.hide(key.Name, false)
		defer s.listed(key.Account)
		return s.writeMeta(key.Account, m)
	}))
}

// floorName is the file that remembers which UIDVALIDITY was given out last.
const floorName = "uidvalidity"

// raise makes sure, durably, that no later mailbox gets the UIDVALIDITY used.
func (s *Store) raise(used uint32) error {
	if s.floor > used {
		return nil
	}
	s.floor = used + 1
	return s.disk.replace(filepath.Join(s.j.dir, floorName), strconv.AppendUint(nil, uint64(s.floor), 10))
}

func (s *Store) readFloor() {
	data, err := os.ReadFile(filepath.Join(s.j.dir, floorName))
	if err != nil {
		return
	}
	if n, err := strconv.ParseUint(string(data), 10, 32); err == nil {
		s.floor = uint32(n)
	}
}

// unload forgets a mailbox whose files went, and counts them off.
func (s *Store) unload(b *box) {
	if err := s.raise(b.validity); err != nil {
		s.log.Warn("the last UIDVALIDITY could not be written", "err", err)
	}
	if b.bytes != 0 || b.count != 0 {
		s.opt.Used(b.key.Account, -b.bytes, -int64(b.count))
		b.bytes, b.count = 0, 0
	}
	b.view.Store(nil)
	s.forget(b)
}

// drop unloads a mailbox and tells those who look at it.
func (s *Store) drop(b *box) {
	s.unload(b)
	s.opt.Changed(b.key)
}

// trash moves a directory out of sight, durably, and removes it in the background.
func (s *Store) trash(dir string) error {
	var id [8]byte
	_, _ = rand.Read(id[:])
	to := filepath.Join(s.mail, ".trash-"+hex.EncodeToString(id[:]))
	if err := s.disk.rename(dir, to); err != nil {
		return err
	}
	err := s.disk.syncDir(filepath.Dir(dir))
	s.group.Go("trash", func() {
		if err := os.RemoveAll(to); err != nil {
			s.log.Warn("removed mail is still on disk", "err", err)
		}
	})
	return err
}

// RenameBox renames a mailbox and those below it. See mailbox.Store.
func (s *Store) RenameBox(ctx context.Context, key mailbox.Box, name string) error {
	key, err := clean(key)
	if err != nil {
		return err
	}
	if name, err = cleanName(name); err != nil {
		return err
	}
	to := mailbox.Box{Account: key.Account, Name: name}
	if key.Name == mailbox.Inbox {
		if err := s.CreateBox(ctx, to, ""); err != nil {
			return err
		}
		_, err := s.Move(ctx, key, to, mailbox.All())
		return err
	}
	return s.do(ctx, s.structural(true, func() error { return s.rename(key, to) }))
}

func (s *Store) rename(from, to mailbox.Box) error {
	switch {
	case !s.boxExists(from):
		return fault.New(fault.NotFound, "Mailbox does not exist")
	case s.boxExists(to):
		return fault.New(fault.Exists, "Mailbox exists")
	case strings.HasPrefix(to.Name, from.Name+string(mailbox.Delimiter)):
		return fault.New(fault.Invalid, "A mailbox cannot move below itself")
	}
	names, err := s.folderNames(from.Account)
	if err != nil {
		return err
	}
	moves := map[string]string{from.Name: to.Name}
	for _, n := range names {
		rest, ok := strings.CutPrefix(n, from.Name+string(mailbox.Delimiter))
		if !ok {
			continue
		}
		child, err := cleanName(to.Name + string(mailbox.Delimiter) + rest)
		if err != nil {
			return err
		}
		if s.boxExists(mailbox.Box{Account: to.Account, Name: child}) {
			return fault.New(fault.Exists, "Mailbox exists")
		}
		moves[n] = child
	}
	m := s.readMeta(from.Account)
	defer s.listed(from.Account)
	for _, old := range slices.Sorted(maps.Keys(moves)) {
		now := moves[old]
		b, err := s.ready(mailbox.Box{Account: from.Account, Name: old})
		if err != nil {
			return err
		}
		dir := filepath.Dir(b.dir)
		target := filepath.Join(filepath.Dir(dir), encodeName(now))
		if err := s.disk.rename(dir, target); err != nil {
			return trouble(err, "rename a mailbox")
		}
		s.unload(b)                // it is loaded anew, and counted, under its new name
		defer s.opt.Changed(b.key) // when all are there: who looks sees one rename
		if use := m.Special[old]; use != "" {
			m.Special[now] = use
			delete(m.Special, old)
		}
		nb := s.box(mailbox.Box{Account: from.Account, Name: now})
		if err := s.load(nb); err != nil {
			return err
		}
	}
	if err := s.writeMeta(from.Account, m); err != nil {
		return err
	}
	return s.syncPath(filepath.Join(s.accountDir(from.Account), "folders"))
}

// Subscribe changes whether a mailbox shows in LSUB. See mailbox.Store.
func (s *Store) Subscribe(ctx context.Context, key mailbox.Box, on bool) error {
	key, err := clean(key)
	if err != nil {
		return err
	}
	return s.do(ctx, s.structural(false, func() error {
		if on && !s.boxExists(key) {
			return fault.New(fault.NotFound, "Mailbox does not exist")
		}
		if !s.boxExists(key) {
			return nil
		}
		m := s.readMeta(key.Account)
		m.hide(key.Name, !on)
		defer s.listed(key.Account)
		return s.writeMeta(key.Account, m)
	}))
}

// RemoveAccount removes all mailboxes of an account. See mailbox.Store.
func (s *Store) RemoveAccount(ctx context.Context, a address.Addr) error {
	return s.do(ctx, s.structural(true, func() error {
		dir := s.accountDir(a)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		keys, err := s.keysOf(a)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if _, err := s.headed(k); err != nil { // for its UIDVALIDITY
				s.log.Warn("a mailbox to be removed could not be read", "err", err)
			}
		}
		if err := s.trash(dir); err != nil {
			return trouble(err, "remove an account")
		}
		for _, b := range s.boxesOf(a) {
			s.drop(b)
		}
		return nil
	}))
}

func (s *Store) keysOf(a address.Addr) ([]mailbox.Box, error) {
	names, err := s.folderNames(a)
	if err != nil {
		return nil, err
	}
	keys := []mailbox.Box{{Account: a, Name: mailbox.Inbox}}
	for _, n := range names {
		keys = append(keys, mailbox.Box{Account: a, Name: n})
	}
	return keys, nil
}

func (s *Store) boxesOf(a address.Addr) []*box {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var l []*box
	for k, b := range s.boxes {
		if k.Account == a {
			l = append(l, b)
		}
	}
	return l
}

// Usage measures an account and mends its indexes. See mailbox.Store.
func (s *Store) Usage(ctx context.Context, a address.Addr) (u mailbox.Usage, err error) {
	defer s.latency[opUsage].Since(time.Now())
	keys, err := s.keysOf(a)
	if err != nil {
		return u, err
	}
	for _, k := range keys {
		ahead := s.readOutside(k)
		err := s.do(ctx, &op{plan: func() error {
			// Whether it exists is asked here: its removal may have been first in the
			// queue, and must not be followed by a new empty mailbox in memory.
			if s.lookup(k) == nil {
				if _, err := os.Stat(s.boxDir(k)); errors.Is(err, fs.ErrNotExist) {
					return nil
				}
			}
			b := s.box(k)
			s.quiet(b) // what is under way is no mistake
			bytes, count := b.bytes, b.count
			if err := s.orDrop(b, s.loadFrom(b, ahead)); err != nil {
				return err
			}
			u.Bytes += b.bytes
			u.Messages += int64(b.count)
			u.Mended = u.Mended || b.bytes != bytes || b.count != count
			return nil
		}})
		if err != nil && !fault.Is(err, fault.NotFound) {
			return u, err
		}
	}
	return u, nil
}

// Accounts calls f for every account that has mail, on disk or held until the
// next checkpoint. See mailbox.Store.
func (s *Store) Accounts(_ context.Context, f func(address.Addr) error) error {
	dir, err := os.Open(s.mail)
	if err != nil {
		return trouble(err, "list accounts")
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, n := range names {
			a, perr := address.Parse(n)
			if perr != nil || a.Wire() != n {
				continue
			}
			if err := f(a); err != nil {
				return err
			}
		}
		if err != nil {
			break // the end
		}
	}
	s.mu.RLock()
	inMemory := make(map[address.Addr]bool)
	for k := range s.boxes {
		inMemory[k.Account] = true
	}
	s.mu.RUnlock()
	for a := range inMemory {
		if _, err := os.Stat(s.accountDir(a)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := f(a); err != nil {
			return err
		}
	}
	return nil
}

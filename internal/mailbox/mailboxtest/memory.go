package mailboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// Limits of mailbox names in Memory.
const (
	maxNameBytes = 255
	maxLevels    = 16
)

// Memory is a mailbox.Store that keeps everything in memory: the plainest
// store that passes the suite, and a fake for the tests of other packages.
// Nothing is durable and nothing is bounded.
//
// The fields may be set before the first call. The zero value is not ready;
// make one with NewMemory.
type Memory struct {
	// Changed is called for each mailbox concerned after a change became
	// visible. No lock is held.
	Changed func(mailbox.Box)
	// Used is told by how many bytes and messages an account grew or shrank.
	Used func(a address.Addr, bytes, messages int64)
	// Fail is asked before each operation, with the name of the method
	// ("Deliver") and the mailbox; for accounts the mailbox has no name. Its
	// error is the result of the operation, which then does nothing. For
	// Deliver it is asked once per target and fails that target.
	Fail func(method string, b mailbox.Box) error

	mu       sync.Mutex // guards the fields below
	accounts map[address.Addr]map[string]*memBox
	// validity was given to the mailbox made last. No two mailboxes ever
	// share one, so no name can show two messages under one UID.
	validity uint32
}

type memBox struct {
	view       *mailbox.View
	data       map[mailbox.UID][]byte
	specialUse string
	hidden     bool
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{accounts: make(map[address.Addr]map[string]*memBox)}
}

// effects are the hooks that are due when the lock is released.
type effects []func()

// listed notes that the list of mailboxes changed that b is or was in.
func (e *effects) listed(m *Memory, b mailbox.Box) { e.changed(m, mailbox.Box{Account: b.Account}) }

func (e *effects) changed(m *Memory, b mailbox.Box) {
	if m.Changed != nil {
		*e = append(*e, func() { m.Changed(b) })
	}
}

func (e *effects) used(m *Memory, a address.Addr, bytes, messages int64) {
	if m.Used != nil && (bytes != 0 || messages != 0) {
		*e = append(*e, func() { m.Used(a, bytes, messages) })
	}
}

// begin asks whether an operation may run.
func (m *Memory) begin(ctx context.Context, method string, b mailbox.Box) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Busy, err, "mailboxtest: "+method)
	}
	if m.Fail != nil {
		return m.Fail(method, b)
	}
	return nil
}

// do runs f under the lock and then the hooks that f left.
func (m *Memory) do(f func(e *effects) error) error {
	var e effects
	m.mu.Lock()
	err := f(&e)
	m.mu.Unlock()
	for _, hook := range e {
		hook()
	}
	return err
}

func cleanBox(b mailbox.Box) (mailbox.Box, error) {
	if b.Account.IsZero() {
		return b, fault.New(fault.Invalid, "no account")
	}
	name, err := cleanName(b.Name)
	b.Name = name
	return b, err
}

// cleanName checks a mailbox name and gives INBOX its one spelling, also as
// the first of several levels.
func cleanName(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fault.New(fault.Invalid, "Mailbox name "+why)
	}
	if !utf8.ValidString(name) {
		return bad("is not valid UTF-8")
	}
	if len(name) > maxNameBytes {
		return bad("is too long")
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return bad("has a control character")
	}
	levels := strings.Split(name, string(mailbox.Delimiter))
	if len(levels) > maxLevels {
		return bad("has too many levels")
	}
	for _, l := range levels {
		if l == "" || l == "." || l == ".." {
			return bad("has an empty or relative level")
		}
	}
	if strings.EqualFold(levels[0], mailbox.Inbox) {
		levels[0] = mailbox.Inbox
	}
	return strings.Join(levels, string(mailbox.Delimiter)), nil
}

// boxLocked returns a mailbox. INBOX is made on first use.
func (m *Memory) boxLocked(b mailbox.Box) (*memBox, error) {
	if x := m.accounts[b.Account][b.Name]; x != nil {
		return x, nil
	}
	if b.Name != mailbox.Inbox {
		return nil, fault.New(fault.NotFound, "Mailbox does not exist")
	}
	return m.makeLocked(b, ""), nil
}

func (m *Memory) makeLocked(b mailbox.Box, specialUse string) *memBox {
	all := m.accounts[b.Account]
	if all == nil {
		all = make(map[string]*memBox)
		m.accounts[b.Account] = all
	}
	x := &memBox{
		view:       mailbox.NewView(m.validityLocked(), 1, 1, nil),
		data:       make(map[mailbox.UID][]byte),
		specialUse: specialUse,
	}
	all[b.Name] = x
	return x
}

func (m *Memory) validityLocked() uint32 {
	m.validity++
	return m.validity
}

func (m *Memory) existsLocked(b mailbox.Box) bool {
	return b.Name == mailbox.Inbox || m.accounts[b.Account][b.Name] != nil
}

// memBody is a sealed message, and the content of a stored one.
type memBody struct{ *bytes.Reader }

func newMemBody(data []byte) memBody { return memBody{bytes.NewReader(data)} }

func (b memBody) Close() error { return nil }

// memWriter collects a body.
type memWriter struct {
	buf  bytes.Buffer
	done error // why nothing more can be written
}

// NewBody starts spooling a message. See mailbox.Store.
func (m *Memory) NewBody(ctx context.Context) (mailbox.BodyWriter, error) {
	if err := m.begin(ctx, "NewBody", mailbox.Box{}); err != nil {
		return nil, err
	}
	return &memWriter{}, nil
}

func (w *memWriter) Write(p []byte) (int, error) {
	if w.done != nil {
		return 0, w.done
	}
	return w.buf.Write(p)
}

func (w *memWriter) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(w.buf.Bytes()).ReadAt(p, off)
}

func (w *memWriter) Seal() (mailbox.Body, error) {
	if w.done != nil {
		return nil, w.done
	}
	w.done = errors.New("mailboxtest: body is sealed")
	return newMemBody(slices.Clone(w.buf.Bytes())), nil
}

func (w *memWriter) Abort() {
	if w.done == nil {
		w.done = errors.New("mailboxtest: body was dropped")
	}
}

// Deliver puts one body into many mailboxes. See mailbox.Store.
func (m *Memory) Deliver(ctx context.Context, to []mailbox.Target, body mailbox.Body) ([]mailbox.Placed, error) {
	if len(to) == 0 {
		return nil, nil
	}
	placed := make([]mailbox.Placed, len(to))
	data := make([]byte, body.Size())
	if _, err := io.ReadFull(io.NewSectionReader(body, 0, body.Size()), data); err != nil {
		err = fault.Wrap(fault.Busy, err, "mailboxtest: read the body")
		for i := range placed {
			placed[i].Err = err
		}
		return placed, err
	}
	for i, t := range to {
		placed[i].Err = m.begin(ctx, "Deliver", t.Box)
	}
	_ = m.do(func(e *effects) error {
		for i, t := range to {
			if placed[i].Err == nil {
				placed[i] = m.placeLocked(e, t, data)
			}
		}
		return nil
	})
	return placed, common(placed)
}

// common is the error that all targets share, or nil.
func common(placed []mailbox.Placed) error {
	first := placed[0].Err
	for _, p := range placed {
		if p.Err == nil || fault.KindOf(p.Err) != fault.KindOf(first) {
			return nil
		}
	}
	return first
}

func (m *Memory) placeLocked(e *effects, t mailbox.Target, data []byte) mailbox.Placed {
	b, err := cleanBox(t.Box)
	if err != nil {
		return mailbox.Placed{Err: err}
	}
	x, err := m.boxLocked(b)
	if err != nil {
		return mailbox.Placed{Err: err}
	}
	if x.view.UIDNext == ^mailbox.UID(0) {
		return mailbox.Placed{Err: fault.New(fault.Full, "Mailbox has no UIDs left")}
	}
	t.Box = b
	return m.putLocked(e, x, t, data, x.view.HighestMod+1)
}

func (m *Memory) putLocked(e *effects, x *memBox, t mailbox.Target, data []byte, mod mailbox.ModSeq) mailbox.Placed {
	internal := t.Internal
	if internal.IsZero() {
		internal = time.Now()
	}
	msg := mailbox.Message{Size: int64(len(data)), Internal: internal.Unix(), Flags: t.Flags, Keywords: mailbox.Keywords(t.Keywords)}
	uid := x.addLocked(mod, data, msg.Arrived(time.Now().Unix()))
	e.used(m, t.Box.Account, int64(len(data)), 1)
	e.changed(m, t.Box)
	return mailbox.Placed{UID: uid, UIDValidity: x.view.UIDValidity}
}

func (x *memBox) addLocked(mod mailbox.ModSeq, data []byte, msg mailbox.Message) mailbox.UID {
	msg.UID, msg.ModSeq = x.view.UIDNext, mod
	x.view = x.view.With(msg.UID+1, mod, msg)
	x.data[msg.UID] = data
	return msg.UID
}

// Add puts messages into a mailbox and removes one, or does nothing. See
// mailbox.Store.
func (m *Memory) Add(ctx context.Context, to mailbox.Box, list []mailbox.Arrival, replaced *mailbox.Ref) (placed []mailbox.Placed, err error) {
	if len(list) == 0 && replaced == nil {
		return nil, nil
	}
	data := make([][]byte, len(list))
	for i, a := range list {
		data[i] = make([]byte, a.Body.Size())
		if _, err := io.ReadFull(io.NewSectionReader(a.Body, 0, a.Body.Size()), data[i]); err != nil {
			return nil, fault.Wrap(fault.Busy, err, "mailboxtest: read the body")
		}
	}
	err = m.with(ctx, "Add", to, func(e *effects, b mailbox.Box, x *memBox) error {
		var from mailbox.Box
		var src *memBox
		if replaced != nil {
			if from, err = cleanBox(replaced.Box); err != nil {
				return err
			}
			if src, err = m.boxLocked(from); err != nil {
				return err
			}
			if _, there := src.view.Index(replaced.UID); !there {
				return fault.New(fault.NotFound, "Message does not exist")
			}
		}
		mod := x.view.HighestMod + 1
		for i, a := range list {
			t := mailbox.Target{Box: b, Flags: a.Flags, Keywords: a.Keywords, Internal: a.Internal}
			placed = append(placed, m.putLocked(e, x, t, data[i], mod))
		}
		if src != nil {
			m.removeLocked(e, from, src, []mailbox.UID{replaced.UID})
		}
		return nil
	})
	return placed, err
}

// View returns the present state of a mailbox. See mailbox.Store.
func (m *Memory) View(ctx context.Context, b mailbox.Box) (v *mailbox.View, err error) {
	err = m.with(ctx, "View", b, func(_ *effects, _ mailbox.Box, x *memBox) error {
		v = x.view
		return nil
	})
	return v, err
}

// with runs f under the lock with a mailbox that exists.
func (m *Memory) with(ctx context.Context, method string, b mailbox.Box, f func(*effects, mailbox.Box, *memBox) error) error {
	b, err := cleanBox(b)
	if err != nil {
		return err
	}
	if err := m.begin(ctx, method, b); err != nil {
		return err
	}
	return m.do(func(e *effects) error {
		x, err := m.boxLocked(b)
		if err != nil {
			return err
		}
		return f(e, b, x)
	})
}

// Open opens the content of a message. See mailbox.Store.
func (m *Memory) Open(ctx context.Context, b mailbox.Box, uid mailbox.UID) (c mailbox.Content, err error) {
	err = m.with(ctx, "Open", b, func(_ *effects, _ mailbox.Box, x *memBox) error {
		data, ok := x.data[uid]
		if !ok {
			return fault.New(fault.NotFound, "Message does not exist")
		}
		c = newMemBody(data)
		return nil
	})
	return c, err
}

// Head returns the header block of a message. See mailbox.Store.
func (m *Memory) Head(ctx context.Context, b mailbox.Box, uid mailbox.UID) (head []byte, err error) {
	err = m.with(ctx, "Head", b, func(_ *effects, _ mailbox.Box, x *memBox) error {
		data, ok := x.data[uid]
		if !ok {
			return fault.New(fault.NotFound, "Message does not exist")
		}
		if end := message.HeaderEnd(data); end >= 0 {
			data = data[:end:end]
		}
		head = data
		return nil
	})
	return head, err
}

// Change stores flags. See mailbox.Store.
func (m *Memory) Change(ctx context.Context, b mailbox.Box, set mailbox.UIDSet, c mailbox.FlagChange) (res mailbox.Changed, err error) {
	err = m.with(ctx, "Change", b, func(e *effects, b mailbox.Box, x *memBox) error {
		mod := x.view.HighestMod + 1
		var changed []mailbox.Message
		x.view.Each(set, func(_ int, msg mailbox.Message) {
			if (c.IfUnchanged || c.UnchangedSince > 0) && msg.ModSeq > c.UnchangedSince {
				res.Modified = res.Modified.Add(msg.UID)
				return
			}
			now, differs := c.Apply(msg)
			if !differs {
				return
			}
			now.ModSeq = mod
			changed = append(changed, now)
		})
		if len(changed) > 0 {
			res.ModSeq = mod
			x.view = x.view.Replaced(mod, changed)
			e.changed(m, b)
		}
		return nil
	})
	return res, err
}

// Expunge removes messages. See mailbox.Store.
func (m *Memory) Expunge(ctx context.Context, b mailbox.Box, set mailbox.UIDSet, onlyDeleted bool) (gone []mailbox.UID, err error) {
	err = m.with(ctx, "Expunge", b, func(e *effects, b mailbox.Box, x *memBox) error {
		x.view.Each(set, func(_ int, msg mailbox.Message) {
			if !onlyDeleted || msg.Flags&mailbox.Deleted != 0 {
				gone = append(gone, msg.UID)
			}
		})
		m.removeLocked(e, b, x, gone)
		return nil
	})
	return gone, err
}

func (m *Memory) removeLocked(e *effects, b mailbox.Box, x *memBox, uids []mailbox.UID) {
	if len(uids) == 0 {
		return
	}
	var size int64
	for _, uid := range uids {
		size += int64(len(x.data[uid]))
		delete(x.data, uid)
	}
	x.view = x.view.Without(x.view.HighestMod+1, uids)
	e.used(m, b.Account, -size, -int64(len(uids)))
	e.changed(m, b)
}

// Copy copies messages. See mailbox.Store.
func (m *Memory) Copy(ctx context.Context, from, to mailbox.Box, set mailbox.UIDSet) (mailbox.Copied, error) {
	return m.transfer(ctx, "Copy", from, to, set, false)
}

// Move is Copy and Expunge as one change. See mailbox.Store.
func (m *Memory) Move(ctx context.Context, from, to mailbox.Box, set mailbox.UIDSet) (mailbox.Copied, error) {
	return m.transfer(ctx, "Move", from, to, set, true)
}

func (m *Memory) transfer(ctx context.Context, method string, from, to mailbox.Box, set mailbox.UIDSet, move bool) (res mailbox.Copied, err error) {
	to, err = cleanBox(to)
	if err != nil {
		return res, err
	}
	err = m.with(ctx, method, from, func(e *effects, from mailbox.Box, src *memBox) error {
		dst, err := m.boxLocked(to)
		if err != nil {
			return err
		}
		res = m.transferLocked(e, from, to, src, dst, set, move)
		return nil
	})
	return res, err
}

func (m *Memory) transferLocked(e *effects, from, to mailbox.Box, src, dst *memBox, set mailbox.UIDSet, move bool) mailbox.Copied {
	res := mailbox.Copied{UIDValidity: dst.view.UIDValidity}
	mod := dst.view.HighestMod + 1
	var size int64
	// src may be dst: the messages are those of the view before.
	src.view.Each(set, func(_ int, msg mailbox.Message) {
		res.From = append(res.From, msg.UID)
		res.To = append(res.To, dst.addLocked(mod, src.data[msg.UID], msg.Arrived(time.Now().Unix())))
		size += msg.Size
	})
	if len(res.To) == 0 {
		return res
	}
	e.used(m, to.Account, size, int64(len(res.To)))
	e.changed(m, to)
	if move {
		m.removeLocked(e, from, src, res.From)
	}
	return res
}

// Boxes lists an account's mailboxes. See mailbox.Store.
func (m *Memory) Boxes(ctx context.Context, a address.Addr) ([]mailbox.Info, error) {
	if err := m.begin(ctx, "Boxes", mailbox.Box{Account: a}); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	infos := []mailbox.Info{{Name: mailbox.Inbox, Subscribed: true}}
	for name, x := range m.accounts[a] {
		info := mailbox.Info{Name: name, SpecialUse: x.specialUse, Subscribed: !x.hidden}
		if name == mailbox.Inbox {
			infos[0] = info
		} else {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos[1:], func(a, b mailbox.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// CreateBox makes a mailbox. See mailbox.Store.
func (m *Memory) CreateBox(ctx context.Context, b mailbox.Box, specialUse string) error {
	b, err := cleanBox(b)
	if err != nil {
		return err
	}
	if err := m.begin(ctx, "CreateBox", b); err != nil {
		return err
	}
	return m.do(func(e *effects) error {
		if m.existsLocked(b) {
			return fault.New(fault.Exists, "Mailbox exists")
		}
		m.makeLocked(b, specialUse)
		e.listed(m, b)
		return nil
	})
}

// RenameBox renames a mailbox and those below it. See mailbox.Store.
func (m *Memory) RenameBox(ctx context.Context, b mailbox.Box, name string) error {
	b, err := cleanBox(b)
	if err != nil {
		return err
	}
	to, err := cleanBox(mailbox.Box{Account: b.Account, Name: name})
	if err != nil {
		return err
	}
	if err := m.begin(ctx, "RenameBox", b); err != nil {
		return err
	}
	return m.do(func(e *effects) error {
		if b.Name == mailbox.Inbox {
			return m.emptyInboxLocked(e, b, to)
		}
		e.listed(m, b)
		return m.renameLocked(e, b, to)
	})
}

// emptyInboxLocked is the renaming of INBOX: its messages move away, those
// of mailboxes below it stay.
func (m *Memory) emptyInboxLocked(e *effects, b, to mailbox.Box) error {
	if m.existsLocked(to) {
		return fault.New(fault.Exists, "Mailbox exists")
	}
	src, err := m.boxLocked(b)
	if err != nil {
		return err
	}
	m.transferLocked(e, b, to, src, m.makeLocked(to, ""), mailbox.All(), true)
	return nil
}

func (m *Memory) renameLocked(e *effects, from, to mailbox.Box) error {
	below := from.Name + string(mailbox.Delimiter)
	switch {
	case !m.existsLocked(from):
		return fault.New(fault.NotFound, "Mailbox does not exist")
	case m.existsLocked(to):
		return fault.New(fault.Exists, "Mailbox exists")
	case strings.HasPrefix(to.Name, below):
		return fault.New(fault.Invalid, "A mailbox cannot move below itself")
	}
	all := m.accounts[from.Account]
	moves := map[string]string{from.Name: to.Name}
	for name := range all {
		rest, ok := strings.CutPrefix(name, below)
		if !ok {
			continue
		}
		child, err := cleanName(to.Name + string(mailbox.Delimiter) + rest)
		if err != nil {
			return err
		}
		if all[child] != nil {
			return fault.New(fault.Exists, "Mailbox exists")
		}
		moves[name] = child
	}
	for old, name := range moves {
		x := all[old]
		delete(all, old)
		all[name] = x
		e.changed(m, mailbox.Box{Account: from.Account, Name: old})
		e.changed(m, mailbox.Box{Account: from.Account, Name: name})
	}
	return nil
}

// RemoveBox removes a mailbox with its messages. See mailbox.Store.
func (m *Memory) RemoveBox(ctx context.Context, b mailbox.Box) error {
	return m.with(ctx, "RemoveBox", b, func(e *effects, b mailbox.Box, x *memBox) error {
		if b.Name == mailbox.Inbox {
			return fault.New(fault.Refused, "INBOX cannot be removed")
		}
		m.dropLocked(e, b, x)
		e.listed(m, b)
		return nil
	})
}

func (m *Memory) dropLocked(e *effects, b mailbox.Box, x *memBox) {
	delete(m.accounts[b.Account], b.Name)
	var size int64
	for _, data := range x.data {
		size += int64(len(data))
	}
	e.used(m, b.Account, -size, -int64(len(x.data)))
	e.changed(m, b)
}

// Subscribe changes whether a mailbox counts as subscribed. See mailbox.Store.
func (m *Memory) Subscribe(ctx context.Context, b mailbox.Box, on bool) error {
	err := m.with(ctx, "Subscribe", b, func(e *effects, b mailbox.Box, x *memBox) error {
		x.hidden = !on
		e.listed(m, b)
		return nil
	})
	if !on && fault.Is(err, fault.NotFound) {
		return nil // it is not subscribed already
	}
	return err
}

// RemoveAccount removes all mailboxes of an account. See mailbox.Store.
func (m *Memory) RemoveAccount(ctx context.Context, a address.Addr) error {
	if err := m.begin(ctx, "RemoveAccount", mailbox.Box{Account: a}); err != nil {
		return err
	}
	return m.do(func(e *effects) error {
		for name, x := range m.accounts[a] {
			m.dropLocked(e, mailbox.Box{Account: a, Name: name}, x)
		}
		delete(m.accounts, a)
		return nil
	})
}

// Usage adds up an account. See mailbox.Store.
func (m *Memory) Usage(ctx context.Context, a address.Addr) (u mailbox.Usage, err error) {
	if err := m.begin(ctx, "Usage", mailbox.Box{Account: a}); err != nil {
		return u, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range m.accounts[a] {
		for _, data := range x.data {
			u.Bytes += int64(len(data))
			u.Messages++
		}
	}
	return u, nil
}

// Accounts calls f for every account that has a mailbox. See mailbox.Store.
func (m *Memory) Accounts(ctx context.Context, f func(a address.Addr) error) error {
	if err := m.begin(ctx, "Accounts", mailbox.Box{}); err != nil {
		return err
	}
	m.mu.Lock()
	var all []address.Addr
	for a := range m.accounts {
		all = append(all, a)
	}
	m.mu.Unlock()
	for _, a := range all {
		if err := f(a); err != nil {
			return fmt.Errorf("mailboxtest: accounts: %w", err)
		}
	}
	return nil
}

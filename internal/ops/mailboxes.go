package ops

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// Mailbox is one of an account's.
type Mailbox struct {
	Name       string `json:"name"`
	SpecialUse string `json:"special_use,omitempty"`
	Subscribed bool   `json:"subscribed"`
	Messages   int    `json:"messages"`
	Unseen     int    `json:"unseen"`
}

// MailboxChange names a mailbox and what is to become of it.
type MailboxChange struct {
	Username   string `json:"username"`
	Name       string `json:"name,omitempty"`
	NewName    string `json:"new_name,omitempty"`
	SpecialUse string `json:"special_use,omitempty"`
}

// MessageSet names messages of a mailbox: numbers and ranges as IMAP writes them,
// which are UIDs when UID is set.
type MessageSet struct {
	Username string   `json:"username"`
	Mailbox  string   `json:"mailbox"`
	Set      string   `json:"set"`
	UID      bool     `json:"uid,omitempty"`
	Full     bool     `json:"full,omitempty"`   // of list: some fields of the header
	Target   string   `json:"target,omitempty"` // of copy and move
	Mode     string   `json:"mode,omitempty"`   // of flags: add, remove or set
	Flags    []string `json:"flags,omitempty"`
}

// MessageInfo is a message as lists show it; never its content.
type MessageInfo struct {
	Number   int      `json:"number"`
	UID      uint32   `json:"uid"`
	Size     int64    `json:"size"`
	Received string   `json:"received"` // RFC 3339
	Flags    []string `json:"flags"`
	// Header is the fields that people look for, with Full only.
	Header map[string]string `json:"header,omitempty"`
}

// MessageAdd says where a message goes. The message itself is the input.
type MessageAdd struct {
	Username string   `json:"username"`
	Mailbox  string   `json:"mailbox"`
	Flags    []string `json:"flags,omitempty"`
	Received string   `json:"received,omitempty"` // RFC 3339; "" is now
}

// Added is a new message.
type Added struct {
	UID         uint32 `json:"uid"`
	UIDValidity uint32 `json:"uid_validity"`
}

// MessagePart asks for a part of the content of one message.
type MessagePart struct {
	Username string `json:"username"`
	Mailbox  string `json:"mailbox"`
	UID      uint32 `json:"uid"`
	Offset   int64  `json:"offset"`
}

// MessageData is a part of a message; the next one begins at Next, 0 for none.
type MessageData struct {
	Data []byte `json:"data"`
	Size int64  `json:"size"` // of the message
	Next int64  `json:"next"`
}

// Furnish names the mailboxes that an account is to have. "" leaves one out.
type Furnish struct {
	Username string `json:"username"`
	Sent     string `json:"sent,omitempty"`
	Trash    string `json:"trash,omitempty"`
	Junk     string `json:"junk,omitempty"`
	Drafts   string `json:"drafts,omitempty"`
	Archive  string `json:"archive,omitempty"`
}

// Changed says how many messages a change was about.
type Changed struct {
	Messages int `json:"messages"`
}

func (d *Desk) defineMailboxes(t Table) {
	Define(t, "mailboxes.list", "List the mailboxes of an account", d.mailboxes)
	Define(t, "mailboxes.create", "Make a mailbox", d.mailboxCreate)
	Define(t, "mailboxes.remove", "Remove a mailbox with its messages", d.mailboxRemove)
	Define(t, "mailboxes.rename", "Rename a mailbox and those below it", d.mailboxRename)
	Define(t, "mailboxes.furnish", "Make the usual mailboxes of an account", d.furnish)
	Define(t, "mail.remove", "Remove the mail of an account and block its name", d.mailRemove)
	Define(t, "messages.add", "Put a message into a mailbox", d.messageAdd)
	Define(t, "messages.read", "Read a part of a message", d.messageRead)
	Define(t, "messages.list", "List messages without their content", d.messages)
	Define(t, "messages.flags", "Change the flags of messages", d.messageFlags)
	Define(t, "messages.copy", "Copy messages to another mailbox", d.messageCopy)
	Define(t, "messages.move", "Move messages to another mailbox", d.messageMove)
	Define(t, "messages.remove", "Remove messages", d.messageRemove)
}

// owner finds an account that has mail or could have.
func (d *Desk) owner(name string) (address.Addr, error) {
	a, err := d.parse(name)
	if err == nil && !d.Accounts.Exists(a) && !isThere(d.Mail(a)) {
		err = missing(fault.New(fault.NotFound, ""), a)
	}
	return a, err
}

func (d *Desk) box(p MailboxChange) (mailbox.Box, error) {
	a, err := d.owner(p.Username)
	if err == nil && p.Name == "" {
		err = fault.New(fault.Invalid, "the mailbox has no name")
	}
	return mailbox.Box{Account: a, Name: p.Name}, err
}

func (d *Desk) mailboxes(ctx context.Context, p MailboxChange) (map[string][]Mailbox, error) {
	a, err := d.owner(p.Username)
	if err != nil {
		return nil, err
	}
	infos, err := d.Boxes.Boxes(ctx, a)
	if err != nil {
		return nil, err
	}
	list := []Mailbox{}
	for _, i := range infos {
		m := Mailbox{Name: i.Name, SpecialUse: i.SpecialUse, Subscribed: i.Subscribed}
		v, err := d.Boxes.View(ctx, mailbox.Box{Account: a, Name: i.Name})
		if err != nil {
			return nil, err
		}
		m.Messages = v.Len()
		for k := range v.Len() {
			if v.At(k).Flags&mailbox.Seen == 0 {
				m.Unseen++
			}
		}
		list = append(list, m)
	}
	return map[string][]Mailbox{"mailboxes": list}, nil
}

func (d *Desk) mailboxCreate(ctx context.Context, p MailboxChange) (MailboxChange, error) {
	b, err := d.box(p)
	if err != nil {
		return p, err
	}
	return p, d.Boxes.CreateBox(ctx, b, p.SpecialUse)
}

func (d *Desk) mailboxRemove(ctx context.Context, p MailboxChange) (MailboxChange, error) {
	b, err := d.box(p)
	if err != nil {
		return p, err
	}
	return p, d.Boxes.RemoveBox(ctx, b)
}

func (d *Desk) mailboxRename(ctx context.Context, p MailboxChange) (MailboxChange, error) {
	b, err := d.box(p)
	if err == nil && p.NewName == "" {
		err = fault.New(fault.Invalid, "the mailbox needs another name")
	}
	if err != nil {
		return p, err
	}
	return p, d.Boxes.RenameBox(ctx, b, p.NewName)
}

// picked returns the messages that p names.
func (d *Desk) picked(ctx context.Context, p MessageSet) (mailbox.Box, *mailbox.View, mailbox.UIDSet, error) {
	b, err := d.box(MailboxChange{Username: p.Username, Name: p.Mailbox})
	if err != nil {
		return b, nil, nil, err
	}
	v, err := d.Boxes.View(ctx, b)
	if err != nil {
		return b, nil, nil, err
	}
	last := uint32(v.Len())
	if p.UID && v.Len() > 0 {
		last = uint32(v.At(v.Len() - 1).UID)
	}
	var set mailbox.UIDSet
	for part := range strings.SplitSeq(p.Set, ",") {
		first, second, isRange := strings.Cut(strings.TrimSpace(part), ":")
		if !isRange {
			second = first
		}
		from, err1 := number(first, last)
		to, err2 := number(second, last)
		if err1 != nil || err2 != nil {
			return b, nil, nil, fault.WithHint(fault.Newf(fault.Invalid, "%.40q is not a set of messages", p.Set), `write "1:10,12" or "1:*"`)
		}
		if from > to {
			from, to = to, from
		}
		if p.UID {
			set = append(set, mailbox.UIDRange{First: mailbox.UID(from), Last: mailbox.UID(to)})
			continue
		}
		if from = max(from, 1); from <= uint32(v.Len()) {
			set = append(set, mailbox.UIDRange{First: v.At(int(from) - 1).UID, Last: v.At(int(min(to, uint32(v.Len()))) - 1).UID})
		}
	}
	return b, v, set.Normal(), nil
}

// number reads a number of a set; * is the last one.
func number(text string, last uint32) (uint32, error) {
	if text == "*" {
		return last, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

// systemFlags are those with a meaning of their own, as IMAP writes them.
var systemFlags = []struct {
	name string
	flag mailbox.Flags
}{{`\Seen`, mailbox.Seen}, {`\Answered`, mailbox.Answered}, {`\Flagged`, mailbox.Flagged}, {`\Deleted`, mailbox.Deleted}, {`\Draft`, mailbox.Draft}}

func (d *Desk) messages(ctx context.Context, p MessageSet) (map[string][]MessageInfo, error) {
	b, v, set, err := d.picked(ctx, p)
	if err != nil {
		return nil, err
	}
	list := []MessageInfo{}
	v.Each(set, func(i int, m mailbox.Message) {
		x := MessageInfo{Number: i + 1, UID: uint32(m.UID), Size: m.Size, Received: time.Unix(m.Internal, 0).UTC().Format(time.RFC3339), Flags: []string{}}
		for _, f := range systemFlags {
			if m.Flags&f.flag != 0 {
				x.Flags = append(x.Flags, f.name)
			}
		}
		x.Flags = append(x.Flags, m.Keywords...)
		list = append(list, x)
	})
	for i := range list {
		if !p.Full {
			break
		}
		if list[i].Header, err = d.header(ctx, b, mailbox.UID(list[i].UID)); err != nil {
			return nil, err
		}
	}
	return map[string][]MessageInfo{"messages": list}, nil
}

// header returns the fields of a message that people look for.
func (d *Desk) header(ctx context.Context, b mailbox.Box, uid mailbox.UID) (map[string]string, error) {
	raw, err := d.Boxes.Head(ctx, b, uid)
	if err != nil {
		return nil, err
	}
	fields := make(map[string]string)
	h := message.ScanHeader(raw)
	for _, name := range []string{"From", "To", "Subject", "Date", "Message-ID"} {
		if v, ok := h.Get(name); ok {
			fields[name] = v
		}
	}
	return fields, nil
}

func (d *Desk) messageAdd(ctx context.Context, p MessageAdd) (Added, error) {
	b, err := d.box(MailboxChange{Username: p.Username, Name: p.Mailbox})
	if err != nil {
		return Added{}, err
	}
	t := mailbox.Target{Box: b}
	if t.Flags, t.Keywords, err = flagsOf(p.Flags); err != nil {
		return Added{}, err
	}
	if p.Received != "" {
		if t.Internal, err = time.Parse(time.RFC3339, p.Received); err != nil {
			return Added{}, fault.WithHint(fault.Newf(fault.Invalid, "%.40q is not a time", p.Received), `write "2026-01-31T12:00:00Z"`)
		}
	}
	r, size, err := inputOf(ctx)
	if err != nil {
		return Added{}, err
	}
	placed, err := d.Append(ctx, t, r, size)
	if err == nil {
		err = placed.Err
	}
	return Added{uint32(placed.UID), placed.UIDValidity}, err
}

// partSize is how much of a message is read at a time.
const partSize = 4 << 20

func (d *Desk) messageRead(ctx context.Context, p MessagePart) (MessageData, error) {
	b, err := d.box(MailboxChange{Username: p.Username, Name: p.Mailbox})
	if err != nil {
		return MessageData{}, err
	}
	c, err := d.Boxes.Open(ctx, b, mailbox.UID(p.UID))
	if err != nil {
		return MessageData{}, err
	}
	defer c.Close()
	if p.Offset < 0 || p.Offset > c.Size() {
		return MessageData{}, fault.Newf(fault.Invalid, "the message has no octet %d", p.Offset)
	}
	r := MessageData{Data: make([]byte, min(partSize, c.Size()-p.Offset)), Size: c.Size()}
	if _, err := c.ReadAt(r.Data, p.Offset); err != nil && !errors.Is(err, io.EOF) {
		return MessageData{}, fault.Wrap(fault.Busy, err, "read the message")
	}
	if end := p.Offset + int64(len(r.Data)); end < r.Size {
		r.Next = end
	}
	return r, nil
}

func (d *Desk) furnish(ctx context.Context, p Furnish) (map[string][]string, error) {
	a, err := d.owner(p.Username)
	if err != nil {
		return nil, err
	}
	made := []string{}
	for _, x := range [][2]string{{p.Sent, `\Sent`}, {p.Trash, `\Trash`}, {p.Junk, `\Junk`}, {p.Drafts, `\Drafts`}, {p.Archive, `\Archive`}} {
		if x[0] == "" {
			continue
		}
		switch err := d.Boxes.CreateBox(ctx, mailbox.Box{Account: a, Name: x[0]}, x[1]); {
		case err == nil:
			made = append(made, x[0])
		case !fault.Is(err, fault.Exists):
			return nil, err
		}
	}
	return map[string][]string{"created": made}, nil
}

// mailRemove takes the mail and keeps the credentials, for scripts of the first
// version: the name is blocked, so that nobody goes on with an empty mailbox.
func (d *Desk) mailRemove(ctx context.Context, u User) (User, error) {
	a, err := d.owner(u.Username)
	if err != nil {
		return User{}, err
	}
	r := User{Username: a.Wire(), Reason: "account deleted via CLI"}
	if err := d.Accounts.Block(ctx, a, r.Reason); err != nil {
		return User{}, err
	}
	return r, d.Boxes.RemoveAccount(ctx, a)
}

// count returns how many messages a set holds.
func count(v *mailbox.View, set mailbox.UIDSet) (n int) {
	v.Each(set, func(int, mailbox.Message) { n++ })
	return n
}

func (d *Desk) messageFlags(ctx context.Context, p MessageSet) (Changed, error) {
	b, v, set, err := d.picked(ctx, p)
	if err != nil {
		return Changed{}, err
	}
	var c mailbox.FlagChange
	switch p.Mode {
	case "add":
		c.Op = mailbox.AddFlags
	case "remove":
		c.Op = mailbox.RemoveFlags
	case "set":
		c.Op = mailbox.SetFlags
	default:
		return Changed{}, fault.Newf(fault.Invalid, "%.20q is none of add, remove, set", p.Mode)
	}
	if c.Flags, c.Keywords, err = flagsOf(p.Flags); err != nil {
		return Changed{}, err
	}
	_, err = d.Boxes.Change(ctx, b, set, c)
	return Changed{count(v, set)}, err
}

// flagsOf reads flags and keywords as IMAP writes them.
func flagsOf(names []string) (flags mailbox.Flags, keywords []string, err error) {
	for _, name := range names {
		i := slices.IndexFunc(systemFlags, func(f struct {
			name string
			flag mailbox.Flags
		}) bool {
			return strings.EqualFold(f.name, name)
		})
		switch {
		case i >= 0:
			flags |= systemFlags[i].flag
		case name == "" || len(name) > 100 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`(){%*"\]`, r) }):
			return 0, nil, fault.Newf(fault.Invalid, "%.40q is not a flag", name)
		default:
			keywords = append(keywords, name)
		}
	}
	return flags, keywords, nil
}

func (d *Desk) messageCopy(ctx context.Context, p MessageSet) (Changed, error) {
	return d.transfer(ctx, p, d.Boxes.Copy)
}
func (d *Desk) messageMove(ctx context.Context, p MessageSet) (Changed, error) {
	return d.transfer(ctx, p, d.Boxes.Move)
}

func (d *Desk) transfer(ctx context.Context, p MessageSet, do func(ctx context.Context, from, to mailbox.Box, set mailbox.UIDSet) (mailbox.Copied, error)) (Changed, error) {
	b, _, set, err := d.picked(ctx, p)
	if err == nil && p.Target == "" {
		err = fault.New(fault.Invalid, "the target mailbox has no name")
	}
	if err != nil {
		return Changed{}, err
	}
	c, err := do(ctx, b, mailbox.Box{Account: b.Account, Name: p.Target}, set)
	return Changed{len(c.From)}, err
}

func (d *Desk) messageRemove(ctx context.Context, p MessageSet) (Changed, error) {
	b, _, set, err := d.picked(ctx, p)
	if err != nil {
		return Changed{}, err
	}
	gone, err := d.Boxes.Expunge(ctx, b, set, false)
	return Changed{len(gone)}, err
}

package ops

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
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
	_, v, set, err := d.picked(ctx, p)
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
	return map[string][]MessageInfo{"messages": list}, nil
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
	for _, name := range p.Flags {
		i := slices.IndexFunc(systemFlags, func(f struct {
			name string
			flag mailbox.Flags
		}) bool {
			return strings.EqualFold(f.name, name)
		})
		switch {
		case i >= 0:
			c.Flags |= systemFlags[i].flag
		case name == "" || len(name) > 100 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`(){%*"\]`, r) }):
			return Changed{}, fault.Newf(fault.Invalid, "%.40q is not a flag", name)
		default:
			c.Keywords = append(c.Keywords, name)
		}
	}
	_, err = d.Boxes.Change(ctx, b, set, c)
	return Changed{count(v, set)}, err
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

package webimap

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// box is a mailbox in a listing.
type box struct {
	Name       string   `json:"name"`
	Attributes []string `json:"attributes,omitempty"`
	Messages   int      `json:"messages"`
	Unseen     int      `json:"unseen"`
}

// summary is a message without its text. Times are RFC 3339 in UTC.
type summary struct {
	UID      mailbox.UID `json:"uid"`
	SeqNum   int         `json:"seq_num"`
	Flags    []string    `json:"flags"`
	Size     int64       `json:"size"`
	Date     string      `json:"date"` // of arrival
	Envelope envelope    `json:"envelope"`
}

type envelope struct {
	Date      string   `json:"date"`
	Subject   string   `json:"subject"`
	From      []person `json:"from"`
	To        []person `json:"to"`
	Cc        []person `json:"cc"`
	MessageID string   `json:"message_id,omitempty"`
	InReplyTo string   `json:"in_reply_to,omitempty"`
}

type person struct {
	Name    string `json:"name,omitempty"`
	Mailbox string `json:"mailbox"`
	Host    string `json:"host"`
}

var flagNames = []struct {
	flag mailbox.Flags
	name string
}{
	{mailbox.Seen, `\Seen`}, {mailbox.Answered, `\Answered`}, {mailbox.Flagged, `\Flagged`}, {mailbox.Deleted, `\Deleted`}, {mailbox.Draft, `\Draft`},
}

// Limits of keywords in one request.
const (
	maxKeywords = 64
	maxKeyword  = 128
)

// parseFlags takes flags apart. \Recent cannot be set and is ignored.
func parseFlags(names []string) (f mailbox.Flags, keywords []string, ok bool) {
next:
	for _, n := range names {
		for _, known := range flagNames {
			if strings.EqualFold(n, known.name) {
				f |= known.flag
				continue next
			}
		}
		if strings.EqualFold(n, `\Recent`) {
			continue
		}
		// An atom (RFC 3501 section 9).
		if n == "" || len(n) > maxKeyword || len(keywords) == maxKeywords ||
			strings.ContainsFunc(n, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`(){%*"\]`, c) }) {
			return 0, nil, false
		}
		keywords = append(keywords, n)
	}
	return f, keywords, true
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// people lists the addresses of a field. Groups are their members.
func people(list []message.Address) []person {
	out := make([]person, 0, len(list))
	for _, a := range list {
		if a.Mark == message.Single {
			out = append(out, person{message.DecodeWords(a.Name), a.Mailbox, a.Host})
		}
	}
	return out
}

// describe makes the summary of the message at index i of a view.
func describe(i int, m mailbox.Message, head []byte) summary {
	e := message.ScanHeader(head).Envelope()
	arrived := time.Unix(m.Internal, 0)
	s := summary{UID: m.UID, SeqNum: i + 1, Flags: []string{}, Size: m.Size, Date: stamp(arrived), Envelope: envelope{
		Date: stamp(arrived), Subject: message.DecodeWords(e.Subject.Value), From: people(e.From), To: people(e.To), Cc: people(e.Cc),
		MessageID: e.MessageID.Value, InReplyTo: e.InReplyTo.Value,
	}}
	if t, err := message.ParseDate(e.Date.Value); err == nil && t.UTC().Year() >= 0 && t.UTC().Year() <= 9999 {
		s.Envelope.Date = stamp(t)
	}
	for _, f := range flagNames {
		if m.Flags&f.flag != 0 {
			s.Flags = append(s.Flags, f.name)
		}
	}
	s.Flags = append(s.Flags, m.Keywords...)
	return s
}

// mail is what the requests of one account do. Each method checks its arguments.
type mail struct {
	*Handler
	account address.Addr
}

func (m mail) box(name string) mailbox.Box {
	const inbox = mailbox.Inbox
	switch n := len(inbox); {
	case name == "" || strings.EqualFold(name, inbox):
		name = inbox
	case len(name) > n && name[n] == mailbox.Delimiter && strings.EqualFold(name[:n], inbox): // as events spell it
		name = inbox + name[n:]
	}
	return mailbox.Box{Account: m.account, Name: name}
}

// boxed says of an error of a mailbox that there is none.
func boxed(err error) error {
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) {
		return errUnknownBox
	}
	return err
}

// view is a mailbox as it is now.
func (m mail) view(ctx context.Context, name string) (mailbox.Box, *mailbox.View, error) {
	b := m.box(name)
	v, err := m.Store.View(ctx, b)
	return b, v, boxed(err)
}

// one finds a message of a mailbox.
func (m mail) one(ctx context.Context, name string, uid mailbox.UID) (mailbox.Box, *mailbox.View, int, error) {
	if uid == 0 {
		return mailbox.Box{}, nil, 0, errNoUID
	}
	b, v, err := m.view(ctx, name)
	if err != nil {
		return b, nil, 0, err
	}
	i, ok := v.Index(uid)
	if !ok {
		return b, v, 0, errNoMessage
	}
	return b, v, i, nil
}

// boxes lists the mailboxes.
func (m mail) boxes(ctx context.Context) ([]box, error) {
	list, err := m.Store.Boxes(ctx, m.account)
	if err != nil {
		return nil, err
	}
	out := make([]box, 0, len(list))
	for _, x := range list {
		v, err := m.Store.View(ctx, mailbox.Box{Account: m.account, Name: x.Name})
		if fault.Is(err, fault.NotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		b := box{Name: x.Name, Messages: v.Len()}
		if x.SpecialUse != "" {
			b.Attributes = []string{x.SpecialUse}
		}
		for i := range v.Len() {
			if v.At(i).Flags&mailbox.Seen == 0 {
				b.Unseen++
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// above is the set of all UIDs above one.
func above(uid mailbox.UID) mailbox.UIDSet {
	if uid == math.MaxUint32 {
		return nil
	}
	return mailbox.UIDSet{{First: uid + 1, Last: math.MaxUint32}}
}

// each calls f with the messages of a view that are in set, in order. It ends with
// ctx, and with the first error of f.
func (m mail) each(ctx context.Context, b mailbox.Box, v *mailbox.View, set mailbox.UIDSet, f func(summary) error) (err error) {
	for _, r := range set {
		for i, _ := v.Index(r.First); i < v.Len() && v.At(i).UID <= r.Last; i++ {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			head, err := m.Store.Head(ctx, b, v.At(i).UID)
			if fault.Is(err, fault.NotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
			if err := f(describe(i, v.At(i), head)); err != nil {
				return err
			}
		}
	}
	return nil
}

// array writes what each yields as a JSON array.
func array(w *bufio.Writer, each func(f func(summary) error) error) error {
	sep := byte('[')
	err := each(func(s summary) error {
		_ = w.WriteByte(sep)
		sep = ','
		raw, err := json.Marshal(s)
		if err != nil {
			return err
		}
		_, err = w.Write(raw)
		return err
	})
	if err != nil {
		return err
	}
	if sep == '[' {
		_ = w.WriteByte('[')
	}
	return w.WriteByte(']')
}

// opened is a message that is about to be sent.
type opened struct {
	mailbox.Content
	summary
	text   bool // all of it is UTF-8
	packed bool // the client wants base64 only
}

// fetch opens a message. The caller closes it.
func (m mail) fetch(ctx context.Context, name string, uid mailbox.UID, packed bool) (*opened, error) {
	b, v, i, err := m.one(ctx, name, uid)
	if err != nil {
		return nil, err
	}
	head, err := m.Store.Head(ctx, b, uid)
	if err == nil {
		var c mailbox.Content
		if c, err = m.Store.Open(ctx, b, uid); err == nil {
			o := &opened{Content: c, summary: describe(i, v.At(i), head), packed: packed}
			if !packed {
				o.text, err = isText(o.reader())
			}
			if err == nil {
				return o, nil
			}
			c.Close()
		}
	}
	if fault.Is(err, fault.NotFound) {
		err = errNoMessage
	}
	return nil, err
}

func (o *opened) reader() io.Reader { return io.NewSectionReader(o.Content, 0, o.Content.Size()) }

// write writes summary and text as a JSON object. A text that is not UTF-8 is there
// twice: as well as JSON can, and as it is.
func (o *opened) write(w *bufio.Writer) error {
	raw, err := json.Marshal(o.summary)
	if err != nil {
		return err
	}
	_, _ = w.Write(raw[:len(raw)-1])
	if !o.packed {
		_, _ = w.WriteString(`,"body":`)
		if err := quote(w, o.reader()); err != nil {
			return err
		}
	}
	if o.packed || !o.text {
		_, _ = w.WriteString(`,"body_base64":`)
		if err := quoteBase64(w, o.reader()); err != nil {
			return err
		}
	}
	return w.WriteByte('}')
}

var changes = map[string]mailbox.ChangeOp{"add": mailbox.AddFlags, "remove": mailbox.RemoveFlags, "set": mailbox.SetFlags}

// flag changes flags of a message.
func (m mail) flag(ctx context.Context, q *query) error {
	op, ok := changes[q.Op]
	if !ok {
		return errBadOp
	}
	flags, keywords, ok := parseFlags(q.Flags)
	if !ok {
		return errBadFlags
	}
	b, _, _, err := m.one(ctx, q.Mailbox, q.UID)
	if err != nil {
		return err
	}
	_, err = m.Store.Change(ctx, b, only(q.UID), mailbox.FlagChange{Op: op, Flags: flags, Keywords: keywords})
	return boxed(err)
}

func only(uid mailbox.UID) mailbox.UIDSet { return mailbox.UIDSet{{First: uid, Last: uid}} }

// remove deletes a message.
func (m mail) remove(ctx context.Context, name string, uid mailbox.UID) error {
	b, _, _, err := m.one(ctx, name, uid)
	if err != nil {
		return err
	}
	gone, err := m.Store.Expunge(ctx, b, only(uid), false)
	if err == nil && len(gone) == 0 {
		return errNoMessage
	}
	return boxed(err)
}

// transfer copies or moves a message.
func (m mail) transfer(ctx context.Context, q *query, move bool) error {
	dest := q.Dest
	if dest == "" {
		dest = q.Destination
	}
	if dest == "" {
		return no(http.StatusBadRequest, "dest_mailbox is required")
	}
	b, v, i, err := m.one(ctx, q.Mailbox, q.UID)
	if err != nil {
		return err
	}
	do := m.Store.Move
	if !move {
		if !m.HasRoom(m.account, v.At(i).Size) {
			return fault.New(fault.Full, "Mailbox is full")
		}
		do = m.Store.Copy
	}
	res, err := do(ctx, b, m.box(dest), only(q.UID))
	if err == nil && len(res.From) == 0 {
		return errNoMessage
	}
	return boxed(err)
}

// create, drop and rename change the list of mailboxes.
func (m mail) create(ctx context.Context, name string) error {
	if name == "" {
		return no(http.StatusBadRequest, "name is required")
	}
	return m.Store.CreateBox(ctx, m.box(name), "")
}

func (m mail) drop(ctx context.Context, name string) error {
	if name == "" {
		return no(http.StatusBadRequest, "name is required")
	}
	err := m.Store.RemoveBox(ctx, m.box(name))
	if fault.Is(err, fault.NotFound) {
		return errUnknownBox
	}
	return err
}

func (m mail) rename(ctx context.Context, from, to string) error {
	if from == "" || to == "" {
		return no(http.StatusBadRequest, "old_name and new_name are required")
	}
	err := m.Store.RenameBox(ctx, m.box(from), m.box(to).Name)
	if fault.Is(err, fault.NotFound) {
		return errUnknownBox
	}
	return err
}

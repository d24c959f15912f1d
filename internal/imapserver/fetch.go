package imapserver

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// fetch answers FETCH and UID FETCH (RFC 3501 section 6.4.5).
func (c *session) fetch(cmd *command) response {
	p := cmd.p
	p.SP()
	nums := p.Set()
	p.SP()
	items := p.FetchItems()
	var since mailbox.ModSeq
	changed, vanished := false, false
	if p.More() {
		p.SP()
		p.List(func() {
			if p.TryWord("VANISHED") {
				vanished = true
				return
			}
			if !p.TryWord("CHANGEDSINCE") {
				p.Refuse("CHANGEDSINCE or VANISHED")
			}
			p.SP()
			since, changed = mailbox.ModSeq(p.Number63()), true
		})
		items = withItem(items, "MODSEQ")
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if vanished && (!changed || !cmd.uid || !c.qresync) {
		return response{status: "BAD", text: "VANISHED needs UID FETCH, CHANGEDSINCE and ENABLE QRESYNC"}
	}
	if cmd.uid {
		items = withItem(items, "UID")
		// What was announced can be fetched, and what is fetched was announced.
		if err := c.update(true); err != nil {
			return response{}
		}
	}
	if slices.ContainsFunc(items, func(it imap.FetchItem) bool { return it.Name == "MODSEQ" }) {
		c.enableCondstore()
	}
	f := fetcher{session: c, items: items}
	set := c.resolve(nums, cmd.uid)
	if vanished {
		c.vanishedEarlier(since, nums)
	}
	c.known.Each(set, func(i int, m mailbox.Message) {
		if f.err == nil && m.ModSeq > since {
			f.message(i, m)
		}
	})
	f.end()
	if f.err != nil {
		// A refusal would make clients skip the message for good; a lost
		// connection makes them ask again.
		c.srv.opt.Logger.Warn("fetch failed", "err", f.err)
		c.put("* BYE [UNAVAILABLE] Internal trouble, connect again\r\n")
		return response{}
	}
	f.markSeen()
	if f.unknown {
		return no("UNKNOWN-CTE", "A part is in an unknown transfer encoding")
	}
	return ok("Fetch completed")
}

// markSeen sets \Seen where a text was fetched (RFC 3501 section 6.4.5).
func (f *fetcher) markSeen() {
	if len(f.seen) == 0 || f.readOnly {
		return
	}
	ctx, cancel := f.ctx()
	defer cancel()
	_, err := f.srv.opt.Store.Change(ctx, f.box, f.seen, mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen})
	if err != nil {
		f.srv.opt.Logger.Warn("messages could not be marked seen", "err", err)
	}
}

func withItem(items []imap.FetchItem, name string) []imap.FetchItem {
	for _, it := range items {
		if it.Name == name {
			return items
		}
	}
	return append([]imap.FetchItem{{Name: name}}, items...)
}

// fetcher writes the responses of one FETCH.
type fetcher struct {
	*session
	items []imap.FetchItem
	seen  mailbox.UIDSet
	err   error
	pick  []byte // for header fields, used again and again

	asking context.Context // see ask
	asked  time.Time
	cancel context.CancelFunc

	holding bool // records are held back
	unknown bool // a message was left out: see errUnknownCTE

	// of the present message
	uid     mailbox.UID
	content mailbox.Content // nil until something but the header is asked for
	head    []byte          // its header block
	tree    *message.Part
}

// ask returns the context of what is asked of the store for a message. It is made
// anew only now and then: with its timer it costs more than most answers.
func (f *fetcher) ask() context.Context {
	if now := time.Now(); f.cancel == nil || now.Sub(f.asked) > 5*time.Second {
		if f.cancel != nil {
			f.cancel()
		}
		f.asked = now
		f.asking, f.cancel = f.ctx()
	}
	return f.asking
}

// flush sends what was collected. From the first time on records are held back, to
// send several at once, until end.
func (f *fetcher) flush() error {
	if f.lower != nil && !f.holding {
		f.lower.hold()
		f.holding = true
	}
	return f.session.flush()
}

// end gives back what the FETCH held.
func (f *fetcher) end() {
	if f.cancel != nil {
		f.cancel()
	}
	if f.holding {
		// The last flush may be long ago: disks can be slow.
		f.err = errors.Join(f.err, f.patientWrite(), f.lower.let())
	}
}

func (f *fetcher) message(i int, m mailbox.Message) {
	defer f.done()
	f.uid = m.UID
	if err := f.load(); err != nil {
		if errors.Is(err, errUnknownCTE) {
			f.unknown = true
		} else if !fault.Is(err, fault.NotFound) { // expunged by another session: RFC 2180 section 4.1.2
			f.err = err
		}
		return
	}
	f.put("* ")
	f.num(uint64(i + 1))
	f.put(" FETCH (")
	for k := range f.items {
		if k > 0 {
			f.put(" ")
		}
		if f.err = f.item(&f.items[k], m); f.err != nil {
			return
		}
	}
	f.put(")\r\n")
	if b := f.out.bytes(); len(*b) >= outSize {
		f.err = f.flush()
	}
}

// load makes sure that the message is there before its response begins. Where
// the header is enough the message is not opened.
func (f *fetcher) load() (err error) {
	head, all := false, false
	for i := range f.items {
		switch it := &f.items[i]; it.Name {
		case "FLAGS", "UID", "RFC822.SIZE", "INTERNALDATE", "MODSEQ", "SAVEDATE":
		case "ENVELOPE", "RFC822.HEADER", "THREADID":
			head = true
		case "BODY[]":
			if len(it.Section.Part) == 0 && strings.HasPrefix(it.Section.Spec, "HEADER") {
				head = true
			} else {
				all = true
			}
		default:
			all = true
		}
	}
	switch {
	case all:
		if f.content, err = f.srv.opt.Store.Open(f.ask(), f.box, f.uid); err == nil {
			err = f.decodable()
		}
	case head:
		f.head, err = f.srv.opt.Store.Head(f.ask(), f.box, f.uid)
	}
	return err
}

func (f *fetcher) done() {
	if f.content != nil {
		f.content.Close()
	}
	f.content, f.head, f.tree = nil, nil, nil
}

func (f *fetcher) item(it *imap.FetchItem, m mailbox.Message) error {
	switch it.Name {
	case "FLAGS":
		f.flags(m)
	case "UID":
		f.put("UID ")
		f.num(uint64(m.UID))
	case "RFC822.SIZE":
		f.put("RFC822.SIZE ")
		f.num(uint64(m.Size))
	case "MODSEQ":
		f.put("MODSEQ (")
		f.num(uint64(m.ModSeq))
		f.put(")")
	case "INTERNALDATE":
		f.put("INTERNALDATE ")
		b := f.out.bytes()
		*b = imap.DateTime(*b, m.Internal)
	case "SAVEDATE":
		f.put("SAVEDATE ")
		b := f.out.bytes()
		*b = imap.DateTime(*b, m.SavedAt())
	case "EMAILID", "THREADID":
		return f.objectID(it.Name, m)
	case "PREVIEW":
		return f.preview(it.Lazy)
	case "BINARY[]", "BINARY.SIZE":
		return f.binary(it, m)
	case "BODY[]":
		return f.section(it, "BODY["+it.Section.Text+"]", it.Section, m)
	case "RFC822":
		return f.section(it, "RFC822", imap.Section{}, m)
	case "RFC822.HEADER":
		return f.section(it, "RFC822.HEADER", imap.Section{Spec: "HEADER"}, m)
	case "RFC822.TEXT":
		return f.section(it, "RFC822.TEXT", imap.Section{Spec: "TEXT"}, m)
	default:
		return f.structure(it.Name)
	}
	return nil
}

// section writes a part of the message as a literal.
func (f *fetcher) section(it *imap.FetchItem, name string, s imap.Section, m mailbox.Message) error {
	if !it.Peek && m.Flags&mailbox.Seen == 0 {
		f.seen = f.seen.Add(m.UID)
	}
	f.put(name)
	if it.Partial {
		f.put("<")
		f.num(uint64(it.Offset))
		f.put(">")
	}
	f.put(" ")
	data, off, n, found, err := f.part(s)
	if err != nil {
		return err
	}
	if !found {
		f.put("NIL")
		return nil
	}
	if data != nil {
		n = int64(len(data))
	}
	if it.Partial {
		from := min(it.Offset, n)
		n = min(it.Count, n-from)
		if data != nil {
			data = data[from : from+n]
		}
		off += from
	}
	f.put("{")
	f.num(uint64(n))
	f.put("}\r\n")
	if data != nil {
		b := f.out.bytes()
		*b = append(*b, data...)
		return nil
	}
	return f.stream(off, n)
}

// part finds a section: as octets in memory, or as a range of the message.
func (f *fetcher) part(s imap.Section) (data []byte, off, n int64, found bool, err error) {
	if len(s.Part) > 0 {
		return f.mimePart(s)
	}
	if s.Spec == "" {
		return nil, 0, f.content.Size(), true, nil
	}
	head, err := f.header()
	if err != nil {
		return nil, 0, 0, false, err
	}
	switch s.Spec {
	case "HEADER":
		return head, 0, 0, true, nil
	case "TEXT":
		return nil, int64(len(head)), f.content.Size() - int64(len(head)), true, nil
	case "HEADER.FIELDS":
		return f.fields(head, s.Fields, false), 0, 0, true, nil
	}
	return f.fields(head, s.Fields, true), 0, 0, true, nil
}

// fields is message.Pick; the result holds until the next one.
func (f *fetcher) fields(head []byte, names []string, not bool) []byte {
	f.pick = message.Pick(f.pick[:0], head, names, not)
	return f.pick
}

// header returns the message's header block, with the blank line.
func (f *fetcher) header() ([]byte, error) {
	if f.head != nil {
		return f.head, nil
	}
	var err error
	f.head, err = f.srv.opt.Store.Head(f.ask(), f.box, f.uid)
	return f.head, err
}

// bulk is how much of a message is read at once. With less, system calls take much of
// the time; more leaves the CPU's cache.
const bulk = 128 << 10

var bulks = sync.Pool{New: func() any { return new([bulk]byte) }}

// stream sends a range of the message in pieces, with constant memory.
func (f *fetcher) stream(off, n int64) error {
	return f.pieces(n, func(p []byte) error {
		got, err := f.content.ReadAt(p, off)
		off += int64(got)
		if got < len(p) && (err == nil || err == io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if got == len(p) {
			err = nil
		}
		return err
	})
}

// pieces sends n octets that fill fills in.
func (f *fetcher) pieces(n int64, fill func(p []byte) error) (err error) {
	if n > maxHeld && !f.out.deflate {
		return f.inBulk(n, fill)
	}
	for n > 0 {
		b := f.out.bytes()
		at := len(*b)
		if at >= outSize {
			if err := f.flush(); err != nil {
				return err
			}
			continue
		}
		k := int(min(int64(outSize-at), n))
		*b = (*b)[:at+k]
		if err := fill((*b)[at:]); err != nil {
			*b = (*b)[:at]
			return err
		}
		n -= int64(k)
	}
	return nil
}

// inBulk sends n octets past the output's buffer.
func (f *fetcher) inBulk(n int64, fill func(p []byte) error) error {
	if err := f.flush(); err != nil {
		return err
	}
	buf := bulks.Get().(*[bulk]byte)
	defer bulks.Put(buf)
	for n > 0 {
		p := buf[:min(n, bulk)]
		if err := fill(p); err != nil {
			return err
		}
		if err := f.send(p); err != nil {
			return err
		}
		n -= int64(len(p))
	}
	return nil
}

// store answers STORE and UID STORE (RFC 3501 section 6.4.6, RFC 7162 section 3.1.3).
func (c *session) store(cmd *command) response {
	p := cmd.p
	p.SP()
	nums := p.Set()
	p.SP()
	var ch mailbox.FlagChange
	if p.Peek('(') {
		p.List(func() {
			if !p.TryWord("UNCHANGEDSINCE") {
				p.Refuse("UNCHANGEDSINCE")
			}
			p.SP()
			ch.UnchangedSince, ch.IfUnchanged = mailbox.ModSeq(p.Number63()), true
		})
		p.SP()
	}
	switch {
	case p.Try('+'):
		ch.Op = mailbox.AddFlags
	case p.Try('-'):
		ch.Op = mailbox.RemoveFlags
	}
	name := strings.ToUpper(p.Atom())
	silent := name == "FLAGS.SILENT"
	if name != "FLAGS" && !silent {
		p.Refuse("FLAGS or FLAGS.SILENT")
	}
	p.SP()
	flags, keywords, valid := parseFlags(p.Flags())
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if !valid {
		return response{status: "BAD", text: badFlags}
	}
	if c.readOnly {
		return no("READ-ONLY", "Mailbox is read-only")
	}
	if ch.IfUnchanged {
		c.enableCondstore()
	}
	ch.Flags, ch.Keywords = flags, keywords
	set := c.resolve(nums, cmd.uid)
	ctx, cancel := c.ctx()
	defer cancel()
	res, err := c.srv.opt.Store.Change(ctx, c.box, set, ch)
	if err != nil {
		return c.refusal(err)
	}
	var e effects
	if silent {
		e.silent, e.failed, e.change = set, res.Modified, ch
	}
	if cmd.uid {
		e.named = set
	}
	if !silent || ch.IfUnchanged {
		e.asked = set
	}
	if err := c.updateAfter(cmd.uid, e); err != nil {
		return response{}
	}
	if len(res.Modified) == 0 {
		return ok("Store completed")
	}
	var nums32 []uint32
	c.known.Each(res.Modified, func(i int, m mailbox.Message) {
		if cmd.uid {
			nums32 = append(nums32, uint32(m.UID))
		} else {
			nums32 = append(nums32, uint32(i+1))
		}
	})
	return okCode("MODIFIED "+string(imap.FormatUIDs(nil, nums32)), "Conditional store failed for some")
}

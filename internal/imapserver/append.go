package imapserver

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// maxMulti bounds the messages of one APPEND (RFC 3502).
const maxMulti = 64

// appendArgs are the arguments of APPEND or REPLACE up to the first message.
type appendArgs struct {
	old uint32 // REPLACE: number or UID of the message to go, 0 for "*"
	box string
	messageArgs
}

// messageArgs stand before each message.
type messageArgs struct {
	flags    []string
	internal time.Time
	utf8     bool // RFC 6855 section 4: the literal is in "UTF8 (...)"
	binary   bool // RFC 3516: a literal8
}

// parseAppend reads the arguments up to the message.
func parseAppend(cmd *command) (a appendArgs, err error) {
	p := cmd.p
	p.SP()
	if strings.HasSuffix(cmd.name, "REPLACE") {
		a.old = p.SetNumber()
		p.SP()
	}
	a.box = p.Mailbox()
	p.SP()
	a.messageArgs = parseMessageArgs(p)
	return a, p.Err()
}

func parseMessageArgs(p *imap.Parser) (m messageArgs) {
	if p.Peek('(') {
		m.flags = p.Flags()
		p.SP()
	}
	if p.Peek('"') {
		m.internal = p.DateTime()
		p.SP()
	}
	if m.utf8 = p.TryWord("UTF8"); m.utf8 {
		p.SP()
		p.Expect('(')
	}
	if m.binary = p.Try('~'); !p.Peek('{') {
		p.Expect('{')
	}
	return m
}

// isAppend tells whether what was read so far is an APPEND or a REPLACE whose
// last literal is the message and not, say, the mailbox name.
func (c *session) isAppend(text string, literals [][]byte) bool {
	cmd := c.parseCommand(text, literals)
	switch cmd.name {
	case "APPEND", "REPLACE", "UID REPLACE":
		if cmd.p.Err() != nil {
			return false
		}
		_, err := parseAppend(cmd)
		return err == nil
	}
	return false
}

// append takes messages (RFC 3501 section 6.3.11, RFC 3502).
func (c *session) append(cmd *command) response {
	a, err := parseAppend(cmd)
	if err != nil {
		return bad(err)
	}
	in := intake{session: c, box: mailbox.Box{Account: c.account(), Name: a.box}, most: maxMulti}
	defer in.close()
	if r, done := in.take(cmd, a.messageArgs); done {
		return r
	}
	placed, r := in.commit(nil)
	if placed == nil {
		return r
	}
	return okCode(appendUID(placed), "Append completed")
}

// replace puts a message in another's place (RFC 8508).
func (c *session) replace(cmd *command) response {
	a, err := parseAppend(cmd)
	if err != nil {
		return bad(err)
	}
	in := intake{session: c, box: mailbox.Box{Account: c.account(), Name: a.box}, most: 1}
	defer in.close()
	old, r := c.toReplace(a.old, cmd.uid)
	if r != nil {
		in.refused = r
	}
	if r, done := in.take(cmd, a.messageArgs); done {
		return r
	}
	placed, refused := in.commit(&old)
	if placed == nil {
		return refused
	}
	c.put("* OK [", appendUID(placed), "] Replacement is there\r\n")
	return ok("Replace completed")
}

// toReplace finds the message that n means, or says why it cannot be replaced.
func (c *session) toReplace(n uint32, uid bool) (mailbox.Ref, *response) {
	i, known := int(n)-1, n >= 1 && int64(n) <= int64(c.known.Len())
	switch {
	case n == 0: // "*"
		i, known = c.known.Len()-1, c.known.Len() > 0
	case uid:
		i, known = c.known.Index(mailbox.UID(n))
	}
	switch {
	case c.readOnly:
		return mailbox.Ref{}, &response{status: "NO", code: "READ-ONLY", text: "Mailbox is read-only"}
	case !known && uid:
		return mailbox.Ref{}, &response{status: "NO", code: "NONEXISTENT", text: "No such message"}
	case !known:
		return mailbox.Ref{}, &response{status: "BAD", text: "No such message"}
	}
	return mailbox.Ref{Box: c.box, UID: c.known.At(i).UID}, nil
}

func appendUID(placed []mailbox.Placed) string {
	uids := make([]mailbox.UID, len(placed))
	for i, p := range placed {
		uids[i] = p.UID
	}
	return "APPENDUID " + strconv.FormatUint(uint64(placed[0].UIDValidity), 10) + " " + formatUIDs(uids)
}

// intake takes the messages of one command: it streams each from the connection
// into the spool, and puts all of them into the mailbox at the end.
type intake struct {
	*session
	box     mailbox.Box
	most    int // messages
	list    []mailbox.Arrival
	refused *response // why nothing will be stored
}

// close drops the spooled messages.
func (in *intake) close() {
	for _, a := range in.list {
		a.Body.Close()
	}
}

// take reads all messages and the end of the command. m stands before the first
// one. With done the response is the answer, and nothing is to be stored.
func (in *intake) take(cmd *command, m messageArgs) (r response, done bool) {
	text := cmd.p.Rest()
	for n := 1; ; n++ {
		size, sync, found := trailingLiteral(strings.TrimSuffix(text, "\r\n"))
		if !found {
			return response{status: "BAD", text: "Expected a message"}, true
		}
		if n > in.most {
			in.refuse(no("LIMIT", "Too many messages at once"))
		}
		if lost := in.message(m, size, sync); lost {
			return response{}, true
		}
		if in.refused != nil && sync {
			return *in.refused, true // the client has not sent it and goes on to its next command
		}
		line, err := in.wire.line(in.maxCommand, false)
		if err != nil {
			return response{}, true
		}
		p := imap.NewParser(string(line)+"\r\n", nil)
		if m.utf8 {
			p.Expect(')')
		}
		if p.Err() == nil && p.Rest() == "\r\n" {
			break
		}
		p.SP()
		m = parseMessageArgs(p)
		if err := p.Err(); err != nil {
			if _, _, more := trailingLiteral(string(line)); more {
				// What follows may be a message or the next command.
				in.put("* BYE Malformed message in APPEND\r\n")
				return response{}, true
			}
			return bad(err), true
		}
		text = p.Rest()
	}
	if in.refused != nil {
		return *in.refused, true
	}
	return response{}, false
}

// refuse notes why nothing will be stored: the first reason counts.
func (in *intake) refuse(r response) {
	if in.refused == nil {
		in.refused = &r
	}
}

// message takes one message into the spool, or past it. lost says that the
// connection cannot be used any more.
func (in *intake) message(m messageArgs, size int64, sync bool) (lost bool) {
	flags, keywords, valid := parseFlags(m.flags)
	limit := in.srv.opt.MaxAppend(in.account())
	switch {
	case !valid:
		in.refuse(response{status: "BAD", text: badFlags})
	case size == 0:
		in.refuse(response{status: "NO", text: "Message is empty"})
	case size > limit:
		in.refuse(no("TOOBIG", "Message exceeds maximum size"))
	case m.utf8 && !in.utf8:
		in.refuse(response{status: "BAD", text: "ENABLE UTF8=ACCEPT first"})
	case in.room(size):
		in.refuse(no("OVERQUOTA", "Mailbox is full"))
	case len(in.list) == 0 && in.missing():
		in.refuse(no("TRYCREATE", "Mailbox does not exist"))
	}
	if in.refused != nil {
		if sync {
			return false
		}
		if size > 2*max(limit, in.srv.opt.MaxAppend(address.Addr{})) { // one that is small must not cost the session
			in.put("* BYE [TOOBIG] Message far too big\r\n")
			return true
		}
		_, err := io.Copy(io.Discard, &literal{c: in.session, left: size})
		return err != nil
	}
	if sync {
		in.put("+ Ready for the message\r\n")
		if in.flush() != nil {
			return true
		}
	}
	body := &literal{c: in.session, left: size}
	// As long as a slow line takes; the deadline of each read comes on top.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute+time.Duration(size>>13)*time.Second)
	defer cancel()
	t := mailbox.Target{Box: in.box, Flags: flags, Keywords: keywords, Internal: m.internal}
	a, err := in.srv.opt.Append.Spool(ctx, t, body, size)
	if err == nil {
		in.list = append(in.list, a)
	}
	if body.err == nil {
		_, _ = io.Copy(io.Discard, body)
	}
	switch {
	case body.err != nil:
		return true
	case m.binary && (body.nul || fault.Is(err, fault.Invalid)):
		// RFC 3516 section 4.3: what clients cannot be given back is not taken.
		in.refuse(no("UNKNOWN-CTE", "Messages must be lines of text without NUL"))
	case body.nul:
		in.refuse(no("CANNOT", "Message contains a NUL octet"))
	case err != nil:
		in.refuse(in.refusal(err))
	}
	return false
}

// room reports whether the messages so far and one of size octets are more than
// the account may have. The intake decides it again; here it is decided before
// the client sends them all.
func (in *intake) room(size int64) bool {
	used, _, limit := in.srv.opt.Quota.Usage(in.account())
	for _, a := range in.list {
		size += a.Body.Size()
	}
	return len(in.list) > 0 && size > limit-used
}

// missing reports whether the mailbox is not there. It is decided again when the
// messages are stored; here it is decided before the client sends them.
func (in *intake) missing() bool {
	ctx, cancel := in.ctx()
	defer cancel()
	_, err := in.srv.opt.Store.View(ctx, in.box)
	return fault.Is(err, fault.NotFound)
}

// commit stores what was taken. Without placed the response is the answer.
func (in *intake) commit(old *mailbox.Ref) ([]mailbox.Placed, response) {
	ctx, cancel := in.ctx()
	defer cancel()
	placed, err := in.srv.opt.Append.Commit(ctx, in.box, in.list, old)
	switch {
	case err == nil:
		for _, p := range placed {
			if in.isOpen(in.box) {
				in.placed = in.placed.Add(p.UID)
			}
		}
		return placed, response{}
	case !fault.Is(err, fault.NotFound):
		return nil, in.refusal(err)
	}
	if old != nil {
		if _, err := in.srv.opt.Store.View(ctx, in.box); err == nil {
			return nil, no("EXPUNGEISSUED", "The message to replace is gone")
		}
	}
	return nil, no("TRYCREATE", "Mailbox does not exist")
}

// literal reads the octets of a message from the connection.
type literal struct {
	c    *session
	left int64
	nul  bool // one of them was NUL
	err  error
}

func (l *literal) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.c.wire.read(p[:min(int64(len(p)), l.left)])
	l.nul = l.nul || bytes.IndexByte(p[:n], 0) >= 0
	l.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	l.err = err
	return n, err
}

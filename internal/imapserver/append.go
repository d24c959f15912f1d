package imapserver

import (
	"io"
	"strconv"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// appendArgs are the arguments of APPEND before its message.
type appendArgs struct {
	box      string
	flags    []string
	internal time.Time
}

// parseAppend reads the arguments up to the message.
func parseAppend(p *imap.Parser) (a appendArgs, err error) {
	p.SP()
	a.box = p.Mailbox()
	p.SP()
	if p.Peek('(') {
		a.flags = p.Flags()
		p.SP()
	}
	if p.Peek('"') {
		a.internal = p.DateTime()
		p.SP()
	}
	return a, p.Err()
}

// isAppend tells whether what was read so far is an APPEND whose last literal
// is the message and not, say, the mailbox name.
func (c *session) isAppend(text string, literals [][]byte) bool {
	cmd := c.parseCommand(text, literals)
	if cmd.name != "APPEND" || cmd.p.Err() != nil {
		return false
	}
	if _, err := parseAppend(cmd.p); err != nil {
		return false
	}
	return cmd.p.Peek('{')
}

// append takes a message (RFC 3501 section 6.3.11). It streams from the
// connection to the intake.
func (c *session) append(cmd *command) response {
	a, err := parseAppend(cmd.p)
	if err != nil {
		return bad(err)
	}
	size, sync, found := trailingLiteral(strings.TrimSuffix(cmd.p.Rest(), "\r\n"))
	if !found {
		return response{status: "BAD", text: "Expected a message"}
	}
	flags, keywords, valid := parseFlags(a.flags)
	var refused *response
	switch limit := c.srv.opt.MaxAppend(); {
	case !valid:
		refused = &response{status: "BAD", text: "Unknown flag"}
	case size == 0:
		refused = &response{status: "NO", text: "Message is empty"}
	case size > limit:
		r := no("TOOBIG", "Message exceeds maximum size")
		refused = &r
		if !sync && size > 2*limit {
			c.put("* BYE [TOOBIG] Message far too big\r\n")
			return response{}
		}
	}
	if refused != nil && sync {
		return *refused
	}
	if sync {
		c.put("+ Ready for the message\r\n")
		if c.flush() != nil {
			return response{}
		}
	}
	body := &literal{c: c, left: size}
	if refused != nil {
		return c.afterMessage(body, *refused)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	t := mailbox.Target{Box: mailbox.Box{Account: c.account(), Name: a.box}, Flags: flags, Keywords: keywords, Internal: a.internal}
	placed, err := c.srv.opt.Append.Append(ctx, t, body, size)
	switch {
	case body.err != nil:
		return response{}
	case fault.Is(err, fault.NotFound):
		return c.afterMessage(body, no("TRYCREATE", "Mailbox does not exist"))
	case err != nil:
		return c.afterMessage(body, c.refusal(err))
	}
	code := "APPENDUID " + strconv.FormatUint(uint64(placed.UIDValidity), 10) + " " + strconv.FormatUint(uint64(placed.UID), 10)
	return c.afterMessage(body, okCode(code, "Append completed"))
}

// afterMessage reads what is left of the message and the end of the command.
func (c *session) afterMessage(body *literal, r response) response {
	if _, err := io.Copy(io.Discard, body); err != nil {
		return response{}
	}
	rest, err := c.wire.line(imap.MaxLine, false)
	if err != nil {
		return response{}
	}
	if len(rest) > 0 && r.status == "OK" {
		// Stored, so not refused; the surplus is ignored.
		c.srv.opt.Logger.Debug("octets after an appended message")
	}
	return r
}

// literal reads the octets of a message from the connection.
type literal struct {
	c    *session
	left int64
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
	l.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	l.err = err
	return n, err
}

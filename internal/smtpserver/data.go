package smtpserver

import (
	"context"
	"errors"
	"io"
	"time"

	"madmail/internal/fault"
	"madmail/internal/smtp"
)

// ready says whether a message may follow, or why not. A client that pipelines
// has given up when a recipient was refused, so on the submission ports the
// message is not asked for then: it would get QUIT as its text.
func (c *session) ready() smtp.Reply {
	switch {
	case c.tx.refused != 0 && (c.mode != MX || len(c.tx.env.To) == 0):
		if c.tx.refused < 500 {
			return smtp.Say(451, "4.5.1", "A recipient was refused, try again later")
		}
		return smtp.Say(554, "5.5.1", "A recipient was refused")
	case len(c.tx.env.To) == 0:
		return smtp.Say(503, "5.5.1", "Say RCPT first")
	}
	return smtp.Reply{}
}

// data takes the message (RFC 5321 section 4.1.1.4).
func (c *session) data(arg string) smtp.Reply {
	if arg != "" {
		return smtp.Say(501, "5.5.4", "DATA takes no argument")
	}
	if r := c.ready(); r.Code != 0 {
		c.reset()
		return r
	}
	c.reply(smtp.Say(354, "", "Go ahead"))
	c.tx.data = message
	limit := c.srv.opt.MaxSize(c.mode)
	d := smtp.NewDataReader(c.wireSource(), limit)
	r := c.accept(d)
	if !d.Ended() {
		// Refused before its end: read on, so that the reply is heard, but not for ever.
		if err := d.Drain(2*limit + 1<<20); err != nil {
			return c.lost(err)
		}
	}
	c.reset()
	return r
}

// wireSource is the connection as a source of lines that insists on progress.
func (c *session) wireSource() *paced {
	return &paced{c: c, since: time.Now()}
}

// paced ends a connection that sends too slowly to be honest.
type paced struct {
	c     *session
	since time.Time
	got   int64
}

var errTooSlow = errors.New("smtpserver: message comes too slowly")

func (p *paced) ReadSlice() ([]byte, error) {
	b, err := p.c.wire.ReadSlice()
	if err != nil {
		return nil, err
	}
	return b, p.note(len(b))
}

func (p *paced) note(n int) error {
	before := p.got
	p.got += int64(n)
	if before>>16 == p.got>>16 && n > 16 {
		return nil // look at the clock now and then only
	}
	t := time.Since(p.since)
	if t > p.c.srv.opt.MessageTimeout || t > 30*time.Second && p.got < int64(t/time.Second)*p.c.srv.opt.MinRate {
		return errTooSlow
	}
	return nil
}

// lost ends a session inside a message. It must not go back to commands: what
// follows would be the rest of the message.
func (c *session) lost(err error) smtp.Reply {
	c.srv.opt.Logger.Debug("message was cut off", "err", err)
	switch {
	case errors.Is(err, smtp.ErrTooBig):
		return smtp.Say(421, "4.3.4", "Message far too big")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return dead
	}
	return smtp.Say(421, "4.4.2", "Timeout")
}

// accept hands the message to the intake and turns its answer into a reply.
func (c *session) accept(r io.Reader) smtp.Reply {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g := &guarded{r: r, timer: time.AfterFunc(24*time.Hour, cancel), limit: c.srv.opt.AcceptTimeout}
	res, err := c.srv.opt.Intake.Accept(ctx, &c.tx.env, g)
	if err == nil {
		c.srv.stats.accepted.Add(1)
		c.srv.stats.by[c.module()].completed.Add(1)
		c.tx.completed = true
		c.srv.opt.Logger.Debug("message accepted", "local", res.Local, "size", res.Size)
		return smtp.Say(250, "2.0.0", "OK")
	}
	c.srv.stats.refused.Add(1)
	switch {
	case errors.Is(err, smtp.ErrTooBig):
		return smtp.Say(552, "5.3.4", "Message exceeds maximum size")
	case errors.Is(err, smtp.ErrBareEOL):
		return smtp.Say(550, "5.6.0", "Lines of a message must end in CR LF")
	case g.cut && !errors.Is(err, errTakenBack) && !fault.Is(err, fault.TooBig): // the intake may have counted first
		return dead // it was not the intake that failed; the caller sees why and says it
	}
	return c.refusal(err, atMessage)
}

// guarded gives the storing of a message its time limit once it was read.
type guarded struct {
	r     io.Reader
	timer *time.Timer
	limit time.Duration
	cut   bool // the message did not come to its end
}

func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if err != nil {
		g.timer.Reset(g.limit)
		g.cut = err != io.EOF
	}
	return n, err
}

// bdat takes a message in chunks (RFC 3030). The intake reads through all of
// them: its reader answers a finished chunk and takes the next command.
func (c *session) bdat(arg string) smtp.Reply {
	size, last, err := smtp.ParseChunk(arg)
	if err != nil {
		c.reset()
		c.reply(smtp.Say(501, "5.5.4", "Syntax: BDAT size [LAST]"))
		return dead // where the next command begins is unknown
	}
	if r := c.ready(); r.Code != 0 {
		c.reset()
		if !c.discardChunk(size) {
			return dead
		}
		return r
	}
	b := &chunks{c: c, left: size, last: last, limit: c.srv.opt.MaxSize(c.mode), pace: c.wireSource()}
	c.tx.data = message
	r := c.accept(b)
	c.tx.data = commands
	switch {
	case b.lost != nil:
		return c.lost(b.lost)
	case b.reset:
		r = smtp.Say(250, "2.0.0", "Reset")
	case b.left > 0 && !c.discardChunk(b.left):
		return dead
	}
	c.reset()
	return r
}

// skipChunk reads a chunk away that nobody expects, with its refusal.
func (c *session) skipChunk(arg string) bool {
	size, _, err := smtp.ParseChunk(arg)
	if err != nil || !c.discardChunk(size) {
		return false
	}
	c.bad(smtp.Say(503, "5.5.1", "Say MAIL first"))
	return true
}

func (c *session) discardChunk(size int64) bool {
	if size > 2*c.srv.opt.MaxSize(c.mode) {
		c.reply(smtp.Say(421, "4.3.4", "Message far too big"))
		return false
	}
	old := c.tx.data
	c.tx.data = message
	defer func() { c.tx.data = old }()
	var buf [4096]byte
	p := c.wireSource()
	for size > 0 {
		n, err := c.wire.read(buf[:min(size, int64(len(buf)))])
		size -= int64(n)
		if err == nil {
			err = p.note(n)
		}
		if err != nil {
			return false
		}
	}
	return true
}

// chunks reads a message that comes by BDAT.
type chunks struct {
	c     *session
	left  int64
	last  bool
	limit int64
	total int64
	pace  *paced

	reset bool  // the client took the message back
	lost  error // the connection cannot be used any more
}

var errTakenBack = fault.New(fault.Invalid, "Message taken back")

func (b *chunks) Read(p []byte) (int, error) {
	for b.left == 0 {
		if b.last {
			return 0, io.EOF
		}
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n, err := b.c.wire.read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.total += int64(n)
	if err == nil {
		err = b.pace.note(n)
	}
	if err != nil {
		b.lost = err
		if err == io.EOF {
			b.lost = io.ErrUnexpectedEOF
		}
		return n, b.lost
	}
	if b.total > b.limit {
		return n, smtp.ErrTooBig
	}
	return n, nil
}

// next answers a chunk and reads the command for the next one.
func (b *chunks) next() error {
	c := b.c
	c.reply(smtp.Say(250, "2.0.0", "Chunk OK"))
	c.tx.data = commands
	defer func() { c.tx.data = message }()
	for {
		line, err := c.wire.line(smtp.MaxCommand)
		c.busy()
		if err == nil && time.Since(b.pace.since) > c.srv.opt.MessageTimeout {
			err = errTooSlow
		}
		if err != nil {
			b.lost = err
			return err
		}
		cmd, err := smtp.ParseCommand(line)
		switch {
		case err == nil && cmd.Verb == "BDAT":
			if b.left, b.last, err = smtp.ParseChunk(cmd.Arg); err != nil {
				b.lost = err
			}
			return err
		case err == nil && cmd.Verb == "NOOP":
			c.reply(smtp.Say(250, "2.0.0", "OK"))
		case err == nil && cmd.Verb == "RSET":
			b.reset = true
			return errTakenBack
		default:
			// RFC 3030 section 2: anything else breaks the message off.
			b.lost = io.ErrUnexpectedEOF
			return b.lost
		}
	}
}

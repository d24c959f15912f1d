package smtpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/delivery"
	"madmail/internal/logging"
	"madmail/internal/smtp"
	"madmail/internal/throttle"
)

// session is one connection.
type session struct {
	srv    *Server
	mode   Mode
	conn   net.Conn
	wire   wire
	remote netip.Addr
	port   int    // that it came to
	out    []byte // replies not sent yet

	mu    sync.Mutex // guards the fields below: Stop and EndSessions look at them
	idle  bool       // waits for a command
	ended bool       // EndSessions was called

	login atomic.Pointer[address.Addr]

	greeted   bool // EHLO or HELO came
	helloName string
	secure    bool
	failures  int // logins
	errors    int // bad commands
	started   time.Time

	tx transaction
}

// transaction is what MAIL, RCPT and DATA build up.
type transaction struct {
	open      bool
	completed bool // the message was accepted
	env       delivery.Envelope
	seen      map[address.Addr]bool
	rcpts     int
	refused   int         // code of the first refusal, 0 for none
	deferred  *smtp.Reply // what is wrong with MAIL, told at RCPT
	utf8      bool
	data      phase                   // what the wire is doing
	turns     []func()                // end this message's part of the limits
	domains   map[address.Domain]bool // of recipients that count
}

type phase uint8

const (
	commands phase = iota
	message
)

// handler runs a command. The verbs and the states they are allowed in are in
// this table alone.
type handler struct {
	run func(*session, string) smtp.Reply
	// needs says what must have come before.
	needs need
}

type need uint8

const (
	anytime need = iota
	afterHello
	inTransaction
)

var handlers map[string]handler

func init() {
	// In a function because the handlers refer to the table.
	handlers = map[string]handler{
		"HELO": {(*session).helo, anytime}, "EHLO": {(*session).ehlo, anytime},
		"STARTTLS": {(*session).starttls, afterHello}, "AUTH": {(*session).auth, afterHello},
		"MAIL": {(*session).mail, afterHello}, "RCPT": {(*session).rcpt, inTransaction},
		"DATA": {(*session).data, inTransaction}, "BDAT": {(*session).bdat, inTransaction},
		"RSET": {(*session).rset, anytime}, "NOOP": {(*session).noop, anytime},
		"VRFY": {(*session).vrfy, anytime}, "EXPN": {(*session).expn, anytime},
		"HELP": {(*session).help, anytime},
	}
}

var (
	errStop = errors.New("smtpserver: the server is stopping")
	errGone = errors.New("smtpserver: the account's sessions were ended")
)

func newSession(s *Server, conn net.Conn, mode Mode) *session {
	c := &session{srv: s, mode: mode, conn: conn, remote: remoteOf(conn), port: portOf(conn), started: s.opt.Now()}
	c.wire.conn = conn
	c.wire.before = c.beforeRead
	return c
}

func (c *session) door() *Door { return &c.srv.opt.Doors[c.module()] }

// counts reports whether there are limits of a scope at this door.
func (c *session) counts(scope throttle.Scope) bool {
	return c.srv.turns[c.module()].Counts(scope)
}

// turn waits until a limit lets this transaction pass and reports whether it does.
func (c *session) turn(tx *transaction, scope throttle.Scope, who string) bool {
	ctx, cancel := context.WithTimeout(c.srv.quit, c.srv.opt.TurnTime)
	defer cancel()
	end, err := c.srv.turns[c.module()].Wait(ctx, scope, who)
	if err != nil {
		c.srv.stats.by[c.module()].deferred.Add(1)
		return false
	}
	tx.turns = append(tx.turns, end)
	return true
}

// highLoad is the answer to a message that waited for its turn in vain.
var highLoad = smtp.Say(451, "4.4.5", "Too many messages at a time, try again later")

func (c *session) account() address.Addr {
	if a := c.login.Load(); a != nil {
		return *a
	}
	return address.Addr{}
}

// handshake begins TLS.
func (c *session) handshake() bool {
	if c.srv.opt.TLS == nil {
		return false
	}
	// Nothing is under way yet: whoever stops the server need not wait for it.
	c.mu.Lock()
	c.idle = true
	c.mu.Unlock()
	defer c.busy()
	if c.srv.isStopping() {
		return false
	}
	t := tls.Server(c.conn, c.srv.opt.TLS)
	ctx, cancel := context.WithTimeout(context.Background(), c.srv.opt.GreetTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.srv.opt.Logger.Debug("TLS handshake failed", "err", err)
		return false
	}
	c.setConn(t)
	return true
}

func (c *session) setConn(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.wire.conn, c.secure = conn, conn, true
}

// interrupt ends the session when it is idle; with ended also when it is not,
// as soon as it is.
func (c *session) interrupt(ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = c.ended || ended
	if c.idle || ended {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// close ends the connection and gives everything back.
func (c *session) close() {
	_ = c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_ = c.flush()
	c.reset()
	c.conn.Close()
	c.wire.discard()
	c.srv.remove(c)
}

// beforeRead sends what is to be sent and sets the deadline of the read.
func (c *session) beforeRead() error {
	if err := c.flush(); err != nil {
		return err
	}
	if c.tx.data == message {
		return c.conn.SetReadDeadline(time.Now().Add(c.srv.opt.DataTimeout))
	}
	if c.wire.buffered() == 0 {
		c.wire.release()
	}
	stopping := c.srv.isStopping()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return errGone
	case stopping:
		return errStop
	}
	limit := c.door().IdleTimeout
	if !c.greeted {
		limit = c.srv.opt.GreetTimeout
	}
	c.idle = true
	return c.conn.SetReadDeadline(time.Now().Add(limit))
}

func (c *session) busy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = false
}

func (c *session) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.door().WriteTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(c.out)
	if cap(c.out) > bufSize {
		c.out = nil
	}
	c.out = c.out[:0]
	return err
}

// reply queues an answer; it is sent before the next read from the connection,
// so that the answers to a pipelined batch go out together.
func (c *session) reply(r smtp.Reply) {
	if r.Code > 0 {
		c.out = r.Append(c.out)
		if c.traced() {
			c.trace("S", strings.TrimSpace(string(r.Append(nil))))
		}
	}
}

// traced reports whether frames of the protocol are logged.
func (c *session) traced() bool { return c.srv.opt.Logger.Enabled(context.Background(), logging.Trace) }

func (c *session) trace(side, text string) {
	c.srv.opt.Logger.Log(context.Background(), logging.Trace, "smtp", side, text)
}

// vocabulary are the words of commands that say nothing about anybody.
var vocabulary = map[string]bool{"FROM": true, "TO": true, "SIZE": true, "BODY": true, "8BITMIME": true, "7BIT": true, "SMTPUTF8": true, "LAST": true, "NOTIFY": true, "RET": true}

// frame is a command as it may be logged.
func frame(verb, line string) string {
	if verb == "AUTH" || verb == "" || handlers[verb].run == nil && verb != "QUIT" {
		return "***"
	}
	return logging.Frame(line, 1, vocabulary)
}

// run is the session's main loop.
func (c *session) run() {
	c.reply(smtp.Say(220, "", c.srv.opt.Hostname()+" ESMTP"))
	for {
		line, err := c.wire.line(smtp.MaxCommand)
		c.busy()
		switch {
		case errors.Is(err, errLineTooLong):
			c.bad(smtp.Say(500, "5.5.2", "Line too long"))
		case errors.Is(err, errEndless):
			c.reply(smtp.Say(421, "4.7.0", "Line too long"))
			return
		case errors.Is(err, errBareLF):
			c.bad(smtp.Say(500, "5.5.2", "Lines end in CR LF"))
		case err != nil:
			c.farewell(err)
			return
		default:
			if !c.command(line) {
				return
			}
		}
		if c.errors > c.srv.opt.MaxErrors {
			c.reply(smtp.Say(421, "4.7.0", "Too many errors"))
			return
		}
	}
}

// farewell says why the server closes, where somebody may listen.
func (c *session) farewell(err error) {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	switch {
	case ended || errors.Is(err, errGone):
		c.reply(smtp.Say(421, "4.7.0", "This account's sessions were ended"))
	case errors.Is(err, errStop) || c.srv.isStopping():
		c.reply(smtp.Say(421, "4.3.2", "The server is stopping, try again later"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.reply(smtp.Say(421, "4.4.2", "Timeout"))
	case errors.Is(err, io.EOF):
	default:
		c.srv.opt.Logger.Debug("SMTP connection lost", "err", err)
	}
}

func (c *session) bad(r smtp.Reply) {
	c.errors++
	c.reply(r)
}

// command runs one command line and reports whether the session goes on.
func (c *session) command(line string) bool {
	cmd, err := smtp.ParseCommand(line)
	if c.traced() {
		c.trace("C", frame(cmd.Verb, line))
	}
	if err != nil {
		c.bad(smtp.Say(500, "5.5.2", "Syntax error"))
		return true
	}
	if cmd.Verb == "QUIT" {
		c.reply(smtp.Say(221, "2.0.0", "Bye"))
		return false
	}
	h, ok := handlers[cmd.Verb]
	switch {
	case !ok:
		c.bad(smtp.Say(500, "5.5.1", "Unknown command"))
		return true
	case h.needs >= afterHello && !c.greeted:
		c.bad(smtp.Say(503, "5.5.1", "Say EHLO first"))
		return true
	case h.needs == inTransaction && !c.tx.open:
		if cmd.Verb == "BDAT" {
			return c.skipChunk(cmd.Arg)
		}
		c.bad(smtp.Say(503, "5.5.1", "Say MAIL first"))
		return true
	}
	r := h.run(c, cmd.Arg)
	c.count(cmd.Verb, r)
	if r.Code >= 500 && r.Code <= 504 {
		c.errors++
	}
	c.reply(r)
	return r.Code != 421 && r.Code != -1
}

// dead is what a handler returns when the connection can no longer be used.
var dead = smtp.Reply{Code: -1}

func (c *session) reset() {
	if c.tx.open && !c.tx.completed {
		c.srv.stats.by[c.module()].aborted.Add(1)
	}
	for _, end := range c.tx.turns {
		end()
	}
	c.tx = transaction{}
}

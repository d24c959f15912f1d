package imapserver

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/event"
	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/logging"
	"madmail/internal/mailbox"
)

// state is a set of the states of RFC 3501 section 3.
type state uint8

const (
	anonymous state = 1 << iota
	authenticated
	selected
	always = anonymous | authenticated | selected
	inside = authenticated | selected
)

// session is one connection.
type session struct {
	srv    *Server
	conn   net.Conn
	remote netip.Addr
	wire   wire
	out    output

	mu      sync.Mutex // guards the fields below: others may interrupt
	waiting bool       // in a read that may be interrupted
	parked  bool       // without a goroutine
	ended   string     // why the session has to end, "" while it has not
	woken   bool       // the mailbox changed
	pushed  bool       // what changes in the mailbox is told at once
	stirred bool       // something that NOTIFY watches changed
	noted   bool       // annotations of the server are watched

	parking // see park.go

	loginBy time.Time // when an anonymous client is shown out
	login   atomic.Pointer[address.Addr]
	idling  atomic.Bool

	secure   bool
	idleTag  string    // of the IDLE that is under way, or ""
	until    time.Time // of the present wait
	failures int
	errors   int
	parting  bool // a last word was said that must arrive, with more from the client on its way

	box       mailbox.Box
	open      bool // a mailbox is selected
	readOnly  bool
	known     *mailbox.View // what the client was told, in the order of its sequence numbers
	sub       *event.Subscription
	condstore bool // RFC 7162: mod-sequences go with flags
	qresync   bool // RFC 7162: VANISHED instead of EXPUNGE
	rev2      bool // RFC 9051
	utf8      bool // RFC 6855

	saved mailbox.UIDSet // what "$" stands for (RFC 5182)

	interest *interest      // not nil after NOTIFY
	placed   mailbox.UIDSet // what the present command put into the selected mailbox
}

// command is one command on its way.
type command struct {
	tag, name string
	p         *imap.Parser
	uid       bool // UID variant
}

// response is the tagged answer. The zero value is OK.
type response struct {
	status string // OK, NO or BAD
	code   string // without brackets
	text   string
	sent   bool // the handler answered itself
}

func ok(text string) response           { return response{status: "OK", text: text} }
func no(code, text string) response     { return response{status: "NO", code: code, text: text} }
func bad(err error) response            { return response{status: "BAD", text: "Syntax error: " + err.Error()} }
func okCode(code, text string) response { return response{status: "OK", code: code, text: text} }

// errClose ends a session whose connection can no longer be used.
var errClose = errors.New("imapserver: connection is to be closed")

type handler struct {
	run  func(*session, *command) response
	when state
	// quiet commands must not report expunges (RFC 3501 section 7.4.1).
	quiet bool
}

var handlers map[string]handler

func init() {
	// In a function because the handlers refer to the table.
	handlers = map[string]handler{
		"CAPABILITY": {(*session).capability, always, false}, "NOOP": {(*session).noop, always, false},
		"LOGOUT": {(*session).logout, always, false}, "ID": {(*session).id, always, false},
		"STARTTLS": {(*session).starttls, anonymous, false}, "LOGIN": {(*session).loginCommand, anonymous, false},
		"AUTHENTICATE": {(*session).authenticate, anonymous, false},
		"ENABLE":       {(*session).enable, inside, false}, "COMPRESS": {(*session).compress, inside, false},
		"NAMESPACE": {(*session).namespace, inside, false},
		"SELECT":    {(*session).selectCommand, inside, false}, "EXAMINE": {(*session).examine, inside, false},
		"CREATE": {(*session).create, inside, false}, "DELETE": {(*session).remove, inside, false},
		"RENAME": {(*session).rename, inside, false}, "SUBSCRIBE": {(*session).subscribe, inside, false},
		"UNSUBSCRIBE": {(*session).unsubscribe, inside, false},
		"LIST":        {(*session).list, inside, false}, "LSUB": {(*session).lsub, inside, false},
		"STATUS": {(*session).status, inside, false}, "APPEND": {(*session).append, inside, false},
		"GETQUOTA": {(*session).getQuota, inside, false}, "GETQUOTAROOT": {(*session).getQuotaRoot, inside, false},
		"SETQUOTA":    {(*session).setQuota, inside, false},
		"GETMETADATA": {(*session).getMetadata, inside, false}, "SETMETADATA": {(*session).setMetadata, inside, false},
		"IDLE": {(*session).idle, inside, false}, "NOTIFY": {(*session).notify, inside, false},
		"CHECK": {(*session).noop, selected, false}, "CLOSE": {(*session).closeCommand, selected, false},
		"UNSELECT": {(*session).unselect, selected, false}, "EXPUNGE": {(*session).expunge, selected, false},
		"FETCH": {(*session).fetch, selected, true}, "STORE": {(*session).store, selected, true},
		"SEARCH": {(*session).search, selected, true},
		"COPY":   {(*session).copy, selected, false}, "MOVE": {(*session).move, selected, false},
		"UID FETCH": {(*session).fetch, selected, false}, "UID STORE": {(*session).store, selected, false},
		"UID SEARCH": {(*session).search, selected, false}, "UID COPY": {(*session).copy, selected, false},
		"SORT": {(*session).sort, selected, true}, "UID SORT": {(*session).sort, selected, false},
		"THREAD": {(*session).thread, selected, true}, "UID THREAD": {(*session).thread, selected, false},
		"REPLACE": {(*session).replace, selected, false}, "UID REPLACE": {(*session).replace, selected, false},
		"UID MOVE": {(*session).move, selected, false}, "UID EXPUNGE": {(*session).expunge, selected, false},
	}
}

func newSession(s *Server, conn net.Conn) *session {
	c := &session{srv: s, conn: conn, loginBy: time.Now().Add(s.opt.LoginTimeout)}
	if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		c.remote = ap.Addr().Unmap()
	}
	c.setConn(conn)
	c.wire.wait, c.wire.more = c.wait, c.more
	return c
}

func (c *session) setConn(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.wire.conn, c.out.conn = conn, conn, conn
}

func (c *session) account() address.Addr {
	if a := c.login.Load(); a != nil {
		return *a
	}
	return address.Addr{}
}

func (c *session) state() state {
	switch {
	case c.account().IsZero():
		return anonymous
	case c.open:
		return selected
	}
	return authenticated
}

func (c *session) handshake() bool {
	if c.srv.opt.TLS == nil {
		return false
	}
	d := &lowerConn{Conn: c.conn}
	t := tls.Server(d, c.srv.opt.TLS)
	waits := func(yes bool) (goesOn bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.waiting = yes // so that end can interrupt it
		return c.ended == ""
	}
	defer waits(false)
	if !waits(true) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.srv.opt.Logger.Debug("TLS handshake failed", "err", err)
		return false
	}
	c.setConn(t)
	c.lower, c.secure = d, true
	return true
}

var (
	errEnded = errors.New("imapserver: session was ended")
	errWoken = errors.New("imapserver: mailbox changed")
	errQuiet = errors.New("imapserver: nothing came for a while")

	errRefused        = errors.New("imapserver: command was answered while it was read")
	errLiteralTooLong = errors.New("imapserver: literal too long")
)

// Wake implements event.Waker: it interrupts the wait of IDLE.
func (c *session) Wake() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	news := !c.woken
	c.woken = true
	if c.pushed {
		c.interrupt()
	}
	return news
}

// due reports whether there is something to tell a client that has not spoken.
// The caller holds c.mu.
func (c *session) due() bool { return c.stirred || c.woken && c.pushed }

// push says whether changes of the selected mailbox are told at once.
func (c *session) push(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushed = on
}

// end asks the session to say BYE, at once when it waits.
func (c *session) end(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == "" {
		c.ended = why
	}
	c.interrupt()
}

// interrupt makes a wait end now. The caller holds c.mu.
func (c *session) interrupt() {
	switch {
	case c.parked:
		c.unparkLocked()
	case c.waiting:
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// wait reads while nothing is under way. The order matters: first the flags
// are looked at and the deadline is set, under the lock that Wake and end take,
// so that whatever comes later moves the deadline.
func (c *session) wait(p []byte) (int, error) {
	c.out.release()
	c.mu.Lock()
	switch {
	case c.ended != "":
		c.mu.Unlock()
		return 0, errEnded
	case c.due():
		c.mu.Unlock()
		return 0, errWoken
	}
	c.waiting = true
	until := c.until
	linger := c.mayPark() && !c.idling.Load()
	if at := time.Now().Add(lingers); linger && at.Before(until) {
		until = at
	} else {
		linger = false
	}
	err := c.conn.SetReadDeadline(until)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = false
	if err != nil && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		switch {
		case c.ended != "":
			return 0, errEnded
		case c.due():
			return 0, errWoken
		case linger:
			return 0, errQuiet
		}
	}
	return n, err
}

// more reads in the middle of a command.
func (c *session) more(p []byte) (int, error) {
	if n := c.held(p); n > 0 {
		return n, nil
	}
	by := time.Now().Add(c.srv.opt.ReadTimeout)
	if c.account().IsZero() && c.loginBy.Before(by) {
		by = c.loginBy
	}
	c.mu.Lock()
	err := c.conn.SetReadDeadline(by)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.conn.Read(p)
}

// close ends the connection and gives everything back.
func (c *session) close() {
	c.leave()
	c.unwatched()
	c.idling.Store(false)
	_ = c.flush()
	c.unwatch()
	if c.parting {
		c.part()
	}
	c.conn.Close()
	c.wire.discard()
	c.out.release()
	c.srv.remove(c)
}

// partingTime is how long a client that was told BYE has to close its side.
const partingTime = 500 * time.Millisecond

// part says that nothing more comes and reads what is still on its way. A socket that
// is closed with something to read resets the connection, and the client loses the
// end of what it was told: the last octets of a compressed command are enough.
func (c *session) part() {
	if half, ok := c.conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	if c.conn.SetReadDeadline(time.Now().Add(partingTime)) == nil {
		_, _ = io.CopyN(io.Discard, c.conn, 64<<10)
	}
}

func (c *session) flush() error {
	if c.out.buf == nil || len(*c.out.buf) == 0 {
		return nil
	}
	if err := c.patientWrite(); err != nil {
		return err
	}
	return c.out.flush()
}

// patientWrite gives the client a minute to take what is written next.
func (c *session) patientWrite() error { return c.conn.SetWriteDeadline(time.Now().Add(time.Minute)) }

// send writes octets past the output, which is empty.
func (c *session) send(p []byte) error {
	if err := c.patientWrite(); err != nil {
		return err
	}
	_, err := c.conn.Write(p)
	return err
}

// put appends to the output and sends it on when there is much.
func (c *session) put(parts ...string) {
	b := c.out.bytes()
	for _, s := range parts {
		*b = append(*b, s...)
	}
}

func (c *session) num(n uint64) { b := c.out.bytes(); *b = strconv.AppendUint(*b, n, 10) }

// greet begins the session.
func (c *session) greet() {
	c.put("* OK [CAPABILITY ")
	c.capabilities()
	c.put("] ", imap.Text(c.srv.opt.Hostname()), " ready\r\n")
}

// run is the session's main loop. It goes on until the session ends, or until
// the session is parked: then it reports true and has nothing more to do with
// the session. resumed says that a wait is to be gone on with.
func (c *session) run(resumed bool) (parked bool) {
	for begin := !resumed; ; {
		if err := c.flush(); err != nil {
			return false
		}
		if begin {
			c.until = c.patience()
			if c.idleTag != "" && c.park() {
				return true
			}
		}
		err := c.step()
		if begin = !errors.Is(err, errQuiet); !begin {
			if c.park() {
				return true
			}
			continue
		}
		if err != nil {
			c.farewell(err)
			return false
		}
		if c.errors > c.srv.opt.MaxErrors {
			c.put("* BYE Too many errors\r\n")
			c.parting = true
			return false
		}
	}
}

// patience is until when the session waits for the client's next word. Who has not
// logged in has one time for all of it, or a word now and then would keep the place.
func (c *session) patience() time.Time {
	now := time.Now()
	switch {
	case c.account().IsZero():
		return c.loginBy
	case c.idleTag != "":
		// A word now and then keeps NAT entries alive and saves clients a round.
		// Spread, so that ten thousand phones do not wake together.
		k := c.srv.opt.KeepAlive
		return now.Add(k - k/8 + rand.N(k/4+1))
	}
	return now.Add(c.srv.opt.IdleTimeout)
}

// step waits for one command, or for one event of IDLE, and serves it.
func (c *session) step() error {
	if c.idleTag != "" {
		return c.idleStep()
	}
	cmd, err := c.read()
	switch {
	case errors.Is(err, errWoken):
		return c.changes()
	case errors.Is(err, errRefused):
		return nil
	case err != nil:
		return err
	}
	return c.serve(cmd)
}

// farewell says why the server closes, where somebody may listen.
func (c *session) farewell(err error) {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	switch {
	case ended != "":
		c.put("* BYE ", ended, "\r\n")
	case errors.Is(err, errLineTooLong):
		c.put("* BYE [TOOBIG] Command line too long\r\n")
		c.parting = true
	case errors.Is(err, errLiteralTooLong):
		c.put("* BYE [TOOBIG] Literal too long\r\n")
		c.parting = true
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.put("* BYE Autologout\r\n")
	case errors.Is(err, errClose), errors.Is(err, io.EOF):
	default:
		c.srv.opt.Logger.Debug("IMAP connection lost", "err", err)
	}
}

func (c *session) maxCommand() int { return c.srv.opt.Limits().Command }

// read reads a command with its literals. The message of an APPEND is left on
// the wire: its handler streams it.
func (c *session) read() (*command, error) {
	line, err := c.wire.line(c.maxCommand, true)
	if err != nil {
		return nil, err
	}
	limits := c.srv.opt.Limits()
	text := string(line)
	var literals [][]byte
	total := 0
	for {
		size, sync, found := trailingLiteral(text)
		if !found {
			break
		}
		text += "\r\n"
		if c.isAppend(text, literals) {
			break
		}
		if total += int(min(size, int64(limits.Literals)+1)); total > limits.Literals {
			if !sync {
				return nil, errLiteralTooLong
			}
			c.put(c.parseCommand(text, literals).tag, " BAD [TOOBIG] Literal too long\r\n")
			c.errors++
			return nil, errRefused
		}
		if sync {
			c.put("+ Ready\r\n")
			if err := c.flush(); err != nil {
				return nil, err
			}
		}
		lit := make([]byte, size)
		for got := 0; got < len(lit); {
			n, err := c.wire.read(lit[got:])
			if err != nil {
				return nil, err
			}
			got += n
		}
		literals = append(literals, lit)
		rest, err := c.wire.line(c.maxCommand, false)
		if err != nil {
			return nil, err
		}
		if text += string(rest); len(text) > limits.Command {
			return nil, errLineTooLong
		}
	}
	cmd := c.parseCommand(text, literals)
	if c.traced() {
		c.trace("C", frame(cmd.name, text))
	}
	return cmd, nil
}

// traced reports whether frames of the protocol are logged.
func (c *session) traced() bool { return c.srv.opt.Logger.Enabled(context.Background(), logging.Trace) }

func (c *session) trace(side, text string) {
	c.srv.opt.Logger.Log(context.Background(), logging.Trace, "imap", side, text)
}

// vocabulary are the words of commands that say nothing about anybody.
var vocabulary = make(map[string]bool)

func init() {
	for name := range handlers {
		for w := range strings.FieldsSeq(name) {
			vocabulary[w] = true
		}
	}
	for w := range strings.FieldsSeq(`UID FLAGS SILENT SIZE RFC822 INTERNALDATE BODY BODYSTRUCTURE ENVELOPE PEEK HEADER FIELDS TEXT MODSEQ CHANGEDSINCE
		UNCHANGEDSINCE VANISHED INBOX MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ RECENT RETURN ALL COUNT MIN MAX SAVE SEEN DELETED ANSWERED FLAGGED
		DRAFT DEFLATE CONDSTORE QRESYNC UTF8 ACCEPT STORAGE FROM TO SUBJECT DATE MESSAGE-ID CHAT-VERSION AUTOCRYPT OR NOT UNDELETED SINCE BEFORE`) {
		vocabulary[w] = true
	}
}

// frame is a command as it may be logged.
func frame(name, text string) string {
	text, _, cut := strings.Cut(text, "\r\n")
	switch name {
	case "LOGIN", "AUTHENTICATE", "SETMETADATA":
		return name + " ***"
	}
	if text = logging.Frame(text, 1, vocabulary); cut {
		text += " ..."
	}
	return text
}

// trailingLiteral finds "{n}" or "{n+}" at the end of a line (RFC 3501 section
// 4.3, RFC 7888).
func trailingLiteral(text string) (size int64, sync, found bool) {
	if !strings.HasSuffix(text, "}") {
		return 0, false, false
	}
	open := strings.LastIndexByte(text, '{')
	if open < 0 {
		return 0, false, false
	}
	digits := text[open+1 : len(text)-1]
	sync = true
	if d, plus := strings.CutSuffix(digits, "+"); plus {
		digits, sync = d, false
	}
	n, err := strconv.ParseInt(digits, 10, 62)
	if err != nil || n < 0 {
		return 0, false, false
	}
	return n, sync, true
}

// parseCommand takes tag and name off. A command without a tag gets "*".
func (c *session) parseCommand(text string, literals [][]byte) *command {
	p := imap.NewParser(text, literals)
	p.UTF8, p.Nesting = c.utf8, c.srv.opt.Limits().Nesting
	cmd := &command{tag: p.Tag(), p: p}
	if p.Err() != nil {
		cmd.tag = "*"
		return cmd
	}
	p.SP()
	cmd.name = strings.ToUpper(p.Atom())
	if cmd.name == "UID" {
		p.SP()
		cmd.name = "UID " + strings.ToUpper(p.Atom())
		cmd.uid = true
	}
	return cmd
}

// serve runs a command and answers it.
func (c *session) serve(cmd *command) error {
	h, found := handlers[cmd.name]
	c.srv.count(cmd.name)
	var r response
	switch {
	case cmd.p.Err() != nil:
		r = bad(cmd.p.Err())
	case !found:
		r = response{status: "BAD", text: "Unknown command"}
	case h.when&c.state() == 0:
		r = response{status: "BAD", text: "Command is not allowed in this state"}
	default:
		r = h.run(c, cmd)
	}
	if r.status == "" && !r.sent {
		return errClose
	}
	if r.status == "BAD" {
		c.errors++
	}
	if r.sent {
		return nil
	}
	if c.open && r.status != "BAD" && found {
		if err := c.update(!h.quiet); err != nil {
			return err
		}
	}
	c.placed = nil
	c.answer(cmd.tag, r)
	return nil
}

func (c *session) answer(tag string, r response) {
	c.put(tag, " ", r.status, " ")
	if r.code != "" {
		c.put("[", r.code, "] ")
	}
	c.put(imap.Text(r.text), "\r\n")
	if c.traced() {
		c.trace("S", tag+" "+r.status+" "+r.text)
	}
}

// refusal turns an error of the flows into a response. It is the one place
// that knows both.
func (c *session) refusal(err error) response {
	text := fault.UserText(err)
	switch fault.KindOf(err) {
	case fault.Invalid:
		return no("CANNOT", text)
	case fault.Denied:
		return no("AUTHENTICATIONFAILED", "Authentication failed")
	case fault.Refused:
		return no("NOPERM", text)
	case fault.Unencrypted:
		return no("", text)
	case fault.NotFound:
		return no("NONEXISTENT", text)
	case fault.Exists:
		return no("ALREADYEXISTS", text)
	case fault.TooBig:
		return no("TOOBIG", text)
	case fault.Full:
		return no("OVERQUOTA", text)
	case fault.Busy:
		if hint := fault.HintOf(err); hint != "" {
			c.srv.opt.Logger.Warn("a command was put off", "err", err, "hint", hint)
		}
		return no("UNAVAILABLE", text)
	case fault.Internal:
		c.srv.opt.Logger.Error("a command failed", "err", err)
	}
	return no("SERVERBUG", "Internal server error")
}

// end demands the end of the command's arguments.
func (cmd *command) end() error { return cmd.p.End() }

// ctx is the context of a command: clients give up after a minute.
func (c *session) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 55*time.Second)
}

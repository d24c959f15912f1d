package smtpsend

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"madmail/internal/outbound"
	"madmail/internal/smtp"
)

const (
	// maxTransaction is how many recipients one transaction has: what servers with
	// usual settings take.
	maxTransaction = 1000
	// window is how many commands are under way at a time, so that neither side waits
	// for the other with full buffers (RFC 2920 section 3.1).
	window = 100
)

// conn is a connection that has been greeted.
type conn struct {
	c       *Client
	host    string
	wire    *wire
	net     net.Conn // TLS or plain
	r       *bufio.Reader
	w       *bufio.Writer
	ext     map[string]string // extensions by name, with their parameters
	secured bool
	used    int         // messages before
	timer   *time.Timer // while idle
}

// wire is a connection whose every read and write has a deadline, and which ends with
// a context.
type wire struct {
	net.Conn
	timeout time.Duration
	ctx     context.Context // of the message under way
}

func (w *wire) begin() error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if err := w.SetDeadline(time.Now().Add(w.timeout)); err != nil {
		return err
	}
	if err := w.ctx.Err(); err != nil { // ended meanwhile: its deadline was overwritten
		return err
	}
	return nil
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	return w.Conn.Read(p)
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	return w.Conn.Write(p)
}

// bind makes the connection end with ctx until the function returned is called.
func (w *wire) bind(ctx context.Context) (release func() bool) {
	w.ctx = ctx
	return context.AfterFunc(ctx, func() { _ = w.SetDeadline(time.Unix(1, 0)) })
}

// reply is an answer of the server.
type reply struct {
	code int
	text string   // of all lines, on one
	all  []string // lines
}

// connect dials and greets. Instead of a connection there may be an outcome.
func (c *Client) connect(ctx context.Context, t outbound.Target) (*conn, *outbound.Outcome) {
	fail := func(err error) (*conn, *outbound.Outcome) {
		o := outbound.Unreachable(t.Host, err)
		return nil, &o
	}
	nc, err := c.opt.Dialer.Dial(ctx, t.Host, t.Port, t.Named)
	if err != nil {
		return fail(err)
	}
	w := &wire{Conn: nc, timeout: c.opt.Timeout}
	release := w.bind(ctx)
	defer release()
	cn := &conn{c: c, host: t.Host, wire: w, net: w, r: bufio.NewReaderSize(w, 8<<10), w: bufio.NewWriterSize(w, 32<<10)}
	said, err := cn.greet(ctx, t)
	switch {
	case err != nil:
		cn.close()
		return fail(err)
	case said != nil:
		cn.quit(true)
		o := outbound.ClassifySMTP(t.Host, outbound.Greeting, said.code, said.text)
		return nil, &o
	}
	how := Clear
	switch {
	case cn.secured && t.TLS.Level == outbound.Verified:
		how = Authenticated
	case cn.secured:
		how = Encrypted
	}
	c.secured[how].Add(1)
	c.vouched[t.TLS.By].Add(1)
	return cn, nil
}

var errNoTLS = errors.New("STARTTLS is not offered")

// greet brings a connection to where MAIL is next. A reply says that the server does not
// want.
func (cn *conn) greet(ctx context.Context, t outbound.Target) (*reply, error) {
	r, err := cn.read()
	if err != nil || r.code != 220 {
		return &r, err
	}
	if r, err := cn.ehlo(); r != nil || err != nil {
		return r, err
	}
	if _, offered := cn.ext["STARTTLS"]; !offered {
		if t.TLS.Level != outbound.Opportunistic {
			return nil, errNoTLS
		}
		return nil, nil
	}
	r, err = cn.command("STARTTLS")
	switch {
	case err != nil:
		return nil, err
	case r.code != 220 && t.TLS.Level == outbound.Opportunistic:
		return nil, nil
	case r.code != 220:
		return &r, nil
	case cn.r.Buffered() > 0:
		// Somebody in between said it before TLS stood (RFC 3207 section 6).
		return nil, errors.New("text follows STARTTLS")
	}
	config := t.TLS.Config(cn.host, cn.c.opt.Roots)
	if isIP(cn.host) && t.TLS.Level != outbound.Verified {
		config.ServerName = "" // RFC 6066 section 3: no addresses in SNI
	}
	tc := tls.Client(cn.wire, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	cn.net, cn.secured = tc, true
	cn.r.Reset(tc)
	cn.w.Reset(tc)
	return cn.ehlo() // what was said in clear does not count
}

// ehlo greets with our own name, before and after STARTTLS.
func (cn *conn) ehlo() (*reply, error) {
	cn.ext = nil
	name := cn.c.hello()
	r, err := cn.command("EHLO " + name)
	if err != nil {
		return nil, err
	}
	if r.code/100 == 5 && !cn.secured { // RFC 5321 section 3.2: an old server
		if r, err = cn.command("HELO " + name); err != nil {
			return nil, err
		}
		r.all = nil
	}
	if r.code != 250 {
		return &r, nil
	}
	cn.ext = make(map[string]string)
	for i, line := range r.all {
		if i == 0 {
			continue
		}
		word, params, _ := strings.Cut(line, " ")
		cn.ext[strings.ToUpper(word)] = params
	}
	return nil, nil
}

func (cn *conn) command(line string) (reply, error) {
	if _, err := cn.w.WriteString(line + "\r\n"); err != nil {
		return reply{}, err
	}
	if err := cn.w.Flush(); err != nil {
		return reply{}, err
	}
	return cn.read()
}

// read reads one reply.
func (cn *conn) read() (reply, error) {
	var r reply
	for n := 0; ; n++ {
		line, err := cn.r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull), len(line) > smtp.MaxReplyLine, n == smtp.MaxReplyLines:
			return reply{}, smtp.ErrReply
		case errors.Is(err, io.EOF):
			return reply{}, io.ErrUnexpectedEOF
		case err != nil:
			return reply{}, err
		}
		code, more, text, err := smtp.ParseReplyLine(strings.TrimRight(string(line), "\r\n"))
		if err != nil || n > 0 && code != r.code {
			return reply{}, smtp.ErrReply
		}
		r.code = code
		if len(r.text)+len(text) < 1000 {
			if n > 0 {
				// Each line has the enhanced code again (RFC 2034 section 4).
				if status, rest := smtp.SplitEnhanced(code, text); status != "" && strings.HasPrefix(r.text, status+" ") {
					text = rest
				}
				r.text += " "
			}
			r.text += text
		}
		r.all = append(r.all, text)
		if !more {
			return r, nil
		}
	}
}

// result is what one transaction gave.
type result struct {
	outs      []outbound.Outcome
	again     []bool // this recipient needs another transaction
	delivered bool
	broken    bool // the connection cannot be used again
	stale     bool // and broke before the server said anything
}

// send is one transaction for some recipients of a letter.
func (cn *conn) send(ctx context.Context, l *outbound.Letter, some []int) (res result) {
	release := cn.wire.bind(ctx)
	defer func() {
		if !release() { // its deadline may be overwritten any moment
			res.broken = true
		}
	}()
	res = result{outs: make([]outbound.Outcome, len(some)), again: make([]bool, len(some))}
	used := cn.used > 0
	cn.used++
	if o := cn.unfit(l); o != nil {
		for i := range res.outs {
			res.outs[i] = *o
		}
		return res
	}
	commands := make([]string, 0, len(some)+3)
	if used {
		commands = append(commands, "RSET")
	}
	first := len(commands)
	commands = append(commands, "MAIL FROM:<"+l.From.Wire()+">"+cn.parameters(l))
	for _, i := range some {
		commands = append(commands, "RCPT TO:<"+l.To[i].Wire()+">")
	}
	replies, err := cn.exchange(append(commands, "DATA"), first)
	if err != nil {
		res.broken, res.stale = true, used && len(replies) == 0
		o := outbound.Unreachable(cn.host, err)
		for i := range res.outs {
			res.outs[i] = o
		}
		return res
	}
	if used && replies[0].code == 421 { // it was about to close
		res.broken, res.stale = true, true
		return res
	}
	mail, rcpt, data := replies[first], replies[first+1:len(replies)-1], replies[len(replies)-1]
	accepted := 0
	for i, r := range rcpt {
		switch {
		case mail.code/100 != 2:
			res.outs[i] = outbound.ClassifySMTP(cn.host, outbound.Mail, mail.code, mail.text)
		case r.code/100 == 2:
			accepted++
			res.outs[i] = outbound.ClassifySMTP(cn.host, outbound.Data, data.code, data.text)
		default:
			res.outs[i] = outbound.ClassifySMTP(cn.host, outbound.Recipient, r.code, r.text)
			// RFC 5321 section 4.5.3.1.10: the rest goes in the next one.
			res.again[i] = r.code == 452 && accepted > 0 && !strings.HasPrefix(r.text, "4.2.")
		}
	}
	if data.code == 354 {
		end, err := cn.data(l, accepted > 0)
		for i, r := range rcpt {
			if mail.code/100 != 2 || r.code/100 != 2 {
				continue
			}
			if err != nil {
				// Once the end went out the server may have the message: no other host is
				// asked now.
				res.outs[i] = outbound.Unreachable(cn.host, err)
				if errors.Is(err, errAmbiguous) {
					res.outs[i].Result = outbound.Later
				}
			} else {
				res.outs[i] = outbound.ClassifySMTP(cn.host, outbound.End, end.code, end.text)
			}
		}
		if err != nil {
			res.broken = true
			return res
		}
		replies = append(replies, end)
		res.delivered = accepted > 0 && end.code/100 == 2
	}
	for _, r := range replies {
		res.broken = res.broken || r.code == 421
	}
	return res
}

// unfit says why the server cannot take a letter at all.
func (cn *conn) unfit(l *outbound.Letter) *outbound.Outcome {
	if limit, ok := cn.ext["SIZE"]; ok {
		// RFC 1870 section 4: 0, or nothing, is no limit.
		if n, err := smtp.ParseSize(strings.TrimSpace(limit)); err == nil && n > 0 && l.Size() > n {
			return &outbound.Outcome{Result: outbound.Refused, Status: "5.3.4", Remote: cn.host, Answered: true, TooBig: true,
				Reply: "552 5.3.4 Message is larger than " + cn.host + " takes"}
		}
	}
	if _, ok := cn.ext["SMTPUTF8"]; !ok && !l.ASCII() {
		return &outbound.Outcome{Result: outbound.Refused, Status: "5.6.7", Remote: cn.host, Answered: true,
			Reply: "553 5.6.7 " + cn.host + " takes no such addresses"}
	}
	return nil
}

func (cn *conn) parameters(l *outbound.Letter) string {
	s := ""
	if _, ok := cn.ext["SIZE"]; ok {
		s += " SIZE=" + strconv.FormatInt(l.Size(), 10)
	}
	if _, ok := cn.ext["8BITMIME"]; ok && l.EightBit() {
		s += " BODY=8BITMIME"
	}
	if !l.ASCII() {
		s += " SMTPUTF8"
	}
	return s
}

// exchange sends commands and reads their replies, all at once where the server allows
// it; else not those that make no sense after a refusal. mail is where MAIL stands, the
// last is DATA. On an error it returns the replies that came.
func (cn *conn) exchange(commands []string, mail int) ([]reply, error) {
	size := 1
	if _, ok := cn.ext["PIPELINING"]; ok {
		size = window
	}
	replies := make([]reply, 0, len(commands))
	fill := func(r reply) ([]reply, error) {
		for len(replies) < cap(replies) {
			replies = append(replies, r)
		}
		return replies, nil
	}
	for len(commands) > 0 {
		if n := len(replies); size == 1 && n > mail {
			if replies[mail].code/100 != 2 {
				return fill(replies[mail])
			}
			if len(commands) == 1 && !slices.ContainsFunc(replies[mail+1:], func(r reply) bool { return r.code/100 == 2 }) {
				return fill(reply{code: 503, text: "no recipients"})
			}
		}
		some := commands[:min(size, len(commands))]
		commands = commands[len(some):]
		for _, c := range some {
			if _, err := cn.w.WriteString(c + "\r\n"); err != nil {
				return replies, err
			}
		}
		if err := cn.w.Flush(); err != nil {
			return replies, err
		}
		for range some {
			r, err := cn.read()
			if err != nil {
				return replies, err
			}
			if replies = append(replies, r); r.code == 421 { // RFC 5321 section 3.8: nothing follows
				return fill(r)
			}
		}
	}
	return replies, nil
}

// errAmbiguous says that the server may have taken the message.
var errAmbiguous = errors.New("the connection broke after the message")

// data sends the message after 354 and returns the last reply. A server that goes on
// although it took no recipient gets an empty one (RFC 2920 section 3.1).
func (cn *conn) data(l *outbound.Letter, wanted bool) (reply, error) {
	d := smtp.NewDotWriter(cn.w)
	if wanted {
		if _, err := io.Copy(d, struct{ io.Reader }{l.NewReader()}); err != nil {
			return reply{}, err
		}
	}
	if err := d.Close(); err != nil {
		return reply{}, err
	}
	if err := cn.w.Flush(); err != nil {
		return reply{}, fmt.Errorf("%w: %w", errAmbiguous, err)
	}
	cn.wire.timeout = cn.c.opt.EndTimeout
	defer func() { cn.wire.timeout = cn.c.opt.Timeout }()
	r, err := cn.read()
	if err != nil {
		return reply{}, fmt.Errorf("%w: %w", errAmbiguous, err)
	}
	return r, nil
}

// quit says goodbye and closes. patient waits a moment for the answer.
func (cn *conn) quit(patient bool) {
	cn.wire.timeout = time.Second
	ctx, cancel := context.WithTimeout(context.Background(), cn.wire.timeout)
	defer cancel()
	release := cn.wire.bind(ctx)
	defer release()
	_, _ = cn.w.WriteString("QUIT\r\n")
	if cn.w.Flush() == nil && patient {
		_, _ = cn.read()
	}
	cn.close()
}

func (cn *conn) close() {
	// What is lost was not accepted, or was.
	if err := cn.net.Close(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		_ = cn.wire.Close()
	}
}

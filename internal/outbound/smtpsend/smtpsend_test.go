package smtpsend

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/outbound"
	"madmail/internal/peers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const text = "From: <a@our.example>\r\nSubject: [...]\r\n\r\n.\r\n..two\r\nbody\r\n"

// certificate is one for example.com and 127.0.0.1, and who vouches for it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	p := x509.NewCertPool()
	p.AddCert(s.Certificate())
	return s.TLS.Certificates[0], p
}

// foreign is a mail server that we did not write.
type foreign struct {
	*smtp.Server
	port  int
	roots *x509.CertPool

	mu       sync.Mutex
	got      []received
	sessions int
	rcpt     func(to string) error
	data     func() error
	limit    int // recipients per transaction
}

type received struct {
	hello, from, body string
	to                []string
	opts              smtp.MailOptions
	tls               bool
}

func (f *foreign) NewSession(c *smtp.Conn) (smtp.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions++
	return &session{f: f, c: c}, nil
}

type session struct {
	f *foreign
	c *smtp.Conn
	r received
}

func (s *session) Reset()        { s.r = received{} }
func (s *session) Logout() error { return nil }
func (s *session) Mail(from string, o *smtp.MailOptions) error {
	s.r.from, s.r.opts = from, *o
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.limit > 0 && len(s.r.to) >= s.f.limit {
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 5, 3}, Message: "Too many recipients"}
	}
	if s.f.rcpt != nil {
		if err := s.f.rcpt(to); err != nil {
			return err
		}
	}
	s.r.to = append(s.r.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.data != nil {
		if err := s.f.data(); err != nil {
			return err
		}
	}
	s.r.hello, s.r.body = s.c.Hostname(), string(b)
	_, s.r.tls = s.c.TLSConnectionState()
	s.f.got = append(s.f.got, s.r)
	return nil
}

func (f *foreign) take() []received {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.got
	f.got = nil
	return g
}

func start(t testing.TB, change func(*foreign)) *foreign {
	t.Helper()
	cert, roots := certificate(t)
	f := &foreign{roots: roots}
	f.Server = smtp.NewServer(f)
	f.Domain = "mx.example"
	f.ErrorLog = log.New(io.Discard, "", 0)
	f.EnableSMTPUTF8 = true
	f.MaxMessageBytes = 1 << 20
	f.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	if change != nil {
		change(f)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.port = ln.Addr().(*net.TCPAddr).Port
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Serve(ln) }() // ends with Close below
	t.Cleanup(func() { ln.Close(); f.Close(); <-done })
	return f
}

type loopback struct{}

func (loopback) LookupMX(context.Context, string) ([]outbound.MX, error) { return nil, nil }
func (loopback) LookupAddr(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func client(t testing.TB, o Options) *Client {
	t.Helper()
	o.Dialer = &outbound.Dialer{Resolver: loopback{}}
	if o.Hostname == nil {
		o.Hostname = func() string { return "our.example" }
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func letter(t testing.TB, body, from string, to ...string) *outbound.Letter {
	t.Helper()
	m, err := outbound.NewMessage(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	l := &outbound.Letter{Message: m}
	if from != "" {
		if l.From, err = address.Parse(from); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range to {
		a, err := address.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		l.To = append(l.To, a)
	}
	return l
}

func target(port int) outbound.Target {
	return outbound.Target{By: peers.SMTP, Host: "example.com", Port: port, Named: true}
}

func results(outs []outbound.Outcome) string {
	var s []string
	for _, o := range outs {
		s = append(s, [...]string{"failed", "delivered", "refused", "doubtful", "later"}[o.Result])
	}
	return strings.Join(s, " ")
}

func TestAMessageArrivesAsItWasSent(t *testing.T) {
	f := start(t, nil)
	c := client(t, Options{Roots: f.roots})
	for i := range 3 {
		outs := c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "b@x.example", "c@x.example"))
		if results(outs) != "delivered delivered" {
			t.Fatalf("%d: %+v", i, outs)
		}
	}
	g := f.take()
	if len(g) != 3 || f.sessions != 2 { // go-smtp makes a session per EHLO; one connection
		t.Errorf("%d messages, %d sessions", len(g), f.sessions)
	}
	for _, r := range g {
		if r.body != text || r.from != "a@our.example" || fmt.Sprint(r.to) != "[b@x.example c@x.example]" || !r.tls || r.hello != "our.example" || r.opts.Size != int64(len(text)) || r.opts.UTF8 {
			t.Errorf("%+v", r)
		}
	}
	outs := c.Deliver(t.Context(), target(f.port), letter(t, "A: ä\r\n\r\n", "", "ü@x.example"))
	if g := f.take(); results(outs) != "delivered" || len(g) != 1 || g[0].from != "" || !g[0].opts.UTF8 || g[0].opts.Body != smtp.Body8BitMIME || g[0].to[0] != "ü@x.example" {
		t.Errorf("beyond ASCII: %+v, %+v", outs, g)
	}
}

func TestEachRecipientHasItsOwnResult(t *testing.T) {
	f := start(t, func(f *foreign) {
		f.rcpt = func(to string) error {
			switch to {
			case "gone@x.example":
				return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such user"}
			case "busy@x.example":
				return &smtp.SMTPError{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 2, 0}, Message: "Later"}
			}
			return nil
		}
	})
	c := client(t, Options{Roots: f.roots})
	outs := c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "ok@x.example", "gone@x.example", "busy@x.example", "too@x.example"))
	if results(outs) != "delivered refused later delivered" || outs[1].Status != "5.1.1" || outs[1].Reply != "550 5.1.1 No such user" || outs[1].Remote != "example.com" {
		t.Errorf("%+v", outs)
	}
	if g := f.take(); len(g) != 1 || fmt.Sprint(g[0].to) != "[ok@x.example too@x.example]" {
		t.Errorf("%+v", g)
	}
	outs = c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "gone@x.example", "busy@x.example"))
	if g := f.take(); results(outs) != "refused later" || len(g) != 0 {
		t.Errorf("nobody: %+v, %+v", outs, g)
	}
	outs = c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "ok@x.example")) // the connection is still good
	if results(outs) != "delivered" || f.sessions != 2 {
		t.Errorf("%+v, %d sessions", outs, f.sessions)
	}
	f.mu.Lock()
	f.data = func() error {
		return &smtp.SMTPError{Code: 523, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "Encryption Needed"}
	}
	f.mu.Unlock()
	outs = c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "ok@x.example", "gone@x.example"))
	if results(outs) != "refused refused" || outs[0].Reply != "523 5.7.1 Encryption Needed" || outs[1].Status != "5.1.1" {
		t.Errorf("after the data: %+v", outs)
	}
}

func TestTooManyRecipientsForOneTransaction(t *testing.T) {
	f := start(t, func(f *foreign) { f.limit = 40 })
	c := client(t, Options{Roots: f.roots})
	var to []string
	for i := range 100 {
		to = append(to, fmt.Sprintf("u%d@x.example", i))
	}
	outs := c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", to...))
	for i, o := range outs {
		if o.Result != outbound.Delivered {
			t.Fatalf("%d: %+v", i, o)
		}
	}
	if g := f.take(); len(g) != 3 || len(g[0].to) != 40 || len(g[2].to) != 20 {
		t.Errorf("%d transactions", len(g))
	}
	f.mu.Lock()
	f.limit = 0
	f.mu.Unlock()
	for i := len(to); i < maxTransaction+100; i++ { // pipelined in windows
		to = append(to, fmt.Sprintf("u%d@x.example", i))
	}
	outs = c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", to...))
	if g := f.take(); len(g) != 2 || len(g[0].to) != maxTransaction || len(g[1].to) != 100 || outs[maxTransaction+99].Result != outbound.Delivered {
		t.Errorf("%d transactions, %+v", len(g), outs[len(outs)-1])
	}
}

// TestWhatTLSIsDemanded is known failure 36.
func TestWhatTLSIsDemanded(t *testing.T) {
	secure := start(t, nil)
	clear := start(t, func(f *foreign) { f.TLSConfig = nil })
	known, unknown := client(t, Options{Roots: secure.roots}), client(t, Options{Roots: x509.NewCertPool()})
	bad := errors.New("not this one")
	for _, c := range []struct {
		name string
		f    *foreign
		c    *Client
		host string
		tls  outbound.TLS
		want outbound.Result
		by   bool
	}{
		{"valid", secure, known, "example.com", outbound.TLS{}, outbound.Delivered, true},
		{"wrong name", secure, known, "mx.example.org", outbound.TLS{}, outbound.Failed, false},
		{"unknown authority", secure, unknown, "example.com", outbound.TLS{}, outbound.Failed, false},
		{"any certificate", secure, unknown, "mx.example.org", outbound.TLS{Level: outbound.AnyCert}, outbound.Delivered, true},
		{"an address", secure, unknown, "127.0.0.1", outbound.TLS{Level: outbound.Opportunistic}, outbound.Delivered, true},
		{"own verifier agrees", secure, unknown, "mx.example.org", outbound.TLS{By: outbound.ByDANE, Verify: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return bad
			}
			return nil
		}}, outbound.Delivered, true},
		{"own verifier does not", secure, known, "example.com", outbound.TLS{Verify: func(tls.ConnectionState) error { return bad }}, outbound.Failed, false},
		{"not offered", clear, known, "example.com", outbound.TLS{}, outbound.Failed, false},
		{"not offered, any demanded", clear, known, "example.com", outbound.TLS{Level: outbound.AnyCert}, outbound.Failed, false},
		{"not offered by an address", clear, known, "127.0.0.1", outbound.TLS{Level: outbound.Opportunistic}, outbound.Delivered, false},
	} {
		way := target(c.f.port)
		way.Host, way.TLS = c.host, c.tls
		outs := c.c.Deliver(t.Context(), way, letter(t, text, "a@our.example", "b@x.example"))
		g := c.f.take()
		if outs[0].Result != c.want || (len(g) == 1) != (c.want == outbound.Delivered) || len(g) == 1 && g[0].tls != c.by {
			t.Errorf("%s: %+v, %+v", c.name, outs[0], g)
		}
	}
	for _, x := range []struct {
		c       *Client
		secured map[Security]int64
		vouched map[outbound.By]int64
	}{
		{known, map[Security]int64{Clear: 1, Encrypted: 0, Authenticated: 1}, map[outbound.By]int64{outbound.ByNobody: 2, outbound.ByMTASTS: 0, outbound.ByDANE: 0}},
		{unknown, map[Security]int64{Clear: 0, Encrypted: 2, Authenticated: 1}, map[outbound.By]int64{outbound.ByNobody: 2, outbound.ByMTASTS: 0, outbound.ByDANE: 1}},
	} {
		if secured, vouched := x.c.Connections(); !maps.Equal(secured, x.secured) || !maps.Equal(vouched, x.vouched) {
			t.Errorf("%v %v, want %v %v", secured, vouched, x.secured, x.vouched)
		}
	}
}

func TestLettersThatAServerCannotTake(t *testing.T) {
	f := start(t, func(f *foreign) { f.MaxMessageBytes = 1000; f.EnableSMTPUTF8 = false })
	c := client(t, Options{Roots: f.roots})
	outs := c.Deliver(t.Context(), target(f.port), letter(t, text+strings.Repeat("x", 2000), "a@our.example", "b@x.example"))
	if results(outs) != "refused" || !outs[0].TooBig || !outs[0].Answered || !strings.HasPrefix(outs[0].Reply, "552 5.3.4") {
		t.Errorf("size: %+v", outs)
	}
	outs = c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "ä@x.example"))
	if results(outs) != "refused" || outs[0].Status != "5.6.7" {
		t.Errorf("address: %+v", outs)
	}
	outs = c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "b@x.example"))
	if results(outs) != "delivered" || f.sessions != 2 {
		t.Errorf("afterwards: %+v, %d sessions", outs, f.sessions)
	}
}

// script is a server that says what a test tells it. Lines of it beginning with "C: " are
// expected beginnings of what we send, "S: " is what it says, "data" reads up to
// the dot, "close" ends.
type script struct {
	ln    net.Listener
	wrong chan string
	heard chan string // everything that came, one string per connection
	done  chan struct{}
}

func play(t *testing.T, dialogues ...string) *script {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{ln: ln, wrong: make(chan string, 10), heard: make(chan string, len(dialogues)), done: make(chan struct{})}
	go func() { // ends when the listener does
		defer close(s.done)
		for _, d := range dialogues {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.serve(conn, d)
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-s.done
		select {
		case w := <-s.wrong:
			t.Error(w)
		default:
		}
	})
	return s
}

func (s *script) port() int { return s.ln.Addr().(*net.TCPAddr).Port }

func (s *script) serve(conn net.Conn, dialogue string) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	var heard strings.Builder
	defer func() {
		for { // until we hang up
			got, err := r.ReadString('\n')
			heard.WriteString(got)
			if got == "QUIT\r\n" {
				_, _ = io.WriteString(conn, "221 bye\r\n")
			}
			if err != nil {
				break
			}
		}
		s.heard <- heard.String()
	}()
	for line := range strings.Lines(dialogue) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "S: "):
			if _, err := io.WriteString(conn, line[3:]+"\r\n"); err != nil {
				return
			}
		case strings.HasPrefix(line, "C: "):
			got, err := r.ReadString('\n')
			heard.WriteString(got)
			if err != nil || !strings.HasPrefix(got, line[3:]) {
				s.wrong <- fmt.Sprintf("got %q, %v; want %q", got, err, line[3:])
				return
			}
		case line == "data":
			for {
				got, err := r.ReadString('\n')
				heard.WriteString(got)
				if err != nil || got == ".\r\n" {
					break
				}
			}
		case line == "close":
			conn.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

const hello = "S: 220 mx\nC: EHLO our.example\nS: 250-mx\nS: 250 PIPELINING\n"

func TestDialoguesThatGoOtherwise(t *testing.T) {
	for _, c := range []struct {
		name, dialogue, want string
		status               string
	}{
		{"no greeting", "close", "failed failed", "4.4.1"},
		{"not now", "S: 421 4.3.2 busy\nclose", "failed failed", "4.3.2"},
		{"never", "S: 554 5.7.1 go away\nclose", "failed failed", "5.7.1"},
		{"no SMTP", "S: HTTP/1.0 400 Bad Request\nclose", "failed failed", ""},
		{"an old server", "S: 220 mx\nC: EHLO\nS: 502 what\nC: HELO our.example\nS: 250 mx\nC: MAIL\nS: 250 ok\nC: RCPT\nS: 250 ok\nC: RCPT\nS: 250 ok\nC: DATA\nS: 354 go\ndata\nS: 250 ok", "delivered delivered", ""},
		{"a long greeting", "S: 220-one\nS: 220-two\nS: 220 three\nC: EHLO\nS: 250 mx\nC: MAIL\nS: 451 later\nC: QUIT\nS: 221 bye", "later later", ""},
		{"one after the other, for nobody", "S: 220 mx\nC: EHLO\nS: 250 mx\nC: MAIL\nS: 250 ok\nC: RCPT\nS: 450 later\nC: RCPT\nS: 550 no\nC: QUIT\nS: 221 bye", "later refused", ""},
		{"sender refused", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 550 5.1.8 no\nS: 503 no\nS: 503 no\nS: 503 no", "refused refused", "5.1.8"},
		{"goes on without recipients", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 250 ok\nS: 550 5.1.1 no\nS: 450 4.2.1 no\nS: 354 go\ndata\nS: 554 none", "refused later", "5.1.1"},
		{"goodbye in the middle", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 250 ok\nS: 421 4.4.2 bye\nclose", "failed failed", "4.4.2"},
		{"data refused", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 451 4.3.0 disk", "later later", "4.3.0"},
		{"a positive answer that is none", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 250 what", "failed failed", ""},
		{"broken before the message", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 250 ok\nclose", "failed failed", ""},
		{"broken after the message: it may have it", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\ndata\nclose", "later later", ""},
		{"TLS wanted", hello + "C: MAIL\nC: RCPT\nC: RCPT\nC: DATA\nS: 530 5.7.0 TLS\nS: 530 no\nS: 530 no\nS: 530 no", "failed failed", "5.7.0"},
		{"TLS refused", "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 4.7.0 not now\nC: MAIL\nS: 250 ok\nC: RCPT\nS: 250 ok\nC: RCPT\nS: 250 ok\nC: DATA\nS: 354 go\ndata\nS: 250 ok", "delivered delivered", ""},
		{"endless reply", "S: 220-" + strings.Repeat("x", 10000) + "\nclose", "failed failed", ""},
		{"endless lines", strings.Repeat("S: 220-x\n", 1000) + "close", "failed failed", ""},
		{"two codes in one reply", "S: 220-x\nS: 250 x\nclose", "failed failed", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := play(t, c.dialogue)
			cl := client(t, Options{Timeout: 5 * time.Second, EndTimeout: 5 * time.Second})
			way := target(s.port())
			way.Host, way.TLS.Level = "127.0.0.1", outbound.Opportunistic
			outs := cl.Deliver(t.Context(), way, letter(t, text, "a@our.example", "b@x.example", "c@x.example"))
			if results(outs) != c.want || c.status != "" && outs[0].Status != c.status {
				t.Errorf("%+v", outs)
			}
			for _, o := range outs {
				if strings.ContainsAny(o.Reply, "\r\n") || o.Reply == "" && o.Result != outbound.Delivered {
					t.Errorf("reply %q", o.Reply)
				}
			}
		})
	}
}

func TestTextBeforeTLSIsNotTaken(t *testing.T) {
	// RFC 3207 section 6; what somebody in between says before TLS must not count after it.
	s := play(t, "S: 220 mx\nC: EHLO\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\r\n250 forged\nclose")
	cl := client(t, Options{Timeout: 5 * time.Second})
	way := target(s.port())
	way.TLS.Level = outbound.AnyCert
	outs := cl.Deliver(t.Context(), way, letter(t, text, "a@our.example", "b@x.example"))
	if results(outs) != "failed" || outs[0].Answered {
		t.Errorf("%+v", outs)
	}
	if heard := <-s.heard; strings.Contains(heard, "MAIL") {
		t.Errorf("heard %q", heard)
	}
}

func TestNothingIsSaidInClearWhereTLSIsDemanded(t *testing.T) {
	s := play(t, hello)
	cl := client(t, Options{Timeout: 5 * time.Second})
	outs := cl.Deliver(t.Context(), target(s.port()), letter(t, text, "a@our.example", "b@x.example"))
	if results(outs) != "failed" {
		t.Errorf("%+v", outs)
	}
	if heard := <-s.heard; strings.Contains(heard, "example.com") || strings.Contains(heard, "b@x") {
		t.Errorf("heard %q", heard)
	}
}

func TestAConnectionThatWasClosedWhileIdleIsReplaced(t *testing.T) {
	one := hello + "C: MAIL\nC: RCPT\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\ndata\nS: 250 ok\n"
	again := "C: RSET\nC: MAIL\nC: RCPT\nC: DATA\n"
	for name, d := range map[string][]string{
		"closed":              {one + "close", one},
		"closed with goodbye": {one + again + "S: 421 idle for too long\nclose", one},
		"closed at RSET":      {one + again + "close", one},
		"still there":         {one + again + "S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\ndata\nS: 250 ok"},
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, d...)
			cl := client(t, Options{Timeout: 5 * time.Second})
			way := target(s.port())
			way.Host, way.TLS.Level = "127.0.0.1", outbound.Opportunistic
			for i := range 2 {
				if outs := cl.Deliver(t.Context(), way, letter(t, text, "a@our.example", "b@x.example")); results(outs) != "delivered" {
					t.Errorf("%d: %+v", i, outs)
				}
			}
		})
	}
}

func TestIdleConnectionsAreGivenUp(t *testing.T) {
	s := play(t, hello+"C: MAIL\nC: RCPT\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go\ndata\nS: 250 ok\nC: QUIT\nS: 221 bye")
	cl := client(t, Options{Timeout: 5 * time.Second, Idle: time.Millisecond})
	way := target(s.port())
	way.Host, way.TLS.Level = "127.0.0.1", outbound.Opportunistic
	if outs := cl.Deliver(t.Context(), way, letter(t, text, "a@our.example", "b@x.example")); results(outs) != "delivered" {
		t.Errorf("%+v", outs)
	}
	if heard := <-s.heard; !strings.HasSuffix(heard, "QUIT\r\n") {
		t.Errorf("heard %q", heard)
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if len(cl.idle) != 0 || cl.kept != 0 {
		t.Errorf("%d connections are kept", cl.kept)
	}
}

func TestASilentServerEndsWithTheContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // it accepts, by the kernel, and says nothing
	way := target(ln.Addr().(*net.TCPAddr).Port)
	if outs := client(t, Options{Timeout: 30 * time.Millisecond}).Deliver(t.Context(), way, letter(t, text, "", "b@x.example")); results(outs) != "failed" {
		t.Errorf("after the time limit: %+v", outs)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if outs := client(t, Options{}).Deliver(ctx, way, letter(t, text, "", "b@x.example")); results(outs) != "failed" {
		t.Errorf("after the context: %+v", outs)
	}
}

func TestOurNameInAddressesHasBrackets(t *testing.T) {
	for name, want := range map[string]string{"Our.Example": "our.example", "192.0.2.1": "[192.0.2.1]", "[192.0.2.1]": "[192.0.2.1]", "2001:db8::1": "[IPv6:2001:db8::1]", "": "localhost", "a b": "localhost"} {
		if got := client(t, Options{Hostname: func() string { return name }}).hello(); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestManyAtATime(t *testing.T) {
	f := start(t, nil)
	c := client(t, Options{Roots: f.roots})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if outs := c.Deliver(context.Background(), target(f.port), letter(t, text, "a@our.example", "b@x.example")); results(outs) != "delivered" {
					t.Errorf("%+v", outs)
				}
			}
		})
	}
	wg.Wait()
	if n := len(f.take()); n != 40 {
		t.Errorf("%d messages", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept > maxPerHost {
		t.Errorf("%d connections are kept", c.kept)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{}, {Dialer: &outbound.Dialer{}}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is fine", o)
		}
	}
}

// FuzzServer lets a server say anything.
func FuzzServer(f *testing.F) {
	f.Add("220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
	f.Add("220 mx\r\n250 mx\r\n250 ok\r\n550 no\r\n503 no\r\n")
	f.Add("220-a\r\n220-b\r\n220 c\r\n502 x\r\n250 mx\r\n")
	f.Add("421\r\n")
	m := "A: b\r\n\r\nx\r\n"
	f.Fuzz(func(t *testing.T, said string) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() { // ends when we hang up
			defer close(done)
			go func() { _, _ = io.Copy(io.Discard, theirs) }() // likewise
			_, _ = io.WriteString(theirs, said)
			theirs.Close()
		}()
		c := &Client{opt: Options{Hostname: func() string { return "our.example" }}}
		w := &wire{Conn: ours, timeout: time.Second}
		cn := &conn{c: c, host: "mx", wire: w, net: w, r: bufio.NewReaderSize(w, 8<<10), w: bufio.NewWriterSize(w, 32<<10)}
		release := w.bind(context.Background())
		r, err := cn.greet(context.Background(), outbound.Target{TLS: outbound.TLS{Level: outbound.Opportunistic}})
		release()
		if r == nil && err == nil {
			l := letter(t, m, "a@our.example", "b@x.example", "c@x.example")
			res := cn.send(context.Background(), l, []int{0, 1})
			if len(res.outs) != 2 || len(res.again) != 2 {
				t.Errorf("%+v", res)
			}
		}
		cn.close()
		<-done
	})
}

// TestAConnectionCarriesNoMoreThanItMay: conn_reuse_limit of the block files.
func TestAConnectionCarriesNoMoreThanItMay(t *testing.T) {
	f := start(t, nil)
	c := client(t, Options{Roots: f.roots, Reuse: 2})
	for range 5 {
		if outs := c.Deliver(t.Context(), target(f.port), letter(t, text, "a@our.example", "b@x.example")); results(outs) != "delivered" {
			t.Fatal(outs)
		}
	}
	if f.take(); f.sessions != 6 { // go-smtp makes a session per EHLO, before and after STARTTLS; three connections
		t.Errorf("%d sessions for five messages", f.sessions)
	}
}

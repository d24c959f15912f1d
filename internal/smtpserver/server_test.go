package smtpserver

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gosasl "github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/auth"
	"madmail/internal/delivery"
	"madmail/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is a fake Authenticator and Intake that remembers what it was asked.
type desk struct {
	mu   sync.Mutex // guards the field below
	mail []letter
	fail error
}

type letter struct {
	env  delivery.Envelope
	text string
}

func (d *desk) Login(_ context.Context, user string, password []byte, _ netip.Addr) (auth.Identity, error) {
	if user == "busy@x.org" {
		return auth.Identity{}, fault.New(fault.Busy, "later")
	}
	a, err := address.Parse(user)
	if err != nil || string(password) != "secret" {
		return auth.Identity{}, fault.New(fault.Denied, "Authentication failed")
	}
	return auth.Identity{Account: a}, nil
}

// Allowed bans banned@x.org while it logs in.
func (d *desk) Allowed(a address.Addr) bool { return a.Local() != "banned" }

func (d *desk) Check(_ context.Context, e *delivery.Envelope, to address.Addr) error {
	if to.Domain() != "x.org" {
		return fault.New(fault.Refused, "Relaying denied")
	}
	return nil
}

func (d *desk) Accept(_ context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return delivery.Result{}, err
	}
	if d.fail != nil {
		return delivery.Result{}, d.fail
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mail = append(d.mail, letter{*e, string(b)})
	return delivery.Result{Local: len(e.To), Size: int64(len(b))}, nil
}

func (d *desk) letters() []letter {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]letter(nil), d.mail...)
}

var testTLS = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"mx.test"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
})

func options(d *desk) Options {
	return Options{
		Auth: d, Intake: d, Hostname: func() string { return "mx.test" }, TLS: testTLS(),
		MaxSize: func(Mode) int64 { return 1000 },
	}
}

// serve starts a server on loopback and returns its address.
func serve(t testing.TB, opt Options, mode Mode) (*Server, string) {
	t.Helper()
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l, mode) }() // ends with the listener, below
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// talk plays a dialog: lines "C: text" are sent, "S: text" expected, where the
// text may be /a regular expression/. "C| text" is sent together with the next
// line; "starttls" begins TLS; "eof" expects the server to close; "cut" closes.
func talk(t *testing.T, addr, dialog string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	br := bufio.NewReader(conn)
	batch := ""
	unquote := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\0`, "\x00")
	for n, line := range strings.Split(dialog, "\n") {
		line = strings.TrimSpace(line)
		kind, text, _ := strings.Cut(line, ": ")
		switch {
		case line == "" || line[0] == '#':
		case line == "starttls":
			c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			if err := c.Handshake(); err != nil {
				t.Fatalf("line %d: %v", n+1, err)
			}
			conn, br = c, bufio.NewReader(c)
		case line == "cut":
			conn.Close()
			return
		case line == "eof":
			if b, err := io.ReadAll(br); len(b) > 0 || err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				t.Fatalf("line %d: the server said %q, %v instead of closing", n+1, b, err)
			}
		case strings.HasPrefix(line, "C|"):
			batch += unquote.Replace(strings.TrimPrefix(line[2:], " ")) + "\r\n"
		case kind == "C" || line == "C:":
			if _, err := io.WriteString(conn, batch+unquote.Replace(text)+"\r\n"); err != nil {
				t.Fatalf("line %d: %v", n+1, err)
			}
			batch = ""
		case kind == "R":
			if _, err := io.WriteString(conn, unquote.Replace(text)); err != nil {
				t.Fatalf("line %d: %v", n+1, err)
			}
		case kind == "S":
			got, err := br.ReadString('\n')
			if err != nil {
				t.Fatalf("line %d: waiting for %q: %q, %v", n+1, text, got, err)
			}
			got = strings.TrimSuffix(got, "\r\n")
			if re, ok := strings.CutPrefix(text, "/"); ok {
				if !regexp.MustCompile("^" + strings.TrimSuffix(re, "/") + "$").MatchString(got) {
					t.Fatalf("line %d: got %q, want %s", n+1, got, text)
				}
			} else if got != text {
				t.Fatalf("line %d: got %q, want %q", n+1, got, text)
			}
		default:
			t.Fatalf("line %d: %q is not a line of a dialog", n+1, line)
		}
	}
}

// TestDialogs plays test/dialog/smtp/*.dialog. The name's first part is the mode.
func TestDialogs(t *testing.T) {
	files, err := filepath.Glob("../../test/dialog/smtp/*.dialog")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".dialog")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			mode := Submission
			if strings.HasPrefix(name, "mx-") {
				mode = MX
			}
			d := &desk{}
			opt := options(d)
			opt.AllowInsecureAuth = strings.HasPrefix(name, "plain-")
			_, addr := serve(t, opt, mode)
			talk(t, addr, string(text))
			want := strings.Count(string(text), "# stored")
			if got := d.letters(); len(got) != want {
				t.Errorf("%d messages stored, want %d: %+v", len(got), want, got)
			}
			for _, l := range d.letters() {
				if strings.Contains(l.text, "QUIT") {
					t.Errorf("a command was taken for text: %q", l.text)
				}
			}
		})
	}
}

func TestForeignClientSendsMail(t *testing.T) {
	d := &desk{}
	_, addr := serve(t, options(d), SubmissionTLS)
	c, err := gosmtp.DialTLS(addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Auth(gosasl.NewPlainClient("", "a@x.org", "wrong")); err == nil {
		t.Fatal("a wrong password was accepted")
	}
	if err := c.Auth(gosasl.NewPlainClient("", "a@x.org", "secret")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		text := fmt.Sprintf("Subject: %d\r\n\r\n.dots\r\n..\r\n", i)
		if err := c.SendMail("a@x.org", []string{"b@x.org", "c@x.org"}, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		got := d.letters()
		if len(got) != i+1 || got[i].text != text || len(got[i].env.To) != 2 || got[i].env.Via != delivery.Submission {
			t.Fatalf("%+v", got)
		}
	}
	if err := c.SendMail("a@x.org", []string{"b@elsewhere.org"}, strings.NewReader("x")); err == nil {
		t.Error("another domain was accepted")
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
}

func TestEveryKindOfFaultHasItsReply(t *testing.T) {
	s, err := New(options(&desk{}))
	if err != nil {
		t.Fatal(err)
	}
	c := &session{srv: s}
	for _, k := range fault.Kinds() {
		for _, at := range []stage{atRecipient, atMessage} {
			r := c.refusal(fault.New(k, "text"), at)
			if r.Code < 400 || len(r.Text) != 1 {
				t.Errorf("%v: %+v", k, r)
			}
			if internal := r.Code == 451 && r.Enhanced == "4.3.0"; internal != (k == fault.Internal) {
				t.Errorf("%v: %+v", k, r)
			}
		}
	}
	if r := c.refusal(fault.New(fault.Unencrypted, "Encryption Needed: Invalid Unencrypted Mail"), atMessage); string(r.Append(nil)) != "523 Encryption Needed: Invalid Unencrypted Mail\r\n" {
		t.Errorf("%q", r.Append(nil))
	}
}

// pipe runs a session over a pipe, inside a synctest bubble.
func pipe(t *testing.T, opt Options, mode Mode) (*Server, net.Conn, *bufio.Reader) {
	t.Helper()
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	s.start(b, mode)
	return s, a, bufio.NewReader(a)
}

func expect(t *testing.T, br *bufio.Reader, prefix string) {
	t.Helper()
	line, err := br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, prefix) {
		t.Fatalf("got %q, %v; want %s…", line, err, prefix)
	}
}

func TestATimeoutInsideAMessageClosesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{}
		s, conn, br := pipe(t, options(d), MX)
		expect(t, br, "220")
		for _, l := range []string{"HELO x", "MAIL FROM:<a@b.org>", "RCPT TO:<c@x.org>"} {
			fmt.Fprintf(conn, "%s\r\n", l)
			expect(t, br, "250")
		}
		fmt.Fprintf(conn, "DATA\r\n")
		expect(t, br, "354")
		fmt.Fprintf(conn, "half a mess")
		start := time.Now()
		expect(t, br, "421")
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("waited %v", waited)
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("the connection is still open: %v", err)
		}
		if len(d.letters()) != 0 {
			t.Error("half a message was stored")
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestADribbleOfOctetsIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{}
		s, conn, br := pipe(t, options(d), MX)
		expect(t, br, "220")
		for _, l := range []string{"HELO x", "MAIL FROM:<a@b.org>", "RCPT TO:<c@x.org>"} {
			fmt.Fprintf(conn, "%s\r\n", l)
			expect(t, br, "250")
		}
		fmt.Fprintf(conn, "DATA\r\n")
		expect(t, br, "354")
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := io.WriteString(conn, "x\r\n"); err != nil {
					return
				}
				time.Sleep(10 * time.Second) // fake time
			}
		})
		expect(t, br, "421")
		if waited := time.Since(start); waited > time.Minute {
			t.Errorf("a dribble was taken for %v", waited)
		}
		conn.Close()
		wg.Wait()
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestIdleSessionsEndWithAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, conn, br := pipe(t, options(&desk{}), MX)
		expect(t, br, "220")
		fmt.Fprintf(conn, "HELO x\r\n")
		expect(t, br, "250")
		time.Sleep(4 * time.Minute) // fake time
		fmt.Fprintf(conn, "NOOP\r\n")
		expect(t, br, "250")
		start := time.Now()
		expect(t, br, "421 4.4.2")
		if waited := time.Since(start); waited != 5*time.Minute {
			t.Errorf("waited %v", waited)
		}
		conn.Close()
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestStopTellsIdleSessionsAndFinishesMessages(t *testing.T) {
	d := &desk{}
	s, addr := serve(t, options(d), MX)
	idle, busy := dial(t, addr), dial(t, addr)
	for _, l := range []string{"HELO x", "MAIL FROM:<a@b.org>", "RCPT TO:<c@x.org>"} {
		fmt.Fprintf(busy.conn, "%s\r\n", l)
		expect(t, busy.br, "250")
	}
	fmt.Fprintf(busy.conn, "DATA\r\n")
	expect(t, busy.br, "354")
	stopped := make(chan error, 1)
	go func() { // waited for below
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- s.Stop(ctx)
	}()
	expect(t, idle.br, "421 4.3.2")
	fmt.Fprintf(busy.conn, "text\r\n.\r\n")
	expect(t, busy.br, "250")
	expect(t, busy.br, "421 4.3.2")
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if len(d.letters()) != 1 {
		t.Error("the message under way was lost")
	}
}

type client struct {
	conn net.Conn
	br   *bufio.Reader
}

func dial(t *testing.T, addr string) client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := client{conn, bufio.NewReader(conn)}
	expect(t, c.br, "220")
	return c
}

func TestEndSessionsEndsThoseOfOneAccount(t *testing.T) {
	opt := options(&desk{})
	opt.AllowInsecureAuth = true
	s, addr := serve(t, opt, Submission)
	one, two := dial(t, addr), dial(t, addr)
	for _, c := range []struct {
		client
		user string
	}{{one, "a@x.org"}, {two, "b@x.org"}} {
		fmt.Fprintf(c.conn, "HELO x\r\nAUTH PLAIN %s\r\n", base64.StdEncoding.EncodeToString([]byte("\x00"+c.user+"\x00secret")))
		expect(t, c.br, "250")
		expect(t, c.br, "235")
	}
	a, err := address.Parse("a@x.org")
	if err != nil {
		t.Fatal(err)
	}
	s.EndSessions(a)
	expect(t, one.br, "421")
	fmt.Fprintf(two.conn, "NOOP\r\n")
	expect(t, two.br, "250")
}

func TestManyRecipientsAreBounded(t *testing.T) {
	d := &desk{}
	opt := options(d)
	opt.MaxRecipients = 1000
	_, addr := serve(t, opt, MX)
	c := dial(t, addr)
	fmt.Fprintf(c.conn, "HELO x\r\nMAIL FROM:<a@b.org>\r\n")
	expect(t, c.br, "250")
	expect(t, c.br, "250")
	var wg sync.WaitGroup
	wg.Go(func() {
		w := bufio.NewWriter(c.conn)
		for i := range 20000 {
			fmt.Fprintf(w, "RCPT TO:<u%d@x.org>\r\n", i)
		}
		w.Flush()
	})
	for i := range 20000 {
		if i < 1000 {
			expect(t, c.br, "250")
		} else {
			expect(t, c.br, "452")
		}
	}
	wg.Wait()
}

func TestTooManySessionsOfOneAddressAreTurnedAway(t *testing.T) {
	opt := options(&desk{})
	opt.MaxPerAddress = 2
	_, addr := serve(t, opt, MX)
	dial(t, addr)
	dial(t, addr)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	expect(t, bufio.NewReader(conn), "421")
}

// elsewhere is a connection from another machine.
type elsewhere struct {
	net.Conn
	from string
}

func (e elsewhere) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(e.from))
}

// TestOneServerCannotSendForAll: what one network may send is bounded, in many
// sessions as in one, and others are not touched.
func TestOneServerCannotSendForAll(t *testing.T) {
	opt := options(&desk{})
	now := time.Unix(1_800_000_000, 0)
	opt.Now = func() time.Time { return now }
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	// mails returns the code of the last of so many MAIL commands of one session.
	mails := func(from string, n int) (last string) {
		t.Helper()
		a, b := net.Pipe()
		s.start(elsewhere{a, from}, MX)
		defer b.Close()
		br := bufio.NewReader(b)
		read := func() string {
			line, err := br.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			return line[:3]
		}
		read()
		fmt.Fprint(b, "HELO peer\r\n")
		read()
		for range n {
			fmt.Fprint(b, "MAIL FROM:<a@peer.example>\r\n")
			last = read()
			fmt.Fprint(b, "RSET\r\n")
			read()
		}
		return last
	}
	for _, c := range []struct {
		from string
		n    int
		want string
	}{
		{"192.0.2.7:1", peerBurst - 1, "250"},
		{"192.0.2.7:2", 1, "250"},
		{"192.0.2.7:3", 1, "451"},
		{"192.0.2.8:1", 1, "250"},
		{"[2001:db8::1]:1", peerBurst, "250"},
		{"[2001:db8::2]:1", 1, "451"},
		{"[2001:db8:0:1::2]:1", 1, "250"},
		{"127.0.0.1:1", peerBurst + 10, "250"},
	} {
		if got := mails(c.from, c.n); got != c.want {
			t.Errorf("%d from %s: %s, want %s", c.n, c.from, got, c.want)
		}
	}
	now = now.Add(time.Second)
	if got := mails("192.0.2.7:4", 1); got != "250" {
		t.Error("a second later:", got)
	}
}

func TestTheRateOfASenderIsALeakyBucket(t *testing.T) {
	l := newLimiter[address.Addr](60, 10)
	a, err := address.Parse("a@x.org")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	for i := range 10 {
		if !l.allow(a, now) {
			t.Fatalf("message %d of the burst was refused", i)
		}
	}
	if l.allow(a, now) {
		t.Error("the eleventh message at once passed")
	}
	if !l.allow(a, now.Add(time.Second)) || l.allow(a, now.Add(time.Second)) {
		t.Error("not one message a second afterwards")
	}
	var off *limiter[address.Addr]
	if !off.allow(a, now) {
		t.Error("no limit refused")
	}
}

// FuzzSession speaks to a session in each state.
func FuzzSession(f *testing.F) {
	for _, s := range []string{"EHLO x\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n", "BDAT 5 LAST\r\nhello", "AUTH PLAIN\r\n*\r\n", "STARTTLS\r\n\x16\x03\x01"} {
		for state := range uint8(4) {
			f.Add([]byte(s), state)
		}
	}
	prefix := []string{
		"",
		"EHLO x\r\n",
		"EHLO x\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\n",
		"EHLO x\r\nMAIL FROM:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\n",
	}
	f.Fuzz(func(t *testing.T, in []byte, state uint8) {
		d := &desk{}
		opt := options(d)
		opt.TLS = nil
		s, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		s.group.Panicked = func(_ string, v any, stack []byte) { t.Errorf("panic: %v\n%s", v, stack) }
		a, b := net.Pipe()
		s.start(b, MX)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, a) })
		_ = a.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(a, prefix[int(state)%len(prefix)])
		_, _ = a.Write(in)
		a.Close()
		wg.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		for _, l := range d.letters() {
			if strings.Contains(l.text, "\x00\r\n.\r\n") {
				t.Fatalf("the end was passed: %q", l.text)
			}
		}
	})
}

type null struct{ desk }

func (*null) Accept(_ context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error) {
	_, err := io.Copy(io.Discard, r)
	return delivery.Result{}, err
}

func BenchmarkMessage(b *testing.B) {
	n := &null{}
	opt := options(&n.desk)
	opt.Intake = n
	opt.MaxSize = func(Mode) int64 { return 1 << 20 }
	_, addr := serve(b, opt, MX)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	br := bufio.NewReader(conn)
	fmt.Fprintf(conn, "HELO x\r\n")
	for range 2 {
		if _, err := br.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
	}
	msg := []byte("MAIL FROM:<a@b.org>\r\nRCPT TO:<c@x.org>\r\nDATA\r\n")
	text := []byte(strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123\r\n", 24) + ".\r\n")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = conn.Write(msg)
		for range 3 {
			_, _ = br.ReadSlice('\n')
		}
		_, _ = conn.Write(text)
		if l, err := br.ReadString('\n'); err != nil || l[0] != '2' {
			b.Fatal(l, err)
		}
	}
}

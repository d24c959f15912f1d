package imapserver

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/auth"
	"madmail/internal/event"
	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/maildir"
	"madmail/internal/quota"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv("IDLE_CLIENTS_OF"); addr != "" {
		os.Exit(idleClients(addr))
	}
	if addr := os.Getenv("BULK_CLIENT_OF"); addr != "" {
		if err := bulkReader(addr, os.Getenv("BULK")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// desk is a small house around a server: a real store, everything else fake.
type desk struct {
	store mailbox.Store
	bus   *event.Bus
	quota *quota.Cache
	srv   *Server
	addr  string

	mu      sync.Mutex // guards the fields below
	meta    map[string]string
	metaErr error
}

func (d *desk) Login(_ context.Context, user string, password []byte, _ netip.Addr) (auth.Identity, error) {
	if user == "busy@x.org" {
		return auth.Identity{}, fault.New(fault.Busy, "later")
	}
	a, err := address.Parse(user)
	if err != nil || string(password) != "secret alice" {
		return auth.Identity{}, fault.New(fault.Denied, "Authentication failed")
	}
	return auth.Identity{Account: a}, nil
}

// Allowed bans banned@x.org while it logs in.
func (d *desk) Allowed(a address.Addr) bool { return a.Local() != "banned" }

func (d *desk) Spool(ctx context.Context, t mailbox.Target, r io.Reader, _ int64) (mailbox.Arrival, error) {
	w, err := d.store.NewBody(ctx)
	if err != nil {
		return mailbox.Arrival{}, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, r); err != nil {
		return mailbox.Arrival{}, err
	}
	b, err := w.Seal()
	return mailbox.Arrival{Body: b, Flags: t.Flags, Keywords: t.Keywords, Internal: t.Internal}, err
}

func (d *desk) Commit(ctx context.Context, to mailbox.Box, list []mailbox.Arrival, replaced *mailbox.Ref) ([]mailbox.Placed, error) {
	return d.store.Add(ctx, to, list, replaced)
}

func (d *desk) Append(ctx context.Context, t mailbox.Target, r io.Reader, size int64) (mailbox.Placed, error) {
	a, err := d.Spool(ctx, t, r, size)
	if err != nil {
		return mailbox.Placed{}, err
	}
	defer a.Body.Close()
	p, err := d.store.Deliver(ctx, []mailbox.Target{t}, a.Body)
	if err != nil {
		return mailbox.Placed{}, err
	}
	return p[0], p[0].Err
}

func (d *desk) Get(_ context.Context, _ address.Addr, box, entry string) (string, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.meta[box+" "+entry]
	return v, ok, nil
}

func (d *desk) Entries(_ context.Context, _ address.Addr, box string) (map[string]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.metaErr != nil {
		return nil, d.metaErr
	}
	all := make(map[string]string)
	for k, v := range d.meta {
		if b, e, _ := strings.Cut(k, " "); b == box {
			all[e] = v
		}
	}
	return all, nil
}

func (d *desk) Set(_ context.Context, _ address.Addr, box string, list []imap.Annotation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range list {
		if strings.HasPrefix(a.Entry, "/shared/admin") {
			return fault.New(fault.Refused, "This entry cannot be set")
		}
	}
	for _, a := range list {
		switch old := d.meta[box+" "+a.Entry]; {
		case a.Remove:
			delete(d.meta, box+" "+a.Entry)
		case old != "" && a.Entry == "/private/devicetoken":
			d.meta[box+" "+a.Entry] = old + " " + a.Value
		default:
			d.meta[box+" "+a.Entry] = a.Value
		}
	}
	return nil
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

// build starts a server on loopback.
func build(t testing.TB, mode Mode, change func(*Options)) *desk {
	t.Helper()
	d := &desk{bus: event.New(), meta: map[string]string{" /shared/comment": "hello", " /shared/vendor/deltachat/turn": "host:3478:1:ä"}}
	d.quota = quota.New(func(address.Addr) int64 { return 1 << 20 })
	store, err := maildir.Open(context.Background(), maildir.Options{Dir: t.TempDir(), Used: d.quota.Add, Changed: d.bus.Publish})
	if err != nil {
		t.Fatal(err)
	}
	d.store = store
	opt := Options{
		Auth: d, Store: d.store, Append: d, Bus: d.bus, Quota: d.quota, Metadata: d, TLS: testTLS(),
		Hostname: func() string { return "mx.test" }, Tokens: func() []string { return []string{"XCHATMAIL"} },
		MaxAppend: func(address.Addr) int64 { return 1 << 20 }, AllowInsecureAuth: true,
	}
	if change != nil {
		change(&opt)
	}
	if d.srv, err = New(opt); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.srv.Serve(l, mode); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(d.srv.Stop(ctx), store.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	return d
}

func parse(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const alice = "alice@[127.0.0.1]"

func (d *desk) deliver(t testing.TB, who, text string) mailbox.UID {
	t.Helper()
	p, err := d.Append(context.Background(), mailbox.Target{Box: mailbox.Box{Account: parse(t, who), Name: mailbox.Inbox}, Internal: time.Unix(1_700_000_000, 0)}, strings.NewReader(text), 0)
	if err != nil {
		t.Fatal(err)
	}
	return p.UID
}

// client is a raw IMAP client, with COMPRESS.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	z    *flate.Writer
	// each answer may take 20 s, not a whole test: machines differ. Where the caller
	// sets a deadline it stands.
	patient bool
}

func (d *desk) dial(t testing.TB) *client {
	t.Helper()
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &client{t: t, conn: conn, br: bufio.NewReader(conn), patient: true}
	c.patience()
	return c
}

func (c *client) patience() {
	if c.patient {
		_ = c.conn.SetDeadline(time.Now().Add(20 * time.Second))
	}
}

func (c *client) send(s string) {
	c.t.Helper()
	c.patience()
	var err error
	if c.z != nil {
		if _, err = io.WriteString(c.z, s); err == nil {
			err = c.z.Flush()
		}
	} else {
		_, err = io.WriteString(c.conn, s)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// line reads a line, with the literals that it announces.
func (c *client) line() string {
	c.t.Helper()
	var all strings.Builder
	for {
		s, err := c.br.ReadString('\n')
		if err != nil {
			c.t.Fatalf("after %q: %v", all.String()+s, err)
		}
		all.WriteString(s)
		m := regexp.MustCompile(`\{(\d+)\}\r\n$`).FindStringSubmatch(s)
		if m == nil {
			return strings.TrimSuffix(all.String(), "\r\n")
		}
		n, _ := strconv.Atoi(m[1])
		lit := make([]byte, n)
		if _, err := io.ReadFull(c.br, lit); err != nil {
			c.t.Fatal(err)
		}
		all.Write(lit)
	}
}

// do sends a command and returns everything up to its tagged answer.
func (c *client) do(tag, cmd string) []string {
	c.t.Helper()
	c.send(tag + " " + cmd + "\r\n")
	return c.until(tag + " ")
}

func (c *client) until(prefix string) []string {
	c.t.Helper()
	var all []string
	for {
		l := c.line()
		all = append(all, l)
		if strings.HasPrefix(l, prefix) {
			return all
		}
	}
}

func (c *client) compress() {
	c.t.Helper()
	if l := c.do("z", "COMPRESS DEFLATE"); !strings.HasPrefix(l[0], "z OK") {
		c.t.Fatal(l)
	}
	c.br = bufio.NewReader(flate.NewReader(c.conn))
	c.z, _ = flate.NewWriter(c.conn, 6)
}

func (c *client) login(who string) {
	c.t.Helper()
	c.line()
	if l := c.do("l", `LOGIN "`+who+`" "secret alice"`); !strings.HasPrefix(l[len(l)-1], "l OK [CAPABILITY IMAP4rev1 ") {
		c.t.Fatal(l)
	}
}

// TestDialogs plays test/dialog/imap/*.dialog: "C: " is sent, "S: " expected, "/…/" is a
// regular expression, "deliver" puts a message into alice's INBOX.
func TestDialogs(t *testing.T) {
	files, err := filepath.Glob("../../test/dialog/imap/*.dialog")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".dialog"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			d := build(t, STARTTLS, nil)
			c := d.dial(t)
			unquote := strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\x00`, "\x00")
			quote := strings.NewReplacer("\r\n", `\r\n`, "\x02", `\x02`, "\x03", `\x03`, "\x04", `\x04`)
			for n, line := range strings.Split(string(text), "\n") {
				kind, arg, _ := strings.Cut(line, ": ")
				switch {
				case line == "" || line[0] == '#':
				case kind == "C":
					c.send(unquote.Replace(arg) + "\r\n")
				case kind == "R":
					c.send(unquote.Replace(arg))
				case kind == "deliver":
					d.deliver(t, alice, unquote.Replace(arg))
				case kind == "compress":
					c.compress()
				case kind == "S":
					got := quote.Replace(c.line())
					if re, ok := strings.CutPrefix(arg, "/"); ok {
						if !regexp.MustCompile("^" + strings.TrimSuffix(re, "/") + "$").MatchString(got) {
							t.Fatalf("line %d: got %q, want %s", n+1, got, arg)
						}
					} else if got != arg {
						t.Fatalf("line %d: got\n%q, want\n%q", n+1, got, arg)
					}
				case line == "eof":
					if b, err := c.br.ReadByte(); err != io.EOF && err != io.ErrUnexpectedEOF {
						t.Fatalf("line %d: got %q, %v instead of the end", n+1, b, err)
					}
				default:
					t.Fatalf("line %d: %q is not a line of a dialog", n+1, line)
				}
			}
		})
	}
}

func TestEveryKindOfFaultHasItsResponse(t *testing.T) {
	d := build(t, STARTTLS, nil)
	c := &session{srv: d.srv}
	seen := map[string]fault.Kind{}
	for _, k := range fault.Kinds() {
		r := c.refusal(fault.New(k, "text"))
		if r.status != "NO" || r.text == "" {
			t.Errorf("%v: %+v", k, r)
		}
		if other, ok := seen[r.code]; ok {
			t.Errorf("%v and %v have the same code %q", k, other, r.code)
		}
		seen[r.code] = k
		if strings.Contains(strings.ToLower(r.text), "authentication") != (k == fault.Denied) {
			t.Errorf("%v: %q", k, r.text)
		}
	}
}

// TestNoMailIsMissedAroundIdle delivers at every point between a command and
// the "+" of IDLE, with and without COMPRESS: the client must hear of it.
func TestNoMailIsMissedAroundIdle(t *testing.T) {
	for _, z := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress %v", z), func(t *testing.T) {
			d := build(t, TLS, nil)
			raw, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
			c.login(alice)
			if z {
				c.compress()
			}
			c.do("s", "SELECT INBOX")
			var wg sync.WaitGroup
			defer wg.Wait()
			total := 200
			wg.Go(func() {
				for i := range total {
					d.deliver(t, alice, fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i))
				}
			})
			seen, announced := 0, 0
			for seen < total {
				// As the client does: what a FETCH announced is fetched without IDLE.
				if announced <= seen {
					c.send("i IDLE\r\n")
				}
				for plus := false; announced <= seen; {
					l := c.line()
					if strings.HasPrefix(l, "+ ") {
						plus = true
						continue
					}
					if n, ok := strings.CutSuffix(l, " EXISTS"); ok && plus {
						announced, _ = strconv.Atoi(strings.TrimPrefix(n, "* "))
						if announced > seen {
							c.send("DONE\r\n")
							c.until("i ")
						}
					}
				}
				for _, l := range c.do("f", fmt.Sprintf("UID FETCH %d:%d (UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (SUBJECT)])", seen+1, seen+500)) {
					if n, ok := strings.CutSuffix(l, " EXISTS"); ok {
						announced, _ = strconv.Atoi(strings.TrimPrefix(n, "* "))
					}
					if strings.Contains(l, "FETCH (") {
						seen++
						if !strings.Contains(l, fmt.Sprintf("UID %d ", seen)) || !strings.Contains(l, fmt.Sprintf("Subject: %d\r\n", seen-1)) {
							t.Fatalf("message %d: %q", seen, l)
						}
					}
				}
			}
		})
	}
}

// TestTwoRecordsInOneSegment sends two commands as two TLS records at once: the
// second lies inside crypto/tls while the socket is silent, so a session that
// waits for the socket alone sleeps on it.
func TestTwoRecordsInOneSegment(t *testing.T) {
	for _, packed := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress=%v", packed), func(t *testing.T) {
			d := build(t, TLS, nil)
			raw, err := net.Dial("tcp", d.addr)
			if err != nil {
				t.Fatal(err)
			}
			held := &holding{Conn: raw}
			conn := tls.Client(held, &tls.Config{InsecureSkipVerify: true})
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
			c.login(alice)
			if packed {
				c.compress()
			}
			c.do("s", "SELECT INBOX")
			for i := range 20 {
				c.send("i IDLE\r\n")
				if l := c.line(); !strings.HasPrefix(l, "+") {
					t.Fatal(l)
				}
				held.hold()
				c.send("DONE\r\n")
				c.send("n NOOP\r\n")
				if err := held.release(); err != nil {
					t.Fatal(err)
				}
				c.until("i OK")
				if l := c.until("n "); !strings.HasPrefix(l[len(l)-1], "n OK") {
					t.Fatal(i, l)
				}
				held.hold()
				c.send("j IDLE\r\n")
				c.send("DONE\r\n")
				if err := held.release(); err != nil {
					t.Fatal(err)
				}
				c.until("j OK")
			}
		})
	}
}

// TestIdleSessionsHaveNoGoroutine parks sessions and wakes them in every way.
func TestIdleSessionsHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // they have one there: see package readable
	}
	t.Parallel()
	d := build(t, TLS, func(o *Options) { o.KeepAlive = 6 * time.Second })
	var cs []*client
	for i := range 20 {
		conn, err := tls.Dial("tcp", d.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
		c.login(alice)
		if i%2 == 0 {
			c.compress()
		}
		c.do("s", "SELECT INBOX")
		if i%4 == 0 {
			// The end of the flush comes when the session waits already.
			part := &holding{Conn: conn, on: true}
			c.z.Reset(part)
			c.send("i IDLE\r\n")
			_, _ = conn.Write(part.buf.Next(part.buf.Len() - 4))
			c.until("+")
			_, _ = conn.Write(part.buf.Bytes())
			c.z.Reset(conn)
		} else {
			c.send("i IDLE\r\n")
			c.until("+")
		}
		cs = append(cs, c)
	}
	// Well before the timer, which would let them try again.
	for deadline := time.Now().Add(4 * time.Second); ; runtime.Gosched() {
		if st := d.srv.Stats(); st.Parked == len(cs) && d.srv.group.Live()+d.srv.woken.Busy() == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v, %d goroutines", d.srv.Stats(), d.srv.group.Live()+d.srv.woken.Busy())
		}
	}
	d.deliver(t, alice, "Subject: x\r\n\r\nx\r\n")
	for _, c := range cs {
		c.until("* 1 EXISTS")
		c.until("* OK Still here") // the timer
		c.send("DONE\r\n")
		c.until("i OK")
		c.do("f", "UID FETCH 1 (FLAGS)")
	}
	d.srv.EndSessions(parse(t, alice))
	for _, c := range cs {
		c.until("* BYE")
	}
}

// holding collects writes to send them as one.
type holding struct {
	net.Conn
	on  bool
	buf bytes.Buffer
}

func (h *holding) hold() { h.on = true }

func (h *holding) release() error {
	h.on = false
	_, err := h.buf.WriteTo(h.Conn)
	return err
}

func (h *holding) Write(p []byte) (int, error) {
	if h.on {
		return h.buf.Write(p)
	}
	return h.Conn.Write(p)
}

func TestSessionsSeeEachOthersChanges(t *testing.T) {
	d := build(t, STARTTLS, nil)
	for i := range 4 {
		d.deliver(t, alice, fmt.Sprintf("Subject: %d\r\n\r\nx\r\n", i))
	}
	a, b := d.dial(t), d.dial(t)
	for _, c := range []*client{a, b} {
		c.login(alice)
		c.do("s", "SELECT INBOX")
	}
	b.send("i IDLE\r\n")
	b.line()
	a.do("1", `STORE 2 +FLAGS (\Flagged work)`)
	if l := b.line(); l != `* 2 FETCH (FLAGS (\Flagged work))` {
		t.Error(l)
	}
	a.do("2", `UID STORE 1,3 +FLAGS.SILENT (\Deleted)`)
	b.line()
	b.line()
	a.do("3", "EXPUNGE")
	if l, m := b.line(), b.line(); l != "* 1 EXPUNGE" || m != "* 2 EXPUNGE" {
		t.Error(l, m)
	}
	b.send("DONE\r\n")
	b.until("i OK")
	// FETCH, STORE and SEARCH by number must not shift the numbers.
	a.do("4", `UID STORE 2 +FLAGS.SILENT (\Deleted)`)
	a.do("5", "EXPUNGE")
	for _, l := range b.do("6", "FETCH 1:* (UID)") {
		if strings.Contains(l, "EXPUNGE") {
			t.Error(l)
		}
	}
	if l := b.do("7", "SEARCH ALL"); l[0] != "* SEARCH 1 2" {
		t.Error(l)
	}
	if l := b.do("8", "NOOP"); l[0] != "* 1 EXPUNGE" {
		t.Error(l)
	}
}

// A message whose flags another device changes at the very moment of the fetch
// must reach the client whole: the first response with its UID has the body.
func TestAChangeElsewhereIsNotMistakenForTheAnswer(t *testing.T) {
	d := build(t, STARTTLS, nil)
	d.deliver(t, alice, "Subject: 1\r\n\r\nx\r\n")
	a, b := d.dial(t), d.dial(t)
	for _, c := range []*client{a, b} {
		c.login(alice)
		c.do("s", "SELECT INBOX (CONDSTORE)")
	}
	a.do("1", `UID STORE 1 +FLAGS (\Seen)`)
	got := b.do("2", "UID FETCH 1 (FLAGS BODY.PEEK[])")
	want := []string{`* 1 FETCH (FLAGS (\Seen) MODSEQ (3))`, "* 1 FETCH (UID 1 FLAGS (\\Seen) BODY[] {17}\r\nSubject: 1\r\n\r\nx\r\n)", "2 OK Fetch completed"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	// Its own change is answered with the UID, as RFC 3501 section 6.4.8 says.
	if got := a.do("3", `UID STORE 1 -FLAGS (\Seen)`); got[0] != `* 1 FETCH (UID 1 FLAGS () MODSEQ (4))` {
		t.Errorf("%q", got)
	}
	if got := b.do("4", "UID FETCH 1 (UID MODSEQ)"); got[0] != `* 1 FETCH (FLAGS () MODSEQ (4))` || got[1] != "* 1 FETCH (UID 1 MODSEQ (4))" {
		t.Errorf("%q", got)
	}
}

func TestABanDuringTheLoginEndsTheSession(t *testing.T) {
	c := build(t, STARTTLS, nil).dial(t)
	c.line()
	if l := c.do("a", `LOGIN banned@x.org "secret alice"`); l[0] != "a NO [AUTHENTICATIONFAILED] Authentication failed" {
		t.Error(l)
	}
	c.until("* BYE")
	if _, err := c.br.ReadByte(); err == nil {
		t.Error("the session goes on")
	}
}

func TestEndSessionsAndStop(t *testing.T) {
	d := build(t, STARTTLS, nil)
	a, b := d.dial(t), d.dial(t)
	a.login(alice)
	b.login("bob@x.org")
	a.do("s", "SELECT INBOX")
	a.send("i IDLE\r\n")
	a.line()
	d.srv.EndSessions(parse(t, alice))
	if l := a.line(); !strings.HasPrefix(l, "* BYE") {
		t.Error(l)
	}
	if _, err := a.br.ReadByte(); err != io.EOF {
		t.Error(err)
	}
	b.do("n", "NOOP")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := d.srv.Stop(ctx); err != nil {
		t.Error(err)
	}
	if l := b.line(); !strings.HasPrefix(l, "* BYE") {
		t.Error(l)
	}
}

func TestForeignClient(t *testing.T) {
	d := build(t, TLS, nil)
	d.deliver(t, alice, "Subject: one\r\nFrom: <a@b>\r\n\r\nhello\r\n")
	c, err := imapclient.DialTLS(d.addr, &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(alice, "wrong").Wait(); err == nil {
		t.Fatal("a wrong password was accepted")
	}
	if err := c.Login(alice, "secret alice").Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.Create("Sent/2026 ä", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := c.List("", "*", nil).Collect()
	if err != nil || len(list) != 2 || list[1].Mailbox != "Sent/2026 ä" {
		t.Fatal(list, err)
	}
	sel, err := c.Select("INBOX", nil).Wait()
	if err != nil || sel.NumMessages != 1 {
		t.Fatal(sel, err)
	}
	text := "Subject: two\r\n\r\n" + strings.Repeat("0123456789\r\n", 3000)
	ap := c.Append("INBOX", int64(len(text)), &goimap.AppendOptions{Flags: []goimap.Flag{goimap.FlagSeen, "work"}})
	if _, err := io.WriteString(ap, text); err != nil {
		t.Fatal(err)
	}
	if err := ap.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := ap.Wait()
	if err != nil || data.UID != 2 {
		t.Fatal(data, err)
	}
	msgs, err := c.Fetch(goimap.SeqSetNum(1, 2), &goimap.FetchOptions{UID: true, Flags: true, RFC822Size: true, InternalDate: true, BodySection: []*goimap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil || len(msgs) != 2 {
		t.Fatal(msgs, err)
	}
	if got := string(msgs[1].BodySection[0].Bytes); got != text || msgs[1].RFC822Size != int64(len(text)) || len(msgs[1].Flags) != 2 {
		t.Errorf("%d octets, %v", len(got), msgs[1].Flags)
	}
	mp := "From: Bob <bob@x.org>\r\nSubject: parts\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\nContent-Type: application/x; name=y\r\nContent-Disposition: attachment; filename=y\r\n\r\ntwo\r\n--b--\r\n"
	uid := d.deliver(t, alice, mp)
	parts, err := c.Fetch(goimap.UIDSetNum(goimap.UID(uid)), &goimap.FetchOptions{Envelope: true, BodyStructure: &goimap.FetchItemBodyStructure{Extended: true},
		BodySection: []*goimap.FetchItemBodySection{{Part: []int{2}, Peek: true}, {Part: []int{1}, Specifier: goimap.PartSpecifierMIME, Peek: true}}}).Collect()
	if err != nil || len(parts) != 1 {
		t.Fatal(parts, err)
	}
	bs, isMulti := parts[0].BodyStructure.(*goimap.BodyStructureMultiPart)
	if !isMulti || len(bs.Children) != 2 || parts[0].Envelope.Subject != "parts" || parts[0].Envelope.From[0].Mailbox != "bob" {
		t.Errorf("%+v, %+v", parts[0].BodyStructure, parts[0].Envelope)
	}
	if a, b := string(parts[0].BodySection[0].Bytes), string(parts[0].BodySection[1].Bytes); a != "two" || b != "Content-Type: text/plain\r\n\r\n" {
		t.Errorf("parts %q, %q", a, b)
	}
	found, err := c.UIDSearch(&goimap.SearchCriteria{Header: []goimap.SearchCriteriaHeaderField{{Key: "Subject", Value: "TWO"}}}, nil).Wait()
	if err != nil || len(found.AllUIDs()) != 1 {
		t.Fatal(found, err)
	}
	if _, err := c.Move(goimap.UIDSetNum(2), "Sent/2026 ä").Wait(); err != nil {
		t.Fatal(err)
	}
	st, err := c.Status("Sent/2026 ä", &goimap.StatusOptions{NumMessages: true, UIDNext: true}).Wait()
	if err != nil || *st.NumMessages != 1 {
		t.Fatal(st, err)
	}
	idle, err := c.Idle()
	if err != nil {
		t.Fatal(err)
	}
	d.deliver(t, alice, "Subject: three\r\n\r\nx\r\n")
	if err := idle.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Logout().Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestAdvanceFollowsRandomHistories tells a model client and compares.
func TestAdvanceFollowsRandomHistories(t *testing.T) {
	type msg struct {
		uid   mailbox.UID
		flags mailbox.Flags
	}
	for seed := range uint64(200) {
		rnd := newRand(seed)
		now := mailbox.NewView(1, 1, 1, nil)
		known, client := now, []msg(nil)
		for range 60 {
			mod := now.HighestMod + 1
			switch rnd(3) {
			case 0:
				now = now.With(now.UIDNext+1, mod, mailbox.Message{UID: now.UIDNext, ModSeq: mod})
			case 1:
				if now.Len() > 0 {
					m := now.At(rnd(now.Len()))
					m.Flags ^= mailbox.Seen
					m.ModSeq = mod
					now = now.Replaced(mod, []mailbox.Message{m})
				}
			case 2:
				if now.Len() > 0 {
					now = now.Without(mod, []mailbox.UID{now.At(rnd(now.Len())).UID})
				}
			}
			if rnd(3) > 0 {
				continue
			}
			expunge := rnd(2) == 0
			d := Advance(known, now, expunge)
			if !expunge && len(d.Expunged) > 0 {
				t.Fatal("expunged where it must not")
			}
			for _, seq := range d.Expunged {
				client = append(client[:seq-1:seq-1], client[seq:]...)
			}
			known = d.Known
			for i := len(client); i < known.Len(); i++ {
				client = append(client, msg{known.At(i).UID, known.At(i).Flags})
			}
			for _, m := range d.Flags {
				i, ok := known.Index(m.UID)
				if !ok {
					t.Fatal("flags of a message that is not there")
				}
				client[i].flags = m.Flags
			}
			if len(client) != known.Len() {
				t.Fatalf("seed %d: client has %d messages, server thinks %d", seed, len(client), known.Len())
			}
			for i, m := range client {
				if k := known.At(i); k.UID != m.uid {
					t.Fatalf("seed %d: number %d is UID %d with the client, %d with the server", seed, i+1, m.uid, k.UID)
				}
				if j, ok := now.Index(m.uid); ok && now.At(j).Flags != m.flags {
					t.Fatalf("seed %d: flags of UID %d", seed, m.uid)
				}
			}
			if expunge && known.Len() != now.Len() {
				t.Fatal("not up to date after everything may be told")
			}
		}
	}
}

func newRand(seed uint64) func(int) int {
	x := seed*2654435761 + 12345
	return func(n int) int {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		return int(x % uint64(n))
	}
}

func FuzzSession(f *testing.F) {
	for _, s := range []string{"a LOGIN x y\r\n", "a SELECT INBOX\r\nb FETCH 1:* (FLAGS BODY[])\r\n", "a IDLE\r\nDONE\r\n", "a APPEND INBOX (\\Seen) {5}\r\nhello\r\n",
		"a UID SEARCH OR SEEN NOT (FROM {1}\r\nx)\r\n", "a COMPRESS DEFLATE\r\n\x00\x01", "a STORE 1 +FLAGS (x)\r\nb EXPUNGE\r\n", "a LIST \"\" *%*\r\n",
		"a APPEND INBOX {1+}\r\nx (\\Seen) ~{1+}\r\ny\r\nb REPLACE 1 INBOX {1+}\r\nz\r\n", "a APPEND INBOX UTF8 (~{1+}\r\nx)\r\n",
		"a SORT (SUBJECT REVERSE DATE) UTF-8 ALL\r\nb THREAD REFERENCES UTF-8 TEXT x\r\n", "a SEARCH RETURN (SAVE) BODY x\r\nb FETCH $ (BINARY[1] PREVIEW EMAILID)\r\n",
		"a LIST (SUBSCRIBED RECURSIVEMATCH) \"\" (%) RETURN (STATUS (SIZE))\r\n", "a SETMETADATA INBOX (/private/a ~{1+}\r\nx /shared/b NIL)\r\nb GETMETADATA (MAXSIZE 1 DEPTH infinity) INBOX /private\r\n",
		"a NOTIFY SET STATUS (SELECTED (MessageNew (UID) MessageExpunge)) (PERSONAL (MailboxName ServerMetadataChange))\r\nb CREATE x/y\r\nc RENAME x/y z\r\nd NOTIFY NONE\r\n",
		"a ENABLE IMAP4rev2 QRESYNC\r\nb SELECT INBOX (QRESYNC (1 1 1:* (1 1)))\r\nc UID FETCH $ (FLAGS) (CHANGEDSINCE 1 VANISHED)\r\n"} {
		for st := range uint8(3) {
			f.Add([]byte(s), st)
		}
	}
	dir := f.TempDir()
	st, err := maildir.Open(context.Background(), maildir.Options{Dir: dir})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = st.Close(context.Background()) })
	d := &desk{bus: event.New(), meta: map[string]string{}, store: st, quota: quota.New(func(address.Addr) int64 { return 1 << 20 })}
	prefix := []string{"", "l LOGIN alice@x.org \"secret alice\"\r\n", "l LOGIN alice@x.org \"secret alice\"\r\ns SELECT INBOX\r\n"}
	f.Fuzz(func(t *testing.T, in []byte, state uint8) {
		s, err := New(Options{Auth: d, Store: st, Append: d, Bus: d.bus, Quota: d.quota, Metadata: d, AllowInsecureAuth: true, MaxAppend: func(address.Addr) int64 { return 1 << 16 }})
		if err != nil {
			t.Fatal(err)
		}
		s.group.Panicked = func(_ string, v any, stack []byte) { t.Errorf("panic: %v\n%s", v, stack) }
		a, b := net.Pipe()
		s.start(b, STARTTLS)
		var wg sync.WaitGroup
		var got bytes.Buffer
		wg.Go(func() { _, _ = io.Copy(&got, a) })
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
	})
}

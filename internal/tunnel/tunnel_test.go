package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a web server with a proxy behind it, and a service that says who comes.
func site(t *testing.T, opt Options) (*Proxy, *httptest.Server) {
	t.Helper()
	opt.User, opt.Password = "madmail", "a good password"
	if opt.Reach == nil {
		opt.Reach = func(host string, port uint16) Dialer {
			if host != "mail.example" || port != 993 {
				return nil
			}
			return func(_ context.Context, client netip.AddrPort) (net.Conn, error) {
				near, far := net.Pipe()
				go func() { // ends with the connection
					defer far.Close()
					fmt.Fprintf(far, "hello %s\r\n", client.Addr())
					_, _ = io.Copy(far, far)
				}()
				return near, nil
			}
		}
	}
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := p.Handler(r); h != nil {
			h.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	srv.StartTLS()
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		srv.Close()
	})
	return p, srv
}

// ask sends a request head and returns the answer, and the connection after it.
func ask(t *testing.T, srv *httptest.Server, head string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, head)
	br := bufio.NewReader(conn)
	method, _, _ := strings.Cut(head, " ")
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return resp, conn, br
}

func connect(to, credentials string) string {
	head := "CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n"
	if credentials != "" {
		head += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(credentials)) + "\r\n"
	}
	return head + "\r\n"
}

func TestWhoHasThePasswordReachesServicesOfOurs(t *testing.T) {
	p, srv := site(t, Options{})
	resp, conn, br := ask(t, srv, connect("mail.example:993", "madmail:a good password")+"sent ahead\r\n")
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	for _, want := range []string{"hello 127.0.0.1\r\n", "sent ahead\r\n"} {
		if line, err := br.ReadString('\n'); err != nil || line != want {
			t.Errorf("%q, %v; want %q", line, err, want)
		}
	}
	text := bytes.Repeat([]byte("x"), 100_000)
	go conn.Write(text) // ends with the reading below
	got := make([]byte, len(text))
	if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, text) {
		t.Errorf("other octets came back: %v", err)
	}
	if s := p.Stats(); s.Connections != 1 || s.Relayed != 1 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	for _, to := range []string{"mail.example:25", "other.example:993", "mail.example:99999", "[::1]:993"} {
		if resp, _, _ := ask(t, srv, connect(to, "madmail:a good password")); resp.StatusCode != 403 {
			t.Errorf("%s: %s", to, resp.Status)
		}
	}
	// A password that was changed counts for new connections.
	if err := p.Configure("madmail", "another password"); err != nil {
		t.Fatal(err)
	}
	if resp, _, _ := ask(t, srv, connect("mail.example:993", "madmail:a good password")); resp.StatusCode != 404 {
		t.Errorf("the old password: %s", resp.Status)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := br.ReadByte(); err == nil {
		t.Error("a connection outlives the proxy")
	}
	if resp, _, _ := ask(t, srv, connect("mail.example:993", "madmail:another password")); resp.StatusCode != 503 {
		t.Errorf("after the end: %s", resp.Status)
	}
}

// TestWhoGuessesSeesTheSite: no answer tells a proxy from none.
func TestWhoGuessesSeesTheSite(t *testing.T) {
	p, srv := site(t, Options{Failures: 10})
	for _, head := range []string{
		connect("mail.example:993", ""), connect("mail.example:993", "madmail:wrong"), connect("mail.example:993", "a good password"),
		connect("elsewhere.example:443", "madmail:wrong"), strings.Replace(connect("mail.example:993", "madmail:a good password"), "Basic", "Digest", 1),
		strings.Replace(connect("mail.example:993", "madmail:a good password"), "Proxy-", "", 1),
		"GET / HTTP/1.1\r\nHost: a\r\n" + strings.SplitN(connect("x:1", "madmail:a good password"), "\r\n", 3)[2],
	} {
		resp, _, _ := ask(t, srv, head)
		if resp.StatusCode != 404 || resp.Header.Get("Proxy-Authenticate") != "" {
			t.Errorf("%q: %s %v", head, resp.Status, resp.Header)
		}
	}
	for range 20 {
		ask(t, srv, connect("mail.example:993", "madmail:wrong"))
	}
	if resp, _, _ := ask(t, srv, connect("mail.example:993", "madmail:a good password")); resp.StatusCode != 404 {
		t.Errorf("after many wrong ones: %s", resp.Status)
	}
	if s := p.Stats(); s.Refused < 20 || s.Relayed != 0 {
		t.Errorf("%+v", s)
	}
	for _, cred := range [][2]string{{"", "a good password"}, {"madmail", ""}, {"madmail", "short"}} {
		if err := p.Configure(cred[0], cred[1]); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", cred, err)
		}
	}
}

func TestConnectionsOfOneSourceAreBounded(t *testing.T) {
	_, srv := site(t, Options{MaxPerSource: 1})
	resp, conn, _ := ask(t, srv, connect("mail.example:993", "madmail:a good password"))
	if resp.StatusCode != 200 {
		t.Fatal(resp.Status)
	}
	if resp, _, _ := ask(t, srv, connect("mail.example:993", "madmail:a good password")); resp.StatusCode != 503 {
		t.Errorf("one more: %s", resp.Status)
	}
	conn.Close()
	for {
		if resp, _, _ := ask(t, srv, connect("mail.example:993", "madmail:a good password")); resp.StatusCode == 200 {
			break
		}
	}
	_, broken := site(t, Options{Reach: func(string, uint16) Dialer {
		return func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("no") }
	}})
	for range 3 { // a place comes back
		if resp, _, _ := ask(t, broken, connect("mail.example:993", "madmail:a good password")); resp.StatusCode != 502 {
			t.Errorf("a service that is not there: %s", resp.Status)
		}
	}
}

// masked is a message of a client.
func masked(op byte, payload string) []byte {
	b := []byte{op}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := []byte{1, 2, 3, 4}
	b = append(b, mask...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i&3])
	}
	return b
}

const upgrade = "GET /ss HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

func TestAStreamInsideWebSocket(t *testing.T) {
	took := make(chan net.Conn, 1)
	streams := NewStreams("/ss", func(c net.Conn) { took <- c }, http.NotFoundHandler())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- streams.Serve(ln) }() // ends with Stop below
	dial := func(head string) (net.Conn, *bufio.Reader, *http.Response) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		io.WriteString(conn, head)
		br := bufio.NewReader(conn)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		return conn, br, resp
	}
	for _, x := range [][2]string{{"/ss", "/other"}, {"websocket", "h2c"}, {"Version: 13", "Version: 8"}, {"dGhlIHNhbXBsZSBub25jZQ==", "eA=="}, {"GET", "POST"}} {
		if _, _, resp := dial(strings.Replace(upgrade, x[0], x[1], 1)); resp.StatusCode != 404 {
			t.Errorf("%s: %s", x[1], resp.Status)
		}
	}
	// RFC 6455 section 1.3 has the answer to this key.
	conn, br, resp := dial(upgrade + string(masked(0x82, "first")))
	if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatal(resp.Status, resp.Header)
	}
	c := <-took
	if _, ok := c.RemoteAddr().(*net.TCPAddr); !ok {
		t.Errorf("remote %T", c.RemoteAddr())
	}
	long := strings.Repeat("0123456789", 20_000)
	go func() { // ends with the reading below
		for _, m := range [][]byte{
			masked(0x02, " in"), masked(0x89, "ping"), masked(0x80, " pieces "), masked(0x82, ""), masked(0x8a, "nobody asked"), masked(0x89, ""),
			masked(0x82, long[:300]), masked(0x82, long[300:]), masked(0x88, ""),
		} {
			conn.Write(m)
		}
	}()
	got, err := io.ReadAll(c)
	if want := "first in pieces " + long; err != nil || string(got) != want {
		t.Errorf("%d octets, want %d: %v", len(got), len(want), err)
	}
	want := "\x8a\x04ping\x8a\x00\x82\x03abc\x82\x7e\x01\x2c" + long[:300] + "\x82\x7f\x00\x00\x00\x00\x00\x01\x11\x70" + long[:70000]
	for _, n := range []int{3, 300, 70000} {
		text := "abc"
		if n > 3 {
			text = long[:n]
		}
		go c.Write([]byte(text)) // ends with the reading below
		if n == 3 {
			first := make([]byte, len("\x8a\x04ping\x8a\x00\x82\x03abc"))
			if _, err := io.ReadFull(br, first); err != nil || string(first) != want[:len(first)] {
				t.Fatalf("%q, %v", first, err)
			}
			want = want[len(first):]
			continue
		}
		part := make([]byte, map[int]int{300: 304, 70000: 70010}[n])
		if _, err := io.ReadFull(br, part); err != nil || string(part) != want[:len(part)] {
			t.Errorf("a message of %d octets is another: %v", n, err)
		}
		want = want[len(part):]
	}
	c.Close()
	streams.Stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzStream: whatever a client sends is read to an end, and no more comes out than
// went in.
func FuzzStream(f *testing.F) {
	f.Add(append(masked(0x02, "a"), masked(0x89, "b")...))
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newStream(&script{in: bytes.NewReader(in)})
		out, _ := io.ReadAll(s)
		if len(out) > len(in) {
			t.Errorf("%d octets of %d", len(out), len(in))
		}
	})
}

// script is a connection with a fixed input.
type script struct {
	net.Conn
	in io.Reader
}

func (s *script) Read(p []byte) (int, error)         { return s.in.Read(p) }
func (s *script) Write(p []byte) (int, error)        { return len(p), nil }
func (s *script) SetWriteDeadline(_ time.Time) error { return nil }

package inlet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDialIsAcceptedUnderTheClientsAddress(t *testing.T) {
	l := New(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 993})
	remote := netip.MustParseAddrPort("192.0.2.7:4711")
	var conn net.Conn
	var err error
	var dialled sync.WaitGroup
	dialled.Go(func() { conn, err = l.Dial(t.Context(), remote) })
	got, acceptErr := l.Accept()
	dialled.Wait()
	if err != nil || acceptErr != nil {
		t.Fatal(err, acceptErr)
	}
	defer conn.Close()
	defer got.Close()
	if got.RemoteAddr().String() != remote.String() || got.LocalAddr().String() != "127.0.0.1:993" {
		t.Errorf("from %v to %v", got.RemoteAddr(), got.LocalAddr())
	}
	dialled.Go(func() { _, _ = conn.Write([]byte("hello")) })
	p := make([]byte, 5)
	if _, err := io.ReadFull(got, p); err != nil || string(p) != "hello" {
		t.Errorf("%q, %v", p, err)
	}
	dialled.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Dial(ctx, remote); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody accepts: %v", err)
	}
	l.Close()
	l.Close()
	if _, err := l.Dial(t.Context(), remote); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func certificate(t testing.TB) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// door accepts TLS and says its name.
func door(t *testing.T, group *sync.WaitGroup, l net.Listener, name string, conf *tls.Config) {
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				if _, ok := conn.(syscall.Conn); !ok {
					t.Errorf("%s: the socket is hidden", name)
				}
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				_, _ = tls.Server(conn, conf).Write([]byte(name)) // or the client was turned away
			})
		}
	})
}

func TestSplitter(t *testing.T) {
	cert := certificate(t)
	conf := func(protocols ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web, imap, smtp := New(l.Addr()), New(l.Addr()), New(l.Addr())
	s := NewSplitter(web, func(p string) *Listener {
		return map[string]*Listener{"imap": imap, "smtp": smtp, "submission": smtp}[p]
	})
	var group sync.WaitGroup
	door(t, &group, web, "web", conf("h2", "http/1.1"))
	door(t, &group, imap, "imap", conf("imap"))
	door(t, &group, smtp, "smtp", conf("smtp", "submission"))
	group.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	defer func() {
		l.Close()
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		web.Close()
		imap.Close()
		smtp.Close()
		group.Wait()
	}()
	for _, c := range []struct {
		offers    []string
		want, got string // the door and the protocol
	}{
		{nil, "web", ""},
		{[]string{"h2", "http/1.1"}, "web", "h2"},
		{[]string{"http/1.1"}, "web", "http/1.1"},
		{[]string{"imap"}, "imap", "imap"},
		{[]string{"smtp"}, "smtp", "smtp"},
		{[]string{"submission"}, "smtp", "submission"},
		{[]string{"other", "imap"}, "imap", "imap"},
		{[]string{"smtp", "imap"}, "smtp", "smtp"},
		{[]string{"IMAP"}, "", ""},
		{[]string{"pop3"}, "", ""},
		{[]string{strings.Repeat("x", 255), strings.Repeat("y", 255), "imap"}, "imap", "imap"},
	} {
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: c.offers})
		if err != nil {
			if c.want != "" || !strings.Contains(err.Error(), "no application protocol") {
				t.Errorf("%q: %v", c.offers, err)
			}
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		name, err := io.ReadAll(conn)
		conn.Close()
		if string(name) != c.want || conn.ConnectionState().NegotiatedProtocol != c.got {
			t.Errorf("%q: %q by %q (%v), want %q by %q", c.offers, name, conn.ConnectionState().NegotiatedProtocol, err, c.want, c.got)
		}
	}
}

func TestWhatIsNoTLSReachesTheRest(t *testing.T) {
	rest := New(nil)
	s := NewSplitter(rest, nil)
	near, far := net.Pipe()
	defer near.Close()
	s.group.Go("decide", func() { s.decide(near) })
	const line = "GET / HTTP/1.1\r\n\r\n"
	s.group.Go("say", func() { _, _ = far.Write([]byte(line)); far.Close() })
	conn, err := rest.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != line {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClientsThatSayNothingAreClosed(t *testing.T) {
	for _, say := range [][]byte{nil, {22, 3, 1}, append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 100)...)} {
		synctest.Test(t, func(t *testing.T) {
			s := NewSplitter(New(nil), nil)
			near, far := net.Pipe()
			begin := time.Now()
			s.group.Go("decide", func() { s.decide(near) })
			s.group.Go("say", func() { _, _ = far.Write(say) })
			if _, err := far.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%v", err)
			}
			if d := time.Since(begin); d != helloTime {
				t.Errorf("closed after %v", d)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPlacesAreLimited(t *testing.T) {
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	s := slots{perSource: maxPerSource}
	var give []func()
	for range maxPerSource {
		give = append(give, s.take(at("2001:db8::1")))
	}
	if s.take(at("2001:db8::2")) != nil {
		t.Error("one network has more than its share")
	}
	other := s.take(at("2001:db8:1::1"))
	if other == nil {
		t.Fatal("another network has none")
	}
	for _, g := range append(give, other) {
		g()
	}
	if s.taken != 0 || len(s.by) != 0 {
		t.Errorf("%d, %v are left", s.taken, s.by)
	}
	free := new(slots)
	for i := range maxDeciding {
		if free.take(at("192.0.2.1")) == nil {
			t.Fatalf("place %d", i)
		}
	}
	if free.take(at("192.0.2.2")) != nil {
		t.Error("no limit")
	}
}

func TestOpenConnectionsAreLimited(t *testing.T) {
	at := func(ip string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(ip), 4711) }
	in := New(&net.TCPAddr{})
	l := Limit(in, 4, 2)
	var group sync.WaitGroup
	accepted := make(chan net.Conn, 10)
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	})
	open := func(ip string) (far net.Conn, isIn bool) {
		t.Helper()
		far, err := in.Dial(t.Context(), at(ip))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		group.Go(func() { defer close(ended); _, _ = far.Read(make([]byte, 1)) })
		select {
		case conn := <-accepted:
			t.Cleanup(func() { conn.Close() })
			group.Go(func() { <-ended; conn.Close() })
			return far, true
		case <-ended:
			return far, false
		}
	}
	one, _ := open("192.0.2.1")
	for _, c := range []struct {
		ip string
		in bool
	}{
		{"192.0.2.1", true}, {"::ffff:192.0.2.1", false}, {"127.0.0.1", true}, {"127.0.0.1", true}, {"127.0.0.1", false}, {"192.0.2.2", false},
	} {
		far, isIn := open(c.ip)
		defer far.Close()
		if isIn != c.in {
			t.Errorf("%s: %v, want %v", c.ip, isIn, c.in)
		}
	}
	one.Close()
	for len(accepted) == 0 { // the place is given back by the other side of the pipe
		far, isIn := open("192.0.2.2")
		defer far.Close()
		if isIn {
			break
		}
	}
	l.Close()
	t.Cleanup(group.Wait)
}

func TestStopEndsWhatIsUndecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSplitter(New(nil), nil)
		near, far := net.Pipe()
		s.group.Go("decide", func() { s.decide(near) })
		synctest.Wait()
		begin := time.Now()
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestProxied(t *testing.T) {
	v2 := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), 192, 0, 2, 9, 198, 51, 100, 1, 0x12, 0x67, 0x03, 0xe1)
	local := []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
	for _, c := range []struct {
		name    string
		trusted string
		send    string
		from    string // "" for the connection's own address; "-" when it is closed
		got     string
	}{
		{"version 1", "127.0.0.0/8", "PROXY TCP4 192.0.2.9 198.51.100.1 4711 993\r\nhello", "192.0.2.9:4711", "hello"},
		{"version 1, IPv6", "127.0.0.0/8", "PROXY TCP6 2001:db8::9 2001:db8::1 4711 993\r\nhello", "[2001:db8::9]:4711", "hello"},
		{"version 2", "127.0.0.1/32", string(v2) + "hello", "192.0.2.9:4711", "hello"},
		{"version 2, for itself", "127.0.0.1/32", string(local) + "hello", "", "hello"},
		{"no header", "127.0.0.1/32", "hello there, this is not a header at all\r\n", "-", ""},
		{"a broken header", "127.0.0.1/32", "PROXY TCP4 192.0.2.900 198.51.100.1 4711 993\r\nhello", "-", ""},
		{"a header from somebody else", "10.0.0.0/8", "PROXY TCP4 192.0.2.9 198.51.100.1 4711 993\r\n", "", "PROXY TCP4 192.0.2.9 198.51.100.1 4711 993\r\n"},
		{"nobody is trusted", "", "hello", "", "hello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var trusted []netip.Prefix
			if c.trusted != "" {
				trusted = append(trusted, netip.MustParsePrefix(c.trusted))
			}
			p := NewProxied(l, trusted)
			defer p.Close()
			far, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			_ = far.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := far.Write([]byte(c.send)); err != nil {
				t.Fatal(err)
			}
			if c.from == "-" {
				if _, err := far.Read(make([]byte, 1)); err == nil {
					t.Error("an answer")
				}
				return
			}
			conn, err := p.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			got := make([]byte, len(c.got))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != c.got {
				t.Errorf("%q, %v", got, err)
			}
			want := c.from
			if want == "" {
				want = far.LocalAddr().String()
			}
			if conn.RemoteAddr().String() != want {
				t.Errorf("from %v, want %s", conn.RemoteAddr(), want)
			}
		})
	}
}

// A proxy that says nothing holds nobody else up.
func TestSilentProxiesAreNotWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := NewProxied(l, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	talking, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer talking.Close()
	if _, err := talking.Write([]byte("PROXY TCP4 192.0.2.9 198.51.100.1 4711 993\r\n")); err != nil {
		t.Fatal(err)
	}
	conn, err := p.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	p.Close()
	p.Close()
	if _, err := p.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	_ = silent.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the silent one is open")
	}
}

// FuzzHello gives any octets: what was read comes back, and no more.
func FuzzHello(f *testing.F) {
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(far, &tls.Config{ServerName: "localhost", NextProtos: []string{"imap"}}).Handshake()
		far.Close()
	}()
	first, protocols := hello(near)
	near.Close()
	if len(protocols) != 1 || protocols[0] != "imap" {
		f.Fatal(protocols)
	}
	f.Add(first)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		near, far := net.Pipe()
		var writer sync.WaitGroup
		writer.Go(func() { _, _ = far.Write(data); far.Close() })
		first, protocols := hello(near)
		near.Close()
		writer.Wait()
		if !bytes.HasPrefix(data, first) || len(first) > 128<<10 {
			t.Errorf("%d of %d octets", len(first), len(data))
		}
		if len(protocols) > 0 && len(first) < 40 {
			t.Errorf("%q out of %d octets", protocols, len(first))
		}
	})
}

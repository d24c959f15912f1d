package shadowsocks

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ciphers = []string{"aes-128-gcm", "aes-256-gcm", "chacha20-ietf-poly1305", "2022-blake3-aes-128-gcm", "2022-blake3-aes-256-gcm"}

// passwords fit their ciphers.
var passwords = map[string]string{
	"aes-128-gcm": "correct horse", "aes-256-gcm": "correct horse", "chacha20-ietf-poly1305": "correct horse",
	"2022-blake3-aes-128-gcm": "AAECAwQFBgcICQoLDA0ODw==", "2022-blake3-aes-256-gcm": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
}

// echo is a service that says what it hears, and ends when it hears the end.
type echo struct {
	t     testing.TB
	l     net.Listener
	group sync.WaitGroup
	from  atomic.Value // netip.AddrPort of the last client
}

func newEcho(t testing.TB) *echo {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{t: t, l: l}
	e.group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.group.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); e.group.Wait() })
	return e
}

func (e *echo) dial(ctx context.Context, client netip.AddrPort) (net.Conn, error) {
	e.from.Store(client)
	return new(net.Dialer).DialContext(ctx, "tcp", e.l.Addr().String())
}

// serve starts a server with an echo service on port 993.
func serve(t testing.TB, cipher string, change func(*Options)) (*Server, net.Listener, *echo) {
	t.Helper()
	e := newEcho(t)
	opt := Options{Cipher: cipher, Password: passwords[cipher], Targets: map[uint16]Dialer{993: e.dial}}
	if change != nil {
		change(&opt)
	}
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for range 2 {
			if err := s.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
		s.mu.Lock()
		if len(s.conns)+len(s.sources) != 0 {
			t.Errorf("%d connections, %d sources are left", len(s.conns), len(s.sources))
		}
		s.mu.Unlock()
	})
	return s, l, e
}

func dial(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func TestKeys(t *testing.T) {
	// openssl enc -aes-256-cbc -md md5 -nosalt -k foobar -P
	if got := strings.ToUpper(hex.EncodeToString(stretch("foobar", 32))); got != "3858F62230AC3C915F300C664312C63F568378529614D22DDB49237D2F60BFDF" {
		t.Errorf("key of foobar is %s", got)
	}
	for _, name := range ciphers {
		p, err := NewPassword(name)
		if err != nil || Check(name, p) != nil {
			t.Errorf("%s: a new password %q does not fit: %v", name, p, err)
		}
		if again, _ := NewPassword(name); again == p {
			t.Errorf("%s: the same password twice", name)
		}
	}
	for _, bad := range [][2]string{
		{"aes-128-gcm", ""}, {"", "secret"}, {"rc4-md5", "secret"}, {"AES-128-GCM", "secret"}, {"2022-blake3-aes-128-gcm", "secret"}, {"2022-blake3-aes-128-gcm", ""},
		{"2022-blake3-aes-128-gcm", passwords["2022-blake3-aes-256-gcm"]}, {"2022-blake3-aes-256-gcm", passwords["2022-blake3-aes-128-gcm"]},
	} {
		_, err := New(Options{Cipher: bad[0], Password: bad[1]})
		if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
		if !fault.Is(Check(bad[0], bad[1]), fault.Invalid) {
			t.Errorf("%q fits", bad)
		}
	}
	if _, err := NewPassword("rc4-md5"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func TestLink(t *testing.T) {
	for _, c := range []struct {
		cipher, password, host string
		want                   string
	}{
		{"aes-128-gcm", "test", "192.168.100.1", "ss://" + base64.RawURLEncoding.EncodeToString([]byte("aes-128-gcm:test")) + "@192.168.100.1:8388#192.168.100.1"},
		{"aes-128-gcm", "~~>>??", "a.example", "ss://YWVzLTEyOC1nY206fn4-Pj8_@a.example:8388#a.example"},
		{"aes-256-gcm", "x", "[2001:db8::1]", "ss://YWVzLTI1Ni1nY206eA@[2001:db8::1]:8388#2001:db8::1"},
		{"2022-blake3-aes-256-gcm", "YctPZ6U7xPPcU+gp3u+0tx/tRizJN9K8y+uKlW2qjlI=", "a.example",
			"ss://2022-blake3-aes-256-gcm:YctPZ6U7xPPcU%2Bgp3u%2B0tx%2FtRizJN9K8y%2BuKlW2qjlI%3D@a.example:8388#a.example"},
	} {
		if got := Link(c.cipher, c.password, c.host, 8388); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, name := range ciphers {
		t.Run(name, func(t *testing.T) {
			s, l, e := serve(t, name, nil)
			for i, host := range []string{"127.0.0.1", "::1", "localhost", strings.Repeat("x", 255)} {
				conn := dial(t, l)
				var rw io.ReadWriter = conn
				if i == 2 {
					rw = dribble{conn}
				}
				c := newClient(rw, name, passwords[name])
				first := []byte("a001 CAPABILITY\r\n")
				if i == 1 {
					first = nil
				}
				if _, err := rw.Write(c.hello(host, 993, first)); err != nil {
					t.Fatal(err)
				}
				sent := append([]byte{}, first...)
				var writer sync.WaitGroup
				blobs := [][]byte{[]byte("x"), make([]byte, 0x3FFF), make([]byte, 70_000)}
				for _, b := range blobs {
					_, _ = rand.Read(b[:min(len(b), 1000)])
					sent = append(sent, b...)
				}
				writer.Go(func() {
					for _, b := range blobs {
						if _, err := c.Write(b); err != nil {
							t.Error(err)
							return
						}
					}
				})
				got := make([]byte, len(sent))
				if _, err := io.ReadFull(c, got); err != nil {
					t.Fatalf("%s: %v", host, err)
				}
				writer.Wait()
				if !bytes.Equal(got, sent) {
					t.Fatalf("%s: the echo differs", host)
				}
				if at := e.from.Load().(netip.AddrPort); at.String() != conn.LocalAddr().String() {
					t.Errorf("the service was told %v, not %v", at, conn.LocalAddr())
				}
				// The client ends its side, hears the rest and the end.
				if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, conn); err != nil || n != 0 {
					t.Errorf("after the end: %d octets, %v", n, err)
				}
			}
			until(t, "all are closed", func() bool { return s.Stats().Connections == 0 })
			if st := s.Stats(); st.Relayed != 4 || st.Probes != 0 || st.ToClients != st.ToServices || st.ToClients < 4*86_000 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// Before 2022 a header is a stream like the rest: it may come in pieces.
func TestHeaderInPieces(t *testing.T) {
	_, l, _ := serve(t, "aes-256-gcm", nil)
	for _, step := range []int{1, 2, 3, 7, 300} {
		conn := dial(t, l)
		c := newClient(conn, "aes-256-gcm", passwords["aes-256-gcm"])
		out := append([]byte{}, c.salt...)
		plain := append(targetAddress("mail.example", 993), "hello"...)
		for rest := plain; len(rest) > 0; {
			n := min(step, len(rest))
			out = append(out, c.chunk(rest[:n])...)
			rest = rest[n:]
		}
		if _, err := conn.Write(out); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
			t.Errorf("in pieces of %d: %q, %v", step, got, err)
		}
	}
}

// A probe hears nothing, and the end comes at the same moment whatever it said.
func TestProbesLearnNothing(t *testing.T) {
	const silence = 47 * time.Second
	random := func(n int) []byte { b := make([]byte, n); _, _ = rand.Read(b); return b }
	for _, name := range ciphers {
		modern := strings.HasPrefix(name, "2022-")
		good := newClient(nil, name, passwords[name]).hello("127.0.0.1", 993, []byte("recorded"))
		fresh := func() *client { return newClient(nil, name, passwords[name]) }
		probes := map[string][]byte{
			"nothing": nil, "one octet": {5}, "HTTP": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "TLS": append([]byte{22, 3, 1, 2, 0, 1}, random(600)...),
			"a salt": random(32), "random 50": random(50), "random 51": random(51), "random 100": random(100), "random 10k": random(10_000), "random 100k": random(100_000),
			"replayed": good, "replayed without its end": good[:len(good)-1], "a cut salt": good[:10], "a cut header": good[:40],
			"another key":  newClient(nil, name, map[bool]string{true: base64.StdEncoding.EncodeToString(random(len(keyOf(name, passwords[name])))), false: "guess"}[modern]).hello("127.0.0.1", 993, nil),
			"another port": fresh().hello("127.0.0.1", 22, []byte("SSH-2.0-x\r\n")), "port 0": fresh().hello("127.0.0.1", 0, []byte("x")),
			"another host": fresh().hello("elsewhere.example", 993, []byte("x")), "a service that is down": fresh().hello("127.0.0.1", 994, []byte("x")),
			"a flipped bit": func() []byte { b := fresh().hello("127.0.0.1", 993, []byte("x")); b[len(b)-1] ^= 1; return b }(),
		}
		if modern {
			at := func(d int64) uint64 { return uint64(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Unix() + d) } // the beginning of synctest's time
			head := append(targetAddress("127.0.0.1", 993), 0, 1, 0)
			probes["too old"] = fresh().helloOf(0, at(-31), head)
			probes["too new"] = fresh().helloOf(0, at(31), head)
			probes["no time"] = fresh().helloOf(0, 0, head)
			probes["end of time"] = fresh().helloOf(0, 1<<63, head)
			probes["an answer"] = fresh().helloOf(1, at(0), head)
			probes["neither padding nor payload"] = fresh().helloOf(0, at(0), append(targetAddress("127.0.0.1", 993), 0, 0))
			probes["padding beyond the end"] = fresh().helloOf(0, at(0), append(targetAddress("127.0.0.1", 993), 0, 9, 1))
			probes["no padding length"] = fresh().helloOf(0, at(0), targetAddress("127.0.0.1", 993))
			probes["no address"] = fresh().helloOf(0, at(0), nil)
			probes["unknown address type"] = fresh().helloOf(0, at(0), []byte{9, 9, 9, 9, 9, 9, 9, 9})
		} else {
			old := func(plain []byte) []byte { c := fresh(); return append(bytes.Clone(c.salt), c.chunk(plain)...) }
			probes["unknown address type"] = old([]byte{9, 9, 9, 9, 9, 9, 9, 9})
			probes["empty name"] = old([]byte{3, 0, 3, 225})
			probes["half an address"] = old([]byte{1, 127, 0})
			long := fresh()
			probes["a chunk too long"] = append(append(bytes.Clone(long.salt), long.seal([]byte{0x40, 0})...), long.seal(make([]byte, 0x4000))...)
		}
		for probe, data := range probes {
			t.Run(name+"/"+probe, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					dialled := false
					s, err := New(Options{
						Cipher: name, Password: passwords[name], Silence: func() time.Duration { return silence },
						Local: func(h string) bool { return h != "elsewhere.example" },
						Targets: map[uint16]Dialer{
							993: func(context.Context, netip.AddrPort) (net.Conn, error) {
								dialled = true
								a, b := net.Pipe()
								b.Close()
								return a, nil
							},
							994: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("down") },
						},
					})
					if err != nil {
						t.Fatal(err)
					}
					s.seen.first(good[:len(keyOf(name, passwords[name]))]) // it was here before
					near, far := net.Pipe()
					begin := time.Now()
					s.start(near)
					var writer sync.WaitGroup
					writer.Go(func() { _, _ = far.Write(data) })
					answer, err := io.ReadAll(far)
					if err != nil || len(answer) > 0 {
						t.Errorf("heard %d octets, %v", len(answer), err)
					}
					if d := time.Since(begin); d != silence {
						t.Errorf("closed after %v", d)
					}
					if dialled {
						t.Error("reached a service")
					}
					writer.Wait()
					synctest.Wait()
					if st := s.Stats(); st.Probes != 1 || st.Relayed != 0 || st.Connections != 0 {
						t.Errorf("%+v", st)
					}
				})
			})
		}
	}
}

func TestClocksMayDifferALittle(t *testing.T) {
	name := "2022-blake3-aes-256-gcm"
	now := time.Unix(2e9, 0)
	_, l, _ := serve(t, name, func(o *Options) { o.Now = func() time.Time { return now } })
	for _, d := range []time.Duration{-30 * time.Second, 0, 30 * time.Second} {
		conn := dial(t, l)
		c := newClient(conn, name, passwords[name])
		c.now = func() time.Time { return now.Add(d) }
		if _, err := conn.Write(c.hello("127.0.0.1", 993, []byte("hello"))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Errorf("clock off by %v: %v", d, err)
		}
	}
}

func TestRecordedConnectionsDoNotPlayTwice(t *testing.T) {
	for _, name := range ciphers {
		s, l, _ := serve(t, name, func(o *Options) { o.Silence = func() time.Duration { return 100 * time.Millisecond } })
		first := newClient(nil, name, passwords[name])
		record := append(first.hello("127.0.0.1", 993, []byte("x")), first.chunk([]byte("a password"))...)
		for round := range 3 {
			conn := dial(t, l)
			if _, err := conn.Write(record); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(make([]byte, 1000))
			if round == 0 && n == 0 {
				t.Errorf("%s: the first time: %v", name, err)
			}
			if round > 0 && n != 0 {
				t.Errorf("%s: played %d times, and answered", name, round+1)
			}
			conn.Close()
		}
		until(t, "all are counted", func() bool { st := s.Stats(); return st.Relayed == 1 && st.Probes == 2 })
	}
}

func TestReplaysAreBounded(t *testing.T) {
	r := newReplays()
	salt := func(i int) []byte { return fmt.Appendf(make([]byte, 0, 32), "%032d", i) }
	for i := range 3 * generation {
		if !r.first(salt(i)) {
			t.Fatalf("%d is not new", i)
		}
	}
	if n := len(r.now) + len(r.old); n > 2*generation {
		t.Errorf("%d are kept", n)
	}
	for i := 2 * generation; i < 3*generation; i++ {
		if r.first(salt(i)) {
			t.Fatalf("%d is forgotten", i)
		}
	}
}

func TestLimits(t *testing.T) {
	s, l, _ := serve(t, "aes-128-gcm", func(o *Options) { o.MaxPerSource = 2 })
	dial(t, l)
	dial(t, l)
	until(t, "two are in", func() bool { return s.Stats().Connections == 2 })
	c := dial(t, l)
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third: %v", err)
	}
	n := 0
	s.Remotes(func(ip netip.Addr) {
		if n++; ip.String() != "127.0.0.1" {
			t.Error(ip)
		}
	})
	if n != 2 {
		t.Errorf("%d remotes", n)
	}
	s.End()
	until(t, "all are closed", func() bool { return s.Stats().Connections == 0 })
}

func TestIdleConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service, inside := net.Pipe()
		defer inside.Close()
		s, err := New(Options{Cipher: "aes-128-gcm", Password: "x", Targets: map[uint16]Dialer{993: func(context.Context, netip.AddrPort) (net.Conn, error) { return service, nil }}})
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		s.start(near)
		begin := time.Now()
		c := newClient(far, "aes-128-gcm", "x")
		if _, err := far.Write(c.hello("127.0.0.1", 993, nil)); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Read(make([]byte, 1)); err == nil {
			t.Error("an answer")
		}
		if d := time.Since(begin); d != 40*time.Minute {
			t.Errorf("ended after %v", d)
		}
		if _, err := inside.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the service: %v", err)
		}
	})
}

func TestConfigureAndTargets(t *testing.T) {
	s, l, e := serve(t, "aes-128-gcm", func(o *Options) { o.Silence = func() time.Duration { return 50 * time.Millisecond } })
	works := func(cipher, password string, port uint16) bool {
		t.Helper()
		conn := dial(t, l)
		c := newClient(conn, cipher, password)
		if _, err := conn.Write(c.hello("127.0.0.1", port, []byte("hello"))); err != nil {
			t.Fatal(err)
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err == nil
	}
	if !works("aes-128-gcm", "correct horse", 993) || works("aes-128-gcm", "correct horse", 465) {
		t.Fatal("before")
	}
	if err := s.Configure("2022-blake3-aes-128-gcm", "short"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if !works("aes-128-gcm", "correct horse", 993) {
		t.Error("a refused change changed something")
	}
	if err := s.Configure("chacha20-ietf-poly1305", "battery"); err != nil {
		t.Fatal(err)
	}
	s.SetTargets(map[uint16]Dialer{465: e.dial})
	if works("aes-128-gcm", "correct horse", 993) || works("chacha20-ietf-poly1305", "battery", 993) || !works("chacha20-ietf-poly1305", "battery", 465) {
		t.Error("after")
	}
}

func FuzzTarget(f *testing.F) {
	for _, h := range []string{"127.0.0.1", "::1", "mail.example"} {
		f.Add(targetAddress(h, 993))
	}
	f.Add([]byte{3, 0})
	f.Add([]byte{4, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		target, n := parseTarget(b)
		if n > len(b) || n > 0 && (target.host == "" || n < 2+1+2) {
			t.Fatalf("%d of %d, %q", n, len(b), target.host)
		}
		for i := range min(max(n, 0), len(b)) {
			if _, m := parseTarget(b[:i]); m != 0 {
				t.Fatalf("the first %d of %d octets are enough", i, n)
			}
		}
	})
}

// conn is a connection that gives what it has.
type oneWay struct {
	net.Conn
	io.Reader
}

func (o oneWay) Read(p []byte) (int, error)      { return o.Reader.Read(p) }
func (o oneWay) SetReadDeadline(time.Time) error { return nil }

// FuzzStream encrypts what the fuzzer says, so that it gets past the ciphers, or
// sends it as it is.
func FuzzStream(f *testing.F) {
	for i := range ciphers {
		f.Add(byte(i), targetAddress("127.0.0.1", 993), []byte("hello"), byte(0))
		f.Add(byte(i), append(targetAddress("127.0.0.1", 993), 0, 2, 0, 0), []byte("hello"), byte(4))
		f.Add(byte(i), []byte{3, 255}, bytes.Repeat([]byte("x"), 300), byte(1))
	}
	f.Fuzz(func(t *testing.T, which byte, head, body []byte, cut byte) {
		name := ciphers[int(which)%len(ciphers)]
		if len(head) > maxOld || len(body) > maxOld {
			return
		}
		now := time.Unix(1e9, 0)
		c := newClient(nil, name, passwords[name])
		var b []byte
		if c.modern {
			b = c.helloOf(0, uint64(now.Unix()), head)
		} else {
			b = append(bytes.Clone(c.salt), c.chunk(head)...)
		}
		b = append(b, c.chunk(body)...)
		if which >= 128 {
			b = append(head, body...)
		}
		b = b[:len(b)-min(len(b), int(cut))]
		cred, err := newCredential(name, passwords[name])
		if err != nil {
			t.Fatal(err)
		}
		in := &opener{conn: oneWay{Reader: bytes.NewReader(b)}, c: cred}
		defer in.release()
		target, err := in.begin(now, newReplays())
		if err != nil {
			return
		}
		if target.host == "" {
			t.Fatal("no host")
		}
		total := 0
		for {
			p, err := in.next(time.Time{})
			if err != nil {
				break
			}
			total += len(p)
		}
		if total > len(b) {
			t.Fatalf("%d octets out of %d", total, len(b))
		}
	})
}

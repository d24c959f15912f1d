package turnserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
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

	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret = "s3cret"
	realm  = "relay.example"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// bench is a running server with one socket of each kind.
type bench struct {
	*Server
	t             testing.TB
	udp, tcp, tls net.Addr
	sockets       []io.Closer
	served        sync.WaitGroup
}

// start runs a server on loopback. Relays take any port of 61000 to 65000, which neither the system nor testport gives to others.
func start(t testing.TB, change func(*Options)) *bench {
	t.Helper()
	opt := Options{Config: Config{Secret: secret, Realm: realm, Relay: []netip.Addr{loopback}, PortMin: 61000, PortMax: 65000, AllowPrivate: true}}
	if change != nil {
		change(&opt)
	}
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Server: s, t: t}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ls, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.udp, b.tcp, b.tls = pc.LocalAddr(), l.Addr(), ls.Addr()
	b.sockets = []io.Closer{pc, l, ls}
	for _, serve := range []func() error{
		func() error { return s.ServePacket(pc) },
		func() error { return s.Serve(l, nil) },
		func() error { return s.Serve(ls, certificate(t)) },
	} {
		b.served.Go(func() {
			if err := serve(); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(b.stop)
	return b
}

func (b *bench) stop() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 2 {
		if err := b.Stop(ctx); err != nil {
			b.t.Fatal(err)
		}
	}
	b.served.Wait()
	b.empty()
}

// empty checks that nothing is counted any more.
func (b *bench) empty() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.relays) + len(b.users) + len(b.sources) + len(b.pending) + len(b.clients) + len(b.conns) + b.nconns; n != 0 {
		b.t.Errorf("left behind: relays %v, users %v, sources %v, pending %v, clients %d, conns %v", b.relays, b.users, b.sources, b.pending, b.nconns, b.conns)
	}
}

var certificate = func() func(testing.TB) *tls.Config {
	var once sync.Once
	var conf *tls.Config
	return func(t testing.TB) *tls.Config {
		once.Do(func() {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
			der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
			if err != nil {
				t.Fatal(err)
			}
			conf = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		})
		return conf
	}
}()

// dial returns a packet connection to a server of a kind.
func (b *bench) dial(kind string) (net.PacketConn, net.Addr) {
	b.t.Helper()
	switch kind {
	case "udp":
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			b.t.Fatal(err)
		}
		return pc, b.udp
	case "tcp":
		c, err := net.Dial("tcp", b.tcp.String())
		if err != nil {
			b.t.Fatal(err)
		}
		return turn.NewSTUNConn(c), b.tcp
	}
	c, err := tls.Dial("tcp", b.tls.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		b.t.Fatal(err)
	}
	return turn.NewSTUNConn(c), b.tls
}

// client makes a client with these credentials.
func (b *bench) client(kind string, c Credentials) *turn.Client {
	b.t.Helper()
	pc, to := b.dial(kind)
	return b.clientOver(pc, to, c)
}

// clientOver makes a client that uses a connection to a server's address.
func (b *bench) clientOver(pc net.PacketConn, to net.Addr, c Credentials) *turn.Client {
	b.t.Helper()
	client, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: to.String(), STUNServerAddr: to.String(), Conn: pc, Username: c.User, Password: c.Password, Realm: realm,
		LoggerFactory: loggers{slog.New(slog.DiscardHandler), false}, RTO: time.Second,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := client.Listen(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { client.Close(); pc.Close() })
	return client
}

// allocate makes a client with a relay of its own.
func (b *bench) allocate(kind string) (*turn.Client, net.PacketConn) {
	b.t.Helper()
	client := b.client(kind, b.Credentials("", time.Hour))
	relay, err := client.Allocate()
	if err != nil {
		b.t.Fatalf("allocate over %s: %v", kind, err)
	}
	b.t.Cleanup(func() { relay.Close() })
	return client, relay
}

// until waits for a condition that the server brings about.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			b.t.Fatalf("never: %s; %+v", what, b.Stats())
		}
	}
}

func TestRelaysBothWays(t *testing.T) {
	for _, kind := range []string{"udp", "tcp", "tls"} {
		t.Run(kind, func(t *testing.T) {
			b := start(t, nil)
			client, relay := b.allocate(kind)
			at := addrOf(relay.LocalAddr())
			if at.Addr() != loopback || at.Port() < 61000 || at.Port() > 65000 {
				t.Errorf("relay on %v", at)
			}
			peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			if err := client.CreatePermission(peer.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			for round := range 3 {
				for _, n := range []int{5, 172, 1200} {
					there := bytes.Repeat([]byte{byte(round), 1}, n)[:n]
					if _, err := relay.WriteTo(there, peer.LocalAddr()); err != nil {
						t.Fatal(err)
					}
					if got, from := receive(t, peer); !bytes.Equal(got, there) || addrOf(from) != at {
						t.Fatalf("peer got %d octets from %v", len(got), from)
					}
					back := bytes.Repeat([]byte{byte(round), 2}, n)[:n]
					if _, err := peer.WriteTo(back, relay.LocalAddr()); err != nil {
						t.Fatal(err)
					}
					if got, from := receive(t, relay); !bytes.Equal(got, back) || addrOf(from) != addrOf(peer.LocalAddr()) {
						t.Fatalf("client got %d octets from %v", len(got), from)
					}
				}
			}
			st := b.Stats()
			if st.Allocations != 1 || st.Created != 1 || st.ToPeers != 3*1377 || st.FromPeers != 3*1377 {
				t.Errorf("%+v", st)
			}
			if conns := map[string]int{"udp": 0, "tcp": 1, "tls": 1}[kind]; st.Connections != conns {
				t.Errorf("%d connections", st.Connections)
			}
		})
	}
}

func receive(t testing.TB, c net.PacketConn) ([]byte, net.Addr) {
	t.Helper()
	p := make([]byte, 2000)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, from, err := c.ReadFrom(p)
	if err != nil {
		t.Fatal(err)
	}
	return p[:n], from
}

// Two callers behind routers that let nothing in meet at their relays, on a
// server that refuses all of its own network otherwise.
func TestRelaysMeet(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "192.0.2.77"} { // the second is in front of this machine
		t.Run(ip, func(t *testing.T) {
			b := start(t, func(o *Options) {
				o.AllowPrivate = false
				o.Relay = []netip.Addr{netip.MustParseAddr(ip)}
			})
			ca, ra := b.allocate("udp")
			cb, rb := b.allocate("tls")
			if addrOf(ra.LocalAddr()).Addr().String() != ip {
				t.Fatalf("relay on %v", ra.LocalAddr())
			}
			for _, err := range []error{ca.CreatePermission(rb.LocalAddr()), cb.CreatePermission(ra.LocalAddr())} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := ra.WriteTo([]byte("from A"), rb.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			if got, from := receive(t, rb); string(got) != "from A" || from.String() != ra.LocalAddr().String() {
				t.Errorf("B got %q from %v", got, from)
			}
			if _, err := rb.WriteTo([]byte("from B"), ra.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			if got, from := receive(t, ra); string(got) != "from B" || from.String() != rb.LocalAddr().String() {
				t.Errorf("A got %q from %v", got, from)
			}
			// Nothing else on the relay's address is reached.
			service, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer service.Close()
			port := addrOf(service.LocalAddr()).Port()
			before := b.Stats().RefusedPeers
			if _, err := ra.WriteTo([]byte("let me in"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), port))); err != nil {
				t.Fatal(err)
			}
			b.until("the packet is refused", func() bool { return b.Stats().RefusedPeers > before })
			local := addrOf(ra.LocalAddr()).Port()
			if _, err := service.WriteTo([]byte("let me in"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, local))); err != nil {
				t.Fatal(err)
			}
			b.until("a packet from a service is refused", func() bool { return b.Stats().RefusedPeers > before+1 })
		})
	}
}

func TestPeersOfTheInnerNetworkAreRefused(t *testing.T) {
	b := start(t, func(o *Options) {
		o.AllowPrivate = false
		o.Relay = []netip.Addr{netip.MustParseAddr("192.0.2.77")}
		o.Own = []netip.Addr{netip.MustParseAddr("203.0.113.5")}
		o.Interfaces = func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("2a00::9")}
		}
	})
	c := b.Server.conf
	for _, ip := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.168.1.1", "192.0.0.8", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "9.9.9.9",
		"::", "::1", "::10.0.0.1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "fec0::1", "2a00::9",
		"64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::1", "2002:7f00:1::", "2001::1", "100::1",
		"::ffff:0:a00:1", "::ffff:0:808:808", "4000::1", "5f00::1", "2001:2::1", "2001:10::1", "2001:20::1", "192.88.99.1",
		"64:ff9b::909:909", "2002:909:909::1", "64:ff9b::c000:24d", "2002:c000:24d::1", "203.0.113.5", "64:ff9b::cb00:7105", // this machine, behind a gateway
	} {
		if b.permitted(c, netip.MustParseAddr(ip)) {
			t.Errorf("%s may be a peer", ip)
		}
	}
	if b.permitted(c, netip.Addr{}) {
		t.Error("no address may be a peer")
	}
	for _, ip := range []string{"192.0.2.77", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2a00::1", "64:ff9b::808:808", "2002:808:808::1", "::ffff:8.8.8.8"} {
		if !b.permitted(c, netip.MustParseAddr(ip)) {
			t.Errorf("%s may not be a peer", ip)
		}
	}
	private := &Config{AllowPrivate: true}
	for ip, want := range map[string]bool{"10.0.0.1": true, "127.0.0.1": true, "fe80::1": true, "0.0.0.0": false, "::": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false} {
		if got := b.permitted(private, netip.MustParseAddr(ip)); got != want {
			t.Errorf("private peers allowed: %s: %v", ip, got)
		}
	}
	client, relay := b.allocate("udp")
	if err := client.CreatePermission(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 80}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("permission for 10.0.0.1: %v, want 403", err)
	}
	if _, err := relay.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}); err == nil {
		t.Error("sent to loopback")
	}
	if b.Stats().RefusedPeers == 0 {
		t.Error("nothing was counted")
	}
}

func TestCredentials(t *testing.T) {
	// openssl dgst -sha1 -hmac s3cret over "1893456000", in base64.
	c := NewCredentials(secret, "", time.Unix(1893456000-86400, 5), 24*time.Hour)
	if c.User != "1893456000" || c.Password != "lErWmCS3Vl5AAxpMk1sOHOeonyI=" {
		t.Errorf("%+v", c)
	}
	for host, want := range map[string]string{
		"127.0.0.1": "127.0.0.1:3478:1893456000:lErWmCS3Vl5AAxpMk1sOHOeonyI=", "relay.example": "relay.example:3478:1893456000:lErWmCS3Vl5AAxpMk1sOHOeonyI=",
		"[192.0.2.1]": "192.0.2.1:3478:1893456000:lErWmCS3Vl5AAxpMk1sOHOeonyI=", "::1": "", "[2001:db8::1]": "", "": "",
	} {
		if got := c.Value(host, 3478); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
	if c.Value("a.example", 0) != "" {
		t.Error("no port, but a value")
	}
	users := make(map[string]int)
	for i := range 100 {
		hint := fmt.Sprintf("user%d", i)
		last, names := "", 0
		for s := range 24 * 6 {
			now := time.Unix(1e9, 0).Add(time.Duration(s) * 10 * time.Minute)
			c := NewCredentials(secret, hint, now, 24*time.Hour)
			if d := now.Add(24 * time.Hour).Sub(c.Expires); d < 0 || d > time.Hour {
				t.Fatalf("expires %v early", d)
			}
			if c.User != last {
				last, names = c.User, names+1
			}
		}
		// Whoever asks again and again has no more than this many allowances.
		if names > 24*2+2 {
			t.Errorf("%s had %d names in a day", hint, names)
		}
		users[last]++
	}
	if len(users) < 75 {
		t.Errorf("100 accounts share %d names", len(users))
	}
	if short := NewCredentials(secret, "user", time.Unix(1e9, 0), time.Minute); short.Expires.Unix() != 1e9+60 {
		t.Errorf("a minute became %v", short.Expires.Sub(time.Unix(1e9, 0)))
	}
}

func TestStrangersAreRefused(t *testing.T) {
	b := start(t, nil)
	good := b.Credentials("", time.Hour)
	old := NewCredentials(secret, "", time.Now().Add(-2*time.Hour), time.Hour)
	forged := "x" + good.Password[1:]
	if forged == good.Password {
		forged = "y" + good.Password[1:]
	}
	for name, c := range map[string]Credentials{
		"expired":             old,
		"forged password":     {User: good.User, Password: forged},
		"another secret":      NewCredentials("guess", "", time.Now(), time.Hour),
		"a later expiry":      {User: "9" + good.User[1:], Password: good.Password},
		"a name":              {User: "alice", Password: password(secret, "alice")},
		"a name for the time": {User: "0x7fffffff", Password: password(secret, "0x7fffffff")},
		"a far time":          {User: "99999999999999999999", Password: password(secret, "99999999999999999999")},
		"a negative time":     {User: "-1", Password: password(secret, "-1")},
		"a long name":         {User: good.User + ":" + strings.Repeat("x", 200), Password: password(secret, good.User+":"+strings.Repeat("x", 200))},
	} {
		before := b.Stats().Denied
		if relay, err := b.client("udp", c).Allocate(); err == nil {
			relay.Close()
			t.Errorf("%s: got a relay", name)
		} else if !strings.Contains(err.Error(), "401") {
			t.Errorf("%s: %v, want 401", name, err)
		}
		if b.Stats().Denied == before {
			t.Errorf("%s: not counted", name)
		}
	}
	named := Credentials{User: good.User + ":alice", Password: password(secret, good.User+":alice")}
	if relay, err := b.client("udp", named).Allocate(); err != nil {
		t.Errorf("a time and a name: %v", err)
	} else {
		relay.Close()
	}
}

func TestSTUNBinding(t *testing.T) {
	b := start(t, nil)
	for _, kind := range []string{"udp", "tcp", "tls"} {
		client := b.client(kind, Credentials{})
		if at, err := client.SendBindingRequest(); err != nil || addrOf(at).Addr() != loopback {
			t.Errorf("%s: %v, %v", kind, at, err)
		}
	}
}

func TestLimitsOfAllocations(t *testing.T) {
	b := start(t, func(o *Options) { o.Limits = Limits{PerUser: 2, PerAddress: 3, Allocations: 100} })
	one, two := NewCredentials(secret, "", time.Now(), time.Hour), NewCredentials(secret, "", time.Now(), 2*time.Hour)
	var relays []net.PacketConn
	take := func(kind string, c Credentials) error {
		relay, err := b.client(kind, c).Allocate()
		if err == nil {
			relays = append(relays, relay)
		}
		return err
	}
	for _, kind := range []string{"udp", "tcp"} {
		if err := take(kind, one); err != nil {
			t.Fatal(err)
		}
	}
	if err := take("tls", one); err == nil || !strings.Contains(err.Error(), "486") {
		t.Errorf("third relay of a user: %v, want 486", err)
	}
	if err := take("udp", two); err != nil {
		t.Fatal(err)
	}
	if err := take("udp", two); err == nil || !strings.Contains(err.Error(), "486") {
		t.Errorf("fourth relay of an address: %v, want 486", err)
	}
	if n := b.Stats().OverQuota; n != 2 {
		t.Errorf("%d counted", n)
	}
	relays[0].Close()
	b.until("a relay is given back", func() bool { return b.Stats().Allocations == 2 })
	if err := take("udp", two); err != nil {
		t.Errorf("after one was given back: %v", err)
	}
	b.SetLimits(Limits{Allocations: 3})
	if err := take("udp", two); err == nil {
		t.Error("over the limit of all")
	}
	for _, r := range relays[1:] {
		r.Close()
	}
	b.until("all are given back", func() bool { return b.Stats().Allocations == 0 })
	b.mu.Lock()
	if len(b.users)+len(b.sources)+len(b.pending) != 0 {
		t.Errorf("users %v, sources %v, pending %v", b.users, b.sources, b.pending)
	}
	b.mu.Unlock()
}

func TestPortsRunOut(t *testing.T) {
	var taken []net.PacketConn
	var low int
	for low = 61000; len(taken) < 3; low++ { // two neighbours that are free, the next one taken
		for _, c := range taken {
			c.Close()
		}
		taken = taken[:0]
		for i := range 3 {
			if c, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", low+i)); err == nil {
				taken = append(taken, c)
			}
		}
	}
	low--
	taken[0].Close()
	taken[1].Close()
	defer taken[2].Close()
	b := start(t, func(o *Options) { o.PortMin, o.PortMax = low, low+2 })
	for range 2 {
		b.allocate("udp")
	}
	if _, err := b.client("udp", b.Credentials("", time.Hour)).Allocate(); err == nil || !strings.Contains(err.Error(), "508") {
		t.Errorf("%v, want 508", err)
	}
	// The client hears of it first.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		pending, sources := len(b.pending), b.sources[loopback]
		b.mu.Unlock()
		if pending == 0 && sources == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("pending %d, sources %d", pending, sources)
		}
	}
}

// allocation asks for a relay with an attribute of its own, and returns the answer.
func (b *bench) allocation(attr stun.RawAttribute) *stun.Message {
	b.t.Helper()
	pc, to := b.dial("udp")
	b.t.Cleanup(func() { pc.Close() })
	c := b.Credentials("", time.Hour)
	nonce := stun.Nonce{}
	for round := 0; ; round++ {
		set := []stun.Setter{
			stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest),
			stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}, attr,
		}
		if round > 0 {
			set = append(set, stun.NewUsername(c.User), stun.NewRealm(realm), nonce, stun.NewLongTermIntegrity(c.User, realm, c.Password))
		}
		m, err := stun.Build(set...)
		if err != nil {
			b.t.Fatal(err)
		}
		if _, err := pc.WriteTo(m.Raw, to); err != nil {
			b.t.Fatal(err)
		}
		raw, _ := receive(b.t, pc)
		answer := &stun.Message{Raw: raw}
		if err := answer.Decode(); err != nil {
			b.t.Fatal(err)
		}
		if round > 0 {
			return answer
		}
		if err := nonce.GetFrom(answer); err != nil {
			b.t.Fatal(err)
		}
	}
}

// relayed is the port of a relay in an answer, or 0.
func relayed(m *stun.Message) int {
	var x stun.XORMappedAddress
	if x.GetFromAs(m, stun.AttrXORRelayedAddress) != nil {
		return 0
	}
	return x.Port
}

// RFC 8656 section 7.2: an even port, and the one after it for who has the token.
func TestEvenPorts(t *testing.T) {
	b := start(t, nil)
	for range 3 {
		answer := b.allocation(stun.RawAttribute{Type: stun.AttrEvenPort, Value: []byte{0x80}})
		port := relayed(answer)
		token, err := answer.Get(stun.AttrReservationToken)
		if port == 0 || port%2 != 0 || err != nil {
			t.Fatalf("port %d, token %q, %v", port, token, err)
		}
		if next := relayed(b.allocation(stun.RawAttribute{Type: stun.AttrReservationToken, Value: token})); next != port+1 {
			t.Errorf("reserved after %d: %d", port, next)
		}
	}
	answer := b.allocation(stun.RawAttribute{Type: stun.AttrReservationToken, Value: []byte("unknown!")})
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(answer); err != nil || code.Code != stun.CodeInsufficientCapacity {
		t.Errorf("an unknown token: %v, %v", code, err)
	}
	if n := b.Stats().Allocations; n != 6 {
		t.Errorf("%d allocations", n)
	}
	// Reservations cost memory: there are not more than so many.
	b.evens.SetBurst(0)
	if p := relayed(b.allocation(stun.RawAttribute{Type: stun.AttrEvenPort, Value: []byte{0}})); p != 0 {
		t.Error("without a limit:", p)
	}
}

// The library would connect anywhere.
func TestTCPIsNotRelayed(t *testing.T) {
	b := start(t, nil)
	client := b.client("udp", b.Credentials("", time.Hour))
	if _, err := client.AllocateTCP(); err == nil || !strings.Contains(err.Error(), "508") {
		t.Errorf("TCP: %v, want 508", err)
	}
}

// clock is a time that stands.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.ns.Load()) }

func TestRate(t *testing.T) {
	var c clock
	c.ns.Store(time.Now().UnixNano())
	b := start(t, func(o *Options) { o.Now = c.now; o.Limits.Rate = 100 << 10 })
	client, relay := b.allocate("udp")
	peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := client.CreatePermission(peer.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	send := func(n int64) {
		t.Helper()
		for range 120 {
			before := b.Stats()
			if _, err := relay.WriteTo(make([]byte, 1024), peer.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			b.until("the packet is through or dropped", func() bool {
				st := b.Stats()
				return st.ToPeers+1024*st.Dropped > before.ToPeers+1024*before.Dropped
			})
		}
		if st := b.Stats(); st.ToPeers != n<<10 {
			t.Errorf("%d octets passed, want %d", st.ToPeers, n<<10)
		}
	}
	send(100)
	c.ns.Add(int64(time.Second))
	send(200)
}

func TestSocketsThatCloseEndWhatTheyCarried(t *testing.T) {
	for i, kind := range []string{"udp", "tcp", "tls"} {
		b := start(t, nil)
		b.allocate(kind)
		b.allocate(kind)
		b.sockets[i].Close()
		b.until("all is over", func() bool { st := b.Stats(); return st.Allocations == 0 && st.Connections == 0 })
		b.empty()
		if kind == "udp" {
			b.allocate("tcp") // the others go on
		}
	}
}

func TestConnectionsThatCloseEndTheirAllocation(t *testing.T) {
	b := start(t, nil)
	for _, kind := range []string{"tcp", "tls"} {
		pc, to := b.dial(kind)
		c := b.Credentials("", time.Hour)
		client, err := turn.NewClient(&turn.ClientConfig{TURNServerAddr: to.String(), Conn: pc, Username: c.User, Password: c.Password, LoggerFactory: loggers{nil, false}})
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Listen(); err != nil {
			t.Fatal(err)
		}
		relay, err := client.Allocate()
		if err != nil {
			t.Fatal(err)
		}
		pc.Close()
		b.until("nothing is left", func() bool { st := b.Stats(); return st.Allocations == 0 && st.Connections == 0 })
		relay.Close()
		client.Close()
	}
}

func TestConfigure(t *testing.T) {
	b := start(t, nil)
	for _, kind := range []string{"udp", "tcp", "tls"} {
		b.allocate(kind)
	}
	c := Config{Secret: "another", Realm: "other.example", Relay: []netip.Addr{loopback}, PortMin: 46000, PortMax: 60000, AllowPrivate: true}
	for _, bad := range []func(*Config){
		func(c *Config) { c.Secret = "" },
		func(c *Config) { c.Realm = "" },
		func(c *Config) { c.Relay = nil },
		func(c *Config) { c.Relay = []netip.Addr{netip.IPv4Unspecified()} },
		func(c *Config) { c.Relay = []netip.Addr{loopback, netip.MustParseAddr("127.0.0.2")} },
		func(c *Config) { c.PortMin = 1023 },
		func(c *Config) { c.PortMax = 65536 },
		func(c *Config) { c.PortMin, c.PortMax = 5000, 4999 },
	} {
		broken := c
		bad(&broken)
		if err := b.Configure(broken); err == nil {
			t.Errorf("%+v is accepted", broken)
		}
	}
	same := *b.Server.conf
	if err := b.Configure(same); err != nil {
		t.Fatal(err)
	}
	if st := b.Stats(); st.Allocations != 3 {
		t.Errorf("%d allocations after nothing changed", st.Allocations)
	}
	old := b.Credentials("", time.Hour)
	if err := b.Configure(c); err != nil {
		t.Fatal(err)
	}
	b.until("the old ones end", func() bool { st := b.Stats(); return st.Allocations == 0 && st.Connections == 0 })
	for _, kind := range []string{"udp", "tcp", "tls"} {
		if _, err := b.client(kind, old).Allocate(); err == nil {
			t.Errorf("%s: the old secret counts", kind)
		}
		_, relay := b.allocate(kind)
		if p := addrOf(relay.LocalAddr()).Port(); p < 46000 || p > 60000 {
			t.Errorf("%s: relay on %d", kind, p)
		}
	}
}

// Who comes while the configuration changes is served under the new one.
func TestNobodyMeetsAnOldConfiguration(t *testing.T) {
	b := start(t, nil)
	c := *b.Server.conf
	for i := range 30 {
		c.Secret = fmt.Sprint("secret ", i)
		if err := b.Configure(c); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"udp", "tcp", "tls"} {
			b.allocate(kind)
		}
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	b := start(t, func(o *Options) { o.Limits = Limits{Conns: 3, ConnsPerSource: 2} })
	var conns []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", b.tcp.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	b.until("both are counted", func() bool { return b.Stats().Connections == 2 })
	closedAtOnce := func(addr net.Addr) {
		t.Helper()
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection over the limit: %v", err)
		}
	}
	closedAtOnce(b.tls)
	conns[0].Close()
	b.until("one is gone", func() bool { return b.Stats().Connections == 1 })
	// A handshake that fails gives its place back.
	for range 5 {
		c, err := net.Dial("tcp", b.tls.String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a broken handshake is not closed")
		}
		c.Close()
		b.until("its place is free", func() bool { return b.Stats().Connections == 1 })
	}
	// So does nonsense over TCP.
	c, err := net.Dial("tcp", b.tcp.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	b.until("nonsense is closed", func() bool { return b.Stats().Connections == 1 })
}

func TestDeadlinesOfConnections(t *testing.T) {
	for _, c := range []struct {
		name  string
		give  []byte
		state bool
		want  time.Duration
	}{
		{"silent stranger", nil, false, strangerTime},
		{"silent client", nil, true, clientTime},
		{"half a header", []byte{0, 1}, true, frameTime},
		{"half a frame", []byte{0, 1, 0, 8, 1, 2}, true, frameTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer far.Close()
				s := &stream{Conn: near, raw: near, began: time.Now(), allocated: c.state}
				begin := time.Now()
				go func() { _, _ = far.Write(c.give) }() // ends with the pipe
				if n, err := s.Read(make([]byte, inboundMTU)); err == nil {
					t.Errorf("read %d", n)
				}
				if d := time.Since(begin); d != c.want {
					t.Errorf("ended after %v, want %v", d, c.want)
				}
				if _, err := near.Write([]byte{1}); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("still open: %v", err)
				}
			})
		})
	}
	t.Run("a stranger who keeps talking", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			s := &stream{Conn: near, raw: near, began: time.Now()}
			begin := time.Now()
			var talker sync.WaitGroup
			talker.Go(func() {
				for {
					if _, err := far.Write(filler); err != nil {
						return
					}
					<-time.After(20 * time.Second)
				}
			})
			for {
				if _, err := s.Read(make([]byte, inboundMTU)); err != nil {
					break
				}
			}
			if d := time.Since(begin); d != strangerLimit {
				t.Errorf("ended after %v", d)
			}
			talker.Wait()
		})
	})
	t.Run("a client who does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			s := &stream{Conn: near, raw: near, began: time.Now(), allocated: true}
			begin := time.Now()
			if _, err := s.Write(filler); err == nil || time.Since(begin) != frameTime {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
		})
	})
}

// The library keeps a frame of up to eight octets back until the next one.
func TestShortChannelDataIsNotHeldBack(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := &stream{Conn: near, raw: near, began: time.Now(), gone: func() {}}
	defer s.Close()
	frame := []byte{0x40, 0, 0, 3, 'a', 'b', 'c', 0}
	go func() { _, _ = far.Write(frame) }() // ends with the pipe
	p := make([]byte, inboundMTU)
	n, _, err := turn.NewSTUNConn(s).ReadFrom(p)
	if err != nil || !bytes.Equal(p[:n], frame) {
		t.Errorf("%x, %v", p[:n], err)
	}
}

func TestAnswersToStrangersAreLimited(t *testing.T) {
	var c clock
	p := &packets{in: &instance{s: &Server{opt: Options{Now: c.now}}}}
	a, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range maxAnswers {
		if !p.mayAnswer(a) {
			t.Fatalf("no answer %d", i)
		}
	}
	if p.mayAnswer(a) || !p.mayAnswer(other) {
		t.Error("one source's limit is not its own")
	}
	c.ns.Add(int64(time.Second))
	for i := range maxSources {
		if !p.mayAnswer(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) {
			t.Fatal("too early")
		}
	}
	if p.mayAnswer(a) || len(p.answers) != maxSources {
		t.Errorf("%d sources are remembered", len(p.answers))
	}
	for want, messages := range map[bool][]stun.MessageType{
		true: {stun.BindingSuccess, stun.BindingError, stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), stun.NewType(stun.MethodChannelBind, stun.ClassErrorResponse)},
		false: {stun.NewType(stun.MethodAllocate, stun.ClassSuccessResponse), stun.NewType(stun.MethodRefresh, stun.ClassSuccessResponse),
			stun.NewType(stun.MethodData, stun.ClassIndication)},
	} {
		for _, typ := range messages {
			v := typ.Value()
			if got := toStranger([]byte{byte(v >> 8), byte(v), 0, 0}); got != want {
				t.Errorf("%v: %v", typ, got)
			}
		}
	}
	if toStranger([]byte{0x41, 0x11}) || toStranger(nil) {
		t.Error("channel data is no answer")
	}
}

func TestNobodyIsNamedInTheLog(t *testing.T) {
	for _, verbose := range []bool{false, true} {
		var out lockedBuffer
		b := start(t, func(o *Options) {
			o.Verbose = verbose
			o.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		b.allocate("udp")
		b.stop()
		if got := out.String() != ""; got != verbose {
			t.Errorf("verbose %v: %s", verbose, out.String())
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rawAllocate is a client of a few octets: an allocation with no library behind it.
func rawAllocate(t testing.TB, b *bench, pc net.PacketConn, to net.Addr) {
	c := b.Credentials("", time.Hour)
	var nonce stun.Nonce
	for round := range 2 {
		set := []stun.Setter{stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest), stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}}
		if round == 1 {
			set = append(set, stun.NewUsername(c.User), stun.NewRealm(realm), nonce, stun.NewLongTermIntegrity(c.User, realm, c.Password))
		}
		m, err := stun.Build(set...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pc.WriteTo(m.Raw, to); err != nil {
			t.Fatal(err)
		}
		raw, _ := receive(t, pc)
		answer := &stun.Message{Raw: raw}
		if err := answer.Decode(); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if err := nonce.GetFrom(answer); err != nil {
				t.Fatal(err)
			}
		} else if answer.Type.Class != stun.ClassSuccessResponse {
			t.Fatal(answer)
		}
	}
}

// TestACallerByIPv6GetsTheRelayThatThereIs, although it asks for no family and the
// relay has an IPv4 address alone.
func TestACallerByIPv6GetsTheRelayThatThereIs(t *testing.T) {
	b := start(t, nil)
	pc, err := net.ListenPacket("udp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	b.sockets = append(b.sockets, pc)
	b.served.Go(func() {
		if err := b.ServePacket(pc); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	c, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	rawAllocate(t, b, c, &net.UDPAddr{IP: net.IPv6loopback, Port: pc.LocalAddr().(*net.UDPAddr).Port})
	if st := b.Stats(); st.Allocations != 1 {
		t.Errorf("%+v", st)
	}
}

func TestIdleAllocationsAreSmall(t *testing.T) {
	const n = 200
	for _, kind := range []string{"udp", "tcp"} {
		b := start(t, func(o *Options) {
			o.Limits = Limits{PerUser: 2 * n, PerAddress: 2 * n, ConnsPerSource: 2 * n}
			o.Now = (&stepClock{}).now
		})
		inUse := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc + m.StackInuse
		}
		before := inUse()
		for range n {
			pc, to := b.dial(kind)
			defer pc.Close()
			rawAllocate(t, b, pc, to)
		}
		each := (int64(inUse()) - int64(before)) / n
		t.Logf("%s: %d octets for each idle allocation, client included", kind, each)
		if each > 40<<10 {
			t.Errorf("%s: %d octets for each idle allocation", kind, each)
		}
		if st := b.Stats(); st.Allocations != n {
			t.Errorf("%+v", st)
		}
	}
}

// stepClock moves a second each time, so that no second is full of strangers.
type stepClock struct{ n atomic.Int64 }

func (c *stepClock) now() time.Time { return time.Unix(1e9+c.n.Add(1), 0) }

func FuzzExpiry(f *testing.F) {
	for _, s := range []string{"1893456000", "1893456000:alice", "", ":", "0", "999999999999", "9999999999999", "-1", "+1", "1e9", "１２３"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, user string) {
		at, ok := expiry(user)
		if !ok {
			return
		}
		digits, _, _ := strings.Cut(user, ":")
		if fmt.Sprintf("%0*d", len(digits), at.Unix()) != digits {
			t.Errorf("%q is %d", user, at.Unix())
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 3, 'a', 'b', 'c', 0}, byte(1))
	f.Add(append(bytes.Clone(filler), 0x7f, 0xff, 0, 1, 'x', 0, 0, 0), byte(3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, byte(1))
	f.Add([]byte{0x40, 0, 0xff, 0xff}, byte(2))
	f.Fuzz(func(t *testing.T, data []byte, step byte) {
		near, far := net.Pipe()
		s := &stream{Conn: near, raw: near, began: time.Now(), allocated: true}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for rest := data; len(rest) > 0; {
				n := min(len(rest), int(step)+1)
				if _, err := far.Write(rest[:n]); err != nil {
					break
				}
				rest = rest[n:]
			}
			far.Close()
		}()
		p, got := make([]byte, inboundMTU), []byte(nil)
		for {
			n, err := s.Read(p)
			if err != nil {
				break
			}
			want, err := frameLen(p[:4])
			if err != nil || n != want && n != want+len(filler) || n > maxFrame {
				t.Fatalf("frame of %d, want %d, %v", n, want, err)
			}
			got = append(got, p[:want]...)
		}
		<-done
		if !bytes.HasPrefix(data, got) {
			t.Errorf("%x is not the beginning of %x", got, data)
		}
	})
}

// wire is a UDP socket in memory.
type wire struct {
	net.PacketConn
	in   chan []byte
	next chan struct{} // the server asks for the next packet
	shut chan struct{}
	once sync.Once
}

func (w *wire) ReadFrom(p []byte) (int, net.Addr, error) {
	select {
	case w.next <- struct{}{}:
	case <-w.shut:
		return 0, nil, net.ErrClosed
	}
	select {
	case b := <-w.in:
		return copy(p, b), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 999}, nil
	case <-w.shut:
		return 0, nil, net.ErrClosed
	}
}
func (w *wire) WriteTo(p []byte, _ net.Addr) (int, error) { return len(p), nil }
func (w *wire) LocalAddr() net.Addr                       { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3478} }
func (w *wire) SetReadDeadline(time.Time) error           { return nil }
func (w *wire) Close() error                              { w.once.Do(func() { close(w.shut) }); return nil }

// FuzzDatagrams gives a server packets from anybody: none may end it.
func FuzzDatagrams(f *testing.F) {
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.Raw)
	user := NewCredentials(secret, "", time.Now(), time.Hour)
	for _, method := range []stun.Method{stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind, stun.MethodSend, stun.MethodConnect, stun.MethodConnectionBind} {
		for _, class := range []stun.MessageClass{stun.ClassRequest, stun.ClassIndication} {
			m, err := stun.Build(stun.TransactionID, stun.NewType(method, class), stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}},
				stun.NewUsername(user.User), stun.NewRealm(realm), stun.NewNonce("abc"), stun.NewLongTermIntegrity(user.User, realm, user.Password))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(m.Raw)
		}
	}
	f.Add([]byte{0x40, 0, 0, 3, 'a', 'b', 'c', 0})
	s, err := New(Options{Config: Config{Secret: secret, Realm: realm, Relay: []netip.Addr{loopback}, PortMin: 61000, PortMax: 65000}})
	if err != nil {
		f.Fatal(err)
	}
	w := &wire{in: make(chan []byte), next: make(chan struct{}), shut: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- s.ServePacket(w) }()
	f.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			f.Error(err)
		}
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
	<-w.next
	f.Fuzz(func(t *testing.T, data []byte) {
		w.in <- data
		select {
		case <-w.next:
		case err := <-done:
			t.Fatalf("the server ended: %v", err)
		}
	})
}

// BenchmarkRelay sends frames as long as a video's from a peer to a caller.
func BenchmarkRelay(b *testing.B) {
	h := start(b, func(o *Options) { o.Limits.Rate = -1 })
	client, relay := h.allocate("udp")
	peer, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer peer.Close()
	if err := client.CreatePermission(peer.LocalAddr()); err != nil {
		b.Fatal(err)
	}
	frame, p := make([]byte, 1200), make([]byte, 2000)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := peer.WriteTo(frame, relay.LocalAddr()); err != nil {
			b.Fatal(err)
		}
		_ = relay.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, _, err := relay.ReadFrom(p); err != nil {
			b.Fatal(err)
		}
	}
}

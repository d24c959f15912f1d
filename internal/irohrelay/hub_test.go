package irohrelay_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
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
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/fault"
	"madmail/internal/inlet"
	"madmail/internal/irohrelay"
	"madmail/internal/irohrelay/irohtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is a hub with a listener.
type house struct {
	*irohrelay.Hub
	t    testing.TB
	l    net.Listener
	addr string
	done chan error
}

func open(t testing.TB, opt irohrelay.Options, addr string) *house {
	t.Helper()
	hub, err := irohrelay.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Hub: hub, t: t, l: l, addr: l.Addr().String(), done: make(chan error, 1)}
	go func() { h.done <- hub.Serve(l) }()
	t.Cleanup(h.stop)
	return h
}

func (h *house) stop() {
	if h.l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	h.l.Close()
	h.l = nil
	if err := errors.Join(h.Stop(ctx), <-h.done); err != nil {
		h.t.Error(err)
	}
	if err := h.Stop(ctx); err != nil {
		h.t.Errorf("a second stop: %v", err)
	}
	if s := h.Stats(); s.Connections != 0 || s.Nodes != 0 || s.Waiting != 0 {
		h.t.Errorf("after the stop: %+v", s)
	}
}

func (h *house) dial(key ed25519.PrivateKey) *irohtest.Client {
	h.t.Helper()
	c, err := irohtest.Dial(h.t.Context(), h.addr, key)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// until waits for counters.
func (h *house) until(what string, ok func(irohrelay.Stats) bool) {
	h.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(h.Stats()); runtime.Gosched() {
		if time.Now().After(end) {
			h.t.Fatalf("%s: %+v", what, h.Stats())
		}
	}
}

func (h *house) gets(c *irohtest.Client, from irohrelay.NodeID, want []byte) {
	h.t.Helper()
	who, p, err := c.Packet()
	if err != nil || who != from || !bytes.Equal(p, want) {
		h.t.Fatalf("got %d octets of %v, %v; want %d of %v", len(p), who, err, len(want), from)
	}
}

func TestPacketsOfAllSizesPass(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	a, b := h.dial(irohtest.Key()), h.dial(irohtest.Key())
	for _, n := range []int{0, 1, 37, 38, 1200, 1452, 4064, 4065, 14540, 16 << 10, 65504, irohrelay.MaxPacket} {
		p := bytes.Repeat([]byte{byte(n), 'x'}, n/2+1)[:n]
		for from, to := range map[*irohtest.Client]*irohtest.Client{a: b, b: a} {
			if err := from.Send(to.ID, p); err != nil {
				t.Fatal(err)
			}
			h.gets(to, from.ID, p)
		}
	}
	// What an app sends at most comes in many datagrams.
	const message, datagram = 127_000, 1200
	go func() {
		for at := 0; at < message; at += datagram {
			_ = a.Send(b.ID, bytes.Repeat([]byte{byte(at / datagram)}, min(datagram, message-at))) // the other side counts
		}
	}()
	for at := 0; at < message; at += datagram {
		h.gets(b, a.ID, bytes.Repeat([]byte{byte(at / datagram)}, min(datagram, message-at)))
	}
	if err := a.Send(a.ID, []byte("self")); err != nil {
		t.Fatal(err)
	}
	h.gets(a, a.ID, []byte("self"))
}

func TestAfterARestartClientsComeBack(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	ak, bk, addr := irohtest.Key(), irohtest.Key(), h.addr
	a, b := h.dial(ak), h.dial(bk)
	h.stop()
	for _, c := range []*irohtest.Client{a, b} {
		if err := c.Closed(); err != nil {
			t.Error(err)
		}
	}
	h = open(t, irohrelay.Options{}, addr)
	a, b = h.dial(ak), h.dial(bk)
	if err := a.Send(b.ID, []byte("again")); err != nil {
		t.Fatal(err)
	}
	h.gets(b, a.ID, []byte("again"))
}

func TestTheNewestConnectionOfAClientGetsItsPackets(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	key, peer := irohtest.Key(), h.dial(irohtest.Key())
	var all []*irohtest.Client
	for range 4 {
		all = append(all, h.dial(key))
	}
	to := func(c *irohtest.Client, text string) {
		t.Helper()
		if err := peer.Send(c.ID, []byte(text)); err != nil {
			t.Fatal(err)
		}
		h.gets(c, peer.ID, []byte(text))
	}
	to(all[3], "newest")
	// The older ones stay, and may send.
	for i, c := range all {
		if err := c.Send(peer.ID, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		h.gets(peer, c.ID, []byte{byte(i)})
	}
	all = append(all, h.dial(key)) // one too many
	if err := all[0].Closed(); err != nil {
		t.Error(err)
	}
	for i := 4; i > 1; i-- {
		to(all[i], fmt.Sprint("number ", i))
		all[i].Close()
		h.until("connection closed", func(s irohrelay.Stats) bool { return s.Connections == i })
	}
	to(all[1], "oldest")
	if s := h.Stats(); s.Nodes != 2 || s.Evicted != 1 || s.GoneMessages != 0 {
		t.Errorf("%+v", s)
	}
	all[1].Close()
	typ, p, err := peer.Read()
	if err != nil || typ != irohrelay.NodeGone || !bytes.Equal(p, all[1].ID[:]) {
		t.Errorf("got %d %x, %v", typ, p, err)
	}
}

func TestWhoWasInContactIsToldOfTheEnd(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	a, b, stranger := h.dial(irohtest.Key()), h.dial(irohtest.Key()), h.dial(irohtest.Key())
	for range 3 {
		if err := a.Send(b.ID, []byte("x")); err != nil {
			t.Fatal(err)
		}
		h.gets(b, a.ID, []byte("x"))
	}
	a.Close()
	if typ, p, err := b.Read(); err != nil || typ != irohrelay.NodeGone || !bytes.Equal(p, a.ID[:]) {
		t.Fatalf("got %d %x, %v", typ, p, err)
	}
	// Once, and nobody else: the next frame is the answer to a ping.
	for _, c := range []*irohtest.Client{b, stranger} {
		if err := c.Write(irohrelay.Ping, []byte("12345678")); err != nil {
			t.Fatal(err)
		}
		if typ, p, err := c.Read(); err != nil || typ != irohrelay.Pong || string(p) != "12345678" {
			t.Errorf("got %d %q, %v", typ, p, err)
		}
	}
	h.until("counted once", func(s irohrelay.Stats) bool { return s.GoneMessages == 1 })
}

func TestPacketsForNobodyAreDropped(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	a := h.dial(irohtest.Key())
	if err := a.Send(irohrelay.NodeID{1, 2, 3}, []byte("x")); err != nil {
		t.Fatal(err)
	}
	h.until("dropped", func(s irohrelay.Stats) bool { return s.DroppedNoDestination == 1 })
	if err := a.Send(a.ID, []byte("still here")); err != nil {
		t.Fatal(err)
	}
	h.gets(a, a.ID, []byte("still here"))
}

func TestFramesThatEndAConnection(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	other := h.dial(irohtest.Key())
	long := func(typ byte, n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{typ}, n) }
	for name, frame := range map[string][]byte{
		"unknown": {3, 0, 0, 0, 0}, "too long a packet": long(4, 65569), "endless": long(4, 1<<32-1), "too short a packet": long(4, 31),
		"long ping": long(12, 9), "short ping": long(12, 7), "health": irohrelay.AppendFrame(nil, irohrelay.Health, []byte("fine")), "text": []byte("GET / HTTP/1.1\r\n"),
	} {
		c := h.dial(irohtest.Key())
		if _, err := c.Conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		if err := c.Closed(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.until("counted", func(s irohrelay.Stats) bool { return s.BadFrames == 8 })
	// What others send out of turn does no harm.
	id := irohtest.Key().Public().(ed25519.PublicKey)
	for _, frame := range [][]byte{
		irohrelay.AppendFrame(nil, irohrelay.KeepAlive), irohrelay.AppendFrame(nil, irohrelay.NotePreferred, []byte{1}), irohrelay.AppendFrame(nil, irohrelay.NodeGone, id),
		irohrelay.AppendFrame(nil, irohrelay.RecvPacket, id, []byte("x")), irohrelay.AppendFrame(nil, irohrelay.Restarting, make([]byte, 8)),
		irohrelay.AppendClientInfo(nil, irohtest.Key()), irohrelay.AppendFrame(nil, irohrelay.Pong, []byte("unasked.")),
	} {
		if _, err := other.Conn.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Send(other.ID, []byte("x")); err != nil {
		t.Fatal(err)
	}
	h.gets(other, other.ID, []byte("x"))
	if s := h.Stats(); s.Ignored != 6 {
		t.Errorf("%d ignored, want 6", s.Ignored)
	}
}

func TestClientsWithoutAHandshakeAreClosed(t *testing.T) {
	h := open(t, irohrelay.Options{Handshake: time.Second, Allow: func(id irohrelay.NodeID, from netip.AddrPort) bool {
		return from.Addr().IsLoopback() && id != irohrelay.NodeID(bytes.Repeat([]byte{0}, 32)) && id[0]&1 == 0
	}}, "127.0.0.1:0")
	key := func(odd byte) ed25519.PrivateKey {
		for {
			if k := irohtest.Key(); k.Public().(ed25519.PublicKey)[0]&1 == odd {
				return k
			}
		}
	}
	good := irohrelay.AppendClientInfo(nil, key(0))
	bad := bytes.Clone(good)
	bad[60] ^= 1
	for name, c := range map[string]struct {
		first, want string
	}{
		"nothing": {"", ""}, "a little": {string(good[:50]), ""}, "signature": {string(bad), ""}, "ping first": {"\x0c\x00\x00\x00\x0812345678", ""},
		"long": {"\x02\x00\x10\x00\x00", ""}, "packet first": {"\x04\x00\x01\x00\x20", ""},
		"denied": {string(irohrelay.AppendClientInfo(nil, key(1))), "\x0e\x00\x00\x00\x11not authenticated"},
	} {
		nc, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(nc, irohtest.Request+c.first); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(nc)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Connection") != "Upgrade" || resp.Header.Get("Upgrade") != "iroh derp http" {
			t.Fatalf("%s: %v, %v", name, resp, err)
		}
		rest, err := io.ReadAll(r)
		if errors.Is(err, context.DeadlineExceeded) || string(rest) != c.want {
			t.Errorf("%s: got %q, %v; want %q", name, rest, err, c.want)
		}
	}
	h.until("counted", func(s irohrelay.Stats) bool {
		return s.BadHandshakes == 4 && s.SilentHandshake == 2 && s.Denied == 1 && s.Connections == 0
	})
}

func TestAnAbruptEndIsNoticed(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	c := h.dial(irohtest.Key())
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	if _, err := c.Conn.Write([]byte{4, 0, 0, 1, 0, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	h.until("gone", func(s irohrelay.Stats) bool { return s.Connections == 0 && s.Nodes == 0 })
}

// A client that does not read is let go, costs bounded memory, and nobody waits
// for it.
func TestASlowReaderIsLetGo(t *testing.T) {
	h := open(t, irohrelay.Options{Rate: -1, Write: 500 * time.Millisecond, QueueBytes: 1 << 20}, "127.0.0.1:0")
	stuck, flood, a, b := h.dial(irohtest.Key()), h.dial(irohtest.Key()), h.dial(irohtest.Key()), h.dial(irohtest.Key())
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	packet := make([]byte, 60_000)
	h.until("let go", func(s irohrelay.Stats) bool {
		if err := flood.Send(stuck.ID, packet); err != nil {
			t.Fatal(err)
		}
		if err := a.Send(b.ID, []byte("x")); err != nil {
			t.Fatal(err)
		}
		h.gets(b, a.ID, []byte("x"))
		return s.SlowWrites == 1 && s.Nodes == 3
	})
	s := h.Stats()
	if s.DroppedBytesFull == 0 {
		t.Errorf("%+v", s)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("%d octets more on the heap", grown)
	}
}

func TestQueuesAreBounded(t *testing.T) {
	h := open(t, irohrelay.Options{Rate: -1, Queue: 10, Write: 5 * time.Second}, "127.0.0.1:0")
	stuck, flood := h.dial(irohtest.Key()), h.dial(irohtest.Key())
	packet := make([]byte, 60_000)
	h.until("dropped", func(s irohrelay.Stats) bool {
		if err := flood.Send(stuck.ID, packet); err != nil {
			t.Fatal(err)
		}
		return s.DroppedQueueFull > 3
	})
	// The search for a direct path has a queue of its own, and comes first.
	find := append([]byte("\x40\x00TS\xf0\x9f\x92\xac"), make([]byte, 40)...)
	if err := flood.Send(stuck.ID, find); err != nil {
		t.Fatal(err)
	}
	h.until("queued", func(s irohrelay.Stats) bool { return s.DiscoIn == 1 && s.PacketsIn == s.PacketsOut+s.DroppedQueueFull })
	for range 1000 {
		_, p, err := stuck.Packet()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(p, find) {
			return
		}
	}
	t.Error("it did not come")
}

// Many who do not read take from each other, and not from those who do: what waits
// for all is bounded, and some of it is always free.
func TestSlowReadersShareWhatMayWait(t *testing.T) {
	const total, readers = 2 << 20, 40
	h := open(t, irohrelay.Options{Rate: -1, Handshakes: -1, Write: 10 * time.Second, QueueTotal: total}, "127.0.0.1:0")
	flood, a, b := h.dial(irohtest.Key()), h.dial(irohtest.Key()), h.dial(irohtest.Key())
	var stuck []*irohtest.Client
	for range readers {
		c := h.dial(irohtest.Key())
		if err := c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		stuck = append(stuck, c)
	}
	packet := make([]byte, 1400)
	// Until each has filled the buffers of its socket and then its queue.
	h.until("all are full", func(s irohrelay.Stats) bool {
		for _, c := range stuck {
			for range 100 {
				if err := flood.Send(c.ID, packet); err != nil {
					t.Fatal(err)
				}
			}
		}
		return s.DroppedBytesFull > 10_000 && s.Waiting > total/2
	})
	for range 100 {
		if err := a.Send(b.ID, packet); err != nil {
			t.Fatal(err)
		}
		h.gets(b, a.ID, packet)
	}
	if s := h.Stats(); s.Waiting > total-len(packet) {
		t.Errorf("%d octets wait, of %d", s.Waiting, total)
	}
}

func TestTooManyAreTurnedAway(t *testing.T) {
	for name, c := range map[string]struct {
		opt  irohrelay.Options
		from []string
		want int
	}{
		"in all":                     {irohrelay.Options{Clients: 2}, []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"}, 503},
		"of one address":             {irohrelay.Options{PerAddress: 2}, []string{"192.0.2.1:1", "192.0.2.1:2", "[::ffff:192.0.2.1]:3"}, 429},
		"of one network":             {irohrelay.Options{PerAddress: 2}, []string{"[2001:db8::1]:1", "[2001:db8::2]:2", "[2001:db8::ffff:3]:3"}, 429},
		"in a second":                {irohrelay.Options{Handshakes: 2}, []string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"}, 503},
		"of one address in a second": {irohrelay.Options{Handshakes: 16}, []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"}, 429},
		"of others in a second":      {irohrelay.Options{Handshakes: 16}, []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1"}, 0},
		"of many networks":           {irohrelay.Options{PerAddress: 1}, []string{"[2001:db8::1]:1", "[2001:db8:0:1::1]:2", "192.0.2.1:1"}, 0},
		"of a proxy":                 {irohrelay.Options{PerAddress: 1}, []string{"127.0.0.1:1", "127.0.0.1:2", "[::1]:3", "[::1]:4"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, c.opt, "127.0.0.1:0")
			in := inlet.New(&net.TCPAddr{})
			served := make(chan error, 1)
			go func() { served <- h.Serve(in) }()
			var all []*irohtest.Client
			for i, from := range c.from {
				nc, err := in.Dial(t.Context(), netip.MustParseAddrPort(from))
				if err != nil {
					t.Fatal(err)
				}
				client, err := irohtest.Over(nc, irohtest.Key())
				var status irohtest.Status
				switch last := i == len(c.from)-1; {
				case last && c.want != 0:
					if !errors.As(err, &status) || int(status) != c.want {
						t.Errorf("got %v, want %d", err, c.want)
					}
					nc.Close()
				case err != nil:
					t.Errorf("%s: %v", from, err)
				default:
					all = append(all, client)
				}
			}
			// Places are given back.
			for _, client := range all {
				client.Close()
			}
			h.until("closed", func(s irohrelay.Stats) bool { return s.Connections == 0 })
			if c.opt.Handshakes == 0 {
				nc, err := in.Dial(t.Context(), netip.MustParseAddrPort(c.from[0]))
				if err != nil {
					t.Fatal(err)
				}
				client, err := irohtest.Over(nc, irohtest.Key())
				if err != nil {
					t.Fatal(err)
				}
				client.Close()
			}
			in.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []irohrelay.Options{{Queue: -1}, {QueueBytes: 100}, {QueueTotal: 100}, {Peers: -1}, {Idle: -1}, {Write: -1}, {Pong: -1}, {Handshake: -1}} {
		if _, err := irohrelay.New(o); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestWhatIsAskedOverHTTP(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	ask := func(request string) *http.Response {
		t.Helper()
		nc, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
		method, rest, _ := strings.Cut(request, " ")
		path, header, _ := strings.Cut(rest, "\n")
		if _, err := fmt.Fprintf(nc, "%s %s HTTP/1.1\r\nHost: x\r\n%s\r\n", method, path, strings.ReplaceAll(header, "\n", "\r\n")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(nc), &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	key := "Sec-WebSocket-Key: " + base64.StdEncoding.EncodeToString(make([]byte, 16)) + "\n"
	for request, want := range map[string]int{
		"GET /relay\nUpgrade: iroh derp http\n":                      101,
		"GET /derp\nUpgrade: iroh derp http\n":                       101,
		"GET /relay?x=1\nUpgrade:   iroh derp http  \n":              101,
		"GET /relay\nConnection: upgrade\nUpgrade: iroh derp http\n": 101,
		"GET /relay\nUpgrade: Iroh DERP HTTP\n":                      400,
		"GET /relay\nUpgrade: iroh  derp http\n":                     400,
		"GET /relay\nUpgrade: iroh derp http\nUpgrade: websocket\n":  400,
		"GET /relay\n":               400,
		"GET /relay\nUpgrade: h2c\n": 400,
		"GET /relay\nUpgrade: websocket\nSec-WebSocket-Version: 12\n" + key: 400,
		"GET /relay\nUpgrade: websocket\nSec-WebSocket-Version: 13\n":       400,
		"GET /relay\nUpgrade: WebSocket\nSec-WebSocket-Version: 13\n" + key: 101,
		"HEAD /relay\nUpgrade: iroh derp http\n":                            405,
		"POST /relay\nUpgrade: iroh derp http\nContent-Length: 0\n":         405,
		"GET /relay/\nUpgrade: iroh derp http\n":                            404,
		"GET /\n":                                                           404,
		"GET /ping\n":                                                       200,
		"GET /relay/probe\n":                                                200,
		"GET /derp/probe\n":                                                 200,
		"GET /generate_204\n":                                               204,
	} {
		if resp := ask(request); resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", request, resp.StatusCode, want)
		}
	}
	if resp := ask("GET /ping\n"); resp.Header.Get("Access-Control-Allow-Origin") != "*" || resp.ContentLength != 0 || resp.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("%v", resp.Header)
	}
	for challenge, want := range map[string]string{
		"abc-DEF_1.2": "response abc-DEF_1.2", "a b": "", "": "", strings.Repeat("x", 63): "response " + strings.Repeat("x", 63), strings.Repeat("x", 64): "", "<script>": "",
	} {
		if got := ask("GET /generate_204\nX-Tailscale-Challenge: " + challenge + "\n").Header.Get("X-Tailscale-Response"); got != want {
			t.Errorf("%q: %q, want %q", challenge, got, want)
		}
	}
}

// The hub is mounted on a server that speaks HTTP/2 and has timeouts, over TLS.
func TestOnAServerOfAnother(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	srv := httptest.NewUnstartedServer(h.Handler())
	srv.EnableHTTP2 = true
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	srv.StartTLS()
	defer srv.Close()
	dial := func() *irohtest.Client {
		t.Helper()
		nc, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}) // as clients do: no ALPN
		if err != nil {
			t.Fatal(err)
		}
		c, err := irohtest.Over(nc, irohtest.Key())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b := dial(), dial()
	passed := time.After(400 * time.Millisecond) // more than the server's timeouts
	<-passed
	for _, n := range []int{1, 1200, 65536} {
		if err := a.Send(b.ID, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		h.gets(b, a.ID, make([]byte, n))
	}
	// The other server's end does not end what it handed over; ours does.
	srv.Close()
	if err := b.Send(a.ID, []byte("x")); err != nil {
		t.Fatal(err)
	}
	h.gets(a, b.ID, []byte("x"))
	h.stop()
	if err := a.Closed(); err != nil {
		t.Error(err)
	}
}

// pair is a client within a bubble of fake time: over a pipe, past HTTP.
func pipe(t *testing.T, h *irohrelay.Hub, key ed25519.PrivateKey) (*irohtest.Client, func()) {
	in := inlet.New(&net.TCPAddr{})
	served := make(chan struct{})
	go func() { _ = h.Serve(in); close(served) }()
	nc, err := in.Dial(t.Context(), netip.MustParseAddrPort("192.0.2.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := irohtest.Over(nc, key)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Time{})
	return c, func() { in.Close(); <-served }
}

func TestSilentClientsAreAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := irohrelay.New(irohrelay.Options{})
		if err != nil {
			t.Fatal(err)
		}
		c, end := pipe(t, h, irohtest.Key())
		last := time.Now()
		asked := func() []byte {
			t.Helper()
			typ, p, err := c.Read()
			since := time.Since(last)
			if err != nil || typ != irohrelay.Ping || since < 16*time.Second || since > 20*time.Second {
				t.Fatalf("frame %d, %v after %v", typ, err, since)
			}
			return p
		}
		for range 5 {
			q := asked()
			last = time.Now()
			if err := c.Write(irohrelay.Pong, q); err != nil {
				t.Fatal(err)
			}
		}
		// Any frame puts the question off.
		for range 10 {
			<-time.After(14 * time.Second) // fake
			last = time.Now()
			if err := c.Write(irohrelay.NotePreferred, []byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		old := asked()
		if err := c.Write(irohrelay.Pong, old); err != nil {
			t.Fatal(err)
		}
		last = time.Now()
		asked()
		// The answer to an earlier question is none, nor is anything else.
		at := time.Now()
		if err := c.Write(irohrelay.Pong, old); err != nil {
			t.Fatal(err)
		}
		if err := c.Closed(); err != nil {
			t.Error(err)
		}
		if d := time.Since(at); d != 5*time.Second {
			t.Errorf("given up after %v", d)
		}
		synctest.Wait()
		if s := h.Stats(); s.NoPong != 1 || s.Asked != 7 {
			t.Errorf("%+v", s)
		}
		c.Close()
		if err := h.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		end()
	})
}

func TestWhoSendsTooFastIsReadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := irohrelay.New(irohrelay.Options{Rate: 100_000, TotalRate: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		c, end := pipe(t, h, irohtest.Key())
		at := time.Now()
		go func() {
			for range 40 {
				_ = c.Send(c.ID, make([]byte, 10_000)) // the reader counts
			}
		}()
		for range 40 {
			if _, p, err := c.Packet(); err != nil || len(p) != 10_000 {
				t.Fatal(len(p), err)
			}
		}
		// 400 kB, of which the bucket held 200.
		if d := time.Since(at); d < 1900*time.Millisecond || d > 2200*time.Millisecond {
			t.Errorf("took %v", d)
		}
		if h.Stats().Throttled == 0 {
			t.Error("not counted")
		}
		c.Close()
		if err := h.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		end()
	})
}

// A browser's form of the same frames.
func TestWebSocket(t *testing.T) {
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	peer, key := h.dial(irohtest.Key()), irohtest.Key()
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	message := func(op byte, p []byte) []byte {
		b := []byte{0x80 | op}
		switch n := len(p); {
		case n < 126:
			b = append(b, 0x80|byte(n))
		case n < 1<<16:
			b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
		default:
			b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
		}
		mask := []byte{1, 2, 3, 4}
		b = append(b, mask...)
		for i, x := range p {
			b = append(b, x^mask[i&3])
		}
		return b
	}
	short := func(frame []byte) []byte { return append([]byte{frame[0]}, frame[irohrelay.HeaderSize:]...) }
	// The key and the answer of RFC 6455 section 1.3.
	request := "GET /relay HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	first := append([]byte(request), message(2, short(irohrelay.AppendClientInfo(nil, key)))...)
	first = append(first, message(9, []byte("layer below"))...) // no frame
	if _, err := nc.Write(append(first, message(2, []byte("\x0c**********"[:9]))...)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(nc)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("%v, %v", resp, err)
	}
	read := func() []byte {
		t.Helper()
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			t.Fatal(err)
		}
		n := uint64(head[1])
		if ext := map[byte]int{126: 2, 127: 8}[head[1]]; ext > 0 {
			b := make([]byte, 8)
			if _, err := io.ReadFull(r, b[8-ext:]); err != nil {
				t.Fatal(err)
			}
			n = binary.BigEndian.Uint64(b)
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(r, p); head[0] != 0x82 || err != nil {
			t.Fatal(head, err)
		}
		return p
	}
	if got := read(); string(got) != "\x0d********" {
		t.Errorf("got %q", got)
	}
	id := irohrelay.NodeID(key.Public().(ed25519.PublicKey))
	for _, n := range []int{1, 200, 1452, 65536} {
		p := bytes.Repeat([]byte{7}, n)
		if err := peer.Send(id, p); err != nil {
			t.Fatal(err)
		}
		if got := read(); got[0] != byte(irohrelay.RecvPacket) || !bytes.Equal(got[1:33], peer.ID[:]) || !bytes.Equal(got[33:], p) {
			t.Fatalf("%d: got %d octets", n, len(got))
		}
		if _, err := nc.Write(message(2, bytes.Join([][]byte{{4}, peer.ID[:], p}, nil))); err != nil {
			t.Fatal(err)
		}
		h.gets(peer, id, p)
	}
	if _, err := nc.Write([]byte{0x02, 0x85, 0, 0, 0, 0}); err != nil { // in pieces
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	h.until("gone", func(s irohrelay.Stats) bool { return s.Connections == 1 })
}

func TestSTUNOverUDP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, irohrelay.Options{}, "127.0.0.1:0")
	done := make(chan error, 1)
	go func() { done <- h.ServeSTUN(pc) }()
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = c.Write([]byte("noise"))
	if _, err := c.Write([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil || n != 32 || binary.BigEndian.Uint16(b[26:])^0x2112 != netip.MustParseAddrPort(c.LocalAddr().String()).Port() {
		t.Errorf("%x, %v", b[:n], err)
	}
	if s := h.Stats(); s.STUN4 != 1 || s.STUN6 != 0 || s.STUNBad != 1 {
		t.Errorf("counted %+v", s)
	}
	pc.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// FuzzSession lets a client send anything after its handshake, in either form.
func FuzzSession(f *testing.F) {
	id := irohtest.Key().Public().(ed25519.PublicKey)
	f.Add(false, irohrelay.AppendFrame(nil, irohrelay.SendPacket, id, []byte("x")))
	f.Add(false, irohrelay.AppendFrame(irohrelay.AppendFrame(nil, irohrelay.Ping, []byte("12345678")), irohrelay.Health, []byte("x")))
	f.Add(false, []byte{4, 0, 1, 0, 32, 1})
	f.Add(true, []byte{0x82, 0x85, 0, 0, 0, 0, 4, 1, 2, 3, 4})
	f.Add(true, []byte{0x89, 0x80, 0, 0, 0, 0, 0x88, 0x80, 0, 0, 0, 0})
	h := open(f, irohrelay.Options{Handshakes: -1, Handshake: 200 * time.Millisecond}, "127.0.0.1:0")
	in := inlet.New(&net.TCPAddr{})
	served := make(chan error, 1)
	go func() { served <- h.Serve(in) }()
	f.Cleanup(func() { in.Close(); <-served })
	key := irohtest.Key()
	f.Fuzz(func(t *testing.T, messages bool, b []byte) {
		nc, err := in.Dial(context.Background(), netip.MustParseAddrPort("192.0.2.1:1"))
		if err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		group.Go(func() { _, _ = io.Copy(io.Discard, nc) })
		first := irohrelay.AppendClientInfo([]byte(irohtest.Request), key)
		if messages {
			first = []byte("GET /relay HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		}
		_ = nc.SetWriteDeadline(time.Now().Add(5 * time.Second))
		_, _ = nc.Write(append(first, b...)) // it may be closed meanwhile
		nc.Close()
		group.Wait()
		for end := time.Now().Add(10 * time.Second); h.Stats().Connections > 0; runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%+v", h.Stats())
			}
		}
		if s := h.Stats(); s.Nodes != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

func BenchmarkPackets(b *testing.B) {
	h := open(b, irohrelay.Options{Rate: -1}, "127.0.0.1:0")
	x, y := h.dial(irohtest.Key()), h.dial(irohtest.Key())
	_ = x.SetDeadline(time.Time{})
	_ = y.SetDeadline(time.Time{})
	packet := make([]byte, 1200)
	b.SetBytes(int64(len(packet)))
	b.ReportAllocs()
	window := make(chan struct{}, 256) // less than waits at most: none is dropped
	done := make(chan error, 1)
	n := 0
	go func() {
		for {
			if _, _, err := y.Packet(); err != nil {
				done <- err
				return
			}
			<-window
		}
	}()
	for b.Loop() {
		window <- struct{}{}
		if err := x.Send(y.ID, packet); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "packets/s")
	if d := h.Stats(); d.DroppedQueueFull+d.DroppedBytesFull > 0 {
		b.Errorf("%+v", d)
	}
	y.Close()
	<-done
}

func BenchmarkIdleConnection(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		h := open(b, irohrelay.Options{Handshakes: -1}, "127.0.0.1:0")
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		b.StartTimer()
		const n = 400
		var all []net.Conn
		for range n {
			nc, err := net.Dial("tcp", h.addr)
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, nc)
			if _, err := nc.Write(irohrelay.AppendClientInfo([]byte(irohtest.Request), irohtest.Key())); err != nil {
				b.Fatal(err)
			}
		}
		h.until("all there", func(s irohrelay.Stats) bool { return s.Nodes == n })
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/conn")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stack-B/conn")
		h.stop()
		for _, nc := range all {
			nc.Close()
		}
		b.StartTimer()
	}
}

// Package services looks at calls, realtime apps and disguise in the built binary as
// the internet does: what they cost while nobody uses them, and what becomes of a
// server whose ports get rubbish and half of a greeting.
package services

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"madmail/internal/irohrelay/irohtest"
	"madmail/test/load"
	"madmail/test/testport"
	"madmail/test/testserver"
)

const password = "Vq8sX2mLr5kTz7Wb9NcY3dJf"

// house is a server with everything on.
type house struct {
	*testserver.Server
	turn, turnTLS, iroh, ss int
}

func open(t *testing.T, on bool) *house {
	t.Helper()
	free := testport.Ports(t, 4)
	h := &house{turn: free[0], turnTLS: free[1], iroh: free[2], ss: free[3]}
	lines := ""
	if on {
		lines = fmt.Sprintf("turn_enable = true\nturn_secret = \"s3cret\"\nturn_listen_udp = \"127.0.0.1:%d\"\nturn_listen_tls = \"127.0.0.1:%d\"\niroh_relay_url = \"http://127.0.0.1:%d\"\nss_addr = \"127.0.0.1:%d\"\nss_password = \"our secret\"\n",
			h.turn, h.turnTLS, h.iroh, h.ss)
	}
	h.Server = testserver.New(t, lines)
	return h
}

// memory is the process's own, in KiB: pages of the program that were read do not count.
func (h *house) memory(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "RssAnon:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ticks is the processor time of the process, in hundredths of a second.
func (h *house) ticks(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	sum := 0
	for _, f := range strings.Fields(rest)[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestIdleServicesCostNothing: with no call and no app they use no processor time that
// could be measured, and less than 4 MiB.
func TestIdleServicesCostNothing(t *testing.T) {
	without, with := open(t, false), open(t, true)
	<-time.After(2 * time.Second) // a start has work to do
	before := with.ticks(t)
	<-time.After(3 * time.Second) // the time that is measured
	if used := with.ticks(t) - before; used > 2 {
		t.Errorf("%d0 ms of processor time in three seconds", used)
	}
	a, b := without.memory(t), with.memory(t)
	t.Logf("%d KiB without, %d KiB with them", a, b)
	if b-a > 4<<10 {
		t.Errorf("%d KiB without, %d KiB with them", a, b)
	}
}

func dial(t *testing.T, port int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// binding asks where we are, until there is an answer: datagrams before it may have
// filled the socket.
func binding(t *testing.T, port int) {
	t.Helper()
	conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 60 {
		if _, err := conn.Write([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes")); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 200)); err == nil && n > 20 {
			return
		}
	}
	t.Error("TURN answers nobody")
}

func TestRubbishIsBounded(t *testing.T) {
	h := open(t, true)
	tg := load.Target{SMTP: fmt.Sprintf("127.0.0.1:%d", h.SubmissionTLS), IMAP: fmt.Sprintf("127.0.0.1:%d", h.IMAPTLS), Domain: "[127.0.0.1]", Password: password}
	if err := tg.Ensure("victimno%d", 1); err != nil {
		t.Fatal(err)
	}
	const room = 32 << 10 // KiB; what the collector lets stand may be more than before, and what is sent and opened below would take more if it stayed
	before := 0           // what the collector lets stand is part of it: measured once it had work
	seed := [32]byte{1}
	r := rand.NewChaCha8(seed)
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b) // never fails
		return b
	}
	stun := func(kind uint16, body []byte) []byte {
		b := append([]byte{byte(kind >> 8), byte(kind), byte(len(body) >> 8), byte(len(body)), 0x21, 0x12, 0xa4, 0x42}, random(12)...)
		return append(b, body...)
	}

	t.Run("datagrams", func(t *testing.T) {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", h.turn))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		kinds := []uint16{0x001, 0x003, 0x004, 0x008, 0x009, 0x016, 0x00a, 0x00b, 0x00c, 0x101, 0x111, 0xfff}
		for i := range 60_000 {
			if i == 30_000 {
				before = h.memory(t)
			}
			p := random(i % 1200)
			switch i % 3 {
			case 1:
				p = stun(kinds[i%len(kinds)], random(i%40*4))
			case 2: // attributes that nearly are some
				p = stun(kinds[i%len(kinds)], append([]byte{0, byte(i % 32), 0, byte(i % 64)}, random(i%64&^3)...))
			}
			_, _ = conn.Write(p) // whoever is full drops it
		}
		binding(t, h.turn)
	})

	for _, p := range []struct {
		name string
		port int
	}{{"TURN over TCP", h.turn}, {"TURN over TLS", h.turnTLS}, {"iroh", h.iroh}, {"shadowsocks", h.ss}, {"HTTPS", h.HTTPS}, {"HTTP", h.HTTP}} {
		t.Run("rubbish to "+p.name, func(t *testing.T) {
			for i := range 100 {
				conn := dial(t, p.port)
				for _, b := range [][]byte{random(1 + i*40), stun(3, random(400)), []byte("GET /relay HTTP/1.1\r\nupgrade: iroh derp http\r\nhost: x\r\n\r\n"), random(2000)}[i%4:] {
					if _, err := conn.Write(b); err != nil {
						break
					}
				}
				if p.port == h.ss {
					// Nothing at all comes back.
					_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
					if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
						t.Errorf("an answer of %d octets, %v", n, err)
					}
				}
				conn.Close()
			}
		})
		t.Run("half-open at "+p.name, func(t *testing.T) {
			for i := range 600 { // more than one address may have anywhere
				conn := dial(t, p.port)
				defer conn.Close()
				_, _ = conn.Write([][]byte{nil, {22, 3, 1, 2}, []byte("GET /relay HTTP/1.1\r\nupgr"), {0, 3, 0, 80, 0x21}}[i%4])
			}
			if after := h.memory(t); after > before+room {
				t.Errorf("memory went from %d to %d KiB", before, after)
			}
		})
	}
	t.Run("relayed to nobody", func(t *testing.T) {
		c, err := irohtest.Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", h.iroh), irohtest.Key())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 200 {
			if err := c.Send([32]byte(random(32)), random(60_000)); err != nil {
				t.Fatal(err)
			}
		}
	})
	after := h.memory(t)
	t.Logf("memory went from %d to %d KiB", before, after)
	if after > before+room {
		t.Errorf("memory went from %d to %d KiB", before, after)
	}

	// Everything is served as before.
	reader, err := tg.Login("victimno0")
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.turnTLS), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(stun(1, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 20)); err != nil {
		t.Errorf("TURN over TLS: %v", err)
	}
	conn.Close()
	if _, err := irohtest.Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", h.iroh), irohtest.Key()); err != nil {
		t.Errorf("the relay: %v", err)
	}
	if out := h.Output(); strings.Contains(out, "panic") {
		t.Errorf("something panicked:\n%s", out)
	}
}

package inlet

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Who asks one of our addresses is answered from that one.
func TestAnswersComeFromWhereTheQuestionWent(t *testing.T) {
	for _, c := range []struct {
		network, bind string
		ask           []string
	}{
		{"udp", ":0", []string{"127.0.0.1", "127.0.0.2", "127.9.9.9", "::1"}},
		{"udp4", "0.0.0.0:0", []string{"127.0.0.1", "127.0.0.3"}},
		{"udp", "127.0.0.1:0", []string{"127.0.0.1"}},
	} {
		pc, err := net.ListenPacket(c.network, c.bind)
		if err != nil {
			t.Fatal(err)
		}
		p := Answering(pc.(*net.UDPConn))
		if _, wrapped := p.(*Packets); wrapped == (c.bind == "127.0.0.1:0") {
			t.Errorf("%s: wrapped: %v", c.bind, wrapped)
		}
		port := pc.LocalAddr().(*net.UDPAddr).Port
		var group sync.WaitGroup
		group.Go(func() {
			b := make([]byte, 100)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				if a := from.(*net.UDPAddr).AddrPort().Addr(); a.Is4In6() {
					t.Errorf("from %v", a)
				}
				if _, err := p.WriteTo(b[:n], from); err != nil {
					t.Error(err)
				}
			}
		})
		for _, host := range c.ask {
			// A socket that is connected takes answers of the one that it asked only.
			conn, err := net.Dial("udp", net.JoinHostPort(host, fmt.Sprint(port)))
			if err != nil {
				if host == "::1" { // a system without IPv6
					continue
				}
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			got := make([]byte, 100)
			if _, err := conn.Write([]byte(host)); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(got); err != nil || string(got[:n]) != host {
				t.Errorf("%s on %s: %q, %v", host, c.bind, got[:n], err)
			}
			conn.Close()
		}
		pc.Close()
		group.Wait()
	}
}

// Whoever was heard lately is remembered, and the memory is bounded.
func TestWhoWasHeardIsRememberedForAWhile(t *testing.T) {
	p := &Packets{origins: make(map[string][]byte), now: make(heard)}
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), uint16(1+i>>16))
	}
	for i := range 10 * maxHeard {
		p.note(at(i), []byte{byte(i), byte(i >> 8), byte(i >> 16)})
	}
	if len(p.now)+len(p.old) > 2*maxHeard || len(p.origins) > maxHeard {
		t.Errorf("%d, %d, %d are kept", len(p.now), len(p.old), len(p.origins))
	}
	for i := 9 * maxHeard; i < 10*maxHeard; i++ {
		if _, now := p.now[at(i)]; !now {
			if _, old := p.old[at(i)]; !old {
				t.Fatalf("%v is forgotten", at(i))
			}
		}
	}
}

// FuzzAnswerFrom gives any octets for what the system says.
func FuzzAnswerFrom(f *testing.F) {
	f.Add(make([]byte, 40))
	f.Fuzz(func(t *testing.T, info []byte) {
		if b := answerFrom(info); len(b) > 64 {
			t.Errorf("%d octets", len(b))
		}
	})
}

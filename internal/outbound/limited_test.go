package outbound

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/throttle"
)

// slow takes a time for each letter.
type slow struct{ takes time.Duration }

func (s slow) Deliver(_ context.Context, _ Target, l *Letter) []Outcome {
	time.Sleep(s.takes)
	return Every(l, Outcome{Result: Delivered})
}

func TestLettersWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, err := throttle.Parse("destination concurrency 1")
		if err != nil {
			t.Fatal(err)
		}
		way := Limited(slow{20 * time.Second}, throttle.New(rules))
		got := make(chan Result, 3)
		begin := time.Now()
		for range 3 {
			go func() { // ends with the third reading below
				got <- way.Deliver(t.Context(), Target{Domain: "a.example"}, &Letter{To: make([]address.Addr, 1)})[0].Result
			}()
		}
		if out := way.Deliver(t.Context(), Target{Domain: "b.example"}, &Letter{To: make([]address.Addr, 1)}); out[0].Result != Delivered || time.Since(begin) != 20*time.Second {
			t.Errorf("another domain: %+v after %v", out, time.Since(begin))
		}
		count := make(map[Result]int)
		for range 3 {
			count[<-got]++
		}
		if count[Delivered] != 2 || count[Later] != 1 {
			t.Errorf("two can go in half a minute: %v", count)
		}
	})
	if way := Limited(slow{}, nil); way != Transport(slow{}) {
		t.Error("no limits are a limit")
	}
}

func TestConnectionsComeFromTheAddressThatWasSet(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	d := &Dialer{Resolver: &fakeResolver{addrs: map[string][]netip.Addr{
		"both.example": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.1")}, "six.example": {netip.MustParseAddr("2001:db8::1")},
	}}, IPv4: true}
	for _, local := range []string{"", "127.0.0.1"} {
		if local != "" {
			d.Local, d.IPv4 = netip.MustParseAddr(local), false
		}
		if _, err := d.Dial(t.Context(), "six.example", port, true); !fault.Is(err, fault.Refused) {
			t.Errorf("from %q to a host with IPv6 only: %v", local, err)
		}
		conn, err := d.Dial(t.Context(), "both.example", port, true)
		if err != nil {
			t.Errorf("from %q to a host with both: %v", local, err)
			continue
		}
		conn.Close()
	}
	d.Local = netip.MustParseAddr("192.0.2.77") // not of this machine
	if _, err := d.Dial(t.Context(), "both.example", port, true); !fault.Is(err, fault.Busy) {
		t.Errorf("from an address that is not ours: %v", err)
	}
}

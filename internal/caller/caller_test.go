package caller

import (
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

func TestWhoIsCounted(t *testing.T) {
	for _, x := range []struct {
		name, remote, forwarded, want string
		direct                        bool
	}{
		{"a host", "192.0.2.1:99", "", "192.0.2.1", false},
		{"its word on others counts nothing", "192.0.2.1:99", "198.51.100.7", "192.0.2.1", false},
		{"IPv6 by network", "[2001:db8::1:2]:99", "", "2001:db8::", false},
		{"IPv4 within IPv6", "[::ffff:192.0.2.1]:99", "", "192.0.2.1", false},
		{"this machine", "127.0.0.1:99", "", "127.0.0.1", true},
		{"a proxy here", "127.0.0.1:99", "203.0.113.5, 198.51.100.7", "198.51.100.7", false},
		{"a proxy here that says nothing of use", "127.0.0.1:99", "somebody", "127.0.0.1", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = x.remote
		if x.forwarded != "" {
			r.Header.Set("X-Forwarded-For", x.forwarded)
		}
		who, direct := Of(r)
		if who != netip.MustParseAddr(x.want) || direct != x.direct {
			t.Errorf("%s: %v, %v; want %s, %v", x.name, who, direct, x.want, x.direct)
		}
	}
}

func TestTenFailuresInAMinuteAreEnough(t *testing.T) {
	var f Failures
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	now := time.Unix(1_700_000_000, 0)
	for i := range MaxFailures {
		if f.Full(a, now) {
			t.Fatal("full after", i)
		}
		f.Count(a, now)
	}
	if !f.Full(a, now) || f.Full(b, now) {
		t.Error("full:", f.Full(a, now), "another:", f.Full(b, now))
	}
	if now = now.Add(Window); f.Full(a, now) {
		t.Error("full a minute later")
	}
	f.Count(a, now)
	f.Forget(a)
	if len(f.m) != 0 {
		t.Error("not forgotten")
	}
}

func TestTheTableOfFailuresIsBounded(t *testing.T) {
	var f Failures
	now := time.Unix(1_700_000_000, 0)
	a := netip.MustParseAddr("2001:db8::")
	for range 3 * maxCallers {
		f.Count(a, now)
		a = a.Next()
	}
	if n := len(f.m); n > maxCallers {
		t.Error("addresses remembered:", n)
	}
	for range 1000 {
		f.Count(a, now)
	}
	if n := len(f.m[a]); n > 3*MaxFailures {
		t.Error("failures of one address remembered:", n)
	}
}

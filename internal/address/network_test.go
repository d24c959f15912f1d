package address

import (
	"net/netip"
	"testing"
)

func TestASubscriberIsOneNetwork(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "fe80::1%eth0": "fe80::", "::1": "::",
	} {
		if got := Network(netip.MustParseAddr(ip)); got.String() != want {
			t.Errorf("%s is of %s, want %s", ip, got, want)
		}
	}
	if got := Network(netip.Addr{}); got.IsValid() {
		t.Errorf("no address is of %s", got)
	}
}

package address

import "net/netip"

// Network is what limits count as one source: an IPv4 address, or the /64 of an IPv6
// address, which is what one subscriber has. IPv4 within IPv6 is IPv4, and zones do not
// count.
func Network(ip netip.Addr) netip.Addr {
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

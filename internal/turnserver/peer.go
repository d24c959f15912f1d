package turnserver

import (
	"net"
	"net/netip"
	"slices"
	"time"
)

// inner are the ranges that nobody may be sent to from here: this machine, its
// network, what is not one machine, and what is not an address yet.
var inner = func() (list []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
		"2001:2::/48", "2001:10::/28", "2001:20::/28", // for measurements; names that look like addresses
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

// global is all of IPv6 that was given to anybody to be reached at (RFC 4291
// section 2.4). Loopback, local addresses, groups and forms of IPv4 addresses lie
// beside it.
var global = netip.MustParsePrefix("2000::/3")

// Ranges in which an IPv4 address hides. A gateway between us and the world
// may unwrap it.
var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixto4 = netip.MustParsePrefix("2002::/16")
	teredo = netip.MustParsePrefix("2001::/32")
)

// hidden is the IPv4 address in an IPv6 address that a gateway would unwrap.
func hidden(ip netip.Addr) (netip.Addr, bool) {
	b := ip.As16()
	switch {
	case nat64.Contains(ip):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixto4.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return ip, false
}

// public reports whether ip is an address on the public internet.
func public(ip netip.Addr) bool {
	ip = plain(ip)
	if !ip.IsValid() {
		return false
	}
	if v4, ok := hidden(ip); ok {
		return public(v4)
	}
	for _, p := range inner {
		if p.Contains(ip) {
			return false
		}
	}
	return ip.Is4() || global.Contains(ip) && !teredo.Contains(ip)
}

// plain is an address as it is compared here: IPv4 where it is one, no zone.
func plain(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

// addrOf reads the address of a packet or a connection.
func addrOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	case nil:
		return ap
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(plain(ap.Addr()), ap.Port())
}

// machine is the addresses of this machine, looked up now and then.
type machine struct {
	addrs map[netip.Addr]bool
	until time.Time
}

const machineFor = time.Minute

func (s *Server) local(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	now := s.opt.Now()
	m := s.machine.Load()
	if m == nil || now.After(m.until) {
		m = &machine{addrs: make(map[netip.Addr]bool), until: now.Add(machineFor)}
		for _, a := range s.opt.Interfaces() {
			m.addrs[plain(a)] = true
		}
		s.machine.Store(m)
	}
	return m.addrs[ip]
}

// interfaces lists the addresses of this machine.
func interfaces() (list []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				list = append(list, plain(ip))
			}
		}
	}
	return list
}

// own reports whether ip is this machine, under any of its names.
func (s *Server) own(c *Config, ip netip.Addr) bool {
	is := func(a netip.Addr) bool { return plain(a) == ip }
	return slices.ContainsFunc(c.Relay, is) || slices.ContainsFunc(c.Own, is) || s.local(ip)
}

// permitted decides whether a client may talk to a peer at all. The address that
// is handed out as relay counts as a peer: two callers behind bad routers meet
// there. What is sent to it still reaches living relays only.
func (s *Server) permitted(c *Config, ip netip.Addr) bool {
	ip = plain(ip)
	switch {
	case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case c.AllowPrivate:
		return true
	}
	if slices.ContainsFunc(c.Relay, func(a netip.Addr) bool { return plain(a) == ip }) {
		return true
	}
	// What a gateway would bring back to this machine is this machine.
	v4, wrapped := hidden(ip)
	return public(ip) && !s.own(c, ip) && !(wrapped && s.own(c, v4))
}

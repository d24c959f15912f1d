package turnserver

import (
	"net"
	"net/netip"
	"time"
)

// inner are the ranges that nobody may be sent to from here: this machine, its
// network, what is not one machine, and what is not an address yet.
var inner = func() (list []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
		"::/96", "100::/64", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

// Ranges in which an IPv4 address hides. A gateway between us and the world
// may unwrap it.
var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	nat64l = netip.MustParsePrefix("64:ff9b:1::/48")
	sixto4 = netip.MustParsePrefix("2002::/16")
	teredo = netip.MustParsePrefix("2001::/32")
)

// public reports whether ip is an address on the public internet.
func public(ip netip.Addr) bool {
	ip = plain(ip)
	if !ip.IsValid() {
		return false
	}
	for _, p := range inner {
		if p.Contains(ip) {
			return false
		}
	}
	b := ip.As16()
	switch {
	case nat64.Contains(ip):
		return public(netip.AddrFrom4([4]byte(b[12:16])))
	case sixto4.Contains(ip):
		return public(netip.AddrFrom4([4]byte(b[2:6])))
	case nat64l.Contains(ip), teredo.Contains(ip):
		return false
	}
	return true
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

// source is what limits count: an IPv4 address, or the /64 of an IPv6 address,
// which is what one subscriber has.
func source(ip netip.Addr) netip.Addr {
	if ip = plain(ip); ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
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
	for _, a := range c.Relay {
		if plain(a) == ip {
			return true
		}
	}
	return s.local(ip)
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
	for _, a := range c.Relay {
		if plain(a) == ip {
			return true
		}
	}
	return public(ip) && !s.local(ip)
}

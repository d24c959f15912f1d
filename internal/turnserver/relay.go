package turnserver

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"github.com/pion/turn/v5"
	"golang.org/x/time/rate"

	"madmail/internal/fault"
)

// mostTries is how many ports are tried before an allocation is refused.
const mostTries = 256

// generator makes relays. It is the library's RelayAddressGenerator.
type generator struct{ in *instance }

// Validate does nothing: a Config was checked.
func (generator) Validate() error { return nil }

// AllocateListener refuses: relaying over TCP (RFC 6062) would let callers
// connect anywhere.
func (generator) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errNoTCP
}

// AllocateConn refuses, too.
func (generator) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) { return nil, errNoTCP }

var (
	errNoTCP = fault.New(fault.Refused, "turnserver: TCP is not relayed")
	errFull  = fault.New(fault.Full, "turnserver: too many relays")
)

// evensPerSecond and evensAtOnce bound how often even ports are asked for. Each time
// the library keeps the port after it reserved for half a minute, without a limit of
// its own.
const (
	evensPerSecond = 100
	evensAtOnce    = 1000
)

// AllocatePacketConn opens a relay on a free port. When a client wants an even port
// (RFC 8656 section 7.2) the library asks first without a user, for a socket that it
// closes again, and then for that very port; for the one after it when a client comes
// with a reservation.
func (g generator) AllocatePacketConn(a turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	c, s := g.in.conf, g.in.s
	six := a.Network == "udp6"
	if a.UserID == "" {
		return g.even(six)
	}
	if p := a.RequestedPort; p != 0 && (p < c.PortMin || p > c.PortMax) {
		return nil, nil, fault.New(fault.Refused, "turnserver: the port is not one of ours")
	}
	i := slices.IndexFunc(c.Relay, func(ip netip.Addr) bool { return plain(ip).Is6() == six })
	if i < 0 {
		return nil, nil, fault.New(fault.Refused, "turnserver: no relay address of this family")
	}
	if err := s.count(g.in, a.UserID); err != nil {
		return nil, nil, err
	}
	r, err := g.in.open(plain(c.Relay[i]), a.Network, a.UserID, a.RequestedPort)
	if err != nil {
		s.discount(a.UserID)
		return nil, nil, err
	}
	return r, net.UDPAddrFromAddrPort(r.addr), nil
}

// even finds a free even port whose successor is free, too.
func (g generator) even(six bool) (net.PacketConn, net.Addr, error) {
	c, s := g.in.conf, g.in.s
	i := slices.IndexFunc(c.Relay, func(ip netip.Addr) bool { return plain(ip).Is6() == six })
	if i < 0 || !s.evens.Allow() {
		return nil, nil, fault.New(fault.Refused, "turnserver: no even port")
	}
	bind := g.in.bindTo(plain(c.Relay[i]))
	first := (c.PortMin + 1) &^ 1
	pairs := (c.PortMax - first + 1) / 2
	if pairs < 1 {
		return nil, nil, fault.New(fault.Full, "turnserver: no even port")
	}
	start := rand.IntN(pairs)
	for try := range min(pairs, mostTries) {
		port := uint16(first + 2*((start+try)%pairs))
		if s.relayAt(six, port) != nil || s.relayAt(six, port+1) != nil {
			continue
		}
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind, port)))
		if err == nil {
			return udp, udp.LocalAddr(), nil
		}
	}
	return nil, nil, fault.New(fault.Full, "turnserver: no even port")
}

// bindTo is the address that a relay's socket is bound to: the one that is handed out
// when this machine has it, else all.
func (in *instance) bindTo(ip netip.Addr) netip.Addr {
	switch {
	case in.s.local(ip):
		return ip
	case ip.Is6():
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// open binds a port: the one wanted, or when that is 0 one of the range, beginning
// anywhere.
func (in *instance) open(ip netip.Addr, network, user string, wanted int) (*relay, error) {
	bind := in.bindTo(ip)
	size := in.conf.PortMax - in.conf.PortMin + 1
	start, tries := rand.IntN(size), min(size, mostTries)
	if wanted != 0 {
		start, tries = wanted-in.conf.PortMin, 1
	}
	var last error
	for try := range tries {
		port := uint16(in.conf.PortMin + (start+try)%size)
		if in.s.relayAt(ip.Is6(), port) != nil {
			continue
		}
		udp, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind, port)))
		if err != nil {
			last = err
			continue
		}
		r := &relay{UDPConn: udp, in: in, user: user, addr: netip.AddrPortFrom(ip, port), local: netip.AddrPortFrom(bind, port)}
		if bind.IsUnspecified() {
			loop := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			if ip.Is6() {
				loop = netip.IPv6Loopback()
			}
			r.local = netip.AddrPortFrom(loop, port)
		}
		if n := in.s.limits.Load().Rate; n > 0 {
			r.from, r.to = rate.NewLimiter(rate.Limit(n), burst(n)), rate.NewLimiter(rate.Limit(n), burst(n))
		}
		if !in.s.register(r) {
			udp.Close()
			return nil, errFull
		}
		return r, nil
	}
	return nil, fault.Wrap(fault.Full, errors.Join(errFull, last), "turnserver: no free relay port")
}

// burst is what may pass at once under a limit of n octets a second.
func burst(n int64) int { return int(max(n, 64<<10)) }

// relay is one allocation's socket towards the peers. What passes is counted
// and limited, and goes only where Server.permitted allows. Packets between two
// relays of this server take the short way inside the machine: routers in front
// of it need not know how to turn them round.
type relay struct {
	*net.UDPConn
	in       *instance
	user     string
	addr     netip.AddrPort // handed out
	local    netip.AddrPort // reachable from this machine
	from, to *rate.Limiter  // octets from and to peers; nil for no limit

	// Guarded by Server.mu.
	client netip.Addr // source of the client, once it is known
	closed bool
}

// ReadFrom returns the next packet of a peer. The library drops an allocation
// on any error, so only the end of the socket is one.
func (r *relay) ReadFrom(p []byte) (int, net.Addr, error) {
	for faults := 0; ; {
		n, from, err := r.ReadFromUDPAddrPort(p)
		if err != nil {
			// Some systems report here that an earlier packet reached nobody.
			if faults++; errors.Is(err, net.ErrClosed) || faults > maxFaults {
				return 0, nil, err
			}
			continue
		}
		faults = 0
		s := r.in.s
		from = netip.AddrPortFrom(plain(from.Addr()), from.Port())
		if s.own(r.in.conf, from.Addr()) {
			if other := s.relayAt(from.Addr().Is6(), from.Port()); other != nil {
				from = other.addr
			} else if !r.in.conf.AllowPrivate {
				s.stats.refused.Add(1)
				continue
			}
		} else if !s.permitted(r.in.conf, from.Addr()) {
			s.stats.refused.Add(1)
			continue
		}
		if r.from != nil && !r.from.AllowN(s.opt.Now(), n) {
			s.stats.dropped.Add(1)
			continue
		}
		s.stats.fromPeers.Add(int64(n))
		return n, net.UDPAddrFromAddrPort(from), nil
	}
}

// WriteTo sends a packet to a peer. What may not be sent is dropped, as packets
// are.
func (r *relay) WriteTo(p []byte, to net.Addr) (int, error) {
	s, dst := r.in.s, addrOf(to)
	if s.own(r.in.conf, dst.Addr()) {
		if other := s.relayAt(dst.Addr().Is6(), dst.Port()); other != nil {
			dst = other.local
		} else if !r.in.conf.AllowPrivate {
			s.stats.refused.Add(1)
			return len(p), nil
		}
	} else if !s.permitted(r.in.conf, dst.Addr()) || dst.Port() == 0 {
		s.stats.refused.Add(1)
		return len(p), nil
	}
	if r.to != nil && !r.to.AllowN(s.opt.Now(), len(p)) {
		s.stats.dropped.Add(1)
		return len(p), nil
	}
	s.stats.toPeers.Add(int64(len(p)))
	return r.WriteToUDPAddrPort(p, dst)
}

// Close gives the port and the counts back. The library stops closing others at
// the first error, so there is none.
func (r *relay) Close() error {
	r.in.s.unregister(r)
	_ = r.UDPConn.Close()
	return nil
}

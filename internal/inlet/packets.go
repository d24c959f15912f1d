package inlet

import (
	"net"
	"net/netip"
	"sync"
)

// maxHeard is how many of those who were heard are remembered at least.
const maxHeard = 8192

// Packets is a UDP socket that is bound to all addresses of this machine and answers
// from the one that was asked. The system would choose by the way to the asker, and
// who has asked another address takes no answer from that one: a machine with a second
// address, as IPv6 gives it to most, would be silent on it.
type Packets struct {
	*net.UDPConn

	mu       sync.Mutex        // guards the fields below
	origins  map[string][]byte // what the system says of a packet: what to tell it of the answer
	now, old heard             // young and older memories
}

// heard is from where answers to somebody leave, as the system wants to be told.
type heard map[netip.AddrPort][]byte

// Answering returns conn in a form that answers from where it was asked. That is conn
// itself when it is bound to one address, and where the system cannot do it.
func Answering(conn *net.UDPConn) net.PacketConn {
	at, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok || !at.IP.IsUnspecified() || !tellOrigin(conn) {
		return conn
	}
	return &Packets{UDPConn: conn, origins: make(map[string][]byte), now: make(heard)}
}

// oobs hold what the system says of a packet.
var oobs = sync.Pool{New: func() any { b := make([]byte, 128); return &b }}

// ReadFrom returns the next packet.
func (p *Packets) ReadFrom(b []byte) (int, net.Addr, error) {
	oob := oobs.Get().(*[]byte)
	defer oobs.Put(oob)
	n, m, _, from, err := p.ReadMsgUDPAddrPort(b, *oob)
	if err != nil {
		return n, nil, err
	}
	p.note(from, (*oob)[:m])
	return n, net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Addr().Unmap(), from.Port())), nil
}

func (p *Packets) note(from netip.AddrPort, info []byte) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	p.mu.Lock()
	defer p.mu.Unlock()
	origin, known := p.origins[string(info)]
	if !known {
		if len(p.origins) >= maxHeard { // interfaces come and go
			clear(p.origins)
		}
		origin = answerFrom(info)
		p.origins[string(info)] = origin
	}
	if len(p.now) >= maxHeard {
		p.now, p.old = make(heard), p.now
	}
	p.now[from] = origin
}

// WriteTo sends a packet to somebody, from where they asked if they did.
func (p *Packets) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return p.UDPConn.WriteTo(b, to)
	}
	k := netip.AddrPortFrom(u.AddrPort().Addr().Unmap(), u.AddrPort().Port())
	p.mu.Lock()
	origin, known := p.now[k]
	if !known {
		origin = p.old[k]
	}
	p.mu.Unlock()
	if origin != nil {
		if n, _, err := p.WriteMsgUDPAddrPort(b, origin, u.AddrPort()); err == nil {
			return n, nil
		}
		// The address may be gone.
	}
	return p.UDPConn.WriteTo(b, to)
}

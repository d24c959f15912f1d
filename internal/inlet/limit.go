package inlet

import (
	"cmp"
	"net"
	"net/netip"
	"sync"

	"madmail/internal/address"
)

// slots are places for connections that are looked at.
type slots struct {
	total     int  // 0 is maxDeciding
	perSource int  // 0 is no limit
	trusting  bool // this machine itself, which may be a proxy, has no limit of its own

	mu    sync.Mutex // guards the fields below
	taken int
	by    map[netip.Addr]int
}

// take takes a place and returns how to give it back, or nil when there is none.
func (s *slots) take(from net.Addr) (give func()) {
	var ip netip.Addr
	if a, ok := from.(*net.TCPAddr); ok && s.perSource > 0 {
		ip = address.Network(a.AddrPort().Addr())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	limited := s.perSource > 0 && !(s.trusting && ip.IsLoopback())
	if s.taken >= cmp.Or(s.total, maxDeciding) || limited && s.by[ip] >= s.perSource {
		return nil
	}
	if s.by == nil {
		s.by = make(map[netip.Addr]int)
	}
	s.taken++
	s.by[ip]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken--
		if s.by[ip]--; s.by[ip] == 0 {
			delete(s.by, ip)
		}
	}
}

// Limited is a net.Listener with a bound on connections that are open, in all and
// of one address or IPv6 network. What is over it is closed at once.
type Limited struct {
	net.Listener
	places slots
}

// Limit wraps l. This machine itself counts for the bound in all only: it may be a
// proxy, which stands for many.
func Limit(l net.Listener, total, perSource int) *Limited {
	return &Limited{Listener: l, places: slots{total: total, perSource: perSource, trusting: true}}
}

// Accept returns the next connection that there is a place for.
func (l *Limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if give := l.places.take(conn.RemoteAddr()); give != nil {
			return &limited{Conn: conn, give: sync.OnceFunc(give)}, nil
		}
		conn.Close()
	}
}

// limited gives its place back with Close. It does not show the connection below:
// whoever closed that would keep the place.
type limited struct {
	net.Conn
	give func()
}

func (c *limited) Close() error {
	c.give()
	return c.Conn.Close()
}

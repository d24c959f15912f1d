package inlet

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"madmail/internal/task"
)

// headerTime is how long a proxy may take to say whose connection it is.
const headerTime = 5 * time.Second

// Proxied is a net.Listener behind proxies. Connections from trusted sources
// begin with a PROXY header, version 1 or 2, that names the client; RemoteAddr
// is that client. All others are what they are: a header of theirs is passed on
// as the data that it is.
type Proxied struct {
	*Listener
	sockets net.Listener
	trusted []netip.Prefix
	group   task.Group
	ctx     context.Context // ends with Close; it has no other owner
	cancel  context.CancelFunc
}

// NewProxied wraps l.
func NewProxied(l net.Listener, trusted []netip.Prefix) *Proxied {
	p := &Proxied{Listener: New(l.Addr()), sockets: l, trusted: trusted}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.group.Go("proxied", func() {
		_ = serve(l, &p.group, new(slots), p.begin) // it ends when l is closed
		p.Listener.Close()
	})
	return p
}

// Close closes the socket and ends Accept. It may be called twice.
func (p *Proxied) Close() error {
	err := p.sockets.Close()
	p.cancel()
	p.Listener.Close()
	ctx, cancel := context.WithTimeout(context.Background(), headerTime)
	defer cancel()
	_ = p.group.Wait(ctx) // what is left ends by its deadline
	return err
}

func (p *Proxied) trusts(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	for _, n := range p.trusted {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

func (p *Proxied) begin(conn net.Conn) {
	ctx, cancel := context.WithTimeout(p.ctx, headerTime)
	defer cancel()
	out := conn
	if p.trusts(conn.RemoteAddr()) {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		c := proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(headerTime))
		header := c.ProxyHeader() // reads it
		if !stop() || header == nil {
			conn.Close()
			return
		}
		_ = conn.SetReadDeadline(time.Time{})
		out = &inside{Conn: c, local: conn.LocalAddr(), remote: c.RemoteAddr()}
		if header.Command.IsLocal() {
			out = &inside{Conn: c, local: conn.LocalAddr(), remote: conn.RemoteAddr()} // the proxy speaks for itself
		}
	}
	if err := p.Hand(ctx, out); err != nil {
		conn.Close()
	}
}

// Package inlet brings connections to a door another way than by a socket of its
// own: from inside the process (Listener), from a TLS port that several doors
// share (Splitter), from a proxy that says whose connection it is (Proxied).
//
// It looks at the first octets of a connection and at nothing after them. It
// keeps no key and ends no TLS.
//
// All methods may be called from many goroutines.
package inlet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// Listener is a net.Listener whose connections are handed to it.
type Listener struct {
	addr  net.Addr
	queue chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// New returns a listener that says it listens on addr.
func New(addr net.Addr) *Listener {
	return &Listener{addr: addr, queue: make(chan net.Conn), done: make(chan struct{})}
}

// Hand waits until conn is accepted. On an error, net.ErrClosed or that of ctx,
// conn still belongs to the caller.
func (l *Listener) Hand(ctx context.Context, conn net.Conn) error {
	select {
	case <-l.done: // a select chooses at random, so this is asked first
		return net.ErrClosed
	default:
	}
	select {
	case l.queue <- conn:
		return nil
	case <-l.done:
		return net.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("inlet: hand over: %w", ctx.Err())
	}
}

// Dial connects to whoever accepts, as if from remote.
func (l *Listener) Dial(ctx context.Context, remote netip.AddrPort) (net.Conn, error) {
	near, far := net.Pipe()
	err := l.Hand(ctx, &inside{Conn: far, local: l.addr, remote: net.TCPAddrFromAddrPort(remote)})
	if err != nil {
		near.Close()
		far.Close()
		return nil, err
	}
	return near, nil
}

// Accept returns the next connection; after Close, net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and Hand. It may be called twice.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns the address that New was given.
func (l *Listener) Addr() net.Addr { return l.addr }

// inside is a connection within the process, under the addresses it stands for.
type inside struct {
	net.Conn
	local, remote net.Addr
}

func (c *inside) LocalAddr() net.Addr  { return c.local }
func (c *inside) RemoteAddr() net.Addr { return c.remote }

// replay is a connection some of which was read already.
type replay struct {
	net.Conn
	first []byte
}

func (c *replay) Read(p []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}

// NetConn returns the connection below.
func (c *replay) NetConn() net.Conn { return c.Conn }

// rawReplay is a replay of a socket. What waits for the socket to be readable
// has to have read what was replayed.
type rawReplay struct {
	*replay
	syscall.Conn
}

func again(conn net.Conn, first []byte) net.Conn {
	c := &replay{conn, first}
	if raw, ok := conn.(syscall.Conn); ok {
		return &rawReplay{c, raw}
	}
	return c
}

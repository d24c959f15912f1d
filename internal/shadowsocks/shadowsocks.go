// Package shadowsocks hides connections to this server's own services from those
// who look at the wire: the Shadowsocks protocol over TCP, with the ciphers of
// 2017 (SIP004) and of 2022 (SIP022).
//
// It knows nothing of mail. It is handed listeners, and the services that may be
// reached, by port; it connects to nothing else, whatever a client asks for.
//
// To somebody without the key it is a port that takes everything and says
// nothing: what does not open, was seen before, or asks for another service is
// read and dropped until a moment that was chosen when the connection began. So
// neither answers nor times tell a wrong guess from an unfinished one.
//
// A proxied connection reaches its service under the address of its client, not
// as one from this machine: limits and throttles count it for whom it is.
//
// All methods may be called from many goroutines.
package shadowsocks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/task"
)

// Dialer connects to a service on behalf of client.
type Dialer func(ctx context.Context, client netip.AddrPort) (net.Conn, error)

// Options make a server. Cipher and Password are required.
type Options struct {
	Cipher, Password string
	// Targets are the services that may be reached, by the port that clients ask for.
	Targets map[uint16]Dialer
	// Local reports whether a host that a client asks for is this server; nil
	// takes every host for it.
	Local func(host string) bool

	MaxConns     int           // in all; 2048
	MaxPerSource int           // of one address or IPv6 network; 128
	IdleTimeout  time.Duration // without an octet from the client; 40 minutes
	// Silence is how long a connection may take until it has named a target, or
	// is listened to without an answer; nil chooses between 30 and 60 seconds.
	Silence func() time.Duration
	Now     func() time.Time // for the times in headers
	Log     *slog.Logger
}

// Server is the door. Make one with New.
type Server struct {
	opt     Options
	cred    atomic.Pointer[credential]
	targets atomic.Pointer[map[uint16]Dialer]
	seen    *replays
	group   task.Group

	relayed, probes, toClients, toServices atomic.Int64

	mu      sync.Mutex // guards the fields below
	conns   map[net.Conn]netip.Addr
	sources map[netip.Addr]int
	stopped bool
}

// New checks opt and returns a server without listeners. Errors are
// fault.Invalid.
func New(opt Options) (*Server, error) {
	cred, err := newCredential(opt.Cipher, opt.Password)
	if err != nil {
		return nil, err
	}
	if opt.MaxConns <= 0 {
		opt.MaxConns = 2048
	}
	if opt.MaxPerSource <= 0 {
		opt.MaxPerSource = 128
	}
	if opt.IdleTimeout <= 0 {
		opt.IdleTimeout = 40 * time.Minute
	}
	if opt.Silence == nil {
		opt.Silence = func() time.Duration { return 30*time.Second + rand.N(30*time.Second) }
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opt: opt, seen: newReplays(), conns: make(map[net.Conn]netip.Addr), sources: make(map[netip.Addr]int)}
	s.cred.Store(cred)
	s.SetTargets(opt.Targets)
	s.group.Panicked = func(_ string, v any, stack []byte) {
		opt.Log.Error("a proxied connection panicked", "panic", fmt.Sprint(v), "stack", string(stack))
	}
	return s, nil
}

// Configure replaces cipher and password for connections that begin from now on.
// Errors are fault.Invalid, and nothing is changed.
func (s *Server) Configure(cipherName, password string) error {
	cred, err := newCredential(cipherName, password)
	if err == nil {
		s.cred.Store(cred)
	}
	return err
}

// SetTargets replaces the services that connections may reach from now on. The
// map must not be changed afterwards.
func (s *Server) SetTargets(t map[uint16]Dialer) { s.targets.Store(&t) }

// Stats are counts. Bytes are payload octets, since the start.
type Stats struct {
	Connections           int   // now, silent ones included
	Relayed               int64 // connections that reached a service
	Probes                int64 // connections that were listened to without an answer
	ToClients, ToServices int64 // bytes
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	return Stats{Connections: n, Relayed: s.relayed.Load(), Probes: s.probes.Load(), ToClients: s.toClients.Load(), ToServices: s.toServices.Load()}
}

// Remotes calls f with the address of every connection.
func (s *Server) Remotes(f func(netip.Addr)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ip := range s.conns {
		f(ip)
	}
}

// Serve accepts connections until l is closed; then it returns nil. Connections
// live on.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.start(conn)
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			// Out of descriptors, most likely: others must end first.
			pause := time.NewTimer(50 * time.Millisecond)
			<-pause.C
		}
	}
}

// Take serves one connection, which it owns from now on.
func (s *Server) Take(conn net.Conn) { s.start(conn) }

// End closes all connections.
func (s *Server) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// Stop closes all connections and waits for them until ctx ends. It may be
// called twice. Listeners are closed by whoever opened them.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.End()
	return s.group.Wait(ctx)
}

func (s *Server) start(conn net.Conn) {
	var from netip.AddrPort
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		from = netip.AddrPortFrom(a.AddrPort().Addr().Unmap().WithZone(""), a.AddrPort().Port())
	}
	k := address.Network(from.Addr())
	s.mu.Lock()
	full := s.stopped || len(s.conns) >= s.opt.MaxConns || s.sources[k] >= s.opt.MaxPerSource
	if !full {
		s.conns[conn] = from.Addr()
		s.sources[k]++
	}
	s.mu.Unlock()
	if full {
		conn.Close()
		return
	}
	s.group.Go("shadowsocks", func() {
		defer func() {
			conn.Close()
			s.mu.Lock()
			delete(s.conns, conn)
			if s.sources[k]--; s.sources[k] <= 0 {
				delete(s.sources, k)
			}
			s.mu.Unlock()
		}()
		s.session(conn, from)
	})
}

// session serves one connection.
func (s *Server) session(conn net.Conn, from netip.AddrPort) {
	silence := time.Now().Add(s.opt.Silence())
	_ = conn.SetReadDeadline(silence)
	in := &opener{conn: conn, c: s.cred.Load()}
	defer in.release()
	service, err := s.reach(in, from, silence)
	if err != nil {
		in.release()
		s.probes.Add(1)
		_, _ = io.Copy(io.Discard, conn) // until silence ends
		return
	}
	s.relayed.Add(1)
	s.relay(conn, service, in)
}

var errTarget = errors.New("shadowsocks: not a service of ours")

// reach reads what a client wants and connects to it.
func (s *Server) reach(in *opener, from netip.AddrPort, silence time.Time) (net.Conn, error) {
	t, err := in.begin(s.opt.Now(), s.seen)
	if err != nil {
		return nil, err
	}
	dial := (*s.targets.Load())[t.port]
	if dial == nil || s.opt.Local != nil && !s.opt.Local(t.host) {
		return nil, errTarget
	}
	ctx, cancel := context.WithDeadline(context.Background(), silence)
	defer cancel()
	return dial(ctx, from)
}

const (
	writeTime  = time.Minute      // for one write
	lingerTime = 30 * time.Second // for the rest of an answer after the client has ended its side
)

// relay passes data both ways until one side ends.
func (s *Server) relay(conn, service net.Conn, in *opener) {
	defer service.Close()
	done := make(chan struct{})
	s.group.Go("shadowsocks answers", func() {
		defer close(done)
		defer conn.Close() // the service has ended: so does the reading of the client
		s.answers(conn, service, &sealer{c: in.c, request: in.salt[:in.c.keyLen]})
	})
	for {
		b, err := in.next(time.Now().Add(s.opt.IdleTimeout))
		if err != nil {
			if half, ok := service.(interface{ CloseWrite() error }); ok && errors.Is(err, io.EOF) && half.CloseWrite() == nil {
				_ = service.SetReadDeadline(time.Now().Add(lingerTime))
			} else {
				service.Close()
			}
			<-done
			return
		}
		_ = service.SetWriteDeadline(time.Now().Add(writeTime))
		n, err := service.Write(b)
		s.toServices.Add(int64(n))
		if err != nil {
			service.Close()
			<-done
			return
		}
	}
}

// answers passes what the service says to the client.
func (s *Server) answers(conn, service net.Conn, out *sealer) {
	for {
		n, err := service.Read(out.room())
		if n > 0 {
			s.toClients.Add(int64(n))
			b, sealErr := out.chunk(n, s.opt.Now())
			if sealErr != nil {
				return
			}
			_ = conn.SetWriteDeadline(time.Now().Add(writeTime))
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Package tunnel carries connections to this server's own services through its ports
// for the web, for those who can reach nothing else: as a proxy for HTTP (CONNECT), and
// as streams of octets inside WebSocket.
//
// It knows neither mail nor what is in a stream. Where a connection may lead is asked
// of its owner; it connects to nothing else, whatever a client asks for. Without the
// right name and password a request is not its affair: the site answers it like any
// other that it does not know, so that nobody learns of a proxy by trying.
//
// A proxied connection reaches its service under the address of its client: limits and
// throttles count it for whom it is.
//
// All methods may be called from many goroutines.
package tunnel

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/inlet"
	"madmail/internal/task"
	"madmail/internal/throttle"
)

// Dialer connects to a service on behalf of client.
type Dialer func(ctx context.Context, client netip.AddrPort) (net.Conn, error)

// Options make a proxy. Reach, User and Password are required.
type Options struct {
	User, Password string
	// Reach returns the way to a service of ours, or nil for everything else.
	Reach func(host string, port uint16) Dialer

	MaxConns     int           // in all; 2048
	MaxPerSource int           // of one address or IPv6 network; 128
	IdleTimeout  time.Duration // without an octet from the client; 40 minutes
	// Failures is how many wrong passwords of one address or IPv6 network are looked at
	// in a minute (20). Beyond that the right one is wrong, too.
	Failures int
	Log      *slog.Logger
}

// MinPassword is the least length of a password, in octets.
const MinPassword = 8

// Check looks at a name and a password. Errors are fault.Invalid.
func Check(user, password string) error {
	switch {
	case user == "":
		return fault.New(fault.Invalid, "the HTTP proxy needs a name of its users")
	case len(password) < MinPassword:
		return fault.WithHint(fault.Newf(fault.Invalid, "the HTTP proxy needs a password of %d characters or more", MinPassword),
			"run madmail settings set http_proxy_password PASSWORD")
	}
	return nil
}

// Proxy is the proxy. Make one with New.
type Proxy struct {
	opt      Options
	cred     atomic.Pointer[[sha256.Size]byte]
	failures *throttle.Throttle
	group    task.Group

	relayed, refused atomic.Int64

	mu      sync.Mutex // guards the fields below
	conns   map[net.Conn]netip.Addr
	places  int
	sources map[netip.Addr]int
	stopped bool
}

// New checks opt and returns a proxy. Errors are fault.Invalid.
func New(opt Options) (*Proxy, error) {
	if opt.Reach == nil {
		return nil, errors.New("tunnel: Options.Reach is nil")
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
	if opt.Failures <= 0 {
		opt.Failures = 20
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{opt: opt, failures: throttle.New(throttle.Rules{{Scope: throttle.IP, N: opt.Failures, Per: time.Minute}}),
		conns: make(map[net.Conn]netip.Addr), sources: make(map[netip.Addr]int)}
	p.group.Panicked = func(_ string, v any, stack []byte) {
		opt.Log.Error("a proxied connection panicked", "panic", fmt.Sprint(v), "stack", string(stack))
	}
	return p, p.Configure(opt.User, opt.Password)
}

// Configure replaces name and password for connections that begin from now on. Errors
// are fault.Invalid, and nothing is changed.
func (p *Proxy) Configure(user, password string) error {
	if err := Check(user, password); err != nil {
		return err
	}
	sum := credential(user, password)
	p.cred.Store(&sum)
	return nil
}

// credential is of one length, whatever was sent.
func credential(user, password string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strconv.Itoa(len(user)) + " " + user + password))
}

// Stats are counts.
type Stats struct {
	Connections int   // now
	Relayed     int64 // since the start
	Refused     int64 // requests with a wrong name or password
}

// Stats returns the counts.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Connections: len(p.conns), Relayed: p.relayed.Load(), Refused: p.refused.Load()}
}

// Remotes calls f with the address of every connection.
func (p *Proxy) Remotes(f func(netip.Addr)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ip := range p.conns {
		f(ip)
	}
}

// Handler returns who answers a request, or nil where that is not this proxy.
func (p *Proxy) Handler(r *http.Request) http.Handler {
	if r.Method != http.MethodConnect || r.TLS == nil || r.ProtoMajor != 1 {
		return nil
	}
	// net/http reads one kind of credentials; they come under another name here.
	user, password, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
	if !ok {
		return nil
	}
	who, now := address.Network(source(r).Addr()).String(), time.Now()
	sum := credential(user, password)
	if p.failures.Full(throttle.IP, who, now) || subtle.ConstantTimeCompare(sum[:], p.cred.Load()[:]) != 1 {
		p.failures.Begin(throttle.IP, who, now)
		p.refused.Add(1)
		return nil
	}
	return http.HandlerFunc(p.connect)
}

func source(r *http.Request) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

const dialTime = 10 * time.Second

// connect answers somebody with the password, so it may say what is wrong.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) {
	var dial Dialer
	if host, port, err := net.SplitHostPort(r.URL.Host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			dial = p.opt.Reach(host, uint16(n))
		}
	}
	if dial == nil {
		http.Error(w, "Not a service of this server", http.StatusForbidden)
		return
	}
	from := source(r)
	give := p.admit(from.Addr())
	if give == nil {
		http.Error(w, "Too many connections", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialTime)
	defer cancel()
	service, err := dial(ctx, from)
	if err != nil {
		give()
		http.Error(w, "The service does not answer", http.StatusBadGateway)
		return
	}
	conn, err := inlet.Hijack(w, "HTTP/1.1 200 Connection established\r\n\r\n")
	if err != nil || !p.adopt(conn, from.Addr()) {
		give()
		service.Close()
		if conn != nil {
			conn.Close()
		}
		return
	}
	p.group.Go("proxy", func() {
		defer give()
		defer func() {
			conn.Close()
			p.mu.Lock()
			delete(p.conns, conn)
			p.mu.Unlock()
		}()
		p.relayed.Add(1)
		p.relay(conn, service)
	})
}

// admit takes a place and returns how to give it back, or nil when there is none.
func (p *Proxy) admit(from netip.Addr) (give func()) {
	k := address.Network(from)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || p.places >= p.opt.MaxConns || p.sources[k] >= p.opt.MaxPerSource {
		return nil
	}
	p.places++
	p.sources[k]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.places--
		if p.sources[k]--; p.sources[k] <= 0 {
			delete(p.sources, k)
		}
	})
}

// adopt makes Stop end a connection, unless it was called already.
func (p *Proxy) adopt(conn net.Conn, from netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.conns[conn] = from
	}
	return !p.stopped
}

// Stop closes all connections and waits for them until ctx ends. It may be called
// twice.
func (p *Proxy) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.stopped = true
	for c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	return p.group.Wait(ctx)
}

const (
	writeTime  = time.Minute      // for one write
	lingerTime = 30 * time.Second // for the rest of an answer after the client has ended its side
)

var buffers = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// relay passes octets both ways until one side ends.
func (p *Proxy) relay(conn, service net.Conn) {
	defer service.Close()
	done := make(chan struct{})
	p.group.Go("proxy answers", func() {
		defer close(done)
		defer conn.Close() // the service has ended: so does the reading of the client
		_ = pass(conn, service, 0)
	})
	err := pass(service, conn, p.opt.IdleTimeout)
	if half, ok := service.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		_ = service.SetReadDeadline(time.Now().Add(lingerTime))
	} else {
		service.Close()
	}
	<-done
}

// pass copies until from ends, which is no error, or one side fails.
func pass(to, from net.Conn, idle time.Duration) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		if idle > 0 {
			_ = from.SetReadDeadline(time.Now().Add(idle))
		}
		n, err := from.Read(*buf)
		if n > 0 {
			_ = to.SetWriteDeadline(time.Now().Add(writeTime))
			if _, err := to.Write((*buf)[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// Streams is a port for WebSocket alone, as earlier versions had it.
type Streams struct{ http *http.Server }

// NewStreams hands the streams of WebSockets at a path to take. other answers all other
// requests.
func NewStreams(path string, take func(net.Conn), other http.Handler) *Streams {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path || !Upgrade(w, r, take) {
			other.ServeHTTP(w, r)
		}
	})
	return &Streams{&http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}}
}

// Serve serves a listener until it is closed or Stop is called; then it returns nil.
func (s *Streams) Serve(l net.Listener) error {
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Stop ends requests. Streams belong to who took them.
func (s *Streams) Stop() { _ = s.http.Close() }

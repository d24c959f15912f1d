// Package turnserver relays calls: STUN and TURN (RFC 8489, RFC 8656) over UDP,
// TCP and TLS, for clients with credentials that expire.
//
// It knows nothing of mail. It is handed sockets and never opens one, except the
// relays themselves. It relays UDP only, never to this machine or its network,
// and within limits; it keeps no record of who called whom.
//
// The protocol is github.com/pion/turn, which only this package imports. What
// that library leaves to its user is done here: who may be a peer (peer.go),
// ports, counts and rates (relay.go), framing, deadlines and limits of
// connections (stream.go), answers to strangers (packet.go). A Config can change
// while the server runs; that ends the present allocations, and the sockets stay.
//
// All methods may be called from many goroutines.
package turnserver

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/turn/v5"
	"golang.org/x/time/rate"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/task"
)

// inboundMTU is the longest packet from a client, in octets, plus one.
const inboundMTU = 1600

// Config is what clients see of a server.
type Config struct {
	Secret string // from which credentials are made
	Realm  string
	// Relay are the addresses that are handed out: at most one IPv4 address and
	// one IPv6 address.
	Relay []netip.Addr
	// PortMin and PortMax bound the ports of relays, both included.
	PortMin, PortMax int
	// Own are further addresses under which the world reaches this machine, those
	// of a router in front say. Nobody is sent to its services there.
	Own []netip.Addr
	// AllowPrivate lets callers talk to any machine that this one can reach,
	// this one included.
	AllowPrivate bool
}

// Check tells what is wrong with a configuration. Errors are fault.Invalid.
func (c *Config) Check() error {
	families := map[bool]bool{}
	for _, a := range c.Relay {
		ip := plain(a)
		if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || families[ip.Is6()] {
			return fault.Newf(fault.Invalid, "turn: %s cannot be a relay address", a)
		}
		families[ip.Is6()] = true
	}
	switch {
	case c.Secret == "":
		return fault.New(fault.Invalid, "turn: no secret")
	case c.Realm == "" || len(c.Realm) > 500:
		return fault.New(fault.Invalid, "turn: no realm, or one that is too long")
	case len(c.Relay) == 0:
		return fault.New(fault.Invalid, "turn: no relay address")
	case c.PortMin < 1024 || c.PortMax > 65535 || c.PortMin > c.PortMax:
		return fault.Newf(fault.Invalid, "turn: %d to %d is not a range of ports above 1023", c.PortMin, c.PortMax)
	}
	return nil
}

func (c *Config) equal(d *Config) bool {
	return c.Secret == d.Secret && c.Realm == d.Realm && c.PortMin == d.PortMin && c.PortMax == d.PortMax &&
		c.AllowPrivate == d.AllowPrivate && slices.Equal(c.Relay, d.Relay) && slices.Equal(c.Own, d.Own)
}

// Limits bound what callers take. Zero values mean the defaults, negative ones no
// limit.
type Limits struct {
	PerUser        int   // allocations of one user name; 16
	PerAddress     int   // allocations of one address or IPv6 network; 64
	Allocations    int   // in all; 4096
	Conns          int   // TCP and TLS connections in all; 2048
	ConnsPerSource int   // of one address or IPv6 network; 64
	Rate           int64 // octets a second of one allocation, each way; 2 MiB
}

func (l Limits) filled() *Limits {
	num := func(p *int, v int) {
		switch {
		case *p == 0:
			*p = v
		case *p < 0:
			*p = math.MaxInt
		}
	}
	num(&l.PerUser, 16)
	num(&l.PerAddress, 64)
	num(&l.Allocations, 4096)
	num(&l.Conns, 2048)
	num(&l.ConnsPerSource, 64)
	if l.Rate == 0 {
		l.Rate = 2 << 20
	}
	return &l
}

// Options make a server.
type Options struct {
	Config
	Limits Limits
	// Verbose logs what the library has to say, addresses of clients included.
	Verbose    bool
	Interfaces func() []netip.Addr // of this machine; nil asks the system
	Now        func() time.Time
	Log        *slog.Logger
}

// Server relays calls on the sockets it is handed. Make one with New.
type Server struct {
	opt      Options
	limits   atomic.Pointer[Limits]
	machine  atomic.Pointer[machine]
	tasks    task.Group
	group    sync.WaitGroup // calls of Serve and ServePacket
	stopping chan struct{}
	evens    *rate.Limiter

	stats struct {
		created, quota, denied, refused, dropped, unanswered, toPeers, fromPeers atomic.Int64
	}

	mu      sync.Mutex // guards the fields below
	stopped bool
	sockets map[*int]func() // close what was handed in
	conf    *Config
	changed chan struct{} // closed when conf is no longer the latest
	relays  map[relayKey]*relay
	users   map[string]int
	sources map[netip.Addr]int
	pending map[clientKey]netip.Addr // counted in sources, no relay yet
	clients map[streamKey]*stream
	conns   map[netip.Addr]int
	nconns  int
}

type relayKey struct {
	six  bool
	port uint16
}

type clientKey struct {
	network string
	from    netip.AddrPort
}

// streamKey names a connection. A client may take the same port of its own for
// connections to two of ours.
type streamKey struct{ from, to netip.AddrPort }

// New checks opt and returns a server without sockets. Errors are fault.Invalid.
func New(opt Options) (*Server, error) {
	if err := opt.Config.Check(); err != nil {
		return nil, err
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Interfaces == nil {
		opt.Interfaces = interfaces
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	conf := opt.Config
	s := &Server{
		opt: opt, stopping: make(chan struct{}), evens: rate.NewLimiter(evensPerSecond, evensAtOnce), conf: &conf, changed: make(chan struct{}), sockets: make(map[*int]func()),
		relays: make(map[relayKey]*relay), users: make(map[string]int), sources: make(map[netip.Addr]int),
		pending: make(map[clientKey]netip.Addr), clients: make(map[streamKey]*stream), conns: make(map[netip.Addr]int),
	}
	s.limits.Store(opt.Limits.filled())
	s.tasks.Panicked = func(name string, v any, stack []byte) {
		opt.Log.Error("a goroutine panicked", "name", name, "panic", fmt.Sprint(v), "stack", string(stack))
	}
	return s, nil
}

// Configure replaces the configuration. Allocations and connections that are
// there end; sockets stay. Errors are fault.Invalid, and nothing is changed.
func (s *Server) Configure(c Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conf.equal(&c) {
		return nil
	}
	s.conf = &c
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// SetLimits changes the limits of what begins from now on.
func (s *Server) SetLimits(l Limits) { s.limits.Store(l.filled()) }

// Credentials makes credentials under the present secret; see NewCredentials.
func (s *Server) Credentials(hint string, ttl time.Duration) Credentials {
	s.mu.Lock()
	secret := s.conf.Secret
	s.mu.Unlock()
	return NewCredentials(secret, hint, s.opt.Now(), ttl)
}

// Stats are counts; those without "now" are since the start. Bytes are payload
// octets.
type Stats struct {
	Allocations, Connections int   // now
	Created                  int64 // allocations
	OverQuota                int64 // allocations refused for a limit
	Denied                   int64 // requests with wrong or expired credentials
	RefusedPeers             int64 // packets to or from addresses that are not relayed to
	Dropped                  int64 // packets over the rate
	Unanswered               int64 // strangers over their limits
	ToPeers, FromPeers       int64 // bytes
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	relays, conns := len(s.relays), s.nconns
	s.mu.Unlock()
	c := &s.stats
	return Stats{
		Allocations: relays, Connections: conns, Created: c.created.Load(), OverQuota: c.quota.Load(), Denied: c.denied.Load(),
		RefusedPeers: c.refused.Load(), Dropped: c.dropped.Load(), Unanswered: c.unanswered.Load(),
		ToPeers: c.toPeers.Load(), FromPeers: c.fromPeers.Load(),
	}
}

// Stop closes the sockets and ends all allocations. It waits for them until ctx
// ends, and may be called twice.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.stopping)
	}
	for _, shut := range s.sockets {
		shut()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.group.Wait(); close(done) }() // ends with the last Serve, which were all told to
	select {
	case <-done:
		return s.tasks.Wait(ctx)
	case <-ctx.Done():
		return fmt.Errorf("turnserver: stop: %w", ctx.Err())
	}
}

// enter begins a call of Serve; shut closes its socket. It returns nil when the
// server is stopped, else what to call in the end.
func (s *Server) enter(shut func()) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.group.Add(1)
	id := new(int)
	s.sockets[id] = shut
	return func() {
		s.mu.Lock()
		delete(s.sockets, id)
		s.mu.Unlock()
		s.group.Done()
	}
}

// ServePacket serves clients over UDP until pc is closed; then it returns nil,
// and no allocation made through pc is left. Call it once for each socket, from
// a goroutine of its own.
func (s *Server) ServePacket(pc net.PacketConn) error {
	leave := s.enter(func() { pc.Close() })
	if leave == nil {
		pc.Close()
		return nil
	}
	defer leave()
	if u, ok := pc.(interface{ SetReadBuffer(int) error }); ok {
		_ = u.SetReadBuffer(1 << 20) // the system may give less
	}
	closing := make(chan struct{})
	var once sync.Once
	var next packet
	s.run(closing, func(in *instance) (func(), error) {
		_ = pc.SetReadDeadline(time.Time{})
		p := &packets{PacketConn: pc, in: in, next: &next, ended: make(chan struct{}), closed: func() { once.Do(func() { close(closing) }) }}
		return func() { _ = pc.SetReadDeadline(time.Now()); <-p.ended }, in.start(p, nil)
	})
	return nil
}

// instance is the library's server over one socket, under one configuration.
type instance struct {
	s       *Server
	conf    *Config
	changed <-chan struct{} // closed when conf is no longer the latest
	stop    chan struct{}
	wg      sync.WaitGroup // relays and streams

	// Guarded by Server.mu.
	over    bool
	streams map[*stream]struct{}
}

// run keeps an instance going over one socket, a new one whenever the
// configuration changes, until closing is closed. start returns how to wait for
// the socket's reader.
func (s *Server) run(closing <-chan struct{}, start func(*instance) (func(), error)) {
	for {
		s.mu.Lock()
		in := &instance{s: s, conf: s.conf, changed: s.changed, stop: make(chan struct{}), streams: make(map[*stream]struct{})}
		s.mu.Unlock()
		read, err := start(in)
		if err != nil {
			s.opt.Log.Error("TURN cannot start", "err", err)
		}
		select {
		case <-closing:
		case <-in.changed:
		}
		in.halt()
		if err == nil {
			read()
		}
		in.wg.Wait()
		select {
		case <-closing:
			return
		default:
		}
	}
}

// start hands a socket to the library.
func (in *instance) start(p *packets, l *streams) error {
	c := turn.ServerConfig{
		Realm: in.conf.Realm, AuthHandler: in.authenticate, QuotaHandler: in.quota, InboundMTU: inboundMTU,
		// Callers that ask for no family get IPv4 (RFC 8656 section 7.2), however they
		// came, when there is one.
		StrictAddressFamily: slices.ContainsFunc(in.conf.Relay, func(ip netip.Addr) bool { return plain(ip).Is4() }),
		LoggerFactory:       loggers{in.s.opt.Log, in.s.opt.Verbose},
		EventHandler: turn.EventHandler{
			OnAuth: func(_, _ net.Addr, _, _, _, _ string, ok bool) {
				if !ok {
					in.s.stats.denied.Add(1)
				}
			},
			OnAllocationCreated: func(src, dst net.Addr, _, _, _ string, relay net.Addr, _ int) { in.created(src, dst, relay) },
			OnAllocationDeleted: func(src, dst net.Addr, _, _, _ string) { in.s.mark(src, dst, false) },
			OnAllocationError:   func(src, _ net.Addr, _, _ string) { in.s.failed(src) },
		},
	}
	permit := func(_ net.Addr, peer net.IP) bool {
		ip, ok := netip.AddrFromSlice(peer)
		if ok = ok && in.s.permitted(in.conf, ip); !ok {
			in.s.stats.refused.Add(1)
		}
		return ok
	}
	if p != nil {
		c.PacketConnConfigs = []turn.PacketConnConfig{{PacketConn: p, RelayAddressGenerator: generator{in}, PermissionHandler: permit}}
	} else {
		c.ListenerConfigs = []turn.ListenerConfig{{Listener: l, RelayAddressGenerator: generator{in}, PermissionHandler: permit}}
	}
	_, err := turn.NewServer(c) // it ends when p or l says so; its own Close would do no more
	return fault.Wrap(fault.Internal, err, "turnserver: start")
}

func (in *instance) stopped() bool {
	select {
	case <-in.stop:
		return true
	default:
		return false
	}
}

// stale reports whether another instance is to take what comes from now on.
func (in *instance) stale() bool {
	select {
	case <-in.changed:
		return true
	default:
		return in.stopped()
	}
}

// halt ends everything of an instance; in.wg says when it is over.
func (in *instance) halt() {
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	in.over = true
	close(in.stop)
	for c := range in.streams {
		_ = c.fail(nil)
	}
	for _, r := range s.relays {
		if r.in == in {
			_ = r.UDPConn.Close() // its reader tells the library
		}
	}
}

// authenticate verifies a user name and gives the key that goes with it.
func (in *instance) authenticate(a *turn.RequestAttributes) (user string, key []byte, ok bool) {
	until, ok := expiry(a.Username)
	if !ok || a.Realm != in.conf.Realm || len(a.Username) > 128 || !in.s.opt.Now().Before(until) {
		in.s.stats.denied.Add(1)
		return "", nil, false
	}
	return a.Username, turn.GenerateAuthKey(a.Username, a.Realm, password(in.conf.Secret, a.Username)), true
}

// quota decides whether a client may have one more relay, and counts it for its
// address. What becomes of it is told to created or failed.
func (in *instance) quota(user, _ string, src net.Addr) bool {
	s, l := in.s, in.s.limits.Load()
	from := addrOf(src)
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ip := clientKey{src.Network(), from}, address.Network(from.Addr())
	if in.over || s.users[user] >= l.PerUser || len(s.relays) >= l.Allocations || s.sources[ip] >= l.PerAddress {
		s.stats.quota.Add(1)
		return false
	}
	if _, twice := s.pending[k]; !twice {
		s.pending[k] = ip
		s.sources[ip]++
	}
	return true
}

// created ties a relay to the address of its client.
func (in *instance) created(src, dst, addr net.Addr) {
	s, from, at := in.s, addrOf(src), addrOf(addr)
	s.stats.created.Add(1)
	s.mu.Lock()
	k, ip := clientKey{src.Network(), from}, address.Network(from.Addr())
	if _, counted := s.pending[k]; counted {
		delete(s.pending, k)
	} else {
		s.sources[ip]++
	}
	if r := s.relays[relayKey{at.Addr().Is6(), at.Port()}]; r != nil && r.addr == at && !r.client.IsValid() {
		r.client = ip
	} else {
		less(s.sources, ip) // it is over already
	}
	s.mu.Unlock()
	s.mark(src, dst, true)
}

// failed takes back what quota counted. It is called for every request that
// failed.
func (s *Server) failed(src net.Addr) {
	k := clientKey{src.Network(), addrOf(src)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ip, ok := s.pending[k]; ok {
		delete(s.pending, k)
		less(s.sources, ip)
	}
}

// mark notes whether a connection has an allocation.
func (s *Server) mark(src, dst net.Addr, allocated bool) {
	if src.Network() != "tcp" {
		return
	}
	s.mu.Lock()
	c := s.clients[streamKey{addrOf(src), addrOf(dst)}]
	s.mu.Unlock()
	if c != nil {
		c.mark(allocated)
	}
}

func less[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}

// count takes one allocation of user's allowance.
func (s *Server) count(in *instance, user string) error {
	l := s.limits.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.over || s.users[user] >= l.PerUser || len(s.relays) >= l.Allocations {
		return errFull
	}
	s.users[user]++
	return nil
}

func (s *Server) discount(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	less(s.users, user)
}

func (s *Server) relayAt(six bool, port uint16) *relay {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.relays[relayKey{six, port}]
}

func (s *Server) register(r *relay) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := relayKey{r.addr.Addr().Is6(), r.addr.Port()}
	if r.in.over || s.relays[k] != nil {
		return false
	}
	s.relays[k] = r
	r.in.wg.Add(1)
	return true
}

// unregister gives back what a relay took, once.
func (s *Server) unregister(r *relay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	delete(s.relays, relayKey{r.addr.Addr().Is6(), r.addr.Port()})
	less(s.users, r.user)
	if r.client.IsValid() {
		less(s.sources, r.client)
	}
	r.in.wg.Done()
}

// admit counts a connection, or says that it is one too many.
func (s *Server) admit(c *stream) bool {
	l, ip := s.limits.Load(), address.Network(c.key.from.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.nconns >= l.Conns || s.conns[ip] >= l.ConnsPerSource {
		return false
	}
	s.nconns++
	s.conns[ip]++
	s.clients[c.key] = c // one that was there has ended, or its port could not be used again
	return true
}

// dismiss takes back what admit counted.
func (s *Server) dismiss(c *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[c.key] == c {
		delete(s.clients, c.key)
	}
	if !c.dismissed {
		c.dismissed = true
		s.nconns--
		less(s.conns, address.Network(c.key.from.Addr()))
	}
}

// adopt takes a connection into an instance, unless that is over.
func (in *instance) adopt(c *stream) bool {
	in.s.mu.Lock()
	defer in.s.mu.Unlock()
	if in.stale() {
		return false
	}
	in.streams[c] = struct{}{}
	in.wg.Add(1)
	c.gone = func() {
		in.s.dismiss(c)
		in.s.mu.Lock()
		delete(in.streams, c)
		in.s.mu.Unlock()
		in.wg.Done()
	}
	return true
}

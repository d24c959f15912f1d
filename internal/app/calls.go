package app

import (
	"context"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/inlet"
	"madmail/internal/irohrelay"
	"madmail/internal/ops"
	"madmail/internal/settings"
	"madmail/internal/shadowsocks"
	"madmail/internal/tunnel"
	"madmail/internal/turnserver"
	"madmail/internal/website"
)

// calls are the doors that come and go with their settings: TURN, Shadowsocks
// and the relay for realtime channels. A door that is switched off is stopped, with all that goes
// through it.
type calls struct {
	turn        atomic.Pointer[turnDoor]
	shadowsocks atomic.Pointer[shadowsocks.Server]
	realtime    atomic.Pointer[irohrelay.Hub]
	streams     atomic.Pointer[tunnel.Streams] // Shadowsocks inside WebSocket, on a port of its own
	proxy       atomic.Pointer[tunnel.Proxy]
}

type turnDoor struct {
	*turnserver.Server
	tcp, tls *inlet.Listener // for Shadowsocks
}

// plannedCalls is how they should be. nil is off.
type plannedCalls struct {
	keep   bool // all as they are; the rest does not count
	turn   *turnserver.Config
	limits turnserver.Limits
	cipher *[2]string // and password
	ws     bool       // inside WebSocket, too
	proxy  *[2]string // name and password

	realtime *irohrelay.Options
}

// planCalls checks what a configuration and settings say, and changes nothing.
// want is what would listen. Errors are fault.Invalid.
func (a *App) planCalls(conf *config.Config, s *settings.Snapshot, want []config.Listener) (p plannedCalls, err error) {
	on := func(name string) (config.Listener, bool) {
		i := slices.IndexFunc(want, func(l config.Listener) bool { return l.Name == name })
		if i < 0 {
			return config.Listener{}, false
		}
		return want[i], true
	}
	if l, ok := on("turn"); ok {
		p.turn = &turnserver.Config{
			Secret: s.Text(settings.TURNSecret), Realm: s.Text(settings.TURNRealm), AllowPrivate: conf.TURNPrivatePeers,
			PortMin: s.Port(settings.TURNRelayPortMin), PortMax: s.Port(settings.TURNRelayPortMax),
		}
		if p.turn.Realm == "" {
			p.turn.Realm = a.turnHost(conf)
		}
		if p.turn.Relay, err = relayAddrs(s.Text(settings.TURNRelayIP), conf.PublicIP); err != nil {
			return p, err
		}
		if ip, err := netip.ParseAddr(conf.PublicIP); err == nil {
			p.turn.Own = []netip.Addr{ip}
		}
		if err = p.turn.Check(); err != nil {
			return p, fault.WithHint(err, "see the keys turn_... in docs/operate.md")
		}
		if n, _ := strconv.Atoi(portOf(l.Addr)); p.turn.PortMin <= n && n <= p.turn.PortMax {
			return p, fault.WithHint(fault.Newf(fault.Invalid, "turn: port %d lies among its own relay ports", n), "choose turn_relay_port_min and turn_relay_port_max beside it")
		}
	} else if conf.TURNEnable && s.Text(settings.TURNSecret) == "" {
		a.log.Warn("calls are not relayed: turn_secret is not set")
	}
	if _, ok := on("shadowsocks"); ok {
		p.cipher = &[2]string{s.Enum(settings.SSCipher), s.Text(settings.SSPassword)}
		if err = shadowsocks.Check(p.cipher[0], p.cipher[1]); err != nil {
			return p, err
		}
		p.ws = s.Bool(settings.SSWSEnabled)
	} else if s.Text(settings.SSPassword) != "" {
		// Also while the port is closed: it must be possible to open it.
		if err = shadowsocks.Check(s.Enum(settings.SSCipher), s.Text(settings.SSPassword)); err != nil {
			return p, err
		}
	} else if conf.SSAddr != "" {
		a.log.Warn("Shadowsocks is not served: ss_password is not set")
	}
	if s.Bool(settings.HTTPProxyEnabled) {
		cred := [2]string{s.Text(settings.HTTPProxyUsername), s.Text(settings.HTTPProxyPassword)}
		if err := tunnel.Check(cred[0], cred[1]); err == nil {
			p.proxy = &cred
		} else { // the switch may be older than what is behind it
			a.log.Warn("the HTTP proxy is not served", "err", err)
		}
	}
	p.limits = turnserver.Limits{
		PerUser: int(config.Limit(conf.TURNMaxPerUser)), PerAddress: int(config.Limit(conf.TURNMaxPerAddress)),
		Allocations: int(config.Limit(conf.TURNMaxAllocations)), Rate: config.Limit(conf.TURNRate),
	}
	if a.relaysPackets(conf, s) {
		o := realtimeLimits(conf)
		if err := o.Check(); err != nil {
			return p, fault.WithHint(err, "see the keys iroh_... in docs/operate.md")
		}
		p.realtime = &o
	}
	return p, nil
}

// relayAddrs are what callers are told to reach each other at: what was set, else
// where clients find this machine, else its addresses towards the internet.
func relayAddrs(set, public string) ([]netip.Addr, error) {
	for _, text := range []string{set, public} {
		if text != "" {
			ip, err := netip.ParseAddr(text)
			return []netip.Addr{ip}, fault.Wrap(fault.Invalid, err, "turn: relay address")
		}
	}
	var list []netip.Addr
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // nothing is sent
		conn, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		if ap, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
			list = append(list, ap.Addr().Unmap().WithZone(""))
		}
		conn.Close()
	}
	if len(list) == 0 { // no network yet; mail is served all the same
		list = append(list, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	return list, nil
}

// startCalls makes what is planned, and changes what is there.
func (a *App) startCalls(p plannedCalls) {
	if p.keep {
		return
	}
	if p.realtime != nil && a.calls.realtime.Load() == nil {
		a.startRealtime(*p.realtime)
	}
	if p.turn != nil {
		if d := a.calls.turn.Load(); d == nil {
			a.startTURN(*p.turn, p.limits)
		} else if err := d.Configure(*p.turn); err != nil {
			a.log.Error("TURN keeps its old configuration", "err", err) // cannot be: it was checked
		} else {
			d.SetLimits(p.limits)
		}
	}
	if p.cipher != nil {
		if s := a.calls.shadowsocks.Load(); s == nil {
			a.startShadowsocks(p.cipher[0], p.cipher[1])
		} else if err := s.Configure(p.cipher[0], p.cipher[1]); err != nil {
			a.log.Error("Shadowsocks keeps its old password", "err", err) // cannot be: it was checked
		}
	}
	a.startTunnels(p)
}

// startTunnels makes what leads through the ports for the web.
func (a *App) startTunnels(p plannedCalls) {
	if p.ws && a.calls.streams.Load() == nil {
		a.calls.streams.Store(tunnel.NewStreams(shadowsocks.OldPath, a.takeStream, http.HandlerFunc(website.NotFound)))
	}
	if p.proxy == nil {
		return
	}
	x := a.calls.proxy.Load()
	if x != nil {
		if err := x.Configure(p.proxy[0], p.proxy[1]); err != nil {
			a.log.Error("the HTTP proxy keeps its old password", "err", err) // cannot be: it was checked
		}
		return
	}
	x, err := tunnel.New(tunnel.Options{User: p.proxy[0], Password: p.proxy[1], Reach: a.wayTo, Log: a.Log.Logger("proxy")})
	if err != nil {
		a.log.Error("the HTTP proxy is not served", "err", err) // cannot be: it was checked
		return
	}
	a.calls.proxy.Store(x)
}

// stopTunnels ends those that are not planned.
func (a *App) stopTunnels(ctx context.Context, p plannedCalls) {
	if !p.ws {
		if d := a.calls.streams.Swap(nil); d != nil {
			d.Stop()
		}
	}
	if p.proxy == nil {
		if x := a.calls.proxy.Swap(nil); x != nil {
			if err := x.Stop(ctx); err != nil {
				a.log.Warn("the HTTP proxy takes long to stop", "err", err)
			}
		}
	}
}

// takeStream gives a connection inside WebSocket to Shadowsocks.
func (a *App) takeStream(conn net.Conn) {
	if s := a.calls.shadowsocks.Load(); s != nil {
		s.Take(conn)
		return
	}
	conn.Close()
}

// wayTo is the way to a service of ours for the HTTP proxy, or nil.
func (a *App) wayTo(host string, port uint16) tunnel.Dialer {
	if d := a.targets()[port]; d != nil && a.isHere(host) {
		return tunnel.Dialer(d)
	}
	return nil
}

// tunnelDoor takes requests that lead elsewhere than to the site. A wrong guess is not
// among them.
func (a *App) tunnelDoor(r *http.Request) http.Handler {
	if x := a.calls.proxy.Load(); x != nil && r.Method == http.MethodConnect {
		return x.Handler(r)
	}
	if a.calls.streams.Load() == nil || r.TLS == nil || !inlet.IsWebSocket(r.Header) {
		return nil
	}
	path := shadowsocks.Path(a.settings.Current().Text(settings.SSPassword))
	if subtle.ConstantTimeCompare([]byte(r.URL.Path), []byte(path)) != 1 {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !tunnel.Upgrade(w, r, a.takeStream) {
			website.NotFound(w, r)
		}
	})
}

func (a *App) startTURN(c turnserver.Config, l turnserver.Limits) {
	srv, err := turnserver.New(turnserver.Options{Config: c, Limits: l, Verbose: a.opt.Env("CHATMAIL_TURN_DEBUG") == "1", Log: a.Log.Logger("turn")})
	if err != nil {
		a.log.Error("calls are not relayed", "err", err) // cannot be: it was checked
		return
	}
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	d := &turnDoor{Server: srv, tcp: inlet.New(at), tls: inlet.New(at)}
	a.calls.turn.Store(d)
	a.group.Go("serve turn inside", func() { _ = d.Serve(d.tcp, nil) }) // until it is closed
	a.group.Go("serve turn_tls inside", func() { _ = d.Serve(d.tls, a.certs.TLSConfig()) })
}

func (a *App) startShadowsocks(cipher, password string) {
	s, err := shadowsocks.New(shadowsocks.Options{Cipher: cipher, Password: password, Local: a.isHere, Log: a.Log.Logger("shadowsocks")})
	if err != nil {
		a.log.Error("Shadowsocks is not served", "err", err) // cannot be: it was checked
		return
	}
	a.calls.shadowsocks.Store(s)
}

// settleCalls ends what is not planned, once its sockets are closed, and tells
// Shadowsocks what it may reach.
func (a *App) settleCalls(p plannedCalls) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if !p.keep {
		a.stopTunnels(ctx, p)
	}
	if p.realtime == nil && !p.keep {
		a.stopRealtime(ctx)
	}
	if p.turn == nil && !p.keep {
		a.stopTURN(ctx)
	}
	if p.cipher == nil && !p.keep {
		a.stopShadowsocks(ctx)
	}
	if s := a.calls.shadowsocks.Load(); s != nil {
		s.SetTargets(a.targets())
	}
}

func (a *App) stopTURN(ctx context.Context) {
	if d := a.calls.turn.Swap(nil); d != nil {
		if err := d.Stop(ctx); err != nil {
			a.log.Warn("TURN takes long to stop", "err", err)
		}
	}
}

func (a *App) stopShadowsocks(ctx context.Context) {
	if s := a.calls.shadowsocks.Swap(nil); s != nil {
		if err := s.Stop(ctx); err != nil {
			a.log.Warn("Shadowsocks takes long to stop", "err", err)
		}
	}
}

// stopCalls ends them all.
func (a *App) stopCalls(ctx context.Context) error {
	a.stopTunnels(ctx, plannedCalls{})
	a.stopRealtime(ctx)
	a.stopTURN(ctx)
	a.stopShadowsocks(ctx)
	return ctx.Err()
}

// serveCalls serves a socket of theirs. It closes one that came too late.
func (a *App) serveCalls(b Bound) error {
	if b.Name == "shadowsocks" {
		if s := a.calls.shadowsocks.Load(); s != nil {
			return s.Serve(b.l)
		}
		return b.l.Close()
	}
	d := a.calls.turn.Load()
	if d == nil {
		return b.l.Close()
	}
	switch l := b.l.(type) {
	case *packetSocket:
		return d.ServePacket(l.PacketConn)
	default:
		if b.Name == "turn_tls" {
			return d.Serve(l, a.certs.TLSConfig())
		}
		return d.Serve(l, nil)
	}
}

// usualPorts are where clients look for a service that is bound elsewhere,
// because something in front of this machine translates.
var usualPorts = map[uint16]string{
	25: "smtp", 587: "submission", 465: "submission_tls", 143: "imap", 993: "imap_tls", 80: "http", 443: "http_tls", 3478: "turn_tcp", 5349: "turn_tls",
}

// targets are the services that Shadowsocks reaches, by the port that clients
// ask for: those that listen, also on loopback only.
func (a *App) targets() map[uint16]shadowsocks.Dialer {
	allowed, err := config.ParsePorts(a.conf.Load().SSAllowedPorts)
	if err != nil {
		return nil // cannot be: the file was checked
	}
	t := make(map[uint16]shadowsocks.Dialer)
	add := func(port uint16, name string) {
		if len(allowed) > 0 && !slices.Contains(allowed, int(port)) || t[port] != nil {
			return
		}
		if l := a.inside(name); l != nil {
			t[port] = l.Dial
		}
	}
	open := make(map[string]bool)
	for _, b := range a.Listeners() {
		if port := a.port(b.Name); b.Net == "tcp" && port > 0 {
			open[b.Name] = true
			add(uint16(port), b.Name)
		}
	}
	for port, name := range usualPorts {
		if open[name] {
			add(port, name)
		}
	}
	return t
}

// inside is the way into a door without a socket, or nil.
func (a *App) inside(name string) *inlet.Listener {
	if d := a.calls.turn.Load(); d != nil {
		switch name {
		case "turn_tcp":
			return d.tcp
		case "turn_tls":
			return d.tls
		}
	}
	return a.doors.inlets[name]
}

// isHere reports whether a host that a proxied client asks for is this server.
// Of addresses that cannot be known: something in front may translate them. A
// name that is another server's must not end here.
func (a *App) isHere(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return true
	}
	conf := a.conf.Load()
	names := []string{a.hostname(), conf.MXDomain, conf.WebDomain, conf.TURNServer, a.clientHost()}
	for _, d := range a.domains.Local() {
		names = append(names, d.Host())
	}
	for _, n := range names {
		if n = strings.ToLower(strings.Trim(n, "[]")); n != "" && (host == n || strings.HasSuffix(host, "."+n)) {
			return true
		}
	}
	return false
}

// turnHost is where clients find TURN.
func (a *App) turnHost(conf *config.Config) string {
	for _, h := range []string{conf.TURNServer, conf.PublicIP, a.hostname()} {
		if h = strings.Trim(h, "[]"); h != "" && !strings.Contains(h, ":") { // clients cannot read IPv6 there
			return h
		}
	}
	return a.hostname()
}

// turnEntry is what IMAP tells a user about TURN: "turn", "turns" or
// "turn-test-relay-only". It is "" while there is nothing to tell.
func (a *App) turnEntry(kind, user string) string {
	conf, s := a.conf.Load(), a.settings.Current()
	d := a.calls.turn.Load()
	if d == nil || !s.Bool(settings.TURNEnabled) {
		return ""
	}
	port := a.port("turn")
	switch kind {
	case "turn-test-relay-only":
		if conf.TURNTestForceRelay || a.opt.Env("CHATMAIL_TURN_TEST_FORCE_RELAY") == "1" {
			return "1"
		}
		return ""
	case "turns":
		port = a.port("turn_tls")
	default:
		if port != 0 && s.Source(settings.TURNPort) != settings.FromDefault {
			port = s.Port(settings.TURNPort) // something in front may translate
		}
	}
	if port == 0 {
		return ""
	}
	return d.Credentials(user, s.Duration(settings.TURNTTL)).Value(a.turnHost(conf), port)
}

// countCalls adds them to the status.
func (a *App) countCalls(st *ops.Status) {
	a.countRealtime(st)
	if d := a.calls.turn.Load(); d != nil {
		t := d.Stats()
		st.Services = append(st.Services, ops.Service{Name: "TURN", Connections: t.Allocations})
		for name, n := range map[string]int64{
			"turn_allocations": int64(t.Allocations), "turn_connections": int64(t.Connections), "turn_created": t.Created, "turn_over_quota": t.OverQuota,
			"turn_denied": t.Denied, "turn_refused_peers": t.RefusedPeers, "turn_dropped": t.Dropped, "turn_bytes_to_peers": t.ToPeers, "turn_bytes_from_peers": t.FromPeers,
		} {
			st.Counters[name] = n
		}
	}
	if s := a.calls.shadowsocks.Load(); s != nil {
		t, unique := s.Stats(), make(map[netip.Addr]bool)
		s.Remotes(func(ip netip.Addr) { unique[ip] = true })
		st.Services = append(st.Services, ops.Service{Name: "Shadowsocks", Connections: t.Connections, UniqueIPs: len(unique)})
		st.Counters["shadowsocks_relayed"], st.Counters["shadowsocks_probes"] = t.Relayed, t.Probes
	}
	if x := a.calls.proxy.Load(); x != nil {
		t, unique := x.Stats(), make(map[netip.Addr]bool)
		x.Remotes(func(ip netip.Addr) { unique[ip] = true })
		st.Services = append(st.Services, ops.Service{Name: "HTTP proxy", Connections: t.Connections, UniqueIPs: len(unique)})
		st.Counters["http_proxy_relayed"], st.Counters["http_proxy_refused"] = t.Relayed, t.Refused
	}
}

// proxyFacts tells operators of Shadowsocks.
func (a *App) proxyFacts() ops.ProxyFacts {
	conf, s := a.conf.Load(), a.settings.Current()
	f := ops.ProxyFacts{Addr: conf.SSAddr != "", Port: s.Port(settings.SSPort)}
	if n, err := strconv.Atoi(portOf(config.Address(conf.SSAddr))); err == nil && s.Source(settings.SSPort) != settings.FromStore {
		f.Port = n
	}
	password := s.Text(settings.SSPassword)
	if !f.Addr || password == "" {
		return f
	}
	cipher, host := s.Enum(settings.SSCipher), a.proxyHost()
	f.Link = shadowsocks.Link(cipher, password, host, f.Port)
	if s.Bool(settings.SSWSEnabled) {
		port := f.Port + 2
		if s.Source(settings.SSWSPort) == settings.FromStore {
			port = s.Port(settings.SSWSPort)
		}
		f.WSLink = shadowsocks.WebSocketLink(cipher, password, host, port, shadowsocks.OldPath, false)
		if n := a.port("http_tls"); n != 0 {
			f.HTTPSLink = shadowsocks.WebSocketLink(cipher, password, a.clientHost(), n, shadowsocks.Path(password), true)
		}
	}
	return f
}

// proxyHost is the host in the link to Shadowsocks.
func (a *App) proxyHost() string {
	if h, _, err := net.SplitHostPort(config.Address(a.conf.Load().SSAddr)); err == nil {
		if ip, err := netip.ParseAddr(h); h != "" && (err != nil || !ip.IsUnspecified()) {
			return h
		}
	}
	return a.clientHost()
}

package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/imapserver"
	"madmail/internal/inlet"
	"madmail/internal/settings"
	"madmail/internal/smtpserver"
)

// Bound is a listener that accepts.
type Bound struct {
	config.Listener
	l net.Listener
}

// doors are the sockets that are open.
type doors struct {
	mu    sync.Mutex // guards the field below
	bound []Bound

	// Made before anything listens, not changed afterwards.
	inlets   map[string]*inlet.Listener // ways into the doors without a socket, by listener
	splitter *inlet.Splitter            // of http_tls
}

// packetSocket lets a UDP socket stand among the listeners.
type packetSocket struct{ net.PacketConn }

// Accept returns net.ErrClosed: nobody connects over UDP.
func (*packetSocket) Accept() (net.Conn, error) { return nil, net.ErrClosed }

// Addr returns where the socket is bound.
func (p *packetSocket) Addr() net.Addr { return p.LocalAddr() }

func open(w config.Listener) (net.Listener, error) {
	if port, ok := strings.CutPrefix(w.Addr, "[::]:"); ok {
		w.Addr = ":" + port // the same, but IPv4 alone where the system has no IPv6
	}
	if w.Net == "udp" {
		pc, err := net.ListenPacket("udp", w.Addr)
		if err != nil {
			return nil, err
		}
		if conn, ok := pc.(*net.UDPConn); ok {
			pc = inlet.Answering(conn)
		}
		return &packetSocket{pc}, nil
	}
	return net.Listen("tcp", w.Addr)
}

// Listeners returns what listens now.
func (a *App) Listeners() []Bound {
	a.doors.mu.Lock()
	defer a.doors.mu.Unlock()
	return slices.Clone(a.doors.bound)
}

// The settings that bear on a listener, by its name.
var (
	portKeys = map[string]settings.Key{
		"smtp": settings.SMTPPort, "submission": settings.SubmissionPort, "submission_tls": settings.SubmissionTLSPort,
		"imap": settings.IMAPPort, "imap_tls": settings.IMAPTLSPort, "http": settings.HTTPPort, "http_tls": settings.HTTPSPort,
		"turn": settings.TURNPort, "turn_tcp": settings.TURNPort, "shadowsocks": settings.SSPort,
		"iroh": settings.IrohPort, "stun": settings.TURNPort, "shadowsocks_ws": settings.SSWSPort, "http_proxy": settings.HTTPProxyPort,
	}
	localKeys = map[string]settings.Key{
		"smtp": settings.SMTPLocalOnly, "submission": settings.SubmissionLocalOnly, "submission_tls": settings.SubmissionTLSLocalOnly,
		"imap": settings.IMAPLocalOnly, "imap_tls": settings.IMAPTLSLocalOnly, "http": settings.HTTPLocalOnly, "http_tls": settings.HTTPSLocalOnly,
		"turn": settings.TURNLocalOnly, "turn_tcp": settings.TURNLocalOnly, "turn_tls": settings.TURNLocalOnly,
		"iroh": settings.IrohLocalOnly, "stun": settings.IrohLocalOnly,
	}
	onKeys = map[string]settings.Key{
		"http": settings.HTTPEnabled, "http_tls": settings.HTTPSEnabled, "turn": settings.TURNEnabled, "shadowsocks": settings.SSEnabled,
		"shadowsocks_ws": settings.SSWSEnabled, "http_proxy": settings.HTTPProxyEnabled,
	}
	// secretKeys are without a default: the service is off until somebody sets one.
	secretKeys = map[string]settings.Key{"turn": settings.TURNSecret, "shadowsocks": settings.SSPassword, "http_proxy": settings.HTTPProxyPassword}
)

// wanted is what should listen under a configuration and settings.
func (a *App) wanted(conf *config.Config, s *settings.Snapshot) []config.Listener {
	return conf.Listeners(config.Ports{
		Port: func(n string) int {
			if k, ok := portKeys[n]; ok && s.Source(k) == settings.FromStore {
				return s.Port(k)
			}
			if n == "shadowsocks_ws" && s.Source(settings.SSPort) == settings.FromStore {
				return s.Port(settings.SSWSPort) // it follows
			}
			if n == "iroh" && s.Source(settings.IrohRelayURL) == settings.FromStore {
				if n := config.PortOfURL(s.Text(settings.IrohRelayURL)); n != 0 {
					return n
				}
				return config.IrohPort
			}
			return 0
		},
		Local: func(n string) bool { k, ok := localKeys[n]; return ok && s.Bool(k) },
		Off: func(n string) bool {
			if n == "iroh" {
				return !a.relaysPackets(conf, s)
			}
			if k, ok := secretKeys[n]; ok && s.Text(k) == "" {
				return true
			}
			k, ok := onKeys[n]
			return ok && !s.Bool(k)
		},
		Env: a.opt.Env,
	})
}

// bind opens all sockets, or none: then the error lists every one that failed.
func (a *App) bind(context.Context) error {
	a.onEnd("listeners", func(ctx context.Context) error {
		a.doors.mu.Lock()
		for _, b := range a.doors.bound {
			b.l.Close()
		}
		a.doors.bound = nil
		a.doors.mu.Unlock()
		for _, l := range a.doors.inlets {
			l.Close()
		}
		return errors.Join(a.doors.splitter.Stop(ctx), a.stopCalls(ctx), a.group.Wait(ctx))
	})
	a.openInlets()
	conf, s := a.conf.Load(), a.settings.Current()
	want := a.wanted(conf, s)
	calls, err := a.planCalls(conf, s, want)
	if err != nil {
		return err
	}
	c, err := a.prepare(want)
	if err != nil {
		return err
	}
	a.commit(c, calls)
	return nil
}

// openInlets lets connections come to the doors of mail and web without a
// socket of their own.
func (a *App) openInlets() {
	a.doors.inlets = make(map[string]*inlet.Listener)
	for _, name := range []string{"smtp", "submission", "submission_tls", "imap", "imap_tls", "http", "http_tls"} {
		a.doors.inlets[name] = inlet.New(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	}
	a.doors.splitter = inlet.NewSplitter(a.doors.inlets["http_tls"], a.byProtocol)
	for name, l := range a.doors.inlets { // they read the map: it is complete
		a.accept(Bound{config.Listener{Name: name, Net: "tcp", TLS: name == "http_tls"}, l})
	}
}

// byProtocol finds the door for clients that ask for mail on the port of HTTPS.
func (a *App) byProtocol(protocol string) *inlet.Listener {
	s := a.settings.Current()
	var name string
	switch {
	case protocol == "imap" && s.Bool(settings.SharedPortIMAP):
		name = "imap_tls"
	case (protocol == "smtp" || protocol == "submission") && s.Bool(settings.SharedPortSMTP):
		name = "submission_tls"
	}
	if name == "" || s.Bool(localKeys[name]) {
		return nil
	}
	return a.doors.inlets[name]
}

// commit lets prepared sockets serve. What serves them is there before them, and
// goes after them.
func (a *App) commit(r *rebinding, calls plannedCalls) {
	a.startCalls(calls)
	r.commit()
	a.settleCalls(calls)
	a.imap.MetadataChanged()
}

// rebinding is a prepared change of what listens. Nothing accepts on the new
// sockets before commit.
type rebinding struct {
	a                  *App
	keep, open, closes []Bound
	closed             int // of closes, from the front: these had to make room
}

// difference says which listeners stay, which have to be opened, and which
// close. A listener is the same when its name and address are.
func difference(now []Bound, want []config.Listener) (keep []Bound, open []config.Listener, closes []Bound) {
	for _, w := range want {
		i := slices.IndexFunc(now, func(b Bound) bool { return b.Name == w.Name && b.Addr == w.Addr })
		if i < 0 {
			open = append(open, w)
			continue
		}
		b := now[i]
		b.Source = w.Source
		keep = append(keep, b)
	}
	for _, b := range now {
		if !slices.ContainsFunc(keep, func(k Bound) bool { return k.l == b.l }) {
			closes = append(closes, b)
		}
	}
	return keep, open, closes
}

// prepare opens what is missing. Old sockets stay open, except those that are
// in the way: the same port on another address. When one cannot be opened the
// error lists all, and everything is as it was.
func (a *App) prepare(want []config.Listener) (*rebinding, error) {
	r := &rebinding{a: a}
	var missing []config.Listener
	r.keep, missing, r.closes = difference(a.Listeners(), want)
	inTheWay := func(b Bound) bool {
		return slices.ContainsFunc(missing, func(w config.Listener) bool { return w.Net == b.Net && portOf(w.Addr) == portOf(b.Addr) })
	}
	slices.SortStableFunc(r.closes, func(x, y Bound) int {
		switch ix, iy := inTheWay(x), inTheWay(y); {
		case ix && !iy:
			return -1
		case iy && !ix:
			return 1
		}
		return 0
	})
	for _, b := range r.closes {
		if !inTheWay(b) {
			break
		}
		b.l.Close()
		r.closed++
	}
	var errs []error
	for _, w := range missing {
		l, err := open(w)
		if err != nil && w.Name == "stun" {
			// Somebody else may answer there. Clients get on without, slowly.
			a.log.Warn("realtime apps connect slowly: the port of STUN is not free", "port", portOf(w.Addr), "err", err)
			continue
		}
		if err != nil {
			errs = append(errs, bindError(w, append(slices.Clone(r.keep), r.open...), err))
			continue
		}
		r.open = append(r.open, Bound{w, l})
	}
	if len(errs) > 0 {
		return nil, errors.Join(append(errs, r.rollback())...)
	}
	return r, nil
}

// rollback makes everything as it was.
func (r *rebinding) rollback() error {
	for _, b := range r.open {
		b.l.Close()
	}
	var errs []error
	for i := range r.closed {
		b := &r.closes[i]
		l, err := open(b.Listener)
		if err != nil {
			errs = append(errs, fault.Wrap(fault.Internal, err, b.Name+" had to make room and cannot come back"))
			continue
		}
		old := b.l
		b.l = l
		r.a.doors.mu.Lock()
		for j := range r.a.doors.bound {
			if r.a.doors.bound[j].l == old {
				r.a.doors.bound[j].l = l
			}
		}
		r.a.doors.mu.Unlock()
		r.a.accept(*b)
	}
	return errors.Join(errs...)
}

// commit lets the new sockets accept and closes the old ones. Sessions stay
// until they end.
func (r *rebinding) commit() {
	r.a.doors.mu.Lock()
	r.a.doors.bound = append(slices.Clone(r.keep), r.open...)
	r.a.doors.mu.Unlock()
	for _, b := range r.open {
		r.a.accept(b)
	}
	for _, b := range r.closes[r.closed:] {
		b.l.Close()
	}
}

// sessionsStay reports whether commit touched a service whose sessions outlive
// its socket.
func (r *rebinding) sessionsStay() bool {
	return slices.ContainsFunc(append(slices.Clone(r.open), r.closes...), func(b Bound) bool { _, ok := r.a.doors.inlets[b.Name]; return ok })
}

// changes says what commit did, for the operator.
func (r *rebinding) changes() (list []string) {
	for _, b := range r.open {
		list = append(list, b.Name+" listens on "+b.l.Addr().String())
	}
	for _, b := range r.closes {
		named := func(o Bound) bool { return o.Name == b.Name }
		switch {
		case slices.ContainsFunc(r.open, named):
		case slices.ContainsFunc(r.keep, named):
			list = append(list, b.Name+" does not listen on "+b.l.Addr().String()+" any more")
		default:
			list = append(list, b.Name+" is closed")
		}
	}
	return list
}

func (a *App) accept(b Bound) {
	a.group.Go("serve "+b.Name, func() {
		l := b.l
		if trusted := a.proxies(b.Name); len(trusted) > 0 {
			if _, inside := l.(*inlet.Listener); !inside {
				p := inlet.NewProxied(l, trusted)
				defer p.Close()
				b.l = p
			}
		}
		if err := a.serve(b); err != nil {
			a.log.Error("a listener ended", "listener", b.Name, "err", err)
		}
	})
}

// proxies are the networks whose word on whom they speak for is taken.
func (a *App) proxies(name string) []netip.Prefix {
	if _, ok := a.doors.inlets[name]; !ok {
		return nil // not a door of mail or web
	}
	list, err := config.ParseNetworks(a.conf.Load().ProxyProtocol)
	if err != nil {
		return nil // cannot be: the file was checked
	}
	return list
}

func (a *App) serve(b Bound) error {
	switch b.Name {
	case "smtp":
		return a.smtp.Serve(b.l, smtpserver.MX)
	case "submission":
		return a.smtp.Serve(b.l, smtpserver.Submission)
	case "submission_tls":
		return a.smtp.Serve(b.l, smtpserver.SubmissionTLS)
	case "imap":
		return a.imap.Serve(b.l, imapserver.STARTTLS)
	case "imap_tls":
		return a.imap.Serve(b.l, imapserver.TLS)
	case "turn", "turn_tcp", "turn_tls", "shadowsocks":
		return a.serveCalls(b)
	case "shadowsocks_ws":
		if d := a.calls.streams.Load(); d != nil {
			return d.Serve(inlet.Limit(b.l, webConns, webConnsPerSource))
		}
		return b.l.Close()
	case "iroh", "stun":
		return a.serveRealtime(b)
	case "openmetrics":
		return a.serveMetrics(b.l)
	case "http_tls":
		if b.l != net.Listener(a.doors.inlets["http_tls"]) {
			return a.doors.splitter.Serve(b.l)
		}
	}
	return a.web.Serve(inlet.Limit(b.l, webConns, webConnsPerSource), b.TLS)
}

// Connections to the site and to the relay for realtime apps that may be open on one
// port: who only opens them is closed after seconds, and must not take the memory
// until then. Realtime apps of one address are fewer by a limit of their own.
const (
	webConns          = 16384
	webConnsPerSource = 512
)

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// bindError says why a socket cannot be opened. A port that is taken may be
// free in a moment, anything else has to be changed first: exit codes differ.
// ours are the other sockets of this server.
func bindError(w config.Listener, ours []Bound, err error) error {
	port := portOf(w.Addr)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fault.WithHint(fault.Wrap(fault.Invalid, err, w.Name),
			fmt.Sprintf("port %s needs a privilege: run make dev-bind-cap, or set %s_listen to a port above 1023", port, w.Name))
	case errors.Is(err, syscall.EADDRINUSE):
		for _, b := range ours {
			if b.Net == w.Net && portOf(b.Addr) == port {
				return fault.WithHint(fault.Wrap(fault.Invalid, err, w.Name), fmt.Sprintf("%s of this server has port %s already", b.Name, port))
			}
		}
		if who := holder(w.Net, port); who != "" {
			return fault.WithHint(fault.Wrap(fault.Busy, err, w.Name), fmt.Sprintf("%s holds port %s", who, port))
		}
		return fault.WithHint(fault.Wrap(fault.Busy, err, w.Name), fmt.Sprintf("another program holds port %s; ss -%slnp names it", port, w.Net[:1]))
	}
	return fault.Wrap(fault.Invalid, err, w.Name)
}

// port returns the port that a listener is bound to, or 0. Without a server it is the
// one that the next will bind.
func (a *App) port(name string) int {
	if a.opt.Offline || a.opt.Once {
		for _, w := range a.wanted(a.conf.Load(), a.settings.Current()) {
			if n, err := strconv.Atoi(portOf(w.Addr)); err == nil && w.Name == name {
				return n
			}
		}
		return 0
	}
	for _, b := range a.Listeners() {
		if b.Name == name {
			if ap, err := netip.ParseAddrPort(b.l.Addr().String()); err == nil {
				return int(ap.Port())
			}
		}
	}
	return 0
}

package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/imapserver"
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
	}
	localKeys = map[string]settings.Key{
		"smtp": settings.SMTPLocalOnly, "submission": settings.SubmissionLocalOnly, "submission_tls": settings.SubmissionTLSLocalOnly,
		"imap": settings.IMAPLocalOnly, "imap_tls": settings.IMAPTLSLocalOnly, "http": settings.HTTPLocalOnly, "http_tls": settings.HTTPSLocalOnly,
	}
	onKeys = map[string]settings.Key{"http": settings.HTTPEnabled, "http_tls": settings.HTTPSEnabled}
)

// wanted is what should listen under a configuration and settings.
func (a *App) wanted(conf *config.Config, s *settings.Snapshot) []config.Listener {
	return conf.Listeners(config.Ports{
		Port: func(n string) int {
			if k := portKeys[n]; s.Source(k) == settings.FromStore {
				return s.Port(k)
			}
			return 0
		},
		Local: func(n string) bool { return s.Bool(localKeys[n]) },
		Off:   func(n string) bool { k, ok := onKeys[n]; return ok && !s.Bool(k) },
		Env:   a.opt.Env,
	})
}

// bind opens all sockets, or none: then the error lists every one that failed.
func (a *App) bind(context.Context) error {
	a.onStop(func(ctx context.Context) error {
		a.doors.mu.Lock()
		for _, b := range a.doors.bound {
			b.l.Close()
		}
		a.doors.bound = nil
		a.doors.mu.Unlock()
		return a.group.Wait(ctx)
	})
	c, err := a.prepare(a.wanted(a.conf.Load(), a.settings.Current()))
	if err != nil {
		return err
	}
	c.commit()
	return nil
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
	var open []config.Listener
	r.keep, open, r.closes = difference(a.Listeners(), want)
	inTheWay := func(b Bound) bool {
		return slices.ContainsFunc(open, func(w config.Listener) bool { return portOf(w.Addr) == portOf(b.Addr) })
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
	for _, w := range open {
		l, err := net.Listen("tcp", w.Addr)
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
		l, err := net.Listen("tcp", b.Addr)
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

// changes says what commit did, for the operator.
func (r *rebinding) changes() (list []string) {
	for _, b := range r.open {
		list = append(list, b.Name+" listens on "+b.l.Addr().String())
	}
	for _, b := range r.closes {
		if !slices.ContainsFunc(r.open, func(o Bound) bool { return o.Name == b.Name }) {
			list = append(list, b.Name+" is closed")
		}
	}
	return list
}

func (a *App) accept(b Bound) {
	a.group.Go("serve "+b.Name, func() {
		if err := a.serve(b); err != nil {
			a.log.Error("a listener ended", "listener", b.Name, "err", err)
		}
	})
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
	}
	return a.web.Serve(b.l, b.TLS)
}

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
			if portOf(b.Addr) == port {
				return fault.WithHint(fault.Wrap(fault.Invalid, err, w.Name), fmt.Sprintf("%s of this server has port %s already", b.Name, port))
			}
		}
		return fault.WithHint(fault.Wrap(fault.Busy, err, w.Name), fmt.Sprintf("another program holds port %s; ss -tlnp names it", port))
	}
	return fault.Wrap(fault.Invalid, err, w.Name)
}

// port returns the port that a listener is bound to, or 0.
func (a *App) port(name string) int {
	for _, b := range a.Listeners() {
		if b.Name == name {
			if ap, err := netip.ParseAddrPort(b.l.Addr().String()); err == nil {
				return int(ap.Port())
			}
		}
	}
	return 0
}

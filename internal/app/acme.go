package app

import (
	"cmp"
	"context"
	"strings"
	"time"

	"madmail/internal/certs"
	"madmail/internal/doctor"
	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/upkeep"
)

// renewEvery is how often a server looks whether a certificate is to be ordered.
const renewEvery = 10 * time.Minute

// order is the certificate that the configuration asks for.
func (a *App) order() (certs.Order, error) {
	conf, files := a.conf.Load(), a.certFiles(a.conf.Load())
	names := certs.Identifiers(append([]string{a.clientNamed(), string(a.domains.Registration()), conf.MXDomain}, strings.Fields(conf.ACMENames)...)...)
	o := certs.Order{
		Directory: authority(conf.ACMEDirectory), RootCA: conf.ACMERootCA, Email: conf.ACMEEmail,
		Names: names, Cert: files.Cert, Key: files.Key, HTTP: cmp.Or(conf.ACMEHTTPListen, certs.ChallengeAddr),
	}
	if conf.TLSMode == "acme" {
		var err error
		o.Zone, err = certs.OpenZone(certs.ZoneOptions{Provider: conf.ACMEDNSProvider, Server: conf.ACMEDNSServer, Token: conf.ACMEDNSToken})
		return o, err
	}
	a.answers(&o)
	return o, nil
}

// clientNamed is the name of this machine as far as somebody gave it one.
func (a *App) clientNamed() string {
	if a.conf.Load().Hostname == "" && a.hostname() == systemName() {
		return ""
	}
	return a.hostname()
}

// authority is the directory that a word or a URL means.
func authority(s string) string {
	if s == "staging" {
		return certs.Staging
	}
	return s
}

// answers lets the listeners of this server answer challenges, where authorities ask.
func (a *App) answers(o *certs.Order) {
	port := portOf(o.HTTP)
	for _, b := range a.Listeners() {
		switch {
		case b.Name == "http" && portOf(b.l.Addr().String()) == port:
			o.HTTP = ""
		case b.Name == "http_tls":
			o.TLS = true
		}
	}
}

// obtainCertificate is the operator's order.
func (a *App) obtainCertificate(ctx context.Context, p ops.CertificateOrder) (ops.CertificateMade, error) {
	conf := a.conf.Load()
	if !conf.Orders() {
		return ops.CertificateMade{}, fault.WithHint(fault.Newf(fault.Refused, "tls_mode is %q: this server orders no certificates", a.certificateFacts().Mode), `"madmail certificate autocert enable" lets it`)
	}
	o, err := a.order()
	if err != nil {
		return ops.CertificateMade{}, err
	}
	if p.Domain != "" {
		if o.Names = certs.Identifiers(p.Domain); len(o.Names) == 0 {
			return ops.CertificateMade{}, fault.WithHint(fault.Newf(fault.Invalid, "%.200q is no name that an authority can vouch for", p.Domain), "write a domain with a dot, or an IP address")
		}
	}
	o.Email, o.Force = cmp.Or(p.Email, o.Email), p.Force
	if p.Staging {
		o.Directory = certs.Staging
	}
	if p.HTTPListen != "" && o.Zone == nil {
		o.HTTP = p.HTTPListen
		a.answers(&o)
	}
	r := ops.CertificateMade{CertPath: o.Cert, Names: o.Names}
	if len(o.Names) > 0 {
		r.Domain = o.Names[0]
	}
	r.Action, err = a.acme.Obtain(ctx, o)
	if err != nil {
		return ops.CertificateMade{}, err
	}
	return r, a.obtained(r.Action)
}

// obtained lets the server take a new certificate. No listener notices.
func (a *App) obtained(action string) error {
	if action == certs.Skipped {
		return nil
	}
	a.log.Info("there is a new certificate", "action", action)
	return a.certificateChanged()
}

// renewCertificate is the job: it orders what is due, unless a failure is too fresh.
func (a *App) renewCertificate(ctx context.Context) error {
	if !a.conf.Load().Orders() {
		return nil
	}
	o, err := a.order()
	if err != nil {
		return err
	}
	action, err := a.acme.Renew(ctx, o)
	if err != nil {
		return nil // it was said, and is tried again
	}
	return a.obtained(action)
}

// startRenewal orders what is missing as soon as challenges can be answered, beside
// the start.
func (a *App) startRenewal(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	a.onEnd("certificate", func(context.Context) error { cancel(); return nil })
	a.group.Go("certificate", func() {
		if err := a.jobs.RunNow(ctx, renewTask); err != nil && ctx.Err() == nil {
			a.log.Warn("job failed", "job", renewTask, "err", err)
		}
	})
	return nil
}

const renewTask = "renew-certificate"

// renewal is the task for operators.
func (a *App) renewal() upkeep.Task {
	return upkeep.Task{
		Name: renewTask, Aliases: []string{"certificate-renew", "renew-cert"}, Doc: "Order a certificate when the one there is runs out, or is our own", Every: renewEvery,
		On: func() (bool, string) {
			if a.conf.Load().Orders() {
				return true, ""
			}
			return false, "tls_mode is neither autocert nor acme"
		},
		Run: func(ctx context.Context, _ time.Duration) (int, error) {
			r, err := a.obtainCertificate(ctx, ops.CertificateOrder{})
			if err != nil || r.Action == certs.Skipped {
				return 0, err
			}
			return 1, nil
		},
		Job: a.renewCertificate,
	}
}

// renewalFacts tell how the orders go.
func (a *App) renewalFacts() ops.RenewalFacts {
	conf, r := a.conf.Load(), a.acme.Renewal()
	f := ops.RenewalFacts{Orders: conf.Orders(), Email: conf.ACMEEmail, Authority: cmp.Or(authority(conf.ACMEDirectory), certs.LetsEncrypt), Failures: r.Failures, Error: r.Error}
	if !r.NextTry.IsZero() {
		f.LastTry, f.NextTry = r.LastTry, r.NextTry
	}
	return f
}

// renewalForDoctor tells how the orders go and whether challenges are answered here.
func (a *App) renewalForDoctor(ctx context.Context) doctor.Renewal {
	conf, r := a.conf.Load(), a.acme.Renewal()
	d := doctor.Renewal{On: conf.Orders(), Failures: r.Failures, NextTry: r.NextTry, Error: r.Error}
	if conf.TLSMode != "autocert" {
		return d
	}
	o, err := a.order()
	if err == nil && !a.opt.Offline {
		at := ""
		if o.HTTP == "" {
			at = a.reachable("http", a.port("http"))
		}
		err = a.acme.Rehearse(ctx, o, at)
	}
	d.Door = err
	return d
}

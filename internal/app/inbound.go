package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/authres"
	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/delivery"
	"madmail/internal/dkim"
	"madmail/internal/fault"
	"madmail/internal/irohrelay"
	"madmail/internal/message"
	"madmail/internal/mxdeliv"
	"madmail/internal/ops"
	"madmail/internal/policy"
	"madmail/internal/queue"
	"madmail/internal/resolve"
	"madmail/internal/settings"
	"madmail/internal/upkeep"
	"madmail/internal/verdict"
	"madmail/internal/webimap"
	"madmail/internal/website"
)

// How long a message waits for the DNS before its origin counts as unknown: where
// nothing depends on it, not long.
const (
	proofWait       = 30 * time.Second
	recordingWait   = 3 * time.Second
	maxBounceHeader = 64 << 10
)

// origins examines mail of other servers.
type origins struct{ a *App }

// Takes implements delivery.Origins.
func (o origins) Takes(from address.Domain) error {
	if !o.a.fed.policy.Inbound(from) {
		return unwanted{fault.New(fault.Refused, "Federation policy rejection")}
	}
	return nil
}

// unwanted refuses a sender's domain: that is about the whole message, also where a
// recipient is the first chance to say it.
type unwanted struct{ error }

func (u unwanted) Unwrap() error { return u.error }

// SMTPReply is what the SMTP door answers.
func (u unwanted) SMTPReply() (code int, enhanced, text string) {
	return 554, "5.7.1", fault.UserText(u.error)
}

// Prove implements delivery.Origins.
func (o origins) Prove(ctx context.Context, m delivery.Foreign) (delivery.Proof, error) {
	a := o.a
	name, literal := authres.Domain(m.From)
	domain, err := address.ParseDomain(name)
	if err == nil && !m.Report {
		if err := o.Takes(domain); err != nil {
			return delivery.Proof{}, err
		}
	}
	rule, err := authres.ParsePolicy(a.settings.Current().Enum(settings.RequireDKIM))
	if err != nil {
		return delivery.Proof{}, err
	}
	in := authres.Input{From: m.From, Envelope: m.Envelope.Wire(), Policy: rule, OurDomain: !literal && a.domains.IsLocal(domain)}
	checks := a.checks()
	byMail := m.Client.Addr.IsValid() && checks.Any()
	if !literal {
		if in.Report, err = o.check(ctx, m, name, rule == authres.Require || in.OurDomain || byMail && checks.Broken.Do == verdict.Reject); err != nil {
			return delivery.Proof{}, err
		}
	}
	d := authres.Decide(in)
	a.fed.verdicts[d.Verdict].Add(1)
	log := a.Log.Logger("federation")
	switch {
	case d.Action != authres.Accept:
		log.InfoContext(ctx, "mail was not taken", "domain", d.Domain, "verdict", d.Verdict.String(), "reason", d.Result.Reason)
		return delivery.Proof{}, d.Err()
	case rule == authres.Report && d.Verdict != authres.Proven && d.Verdict != authres.Exempt:
		log.WarnContext(ctx, "mail whose origin is not proven", "domain", d.Domain, "verdict", d.Verdict.String(), "reason", d.Result.Reason)
	}
	var found authres.Found
	if byMail {
		if found, err = o.look(ctx, checks, authres.Subject{Client: m.Client, Envelope: m.Envelope.Wire(), From: d.Domain, Report: in.Report}); err != nil {
			log.InfoContext(ctx, "mail was not taken", "domain", d.Domain, "err", err)
			return delivery.Proof{}, err
		}
	}
	p := delivery.Proof{Forged: d.NullSender, Proven: d.Verdict == authres.Proven || d.Verdict == authres.Exempt}
	if !literal || found.SPF != nil {
		p.Field = authres.Header(message.Verdict, a.hostname(), in.Report, found)
	}
	p.Junk = len(found.Quarantine) > 0
	p.Field = append(p.Field, found.QuarantineField(message.Quarantine)...)
	return p, nil
}

// What failedChecks counts.
const (
	refusedByCheck = iota
	setAsideByCheck
)

// look does what the operator wants looked at besides.
func (o origins) look(ctx context.Context, checks authres.Checks, m authres.Subject) (authres.Found, error) {
	ctx, cancel := context.WithTimeout(ctx, proofWait)
	defer cancel()
	f, err := checks.Run(ctx, lookups{o.a.fed.resolver}, m)
	count := func(check string, what int) {
		name, _, _ := strings.Cut(check, "=")
		if i := slices.Index(authres.CheckNames[:], name); i >= 0 {
			o.a.fed.failedChecks[i][what].Add(1)
		}
	}
	if err != nil {
		count(f.Refused, refusedByCheck)
		return f, err
	}
	for _, check := range f.Quarantine {
		count(check, setAsideByCheck)
	}
	return f, nil
}

// checks are those of the configuration.
func (a *App) checks() authres.Checks {
	c := a.conf.Load().Checks()
	return authres.Checks{
		SPF: c.SPF, SPFFirst: c.SPFFirst, DMARC: c.DMARC, Unsigned: c.Unsigned, Broken: c.Broken, KeysNeeded: c.KeysNeeded, TLS: c.TLS, MX: c.MX, Reverse: c.Reverse,
	}
}

// lookups asks for what checks want to know.
type lookups struct{ r *resolve.Resolver }

// TXT implements authres.Names.
func (l lookups) TXT(ctx context.Context, name string) ([]string, error) { return l.r.TXT(ctx, name) }

// MX implements authres.Names.
func (l lookups) MX(ctx context.Context, name string) (list []string, err error) {
	got, err := l.r.LookupMX(ctx, name)
	for _, mx := range got.Records {
		list = append(list, mx.Host)
	}
	return list, err
}

// Addresses implements authres.Names.
func (l lookups) Addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	got, err := l.r.LookupAddr(ctx, host)
	return got.Records, err
}

// Reverse implements authres.Names.
func (l lookups) Reverse(ctx context.Context, ip netip.Addr) ([]string, error) {
	list, err := l.r.LookupData(ctx, resolve.ReverseName(ip), "PTR")
	for i := range list {
		list[i] = strings.TrimSuffix(list[i], ".")
	}
	return list, err
}

// check looks at the signatures. What cannot be read or asked is an error only where
// something depends on it.
func (o origins) check(ctx context.Context, m delivery.Foreign, domain string, decisive bool) (dkim.Report, error) {
	r, wait := o.a.fed.resolver, recordingWait
	if decisive {
		wait = proofWait
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	rep, err := authres.Check(ctx, m.Text, m.Size, domain, authres.Keys{TXT: r.TXT, Fresh: r.FreshTXT}, 0)
	switch {
	case err == nil:
	case decisive && fault.Is(err, fault.Busy):
		return rep, fault.New(fault.Busy, "DKIM key lookup failed, try again later")
	case decisive:
		return rep, fault.Wrap(fault.Refused, err, "DKIM")
	default:
		rep = dkim.Report{Signatures: 1, Results: []dkim.Result{{State: dkim.TempError, Domain: domain, Reason: "not examined in time"}}}
	}
	return rep, nil
}

// Arrived implements delivery.Origins.
func (o origins) Arrived(m delivery.Foreign) {
	d := m.Envelope.Domain()
	if d == "" {
		name, _ := authres.Domain(m.From)
		var err error
		if d, err = address.ParseDomain(name); err != nil {
			return
		}
	}
	if o.a.domains.IsLocal(d) {
		return
	}
	o.a.fed.peers.Received(d)
	if w := o.a.fed.worker; w != nil {
		w.Alive(d)
	}
}

// Missed implements delivery.Origins: the sender gets a notification, where the
// operator wants that.
func (o origins) Missed(ctx context.Context, m delivery.Foreign, to address.Addr, failed []delivery.Failure) {
	if !o.a.settings.Current().Bool(settings.FederationBounce) || o.a.domains.IsLocal(to.Domain()) {
		return
	}
	if err := o.notify(ctx, m, to, failed); err != nil {
		o.a.Log.Logger("federation").WarnContext(ctx, "a sender could not be told about recipients", "domain", to.Domain(), "err", err)
	}
}

func (o origins) notify(ctx context.Context, m delivery.Foreign, to address.Addr, failed []delivery.Failure) error {
	header := make([]byte, min(m.Size, maxBounceHeader))
	n, err := m.Text.ReadAt(header, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if header = header[:n]; message.HeaderEnd(header) >= 0 {
		header = header[:message.HeaderEnd(header)]
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	domain := o.a.noticeDomain()
	note := message.Notice{ID: fmt.Sprintf("%x@%s", id, domain.Host()), Host: o.a.hostname(), Domain: domain, To: to, Date: time.Now(), Original: header}
	for _, f := range failed {
		x := message.Failure{Recipient: f.To, Status: "5.1.1", Reply: "550 5.1.1 " + fault.UserText(f.Err)}
		switch fault.KindOf(f.Err) {
		case fault.Full:
			x.Status, x.Reply = "5.2.2", "552 5.2.2 "+fault.UserText(f.Err)
		case fault.TooBig:
			x.Status, x.Reply = "5.2.3", "552 5.2.3 "+fault.UserText(f.Err)
		}
		note.Failures = append(note.Failures, x)
	}
	text, err := message.Bounce(note)
	if err != nil {
		return err
	}
	if o.a.fed.policy.Outbound(to.Domain()) != policy.Send {
		return nil
	}
	_, err = o.a.fed.queue.Put(ctx, strings.NewReader(string(text)), int64(len(text)), queue.Envelope{To: []address.Addr{to}})
	return err
}

// openInbound builds the door for mail that comes by HTTP.
func (a *App) openInbound() (err error) {
	a.fed.inbound, err = mxdeliv.New(mxdeliv.Options{
		Intake: a.intake, Local: a.domains.IsLocal, Takes: origins{a}.Takes,
		Known:   a.reads,
		MaxSize: func() int64 { return a.maxSize(delivery.Federation) },
		Plain:   a.plainHTTP, Logger: a.Log.Logger("mxdeliv"),
	})
	return err
}

// reads reports whether somebody reads mail for an address.
func (a *App) reads(x address.Addr) bool {
	x = a.intake.Reader(x)
	return a.accounts.Exists(x) && !a.accounts.Blocked(x)
}

// fetched takes a message that an exchanger had for us.
func (a *App) fetched(ctx context.Context, from address.Addr, to []address.Addr, size int64, r io.Reader) error {
	_, err := a.intake.Accept(ctx, &delivery.Envelope{Via: delivery.Federation, From: from, To: to, Size: size}, r)
	return err
}

// plainHTTP reports whether mail from a domain may come without TLS: where the
// other side has no name, or we have no certificate that anybody could verify.
func (a *App) plainHTTP(from address.Domain) bool {
	if _, literal := from.IP(); literal || a.settings.Current().Bool(settings.FederationHTTP) {
		return true
	}
	_, literal := a.domains.Registration().IP()
	return literal || a.selfSigned()
}

// route takes requests out of the site's hands.
func (a *App) route(r *http.Request) http.Handler {
	if p := r.URL.Path; p == mxdeliv.Path || p == mxdeliv.Path+"/" {
		a.asked[askedFederation].Add(1)
		return a.fed.inbound
	}
	if h := a.acme.Answers(r); h != nil {
		a.asked[askedSite].Add(1)
		return h
	}
	if h := a.tunnelDoor(r); h != nil {
		return h
	}
	if h := a.calls.realtime.Load(); h != nil && irohrelay.Owns(r.URL.Path) {
		a.asked[askedRelay].Add(1)
		return h.Handler()
	}
	if webimap.Owns(r.URL.Path) && !a.conf.Load().Camouflage {
		a.asked[askedMail].Add(1)
		return a.webmail
	}
	if h := a.adminDoor(r); h != nil {
		a.asked[askedAdmin].Add(1)
		return h
	}
	if h := a.panelDoor(r); h != nil {
		a.asked[askedPage].Add(1)
		return h
	}
	a.asked[askedSite].Add(1)
	return a.siteDoor(r)
}

// siteDoor answers what the site should not, or lets it.
func (a *App) siteDoor(r *http.Request) http.Handler {
	conf := a.conf.Load()
	switch {
	case r.Method == http.MethodConnect, conf.Camouflage && !shown(conf, r):
		return http.HandlerFunc(website.NotFound) // the same whether or not there is something behind it
	case r.URL.Path == "/madmail" && a.binary != nil && config.Open(conf.ServeBinary):
		return a.binary
	}
	return nil
}

// shown reports whether a request is answered although nothing is to be seen here:
// what other servers ask for, /new with a token, and the operator's own site.
func shown(conf *config.Config, r *http.Request) bool {
	p := r.URL.Path
	switch {
	case p == "/new":
		return r.URL.Query().Get("token") != ""
	case p == "/.well-known/mta-sts.txt", strings.HasPrefix(p, "/.well-known/_domainkey/"), strings.HasPrefix(p, "/.well-known/acme-challenge/"):
		return true
	case conf.WWWDir == "":
		return false
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	return !slices.Contains([]string{"madmail", "qr", "inv", "docs", "app", "share", "mail", ".well-known"}, first)
}

// What answers over HTTP, and its names in the metrics.
const (
	askedSite = iota
	askedFederation
	askedRelay
	askedAdmin
	askedPage
	askedMail
)

var httpParts = [...]string{askedSite: "site", askedFederation: "federation", askedRelay: "realtime", askedAdmin: "admin", askedPage: "page", askedMail: "webmail"}

// openKeys loads the DKIM keys, and makes those that are missing.
func (a *App) openKeys() (err error) {
	a.fed.keys, err = certs.OpenDKIM(certs.DKIMOptions{
		StateDir: a.StateDir, Domains: a.signed(), Selector: a.settings.Current().Text(settings.DKIMSelector), Logger: a.Log.Logger("dkim"),
	})
	return err
}

// signed are the domains whose mail is signed, that of new accounts first. A name
// without a dot is nobody's to publish a key under.
func (a *App) signed() []address.Domain {
	all := append([]address.Domain{a.domains.Registration()}, a.domains.Local()...)
	return slices.DeleteFunc(all, func(d address.Domain) bool { return !strings.Contains(string(d), ".") })
}

// signer lets the worker sign.
type signer struct{ keys *certs.DKIM }

// Sign implements outbound.Signer.
func (s signer) Sign(_ context.Context, d address.Domain, header []byte, body io.Reader) ([]byte, error) {
	return s.keys.Sign(d, header, body)
}

// pruneKeys is the job that removes keys that were replaced long ago.
func (a *App) pruneKeys() upkeep.Job {
	return upkeep.Job{Name: "prune-dkim-keys", Every: 24 * time.Hour, Run: func(context.Context) error {
		_, err := a.fed.keys.Prune()
		return err
	}}
}

// stsPolicy is our MTA-STS policy, or "" where there can be none.
func (a *App) stsPolicy() string {
	mode := a.settings.Current().Enum(settings.MTASTSMode)
	if _, literal := a.domains.Registration().IP(); literal || mode == "none" {
		return ""
	}
	return "version: STSv1\r\nmode: " + mode + "\r\nmx: " + a.zoneFacts().Host + "\r\nmax_age: 604800\r\n"
}

// keyRecord is the record of a DKIM key of ours.
func (a *App) keyRecord(selector string) (string, bool) {
	for _, r := range a.fed.keys.Records() {
		if r.Selector == selector {
			return r.TXT, true
		}
	}
	return "", false
}

// zoneFacts are what the records of our domain have to say.
func (a *App) zoneFacts() ops.ZoneFacts {
	conf := a.conf.Load()
	f := ops.ZoneFacts{Domain: a.domains.Registration(), Host: strings.ToLower(strings.Trim(conf.MXDomain, "[]")), ACME: conf.Orders()}
	if _, err := netip.ParseAddr(f.Host); err == nil || f.Host == "" {
		f.Host = f.Domain.Host()
	}
	if f.STSMode = a.settings.Current().Enum(settings.MTASTSMode); f.STSMode == "none" {
		f.STSMode = ""
	}
	if ip, err := netip.ParseAddr(conf.PublicIP); err == nil {
		f.Addresses = append(f.Addresses, ip)
	}
	for _, s := range []struct{ name, listener string }{
		{"_submission._tcp", "submission"}, {"_submissions._tcp", "submission_tls"}, {"_imap._tcp", "imap"}, {"_imaps._tcp", "imap_tls"},
	} {
		if p := a.port(s.listener); p != 0 {
			f.Services = append(f.Services, ops.ZoneService{Name: s.name, Port: p})
		}
	}
	return f
}

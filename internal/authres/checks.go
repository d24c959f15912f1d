package authres

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"blitiri.com.ar/go/spf"
	"github.com/emersion/go-msgauth/dmarc"
	"golang.org/x/net/publicsuffix"

	"madmail/internal/dkim"
	"madmail/internal/fault"
	"madmail/internal/verdict"
)

// Names asks the DNS. Errors: fault.NotFound and fault.Invalid are answers, others mean
// that there was none.
type Names interface {
	TXT(ctx context.Context, name string) ([]string, error)
	MX(ctx context.Context, name string) ([]string, error)
	Addresses(ctx context.Context, host string) ([]netip.Addr, error)
	Reverse(ctx context.Context, ip netip.Addr) ([]string, error)
}

// Client is who brings a message by SMTP.
type Client struct {
	Addr netip.Addr
	Helo string
	TLS  bool
}

// Checks are what an operator wants looked at beyond the rules of the network, in mail
// that comes by SMTP. The zero value looks at nothing.
type Checks struct {
	// SPF are actions by result (RFC 7208 section 2.6), except pass; nil: not asked.
	SPF map[string]verdict.Action
	// SPFFirst lets SPF decide also where the sender's DMARC policy would.
	SPFFirst bool
	// DMARC does what the policy of the From domain says (RFC 7489).
	DMARC bool
	// Unsigned is for messages without a signature, Broken for those without one that
	// holds. KeysNeeded puts a message off when no key could be asked for.
	Unsigned, Broken verdict.Action
	KeysNeeded       bool
	// TLS is for clients without, MX for reverse-paths of domains without an MX record,
	// Reverse for clients whose address has no name, or one that does not lead back.
	TLS, MX, Reverse verdict.Action
}

// Any reports whether anything is looked at.
func (c Checks) Any() bool {
	none := verdict.Action{}
	return c.SPF != nil || c.DMARC || c.KeysNeeded || c.Unsigned != none || c.Broken != none || c.TLS != none || c.MX != none || c.Reverse != none
}

// SPF is what became of that check. Domain is whose record was asked for.
type SPF struct{ Result, Domain string }

// DMARC likewise. Policy is that of the domain, for a message that fails.
type DMARC struct{ Result, Domain, Policy string }

// Found is what the checks found. Nil was not asked.
type Found struct {
	SPF   *SPF
	DMARC *DMARC
	// Quarantine are the checks for which the message is to be marked, Refused the one
	// for which it was refused.
	Quarantine []string
	Refused    string
}

// CheckNames are the checks, as they stand before the equals sign in Found.
var CheckNames = [...]string{"tls", "iprev", "mx", "spf", "dkim", "dmarc"}

// Subject is a message that is looked at. Envelope is its reverse-path without
// brackets, "" for the null one; From the domain of its From field.
type Subject struct {
	Client         Client
	Envelope, From string
	Report         dkim.Report
}

var errNoAnswer = verdict.Rejection{Code: 451, Enhanced: "4.4.3", Text: "DNS lookup failed, try again later"}

// Run looks at a message. IP literals have no records and pass what asks for them. The
// error is a refusal (package verdict), of kind fault.Refused or fault.Busy.
func (c Checks) Run(ctx context.Context, names Names, m Subject) (Found, error) {
	var f Found
	apply := func(check string, a verdict.Action, r verdict.Rejection) error {
		switch a.Do {
		case verdict.Reject:
			f.Refused = check
			return a.Refusal(r)
		case verdict.Quarantine:
			f.Quarantine = append(f.Quarantine, check)
		}
		return nil
	}
	if !m.Client.TLS {
		if err := apply("tls=none", c.TLS, verdict.Rejection{Code: 550, Enhanced: "5.7.1", Text: "TLS conversation required"}); err != nil {
			return f, err
		}
	}
	_, unnamed := Domain("@" + m.From)
	if !unnamed { // nobody could publish a key
		if err := c.signatures(m, apply); err != nil {
			return f, err
		}
	}
	if c.Reverse.Do != verdict.Ignore {
		if err := c.reverse(ctx, names, m, apply); err != nil {
			return f, err
		}
	}
	envelope, literal := Domain(m.Envelope)
	if c.MX.Do != verdict.Ignore && m.Envelope != "" && !literal {
		hosts, err := names.MX(ctx, envelope)
		if err == nil && (len(hosts) == 0 || hosts[0] == "") || fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) {
			err = apply("mx=none", c.MX, verdict.Rejection{Code: 550, Enhanced: "5.7.27", Text: "The sender's domain takes no mail"})
		} else if err != nil && c.MX.Do == verdict.Reject {
			err = verdict.Action{}.Refusal(errNoAnswer)
		} else {
			err = nil
		}
		if err != nil {
			return f, err
		}
	}
	if c.SPF == nil && !c.DMARC {
		return f, nil
	}
	f.SPF = askSPF(ctx, names, m.Client, m.Envelope)
	if c.DMARC {
		if !unnamed {
			f.DMARC = askDMARC(ctx, names, m, *f.SPF)
		}
	}
	if d := f.DMARC; d != nil && d.Result == "fail" {
		var a verdict.Action
		switch d.Policy {
		case "reject":
			a.Do = verdict.Reject
		case "quarantine":
			a.Do = verdict.Quarantine
		}
		if err := apply("dmarc=fail", a, verdict.Rejection{Code: 550, Enhanced: "5.7.1", Text: "DMARC check failed"}); err != nil {
			return f, err
		}
	}
	if d := f.DMARC; !c.SPFFirst && d != nil && d.Policy != "" && d.Policy != "none" {
		return f, nil // it was for DMARC to decide
	}
	r := verdict.Rejection{Code: 550, Enhanced: "5.7.23", Text: "SPF validation failed"} // RFC 7372 section 3.2
	switch f.SPF.Result {
	case "temperror":
		r = verdict.Rejection{Code: 451, Enhanced: "4.7.24", Text: "SPF validation error, try again later"}
	case "permerror":
		r.Enhanced, r.Text = "5.7.24", "SPF validation error"
	}
	return f, apply("spf="+f.SPF.Result, c.SPF[f.SPF.Result], r)
}

// signatures looks at the result of DKIM.
func (c Checks) signatures(m Subject, apply func(string, verdict.Action, verdict.Rejection) error) error {
	if len(m.Report.Results) == 0 {
		return apply("dkim=none", c.Unsigned, verdict.Rejection{Code: 550, Enhanced: "5.7.20", Text: "No DKIM signature found"})
	}
	later := false
	for _, r := range m.Report.Results {
		switch r.State {
		case dkim.Pass:
			return nil
		case dkim.TempError:
			later = true
		}
	}
	if later {
		if c.KeysNeeded && c.Broken.Do == verdict.Reject {
			return verdict.Action{}.Refusal(verdict.Rejection{Code: 451, Enhanced: "4.7.5", Text: "DKIM key lookup failed, try again later"})
		}
		return nil
	}
	return apply("dkim=fail", c.Broken, verdict.Rejection{Code: 550, Enhanced: "5.7.20", Text: "No valid DKIM signature found"})
}

// reverse looks whether the client's address has a name that leads back to it.
func (c Checks) reverse(ctx context.Context, names Names, m Subject, apply func(string, verdict.Action, verdict.Rejection) error) error {
	hosts, err := names.Reverse(ctx, m.Client.Addr)
	if err == nil {
		for i, h := range hosts {
			if i == 10 {
				break
			}
			addrs, err := names.Addresses(ctx, h)
			if err != nil {
				continue
			}
			for _, a := range addrs {
				if a.Unmap() == m.Client.Addr.Unmap() {
					return nil
				}
			}
		}
	} else if !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Invalid) {
		if c.Reverse.Do == verdict.Reject {
			return verdict.Action{}.Refusal(errNoAnswer)
		}
		return nil
	}
	return apply("iprev=fail", c.Reverse, verdict.Rejection{Code: 550, Enhanced: "5.7.25", Text: "Your address has no name that leads back to it"})
}

// askSPF evaluates the record of the reverse-path's domain, or of the name in EHLO for
// the null reverse-path (RFC 7208 sections 2.3 and 2.4).
func askSPF(ctx context.Context, names Names, c Client, envelope string) *SPF {
	helo := strings.TrimSuffix(strings.ToLower(c.Helo), ".")
	sender, domain := envelope, helo
	if sender != "" {
		domain, _ = Domain(sender)
		sender = sender[:strings.LastIndexByte(sender, '@')+1] + domain
	} else {
		sender = "postmaster@" + helo
	}
	s := &SPF{Result: "none", Domain: domain}
	if strings.HasPrefix(domain, "[") || !strings.Contains(domain, ".") || !c.Addr.IsValid() {
		return s // an IP literal, or no name that could have records
	}
	r, _ := spf.CheckHostWithSender(net.IP(c.Addr.Unmap().AsSlice()), helo, sender, spf.WithContext(ctx), spf.WithResolver(answers{names}))
	s.Result = string(r)
	return s
}

// askDMARC looks for the policy of the From domain, then of its organisational domain
// (RFC 7489 sections 3 and 6.6.3). pct is not heeded: a domain has a policy or none.
func askDMARC(ctx context.Context, names Names, m Subject, s SPF) *DMARC {
	d := &DMARC{Result: "none", Domain: m.From}
	o := &dmarc.LookupOptions{LookupTXT: func(name string) ([]string, error) { return (answers{names}).LookupTXT(ctx, name) }}
	org := organisation(m.From)
	record, err := dmarc.LookupWithOptions(m.From, o)
	sub := false
	if errors.Is(err, dmarc.ErrNoPolicy) && org != m.From {
		record, err = dmarc.LookupWithOptions(org, o)
		sub = true
	}
	switch {
	case errors.Is(err, dmarc.ErrNoPolicy):
		return d
	case dmarc.IsTempFail(err):
		d.Result = "temperror"
		return d
	case err != nil:
		d.Result = "permerror"
		return d
	}
	p := record.Policy
	if sub && record.SubdomainPolicy != "" {
		p = record.SubdomainPolicy
	}
	d.Policy, d.Result = string(p), "fail"
	aligned := func(domain string, mode dmarc.AlignmentMode) bool {
		return domain == m.From || mode != dmarc.AlignmentStrict && domain != "" && organisation(domain) == org
	}
	if s.Result == "pass" && aligned(s.Domain, record.SPFAlignment) {
		d.Result = "pass"
	}
	for _, r := range m.Report.Results {
		switch {
		case r.State == dkim.Pass && aligned(r.Domain, record.DKIMAlignment):
			d.Result = "pass"
		case r.State == dkim.TempError && d.Result == "fail" && aligned(r.Domain, record.DKIMAlignment):
			d.Result = "temperror" // it cannot be told
		}
	}
	return d
}

// organisation is the domain that somebody registered, or the name itself.
func organisation(name string) string {
	if org, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return org
	}
	return name
}

// answers are names as the evaluation of SPF and DMARC wants them.
type answers struct{ Names }

// plainError is what package net says of an answer.
func plainError(err error, name string) error {
	if err == nil {
		return nil
	}
	e := &net.DNSError{Err: err.Error(), Name: name}
	e.IsNotFound = fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid)
	e.IsTemporary = !e.IsNotFound
	return e
}

// LookupTXT implements spf.DNSResolver.
func (a answers) LookupTXT(ctx context.Context, name string) ([]string, error) {
	list, err := a.TXT(ctx, name)
	return list, plainError(err, name)
}

// LookupMX implements spf.DNSResolver.
func (a answers) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	hosts, err := a.MX(ctx, name)
	list := make([]*net.MX, len(hosts))
	for i, h := range hosts {
		list[i] = &net.MX{Host: h + ".", Pref: uint16(i)}
	}
	return list, plainError(err, name)
}

// LookupIPAddr implements spf.DNSResolver.
func (a answers) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	addrs, err := a.Addresses(ctx, host)
	list := make([]net.IPAddr, len(addrs))
	for i, ip := range addrs {
		list[i].IP = net.IP(ip.AsSlice())
	}
	return list, plainError(err, host)
}

// LookupAddr implements spf.DNSResolver.
func (a answers) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, plainError(fault.Wrap(fault.Invalid, err, "address"), addr)
	}
	list, err := a.Reverse(ctx, ip)
	return list, plainError(err, addr)
}

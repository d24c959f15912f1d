package certs

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"

	"madmail/internal/fault"
)

// updates changes a zone by dynamic update (RFC 2136), signed when there is a key
// (RFC 8945).
type updates struct {
	server         string
	key, algorithm string // absolute, "" without
	secret         string // base64
}

// algorithms of keys, by the words of key files.
var algorithms = map[string]string{"hmac-sha256": dns.HmacSHA256, "hmac-sha512": dns.HmacSHA512}

func openUpdates(o ZoneOptions) (Zone, error) {
	u := updates{server: o.Server}
	if _, _, err := net.SplitHostPort(u.server); err != nil {
		u.server = net.JoinHostPort(strings.Trim(u.server, "[]"), "53")
	}
	if o.Server == "" {
		return nil, fault.WithHint(fault.New(fault.Invalid, "rfc2136: acme_dns_server is missing"), `name the server of the zone, as in acme_dns_server = "192.0.2.1:53"`)
	}
	if o.Token == "" {
		return u, nil // the server may know this machine by its address
	}
	part := strings.Split(o.Token, ":")
	if len(part) == 2 {
		part = append([]string{"hmac-sha256"}, part...)
	}
	if len(part) != 3 || algorithms[strings.ToLower(part[0])] == "" || part[1] == "" || part[2] == "" {
		return nil, fault.WithHint(fault.New(fault.Invalid, "rfc2136: acme_dns_token is no key"), "write hmac-sha256:NAME:SECRET, with the secret in base64, as in the key file of the server")
	}
	u.algorithm, u.key, u.secret = algorithms[strings.ToLower(part[0])], dns.CanonicalName(part[1]), part[2]
	return u, nil
}

// Add implements Zone.
func (u updates) Add(ctx context.Context, name, value string) error {
	return u.update(ctx, name, value, (*dns.Msg).Insert)
}

// Remove implements Zone.
func (u updates) Remove(ctx context.Context, name, value string) error {
	return u.update(ctx, name, value, (*dns.Msg).Remove)
}

// update asks for the zone of the name, which the server knows, and changes it.
func (u updates) update(ctx context.Context, name, value string, change func(*dns.Msg, []dns.RR)) error {
	return inZone(name, func(zone, _ string) error {
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(zone), dns.TypeSOA)
		in, err := u.exchange(ctx, q)
		if err != nil {
			return err
		}
		owner := false
		for _, rr := range in.Answer {
			owner = owner || rr.Header().Rrtype == dns.TypeSOA && strings.EqualFold(rr.Header().Name, dns.Fqdn(zone))
		}
		if !owner {
			return fault.Newf(fault.NotFound, "certs: no zone %s", zone)
		}
		m := new(dns.Msg)
		m.SetUpdate(dns.Fqdn(zone))
		change(m, []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: recordTTL}, Txt: []string{value}}})
		in, err = u.exchange(ctx, m)
		if err != nil {
			return err
		}
		if in.Rcode != dns.RcodeSuccess {
			return fault.WithHint(fault.Newf(fault.Refused, "certs: %s does not take the update of %s: %s", u.server, zone, dns.RcodeToString[in.Rcode]), "the key of acme_dns_token has to be allowed to change TXT records there")
		}
		return nil
	})
}

func (u updates) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	c := &dns.Client{Net: "tcp", Timeout: requestTime}
	if u.key != "" {
		c.TsigSecret = map[string]string{u.key: u.secret}
		m.SetTsig(u.key, u.algorithm, 300, time.Now().Unix())
	}
	in, _, err := c.ExchangeContext(ctx, m, u.server)
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "certs: update")
	}
	return in, nil
}

package account

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// DomainOptions are the configured domains, as text; all may be empty.
type DomainOptions struct {
	Primary  string   // primary_domain
	Local    []string // local_domains
	Mail     string   // mail_domain
	JIT      []string // jit_domain; none means Primary
	Hostname string
	Dev      bool // add the loopback names whatever Primary is
}

// Domains says which domains are ours. It is the one place that does. Make
// one with NewDomains.
type Domains struct {
	now atomic.Pointer[domainTable]
}

type domainTable struct {
	local        map[address.Domain]struct{}
	registration address.Domain
	byHost       bool // a Host header may choose the registration domain
}

// NewDomains checks o. Errors are fault.Invalid and name the field.
func NewDomains(o DomainOptions) (*Domains, error) {
	d := &Domains{}
	return d, d.Set(o)
}

// Set replaces the domains, after a reload of the configuration.
func (d *Domains) Set(o DomainOptions) error {
	t := &domainTable{local: make(map[address.Domain]struct{})}
	var err error
	add := func(field, s string) address.Domain {
		if s = strings.TrimSpace(s); s == "" || err != nil {
			return ""
		}
		parsed, perr := address.ParseDomain(s)
		if perr != nil {
			err = fault.Newf(fault.Invalid, "%s: %q is not a domain: %s", field, s, fault.UserText(perr))
			return ""
		}
		t.local[parsed] = struct{}{}
		return parsed
	}
	primary, mail := add("primary_domain", o.Primary), add("mail_domain", o.Mail)
	for _, one := range o.JIT {
		add("jit_domain", one)
	}
	for _, one := range o.Local {
		add("local_domains", one)
	}
	host := address.Domain("")
	if primary == "" {
		host = add("hostname", o.Hostname)
	}
	// Known failure: with loopback names local in production, mail to
	// x@localhost of another server stays here.
	if o.Dev || primary == "" || loopback(primary) {
		for _, l := range []string{"localhost", "127.0.0.1", "::1"} {
			add("loopback", l)
		}
	}
	if err != nil {
		return err
	}
	t.byHost = primary == "" && mail == ""
	for _, c := range []address.Domain{primary, mail, host, "[127.0.0.1]"} {
		if c != "" {
			t.registration = c
			break
		}
	}
	t.local[t.registration] = struct{}{}
	d.now.Store(t)
	return nil
}

// loopback reports whether d is one of the loopback names. Other addresses of
// 127/8 are servers of their own.
func loopback(d address.Domain) bool {
	ip, ok := d.IP()
	return d == "localhost" || ok && (ip == netip.IPv6Loopback() || ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}

// IsLocal reports whether mail for d is ours.
func (d *Domains) IsLocal(dom address.Domain) bool {
	_, ok := d.now.Load().local[dom]
	return ok
}

// MayCreate reports whether accounts may be made in dom.
func (d *Domains) MayCreate(dom address.Domain) bool { return d.IsLocal(dom) }

// Registration returns the domain of new addresses.
func (d *Domains) Registration() address.Domain { return d.now.Load().registration }

// RegistrationFor is Registration for a request with this Host header. The
// header counts only when no domain is configured and it names one of ours.
func (d *Domains) RegistrationFor(host string) address.Domain {
	t := d.now.Load()
	if !t.byHost || host == "" {
		return t.registration
	}
	if ap, err := netip.ParseAddrPort(host); err == nil {
		host = ap.Addr().String()
	} else if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host, ':') == i {
		host = host[:i]
	}
	if dom, err := address.ParseDomain(host); err == nil && d.IsLocal(dom) {
		return dom
	}
	return t.registration
}

// Local returns our domains in order.
func (d *Domains) Local() []address.Domain {
	return slices.Sorted(maps.Keys(d.now.Load().local))
}

// Parse normalises a user name: an address, or a local part to which the
// registration domain is added.
func (d *Domains) Parse(user string) (address.Addr, error) {
	user = strings.TrimSpace(user)
	if !strings.Contains(user, "@") {
		return address.New(user, d.Registration())
	}
	return address.Parse(user)
}

// Package policy decides from whom mail is taken and to whom it is sent: rules by
// domain, domains whose mail is dropped in silence, where a domain is really
// reached, by which transports.
//
// Its tables are federation_rules, federation_silent_dismiss, dns_overrides and
// federation_transports. All of them are held in memory as one immutable rule set,
// replaced as a whole after a committed write, so a decision costs no statement
// and never sees half a change. The switches that are settings (which policy,
// federation on or off, open relay) are asked for at each decision.
//
// It does not know which domains are ours: callers ask only about others. It does
// not connect to anybody.
//
// All methods may be called from many goroutines.
package policy

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// Switches are the settings that decide with the rules.
type Switches struct {
	// Reject: only domains with a rule are dealt with. Else all but these.
	Reject bool
	// Off: no mail is exchanged with anybody, whatever the rules say.
	Off bool
	// OpenRelay: strangers may send to other domains through us.
	OpenRelay bool
	// HTTP: mail may go to domain names by HTTP without TLS.
	HTTP bool
}

// Options are what Open needs. DB must be set.
type Options struct {
	DB *db.DB
	// Switches returns the switches of the moment; nil means their zero value. It
	// must only read memory.
	Switches func() Switches
	Logger   *slog.Logger
	Now      func() time.Time
}

// Store is the policy. Make one with Open.
type Store struct {
	Options
	set atomic.Pointer[ruleSet]
}

// ruleSet is all tables at one moment. It never changes.
type ruleSet struct {
	rules      map[address.Domain]time.Time
	dismissed  map[address.Domain]time.Time
	endpoints  map[address.Domain]Override
	transports map[address.Domain]Transports
}

// Open reads the rules. A row that makes no sense is left out with a warning.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.DB == nil {
		return nil, fault.New(fault.Invalid, "policy: DB is not set")
	}
	if o.Switches == nil {
		o.Switches = func() Switches { return Switches{} }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{Options: o}
	return s, s.Reload(ctx)
}

// Verdict says what becomes of mail to a domain.
type Verdict uint8

// The verdicts.
const (
	Send    Verdict = iota
	Refuse          // the sender is told
	Dismiss         // accepted and dropped; nobody is told
)

// Outbound decides about mail to another domain. Dismissal comes before the rules.
func (s *Store) Outbound(to address.Domain) Verdict {
	set := s.set.Load()
	if _, ok := set.dismissed[to]; ok {
		return Dismiss
	}
	if !s.deals(set, to) {
		return Refuse
	}
	return Send
}

// Inbound reports whether mail from a domain is taken. The null reverse-path, "",
// always is: what it may carry is not decided here.
func (s *Store) Inbound(from address.Domain) bool {
	return from == "" || s.deals(s.set.Load(), from)
}

func (s *Store) deals(set *ruleSet, d address.Domain) bool {
	w := s.Switches()
	_, listed := set.rules[d]
	return !w.Off && listed == w.Reject
}

// OpenRelay reports whether strangers may send to other domains through us.
func (s *Store) OpenRelay() bool { return s.Switches().OpenRelay }

// Transports say how mail may go to a domain.
type Transports struct {
	HTTPS, HTTP, SMTP Permission
	// RelaxedTLS: any certificate will do.
	RelaxedTLS bool
}

// Permission is what an operator said about one transport.
type Permission uint8

// The permissions. Usual is the zero value: nothing was said.
const (
	Usual Permission = iota
	Allow
	Block
)

var permissions = [...]string{Usual: "", Allow: "allow", Block: "block"}

// String returns "", "allow" or "block".
func (p Permission) String() string { return permissions[p] }

// ParsePermission reads what String writes; the error is of kind fault.Invalid.
func ParsePermission(text string) (Permission, error) {
	i := slices.Index(permissions[:], strings.ToLower(strings.TrimSpace(text)))
	if i < 0 {
		return Usual, fault.Newf(fault.Invalid, "%.20q is neither allow nor block", text)
	}
	return Permission(i), nil
}

// Transports returns what was said about a domain. Where nothing was said, HTTPS and SMTP
// are allowed, and HTTP without TLS is for IP literals or where the switch says so:
// the permissions returned are Allow and Block only.
func (s *Store) Transports(d address.Domain) Transports {
	t := s.set.Load().transports[d]
	if t.HTTPS == Usual {
		t.HTTPS = Allow
	}
	if t.SMTP == Usual {
		t.SMTP = Allow
	}
	if t.HTTP == Usual {
		t.HTTP = Block
		if _, literal := d.IP(); literal || s.Switches().HTTP {
			t.HTTP = Allow
		}
	}
	return t
}

// Endpoint is where a domain is really reached.
type Endpoint struct {
	// Scheme is "https", "http" or "smtp" when only this transport and address is meant,
	// "" when the host counts for all.
	Scheme string
	Host   string // name or IP address without brackets
	Port   int    // of HTTPS, or of the scheme; 0: the usual one
	Path   string // of HTTP; "" is the usual one
}

// MaxTarget is the longest target of an override, in octets.
const MaxTarget = 1024

// ParseEndpoint reads a target: host, host:port, IP address with or without brackets, or a
// URL of the schemes https, http and smtp. The error is of kind fault.Invalid.
func ParseEndpoint(text string) (Endpoint, error) {
	text = strings.TrimSpace(text)
	bad := fault.Newf(fault.Invalid, "%.80q is neither a host, host:port nor a URL", text)
	if text == "" || len(text) > MaxTarget || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return Endpoint{}, bad
	}
	var e Endpoint
	host := text
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return Endpoint{}, bad
		}
		e.Scheme, host, e.Path = strings.ToLower(u.Scheme), u.Host, u.EscapedPath()
		if e.Path == "/" {
			e.Path = ""
		}
		if e.Scheme != "https" && e.Scheme != "http" && (e.Scheme != "smtp" || e.Path != "") {
			return Endpoint{}, bad
		}
	}
	bare := host
	if strings.HasPrefix(host, "[") {
		bare = strings.TrimSuffix(host[1:], "]")
		if len(bare) != len(host)-2 {
			bare = ""
		}
	}
	if ip, err := netip.ParseAddr(bare); err == nil && ip.Zone() == "" {
		e.Host = ip.Unmap().String()
		return e, nil
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		n, err := strconv.ParseUint(host[i+1:], 10, 16)
		if err != nil || n == 0 {
			return Endpoint{}, bad
		}
		host, e.Port = host[:i], int(n)
	}
	d, err := address.ParseDomain(host)
	if err != nil {
		return Endpoint{}, bad
	}
	e.Host = d.Host()
	return e, nil
}

// Endpoint returns where a domain is really reached, when the operator said so.
func (s *Store) Endpoint(d address.Domain) (Endpoint, bool) {
	o, ok := s.set.Load().endpoints[d]
	return o.Endpoint, ok
}

// Override is a row that says where a domain is reached.
type Override struct {
	Key              string // the domain; IP addresses without brackets
	Target           string // as it was written
	Comment          string
	Created, Updated time.Time
	Endpoint         Endpoint
}

// Rule is a domain with a time.
type Rule struct {
	Domain address.Domain
	Added  time.Time
}

// TransportRule is what was said about the transports to a domain.
type TransportRule struct {
	Domain address.Domain
	Transports
}

// Rules returns the exceptions to the policy, by name.
func (s *Store) Rules() []Rule { return sorted(s.set.Load().rules) }

// Dismissed returns the domains whose mail is dropped, by name.
func (s *Store) Dismissed() []Rule { return sorted(s.set.Load().dismissed) }

func sorted(m map[address.Domain]time.Time) []Rule {
	list := make([]Rule, 0, len(m))
	for d, t := range m {
		list = append(list, Rule{d, t})
	}
	slices.SortFunc(list, func(a, b Rule) int { return cmp.Compare(a.Domain, b.Domain) })
	return list
}

// Overrides returns the endpoints, by key.
func (s *Store) Overrides() []Override {
	set := s.set.Load()
	list := make([]Override, 0, len(set.endpoints))
	for _, o := range set.endpoints {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b Override) int { return cmp.Compare(a.Key, b.Key) })
	return list
}

// Override returns one endpoint. Errors: fault.Invalid, fault.NotFound.
func (s *Store) Override(key string) (Override, error) {
	d, err := address.ParseDomain(key)
	if err != nil {
		return Override{}, err
	}
	o, ok := s.set.Load().endpoints[d]
	if !ok {
		return Override{}, fault.Newf(fault.NotFound, "no endpoint override found for %q", d.Host())
	}
	return o, nil
}

// TransportRules returns what was said about transports, by domain.
func (s *Store) TransportRules() []TransportRule {
	set := s.set.Load()
	list := make([]TransportRule, 0, len(set.transports))
	for d, t := range set.transports {
		list = append(list, TransportRule{d, t})
	}
	slices.SortFunc(list, func(a, b TransportRule) int { return cmp.Compare(a.Domain, b.Domain) })
	return list
}

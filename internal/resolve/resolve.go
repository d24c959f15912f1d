package resolve

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"madmail/internal/dane"
	"madmail/internal/fault"
	"madmail/internal/task"
)

// Options say whom to ask and how much to remember. The zero value works.
type Options struct {
	// Servers are IP addresses of resolvers, with or without a port; none means those
	// of Conf.
	Servers []string
	// Conf is the path of resolv.conf; "" means the system's.
	Conf string
	// TrustAD says that the servers validate DNSSEC and that nobody can change what
	// they say on its way to us. Servers on loopback are trusted anyway.
	TrustAD bool
	// Attempts is how often the list of servers is gone through (2), Timeout the time
	// one server has (3 s). Limit bounds one lookup as a whole (10 s).
	Attempts int
	Timeout  time.Duration
	Limit    time.Duration
	// CacheEntries and CacheBytes bound the cache (10000, 8 MiB).
	CacheEntries, CacheBytes int
	// InFlight bounds the lookups that wait for servers at the same time (256); others
	// wait for their turn.
	InFlight int
	Logger   *slog.Logger
	Now      func() time.Time
}

// Bounds on how long answers are kept.
const (
	maxTTL     = 24 * time.Hour
	maxNegTTL  = 15 * time.Minute
	failTTL    = 5 * time.Second
	maxAliases = 8
	maxRecords = 64
	maxText    = 16 << 10 // of the TXT records of one name, octets
)

// Answer is the records of one type under a name, none when there are none.
type Answer[T any] struct {
	Records []T
	// Authentic: validated with DNSSEC, aliases included; also for an empty answer.
	Authentic bool
}

// MX is one mail exchanger.
type MX struct {
	// Host is a name in lower case without its final dot; "" is the null MX: the
	// domain takes no mail (RFC 7505).
	Host       string
	Preference uint16
}

// Stats are counts since the start.
type Stats struct {
	Lookups, Hits, Queries, Failures int64
	Entries, Bytes                   int
}

// Resolver asks and remembers. Make one with New.
type Resolver struct {
	opt   Options
	slots chan struct{}
	conf  atomic.Pointer[conf]

	lookups, hits, queries, failures atomic.Int64

	mu      sync.Mutex // guards the fields below
	cache   *cache
	flights map[question]*flight
}

// flight is a lookup that several callers wait for.
type flight struct {
	done chan struct{}
	o    *outcome // nil when the caller who flew gave up
}

// New checks o. Errors are fault.Invalid and name the server or the file.
func New(o Options) (*Resolver, error) {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&o.Attempts, 2)
	set(&o.CacheEntries, 10_000)
	set(&o.CacheBytes, 8<<20)
	set(&o.InFlight, 256)
	if o.Timeout <= 0 {
		o.Timeout = 3 * time.Second
	}
	if o.Limit <= 0 {
		o.Limit = 10 * time.Second
	}
	if o.Conf == "" {
		o.Conf = confPath
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Resolver{opt: o, slots: make(chan struct{}, o.InFlight), cache: newCache(o.CacheEntries, o.CacheBytes), flights: make(map[question]*flight)}
	return r, r.Reload()
}

// Reload reads resolv.conf anew and forgets the cache. When it fails the old servers
// stay. With Options.Servers it only forgets.
func (r *Resolver) Reload() error {
	var c conf
	var err error
	if len(r.opt.Servers) > 0 {
		for _, s := range r.opt.Servers {
			addr, err := serverAddr(s)
			if err != nil {
				return err
			}
			c.servers = append(c.servers, addr)
		}
		if len(c.servers) > maxServers {
			return fault.Newf(fault.Invalid, "more than %d name servers", maxServers)
		}
	} else if c, err = readConf(r.opt.Conf); err != nil {
		return err
	}
	c.trustAD = c.trustAD || r.opt.TrustAD || onLoopback(c.servers)
	r.conf.Store(&c)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cache.clear()
	return nil
}

// Servers returns the addresses that are asked, and whether their word counts as
// validated.
func (r *Resolver) Servers() (addrs []string, trusted bool) {
	c := r.conf.Load()
	return slices.Clone(c.servers), c.trustAD
}

// Stats returns the counts.
func (r *Resolver) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{Lookups: r.lookups.Load(), Hits: r.hits.Load(), Queries: r.queries.Load(), Failures: r.failures.Load(),
		Entries: len(r.cache.entries), Bytes: r.cache.bytes}
}

// LookupMX returns the mail exchangers of a domain, lowest preference first, those of
// equal preference in random order (RFC 5321 section 5.1). An empty answer means
// that the domain is its own exchanger; a null MX is the only record when present.
func (r *Resolver) LookupMX(ctx context.Context, domain string) (Answer[MX], error) {
	o, err := r.lookup(ctx, domain, dns.TypeMX, time.Time{})
	a := Answer[MX]{Authentic: o.authentic}
	null := false
	for _, rr := range o.rrs {
		mx, ok := rr.(*dns.MX)
		if !ok {
			continue
		}
		host := plain(mx.Mx)
		if host == "" {
			null = true
		} else if validName(host) {
			a.Records = append(a.Records, MX{Host: host, Preference: mx.Preference})
		}
	}
	if err == nil && len(a.Records) == 0 && len(o.rrs) > 0 {
		if !null {
			return Answer[MX]{}, newError(Malformed, "MX", domain)
		}
		// RFC 7505 section 3: beside others a null MX says nothing.
		a.Records = []MX{{}}
	}
	rand.Shuffle(len(a.Records), func(i, j int) { a.Records[i], a.Records[j] = a.Records[j], a.Records[i] })
	slices.SortStableFunc(a.Records, func(x, y MX) int { return int(x.Preference) - int(y.Preference) })
	return a, err
}

// LookupData returns what the records of a type, as in "SRV", say, each as a master
// file has it (RFC 1035 section 5.1) without owner, TTL, class and type. Names are in
// lower case. The error is of kind fault.Invalid for a type that is not known, too.
func (r *Resolver) LookupData(ctx context.Context, name, typ string) ([]string, error) {
	t, ok := dns.StringToType[typ]
	if !ok {
		return nil, fault.Newf(fault.Invalid, "%q is not a type of record", typ)
	}
	o, err := r.lookup(ctx, name, t, time.Time{})
	var list []string
	for _, rr := range o.rrs {
		if rr.Header().Rrtype == t {
			list = append(list, strings.ToLower(strings.TrimPrefix(rr.String(), rr.Header().String())))
		}
	}
	return list, err
}

// ReverseName is the name under which the names of an address are (RFC 1035 section
// 3.5, RFC 3596 section 2.5).
func ReverseName(ip netip.Addr) string {
	name, err := dns.ReverseAddr(ip.Unmap().WithZone("").String())
	if err != nil {
		return "" // the zero address; no name is ""
	}
	return name
}

// LookupA returns the IPv4 addresses of a host.
func (r *Resolver) LookupA(ctx context.Context, host string) (Answer[netip.Addr], error) {
	o, err := r.lookup(ctx, host, dns.TypeA, time.Time{})
	return addrs(o), err
}

// LookupAAAA returns the IPv6 addresses of a host.
func (r *Resolver) LookupAAAA(ctx context.Context, host string) (Answer[netip.Addr], error) {
	o, err := r.lookup(ctx, host, dns.TypeAAAA, time.Time{})
	return addrs(o), err
}

// LookupAddr returns the addresses of a host, IPv6 first. An IP address, with or
// without brackets, is its own answer. When one family cannot be asked and the other
// has addresses, these are the answer, not marked authentic.
func (r *Resolver) LookupAddr(ctx context.Context, host string) (Answer[netip.Addr], error) {
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		return Answer[netip.Addr]{Records: []netip.Addr{ip.Unmap()}}, nil
	}
	if h := plain(host); h == "localhost" || strings.HasSuffix(h, ".localhost") {
		// RFC 6761 section 6.3.
		return Answer[netip.Addr]{Records: []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}}, nil
	}
	var six Answer[netip.Addr]
	err6 := newError(Malformed, "AAAA", host) // stays when the lookup panics
	var g task.Group
	g.Go("AAAA", func() { six, err6 = r.LookupAAAA(ctx, host) })
	four, err4 := r.LookupA(ctx, host)
	// It ends when ctx does, or at the limit of a lookup.
	if err := g.Wait(context.WithoutCancel(ctx)); err != nil {
		return Answer[netip.Addr]{}, err
	}
	a := Answer[netip.Addr]{Records: append(six.Records, four.Records...), Authentic: six.Authentic && four.Authentic}
	switch {
	case err4 == nil && err6 == nil:
		return a, nil
	case len(a.Records) > 0:
		a.Authentic = false
		return a, nil
	case err4 != nil:
		return Answer[netip.Addr]{}, err4
	}
	return Answer[netip.Addr]{}, err6
}

func addrs(o *outcome) Answer[netip.Addr] {
	a := Answer[netip.Addr]{Authentic: o.authentic}
	for _, rr := range o.rrs {
		var ip netip.Addr
		ok := false
		switch x := rr.(type) {
		case *dns.A:
			ip, ok = netip.AddrFromSlice(x.A.To4())
		case *dns.AAAA:
			ip, ok = netip.AddrFromSlice(x.AAAA)
		}
		if ok {
			a.Records = append(a.Records, ip)
		}
	}
	return a
}

// LookupTXT returns the texts of a name, the strings of each record joined.
func (r *Resolver) LookupTXT(ctx context.Context, name string) (Answer[string], error) {
	return r.LookupTXTSince(ctx, name, time.Time{})
}

// LookupTXTSince is LookupTXT with an answer that was fetched at since or later. It is
// for keys that may have been replaced.
func (r *Resolver) LookupTXTSince(ctx context.Context, name string, since time.Time) (Answer[string], error) {
	o, err := r.lookup(ctx, name, dns.TypeTXT, since)
	a := Answer[string]{Authentic: o.authentic}
	size := 0
	for _, rr := range o.rrs {
		if txt, ok := rr.(*dns.TXT); ok {
			s := unescape(strings.Join(txt.Txt, ""))
			if size += len(s); size > maxText {
				return Answer[string]{}, newError(Malformed, "TXT", name)
			}
			a.Records = append(a.Records, s)
		}
	}
	return a, err
}

// freshness is how old an answer of FreshTXT may be: bad messages must not make the
// resolver ask for each of them.
const freshness = time.Minute

// TXT is LookupTXT as packages that know no Answer take it.
func (r *Resolver) TXT(ctx context.Context, name string) ([]string, error) {
	a, err := r.LookupTXT(ctx, name)
	return a.Records, err
}

// FreshTXT is TXT with an answer of the last minute.
func (r *Resolver) FreshTXT(ctx context.Context, name string) ([]string, error) {
	a, err := r.LookupTXTSince(ctx, name, r.opt.Now().Add(-freshness))
	return a.Records, err
}

// LookupTLSA returns the TLSA records of a TCP port of a host (RFC 6698 section 3).
// They are worth something only when the answer is authentic.
func (r *Resolver) LookupTLSA(ctx context.Context, port uint16, host string) (Answer[dane.Record], error) {
	o, err := r.lookup(ctx, "_"+strconv.Itoa(int(port))+"._tcp."+host, dns.TypeTLSA, time.Time{})
	a := Answer[dane.Record]{Authentic: o.authentic}
	for _, rr := range o.rrs {
		if x, ok := rr.(*dns.TLSA); ok {
			if rec, ok := tlsa(x); ok {
				a.Records = append(a.Records, rec)
			}
		}
	}
	return a, err
}

// lookup answers from the cache, from a lookup under way, or by asking. The outcome
// is never nil; it is empty with an error.
func (r *Resolver) lookup(ctx context.Context, name string, typ uint16, since time.Time) (*outcome, error) {
	r.lookups.Add(1)
	name = plain(name)
	if !validName(name) {
		return &outcome{}, newError(BadName, dns.TypeToString[typ], shorten(name))
	}
	q := question{name, typ}
	for {
		if err := ctx.Err(); err != nil {
			return &outcome{}, errors.Join(newError(Timeout, dns.TypeToString[typ], name), err)
		}
		r.mu.Lock()
		if o := r.cache.get(q, r.opt.Now(), since); o != nil {
			r.mu.Unlock()
			r.hits.Add(1)
			return o.result()
		}
		f := r.flights[q]
		if f == nil {
			f = &flight{done: make(chan struct{})}
			r.flights[q] = f
			r.mu.Unlock()
			return r.fly(ctx, q, f).result()
		}
		r.mu.Unlock()
		select {
		case <-f.done:
			if f.o != nil {
				return f.o.result()
			}
		case <-ctx.Done():
		}
	}
}

func (o *outcome) result() (*outcome, error) {
	if o.err != nil {
		return &outcome{}, o.err
	}
	return o, nil
}

// fly asks, keeps the outcome and wakes those who wait for it. When the caller's own
// context ends meanwhile the outcome is his alone.
func (r *Resolver) fly(ctx context.Context, q question, f *flight) (o *outcome) {
	o = &outcome{err: newError(Malformed, dns.TypeToString[q.typ], q.name)} // stays after a panic
	shared := true
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.flights, q)
		if shared {
			f.o = o
			r.cache.put(q, o)
		}
		close(f.done)
	}()
	limited, cancel := context.WithTimeout(ctx, r.opt.Limit)
	defer cancel()
	o = r.ask(limited, q)
	o.asked = r.opt.Now()
	if o.err != nil {
		if ctx.Err() != nil {
			shared = false
		} else if reason := ReasonOf(o.err); reason != NXDomain {
			r.failures.Add(1)
			o.ttl = failTTL
			r.opt.Logger.Debug("lookup failed", "type", dns.TypeToString[q.typ], "name", q.name, "reason", reason.String())
		}
	}
	return o
}

// plain returns a name in lower case without its final dot.
func plain(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// shorten keeps texts that are no names out of errors in full length.
func shorten(name string) string {
	if len(name) > 64 {
		name = name[:64]
	}
	return strconv.QuoteToASCII(name)
}

// validName reports whether a name can be asked for: labels of letters, digits,
// hyphens and underscores. Other octets are legal in the DNS and in no name here.
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	label := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	return label > 0
}

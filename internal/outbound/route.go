package outbound

import (
	"context"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/peers"
	"madmail/internal/policy"
)

// maxHosts is how many hosts of a domain are tried at a time.
const maxHosts = 5

// host is one place where a domain may be reached.
type host struct {
	name  string
	named bool // by the operator
	// ways are fixed targets in their order; nil leaves the order to plan.
	ways []Target
	tls  TLS
}

// Refusals in our own words, with the codes that other servers use for them.
var (
	noMail     = Outcome{Result: Refused, Status: "5.1.10", Reply: "556 5.1.10 The domain accepts no mail"}
	noDomain   = Outcome{Result: Refused, Status: "5.1.2", Reply: "550 5.1.2 The domain does not exist"}
	notAllowed = Outcome{Result: Refused, Status: "5.7.1", Reply: "550 5.7.1 Federation policy rejection"}
	noWay      = Outcome{Result: Refused, Status: "5.7.1", Reply: "550 5.7.1 No transport to this domain is allowed"}
	noHost     = Outcome{Result: Failed, Status: "4.4.4", Reply: "no host of the domain may be used"}
)

// route finds the hosts of a domain, the one to be tried first first. Instead of hosts
// there may be an outcome.
func (w *Worker) route(ctx context.Context, d address.Domain, perm policy.Transports) ([]host, *Outcome) {
	level := Verified
	switch _, literal := d.IP(); {
	case literal:
		level = Opportunistic
	case perm.RelaxedTLS || strings.HasPrefix(string(d), "_"):
		level = AnyCert
	}
	if e, ok := w.opt.Policy.Endpoint(d); ok {
		return []host{w.overridden(d, e, level)}, nil
	}
	hosts, out := w.exchangers(ctx, d, level)
	if rewrite := w.rewrite(); rewrite != nil && perm.HTTPS != policy.Block {
		// One try by HTTP at the place that takes everything, then SMTP to the true one.
		way := *rewrite
		way.Domain = d
		if len(hosts) == 0 {
			return []host{{name: way.Host, named: true, ways: []Target{way}}}, nil
		}
		for i, h := range hosts {
			hosts[i].ways = []Target{{Domain: d, By: peers.SMTP, Host: h.name, TLS: h.tls}}
		}
		hosts[0].ways = append([]Target{way}, hosts[0].ways...)
		return hosts, nil
	}
	return hosts, out
}

// overridden is the one host that the operator named.
func (w *Worker) overridden(d address.Domain, e policy.Endpoint, level Level) host {
	if _, err := netip.ParseAddr(e.Host); err == nil && level == Verified {
		level = AnyCert // an address has no name that a certificate could be for
	}
	h := host{name: e.Host, named: true, tls: TLS{Level: level}}
	t := Target{Domain: d, Host: e.Host, Port: e.Port, Path: e.Path, Named: true, TLS: h.tls}
	smtp := Target{Domain: d, By: peers.SMTP, Host: e.Host, Named: true, TLS: h.tls}
	switch e.Scheme {
	case "smtp":
		smtp.Port = e.Port
		h.ways = []Target{smtp}
	case "http":
		t.By = peers.HTTP
		h.ways = []Target{t, smtp}
	case "https":
		h.ways = []Target{t, smtp}
	default:
		if e.Port != 0 {
			h.ways = []Target{t, smtp}
		}
	}
	return h
}

// exchangers asks the DNS (RFC 5321 section 5.1).
func (w *Worker) exchangers(ctx context.Context, d address.Domain, level Level) ([]host, *Outcome) {
	if ip, ok := d.IP(); ok {
		return []host{{name: ip.String(), tls: TLS{Level: level}}}, nil
	}
	mx, err := w.opt.Resolver.LookupMX(ctx, string(d))
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Invalid):
		return nil, &noDomain
	case err != nil:
		return nil, &Outcome{Result: Failed, Status: "4.4.3", Reply: "no answer about the domain from the DNS"}
	case len(mx) == 0:
		mx = []MX{{Host: string(d)}}
	case mx[0].Host == "" || mx[0].Host == ".":
		return nil, &noMail
	}
	var hosts []host
	var why error
	for _, m := range mx {
		if len(hosts) == maxHosts {
			break
		}
		name := strings.ToLower(strings.TrimSuffix(m.Host, "."))
		if name == "" {
			continue
		}
		h := host{name: name, tls: TLS{Level: level}}
		if _, err := netip.ParseAddr(name); err == nil {
			continue // RFC 5321 section 5.1: an exchanger has a name
		}
		if level == Verified && w.opt.Trust != nil {
			if h.tls, err = w.opt.Trust.TLS(ctx, d, name, 25); err != nil {
				why = err // must not be used, or not now
				continue
			}
		}
		hosts = append(hosts, h)
	}
	if len(hosts) == 0 {
		out := noHost
		if why != nil {
			out.Reply += ": " + reason(why)
		}
		return nil, &out
	}
	return hosts, nil
}

// rewrite is the place that takes everything, from the configuration.
func (w *Worker) rewrite() *Target {
	text := w.opt.Rewrite()
	if text == "" {
		return nil
	}
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	if u, err := url.Parse(text); err != nil || u.Host == "" {
		return nil
	}
	e, err := policy.ParseEndpoint(text)
	if err != nil || e.Scheme == "smtp" {
		return nil
	}
	t := Target{Host: e.Host, Port: e.Port, Path: e.Path, Named: true}
	if e.Scheme == "http" {
		t.By = peers.HTTP
	}
	if _, err := netip.ParseAddr(e.Host); err == nil {
		t.TLS.Level = AnyCert
	}
	return &t
}

// largeBody is the size, in octets, above which a web server with usual settings takes
// no body; official relays have such a one in front.
const largeBody = 1_000_000

// plan returns the ways to a host in the order to be tried.
func plan(d address.Domain, h host, perm policy.Transports, l *Letter, r recalled, now time.Time) []Target {
	allowed := map[peers.Transport]bool{
		peers.HTTPS: perm.HTTPS == policy.Allow && l.ASCII(),
		peers.HTTP:  perm.HTTP == policy.Allow && l.ASCII(),
		peers.SMTP:  perm.SMTP == policy.Allow,
	}
	var ways []Target
	if h.ways != nil {
		for _, t := range h.ways {
			// What the operator named is allowed unless it is blocked by name.
			if allowed[t.By] || t.By == peers.HTTP && perm.HTTPS == policy.Allow && l.ASCII() {
				ways = append(ways, t)
			}
		}
		return ways
	}
	order := []peers.Transport{peers.HTTPS, peers.HTTP, peers.SMTP}
	if r.skipHTTP.After(now) || l.Size() > max(largeBody, r.taken) || r.tooBig > 0 && l.Size() >= r.tooBig {
		order = []peers.Transport{peers.SMTP, peers.HTTPS, peers.HTTP}
	}
	for _, by := range order {
		if allowed[by] {
			ways = append(ways, Target{Domain: d, By: by, Host: h.name, Named: h.named, TLS: h.tls})
		}
	}
	return ways
}

// skipFor is how long a way that led nowhere is tried last.
const skipFor = 30 * time.Minute

// recall is what was learnt about hosts. It is bounded: what is forgotten is learnt again.
type recall struct {
	mu sync.Mutex // guards the field below
	m  map[string]recalled
}

type recalled struct {
	skipHTTP time.Time // until then SMTP comes first
	taken    int64     // largest size taken by HTTPS, in octets
	tooBig   int64     // smallest size that was too large for HTTPS, 0 if none
}

const maxRecalled = 10_000

func (r *recall) get(host string) recalled {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m[host]
}

func (r *recall) change(host string, f func(*recalled)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.m[host]
	f(&v)
	if v == (recalled{}) {
		delete(r.m, host)
		return
	}
	if r.m == nil {
		r.m = make(map[string]recalled)
	}
	if _, known := r.m[host]; !known && len(r.m) >= maxRecalled {
		for k := range r.m { // any
			delete(r.m, k)
			break
		}
	}
	r.m[host] = v
}

// learn takes in what one way to a host gave. failed says that HTTP was tried before at
// this host, in vain.
func (r *recall) learn(t Target, size int64, outs []Outcome, httpFailed bool, now time.Time) {
	var delivered, answered, noService, tooBig bool
	for _, o := range outs {
		delivered = delivered || o.Result == Delivered
		answered = answered || o.Answered
		noService = noService || o.NoService
		tooBig = tooBig || o.TooBig
	}
	r.change(t.Host, func(v *recalled) {
		switch {
		case t.By == peers.SMTP && delivered && httpFailed:
			v.skipHTTP = now.Add(skipFor)
		case t.By == peers.SMTP && !answered:
			v.skipHTTP = time.Time{}
		case t.By == peers.SMTP:
		case delivered:
			v.skipHTTP = time.Time{}
			v.taken = max(v.taken, size)
			if v.tooBig <= size {
				v.tooBig = 0
			}
		case noService:
			v.skipHTTP = now.Add(skipFor)
		case tooBig && (v.tooBig == 0 || size < v.tooBig):
			v.tooBig = size
			v.taken = min(v.taken, size-1)
		}
	})
}

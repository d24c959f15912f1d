package resolve

import (
	"context"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"

	"madmail/internal/dane"
)

// udpSize is the size of answers we take by UDP: large enough for most, small enough
// not to be fragmented.
const udpSize = 1232

// ask finds the records of a question, following aliases that the server did not
// follow itself.
func (r *Resolver) ask(ctx context.Context, q question) *outcome {
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return &outcome{err: newError(Timeout, dns.TypeToString[q.typ], q.name)}
	}
	fail := func(reason Reason) *outcome {
		return &outcome{err: newError(reason, dns.TypeToString[q.typ], q.name)}
	}
	name, ttl, authentic := q.name, maxTTL, true
	for range maxAliases {
		msg, reason := r.exchange(ctx, name, q.typ)
		if msg == nil {
			return fail(reason)
		}
		authentic = authentic && msg.AuthenticatedData && r.conf.Load().trustAD
		rrs, end, aliasTTL, ok := follow(msg.Answer, name, q.typ)
		ttl = min(ttl, aliasTTL)
		switch {
		case !ok:
			return fail(Loop)
		case msg.Rcode == dns.RcodeNameError:
			// It is the last name of a chain that does not exist (RFC 2308 section 2.1).
			return &outcome{err: newError(NXDomain, dns.TypeToString[q.typ], q.name), ttl: min(ttl, negativeTTL(msg.Ns))}
		case len(rrs) > maxRecords:
			return fail(Malformed)
		case len(rrs) > 0:
			for _, rr := range rrs {
				ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
			}
			return &outcome{rrs: rrs, authentic: authentic, ttl: ttl}
		case end == name, hasSOA(msg.Ns):
			return &outcome{authentic: authentic, ttl: min(ttl, negativeTTL(msg.Ns))}
		case !validName(end):
			return fail(Malformed)
		}
		name = end
	}
	return fail(Loop)
}

// follow goes along the aliases in an answer from name on and returns the records of
// type typ at the end, that end, and the shortest life of an alias. ok is false for
// a loop.
func follow(answer []dns.RR, name string, typ uint16) (rrs []dns.RR, end string, ttl time.Duration, ok bool) {
	ttl, end = maxTTL, name
	for range maxAliases + 1 {
		next := ""
		for _, rr := range answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(plain(h.Name), end) {
				continue
			}
			if h.Rrtype == typ {
				rrs = append(rrs, rr)
			} else if c, is := rr.(*dns.CNAME); is && next == "" {
				next = plain(c.Target)
				ttl = min(ttl, time.Duration(h.Ttl)*time.Second)
			}
		}
		if len(rrs) > 0 || next == "" {
			return rrs, end, ttl, true
		}
		if next == name {
			return nil, end, ttl, false
		}
		end = next
	}
	return nil, end, ttl, false
}

func hasSOA(ns []dns.RR) bool {
	for _, rr := range ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			return true
		}
	}
	return false
}

// negativeTTL returns how long "there is none" is true (RFC 2308 section 5): without
// an SOA record only as long as a failure.
func negativeTTL(ns []dns.RR) time.Duration {
	for _, rr := range ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegTTL)
		}
	}
	return failTTL
}

// exchange asks the servers in turn until one knows. msg is nil with a reason.
func (r *Resolver) exchange(ctx context.Context, name string, typ uint16) (*dns.Msg, Reason) {
	reason := Timeout
	c := r.conf.Load()
	for range r.opt.Attempts {
		for _, server := range c.servers {
			if ctx.Err() != nil {
				return nil, reason
			}
			msg, why := r.one(ctx, server, name, typ)
			if msg != nil {
				return msg, NoReason
			}
			// What a server said is worth more than that another was silent.
			if reason == Timeout || reason == Unreachable || why == ServFail {
				reason = why
			}
		}
	}
	return nil, reason
}

// one asks one server, by UDP, and by TCP when the answer does not fit.
func (r *Resolver) one(ctx context.Context, server, name string, typ uint16) (*dns.Msg, Reason) {
	ctx, cancel := context.WithTimeout(ctx, r.opt.Timeout)
	defer cancel()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	m.SetEdns0(udpSize, false)
	m.AuthenticatedData = true // RFC 6840 section 5.7: tell us whether it was validated
	for _, network := range [...]string{"udp", "tcp"} {
		r.queries.Add(1)
		got, err := r.send(ctx, network, server, m)
		if err != nil {
			return nil, reasonFor(err)
		}
		if !answers(m, got) {
			return nil, Malformed
		}
		if got.Truncated {
			if network == "tcp" {
				return nil, Malformed
			}
			m.Id = dns.Id()
			continue
		}
		switch got.Rcode {
		case dns.RcodeSuccess, dns.RcodeNameError:
			return got, NoReason
		case dns.RcodeRefused:
			return nil, Denied
		case dns.RcodeServerFailure:
			return nil, ServFail
		}
		return nil, Malformed
	}
	return nil, Malformed
}

// send makes one exchange on a socket of its own, so that ports are hard to guess.
func (r *Resolver) send(ctx context.Context, network, server string, m *dns.Msg) (*dns.Msg, error) {
	client := &dns.Client{Net: network, Timeout: r.opt.Timeout}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// A context that ends early ends the read: closing twice does no harm.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	got, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	return got, err
}

// answers reports whether got is an answer to m at all.
func answers(m, got *dns.Msg) bool {
	return got != nil && got.Response && len(got.Question) == 1 && got.Question[0].Qtype == m.Question[0].Qtype &&
		got.Question[0].Qclass == m.Question[0].Qclass && strings.EqualFold(got.Question[0].Name, m.Question[0].Name)
}

func reasonFor(err error) Reason {
	var ne net.Error
	var de *dns.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed),
		errors.As(err, &ne) && ne.Timeout():
		return Timeout
	case errors.As(err, &de):
		return Malformed
	}
	return Unreachable
}

// tlsa turns a record into the one that package dane works on.
func tlsa(x *dns.TLSA) (dane.Record, bool) {
	data, err := hex.DecodeString(x.Certificate)
	if err != nil {
		return dane.Record{}, false
	}
	return dane.Record{Usage: dane.Usage(x.Usage), Selector: dane.Selector(x.Selector), Matching: dane.Matching(x.MatchingType), Data: data}, true
}

// unescape undoes the presentation form that the library keeps texts in: \DDD and
// a backslash before a quote or another backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			out = append(out, s[i])
			continue
		}
		if i+3 < len(s) && digit(s[i+1]) && digit(s[i+2]) && digit(s[i+3]) {
			if n := int(s[i+1]-'0')*100 + int(s[i+2]-'0')*10 + int(s[i+3]-'0'); n < 256 {
				out = append(out, byte(n))
				i += 3
				continue
			}
		}
		i++
		out = append(out, s[i])
	}
	return string(out)
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

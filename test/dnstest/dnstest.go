// Package dnstest is a name server for tests, on loopback, by UDP and TCP. It answers
// like a resolver that knows everything: aliases are followed as far as the zone goes.
//
// A zone is text in the form of a master file (RFC 1035 section 5), every name
// complete with or without its final dot, TTL 300 when none is given:
//
//	example.org        MX 10 mx.example.net
//	mx.example.net     AAAA ::1
//	www.example.org    CNAME example.org
//	_25._tcp.mx.example.net TLSA 3 1 1 0123...
//	long.example.org   60 TXT "first piece" "second piece"
//
// Beside record types there are words for trouble, which win over records:
//
//	broken.example.org  SERVFAIL
//	closed.example.org  REFUSED
//	slow.example.org    TIMEOUT      no answer at all
//	big.example.org     TRUNCATE     an answer by TCP only
//	odd.example.org     GARBAGE      octets that are no message
//	other.example.org   WRONG        an answer to another question
//
// and lines that set something for the zone:
//
//	$AD on           answers are marked as validated; also Server.SetAuthentic
//	$CHASE off       an alias is answered without what it points at
//	$NEGATIVE 30     the time to live of "there is none", 60 when not given; 0 leaves out the SOA record
//
// A name that has neither records nor names below it does not exist.
package dnstest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Server is a running name server. Make one with New.
type Server struct {
	t    testing.TB
	addr string

	mu    sync.Mutex // guards the fields below
	asked *sync.Cond // a question was counted
	zone  zone
	count map[string]int
}

type zone struct {
	records   map[string][]dns.RR // by lower-case name with final dot
	trouble   map[string]string
	authentic bool
	chase     bool
	negative  int
}

// New starts a server with a zone and ends it with the test.
func New(t testing.TB, text string) *Server {
	t.Helper()
	s := &Server{t: t}
	s.asked = sync.NewCond(&s.mu)
	s.Set(text)
	udp, tcp := listen(t)
	s.addr = udp.LocalAddr().String()
	var group sync.WaitGroup
	t.Cleanup(group.Wait) // cleanups run in reverse: after the shutdowns
	for _, srv := range []*dns.Server{{PacketConn: udp, Handler: s}, {Listener: tcp, Handler: s}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		group.Go(func() {
			if err := srv.ActivateAndServe(); err != nil {
				t.Error("dnstest:", err)
			}
		})
		<-started
		t.Cleanup(func() {
			if err := srv.Shutdown(); err != nil {
				t.Error("dnstest:", err)
			}
		})
	}
	return s
}

// listen takes one port for both protocols.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	var err error
	for range 20 {
		var udp net.PacketConn
		if udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			break
		}
		var tcp net.Listener
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err == nil {
			return udp, tcp
		}
		_ = udp.Close()
	}
	t.Fatal("dnstest:", err)
	return nil, nil
}

// Addr returns the server's address and port.
func (s *Server) Addr() string { return s.addr }

// Set replaces the zone and the counts.
func (s *Server) Set(text string) {
	s.t.Helper()
	z, err := parse(text)
	if err != nil {
		s.t.Fatal("dnstest:", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone, s.count = z, make(map[string]int)
}

// SetAuthentic says whether answers are marked as validated from now on.
func (s *Server) SetAuthentic(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone.authentic = on
}

// Count returns how many questions for a name and a type ("MX") came since Set, by
// UDP and TCP together.
func (s *Server) Count(name, typ string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[canonical(name)+" "+typ]
}

// Await waits until there was a question for a name and a type since Set.
func (s *Server) Await(name, typ string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.count[canonical(name)+" "+typ] == 0 {
		s.asked.Wait()
	}
}

func canonical(name string) string { return strings.ToLower(dns.Fqdn(name)) }

func parse(text string) (zone, error) {
	z := zone{records: make(map[string][]dns.RR), trouble: make(map[string]string), chase: true, negative: 60}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == ';' || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			return z, fmt.Errorf("%q: too short", line)
		}
		switch f[0] {
		case "$AD":
			z.authentic = f[1] == "on"
			continue
		case "$CHASE":
			z.chase = f[1] == "on"
			continue
		case "$NEGATIVE":
			n, err := strconv.Atoi(f[1])
			if err != nil {
				return z, fmt.Errorf("%q: %w", line, err)
			}
			z.negative = n
			continue
		}
		switch f[1] {
		case "SERVFAIL", "REFUSED", "TIMEOUT", "TRUNCATE", "GARBAGE", "WRONG":
			z.trouble[canonical(f[0])] = f[1]
			continue
		}
		// The library's default TTL is an hour; ours is short and without an origin.
		zp := dns.NewZoneParser(strings.NewReader("$ORIGIN .\n$TTL 300\n"+line+"\n"), "", "")
		rr, ok := zp.Next()
		if !ok {
			return z, fmt.Errorf("%q: %w", line, zp.Err())
		}
		name := canonical(rr.Header().Name)
		z.records[name] = append(z.records[name], rr)
	}
	return z, nil
}

// ServeDNS answers one question.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		return
	}
	name, typ := canonical(q.Question[0].Name), q.Question[0].Qtype
	s.mu.Lock()
	z := s.zone
	s.count[name+" "+dns.TypeToString[typ]]++
	s.asked.Broadcast()
	s.mu.Unlock()

	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable, m.AuthenticatedData = true, z.authentic
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	switch z.trouble[name] {
	case "TIMEOUT":
		return
	case "SERVFAIL":
		m.Rcode = dns.RcodeServerFailure
	case "REFUSED":
		m.Rcode = dns.RcodeRefused
	case "GARBAGE":
		raw := []byte{byte(q.Id >> 8), byte(q.Id), 0x80, 0, 0, 9, 0, 9, 0, 0, 0, 0, 0xff, 0xff}
		_, _ = w.Write(raw)
		return
	case "WRONG":
		m.Question[0].Name = "elsewhere.example."
	case "TRUNCATE":
		if udp {
			m.Truncated = true
			break
		}
		z.answer(m, name, typ)
	default:
		z.answer(m, name, typ)
		if opt := q.IsEdns0(); udp {
			size := dns.MinMsgSize
			if opt != nil {
				size = int(opt.UDPSize())
			}
			m.Truncate(size)
		}
	}
	_ = w.WriteMsg(m)
}

// answer fills in what the zone has, or that it has nothing.
func (z *zone) answer(m *dns.Msg, name string, typ uint16) {
	for range 20 {
		var alias *dns.CNAME
		found := false
		for _, rr := range z.records[name] {
			if rr.Header().Rrtype == typ {
				m.Answer = append(m.Answer, rr)
				found = true
			} else if c, ok := rr.(*dns.CNAME); ok {
				alias = c
			}
		}
		if found {
			return
		}
		if alias == nil {
			break
		}
		m.Answer = append(m.Answer, alias)
		if name = canonical(alias.Target); !z.chase {
			return
		}
	}
	if !z.exists(name) {
		m.Rcode = dns.RcodeNameError
	}
	if z.negative > 0 {
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: uint32(z.negative)},
			Ns: "ns.example.", Mbox: "hostmaster.example.", Minttl: uint32(z.negative)}}
	}
}

func (z *zone) exists(name string) bool {
	for n := range z.records {
		if n == name || strings.HasSuffix(n, "."+name) {
			return true
		}
	}
	return false
}

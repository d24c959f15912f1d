package resolve

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"madmail/internal/dane"
	"madmail/internal/fault"
	"madmail/test/dnstest"
)

const testZone = `
example.org           MX 20 mx2.example.net
example.org           MX 10 MX1.Example.NET
example.org           A 192.0.2.1
mx1.example.net       A 192.0.2.10
mx1.example.net       AAAA 2001:db8::10
six.example.net       AAAA 2001:db8::6
null.example.org      MX 0 .
null2.example.org     MX 0 .
null2.example.org     MX 5 mx1.example.net
nomx.example.org      A 192.0.2.2
odd.example.org       MX 10 a\ b.example.net
www.example.org       CNAME web.example.org
web.example.org       CNAME example.org
dangling.example.org  CNAME gone.example.org
loop1.example.org     CNAME loop2.example.org
loop2.example.org     CNAME loop1.example.org
s._domainkey.example.org TXT "v=DKIM1; p=AB" "CD" 
special.example.org   TXT "quote \" backslash \\ octet \200 semi;colon"
two.example.org       TXT "one"
two.example.org       TXT "two"
_25._tcp.mx1.example.net TLSA 3 1 1 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
short.example.org     0 A 192.0.2.3
one.example.org       1 A 192.0.2.4
broken.example.org    SERVFAIL
closed.example.org    REFUSED
slow.example.org      TIMEOUT
garbage.example.org   GARBAGE
wrong.example.org     WRONG
big.example.org       A 192.0.2.5
big.example.org       TRUNCATE
half.example.org      A 192.0.2.6
`

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

func start(t *testing.T, opt Options) (*Resolver, *dnstest.Server, *clock) {
	t.Helper()
	s := dnstest.New(t, testZone)
	c := &clock{now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	if len(opt.Servers) == 0 {
		opt.Servers = []string{s.Addr()}
	}
	opt.Now = c.Now
	r, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return r, s, c
}

func TestLookupMX(t *testing.T) {
	r, _, _ := start(t, Options{})
	for _, c := range []struct {
		domain, want string
		reason       Reason
	}{
		{"example.org", "[{mx1.example.net 10} {mx2.example.net 20}]", NoReason},
		{"Example.ORG.", "[{mx1.example.net 10} {mx2.example.net 20}]", NoReason},
		{"www.example.org", "[{mx1.example.net 10} {mx2.example.net 20}]", NoReason},
		{"null.example.org", "[{ 0}]", NoReason},
		{"null2.example.org", "[{mx1.example.net 5}]", NoReason},
		{"nomx.example.org", "[]", NoReason},
		{"_domainkey.example.org", "[]", NoReason}, // has names below it
		{"odd.example.org", "[]", Malformed},
		{"gone.example.org", "[]", NXDomain},
		{"dangling.example.org", "[]", NXDomain},
		{"loop1.example.org", "[]", Loop},
		{"broken.example.org", "[]", ServFail},
		{"closed.example.org", "[]", Denied},
		{"garbage.example.org", "[]", Malformed},
		{"wrong.example.org", "[]", Malformed},
		{"", "[]", BadName},
		{".", "[]", BadName},
		{"a..b", "[]", BadName},
		{"a b.example.org", "[]", BadName},
		{"[192.0.2.1]", "[]", BadName},
		{"bücher.example", "[]", BadName},
		{strings.Repeat("a", 64) + ".org", "[]", BadName},
		{strings.Repeat("abcdefg.", 32) + "org", "[]", BadName},
	} {
		a, err := r.LookupMX(t.Context(), c.domain)
		if got := fmt.Sprint(a.Records); got != c.want || ReasonOf(err) != c.reason || (err == nil) != (c.reason == NoReason) {
			t.Errorf("%q: %s %v, want %s %v", c.domain, got, err, c.want, c.reason)
		}
		if err != nil && !fault.Is(err, reasons[c.reason].kind) {
			t.Errorf("%q: kind %v", c.domain, fault.KindOf(err))
		}
	}
}

func TestEqualPreferencesTakeTurns(t *testing.T) {
	r, s, _ := start(t, Options{})
	s.Set("x.org MX 10 a.x.org\nx.org MX 10 b.x.org\n")
	first := make(map[string]bool)
	for range 200 {
		a, err := r.LookupMX(t.Context(), "x.org")
		if err != nil || len(a.Records) != 2 {
			t.Fatal(a, err)
		}
		first[a.Records[0].Host] = true
	}
	if len(first) != 2 {
		t.Error(first)
	}
}

func TestLookupAddr(t *testing.T) {
	r, s, _ := start(t, Options{})
	s.Set(testZone + "v4.example.org A 192.0.2.7\n")
	for host, want := range map[string]string{
		"mx1.example.net": "[2001:db8::10 192.0.2.10]", "six.example.net": "[2001:db8::6]", "v4.example.org": "[192.0.2.7]",
		"www.example.org": "[192.0.2.1]", "192.0.2.9": "[192.0.2.9]", "[2001:db8::9]": "[2001:db8::9]", "::ffff:192.0.2.9": "[192.0.2.9]",
		"null.example.org": "[]", "localhost": "[::1 127.0.0.1]", "a.Localhost.": "[::1 127.0.0.1]",
	} {
		a, err := r.LookupAddr(t.Context(), host)
		if got := fmt.Sprint(a.Records); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", host, got, err, want)
		}
	}
	for host, want := range map[string]Reason{"gone.example.org": NXDomain, "broken.example.org": ServFail, "a b": BadName} {
		if _, err := r.LookupAddr(t.Context(), host); ReasonOf(err) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
	if a, err := r.LookupA(t.Context(), "mx1.example.net"); err != nil || fmt.Sprint(a.Records) != "[192.0.2.10]" {
		t.Error(a, err)
	}
	if a, err := r.LookupAAAA(t.Context(), "mx1.example.net"); err != nil || fmt.Sprint(a.Records) != "[2001:db8::10]" {
		t.Error(a, err)
	}
}

func TestLookupTXT(t *testing.T) {
	r, s, _ := start(t, Options{})
	for name, want := range map[string][]string{
		"s._domainkey.example.org": {"v=DKIM1; p=ABCD"},
		"special.example.org":      {"quote \" backslash \\ octet \xc8 semi;colon"},
		"two.example.org":          {"one", "two"},
		"nomx.example.org":         nil,
	} {
		a, err := r.LookupTXT(t.Context(), name)
		slices.Sort(a.Records)
		if err != nil || !slices.Equal(a.Records, want) {
			t.Errorf("%s: %q %v", name, a.Records, err)
		}
	}
	var huge strings.Builder
	for i := range 63 {
		fmt.Fprintf(&huge, "huge.example.org TXT \"%d%s\" \"%s\"\n", i, strings.Repeat("x", 200), strings.Repeat("y", 200))
	}
	s.Set(huge.String())
	if _, err := r.LookupTXT(t.Context(), "huge.example.org"); ReasonOf(err) != Malformed {
		t.Error("huge:", err)
	}
}

func TestLookupTLSA(t *testing.T) {
	r, s, _ := start(t, Options{})
	a, err := r.LookupTLSA(t.Context(), 25, "mx1.example.net")
	if err != nil || len(a.Records) != 1 || a.Records[0].Usage != dane.EndEntity || a.Records[0].Selector != dane.PublicKey || !a.Records[0].Usable() || a.Authentic {
		t.Errorf("%+v %v", a, err)
	}
	s.SetAuthentic(true)
	if err := r.Reload(); err != nil {
		t.Fatal(err)
	}
	if a, err = r.LookupTLSA(t.Context(), 25, "mx1.example.net"); err != nil || !a.Authentic {
		t.Errorf("%+v %v", a, err)
	}
}

func TestAuthenticNeedsEveryPart(t *testing.T) {
	r, s, _ := start(t, Options{})
	s.Set("$AD on\n$CHASE off\n" + testZone)
	a, err := r.LookupMX(t.Context(), "www.example.org")
	if err != nil || !a.Authentic || len(a.Records) != 2 {
		t.Errorf("%+v %v", a, err)
	}
	if s.Count("example.org", "MX") != 1 || s.Count("web.example.org", "MX") != 1 {
		t.Error("aliases were not followed by questions")
	}
	if _, err := r.LookupMX(t.Context(), "loop1.example.org"); ReasonOf(err) != Loop {
		t.Error(err)
	}
	if a, err := r.LookupAddr(t.Context(), "mx1.example.net"); err != nil || !a.Authentic {
		t.Error(a, err)
	}
	if a, err := r.LookupMX(t.Context(), "nomx.example.org"); err != nil || !a.Authentic {
		t.Error("an empty answer:", a, err)
	}
	// The bit means nothing when it came over a network that others can write to.
	r.conf.Store(&conf{servers: []string{s.Addr()}})
	r.cache.clear()
	if a, err := r.LookupMX(t.Context(), "www.example.org"); err != nil || a.Authentic {
		t.Errorf("%+v %v", a, err)
	}
}

func TestLongAnswersComeByTCP(t *testing.T) {
	r, s, _ := start(t, Options{})
	if a, err := r.LookupA(t.Context(), "big.example.org"); err != nil || len(a.Records) != 1 {
		t.Error(a, err)
	}
	if n := s.Count("big.example.org", "A"); n != 2 {
		t.Error(n, "questions")
	}
	var many strings.Builder
	for i := range maxRecords + 1 {
		fmt.Fprintf(&many, "many.example.org AAAA 2001:db8::%x\n", i)
		if i < maxRecords {
			fmt.Fprintf(&many, "full.example.org AAAA 2001:db8::%x\n", i)
		}
	}
	s.Set(many.String())
	if a, err := r.LookupAAAA(t.Context(), "full.example.org"); err != nil || len(a.Records) != maxRecords {
		t.Error(len(a.Records), err)
	}
	if _, err := r.LookupAAAA(t.Context(), "many.example.org"); ReasonOf(err) != Malformed {
		t.Error(err)
	}
}

func TestAnswersAreKeptForTheirTime(t *testing.T) {
	r, s, c := start(t, Options{})
	ask := func(host string, want Reason) {
		t.Helper()
		if _, err := r.LookupA(t.Context(), host); ReasonOf(err) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
	count := func(host string, want int) {
		t.Helper()
		if got := s.Count(host, "A"); got != want {
			t.Errorf("%s: asked %d times, want %d", host, got, want)
		}
	}
	for range 3 {
		ask("example.org", NoReason)
		ask("gone.example.org", NXDomain)
		ask("null.example.org", NoReason)
		ask("short.example.org", NoReason)
	}
	count("example.org", 1)
	count("gone.example.org", 1) // an absent name
	count("null.example.org", 1) // an absent type
	count("short.example.org", 3)
	ask("broken.example.org", ServFail)
	asked := s.Count("broken.example.org", "A")
	ask("broken.example.org", ServFail)
	count("broken.example.org", asked)
	c.add(failTTL)
	ask("broken.example.org", ServFail)
	count("broken.example.org", 2*asked)
	c.add(60 * time.Second)
	ask("gone.example.org", NXDomain)
	ask("example.org", NoReason)
	count("gone.example.org", 2)
	count("example.org", 1)
	c.add(300 * time.Second)
	ask("example.org", NoReason)
	count("example.org", 2)
	// A zone that gives no life to its negative answers is still asked not too often.
	s.Set("$NEGATIVE 0\n")
	ask("nowhere.example.org", NXDomain)
	ask("nowhere.example.org", NXDomain)
	count("nowhere.example.org", 1)
	if st := r.Stats(); st.Hits == 0 || st.Lookups <= st.Hits || st.Failures == 0 || st.Entries == 0 || st.Bytes == 0 {
		t.Errorf("%+v", st)
	}
}

func TestFreshAnswers(t *testing.T) {
	r, s, c := start(t, Options{})
	since := func(d time.Duration) string {
		t.Helper()
		a, err := r.LookupTXTSince(t.Context(), "s._domainkey.example.org", c.Now().Add(-d))
		if err != nil || len(a.Records) != 1 {
			t.Fatal(a, err)
		}
		return a.Records[0]
	}
	since(time.Hour)
	s.Set(`s._domainkey.example.org TXT "new"`)
	if got := since(time.Minute); got != "v=DKIM1; p=ABCD" {
		t.Error("asked again at once:", got)
	}
	c.add(61 * time.Second)
	if got := since(time.Hour); got != "v=DKIM1; p=ABCD" {
		t.Error("not from the cache:", got)
	}
	if got := since(time.Minute); got != "new" {
		t.Error("not fresh:", got)
	}
	if a, err := r.TXT(t.Context(), "s._domainkey.example.org"); err != nil || a[0] != "new" {
		t.Error("the fresh answer was not kept:", a, err)
	}
	s.Set(`s._domainkey.example.org TXT "newer"`)
	if a, err := r.FreshTXT(t.Context(), "s._domainkey.example.org"); err != nil || a[0] != "new" {
		t.Error("not of the last minute:", a, err)
	}
	c.add(freshness + time.Second)
	if a, err := r.FreshTXT(t.Context(), "s._domainkey.example.org"); err != nil || a[0] != "newer" {
		t.Error(a, err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	r, _, _ := start(t, Options{CacheEntries: 10})
	for i := range 50 {
		_, _ = r.LookupA(t.Context(), fmt.Sprintf("n%d.example.org", i))
	}
	if st := r.Stats(); st.Entries != 10 {
		t.Errorf("%+v", st)
	}
	c := newCache(1000, 16*1000)
	now := time.Now()
	for i := range 1000 {
		c.put(question{fmt.Sprint(i), 1}, &outcome{asked: now, ttl: time.Hour})
		if c.bytes > 16*1000 || len(c.entries) != c.order.Len() {
			t.Fatal(c.bytes, len(c.entries), c.order.Len())
		}
	}
	if c.get(question{"999", 1}, now, time.Time{}) == nil || c.get(question{"0", 1}, now, time.Time{}) != nil {
		t.Error("the oldest goes first")
	}
	for el := c.order.Front(); el != nil; el = c.order.Front() {
		c.remove(el)
	}
	if c.bytes != 0 || len(c.entries) != 0 {
		t.Error(c.bytes)
	}
}

func TestSilentServersAreGivenUp(t *testing.T) {
	silent := dnstest.New(t, "example.org TIMEOUT\nslow.example.org TIMEOUT\n")
	good := dnstest.New(t, testZone)
	r, err := New(Options{Servers: []string{silent.Addr(), good.Addr()}, Timeout: 30 * time.Millisecond, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := r.LookupMX(t.Context(), "example.org"); err != nil || len(a.Records) != 2 {
		t.Error("the second server:", a, err)
	}
	if _, err := r.LookupMX(t.Context(), "slow.example.org"); ReasonOf(err) != Timeout || !fault.Is(err, fault.Busy) {
		t.Error(err)
	}
	broken := dnstest.New(t, "example.org SERVFAIL\n")
	if r, err = New(Options{Servers: []string{broken.Addr(), good.Addr()}}); err != nil {
		t.Fatal(err)
	}
	if a, err := r.LookupMX(t.Context(), "example.org"); err != nil || len(a.Records) != 2 {
		t.Error("after a failure:", a, err)
	}
	if r, err = New(Options{Servers: []string{broken.Addr()}, Limit: time.Nanosecond}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.LookupMX(t.Context(), "example.org"); ReasonOf(err) != Timeout {
		t.Error("limit:", err)
	}
}

func TestACallerWhoLeavesSpoilsNothing(t *testing.T) {
	r, s, _ := start(t, Options{Timeout: time.Minute, Limit: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { // ends with cancel
		_, err := r.LookupA(ctx, "slow.example.org")
		left <- err
	}()
	s.Await("slow.example.org", "A")
	stays := make(chan error, 1)
	go func() { // ends with the answer
		_, err := r.LookupA(t.Context(), "slow.example.org")
		stays <- err
	}()
	s.Set("slow.example.org A 192.0.2.1\n")
	cancel()
	if err := <-left; ReasonOf(err) != Timeout {
		t.Error(err)
	}
	if err := <-stays; err != nil {
		t.Error(err)
	}
	if _, err := r.LookupA(ctx, "other.example.org"); ReasonOf(err) != Timeout {
		t.Error("with a context that ended:", err)
	}
}

func TestOneQuestionAtATime(t *testing.T) {
	r, s, _ := start(t, Options{InFlight: 2})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if a, err := r.LookupMX(t.Context(), "example.org"); err != nil || len(a.Records) != 2 {
				t.Error(a, err)
			}
		})
	}
	wg.Wait()
	if n := s.Count("example.org", "MX"); n != 1 {
		t.Error(n)
	}
}

func TestServersOfResolvConf(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		trust            bool
	}{
		{"empty", "", "[127.0.0.1:53 [::1]:53]", false},
		{"usual", "# c\nsearch a b\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions edns0 trust-ad\n", "[192.0.2.1:53 [2001:db8::1]:53]", true},
		{"zone and nonsense", "nameserver fe80::1%eth0\nnameserver hello\nnameserver\noptions\n", "[[fe80::1%eth0]:53]", false},
		{"many", strings.Repeat("nameserver 192.0.2.1\n", 20), fmt.Sprint(slices.Repeat([]string{"192.0.2.1:53"}, maxServers)), false},
	} {
		got, err := parseConf(strings.NewReader(c.text))
		if err != nil || fmt.Sprint(got.servers) != c.want || got.trustAD != c.trust {
			t.Errorf("%s: %+v %v", c.name, got, err)
		}
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	r, err := New(Options{Conf: path})
	if err != nil {
		t.Fatal(err)
	}
	if s, trusted := r.Servers(); fmt.Sprint(s) != "[127.0.0.1:53 [::1]:53]" || !trusted {
		t.Error(s, trusted)
	}
	if err := os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(); err != nil {
		t.Fatal(err)
	}
	if s, trusted := r.Servers(); fmt.Sprint(s) != "[192.0.2.1:53]" || trusted {
		t.Error(s, trusted)
	}
	for _, s := range []string{"", "dns.example.org", "192.0.2.1:0", "192.0.2.1:70000", "192.0.2.1:x", "a:53"} {
		if _, err := New(Options{Servers: []string{s}}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := New(Options{Servers: slices.Repeat([]string{"192.0.2.1"}, maxServers+1)}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if _, err := New(Options{Conf: t.TempDir()}); !fault.Is(err, fault.Invalid) {
		t.Error("a directory:", err)
	}
	for s, want := range map[string]string{"[::1]:5353": "[::1]:5353", "::1": "[::1]:53", "[::1]": "[::1]:53", "127.0.0.1:5353": "127.0.0.1:5353"} {
		if got, err := serverAddr(s); err != nil || got != want {
			t.Error(s, got, err)
		}
	}
}

func FuzzConf(f *testing.F) {
	f.Add("nameserver 192.0.2.1\noptions trust-ad\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseConf(strings.NewReader(text))
		if err != nil {
			return
		}
		if len(c.servers) == 0 || len(c.servers) > maxServers {
			t.Error(c.servers)
		}
		for _, s := range c.servers {
			if _, err := netip.ParseAddrPort(s); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzAnswer gives what a name server may send to everything that reads it.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{"a.org. 300 IN MX 10 b.org.", "a.org. 300 IN TXT \"x\\200\"", "a.org. 1 IN CNAME a.org.", "_25._tcp.a.org. 1 IN TLSA 3 1 1 00ff"} {
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		m := new(dns.Msg)
		m.SetQuestion(rr.Header().Name, rr.Header().Rrtype)
		m.Response = true
		m.Answer = []dns.RR{rr}
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	r, err := New(Options{Servers: []string{"127.0.0.1:9"}, Limit: time.Nanosecond}) // asks nobody
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := new(dns.Msg)
		if err := m.Unpack(raw); err != nil || len(m.Question) != 1 {
			return
		}
		q := question{plain(m.Question[0].Name), m.Question[0].Qtype}
		if !validName(q.name) {
			return
		}
		rrs, _, ttl, _ := follow(m.Answer, q.name, q.typ)
		o := &outcome{rrs: rrs, ttl: min(ttl, negativeTTL(m.Ns)), asked: r.opt.Now()}
		r.mu.Lock()
		r.cache.put(q, &outcome{rrs: rrs, ttl: time.Hour, asked: r.opt.Now()})
		r.mu.Unlock()
		_ = addrs(o)
		if q.typ == dns.TypeTXT && len(rrs) > 0 {
			_, _ = r.LookupTXT(t.Context(), q.name)
		}
		if q.typ == dns.TypeMX && len(rrs) > 0 {
			if a, err := r.LookupMX(t.Context(), q.name); err == nil {
				for _, mx := range a.Records {
					if mx.Host != "" && !validName(mx.Host) {
						t.Error(mx)
					}
				}
			}
		}
	})
}

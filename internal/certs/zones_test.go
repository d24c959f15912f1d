//go:build unix

package certs

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/test/pebble"
	"madmail/test/testport"
)

// provider answers as a script says, and writes down what it is asked.
type provider struct {
	mu      sync.Mutex // guards the fields below
	answers map[string]string
	asked   []string
	auth    []string
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	line := strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + strings.TrimPrefix(string(body), "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"))
	p.mu.Lock()
	p.asked, p.auth = append(p.asked, line), append(p.auth, r.Header.Get("Authorization"))
	answer, ok := p.answers[r.Method+" "+r.URL.RequestURI()]
	p.mu.Unlock()
	if !ok {
		http.Error(w, `{"error":"not here"}`, http.StatusNotFound)
		return
	}
	_, _ = io.WriteString(w, answer)
}

// TestProviders: what each of them is asked, as its documents say it. The name lies two
// levels below its zone, and other values stay.
func TestProviders(t *testing.T) {
	const name, value = "_acme-challenge.mail.example.org", "v4lue"
	r53 := func(action, records string) string {
		return `POST /hostedzone/Z1/rrset <ChangeResourceRecordSetsRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ChangeBatch><Changes><Change><Action>` + action +
			`</Action><ResourceRecordSet><Name>_acme-challenge.mail.example.org.</Name><Type>TXT</Type><TTL>300</TTL><ResourceRecords>` + records +
			`</ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>`
	}
	const v4, other = `<ResourceRecord><Value>&#34;v4lue&#34;</Value></ResourceRecord>`, `<ResourceRecord><Value>&#34;other&#34;</Value></ResourceRecord>`
	for who, x := range map[string]struct {
		token       string
		answers     map[string]string
		add, remove []string
	}{
		"cloudflare": {"t0ken", map[string]string{
			"GET /zones?name=mail.example.org": `{"result":[]}`, "GET /zones?name=example.org": `{"result":[{"id":"z1"}]}`,
			"POST /zones/z1/dns_records": `{"result":{"id":"r1"}}`, "DELETE /zones/z1/dns_records/r1": `{}`,
		}, []string{
			"GET /zones?name=mail.example.org", "GET /zones?name=example.org",
			`POST /zones/z1/dns_records {"content":"\"v4lue\"","name":"_acme-challenge.mail.example.org","ttl":300,"type":"TXT"}`,
		}, []string{"DELETE /zones/z1/dns_records/r1"}},
		"digitalocean": {"t0ken", map[string]string{
			"POST /domains/example.org/records": `{"domain_record":{"id":28448429}}`, "DELETE /domains/example.org/records/28448429": ``,
		}, []string{
			`POST /domains/mail.example.org/records {"data":"v4lue","name":"_acme-challenge","ttl":300,"type":"TXT"}`,
			`POST /domains/example.org/records {"data":"v4lue","name":"_acme-challenge.mail","ttl":300,"type":"TXT"}`,
		}, []string{"DELETE /domains/example.org/records/28448429"}},
		"vultr": {"t0ken", map[string]string{
			"POST /domains/example.org/records": `{"record":{"id":"cb67"}}`, "DELETE /domains/example.org/records/cb67": ``,
		}, []string{
			`POST /domains/mail.example.org/records {"data":"\"v4lue\"","name":"_acme-challenge","ttl":300,"type":"TXT"}`,
			`POST /domains/example.org/records {"data":"\"v4lue\"","name":"_acme-challenge.mail","ttl":300,"type":"TXT"}`,
		}, []string{"DELETE /domains/example.org/records/cb67"}},
		"hetzner": {"t0ken", map[string]string{
			"POST /zones/example.org/rrsets/_acme-challenge.mail/TXT/actions/add_records":    `{}`,
			"POST /zones/example.org/rrsets/_acme-challenge.mail/TXT/actions/remove_records": `{}`,
		}, []string{
			`POST /zones/mail.example.org/rrsets/_acme-challenge/TXT/actions/add_records {"records":[{"value":"\"v4lue\""}],"ttl":300}`,
			`POST /zones/example.org/rrsets/_acme-challenge.mail/TXT/actions/add_records {"records":[{"value":"\"v4lue\""}],"ttl":300}`,
		}, []string{
			`POST /zones/mail.example.org/rrsets/_acme-challenge/TXT/actions/remove_records {"records":[{"value":"\"v4lue\""}]}`,
			`POST /zones/example.org/rrsets/_acme-challenge.mail/TXT/actions/remove_records {"records":[{"value":"\"v4lue\""}]}`,
		}},
		"gandi": {"t0ken", map[string]string{
			"GET /domains/example.org": `{}`, "GET /domains/example.org/records/_acme-challenge.mail/TXT": `{"rrset_values":["\"other\""]}`,
			"PUT /domains/example.org/records/_acme-challenge.mail/TXT": `{}`,
		}, []string{
			"GET /domains/mail.example.org", "GET /domains/example.org", "GET /domains/example.org/records/_acme-challenge.mail/TXT",
			`PUT /domains/example.org/records/_acme-challenge.mail/TXT {"rrset_values":["\"other\"","\"v4lue\""],"rrset_ttl":300}`,
		}, []string{
			"GET /domains/mail.example.org", "GET /domains/example.org", "GET /domains/example.org/records/_acme-challenge.mail/TXT",
			`PUT /domains/example.org/records/_acme-challenge.mail/TXT {"rrset_values":["\"other\""],"rrset_ttl":300}`,
		}},
		"route53": {"AKID:s3cret", map[string]string{
			"GET /hostedzonesbyname?dnsname=mail.example.org": `<L><HostedZones><HostedZone><Id>/hostedzone/Z9</Id><Name>zzz.org.</Name></HostedZone></HostedZones></L>`,
			"GET /hostedzonesbyname?dnsname=example.org":      `<L><HostedZones><HostedZone><Id>/hostedzone/Z1</Id><Name>example.org.</Name></HostedZone></HostedZones></L>`,
			"GET /hostedzone/Z1/rrset?maxitems=1&name=_acme-challenge.mail.example.org&type=TXT": `<L><ResourceRecordSets><ResourceRecordSet><Name>_acme-challenge.mail.example.org.</Name>` +
				`<Type>TXT</Type><TTL>300</TTL><ResourceRecords><ResourceRecord><Value>"other"</Value></ResourceRecord></ResourceRecords></ResourceRecordSet></ResourceRecordSets></L>`,
			"POST /hostedzone/Z1/rrset": `<C/>`,
		}, []string{
			"GET /hostedzonesbyname?dnsname=mail.example.org", "GET /hostedzonesbyname?dnsname=example.org",
			"GET /hostedzone/Z1/rrset?maxitems=1&name=_acme-challenge.mail.example.org&type=TXT", r53("UPSERT", other+v4),
		}, []string{
			"GET /hostedzonesbyname?dnsname=mail.example.org", "GET /hostedzonesbyname?dnsname=example.org",
			"GET /hostedzone/Z1/rrset?maxitems=1&name=_acme-challenge.mail.example.org&type=TXT", r53("UPSERT", other),
		}},
	} {
		t.Run(who, func(t *testing.T) {
			p := &provider{answers: x.answers}
			srv := httptest.NewServer(p)
			defer srv.Close()
			z, err := OpenZone(ZoneOptions{Provider: who, Token: x.token, API: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			if err := z.Add(t.Context(), name, value); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.asked, x.add) {
				t.Errorf("add:\n%s\nwant\n%s", strings.Join(p.asked, "\n"), strings.Join(x.add, "\n"))
			}
			for _, a := range p.auth {
				if who != "route53" && a != "Bearer t0ken" || who == "route53" && !strings.HasPrefix(a, "AWS4-HMAC-SHA256 Credential=AKID/") {
					t.Errorf("authorisation %q", a)
				}
			}
			p.asked = nil
			if err := z.Remove(t.Context(), name, value); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.asked, x.remove) {
				t.Errorf("remove:\n%s\nwant\n%s", strings.Join(p.asked, "\n"), strings.Join(x.remove, "\n"))
			}
			if err := z.Add(t.Context(), "_acme-challenge.elsewhere.net", value); !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
				t.Errorf("no zone: %v", err)
			}
		})
	}
}

// TestSignatures takes the vector "get-vanilla" of the suite for Signature Version 4.
func TestSignatures(t *testing.T) {
	req, err := http.NewRequest(http.MethodGet, "https://example.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	sign(req, nil, "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "service", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
	want := "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
	if got := req.Header.Get("Authorization"); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestProvidersThatCannotBe(t *testing.T) {
	for _, o := range []ZoneOptions{
		{Provider: "namecheap", Token: "x"}, {Provider: "cloudflare"}, {Provider: "route53", Token: "secret-alone"},
		{Provider: "rfc2136"}, {Provider: "rfc2136", Server: "127.0.0.1", Token: "md5:a:b"}, {Provider: "rfc2136", Server: "127.0.0.1", Token: "x"},
	} {
		_, err := OpenZone(o)
		if !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("%+v: %v", o, err)
		}
		if o.Provider == "namecheap" && !strings.Contains(fault.HintOf(err), strings.Join(Providers(), ", ")) {
			t.Errorf("%q does not list what there is", fault.HintOf(err))
		}
	}
	// The configuration takes the same ones.
	for _, p := range Providers() {
		text := fmt.Sprintf("tls_mode = \"acme\"\nacme_dns_provider = %q\nacme_dns_server = \"127.0.0.1:53\"\n", p)
		if _, problems := config.Parse("c.toml", []byte(text)); len(problems) > 0 {
			t.Errorf("%s: %v", p, problems)
		}
	}
}

// zoneServer is a name server that takes signed updates of example.org.
type zoneServer struct {
	mu    sync.Mutex // guards the field below
	texts map[string][]string
	all   []string // that were ever there
}

const zoneSecret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="

func (z *zoneServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	name := strings.ToLower(q.Question[0].Name)
	switch {
	case q.Opcode == dns.OpcodeUpdate && (q.IsTsig() == nil || w.TsigStatus() != nil):
		m.Rcode = dns.RcodeNotAuth
	case q.Opcode == dns.OpcodeUpdate:
		for _, rr := range q.Ns {
			txt, ok := rr.(*dns.TXT)
			if !ok {
				continue
			}
			n := strings.ToLower(txt.Hdr.Name)
			if txt.Hdr.Class == dns.ClassNONE {
				z.texts[n] = slices.DeleteFunc(z.texts[n], func(v string) bool { return v == txt.Txt[0] })
			} else {
				z.texts[n], z.all = append(z.texts[n], txt.Txt[0]), append(z.all, txt.Txt[0])
			}
		}
	case q.Question[0].Qtype == dns.TypeSOA && name == "example.org.":
		m.Answer = append(m.Answer, &dns.SOA{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}, Ns: "ns.example.org.", Mbox: "x.example.org."})
	case q.Question[0].Qtype == dns.TypeTXT:
		for _, v := range z.texts[name] {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{v}})
		}
	}
	if t := q.IsTsig(); t != nil && w.TsigStatus() == nil {
		m.SetTsig(t.Hdr.Name, t.Algorithm, 300, time.Now().Unix())
	}
	_ = w.WriteMsg(m) // whoever went away does not matter
}

func (z *zoneServer) start(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l}, {PacketConn: pc}} {
		s.Handler, s.TsigSecret = z, map[string]string{"key.": zoneSecret}
		s.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept } // updates, too
		started, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
	return l.Addr().String()
}

// TestAWildcardIsObtainedByUpdates: DNS-01 from end to end, against a name server that
// takes signed updates.
func TestAWildcardIsObtainedByUpdates(t *testing.T) {
	z := &zoneServer{texts: map[string][]string{"_acme-challenge.example.org.": {"other"}}}
	addr := z.start(t)
	ports, dir := testport.Ports(t, 2), t.TempDir()
	ca := pebble.New(t, pebble.Options{HTTPPort: ports[0], TLSPort: ports[1], DNS: addr})
	d := &desk{ca: ca, ACME: NewACME(dir, nil, nil)}
	d.lookup = func(ctx context.Context, name string) ([]string, error) {
		z.mu.Lock()
		defer z.mu.Unlock()
		return slices.Clone(z.texts[name]), nil
	}
	d.Order = Order{Directory: ca.Directory, RootCA: ca.RootCA, Names: []string{"example.org", "*.example.org"}}
	d.Cert, d.Key = DefaultPaths(dir)
	var err error
	if d.Zone, err = OpenZone(ZoneOptions{Provider: "rfc2136", Server: addr, Token: "key:" + base64.StdEncoding.EncodeToString([]byte("another secret"))}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Obtain(t.Context(), d.Order); err == nil {
		t.Error("another key was good enough")
	}
	if d.Zone, err = OpenZone(ZoneOptions{Provider: "rfc2136", Server: addr, Token: "hmac-sha256:key:" + zoneSecret}); err != nil {
		t.Fatal(err)
	}
	if action, err := d.Obtain(t.Context(), d.Order); err != nil || action != Issued {
		t.Fatalf("%q, %v", action, err)
	}
	if leaf, _, err := Inspect(d.Cert, d.Key); err != nil || leaf.VerifyHostname("any.example.org") != nil || leaf.VerifyHostname("example.org") != nil {
		t.Errorf("%v", err)
	}
	if got := z.texts["_acme-challenge.example.org."]; !slices.Equal(got, []string{"other"}) {
		t.Errorf("what stays in the zone: %q", got)
	}
	if len(z.all) != 2 || len(z.all[0]) != base64.RawURLEncoding.EncodedLen(sha256.Size) {
		t.Errorf("challenges: %q", z.all)
	}
	if action, err := d.Obtain(t.Context(), d.Order); err != nil || action != Skipped {
		t.Errorf("a good one: %q, %v", action, err)
	}
}

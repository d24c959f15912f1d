//go:build interop && linux

package interop

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/mail"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"madmail/test/dnstest"
	"madmail/test/load"
	"madmail/test/testserver"
)

// The machine that the test lives in has these addresses and no network.
const (
	hereIP  = "198.18.0.2"
	thereIP = "198.18.0.3"
	there6  = "fd00::3"
	deadIP  = "198.18.0.9" // of nobody
)

const inside = "MADMAIL_TEST_NETWORK"

// inNetwork runs the calling test once more, in a network of its own, and reports
// whether this is that run.
func inNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"=1", "MADMAIL_BINARY="+testserver.Binary(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Fatal(err)
	}
	return false
}

// TestNames plays two servers of ours with names, certificates and keys on the usual
// ports, in a network of its own: the DNS says where mail goes, the test is the DNS.
func TestNames(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	ip := tool(t, "ip", "iproute2")
	for _, args := range []string{"link set lo up", "addr add " + hereIP + "/32 dev lo", "addr add " + thereIP + "/32 dev lo", "-6 addr add " + there6 + "/128 dev lo nodad"} {
		run(t, "", ip, strings.Fields(args)...)
	}
	w := startWorld(t)
	for _, c := range []struct {
		name string
		test func(*world)
	}{
		{"the exchanger is another host", (*world).anotherHost},
		{"the preferred exchanger is dead", (*world).preference},
		{"no exchanger, and an alias", (*world).plainNames},
		{"IPv6 only", (*world).ipv6},
		{"names that no mail goes to", (*world).noMail},
		{"the DNS fails", (*world).dnsFails},
		{"each door shut in turn", (*world).doors},
		{"a certificate for another name", (*world).wrongCertificate},
		{"MTA-STS", (*world).sts},
		{"DANE", (*world).dane},
		{"fifty members", (*world).fifty},
		{"failures that are known at once", (*world).atOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			c.test(w)
		})
	}
}

type world struct {
	t         *testing.T
	dns       *dnstest.Server
	zone      string // what every zone has
	one, two  *testserver.Server
	alice     *load.Sender
	there     []byte // certificate of the other server, DER
	messages  int    // in bob's INBOX
	delivered map[string]int
}

func startWorld(t *testing.T) *world {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	w := &world{t: t, dns: dnstest.New(t, ""), delivered: make(map[string]int)}
	var domains []string
	for i := range 20 {
		domains = append(domains, fmt.Sprintf("d%d.example", i))
	}
	names := append([]string{"two.example", "mta-sts.two.example"}, domains...)
	for i := range 20 {
		names = append(names, fmt.Sprintf("mx%d.two.example", i), fmt.Sprintf("mta-sts.d%d.example", i))
	}
	for _, s := range []struct {
		at    **testserver.Server
		host  string
		names []string
		extra string
	}{{&w.one, hereIP, []string{"one.example"}, ""}, {&w.two, thereIP, names, fmt.Sprintf("local_domains = %q\nopenmetrics_listen = \"%s:9100\"\nopenmetrics_password = %q\n", strings.Join(domains, " "), thereIP, password)}} {
		cert, key := ca.issue(t.TempDir(), s.names...)
		*s.at = testserver.NewWith(t, testserver.Options{
			Host: s.host, Dir: t.TempDir(), Domain: s.names[0], SMTPPort: 25, HTTPPort: 80, HTTPSPort: 443, Env: []string{"SSL_CERT_FILE=" + ca.file},
			Extra: fmt.Sprintf("dns_servers = %q\ntls_mode = \"file\"\ntls_cert = %q\ntls_key = %q\nqueue_initial_retry = \"1h\"\n", w.dns.Addr(), cert, key) + s.extra,
		})
		if s.host == thereIP {
			text, err := os.ReadFile(cert)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(text)
			w.there = block.Bytes
		}
	}
	w.zone = fmt.Sprintf("one.example A %s\ntwo.example A %s\n", hereIP, thereIP)
	for _, s := range []*testserver.Server{w.one, w.two} {
		var own struct {
			Data struct {
				FQDN string `json:"dns_fqdn"`
				TXT  string `json:"txt"`
			}
		}
		if err := json.Unmarshal([]byte(s.Command("dkim", "show", "--json")), &own); err != nil {
			t.Fatal(err)
		}
		w.zone += fmt.Sprintf("%s TXT %q %q\n", own.Data.FQDN, own.Data.TXT[:200], own.Data.TXT[200:])
	}
	w.dns.Set(w.zone)
	w.two.Command("settings", "set", "federation_require_dkim", "require")
	for _, d := range domains {
		w.two.Command("accounts", "create", "bobbobbob@"+d, "--password", password)
	}
	var err error
	if w.alice, err = w.at(w.one, "one.example").NewSender("alicealice"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.alice.Close)
	return w
}

func (w *world) at(s *testserver.Server, domain string) load.Target {
	return load.Target{SMTP: fmt.Sprintf("%s:%d", s.Host, s.SubmissionTLS), IMAP: fmt.Sprintf("%s:%d", s.Host, s.IMAPTLS), Domain: domain, Password: password}
}

// publish adds lines to the zone.
func (w *world) publish(format string, args ...any) { w.dns.Set(w.zone + fmt.Sprintf(format, args...)) }

// send lets alice write to bob at a domain.
func (w *world) send(domain string) {
	w.t.Helper()
	w.messages++
	if _, err := w.alice.Send([]string{"bobbobbob@" + domain}, load.Message("alicealice@one.example", 1500+w.messages)); err != nil {
		w.t.Fatal(err)
	}
}

// inbox counts the messages of bob at a domain.
func (w *world) inbox(domain string) int {
	w.t.Helper()
	r, err := w.at(w.two, domain).Login("bobbobbob")
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	lines, err := r.Do("STATUS INBOX (MESSAGES)")
	if err != nil {
		w.t.Fatal(err)
	}
	n := -1
	for _, l := range lines {
		if _, rest, found := strings.Cut(l, "(MESSAGES "); found {
			n, _ = strconv.Atoi(strings.TrimSuffix(rest, ")"))
		}
	}
	return n
}

type traffic struct {
	Domain    string
	Delivered int `json:"successful_deliveries"`
	HTTP      int `json:"success_http"`
	HTTPS     int `json:"success_https"`
	SMTP      int `json:"success_smtp"`
	Trouble   string
}

// sent is what the first server's statistics say about a domain.
func (w *world) sent(domain string) traffic {
	w.t.Helper()
	var got struct{ Data struct{ Traffic []traffic } }
	if err := json.Unmarshal([]byte(w.one.Command("federation", "status", "--json")), &got); err != nil {
		w.t.Fatal(err)
	}
	for _, x := range got.Data.Traffic {
		if x.Domain == domain {
			return x
		}
	}
	return traffic{}
}

// arrives waits until bob has the message, and says by which way it came.
func (w *world) arrives(domain, way string) {
	w.t.Helper()
	w.delivered[domain]++
	w.delivered[domain+" "+way]++
	await(w.t, "mail to "+domain+" by "+way, func() bool { return w.inbox(domain) == w.delivered[domain] })
	want := traffic{Domain: domain, Delivered: w.delivered[domain], HTTP: w.delivered[domain+" HTTP"], HTTPS: w.delivered[domain+" HTTPS"], SMTP: w.delivered[domain+" SMTP"]}
	await(w.t, fmt.Sprintf("in the statistics: %+v", want), func() bool { return w.sent(domain) == want })
}

// waits waits until a try failed, for a reason that the operator is told.
func (w *world) waits(domain, reason string) {
	w.t.Helper()
	var why string
	defer func() {
		if w.t.Failed() {
			w.t.Log(why)
		}
	}()
	await(w.t, domain+" not reached: "+reason, func() bool {
		why = w.one.Command("queue", "why", domain)
		return strings.Contains(why, "Waiting: 1,") && strings.Contains(why, "Last error:") && strings.Contains(why, reason)
	})
	if n := w.inbox(domain); n != w.delivered[domain] {
		w.t.Errorf("%d messages arrived, want %d", n, w.delivered[domain])
	}
}

func (w *world) retry(domain string) { w.one.Command("queue", "retry", "--domain", domain) }

// told returns the notifications that alice has.
func (w *world) told() (list []string) {
	w.t.Helper()
	r, err := w.at(w.one, "one.example").Login("alicealice")
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Do("SELECT INBOX"); err != nil {
		w.t.Fatal(err)
	}
	if list, err = r.Texts(); err != nil {
		w.t.Fatal(err)
	}
	return list
}

// notice waits until alice was told about a recipient, once, and returns it.
func (w *world) notice(about string) (text string) {
	w.t.Helper()
	await(w.t, "a notification about "+about, func() bool {
		n := 0
		for _, x := range w.told() {
			if strings.Contains(x, "\r\nFinal-Recipient: rfc822; "+about+"\r\n") {
				text = x
				n++
			}
		}
		if n > 1 {
			w.t.Fatalf("%d notifications", n)
		}
		return n == 1
	})
	return text
}

func (w *world) anotherHost() {
	w.publish("d0.example MX 10 mx0.two.example\nmx0.two.example A %s\nd0.example A %s\n", thereIP, deadIP)
	w.send("d0.example")
	w.arrives("d0.example", "HTTPS")
}

func (w *world) preference() {
	w.publish("d1.example MX 20 mx1.two.example\nd1.example MX 10 dead.two.example\nmx1.two.example A %s\ndead.two.example A %s\n", thereIP, deadIP)
	w.send("d1.example")
	w.arrives("d1.example", "HTTPS")
}

func (w *world) plainNames() {
	w.publish("d2.example A %s\nd3.example MX 10 mx3.two.example\nmx3.two.example CNAME elsewhere.example\nelsewhere.example A %s\nd4.example CNAME alias.example\nalias.example MX 10 mx4.two.example\nmx4.two.example A %s\n", thereIP, thereIP, thereIP)
	for _, d := range []string{"d2.example", "d3.example", "d4.example"} {
		w.send(d)
		w.arrives(d, "HTTPS")
	}
}

func (w *world) ipv6() {
	l, err := net.Listen("tcp", net.JoinHostPort(there6, "443"))
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := []io.Closer{l}
	w.t.Cleanup(func() {
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", net.JoinHostPort(thereIP, "443"))
			if err != nil {
				c.Close()
				return
			}
			mu.Lock()
			open = append(open, c, to)
			mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(to, c); to.Close() })
			wg.Go(func() { _, _ = io.Copy(c, to); c.Close() })
		}
	})
	w.publish("d5.example MX 10 mx5.two.example\nmx5.two.example AAAA %s\n", there6)
	w.send("d5.example")
	w.arrives("d5.example", "HTTPS")
}

// noMail: what can never be delivered is told at once, in the form that clients read.
func (w *world) noMail() {
	w.publish("d6.example MX 0 .\n")
	for _, c := range []struct{ domain, reply string }{{"nowhere.example", "550 5.1.2 "}, {"d6.example", "556 5.1.10 "}} {
		w.send(c.domain)
		text := w.notice("bobbobbob@" + c.domain)
		m, err := mail.ReadMessage(strings.NewReader(text))
		if err != nil {
			w.t.Fatal(err)
		}
		if from := m.Header.Get("From"); !strings.Contains(from, "<MAILER-DAEMON@one.example>") {
			w.t.Errorf("From: %s", from)
		}
		typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
		if err != nil || typ != "multipart/report" || params["report-type"] != "delivery-status" || m.Header.Get("Auto-Submitted") == "" {
			w.t.Fatalf("%s %v %v", typ, params, err)
		}
		r := multipart.NewReader(m.Body, params["boundary"])
		for k, part := range []struct{ typ, has string }{
			{"text/plain", c.reply},
			{"message/delivery-status", "\r\n\r\nFinal-Recipient: rfc822; bobbobbob@" + c.domain + "\r\nAction: failed\r\n"},
			{"text/rfc822-headers", "\r\nMessage-ID: <04478418-12fe-4376-814d-2991a9b69913@localhost>\r\n"},
		} {
			p, err := r.NextRawPart()
			if err != nil {
				w.t.Fatal(err)
			}
			body, err := io.ReadAll(p)
			if got, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type")); err != nil || got != part.typ || !bytes.Contains(body, []byte(part.has)) {
				w.t.Errorf("part %d is %s: %q, want %q", k, got, body, part.has)
			}
		}
		if _, err := r.NextPart(); !errors.Is(err, io.EOF) {
			w.t.Error("a fourth part:", err)
		}
	}
}

func (w *world) dnsFails() {
	w.publish("d7.example SERVFAIL\n")
	w.send("d7.example")
	w.waits("d7.example", "DNS")
	w.publish("d7.example MX 10 mx7.two.example\nmx7.two.example A %s\n", thereIP)
	await(w.t, "mail after the DNS is back", func() bool { w.retry("d7.example"); return w.inbox("d7.example") == 1 })
	w.delivered["d7.example"]++
}

// doors: every way alone; a name is never reached in clear text.
func (w *world) doors() {
	zone := ""
	for _, i := range []int{8, 9, 10, 11} {
		zone += fmt.Sprintf("d%d.example MX 10 mx%d.two.example\nmx%d.two.example A %s\n", i, i, i, thereIP)
	}
	w.publish("%s", zone)
	move := func(name string, from, to int) func() {
		w.two.Move(name, from, to)
		return func() { w.two.Move(name, to, from) }
	}
	openTLS := move("http_tls", 443, 8443)
	w.send("d8.example")
	w.arrives("d8.example", "SMTP")
	openTLS()
	openSMTP := move("smtp", 25, 8025)
	w.send("d9.example")
	w.arrives("d9.example", "HTTPS")
	openTLS = move("http_tls", 443, 8443)
	w.send("d10.example")
	w.waits("d10.example", "connection refused")
	w.one.Command("federation", "allow", "d10.example", "--transport", "http")
	w.retry("d10.example")
	w.waits("d10.example", "HTTPS required")
	w.two.Command("settings", "set", "federation_allow_http", "true")
	w.retry("d10.example")
	w.arrives("d10.example", "HTTP")
	w.send("d11.example")
	w.waits("d11.example", "connection refused")
	openSMTP()
	w.retry("d11.example")
	w.arrives("d11.example", "SMTP")
	openTLS()
}

func (w *world) wrongCertificate() {
	w.publish("d12.example MX 10 mx.other.example\nmx.other.example A %s\n", thereIP)
	w.send("d12.example")
	w.waits("d12.example", "certificate")
	w.one.Command("federation", "tls", "d12.example", "relaxed")
	w.retry("d12.example")
	w.arrives("d12.example", "HTTPS")
}

func (w *world) sts() {
	// Its policy names two.example alone.
	w.two.Command("settings", "set", "mta_sts_mode", "enforce")
	zone := ""
	for _, i := range []int{13, 14, 15} {
		zone += fmt.Sprintf("_mta-sts.d%d.example TXT \"v=STSv1; id=20261128\"\nmta-sts.d%d.example A %s\nmx%d.two.example A %s\n", i, i, thereIP, i, thereIP)
	}
	w.publish("%sd13.example MX 10 mx13.two.example\nd14.example MX 10 two.example\nd15.example MX 10 mx15.two.example\n", zone)
	w.send("d13.example")
	w.waits("d13.example", "MTA-STS policy of the domain does not name mx13.two.example")
	w.send("d14.example")
	w.arrives("d14.example", "HTTPS")
	w.two.Command("settings", "set", "mta_sts_mode", "testing")
	w.send("d15.example")
	w.arrives("d15.example", "HTTPS")
}

func (w *world) dane() {
	cert, err := x509.ParseCertificate(w.there)
	if err != nil {
		w.t.Fatal(err)
	}
	key := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	other := sha256.Sum256([]byte("another key"))
	// No authority vouches for these names: the key in the DNS does, by SMTP.
	w.publish("$AD on\nd16.example MX 10 dane.example\ndane.example A %s\n_25._tcp.dane.example TLSA 3 1 1 %s\nd17.example MX 10 bad.dane.example\nbad.dane.example A %s\n_25._tcp.bad.dane.example TLSA 3 1 1 %s\n",
		thereIP, hex.EncodeToString(key[:]), thereIP, hex.EncodeToString(other[:]))
	w.send("d16.example")
	w.arrives("d16.example", "SMTP")
	w.send("d17.example")
	w.waits("d17.example", "TLSA")
}

// count reads a counter of the other server.
func (w *world) count(name string) int {
	w.t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+thereIP+":9100/metrics", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	r.SetBasicAuth("metrics", password)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, found := strings.CutPrefix(line, name+" "); found {
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return int(n)
		}
	}
	w.t.Fatalf("no %s in\n%s", name, text)
	return 0
}

// fifty: a message to fifty members on one server is one entry, one request or
// transaction, and one body.
func (w *world) fifty() {
	var to []string
	for i := range 50 {
		a := fmt.Sprintf("member%04d@d18.example", i)
		w.two.Command("accounts", "create", a, "--password", password)
		to = append(to, a)
	}
	const requests, transactions = `madmail_http_deliveries{result="accepted"}`, `maddy_smtp_started_transactions{module="smtp"}`
	w.publish("d18.example SERVFAIL\n") // so that it can be looked at while it waits
	for i, c := range []struct {
		way                    string
		requests, transactions int
	}{{"HTTPS", 1, 0}, {"SMTP", 0, 1}} {
		r0, t0, q0 := w.count(requests), w.count(transactions), w.queued()
		if _, err := w.alice.Send(to, load.Message("alicealice@one.example", 4000+100*i)); err != nil {
			w.t.Fatal(err)
		}
		if i == 0 {
			w.waits("d18.example", "DNS")
			if n := w.queued() - q0; n != 1 {
				w.t.Errorf("%d entries", n)
			}
			w.publish("d18.example MX 10 mx18.two.example\nmx18.two.example A %s\n", thereIP)
		}
		await(w.t, "fifty copies by "+c.way, func() bool {
			w.retry("d18.example")
			return w.sent("d18.example").Delivered == i+1
		})
		w.one.Command("federation", "block", "d18.example", "--transport", "https")
		if r, n := w.count(requests)-r0, w.count(transactions)-t0; r != c.requests || n != c.transactions {
			w.t.Errorf("by %s: %d requests and %d transactions, want %d and %d", c.way, r, n, c.requests, c.transactions)
		}
		for _, a := range []string{to[0], to[49]} {
			name, domain, _ := strings.Cut(a, "@")
			m, err := w.at(w.two, domain).Login(name)
			if err != nil {
				w.t.Fatal(err)
			}
			lines, err := m.Do("STATUS INBOX (MESSAGES)")
			m.Close()
			if err != nil || !strings.Contains(strings.Join(lines, ""), fmt.Sprintf("(MESSAGES %d)", i+1)) {
				w.t.Errorf("%s has %q, %v", a, lines, err)
			}
		}
	}
}

// queued is how many entries the first server has.
func (w *world) queued() int {
	var s struct{ Data struct{ Count int } }
	if err := json.Unmarshal([]byte(w.one.Command("queue", "status", "--json")), &s); err != nil {
		w.t.Fatal(err)
	}
	return s.Data.Count
}

// atOnce: what the server knows when the client is there, it says then.
func (w *world) atOnce() {
	w.one.Command("federation", "block", "blocked.example")
	for to, want := range map[string]string{
		"bobbobbob@blocked.example": "550 5.7.1 Federation policy rejection",
		"nobodyhere@one.example":    "550 5.1.1 ",
	} {
		s, err := w.at(w.one, "one.example").NewSender("alicealice")
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := s.Send([]string{to}, load.Message("alicealice@one.example", 1500)); err == nil || !strings.Contains(err.Error(), want) {
			w.t.Errorf("to %s: %v, want %s", to, err, want)
		}
		s.Close()
	}
	if n := len(w.told()); n != 2 {
		w.t.Errorf("told by a message, too: %d notifications", n)
	}
}

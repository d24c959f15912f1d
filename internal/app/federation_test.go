//go:build unix

package app

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/dkim"
	"madmail/internal/mailbox"
	"madmail/test/dnstest"
	"madmail/test/load"
)

// named is a server with a name, which asks a name server of the test.
func named(t *testing.T, domain string, dns *dnstest.Server) *house {
	t.Helper()
	h := newHouse(t)
	h.lines["primary_domain"] = fmt.Sprintf("%q", domain)
	h.lines["dns_servers"] = fmt.Sprintf("%q", dns.Addr())
	h.write()
	h.start()
	return h
}

func (h *house) at(domain string) load.Target {
	x := h.target()
	x.Domain = domain
	return x
}

// post brings a message by HTTP.
func (h *house) post(door, from string, text []byte, to ...string) (int, string) {
	h.t.Helper()
	scheme := map[string]string{"http": "http", "http_tls": "https"}[door]
	r, err := http.NewRequest(http.MethodPost, fmt.Sprintf("%s://127.0.0.1:%d/mxdeliv", scheme, h.ports[door]), bytes.NewReader(text))
	if err != nil {
		h.t.Fatal(err)
	}
	r.Header.Set("X-Mail-From", from)
	for _, a := range to {
		r.Header.Add("X-Mail-To", a)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// mail brings a message by SMTP and returns the refusal, or "".
func (h *house) mail(from string, text []byte, to ...string) string {
	h.t.Helper()
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports["smtp"]), 5*time.Second)
	if err != nil {
		h.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c, err := smtp.NewClient(conn, "localhost")
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if err := c.Mail(from); err != nil {
		return err.Error()
	}
	for _, a := range to {
		if err := c.Rcpt(a); err != nil {
			return err.Error()
		}
	}
	w, err := c.Data()
	if err != nil {
		return err.Error()
	}
	if _, err := w.Write(text); err != nil {
		h.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		return strings.ReplaceAll(err.Error(), `"`, "")
	}
	return ""
}

// inbox returns the messages in an INBOX, oldest first.
func (h *house) inbox(who string) (list []string) {
	h.t.Helper()
	a, err := address.Parse(who)
	if err != nil {
		h.t.Fatal(err)
	}
	box := mailbox.Box{Account: a, Name: mailbox.Inbox}
	v, err := h.store.View(h.t.Context(), box)
	if err != nil {
		h.t.Fatal(err)
	}
	for i := range v.Len() {
		c, err := h.store.Open(h.t.Context(), box, v.At(i).UID)
		if err != nil {
			h.t.Fatal(err)
		}
		b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
		c.Close()
		if err != nil {
			h.t.Fatal(err)
		}
		list = append(list, string(b))
	}
	return list
}

// signed signs a message as another server does.
func signed(t *testing.T, key *dkim.Key, domain string, text []byte) []byte {
	t.Helper()
	s, err := dkim.NewSigner(domain, "k1", key)
	if err != nil {
		t.Fatal(err)
	}
	n := bytes.Index(text, []byte("\r\n\r\n")) + 4
	field, err := s.Sign(text[:n], bytes.NewReader(text[n:]))
	if err != nil {
		t.Fatal(err)
	}
	return append(field, text...)
}

// TestStrictServersProveTheirOrigin: two servers of ours with names and DKIM
// records, each demanding a signature, exchange mail by each transport; what is
// unsigned, badly signed or signed by others is refused by both doors.
func TestStrictServersProveTheirOrigin(t *testing.T) {
	dns := dnstest.New(t, "")
	one, two := named(t, "one.example", dns), named(t, "two.example", dns)
	key, err := dkim.Generate(dkim.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	third, err := key.Record()
	if err != nil {
		t.Fatal(err)
	}
	zone := "k1._domainkey.three.example TXT \"" + third + "\"\n"
	for _, h := range []*house{one, two} {
		k := h.must("dkim.show", `{}`)
		txt := k["txt"].(string)
		zone += fmt.Sprintf("%s TXT %q %q\n", k["dns_fqdn"], txt[:200], txt[200:])
	}
	if c := one.must("dkim.check", `{}`); c["matched"] != false || c["checked"] != true || c["reason"] == nil {
		t.Error("before publishing:", c)
	}
	dns.Set(zone)
	for _, h := range []*house{one, two} {
		if c := h.must("dkim.check", `{}`); c["matched"] != true {
			t.Error("published:", c)
		}
		h.must("settings.set", `{"name":"__FEDERATION_REQUIRE_DKIM__","value":"require"}`)
	}
	alice, err := one.at("one.example").NewSender("alicealice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	bob, err := two.at("two.example").Login("bobbobbob")
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()
	for i, transport := range []string{"https", "http", "smtp"} {
		port := two.ports[map[string]string{"https": "http_tls", "http": "http", "smtp": "smtp"}[transport]]
		one.must("endpoints.set", fmt.Sprintf(`{"lookup_key":"two.example","target_host":"%s://127.0.0.1:%d"}`, transport, port))
		if _, err := alice.Send([]string{"bobbobbob@two.example"}, load.Message("alicealice@one.example", 1000+100*i)); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("(MESSAGES %d)", i+1)
		for deadline := time.Now().Add(10 * time.Second); !strings.Contains(do(t, bob, "STATUS INBOX (MESSAGES)"), want); {
			if time.Now().After(deadline) {
				t.Fatalf("by %s nothing came: %v", transport, one.must("queue.list", `{}`))
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	const to = "bobbobbob@two.example"
	good := signed(t, key, "three.example", load.Message("carol@three.example", 1500))
	if status, text := two.post("http_tls", "carol@three.example", good, to); status != 200 || text != "OK" {
		t.Error("well signed:", status, text)
	}
	broken := append(signed(t, key, "three.example", load.Message("carol@three.example", 1600)), "and more\r\n"...)
	for _, c := range []struct {
		name, from string
		text       []byte
		want       string
	}{
		{"unsigned", "carol@three.example", load.Message("carol@three.example", 1700), "554 5.7.1 No DKIM signature found"},
		{"body changed", "carol@three.example", broken, "554 5.7.1 No valid DKIM signature found"},
		{"signed by others", "dave@four.example", signed(t, key, "three.example", load.Message("dave@four.example", 1800)), "554 5.7.1 No valid DKIM signature found"},
		{"in our name", "eve@two.example", load.Message("eve@two.example", 1900), "554 5.7.1 No DKIM signature found"},
	} {
		if status, text := two.post("http_tls", c.from, c.text, to); status != 400 || text != c.want {
			t.Errorf("%s, by HTTP: %d %q", c.name, status, text)
		}
		if got := two.mail(c.from, c.text, to); got != c.want {
			t.Errorf("%s, by SMTP: %q", c.name, got)
		}
	}
	// Servers on an address have no zone, and are taken.
	if got := two.mail("frank@[192.0.2.9]", load.Message("frank@[192.0.2.9]", 2000), to); got != "" {
		t.Error("address:", got)
	}
	two.must("settings.set", `{"name":"__FEDERATION_REQUIRE_DKIM__","value":"off"}`)
	if got := two.mail("carol@three.example", load.Message("carol@three.example", 2100), to); got != "" {
		t.Error("unsigned, not required:", got)
	}
	list := two.inbox(to)
	if len(list) != 6 {
		t.Fatalf("%d messages: %q", len(list), list)
	}
	for i, want := range []string{"dkim=pass", "dkim=pass", "dkim=pass", "dkim=pass", "", "dkim=none"} {
		if has := strings.Contains(list[i], "X-Authentication-Results"); has != (want != "") || !strings.Contains(list[i], want) || strings.Contains(list[i], "DKIM-Signature") {
			t.Errorf("message %d: %q, want %q", i, list[i], want)
		}
	}
	if got := two.mail("eve@two.example", load.Message("eve@two.example", 2200), to); got != "554 5.7.1 No DKIM signature found" {
		t.Error("in our name, nothing required:", got)
	}
}

// TestARotationSignsAfterItsRecordIsSeen.
func TestARotationSignsAfterItsRecordIsSeen(t *testing.T) {
	dns := dnstest.New(t, "")
	h := named(t, "one.example", dns)
	publish := func() {
		zone := ""
		for _, r := range h.fed.keys.Records() {
			zone += fmt.Sprintf("%s TXT %q %q\n", r.FQDN, r.TXT[:200], r.TXT[200:])
		}
		dns.Set(zone)
	}
	publish()
	next := h.must("dkim.rotate", `{}`)
	selector := next["selector"].(string)
	if selector == "default" || next["phase"] != "next" {
		t.Fatal(next)
	}
	if _, err := h.op("dkim.rotate", `{}`); err == nil || !strings.Contains(err.Error(), "does not sign yet") {
		t.Error("before it is published:", err)
	}
	if got := h.settings.Current().Text("__DKIM_SELECTOR__"); got != "default" {
		t.Error("selector:", got)
	}
	publish()
	if got := h.must("dkim.rotate", `{}`); got["switched"] != true || got["selector"] != selector {
		t.Error(got)
	}
	field, err := h.fed.keys.Sign("one.example", []byte("From: <a@one.example>\r\n\r\n"), strings.NewReader("x\r\n"))
	if err != nil || !bytes.Contains(field, []byte("s="+selector)) {
		t.Errorf("%q, %v", field, err)
	}
	h.must("dkim.rotate", `{"Selector":"later"}`)
	h.must("dkim.rotate", `{"Abandon":true}`)
	if list := h.fed.keys.Records(); len(list) != 2 || list[1].Phase != "retired" {
		t.Errorf("%+v", list)
	}
	h.stop()
	h.start()
	if got := h.must("dkim.show", `{}`); got["selector"] != selector {
		t.Error("after a restart:", got["selector"])
	}
	if _, err := os.Stat(filepath.Join(h.dir, "dkim_keys", "one.example_"+selector+".key")); err != nil {
		t.Error(err)
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/.well-known/_domainkey/%s", h.ports["http"], selector))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !bytes.HasPrefix(body, []byte("v=DKIM1")) {
		t.Errorf("%d %q %v", resp.StatusCode, body, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestTheZone: what an operator publishes as printed is found complete.
func TestTheZone(t *testing.T) {
	dns := dnstest.New(t, "")
	h := named(t, "one.example", dns)
	h.lines["mx_domain"] = `"mail.one.example"`
	h.write()
	h.must("reload", `{}`)
	z := h.must("dns", `{"Check":true}`)
	if z["ok"] != false {
		t.Error("nothing is published:", z)
	}
	zone := ""
	for _, x := range z["records"].([]any) {
		r := x.(map[string]any)
		if r["state"] != "missing" {
			t.Error(r)
		}
		value := r["value"].(string)
		if r["type"] == "TXT" {
			value = fmt.Sprintf("%q", value)
			if len(value) > 250 {
				value = value[:200] + `" "` + value[200:]
			}
		}
		zone += fmt.Sprintf("%s %s %s\n", r["name"], r["type"], value)
	}
	for _, want := range []string{
		"mail.one.example. A 127.0.0.1", "one.example. MX 10 mail.one.example.", "default._domainkey.one.example. TXT", "_mta-sts.one.example. TXT \"v=STSv1; id=",
		"mta-sts.one.example. CNAME mail.one.example.", "_dmarc.one.example. TXT \"v=DMARC1;p=reject;adkim=s;aspf=s\"", "_imaps._tcp.one.example. SRV 0 1 ",
	} {
		if !strings.Contains(zone, want) {
			t.Errorf("%s is not in\n%s", want, zone)
		}
	}
	dns.Set(zone)
	z = h.must("dns", `{"Check":true}`)
	for _, x := range z["records"].([]any) {
		if r := x.(map[string]any); r["state"] != "ok" {
			t.Error(r)
		}
	}
	if z["ok"] != true {
		t.Error(z["ok"])
	}
	dns.Set(strings.Replace(zone, "MX 10 mail.one.example.", "MX 10 old.example.", 1))
	if z = h.must("dns", `{"Check":true}`); z["ok"] != false {
		t.Error("another exchanger:", z)
	}
}

// TestMailWithoutTLS: names need TLS where we have a certificate that can be
// verified or not; addresses do not.
func TestMailWithoutTLS(t *testing.T) {
	dns := dnstest.New(t, "")
	h := named(t, "one.example", dns)
	r, err := h.at("one.example").Login("bobbobbob")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text := load.Message("carol@three.example", 2300)
	// The certificate is self-signed: TLS would prove nothing.
	if status, got := h.post("http", "carol@three.example", text, "bobbobbob@one.example"); status != 200 {
		t.Error(status, got)
	}
	h.must("settings.set", `{"name":"__FEDERATION_ENABLED__","value":"false"}`)
	if status, got := h.post("http", "carol@three.example", text, "bobbobbob@one.example"); status != 403 || !strings.HasPrefix(got, "Forbidden") {
		t.Error("federation is off:", status, got)
	}
	if got := h.mail("carol@three.example", text, "bobbobbob@one.example"); !strings.HasPrefix(got, "554 ") || !strings.Contains(got, "5.7.1 Federation policy rejection") {
		t.Error("federation is off:", got)
	}
}

// TestSendersLearnOfMissingRecipients, where the operator wants that.
func TestSendersLearnOfMissingRecipients(t *testing.T) {
	dns := dnstest.New(t, "")
	one := named(t, "one.example", dns)
	r, err := one.at("one.example").Login("bobbobbob")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	send := func(size int) {
		t.Helper()
		if status, text := one.post("http_tls", "frank@[192.0.2.9]", load.Message("frank@[192.0.2.9]", size), "bobbobbob@one.example", "nobodyhere@one.example"); status != 200 {
			t.Fatal(status, text)
		}
	}
	send(1100)
	if n := one.fed.queue.Stats().Entries; n != 0 {
		t.Error("told without being asked:", n)
	}
	one.must("settings.set", `{"name":"__FEDERATION_BOUNCE__","value":"true"}`)
	send(1200)
	list := one.must("queue.list", `{}`)["entries"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["mail_from"] != "<>" && list[0].(map[string]any)["mail_from"] != "" {
		t.Errorf("%v", list)
	}
}

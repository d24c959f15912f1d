package authres

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"madmail/internal/dkim"
	"madmail/internal/fault"
	"madmail/internal/verdict"
)

// zone is names to ask, by "TYPE name". A record "busy" does not answer.
type zone map[string][]string

func (z zone) ask(typ, name string) ([]string, error) {
	name = strings.TrimSuffix(name, ".")
	list, ok := z[typ+" "+name]
	switch {
	case !ok:
		return nil, fault.New(fault.NotFound, "no such name")
	case len(list) == 1 && list[0] == "busy":
		return nil, fault.New(fault.Busy, "no answer")
	}
	return list, nil
}

func (z zone) TXT(_ context.Context, name string) ([]string, error) { return z.ask("TXT", name) }
func (z zone) MX(_ context.Context, name string) ([]string, error)  { return z.ask("MX", name) }
func (z zone) Reverse(_ context.Context, ip netip.Addr) ([]string, error) {
	return z.ask("PTR", ip.String())
}

func (z zone) Addresses(_ context.Context, host string) (list []netip.Addr, err error) {
	got, err := z.ask("A", host)
	for _, s := range got {
		list = append(list, netip.MustParseAddr(s))
	}
	return list, err
}

var records = zone{
	"TXT a.example":           {"v=spf1 ip4:192.0.2.1 -all"},
	"TXT soft.example":        {"v=spf1 mx ~all"},
	"MX soft.example":         {"mx.soft.example"},
	"A mx.soft.example":       {"192.0.2.2", "2001:db8::2"},
	"TXT bad.example":         {"v=spf1 ip4:x"},
	"TXT busy.example":        {"busy"},
	"TXT loop.example":        {"v=spf1 include:loop.example -all"},
	"TXT helo.example":        {"v=spf1 ip4:192.0.2.1 -all"},
	"TXT _dmarc.a.example":    {"v=DMARC1; p=reject; sp=quarantine"},
	"TXT _dmarc.s.example":    {"v=DMARC1; p=reject; adkim=s; aspf=s"},
	"TXT _dmarc.busy.example": {"busy"},
	"TXT _dmarc.bad.example":  {"v=DMARC1; p=what"},
	"PTR 192.0.2.2":           {"mx.soft.example"},
	"PTR 192.0.2.9":           {"mx.soft.example"},
	"MX null.example":         {""},
	"MX busy.example":         {"busy"},
}

func action(t *testing.T, s string) verdict.Action {
	t.Helper()
	a, err := verdict.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestSPFIsEvaluatedAndObeyed: results by record, and what is done about them.
func TestSPFIsEvaluatedAndObeyed(t *testing.T) {
	usual := map[string]verdict.Action{"fail": {Do: verdict.Quarantine}, "permerror": {Do: verdict.Reject}, "temperror": {Do: verdict.Reject}}
	for _, x := range []struct{ ip, helo, sender, result, outcome string }{
		{"192.0.2.1", "h.example", "x@a.example", "pass", ""},
		{"192.0.2.1", "h.example", "x@A.EXAMPLE", "pass", ""},
		{"192.0.2.9", "h.example", "x@a.example", "fail", "spf=fail"},
		{"2001:db8::2", "h.example", "x@soft.example", "pass", ""},
		{"192.0.2.9", "h.example", "x@soft.example", "softfail", ""},
		{"192.0.2.1", "h.example", "x@bad.example", "permerror", "550 5.7.24"},
		{"192.0.2.1", "h.example", "x@loop.example", "permerror", "550 5.7.24"},
		{"192.0.2.1", "h.example", "x@busy.example", "temperror", "451 4.7.24"},
		{"192.0.2.1", "h.example", "x@none.example", "none", ""},
		{"192.0.2.1", "helo.example.", "", "pass", ""},
		{"192.0.2.9", "helo.example", "", "fail", "spf=fail"},
		{"192.0.2.9", "[192.0.2.9]", "", "none", ""},
		{"192.0.2.9", "h.example", "x@[192.0.2.9]", "none", ""},
	} {
		f, err := Checks{SPF: usual}.Run(t.Context(), records, Subject{Client: Client{Addr: netip.MustParseAddr(x.ip), Helo: x.helo}, Envelope: x.sender, From: "a.example"})
		if f.SPF == nil || f.SPF.Result != x.result || outcome(f, err) != x.outcome {
			t.Errorf("%s %s from %s: %+v, %q; want %s, %q", x.helo, x.sender, x.ip, f.SPF, outcome(f, err), x.result, x.outcome)
		}
	}
}

// outcome is a refusal with its codes, or what the message is marked for.
func outcome(f Found, err error) string {
	if err == nil {
		return strings.Join(f.Quarantine, " ")
	}
	code, enhanced, _ := err.(interface {
		SMTPReply() (int, string, string)
	}).SMTPReply()
	return strings.Join([]string{map[bool]string{true: "4", false: "5"}[code < 500] + string([]byte{byte('0' + code/10%10), byte('0' + code%10)}), enhanced}, " ")
}

func TestDMARCObeysThePolicyOfTheDomain(t *testing.T) {
	pass := func(domain string) dkim.Report {
		return dkim.Report{Signatures: 1, Results: []dkim.Result{{State: dkim.Pass, Domain: domain}}}
	}
	for _, x := range []struct {
		name, ip, sender, from string
		report                 dkim.Report
		result, outcome        string
	}{
		{"aligned SPF", "192.0.2.1", "x@a.example", "a.example", dkim.Report{}, "pass", ""},
		{"a signature", "192.0.2.9", "x@a.example", "a.example", pass("a.example"), "pass", ""},
		{"a sub-domain's signature", "192.0.2.9", "x@a.example", "a.example", pass("m.a.example"), "pass", ""},
		{"somebody else's signature", "192.0.2.9", "x@a.example", "a.example", pass("soft.example"), "fail", "550 5.7.1"},
		{"nothing", "192.0.2.9", "x@none.example", "a.example", dkim.Report{}, "fail", "550 5.7.1"},
		{"a sub-domain", "192.0.2.9", "x@none.example", "m.a.example", dkim.Report{}, "fail", "dmarc=fail"},
		{"strict, sub-domain", "192.0.2.9", "x@none.example", "s.example", pass("m.s.example"), "fail", "550 5.7.1"},
		{"strict", "192.0.2.9", "x@none.example", "s.example", pass("s.example"), "pass", ""},
		{"no policy", "192.0.2.9", "x@none.example", "none.example", dkim.Report{}, "none", ""},
		{"no answer", "192.0.2.9", "x@none.example", "busy.example", dkim.Report{}, "temperror", ""},
		{"a bad policy", "192.0.2.9", "x@none.example", "bad.example", dkim.Report{}, "permerror", ""},
		{"no answer about the key", "192.0.2.9", "x@none.example", "a.example", dkim.Report{Signatures: 1, Results: []dkim.Result{{State: dkim.TempError, Domain: "a.example"}}}, "temperror", ""},
	} {
		m := Subject{Client: Client{Addr: netip.MustParseAddr(x.ip), Helo: "h.example"}, Envelope: x.sender, From: x.from, Report: x.report}
		f, err := Checks{DMARC: true}.Run(t.Context(), records, m)
		if f.DMARC == nil || f.DMARC.Result != x.result || outcome(f, err) != x.outcome {
			t.Errorf("%s: %+v, %q; want %s, %q", x.name, f.DMARC, outcome(f, err), x.result, x.outcome)
		}
	}
	// SPF leaves it to DMARC, unless it comes first.
	m := Subject{Client: Client{Addr: netip.MustParseAddr("192.0.2.9"), Helo: "h.example"}, Envelope: "x@a.example", From: "a.example", Report: pass("a.example")}
	for first, want := range map[bool]string{false: "", true: "550 5.7.23"} {
		f, err := Checks{DMARC: true, SPFFirst: first, SPF: map[string]verdict.Action{"fail": {Do: verdict.Reject}}}.Run(t.Context(), records, m)
		if got := outcome(f, err); got != want {
			t.Errorf("SPF first %v: %q, want %q", first, got, want)
		}
	}
	f, err := Checks{DMARC: true}.Run(t.Context(), records, Subject{Client: m.Client, From: "[192.0.2.1]"})
	if err != nil || f.DMARC != nil {
		t.Errorf("an IP literal: %+v, %v", f, err)
	}
	got := string(Header("A", "mx.example", dkim.Report{}, Found{SPF: &SPF{"fail", "a.example"}, DMARC: &DMARC{"fail", "a.example", "reject"}}))
	if want := "A: mx.example;\r\n\tdkim=none;\r\n\tspf=fail smtp.mailfrom=a.example;\r\n\tdmarc=fail policy.dmarc=reject\r\n\t header.from=a.example\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOtherChecksOfTheFirstVersion(t *testing.T) {
	reject, mark := action(t, "reject"), action(t, "quarantine")
	failed := dkim.Report{Signatures: 1, Results: []dkim.Result{{State: dkim.Fail, Domain: "a.example"}}}
	unknown := dkim.Report{Signatures: 1, Results: []dkim.Result{{State: dkim.TempError, Domain: "a.example"}}}
	at := func(ip string) Client { return Client{Addr: netip.MustParseAddr(ip), Helo: "h.example"} }
	for _, x := range []struct {
		name string
		c    Checks
		m    Subject
		want string
	}{
		{"no TLS", Checks{TLS: reject}, Subject{}, "550 5.7.1"},
		{"TLS", Checks{TLS: reject}, Subject{Client: Client{TLS: true}}, ""},
		{"MX", Checks{MX: reject}, Subject{Envelope: "x@soft.example"}, ""},
		{"no MX", Checks{MX: mark}, Subject{Envelope: "x@a.example"}, "mx=none"},
		{"null MX", Checks{MX: reject}, Subject{Envelope: "x@null.example"}, "550 5.7.27"},
		{"MX unknown", Checks{MX: reject}, Subject{Envelope: "x@busy.example"}, "451 4.4.3"},
		{"MX unknown, marks", Checks{MX: mark}, Subject{Envelope: "x@busy.example"}, ""},
		{"MX of an IP literal", Checks{MX: reject}, Subject{Envelope: "x@[192.0.2.1]"}, ""},
		{"MX of the null path", Checks{MX: reject}, Subject{}, ""},
		{"leads back", Checks{Reverse: reject}, Subject{Client: at("192.0.2.2")}, ""},
		{"leads elsewhere", Checks{Reverse: reject}, Subject{Client: at("192.0.2.9")}, "550 5.7.25"},
		{"no name", Checks{Reverse: mark}, Subject{Client: at("192.0.2.7")}, "iprev=fail"},
		{"unsigned", Checks{Unsigned: mark}, Subject{From: "a.example"}, "dkim=none"},
		{"unsigned IP literal", Checks{Unsigned: reject}, Subject{From: "[192.0.2.1]"}, ""},
		{"broken", Checks{Broken: reject}, Subject{From: "a.example", Report: failed}, "550 5.7.20"},
		{"key unknown", Checks{Broken: reject, KeysNeeded: true}, Subject{From: "a.example", Report: unknown}, "451 4.7.5"},
		{"key unknown, open", Checks{Broken: reject}, Subject{From: "a.example", Report: unknown}, ""},
		{"two marks", Checks{TLS: mark, Unsigned: mark}, Subject{From: "a.example"}, "tls=none dkim=none"},
	} {
		if !x.c.Any() {
			t.Errorf("%s: nothing is looked at", x.name)
		}
		f, err := x.c.Run(t.Context(), records, x.m)
		if got := outcome(f, err); got != x.want {
			t.Errorf("%s: %q, want %q", x.name, got, x.want)
		}
	}
	if (Checks{}).Any() {
		t.Error("no checks are some")
	}
}

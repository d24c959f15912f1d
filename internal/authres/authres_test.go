package authres

import (
	"context"
	"strings"
	"testing"

	"madmail/internal/dkim"
	"madmail/internal/fault"
)

func results(rs ...dkim.Result) dkim.Report { return dkim.Report{Results: rs, Signatures: len(rs)} }

func TestDecide(t *testing.T) {
	pass := func(d string) dkim.Result { return dkim.Result{State: dkim.Pass, Domain: d} }
	fail := dkim.Result{State: dkim.Fail, Domain: "example.org"}
	temp := dkim.Result{State: dkim.TempError, Domain: "example.org"}
	perm := dkim.Result{State: dkim.PermError, Domain: "example.org"}
	const a = "a@example.org"
	cases := []struct {
		name string
		in   Input
		act  Action
		v    Verdict
		text string
		null bool
	}{
		{"aligned", Input{From: a, Envelope: a, Policy: Require, Report: results(pass("example.org"))}, Accept, Proven, "", false},
		{"aligned in another case", Input{From: "A@Example.ORG", Envelope: a, Policy: Require, Report: results(pass("example.org"))}, Accept, Proven, "", false},
		{"second signature", Input{From: a, Envelope: a, Policy: Require, Report: results(fail, pass("example.org"))}, Accept, Proven, "", false},
		{"forwarded", Input{From: a, Envelope: "srs0=x@forward.example", Policy: Require, Report: results(pass("example.org"))}, Accept, Proven, "", true},
		{"null sender", Input{From: "mailer-daemon@example.org", Policy: Require, Report: results(pass("example.org"))}, Accept, Proven, "", true},
		{"underscore name", Input{From: "a@_x.example.org", Envelope: "a@_x.example.org", Policy: Require, Report: results(pass("_x.example.org"))}, Accept, Proven, "", false},
		{"underscore name, unsigned", Input{From: "a@_x.example.org", Envelope: "a@_x.example.org", Policy: Require}, Refuse, Unsigned, "554 5.7.1 No DKIM signature found", false},
		{"unsigned", Input{From: a, Envelope: a, Policy: Require}, Refuse, Unsigned, "554 5.7.1 No DKIM signature found", false},
		{"unsigned, off", Input{From: a, Envelope: a}, Accept, Unsigned, "", false},
		{"unsigned, reported", Input{From: a, Envelope: a, Policy: Report}, Accept, Unsigned, "", false},
		{"other domain", Input{From: a, Envelope: a, Policy: Require, Report: results(pass("example.com"))}, Refuse, Unproven, "554 5.7.1 No valid DKIM signature found", false},
		{"parent domain", Input{From: "a@sub.example.org", Envelope: "a@sub.example.org", Policy: Require, Report: results(pass("example.org"))}, Refuse, Unproven, "554 5.7.1 No valid DKIM signature found", false},
		{"sub-domain", Input{From: a, Envelope: a, Policy: Require, Report: results(pass("sub.example.org"))}, Refuse, Unproven, "554 5.7.1 No valid DKIM signature found", false},
		{"envelope aligned, From not", Input{From: a, Envelope: "a@example.com", Policy: Require, Report: results(pass("example.com"))}, Refuse, Unproven, "554 5.7.1 No valid DKIM signature found", true},
		{"broken", Input{From: a, Envelope: a, Policy: Require, Report: results(fail)}, Refuse, Unproven, "554 5.7.1 No valid DKIM signature found", false},
		{"no key", Input{From: a, Envelope: a, Policy: Require, Report: results(perm)}, Refuse, Unproven, "554 5.7.1 No valid DKIM signature found", false},
		{"no answer", Input{From: a, Envelope: a, Policy: Require, Report: results(fail, temp)}, Later, Unknown, "451 4.7.5 DKIM key lookup failed, try again later", false},
		{"no answer, off", Input{From: a, Envelope: a, Report: results(temp)}, Accept, Unknown, "", false},
		{"no answer for a stranger's key", Input{From: a, Envelope: a, Policy: Require, Report: results(dkim.Result{State: dkim.TempError, Domain: "example.com"})}, Refuse, Unproven, "554 5.7.1 No valid DKIM signature found", false},
		{"IPv4 literal", Input{From: "a@[192.0.2.1]", Envelope: "a@[192.0.2.1]", Policy: Require}, Accept, Exempt, "", false},
		{"IPv6 literal", Input{From: "a@[IPv6:2001:db8::1]", Envelope: "a@[ipv6:2001:DB8::1]", Policy: Require}, Accept, Exempt, "", false},
		{"literal, other envelope", Input{From: "a@[192.0.2.1]", Envelope: "b@[192.0.2.1]", Policy: Require}, Accept, Exempt, "", true},
		{"a name in brackets", Input{From: "a@[example.org]", Envelope: "a@[example.org]", Policy: Require}, Refuse, Unsigned, "554 5.7.1 No DKIM signature found", false},
		{"IP address without brackets", Input{From: "a@192.0.2.1", Envelope: "a@192.0.2.1", Policy: Require}, Refuse, Unsigned, "554 5.7.1 No DKIM signature found", false},
		{"ours, unsigned", Input{From: a, Envelope: a, OurDomain: true}, Refuse, Unsigned, "554 5.7.1 No DKIM signature found", false},
		{"ours, signed", Input{From: a, Envelope: a, OurDomain: true, Report: results(pass("example.org"))}, Accept, Proven, "", false},
		{"ours, a literal", Input{From: "a@[192.0.2.1]", Envelope: "a@[192.0.2.1]", OurDomain: true}, Accept, Exempt, "", false},
		{"no address", Input{Policy: Require}, Refuse, Unsigned, "554 5.7.1 No DKIM signature found", false},
	}
	for _, c := range cases {
		d := Decide(c.in)
		text := ""
		if d.Code != 0 {
			text = strings.Join([]string{map[int]string{554: "554", 451: "451"}[d.Code], d.Enhanced, d.Text}, " ")
		}
		if d.Action != c.act || d.Verdict != c.v || text != c.text || d.NullSender != c.null {
			t.Errorf("%s: got %d %s %q %v, want %d %s %q %v", c.name, d.Action, d.Verdict, text, d.NullSender, c.act, c.v, c.text, c.null)
		}
		err := d.Err()
		if (err == nil) != (c.act == Accept) || c.act == Later && !fault.Is(err, fault.Busy) || c.act == Refuse && !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestParsePolicy(t *testing.T) {
	for s, want := range map[string]Policy{"": Off, "off": Off, "report": Report, "require": Require} {
		if got, err := ParsePolicy(s); got != want || err != nil {
			t.Error(s, got, err)
		}
	}
	if _, err := ParsePolicy("on"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		name, server string
		rep          dkim.Report
		want         string
	}{
		{"none", "mx.example.org", dkim.Report{}, "Authentication-Results: mx.example.org;\r\n\tdkim=none\r\n"},
		{"two", "mx.example.org", results(
			dkim.Result{State: dkim.Pass, Domain: "example.net", Selector: "s", Algorithm: "rsa-sha256"},
			dkim.Result{State: dkim.Fail, Domain: "_x.example.com", Selector: "a.b", Algorithm: "ed25519-sha256", Reason: "body was changed"}),
			"Authentication-Results: mx.example.org;\r\n\tdkim=pass\r\n\t header.d=example.net\r\n\t header.s=s\r\n\t header.a=rsa-sha256;\r\n" +
				"\tdkim=fail reason=\"body was changed\"\r\n\t header.d=_x.example.com\r\n\t header.s=a.b\r\n\t header.a=ed25519-sha256\r\n"},
		{"literal server, unreadable signature", "[192.0.2.1]", results(dkim.Result{State: dkim.PermError, Reason: "malformed signature"}),
			"Authentication-Results: \"[192.0.2.1]\";\r\n\tdkim=permerror reason=\"malformed signature\"\r\n"},
		{"nothing breaks out", "a\r\nX: y\"", results(dkim.Result{State: dkim.Fail, Domain: "a\r\nb", Reason: "\"\\\n"}),
			"Authentication-Results: \"aX: y\";\r\n\tdkim=fail reason=\"\"\r\n\t header.d=\"ab\"\r\n"},
	} {
		if got := string(Header("Authentication-Results", c.server, c.rep, Found{})); got != c.want {
			t.Errorf("%s:\n%q\n%q", c.name, got, c.want)
		}
	}
}

func TestAReplacedKeyIsFetchedOnce(t *testing.T) {
	newKey := func() (*dkim.Key, string) {
		k, err := dkim.Generate(dkim.Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		r, err := k.Record()
		if err != nil {
			t.Fatal(err)
		}
		return k, r
	}
	key, record := newKey()
	_, old := newKey()
	s, err := dkim.NewSigner("example.org", "s", key)
	if err != nil {
		t.Fatal(err)
	}
	const header, body = "From: <a@example.org>\r\n\r\n", "hello\r\n"
	sig, err := s.Sign([]byte(header), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	msg := string(sig) + header + body
	answer := func(n *int, txts []string, err error) dkim.LookupTXT {
		return func(context.Context, string) ([]string, error) { *n++; return txts, err }
	}
	busy := fault.New(fault.Busy, "no answer")
	for _, c := range []struct {
		name          string
		cached, fresh string
		freshErr      error
		want          dkim.State
		asked         int
	}{
		{"key in the cache is right", record, "", nil, dkim.Pass, 0},
		{"key was replaced", old, record, nil, dkim.Pass, 1},
		{"key is wrong", old, old, nil, dkim.Fail, 1},
		{"key was missing", "", record, nil, dkim.Pass, 1},
		{"no fresh answer", old, "", busy, dkim.Fail, 1},
	} {
		var cached, fresh int
		rep, err := Check(t.Context(), strings.NewReader(msg), int64(len(msg)), "Example.org",
			Keys{TXT: answer(&cached, []string{c.cached}, nil), Fresh: answer(&fresh, []string{c.fresh}, c.freshErr)}, 0)
		if got := rep.Best("example.org").State; err != nil || got != c.want || cached != 1 || fresh != c.asked {
			t.Errorf("%s: %v asked %d+%d %v", c.name, got, cached, fresh, err)
		}
	}
	var n int
	if rep, err := Check(t.Context(), strings.NewReader(msg), int64(len(msg)), "example.org", Keys{TXT: answer(&n, nil, busy)}, 0); err != nil || rep.Best("example.org").State != dkim.TempError {
		t.Error(rep, err)
	}
	if _, err := Check(t.Context(), strings.NewReader("x"), 1, "example.org", Keys{TXT: answer(&n, nil, busy)}, 0); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if _, err := Check(t.Context(), strings.NewReader("x"), 1, "example.org", Keys{}, 0); err == nil {
		t.Error("no lookup")
	}
}

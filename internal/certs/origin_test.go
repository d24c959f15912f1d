package certs

import (
	"strings"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/authres"
	"madmail/internal/dkim"
	"madmail/internal/resolve"
	"madmail/test/dnstest"
)

// zoneOf returns the records as an operator publishes them.
func zoneOf(rs []DKIMRecord) string {
	var b strings.Builder
	for _, r := range rs {
		b.WriteString(dkim.ZoneLine(r.FQDN, r.TXT) + "\n")
	}
	return b.String()
}

// TestOriginIsProvenThroughTheDNS takes a key from the disk of one server through a
// name server to the decision of another, over a rotation and a replaced key.
func TestOriginIsProvenThroughTheDNS(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	domains := []address.Domain{"example.org"}
	open := func() *DKIM {
		k, err := OpenDKIM(DKIMOptions{StateDir: t.TempDir(), Domains: domains})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := open()
	dns := dnstest.New(t, zoneOf(k.Records()))
	r, err := resolve.New(resolve.Options{Servers: []string{dns.Addr()}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(k *DKIM) authres.Decision {
		t.Helper()
		sig, err := k.Sign("example.org", []byte(testHeader), strings.NewReader(testBody))
		if err != nil {
			t.Fatal(err)
		}
		msg := string(sig) + testHeader + testBody
		rep, err := authres.Check(t.Context(), strings.NewReader(msg), int64(len(msg)), "example.org", authres.Keys{TXT: r.TXT, Fresh: r.FreshTXT}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return authres.Decide(authres.Input{From: "a@Example.org", Envelope: "a@example.org", Policy: authres.Require, Report: rep})
	}
	if d := judge(k); d.Verdict != authres.Proven || d.NullSender {
		t.Fatalf("%+v", d)
	}
	if c := CheckDKIM(t.Context(), k.Records(), r.FreshTXT); len(c) != 1 || c[0].Match != dkim.Matched {
		t.Errorf("%+v", c)
	}
	next, err := k.Rotate("next")
	if err != nil {
		t.Fatal(err)
	}
	if c := CheckDKIM(t.Context(), next, r.FreshTXT); c[0].Match != dkim.Missing || c[0].Err != nil {
		t.Errorf("%+v", c)
	}
	now = now.Add(2 * time.Minute)
	dns.Set(zoneOf(k.Records()))
	if c := CheckDKIM(t.Context(), next, r.FreshTXT); c[0].Match != dkim.Matched {
		t.Errorf("%+v", c)
	}
	if err := k.Use(domains, "next"); err != nil {
		t.Fatal(err)
	}
	if d := judge(k); d.Verdict != authres.Proven || d.Result.Selector != "next" {
		t.Errorf("%+v", d)
	}

	// Another server under the same name and selector, as after a move without the keys.
	moved := open()
	dns.Set(zoneOf(moved.Records()))
	if d := judge(moved); d.Action != authres.Accept || d.Verdict != authres.Proven {
		t.Errorf("the replaced key was not asked for: %+v", d)
	}
	dns.Set("default._domainkey.example.org SERVFAIL\n")
	if err := r.Reload(); err != nil {
		t.Fatal(err)
	}
	if d := judge(moved); d.Action != authres.Later || d.Code != 451 {
		t.Errorf("%+v", d)
	}
	dns.Set("other.example.org A 192.0.2.1\n")
	now = now.Add(time.Minute)
	if d := judge(moved); d.Action != authres.Refuse || d.Text != "No valid DKIM signature found" {
		t.Errorf("%+v", d)
	}
}

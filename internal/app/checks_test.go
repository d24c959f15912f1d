//go:build unix

package app

import (
	"strings"
	"testing"

	"madmail/internal/authres"
	"madmail/test/dnstest"
	"madmail/test/load"
)

// TestMailOfOthersIsCheckedAsConfigured: operator specification 8.6, on port 25, with
// the results in the message; off unless configured, and changed by a reload.
func TestMailOfOthersIsCheckedAsConfigured(t *testing.T) {
	dns := dnstest.New(t, `
good.example TXT "v=spf1 ip4:127.0.0.1 -all"
forged.example TXT "v=spf1 -all"
strict.example TXT "v=spf1 -all"
_dmarc.strict.example TXT "v=DMARC1; p=reject"
`)
	h := named(t, "one.example", dns)
	const to = "somebody@one.example"
	r, err := h.at("one.example").Login("somebody")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	size := 1500
	send := func(domain string) string {
		from := "x@" + domain
		size += 100 // no message is one that was there before
		return h.mail(from, load.Message(from, size), to)
	}
	if got := send("forged.example"); got != "" || strings.Contains(h.inbox(to)[0], "spf=") || dns.Count("forged.example", "TXT") != 0 {
		t.Errorf("checked without being configured: %q", got)
	}
	h.lines["spf"], h.lines["dmarc"], h.lines["junk_mailbox"] = "true", "true", `"Junk"`
	h.write()
	h.must("reload", "")
	for _, x := range []struct{ domain, want, field string }{
		{"good.example", "", "spf=pass smtp.mailfrom=good.example"},
		{"none.example", "", "spf=none smtp.mailfrom=none.example"},
		{"strict.example", "550 5.7.1 DMARC check failed", ""},
		{"[127.0.0.9]", "", "dkim=none"},
	} {
		if got := send(x.domain); got != x.want {
			t.Errorf("%s: %q, want %q", x.domain, got, x.want)
		}
		list := h.inbox(to)
		if last := list[len(list)-1]; x.want == "" && (!strings.Contains(last, "From: <x@"+x.domain) || !strings.Contains(last, x.field)) {
			t.Errorf("%s: no %q in %.600s", x.domain, x.field, last)
		}
	}
	before := len(h.inbox(to))
	if got := send("forged.example"); got != "" || len(h.inbox(to)) != before {
		t.Errorf("forged: %q, %d messages after %d", got, len(h.inbox(to)), before)
	}
	if got := do(t, r, "STATUS Junk (MESSAGES)"); !strings.Contains(got, "(MESSAGES 1)") {
		t.Errorf("the folder for such mail: %s", got)
	}
	delete(h.lines, "junk_mailbox")
	h.lines["spf_fail_action"] = `"reject 554 5.7.23 Not from there"`
	h.lines["require_tls"] = `"quarantine"`
	h.write()
	h.must("reload", "")
	if got := send("forged.example"); got != "554 5.7.23 Not from there" {
		t.Errorf("an action of the operator's: %q", got)
	}
	if got := send("good.example"); got != "" {
		t.Errorf("without TLS: %q", got)
	}
	list := h.inbox(to)
	if last := list[len(list)-1]; !strings.Contains(last, "X-Quarantine: tls=none\r\n") {
		t.Errorf("not marked: %.600s", last)
	}
	refused, aside := map[string]int64{"dmarc": 1, "spf": 1}, map[string]int64{"spf": 1, "tls": 1}
	for i, name := range authres.CheckNames {
		n := &h.fed.failedChecks[i]
		if n[refusedByCheck].Load() != refused[name] || n[setAsideByCheck].Load() != aside[name] {
			t.Errorf("%s: %d refused, %d set aside", name, n[refusedByCheck].Load(), n[setAsideByCheck].Load())
		}
	}
}

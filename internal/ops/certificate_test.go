package ops

import (
	"encoding/json"
	"testing"
	"time"

	"madmail/internal/certs"
	"madmail/internal/upkeep"
)

// TestAutocertStatusSaysWhenTheNextTryIs: operator specification 10.4, and null where
// there is nothing to tell.
func TestAutocertStatusSaysWhenTheNextTryIs(t *testing.T) {
	h := newHouse(t)
	h.renewal = RenewalFacts{Orders: true, Email: "x@example.org", Authority: certs.LetsEncrypt}
	ask := func() (a Autocert) {
		t.Helper()
		fields, err := h.run("certificate.autocert", "{}")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(fields)
		if err == nil {
			err = json.Unmarshal(raw, &a)
		}
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(); !a.Enabled || a.NotAfter != nil || a.DaysRemaining != nil || a.NextTry != nil || a.RenewWithinDays != 30 || a.Authority != certs.LetsEncrypt {
		t.Errorf("no certificate, no failure: %+v", a)
	}
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	h.renewal.Failures, h.renewal.LastTry, h.renewal.NextTry, h.renewal.Error = 2, at, at.Add(6*time.Hour), "no"
	cert, key := certs.DefaultPaths(h.dir)
	if err := certs.SelfSigned(cert, key, []string{"example.org"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if a := ask(); a.NotAfter == nil || a.DaysRemaining == nil || a.Failures != 2 || a.NextTry == nil || *a.NextTry != "2026-05-01T18:00:00Z" || a.Error != "no" {
		t.Errorf("%+v", a)
	}
}

// TestTheTaskOfCertificatesSaysWhetherItRenewed: operator specification 7.11.
func TestTheTaskOfCertificatesSaysWhetherItRenewed(t *testing.T) {
	for n, want := range map[int]string{
		0: `{"task":"renew-certificate","skipped":false,"deleted":0,"deleted_messages":0,"deleted_accounts":0,"detail":"","renewed":false}`,
		1: `{"task":"renew-certificate","skipped":false,"deleted":0,"deleted_messages":0,"deleted_accounts":0,"detail":"","renewed":true}`,
	} {
		got, err := json.Marshal(taskDone(upkeep.Outcome{Task: "renew-certificate", Removed: n}))
		if err != nil || string(got) != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
}

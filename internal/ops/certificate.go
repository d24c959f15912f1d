package ops

import (
	"context"
	"crypto/x509"
	"time"

	"madmail/internal/certs"
	"madmail/internal/fault"
)

// CertificateFacts say where the pair is.
type CertificateFacts struct {
	Mode      string // self_signed, file or autocert
	Domain    string // the name of this machine
	Names     []string
	Cert, Key string
	Ours      bool // this server makes it
}

// Certificate is the TLS certificate. Times are RFC 3339 in UTC, null when there is
// none.
type Certificate struct {
	Management    string   `json:"tls_management"`
	Mode          string   `json:"tls_mode"`
	Domain        string   `json:"domain"`
	CertPath      string   `json:"cert_path"`
	KeyPath       string   `json:"key_path"`
	Type          string   `json:"cert_type"` // self_signed, ca, or "" without one
	Issuer        string   `json:"issuer"`
	Subject       string   `json:"subject"`
	SANs          []string `json:"sans"`
	NotBefore     *string  `json:"not_before"`
	NotAfter      *string  `json:"not_after"`
	ExpiresAt     *string  `json:"expires_at"` // the same, as documents name it
	DaysRemaining *int     `json:"days_remaining"`
	Valid         bool     `json:"valid"`
	Status        string   `json:"status"` // valid, expired, early, missing or unusable
	Present       bool     `json:"present"`
	Trouble       string   `json:"trouble,omitempty"` // why it cannot be used
}

// CertificateMade says what became of a request for a certificate.
type CertificateMade struct {
	Domain   string `json:"domain"`
	Action   string `json:"action"` // issued, renewed or skipped
	CertPath string `json:"cert_path"`
	// Names are those that were asked for, of an authority.
	Names []string `json:"names,omitempty"`
}

// CertificateOrder asks for a certificate of an authority. What is empty is as the
// configuration says.
type CertificateOrder struct {
	Domain, Email, HTTPListen string
	Staging, Force            bool
}

// RenewalFacts say how the orders of certificates go.
type RenewalFacts struct {
	Orders           bool // the configuration lets this server order
	Email, Authority string
	Failures         int // in a row
	LastTry, NextTry time.Time
	Error            string // of the last failure
}

// Autocert is how the orders of certificates go. Times are RFC 3339 in UTC, null when
// there is none.
type Autocert struct {
	Enabled         bool    `json:"enabled"`
	Mode            string  `json:"tls_mode"`
	Email           string  `json:"email"`
	Domain          string  `json:"domain"`
	Authority       string  `json:"authority"`
	Issuer          string  `json:"issuer"`
	NotAfter        *string `json:"not_after"`
	DaysRemaining   *int    `json:"days_remaining"`
	RenewWithinDays int     `json:"renew_within_days"`
	Failures        int     `json:"failures"`
	LastTry         *string `json:"last_try"`
	NextTry         *string `json:"next_try"`
	Error           string  `json:"error,omitempty"`
}

func (d *Desk) autocert(context.Context, none) (Autocert, error) {
	f, r := d.Certificate(), d.Renewal()
	a := Autocert{Enabled: r.Orders, Mode: f.Mode, Email: r.Email, Domain: f.Domain, Authority: r.Authority, RenewWithinDays: 30, Failures: r.Failures, Error: r.Error}
	for _, t := range []struct {
		from time.Time
		to   **string
	}{{r.LastTry, &a.LastTry}, {r.NextTry, &a.NextTry}} {
		if !t.from.IsZero() {
			s := stamp(t.from)
			*t.to = &s
		}
	}
	leaf, selfSigned, err := certs.Inspect(f.Cert, f.Key)
	if err != nil {
		return a, nil // certificate.status says why
	}
	var c Certificate
	describe(&c, leaf, selfSigned, time.Now())
	a.Issuer, a.NotAfter, a.DaysRemaining = c.Issuer, c.NotAfter, c.DaysRemaining
	if !selfSigned {
		a.RenewWithinDays = int(certs.Window(leaf) / (24 * time.Hour))
	}
	return a, nil
}

func (d *Desk) certificate(context.Context, none) (Certificate, error) {
	f := d.Certificate()
	c := Certificate{Management: f.Mode, Mode: f.Mode, Domain: f.Domain, CertPath: f.Cert, KeyPath: f.Key, SANs: []string{}, Status: "missing"}
	leaf, selfSigned, err := certs.Inspect(f.Cert, f.Key)
	if fault.Is(err, fault.NotFound) {
		return c, nil
	}
	c.Present = true
	if err != nil {
		c.Status, c.Trouble = "unusable", err.Error()
		return c, nil
	}
	describe(&c, leaf, selfSigned, time.Now())
	return c, nil
}

// describe fills in what a certificate says of itself.
func describe(c *Certificate, leaf *x509.Certificate, selfSigned bool, now time.Time) {
	c.Type = map[bool]string{true: "self_signed", false: "ca"}[selfSigned]
	c.Issuer, c.Subject = leaf.Issuer.String(), leaf.Subject.String()
	c.SANs = append(c.SANs, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		c.SANs = append(c.SANs, ip.String())
	}
	from, to := stamp(leaf.NotBefore), stamp(leaf.NotAfter)
	days := int(leaf.NotAfter.Sub(now) / (24 * time.Hour))
	c.NotBefore, c.NotAfter, c.ExpiresAt, c.DaysRemaining = &from, &to, &to, &days
	switch {
	case now.After(leaf.NotAfter):
		c.Status = "expired"
	case now.Before(leaf.NotBefore):
		c.Status = "early"
	default:
		c.Status, c.Valid = "valid", true
	}
}

// selfSigned makes a pair where the server makes its own. A pair that is good stays
// unless force is set: clients may have learnt it.
func (d *Desk) selfSigned(_ context.Context, p struct{ Force bool }) (CertificateMade, error) {
	f := d.Certificate()
	if !f.Ours {
		return CertificateMade{}, fault.WithHint(fault.Newf(fault.Refused, "the configuration says tls_mode %q: %s is somebody else's", f.Mode, f.Cert), `set tls_mode = "self_signed" and take tls_cert and tls_key out`)
	}
	r := CertificateMade{Domain: f.Domain, Action: "skipped", CertPath: f.Cert}
	now := time.Now()
	if leaf, _, err := certs.Inspect(f.Cert, f.Key); err == nil && now.Before(leaf.NotAfter) && !p.Force {
		return r, nil
	}
	r.Action = "issued"
	if err := certs.SelfSigned(f.Cert, f.Key, f.Names, now); err != nil {
		return CertificateMade{}, err
	}
	return r, d.CertificateChanged()
}

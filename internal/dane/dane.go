// Package dane decides whether the certificates a mail server shows are those that
// its TLSA records name (RFC 6698, RFC 7671, and RFC 7672 for SMTP).
//
// It is pure: records and certificates in, a verdict out. It does not fetch
// records and does not know whether they were authenticated by DNSSEC: callers
// must use only those that were, together with an authenticated MX and address.
//
// All functions may be called from many goroutines.
package dane

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"strconv"
	"time"

	"madmail/internal/fault"
)

// Usage is the certificate usage field (RFC 6698 section 2.1.1).
type Usage uint8

// The usages that RFC 7672 section 3.1 has for SMTP. Records with the others (0
// and 1, which need a public root) are not usable.
const (
	TrustAnchor Usage = 2 // DANE-TA: an issuer in the chain
	EndEntity   Usage = 3 // DANE-EE: the server's own certificate
)

// Selector says which part of a certificate is matched (RFC 6698 section 2.1.2).
type Selector uint8

// The selectors.
const (
	FullCertificate Selector = 0
	PublicKey       Selector = 1
)

// Matching says how it is matched (RFC 6698 section 2.1.3).
type Matching uint8

// The matching types.
const (
	Exact  Matching = 0
	SHA256 Matching = 1
	SHA512 Matching = 2
)

// Record is one TLSA record.
type Record struct {
	Usage    Usage
	Selector Selector
	Matching Matching
	Data     []byte
}

// MaxRecords and MaxChain bound one verification.
const (
	MaxRecords = 64
	MaxChain   = 20
)

// Usable reports whether a client can use the record for SMTP. A record whose
// digest has the wrong length is not usable.
func (r Record) Usable() bool {
	if r.Usage != TrustAnchor && r.Usage != EndEntity || r.Selector > PublicKey {
		return false
	}
	switch r.Matching {
	case Exact:
		return len(r.Data) > 0
	case SHA256:
		return len(r.Data) == sha256.Size
	case SHA512:
		return len(r.Data) == sha512.Size
	}
	return false
}

// Matches reports whether the record names the certificate. Usage is not looked at.
func (r Record) Matches(c *x509.Certificate) bool {
	if !r.Usable() {
		return false
	}
	part := c.Raw
	if r.Selector == PublicKey {
		part = c.RawSubjectPublicKeyInfo
	}
	switch r.Matching {
	case SHA256:
		sum := sha256.Sum256(part)
		part = sum[:]
	case SHA512:
		sum := sha512.Sum512(part)
		part = sum[:]
	}
	return subtle.ConstantTimeCompare(part, r.Data) == 1
}

// Usable returns the usable records among rs, at most MaxRecords. When a host has
// records and none is usable, TLS is required, but no certificate is authenticated
// (RFC 7672 section 2.2).
func Usable(rs []Record) []Record {
	var out []Record
	for _, r := range rs {
		if r.Usable() && len(out) < MaxRecords {
			out = append(out, r)
		}
	}
	return out
}

// Verify reports, by a nil error, that one of the records authenticates the chain
// as the server sent it, its own certificate first.
//
// A record of usage EndEntity names that certificate; its names and dates are not
// looked at (RFC 7672 section 3.1.1). A record of usage TrustAnchor names an issuer
// that the server sends too, or is the issuer's whole certificate; from there the
// chain must be valid at now for one of names, the host's reference names (RFC 7672
// section 3.2.2).
//
// Errors are of kind fault.Refused: no usable record, or no match.
func Verify(rs []Record, chain []*x509.Certificate, names []string, now time.Time) error {
	usable := Usable(rs)
	switch {
	case len(usable) == 0:
		return fault.New(fault.Refused, "dane: no usable TLSA record")
	case len(chain) == 0 || len(chain) > MaxChain:
		return fault.New(fault.Refused, "dane: chain of "+strconv.Itoa(len(chain))+" certificates")
	}
	anchors, found := x509.NewCertPool(), false
	for _, r := range usable {
		if r.Usage == EndEntity {
			if r.Matches(chain[0]) {
				return nil
			}
			continue
		}
		for _, c := range chain[1:] {
			if r.Matches(c) {
				anchors.AddCert(c)
				found = true
			}
		}
		if r.Selector == FullCertificate && r.Matching == Exact {
			if c, err := x509.ParseCertificate(r.Data); err == nil {
				anchors.AddCert(c)
				found = true
			}
		}
	}
	if !found {
		return fault.New(fault.Refused, "dane: no TLSA record matches the certificate")
	}
	return verifyFrom(anchors, chain, names, now)
}

// verifyFrom checks the chain up to the anchors for one of the names.
func verifyFrom(anchors *x509.CertPool, chain []*x509.Certificate, names []string, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: anchors, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fault.Wrap(fault.Refused, err, "dane: chain to the named issuer")
	}
	err = errors.New("no reference name")
	for _, n := range names {
		if err = chain[0].VerifyHostname(n); err == nil {
			return nil
		}
	}
	return fault.Wrap(fault.Refused, err, "dane: name of the certificate")
}

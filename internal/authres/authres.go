// Package authres decides what the proof of a message's origin is worth, and writes
// it into the message: may this sender pass, does a bounce have somewhere to go, and
// what stands in Authentication-Results (RFC 8601).
//
// The rules are those of the official relay network. The From address counts, not
// the envelope: a From domain that is a name needs a DKIM signature that holds and
// whose d= is that very name, whatever its case; neither a parent domain nor a
// sub-domain will do. Names that begin with an underscore are names like others here.
// An IP literal in brackets has no zone to publish a key in and passes without proof.
// An envelope sender other than From gets no bounces.
//
// Decide and Header are pure. Check runs the signatures through package dkim with
// the caller's lookups, and repeats a failed check once with a fresh key, because a
// peer may have replaced its key while the old one was in our cache.
//
// Checks are what an operator may want besides, off unless configured: SPF, DMARC and
// what the block files of the first version know.
//
// All functions may be called from many goroutines.
package authres

import (
	"context"
	"errors"
	"io"
	"strings"

	"madmail/internal/address"
	"madmail/internal/dkim"
	"madmail/internal/fault"
)

// Policy says what the lack of a proof leads to.
type Policy uint8

// The policies, as the setting names them.
const (
	Off     Policy = iota // looked at and recorded; everything passes
	Report                // everything passes; the verdict is worth a warning
	Require               // a name without proof is refused
)

// ParsePolicy reads the setting: off, report or require. The error is of kind
// fault.Invalid.
func ParsePolicy(s string) (Policy, error) {
	switch s {
	case "off", "":
		return Off, nil
	case "report":
		return Report, nil
	case "require":
		return Require, nil
	}
	return Off, fault.Newf(fault.Invalid, "%q is not off, report or require", s)
}

// Verdict is what is known about the origin of a message.
type Verdict uint8

// The closed set of verdicts.
const (
	Proven   Verdict = iota // an aligned signature holds
	Exempt                  // From is an IP literal in brackets
	Unsigned                // no signature at all
	Unproven                // signatures, none aligned that holds
	Unknown                 // an aligned signature whose key could not be fetched
)

var verdicts = [...]string{Proven: "proven", Exempt: "exempt", Unsigned: "unsigned", Unproven: "unproven", Unknown: "unknown"}

// String returns the verdict's name for logs and counters.
func (v Verdict) String() string {
	if int(v) < len(verdicts) {
		return verdicts[v]
	}
	return "verdict?"
}

// Action is what a door does with the message.
type Action uint8

// The actions.
const (
	Accept Action = iota
	Refuse        // for good
	Later         // the sender may try again
)

// Input is what Decide looks at.
type Input struct {
	// From is the first address of the first From field as written, without angle
	// brackets; Envelope the reverse-path likewise, "" for the null one.
	From, Envelope string
	// OurDomain says that the From domain is one of ours: a stranger who claims it
	// needs our own signature, whatever the policy.
	OurDomain bool
	Policy    Policy
	Report    dkim.Report
}

// Decision is the outcome.
type Decision struct {
	Action  Action
	Verdict Verdict
	// Code, Enhanced and Text are the reply unless Action is Accept.
	Code     int
	Enhanced string
	Text     string
	// NullSender says that the reverse-path is to be replaced by the null one.
	NullSender bool
	// Domain is the From domain in lower case; Result its best signature.
	Domain string
	Result dkim.Result
}

// Err returns the decision as an error: nil, fault.Refused or fault.Busy with the
// reply's text.
func (d Decision) Err() error {
	switch d.Action {
	case Refuse:
		return fault.New(fault.Refused, d.Text)
	case Later:
		return fault.New(fault.Busy, d.Text)
	}
	return nil
}

// Domain returns the domain of a From address in lower case, and whether it is an
// IP literal in brackets. An address without brackets, as in a@192.0.2.1, counts
// as a name, as it does in the official network: nothing can prove it.
func Domain(from string) (domain string, literal bool) {
	domain = strings.ToLower(strings.TrimSpace(from[strings.LastIndexByte(from, '@')+1:]))
	if strings.HasPrefix(domain, "[") {
		d, err := address.ParseDomain(domain)
		_, literal = d.IP()
		return domain, err == nil && literal
	}
	return strings.TrimSuffix(domain, "."), false
}

// Decide applies the rules.
func Decide(in Input) Decision {
	domain, literal := Domain(in.From)
	d := Decision{Domain: domain, NullSender: !strings.EqualFold(in.From, in.Envelope)}
	if literal {
		d.Verdict = Exempt
		return d
	}
	d.Result = in.Report.Best(domain)
	switch {
	case d.Result.State == dkim.Pass:
		d.Verdict = Proven
		return d
	case in.Report.Signatures == 0:
		d.Verdict = Unsigned
		d.Action, d.Code, d.Enhanced, d.Text = Refuse, 554, "5.7.1", "No DKIM signature found"
	case d.Result.State == dkim.TempError:
		d.Verdict = Unknown
		d.Action, d.Code, d.Enhanced, d.Text = Later, 451, "4.7.5", "DKIM key lookup failed, try again later"
	default:
		d.Verdict = Unproven
		d.Action, d.Code, d.Enhanced, d.Text = Refuse, 554, "5.7.1", "No valid DKIM signature found"
	}
	if in.Policy != Require && !in.OurDomain {
		d.Action, d.Code, d.Enhanced, d.Text = Accept, 0, "", ""
	}
	return d
}

// Keys looks up key records.
type Keys struct {
	// TXT may answer from a cache.
	TXT dkim.LookupTXT
	// Fresh asks anew; nil when there is nothing fresher than TXT.
	Fresh dkim.LookupTXT
}

// Check verifies the message in r, size octets long. When a signature by domain
// fails to match, or its key is missing or unusable, the check is repeated once with
// fresh keys. max is the number of signatures, as for dkim.Verify; so are the errors.
func Check(ctx context.Context, r io.ReaderAt, size int64, domain string, keys Keys, max int) (dkim.Report, error) {
	if keys.TXT == nil {
		return dkim.Report{}, fault.Wrap(fault.Internal, errors.New("no lookup"), "authres: check")
	}
	rep, err := dkim.Verify(ctx, io.NewSectionReader(r, 0, size), keys.TXT, max)
	if err != nil || keys.Fresh == nil {
		return rep, err
	}
	// A key that was replaced shows as a mismatch; one whose type changed, or that
	// was missing a while ago, as a permanent error.
	if s := rep.Best(domain).State; s != dkim.Fail && s != dkim.PermError {
		return rep, nil
	}
	again, err := dkim.Verify(ctx, io.NewSectionReader(r, 0, size), keys.Fresh, max)
	if err != nil {
		return dkim.Report{}, err
	}
	if again.Best(domain).State == dkim.TempError {
		return rep, nil // the first answer was definite
	}
	return again, nil
}

// Header returns a field with the content of Authentication-Results and its final
// CRLF, in the name of server, for the top of the message. found is what
// other checks found. Fields of that name which
// came with the message have to be removed (RFC 8601 section 5).
func Header(name, server string, rep dkim.Report, found Found) []byte {
	var b strings.Builder
	b.WriteString(name + ": ")
	b.WriteString(value(server))
	if len(rep.Results) == 0 {
		b.WriteString(";\r\n\tdkim=none")
	}
	for _, r := range rep.Results {
		b.WriteString(";\r\n\tdkim=")
		b.WriteString(r.State.String())
		if r.Reason != "" {
			b.WriteString(` reason="` + quotable(r.Reason) + `"`)
		}
		for _, p := range [...]struct{ name, v string }{{"header.d", r.Domain}, {"header.s", r.Selector}, {"header.a", r.Algorithm}} {
			if p.v != "" {
				b.WriteString("\r\n\t " + p.name + "=" + value(p.v))
			}
		}
	}
	if s := found.SPF; s != nil {
		b.WriteString(";\r\n\tspf=" + s.Result + " smtp.mailfrom=" + value(s.Domain))
	}
	if d := found.DMARC; d != nil {
		b.WriteString(";\r\n\tdmarc=" + d.Result)
		if d.Policy != "" {
			b.WriteString(" policy.dmarc=" + d.Policy)
		}
		b.WriteString("\r\n\t header.from=" + value(d.Domain))
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

// QuarantineField is a complete header field for a message that checks want marked, or
// nothing.
func (f Found) QuarantineField(name string) []byte {
	if len(f.Quarantine) == 0 {
		return nil
	}
	return []byte(name + ": " + strings.Join(f.Quarantine, " ") + "\r\n")
}

// value writes a token, or a quoted string when it is none (RFC 8601 section 2.2).
func value(s string) string {
	for i := range len(s) {
		c := s[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			continue
		}
		return `"` + quotable(s) + `"`
	}
	if s == "" {
		return `""`
	}
	return s
}

// quotable drops what cannot stand in a quoted string.
func quotable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}, s)
}

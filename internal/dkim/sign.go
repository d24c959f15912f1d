package dkim

import (
	"bytes"
	"io"
	"strings"

	lib "github.com/emersion/go-msgauth/dkim"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/message"
)

// signed lists the header fields a signature covers. Those marked are oversigned:
// named once more than they occur, so that a field added on the way breaks the
// signature (RFC 6376 section 8.15). Received and other trace fields are left out:
// relays add and remove them.
var signed = []struct {
	name string
	over bool
}{
	{"From", true}, {"Sender", false}, {"Reply-To", true}, {"To", true}, {"Cc", true},
	{"Subject", true}, {"Date", true}, {"Message-ID", true}, {"In-Reply-To", true}, {"References", true},
	{"MIME-Version", true}, {"Content-Type", true}, {"Content-Transfer-Encoding", true},
	{"Auto-Submitted", false}, {"Autocrypt", true}, {"Chat-Version", false}, {"Secure-Join", false},
	{"Resent-From", false}, {"Resent-To", false}, {"Resent-Date", false}, {"Resent-Message-ID", false},
	{"List-Id", false}, {"List-Unsubscribe", false},
}

// maxInstances is how many fields of one name are signed. It keeps the h= tag on
// one line below the 998 octets of RFC 5322 section 2.1.1.
const maxInstances = 2

// Signer signs for one domain with one key. Make one with NewSigner.
type Signer struct {
	domain, selector string
	key              *Key
}

// NewSigner checks its parts: a domain name (IP literals have nowhere to publish a
// key), a selector of one or more labels, a key. Errors are fault.Invalid.
func NewSigner(domain, selector string, key *Key) (*Signer, error) {
	if err := CheckNames(domain, selector); err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fault.New(fault.Invalid, "dkim: no key")
	}
	return &Signer{domain: strings.ToLower(domain), selector: selector, key: key}, nil
}

// CheckNames reports, as NewSigner does, whether a key can be published for a domain
// under a selector. Such names hold no slash. Errors are fault.Invalid.
func CheckNames(domain, selector string) error {
	d, err := address.ParseDomain(domain)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "dkim: signing domain")
	}
	if _, literal := d.IP(); literal {
		return fault.New(fault.Invalid, "an IP address cannot sign with DKIM: it has no DNS zone")
	}
	if !dnsName(domain) {
		return fault.Newf(fault.Invalid, "%q is not a domain name in ASCII", domain)
	}
	if !dnsName(selector) || len(Name(selector, domain)) > 253 {
		return fault.Newf(fault.Invalid, "%q is not a DKIM selector", selector)
	}
	return nil
}

// Domain returns the signing domain, d=.
func (s *Signer) Domain() string { return s.domain }

// Selector returns the selector, s=.
func (s *Signer) Selector() string { return s.selector }

// Sign returns the DKIM-Signature field, with its final CRLF, to be put in front of
// the message. header is the header block with its blank line, body everything
// behind it, read to its end in constant memory; both with CRLF line ends.
//
// The signature is relaxed/relaxed, without l= and x=, and covers every From field.
// Errors: fault.Invalid for a header block without end or From; that of body, of
// kind fault.Busy, when it cannot be read; fault.Internal when the key fails.
func (s *Signer) Sign(header []byte, body io.Reader) ([]byte, error) {
	if message.HeaderEnd(header) != len(header) {
		return nil, fault.New(fault.Invalid, "dkim: the header block does not end with a blank line")
	}
	fields, err := message.ParseHeader(header)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "dkim: sign")
	}
	names, err := toSign(fields)
	if err != nil {
		return nil, err
	}
	w, err := lib.NewSigner(&lib.SignOptions{
		Domain: s.domain, Selector: s.selector, Signer: s.key.signer, HeaderKeys: names,
		HeaderCanonicalization: lib.CanonicalizationRelaxed, BodyCanonicalization: lib.CanonicalizationRelaxed,
	})
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "dkim: sign")
	}
	_, err = io.Copy(w, bytes.NewReader(header))
	if err == nil {
		if _, err = io.Copy(w, body); err != nil {
			err = fault.Wrap(fault.Busy, err, "dkim: read the body")
		}
	}
	// Close ends the library's goroutine, also after an error.
	if cerr := w.Close(); err == nil && cerr != nil {
		err = fault.Wrap(fault.Internal, cerr, "dkim: sign")
	}
	if err != nil {
		return nil, err
	}
	return []byte(w.Signature()), nil
}

// toSign returns the names for h=, with repetitions.
func toSign(h message.Header) ([]string, error) {
	var names []string
	for _, f := range signed {
		n := h.Count(f.name)
		if f.name == "From" && (n == 0 || n > maxInstances) {
			return nil, fault.New(fault.Invalid, "dkim: a message to sign has one From field")
		}
		if n > maxInstances {
			n = maxInstances // counted from the end of the header block
		} else if f.over {
			n++
		}
		for range n {
			names = append(names, f.name)
		}
	}
	return names, nil
}

// dnsName reports whether s is a sequence of labels that a key record can be
// looked up by. Underscores are allowed.
func dnsName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
				continue
			}
			return false
		}
	}
	return len(s) <= 253
}

// Package address holds mail addresses in one normal form.
//
// An Addr is always normalised: local part in Unicode NFC and lower case,
// domain as a lower-case A-label or as an IP literal in brackets. So two
// spellings of one mailbox compare equal with ==, and an Addr is a map key.
//
// Addresses are private: String and LogValue shorten them. The exact form is
// called Wire, so that a leak has to be typed out. The package does not know
// which domains are ours.
package address

import (
	"log/slog"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"madmail/internal/fault"
)

// Limits of RFC 5321 section 4.5.3.1, in octets.
const (
	MaxLocal  = 64
	MaxDomain = 255
	MaxAddr   = 254
)

// Domain is a normalised domain: "example.org", "[192.0.2.1]" or
// "[IPv6:2001:db8::1]". Make one with ParseDomain.
type Domain string

// Addr is a normalised mailbox address. The zero Addr is the null reverse-path.
type Addr struct {
	local  string
	domain Domain
}

// Parse normalises s, which is "local@domain" without angle brackets.
//
// Bare IP addresses as domains get their brackets: a client that connects by
// IP uses either spelling. Errors are of kind fault.Invalid.
func Parse(s string) (Addr, error) {
	s = strings.TrimSpace(s)
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return Addr{}, fault.New(fault.Invalid, "address has no @")
	}
	local, err := normalLocal(s[:at])
	if err != nil {
		return Addr{}, err
	}
	d, err := ParseDomain(s[at+1:])
	if err != nil {
		return Addr{}, err
	}
	if len(local)+1+len(d) > MaxAddr {
		return Addr{}, fault.New(fault.Invalid, "address is too long")
	}
	return Addr{local: local, domain: d}, nil
}

// New joins a local part and a domain that is normalised already.
func New(local string, d Domain) (Addr, error) {
	l, err := normalLocal(local)
	if err != nil {
		return Addr{}, err
	}
	if d == "" {
		return Addr{}, fault.New(fault.Invalid, "address has no domain")
	}
	return Addr{local: l, domain: d}, nil
}

func normalLocal(s string) (string, error) {
	if s == "" {
		return "", fault.New(fault.Invalid, "address has an empty local part")
	}
	if !utf8.ValidString(s) {
		return "", fault.New(fault.Invalid, "address is not valid UTF-8")
	}
	ascii := true
	for _, r := range s {
		switch {
		case r == '@' || r == '/' || r == '\\' || r == '%' || r == '"' || r == '<' || r == '>' || r == ' ':
			return "", fault.New(fault.Invalid, "address has a forbidden character in its local part")
		case unicode.IsControl(r) || unicode.IsSpace(r):
			return "", fault.New(fault.Invalid, "address has a control character or space")
		case r >= utf8.RuneSelf:
			ascii = false
		}
	}
	if ascii {
		s = strings.ToLower(s)
	} else {
		s = norm.NFC.String(cases.Fold().String(norm.NFC.String(s)))
	}
	if strings.HasPrefix(s, "__") {
		return "", fault.New(fault.Invalid, "address begins with a reserved prefix")
	}
	// "." and ".." name directories; a leading dot hides one.
	if strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
		return "", fault.New(fault.Invalid, "address has misplaced dots")
	}
	if len(s) > MaxLocal {
		return "", fault.New(fault.Invalid, "local part is too long")
	}
	return s, nil
}

// ParseDomain normalises a domain name or an IP literal, with or without
// brackets and with or without the "IPv6:" tag (RFC 5321 section 4.1.3).
func ParseDomain(s string) (Domain, error) {
	s = strings.TrimSuffix(strings.TrimSpace(s), ".")
	if s == "" {
		return "", fault.New(fault.Invalid, "empty domain")
	}
	if len(s) > MaxDomain {
		return "", fault.New(fault.Invalid, "domain is too long")
	}
	if ip, ok := parseLiteral(s); ok {
		return literal(ip), nil
	}
	if s[0] == '[' {
		return "", fault.New(fault.Invalid, "domain literal is not an IP address")
	}
	return domainName(s)
}

func parseLiteral(s string) (netip.Addr, bool) {
	if s[0] == '[' {
		if s[len(s)-1] != ']' || len(s) < 3 {
			return netip.Addr{}, false
		}
		s = s[1 : len(s)-1]
	}
	if len(s) > 5 && strings.EqualFold(s[:5], "IPv6:") {
		s = s[5:]
	}
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" {
		return netip.Addr{}, false
	}
	return ip.Unmap(), true
}

func literal(ip netip.Addr) Domain {
	if ip.Is4() {
		return Domain("[" + ip.String() + "]")
	}
	return Domain("[IPv6:" + ip.String() + "]")
}

func domainName(s string) (Domain, error) {
	ascii := true
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			ascii = false
			break
		}
	}
	if !ascii {
		a, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", fault.New(fault.Invalid, "domain is not a valid internationalised name")
		}
		s = a
	}
	s = strings.ToLower(s)
	label := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '.':
			if label == 0 {
				return "", fault.New(fault.Invalid, "domain has an empty label")
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return "", fault.New(fault.Invalid, "domain has a forbidden character")
		}
		if label++; label > 63 {
			return "", fault.New(fault.Invalid, "domain has a label over 63 octets")
		}
	}
	if label == 0 {
		return "", fault.New(fault.Invalid, "domain has an empty label")
	}
	return Domain(s), nil
}

// IP returns the address of an IP literal.
func (d Domain) IP() (netip.Addr, bool) {
	if d == "" || d[0] != '[' {
		return netip.Addr{}, false
	}
	return parseLiteral(string(d))
}

// Host returns the domain as one dials it: literals lose brackets and tag.
func (d Domain) Host() string {
	if ip, ok := d.IP(); ok {
		return ip.String()
	}
	return string(d)
}

// Untagged returns a without what stands behind the last plus of its local part, and
// whether there was such a tag (RFC 5233 section 1).
func (a Addr) Untagged() (Addr, bool) {
	i := strings.LastIndexByte(a.local, '+')
	if i <= 0 || i == len(a.local)-1 {
		return a, false
	}
	b, err := New(a.local[:i], a.domain)
	return b, err == nil
}

// IsZero reports whether a is the null reverse-path.
func (a Addr) IsZero() bool { return a.local == "" }

// Local returns the normalised local part.
func (a Addr) Local() string { return a.local }

// Domain returns the normalised domain.
func (a Addr) Domain() Domain { return a.domain }

// Wire returns the exact address, as it goes on the wire, into the database
// and into file names. It must never reach a log.
func (a Addr) Wire() string {
	if a.IsZero() {
		return ""
	}
	return a.local + "@" + string(a.domain)
}

// String returns the address without its local part, for logs and errors.
func (a Addr) String() string {
	if a.IsZero() {
		return "<>"
	}
	return "…@" + string(a.domain)
}

// LogValue makes slog print the shortened form.
func (a Addr) LogValue() slog.Value { return slog.StringValue(a.String()) }

package share

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Bounds of one link.
const (
	minSlug = 3    // letters and digits that a chosen slug has at least
	maxSlug = 64   // octets
	maxName = 64   // characters
	maxURL  = 2048 // octets
)

// Why a link is not taken. Each is of kind fault.Invalid, except ErrTaken, which is
// fault.Exists, and ErrMany, which is fault.Full.
var (
	ErrURL      = fault.New(fault.Invalid, "the link must be a Delta Chat invite link: https://i.delta.chat/#...")
	ErrName     = fault.New(fault.Invalid, "a name has at most 64 characters, in one line")
	ErrSlug     = fault.New(fault.Invalid, "a slug has 3 to 64 letters or digits")
	ErrReserved = fault.New(fault.Invalid, "the slug is the name of a page of this server")
	ErrTaken    = fault.New(fault.Exists, "the slug is taken")
	ErrMany     = fault.New(fault.Full, "there are as many contact links as this server keeps")
)

// Scheme begins an invite in its stored form.
const Scheme = "openpgp4fpr:"

// ReservedURL is that of a slug which is only kept from others, and reservedName its name.
const (
	ReservedURL  = "reserved"
	reservedName = "Reserved"
)

// ParseInvite returns the stored form, openpgp4fpr:FPR#params, of an invite link of the
// form https://i.delta.chat/#FPR&params. FPR is the fingerprint of an OpenPGP key: 40
// hexadecimal digits (RFC 9580 section 5.5.4), or 64. The error is ErrURL.
func ParseInvite(text string) (string, error) {
	text = strings.TrimSpace(text)
	place, fragment, ok := strings.Cut(text, "#")
	if !ok || len(text) > maxURL {
		return "", ErrURL
	}
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Host, "i.delta.chat") || u.Path != "/" && u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.User != nil {
		return "", ErrURL
	}
	fpr, params, _ := strings.Cut(fragment, "&")
	if len(fpr) != 40 && len(fpr) != 64 || !isHex(fpr) || params == "" || !isParams(params) {
		return "", ErrURL
	}
	return Scheme + fpr + "#" + params, nil
}

// parseStored is ParseInvite for operators, who may also write the stored form, with
// any fingerprint and without parameters: programs for earlier versions do.
func parseStored(text string) (string, error) {
	text = strings.TrimSpace(text)
	if len(text) < len(Scheme) || !strings.EqualFold(text[:len(Scheme)], Scheme) {
		return ParseInvite(text)
	}
	fpr, params, has := strings.Cut(text[len(Scheme):], "#")
	if len(text) > maxURL || len(fpr) < 4 || len(fpr) > 64 || !isHex(fpr) || has && !isParams(params) {
		return "", ErrURL
	}
	if !has {
		return Scheme + fpr, nil
	}
	return Scheme + fpr + "#" + params, nil
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; !(s[i] >= '0' && s[i] <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

// isParams reports whether a text can stand in a fragment (RFC 3986 section 3.5), with
// what browsers leave there unescaped.
func isParams(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~!$&'()*+,;=:@/?%[]", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// ownerOf is the address that a stored invite leads to, or "".
func ownerOf(stored string) string {
	_, params, _ := strings.Cut(stored, "#")
	for part := range strings.SplitSeq(params, "&") {
		if v, ok := strings.CutPrefix(part, "a="); ok {
			if text, err := url.QueryUnescape(v); err == nil {
				if a, err := address.Parse(text); err == nil {
					return a.Wire()
				}
			}
			return ""
		}
	}
	return ""
}

// Invite is the link that browsers and clients open.
func (l Link) Invite() string {
	fpr, params, has := strings.Cut(strings.TrimPrefix(l.URL, Scheme), "#")
	if has {
		fpr += "&" + params
	}
	return "https://i.delta.chat/#" + fpr
}

// checkSlug says whether a slug can be chosen. Operators may have hyphens between its
// letters and digits, as earlier versions let their programs have.
func (s *Store) checkSlug(slug string, operator bool) error {
	n := 0
	for i := range len(slug) {
		switch c := slug[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			n++
		case c == '-' && operator && i > 0 && i < len(slug)-1:
		default:
			return ErrSlug
		}
	}
	switch {
	case n < minSlug || len(slug) > maxSlug:
		return ErrSlug
	case s.taken(slug):
		return ErrReserved
	}
	return nil
}

// checkName returns a name as it is stored. Marks that turn the direction of text round
// would reach into what stands beside it.
func checkName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName || strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
	}) {
		return "", ErrName
	}
	return name, nil
}

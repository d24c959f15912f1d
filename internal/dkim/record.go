package dkim

import (
	"strings"

	"madmail/internal/fault"
)

// Limits on what is read from the DNS.
const (
	// MaxRecords is how many TXT records of one name are looked at, as many as
	// the official relays do.
	MaxRecords = 3
	// MaxRecord is the longest key record taken, in octets: an RSA key of 8192
	// bits needs 1400. It bounds the time one check takes.
	MaxRecord = 2048
)

// Name returns the DNS name of a selector's key record (RFC 6376 section 3.6.2.1).
func Name(selector, domain string) string {
	return selector + "._domainkey." + domain
}

// Pieces splits a record's text into the character strings of a TXT record, of at
// most 255 octets each (RFC 1035 section 3.3.14). Readers join them without
// anything in between.
func Pieces(record string) []string {
	var out []string
	for len(record) > 255 {
		out = append(out, record[:255])
		record = record[255:]
	}
	return append(out, record)
}

// ZoneLine returns the record as a line for a zone file, in pieces.
func ZoneLine(name, record string) string {
	return name + ". 3600 IN TXT \"" + strings.Join(Pieces(record), "\" \"") + "\""
}

// tags is a parsed tag list (RFC 6376 section 3.2).
type tags map[string]string

// parseTags reads a tag list. Values lose all white space: no tag that is read
// here may hold any. The error is of kind fault.Invalid.
func parseTags(s string) (tags, error) {
	t := make(tags)
	for spec := range strings.SplitSeq(s, ";") {
		name, value, ok := strings.Cut(spec, "=")
		name = strings.Trim(name, " \t\r\n")
		if !ok {
			if name == "" {
				continue // a semicolon at the end
			}
			return nil, fault.New(fault.Invalid, "a tag without a value")
		}
		if !tagName(name) {
			return nil, fault.New(fault.Invalid, "a malformed tag name")
		}
		if _, twice := t[name]; twice {
			return nil, fault.New(fault.Invalid, "a tag twice")
		}
		t[name] = withoutSpace(value)
	}
	return t, nil
}

func tagName(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '_') {
			return false
		}
	}
	return s != ""
}

func withoutSpace(s string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n':
			return -1
		}
		return r
	}, s)
}

// clean removes what hands and web forms leave inside published key records:
// white space, line breaks and double quotes. The official relays do the same.
func clean(record string) string {
	return strings.ReplaceAll(withoutSpace(record), `"`, "")
}

// pickRecord returns the key record among the TXT records of a name, cleaned, for
// a signature with key algorithm algo ("rsa", "ed25519"). Other texts under the name are
// passed over. Several keys under one name are left undefined by RFC 6376 section
// 3.6.2.2; the first one of the right algorithm is taken.
func pickRecord(txts []string, algo string) (string, bool) {
	first := ""
	for i, txt := range txts {
		if i == MaxRecords {
			break
		}
		if len(txt) > 2*MaxRecord {
			continue
		}
		txt = clean(txt)
		t, err := parseTags(txt)
		if err != nil || len(txt) > MaxRecord {
			continue
		}
		if v, ok := t["v"]; ok && v != "DKIM1" {
			continue
		}
		if _, ok := t["p"]; !ok {
			continue
		}
		k := t["k"]
		if k == "" {
			k = "rsa"
		}
		if k == algo {
			return txt, true
		}
		if first == "" {
			first = txt
		}
	}
	return first, first != ""
}

// Match says how a published record differs from the one expected.
type Match uint8

// The closed set of matches.
const (
	Matched    Match = iota
	Missing          // no key record under the name
	OtherKey         // another public key
	Revoked          // the record takes the key back: an empty p=
	OtherTags        // the key is right, another tag is not
	TooMany          // several key records under the name
	Unreadable       // texts are there, none is a key record
)

var matches = [...]string{
	Matched: "", Missing: "no record under this name",
	OtherKey:   "the published key is another one",
	Revoked:    "the published record revokes the key",
	OtherTags:  "the key is right, but its version or key type is not",
	TooMany:    "more than one key record under this name",
	Unreadable: "the published text is no DKIM key record",
}

// String returns a sentence for the operator; "" for Matched.
func (m Match) String() string {
	if int(m) < len(matches) {
		return matches[m]
	}
	return "match?"
}

// Compare compares the published TXT records of a name with the expected text.
// The key must be equal octet for octet; version and key type ignore case; other
// tags are free. Each published text is one record with its pieces joined.
func Compare(expected string, published []string) Match {
	want, err := parseTags(clean(expected))
	if err != nil || want["p"] == "" {
		return Unreadable
	}
	keys, found := 0, Missing
	for _, txt := range published {
		if len(txt) > 2*MaxRecord {
			found = Unreadable
			continue
		}
		got, err := parseTags(clean(txt))
		p, has := got["p"]
		if err != nil || !has {
			if keys == 0 {
				found = Unreadable
			}
			continue
		}
		keys++
		switch {
		case p == "":
			found = Revoked
		case p != want["p"]:
			found = OtherKey
		case !sameTag(got, want, "v", "DKIM1"), !sameTag(got, want, "k", "rsa"):
			found = OtherTags
		default:
			found = Matched
		}
	}
	if keys > 1 {
		return TooMany
	}
	return found
}

func sameTag(got, want tags, name, otherwise string) bool {
	g, w := got[name], want[name]
	if g == "" {
		g = otherwise
	}
	if w == "" {
		w = otherwise
	}
	return strings.EqualFold(g, w)
}

// Package message is the grammar of Internet messages (RFC 5322, RFC 2045): header
// fields, addresses, edits of the header block. It turns bytes into values and
// back; it has no files, sockets or clock, and everything in it is bounded.
package message

import (
	"bytes"
	"errors"
	"net/mail"
	"slices"
	"strings"
	"time"
)

// MaxHeader is the largest header block taken, in octets.
const MaxHeader = 1 << 20

// MaxFields is the largest number of header fields taken.
const MaxFields = 5000

// ErrHeader says that a header block does not follow RFC 5322 section 2.2.
var ErrHeader = errors.New("message: malformed header")

// Field is one header field as it stands in the message: name, colon, value
// and folds, with the final CRLF.
type Field []byte

// Name returns the field name as written.
func (f Field) Name() string { return string(f.name()) }

func (f Field) name() []byte {
	n := max(0, bytes.IndexByte(f, ':'))
	for n > 0 && (f[n-1] == ' ' || f[n-1] == '\t') {
		n--
	}
	return f[:n]
}

// Is reports whether the field has that name, ignoring case.
func (f Field) Is(name string) bool {
	if len(f) <= len(name) || !asciiEqualFold(f[:len(name)], name) {
		return false
	}
	for _, c := range f[len(name):] {
		switch c {
		case ' ', '\t':
		case ':':
			return true
		default:
			return false
		}
	}
	return false
}

func asciiEqualFold(b []byte, s string) bool {
	for i := range b {
		if lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// Value returns the unfolded value without surrounding white space (RFC 5322
// section 2.2.3: a fold is its CRLF; the white space behind it stays).
func (f Field) Value() string {
	i := bytes.IndexByte(f, ':')
	if i < 0 {
		return ""
	}
	v := f[i+1:]
	if bytes.IndexByte(v, '\n') < len(v)-1 {
		v = bytes.ReplaceAll(v, []byte("\r\n"), nil)
		v = bytes.ReplaceAll(v, []byte("\n"), nil)
	}
	return string(bytes.Trim(v, " \t\r\n"))
}

// Header is the fields of a header block in their order. They share memory
// with the block they were parsed from.
type Header []Field

// ParseHeader splits a header block into fields. The block may or may not end
// with the blank line; what stands behind that line must not be passed.
func ParseHeader(block []byte) (Header, error) {
	if len(block) > MaxHeader {
		return nil, ErrHeader
	}
	var h Header
	for len(block) > 0 {
		if block[0] == '\n' || len(block) > 1 && block[0] == '\r' && block[1] == '\n' {
			break
		}
		n := fieldLength(block)
		f := Field(block[:n])
		colon := bytes.IndexByte(f, ':')
		if colon <= 0 || !fieldName(bytes.TrimRight(f[:colon], " \t")) {
			return nil, ErrHeader
		}
		if h = append(h, f); len(h) > MaxFields {
			return nil, ErrHeader
		}
		block = block[n:]
	}
	return h, nil
}

// fieldLength returns the length of the first field: up to a line end that is
// not followed by white space.
func fieldLength(b []byte) int {
	at := 0
	for {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return len(b)
		}
		at += i + 1
		if at == len(b) || b[at] != ' ' && b[at] != '\t' {
			return at
		}
	}
}

func fieldName(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 127 || c == ':' {
			return false
		}
	}
	return len(b) > 0
}

// Get returns the unfolded value of the first field of that name.
func (h Header) Get(name string) (string, bool) {
	for _, f := range h {
		if f.Is(name) {
			return f.Value(), true
		}
	}
	return "", false
}

// Count returns how many fields have that name.
func (h Header) Count(name string) int {
	n := 0
	for _, f := range h {
		if f.Is(name) {
			n++
		}
	}
	return n
}

// HeaderEnd returns the length of the header block at the start of b with its
// blank line, or -1 when b does not hold all of it. A message that begins with
// the blank line has a block of that line alone.
func HeaderEnd(b []byte) int {
	at := 0
	for {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return -1
		}
		line := b[at : at+i]
		at += i + 1
		if len(line) == 0 || len(line) == 1 && line[0] == '\r' {
			return at
		}
	}
}

// hidden is what replaces the subject of a message, as the official network has it.
const hidden = "[...]"

// Verdict is the name of the field that keeps what was found out about a message's
// origin, in the words of RFC 8601. It is not Authentication-Results: mail of this
// network carries none when it is read.
const Verdict = "X-Authentication-Results"

// Quarantine is the name of the field that marks a message which an operator's checks
// want marked, with the checks that failed.
const Quarantine = "X-Quarantine"

// Strip returns a header block without the fields that tell where a message
// came from (Received, DKIM-Signature, Authentication-Results, and Verdict and Quarantine, which are
// ours to write); with hideSubject a Subject's text is replaced. Everything else
// stays octet for octet.
func Strip(block []byte, hideSubject bool) []byte {
	out := make([]byte, 0, len(block))
	for len(block) > 0 {
		n := fieldLength(block)
		f := Field(block[:n])
		block = block[n:]
		switch {
		case f.Is("Received"), f.Is("DKIM-Signature"), f.Is("Authentication-Results"), f.Is(Verdict), f.Is(Quarantine):
		case hideSubject && f.Is("Subject"):
			out = append(out, f[:bytes.IndexByte(f, ':')+1]...)
			out = append(out, " "+hidden+"\r\n"...)
		default:
			out = append(out, f...)
		}
	}
	return out
}

// Pick appends to out the fields of a header block whose names are in names (lower
// case), or with not those whose names are not, unchanged and in their order,
// followed by the blank line: BODY[HEADER.FIELDS (...)] of RFC 3501 section 6.4.5.
func Pick(out, block []byte, names []string, not bool) []byte {
	for len(block) > 0 {
		if block[0] == '\n' || len(block) > 1 && block[0] == '\r' && block[1] == '\n' {
			break
		}
		n := fieldLength(block)
		f := Field(block[:n])
		block = block[n:]
		own := f.name()
		found := len(own) > 0 && slices.ContainsFunc(names, func(name string) bool { return len(name) == len(own) && asciiEqualFold(own, name) })
		if found != not {
			out = append(out, f...)
			if f[len(f)-1] != '\n' {
				out = append(out, '\r', '\n')
			}
		}
	}
	return append(out, '\r', '\n')
}

// FirstAddress returns the first address of an address list (RFC 5322 section
// 3.4) as written, without angle brackets, comments and display name. What
// follows the first address is not looked at.
func FirstAddress(v string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(v); {
		switch c := v[i]; c {
		case '(':
			n := comment(v[i:])
			if n == 0 {
				return "", false
			}
			i += n
		case '"':
			n := quoted(v[i:])
			if n == 0 {
				return "", false
			}
			b.WriteString(v[i : i+n])
			i += n
		case '<':
			end := strings.IndexByte(v[i:], '>')
			if end < 0 {
				return "", false
			}
			return spec(v[i+1 : i+end])
		case ':':
			// A colon in a literal belongs to it; elsewhere it ends a group's name.
			if open := strings.LastIndexByte(b.String(), '['); open < 0 {
				b.Reset()
			} else {
				b.WriteByte(c)
			}
			i++
		case ',', ';':
			if s := strings.TrimSpace(b.String()); s != "" {
				return spec(s)
			}
			b.Reset()
			i++
		default:
			b.WriteByte(c)
			i++
		}
	}
	return spec(b.String())
}

// spec checks that s looks like an addr-spec. Sources routes are dropped.
func spec(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "@") {
		if i := strings.IndexByte(s, ':'); i >= 0 {
			s = s[i+1:]
		}
	}
	at := strings.LastIndexByte(s, '@')
	if at <= 0 || at == len(s)-1 {
		return "", false
	}
	local := s[:at]
	if local[0] != '"' && strings.ContainsAny(local, " \t\r\n@") || strings.ContainsAny(s[at:], " \t\r\n") {
		return "", false
	}
	return s, true
}

// comment returns the length of the comment at the start of s, or 0 without end.
func comment(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}

// quoted returns the length of the quoted string at the start of s, or 0.
func quoted(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// ParseDate reads a Date field (RFC 5322 section 3.3).
func ParseDate(v string) (time.Time, error) { return mail.ParseDate(v) }

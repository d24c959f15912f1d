// Package imap is the grammar of IMAP4rev1 (RFC 3501 section 9 and the
// extensions that the server offers): it turns command lines into typed
// values and values into response text. It has no sockets, mailboxes or state.
package imap

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of what a parser takes.
const (
	MaxLine     = 64 << 10 // octets of a command without its literals
	MaxNesting  = 16       // of parentheses and search keys
	MaxSetParts = 4096     // ranges in one set
)

// NumRange is a range of a set; 0 stands for "*".
type NumRange struct{ First, Last uint32 }

// NumSet is a sequence set as written. An empty set that is not nil is "$", the
// result of the last search that was saved (RFC 5182).
type NumSet []NumRange

// Saved reports whether the set is "$". Resolve knows nothing of it.
func (s NumSet) Saved() bool { return s != nil && len(s) == 0 }

// Resolve gives "*" its value and orders each range. Ranges that lie beyond
// max because they name numbers stay there: only "*" means the last one.
func (s NumSet) Resolve(max uint32) []NumRange {
	out := make([]NumRange, 0, len(s))
	for _, r := range s {
		if r.First == 0 {
			r.First = max
		}
		if r.Last == 0 {
			r.Last = max
		}
		if r.First > r.Last {
			r.First, r.Last = r.Last, r.First
		}
		if r.Last > 0 {
			out = append(out, r)
		}
	}
	return out
}

// Section names a part of a message (RFC 3501 section 6.4.5).
type Section struct {
	Part   []int    // "1.2"
	Spec   string   // "", HEADER, HEADER.FIELDS, HEADER.FIELDS.NOT, TEXT, MIME
	Fields []string // lower case
	Text   string   // as it goes between the brackets of the response
}

// FetchItem is one thing to fetch. Name is in upper case: FLAGS, UID,
// RFC822.SIZE, INTERNALDATE, ENVELOPE, BODYSTRUCTURE, BODY (the structure),
// BODY[] (with Section), RFC822, RFC822.HEADER, RFC822.TEXT, MODSEQ, BINARY[] and
// BINARY.SIZE (with Section), SAVEDATE, EMAILID, THREADID, PREVIEW.
type FetchItem struct {
	Name    string
	Section Section
	Peek    bool
	Lazy    bool // of PREVIEW
	Partial bool
	Offset  int64
	Count   int64
}

// Quote appends s as a quoted string, or as a literal where a quoted string
// cannot hold it: clients take 7-bit text only in quoted strings.
func Quote(b []byte, s string) []byte {
	if !quotable(s) {
		return Literal(b, s)
	}
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func quotable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 127 {
			return false
		}
	}
	return len(s) <= 1024
}

// Literal appends s as a literal.
func Literal(b []byte, s string) []byte {
	b = append(b, '{')
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, "}\r\n"...)
	return append(b, s...)
}

// NString appends a string, or NIL when ok is false.
func NString(b []byte, s string, ok bool) []byte {
	if !ok {
		return append(b, "NIL"...)
	}
	return Quote(b, s)
}

// Text makes s fit for the text of a response: 7-bit, one line.
func Text(s string) string {
	clean := true
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] >= 127 {
			clean = false
		}
	}
	if clean {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 127 {
			return '?'
		}
		return r
	}, s)
}

const dateTime = "02-Jan-2006 15:04:05 -0700"

// DateTime appends an INTERNALDATE (RFC 3501 section 9, date-time).
func DateTime(b []byte, unix int64) []byte {
	b = append(b, '"')
	b = time.Unix(unix, 0).UTC().AppendFormat(b, dateTime)
	return append(b, '"')
}

// ParseDateTime reads the inside of a date-time.
func ParseDateTime(s string) (time.Time, error) {
	return time.Parse(dateTime, strings.Replace(s, " ", "0", min(1, strings.Count(s[:min(1, len(s))], " "))))
}

// FormatUIDs appends a set in its shortest form. uids is sorted.
func FormatUIDs(b []byte, uids []uint32) []byte {
	for i := 0; i < len(uids); {
		j := i
		for j+1 < len(uids) && uids[j+1] == uids[j]+1 {
			j++
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(uids[i]), 10)
		if j > i {
			b = append(b, ':')
			b = strconv.AppendUint(b, uint64(uids[j]), 10)
		}
		i = j + 1
	}
	return b
}

// utf7 is the alphabet of modified base64 (RFC 3501 section 5.1.3).
const utf7 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,"

// EncodeName writes a mailbox name in modified UTF-7.
func EncodeName(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); {
		c := name[i]
		switch {
		case c == '&':
			b.WriteString("&-")
			i++
			continue
		case c >= ' ' && c < 127:
			b.WriteByte(c)
			i++
			continue
		}
		var units []uint16
		for i < len(name) && (name[i] < ' ' || name[i] >= 127) {
			r, n := utf8.DecodeRuneInString(name[i:])
			units = utf16.AppendRune(units, r)
			i += n
		}
		b.WriteByte('&')
		var acc uint32
		bits := 0
		for _, u := range units {
			acc = acc<<16 | uint32(u)
			for bits += 16; bits >= 6; {
				bits -= 6
				b.WriteByte(utf7[acc>>bits&63])
			}
		}
		if bits > 0 {
			b.WriteByte(utf7[acc<<(6-bits)&63])
		}
		b.WriteByte('-')
	}
	return b.String()
}

// DecodeName reads modified UTF-7. Names in plain UTF-8 pass as they are:
// clients send both.
func DecodeName(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' {
			return "", false
		}
		if s[i] != '&' {
			b.WriteByte(s[i])
			continue
		}
		end := strings.IndexByte(s[i:], '-')
		if end < 0 {
			return "", false
		}
		code := s[i+1 : i+end]
		i += end
		if code == "" {
			b.WriteByte('&')
			continue
		}
		var units []uint16
		var acc uint32
		bits := 0
		for j := 0; j < len(code); j++ {
			v := strings.IndexByte(utf7, code[j])
			if v < 0 {
				return "", false
			}
			acc = acc<<6 | uint32(v)
			if bits += 6; bits >= 16 {
				bits -= 16
				units = append(units, uint16(acc>>bits))
			}
		}
		if bits >= 6 || acc&(1<<bits-1) != 0 {
			return "", false
		}
		for _, r := range utf16.Decode(units) {
			if r == utf8.RuneError || r < 0x20 {
				return "", false
			}
			b.WriteRune(r)
		}
	}
	return b.String(), utf8.ValidString(b.String())
}

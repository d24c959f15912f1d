package imap

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Casemap returns s as the collation i;unicode-casemap compares it (RFC 5051
// section 2): each character in title case, then decomposed. The results are
// compared octet by octet. Octets that are no UTF-8 stay as they are.
func Casemap(s string) string { return string(casemap(make([]byte, 0, len(s)+8), []byte(s))) }

func casemap(b, text []byte) []byte {
	for len(text) > 0 {
		if c := text[0]; c < utf8.RuneSelf {
			b = append(b, upper(c))
			text = text[1:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			b = append(b, text[0])
		} else {
			var one [utf8.UTFMax]byte
			b = norm.NFKD.Append(b, one[:utf8.EncodeRune(one[:], unicode.ToTitle(r))]...)
		}
		text = text[n:]
	}
	return b
}

func upper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

// Finder looks for a string in a text that comes in pieces, by the substring
// operation of i;unicode-casemap. It keeps nothing of the text, and takes time in
// proportion to it.
type Finder struct {
	want []byte
	back []int32 // of Knuth, Morris and Pratt: where to go on after a mismatch
	at   int
	part [utf8.UTFMax]byte // of a character whose rest has not come yet
	n    int
	did  bool
}

// NewFinder returns a finder for s. The empty string is found at once.
func NewFinder(s string) *Finder {
	f := &Finder{want: casemap(nil, []byte(s))}
	f.back = make([]int32, len(f.want)+1)
	f.back[0] = -1
	for i, k := 0, -1; i < len(f.want); {
		for k >= 0 && f.want[i] != f.want[k] {
			k = int(f.back[k])
		}
		i++
		k++
		f.back[i] = int32(k)
	}
	f.Reset()
	return f
}

// Reset begins a new text.
func (f *Finder) Reset() { f.at, f.n, f.did = 0, 0, len(f.want) == 0 }

// Found reports whether the text had the string so far. Before Break the end of
// malformed UTF-8 does not count.
func (f *Finder) Found() bool { return f.did }

// Break ends the present text: what follows does not continue it.
func (f *Finder) Break() {
	if !f.did {
		f.look(f.part[:f.n]) // of a character that does not go on
	}
	f.at, f.n = 0, 0
}

// Write takes a piece of the text. It never fails.
func (f *Finder) Write(p []byte) (int, error) {
	all := len(p)
	var buf [512]byte
	for len(p) > 0 && !f.did {
		if f.n > 0 || p[0] >= utf8.RuneSelf {
			p = f.rune(p)
			continue
		}
		// A run of ASCII.
		n := 0
		for n < len(p) && n < len(buf) && p[n] < utf8.RuneSelf {
			buf[n] = upper(p[n])
			n++
		}
		f.look(buf[:n])
		p = p[n:]
	}
	return all, nil
}

// rune takes one octet of a character, and looks at it when it is complete.
func (f *Finder) rune(p []byte) []byte {
	f.part[f.n] = p[0]
	f.n++
	if !utf8.FullRune(f.part[:f.n]) {
		return p[1:]
	}
	// Usually all of it is one character. Of malformed text it is the first
	// octet, and the others are to be looked at again.
	_, size := utf8.DecodeRune(f.part[:f.n])
	var out [64]byte
	f.look(casemap(out[:0], f.part[:size]))
	rest := append([]byte(nil), f.part[size:f.n]...)
	f.n = 0
	if len(rest) == 0 {
		return p[1:]
	}
	for len(rest) > 0 && !f.did {
		if rest[0] < utf8.RuneSelf {
			f.look([]byte{upper(rest[0])})
			rest = rest[1:]
			continue
		}
		rest = f.rune(rest)
	}
	return p[1:]
}

// look goes on with folded octets.
func (f *Finder) look(p []byte) {
	for _, c := range p {
		for f.at >= 0 && f.want[f.at] != c {
			f.at = int(f.back[f.at])
		}
		if f.at++; f.at == len(f.want) {
			f.did, f.at = true, 0
			return
		}
	}
}

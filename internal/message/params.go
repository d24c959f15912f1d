package message

import (
	"slices"
	"strconv"
	"strings"
)

// Param is a parameter of a MIME field (RFC 2045 section 5.1): the name in
// lower case, the value without quoting.
//
// Values that were split (RFC 2231 section 3) are joined. A value with a
// character set stays encoded, and its name ends in an asterisk (section 4):
// the pair is then what the sender would have written on one line.
type Param struct {
	Name, Value string
}

// Limits of one field: parameters, pieces counted singly, and language tags.
const (
	maxParams = 1000
	maxTags   = 100
)

// paramValue returns the value of the parameter of that name (lower case).
func paramValue(ps []Param, name string) string {
	for _, p := range ps {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// tspecials end a token (RFC 2045 section 5.1).
const tspecials = `()<>@,;:\"/[]?=`

// params reads what follows the value proper: any number of "; name=value".
// Whatever is not of this form is passed over up to the next semicolon.
func (l *lexer) params() []Param {
	var ps []Param
	for len(ps) < maxParams {
		for l.skip(); !l.done() && l.peek() != ';'; l.skip() {
			l.value(`;"(`)
		}
		if l.done() {
			break
		}
		l.i++
		l.skip()
		name := l.until(`=;"(`)
		l.skip()
		if name == "" || l.peek() != '=' {
			continue
		}
		l.i++
		ps = append(ps, Param{strings.ToLower(name), l.value(`;"(`)})
	}
	return join(ps)
}

// piece is one part of a split value: name*3="..." or name*3*=...
type piece struct {
	base    string
	n       int
	encoded bool
	value   string
}

func pieceOf(p Param) (piece, bool) {
	base, rest, ok := strings.Cut(p.Name, "*")
	if !ok || base == "" {
		return piece{}, false
	}
	digits, encoded := strings.CutSuffix(rest, "*")
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return piece{}, false
	}
	return piece{base, int(n), encoded, p.Value}, true
}

// join puts split values together, in the place of their first piece.
func join(ps []Param) []Param {
	if !slices.ContainsFunc(ps, func(p Param) bool { return strings.Contains(p.Name, "*") }) {
		return ps
	}
	split := map[string][]piece{}
	out := ps[:0]
	for _, p := range ps {
		pc, ok := pieceOf(p)
		if !ok {
			out = append(out, p)
			continue
		}
		if split[pc.base] == nil {
			out = append(out, Param{Name: pc.base + "*"})
		}
		split[pc.base] = append(split[pc.base], pc)
	}
	for i, p := range out {
		base, isSplit := strings.CutSuffix(p.Name, "*")
		if pieces := split[base]; isSplit && pieces != nil && p.Value == "" {
			out[i] = joined(base, pieces)
			delete(split, base)
		}
	}
	return out
}

// joined orders the pieces. They count from 0; a gap ends the value.
func joined(base string, pieces []piece) Param {
	slices.SortStableFunc(pieces, func(a, b piece) int { return a.n - b.n })
	have, encoded := 0, false
	for i, pc := range pieces {
		if pc.n != i {
			break
		}
		have++
		encoded = encoded || pc.encoded
	}
	var b strings.Builder
	if encoded && !pieces[0].encoded {
		b.WriteString("''") // no character set, no language
	}
	for _, pc := range pieces[:have] {
		if encoded && !pc.encoded {
			percent(&b, pc.value)
		} else {
			b.WriteString(pc.value)
		}
	}
	if encoded {
		base += "*"
	}
	return Param{base, b.String()}
}

// percent encodes what may not stand in an encoded value (RFC 2231 section 7).
func percent(b *strings.Builder, s string) {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 127 || c == '*' || c == '\'' || c == '%' || strings.IndexByte(tspecials, c) >= 0 {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
			continue
		}
		b.WriteByte(c)
	}
}

// mediaType reads a Content-Type (RFC 2045 section 5.1). ok is false when
// there is no type with a subtype.
func mediaType(v string) (typ, subtype string, ps []Param, ok bool) {
	l := &lexer{s: v}
	l.skip()
	typ = strings.ToLower(l.until(tspecials))
	l.skip()
	if typ == "" || l.peek() != '/' {
		return "", "", nil, false
	}
	l.i++
	l.skip()
	subtype = strings.ToLower(l.until(tspecials))
	if subtype == "" {
		return "", "", nil, false
	}
	return typ, subtype, l.params(), true
}

// disposition reads a Content-Disposition (RFC 2183 section 2).
func disposition(v string) (kind string, ps []Param) {
	l := &lexer{s: v}
	l.skip()
	kind = strings.ToLower(l.until(tspecials))
	if kind == "" {
		return "", nil
	}
	return kind, l.params()
}

// firstToken returns the first token of a value in lower case.
func firstToken(v string) string {
	l := &lexer{s: v}
	l.skip()
	return strings.ToLower(l.until(tspecials))
}

// languages reads a Content-Language (RFC 3282 section 2).
func languages(v string) []string {
	var tags []string
	l := &lexer{s: v}
	for l.skip(); !l.done() && len(tags) < maxTags; l.skip() {
		if tag := l.until(`,()<>@;:\"/[]?=`); tag != "" {
			tags = append(tags, tag)
		} else {
			l.i++
		}
	}
	return tags
}

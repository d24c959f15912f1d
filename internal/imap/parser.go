package imap

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Error is a syntax error: what was expected, and where.
type Error struct {
	Want string
	At   int
}

func (e *Error) Error() string { return fmt.Sprintf("expected %s at octet %d", e.Want, e.At) }

// Parser takes a command apart. Calls are chained: the first error stays, and
// later calls return zero values. Literals stand in the text as {n} CR LF, their
// octets are handed over apart.
type Parser struct {
	text     string
	i        int
	literals [][]byte
	err      error

	// UTF8 says that mailbox names come in UTF-8 and nothing else, where "&"
	// is a letter like any other (RFC 6855, RFC 9051 section 5.1).
	UTF8 bool
	// Nesting bounds the depth of search keys; 0 means MaxNesting.
	Nesting int
}

// NewParser parses text, whose literals are in literals in their order.
func NewParser(text string, literals [][]byte) *Parser {
	return &Parser{text: text, literals: literals}
}

// Err returns the first error.
func (p *Parser) Err() error { return p.err }

func (p *Parser) fail(want string) {
	if p.err == nil {
		p.err = &Error{want, p.i}
		p.i = len(p.text)
	}
}

// Refuse makes want the first error, where there was none: what stands here is not it.
func (p *Parser) Refuse(want string) { p.fail(want) }

// End demands the end of the command.
func (p *Parser) End() error {
	if p.err == nil && p.i != len(p.text) {
		p.fail("end of command")
	}
	return p.err
}

// More reports whether something is left.
func (p *Parser) More() bool { return p.err == nil && p.i < len(p.text) }

// Rest returns what was not taken yet.
func (p *Parser) Rest() string { return p.text[p.i:] }

func (p *Parser) peek() byte {
	if p.i < len(p.text) {
		return p.text[p.i]
	}
	return 0
}

// Peek reports whether the next octet is c.
func (p *Parser) Peek(c byte) bool { return p.err == nil && p.i < len(p.text) && p.text[p.i] == c }

// Try takes c when it is next.
func (p *Parser) Try(c byte) bool {
	if p.Peek(c) {
		p.i++
		return true
	}
	return false
}

// Expect demands c.
func (p *Parser) Expect(c byte) {
	if !p.Try(c) {
		p.fail(strconv.QuoteRune(rune(c)))
	}
}

// SP demands a space.
func (p *Parser) SP() { p.Expect(' ') }

// TryWord takes word, ignoring case, when it is next and complete.
func (p *Parser) TryWord(word string) bool {
	rest := p.text[p.i:]
	if p.err != nil || len(rest) < len(word) || !strings.EqualFold(rest[:len(word)], word) {
		return false
	}
	if len(rest) > len(word) && atomChar(rest[len(word)]) && rest[len(word)] != '[' {
		return false
	}
	p.i += len(word)
	return true
}

// atomChar tells the characters of an atom (RFC 3501 section 9). "]" is among
// them: clients use it in flags.
func atomChar(c byte) bool {
	return c > ' ' && c < 127 && strings.IndexByte(`(){%*"\`, c) < 0
}

func (p *Parser) run(ok func(byte) bool, want string) string {
	start := p.i
	for p.i < len(p.text) && ok(p.text[p.i]) {
		p.i++
	}
	if p.i == start {
		p.fail(want)
		return ""
	}
	return p.text[start:p.i]
}

// Atom takes an atom.
func (p *Parser) Atom() string { return p.run(atomChar, "an atom") }

// Tag takes a command's tag.
func (p *Parser) Tag() string {
	return p.run(func(c byte) bool { return atomChar(c) && c != '+' }, "a tag")
}

// Number takes a 32-bit number.
func (p *Parser) Number() uint32 {
	n, err := strconv.ParseUint(p.run(digit, "a number"), 10, 32)
	if err != nil {
		p.fail("a 32-bit number")
	}
	return uint32(n)
}

// Number63 takes a number of up to 63 bits: mod-sequences (RFC 7162 section 7).
func (p *Parser) Number63() uint64 {
	n, err := strconv.ParseUint(p.run(digit, "a number"), 10, 63)
	if err != nil {
		p.fail("a 63-bit number")
	}
	return n
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// String takes a quoted string or a literal.
func (p *Parser) String() string {
	switch p.peek() {
	case '"':
		return p.quoted()
	case '{':
		return p.literal()
	}
	p.fail("a string")
	return ""
}

func (p *Parser) quoted() string {
	p.i++
	var b strings.Builder
	for p.i < len(p.text) {
		c := p.text[p.i]
		p.i++
		switch c {
		case '"':
			return b.String()
		case '\\':
			if n := p.peek(); n != '"' && n != '\\' {
				p.fail(`\" or \\`)
				return ""
			}
			b.WriteByte(p.text[p.i])
			p.i++
		case '\r', '\n', 0:
			p.fail("the end of a quoted string")
			return ""
		default:
			b.WriteByte(c)
		}
	}
	p.fail("the end of a quoted string")
	return ""
}

func (p *Parser) literal() string {
	end := strings.Index(p.text[p.i:], "}\r\n")
	if end < 0 || len(p.literals) == 0 {
		p.fail("a literal")
		return ""
	}
	p.i += end + 3
	s := string(p.literals[0])
	p.literals = p.literals[1:]
	if strings.IndexByte(s, 0) >= 0 {
		p.fail("a literal without NUL")
	}
	return s
}

// AString takes an atom or a string.
func (p *Parser) AString() string {
	if c := p.peek(); c == '"' || c == '{' {
		return p.String()
	}
	return p.Atom()
}

// NString takes a string or NIL.
func (p *Parser) NString() (string, bool) {
	if p.TryWord("NIL") {
		return "", false
	}
	return p.String(), true
}

// Mailbox takes a mailbox name and gives it in UTF-8, INBOX in upper case.
func (p *Parser) Mailbox() string {
	s := p.AString()
	if strings.EqualFold(s, "INBOX") {
		return "INBOX"
	}
	return p.name(s)
}

// name decodes a mailbox name as the connection writes them.
func (p *Parser) name(s string) string {
	if p.UTF8 {
		if !utf8.ValidString(s) || strings.IndexFunc(s, unicode.IsControl) >= 0 {
			p.fail("a mailbox name in UTF-8")
		}
		return s
	}
	name, ok := DecodeName(s)
	if !ok {
		p.fail("a mailbox name")
	}
	return name
}

// ListPattern takes a mailbox name that may have wildcards.
func (p *Parser) ListPattern() string {
	s := ""
	if c := p.peek(); c == '"' || c == '{' {
		s = p.String()
	} else {
		s = p.run(func(c byte) bool { return atomChar(c) || c == '%' || c == '*' }, "a mailbox pattern")
	}
	return p.name(s)
}

// Set takes a sequence set.
func (p *Parser) Set() NumSet {
	if p.Try('$') {
		return NumSet{}
	}
	var s NumSet
	for {
		r := NumRange{First: p.setNumber()}
		r.Last = r.First
		if p.Try(':') {
			r.Last = p.setNumber()
		}
		s = append(s, r)
		if len(s) > MaxSetParts {
			p.fail("a shorter set")
		}
		if p.err != nil {
			return nil
		}
		if !p.Try(',') {
			return s
		}
	}
}

// SetNumber takes a message number or UID, or "*" as 0.
func (p *Parser) SetNumber() uint32 { return p.setNumber() }

func (p *Parser) setNumber() uint32 {
	if p.Try('*') {
		return 0
	}
	n := p.Number()
	if n == 0 {
		p.fail("a number above 0")
	}
	return n
}

// Flag takes a flag or keyword.
func (p *Parser) Flag() string {
	if p.Try('\\') {
		return `\` + p.Atom()
	}
	return p.Atom()
}

// Flags takes a list of flags, in parentheses or, as STORE allows, without.
func (p *Parser) Flags() []string {
	var flags []string
	if !p.Try('(') {
		for {
			flags = append(flags, p.Flag())
			if !p.Try(' ') {
				return flags
			}
		}
	}
	for !p.Try(')') && p.err == nil {
		if len(flags) > 0 {
			p.SP()
		}
		flags = append(flags, p.Flag())
	}
	return flags
}

// DateTime takes a quoted date-time.
func (p *Parser) DateTime() time.Time {
	if !p.Peek('"') {
		p.fail("a date")
		return time.Time{}
	}
	t, err := ParseDateTime(p.quoted())
	if err != nil {
		p.fail("a date")
	}
	return t
}

// List takes a parenthesised list of f.
func (p *Parser) List(f func()) {
	p.Expect('(')
	for first := true; !p.Try(')') && p.err == nil; first = false {
		if !first {
			p.SP()
			if p.Try(')') { // a blank before the bracket: some clients do
				return
			}
		}
		f()
	}
}

// FetchItems takes what FETCH asks for, with the macros resolved.
func (p *Parser) FetchItems() []FetchItem {
	named := func(names ...string) []FetchItem {
		items := make([]FetchItem, len(names))
		for i, n := range names {
			items[i].Name = n
		}
		return items
	}
	switch {
	case p.TryWord("ALL"):
		return named("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE")
	case p.TryWord("FAST"):
		return named("FLAGS", "INTERNALDATE", "RFC822.SIZE")
	case p.TryWord("FULL"):
		return named("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY")
	}
	if !p.Peek('(') {
		return []FetchItem{p.fetchItem()}
	}
	var items []FetchItem
	p.List(func() { items = append(items, p.fetchItem()) })
	if len(items) == 0 {
		p.fail("something to fetch")
	}
	return items
}

func (p *Parser) fetchItem() FetchItem {
	name := strings.ToUpper(p.run(func(c byte) bool { return atomChar(c) && c != '[' && c != ']' && c != '<' }, "a fetch item"))
	it := FetchItem{Name: name}
	switch name {
	case "FLAGS", "UID", "RFC822.SIZE", "INTERNALDATE", "ENVELOPE", "BODYSTRUCTURE", "RFC822", "RFC822.TEXT", "MODSEQ",
		"SAVEDATE", "EMAILID", "THREADID": // RFC 8514, RFC 8474
	case "PREVIEW": // RFC 8970
		// Looked at as a whole: what else is in parentheses belongs to FETCH.
		const lazy = " (LAZY)"
		if rest := p.Rest(); len(rest) >= len(lazy) && strings.EqualFold(rest[:len(lazy)], lazy) {
			it.Lazy = true
			p.i += len(lazy)
		}
	case "RFC822.HEADER":
		it.Peek = true
	case "BINARY", "BINARY.PEEK", "BINARY.SIZE": // RFC 3516 section 4.2
		it.Section = p.section()
		if it.Section.Spec != "" {
			p.fail("a section without a name")
		}
		if it.Peek = name != "BINARY"; name == "BINARY.SIZE" {
			break
		}
		it.Name = "BINARY[]"
		p.partial(&it)
	case "BODY", "BODY.PEEK":
		if !p.Peek('[') {
			if name != "BODY" {
				p.fail(`"["`)
			}
			return it
		}
		it.Name, it.Peek = "BODY[]", name == "BODY.PEEK"
		it.Section = p.section()
		p.partial(&it)
	default:
		p.fail("a known fetch item")
	}
	return it
}

// partial takes "<offset.count>", if it is there.
func (p *Parser) partial(it *FetchItem) {
	if !p.Try('<') {
		return
	}
	it.Partial = true
	it.Offset = int64(p.Number63()) // RFC 9051 section 9
	p.Expect('.')
	it.Count = int64(p.Number())
	p.Expect('>')
	if it.Count == 0 {
		p.fail("a length above 0")
	}
}

func (p *Parser) section() Section {
	var s Section
	p.Expect('[')
	start := p.i
	for digit(p.peek()) && p.err == nil {
		n := p.Number()
		if n == 0 || len(s.Part) >= 100 {
			p.fail("a part number")
		}
		s.Part = append(s.Part, int(n))
		if !p.Try('.') {
			s.Text = p.text[start:p.i]
			p.Expect(']')
			return s
		}
	}
	if p.Try(']') {
		return s
	}
	s.Spec = strings.ToUpper(p.run(func(c byte) bool { return c == '.' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' }, "a section"))
	prefix := strings.ToUpper(p.text[start:p.i])
	switch s.Spec {
	case "HEADER", "TEXT":
	case "MIME":
		if len(s.Part) == 0 {
			p.fail("a part number before MIME")
		}
	case "HEADER.FIELDS", "HEADER.FIELDS.NOT":
		p.SP()
		var names []byte
		p.List(func() {
			f := p.AString()
			if len(s.Fields) >= 256 || strings.ContainsAny(f, "\r\n:") || !utf8.ValidString(f) {
				p.fail("a header field name")
			}
			s.Fields = append(s.Fields, strings.ToLower(f))
			if len(names) > 0 {
				names = append(names, ' ')
			}
			if isAtom(f) {
				names = append(names, f...)
			} else {
				names = Quote(names, f)
			}
		})
		if len(s.Fields) == 0 {
			p.fail("a header field name")
		}
		prefix += " (" + string(names) + ")"
	default:
		p.fail("a known section")
	}
	s.Text = prefix
	p.Expect(']')
	return s
}

func isAtom(s string) bool {
	for i := 0; i < len(s); i++ {
		if !atomChar(s[i]) || s[i] == ']' {
			return false
		}
	}
	return s != ""
}

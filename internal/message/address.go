package message

import "strings"

// Mark tells addresses from the ends of groups (RFC 5322 section 3.4).
type Mark uint8

// The marks. A group is its start, its members, its end.
const (
	Single     Mark = iota // an address
	GroupStart             // Address.Mailbox is the group's name
	GroupEnd
)

// Address is an address structure of an ENVELOPE (RFC 3501 section 7.4.2).
// Texts are as in the message, without quoting: encoded words stay encoded.
// An address without a domain, which some programs write, has an empty Host.
type Address struct {
	Mark    Mark
	Name    string // display name; "" stands for none
	Route   string // obsolete source route, "@a,@b"; "" stands for none
	Mailbox string // local part
	Host    string // domain
}

// MaxAddresses bounds the address structures of one envelope, and of all the
// envelopes within one message. Further addresses are left out.
const MaxAddresses = 20_000

// specials end an atom of an address.
const specials = `()<>[]:;@\,"`

// addressList reads an address list. It takes whatever stands there: mail
// that is stored must be shown, well-formed or not. left is how many structures
// may still be made; groups stay whole.
func addressList(v string, left *int) []Address {
	p := addressParser{lexer: lexer{s: v}, left: left}
	for !p.done() {
		p.next()
	}
	p.flush()
	p.endGroup()
	return p.out
}

type addressParser struct {
	lexer
	left *int
	out  []Address

	words   []string // of the present phrase or local part
	comment string
	inGroup bool
	angled  bool // an address in angle brackets came before these words
}

func (p *addressParser) next() {
	if c := p.skip(); c != "" {
		p.comment = c
	}
	if p.done() {
		return
	}
	switch c := p.peek(); c {
	case '"':
		p.words = append(p.words, p.quoted())
	case '<':
		p.i++
		p.angle()
	case '@':
		p.i++
		a := Address{Mailbox: strings.Join(p.words, ""), Host: p.domain(",;<")}
		if c := p.skip(); c != "" {
			p.comment = c
		}
		a.Name = p.comment
		p.add(a)
	case ':':
		p.i++
		if !p.inGroup && len(p.words) > 0 && *p.left > 1 {
			*p.left -= 2 // for the end, too
			p.out = append(p.out, Address{Mark: GroupStart, Mailbox: strings.Join(p.words, " ")})
			p.inGroup = true
		}
		p.reset()
	case ',':
		p.i++
		p.flush()
	case ';':
		p.i++
		p.flush()
		p.endGroup()
	default:
		if w := p.until(specials); w != "" {
			p.words = append(p.words, w)
		} else {
			p.i++ // a stray special
		}
	}
}

// angle reads what stands between angle brackets: route, local part, domain.
func (p *addressParser) angle() {
	a := Address{Name: strings.Join(p.words, " ")}
	if a.Name == "" {
		a.Name = p.comment
	}
	p.skip()
	if p.peek() == '@' {
		start := p.i
		for !p.done() && p.peek() != ':' && p.peek() != '>' {
			p.i++
		}
		if p.peek() == ':' {
			a.Route = strings.TrimSpace(p.s[start:p.i])
			p.i++
		} else {
			p.i = start
		}
	}
	var local strings.Builder
	for p.skip(); !p.done(); p.skip() {
		c := p.peek()
		if c == '>' || c == '@' {
			break
		}
		if c == '"' {
			local.WriteString(p.quoted())
			continue
		}
		w := p.until(`()<>@"`)
		if w == "" {
			p.i++
		}
		local.WriteString(w)
	}
	a.Mailbox = local.String()
	if p.peek() == '@' {
		p.i++
		a.Host = p.domain(">")
	}
	for !p.done() && p.peek() != '>' {
		p.i++
	}
	p.step()
	p.add(a)
	p.angled = true
}

// domain reads a domain up to one of stop: atoms and literals, without
// comments and white space.
func (p *addressParser) domain(stop string) string {
	var b strings.Builder
	ends := stop + "(["
	for {
		if c := p.skip(); c != "" {
			p.comment = c
		}
		if p.done() || strings.IndexByte(stop, p.peek()) >= 0 {
			return b.String()
		}
		if p.peek() == '[' {
			n := strings.IndexByte(p.s[p.i:], ']')
			if n < 0 {
				n = len(p.s) - p.i - 1
			}
			b.WriteString(p.s[p.i : p.i+n+1])
			p.i += n + 1
			continue
		}
		// Two names side by side are not one name: the second begins the next phrase.
		if b.Len() > 0 && space(p.s[p.i-1]) && p.peek() != '.' && p.s[p.lastInk()] != '.' {
			return b.String()
		}
		w := p.until(ends)
		b.WriteString(w)
		if w == "" {
			p.i++
		}
	}
}

// lastInk is the place of the last octet before here that is not white space.
func (p *addressParser) lastInk() int {
	i := p.i - 1
	for i > 0 && space(p.s[i]) {
		i--
	}
	return i
}

func (p *addressParser) add(a Address) {
	if *p.left > 0 {
		*p.left--
		p.out = append(p.out, a)
	}
	p.reset()
}

func (p *addressParser) reset() {
	p.words, p.comment, p.angled = p.words[:0], "", false
}

// flush ends an address that had neither brackets nor an at sign.
func (p *addressParser) flush() {
	if len(p.words) == 0 || p.angled {
		p.reset()
		return
	}
	p.add(Address{Mailbox: strings.Join(p.words, " "), Name: p.comment})
}

func (p *addressParser) endGroup() {
	if p.inGroup {
		p.out = append(p.out, Address{Mark: GroupEnd})
		p.inGroup = false
	}
}

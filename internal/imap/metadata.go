package imap

import "strings"

// maxEntries bounds the annotations of one command.
const maxEntries = 64

// GetMetadata is what GETMETADATA asks for (RFC 5464 section 4.2).
type GetMetadata struct {
	Mailbox string   // "" for the server's annotations
	Entries []string // in lower case
	MaxSize int64    // of a value, in octets; negative for any
	Depth   int      // 0, 1, or -1 for all entries below
}

// Wants reports whether an entry is asked for, by its name or by that of one above.
func (g *GetMetadata) Wants(entry string) bool {
	for _, e := range g.Entries {
		below, found := strings.CutPrefix(entry, e)
		switch {
		case !found:
		case below == "", below[0] == '/' && (g.Depth < 0 || g.Depth == 1 && strings.LastIndexByte(below, '/') == 0):
			return true
		}
	}
	return false
}

// GetMetadata takes the arguments of GETMETADATA. The options stand before the mailbox
// in the grammar of RFC 5464 and behind it in its examples: clients do either.
func (p *Parser) GetMetadata() (g GetMetadata) {
	g.MaxSize = -1
	if p.Peek('(') {
		p.metadataOptions(&g)
		p.SP()
	}
	g.Mailbox = p.Mailbox()
	p.SP()
	if rest := p.Rest(); len(rest) > 1 && rest[0] == '(' && (rest[1]|0x20 == 'm' || rest[1]|0x20 == 'd') {
		p.metadataOptions(&g)
		p.SP()
	}
	if !p.Peek('(') {
		g.Entries = []string{p.entry()}
	} else {
		p.List(func() {
			if g.Entries = append(g.Entries, p.entry()); len(g.Entries) > maxEntries {
				p.fail("fewer entries")
			}
		})
		if len(g.Entries) == 0 {
			p.fail("an entry")
		}
	}
	if p.More() {
		p.SP()
		p.metadataOptions(&g)
	}
	return g
}

func (p *Parser) metadataOptions(g *GetMetadata) {
	p.List(func() {
		switch strings.ToUpper(p.Atom()) {
		case "MAXSIZE":
			p.SP()
			g.MaxSize = int64(p.Number())
		case "DEPTH":
			p.SP()
			switch strings.ToUpper(p.Atom()) {
			case "0":
				g.Depth = 0
			case "1":
				g.Depth = 1
			case "INFINITY":
				g.Depth = -1
			default:
				p.fail("0, 1 or infinity")
			}
		default:
			p.fail("MAXSIZE or DEPTH")
		}
	})
}

// entry takes the name of an annotation (RFC 5464 section 3.1).
func (p *Parser) entry() string {
	s := p.AString()
	bad := s == "" || s[0] != '/' || s[len(s)-1] == '/' || strings.Contains(s, "//") || len(s) > 255
	for i := 0; i < len(s); i++ {
		bad = bad || !atomChar(s[i]) || s[i] == ']'
	}
	if bad {
		p.fail("the name of an entry")
	}
	return strings.ToLower(s)
}

// Annotation is an entry that SETMETADATA sets, or removes.
type Annotation struct {
	Entry  string // in lower case
	Value  string
	Remove bool
}

// SetMetadata takes the arguments of SETMETADATA (RFC 5464 section 4.3).
func (p *Parser) SetMetadata() (mailbox string, list []Annotation) {
	mailbox = p.Mailbox()
	p.SP()
	p.List(func() {
		a := Annotation{Entry: p.entry()}
		for _, b := range list {
			if a.Entry == b.Entry {
				p.fail("each entry once")
			}
		}
		p.SP()
		if p.Try('~') { // literal8
			a.Value = p.String()
		} else {
			var set bool
			a.Value, set = p.NString()
			a.Remove = !set
		}
		if list = append(list, a); len(list) > maxEntries {
			p.fail("fewer entries")
		}
	})
	if len(list) == 0 {
		p.fail("an entry")
	}
	return mailbox, list
}

package imap

import "strings"

// Limits of LIST.
const (
	maxPatterns    = 32
	maxPattern     = 1024 // octets of all patterns: they are tried on every mailbox
	maxStatusItems = 32
)

// List is what LIST asks for (RFC 5258 section 3). Options that select are in
// Select, those that add to the answer in Return; an option that nobody named is
// false.
type List struct {
	// Extended says that the command is not the one of RFC 3501.
	Extended  bool
	Reference string
	Patterns  []string
	Select    struct{ Subscribed, SpecialUse, Remote, Recursive bool }
	Return    struct{ Subscribed, SpecialUse, Children bool }
	Status    []string // items, in upper case (RFC 5819)
}

// ListCommand takes the arguments of LIST.
func (p *Parser) ListCommand() (l List) {
	if p.Peek('(') {
		l.Extended = true
		p.List(func() { l.selection(p) })
		if l.Select.Recursive && !l.Select.Subscribed && !l.Select.SpecialUse {
			p.fail("an option that RECURSIVEMATCH goes with")
		}
		p.SP()
	}
	l.Reference = p.Mailbox()
	p.SP()
	if p.Peek('(') {
		l.Extended = true
		p.List(func() {
			if l.Patterns = append(l.Patterns, p.ListPattern()); len(l.Patterns) > maxPatterns {
				p.fail("fewer patterns")
			}
		})
		if len(l.Patterns) == 0 {
			p.fail("a mailbox pattern")
		}
	} else {
		l.Patterns = []string{p.ListPattern()}
	}
	size := len(l.Reference)
	for _, pattern := range l.Patterns {
		size += len(pattern)
	}
	if size > maxPattern {
		p.fail("shorter patterns")
	}
	if p.More() {
		l.Extended = true
		p.SP()
		if !p.TryWord("RETURN") {
			p.fail("RETURN")
		}
		p.SP()
		p.List(func() { l.returned(p) })
	}
	return l
}

func (l *List) selection(p *Parser) {
	switch strings.ToUpper(p.Atom()) {
	case "SUBSCRIBED":
		// RFC 5258 section 3.1: what is selected for is returned, too.
		l.Select.Subscribed, l.Return.Subscribed = true, true
	case "SPECIAL-USE":
		l.Select.SpecialUse, l.Return.SpecialUse = true, true
	case "REMOTE":
		l.Select.Remote = true
	case "RECURSIVEMATCH":
		l.Select.Recursive = true
	default:
		p.fail("a known selection option")
	}
}

func (l *List) returned(p *Parser) {
	switch strings.ToUpper(p.Atom()) {
	case "SUBSCRIBED":
		l.Return.Subscribed = true
	case "SPECIAL-USE":
		l.Return.SpecialUse = true
	case "CHILDREN":
		l.Return.Children = true
	case "STATUS":
		p.SP()
		l.Status = p.StatusItems()
	default:
		p.fail("a known return option")
	}
}

// StatusItems takes the items of STATUS, in upper case.
func (p *Parser) StatusItems() (items []string) {
	p.List(func() {
		it := strings.ToUpper(p.Atom())
		switch it {
		case "MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", // RFC 3501
			"DELETED", "SIZE", // RFC 9051, RFC 8438
			"DELETED-STORAGE",                           // RFC 9208
			"HIGHESTMODSEQ", "APPENDLIMIT", "MAILBOXID": // RFC 7162, RFC 7889, RFC 8474
		default:
			p.fail("a known status item")
		}
		if items = append(items, it); len(items) > maxStatusItems {
			p.fail("fewer status items")
		}
	})
	if len(items) == 0 {
		p.fail("a status item")
	}
	return items
}

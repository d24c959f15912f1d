package imap

import (
	"cmp"
	"strings"
	"time"
)

// MaxSearchKeys bounds the keys of one search, those of all levels.
const MaxSearchKeys = 1000

// SearchKey is a node of a search (RFC 3501 section 6.4.4). Op is the key's
// name in upper case; AND joins Keys; OR and NOT use Keys too; SEQ is a set of
// message numbers.
type SearchKey struct {
	Op    string
	Text  string // of strings, header names, keywords and object IDs
	Value string // of HEADER
	Date  time.Time
	Num   int64
	Set   NumSet
	Keys  []SearchKey
}

// Uses reports whether a key with the name op is part of the search.
func (k *SearchKey) Uses(op string) bool {
	if k.Op == op {
		return true
	}
	for i := range k.Keys {
		if k.Keys[i].Uses(op) {
			return true
		}
	}
	return false
}

// SearchReturn says what a search returns (RFC 4731 section 3.1). Without
// Extended the client did not say, and gets the old response of all numbers.
type SearchReturn struct {
	Extended             bool
	Min, Max, All, Count bool
	Save                 bool // RFC 5182
}

// Search is what SEARCH, SORT or THREAD looks for.
type Search struct {
	Return  SearchReturn
	Charset string // as written; "" when none was named
	Key     SearchKey
}

// Search takes the arguments of SEARCH.
func (p *Parser) Search() Search {
	s := Search{Return: p.SearchReturn()}
	if p.TryWord("CHARSET") {
		p.SP()
		s.Charset = p.AString()
		p.SP()
	}
	s.Key = p.SearchKeys()
	return s
}

// SearchReturn takes the return options of SEARCH or SORT with the space
// behind them, if there are any.
func (p *Parser) SearchReturn() (r SearchReturn) {
	if !p.TryWord("RETURN") {
		return r
	}
	r.Extended = true
	p.SP()
	p.List(func() {
		switch strings.ToUpper(p.Atom()) {
		case "MIN":
			r.Min = true
		case "MAX":
			r.Max = true
		case "ALL":
			r.All = true
		case "COUNT":
			r.Count = true
		case "SAVE":
			r.Save = true
		default:
			p.fail("a known return option")
		}
	})
	// RFC 4731 section 3.1: an empty list asks for ALL.
	if !r.Min && !r.Max && !r.Count && !r.Save {
		r.All = true
	}
	p.SP()
	return r
}

// SearchKeys takes search keys to the end of the command, joined by AND.
func (p *Parser) SearchKeys() SearchKey {
	k := SearchKey{Op: "AND"}
	left := MaxSearchKeys
	for {
		k.Keys = append(k.Keys, p.searchKey(0, &left))
		if p.err != nil || !p.Try(' ') {
			return k
		}
	}
}

func (p *Parser) searchKey(depth int, left *int) SearchKey {
	if *left--; *left < 0 {
		p.fail("fewer search keys")
	}
	if limit := cmp.Or(p.Nesting, MaxNesting); depth > limit {
		p.fail("less nesting")
	}
	if p.err != nil {
		return SearchKey{}
	}
	if p.Peek('(') {
		k := SearchKey{Op: "AND"}
		p.List(func() { k.Keys = append(k.Keys, p.searchKey(depth+1, left)) })
		if len(k.Keys) == 0 {
			p.fail("a search key")
		}
		return k
	}
	if c := p.peek(); digit(c) || c == '*' || c == '$' {
		return SearchKey{Op: "SEQ", Set: p.Set()}
	}
	k := SearchKey{Op: strings.ToUpper(p.Atom())}
	switch k.Op {
	case "ALL", "ANSWERED", "DELETED", "DRAFT", "FLAGGED", "NEW", "OLD", "RECENT", "SEEN",
		"UNANSWERED", "UNDELETED", "UNDRAFT", "UNFLAGGED", "UNSEEN", "SAVEDATESUPPORTED":
	case "BCC", "BODY", "CC", "FROM", "SUBJECT", "TEXT", "TO":
		p.SP()
		k.Text = p.AString()
	case "KEYWORD", "UNKEYWORD":
		p.SP()
		k.Text = p.Atom()
	case "HEADER":
		p.SP()
		k.Text = p.AString()
		p.SP()
		k.Value = p.AString()
	case "BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE", "SAVEDBEFORE", "SAVEDON", "SAVEDSINCE":
		p.SP()
		k.Date = p.date()
	case "LARGER", "SMALLER": // RFC 9051 section 9: number64
		p.SP()
		k.Num = int64(p.Number63())
	case "OLDER", "YOUNGER": // RFC 5032
		p.SP()
		if k.Num = int64(p.Number()); k.Num == 0 {
			p.fail("an interval above 0")
		}
	case "MODSEQ":
		p.SP()
		if p.Peek('"') { // an entry name and type: we keep one mod-sequence for all
			_ = p.String()
			p.SP()
			p.Atom()
			p.SP()
		}
		k.Num = int64(p.Number63())
	case "UID":
		p.SP()
		k.Set = p.Set()
	case "EMAILID", "THREADID": // RFC 8474 section 6
		p.SP()
		k.Text = p.ObjectID()
	case "NOT":
		p.SP()
		k.Keys = []SearchKey{p.searchKey(depth+1, left)}
	case "OR":
		p.SP()
		a := p.searchKey(depth+1, left)
		p.SP()
		k.Keys = []SearchKey{a, p.searchKey(depth+1, left)}
	default:
		p.fail("a known search key")
	}
	return k
}

// ObjectID takes an object identifier (RFC 8474 section 7).
func (p *Parser) ObjectID() string {
	s := p.run(func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || digit(c) || c == '_' || c == '-'
	}, "an object identifier")
	if len(s) > 255 {
		p.fail("an object identifier of at most 255 octets")
	}
	return s
}

// date takes a search date, quoted or not.
func (p *Parser) date() time.Time {
	t, err := time.Parse("2-Jan-2006", p.AString())
	if err != nil {
		p.fail("a date such as 1-Feb-1994")
	}
	return t
}

// SortKey is one criterion of SORT (RFC 5256 section 3): ARRIVAL, CC, DATE,
// FROM, SIZE, SUBJECT or TO.
type SortKey struct {
	Name    string
	Reverse bool
}

// maxSortKeys is each key once, and some to spare for clients that repeat them.
const maxSortKeys = 32

// SortKeys takes the criteria of SORT.
func (p *Parser) SortKeys() (keys []SortKey) {
	p.List(func() {
		var k SortKey
		if k.Reverse = p.TryWord("REVERSE"); k.Reverse {
			p.SP()
		}
		k.Name = strings.ToUpper(p.Atom())
		switch k.Name {
		case "ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO":
		default:
			p.fail("a known sort key")
		}
		if keys = append(keys, k); len(keys) > maxSortKeys {
			p.fail("fewer sort keys")
		}
	})
	if len(keys) == 0 {
		p.fail("a sort key")
	}
	return keys
}

// SearchCharset takes what SORT and THREAD have before their keys: a charset,
// and the keys.
func (p *Parser) SearchCharset() Search {
	var s Search
	s.Charset = p.AString()
	p.SP()
	s.Key = p.SearchKeys()
	return s
}

package message

import (
	"cmp"
	"slices"
	"strings"
)

// Limits of threading. What exceeds them is threaded with what is left.
const (
	maxReferences = 100        // of one message: the last ones
	maxIDLength   = 1000       // longer ones are none
	maxWalk       = 50_000_000 // steps spent on looking for loops
)

// MessageIDs returns the message IDs in a field value, in their order, without
// brackets and quoting: IDs that mean the same are the same (RFC 5256 section 3).
func MessageIDs(v string) []string {
	var ids []string
	for {
		open := strings.IndexByte(v, '<')
		if open < 0 {
			return ids
		}
		l := lexer{s: v[open+1:]}
		var b strings.Builder
		for !l.done() && l.peek() != '>' && l.peek() != '<' {
			switch {
			case l.peek() == '"':
				b.WriteString(l.quoted())
			case space(l.peek()):
				l.step()
			default:
				b.WriteString(l.until(`"<>`))
			}
		}
		if l.peek() == '>' && b.Len() > 0 && b.Len() <= maxIDLength {
			ids = append(ids, b.String())
		}
		v = l.s[l.i:]
	}
}

// Threading is what threads are made of: one message.
type Threading struct {
	Num        uint32 // as it is to be reported
	Date       int64  // when it was sent, unix seconds
	Subject    string // base subject, as it is to be compared
	Reply      bool   // the subject was that of a reply or a forward
	ID         string // of the message, "" without
	References []string
}

// NewThreading reads the fields of a header that threads are made of. Num and
// Date are left to the caller; compare turns a base subject into what is compared.
func NewThreading(h Header, compare func(string) string) Threading {
	v, _ := h.Get("Subject")
	base, reply := BaseSubject(v)
	t := Threading{Subject: compare(base), Reply: reply}
	if v, ok := h.Get("Message-ID"); ok {
		if ids := MessageIDs(v); len(ids) > 0 {
			t.ID = ids[0]
		}
	}
	v, _ = h.Get("References")
	t.References = MessageIDs(v)
	if len(t.References) == 0 {
		v, _ = h.Get("In-Reply-To")
		if ids := MessageIDs(v); len(ids) > 0 {
			t.References = ids[:1]
		}
	}
	if n := len(t.References); n > maxReferences {
		t.References = slices.Clone(t.References[n-maxReferences:])
	}
	return t
}

// Node is a message in a thread. Without a message, Num is 0: something that
// others refer to is not there.
type Node struct {
	Num      uint32
	Children []*Node
}

// BySubject makes threads of messages with the same base subject (RFC 5256
// section 3, ORDEREDSUBJECT).
func BySubject(list []Threading) []*Node {
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b Threading) int {
		return cmp.Or(strings.Compare(a.Subject, b.Subject), cmp.Compare(a.Date, b.Date), cmp.Compare(a.Num, b.Num))
	})
	type thread struct {
		root *Node
		date int64
	}
	var threads []thread
	for i, t := range sorted {
		if i > 0 && t.Subject == sorted[i-1].Subject {
			root := threads[len(threads)-1].root
			root.Children = append(root.Children, &Node{Num: t.Num})
			continue
		}
		threads = append(threads, thread{&Node{Num: t.Num}, t.Date})
	}
	slices.SortStableFunc(threads, func(a, b thread) int {
		return cmp.Or(cmp.Compare(a.date, b.date), cmp.Compare(a.root.Num, b.root.Num))
	})
	nodes := make([]*Node, len(threads))
	for i, t := range threads {
		nodes[i] = t.root
	}
	return nodes
}

// container is a place in the tree of messages, with or without one.
type container struct {
	msg      *Threading
	parent   *container
	children []*container
	gone     bool
}

// ByReferences makes threads of messages that refer to each other (RFC 5256
// section 3, REFERENCES). The list is in the order of the mailbox.
func ByReferences(list []Threading) []*Node {
	t := threader{ids: make(map[string]*container, len(list)), walk: maxWalk}
	t.link(list)
	roots := t.prune()
	sortByDate(roots)
	roots = mergeSubjects(roots)
	sortAll(roots)
	return nodes(roots)
}

type threader struct {
	ids  map[string]*container
	all  []*container
	walk int // steps that may still be spent
}

func (t *threader) of(id string) *container {
	c := t.ids[id]
	if c == nil {
		c = &container{}
		t.ids[id] = c
		t.all = append(t.all, c)
	}
	return c
}

// link is step 1: each message below what it refers to.
func (t *threader) link(list []Threading) {
	for i := range list {
		m := &list[i]
		var c *container
		if m.ID != "" {
			if c = t.of(m.ID); c.msg != nil {
				c = nil // a second message with this ID has none
			}
		}
		if c == nil {
			c = &container{}
			t.all = append(t.all, c)
		}
		c.msg = m
		var last *container
		for _, id := range m.References {
			r := t.of(id)
			if last != nil && r.parent == nil && r != last && !t.below(last, r) {
				r.parent = last
			}
			last = r
		}
		// What the message itself says counts more than what others cut short.
		if last != nil && last != c && last != c.parent && !t.below(last, c) {
			c.parent = last
		}
	}
	for _, c := range t.all {
		if c.parent != nil {
			c.parent.children = append(c.parent.children, c)
		}
	}
}

// below reports whether c is somewhere below top.
func (t *threader) below(c, top *container) bool {
	for ; c != nil; c = c.parent {
		if c == top {
			return true
		}
		if t.walk--; t.walk < 0 {
			return true // no more links
		}
	}
	return false
}

// prune is steps 2 and 3: the roots, without places that no message has, but
// for those that hold several threads together.
func (t *threader) prune() []*container {
	var roots []*container
	for _, c := range t.all {
		if c.parent == nil {
			roots = append(roots, c)
		}
	}
	// From the leaves up, without recursion: threads may be very deep.
	order := slices.Clone(roots)
	for i := 0; i < len(order); i++ {
		order = append(order, order[i].children...)
	}
	for _, c := range slices.Backward(order) {
		c.children = without(c.children)
	}
	var out []*container
	for _, r := range roots {
		switch {
		case r.msg != nil || len(r.children) > 1:
			out = append(out, r)
		case len(r.children) == 1:
			out = append(out, r.children[0])
		}
	}
	for _, r := range out {
		r.parent = nil
	}
	return out
}

// without returns children, with those of an empty place instead of the place.
func without(children []*container) []*container {
	var out []*container
	for _, c := range children {
		if c.msg != nil {
			out = append(out, c)
		} else {
			out = append(out, c.children...)
		}
	}
	return out
}

func (c *container) first() *Threading {
	for c.msg == nil && len(c.children) > 0 {
		c = c.children[0]
	}
	return c.msg
}

// sortByDate orders siblings by the date they were sent (step 4). A place
// without a message counts as its first child, in order.
func sortByDate(list []*container) {
	for _, c := range list {
		if c.msg == nil {
			sortByDate(c.children)
		}
	}
	slices.SortStableFunc(list, func(a, b *container) int {
		x, y := a.first(), b.first()
		return cmp.Or(cmp.Compare(x.Date, y.Date), cmp.Compare(x.Num, y.Num))
	})
}

// mergeSubjects is step 5: threads with the same base subject become one.
func mergeSubjects(roots []*container) []*container {
	table := make(map[string]*container)
	for _, c := range roots {
		s := c.first().Subject
		if s == "" {
			continue
		}
		old := table[s]
		if old == nil || old.msg != nil && (c.msg == nil || old.msg.Reply && !c.msg.Reply) {
			table[s] = c
		}
	}
	// Where a thread went, or a new place came to stand for two.
	instead := make(map[*container]*container)
	for _, c := range roots {
		s := c.first().Subject
		top := table[s]
		if s == "" || top == nil || top == c {
			continue
		}
		switch {
		case top.msg == nil && c.msg == nil:
			top.children = append(top.children, c.children...)
		case top.msg == nil, c.msg.Reply && !top.msg.Reply:
			top.children = append(top.children, c)
		default:
			both := &container{children: []*container{top, c}}
			instead[top] = both
			table[s] = both
		}
		c.gone = true
	}
	out := roots[:0:0]
	for _, c := range roots {
		if both := instead[c]; both != nil {
			c = both
		}
		if !c.gone {
			out = append(out, c)
		}
	}
	return out
}

// sortAll is step 6: siblings of all levels in order of date, from the deepest up.
func sortAll(roots []*container) {
	order := slices.Clone(roots)
	for i := 0; i < len(order); i++ {
		order = append(order, order[i].children...)
	}
	for _, c := range slices.Backward(order) {
		if len(c.children) > 1 {
			sortByDate(c.children)
		}
	}
	sortByDate(roots)
}

// nodes turns places into what is reported, without recursion.
func nodes(roots []*container) []*Node {
	type pair struct {
		c *container
		n *Node
	}
	top := &Node{}
	todo := []pair{{&container{children: roots}, top}}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, c := range p.c.children {
			n := &Node{}
			if c.msg != nil {
				n.Num = c.msg.Num
			}
			p.n.Children = append(p.n.Children, n)
			todo = append(todo, pair{c, n})
		}
	}
	return top.Children
}

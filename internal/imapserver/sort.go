package imapserver

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/imap"
	"madmail/internal/message"
)

// maxSortText bounds each text that messages are ordered by, in octets as they
// are compared.
const maxSortText = 256

// sort answers SORT and UID SORT (RFC 5256, RFC 5267).
func (c *session) sort(cmd *command) response {
	p := cmd.p
	p.SP()
	ret := p.SearchReturn()
	keys := p.SortKeys()
	p.SP()
	s := p.SearchCharset()
	s.Return, keys = ret, once(keys)
	r, done := c.begin(cmd, &s)
	if done {
		return r
	}
	var list []sortable
	err := c.find(&s.Key, func(h hit, m *searcher) error {
		list = append(list, newSortable(h, keys, m))
		return nil
	})
	if err != nil {
		return c.searchFailed(&s, err)
	}
	slices.SortFunc(list, func(a, b sortable) int { return a.compare(&b, keys) })
	hits := make([]hit, len(list))
	for i := range list {
		hits[i] = list[i].hit
	}
	if ret.Extended {
		c.extendedResult(cmd, &s, hits)
	} else {
		c.oldResult("SORT", cmd.uid, &s, hits)
	}
	return ok("Sort completed")
}

// once returns keys without those whose name came before: they decide nothing.
func once(keys []imap.SortKey) []imap.SortKey {
	var out []imap.SortKey
	for _, k := range keys {
		if !slices.ContainsFunc(out, func(o imap.SortKey) bool { return o.Name == k.Name }) {
			out = append(out, k)
		}
	}
	return out
}

// sortable is a message with what it is ordered by: a number or a text for each
// key. Numbers and texts are those that the keys ask for, no others are read.
type sortable struct {
	hit
	nums  []int64
	texts []string
}

func newSortable(h hit, keys []imap.SortKey, m *searcher) sortable {
	s := sortable{hit: h}
	for _, k := range keys {
		switch k.Name {
		case "ARRIVAL":
			s.nums = append(s.nums, h.Internal)
		case "SIZE":
			s.nums = append(s.nums, h.Size)
		case "DATE":
			s.nums = append(s.nums, m.sent().Unix())
		case "SUBJECT":
			v, _ := m.header().Get("Subject")
			base, _ := message.BaseSubject(v)
			s.texts = append(s.texts, compared(base))
		default: // CC, FROM, TO
			s.texts = append(s.texts, compared(firstMailbox(m.header(), k.Name)))
		}
	}
	return s
}

// compared is what the collation compares of a text. A text longer than what is
// kept differs from others in its beginning, or counts as the same.
func compared(s string) string {
	s = imap.Casemap(s[:min(len(s), maxSortText)])
	return strings.Clone(s[:min(len(s), maxSortText)])
}

// firstMailbox returns the local part of the first address of a field (RFC 5256
// section 3), or "".
func firstMailbox(h message.Header, name string) string {
	e := h.Envelope()
	list := e.From
	switch name {
	case "CC":
		list = e.Cc
	case "TO":
		list = e.To
	}
	if len(list) == 0 {
		return ""
	}
	return list[0].Mailbox
}

// compare orders by the keys, and at last by message number (RFC 5256 section 3).
func (s *sortable) compare(t *sortable, keys []imap.SortKey) int {
	n, x := 0, 0
	for _, k := range keys {
		var r int
		switch k.Name {
		case "ARRIVAL", "SIZE", "DATE":
			r = cmp.Compare(s.nums[n], t.nums[n])
			n++
		default:
			r = strings.Compare(s.texts[x], t.texts[x])
			x++
		}
		if k.Reverse {
			r = -r
		}
		if r != 0 {
			return r
		}
	}
	return cmp.Compare(s.i, t.i)
}

// maxThreadText bounds the octets of references that one THREAD keeps. Messages
// beyond it are threaded by their own ID and subject.
const maxThreadText = 32 << 20

// thread answers THREAD and UID THREAD (RFC 5256).
func (c *session) thread(cmd *command) response {
	p := cmd.p
	p.SP()
	algorithm := strings.ToUpper(p.Atom())
	p.SP()
	s := p.SearchCharset()
	r, done := c.begin(cmd, &s)
	if done {
		return r
	}
	threads := message.ByReferences
	switch algorithm {
	case "REFERENCES":
	case "ORDEREDSUBJECT":
		threads = message.BySubject
	default:
		return response{status: "BAD", text: "Unknown threading algorithm"}
	}
	var list []message.Threading
	room := maxThreadText
	err := c.find(&s.Key, func(h hit, m *searcher) error {
		t := message.NewThreading(m.header(), compared)
		t.Num, t.Date = h.num(cmd.uid), m.sent().Unix()
		room -= len(t.ID)
		for _, id := range t.References {
			room -= len(id)
		}
		if room < 0 || algorithm != "REFERENCES" {
			t.References = nil
		}
		list = append(list, t)
		return nil
	})
	if err != nil {
		return c.searchFailed(&s, err)
	}
	c.put("* THREAD")
	b := c.out.bytes()
	roots := threads(list)
	if len(roots) > 0 {
		*b = append(*b, ' ')
	}
	*b = appendThreads(*b, roots)
	c.put("\r\n")
	return ok("Thread completed")
}

// appendThreads writes threads side by side: messages below each other with
// spaces between them, and in parentheses where there are several (RFC 5256
// section 4). It does without recursion: threads may fork at every message.
func appendThreads(b []byte, roots []*message.Node) []byte {
	type step struct {
		node  *message.Node
		close bool
		space bool // a message comes before it in the same parentheses
	}
	var todo []step
	fork := func(list []*message.Node) {
		for _, n := range slices.Backward(list) {
			todo = append(todo, step{close: true}, step{node: n})
		}
	}
	fork(roots)
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		switch {
		case s.close:
			b = append(b, ')')
			continue
		case s.space:
			b = append(b, ' ')
		default:
			b = append(b, '(')
		}
		if s.node.Num != 0 {
			b = strconv.AppendUint(b, uint64(s.node.Num), 10)
		}
		switch kids := s.node.Children; {
		case len(kids) == 1:
			todo = append(todo, step{node: kids[0], space: s.node.Num != 0})
		case len(kids) > 1:
			if s.node.Num != 0 {
				b = append(b, ' ')
			}
			fork(kids)
		}
	}
	return b
}

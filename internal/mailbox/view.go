package mailbox

import "sort"

// View is an immutable snapshot of a mailbox: messages in order of UID.
// It may be kept as long as one likes and read from many goroutines.
type View struct {
	UIDValidity uint32
	UIDNext     UID
	HighestMod  ModSeq

	pages []*page
	n     int

	gone      []goneRange // expunged lately, in order of time
	goneSince ModSeq      // gone is complete for what came after
}

// pageSize bounds what a new message copies.
const pageSize = 256

type page struct {
	first int // sequence index of the first message, 0-based
	msgs  []Message
}

// NewView builds a view from messages sorted by UID. It takes msgs over.
func NewView(validity uint32, next UID, high ModSeq, msgs []Message) *View {
	v := &View{UIDValidity: validity, UIDNext: next, HighestMod: high, n: len(msgs), goneSince: high}
	for i := 0; i < len(msgs); i += pageSize {
		v.pages = append(v.pages, &page{first: i, msgs: msgs[i:min(i+pageSize, len(msgs)):min(i+pageSize, len(msgs))]})
	}
	return v
}

// Len returns the number of messages.
func (v *View) Len() int { return v.n }

// At returns the message at index i, 0 <= i < Len. Sequence numbers of IMAP are i+1.
func (v *View) At(i int) Message {
	k := sort.Search(len(v.pages), func(k int) bool { return v.pages[k].first > i }) - 1
	p := v.pages[k]
	return p.msgs[i-p.first]
}

// Index returns the index of the first message whose UID is at least uid, and
// whether it is uid itself. With none the index is Len.
func (v *View) Index(uid UID) (int, bool) {
	k := sort.Search(len(v.pages), func(k int) bool {
		p := v.pages[k]
		return p.msgs[len(p.msgs)-1].UID >= uid
	})
	if k == len(v.pages) {
		return v.n, false
	}
	p := v.pages[k]
	i := sort.Search(len(p.msgs), func(i int) bool { return p.msgs[i].UID >= uid })
	return p.first + i, p.msgs[i].UID == uid
}

// The functions below are for stores: they make the next view from this one,
// sharing every page that did not change. A view has one successor; a store
// that drops a successor must never have shown it to anybody.

// With returns the view with msgs added at the end. They must be sorted and
// have UIDs above all that are there.
func (v *View) With(next UID, high ModSeq, msgs ...Message) *View {
	w := &View{UIDValidity: v.UIDValidity, UIDNext: next, HighestMod: high, n: v.n + len(msgs), gone: v.gone, goneSince: v.goneSince}
	w.pages = make([]*page, len(v.pages), len(v.pages)+1+len(msgs)/pageSize)
	copy(w.pages, v.pages)
	if k := len(w.pages) - 1; k >= 0 && len(msgs) > 0 {
		if last := w.pages[k]; len(last.msgs) < pageSize {
			take := min(pageSize-len(last.msgs), len(msgs))
			// Views form one chain, so room behind the last message is
			// nobody else's: older views end before it.
			w.pages[k] = &page{first: last.first, msgs: append(last.msgs, msgs[:take]...)}
			msgs = msgs[take:]
		}
	}
	first := w.n - len(msgs)
	for len(msgs) > 0 {
		take := min(pageSize, len(msgs))
		w.pages = append(w.pages, &page{first: first, msgs: append([]Message(nil), msgs[:take]...)})
		first += take
		msgs = msgs[take:]
	}
	return w
}

// Replaced returns the view with messages changed. changed is sorted by UID;
// UIDs that are not there are ignored.
func (v *View) Replaced(high ModSeq, changed []Message) *View {
	w := &View{UIDValidity: v.UIDValidity, UIDNext: v.UIDNext, HighestMod: high, n: v.n, gone: v.gone, goneSince: v.goneSince}
	w.pages = append([]*page(nil), v.pages...)
	copied := -1
	for _, m := range changed {
		i, ok := v.Index(m.UID)
		if !ok {
			continue
		}
		k := sort.Search(len(v.pages), func(k int) bool { return v.pages[k].first > i }) - 1
		if k != copied {
			p := v.pages[k]
			w.pages[k] = &page{first: p.first, msgs: append([]Message(nil), p.msgs...)}
			copied = k
		}
		w.pages[k].msgs[i-w.pages[k].first] = m
	}
	return w
}

// Without returns the view with messages removed. uids is sorted; UIDs that
// are not there are ignored.
func (v *View) Without(high ModSeq, uids []UID) *View {
	w := &View{UIDValidity: v.UIDValidity, UIDNext: v.UIDNext, HighestMod: high}
	w.forget(v, high, uids)
	for _, p := range v.pages {
		last := p.msgs[len(p.msgs)-1].UID
		for len(uids) > 0 && uids[0] < p.msgs[0].UID {
			uids = uids[1:]
		}
		msgs := p.msgs
		if len(uids) > 0 && uids[0] <= last {
			msgs = make([]Message, 0, len(p.msgs))
			for _, m := range p.msgs {
				for len(uids) > 0 && uids[0] < m.UID {
					uids = uids[1:]
				}
				if len(uids) > 0 && uids[0] == m.UID {
					continue
				}
				msgs = append(msgs, m)
			}
		}
		w.addPage(msgs)
	}
	return w
}

// addPage appends a page, joined to the one before when both are small.
func (v *View) addPage(msgs []Message) {
	if len(msgs) == 0 {
		return
	}
	if k := len(v.pages) - 1; k >= 0 && len(v.pages[k].msgs)+len(msgs) <= pageSize/2 {
		p := v.pages[k]
		v.pages[k] = &page{first: p.first, msgs: append(append([]Message(nil), p.msgs...), msgs...)}
	} else {
		v.pages = append(v.pages, &page{first: v.n, msgs: msgs})
	}
	v.n += len(msgs)
}

// Contains reports whether the set holds uid.
func (s UIDSet) Contains(uid UID) bool {
	i := sort.Search(len(s), func(i int) bool { return s[i].Last >= uid })
	return i < len(s) && s[i].First <= uid
}

// Add puts uid into the set. It is cheap when uids come in ascending order.
func (s UIDSet) Add(uid UID) UIDSet {
	if n := len(s); n > 0 && s[n-1].Last+1 == uid {
		s[n-1].Last = uid
		return s
	} else if n == 0 || s[n-1].Last < uid {
		return append(s, UIDRange{uid, uid})
	}
	if s.Contains(uid) {
		return s
	}
	all := append(append(UIDSet(nil), s...), UIDRange{uid, uid})
	return all.Normal()
}

// Normal sorts the set and joins ranges that touch.
func (s UIDSet) Normal() UIDSet {
	for i := range s {
		if s[i].First > s[i].Last {
			s[i].First, s[i].Last = s[i].Last, s[i].First
		}
	}
	sort.Slice(s, func(i, j int) bool { return s[i].First < s[j].First })
	out := s[:0]
	for _, r := range s {
		if n := len(out); n > 0 && uint64(r.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Each calls f for every message of the view that is in set, in order.
func (v *View) Each(set UIDSet, f func(i int, m Message)) {
	for _, r := range set {
		i, _ := v.Index(r.First)
		for ; i < v.n; i++ {
			m := v.At(i)
			if m.UID > r.Last {
				break
			}
			f(i, m)
		}
	}
}

// All is the set of every UID.
func All() UIDSet { return UIDSet{{1, ^UID(0)}} }

// Difference is one step from an old view to a newer one.
type Difference struct {
	Kind  DifferenceKind
	Index int // in the old view for Gone and Changed, in the new one for Added
	Message
}

// DifferenceKind says what happened to a message.
type DifferenceKind uint8

// The kinds.
const (
	Gone DifferenceKind = iota
	FlagsChanged
	Added
)

// Diff calls f for everything that differs from old to v, in order of UID.
// Pages that both share are skipped, so it costs what changed.
func (v *View) Diff(old *View, f func(Difference)) {
	a, b := cursor{v: old}, cursor{v: v}
	for !a.done() || !b.done() {
		if a.skipShared(&b) {
			continue
		}
		switch {
		case b.done() || !a.done() && a.msg().UID < b.msg().UID:
			f(Difference{Gone, a.at(), *a.msg()})
			a.next()
		case a.done() || b.msg().UID < a.msg().UID:
			f(Difference{Added, b.at(), *b.msg()})
			b.next()
		default:
			if a.msg().ModSeq != b.msg().ModSeq {
				f(Difference{FlagsChanged, a.at(), *b.msg()})
			}
			a.next()
			b.next()
		}
	}
}

type cursor struct {
	v    *View
	page int
	i    int
}

func (c *cursor) done() bool    { return c.page >= len(c.v.pages) }
func (c *cursor) msg() *Message { return &c.v.pages[c.page].msgs[c.i] }
func (c *cursor) at() int       { return c.v.pages[c.page].first + c.i }

func (c *cursor) next() {
	if c.i++; c.i == len(c.v.pages[c.page].msgs) {
		c.page++
		c.i = 0
	}
}

// skipShared jumps over pages that hold the same memory, also when one of them
// has grown at its end.
func (c *cursor) skipShared(d *cursor) bool {
	if c.done() || d.done() || c.i != d.i {
		return false
	}
	a, b := c.v.pages[c.page].msgs, d.v.pages[d.page].msgs
	if &a[0] != &b[0] {
		return false
	}
	switch {
	case len(a) == len(b):
		c.page, d.page, c.i, d.i = c.page+1, d.page+1, 0, 0
	case len(a) < len(b) && c.i < len(a):
		d.i = len(a)
		c.page, c.i = c.page+1, 0
	default:
		return false
	}
	return true
}

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
}

// pageSize bounds what a new message copies.
const pageSize = 256

type page struct {
	first int // sequence index of the first message, 0-based
	msgs  []Message
}

// NewView builds a view from messages sorted by UID. It takes msgs over.
func NewView(validity uint32, next UID, high ModSeq, msgs []Message) *View {
	v := &View{UIDValidity: validity, UIDNext: next, HighestMod: high, n: len(msgs)}
	for i := 0; i < len(msgs); i += pageSize {
		v.pages = append(v.pages, &page{first: i, msgs: msgs[i:min(i+pageSize, len(msgs))]})
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

package imapserver

import (
	"slices"

	"madmail/internal/mailbox"
)

// Delta is what to tell a client, in this order.
type Delta struct {
	Expunged []int             // sequence numbers, each valid after the one before
	Vanished mailbox.UIDSet    // the same messages by UID
	Exists   bool              // the number of messages grew
	Flags    []mailbox.Message // changed
	Known    *mailbox.View     // what the client knows afterwards
}

// Advance computes what a client that knows known must be told to know now. It
// is a pure function. Without expunge, messages that went stay in Known with
// their sequence numbers: FETCH, STORE and SEARCH must not shift them (RFC 3501
// section 7.4.1).
func Advance(known, now *mailbox.View, expunge bool) Delta {
	d := Delta{Known: now}
	if known == now || known.HighestMod == now.HighestMod && known.Len() == now.Len() && known.UIDNext == now.UIDNext {
		return d
	}
	var gone []mailbox.Message
	now.Diff(known, func(x mailbox.Difference) {
		switch x.Kind {
		case mailbox.Gone:
			if expunge {
				d.Expunged = append(d.Expunged, x.Index+1-len(d.Expunged))
				d.Vanished = d.Vanished.Add(x.Message.UID)
			} else {
				gone = append(gone, x.Message)
			}
		case mailbox.FlagsChanged:
			d.Flags = append(d.Flags, x.Message)
		case mailbox.Added:
			d.Exists = true
		}
	})
	if len(gone) == 0 {
		return d
	}
	all := gone
	for i := range now.Len() {
		all = append(all, now.At(i))
	}
	slices.SortFunc(all, func(a, b mailbox.Message) int { return int(int64(a.UID) - int64(b.UID)) })
	d.Known = mailbox.NewView(now.UIDValidity, now.UIDNext, now.HighestMod, all)
	return d
}

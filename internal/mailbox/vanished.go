package mailbox

// maxGone bounds the expunges that a view remembers one by one.
const maxGone = 32

// goneRange is a run of UIDs that were expunged at mod or before.
type goneRange struct {
	UIDRange
	mod ModSeq
}

// forget notes in w, the successor of v, that uids, sorted, were expunged at mod.
func (w *View) forget(v *View, mod ModSeq, uids []UID) {
	w.gone, w.goneSince = v.gone, v.goneSince
	if len(uids) == 0 {
		return
	}
	// A copy: views share what they do not change.
	gone := append(make([]goneRange, 0, len(v.gone)+1), v.gone...)
	for _, u := range uids {
		if n := len(gone); n > 0 && gone[n-1].Last+1 == u {
			// The earlier ones of the run seem to be younger than they are: telling
			// a client twice is allowed (RFC 7162 section 3.2.10), never is not.
			gone[n-1].Last, gone[n-1].mod = u, mod
			continue
		}
		gone = append(gone, goneRange{UIDRange{u, u}, mod})
	}
	if n := len(gone); n > maxGone {
		w.goneSince = gone[n-maxGone-1].mod
		gone = gone[n-maxGone:]
	}
	w.gone = gone
}

// Vanished returns the UIDs in known that were expunged after since, in order
// (RFC 7162 section 3.2.5.2). For what is too long ago to be remembered it
// returns every UID in known that was given and is no longer there: a client
// that never saw some of them is told in vain, and no client keeps a message
// that went.
func (v *View) Vanished(since ModSeq, known UIDSet) UIDSet {
	var out UIDSet
	switch {
	case since >= v.HighestMod:
		return nil
	case since >= v.goneSince:
		for _, g := range v.gone {
			if g.mod > since {
				out = append(out, g.UIDRange)
			}
		}
		out = out.Normal()
	default:
		out = v.absent()
	}
	return out.Intersect(known)
}

// absent are the UIDs below UIDNext that no message has.
func (v *View) absent() UIDSet {
	var out UIDSet
	next := UID(1)
	for _, p := range v.pages {
		for i := range p.msgs {
			if u := p.msgs[i].UID; u > next {
				out = append(out, UIDRange{next, u - 1})
			}
			next = p.msgs[i].UID + 1
		}
	}
	if v.UIDNext > next {
		out = append(out, UIDRange{next, v.UIDNext - 1})
	}
	return out
}

// Intersect returns what is in both sets.
func (s UIDSet) Intersect(t UIDSet) UIDSet {
	var out UIDSet
	for i, j := 0, 0; i < len(s) && j < len(t); {
		if first, last := max(s[i].First, t[j].First), min(s[i].Last, t[j].Last); first <= last {
			out = append(out, UIDRange{first, last})
		}
		if s[i].Last < t[j].Last {
			i++
		} else {
			j++
		}
	}
	return out
}

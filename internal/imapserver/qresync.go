package imapserver

import (
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// resync is what a client knows of a mailbox that it selects again (RFC 7162
// section 3.2.5).
type resync struct {
	validity uint32
	since    mailbox.ModSeq
	known    imap.NumSet // UIDs; nil for all
}

// parseResync reads the parameters of QRESYNC. The client's pairs of sequence
// numbers and UIDs are a hint for servers that keep no order of expunges; they
// are checked and not used.
func parseResync(p *imap.Parser) *resync {
	q := &resync{}
	p.SP()
	p.Expect('(')
	q.validity = p.Number()
	p.SP()
	q.since = mailbox.ModSeq(p.Number63())
	if p.Try(' ') {
		if !p.Peek('(') {
			q.known = p.Set()
			if !p.Try(' ') {
				p.Expect(')')
				return q
			}
		}
		p.Expect('(')
		_ = p.Set()
		p.SP()
		_ = p.Set()
		p.Expect(')')
	}
	p.Expect(')')
	return q
}

// resynchronise tells what changed in the selected mailbox since the client
// was here: first what went, then what has other flags or is new.
func (c *session) resynchronise(q *resync) {
	if q == nil || q.validity != c.known.UIDValidity {
		return
	}
	set := mailbox.All()
	if q.known != nil {
		set = c.uids(q.known)
	}
	c.vanishedEarlier(q.since, q.known)
	c.known.Each(set, func(i int, m mailbox.Message) {
		if m.ModSeq > q.since {
			c.flagsFetch(i, m, true, true)
		}
	})
}

// vanishedEarlier tells what was expunged after since; nums are UIDs, nil for
// all. "*" is the highest UID that was ever given, not the highest that is left:
// a client that says 1:* wants to hear of the last one, too.
func (c *session) vanishedEarlier(since mailbox.ModSeq, nums imap.NumSet) {
	set := mailbox.All()
	switch {
	case nums.Saved():
		set = c.saved
	case nums != nil:
		set = uidSet(nums, c.known.UIDNext-1)
	}
	if gone := c.known.Vanished(since, set); len(gone) > 0 {
		c.vanished("(EARLIER) ", gone)
	}
}

func (c *session) vanished(how string, set mailbox.UIDSet) {
	c.put("* VANISHED ", how)
	for i, r := range set {
		if i > 0 {
			c.put(",")
		}
		c.num(uint64(r.First))
		if r.Last != r.First {
			c.put(":")
			c.num(uint64(r.Last))
		}
	}
	c.put("\r\n")
}

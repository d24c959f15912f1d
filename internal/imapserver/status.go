package imapserver

import (
	"slices"

	"madmail/internal/mailbox"
)

// status answers STATUS (RFC 3501 section 6.3.10, RFC 9051 section 6.3.11).
func (c *session) status(cmd *command) response {
	p := cmd.p
	p.SP()
	b := mailbox.Box{Account: c.account(), Name: p.Mailbox()}
	p.SP()
	items := p.StatusItems()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if c.rev2 && slices.Contains(items, "RECENT") {
		return response{status: "BAD", text: "There is no RECENT in IMAP4rev2"}
	}
	c.enabling(items)
	ctx, cancel := c.ctx()
	defer cancel()
	v, err := c.srv.opt.Store.View(ctx, b)
	if err != nil {
		return c.refusal(err)
	}
	c.statusOf(b, v, items)
	return ok("Status completed")
}

// enabling notes that a client which asks for mod-sequences understands them (RFC 7162
// section 3.1).
func (c *session) enabling(items []string) {
	if slices.Contains(items, "HIGHESTMODSEQ") {
		c.enableCondstore()
	}
}

// statusOf writes the STATUS response of a mailbox.
func (c *session) statusOf(b mailbox.Box, v *mailbox.View, items []string) {
	c.put("* STATUS ")
	c.boxName(b.Name)
	c.put(" (")
	for i, it := range items {
		if i > 0 {
			c.put(" ")
		}
		c.put(it, " ")
		switch it {
		case "MAILBOXID":
			c.put("(", mailboxID(b, v), ")")
		case "APPENDLIMIT":
			c.num(uint64(max(c.srv.opt.MaxAppend(c.account()), 0)))
		case "HIGHESTMODSEQ":
			c.num(uint64(v.HighestMod))
		default:
			c.num(statusNumber(v, it))
		}
	}
	c.put(")\r\n")
}

func statusNumber(v *mailbox.View, item string) uint64 {
	switch item {
	case "MESSAGES":
		return uint64(v.Len())
	case "UIDNEXT":
		return uint64(v.UIDNext)
	case "UIDVALIDITY":
		return uint64(v.UIDValidity)
	case "RECENT":
		return 0 // \Recent is not kept
	}
	var n uint64
	for i := range v.Len() {
		m := v.At(i)
		switch item {
		case "SIZE":
			n += uint64(m.Size)
		case "UNSEEN":
			if m.Flags&mailbox.Seen == 0 {
				n++
			}
		case "DELETED":
			if m.Flags&mailbox.Deleted != 0 {
				n++
			}
		case "DELETED-STORAGE":
			if m.Flags&mailbox.Deleted != 0 {
				n += uint64(m.Size)
			}
		}
	}
	return n
}

package imapserver

import (
	"strings"

	"madmail/internal/mailbox"
)

// boxCommand reads a command whose only argument is a mailbox.
func (c *session) boxCommand(cmd *command) (mailbox.Box, error) {
	cmd.p.SP()
	b := mailbox.Box{Account: c.account(), Name: cmd.p.Mailbox()}
	return b, cmd.end()
}

// create makes a mailbox, with CREATE-SPECIAL-USE (RFC 6154 section 3).
func (c *session) create(cmd *command) response {
	p := cmd.p
	p.SP()
	b := mailbox.Box{Account: c.account(), Name: strings.TrimSuffix(p.Mailbox(), "/")}
	use := ""
	if p.More() {
		p.SP()
		p.List(func() {
			if !p.TryWord("USE") {
				p.Expect(0)
			}
			p.SP()
			p.List(func() { use = p.Flag() })
		})
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if use != "" {
		if use = specialUse(use); use == "" {
			return no("USEATTR", "Unknown special use")
		}
	}
	ctx, cancel := c.ctx()
	defer cancel()
	if err := c.srv.opt.Store.CreateBox(ctx, b, use); err != nil {
		return c.refusal(err)
	}
	return ok("Create completed")
}

func specialUse(s string) string {
	for _, u := range []string{`\Archive`, `\Drafts`, `\Flagged`, `\Junk`, `\Sent`, `\Trash`} {
		if strings.EqualFold(s, u) {
			return u
		}
	}
	return ""
}

func (c *session) remove(cmd *command) response {
	b, err := c.boxCommand(cmd)
	if err != nil {
		return bad(err)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	if err := c.srv.opt.Store.RemoveBox(ctx, b); err != nil {
		return c.refusal(err)
	}
	if c.open && b == c.box {
		c.leave()
	}
	return ok("Delete completed")
}

func (c *session) rename(cmd *command) response {
	cmd.p.SP()
	b := mailbox.Box{Account: c.account(), Name: cmd.p.Mailbox()}
	cmd.p.SP()
	to := cmd.p.Mailbox()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	if err := c.srv.opt.Store.RenameBox(ctx, b, to); err != nil {
		return c.refusal(err)
	}
	return ok("Rename completed")
}

func (c *session) subscribe(cmd *command) response   { return c.setSubscribed(cmd, true) }
func (c *session) unsubscribe(cmd *command) response { return c.setSubscribed(cmd, false) }

func (c *session) setSubscribed(cmd *command, on bool) response {
	b, err := c.boxCommand(cmd)
	if err != nil {
		return bad(err)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	if err := c.srv.opt.Store.Subscribe(ctx, b, on); err != nil {
		return c.refusal(err)
	}
	return ok("Done")
}

func (c *session) list(cmd *command) response { return c.listing(cmd, "LIST") }
func (c *session) lsub(cmd *command) response { return c.listing(cmd, "LSUB") }

// listing answers LIST and LSUB (RFC 3501 sections 6.3.8 and 6.3.9).
func (c *session) listing(cmd *command, name string) response {
	p := cmd.p
	p.SP()
	ref := p.Mailbox()
	p.SP()
	pattern := p.ListPattern()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if pattern == "" {
		c.put("* ", name, ` (\Noselect) "/" ""`, "\r\n")
		return ok("List completed")
	}
	if ref != "" && !strings.HasPrefix(pattern, "/") {
		pattern = strings.TrimSuffix(ref, "/") + "/" + pattern
	}
	ctx, cancel := c.ctx()
	defer cancel()
	boxes, err := c.srv.opt.Store.Boxes(ctx, c.account())
	if err != nil {
		return c.refusal(err)
	}
	if strings.EqualFold(pattern, mailbox.Inbox) {
		pattern = mailbox.Inbox
	}
	for _, b := range boxes {
		if name == "LSUB" && !b.Subscribed || !matchList(pattern, b.Name) {
			continue
		}
		attr := `\HasNoChildren`
		for _, o := range boxes {
			if strings.HasPrefix(o.Name, b.Name+"/") {
				attr = `\HasChildren`
			}
		}
		if b.SpecialUse != "" {
			attr += " " + b.SpecialUse
		}
		c.put("* ", name, " (", attr, `) "/" `)
		c.boxName(b.Name)
		c.put("\r\n")
	}
	return ok(name[:1] + strings.ToLower(name[1:]) + " completed")
}

// matchList matches a name with a pattern: "*" is anything, "%" anything but
// the delimiter. It takes time in proportion to both lengths.
func matchList(pattern, name string) bool {
	// reach[i]: name[:i] is matched by the pattern so far.
	reach := make([]bool, len(name)+1)
	reach[0] = true
	for i := 0; i < len(pattern); i++ {
		next := make([]bool, len(name)+1)
		switch c := pattern[i]; c {
		case '*', '%':
			on := false
			for j := range next {
				on = on || reach[j]
				next[j] = on
				if c == '%' && j < len(name) && name[j] == '/' {
					on = false
				}
			}
		default:
			for j := 0; j < len(name); j++ {
				next[j+1] = reach[j] && name[j] == c
			}
		}
		reach = next
	}
	return reach[len(name)]
}

// status answers STATUS (RFC 3501 section 6.3.10).
func (c *session) status(cmd *command) response {
	p := cmd.p
	p.SP()
	b := mailbox.Box{Account: c.account(), Name: p.Mailbox()}
	p.SP()
	var items []string
	p.List(func() { items = append(items, strings.ToUpper(p.Atom())) })
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if len(items) == 0 || len(items) > 16 {
		return response{status: "BAD", text: "Expected status items"}
	}
	ctx, cancel := c.ctx()
	defer cancel()
	v, err := c.srv.opt.Store.View(ctx, b)
	if err != nil {
		return c.refusal(err)
	}
	out := c.out.bytes()
	mark := len(*out)
	c.put("* STATUS ")
	c.boxName(b.Name)
	c.put(" (")
	for i, it := range items {
		var n uint64
		switch it {
		case "MESSAGES":
			n = uint64(v.Len())
		case "RECENT":
		case "UIDNEXT":
			n = uint64(v.UIDNext)
		case "UIDVALIDITY":
			n = uint64(v.UIDValidity)
		case "HIGHESTMODSEQ":
			n = uint64(v.HighestMod)
			c.condstore = true
		case "UNSEEN", "SIZE":
			for k := range v.Len() {
				m := v.At(k)
				if it == "SIZE" {
					n += uint64(m.Size)
				} else if m.Flags&mailbox.Seen == 0 {
					n++
				}
			}
		default:
			*out = (*out)[:mark]
			return response{status: "BAD", text: "Unknown status item"}
		}
		if i > 0 {
			c.put(" ")
		}
		c.put(it, " ")
		c.num(n)
	}
	c.put(")\r\n")
	return ok("Status completed")
}

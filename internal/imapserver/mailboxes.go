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
	use, uses := "", 0
	if p.More() {
		p.SP()
		p.List(func() {
			if !p.TryWord("USE") {
				p.Refuse("USE")
			}
			p.SP()
			p.List(func() { use, uses = p.Flag(), uses+1 })
		})
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if use != "" {
		if use = specialUse(use); use == "" || uses > 1 { // one each is kept
			return no("USEATTR", "Unknown special use")
		}
	}
	ctx, cancel := c.ctx()
	defer cancel()
	if err := c.srv.opt.Store.CreateBox(ctx, b, use); err != nil {
		return c.refusal(err)
	}
	c.ownNames("", b.Name)
	v, err := c.srv.opt.Store.View(ctx, b)
	if err != nil { // somebody removed it already
		return ok("Create completed")
	}
	return okCode("MAILBOXID ("+mailboxID(b, v)+")", "Create completed") // RFC 8474 section 4.1
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
	c.ownNames(b.Name, "")
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
	if below, moved := strings.CutPrefix(c.box.Name, b.Name); c.open && moved && b.Name != mailbox.Inbox && (below == "" || below[0] == mailbox.Delimiter) {
		// It stays selected. Subscribed before the look that follows.
		c.sub.Close()
		c.box.Name = to + below
		c.sub = c.srv.opt.Bus.Subscribe(c.box, c)
	}
	c.ownNames(b.Name, to)
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
	c.ownNames("", b.Name)
	return ok("Done")
}

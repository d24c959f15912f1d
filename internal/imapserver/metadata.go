package imapserver

import (
	"context"
	"strings"

	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// Limits of annotations.
const (
	maxEntries    = 64
	maxEntryValue = 8 << 10
)

// getMetadata answers GETMETADATA (RFC 5464 section 4.2). Absent entries are
// left out, and without any there is no untagged response: clients stumble
// over empty parentheses.
func (c *session) getMetadata(cmd *command) response {
	p := cmd.p
	p.SP()
	if p.Peek('(') { // options
		p.List(func() {
			if p.Peek('(') {
				p.List(func() { _ = p.Atom() })
			} else {
				_ = p.Atom()
			}
		})
		p.SP()
	}
	name := p.AString()
	p.SP()
	var entries []string
	entry := func() {
		if e := strings.ToLower(p.AString()); len(entries) < maxEntries {
			entries = append(entries, e)
		}
	}
	if p.Peek('(') {
		p.List(entry)
		if p.More() { // options may stand behind as well
			p.SP()
			p.List(func() { _ = p.Atom() })
		}
	} else {
		entry()
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	box, err := c.annotated(name)
	if err != nil {
		return c.refusal(err)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	found := 0
	for _, e := range entries {
		v, has, err := c.getEntry(ctx, box, e)
		if err != nil {
			return c.refusal(err)
		}
		if !has {
			continue
		}
		if found++; found == 1 {
			c.put("* METADATA ")
			out := c.out.bytes()
			*out = imap.Quote(*out, name)
			c.put(" (")
		} else {
			c.put(" ")
		}
		c.put(imap.Text(e), " ")
		out := c.out.bytes()
		if strings.HasPrefix(e, "/private/") {
			*out = imap.Literal(*out, v)
		} else {
			*out = imap.Quote(*out, v)
		}
	}
	if found > 0 {
		c.put(")\r\n")
	}
	return ok("Getmetadata completed")
}

func (c *session) getEntry(ctx context.Context, box, entry string) (string, bool, error) {
	if c.srv.opt.Metadata == nil {
		return "", false, nil
	}
	return c.srv.opt.Metadata.Get(ctx, c.account(), box, entry)
}

// annotated checks the mailbox of an annotation; "" is the server.
func (c *session) annotated(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if strings.EqualFold(name, mailbox.Inbox) {
		return mailbox.Inbox, nil
	}
	decoded := name
	if !c.utf8 {
		decoded, _ = imap.DecodeName(name)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	_, err := c.srv.opt.Store.View(ctx, mailbox.Box{Account: c.account(), Name: decoded})
	return decoded, err
}

// setMetadata answers SETMETADATA (RFC 5464 section 4.3).
func (c *session) setMetadata(cmd *command) response {
	p := cmd.p
	p.SP()
	name := p.AString()
	p.SP()
	type pair struct {
		entry, value string
		has          bool
	}
	var pairs []pair
	p.List(func() {
		var x pair
		x.entry = strings.ToLower(p.AString())
		p.SP()
		x.value, x.has = p.NString()
		pairs = append(pairs, x)
	})
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if len(pairs) > maxEntries {
		return no("METADATA TOOMANY", "Too many entries")
	}
	box, err := c.annotated(name)
	if err != nil {
		return c.refusal(err)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	for _, x := range pairs {
		if len(x.value) > maxEntryValue {
			return no("METADATA MAXSIZE 8192", "Value is too long")
		}
		if c.srv.opt.Metadata == nil {
			return no("CANNOT", "Annotations are not kept")
		}
		if err := c.srv.opt.Metadata.Set(ctx, c.account(), box, x.entry, x.value, x.has); err != nil {
			return c.refusal(err)
		}
	}
	return ok("Setmetadata completed")
}

package imapserver

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// maxEntryValue bounds the value of an annotation, in octets.
const maxEntryValue = 8 << 10

// getMetadata answers GETMETADATA (RFC 5464 section 4.2). Absent entries are
// left out, and without any there is no untagged response: clients stumble
// over empty parentheses.
func (c *session) getMetadata(cmd *command) response {
	cmd.p.SP()
	g := cmd.p.GetMetadata()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if c.srv.opt.Metadata == nil {
		return ok("Getmetadata completed")
	}
	if err := c.annotated(g.Mailbox); err != nil {
		return c.refusal(err)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	names := g.Entries
	if g.Depth != 0 {
		all, err := c.srv.opt.Metadata.Entries(ctx, c.account(), g.Mailbox)
		if err != nil {
			return c.refusal(err)
		}
		names = slices.DeleteFunc(slices.Sorted(maps.Keys(all)), func(e string) bool { return !g.Wants(e) })
	}
	found, longest := 0, 0
	for _, e := range names {
		v, has, err := c.srv.opt.Metadata.Get(ctx, c.account(), g.Mailbox, e)
		if err != nil {
			return c.refusal(err)
		}
		if has && g.MaxSize >= 0 && int64(len(v)) > g.MaxSize {
			longest = max(longest, len(v))
			continue
		}
		if !has {
			continue
		}
		if found++; found == 1 {
			c.put("* METADATA ")
			c.boxName(g.Mailbox)
			c.put(" (")
		} else {
			c.put(" ")
		}
		c.put(e, " ")
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
	if longest > 0 {
		return okCode("METADATA LONGENTRIES "+strconv.Itoa(longest), "Getmetadata completed, without the longest")
	}
	return ok("Getmetadata completed")
}

// annotated checks the mailbox of an annotation; "" is the server.
func (c *session) annotated(name string) error {
	if name == "" || name == mailbox.Inbox {
		return nil
	}
	ctx, cancel := c.ctx()
	defer cancel()
	_, err := c.srv.opt.Store.View(ctx, mailbox.Box{Account: c.account(), Name: name})
	return err
}

// setMetadata answers SETMETADATA (RFC 5464 section 4.3).
func (c *session) setMetadata(cmd *command) response {
	cmd.p.SP()
	name, list := cmd.p.SetMetadata()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	for _, a := range list {
		if len(a.Value) > maxEntryValue {
			return no("METADATA MAXSIZE "+strconv.Itoa(maxEntryValue), "Value is too long")
		}
	}
	if c.srv.opt.Metadata == nil {
		return no("CANNOT", "Annotations are not kept")
	}
	if err := c.annotated(name); err != nil {
		return c.refusal(err)
	}
	ctx, cancel := c.ctx()
	defer cancel()
	err := c.srv.opt.Metadata.Set(ctx, c.account(), name, list)
	switch {
	case fault.Is(err, fault.TooBig):
		return no("METADATA MAXSIZE "+strconv.Itoa(maxEntryValue), fault.UserText(err))
	case fault.Is(err, fault.Full):
		return no("METADATA TOOMANY", fault.UserText(err))
	case err != nil:
		return c.refusal(err)
	}
	c.ownAnnotations(name)
	c.srv.opt.Bus.Publish(mailbox.Box{Account: c.account()})
	return ok("Setmetadata completed")
}

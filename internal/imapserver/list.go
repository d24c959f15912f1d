package imapserver

import (
	"slices"
	"strings"

	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// list answers LIST (RFC 3501 section 6.3.8, RFC 5258, RFC 5819, RFC 6154).
func (c *session) list(cmd *command) response {
	cmd.p.SP()
	l := cmd.p.ListCommand()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if c.rev2 && slices.Contains(l.Status, "RECENT") {
		return response{status: "BAD", text: "There is no RECENT in IMAP4rev2"}
	}
	c.enabling(l.Status)
	return c.listing(&l, "LIST")
}

// lsub answers LSUB (RFC 3501 section 6.3.9).
func (c *session) lsub(cmd *command) response {
	p := cmd.p
	p.SP()
	l := p.ListCommand()
	l.Select.Subscribed = true
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if l.Extended {
		return response{status: "BAD", text: "LSUB has no options"}
	}
	return c.listing(&l, "LSUB")
}

// listed is a name that a listing may show: a mailbox, or a level above one.
type listed struct {
	mailbox.Info
	exists   bool
	matches  bool // a pattern
	chosen   bool // by the selection options
	children bool
	below    bool // a mailbox below is chosen
	hidden   bool // one that is chosen and no pattern matches
}

func (c *session) listing(l *imap.List, name string) response {
	completed := ok(name[:1] + strings.ToLower(name[1:]) + " completed")
	if !l.Extended && l.Patterns[0] == "" {
		c.put("* ", name, ` (\Noselect) "/" ""`, "\r\n")
		return completed
	}
	ctx, cancel := c.ctx()
	defer cancel()
	boxes, err := c.srv.opt.Store.Boxes(ctx, c.account())
	if err != nil {
		return c.refusal(err)
	}
	for _, x := range lookOver(l, boxes) {
		if !x.matches || !x.shows(l, name) {
			continue
		}
		c.put("* ", name, " (", attributes(l, name, x), `) "/" `)
		c.boxName(x.Name)
		if x.below && l.Select.Recursive {
			c.put(" (\"CHILDINFO\" (", childInfo(l), "))")
		}
		c.put("\r\n")
		if len(l.Status) > 0 && x.exists {
			b := mailbox.Box{Account: c.account(), Name: x.Name}
			if v, err := c.srv.opt.Store.View(ctx, b); err == nil { // RFC 5819 section 2: without, where it cannot be had
				c.statusOf(b, v, l.Status)
			}
		}
	}
	return completed
}

// shows reports whether a name that a pattern matches is in the answer.
func (x *listed) shows(l *imap.List, name string) bool {
	switch {
	case x.chosen:
		return true
	case name == "LSUB":
		// RFC 3501 section 6.3.9: for the sake of those below that do not show.
		return x.hidden
	case l.Select.Recursive:
		// RFC 5258 section 3.5: so do levels that are no mailboxes.
		return x.exists && x.below || x.hidden
	}
	return !l.Select.Subscribed && !l.Select.SpecialUse && x.hidden
}

// lookOver finds out about all mailboxes of an account, and all levels above them.
func lookOver(l *imap.List, boxes []mailbox.Info) []*listed {
	var all []*listed
	at := make(map[string]*listed)
	add := func(name string) *listed {
		x := at[name]
		if x == nil {
			x = &listed{Info: mailbox.Info{Name: name}}
			at[name] = x
			all = append(all, x)
		}
		return x
	}
	patterns := make([]string, len(l.Patterns))
	for i, p := range l.Patterns {
		patterns[i] = interpreted(l.Reference, p)
	}
	for _, b := range boxes {
		for i, ch := range b.Name {
			if ch == mailbox.Delimiter {
				add(b.Name[:i])
			}
		}
		x := add(b.Name)
		x.Info, x.exists = b, true
		x.chosen = (!l.Select.Subscribed || b.Subscribed) && (!l.Select.SpecialUse || b.SpecialUse != "")
	}
	for _, x := range all {
		x.matches = slices.ContainsFunc(patterns, func(p string) bool { return matchList(p, x.Name) })
	}
	for _, x := range all {
		for i, ch := range x.Name {
			if ch != mailbox.Delimiter {
				continue
			}
			up := at[x.Name[:i]]
			up.children = up.children || x.exists
			up.below = up.below || x.chosen
			up.hidden = up.hidden || x.chosen && !x.matches
		}
	}
	return all
}

// interpreted joins a reference and a pattern. INBOX is one in any spelling.
func interpreted(ref, pattern string) string {
	if ref != "" && !strings.HasPrefix(pattern, "/") {
		pattern = strings.TrimSuffix(ref, "/") + "/" + pattern
	}
	if first, _, _ := strings.Cut(pattern, "/"); strings.EqualFold(first, mailbox.Inbox) {
		pattern = mailbox.Inbox + pattern[len(first):]
	}
	return pattern
}

func attributes(l *imap.List, name string, x *listed) string {
	var attrs []string
	switch {
	case name == "LSUB" && !x.chosen:
		attrs = append(attrs, `\Noselect`)
	case x.exists:
	case l.Extended:
		attrs = append(attrs, `\NonExistent`)
	default:
		attrs = append(attrs, `\Noselect`)
	}
	if x.children {
		attrs = append(attrs, `\HasChildren`)
	} else {
		attrs = append(attrs, `\HasNoChildren`)
	}
	if x.SpecialUse != "" {
		attrs = append(attrs, x.SpecialUse)
	}
	if l.Return.Subscribed && x.Subscribed {
		attrs = append(attrs, `\Subscribed`)
	}
	return strings.Join(attrs, " ")
}

// childInfo names the options that a mailbox below is chosen by.
func childInfo(l *imap.List) string {
	var by []string
	if l.Select.Subscribed {
		by = append(by, `"SUBSCRIBED"`)
	}
	if l.Select.SpecialUse {
		by = append(by, `"SPECIAL-USE"`)
	}
	return strings.Join(by, " ")
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

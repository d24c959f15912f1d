package imapserver

import (
	"errors"

	"madmail/internal/event"
	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// interest is what a session that said NOTIFY is told without asking (RFC 5465).
// Nothing of it exists in other sessions.
type interest struct {
	selected imap.NotifySelected
	groups   []imap.NotifyGroup
	sub      *event.Subscription // of the account; nil without groups
	told     map[string]told     // by mailbox, of all; what the client knows
}

// told is the state of a mailbox that a client was told, all 0 but for subscribed
// where nothing is asked for. Whatever changed since is told as one, and so nothing
// has to be kept for slow clients.
type told struct {
	events     imap.Events
	validity   uint32
	next       mailbox.UID
	count      int
	mod        mailbox.ModSeq
	subscribed bool
}

// stirring wakes a session whose account changed. It is the session: a value of
// its own would have to be kept.
type stirring session

// Wake implements event.Waker.
func (w *stirring) Wake() {
	c := (*session)(w)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stirred = true
	c.interrupt()
}

// notify answers NOTIFY (RFC 5465 section 3.1). Each replaces the one before.
func (c *session) notify(cmd *command) response {
	cmd.p.SP()
	n := cmd.p.Notify()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if n.Unknown {
		return no("BADEVENT ("+imap.EventNames+")", "Nobody here tells of such events")
	}
	w := &interest{selected: n.Selected, groups: n.Groups, told: make(map[string]told)}
	for i := range w.selected.Fetch {
		w.selected.Fetch[i].Peek = true // nobody has read what was sent unasked
	}
	if w.selected.Fetch != nil {
		w.selected.Fetch = withItem(w.selected.Fetch, "UID")
	}
	c.unwatched()
	c.interest = w
	c.push(w.selected.Events != 0)
	if len(w.groups) == 0 {
		return ok("Notify completed")
	}
	// Subscribed first: what changes from here on is not missed.
	w.sub = c.srv.opt.Bus.Subscribe(mailbox.Box{Account: c.account()}, (*stirring)(c))
	err := c.survey(func(b mailbox.Box, t told, v *mailbox.View) {
		w.told[b.Name] = t
		if n.Status && t.events&imap.MessageNew != 0 && !c.isOpen(b) {
			c.statusOf(b, v, watchedItems)
		}
	})
	if err != nil {
		c.unwatched()
		return c.refusal(err)
	}
	return ok("Notify completed")
}

// watchedItems are what STATUS says of a mailbox that is watched.
var watchedItems = []string{"MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "HIGHESTMODSEQ"}

// unwatched ends NOTIFY. After it the session is as RFC 3501 has it.
func (c *session) unwatched() {
	if c.interest != nil && c.interest.sub != nil {
		c.interest.sub.Close()
	}
	c.interest = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushed, c.stirred = false, false
}

func (c *session) isOpen(b mailbox.Box) bool { return c.open && c.box == b }

// survey calls f for each mailbox, with its view where it is watched.
func (c *session) survey(f func(mailbox.Box, told, *mailbox.View)) error {
	ctx, cancel := c.ctx()
	defer cancel()
	boxes, err := c.srv.opt.Store.Boxes(ctx, c.account())
	if err != nil {
		return err
	}
	for _, info := range boxes {
		t := told{subscribed: info.Subscribed}
		for _, g := range c.interest.groups {
			if g.Includes(info.Name, info.Subscribed) {
				t.events = g.Events
				break
			}
		}
		b := mailbox.Box{Account: c.account(), Name: info.Name}
		if t.events == 0 {
			f(b, t, nil)
			continue
		}
		v, err := c.srv.opt.Store.View(ctx, b)
		if fault.Is(err, fault.NotFound) {
			continue // it went in between, and that wakes again
		}
		if err != nil {
			return err
		}
		t.validity, t.next, t.count, t.mod = v.UIDValidity, v.UIDNext, v.Len(), v.HighestMod
		f(b, t, v)
	}
	return nil
}

// changes tells a client that has not spoken what is due.
func (c *session) changes() error {
	c.mu.Lock()
	selected, others := c.woken && c.pushed, c.stirred
	c.stirred = false // before the look, so that no change falls between
	if !c.open {
		c.woken = false
	}
	c.mu.Unlock()
	if selected && c.open && c.wanted() {
		if err := c.update(c.idleTag != "" || !c.interest.selected.Delayed); err != nil {
			return err
		}
	}
	if others && c.interest != nil {
		c.tell()
	}
	return nil
}

// wanted reports whether something changed in the selected mailbox that the client
// asked for. New flags alone, where it did not, wait for its next command.
func (c *session) wanted() bool {
	if c.interest == nil || c.interest.selected.Events&imap.FlagChange != 0 {
		return true
	}
	c.mu.Lock()
	c.woken = false
	c.mu.Unlock()
	ctx, cancel := c.ctx()
	defer cancel()
	v, err := c.srv.opt.Store.View(ctx, c.box)
	return err != nil || v.UIDValidity != c.known.UIDValidity || v.UIDNext != c.known.UIDNext || v.Len() != c.known.Len()
}

// tell reports what changed in the mailboxes that are watched. Trouble of the
// store is left for the next change, or for a command.
func (c *session) tell() {
	before, now := c.interest.told, make(map[string]told)
	was := make(map[uint32]string, len(before)) // by UIDVALIDITY, which a mailbox keeps in a rename
	for name, t := range before {
		if name != mailbox.Inbox && t.validity != 0 {
			was[t.validity] = name
		}
	}
	renamed := make(map[string]bool)
	err := c.survey(func(b mailbox.Box, t told, v *mailbox.View) {
		now[b.Name] = t
		old, known := before[b.Name]
		if old.validity != 0 && t.validity != 0 && old.validity != t.validity {
			old, known = told{}, false
		}
		switch from := was[t.validity]; {
		case !known && t.events&imap.MailboxName != 0:
			if from != "" {
				renamed[from] = true
				old = before[from]
			}
			c.listedBox(b.Name, t.subscribed, from)
		case known && t.subscribed != old.subscribed && (t.events|old.events)&imap.SubscriptionChange != 0:
			c.listedBox(b.Name, t.subscribed, "")
		}
		messages := t.next != old.next || t.count != old.count || t.validity != old.validity
		flags := t.mod != old.mod && t.events&imap.FlagChange != 0
		if t.events&imap.MessageNew != 0 && (messages || flags) && !c.isOpen(b) {
			c.statusOf(b, v, watchedItems)
		}
	})
	if err != nil {
		c.srv.opt.Logger.Debug("watched mailboxes could not be read", "err", err)
		return
	}
	for name, t := range before {
		if _, is := now[name]; !is && !renamed[name] && t.events&imap.MailboxName != 0 {
			c.put(`* LIST (\NonExistent) "/" `)
			c.boxName(name)
			c.put("\r\n")
		}
	}
	c.interest.told = now
}

// listedBox writes the LIST response of a mailbox that is new or changed; from is its
// former name, or "" (RFC 5465 sections 5.4 and 5.5).
func (c *session) listedBox(name string, subscribed bool, from string) {
	c.put("* LIST (")
	if subscribed {
		c.put(`\Subscribed`)
	}
	c.put(`) "/" `)
	c.boxName(name)
	if from != "" {
		c.put(` ("OLDNAME" (`)
		c.boxName(from)
		c.put("))")
	}
	c.put("\r\n")
}

// fetchNew writes what NOTIFY asks for of messages that came since next was the
// next UID (RFC 5465 section 5.2).
func (c *session) fetchNew(next mailbox.UID) error {
	if c.interest == nil || c.interest.selected.Fetch == nil {
		return nil
	}
	f := fetcher{session: c, items: c.interest.selected.Fetch}
	c.known.Each(mailbox.UIDSet{{First: next, Last: c.known.UIDNext}}, func(i int, m mailbox.Message) {
		if f.err == nil {
			f.message(i, m)
		}
	})
	if f.err != nil {
		c.put("* BYE [UNAVAILABLE] Internal trouble, connect again\r\n")
		return errors.Join(errClose, f.err)
	}
	return nil
}

package imapserver

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"madmail/internal/event"
	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// interest is what a session that said NOTIFY is told without asking (RFC 5465).
// Nothing of it exists in other sessions.
type interest struct {
	imap.Notify
	selected imap.NotifySelected
	sub      *event.Subscription          // of the account; nil without groups
	told     map[string]told              // by mailbox, of all; what the client knows
	notes    map[string]map[string]string // by mailbox that is watched for it: its annotations
}

// told is the state of a mailbox that a client was told; the numbers are 0 where
// nothing is asked for. Whatever changed since is told as one, and so nothing has to
// be kept for slow clients.
type told struct {
	mailbox.Info
	events   imap.Events
	validity uint32
	next     mailbox.UID
	count    int
	mod      mailbox.ModSeq
}

// stirring wakes a session whose account changed. It is the session: a value of
// its own would have to be kept.
type stirring session

// Wake implements event.Waker.
func (w *stirring) Wake() bool {
	c := (*session)(w)
	c.mu.Lock()
	defer c.mu.Unlock()
	news := !c.stirred
	c.stirred = true
	c.interrupt()
	return news
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
	w := &interest{Notify: n, selected: n.Selected, told: make(map[string]told), notes: make(map[string]map[string]string)}
	for i := range w.selected.Fetch {
		w.selected.Fetch[i].Peek = true // nobody has read what was sent unasked
	}
	if w.selected.Fetch != nil {
		w.selected.Fetch = withItem(w.selected.Fetch, "UID")
	}
	if len(n.Groups) > 0 {
		// Subscribed first: what changes from here on is not missed.
		w.sub = c.srv.opt.Bus.Subscribe(mailbox.Box{Account: c.account()}, (*stirring)(c))
		err := c.survey(w, func(t told, v *mailbox.View) error {
			w.told[t.Name] = t
			if b := c.boxNamed(t.Name); n.Status && t.events&imap.MessageNew != 0 && !c.isOpen(b) {
				c.statusOf(b, v, watchedItems)
			}
			return c.note(w, t)
		})
		if err != nil { // what was asked for before stays
			w.sub.Close()
			return c.refusal(err)
		}
	}
	c.unwatched()
	c.interest = w
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pushed, c.noted = w.selected.Events != 0, n.Server()
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
	c.pushed, c.stirred, c.noted = false, false, false
}

func (c *session) isOpen(b mailbox.Box) bool { return c.open && c.box == b }

func (c *session) boxNamed(name string) mailbox.Box {
	return mailbox.Box{Account: c.account(), Name: name}
}

// survey calls f for each mailbox, with its view where w watches it, and at last for
// the server where w watches that: it has no name.
func (c *session) survey(w *interest, f func(told, *mailbox.View) error) error {
	ctx, cancel := c.ctx()
	defer cancel()
	boxes, err := c.srv.opt.Store.Boxes(ctx, c.account())
	if err != nil {
		return err
	}
	for _, info := range boxes {
		t := told{Info: info, events: w.Events(info.Name, info.Subscribed)}
		var v *mailbox.View
		if t.events != 0 {
			v, err = c.srv.opt.Store.View(ctx, c.boxNamed(info.Name))
			if fault.Is(err, fault.NotFound) {
				continue // it went in between, and that wakes again
			}
			if err != nil {
				return err
			}
			t.validity, t.next, t.count, t.mod = v.UIDValidity, v.UIDNext, v.Len(), v.HighestMod
		}
		if err := f(t, v); err != nil {
			return err
		}
	}
	if !w.Server() {
		return nil
	}
	return f(told{events: imap.MailboxMetadataChange}, nil)
}

// note keeps the annotations of a mailbox that is watched for them.
func (c *session) note(w *interest, t told) error {
	if t.events&imap.MailboxMetadataChange == 0 || c.srv.opt.Metadata == nil {
		return nil
	}
	ctx, cancel := c.ctx()
	defer cancel()
	all, err := c.srv.opt.Metadata.Entries(ctx, c.account(), t.Name)
	w.notes[t.Name] = all
	return err
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
	if !others || c.interest == nil {
		return nil
	}
	if err := c.tell(); err != nil {
		// RFC 5465 section 5.8: as if it had said NONE.
		c.srv.opt.Logger.Warn("a client is not notified any more", "err", err)
		c.unwatched()
		c.interest = &interest{}
		c.put("* OK [NOTIFICATIONOVERFLOW] Ask again later\r\n")
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

// tell reports what changed in the mailboxes that are watched.
func (c *session) tell() error {
	before, now := c.interest.told, make(map[string]told)
	var order []string
	err := c.survey(c.interest, func(t told, v *mailbox.View) error {
		if t.Name != "" {
			now[t.Name] = t
			order = append(order, t.Name)
			c.tellMessages(before[t.Name], t, v)
		}
		return c.tellAnnotations(t)
	})
	if err != nil {
		return err
	}
	c.tellNames(before, now, order)
	c.interest.told = now
	return nil
}

// tellMessages reports new messages, lost ones and flags of a mailbox.
func (c *session) tellMessages(old, t told, v *mailbox.View) {
	b := c.boxNamed(t.Name)
	messages := t.next != old.next || t.count != old.count || t.validity != old.validity
	flags := t.mod != old.mod && t.events&imap.FlagChange != 0
	if t.events&imap.MessageNew != 0 && (messages || flags) && !c.isOpen(b) {
		c.statusOf(b, v, watchedItems)
	}
}

// tellAnnotations names the entries of a mailbox, or of the server, that changed (RFC
// 5465 sections 5.6 and 5.7).
func (c *session) tellAnnotations(t told) error {
	old := c.interest.notes[t.Name]
	if err := c.note(c.interest, t); err != nil {
		return err
	}
	now := c.interest.notes[t.Name]
	var changed []string
	for e, v := range now {
		if was, is := old[e]; !is || was != v {
			changed = append(changed, e)
		}
	}
	for e := range old {
		if _, is := now[e]; !is {
			changed = append(changed, e)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	slices.Sort(changed)
	c.put("* METADATA ")
	c.boxName(t.Name)
	c.put(" ", strings.Join(changed, " "), "\r\n")
	return nil
}

// tellNames reports mailboxes that came, went, or have another name, and changed
// subscriptions (RFC 5465 sections 5.4 and 5.5).
func (c *session) tellNames(before, now map[string]told, order []string) {
	was := make(map[uint32]string, len(before)) // by UIDVALIDITY, which a mailbox keeps in a rename
	for name, t := range before {
		if name != mailbox.Inbox && t.validity != 0 {
			was[t.validity] = name
		}
	}
	from := make(map[string]string) // former names, by present ones
	affected := make(map[string]bool)
	lost := make(map[string]bool)
	for name, t := range before {
		lost[name] = t.events&imap.MailboxName != 0
	}
	parentOf := func(name string) {
		if i := strings.LastIndexByte(name, mailbox.Delimiter); i > 0 && c.interest.Events(name[:i], now[name[:i]].Subscribed)&imap.MailboxName != 0 {
			affected[name[:i]] = true
		}
	}
	for _, name := range order {
		t := now[name]
		old, known := before[name]
		if known && (old.validity == 0 || t.validity == 0 || old.validity == t.validity) {
			lost[name] = false
			if t.Subscribed != old.Subscribed && (t.events|old.events)&imap.SubscriptionChange != 0 {
				affected[name] = true
			}
			continue
		}
		former := was[t.validity]
		if t.validity != 0 && former != "" {
			lost[former] = false
		}
		switch {
		case t.events&imap.MailboxName == 0:
		case former == "":
			affected[name] = true
			parentOf(name)
		case !movedAlong(name, former, from):
			affected[name] = true
		}
		if former != "" {
			from[name] = former
		}
		lost[name] = false
	}
	for name, gone := range lost {
		if gone {
			affected[name] = true
			parentOf(name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(affected)) {
		c.listedBox(name, from[name], now)
	}
}

// movedAlong reports whether a mailbox has another name because one above it has: no
// event of its own (RFC 5465 section 5.4).
func movedAlong(name, former string, from map[string]string) bool {
	for i, ch := range name {
		if ch == mailbox.Delimiter && from[name[:i]] != "" && from[name[:i]]+name[i:] == former {
			return true
		}
	}
	return false
}

// listedBox writes the LIST response of a mailbox as it is now; from is its former
// name, or "".
func (c *session) listedBox(name, from string, now map[string]told) {
	x := &listed{Info: now[name].Info}
	_, x.exists = now[name]
	for other := range now {
		x.children = x.children || strings.HasPrefix(other, name+string(mailbox.Delimiter))
	}
	l := imap.List{Extended: true}
	l.Return.Subscribed = true
	c.put("* LIST (", attributes(&l, "LIST", x), `) "/" `)
	c.boxName(name)
	if from != "" {
		c.put(` ("OLDNAME" (`)
		c.boxName(from)
		c.put("))")
	}
	c.put("\r\n")
}

// ownNames notes what this client did to the list of mailboxes: it is not told of that
// (RFC 5465 section 5). A mailbox with the name gone went with all below it, and come
// came or changed.
func (c *session) ownNames(gone, come string) {
	w := c.interest
	if w == nil || w.sub == nil {
		return
	}
	within := func(name, top string) bool {
		return top != "" && (name == top || strings.HasPrefix(name, top+string(mailbox.Delimiter)))
	}
	maps.DeleteFunc(w.told, func(name string, _ told) bool { return name != mailbox.Inbox && within(name, gone) })
	err := c.survey(w, func(t told, _ *mailbox.View) error {
		if within(t.Name, come) {
			if old, known := w.told[t.Name]; known { // its messages are another matter
				t.validity, t.next, t.count, t.mod = old.validity, old.next, old.count, old.mod
			}
			w.told[t.Name] = t
		}
		return nil
	})
	if err != nil {
		c.srv.opt.Logger.Debug("own changes are told as others'", "err", err)
	}
}

// ownAnnotations notes what this client set.
func (c *session) ownAnnotations(name string) {
	w := c.interest
	if w == nil {
		return
	}
	if _, watched := w.notes[name]; watched {
		if err := c.note(w, told{Info: mailbox.Info{Name: name}, events: imap.MailboxMetadataChange}); err != nil {
			c.srv.opt.Logger.Debug("own annotations are told as others'", "err", err)
		}
	}
}

// leaves notes what the client knows of a mailbox that it has selected no longer.
// What changed there unheard is told now.
func (w *interest) leaves(name string, known *mailbox.View) (watched bool) {
	t, watched := w.told[name]
	if watched = watched && t.events&imap.MessageNew != 0; watched {
		t.validity, t.next, t.count, t.mod = known.UIDValidity, known.UIDNext, known.Len(), known.HighestMod
		w.told[name] = t
	}
	return watched
}

// fetchNew writes what NOTIFY asks for of messages that came since next was the
// next UID (RFC 5465 section 5.2).
func (c *session) fetchNew(next mailbox.UID) error {
	if c.interest == nil || c.interest.selected.Fetch == nil {
		return nil
	}
	f := fetcher{session: c, items: c.interest.selected.Fetch}
	if c.condstore {
		f.items = withItem(f.items, "MODSEQ")
	}
	c.known.Each(mailbox.UIDSet{{First: next, Last: c.known.UIDNext}}, func(i int, m mailbox.Message) {
		if f.err == nil && !c.placed.Contains(m.UID) {
			f.message(i, m)
		}
	})
	f.end()
	if f.err != nil {
		c.put("* BYE [UNAVAILABLE] Internal trouble, connect again\r\n")
		return errors.Join(errClose, f.err)
	}
	return nil
}

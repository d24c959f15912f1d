package mailboxtest

import (
	"testing"

	"madmail/internal/mailbox"
)

// RunReopen tests what survives an orderly stop: everything. open is called
// several times; each call ends the store of the call before, if there was
// one, and opens what it has left.
func RunReopen(t *testing.T, open func(t *testing.T) mailbox.Store) {
	s := newSuite(t, open(t))
	inbox, a, below := s.box(mailbox.Inbox), s.made("a"), s.made("a/b ü%2F")
	s.must(s.s.CreateBox(s.ctx, s.box("sent"), `\Sent`))
	s.must(s.s.Subscribe(s.ctx, a, false))
	uids := s.fill(inbox, 5)
	s.deliver(pattern(100<<10), inbox, a, below)
	s.flag(inbox, set(uids[1], uids[2]), mailbox.SetFlags, mailbox.Flagged|mailbox.Deleted, "k", "$Ä,x")
	_, err := s.s.Move(s.ctx, inbox, below, set(uids[0], uids[1]))
	s.must(err)
	_, err = s.s.Copy(s.ctx, inbox, a, set(uids[3]))
	s.must(err)
	s.fill(a, 2)
	// The highest UID is gone at the stop and must not come again.
	s.expunge(a, set(s.view(a).At(s.view(a).Len()-1).UID))
	removed := s.made("removed")
	removedValidity := s.view(removed).UIDValidity
	s.must(s.s.RemoveBox(s.ctx, removed))
	s.made("was")
	s.fill(s.box("was"), 1)
	s.must(s.s.RenameBox(s.ctx, s.box("was"), "is"))
	empty := mailbox.Box{Account: s.addr("empty@example.org"), Name: mailbox.Inbox}
	emptyValidity := s.view(empty).UIDValidity

	before := snapshot(s)
	for range 2 {
		s.s = open(t)
		after := snapshot(s)
		if len(after) != len(before) {
			t.Fatalf("%d mailboxes after the stop, %d before", len(after), len(before))
		}
		for name, was := range before {
			compareSaved(t, name, was, after[name])
		}
		// What a client was told of an empty mailbox holds, too.
		if got := s.view(empty).UIDValidity; got != emptyValidity {
			t.Errorf("an empty INBOX has UIDVALIDITY %d, had %d", got, emptyValidity)
		}
	}
	for name, was := range before {
		if got := s.deliver("later\r\n", s.box(name))[0]; got < was.view.UIDNext {
			t.Errorf("%q gave UID %d after UIDNEXT %d", name, got, was.view.UIDNext)
		}
	}
	s.made("removed")
	if got := s.view(removed).UIDValidity; got <= removedValidity {
		t.Errorf("a removed mailbox came back with UIDVALIDITY %d after %d", got, removedValidity)
	}
}

// saved is what a mailbox looked like.
type saved struct {
	info  mailbox.Info
	view  *mailbox.View
	texts []string
}

func snapshot(s *suite) map[string]saved {
	s.Helper()
	all := make(map[string]saved)
	for _, name := range s.names() {
		b := s.box(name)
		all[name] = saved{s.info(name), s.view(b), s.texts(b)}
	}
	return all
}

func compareSaved(t *testing.T, name string, was, is saved) {
	t.Helper()
	if is.view == nil {
		t.Errorf("%q is gone", name)
		return
	}
	if is.info != was.info {
		t.Errorf("%q: %+v, was %+v", name, is.info, was.info)
	}
	v, w := is.view, was.view
	if v.UIDValidity != w.UIDValidity || v.UIDNext != w.UIDNext || v.HighestMod != w.HighestMod {
		t.Errorf("%q: UIDVALIDITY %d, UIDNEXT %d, modseq %d; was %d, %d, %d", name, v.UIDValidity, v.UIDNext, v.HighestMod, w.UIDValidity, w.UIDNext, w.HighestMod)
	}
	if !same(is.texts, was.texts) {
		t.Errorf("%q: %d texts differ from the %d before", name, len(is.texts), len(was.texts))
	}
	for i, m := range messages(w) {
		if i >= v.Len() {
			return
		}
		g := v.At(i)
		if g.UID != m.UID || g.Size != m.Size || g.Internal != m.Internal || g.SavedAt() != m.SavedAt() || g.ModSeq != m.ModSeq || g.Flags != m.Flags || !same(g.Keywords, m.Keywords) {
			t.Errorf("%q: message %d is %+v, was %+v", name, i, g, m)
		}
	}
}

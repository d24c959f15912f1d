package mailboxtest

import (
	"fmt"
	"sync"
	"testing"

	"madmail/internal/address"
	"madmail/internal/mailbox"
)

// Hooks are what a store calls: Changed after a change of a mailbox became
// visible, and without a name after one of an account's list of mailboxes; Used with what an account grew or shrank by.
type Hooks struct {
	Changed func(mailbox.Box)
	Used    func(a address.Addr, bytes, messages int64)
}

// RunHooks tests that the stores which open makes call their hooks. Each call
// of open returns an empty store with these hooks.
func RunHooks(t *testing.T, open func(t *testing.T, h Hooks) mailbox.Store) {
	for _, x := range []struct {
		name string
		test func(*suite, *recorder)
	}{
		{"EveryChangeIsTold", testChangedHook},
		{"TheSumOfUseIsTheUsage", testUsedHook},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := &recorder{changed: make(map[mailbox.Box]int), used: make(map[address.Addr]mailbox.Usage)}
			x.test(newSuite(t, open(t, Hooks{r.noteChanged, r.noteUsed})), r)
		})
	}
}

// recorder keeps what hooks were told.
type recorder struct {
	mu      sync.Mutex // guards the fields below
	changed map[mailbox.Box]int
	used    map[address.Addr]mailbox.Usage
}

func (r *recorder) noteChanged(b mailbox.Box) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed[b]++
}

func (r *recorder) noteUsed(a address.Addr, bytes, messages int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.used[a]
	r.used[a] = mailbox.Usage{Bytes: u.Bytes + bytes, Messages: u.Messages + messages}
}

// take returns the mailboxes told since the last call.
func (r *recorder) take() map[mailbox.Box]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.changed
	r.changed = make(map[mailbox.Box]int)
	return got
}

func (r *recorder) usage(a address.Addr) mailbox.Usage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used[a]
}

// testChangedHook: the hook was called when the method returns, so that nobody
// who waits for the mailbox sleeps on.
func testChangedHook(s *suite, r *recorder) {
	inbox, a := s.box(mailbox.Inbox), s.made("a")
	want := func(doing string, boxes ...mailbox.Box) {
		s.Helper()
		got := r.take()
		for _, b := range boxes {
			if got[b] == 0 {
				s.Errorf("%s: nobody was told of %q", doing, b.Name)
			}
		}
	}
	quiet := func(doing string) {
		s.Helper()
		if got := r.take(); len(got) > 0 {
			s.Errorf("%s changed nothing, and yet %d mailboxes were told", doing, len(got))
		}
	}
	s.view(inbox)
	r.take()
	s.view(inbox)
	_, err := s.s.Boxes(s.ctx, inbox.Account)
	s.must(err)
	quiet("a look")
	uid := s.deliver("text\r\n", inbox, a)[0]
	want("delivery", inbox, a)
	s.deliver("text\r\n", s.box("inbox"))
	want("delivery to inbox", inbox)
	s.flag(inbox, set(uid), mailbox.AddFlags, mailbox.Seen)
	want("flags", inbox)
	s.flag(inbox, set(uid), mailbox.AddFlags, mailbox.Seen)
	quiet("a flag that was there")
	_, err = s.s.Copy(s.ctx, inbox, a, set(uid))
	s.must(err)
	want("copy", a)
	_, err = s.s.Move(s.ctx, inbox, a, set(uid))
	s.must(err)
	want("move", inbox, a)
	s.expunge(inbox, mailbox.All())
	want("expunge", inbox)
	s.expunge(inbox, mailbox.All())
	quiet("an expunge of nothing")
	s.must(s.s.RenameBox(s.ctx, a, "b"))
	list := s.box("")
	want("rename", a, list)
	s.must(s.s.Subscribe(s.ctx, s.box("b"), false))
	want("subscription", list)
	s.made("c")
	want("a new mailbox", list)
	s.must(s.s.RemoveBox(s.ctx, s.box("b")))
	want("removal", s.box("b"), list)
	s.fill(inbox, 1)
	r.take()
	s.must(s.s.RemoveAccount(s.ctx, inbox.Account))
	want("removal of the account", inbox)
}

// testUsedHook is known failure A6: counters only grew, so a busy user was
// "full" until a restart.
func testUsedHook(s *suite, r *recorder) {
	inbox, a := s.box(mailbox.Inbox), s.made("a")
	check := func(doing string) {
		s.Helper()
		// First the hook: measuring may mend, and tell.
		told := r.usage(inbox.Account)
		u, err := s.s.Usage(s.ctx, inbox.Account)
		s.must(err)
		if told != u {
			s.Errorf("%s: the hook was told %+v, on disk are %+v", doing, told, u)
		}
	}
	for round := range 3 {
		doing := func(what string) string { return fmt.Sprintf("round %d, %s", round, what) }
		uids := s.deliver(pattern(3000), inbox, a, inbox)
		check(doing("delivery"))
		s.deliver(pattern(100<<10), inbox)
		check(doing("a large one"))
		_, err := s.s.Copy(s.ctx, inbox, a, mailbox.All())
		s.must(err)
		check(doing("copy"))
		_, err = s.s.Move(s.ctx, inbox, a, set(uids[0]))
		s.must(err)
		check(doing("move"))
		s.flag(a, mailbox.All(), mailbox.AddFlags, mailbox.Deleted)
		check(doing("flags"))
		s.expunge(a, mailbox.All())
		check(doing("expunge"))
		s.fill(a, 3)
		s.must(s.s.RenameBox(s.ctx, a, "b"))
		check(doing("rename"))
		s.must(s.s.RemoveBox(s.ctx, s.box("b")))
		check(doing("removal"))
		s.must(s.s.RenameBox(s.ctx, inbox, "old"))
		check(doing("rename of INBOX"))
		s.fill(inbox, 1)
		s.must(s.s.RemoveAccount(s.ctx, inbox.Account))
		check(doing("removal of the account"))
		if u := r.usage(inbox.Account); u != (mailbox.Usage{}) {
			s.Errorf("%s: %+v are left", doing("removal of the account"), u)
		}
		s.made("a")
	}
}

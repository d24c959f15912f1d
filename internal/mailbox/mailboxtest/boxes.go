package mailboxtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

func testUIDValidity(s *suite) {
	inbox, other := s.box(mailbox.Inbox), s.made("other")
	first, second := s.view(inbox).UIDValidity, s.view(other).UIDValidity
	check := func(doing string) {
		s.Helper()
		if a, b := s.view(inbox).UIDValidity, s.view(other).UIDValidity; a != first || b != second {
			s.Errorf("%s: UIDVALIDITY %d and %d, were %d and %d", doing, a, b, first, second)
		}
	}
	s.fill(inbox, 2)
	s.fill(other, 2)
	check("delivery")
	s.flag(inbox, mailbox.All(), mailbox.AddFlags, mailbox.Deleted)
	s.expunge(inbox, mailbox.All())
	check("emptied")
	_, err := s.s.Move(s.ctx, other, inbox, mailbox.All())
	s.must(err)
	check("moved")
	s.made("third")
	s.must(s.s.RemoveBox(s.ctx, s.box("third")))
	_, err = s.s.Usage(s.ctx, inbox.Account)
	s.must(err)
	check("other mailboxes came and went")
}

func testRecreatedBox(s *suite) {
	b := s.made("b")
	last := s.view(b).UIDValidity
	for i := range 3 {
		uids := s.fill(b, 2)
		s.must(s.s.RemoveBox(s.ctx, b))
		_, err := s.s.Open(s.ctx, b, uids[0])
		s.wantKind("open in a removed mailbox", err, fault.NotFound)
		s.made("b")
		v := s.view(b)
		if v.UIDValidity <= last || v.Len() != 0 {
			s.Errorf("life %d: UIDVALIDITY %d after %d, %d messages", i+2, v.UIDValidity, last, v.Len())
		}
		last = v.UIDValidity
	}
}

// testNamesAreNotConfused plays with names until a client that knows messages
// by name, UIDVALIDITY and UID would show the wrong text (known failure B25).
func testNamesAreNotConfused(s *suite) {
	l := newLedger(s)
	s.made("a")
	s.made("b")
	s.deliver("first of a\r\n", s.box("a"))
	s.deliver("first of b\r\n", s.box("b"))
	l.note("start")
	// Two mailboxes swap their names.
	s.must(s.s.RenameBox(s.ctx, s.box("a"), "c"))
	l.note("a became c")
	s.must(s.s.RenameBox(s.ctx, s.box("b"), "a"))
	l.note("b became a")
	s.must(s.s.RenameBox(s.ctx, s.box("c"), "b"))
	l.note("c became b")
	// One takes the name of one that went.
	s.must(s.s.RemoveBox(s.ctx, s.box("a")))
	s.must(s.s.RenameBox(s.ctx, s.box("b"), "a"))
	l.note("a was removed, b became a")
	// A new one takes the name of one that left.
	s.must(s.s.RenameBox(s.ctx, s.box("a"), "d"))
	s.made("a")
	s.deliver("first of another a\r\n", s.box("a"))
	l.note("a became d, a was made")
	s.must(s.s.RenameBox(s.ctx, s.box(mailbox.Inbox), "old"))
	s.deliver("first of INBOX\r\n", s.box(mailbox.Inbox))
	l.note("INBOX became old")
	s.must(s.s.RemoveAccount(s.ctx, s.box("a").Account))
	s.made("a")
	s.deliver("first of the next life\r\n", s.box("a"))
	s.deliver("first of INBOX in the next life\r\n", s.box(mailbox.Inbox))
	l.note("the account was removed and came back")
}

// ledger remembers which text every (mailbox, UIDVALIDITY, UID) has shown, as
// clients do.
type ledger struct {
	*suite
	texts map[ledgerKey]string
}

type ledgerKey struct {
	box      mailbox.Box
	validity uint32
	uid      mailbox.UID
}

func newLedger(s *suite) *ledger { return &ledger{s, make(map[ledgerKey]string)} }

// note reads alice's mailboxes and compares them with what was seen before.
func (l *ledger) note(doing string) {
	l.Helper()
	for _, name := range l.names() {
		b := l.box(name)
		v := l.view(b)
		for _, m := range messages(v) {
			k, text := ledgerKey{b, v.UIDValidity, m.UID}, l.text(b, m.UID)
			if was, ok := l.texts[k]; ok && was != text {
				l.Fatalf("%s: %q shows UID %d under UIDVALIDITY %d as %q; it was %q", doing, name, m.UID, v.UIDValidity, text, was)
			}
			l.texts[k] = text
		}
	}
}

func testBoxes(s *suite) {
	for _, name := range []string{"zebra", "apple", "Lists", "Lists/b", "Lists/a", "ähre"} {
		s.made(name)
	}
	if got, want := s.names(), []string{mailbox.Inbox, "Lists", "Lists/a", "Lists/b", "apple", "zebra", "ähre"}; !same(got, want) {
		s.Errorf("mailboxes %q, want %q", got, want)
	}
	infos, err := s.s.Boxes(s.ctx, s.addr("bob@example.org"))
	s.must(err)
	if len(infos) != 1 || infos[0].Name != mailbox.Inbox {
		s.Errorf("another account has %+v", infos)
	}
	s.wantKind("make a mailbox again", s.s.CreateBox(s.ctx, s.box("apple"), ""), fault.Exists)
	s.wantKind("make INBOX", s.s.CreateBox(s.ctx, s.box(mailbox.Inbox), ""), fault.Exists)
	if v := s.view(s.box("zebra")); v.Len() != 0 {
		s.Errorf("%d messages in a new mailbox", v.Len())
	}
}

func testNotFound(s *suite) {
	b, inbox := s.box("missing"), s.box(mailbox.Inbox)
	_, err := s.s.View(s.ctx, b)
	s.wantKind("View", err, fault.NotFound)
	_, err = s.s.Open(s.ctx, b, 1)
	s.wantKind("Open", err, fault.NotFound)
	_, err = s.s.Open(s.ctx, inbox, 1)
	s.wantKind("Open of no message", err, fault.NotFound)
	_, err = s.s.Change(s.ctx, b, mailbox.All(), mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen})
	s.wantKind("Change", err, fault.NotFound)
	_, err = s.s.Expunge(s.ctx, b, mailbox.All(), false)
	s.wantKind("Expunge", err, fault.NotFound)
	_, err = s.s.Expunge(s.ctx, b, mailbox.All(), true)
	s.wantKind("Expunge of deleted ones", err, fault.NotFound)
	s.wantKind("RenameBox", s.s.RenameBox(s.ctx, b, "other"), fault.NotFound)
	s.wantKind("RemoveBox", s.s.RemoveBox(s.ctx, b), fault.NotFound)
	s.wantKind("Subscribe", s.s.Subscribe(s.ctx, b, true), fault.NotFound)
	if got := s.names(); !same(got, []string{mailbox.Inbox}) {
		s.Errorf("mailboxes %q: asking made one", got)
	}
	// Nor does a removed one answer.
	s.made("missing")
	s.fill(b, 1)
	s.must(s.s.RemoveBox(s.ctx, b))
	_, err = s.s.View(s.ctx, b)
	s.wantKind("View of a removed mailbox", err, fault.NotFound)
}

func testSubscriptions(s *suite) {
	s.must(s.s.CreateBox(s.ctx, s.box("sent"), `\Sent`))
	s.must(s.s.CreateBox(s.ctx, s.box("trash"), `\Trash`))
	s.made("plain")
	for name, want := range map[string]string{"sent": `\Sent`, "trash": `\Trash`, "plain": "", mailbox.Inbox: ""} {
		if got := s.info(name).SpecialUse; got != want {
			s.Errorf("%q is for %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"plain", "sent", mailbox.Inbox} {
		for _, on := range []bool{false, false, true, true, false} {
			s.must(s.s.Subscribe(s.ctx, s.box(name), on))
			if got := s.info(name).Subscribed; got != on {
				s.Errorf("%q subscribed: %v, want %v", name, got, on)
			}
		}
	}
	if !s.info("trash").Subscribed && s.info("sent").Subscribed {
		s.Error("subscriptions of others changed")
	}
	s.must(s.s.RenameBox(s.ctx, s.box("sent"), "gone out"))
	if got := s.info("gone out").SpecialUse; got != `\Sent` {
		s.Errorf("after rename the use is %q", got)
	}
	s.must(s.s.RemoveBox(s.ctx, s.box("trash")))
	s.made("trash")
	if got := s.info("trash").SpecialUse; got != "" {
		s.Errorf("a new mailbox inherited the use %q", got)
	}
}

func testRemoveBox(s *suite) {
	a, below, beside := s.made("a"), s.made("a/b"), s.made("a_b")
	for _, b := range []mailbox.Box{a, below, beside} {
		s.fill(b, 2)
	}
	// RFC 3501 section 6.3.4: DELETE must not remove inferior names.
	s.must(s.s.RemoveBox(s.ctx, a))
	if got := s.names(); slices.Contains(got, "a") || !slices.Contains(got, "a/b") || !slices.Contains(got, "a_b") {
		s.Errorf("mailboxes %q", got)
	}
	for _, b := range []mailbox.Box{below, beside} {
		if got := s.texts(b); len(got) != 2 {
			s.Errorf("%q has %d messages, want 2", b.Name, len(got))
		}
	}
	if err := s.s.RemoveBox(s.ctx, s.box(mailbox.Inbox)); err == nil {
		s.Error("INBOX was removed")
	}
	s.wantKind("remove again", s.s.RemoveBox(s.ctx, a), fault.NotFound)
}

func testRename(s *suite) {
	for _, name := range []string{"a", "a/x", "a/x/y", "ab", "a_x"} {
		b := s.made(name)
		s.fill(b, 2)
		s.flag(b, mailbox.All(), mailbox.SetFlags, mailbox.Flagged, "k")
		s.expunge(b, mailbox.UIDSet{{First: 1, Last: s.view(b).At(0).UID}})
	}
	before := map[string][]string{}
	for _, name := range s.names() {
		before[name] = s.texts(s.box(name))
	}
	views := map[string]*mailbox.View{}
	for _, name := range s.names() {
		views[name] = s.view(s.box(name))
	}
	s.must(s.s.RenameBox(s.ctx, s.box("a"), "z"))
	if got, want := s.names(), []string{mailbox.Inbox, "a_x", "ab", "z", "z/x", "z/x/y"}; !same(got, want) {
		s.Fatalf("mailboxes %q, want %q", got, want)
	}
	for old, name := range map[string]string{"a": "z", "a/x": "z/x", "a/x/y": "z/x/y", "ab": "ab", "a_x": "a_x"} {
		b := s.box(name)
		if got := s.texts(b); !same(got, before[old]) {
			s.Errorf("%q has %q, want %q", name, got, before[old])
		}
		v := s.view(b)
		if m := v.At(0); m.Flags != mailbox.Flagged || !same(m.Keywords, []string{"k"}) {
			s.Errorf("%q: %+v", name, m)
		}
		if was := views[old]; v.UIDValidity == was.UIDValidity && v.UIDNext < was.UIDNext {
			s.Errorf("%q: UIDNEXT %d, was %d as %q", name, v.UIDNext, was.UIDNext, old)
		}
	}
	_, err := s.s.View(s.ctx, s.box("a/x"))
	s.wantKind("view under the old name", err, fault.NotFound)
	s.fill(s.box("z/x"), 1)
	s.must(s.s.RenameBox(s.ctx, s.box("z/x"), "ab/x"))
	if got := s.texts(s.box("ab/x")); len(got) != 2 {
		s.Errorf("renamed again: %q", got)
	}
}

func testRenameRefused(s *suite) {
	for _, name := range []string{"a", "a/x", "b", "c/x"} {
		s.fill(s.made(name), 1)
	}
	before := s.names()
	for _, x := range []struct {
		from, to string
		kinds    []fault.Kind
	}{
		{"a", "b", []fault.Kind{fault.Exists}},
		{"a", mailbox.Inbox, []fault.Kind{fault.Exists}},
		{"a", "inbox", []fault.Kind{fault.Exists}},
		{"a", "a/x", []fault.Kind{fault.Exists, fault.Invalid}},
		{"a", "a/b", []fault.Kind{fault.Invalid}},
		{"a", "c", []fault.Kind{fault.Exists}}, // because of a/x and c/x
		{"a", "..", []fault.Kind{fault.Invalid}},
		{"a", "", []fault.Kind{fault.Invalid}},
		{"a", "x\x00y", []fault.Kind{fault.Invalid}},
		{"missing", "new", []fault.Kind{fault.NotFound}},
		{mailbox.Inbox, "b", []fault.Kind{fault.Exists}},
	} {
		s.wantKind(fmt.Sprintf("rename %q to %q", x.from, x.to), s.s.RenameBox(s.ctx, s.box(x.from), x.to), x.kinds...)
		if got := s.names(); !same(got, before) {
			s.Fatalf("rename %q to %q: mailboxes %q, were %q", x.from, x.to, got, before)
		}
	}
	for _, name := range []string{"a", "a/x", "b", "c/x"} {
		if got := s.texts(s.box(name)); len(got) != 1 || !strings.HasSuffix(got[0], "of "+name+"\r\n") {
			s.Errorf("%q has %q", name, got)
		}
	}
}

func testRenameInbox(s *suite) {
	inbox := s.box(mailbox.Inbox)
	uids := s.fill(inbox, 3)
	texts := s.texts(inbox)
	s.fill(s.made("INBOX/below"), 1)
	s.flag(inbox, set(uids[1]), mailbox.SetFlags, mailbox.Seen, "k")
	before := s.view(inbox)
	s.must(s.s.RenameBox(s.ctx, inbox, "old"))
	// RFC 3501 section 6.3.5: those below INBOX are not affected.
	if got, want := s.names(), []string{mailbox.Inbox, "INBOX/below", "old"}; !same(got, want) {
		s.Errorf("mailboxes %q, want %q", got, want)
	}
	v := s.view(inbox)
	if v.Len() != 0 || v.UIDValidity != before.UIDValidity || v.UIDNext < before.UIDNext {
		s.Errorf("INBOX has %d messages, UIDVALIDITY %d, UIDNEXT %d; UIDVALIDITY was %d, UIDNEXT %d", v.Len(), v.UIDValidity, v.UIDNext, before.UIDValidity, before.UIDNext)
	}
	old := s.box("old")
	if got := s.texts(old); !same(got, texts) {
		s.Errorf("moved away: %q, want %q", got, texts)
	}
	if m := s.view(old).At(1); m.Flags != mailbox.Seen || !same(m.Keywords, []string{"k"}) {
		s.Errorf("moved away: %+v", m)
	}
	if got := s.deliver("new\r\n", inbox)[0]; got < before.UIDNext {
		s.Errorf("UID %d after UIDNEXT %d", got, before.UIDNext)
	}
}

func testInboxSpellings(s *suite) {
	want := s.view(s.box(mailbox.Inbox)).UIDValidity
	for i, name := range []string{"inbox", "Inbox", "iNbOx", "INBOX"} {
		b := s.box(name)
		s.deliver(fmt.Sprintf("to %s\r\n", name), b)
		v := s.view(b)
		if v.UIDValidity != want || v.Len() != i+1 {
			s.Errorf("%q has %d messages, UIDVALIDITY %d; want %d, %d", name, v.Len(), v.UIDValidity, i+1, want)
		}
		s.wantKind("make "+name, s.s.CreateBox(s.ctx, b, ""), fault.Exists)
		if err := s.s.RemoveBox(s.ctx, b); err == nil {
			s.Errorf("%q was removed", name)
		}
	}
	if got := s.texts(s.box("inBOX")); len(got) != 4 {
		s.Errorf("%d messages, want 4", len(got))
	}
	if got := s.names(); !same(got, []string{mailbox.Inbox}) {
		s.Errorf("mailboxes %q", got)
	}
	if got := s.expunge(s.box("inbox"), mailbox.All()); len(got) != 4 {
		s.Errorf("expunged %v", got)
	}
}

// hostileNames must never become mailboxes (known failure B27: a mailbox
// called ".." was the INBOX).
var hostileNames = []string{
	"", ".", "..", "/", "//", "/a", "a/", "a//b", "a/./b", "a/../b", "../b", "a/..",
	"../Maildir", "../../bob@example.org/Maildir", "../../../../etc/passwd", "./a",
	"x\x00y", "\x00", "x\ny", "x\r\ny", "\t", "x\x1by", "x\x7f", "INBOX\x00", "inbox/",
	"\xff\xfe", "a\x80b", "\xc0\xaf", "\xed\xa0\x80",
	strings.Repeat("x", 10000), strings.Repeat("x/", 5000) + "x", strings.Repeat("ü", 4000),
}

func testHostileNames(s *suite) {
	inbox, bob := s.box(mailbox.Inbox), mailbox.Box{Account: s.addr("bob@example.org"), Name: mailbox.Inbox}
	s.fill(inbox, 1)
	s.fill(bob, 1)
	keep := s.made("keep")
	s.fill(keep, 1)
	for _, name := range hostileNames {
		b := s.box(name)
		short := name[:min(len(name), 40)]
		s.wantKind(fmt.Sprintf("make %q", short), s.s.CreateBox(s.ctx, b, ""), fault.Invalid)
		s.wantKind(fmt.Sprintf("rename to %q", short), s.s.RenameBox(s.ctx, keep, name), fault.Invalid)
		// To ask for one is wrong or in vain, as the store likes.
		ask := func(doing string, err error) {
			s.Helper()
			s.wantKind(fmt.Sprintf("%s %q", doing, short), err, fault.Invalid, fault.NotFound)
		}
		_, err := s.s.View(s.ctx, b)
		ask("view", err)
		_, err = s.s.Open(s.ctx, b, 1)
		ask("open", err)
		_, err = s.s.Expunge(s.ctx, b, mailbox.All(), false)
		ask("expunge", err)
		_, err = s.s.Move(s.ctx, inbox, b, mailbox.All())
		ask("move to", err)
		_, err = s.s.Copy(s.ctx, b, inbox, mailbox.All())
		ask("copy from", err)
		ask("remove", s.s.RemoveBox(s.ctx, b))
		ask("rename from", s.s.RenameBox(s.ctx, b, "new"))
		ask("subscribe", s.s.Subscribe(s.ctx, b, true))
		body := s.body("text\r\n")
		_, err = s.s.Deliver(s.ctx, []mailbox.Target{{Box: b}}, body)
		ask("deliver to", err)
		s.must(body.Close())
	}
	if got := s.names(); !same(got, []string{mailbox.Inbox, "keep"}) {
		s.Errorf("mailboxes %q", got)
	}
	for _, b := range []mailbox.Box{inbox, bob, keep} {
		if got := s.texts(b); len(got) != 1 {
			s.Errorf("%q has %d messages, want 1", b.Name, len(got))
		}
	}
	if _, err := s.s.View(s.ctx, mailbox.Box{Name: mailbox.Inbox}); !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.NotFound) {
		s.Errorf("view of nobody's INBOX: %v", err)
	}
}

// oddNames are mailbox names of people, of other servers, and of this one's
// insides. Each is a mailbox of its own (known failure B27: a/b was a_b).
var oddNames = []string{
	"a", "a/b", "a_b", "a\\b", "a%2Fb", "a%2fb", "a%5Cb", "a.b", "a:b", "a b", "a,b", "a;b",
	"%", "%%", "%2E%2E", "%2e%2e", "%2E", "..a", "a..", "...", ".hidden", ".a/b", "a/.b", "-rf", "~", "*", "$(x)", "'", "\"", "`",
	"cur", "new", "tmp", "Maildir", "folders", "chatmail-uidlist", "mailboxes.json",
	"inboxes", "INBOX_", "INBOXX", "x/INBOX", "con", "nul", "aux",
	"Entwürfe", "日本語", "Отправленные", "صندوق", "📦", "&Jjo-",
	strings.Repeat("x", 200), strings.Repeat("x", 199) + "y",
}

func testOddNames(s *suite) {
	for _, name := range oddNames {
		s.deliver("for "+name+"\r\n", s.made(name))
	}
	want := append([]string{mailbox.Inbox}, oddNames...)
	slices.Sort(want[1:])
	if got := s.names(); !same(got, want) {
		s.Errorf("mailboxes\n%q\nwant\n%q", got, want)
	}
	for _, name := range oddNames {
		if got := s.texts(s.box(name)); !same(got, []string{"for " + name + "\r\n"}) {
			s.Errorf("%q has %q", name, got)
		}
	}
	for i, name := range oddNames {
		s.must(s.s.RemoveBox(s.ctx, s.box(name)))
		for _, other := range oddNames[i+1:] {
			if v := s.view(s.box(other)); v.Len() != 1 {
				s.Fatalf("removing %q took the message of %q", name, other)
			}
		}
	}
	if got := s.names(); !same(got, []string{mailbox.Inbox}) {
		s.Errorf("left: %q", got)
	}
}

func testRemoveAccount(s *suite) {
	inbox, a, b := s.box(mailbox.Inbox), s.made("a"), s.made("a/b")
	// Neighbours whose names begin alike.
	neighbours := []mailbox.Box{
		{Account: s.addr("alice@example.or"), Name: mailbox.Inbox},
		{Account: s.addr("alice@example.org.uk"), Name: mailbox.Inbox},
		{Account: s.addr("malice@example.org"), Name: mailbox.Inbox},
	}
	for _, x := range append([]mailbox.Box{inbox, a, b}, neighbours...) {
		s.fill(x, 2)
	}
	validity := map[mailbox.Box]uint32{}
	for _, x := range []mailbox.Box{inbox, a, b} {
		validity[x] = s.view(x).UIDValidity
	}
	s.must(s.s.RemoveAccount(s.ctx, inbox.Account))
	if got := s.names(); !same(got, []string{mailbox.Inbox}) {
		s.Errorf("mailboxes %q", got)
	}
	if u, err := s.s.Usage(s.ctx, inbox.Account); err != nil || u != (mailbox.Usage{}) {
		s.Errorf("usage %+v, %v", u, err)
	}
	_, err := s.s.View(s.ctx, a)
	s.wantKind("view of a removed mailbox", err, fault.NotFound)
	if v := s.view(inbox); v.Len() != 0 || v.UIDValidity <= validity[inbox] {
		s.Errorf("INBOX has %d messages, UIDVALIDITY %d; was %d", v.Len(), v.UIDValidity, validity[inbox])
	}
	s.made("a")
	s.made("a/b")
	for _, x := range []mailbox.Box{a, b} {
		if v := s.view(x); v.Len() != 0 || v.UIDValidity <= validity[x] {
			s.Errorf("%q has %d messages, UIDVALIDITY %d; was %d", x.Name, v.Len(), v.UIDValidity, validity[x])
		}
	}
	if got := s.deliver("new life\r\n", inbox); s.text(inbox, got[0]) != "new life\r\n" {
		s.Error("the account does not take mail again")
	}
	for _, x := range neighbours {
		if got := s.texts(x); len(got) != 2 {
			s.Errorf("a neighbour has %d messages, want 2", len(got))
		}
	}
	// Again, and where nothing is: a removal that was interrupted is repeated.
	s.must(s.s.RemoveAccount(s.ctx, inbox.Account))
	s.must(s.s.RemoveAccount(s.ctx, inbox.Account))
	s.must(s.s.RemoveAccount(s.ctx, s.addr("nobody@example.org")))
}

func testUsage(s *suite) {
	inbox, a := s.box(mailbox.Inbox), s.made("a")
	check := func(doing string) {
		s.Helper()
		var want mailbox.Usage
		for _, name := range s.names() {
			for _, m := range messages(s.view(s.box(name))) {
				want.Bytes += m.Size
				want.Messages++
			}
		}
		got, err := s.s.Usage(s.ctx, inbox.Account)
		s.must(err)
		if got != want {
			s.Errorf("%s: usage %+v, the sum is %+v", doing, got, want)
		}
	}
	check("nothing")
	bob := mailbox.Box{Account: s.addr("bob@example.org"), Name: mailbox.Inbox}
	s.deliver(pattern(1000), inbox, a, bob, inbox)
	check("a delivery to three")
	s.deliver(pattern(100<<10), inbox)
	check("a large one")
	_, err := s.s.Copy(s.ctx, inbox, a, mailbox.All())
	s.must(err)
	check("copies count in full")
	_, err = s.s.Move(s.ctx, a, inbox, set(s.view(a).At(0).UID))
	s.must(err)
	check("a move")
	s.flag(a, mailbox.All(), mailbox.AddFlags, mailbox.Seen)
	check("flags")
	s.expunge(inbox, set(s.view(inbox).At(1).UID))
	check("an expunge")
	s.must(s.s.RenameBox(s.ctx, a, "b"))
	check("a rename")
	s.must(s.s.RenameBox(s.ctx, inbox, "old"))
	check("a rename of INBOX")
	s.must(s.s.RemoveBox(s.ctx, s.box("b")))
	check("a removed mailbox")
	got, err := s.s.Usage(s.ctx, bob.Account)
	s.must(err)
	if got != (mailbox.Usage{Bytes: 1000, Messages: 1}) {
		s.Errorf("bob's usage %+v", got)
	}
}

func testAccounts(s *suite) {
	want := map[address.Addr]bool{}
	for _, text := range []string{"alice@example.org", "bob@[127.0.0.1]", "carol@[IPv6:2001:db8::1]", "jürgen@example.org"} {
		b := mailbox.Box{Account: s.addr(text), Name: mailbox.Inbox}
		s.fill(b, 1)
		want[b.Account] = true
	}
	// What is measured is what is listed: on disk, where there is one.
	for a := range want {
		_, err := s.s.Usage(s.ctx, a)
		s.must(err)
	}
	list := func() map[address.Addr]bool {
		got := map[address.Addr]bool{}
		s.must(s.s.Accounts(s.ctx, func(a address.Addr) error {
			if got[a] {
				s.Errorf("%s twice", a)
			}
			got[a] = true
			return nil
		}))
		return got
	}
	if got := list(); !maps.Equal(got, want) {
		s.Errorf("%d accounts, want %d", len(got), len(want))
	}
	gone := s.addr("bob@[127.0.0.1]")
	s.must(s.s.RemoveAccount(s.ctx, gone))
	delete(want, gone)
	if got := list(); !maps.Equal(got, want) {
		s.Errorf("after one went %d accounts, want %d", len(got), len(want))
	}
	stop := fault.New(fault.Busy, "enough")
	calls := 0
	err := s.s.Accounts(s.ctx, func(address.Addr) error { calls++; return stop })
	if calls != 1 {
		s.Errorf("f was called %d times after it failed", calls-1)
	}
	s.wantKind("Accounts", err, fault.Busy)
}

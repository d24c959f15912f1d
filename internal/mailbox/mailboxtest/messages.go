package mailboxtest

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing/iotest"
	"time"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

func testInboxIsThere(s *suite) {
	b := s.box(mailbox.Inbox)
	if got := s.names(); !same(got, []string{mailbox.Inbox}) {
		s.Errorf("mailboxes %q", got)
	}
	v := s.view(b)
	if v.Len() != 0 {
		s.Errorf("%d messages in a new INBOX", v.Len())
	}
	// A client that has seen UIDNEXT fetches from there on: the first message
	// must not be given a lower UID, nor another UIDVALIDITY.
	uid := s.deliver("first\r\n", b)[0]
	w := s.view(b)
	if w.UIDValidity != v.UIDValidity || uid < v.UIDNext {
		s.Errorf("UIDVALIDITY %d, UIDNEXT %d announced; UID %d came under UIDVALIDITY %d", v.UIDValidity, v.UIDNext, uid, w.UIDValidity)
	}
}

func testDeliver(s *suite) {
	inbox, other, bob := s.box(mailbox.Inbox), s.made("Other"), mailbox.Box{Account: s.addr("bob@[127.0.0.1]"), Name: mailbox.Inbox}
	date := time.Unix(1234567890, 0)
	before := time.Now().Unix()
	text := pattern(1000)
	b := s.body(text)
	defer b.Close()
	placed, err := s.s.Deliver(s.ctx, []mailbox.Target{
		{Box: inbox},
		{Box: other, Flags: mailbox.Seen | mailbox.Flagged, Keywords: []string{"b", "a"}, Internal: date},
		{Box: bob, Flags: mailbox.Draft},
		{Box: inbox, Internal: date},
	}, b)
	s.must(err)
	after := time.Now().Unix()
	if len(placed) != 4 {
		s.Fatalf("%d placed, want 4", len(placed))
	}
	for i, box := range []mailbox.Box{inbox, other, bob, inbox} {
		p := placed[i]
		s.must(p.Err)
		if v := s.view(box); p.UIDValidity != v.UIDValidity {
			s.Errorf("target %d: UIDVALIDITY %d, the view says %d", i, p.UIDValidity, v.UIDValidity)
		}
		if got := s.text(box, p.UID); got != text {
			s.Errorf("target %d: text of %d octets came back as %d", i, len(text), len(got))
		}
	}
	if placed[3].UID <= placed[0].UID {
		s.Errorf("two targets in one mailbox: UIDs %d, %d", placed[0].UID, placed[3].UID)
	}
	m := s.message(inbox, placed[0].UID)
	if m.Internal < before || m.Internal > after || m.Flags != 0 || len(m.Keywords) != 0 || m.Size != 1000 {
		s.Errorf("plain message: %+v", m)
	}
	m = s.message(other, placed[1].UID)
	if m.Internal != date.Unix() || m.Flags != mailbox.Seen|mailbox.Flagged || !same(m.Keywords, []string{"a", "b"}) {
		s.Errorf("message with flags: %+v", m)
	}
	if m.SavedAt() < before || m.SavedAt() > after {
		s.Errorf("saved at %d, between %d and %d", m.SavedAt(), before, after)
	}
	if m = s.message(bob, placed[2].UID); m.Flags != mailbox.Draft {
		s.Errorf("message of bob: %+v", m)
	}
	if got, err := s.s.Deliver(s.ctx, nil, b); err != nil || len(got) != 0 {
		s.Errorf("delivery to nobody: %v, %v", got, err)
	}
}

func testBodySizes(s *suite) {
	b := s.box(mailbox.Inbox)
	for _, n := range []int{0, 1, 4095, 64<<10 - 1, 64 << 10, 64<<10 + 1, 300 << 10, 3 << 20} {
		want := pattern(n)
		w, err := s.s.NewBody(s.ctx)
		s.must(err)
		// In uneven parts, as a connection brings them.
		for rest := want; len(rest) > 0; {
			k := min(len(rest), 7001)
			if m, err := io.WriteString(w, rest[:k]); m != k || err != nil {
				s.Fatalf("write %d: %d, %v", k, m, err)
			}
			rest = rest[k:]
		}
		body, err := w.Seal()
		s.must(err)
		w.Abort() // after Seal it does nothing
		if body.Size() != int64(n) {
			s.Errorf("body of %d octets says %d", n, body.Size())
		}
		placed, err := s.s.Deliver(s.ctx, []mailbox.Target{{Box: b}}, body)
		s.must(err)
		s.must(body.Close())
		if got := s.text(b, placed[0].UID); got != want {
			s.Errorf("%d octets came back changed (%d)", n, len(got))
		}
		c, err := s.s.Open(s.ctx, b, placed[0].UID)
		s.must(err)
		if n <= 4095 {
			if err := iotest.TestReader(io.NewSectionReader(c, 0, c.Size()), []byte(want)); err != nil {
				s.Errorf("%d octets: %v", n, err)
			}
		}
		s.must(c.Close())
	}
}

func testBodyIndependence(s *suite) {
	a, b := s.box(mailbox.Inbox), s.made("b")
	for _, text := range []string{"small\r\n", pattern(200 << 10)} {
		body := s.body(text)
		var first, second mailbox.UID
		for i, uid := range []*mailbox.UID{&first, &second} {
			placed, err := s.s.Deliver(s.ctx, []mailbox.Target{{Box: []mailbox.Box{a, b}[i]}}, body)
			s.must(err)
			s.must(placed[0].Err)
			*uid = placed[0].UID
		}
		s.must(body.Close())
		s.expunge(a, set(first))
		if got := s.text(b, second); got != text {
			s.Errorf("a copy of %d octets changed when the other went", len(text))
		}
	}
	w, err := s.s.NewBody(s.ctx)
	s.must(err)
	_, err = io.WriteString(w, pattern(100<<10))
	s.must(err)
	w.Abort()
	w.Abort()
	if got := len(s.texts(a)); got != 0 {
		s.Errorf("%d messages after all went and one was dropped", got)
	}
}

func testForeignBody(s *suite) {
	b := s.box(mailbox.Inbox)
	for _, text := range []string{"", "small\r\n", pattern(100 << 10)} {
		placed, err := s.s.Deliver(s.ctx, []mailbox.Target{{Box: b}}, foreignBody{bytes.NewReader([]byte(text))})
		s.must(err)
		s.must(placed[0].Err)
		if got := s.text(b, placed[0].UID); got != text {
			s.Errorf("%d octets came back as %d", len(text), len(got))
		}
	}
}

func testTargetsFailAlone(s *suite) {
	inbox, missing := s.box(mailbox.Inbox), s.box("missing")
	body := s.body("text\r\n")
	defer body.Close()
	placed, err := s.s.Deliver(s.ctx, []mailbox.Target{{Box: missing}, {Box: inbox}, {Box: s.box("..")}, {Box: missing}}, body)
	if err != nil {
		s.Errorf("one target succeeded, and yet: %v", err)
	}
	if len(placed) != 4 {
		s.Fatalf("%d placed, want 4", len(placed))
	}
	s.must(placed[1].Err)
	s.wantKind("missing mailbox", placed[0].Err, fault.NotFound)
	s.wantKind("bad name", placed[2].Err, fault.Invalid)
	s.wantKind("missing mailbox", placed[3].Err, fault.NotFound)
	if got := s.texts(inbox); !same(got, []string{"text\r\n"}) {
		s.Errorf("INBOX has %q", got)
	}
	if got := s.names(); !same(got, []string{mailbox.Inbox}) {
		s.Errorf("mailboxes %q: a delivery made one", got)
	}
	placed, err = s.s.Deliver(s.ctx, []mailbox.Target{{Box: missing}, {Box: missing}}, body)
	s.wantKind("all targets missing", err, fault.NotFound)
	for _, p := range placed {
		s.wantKind("one of all", p.Err, fault.NotFound)
	}
}

func testUIDsGrow(s *suite) {
	b, c := s.box(mailbox.Inbox), s.made("c")
	seen := make(map[mailbox.UID]bool)
	last := mailbox.UID(0)
	note := func(what string, uids ...mailbox.UID) {
		s.Helper()
		for _, u := range uids {
			if u <= last || seen[u] {
				s.Fatalf("%s: UID %d after %d", what, u, last)
			}
			last, seen[u] = u, true
		}
		if v := s.view(b); v.UIDNext <= last {
			s.Fatalf("%s: UIDNEXT %d, UID %d is in use", what, v.UIDNext, last)
		}
	}
	note("delivery", s.fill(b, 5)...)
	// The highest UID goes: it is not given out again.
	s.expunge(b, set(last))
	note("after expunge of the last", s.fill(b, 2)...)
	s.expunge(b, mailbox.All())
	if v := s.view(b); v.Len() != 0 || v.UIDNext <= last {
		s.Fatalf("empty: %d messages, UIDNEXT %d after UID %d", v.Len(), v.UIDNext, last)
	}
	note("after expunge of all", s.fill(b, 3)...)
	from := s.fill(c, 3)
	res, err := s.s.Copy(s.ctx, c, b, set(from...))
	s.must(err)
	note("copy", res.To...)
	res, err = s.s.Move(s.ctx, c, b, set(from[1]))
	s.must(err)
	note("move", res.To...)
	res, err = s.s.Move(s.ctx, b, c, set(last))
	s.must(err)
	note("after a move away", s.fill(b, 1)...)
}

func testViewNeverChanges(s *suite) {
	b, c := s.box(mailbox.Inbox), s.made("c")
	// More than a view's page, so that pages are shared.
	uids := s.fill(b, 300)
	type kept struct {
		view             *mailbox.View
		list             []mailbox.Message
		next             mailbox.UID
		high             mailbox.ModSeq
		keywords, length int
	}
	var all []kept
	keep := func() {
		v := s.view(b)
		k := kept{view: v, list: messages(v), next: v.UIDNext, high: v.HighestMod, length: v.Len()}
		for _, m := range k.list {
			k.keywords += len(m.Keywords)
		}
		all = append(all, k)
	}
	keep()
	for i := range 10 {
		s.deliver("more\r\n", b)
		keep()
		s.flag(b, set(uids[i], uids[100+i]), mailbox.AddFlags, mailbox.Seen, "k")
		keep()
		s.expunge(b, set(uids[i*20]))
		keep()
		_, err := s.s.Move(s.ctx, b, c, set(uids[200+i]))
		s.must(err)
		keep()
	}
	s.must(s.s.RemoveAccount(s.ctx, b.Account))
	for i, k := range all {
		v := k.view
		if v.Len() != k.length || v.UIDNext != k.next || v.HighestMod != k.high {
			s.Fatalf("view %d: %d messages, UIDNEXT %d, modseq %d; was %d, %d, %d", i, v.Len(), v.UIDNext, v.HighestMod, k.length, k.next, k.high)
		}
		keywords := 0
		for j, m := range messages(v) {
			was := k.list[j]
			if m.UID != was.UID || m.Flags != was.Flags || m.ModSeq != was.ModSeq || m.Size != was.Size || !same(m.Keywords, was.Keywords) {
				s.Fatalf("view %d: message %d was %+v, is %+v", i, j, was, m)
			}
			keywords += len(m.Keywords)
		}
		if keywords != k.keywords {
			s.Fatalf("view %d: %d keywords, were %d", i, keywords, k.keywords)
		}
	}
}

func testContentOutlivesExpunge(s *suite) {
	b := s.box(mailbox.Inbox)
	for _, n := range []int{10, 200 << 10} {
		text := pattern(n)
		for _, end := range []struct {
			name string
			do   func(uid mailbox.UID)
		}{
			{"expunge", func(uid mailbox.UID) { s.expunge(b, set(uid)) }},
			{"remove account", func(mailbox.UID) { s.must(s.s.RemoveAccount(s.ctx, b.Account)) }},
		} {
			uid := s.deliver(text, b)[0]
			c, err := s.s.Open(s.ctx, b, uid)
			s.must(err)
			end.do(uid)
			if got := s.read(c); got != text {
				s.Errorf("%s: %d octets are not what they were (%d)", end.name, n, len(got))
			}
			s.must(c.Close())
			_, err = s.s.Open(s.ctx, b, uid)
			s.wantKind("open after "+end.name, err, fault.NotFound)
		}
	}
}

func testFlags(s *suite) {
	b := s.box(mailbox.Inbox)
	uids := s.fill(b, 3)
	want := func(doing string, flags ...mailbox.Flags) {
		s.Helper()
		for i, u := range uids {
			if m := s.message(b, u); m.Flags != flags[i] {
				s.Errorf("%s: flags of message %d are %b, want %b", doing, i, m.Flags, flags[i])
			}
		}
	}
	every := mailbox.Seen | mailbox.Answered | mailbox.Flagged | mailbox.Deleted | mailbox.Draft
	s.flag(b, set(uids[0], uids[2]), mailbox.SetFlags, mailbox.Seen)
	want("set", mailbox.Seen, 0, mailbox.Seen)
	s.flag(b, set(uids...), mailbox.AddFlags, mailbox.Flagged|mailbox.Deleted)
	want("add", mailbox.Seen|mailbox.Flagged|mailbox.Deleted, mailbox.Flagged|mailbox.Deleted, mailbox.Seen|mailbox.Flagged|mailbox.Deleted)
	s.flag(b, set(uids[1:]...), mailbox.RemoveFlags, mailbox.Deleted|mailbox.Draft)
	want("remove", mailbox.Seen|mailbox.Flagged|mailbox.Deleted, mailbox.Flagged, mailbox.Seen|mailbox.Flagged)
	s.flag(b, mailbox.All(), mailbox.SetFlags, every)
	want("set all", every, every, every)
	s.flag(b, set(uids[1]), mailbox.SetFlags, 0)
	want("set none", every, 0, every)
	for _, text := range s.texts(b) {
		if !strings.HasPrefix(text, "message ") {
			s.Errorf("flags changed a text to %q", text)
		}
	}
	// What is not there is ignored, also between messages that are.
	high := s.view(b).HighestMod
	if res := s.flag(b, set(uids[2]+7), mailbox.AddFlags, mailbox.Seen); res.ModSeq != 0 || len(res.Modified) != 0 {
		s.Errorf("flags of no message: %+v", res)
	}
	if res := s.flag(b, mailbox.All(), mailbox.AddFlags, 0); res.ModSeq != 0 {
		s.Errorf("no flags added: %+v", res)
	}
	if got := s.view(b).HighestMod; got != high {
		s.Errorf("modseq went from %d to %d without a change", high, got)
	}
}

func testKeywords(s *suite) {
	b := s.box(mailbox.Inbox)
	uids := s.fill(b, 2)
	want := func(doing string, kw ...string) {
		s.Helper()
		if m := s.message(b, uids[0]); !same(m.Keywords, kw) {
			s.Errorf("%s: keywords %q, want %q", doing, m.Keywords, kw)
		}
		if m := s.message(b, uids[1]); len(m.Keywords) != 0 {
			s.Errorf("%s: the other message has %q", doing, m.Keywords)
		}
	}
	given := []string{"beta", "$Forwarded", "alpha"}
	s.flag(b, set(uids[0]), mailbox.SetFlags, mailbox.Seen, given...)
	want("set", "$Forwarded", "alpha", "beta")
	given[0] = "changed by the caller"
	want("the caller's slice", "$Forwarded", "alpha", "beta")
	s.flag(b, set(uids[0]), mailbox.AddFlags, 0, "gamma", "alpha", "gamma")
	want("add", "$Forwarded", "alpha", "beta", "gamma")
	if res := s.flag(b, set(uids[0]), mailbox.AddFlags, 0, "beta"); res.ModSeq != 0 {
		s.Errorf("a keyword that is there was a change: %+v", res)
	}
	s.flag(b, set(uids[0]), mailbox.RemoveFlags, 0, "beta", "nobody")
	want("remove", "$Forwarded", "alpha", "gamma")
	if m := s.message(b, uids[0]); m.Flags != mailbox.Seen {
		s.Errorf("keywords changed the flags to %b", m.Flags)
	}
	s.flag(b, set(uids[0]), mailbox.SetFlags, 0)
	want("set none")
	odd := []string{"a,b", "c%2Cd", "e:f", "ümlaut"}
	s.flag(b, set(uids[0]), mailbox.SetFlags, 0, odd...)
	got := slices.Clone(s.message(b, uids[0]).Keywords)
	slices.Sort(got)
	slices.Sort(odd)
	if !same(got, odd) {
		s.Errorf("odd keywords %q, want %q", got, odd)
	}
}

func testModSeq(s *suite) {
	b, c := s.box(mailbox.Inbox), s.made("c")
	high := s.view(b).HighestMod
	grew := func(doing string, uids ...mailbox.UID) {
		s.Helper()
		v := s.view(b)
		if v.HighestMod <= high {
			s.Errorf("%s: modseq %d, was %d", doing, v.HighestMod, high)
		}
		for _, m := range messages(v) {
			if changed := slices.Contains(uids, m.UID); changed != (m.ModSeq > high) {
				s.Errorf("%s: UID %d has modseq %d, the highest was %d", doing, m.UID, m.ModSeq, high)
			}
		}
		high = v.HighestMod
	}
	uids := s.fill(b, 4)
	grew("deliveries", uids...)
	res := s.flag(b, set(uids[1], uids[2]), mailbox.AddFlags, mailbox.Seen)
	grew("change", uids[1], uids[2])
	if res.ModSeq != high {
		s.Errorf("change says modseq %d, the view %d", res.ModSeq, high)
	}
	// Of two messages only the second changes.
	s.flag(b, set(uids[1], uids[3]), mailbox.AddFlags, mailbox.Seen)
	grew("change of one of two", uids[3])
	s.expunge(b, set(uids[0]))
	grew("expunge")
	copied, err := s.s.Copy(s.ctx, b, b, set(uids[1]))
	s.must(err)
	grew("copy", copied.To...)
	_, err = s.s.Move(s.ctx, b, c, set(uids[2]))
	s.must(err)
	grew("move away")
	moved, err := s.s.Move(s.ctx, c, b, mailbox.All())
	s.must(err)
	grew("move here", moved.To...)
}

func testUnchangedSince(s *suite) {
	b := s.box(mailbox.Inbox)
	uids := s.fill(b, 4)
	since := s.view(b).HighestMod
	s.flag(b, set(uids[1], uids[3]), mailbox.AddFlags, mailbox.Flagged)
	try := func(c mailbox.FlagChange) mailbox.Changed {
		s.Helper()
		res, err := s.s.Change(s.ctx, b, mailbox.All(), c)
		s.must(err)
		return res
	}
	wantSeen := func(doing string, want ...bool) {
		s.Helper()
		for i, u := range uids {
			if got := s.message(b, u).Flags&mailbox.Seen != 0; got != want[i] {
				s.Errorf("%s: message %d seen: %v, want %v", doing, i, got, want[i])
			}
		}
	}
	res := try(mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen, UnchangedSince: since})
	wantSeen("since", true, false, true, false)
	if want := set(uids[1], uids[3]); !same(res.Modified, want) || res.ModSeq == 0 {
		s.Errorf("since: %+v, want modified %v", res, want)
	}
	// RFC 7162 section 3.1.3: 0 means never, not "without condition".
	res = try(mailbox.FlagChange{Op: mailbox.RemoveFlags, Flags: mailbox.Seen, IfUnchanged: true})
	wantSeen("never", true, false, true, false)
	if res.ModSeq != 0 || !same(res.Modified, set(uids...)) {
		s.Errorf("never: %+v", res)
	}
	try(mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen, UnchangedSince: s.view(b).HighestMod})
	wantSeen("now", true, true, true, true)
	res = try(mailbox.FlagChange{Op: mailbox.RemoveFlags, Flags: mailbox.Seen})
	wantSeen("without condition", false, false, false, false)
	if len(res.Modified) != 0 {
		s.Errorf("without condition: %+v", res)
	}
}

func testExpunge(s *suite) {
	b := s.box(mailbox.Inbox)
	uids := s.fill(b, 6)
	s.flag(b, set(uids[1], uids[3], uids[5]), mailbox.AddFlags, mailbox.Deleted)
	for _, x := range []struct {
		name        string
		set         mailbox.UIDSet
		onlyDeleted bool
		want        []mailbox.UID
	}{
		{"deleted ones of a range", mailbox.UIDSet{{First: uids[0], Last: uids[3]}}, true, []mailbox.UID{uids[1], uids[3]}},
		{"again", mailbox.UIDSet{{First: uids[0], Last: uids[3]}}, true, nil},
		{"one, deleted or not", set(uids[2]), false, []mailbox.UID{uids[2]}},
		{"nothing of an empty set", nil, false, nil},
		{"what never was", set(uids[5] + 9), false, nil},
		{"all deleted ones", mailbox.All(), true, []mailbox.UID{uids[5]}},
		{"all", mailbox.All(), false, []mailbox.UID{uids[0], uids[4]}},
		{"all of an empty mailbox", mailbox.All(), false, nil},
	} {
		before := s.view(b)
		got, err := s.s.Expunge(s.ctx, b, x.set, x.onlyDeleted)
		s.must(err)
		if !same(got, x.want) {
			s.Errorf("%s: removed %v, want %v", x.name, got, x.want)
		}
		v := s.view(b)
		if v.Len() != before.Len()-len(x.want) || v.UIDNext != before.UIDNext {
			s.Errorf("%s: %d messages, UIDNEXT %d; before %d, %d", x.name, v.Len(), v.UIDNext, before.Len(), before.UIDNext)
		}
		for _, u := range x.want {
			_, err := s.s.Open(s.ctx, b, u)
			s.wantKind(x.name+": open", err, fault.NotFound)
		}
	}
}

func testCopy(s *suite) {
	from, to := s.box(mailbox.Inbox), s.made("to")
	s.fill(to, 1)
	var uids []mailbox.UID
	for i, text := range []string{"one\r\n", pattern(100 << 10), "three\r\n"} {
		uids = append(uids, s.deliverTo(text, mailbox.Target{
			Box: from, Flags: mailbox.Flags(i), Keywords: []string{"k"}, Internal: time.Unix(int64(1000+i), 0),
		})...)
	}
	before, start := s.view(from), time.Now().Unix()
	res, err := s.s.Copy(s.ctx, from, to, set(uids[0], uids[2], uids[2]+5))
	s.must(err)
	if !same(res.From, []mailbox.UID{uids[0], uids[2]}) || len(res.To) != 2 || res.UIDValidity != s.view(to).UIDValidity {
		s.Fatalf("copied %+v", res)
	}
	for i, from := range []int{0, 2} {
		m := s.message(to, res.To[i])
		if saved := m.SavedAt(); saved < start || saved > time.Now().Unix() {
			s.Errorf("a copy was saved at %d, the test began at %d", saved, start)
		}
		if m.Flags != mailbox.Flags(from) || m.Internal != int64(1000+from) || !same(m.Keywords, []string{"k"}) {
			s.Errorf("copy %d: %+v", i, m)
		}
	}
	if got := s.texts(to); len(got) != 3 || got[1] != "one\r\n" || got[2] != "three\r\n" {
		s.Errorf("copies read %q", got)
	}
	if v := s.view(from); v.HighestMod != before.HighestMod || !same(uidsOf(v), uids) {
		s.Errorf("the copied mailbox changed: %v", uidsOf(v))
	}
	// A copy is another message: its flags are its own, and it stays.
	s.flag(to, set(res.To[0]), mailbox.SetFlags, mailbox.Draft)
	if m := s.message(from, uids[0]); m.Flags != 0 {
		s.Errorf("flags of a copy reached the original: %b", m.Flags)
	}
	s.expunge(from, mailbox.All())
	if got := s.texts(to); len(got) != 3 || got[1] != "one\r\n" {
		s.Errorf("copies read %q after the originals went", got)
	}
	res, err = s.s.Copy(s.ctx, from, to, mailbox.All())
	s.must(err)
	if len(res.From) != 0 || len(res.To) != 0 {
		s.Errorf("copy of nothing: %+v", res)
	}
	s.fill(from, 1)
	_, err = s.s.Copy(s.ctx, from, s.box("missing"), mailbox.All())
	s.wantKind("copy to a missing mailbox", err, fault.NotFound)
	_, err = s.s.Copy(s.ctx, s.box("missing"), to, mailbox.All())
	s.wantKind("copy from a missing mailbox", err, fault.NotFound)
}

func testMove(s *suite) {
	from, to := s.box(mailbox.Inbox), s.made("to")
	uids := s.fill(from, 4)
	texts := s.texts(from)
	s.flag(from, set(uids[1]), mailbox.SetFlags, mailbox.Answered, "k")
	res, err := s.s.Move(s.ctx, from, to, set(uids[1], uids[3]))
	s.must(err)
	if !same(res.From, []mailbox.UID{uids[1], uids[3]}) || len(res.To) != 2 || res.UIDValidity != s.view(to).UIDValidity {
		s.Fatalf("moved %+v", res)
	}
	if got := s.texts(to); !same(got, []string{texts[1], texts[3]}) {
		s.Errorf("there: %q", got)
	}
	if got := s.texts(from); !same(got, []string{texts[0], texts[2]}) {
		s.Errorf("left: %q", got)
	}
	if m := s.message(to, res.To[0]); m.Flags != mailbox.Answered || !same(m.Keywords, []string{"k"}) {
		s.Errorf("moved message: %+v", m)
	}
	before := s.view(from)
	_, err = s.s.Move(s.ctx, from, s.box("missing"), mailbox.All())
	s.wantKind("move to a missing mailbox", err, fault.NotFound)
	if v := s.view(from); v.HighestMod != before.HighestMod || v.Len() != 2 {
		s.Error("a refused move changed the mailbox")
	}
}

func testTransferToItself(s *suite) {
	b := s.box(mailbox.Inbox)
	uids := s.fill(b, 3)
	texts := s.texts(b)
	res, err := s.s.Copy(s.ctx, b, b, set(uids[:2]...))
	s.must(err)
	if !same(res.From, uids[:2]) || len(res.To) != 2 || res.To[0] <= uids[2] {
		s.Fatalf("copied %+v", res)
	}
	if got := s.texts(b); !same(got, append(slices.Clone(texts), texts[:2]...)) {
		s.Errorf("after copy: %q", got)
	}
	moved, err := s.s.Move(s.ctx, b, b, set(uids[0]))
	s.must(err)
	if !same(moved.From, uids[:1]) || len(moved.To) != 1 || moved.To[0] <= res.To[1] {
		s.Fatalf("moved %+v", moved)
	}
	if got := s.texts(b); !same(got, []string{texts[1], texts[2], texts[0], texts[1], texts[0]}) {
		s.Errorf("after move: %q", got)
	}
}

func testHead(s *suite) {
	b := s.box(mailbox.Inbox)
	head := "Message-ID: <1@localhost>\r\nX: " + strings.Repeat("y", 5000) + "\r\n\r\n"
	for _, text := range []string{head + "hello\r\n", head, "Subject: no body\r\n", "\r\nbody alone\r\n", ""} {
		uid := s.deliver(text, b)[0]
		want := text
		if i := strings.Index(text, "\r\n\r\n"); i >= 0 {
			want = text[:i+4]
		} else if strings.HasPrefix(text, "\r\n") {
			want = "\r\n"
		}
		for range 2 { // from the disk, then from memory, where the store has one
			got, err := s.s.Head(s.ctx, b, uid)
			s.must(err)
			if string(got) != want {
				s.Errorf("header of %.20q: %.60q, want %.60q", text, got, want)
			}
		}
		_, err := s.s.Expunge(s.ctx, b, mailbox.UIDSet{{First: uid, Last: uid}}, false)
		s.must(err)
		if got, err := s.s.Head(s.ctx, b, uid); !fault.Is(err, fault.NotFound) {
			s.Errorf("header of an expunged message: %q, %v", got, err)
		}
	}
}

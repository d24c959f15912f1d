package mailboxtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/mailbox"
)

const (
	histories = 12
	steps     = 80
)

// testRandomHistories plays random operations on the store and on the
// reference, and compares what they show. Messages are named by their place in
// the mailbox: stores may count UIDs and modification sequences differently.
func testRandomHistories(s *suite) {
	ref := NewMemory()
	for seed := range uint64(histories) {
		h := &history{
			suite: s,
			ref:   newSuite(s.T, ref),
			rnd:   rand.New(rand.NewPCG(seed, 7)),
			a:     s.addr(fmt.Sprintf("random%d@example.org", seed)),
			texts: make(map[ledgerKey]string),
			ends:  make(map[ledgerKey]*mailbox.View),
		}
		for i := range steps {
			h.log = append(h.log, "")
			h.step()
			h.compare(i%8 == 7 || i == steps-1)
		}
	}
}

// history is one random history.
type history struct {
	*suite
	ref   *suite
	rnd   *rand.Rand
	a     address.Addr
	log   []string // what was done, for the report
	n     int      // texts made
	texts map[ledgerKey]string
	ends  map[ledgerKey]*mailbox.View // the last view of each mailbox
}

func (h *history) did(format string, args ...any) {
	h.log[len(h.log)-1] = fmt.Sprintf(format, args...)
}

func (h *history) differ(format string, args ...any) {
	h.Helper()
	h.Fatalf("%s\nafter\n  %s", fmt.Sprintf(format, args...), strings.Join(h.log, "\n  "))
}

// both runs f on the two stores, which must agree on whether it can be done.
func (h *history) both(f func(s *suite) error) bool {
	h.Helper()
	got, want := f(h.suite), f(h.ref)
	if (got == nil) != (want == nil) {
		h.differ("the store says %v, the reference %v", got, want)
	}
	return want == nil
}

// exist lists the mailboxes of the reference.
func (h *history) exist() []string {
	infos, err := h.ref.s.Boxes(h.ctx, h.a)
	h.must(err)
	var names []string
	for _, x := range infos {
		names = append(names, x.Name)
	}
	return names
}

// name returns a mailbox name, of one that exists or not. The mailbox above
// it exists: whether it is made on the way is up to the store.
func (h *history) name() string {
	names := []string{mailbox.Inbox, "inbox", "a", "b", "c"}
	for _, n := range h.exist() {
		if n == "a" || n == "b" {
			names = append(names, n+"/x")
		}
	}
	return names[h.rnd.IntN(len(names))]
}

// present returns the name of a mailbox that exists.
func (h *history) present() string {
	names := h.exist()
	return names[h.rnd.IntN(len(names))]
}

func (h *history) at(name string) mailbox.Box { return mailbox.Box{Account: h.a, Name: name} }

// some chooses places in a mailbox.
func (h *history) some(name string) []int {
	var places []int
	part := 1 + h.rnd.IntN(3)
	for i := range h.ref.view(h.at(name)).Len() {
		if h.rnd.IntN(3) < part {
			places = append(places, i)
		}
	}
	return places
}

// uids turns places into a set of one store.
func (h *history) uids(s *suite, name string, places []int) mailbox.UIDSet {
	v := s.view(h.at(name))
	var u mailbox.UIDSet
	for _, i := range places {
		u = u.Add(v.At(i).UID)
	}
	return u
}

func (h *history) flags() (mailbox.Flags, []string) {
	var kw []string
	for _, k := range []string{"$Forwarded", "alpha", "beta"} {
		if h.rnd.IntN(4) == 0 {
			kw = append(kw, k)
		}
	}
	return mailbox.Flags(h.rnd.IntN(32)), kw
}

func (h *history) step() {
	switch k := h.rnd.IntN(100); {
	case k < 24:
		h.deliverSome()
	case k < 30:
		h.addSome()
	case k < 45:
		h.changeSome()
	case k < 57:
		h.expungeSome()
	case k < 75:
		h.transferSome(h.rnd.IntN(2) == 0)
	case k < 83:
		name, use := h.name(), []string{"", `\Sent`}[h.rnd.IntN(2)]
		h.did("create %q %s", name, use)
		h.both(func(s *suite) error { return s.s.CreateBox(h.ctx, h.at(name), use) })
	case k < 91:
		from, to := h.name(), h.name()
		h.did("rename %q to %q", from, to)
		h.both(func(s *suite) error { return s.s.RenameBox(h.ctx, h.at(from), to) })
	case k < 95:
		name := h.name()
		if slices.ContainsFunc(h.exist(), func(n string) bool { return strings.HasPrefix(n, name+"/") }) {
			return // whether its name stays is up to the store
		}
		h.did("remove %q", name)
		h.both(func(s *suite) error { return s.s.RemoveBox(h.ctx, h.at(name)) })
	case k < 99:
		name, on := h.present(), h.rnd.IntN(2) == 0
		h.did("subscribe %q %v", name, on)
		h.both(func(s *suite) error { return s.s.Subscribe(h.ctx, h.at(name), on) })
	default:
		h.did("remove the account")
		h.both(func(s *suite) error { return s.s.RemoveAccount(h.ctx, h.a) })
	}
}

func (h *history) deliverSome() {
	h.n++
	text := fmt.Sprintf("text %d\r\n", h.n)
	if h.rnd.IntN(12) == 0 {
		text += pattern(70 << 10)
	}
	var to []mailbox.Target
	var names []string
	for range 1 + h.rnd.IntN(3) {
		f, kw := h.flags()
		name := h.name()
		names = append(names, name)
		to = append(to, mailbox.Target{Box: h.at(name), Flags: f, Keywords: kw, Internal: time.Unix(int64(h.rnd.IntN(1e9)), 0)})
	}
	h.did("deliver text %d (%d octets) to %q", h.n, len(text), names)
	var failed [2][]bool
	for i, s := range []*suite{h.suite, h.ref} {
		b := s.body(text)
		placed, _ := s.s.Deliver(h.ctx, to, b)
		h.must(b.Close())
		for _, p := range placed {
			failed[i] = append(failed[i], p.Err != nil)
		}
	}
	if !same(failed[0], failed[1]) {
		h.differ("targets failed: %v, by the reference %v", failed[0], failed[1])
	}
}

func (h *history) addSome() {
	to, from := h.name(), h.present()
	places := h.some(from)
	var texts []string
	for range h.rnd.IntN(3) {
		h.n++
		texts = append(texts, fmt.Sprintf("text %d\r\n", h.n))
	}
	replace := len(places) > 0 && h.rnd.IntN(2) == 0
	f, kw := h.flags()
	date := time.Unix(int64(h.rnd.IntN(1e9)), 0)
	h.did("add %d messages to %q, replacing in %q: %v", len(texts), to, from, replace)
	h.both(func(s *suite) error {
		list := s.arrivals(texts...)
		for i := range list {
			list[i].Flags, list[i].Keywords, list[i].Internal = f, kw, date
		}
		var old *mailbox.Ref
		if replace {
			old = &mailbox.Ref{Box: h.at(from), UID: s.view(h.at(from)).At(places[0]).UID}
		}
		_, err := s.s.Add(h.ctx, h.at(to), list, old)
		return err
	})
}

func (h *history) changeSome() {
	name := h.present()
	places := h.some(name)
	f, kw := h.flags()
	c := mailbox.FlagChange{Op: mailbox.ChangeOp(h.rnd.IntN(3)), Flags: f, Keywords: kw}
	h.did("change %v of %q: op %d, flags %b, keywords %q", places, name, c.Op, f, kw)
	var changed []bool
	h.both(func(s *suite) error {
		res, err := s.s.Change(h.ctx, h.at(name), h.uids(s, name, places), c)
		changed = append(changed, res.ModSeq != 0)
		return err
	})
	if changed[0] != changed[1] {
		h.differ("something changed: %v, by the reference %v", changed[0], changed[1])
	}
}

func (h *history) expungeSome() {
	name, only := h.present(), h.rnd.IntN(2) == 0
	places := h.some(name)
	h.did("expunge %v of %q, deleted ones only: %v", places, name, only)
	var gone []int
	h.both(func(s *suite) error {
		uids, err := s.s.Expunge(h.ctx, h.at(name), h.uids(s, name, places), only)
		gone = append(gone, len(uids))
		return err
	})
	if gone[0] != gone[1] {
		h.differ("%d messages went, by the reference %d", gone[0], gone[1])
	}
}

func (h *history) transferSome(move bool) {
	from, to := h.present(), h.name()
	places := h.some(from)
	h.did("copy %v of %q to %q, and remove: %v", places, from, to, move)
	var copied []int
	h.both(func(s *suite) error {
		f := s.s.Copy
		if move {
			f = s.s.Move
		}
		res, err := f(h.ctx, h.at(from), h.at(to), h.uids(s, from, places))
		if len(res.From) != len(res.To) {
			h.differ("copied %v to %v", res.From, res.To)
		}
		copied = append(copied, len(res.To))
		return err
	})
	if copied[0] != copied[1] {
		h.differ("%d messages were copied, by the reference %d", copied[0], copied[1])
	}
}

// compare looks at everything that the two stores show.
func (h *history) compare(texts bool) {
	h.Helper()
	got, err := h.s.Boxes(h.ctx, h.a)
	h.must(err)
	want, err := h.ref.s.Boxes(h.ctx, h.a)
	h.must(err)
	if len(got) != len(want) {
		h.differ("mailboxes %+v, by the reference %+v", got, want)
	}
	for i, x := range want {
		if got[i].Name != x.Name || got[i].SpecialUse != x.SpecialUse {
			h.differ("mailbox %+v, by the reference %+v", got[i], x)
		}
		h.compareBox(h.at(x.Name), texts)
	}
	used, err := h.s.Usage(h.ctx, h.a)
	h.must(err)
	wantUsed, err := h.ref.s.Usage(h.ctx, h.a)
	h.must(err)
	if used != wantUsed {
		h.differ("usage %+v, by the reference %+v", used, wantUsed)
	}
}

func (h *history) compareBox(b mailbox.Box, texts bool) {
	h.Helper()
	got, want := h.view(b), h.ref.view(b)
	if got.Len() != want.Len() {
		h.differ("%q has %d messages, by the reference %d", b.Name, got.Len(), want.Len())
	}
	k := ledgerKey{box: b, validity: got.UIDValidity}
	if was := h.ends[k]; was != nil && (got.UIDNext < was.UIDNext || got.HighestMod < was.HighestMod) {
		h.differ("%q went from UIDNEXT %d, modseq %d to %d, %d", b.Name, was.UIDNext, was.HighestMod, got.UIDNext, got.HighestMod)
	}
	h.ends[k] = got
	for i, w := range messages(want) {
		g := got.At(i)
		if g.Size != w.Size || g.Internal != w.Internal || g.Flags != w.Flags || !same(g.Keywords, w.Keywords) {
			h.differ("message %d of %q is %+v, by the reference %+v", i, b.Name, g, w)
		}
		if !texts {
			continue
		}
		text := h.text(b, g.UID)
		if text != h.ref.text(b, w.UID) {
			h.differ("message %d of %q has another text", i, b.Name)
		}
		k.uid = g.UID
		if was, ok := h.texts[k]; ok && was != text {
			h.differ("%q shows another text as UID %d under UIDVALIDITY %d than before", b.Name, k.uid, k.validity)
		}
		h.texts[k] = text
	}
}

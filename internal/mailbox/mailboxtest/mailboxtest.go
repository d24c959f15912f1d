// Package mailboxtest says what a mailbox.Store is, as a test suite that every
// implementation passes, and has the plainest one, Memory, as a fake for other
// packages' tests.
//
// The suite tests the contract of mailbox.Store and nothing that is particular
// to one store: neither files nor limits of its own, nor how UIDs and
// modification sequences are counted as long as they only grow. What survives
// a crash at each step is tested by each store, because only it knows its
// steps; Reopen tests what survives an orderly stop.
//
// A store calls Run, and RunHooks and RunReopen where it has hooks and a disk:
//
//	func TestConformance(t *testing.T) {
//		mailboxtest.Run(t, func(t *testing.T) mailbox.Store { return open(t) })
//	}
package mailboxtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// limit ends a test that hangs.
const limit = 2 * time.Minute

// Run tests the stores that open makes. Each call of open returns an empty
// store and arranges for its end with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) mailbox.Store) {
	tests := []struct {
		name string
		test func(*suite)
	}{
		{"InboxIsThereBeforeAnyMail", testInboxIsThere},
		{"DeliveredMailIsVisibleAndComplete", testDeliver},
		{"BodiesOfAnySizeComeBackAsTheyWere", testBodySizes},
		{"HeadersComeAlone", testHead},
		{"ABodyIsIndependentOfItsCopies", testBodyIndependence},
		{"BodiesOfOtherMakersAreTaken", testForeignBody},
		{"OneTargetFailsAlone", testTargetsFailAlone},
		{"UIDsOnlyGrowAndAreNeverReused", testUIDsGrow},
		{"AViewNeverChanges", testViewNeverChanges},
		{"ContentStaysReadableAfterExpunge", testContentOutlivesExpunge},
		{"UIDVALIDITYIsRealAndStable", testUIDValidity},
		{"ARemovedMailboxComesBackUnderAGreaterUIDVALIDITY", testRecreatedBox},
		{"NoNameShowsTwoMessagesUnderOneUID", testNamesAreNotConfused},
		{"FlagsAreSetAddedAndRemoved", testFlags},
		{"KeywordsAreSortedAndSingle", testKeywords},
		{"ModSeqGrowsWithEachChange", testModSeq},
		{"UnchangedSinceLeavesNewerMessagesAlone", testUnchangedSince},
		{"AddIsOneChange", testAdd},
		{"AddReplaces", testAddReplaces},
		{"AddDoesAllOrNothing", testAddRefused},
		{"ExpungeRemovesWhatWasAsked", testExpunge},
		{"CopyKeepsFlagsAndDate", testCopy},
		{"MoveIsCopyAndExpunge", testMove},
		{"CopyAndMoveWithinOneMailbox", testTransferToItself},
		{"MailboxesAreListedInOrder", testBoxes},
		{"WhatIsNotThereIsNotFound", testNotFound},
		{"SubscriptionsAndSpecialUsesAreKept", testSubscriptions},
		{"RemoveBoxSparesThoseBelow", testRemoveBox},
		{"RenameTakesThoseBelowAlong", testRename},
		{"RefusedRenamesChangeNothing", testRenameRefused},
		{"RenamingINBOXMovesItsMessages", testRenameInbox},
		{"INBOXIsOneInAnySpelling", testInboxSpellings},
		{"HostileNamesAreRefused", testHostileNames},
		{"OddNamesDoNotCollide", testOddNames},
		{"RemoveAccountRemovesAllOfIt", testRemoveAccount},
		{"UsageIsTheSumOfSizes", testUsage},
		{"AccountsWithMailAreListed", testAccounts},
		{"NothingIsLostWhileOthersDeliver", testDeliverersAndLister},
		{"ConcurrentMovesLoseNothing", testConcurrentMoves},
		{"ConcurrentChangesAllCount", testConcurrentChanges},
		{"RandomHistoriesAgreeWithTheReference", testRandomHistories},
	}
	for _, x := range tests {
		t.Run(x.name, func(t *testing.T) {
			x.test(newSuite(t, open(t)))
		})
	}
}

// suite is a test with the store it is about. Its helpers end the test when
// the store refuses what it must do.
type suite struct {
	*testing.T
	ctx context.Context
	s   mailbox.Store
}

func newSuite(t *testing.T, s mailbox.Store) *suite {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return &suite{T: t, ctx: ctx, s: s}
}

func (s *suite) addr(text string) address.Addr {
	s.Helper()
	a, err := address.Parse(text)
	s.must(err)
	return a
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// wantKind checks that err is of one of the kinds.
func (s *suite) wantKind(doing string, err error, kinds ...fault.Kind) {
	s.Helper()
	for _, k := range kinds {
		if fault.Is(err, k) {
			return
		}
	}
	s.Errorf("%s: error %v, want kind %v", doing, err, kinds)
}

// box returns a mailbox of alice, who most tests are about.
func (s *suite) box(name string) mailbox.Box {
	s.Helper()
	return mailbox.Box{Account: s.addr("alice@example.org"), Name: name}
}

// made is box, after creating it.
func (s *suite) made(name string) mailbox.Box {
	s.Helper()
	b := s.box(name)
	s.must(s.s.CreateBox(s.ctx, b, ""))
	return b
}

func (s *suite) body(data string) mailbox.Body {
	s.Helper()
	w, err := s.s.NewBody(s.ctx)
	s.must(err)
	_, err = io.WriteString(w, data)
	s.must(err)
	b, err := w.Seal()
	s.must(err)
	return b
}

// deliver stores data in each box and returns the UIDs.
func (s *suite) deliver(data string, boxes ...mailbox.Box) []mailbox.UID {
	s.Helper()
	to := make([]mailbox.Target, len(boxes))
	for i, b := range boxes {
		to[i].Box = b
	}
	return s.deliverTo(data, to...)
}

func (s *suite) deliverTo(data string, to ...mailbox.Target) []mailbox.UID {
	s.Helper()
	b := s.body(data)
	placed, err := s.s.Deliver(s.ctx, to, b)
	s.must(err)
	s.must(b.Close())
	if len(placed) != len(to) {
		s.Fatalf("%d targets, %d placed", len(to), len(placed))
	}
	uids := make([]mailbox.UID, len(placed))
	for i, p := range placed {
		s.must(p.Err)
		uids[i] = p.UID
	}
	return uids
}

// fill delivers n messages with different texts and returns their UIDs.
func (s *suite) fill(b mailbox.Box, n int) []mailbox.UID {
	s.Helper()
	var uids []mailbox.UID
	for i := range n {
		uids = append(uids, s.deliver(fmt.Sprintf("message %d of %s\r\n", i, b.Name), b)...)
	}
	return uids
}

// view takes a view and checks what is true of every view.
func (s *suite) view(b mailbox.Box) *mailbox.View {
	s.Helper()
	v, err := s.s.View(s.ctx, b)
	s.must(err)
	if err := soundView(v); err != nil {
		s.Fatalf("view of %q: %v", b.Name, err)
	}
	return v
}

// soundView checks what is true of every view.
func soundView(v *mailbox.View) error {
	if v.UIDValidity == 0 {
		return fmt.Errorf("UIDVALIDITY 0")
	}
	if v.UIDNext == 0 {
		return fmt.Errorf("UIDNEXT 0")
	}
	last := mailbox.UID(0)
	for i := range v.Len() {
		m := v.At(i)
		switch {
		case m.UID <= last:
			return fmt.Errorf("UID %d after %d", m.UID, last)
		case m.UID >= v.UIDNext:
			return fmt.Errorf("UID %d, UIDNEXT %d", m.UID, v.UIDNext)
		case m.ModSeq == 0 || m.ModSeq > v.HighestMod:
			return fmt.Errorf("UID %d has modseq %d, the highest is %d", m.UID, m.ModSeq, v.HighestMod)
		}
		last = m.UID
	}
	return nil
}

// messages returns what a view lists.
func messages(v *mailbox.View) []mailbox.Message {
	list := make([]mailbox.Message, v.Len())
	for i := range list {
		list[i] = v.At(i)
	}
	return list
}

func uidsOf(v *mailbox.View) []mailbox.UID {
	list := make([]mailbox.UID, v.Len())
	for i := range list {
		list[i] = v.At(i).UID
	}
	return list
}

// message returns what the mailbox's view says of one message.
func (s *suite) message(b mailbox.Box, uid mailbox.UID) mailbox.Message {
	s.Helper()
	v := s.view(b)
	i, ok := v.Index(uid)
	if !ok {
		s.Fatalf("%q has no UID %d, only %v", b.Name, uid, uidsOf(v))
	}
	return v.At(i)
}

// text reads a stored message.
func (s *suite) text(b mailbox.Box, uid mailbox.UID) string {
	s.Helper()
	c, err := s.s.Open(s.ctx, b, uid)
	if err != nil {
		s.Fatalf("open UID %d of %q: %v", uid, b.Name, err)
	}
	defer c.Close()
	return s.read(c)
}

func (s *suite) read(c interface {
	io.ReaderAt
	Size() int64
}) string {
	s.Helper()
	data, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	s.must(err)
	if int64(len(data)) != c.Size() {
		s.Errorf("%d octets, Size says %d", len(data), c.Size())
	}
	return string(data)
}

// texts reads a whole mailbox in order of UID.
func (s *suite) texts(b mailbox.Box) []string {
	s.Helper()
	list := []string{}
	for _, m := range messages(s.view(b)) {
		text := s.text(b, m.UID)
		if int64(len(text)) != m.Size {
			s.Errorf("UID %d of %q has %d octets, its view says %d", m.UID, b.Name, len(text), m.Size)
		}
		list = append(list, text)
	}
	return list
}

// names lists alice's mailboxes.
func (s *suite) names() []string {
	s.Helper()
	infos, err := s.s.Boxes(s.ctx, s.addr("alice@example.org"))
	s.must(err)
	list := make([]string, len(infos))
	for i, x := range infos {
		list[i] = x.Name
	}
	return list
}

func (s *suite) info(name string) mailbox.Info {
	s.Helper()
	infos, err := s.s.Boxes(s.ctx, s.addr("alice@example.org"))
	s.must(err)
	for _, x := range infos {
		if x.Name == name {
			return x
		}
	}
	s.Fatalf("%q is not listed", name)
	return mailbox.Info{}
}

// flag changes flags of messages.
func (s *suite) flag(b mailbox.Box, set mailbox.UIDSet, op mailbox.ChangeOp, f mailbox.Flags, kw ...string) mailbox.Changed {
	s.Helper()
	res, err := s.s.Change(s.ctx, b, set, mailbox.FlagChange{Op: op, Flags: f, Keywords: kw})
	s.must(err)
	return res
}

func (s *suite) expunge(b mailbox.Box, set mailbox.UIDSet) []mailbox.UID {
	s.Helper()
	gone, err := s.s.Expunge(s.ctx, b, set, false)
	s.must(err)
	return gone
}

// set makes a set of single UIDs.
func set(uids ...mailbox.UID) mailbox.UIDSet {
	var u mailbox.UIDSet
	for _, x := range uids {
		u = u.Add(x)
	}
	return u
}

// same reports whether two lists are equal; nil and empty are.
func same[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// foreignBody is a mailbox.Body that no store has made.
type foreignBody struct{ *bytes.Reader }

func (foreignBody) Close() error { return nil }

// pattern makes n octets that are nowhere alike, in CRLF lines.
func pattern(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d of the message\r\n", i)
	}
	return b.String()[:n]
}

package imapserver

import (
	"crypto/tls"
	"io"
	"slices"
	"strings"
	"testing"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// TestForeignClientRunsEveryExtension calls every method of the client that the other
// tests with it do not, but for those of ACL and UNAUTHENTICATE, which we have not.
func TestForeignClientRunsEveryExtension(t *testing.T) {
	d := build(t, TLS, nil)
	flags, gone := make(chan []goimap.Flag, 8), make(chan uint32, 8)
	c, err := imapclient.DialTLS(d.addr, &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}, UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Fetch: func(m *imapclient.FetchMessageData) {
			if buf, err := m.Collect(); err == nil {
				flags <- buf.Flags
			}
		},
		Expunge: func(n uint32) { gone <- n },
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.WaitGreeting())
	must(c.Authenticate(plain{}))
	if c.State() != goimap.ConnStateAuthenticated {
		t.Errorf("state %v", c.State())
	}
	caps, err := c.Capability().Wait()
	must(err)
	for _, want := range []goimap.Cap{goimap.CapIMAP4rev2, goimap.CapLiteralPlus, goimap.CapMetadataServer, goimap.CapNotify, goimap.CapCreateSpecialUse, goimap.CapReplace, goimap.CapQResync} {
		if !caps.Has(want) {
			t.Errorf("no %s", want)
		}
	}
	must(c.Noop().Wait())
	id, err := c.ID(&goimap.IDData{Name: "x"}).Wait()
	must(err)
	if id.Name != "madmail" || id.Version != "" {
		t.Errorf("%+v", id)
	}
	ns, err := c.Namespace().Wait()
	must(err)
	if len(ns.Personal) != 1 || ns.Personal[0].Delim != '/' || len(ns.Other)+len(ns.Shared) != 0 {
		t.Errorf("%+v", ns)
	}
	en, err := c.Enable(goimap.CapIMAP4rev2, goimap.CapUTF8Accept).Wait()
	must(err)
	if !en.Caps.Has(goimap.CapIMAP4rev2) {
		t.Errorf("%+v", en)
	}
	must(c.Create("Gesendet ä", &goimap.CreateOptions{SpecialUse: []goimap.MailboxAttr{goimap.MailboxAttrSent}}).Wait())
	must(c.Rename("Gesendet ä", "Gesendet", nil).Wait())
	must(c.Unsubscribe("Gesendet").Wait())
	must(c.Subscribe("Gesendet").Wait())
	list, err := c.List("", "%", &goimap.ListOptions{ReturnSpecialUse: true, ReturnSubscribed: true, ReturnChildren: true}).Collect()
	must(err)
	if len(list) != 2 || !slices.Contains(list[1].Attrs, goimap.MailboxAttrSent) || !slices.Contains(list[1].Attrs, goimap.MailboxAttrSubscribed) {
		t.Errorf("%+v", list)
	}

	// METADATA
	value := []byte("a note")
	must(c.SetMetadata("Gesendet", map[string]*[]byte{"/private/comment": &value, "/shared/vendor/x/y": &value}).Wait())
	size := uint32(3)
	for _, x := range []struct {
		box  string
		opt  *imapclient.GetMetadataOptions
		ask  string
		want int
	}{
		{"Gesendet", nil, "/private/comment", 1},
		{"Gesendet", &imapclient.GetMetadataOptions{MaxSize: &size}, "/private/comment", 0},
		{"Gesendet", &imapclient.GetMetadataOptions{Depth: imapclient.GetMetadataDepthOne}, "/shared/vendor", 0},
		{"Gesendet", &imapclient.GetMetadataOptions{Depth: imapclient.GetMetadataDepthInfinity}, "/shared/vendor", 1},
		{"", &imapclient.GetMetadataOptions{Depth: imapclient.GetMetadataDepthInfinity}, "/shared", 2},
	} {
		m, err := c.GetMetadata(x.box, []string{x.ask}, x.opt).Wait()
		if err != nil || len(m.Entries) != x.want {
			t.Errorf("%+v: %+v, %v", x, m, err)
		}
	}

	// QUOTA
	roots, err := c.GetQuotaRoot("INBOX").Wait()
	must(err)
	q, err := c.GetQuota(roots[0].Root).Wait()
	must(err)
	if r := q.Resources[goimap.QuotaResourceStorage]; len(roots) != 1 || q.Root != roots[0].Root || r.Limit != 1024 {
		t.Errorf("%+v, %+v", roots, q)
	}
	if err := c.SetQuota(q.Root, map[goimap.QuotaResourceType]int64{goimap.QuotaResourceStorage: 1}).Wait(); err == nil {
		t.Error("a client set its quota")
	}

	// CONDSTORE, COPY, UIDPLUS
	for range 3 {
		d.deliver(t, alice, "Subject: x\r\n\r\nhello\r\n")
	}
	sel, err := c.Select("INBOX", &goimap.SelectOptions{CondStore: true}).Wait()
	must(err)
	if sel.NumMessages != 3 || sel.HighestModSeq == 0 || c.Mailbox().Name != "INBOX" {
		t.Errorf("%+v", sel)
	}
	msgs, err := c.Store(goimap.UIDSetNum(1), &goimap.StoreFlags{Op: goimap.StoreFlagsAdd, Flags: []goimap.Flag{"work"}}, &goimap.StoreOptions{UnchangedSince: sel.HighestModSeq}).Collect()
	must(err)
	if len(msgs) != 1 || msgs[0].ModSeq <= sel.HighestModSeq || !slices.Contains(msgs[0].Flags, "work") {
		t.Errorf("%+v", msgs)
	}
	// Once more: nothing changes, and it is told all the same.
	if msgs, err = c.Store(goimap.UIDSetNum(1), &goimap.StoreFlags{Op: goimap.StoreFlagsAdd, Flags: []goimap.Flag{"work"}}, nil).Collect(); err != nil || len(msgs) != 1 || !slices.Contains(msgs[0].Flags, "work") {
		t.Errorf("%+v, %v", msgs, err)
	}
	msgs, err = c.Fetch(goimap.SeqSetNum(1, 2, 3), &goimap.FetchOptions{UID: true, ModSeq: true, ChangedSince: sel.HighestModSeq}).Collect()
	if err != nil || len(msgs) != 1 || msgs[0].UID != 1 {
		t.Errorf("%+v, %v", msgs, err)
	}
	found, err := c.Search(&goimap.SearchCriteria{Flag: []goimap.Flag{"work"}}, &goimap.SearchOptions{ReturnCount: true}).Wait()
	if err != nil || found.Count != 1 {
		t.Errorf("%+v, %v", found, err)
	}
	copied, err := c.Copy(goimap.UIDSetNum(1), "Gesendet").Wait()
	if err != nil || copied.DestUIDs.String() != "1" || copied.SourceUIDs.String() != "1" {
		t.Errorf("%+v, %v", copied, err)
	}
	sorted, err := c.Sort(&imapclient.SortOptions{SortCriteria: []imapclient.SortCriterion{{Key: imapclient.SortKeyArrival, Reverse: true}}, SearchCriteria: &goimap.SearchCriteria{}}).Wait()
	if err != nil || len(sorted) != 3 {
		t.Errorf("%v, %v", sorted, err)
	}
	threads, err := c.UIDThread(&imapclient.ThreadOptions{Algorithm: goimap.ThreadOrderedSubject, SearchCriteria: &goimap.SearchCriteria{}}).Wait()
	if err != nil || len(threads) != 1 {
		t.Errorf("%+v, %v", threads, err)
	}

	// Another device sets a flag and removes a message while this one idles.
	idle, err := c.Idle()
	must(err)
	other := secureClient(t, d)
	other.do("s", "SELECT INBOX")
	other.do("f", `UID STORE 2 +FLAGS (\Flagged)`)
	if got := <-flags; !slices.Equal(got, []goimap.Flag{goimap.FlagFlagged}) {
		t.Errorf("%v", got)
	}
	other.do("d", `UID STORE 3 +FLAGS (\Deleted)`)
	<-flags
	other.do("e", "UID EXPUNGE 3")
	if n := <-gone; n != 3 {
		t.Errorf("number %d went", n)
	}
	must(idle.Close())
	must(idle.Wait())

	must(c.Store(goimap.SeqSetNum(1, 2), &goimap.StoreFlags{Op: goimap.StoreFlagsAdd, Silent: true, Flags: []goimap.Flag{goimap.FlagDeleted}}, nil).Close())
	if nums, err := c.UIDExpunge(goimap.UIDSetNum(1)).Collect(); err != nil || !slices.Equal(nums, []uint32{1}) {
		t.Errorf("%v, %v", nums, err)
	}
	if nums, err := c.Expunge().Collect(); err != nil || !slices.Equal(nums, []uint32{1}) {
		t.Errorf("%v, %v", nums, err)
	}
	must(c.Unselect().Wait())

	// BINARY, APPEND of UTF-8, and the end.
	text := "Subject: ä\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n"
	ap := c.Append("INBOX", int64(len(text)), nil)
	_, err = io.WriteString(ap, text)
	must(err)
	must(ap.Close())
	if data, err := ap.Wait(); err != nil || data.UID != 4 {
		t.Errorf("%+v, %v", data, err)
	}
	if sel, err = c.Select("INBOX", &goimap.SelectOptions{ReadOnly: true}).Wait(); err != nil || sel.NumMessages != 1 {
		t.Errorf("%+v, %v", sel, err)
	}
	msgs, err = c.Fetch(goimap.UIDSetNum(4), &goimap.FetchOptions{BinarySection: []*goimap.FetchItemBinarySection{{Part: []int{1}, Peek: true}}}).Collect()
	if err != nil || len(msgs) != 1 || string(msgs[0].BinarySection[0].Bytes) != "hello" {
		t.Errorf("%+v, %v", msgs, err)
	}
	must(c.UnselectAndExpunge().Wait())
	must(c.Delete("Gesendet").Wait())
	must(c.Logout().Wait())
	<-c.Closed()
}

// plain is SASL PLAIN as the client asks for it.
type plain struct{}

func (plain) Start() (string, []byte, error) {
	return "PLAIN", []byte("\x00" + alice + "\x00secret alice"), nil
}

func (plain) Next([]byte) ([]byte, error) { return nil, io.ErrUnexpectedEOF }

// TestARenameKeepsTheMailboxSelected with the session that renames it, and with it what
// is below.
func TestARenameKeepsTheMailboxSelected(t *testing.T) {
	d := build(t, STARTTLS, nil)
	c := d.dial(t)
	c.login(alice)
	c.do("a", "CREATE a/b/c")
	c.do("b", "APPEND a/b/c {3+}\r\n\r\nx")
	c.do("s", "SELECT a/b/c")
	if l := c.do("r", "RENAME a/b x"); len(l) != 1 || !strings.HasPrefix(l[0], "r NO") {
		t.Errorf("%q", l) // a/b is no mailbox
	}
	if l := c.do("r", "RENAME a/b/c x/y"); len(l) != 1 || l[0] != "r OK Rename completed" {
		t.Fatalf("%q", l)
	}
	c.do("d", "APPEND x/y {3+}\r\n\r\nx")
	if l := c.do("f", "FETCH 1:2 UID"); len(l) != 3 || l[1] != "* 2 FETCH (UID 2)" {
		t.Errorf("%q", l)
	}
}

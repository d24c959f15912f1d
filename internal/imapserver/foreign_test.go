package imapserver

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	goimap "github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// foreign logs a client of another maker in.
func (d *desk) foreign(t *testing.T) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialTLS(d.addr, &imapclient.Options{TLSConfig: &tls.Config{InsecureSkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Login(alice, "secret alice").Wait(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestForeignClientSearchesAndSorts(t *testing.T) {
	d := build(t, TLS, nil)
	for i, s := range []string{"pears", "Re: apples", "apples", "=?utf-8?q?Birnen_und_=C3=84pfel?="} {
		from := []string{"dora", "carl", "bea", "anna"}[i]
		d.deliver(t, alice, fmt.Sprintf("From: <%s@x.org>\r\nSubject: %s\r\nMessage-ID: <%d@x>\r\nDate: Mon, %d Jan 2024 10:00:00 +0000\r\n\r\nbody number %d\r\n", from, s, i+1, i+1, i+1))
	}
	c := d.foreign(t)
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		by   goimap.SearchCriteria
		want []goimap.UID
	}{
		"text in UTF-8": {goimap.SearchCriteria{Text: []string{"äpfel"}}, []goimap.UID{4}},
		"body":          {goimap.SearchCriteria{Body: []string{"NUMBER 2"}}, []goimap.UID{2}},
		"not, or": {goimap.SearchCriteria{Not: []goimap.SearchCriteria{{UID: []goimap.UIDSet{goimap.UIDSetNum(1)}}},
			Or: [][2]goimap.SearchCriteria{{{Larger: 10000}, {Header: []goimap.SearchCriteriaHeaderField{{Key: "From", Value: "bea"}}}}}}, []goimap.UID{3}},
		"dates": {goimap.SearchCriteria{SentSince: time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC), SentBefore: time.Date(2024, 1, 4, 0, 0, 0, 0, time.UTC)}, []goimap.UID{2, 3}},
	} {
		got, err := c.UIDSearch(&x.by, &goimap.SearchOptions{ReturnAll: true, ReturnCount: true, ReturnMin: true, ReturnMax: true}).Wait()
		if err != nil || !slices.Equal(got.AllUIDs(), x.want) || int(got.Count) != len(x.want) || got.Min != uint32(x.want[0]) || got.Max != uint32(x.want[len(x.want)-1]) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	sorted, err := c.UIDSort(&imapclient.SortOptions{SortCriteria: []imapclient.SortCriterion{{Key: imapclient.SortKeySubject}, {Key: imapclient.SortKeyDate, Reverse: true}}, SearchCriteria: &goimap.SearchCriteria{}}).Wait()
	if err != nil || !slices.Equal(sorted, []uint32{3, 2, 4, 1}) {
		t.Errorf("sorted %v, %v", sorted, err)
	}
	threads, err := c.Thread(&imapclient.ThreadOptions{Algorithm: goimap.ThreadReferences, SearchCriteria: &goimap.SearchCriteria{}}).Wait()
	if err != nil || fmt.Sprint(threads) != "[{[1] []} {[3 2] []} {[4] []}]" {
		t.Errorf("threads %+v, %v", threads, err)
	}
	if err := c.Logout().Wait(); err != nil {
		t.Error(err)
	}
}

func TestForeignClientListsAndAsksForStatus(t *testing.T) {
	d := build(t, TLS, nil)
	c := d.foreign(t)
	for _, b := range []string{"a/b", "c"} {
		if err := c.Create(b, nil).Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Unsubscribe("c").Wait(); err != nil {
		t.Fatal(err)
	}
	if err := c.Create("gone", &goimap.CreateOptions{SpecialUse: []goimap.MailboxAttr{goimap.MailboxAttrTrash}}).Wait(); err != nil {
		t.Fatal(err)
	}
	list, err := c.List("", "%", &goimap.ListOptions{SelectSubscribed: true, SelectRecursiveMatch: true, ReturnSubscribed: true,
		ReturnStatus: &goimap.StatusOptions{NumMessages: true, UIDValidity: true, Size: true}}).Collect()
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if a := list[1]; a.Mailbox != "a" || a.ChildInfo == nil || !a.ChildInfo.Subscribed || !slices.Contains(a.Attrs, goimap.MailboxAttrNonExistent) || a.Status != nil {
		t.Errorf("%+v", a)
	}
	if g := list[2]; g.Mailbox != "gone" || g.Status == nil || *g.Status.NumMessages != 0 || !slices.Contains(g.Attrs, goimap.MailboxAttrTrash) {
		t.Errorf("%+v", g)
	}
	text := "Subject: x\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n"
	ap := c.Append("c", int64(len(text)), &goimap.AppendOptions{Flags: []goimap.Flag{goimap.FlagDeleted}})
	if _, err := io.WriteString(ap, text); err != nil {
		t.Fatal(err)
	}
	if err := ap.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ap.Wait(); err != nil {
		t.Fatal(err)
	}
	st, err := c.Status("c", &goimap.StatusOptions{NumMessages: true, NumDeleted: true, Size: true, HighestModSeq: true, AppendLimit: true}).Wait()
	if err != nil || *st.NumMessages != 1 || *st.NumDeleted != 1 || *st.Size != int64(len(text)) || *st.AppendLimit != 1<<20 {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := c.Select("c", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	msgs, err := c.Fetch(goimap.SeqSetNum(1), &goimap.FetchOptions{
		BinarySection:     []*goimap.FetchItemBinarySection{{Part: []int{1}, Peek: true}},
		BinarySectionSize: []*goimap.FetchItemBinarySectionSize{{Part: []int{1}}},
	}).Collect()
	if err != nil || len(msgs) != 1 || !bytes.Equal(msgs[0].BinarySection[0].Bytes, []byte("hello")) || msgs[0].BinarySectionSize[0].Size != 5 {
		t.Errorf("%+v, %v", msgs, err)
	}
}

// TestMailboxIDOutlivesARename and a message's its copies.
func TestMailboxIDOutlivesARename(t *testing.T) {
	d := build(t, STARTTLS, nil)
	c := d.dial(t)
	c.login(alice)
	id := func(box string) string {
		_, id, _ := strings.Cut(c.do("s", "STATUS "+box+" (MAILBOXID)")[0], "MAILBOXID")
		return id
	}
	c.do("a", "CREATE one")
	c.do("b", "CREATE two")
	one := id("one")
	if one == id("two") || one == id("INBOX") || one == "" {
		t.Errorf("one %s, two %s, INBOX %s", one, id("two"), id("INBOX"))
	}
	c.do("c", "RENAME one three")
	c.do("d", "CREATE one")
	if id("three") != one || id("one") == one {
		t.Errorf("was %s, is %s, and another is %s", one, id("three"), id("one"))
	}
}

// TestLazyPreviewsOfLargeMessagesAreLeftOut until the client waits for them.
func TestLazyPreviewsOfLargeMessagesAreLeftOut(t *testing.T) {
	d := build(t, STARTTLS, nil)
	d.deliver(t, alice, "Subject: x\r\n\r\nhello\r\n>"+strings.Repeat("x", 2*previewLazy)+"\r\n")
	c := d.dial(t)
	c.login(alice)
	c.do("s", "SELECT INBOX")
	if l := c.do("a", "FETCH 1 (PREVIEW (LAZY))"); l[0] != "* 1 FETCH (PREVIEW NIL)" {
		t.Error(l)
	}
	if l := c.do("b", "FETCH 1 PREVIEW"); l[0] != `* 1 FETCH (PREVIEW "hello")` {
		t.Error(l)
	}
}

// TestCapabilitiesAreKnownNames has each token announced once.
func TestCapabilitiesAreKnownNames(t *testing.T) {
	d := build(t, STARTTLS, nil)
	c := d.dial(t)
	c.login(alice)
	l := c.do("c", "CAPABILITY")[0]
	seen := map[string]bool{}
	for _, tok := range strings.Fields(strings.TrimPrefix(l, "* CAPABILITY ")) {
		if seen[tok] {
			t.Errorf("%s is announced twice", tok)
		}
		seen[tok] = true
	}
	for _, tok := range []string{"IMAP4rev1", "IMAP4rev2", "ESEARCH", "SEARCHRES", "SORT", "ESORT", "LIST-EXTENDED", "LIST-STATUS", "SPECIAL-USE", "MULTIAPPEND", "REPLACE", "BINARY", "WITHIN", "PREVIEW", "OBJECTID", "SAVEDATE", "APPENDLIMIT=1048576"} {
		if !seen[tok] {
			t.Errorf("%s is not announced", tok)
		}
	}
}

package imap

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFetchItems(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []FetchItem
	}{
		{"(UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID Date)])", []FetchItem{{Name: "UID"}, {Name: "RFC822.SIZE"},
			{Name: "BODY[]", Peek: true, Section: Section{Spec: "HEADER.FIELDS", Fields: []string{"message-id", "date"}, Text: "HEADER.FIELDS (MESSAGE-ID Date)"}}}},
		{"(FLAGS BODY.PEEK[])", []FetchItem{{Name: "FLAGS"}, {Name: "BODY[]", Peek: true}}},
		{"body[1.2.mime]<0.100>", []FetchItem{{Name: "BODY[]", Partial: true, Count: 100, Section: Section{Part: []int{1, 2}, Spec: "MIME", Text: "1.2.MIME"}}}},
		{"BODY[3]", []FetchItem{{Name: "BODY[]", Section: Section{Part: []int{3}, Text: "3"}}}},
		{"body", []FetchItem{{Name: "BODY"}}},
		{"fast", []FetchItem{{Name: "FLAGS"}, {Name: "INTERNALDATE"}, {Name: "RFC822.SIZE"}}},
		{"BINARY.PEEK[1.2]<0.9>", []FetchItem{{Name: "BINARY[]", Peek: true, Partial: true, Count: 9, Section: Section{Part: []int{1, 2}, Text: "1.2"}}}},
		{"(BINARY[] BINARY.SIZE[1])", []FetchItem{{Name: "BINARY[]"}, {Name: "BINARY.SIZE", Peek: true, Section: Section{Part: []int{1}, Text: "1"}}}},
		{"(PREVIEW (LAZY) UID SAVEDATE EMAILID THREADID)", []FetchItem{{Name: "PREVIEW", Lazy: true}, {Name: "UID"}, {Name: "SAVEDATE"}, {Name: "EMAILID"}, {Name: "THREADID"}}},
		{"(PREVIEW)", []FetchItem{{Name: "PREVIEW"}}}, {"PREVIEW (BEST)", nil},
		{"BINARY", nil}, {"BINARY[1.MIME]", nil}, {"BINARY.SIZE[1]<0.1>", nil}, {"BINARY[1", nil},
		{"()", nil}, {"(FLAGS", nil}, {"BODY[", nil}, {"BODY[HEADER.FIELDS ()]", nil}, {"BODY[MIME]", nil}, {"BODY.PEEK", nil},
		{"BODY[]<5>", nil}, {"BODY[]<5.0>", nil}, {"BODY[0]", nil}, {"NONSENSE", nil}, {"BODY[99999999999]", nil},
	} {
		p := NewParser(c.in, nil)
		got := p.FetchItems()
		err := p.End()
		if (err == nil) != (c.want != nil) || err == nil && !cmp.Equal(got, c.want) {
			t.Errorf("%s: %v\n%s", c.in, err, cmp.Diff(c.want, got))
		}
	}
}

func TestNotify(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Notify
	}{
		{"NONE", Notify{}},
		{"set status (inboxes (messagenew MessageExpunge FlagChange)) (MAILBOXES (a inbox) NONE) (SUBTREE b (MailboxName SubscriptionChange))", Notify{Status: true, Groups: []NotifyGroup{
			{Kind: "INBOXES", Events: MessageNew | MessageExpunge | FlagChange}, {Kind: "MAILBOXES", Names: []string{"a", "INBOX"}},
			{Kind: "SUBTREE", Names: []string{"b"}, Events: MailboxName | SubscriptionChange}}}},
		{"SET (SELECTED-DELAYED (MessageNew (UID FLAGS) MessageExpunge)) (PERSONAL (AnnotationChange))", Notify{Unknown: true, Groups: []NotifyGroup{{Kind: "PERSONAL"}},
			Selected: NotifySelected{Given: true, Delayed: true, Events: MessageNew | MessageExpunge, Fetch: []FetchItem{{Name: "UID"}, {Name: "FLAGS"}}}}},
		{"SET (SELECTED NONE)", Notify{Selected: NotifySelected{Given: true}}},
	} {
		p := NewParser(c.in, nil)
		got := p.Notify()
		if err := p.End(); err != nil || !cmp.Equal(got, c.want) {
			t.Errorf("%s: %v\n%s", c.in, err, cmp.Diff(c.want, got))
		}
	}
	const both = "(MessageNew MessageExpunge)"
	for _, bad := range []string{"", "SET", "SET STATUS", "SET ()", "NONE NONE", "SET (SELECTED)", "SET (SELECTED ())", "SET (NOWHERE NONE)", "SET (PERSONAL (MessageNew))",
		"SET (PERSONAL (FlagChange))", "SET (SELECTED (MessageNew MessageExpunge MailboxName))", "SET (PERSONAL (MessageNew (UID) MessageExpunge))",
		"SET (SELECTED " + both + ") (SELECTED-DELAYED " + both + ")", "SET (MAILBOXES () NONE)", "SET (SUBTREE NONE)", "SET (PERSONAL " + both + ")(INBOXES NONE)",
		"SET" + strings.Repeat(" (PERSONAL NONE)", maxNotifyGroups+1), "SET (MAILBOXES (" + strings.Repeat("a ", maxNotifyNames) + "a) NONE)",
	} {
		p := NewParser(bad, nil)
		p.Notify()
		if p.End() == nil {
			t.Errorf("%.60q accepted", bad)
		}
	}
}

func TestSetsResolveStarOnly(t *testing.T) {
	p := NewParser("1:*,7,9:3,*", nil)
	s := p.Set()
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]NumRange{{1, 5}, {7, 7}, {3, 9}, {5, 5}}, s.Resolve(5)); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "0", "1,", "1:", "a", "1:0", strings.Repeat("1,", MaxSetParts+1) + "1", "4294967296"} {
		p := NewParser(bad, nil)
		p.Set()
		if p.End() == nil {
			t.Errorf("%.20q accepted", bad)
		}
	}
}

func TestSearchKeys(t *testing.T) {
	p := NewParser(`1:3 NOT (SEEN OR FROM "x" HEADER Message-ID {4}`+"\r\n"+`) UID 5:* SINCE 1-Feb-1994 MODSEQ "/flags/\\Seen" all 9`, [][]byte{[]byte("<id>")})
	k := p.SearchKeys()
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	if len(k.Keys) != 5 || k.Keys[1].Keys[0].Keys[1].Keys[1].Value != "<id>" || k.Keys[4].Num != 9 {
		t.Errorf("%+v", k)
	}
	for _, bad := range []string{"", "NOT", "OR SEEN", "()", strings.Repeat("NOT ", 40) + "SEEN", "SINCE yesterday", "BOGUS", "LARGER x", "OLDER 0", "EMAILID", "THREADID a.b", "SAVEDON x", "$,1", strings.Repeat("SEEN ", MaxSearchKeys) + "SEEN"} {
		p := NewParser(bad, nil)
		p.SearchKeys()
		if p.End() == nil {
			t.Errorf("%.20q accepted", bad)
		}
	}
}

func TestNamesInModifiedUTF7(t *testing.T) {
	for name, wire := range map[string]string{
		"INBOX": "INBOX", "a&b": "a&-b", "~peter/mail/台北/日本語": "~peter/mail/&U,BTFw-/&ZeVnLIqe-", "Gelöscht": "Gel&APY-scht", "😀x": "&2D3eAA-x",
	} {
		if got := EncodeName(name); got != wire {
			t.Errorf("EncodeName(%q) = %q, want %q", name, got, wire)
		}
		if got, ok := DecodeName(wire); !ok || got != name {
			t.Errorf("DecodeName(%q) = %q, %v", wire, got, ok)
		}
	}
	for _, bad := range []string{"&", "&A", "&!!-", "&AAA-", "&2D0-", "\xff"} {
		if got, ok := DecodeName(bad); ok {
			t.Errorf("DecodeName(%q) = %q", bad, got)
		}
	}
}

func TestQuotingNeverLeavesSevenBits(t *testing.T) {
	for s, want := range map[string]string{`a"b\`: `"a\"b\\"`, "ä": "{2}\r\nä", "": `""`, "a\r\nb": "{4}\r\na\r\nb"} {
		if got := string(Quote(nil, s)); got != want {
			t.Errorf("Quote(%q) = %q", s, got)
		}
	}
	if got := Text("zurück\r\n"); got != "zur?ck??" {
		t.Errorf("%q", got)
	}
}

func TestDates(t *testing.T) {
	if got := string(DateTime(nil, 0)); got != `"01-Jan-1970 00:00:00 +0000"` {
		t.Error(got)
	}
	for _, s := range []string{"17-Jul-1996 02:44:25 -0700", " 7-Jul-1996 02:44:25 +0000"} {
		if _, err := ParseDateTime(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "x", "32-Jul-1996 02:44:25 -0700"} {
		if _, err := ParseDateTime(s); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

func FuzzParser(f *testing.F) {
	for _, s := range []string{"(UID BODY[1.HEADER.FIELDS (A \"b\")]<1.2>)", "1:*,3", "OR NOT SEEN (FROM x)", "RETURN (MIN SAVE) CHARSET UTF-8 UID $ OLDER 5 EMAILID a-b", "(REVERSE DATE SUBJECT)", `(SUBSCRIBED RECURSIVEMATCH) "" (a% "*") RETURN (CHILDREN STATUS (SIZE))`, `"a\"b" {3}` + "\r\n", "(\\Seen $x)", "&U,BTFw-", "SET STATUS (SELECTED (MessageNew (UID BODY.PEEK[]) MessageExpunge)) (SUBTREE (a b) NONE) (PERSONAL (MailboxName ServerMetadataChange))",
		"(MAXSIZE 10 DEPTH infinity) INBOX (/private/a \"/shared/b\")", "INBOX (/private/a NIL /shared/b {1}\r\n)"} {
		f.Add(s, []byte("lit"))
	}
	f.Fuzz(func(t *testing.T, s string, lit []byte) {
		for _, parse := range []func(*Parser){
			func(p *Parser) { p.FetchItems() }, func(p *Parser) { p.Search() }, func(p *Parser) { p.Set() }, func(p *Parser) { p.SortKeys() }, func(p *Parser) { p.ListCommand() }, func(p *Parser) { p.StatusItems() }, func(p *Parser) { p.Notify() },
			func(p *Parser) { p.GetMetadata() }, func(p *Parser) { p.SetMetadata() },
			func(p *Parser) { p.Flags() }, func(p *Parser) { p.Mailbox() }, func(p *Parser) { p.ListPattern() },
			func(p *Parser) { p.DateTime() }, func(p *Parser) { p.AString() }, func(p *Parser) { p.NString() },
		} {
			parse(NewParser(s, [][]byte{lit}))
		}
		if name, ok := DecodeName(s); ok {
			if again, ok := DecodeName(EncodeName(name)); !ok || again != name {
				t.Fatalf("%q: %q, %q", s, name, again)
			}
		}
	})
}

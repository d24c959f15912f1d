package message

import (
	"slices"
	"strings"
	"testing"
)

func TestAddressLists(t *testing.T) {
	one := func(name, mailbox, host string) []Address {
		return []Address{{Name: name, Mailbox: mailbox, Host: host}}
	}
	for _, c := range []struct {
		name, in string
		want     []Address
	}{
		{"bare", "a@b", one("", "a", "b")},
		{"brackets", "<a@b>", one("", "a", "b")},
		{"name of words", "Al  Bo\tCe <a@b>", one("Al Bo Ce", "a", "b")},
		{"dots in the name", "A. B. Ce <a.b@c>", one("A. B. Ce", "a.b", "c")},
		{"quotes in the name", `"A, \"B\"" Ce <a@b>`, one(`A, "B" Ce`, "a", "b")},
		{"comment as name", "a@b (Al (Bo))", one("Al (Bo)", "a", "b")},
		{"comment before brackets", "(Al) <a@b>", one("Al", "a", "b")},
		{"a name beats a comment", "Al <a@b> (Bo)", one("Al", "a", "b")},
		{"quoted local part", `"a b"@c`, one("", "a b", "c")},
		{"quoted local part in brackets", `<"a>b"@c>`, one("", "a>b", "c")},
		{"white space and comments everywhere", "a (x) . (y) b @ (z) c . d", one("z", "a.b", "c.d")},
		{"literal", "a@[IPv6:::1]", one("", "a", "[IPv6:::1]")},
		{"route", "<@x,@y:a@b>", []Address{{Route: "@x,@y", Mailbox: "a", Host: "b"}}},
		{"raw UTF-8", "Ä <ä@ö>", one("Ä", "ä", "ö")},
		{"list", "a@b,, c@d,", []Address{{Mailbox: "a", Host: "b"}, {Mailbox: "c", Host: "d"}}},
		{"no comma", "a@b c@d <e@f>", []Address{{Mailbox: "a", Host: "b"}, {Name: "", Mailbox: "c", Host: "d"}, {Mailbox: "e", Host: "f"}}},
		{"group", "g h: a@b, <c@d>; e@f", []Address{
			{Mark: GroupStart, Mailbox: "g h"}, {Mailbox: "a", Host: "b"}, {Mailbox: "c", Host: "d"}, {Mark: GroupEnd}, {Mailbox: "e", Host: "f"}}},
		{"empty group", "undisclosed-recipients:;", []Address{{Mark: GroupStart, Mailbox: "undisclosed-recipients"}, {Mark: GroupEnd}}},
		{"open group", "g: a@b", []Address{{Mark: GroupStart, Mailbox: "g"}, {Mailbox: "a", Host: "b"}, {Mark: GroupEnd}}},
		{"no domain", "bob", one("", "bob", "")},
		{"no domain in brackets", "Bob <bob>", one("Bob", "bob", "")},
		{"null", "<>", one("", "", "")},
		{"open bracket", "Al <a@b", one("Al", "a", "b")},
		{"open quote", `"Al <a@b>`, one("", "Al <a@b>", "")},
		{"open comment", "a@b (Al", one("Al", "a", "b")},
		{"words behind brackets", "Al <a@b> Bo", one("Al", "a", "b")},
		{"stray octets", `];) a@b \`, one("", "a", "b")},
		{"nothing", " ,;:, ", nil},
	} {
		left := 100
		if got := addressList(c.in, &left); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q\ngot  %+v\nwant %+v", c.name, c.in, got, c.want)
		}
	}
}

func TestAddressesAreBoundedAndGroupsStayWhole(t *testing.T) {
	h := ScanHeader([]byte("To: g: " + strings.Repeat("a@b,", 2*MaxAddresses) + "; h: c@d;\r\nCc: e@f\r\n"))
	e := h.Envelope()
	if len(e.To) != MaxAddresses || e.To[0].Mark != GroupStart || e.To[MaxAddresses-1].Mark != GroupEnd || e.Cc != nil {
		t.Errorf("%d addresses, then %d", len(e.To), len(e.Cc))
	}
}

func TestEnvelopeTellsMissingFromEmpty(t *testing.T) {
	e := ScanHeader([]byte("Subject:\r\nsubject: second\r\nFrom: a@b\r\nReply-To: c@d\r\n\r\n")).Envelope()
	if !e.Subject.Set || e.Subject.Value != "" || e.Date.Set || e.MessageID.Set || e.InReplyTo.Set {
		t.Errorf("%+v", e)
	}
	if len(e.Sender) != 1 || e.Sender[0].Mailbox != "a" || len(e.ReplyTo) != 1 || e.ReplyTo[0].Mailbox != "c" || e.To != nil {
		t.Errorf("%+v", e)
	}
}

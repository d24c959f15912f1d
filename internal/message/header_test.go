package message

import (
	"errors"
	"strings"
	"testing"
)

func TestFirstAddress(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{ // "" for none
		{"bare", "bob@example.org", "bob@example.org"},
		{"brackets", "<bob@example.org>", "bob@example.org"},
		{"display name", "Bob <bob@example.org>", "bob@example.org"},
		{"quoted display name", `"Public, Bob \"x\" <no@example.net>" <bob@example.org>`, "bob@example.org"},
		{"encoded word", "=?utf-8?q?B=C3=B6b?= <bob@example.org>", "bob@example.org"},
		{"comment behind", "bob@example.org (Bob, <no@example.net>)", "bob@example.org"},
		{"comment before and nested", `(a (b\)) c) bob@example.org`, "bob@example.org"},
		{"list", "bob@example.org, eve@example.net", "bob@example.org"},
		{"group", "friends: bob@example.org, eve@example.net;", "bob@example.org"},
		{"group with brackets", "friends: Bob <bob@example.org>;", "bob@example.org"},
		{"IPv4 literal", "<alice@[127.0.0.1]>", "alice@[127.0.0.1]"},
		{"IPv6 literal", "alice@[IPv6:2001:db8::1]", "alice@[IPv6:2001:db8::1]"},
		{"source route", "<@relay.example,@b.example:bob@example.org>", "bob@example.org"},
		{"quoted local part", `"bob b"@example.org`, `"bob b"@example.org`},
		{"case is kept", "Bob@Example.ORG", "Bob@Example.ORG"},
		{"leading commas", " , ,bob@example.org", "bob@example.org"},
		{"address as display name", "no@example.net <bob@example.org>", "bob@example.org"},
		{"UTF-8", "Böb <böb@example.org>", "böb@example.org"},

		{"empty", "", ""},
		{"white space", " \t", ""},
		{"empty group", `"hidden-recipients": ;`, ""},
		{"empty brackets", "<>", ""},
		{"no domain", "bob", ""},
		{"nothing before the at sign", "@example.org", ""},
		{"nothing behind it", "bob@", ""},
		{"open bracket", "<bob@example.org", ""},
		{"open comment", "bob@example.org (Bob", ""},
		{"open quote", `"bob@example.org`, ""},
		{"two at signs", "bob@example.net@example.org", ""},
		{"space in the local part", "bob b@example.org", ""},
		{"space in the domain", "<bob@example.org x>", ""},
		{"line end inside", "<bob@example.org\r\nX: y>", ""},
		{"first one is broken", "<bob>, eve@example.net", ""},
	} {
		got, ok := FirstAddress(c.in)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q: got %q, %v, want %q", c.name, c.in, got, ok, c.want)
		}
	}
}

func TestParseHeader(t *testing.T) {
	h, err := ParseHeader([]byte("Subject: a\r\n\tfold \r\n of it\r\nX-Empty:\r\nsubject : second\r\nFrom:a@b\r\n\r\nnot: a field\r\n"))
	if err != nil || len(h) != 4 {
		t.Fatalf("%d fields, %v", len(h), err)
	}
	for name, want := range map[string]string{"SUBJECT": "a\tfold  of it", "x-empty": "", "From": "a@b"} {
		if got, ok := h.Get(name); !ok || got != want {
			t.Errorf("%s: %q, %v, want %q", name, got, ok, want)
		}
	}
	if _, ok := h.Get("not"); ok {
		t.Error("a line behind the blank line is a field")
	}
	if n := h.Count("Subject"); n != 2 {
		t.Errorf("%d subjects", n)
	}
	if h[2].Name() != "subject" || h[2].Is("subjec") || h[2].Is("subject2") || !h[2].Is("Subject") {
		t.Errorf("name of %q", h[2])
	}
	for _, c := range []struct{ name, in string }{
		{"no colon", "Subject\r\n"}, {"no name", ": x\r\n"}, {"space in the name", "a b: x\r\n"}, {"begins with a fold", " a: x\r\n"},
		{"octet above 127 in the name", "S\xfcbject: x\r\n"}, {"control in the name", "a\x01: x\r\n"}, {"mbox line", "From bob Mon\r\na: b\r\n"},
		{"second line is none", "a: b\r\nhello\r\n\r\n"}, {"CR alone", "\rx"},
		{"too large", "a: " + strings.Repeat("x", MaxHeader) + "\r\n"}, {"too many", strings.Repeat("a:\r\n", MaxFields+1)},
	} {
		if h, err := ParseHeader([]byte(c.in)); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %d fields, %v", c.name, len(h), err)
		}
	}
	for _, in := range []string{"", "\r\n", "\n", "a:\n\n", "a: b", strings.Repeat("a:\r\n", MaxFields)} {
		if _, err := ParseHeader([]byte(in)); err != nil {
			t.Errorf("%.20q: %v", in, err)
		}
	}
}

func TestScanHeaderPassesOverWhatIsNoField(t *testing.T) {
	h := ScanHeader([]byte("From bob Mon\r\n: x\r\nA: 1\r\nno field\r\n folded\r\nS\xfc: x\r\nB : 2\r\n\r\nC: 3\r\n"))
	a, _ := h.Get("A")
	b, _ := h.Get("b")
	if len(h) != 2 || a != "1" || b != "2" {
		t.Errorf("%q", h)
	}
	if n := len(ScanHeader([]byte(strings.Repeat("a:\r\n", 2*MaxFields)))); n != MaxFields {
		t.Errorf("%d fields", n)
	}
}

func TestHeaderEnd(t *testing.T) {
	for in, want := range map[string]int{
		"": -1, "a: b": -1, "a: b\r\n": -1, "a: b\r\n\r": -1, "\r\n": 2, "\n": 1, "\r\nbody\r\n\r\n": 2,
		"a: b\r\n\r\nbody": 8, "a: b\n\nbody": 6, "a: b\r\n\nbody": 7, "a: b\r\n \r\n\r\n": 11, "a: b\r\r\n": -1, "\r\r\n\r\n": 5,
	} {
		if got := HeaderEnd([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

func TestStripTakesTheTracesAndNothingElse(t *testing.T) {
	block := "Received: from x\r\n\tby y\r\nreceived: z\r\nDKIM-Signature: a;\r\n b\r\nFrom: a@b\r\nAuthentication-Results : c\r\n" +
		"X-Received: kept\r\nReceived-SPF: kept\r\nSubject: secret\r\n of two lines\r\nodd line\r\nDate: x\r\n\r\n"
	kept := "From: a@b\r\nX-Received: kept\r\nReceived-SPF: kept\r\nSubject: secret\r\n of two lines\r\nodd line\r\nDate: x\r\n\r\n"
	if got := string(Strip([]byte(block), false)); got != kept {
		t.Errorf("got  %q\nwant %q", got, kept)
	}
	hidden := strings.Replace(kept, "secret\r\n of two lines", "[...]", 1)
	if got := string(Strip([]byte(block), true)); got != hidden {
		t.Errorf("got  %q\nwant %q", got, hidden)
	}
	for _, same := range []string{"", "\r\n", "A: b", "A: b\r\n\r\n"} {
		if got := string(Strip([]byte(same), true)); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
}

func TestPick(t *testing.T) {
	const block = "From: a@b\r\nMessage-ID: <1@x>\r\nChat-Version: 1.0\r\nfrom: second\r\nX: y\r\n folded\r\n\r\nbody: not a field\r\n"
	for _, c := range []struct {
		name, block string
		names       []string
		not         bool
		want        string
	}{
		{"some", block, []string{"message-id", "from", "date"}, false, "From: a@b\r\nMessage-ID: <1@x>\r\nfrom: second\r\n\r\n"},
		{"none of them", block, []string{"date"}, false, "\r\n"},
		{"all but", block, []string{"from", "x"}, true, "Message-ID: <1@x>\r\nChat-Version: 1.0\r\n\r\n"},
		{"folds", block, []string{"x"}, false, "X: y\r\n folded\r\n\r\n"},
		{"no blank line", "X: y\r\n", []string{"x"}, false, "X: y\r\n\r\n"},
		{"no line end", "X: y", []string{"x"}, false, "X: y\r\n\r\n"},
		{"empty", "", []string{"x"}, false, "\r\n"},
	} {
		if got := string(Pick(nil, []byte(c.block), c.names, c.not)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, s := range []string{"", "\r\n", "A: b\r\n c\r\n\r\nbody", "Received: x\r\nSubject: y\r\n\r\n", "a b: c\n\n", "From: <a@b>\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		end := HeaderEnd(b)
		block := b
		if end >= 0 {
			block = b[:end]
		}
		h, err := ParseHeader(block)
		loose := ScanHeader(block)
		if err == nil && len(h) != len(loose) {
			t.Fatalf("%q: %d fields, scanned %d", block, len(h), len(loose))
		}
		all := 0
		for _, f := range h {
			all += len(f)
			if f.Name() == "" || !f.Is(f.Name()) || strings.ContainsAny(f.Value(), "\n") {
				t.Fatalf("field %q: name %q, value %q", f, f.Name(), f.Value())
			}
		}
		if err == nil && all > len(block) {
			t.Fatalf("%d octets of fields in %d", all, len(block))
		}
		stripped := Strip(block, true)
		if again := Strip(stripped, true); string(again) != string(stripped) {
			t.Fatalf("strip of %q is not the same twice", block)
		}
		if got := Pick(nil, block, nil, true); err == nil && HeaderEnd(got) != len(got) {
			t.Fatalf("picked %q of %q", got, block)
		}
		_ = loose.Envelope()
	})
}

func FuzzAddresses(f *testing.F) {
	for _, s := range []string{
		"Bob <bob@example.org>, \"a\\\"b\" (c) <@r:x@y>", "g: a@b, c;", "a@[IPv6:::1] (Al)", "<a@b", "\"", "(((", "<@<@:>>", "a . b @ c . d e@f", ":;,<>@",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		left := 100
		list := addressList(s, &left)
		if left < 0 || len(list) > 100 {
			t.Fatalf("%d structures, %d left", len(list), left)
		}
		group := false
		for _, a := range list {
			switch a.Mark {
			case GroupStart, GroupEnd:
				if group == (a.Mark == GroupStart) {
					t.Fatalf("%q: groups do not close", s)
				}
				group = !group
			}
			if len(a.Name)+len(a.Route)+len(a.Mailbox)+len(a.Host) > len(s)+3 {
				t.Fatalf("%q: %+v is longer", s, a)
			}
		}
		if group {
			t.Fatalf("%q: open group", s)
		}
		if a, ok := FirstAddress(s); ok && !strings.Contains(a, "@") {
			t.Fatalf("%q: address %q", s, a)
		}
	})
}

func FuzzMediaType(f *testing.F) {
	for _, s := range []string{
		`multipart/mixed; boundary="a b"`, "text/plain; a*0*=utf-8''x; a*1=y z; a*2*=%20", "a/b;;;=;x", `a/b; c="d\`, "a/b;c*=;c*0=", "(a)text(b)/(c)plain(d);(e)f(g)=(h)i",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		typ, subtype, ps, ok := mediaType(s)
		if ok != (typ != "" && subtype != "") || len(ps) > maxParams {
			t.Fatalf("%q: %q/%q, %v, %d parameters", s, typ, subtype, ok, len(ps))
		}
		size := 0
		for _, p := range ps {
			if p.Name == "" {
				t.Fatalf("%q: a parameter without name", s)
			}
			size += len(p.Name) + len(p.Value)
		}
		// Encoding makes three octets of one, lower case at most three of two.
		if size > 3*len(s)+2*len(ps) {
			t.Fatalf("%q: %d octets of parameters", s, size)
		}
		kind, _ := disposition(s)
		if strings.ContainsAny(kind+firstToken(s), " \t;") {
			t.Fatalf("%q: disposition %q", s, kind)
		}
		languages(s)
	})
}

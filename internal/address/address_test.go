package address

import (
	"fmt"
	"strings"
	"testing"

	"madmail/internal/fault"
)

func TestSpellingsOfOneMailboxAreEqual(t *testing.T) {
	for _, c := range []struct{ name, a, b string }{
		{"case", "Alice@Example.ORG", "alice@example.org"},
		{"trailing dot", "a@example.org.", "a@example.org"},
		{"bare IPv4", "u@203.0.113.5", "u@[203.0.113.5]"},
		{"IPv6 without tag", "u@[2001:DB8::1]", "u@[IPv6:2001:db8::1]"},
		{"bare IPv6", "u@2001:db8:0::1", "u@[IPv6:2001:db8::1]"},
		{"mapped IPv4", "u@[IPv6:::ffff:192.0.2.1]", "u@[192.0.2.1]"},
		{"IDNA", "u@bücher.example", "u@xn--bcher-kva.example"},
		{"NFC and fold", "E\u0301a@example.org", "éa@example.org"},
		{"spaces around", "  a@example.org ", "a@example.org"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := Parse(c.a)
			if err != nil {
				t.Fatalf("Parse(%q): %v", c.a, err)
			}
			b, err := Parse(c.b)
			if err != nil {
				t.Fatalf("Parse(%q): %v", c.b, err)
			}
			if a != b {
				t.Errorf("%q and %q differ: %q, %q", c.a, c.b, a.Wire(), b.Wire())
			}
			again, err := Parse(a.Wire())
			if err != nil || again != a {
				t.Errorf("Wire form %q does not parse to itself: %q, %v", a.Wire(), again.Wire(), err)
			}
		})
	}
}

func TestBadAddressesAreInvalid(t *testing.T) {
	for _, s := range []string{
		"", "@", "a", "a@", "@b", "a b@c", "a@b c", "../x@d", ".a@d", "a.@d", "a..b@d", "a/b@d", `a\b@d`,
		"a%b@d", `"a"@d`, "__x__@d", "a@[x]", "a@[1.2.3]", "a@[", "a@[]", "a@b..c", "a@-\x00", "a\x00@d",
		"a\n@d", "a@d/../e", strings.Repeat("a", 65) + "@d", "a@" + strings.Repeat("d", 300),
		"a@" + strings.Repeat("d", 64) + ".org", "\xff@d", "a@[fe80::1%eth0]",
	} {
		if a, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %q, want an error", s, a.Wire())
		} else if !fault.Is(err, fault.Invalid) {
			t.Errorf("Parse(%q): kind %v, want invalid", s, fault.KindOf(err))
		}
	}
}

func TestPrintingAnAddressHidesItsLocalPart(t *testing.T) {
	a, err := Parse("secretname@example.org")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{a.String(), a.LogValue().String(), fmt.Sprint(a), fmt.Sprintf("%v %s", a, a)} {
		if strings.Contains(s, "secretname") {
			t.Errorf("%q shows the local part", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a@b", "u@[1.2.3.4]", "u@[IPv6:::1]", "E\u0301@ä.org", "a@b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			return
		}
		b, err := Parse(a.Wire())
		if err != nil || a != b {
			t.Fatalf("%q: normal form %q gives %q, %v", s, a.Wire(), b.Wire(), err)
		}
		if strings.ContainsAny(a.Wire(), "/\\\x00\r\n ") {
			t.Fatalf("%q: unsafe normal form %q", s, a.Wire())
		}
	})
}

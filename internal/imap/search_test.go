package imap

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestSearchReturnOptions(t *testing.T) {
	for _, c := range []struct {
		in   string
		want SearchReturn
		ok   bool
	}{
		{"ALL", SearchReturn{}, true},
		{"RETURN () ALL", SearchReturn{Extended: true, All: true}, true},
		{"return (min Count) CHARSET utf-8 ALL", SearchReturn{Extended: true, Min: true, Count: true}, true},
		{"RETURN (SAVE) ALL", SearchReturn{Extended: true, Save: true}, true},
		{"RETURN (MAX ALL SAVE) $", SearchReturn{Extended: true, Max: true, All: true, Save: true}, true},
		{"RETURN (BEST) ALL", SearchReturn{}, false},
		{"RETURN MIN ALL", SearchReturn{}, false},
		{"RETURN ()", SearchReturn{}, false},
		{"RETURN ()ALL", SearchReturn{}, false},
	} {
		p := NewParser(c.in, nil)
		got := p.Search()
		if err := p.End(); (err == nil) != c.ok || c.ok && got.Return != c.want {
			t.Errorf("%s: %+v, %v", c.in, got.Return, err)
		}
	}
}

func TestTheSavedResultStandsForASet(t *testing.T) {
	p := NewParser("$", nil)
	s := p.Set()
	if err := p.End(); err != nil || !s.Saved() || len(s.Resolve(5)) != 0 {
		t.Error(s, err)
	}
	if (NumSet{{1, 1}}).Saved() || NumSet(nil).Saved() {
		t.Error("other sets count as saved")
	}
}

func TestSortKeys(t *testing.T) {
	p := NewParser("(REVERSE date subject REVERSE SIZE)", nil)
	got := p.SortKeys()
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]SortKey{{"DATE", true}, {"SUBJECT", false}, {"SIZE", true}}, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "()", "(REVERSE)", "(REVERSE REVERSE DATE)", "(BEST)", "DATE", "(" + strings.Repeat("DATE ", 40) + "DATE)"} {
		p := NewParser(bad, nil)
		p.SortKeys()
		if p.End() == nil {
			t.Errorf("%.20q accepted", bad)
		}
	}
}

func TestCasemap(t *testing.T) {
	for _, c := range []struct{ a, b string }{
		{"hello", "HELLO"}, {"Jörg", "JO\u0308RG"}, {"ǆ", "ǅ"}, {"σ", "ς"}, {"①", "1"}, {"\xff", "\xff"},
	} {
		if Casemap(c.a) != Casemap(c.b) {
			t.Errorf("%q and %q: %q, %q", c.a, c.b, Casemap(c.a), Casemap(c.b))
		}
	}
	if Casemap("a") >= Casemap("B") || Casemap("ä") == Casemap("a") {
		t.Error("order")
	}
}

func TestFinder(t *testing.T) {
	for _, c := range []struct {
		want, text string
		found      bool
	}{
		{"", "", true}, {"a", "", false}, {"needle", "hay NEEDLE hay", true}, {"aab", "aaab", true}, {"abab", "abacabab", true},
		{"straße", "STRASSE", false}, {"ärger", "viel ÄRGER", true}, {"ärger", "viel A\u0308rger", true}, {"x", "\xffx", true},
		{"\xe4", "\xe4", true}, {"日本", "ab日本c", true}, {"日本", "日x本", false}, {"b", "\xe6\xe6b", true},
	} {
		// In one piece, octet by octet, and in twos.
		for n := 1; n <= max(1, len(c.text)); n++ {
			f := NewFinder(c.want)
			for s := c.text; s != ""; {
				k := min(n, len(s))
				_, _ = f.Write([]byte(s[:k]))
				s = s[k:]
			}
			f.Break()
			if f.Found() != c.found {
				t.Errorf("%q in %q, %d at a time: %v", c.want, c.text, n, f.Found())
			}
		}
	}
	f := NewFinder("ab")
	_, _ = f.Write([]byte("a"))
	f.Break()
	_, _ = f.Write([]byte("b"))
	if f.Found() {
		t.Error("found across texts")
	}
}

func FuzzFinder(f *testing.F) {
	f.Add("Nadel", "im Heu die NADEL", uint8(3))
	f.Add("ä", "A\u0308", uint8(1))
	f.Fuzz(func(t *testing.T, want, text string, n uint8) {
		fd := NewFinder(want)
		for s := text; s != ""; {
			k := min(int(n%16)+1, len(s))
			_, _ = fd.Write([]byte(s[:k]))
			s = s[k:]
		}
		fd.Break()
		if utf8.ValidString(text) && fd.Found() != strings.Contains(Casemap(text), Casemap(want)) {
			t.Fatalf("%q in %q: %v", want, text, fd.Found())
		}
	})
}

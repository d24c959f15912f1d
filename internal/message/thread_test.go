package message

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// draw writes threads as THREAD does, with "-" for what is not there.
func draw(list []*Node) string {
	var b strings.Builder
	var one func(n *Node)
	one = func(n *Node) {
		if n.Num == 0 {
			b.WriteString("-")
		} else {
			fmt.Fprint(&b, n.Num)
		}
		for _, c := range n.Children {
			b.WriteString("(")
			one(c)
			b.WriteString(")")
		}
	}
	for _, n := range list {
		b.WriteString("(")
		one(n)
		b.WriteString(")")
	}
	return b.String()
}

// thread makes messages from lines "id date subject references...", numbered from 1.
func thread(lines ...string) []Threading {
	var list []Threading
	for i, l := range lines {
		f := strings.Split(l, " ")
		h := fields("Message-ID: <" + f[0] + ">\r\nSubject: " + strings.ReplaceAll(f[2], "_", " ") + "\r\n")
		if f[0] == "-" {
			h = h[1:]
		}
		if len(f) > 3 {
			h = append(h, Field("References: <"+strings.Join(f[3:], "> <")+">\r\n"))
		}
		m := NewThreading(h, strings.ToUpper)
		m.Num = uint32(i + 1)
		fmt.Sscan(f[1], &m.Date)
		list = append(list, m)
	}
	return list
}

// fields is ScanHeader for tests.
func fields(s string) Header { return ScanHeader([]byte(s)) }

func TestByReferences(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []string
		want string
	}{
		{"none", nil, ""},
		{"alone", []string{"a 1 x", "b 2 y"}, "(1)(2)"},
		{"a chain", []string{"a 1 x", "b 2 Re:_x a", "c 3 Re:_x a b"}, "(1(2(3)))"},
		{"siblings by date", []string{"a 1 x", "c 3 Re:_x a", "b 2 Re:_x a"}, "(1(3)(2))"},
		{"threads by date", []string{"a 2 x", "b 1 y"}, "(2)(1)"},
		{"a missing parent with one child", []string{"b 1 x gone"}, "(1)"},
		{"a missing parent with two children", []string{"b 1 x gone", "c 2 y gone"}, "(-(1)(2))"},
		{"a missing message in between", []string{"a 1 x", "c 2 y a gone"}, "(1(2))"},
		{"missing ones above each other", []string{"c 2 x g1 g2 g3", "d 1 y g1 g2"}, "(-(2)(1))"},
		{"a reply before its parent", []string{"b 2 Re:_x a", "a 1 x"}, "(2(1))"},
		{"a loop", []string{"a 1 x b", "b 2 y a"}, "(2(1))"},
		{"itself", []string{"a 1 x a"}, "(1)"},
		{"the same ID twice", []string{"a 1 x", "a 2 y", "b 3 z a"}, "(1(3))(2)"},
		{"no ID", []string{"- 1 x", "- 2 y"}, "(1)(2)"},
		{"what a message says of itself counts more", []string{"c 3 z a b", "b 2 y p", "p 1 w", "a 0 v"}, "(4)(3(2(1)))"},
		{"a reply without references goes below", []string{"a 1 x", "b 2 Re:_x"}, "(1(2))"},
		{"a reply that came first goes below", []string{"b 1 Re:_x", "a 2 x"}, "(2(1))"},
		{"the same subject twice stands side by side", []string{"a 1 x", "b 2 x", "c 3 Re:_x"}, "(-(1)(2)(3))"},
		{"two replies to nothing", []string{"a 1 Re:_x", "b 2 Re:_x"}, "(-(1)(2))"},
		{"empty subjects are not the same", []string{"a 1 Re:", "b 2 Re:"}, "(1)(2)"},
		{"two empty places with one subject", []string{"a 1 x g", "b 2 x g", "c 3 x h", "d 4 x h"}, "(-(1)(2)(3)(4))"},
		{"a message and an empty place", []string{"z 0 x", "a 1 x g", "b 2 x g"}, "(-(1)(2)(3))"},
		{"case does not count", []string{"a 1 Hello", "b 2 re:_hELLO"}, "(1(2))"},
	} {
		if got := draw(ByReferences(thread(c.in...))); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestBySubject(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, ""},
		{[]string{"a 5 x", "b 2 y", "c 3 Re:_x", "d 4 [l]_x"}, "(2)(3(4)(1))"},
		{[]string{"a 1 x", "b 1 x"}, "(1(2))"},
	} {
		if got := draw(BySubject(thread(c.in...))); got != c.want {
			t.Errorf("%v: %s, want %s", c.in, got, c.want)
		}
	}
}

func TestMessageIDs(t *testing.T) {
	for in, want := range map[string][]string{
		"<a@b>": {"a@b"}, "x <a@b>\t<c@d> y": {"a@b", "c@d"}, `<"a.b"@c>`: {"a.b@c"}, "<a @b>": {"a@b"}, "<>": nil, "<a": nil, "a@b": nil,
		"<a<b@c>": {"b@c"}, `<"a>b"@c>`: {"a>b@c"}, "<" + strings.Repeat("x", maxIDLength+1) + ">": nil,
	} {
		if got := MessageIDs(in); !slices.Equal(got, want) {
			t.Errorf("%.40q: %q, want %q", in, got, want)
		}
	}
}

func TestReferencesOrInReplyTo(t *testing.T) {
	for in, want := range map[string][]string{
		"References: <a> <b>\r\nIn-Reply-To: <c>\r\n":      {"a", "b"},
		"References: nonsense\r\nIn-Reply-To: <c> <d>\r\n": {"c"},
		"In-Reply-To: Your message of Monday\r\n":          nil,
	} {
		if got := NewThreading(fields(in), strings.ToUpper).References; !slices.Equal(got, want) {
			t.Errorf("%q: %q", in, got)
		}
	}
	if got := NewThreading(fields("References:"+strings.Repeat(" <x>", 5000)+"\r\n"), strings.ToUpper).References; len(got) != maxReferences {
		t.Error(len(got))
	}
}

// TestThreadsOfHostileMailboxes are made in reasonable time and without deep
// recursion.
func TestThreadsOfHostileMailboxes(t *testing.T) {
	const n = 8000
	chain := make([]Threading, n)
	for i := range chain {
		chain[i] = Threading{Num: uint32(i + 1), Date: int64(i), Subject: "X", ID: fmt.Sprint(i), References: []string{fmt.Sprint(i - 1)}}
	}
	start := time.Now()
	if got := ByReferences(chain); len(got) != 1 {
		t.Errorf("%d threads", len(got))
	}
	slices.Reverse(chain)
	ByReferences(chain)
	// Everybody tries to be the parent of the whole chain.
	for i := range chain {
		for j := range 50 {
			chain[i].References = append(chain[i].References, fmt.Sprint((i*7919+j*104729)%n))
		}
	}
	ByReferences(chain)
	for i := range chain {
		chain[i].References = nil
	}
	BySubject(chain)
	if d := time.Since(start); d > time.Minute {
		t.Errorf("took %v", d)
	}
}

func FuzzThreads(f *testing.F) {
	f.Add("a 1 x\nb 2 Re:_x a\nc 3 y z a")
	f.Add("a 1 x b\nb 1 x a\n- 0 Re:_x c\nd 5 y c")
	f.Fuzz(func(t *testing.T, s string) {
		var list []Threading
		for i, l := range strings.Split(s, "\n") {
			w := strings.Fields(l)
			if len(w) < 2 || i > 200 {
				continue
			}
			list = append(list, Threading{Num: uint32(len(list) + 1), Date: int64(len(w[1])), Subject: w[1], Reply: len(w)%2 == 0, ID: w[0], References: w[2:]})
		}
		for name, roots := range map[string][]*Node{"references": ByReferences(list), "subject": BySubject(list)} {
			seen := make(map[uint32]bool)
			var walk func(l []*Node)
			walk = func(l []*Node) {
				for _, n := range l {
					if n.Num == 0 && len(n.Children) < 2 {
						t.Fatalf("%s: an empty place with %d children", name, len(n.Children))
					}
					if n.Num != 0 && seen[n.Num] {
						t.Fatalf("%s: %d twice", name, n.Num)
					}
					seen[n.Num] = true
					walk(n.Children)
				}
			}
			walk(roots)
			delete(seen, 0)
			if len(seen) != len(list) {
				t.Fatalf("%s: %d of %d messages", name, len(seen), len(list))
			}
		}
	})
}

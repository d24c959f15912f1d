package imap

import (
	"fmt"
	"testing"
)

func TestMetadata(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{`"" /shared/comment`, `{ [/shared/comment] -1 0}`},
		{`"" (/shared/comment "/Shared/Admin")`, `{ [/shared/comment /shared/admin] -1 0}`},
		{`(MAXSIZE 1024 DEPTH infinity) inbox /private`, `{INBOX [/private] 1024 -1}`},
		{`"INBOX" (depth 1) (/private)`, `{INBOX [/private] -1 1}`},
		{`INBOX (/a /b) (MAXSIZE 0)`, `{INBOX [/a /b] 0 0}`},
		{`"" (DEPTH 2) /a`, "bad"},
		{`"" (COUNT 2) /a`, "bad"},
		{`"" (MAXSIZE) /a`, "bad"},
		{`"" ()`, "bad"},
		{`"" comment`, "bad"},
		{`"" /a*`, "bad"},
		{`"" "/a b"`, "bad"},
		{`"" /a//b`, "bad"},
		{`"" /a/`, "bad"},
		{`""`, "bad"},
	} {
		p := NewParser(x.in, nil)
		g := p.GetMetadata()
		got := fmt.Sprint(g)
		if p.End() != nil {
			got = "bad"
		}
		if got != x.want {
			t.Errorf("%s: %s, want %s", x.in, got, x.want)
		}
	}
	for _, x := range []struct{ in, want string }{
		{`INBOX (/private/comment "x" /shared/comment NIL)`, `INBOX [{/private/comment x false} {/shared/comment  true}]`},
		{"\"\" (/private/a {3+}\r\n /b ~{3+}\r\n)", ` [{/private/a one false} {/b two false}]`},
		{`INBOX (/private/devicetoken "1" )`, `INBOX [{/private/devicetoken 1 false}]`},
		{`INBOX ()`, "bad"},
		{`INBOX (/a "1" /A "2")`, "bad"},
		{`INBOX (/a)`, "bad"},
		{`INBOX (/a x)`, "bad"},
	} {
		p := NewParser(x.in, [][]byte{[]byte("one"), []byte("two")})
		box, list := p.SetMetadata()
		got := fmt.Sprint(box, " ", list)
		if p.End() != nil {
			got = "bad"
		}
		if got != x.want {
			t.Errorf("%s: %s, want %s", x.in, got, x.want)
		}
	}
	for _, x := range []struct {
		depth int
		entry string
		want  bool
	}{
		{0, "/a", true}, {0, "/a/b", false}, {0, "/ab", false}, {1, "/a", true}, {1, "/a/b", true}, {1, "/a/b/c", false}, {1, "/ab/c", false},
		{-1, "/a/b/c", true}, {-1, "/b", false},
	} {
		g := GetMetadata{Entries: []string{"/a"}, Depth: x.depth}
		if got := g.Wants(x.entry); got != x.want {
			t.Errorf("depth %d, %s: %v", x.depth, x.entry, got)
		}
	}
}

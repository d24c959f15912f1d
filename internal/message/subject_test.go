package message

import (
	"strings"
	"testing"
)

func TestBaseSubject(t *testing.T) {
	for _, c := range []struct {
		in, want string
		reply    bool
	}{
		{"", "", false}, {"hello", "hello", false}, {"Re: hello", "hello", true}, {"RE : hello", "hello", true}, {"re:re:Fwd:FW: hello", "hello", true},
		{"Re [2]: hello", "hello", true}, {"Re[2]:hello", "hello", true}, {"[list] Re: [list] hello", "hello", true},
		{"[list] hello", "hello", false}, {"[a][b] hello", "hello", false}, {"[list]", "[list]", false}, {"[a][b]", "[b]", false},
		{"hello (fwd)", "hello", true}, {"hello (FWD)(fwd) ", "hello", true}, {"(fwd)", "", true},
		{"[fwd: hello]", "hello", true}, {"[Fwd: Re: [fwd: [x] hello] (fwd)]", "hello", true}, {"[fwd: ]", "", true}, {"[fwd:", "[fwd:", false},
		{"hello\t  world", "hello world", false}, {"=?utf-8?q?Re=3A_J=C3=B6rg?=", "Jörg", true}, {"Antwort: x", "Antwort: x", false},
		{"Re", "Re", false}, {"Re:", "", true}, {"Rex: hello", "Rex: hello", false}, {"Fwdx", "Fwdx", false}, {"[a[b] c", "[a[b] c", false},
		{"Re: [x]", "[x]", true}, {"[x] (fwd)", "[x]", true}, {"=?iso-8859-1?q?J=F6rg?=", "Jörg", false}, {"=?x-none?q?a=ff?=", "a\xff", false},
	} {
		got, reply := BaseSubject(c.in)
		if got != c.want || reply != c.reply {
			t.Errorf("%q: %q, %v", c.in, got, reply)
		}
	}
}

// TestBaseSubjectIsLinear has the worst subjects of the greatest length: it ends.
func TestBaseSubjectIsLinear(t *testing.T) {
	for _, s := range []string{"[]", "[a]", "re:", "[fwd:", "(fwd)", "[x] re:", "[", "]", " ", "=?", "=?utf-8?q?a?= "} {
		long := strings.Repeat(s, MaxHeader/len(s))
		BaseSubject(long)
		BaseSubject(long + "x")
		BaseSubject(long + strings.Repeat("]", 1000))
	}
}

func FuzzBaseSubject(f *testing.F) {
	for _, s := range []string{"Re: [x] a (fwd)", "[fwd: re[2]: =?utf-8?q?=41?=]", "[[]]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		base, _ := BaseSubject(s)
		if strings.Contains(base, "=?") {
			return // an encoded word within one: once is enough
		}
		if again, _ := BaseSubject(base); again != base {
			t.Fatalf("%q: %q, then %q", s, base, again)
		}
	})
}

package fault

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestEveryKindHasANameAndASentence(t *testing.T) {
	seen := make(map[string]bool)
	for _, k := range Kinds() {
		name, sentence := k.String(), UserText(&Error{Kind: k})
		if name == "" || sentence == "" || seen[name] || seen[sentence] {
			t.Errorf("kind %d: %q, %q", k, name, sentence)
		}
		seen[name], seen[sentence] = true, true
	}
	if len(names) != len(sentences) || Kind(len(names)).String() != "kind?" {
		t.Error("the tables of kinds differ")
	}
}

func TestTheOutermostKindCounts(t *testing.T) {
	cause := io.ErrUnexpectedEOF
	for _, x := range []struct {
		name string
		err  error
		want Kind
	}{
		{"none", nil, Internal},
		{"foreign", cause, Internal},
		{"new", New(Full, "x"), Full},
		{"formatted", Newf(Busy, "%d", 1), Busy},
		{"wrapped", Wrap(Busy, cause, "read"), Busy},
		{"wrapped twice", Wrap(Refused, Wrap(Busy, cause, "read"), "ask"), Refused},
		{"behind a foreign one", fmt.Errorf("ask: %w", New(Exists, "x")), Exists},
		{"joined", errors.Join(cause, New(Denied, "x")), Denied},
		{"with a hint", WithHint(New(NotFound, "x"), "look"), NotFound},
		{"foreign with a hint", WithHint(cause, "look"), Internal},
	} {
		if got := KindOf(x.err); got != x.want {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
		for _, k := range Kinds() {
			if Is(x.err, k) != (x.err != nil && k == x.want) {
				t.Errorf("%s: Is(%v) is wrong", x.name, k)
			}
		}
	}
	if Wrap(Busy, nil, "x") != nil || WithHint(nil, "x") != nil {
		t.Error("no error became one")
	}
}

func TestTheCauseStaysInReach(t *testing.T) {
	err := fmt.Errorf("top: %w", WithHint(Wrap(Busy, Wrap(Internal, io.EOF, "read"), "deliver"), "free some room"))
	if !errors.Is(err, io.EOF) || HintOf(err) != "free some room" || err.Error() != "top: deliver: read: EOF" {
		t.Errorf("%v, hint %q", err, HintOf(err))
	}
	inner := WithHint(WithHint(New(Invalid, "x"), "inner"), "outer")
	if HintOf(inner) != "outer" || HintOf(Wrap(Busy, inner, "y")) != "outer" {
		t.Error("hints:", HintOf(inner))
	}
	for _, err := range []error{nil, io.EOF, New(Busy, "x"), fmt.Errorf("x: %w", io.EOF)} {
		if h := HintOf(err); h != "" {
			t.Errorf("%v has the hint %q", err, h)
		}
	}
}

// TestUsersSeeNoCauses: paths, addresses and texts of the system stay in the log.
func TestUsersSeeNoCauses(t *testing.T) {
	secret := errors.New("open /var/lib/madmail/x: permission denied")
	for _, x := range []struct {
		err  error
		want string
	}{
		{New(Refused, "Relaying denied"), "Relaying denied"},
		{New(Refused, ""), sentences[Refused]},
		{New(Internal, "index 7 out of range"), sentences[Internal]},
		{secret, sentences[Internal]},
		{Wrap(Busy, secret, "store"), sentences[Busy]},
		{Wrap(Internal, New(Refused, "Relaying denied"), "x"), sentences[Internal]},
		{WithHint(New(Full, "Mailbox is full now"), "raise the quota"), "Mailbox is full now"},
		{Wrap(Refused, New(Refused, "Relaying denied"), "delivery"), "Relaying denied"},
		{Wrap(Refused, New(NotFound, "no row 7"), "delivery"), sentences[Refused]},
		{Wrap(Refused, Wrap(Refused, secret, "a"), "b"), sentences[Refused]},
		{fmt.Errorf("door: %w", New(TooBig, "Too big by far")), "Too big by far"},
	} {
		if got := UserText(x.err); got != x.want {
			t.Errorf("%v: %q, want %q", x.err, got, x.want)
		}
	}
}

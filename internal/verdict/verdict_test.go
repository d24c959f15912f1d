package verdict

import (
	"errors"
	"testing"

	"madmail/internal/fault"
)

func TestActionsAreReadAsTheFirstVersionDid(t *testing.T) {
	for text, want := range map[string]Action{
		"ignore": {}, "quarantine": {Do: Quarantine}, "reject": {Do: Reject}, "reject 451": {Do: Reject, Code: 451},
		"reject 550 5.7.1 Not here":  {Do: Reject, Code: 550, Enhanced: "5.7.1", Text: "Not here"},
		"reject 550 5.7 is no code.": {Do: Reject, Code: 550, Text: "5.7 is no code."},
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "ignore 1", "quarantine x", "refuse", "reject x", "reject 250", "reject 0550", "reject 550 4.7.1 x", "reject 550 ä"} {
		if got, err := Parse(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestARefusalHasTheWordsOfTheOperator(t *testing.T) {
	check := Rejection{451, "4.7.24", "cannot be told now"}
	for _, x := range []struct {
		action Action
		want   Rejection
		kind   fault.Kind
	}{
		{Action{Do: Reject}, check, fault.Busy},
		{Action{Do: Reject, Code: 550}, Rejection{550, "5.7.0", "cannot be told now"}, fault.Refused},
		{Action{Do: Reject, Code: 421, Enhanced: "4.3.0", Text: "later"}, Rejection{421, "4.3.0", "later"}, fault.Busy},
	} {
		err := x.action.Refusal(check)
		var r *rejected
		if !errors.As(err, &r) || r.Rejection != x.want || !fault.Is(err, x.kind) || fault.UserText(err) != x.want.Text {
			t.Errorf("%+v: %v, want %+v", x.action, err, x.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("reject 550 5.7.1 Not here")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err == nil && a.Code != 0 && (a.Code < 400 || a.Code > 599) {
			t.Errorf("%q: %+v", s, a)
		}
	})
}

// Package verdict is what an operator wants done with a message that fails a check:
// nothing, to mark it, or to refuse it with words of their own.
package verdict

import (
	"strconv"
	"strings"

	"madmail/internal/fault"
)

// Do says what is done.
type Do uint8

// What can be done.
const (
	Ignore Do = iota
	Quarantine
	Reject
)

// Action is what is done, and with which words. The zero value ignores.
type Action struct {
	Do       Do
	Code     int    // of a reply of SMTP; 0 leaves it to the check
	Enhanced string // status code (RFC 3463) with it
	Text     string
}

// Parse reads "ignore", "quarantine" or "reject", the last with or without a code, an
// enhanced code and a text. Errors are of kind fault.Invalid.
func Parse(text string) (Action, error) {
	w := strings.Fields(text)
	if len(w) == 0 {
		return Action{}, fault.New(fault.Invalid, "an action is ignore, quarantine or reject")
	}
	switch {
	case w[0] == "ignore" && len(w) == 1:
		return Action{}, nil
	case w[0] == "quarantine" && len(w) == 1:
		return Action{Do: Quarantine}, nil
	case w[0] != "reject":
		return Action{}, fault.Newf(fault.Invalid, "%q is not ignore, quarantine or reject", text)
	}
	a := Action{Do: Reject}
	if len(w) == 1 {
		return a, nil
	}
	var err error
	if a.Code, err = strconv.Atoi(w[1]); err != nil || a.Code < 400 || a.Code > 599 || len(w[1]) != 3 {
		return Action{}, fault.Newf(fault.Invalid, "%q is not a code of a refusal", w[1])
	}
	w = w[2:]
	if len(w) > 0 && enhanced(w[0]) {
		if w[0][0] != byte('0'+a.Code/100) {
			return Action{}, fault.Newf(fault.Invalid, "%q does not go with %d", w[0], a.Code)
		}
		a.Enhanced, w = w[0], w[1:]
	}
	a.Text = strings.Join(w, " ")
	for i := range len(a.Text) {
		if c := a.Text[i]; c < ' ' || c > '~' {
			return Action{}, fault.New(fault.Invalid, "the text of a refusal is plain ASCII")
		}
	}
	if len(a.Text) > 400 {
		return Action{}, fault.New(fault.Invalid, "the text of a refusal is one line")
	}
	return a, nil
}

// enhanced reports whether w looks like "5.7.1" (RFC 3463 section 2).
func enhanced(w string) bool {
	p := strings.Split(w, ".")
	if len(p) != 3 || p[0] != "4" && p[0] != "5" {
		return false
	}
	for _, n := range p[1:] {
		if v, err := strconv.Atoi(n); err != nil || v < 0 || len(n) > 3 || strconv.Itoa(v) != n {
			return false
		}
	}
	return true
}

// Rejection is a refusal with the words of a reply.
type Rejection struct {
	Code     int
	Enhanced string
	Text     string
}

// Refusal returns the error of an action that rejects. The words that it has not are
// those of the check.
func (a Action) Refusal(check Rejection) error {
	if a.Code != 0 {
		check.Code, check.Enhanced = a.Code, a.Enhanced
		if check.Enhanced == "" {
			check.Enhanced = map[bool]string{true: "4.7.0", false: "5.7.0"}[a.Code < 500]
		}
	}
	if a.Text != "" {
		check.Text = a.Text
	}
	kind := fault.Refused
	if check.Code < 500 {
		kind = fault.Busy
	}
	return &rejected{check, fault.New(kind, check.Text)}
}

type rejected struct {
	Rejection
	err error
}

// Error implements error. The kind is fault.Refused, or fault.Busy when it may be tried
// again.
func (r *rejected) Error() string { return r.err.Error() }

// Unwrap returns the error with the kind.
func (r *rejected) Unwrap() error { return r.err }

// SMTPReply returns the words for those who speak SMTP.
func (r *rejected) SMTPReply() (code int, enhanced, text string) {
	return r.Code, r.Enhanced, r.Text
}

// Package fault gives errors a kind that every door can turn into its own
// reply, a sentence for the user and a hint for the operator.
//
// Lower floors return kinds and wrap causes with %w semantics. Nobody matches
// on error text. A kind's sentence is safe to show to anybody; the wrapped
// cause is for the operator's log only.
package fault

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure an error is. Doors switch on it.
type Kind uint8

// The kinds. Internal is the zero value: an error without a kind is internal.
const (
	Internal    Kind = iota // a bug or an unexpected state
	Invalid                 // malformed input
	Denied                  // credentials
	Refused                 // a rule forbids it
	Unencrypted             // the encryption rule
	NotFound
	Exists
	TooBig
	Full // quota
	Busy // temporary: try later
)

var names = [...]string{
	Internal: "internal", Invalid: "invalid", Denied: "denied", Refused: "refused",
	Unencrypted: "unencrypted", NotFound: "not found", Exists: "exists",
	TooBig: "too big", Full: "full", Busy: "busy",
}

var sentences = [...]string{
	Internal:    "Internal server error",
	Invalid:     "Invalid request",
	Denied:      "Authentication failed",
	Refused:     "Refused by policy",
	Unencrypted: "Encryption Needed: Invalid Unencrypted Mail",
	NotFound:    "Not found",
	Exists:      "Already exists",
	TooBig:      "Message exceeds maximum size",
	Full:        "Mailbox is full",
	Busy:        "Temporarily unavailable, try again later",
}

// Kinds returns every kind, for exhaustive tests of the doors' tables.
func Kinds() []Kind {
	all := make([]Kind, len(names))
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

// String returns the kind's name for logs.
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return "kind?"
}

// Error is an error with a kind. Use New and Wrap to make one.
type Error struct {
	Kind Kind
	Text string // what happened; shown to users by New, internal when Err is set
	Hint string // what the operator can do about it
	Err  error  // cause, may be nil
}

// Error returns the path of texts down to the cause.
func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Text
	case e.Text == "":
		return e.Err.Error()
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an error of kind k whose text may be shown to the user.
func New(k Kind, text string) error { return &Error{Kind: k, Text: text} }

// Newf is New with formatting.
func Newf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Text: fmt.Sprintf(format, args...)}
}

// Wrap gives err the kind k and says what was being done. A nil err gives nil.
func Wrap(k Kind, err error, doing string) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: k, Text: doing, Err: err}
}

// WithHint returns err with a hint for the operator; its kind stays.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: KindOf(err), Hint: hint, Err: err}
}

// KindOf returns the kind of the outermost Error in err's chain, or Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err has kind k; nil has none.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// HintOf returns the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// UserText returns a sentence that is safe to show to a remote user: the text
// given to New, or the kind's own sentence when the error wraps a cause.
func UserText(err error) string {
	var e *Error
	if errors.As(err, &e) {
		if e.Err == nil && e.Text != "" && e.Kind != Internal {
			return e.Text
		}
		if inner := errors.Unwrap(e); inner != nil && e.Kind != Internal {
			var ie *Error
			if errors.As(inner, &ie) && ie.Kind == e.Kind {
				return UserText(inner)
			}
		}
	}
	return sentences[KindOf(err)]
}

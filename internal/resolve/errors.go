package resolve

import (
	"errors"

	"madmail/internal/fault"
)

// Reason says why a lookup has no answer.
type Reason uint8

// The closed set of reasons.
const (
	NoReason    Reason = iota // not an error of this package
	NXDomain                  // the name does not exist
	BadName                   // the text is no domain name
	ServFail                  // the servers say they failed; a broken DNSSEC chain looks like this too
	Denied                    // the servers refuse to answer us
	Timeout                   // no answer in time
	Unreachable               // no server could be asked
	Malformed                 // the answer makes no sense or is too large
	Loop                      // aliases without end
)

var reasons = [...]struct {
	text string
	kind fault.Kind
}{
	NoReason:    {"unknown", fault.Internal},
	NXDomain:    {"no such domain", fault.NotFound},
	BadName:     {"not a domain name", fault.Invalid},
	ServFail:    {"server failure", fault.Busy},
	Denied:      {"server refused", fault.Busy},
	Timeout:     {"timeout", fault.Busy},
	Unreachable: {"no name server reached", fault.Busy},
	Malformed:   {"malformed answer", fault.Busy},
	Loop:        {"alias loop", fault.Busy},
}

// String returns a few words for an operator.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r].text
	}
	return "reason?"
}

// failure is the cause inside this package's errors.
type failure struct {
	reason Reason
	what   string // "MX example.org"
}

// Error names the question: domains are no secret, they are what operators need.
func (f *failure) Error() string { return f.what + ": " + f.reason.String() }

// newError returns the error for a question.
func newError(r Reason, typ, name string) error {
	return fault.Wrap(reasons[r].kind, &failure{r, typ + " " + name}, "resolve")
}

// ReasonOf returns why a lookup failed, or NoReason.
func ReasonOf(err error) Reason {
	var f *failure
	if errors.As(err, &f) {
		return f.reason
	}
	return NoReason
}

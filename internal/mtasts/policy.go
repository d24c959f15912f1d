// Package mtasts says which TLS a domain demands of those who bring it mail, by
// MTA-STS (RFC 8461): it reads policies, fetches them and keeps them.
//
// It does not connect to mail servers, does not check certificates of any, and asks
// the DNS only through the lookup it is given.
//
// In its directory each domain with a policy has a file, <domain>.json. The files
// are a cache: one that cannot be read is removed.
//
// All functions and methods may be called from many goroutines.
package mtasts

import (
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Limits on policies.
const (
	// MaxPolicy is the largest policy document taken, in octets (RFC 8461 section 3.3
	// suggests 64 KiB).
	MaxPolicy = 64 << 10
	// MaxAge is the longest time a policy is kept, also when it says more.
	MaxAge = 31557600 * time.Second
	// maxMX is how many patterns a policy may have.
	maxMX = 64
)

// Mode says what the failure of a check leads to (RFC 8461 section 5).
type Mode uint8

// The modes. None is the zero value: no policy.
const (
	None    Mode = iota // nothing is demanded
	Testing             // failures would be reported; mail goes on
	Enforce             // no mail to hosts that fail
)

var modes = [...]string{None: "none", Testing: "testing", Enforce: "enforce"}

// String returns the mode as policies spell it.
func (m Mode) String() string {
	if int(m) < len(modes) {
		return modes[m]
	}
	return "mode?"
}

// ParseMode reads a mode. The error is of kind fault.Invalid.
func ParseMode(s string) (Mode, error) {
	for m, name := range modes {
		if s == name {
			return Mode(m), nil
		}
	}
	return None, fault.New(fault.Invalid, "the MTA-STS mode is none, testing or enforce")
}

// Policy is what a domain demands. The zero Policy demands nothing.
type Policy struct {
	Mode Mode
	// MX are host names or patterns ("*.example.org"), in lower case.
	MX     []string
	MaxAge time.Duration
}

// Matches reports whether the policy allows mail to be brought to an MX host. A
// wildcard stands for exactly one label (RFC 8461 section 4.1).
func (p Policy) Matches(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for _, pattern := range p.MX {
		if host == pattern {
			return true
		}
		if suffix, wild := strings.CutPrefix(pattern, "*"); wild {
			if label, ok := strings.CutSuffix(host, suffix); ok && label != "" && !strings.Contains(label, ".") {
				return true
			}
		}
	}
	return false
}

// Text returns the policy document as it is served (RFC 8461 section 3.2).
func (p Policy) Text() string {
	var b strings.Builder
	b.WriteString("version: STSv1\r\nmode: " + p.Mode.String() + "\r\n")
	for _, mx := range p.MX {
		b.WriteString("mx: " + mx + "\r\n")
	}
	b.WriteString("max_age: " + strconv.FormatInt(int64(p.MaxAge/time.Second), 10) + "\r\n")
	return b.String()
}

// Parse reads a policy document. Unknown fields are passed over, and all but the
// first of a field that may occur once, as RFC 8461 section 3.2 has it; any other
// departure from the grammar makes the whole policy invalid. Errors are fault.Invalid.
func Parse(text string) (Policy, error) {
	if len(text) > MaxPolicy {
		return Policy{}, fault.New(fault.Invalid, "mtasts: policy too large")
	}
	var p Policy
	seen := make(map[string]bool)
	text = strings.TrimRight(text, "\r\n")
	for line := range strings.SplitSeq(text, "\n") {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\r"), ":")
		if !ok || !fieldName(name) {
			return Policy{}, fault.New(fault.Invalid, "mtasts: a line is no field")
		}
		value = strings.Trim(value, " \t")
		if !printable(value) {
			return Policy{}, fault.New(fault.Invalid, "mtasts: a value is not printable")
		}
		if name != "mx" && seen[name] {
			continue
		}
		seen[name] = true
		if err := p.set(name, value); err != nil {
			return Policy{}, err
		}
	}
	switch {
	case !seen["version"]:
		return Policy{}, fault.New(fault.Invalid, "mtasts: no version")
	case !seen["mode"]:
		return Policy{}, fault.New(fault.Invalid, "mtasts: no mode")
	case !seen["max_age"]:
		return Policy{}, fault.New(fault.Invalid, "mtasts: no max_age")
	case p.Mode != None && len(p.MX) == 0:
		return Policy{}, fault.New(fault.Invalid, "mtasts: no mx")
	}
	return p, nil
}

// set takes one field.
func (p *Policy) set(name, value string) (err error) {
	switch name {
	case "version":
		if value != "STSv1" {
			return fault.New(fault.Invalid, "mtasts: unknown version")
		}
	case "mode":
		p.Mode, err = ParseMode(value)
	case "max_age":
		n, perr := strconv.ParseUint(value, 10, 63)
		if perr != nil || len(value) > 10 || value[0] == '+' {
			return fault.New(fault.Invalid, "mtasts: max_age is no number")
		}
		p.MaxAge = min(time.Duration(n)*time.Second, MaxAge)
	case "mx":
		mx := strings.ToLower(value)
		host, _ := strings.CutPrefix(mx, "*.")
		if !hostName(host) {
			return fault.New(fault.Invalid, "mtasts: mx is no host name")
		}
		if len(p.MX) == maxMX {
			return fault.New(fault.Invalid, "mtasts: too many mx")
		}
		p.MX = append(p.MX, mx)
	}
	return err
}

// hostName reports whether s is a domain name in lower case, no IP literal.
func hostName(s string) bool {
	d, err := address.ParseDomain(s)
	return err == nil && string(d) == s && s[0] != '['
}

func fieldName(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '_' || c == '-' || c == '.') {
			continue
		}
		return false
	}
	return true
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// ParseRecord reads the TXT records of _mta-sts.<domain> (RFC 8461 section 3.1): ok
// when exactly one of them announces a policy, whose version is id.
func ParseRecord(txts []string) (id string, ok bool) {
	for _, txt := range txts {
		version, rest, has := strings.Cut(txt, ";")
		if strings.TrimRight(version, " \t") != "v=STSv1" {
			continue
		}
		if ok || !has {
			return "", false
		}
		for field := range strings.SplitSeq(rest, ";") {
			name, value, _ := strings.Cut(strings.Trim(field, " \t"), "=")
			if name == "id" && id == "" {
				id = value
			}
		}
		if !recordID(id) {
			return "", false
		}
		ok = true
	}
	return id, ok
}

func recordID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

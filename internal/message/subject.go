package message

import "strings"

// BaseSubject returns the base subject of a Subject's value (RFC 5256 section
// 2.1), and whether what went from it says that the message is a reply or a
// forward. Its time is in proportion to the length of the value.
func BaseSubject(value string) (base string, reply bool) {
	// Step 1: UTF-8, and single spaces.
	s := squeeze(DecodeWords(value))
	for {
		// Step 2.
		var fwd bool
		s, fwd = trimTrailers(s)
		reply = reply || fwd
		// Step 3.
		for rest, ok := leader(s); ok; rest, ok = leader(s) {
			s, reply = rest, true
		}
		// Steps 4 and 5. A leader would have taken all blobs before it: without
		// one there is none behind them either.
		s = strings.TrimLeft(s, " ")
		for n := blob(s); n > 0 && n < len(s); n = blob(s) {
			s = s[n:]
		}
		// Step 6.
		if len(s) < 6 || !strings.EqualFold(s[:5], "[fwd:") || s[len(s)-1] != ']' {
			return s, reply
		}
		s, reply = s[5:len(s)-1], true
	}
}

// squeeze turns each run of white space into one space.
func squeeze(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if space(c) {
			c = ' '
			if n := len(b); n > 0 && b[n-1] == ' ' {
				continue
			}
		}
		b = append(b, c)
	}
	return string(b)
}

// trimTrailers takes white space and "(fwd)" off the end.
func trimTrailers(s string) (string, bool) {
	const fwd = "(fwd)"
	found := false
	for {
		s = strings.TrimRight(s, " ")
		n := len(s) - len(fwd)
		if n < 0 || !strings.EqualFold(s[n:], fwd) {
			return s, found
		}
		s, found = s[:n], true
	}
}

// blob returns the length of a "[...]" at the start of s with the space behind
// it, or 0.
func blob(s string) int {
	if s == "" || s[0] != '[' {
		return 0
	}
	n := strings.IndexAny(s[1:], "[]")
	if n < 0 || s[1+n] != ']' {
		return 0
	}
	n += 2
	for n < len(s) && s[n] == ' ' {
		n++
	}
	return n
}

// leader takes blobs, "Re", "Fw" or "Fwd", perhaps a blob, and ":" off the start.
func leader(s string) (rest string, ok bool) {
	rest = strings.TrimLeft(s, " ")
	for n := blob(rest); n > 0; n = blob(rest) {
		rest = rest[n:]
	}
	n := 0
	for _, w := range [...]string{"fwd", "re", "fw"} {
		if len(rest) >= len(w) && strings.EqualFold(rest[:len(w)], w) {
			n = len(w)
			break
		}
	}
	if n == 0 {
		return s, false
	}
	rest = strings.TrimLeft(rest[n:], " ")
	rest = rest[blob(rest):]
	if !strings.HasPrefix(rest, ":") {
		return s, false
	}
	return rest[1:], true
}

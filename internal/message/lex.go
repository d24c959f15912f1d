package message

import "strings"

// lexer reads the words of structured field values (RFC 5322 section 3.2,
// RFC 2045 section 5.1). It never fails: what ends too early ends with the
// text. Every octet is looked at a constant number of times.
type lexer struct {
	s string
	i int
}

func (l *lexer) done() bool { return l.i >= len(l.s) }

// peek returns the next octet, or 0 at the end.
func (l *lexer) peek() byte {
	if l.done() {
		return 0
	}
	return l.s[l.i]
}

// step passes one octet, if there is one.
func (l *lexer) step() { l.i = min(l.i+1, len(l.s)) }

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// skip passes white space and comments. It returns the text of the last
// comment: the oldest way to write a display name (RFC 5322 section 4).
func (l *lexer) skip() string {
	text := ""
	for !l.done() {
		switch c := l.s[l.i]; {
		case space(c):
			l.i++
		case c == '(':
			n := comment(l.s[l.i:])
			if n == 0 {
				n = len(l.s) - l.i
				text = l.s[l.i+1:]
			} else {
				text = l.s[l.i+1 : l.i+n-1]
			}
			l.i += n
		default:
			return text
		}
	}
	return text
}

// quoted reads the quoted string that begins here, without its quoting.
func (l *lexer) quoted() string {
	l.i++
	start := l.i
	for !l.done() && l.s[l.i] != '"' && l.s[l.i] != '\\' {
		l.i++
	}
	if l.peek() != '\\' {
		s := l.s[start:l.i]
		l.step()
		return s
	}
	var b strings.Builder
	b.WriteString(l.s[start:l.i])
	for !l.done() && l.s[l.i] != '"' {
		if l.s[l.i] == '\\' && l.i+1 < len(l.s) {
			l.i++
		}
		b.WriteByte(l.s[l.i])
		l.i++
	}
	l.step()
	return b.String()
}

// until reads up to white space or one of the octets in stop.
func (l *lexer) until(stop string) string {
	start := l.i
	for !l.done() && !space(l.s[l.i]) && strings.IndexByte(stop, l.s[l.i]) < 0 {
		l.i++
	}
	return l.s[start:l.i]
}

// value reads a quoted string or a token that ends at one of stop.
func (l *lexer) value(stop string) string {
	l.skip()
	if l.peek() == '"' {
		return l.quoted()
	}
	return l.until(stop)
}

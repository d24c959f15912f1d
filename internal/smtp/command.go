// Package smtp is the grammar of SMTP (RFC 5321 and its extensions): command
// lines, paths, parameters, replies, dot-transparency. It turns bytes into
// values and back. It has no sockets and no state beyond a reader's.
package smtp

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxCommand is the longest command line taken, in octets with its line end.
// RFC 5321 section 4.5.3.1.4 asks for 512, RFC 4954 section 4 for 12288 with AUTH.
const MaxCommand = 12288

// ErrSyntax says that a command does not follow the grammar.
var ErrSyntax = errors.New("smtp: syntax error")

// Command is a command line taken apart. Verb is in upper case.
type Command struct {
	Verb string
	Arg  string
}

// ParseCommand takes a line without its line end.
func ParseCommand(line string) (Command, error) {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.TrimRight(verb, "\t")
	if verb == "" || len(verb) > 32 {
		return Command{}, ErrSyntax
	}
	for i := 0; i < len(verb); i++ {
		if c := verb[i] | 0x20; c < 'a' || c > 'z' {
			return Command{}, ErrSyntax
		}
	}
	if strings.IndexByte(arg, 0) >= 0 || !utf8.ValidString(arg) {
		return Command{}, ErrSyntax
	}
	return Command{Verb: strings.ToUpper(verb), Arg: strings.Trim(arg, " \t")}, nil
}

// Param is a parameter of MAIL or RCPT. Key is in upper case.
type Param struct{ Key, Value string }

// ParsePath takes the argument of MAIL or RCPT apart: prefix is "FROM:" or
// "TO:". The path comes without angle brackets and source route; it is empty
// for "<>". A space between colon and path is tolerated: clients send it.
func ParsePath(arg, prefix string) (path string, params []Param, err error) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", nil, ErrSyntax
	}
	rest := strings.TrimLeft(arg[len(prefix):], " ")
	if !strings.HasPrefix(rest, "<") {
		return "", nil, ErrSyntax
	}
	end := pathEnd(rest)
	if end < 0 {
		return "", nil, ErrSyntax
	}
	path, rest = rest[1:end], rest[end+1:]
	if strings.HasPrefix(path, "@") { // source route, RFC 5321 section 4.1.1.3
		_, after, ok := strings.Cut(path, ":")
		if !ok {
			return "", nil, ErrSyntax
		}
		path = after
	}
	if rest != "" && rest[0] != ' ' {
		return "", nil, ErrSyntax
	}
	for _, f := range strings.Fields(rest) {
		k, v, _ := strings.Cut(f, "=")
		if k == "" || len(params) >= 16 {
			return "", nil, ErrSyntax
		}
		params = append(params, Param{strings.ToUpper(k), v})
	}
	return path, params, nil
}

// pathEnd finds the closing bracket, which may also stand in a quoted string.
func pathEnd(s string) int {
	quoted := false
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			return i
		case c == ' ' && !quoted, c == '<' && !quoted:
			return -1
		}
	}
	return -1
}

// ParseSize reads the value of SIZE (RFC 1870): up to 20 digits.
func ParseSize(v string) (int64, error) {
	if v == "" || len(v) > 20 {
		return 0, ErrSyntax
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		var num *strconv.NumError
		if errors.As(err, &num) && num.Err == strconv.ErrRange {
			return 1<<63 - 1, nil
		}
		return 0, ErrSyntax
	}
	return int64(min(n, 1<<63-1)), nil
}

// ParseChunk reads the argument of BDAT (RFC 3030 section 2).
func ParseChunk(arg string) (size int64, last bool, err error) {
	f := strings.Fields(arg)
	if len(f) == 0 || len(f) > 2 {
		return 0, false, ErrSyntax
	}
	if len(f) == 2 {
		if !strings.EqualFold(f[1], "LAST") {
			return 0, false, ErrSyntax
		}
		last = true
	}
	size, err = ParseSize(f[0])
	return size, last, err
}

// ParsePlain takes the decoded response of SASL PLAIN apart (RFC 4616). An
// authorization identity must be empty or equal to the user name.
func ParsePlain(b []byte) (user string, password []byte, err error) {
	parts := strings.SplitN(string(b), "\x00", 3)
	if len(parts) != 3 || parts[1] == "" || strings.IndexByte(parts[2], 0) >= 0 {
		return "", nil, ErrSyntax
	}
	if parts[0] != "" && parts[0] != parts[1] {
		return "", nil, ErrSyntax
	}
	return parts[1], []byte(parts[2]), nil
}

// Reply is an answer of the server. Every line of Text becomes a line of the
// reply; Enhanced is a code of RFC 3463, or "" where none belongs.
type Reply struct {
	Code     int
	Enhanced string
	Text     []string
}

// Say makes a reply of one line.
func Say(code int, enhanced, text string) Reply {
	return Reply{Code: code, Enhanced: enhanced, Text: []string{text}}
}

// Append appends the reply in wire form. What is not printable ASCII or UTF-8
// is replaced, so that no text can end the line early.
func (r Reply) Append(b []byte) []byte {
	for i, t := range r.Text {
		b = strconv.AppendInt(b, int64(r.Code), 10)
		if i < len(r.Text)-1 {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		if r.Enhanced != "" {
			b = append(b, r.Enhanced...)
			b = append(b, ' ')
		}
		for j := 0; j < len(t); j++ {
			if c := t[j]; c < ' ' || c == 0x7f {
				b = append(b, '?')
			} else {
				b = append(b, c)
			}
		}
		b = append(b, '\r', '\n')
	}
	return b
}

// Positive reports whether the code is of the second or third hundred.
func (r Reply) Positive() bool { return r.Code < 400 }

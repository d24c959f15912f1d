package smtp

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits on the replies of a server.
const (
	MaxReplyLine  = 4096 // octets with the line end; RFC 5321 section 4.5.3.1.5 has 512
	MaxReplyLines = 128
)

// ErrReply says that a server's reply does not follow the grammar, or is too long.
var ErrReply = errors.New("smtp: malformed reply")

// ParseReplyLine takes one line of a reply apart, without its line end (RFC 5321
// section 4.2). more says that another line follows. text is what stands behind the
// code, made safe to print: what is no printable UTF-8 is replaced.
func ParseReplyLine(line string) (code int, more bool, text string, err error) {
	if len(line) < 3 {
		return 0, false, "", ErrReply
	}
	for i := range 3 {
		if line[i] < '0' || line[i] > '9' {
			return 0, false, "", ErrReply
		}
	}
	code, _ = strconv.Atoi(line[:3])
	if code < 200 || code > 599 {
		return 0, false, "", ErrReply
	}
	if len(line) > 3 {
		switch line[3] {
		case '-':
			more = true
		case ' ':
		default:
			return 0, false, "", ErrReply
		}
		text = printable(line[4:])
	}
	return code, more, text, nil
}

func printable(s string) string {
	bad := func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }
	if strings.IndexFunc(s, bad) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if bad(r) {
			return '?'
		}
		return r
	}, s)
}

// SplitEnhanced takes an enhanced status code (RFC 3463) from the front of a reply's
// text; status is "" when none of the code's class is there.
func SplitEnhanced(code int, text string) (status, rest string) {
	first, rest, _ := strings.Cut(text, " ")
	parts := strings.Split(first, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || int(parts[0][0]-'0') != code/100 {
		return "", text
	}
	for _, p := range parts[1:] {
		if p == "" || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return "", text
		}
	}
	return first, rest
}

// DotWriter writes a message after DATA: lines that begin with a dot get another one
// (RFC 5321 section 4.5.2). The message must have CRLF line ends.
type DotWriter struct {
	w       io.Writer
	midLine bool
	lastCR  bool
}

// NewDotWriter writes to w, which should be buffered.
func NewDotWriter(w io.Writer) *DotWriter { return &DotWriter{w: w} }

// Write implements io.Writer.
func (d *DotWriter) Write(p []byte) (int, error) {
	from := 0
	for i, c := range p {
		if c == '.' && !d.midLine {
			if _, err := d.w.Write(p[from:i]); err != nil {
				return from, err
			}
			if _, err := io.WriteString(d.w, "."); err != nil {
				return i, err
			}
			from = i
		}
		d.midLine = c != '\n' || !d.lastCR
		d.lastCR = c == '\r'
	}
	if _, err := d.w.Write(p[from:]); err != nil {
		return from, err
	}
	return len(p), nil
}

// Close ends the message. It does not close what it writes to.
func (d *DotWriter) Close() error {
	end := ".\r\n"
	if d.midLine {
		end = "\r\n.\r\n"
	}
	_, err := io.WriteString(d.w, end)
	return err
}

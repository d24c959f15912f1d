package message

import (
	"bytes"
	"io"
)

// Lines ends lines in CR LF, as senders on other systems forget to. Make one with
// NewLines.
type Lines struct {
	r    io.Reader
	buf  [4 << 10]byte
	rest []byte // read and not yet handed out
	cr   bool   // the octet handed out last
	err  error
}

// NewLines returns a reader of what r has, each line ended in CR LF. Bare carriage
// returns stay.
func NewLines(r io.Reader) *Lines { return &Lines{r: r} }

// Read implements io.Reader.
func (l *Lines) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(l.rest) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		var n int
		n, l.err = l.r.Read(l.buf[:])
		l.rest = l.buf[:n]
		if n == 0 {
			return 0, l.err
		}
	}
	n := 0
	for n < len(p) && len(l.rest) > 0 {
		line := l.rest
		if i := bytes.IndexByte(line, '\n'); i > 0 {
			line = line[:i]
		} else if i == 0 {
			line = line[:1]
			if !l.cr {
				p[n], l.cr = '\r', true
				n++
				continue
			}
		}
		c := copy(p[n:], line)
		l.cr = p[n+c-1] == '\r'
		n += c
		l.rest = l.rest[c:]
	}
	return n, nil
}

package delivery

import (
	"bytes"

	"madmail/internal/fault"
)

// measure follows the lines of a message as they come.
type measure struct {
	Form
	line, header int64
	inBody       bool
	err          error // what is too long
}

func (m *measure) take(p []byte) {
	for len(p) > 0 && m.err == nil && (m.Line > 0 || m.Header > 0 && !m.inBody) {
		n := bytes.IndexByte(p, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(p)
		}
		m.line += int64(n)
		if m.Line > 0 && m.line > m.Line {
			m.err = fault.New(fault.Invalid, "Line too long")
		}
		if !m.inBody {
			m.header += int64(n)
			m.inBody = whole && m.line <= 2 // a blank line ends it
			if m.Header > 0 && m.header > m.Header {
				m.err = fault.New(fault.TooBig, "Header exceeds maximum size")
			}
		}
		if whole {
			m.line = 0
		}
		p = p[n:]
	}
}

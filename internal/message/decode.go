package message

import (
	"bufio"
	"io"
)

// Decodable reports whether encoding, in lower case, is a transfer encoding that
// Decode knows (RFC 2045 section 6).
func Decodable(encoding string) bool {
	switch encoding {
	case "7bit", "8bit", "binary", "base64", "quoted-printable":
		return true
	}
	return false
}

// Decode undoes a transfer encoding while it reads. Malformed text is decoded
// as far as it goes; the only errors are those of r. Of an encoding that is not
// known nothing is undone.
func Decode(r io.Reader, encoding string) io.Reader {
	switch encoding {
	case "base64":
		return &decoder{in: bufio.NewReaderSize(r, 4096), step: new(base64Text).step}
	case "quoted-printable":
		return &decoder{in: bufio.NewReaderSize(r, 4096), step: new(quotedText).step}
	}
	return r
}

// decoder reads decoded octets. step takes one octet, or the end, and appends
// what it stands for.
type decoder struct {
	in   *bufio.Reader
	step func(b []byte, c byte, end bool) []byte
	out  []byte // r.. are still to be read
	r    int
	err  error
}

func (d *decoder) Read(p []byte) (int, error) {
	for d.r == len(d.out) {
		if d.err != nil {
			return 0, d.err
		}
		d.out, d.r = d.out[:0], 0
		for len(d.out) < 2048 {
			c, err := d.in.ReadByte()
			if err != nil {
				d.err = err
				d.out = d.step(d.out, 0, true)
				break
			}
			d.out = d.step(d.out, c, false)
		}
	}
	n := copy(p, d.out[d.r:])
	d.r += n
	return n, nil
}

// base64Text decodes base64 (RFC 2045 section 6.8): other octets are passed
// over, and text may go on behind padding.
type base64Text struct {
	bits uint32
	n    int // sextets in bits
}

func (t *base64Text) step(b []byte, c byte, end bool) []byte {
	if end || c == '=' {
		switch t.n {
		case 2:
			b = append(b, byte(t.bits>>4))
		case 3:
			b = append(b, byte(t.bits>>10), byte(t.bits>>2))
		}
		t.n = 0
		return b
	}
	v := sextet(c)
	if v > 63 {
		return b
	}
	t.bits = t.bits<<6 | uint32(v)
	if t.n++; t.n == 4 {
		b = append(b, byte(t.bits>>16), byte(t.bits>>8), byte(t.bits))
		t.n = 0
	}
	return b
}

func sextet(c byte) byte {
	switch {
	case c >= 'A' && c <= 'Z':
		return c - 'A'
	case c >= 'a' && c <= 'z':
		return c - 'a' + 26
	case c >= '0' && c <= '9':
		return c - '0' + 52
	case c == '+':
		return 62
	case c == '/':
		return 63
	}
	return 255
}

// quotedText decodes quoted-printable (RFC 2045 section 6.7). White space at the
// end of a line was added on the way and goes.
type quotedText struct {
	blank  []byte // white space that may turn out to end the line
	equals []byte // "=" and what followed it so far
}

// maxBlank bounds white space that is held back; longer runs are text.
const maxBlank = 1024

func (t *quotedText) step(b []byte, c byte, end bool) []byte {
	if len(t.equals) > 0 {
		return t.escape(b, c, end)
	}
	switch {
	case end:
		return b
	case c == '=':
		b = t.text(b)
		t.equals = append(t.equals, c)
		return b
	case c == ' ' || c == '\t':
		if t.blank = append(t.blank, c); len(t.blank) > maxBlank {
			b = t.text(b)
		}
		return b
	case c == '\r' || c == '\n':
		t.blank = t.blank[:0]
		return append(b, c)
	}
	return append(t.text(b), c)
}

func (t *quotedText) text(b []byte) []byte {
	b = append(b, t.blank...)
	t.blank = t.blank[:0]
	return b
}

// escape takes what stands behind "=": two digits, or a line end that is none,
// perhaps after white space. What is neither stays as it is.
func (t *quotedText) escape(b []byte, c byte, end bool) []byte {
	if end {
		if len(t.equals) > 1 { // a "=" at the very end is a soft line end
			b = append(b, t.equals...)
		}
		t.equals = t.equals[:0]
		return b
	}
	t.equals = append(t.equals, c)
	e := t.equals[1:]
	last := e[len(e)-1]
	switch {
	case last == '\n' && blank(e[:len(e)-1]):
		t.equals = t.equals[:0]
		return b
	case blank(e) && len(e) <= maxBlank:
		return b
	case len(e) == 1 && hexDigit(e[0]) < 16:
		return b
	case len(e) == 2 && hexDigit(e[0]) < 16 && hexDigit(e[1]) < 16:
		t.equals = t.equals[:0]
		return append(b, hexDigit(e[0])<<4|hexDigit(e[1]))
	}
	// Malformed: all but the last octet is text, and that one is looked at anew.
	b = append(b, t.equals[:len(t.equals)-1]...)
	t.equals = t.equals[:0]
	return t.step(b, last, false)
}

// blank reports whether e may stand between "=" and the line feed.
func blank(e []byte) bool {
	for _, c := range e {
		if c != ' ' && c != '\t' && c != '\r' {
			return false
		}
	}
	return true
}

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

package gate

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// decoder undoes a transfer encoding (RFC 2045 section 6), line by line.
type decoder interface {
	// line takes a line, or a piece of a long one (whole is false then).
	line(p []byte, whole bool) error
	end() error
}

// newDecoder returns nil for an encoding it does not know.
func newDecoder(name string, out func([]byte) error) decoder {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "", "7bit", "8bit", "binary":
		return identity(out)
	case "base64":
		return &base64Decoder{out: out}
	case "quoted-printable":
		return &qpDecoder{out: out}
	}
	return nil
}

type identity func([]byte) error

func (f identity) line(p []byte, _ bool) error { return f(p) }
func (f identity) end() error                  { return nil }

// base64Decoder skips what is not in the alphabet, as RFC 2045 section 6.8 asks.
type base64Decoder struct {
	out    func([]byte) error
	group  [4]byte
	n      int
	closed bool // padding was seen
}

func (d *base64Decoder) line(p []byte, _ bool) error {
	var buf [3 * 64]byte
	have := 0
	for _, c := range p {
		switch {
		case c == '=' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/':
		default:
			continue
		}
		if d.closed && d.n == 0 {
			return errEncoding
		}
		d.group[d.n] = c
		if d.n++; d.n < 4 {
			continue
		}
		d.n = 0
		d.closed = c == '='
		k, err := base64.StdEncoding.Decode(buf[have:have+3], d.group[:])
		if err != nil {
			return errEncoding
		}
		if have += k; have+3 > len(buf) {
			if err := d.out(buf[:have]); err != nil {
				return err
			}
			have = 0
		}
	}
	if have == 0 {
		return nil
	}
	return d.out(buf[:have])
}

func (d *base64Decoder) end() error {
	if d.n != 0 {
		return errEncoding
	}
	return nil
}

type qpDecoder struct {
	out func([]byte) error
	buf []byte
}

func (d *qpDecoder) line(p []byte, whole bool) error {
	if !whole {
		return errEncoding // the encoding allows 76 characters a line
	}
	text := bytes.TrimRight(p, " \t\r\n")
	d.buf = d.buf[:0]
	soft := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c != '=' {
			d.buf = append(d.buf, c)
			continue
		}
		if i == len(text)-1 {
			soft = true
			break
		}
		if i+2 >= len(text) {
			return errEncoding
		}
		hi, lo := unhex(text[i+1]), unhex(text[i+2])
		if hi < 0 || lo < 0 {
			return errEncoding
		}
		d.buf = append(d.buf, byte(hi<<4|lo))
		i += 2
	}
	if !soft {
		d.buf = append(d.buf, '\r', '\n')
	}
	return d.out(d.buf)
}

func (d *qpDecoder) end() error { return nil }

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

package webimap

import (
	"bufio"
	"encoding/base64"
	"errors"
	"io"
	"strconv"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// The members of a request that hold a message, as text and packed.
const (
	bodyMember   = "body"
	base64Member = "body_base64"
)

// readers are the buffers through which requests are read.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 8<<10) }}

// lift reads one JSON text from r, to the end of r. A string that is the value of a
// member "body" or "body_base64" is decoded into sink on the way, and an empty one
// stands in what is returned: a message of any size takes no memory. sink nil leaves
// such members where they are.
//
// What is returned is not examined further: who decodes it finds out whether it is
// JSON. Errors are of type *refusal, or those of sink; limit is the length of what is
// returned, in octets.
func lift(r io.Reader, limit int, sink io.Writer) ([]byte, error) {
	in := readers.Get().(*bufio.Reader)
	in.Reset(r)
	defer func() { in.Reset(nil); readers.Put(in) }()
	l := lifter{in: in, limit: limit, sink: sink}
	err := l.run()
	return l.out, err
}

type lifter struct {
	in    *bufio.Reader
	out   []byte
	limit int
	sink  io.Writer

	last   string // the string just read, which may be the name of a member
	member string // whose value is next, or ""
	lifted bool
}

// maxName is how much of a string is looked at to find out whether it names a member.
const maxName = len(base64Member)

func (l *lifter) put(b ...byte) error {
	if len(l.out)+len(b) > l.limit {
		return errTooLong
	}
	l.out = append(l.out, b...)
	return nil
}

func (l *lifter) run() error {
	for {
		c, err := l.in.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch c {
		case ' ', '\t', '\r', '\n':
			continue // takes no room, so it needs no limit but that of the whole
		case ':':
			l.member, l.last = l.last, ""
			err = l.put(c)
		case '"':
			if l.sink != nil && (l.member == bodyMember || l.member == base64Member) {
				err = l.take(l.member == base64Member)
			} else {
				err = l.pass()
			}
			l.member = ""
		default:
			l.member, l.last = "", ""
			err = l.put(c)
		}
		if err != nil {
			return err
		}
	}
}

// pass copies a string as it stands.
func (l *lifter) pass() error {
	if err := l.put('"'); err != nil {
		return err
	}
	start := len(l.out)
	for {
		c, err := l.in.ReadByte()
		if err != nil {
			return cutOff(err)
		}
		if err := l.put(c); err != nil {
			return err
		}
		switch c {
		case '"':
			l.last = ""
			if name := l.out[start : len(l.out)-1]; len(name) <= maxName {
				l.last = string(name)
			}
			return nil
		case '\\':
			if c, err = l.in.ReadByte(); err != nil {
				return cutOff(err)
			}
			if err := l.put(c); err != nil {
				return err
			}
		}
	}
}

// cutOff is the error for a text that ends within a string.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return errInvalidJSON
	}
	return err
}

// take decodes a string into the sink.
func (l *lifter) take(packed bool) error {
	if l.lifted {
		return errTwoBodies
	}
	l.lifted = true
	to := l.sink
	var b *unpacker
	if packed {
		b = &unpacker{w: to}
		to = b
	}
	if err := unescape(l.in, to); err != nil {
		return err
	}
	if b != nil {
		if err := b.end(); err != nil {
			return err
		}
	}
	return l.put('"', '"')
}

// unescape decodes a JSON string (RFC 8259 section 7) behind its first quote, through
// its last. Octets that are no UTF-8 stay as they are: messages have them.
func unescape(in *bufio.Reader, w io.Writer) error {
	high := rune(0) // the first half of a pair
	var buf [2 * utf8.UTFMax]byte
	for {
		if _, err := in.Peek(1); err != nil {
			return cutOff(err)
		}
		b, _ := in.Peek(in.Buffered())
		n := 0
		for n < len(b) && b[n] != '"' && b[n] != '\\' && b[n] >= ' ' {
			n++
		}
		if n > 0 {
			if high != 0 {
				high = 0
				if _, err := w.Write(utf8.AppendRune(buf[:0], utf8.RuneError)); err != nil {
					return err
				}
			}
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
			_, _ = in.Discard(n)
			continue
		}
		c, _ := in.ReadByte()
		switch {
		case c < ' ':
			return errInvalidJSON
		case c == '"':
			if high != 0 {
				_, err := w.Write(utf8.AppendRune(buf[:0], utf8.RuneError))
				return err
			}
			return nil
		}
		r, err := escaped(in)
		if err != nil {
			return err
		}
		out := buf[:0]
		switch {
		case high != 0 && utf16.IsSurrogate(r) && utf16.DecodeRune(high, r) != utf8.RuneError:
			out, high = utf8.AppendRune(out, utf16.DecodeRune(high, r)), 0
		default:
			if high != 0 {
				out, high = utf8.AppendRune(out, utf8.RuneError), 0
			}
			switch {
			case r >= 0xd800 && r < 0xdc00:
				high = r
			default: // the second half of a pair alone becomes U+FFFD
				out = utf8.AppendRune(out, r)
			}
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
	}
}

// escaped reads what stands behind a backslash.
func escaped(in *bufio.Reader) (rune, error) {
	c, err := in.ReadByte()
	if err != nil {
		return 0, cutOff(err)
	}
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		var hex [4]byte
		if _, err := io.ReadFull(in, hex[:]); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF
			}
			return 0, cutOff(err)
		}
		n, err := strconv.ParseUint(string(hex[:]), 16, 16)
		if err != nil {
			return 0, errInvalidJSON
		}
		return rune(n), nil
	}
	return 0, errInvalidJSON
}

// unpacker decodes base64 of either alphabet (RFC 4648), with or without padding and
// line ends.
type unpacker struct {
	w      io.Writer
	four   [4]byte
	n      int
	padded bool
	out    [1 << 10]byte
	m      int
}

// Write implements io.Writer.
func (u *unpacker) Write(p []byte) (int, error) {
	for _, c := range p {
		switch c {
		case '\r', '\n', ' ', '\t':
			continue
		case '=':
			u.padded = true
			continue
		case '-':
			c = '+'
		case '_':
			c = '/'
		}
		if u.padded {
			return 0, errBadBase64
		}
		u.four[u.n] = c
		if u.n++; u.n == len(u.four) {
			if err := u.group(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (u *unpacker) group() error {
	n, err := base64.RawStdEncoding.Decode(u.out[u.m:], u.four[:u.n])
	if err != nil {
		return errBadBase64
	}
	u.n = 0
	if u.m += n; u.m+3 > len(u.out) {
		return u.flush()
	}
	return nil
}

func (u *unpacker) flush() error {
	_, err := u.w.Write(u.out[:u.m])
	u.m = 0
	return err
}

func (u *unpacker) end() error {
	if u.n > 0 {
		if err := u.group(); err != nil {
			return err
		}
	}
	return u.flush()
}

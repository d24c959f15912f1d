package outbound

import (
	"bytes"
	"context"
	"errors"
	"io"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/message"
)

// Letter is a message in its envelope, ready to go. It is read only.
type Letter struct {
	From address.Addr // zero: the null reverse-path
	To   []address.Addr
	*Message
}

// ASCII reports whether all addresses of the envelope are ASCII.
func (l *Letter) ASCII() bool {
	for _, a := range append(l.To[:len(l.To):len(l.To)], l.From) {
		for _, c := range []byte(a.Wire()) {
			if c > 127 {
				return false
			}
		}
	}
	return true
}

// Message is what goes over the wire: a signature, if any, and the stored bytes, with
// CRLF line ends whatever was stored. The bytes are read from their file each time.
type Message struct {
	signature []byte
	body      io.ReaderAt
	stored    int64
	size      int64 // without the signature
	header    []byte
	ragged    bool // line ends have to be mended
	eightBit  bool
}

// Size returns the length in octets as it goes out.
func (m *Message) Size() int64 { return int64(len(m.signature)) + m.size }

// EightBit reports whether there are octets over 127.
func (m *Message) EightBit() bool { return m.eightBit }

// NewReader returns the message from its start.
func (m *Message) NewReader() io.Reader {
	return io.MultiReader(bytes.NewReader(m.signature), m.plain())
}

func (m *Message) plain() io.Reader {
	r := io.NewSectionReader(m.body, 0, m.stored)
	if m.ragged {
		return newMender(r)
	}
	return r
}

// NewMessage looks a stored message through, once. Errors: fault.Invalid for one
// whose header block has no end within the limits, else fault.Busy.
func NewMessage(body io.ReaderAt, stored int64) (*Message, error) {
	m := &Message{body: body, stored: stored}
	if err := m.scan(io.NewSectionReader(body, 0, stored)); err != nil {
		return nil, fault.Wrap(fault.Busy, err, "outbound: read a message")
	}
	var err error
	if m.header, err = readHeader(m.plain()); err != nil {
		return nil, err
	}
	return m, nil
}

// readHeader reads the header block with its blank line.
func readHeader(r io.Reader) ([]byte, error) {
	var head []byte
	for size := 8 << 10; size <= 2*message.MaxHeader; size *= 2 {
		n := len(head)
		head = append(head, make([]byte, size-n)...)
		k, err := io.ReadFull(r, head[n:])
		head = head[:n+k]
		if end := message.HeaderEnd(head); end >= 0 && end <= message.MaxHeader+2 {
			return head[:end:end], nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fault.Wrap(fault.Busy, err, "outbound: read a message")
		}
	}
	return nil, fault.New(fault.Invalid, "outbound: a message without end of its header")
}

// scan finds what has to be known before the first octet goes out.
func (m *Message) scan(r io.Reader) error {
	count := counter{}
	mended := newMender(r)
	_, err := io.Copy(&count, mended)
	if err == nil && mended.taken != m.stored {
		err = io.ErrUnexpectedEOF
	}
	m.size, m.ragged, m.eightBit = count.n, mended.mended, count.eightBit
	return err
}

type counter struct {
	n        int64
	eightBit bool
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if !c.eightBit {
		for _, b := range p {
			if b > 127 {
				c.eightBit = true
				break
			}
		}
	}
	return len(p), nil
}

// mender reads a message with each of CR, LF and CRLF as CRLF, with one at its end and a
// blank line behind the header. Our own intake takes no other messages; those of a
// predecessor's queue may be different.
type mender struct {
	r      io.Reader
	in     []byte
	buf    []byte
	out    []byte
	err    error
	mended bool // something was changed
	taken  int64

	lastCR bool
	col    int  // octets since the last line end
	blank  bool // a blank line was seen
}

func newMender(r io.Reader) *mender { return &mender{r: r, buf: make([]byte, 16<<10)} }

// Read implements io.Reader.
func (m *mender) Read(p []byte) (int, error) {
	for len(m.out) == 0 {
		if m.err != nil {
			return 0, m.err
		}
		m.fill()
	}
	n := copy(p, m.out)
	m.out = m.out[n:]
	return n, nil
}

func (m *mender) fill() {
	n, err := m.r.Read(m.buf)
	m.taken += int64(n)
	in := m.buf[:n]
	out := m.in[:0]
	for _, c := range in {
		switch {
		case c == '\n':
			if !m.lastCR {
				m.mended = true
			}
			out = m.end(out)
			m.lastCR = false
			continue
		case m.lastCR: // a CR alone
			m.mended = true
			out = m.end(out)
		}
		if m.lastCR = c == '\r'; !m.lastCR {
			m.col++
			out = append(out, c)
		}
	}
	if errors.Is(err, io.EOF) {
		if m.lastCR || m.col > 0 {
			m.mended = true
			out = m.end(out)
		}
		if !m.blank {
			m.mended = true
			out = m.end(out)
		}
	}
	m.in, m.out, m.err = out, out, err
}

func (m *mender) end(out []byte) []byte {
	if m.col == 0 {
		m.blank = true
	}
	m.col = 0
	return append(out, '\r', '\n')
}

// sign asks for a signature of the domain in From.
func (m *Message) sign(ctx context.Context, s Signer) error {
	if s == nil {
		return nil
	}
	h, err := message.ParseHeader(m.header)
	if err != nil {
		return nil // nobody could check it
	}
	from, _ := h.Get("From")
	text, ok := message.FirstAddress(from)
	if !ok {
		return nil
	}
	a, err := address.Parse(text)
	if err != nil {
		return nil
	}
	body := m.plain()
	if _, err := io.CopyN(io.Discard, body, int64(len(m.header))); err != nil {
		return fault.Wrap(fault.Busy, err, "outbound: read a message")
	}
	field, err := s.Sign(ctx, a.Domain(), m.header, body)
	if err != nil {
		return fault.Wrap(fault.KindOf(err), err, "outbound: sign")
	}
	m.signature = field
	return nil
}

package message

import (
	"io"

	"madmail/internal/fault"
)

// SectionKind says which octets of a part are meant (RFC 3501 section 6.4.5).
type SectionKind uint8

// The kinds, by what stands between the brackets behind the part number.
const (
	Whole      SectionKind = iota // nothing: a part's body, or all of the message
	HeaderOnly                    // HEADER: of the message or of a message within it
	TextOnly                      // TEXT: the body of such a message
	MIMEOnly                      // MIME: the header of a part
)

// Section finds a section of the message whose structure p is. path holds part
// numbers, counted from 1; the empty path means the message itself. off and
// size tell the octets within the stored message.
//
// ok is false when there is no such section: a part that does not exist, HEADER
// or TEXT of a part that is not a message, MIME of the message itself.
func (p *Part) Section(path []int, kind SectionKind) (off, size int64, ok bool) {
	p, part, ok := p.find(path)
	if !ok {
		return 0, 0, false
	}
	if kind == HeaderOnly || kind == TextOnly {
		if part {
			if p = p.Message; p == nil {
				return 0, 0, false
			}
		}
		if kind == HeaderOnly {
			return p.HeaderOffset, p.HeaderSize, true
		}
		return p.BodyOffset, p.BodySize, true
	}
	switch {
	case kind == Whole && part:
		return p.BodyOffset, p.BodySize, true
	case kind == Whole:
		return p.HeaderOffset, p.BodyOffset + p.BodySize - p.HeaderOffset, true
	case kind == MIMEOnly && part:
		return p.HeaderOffset, p.HeaderSize, true
	}
	return 0, 0, false
}

// find follows part numbers. part says that the result is meant as a part, and
// not as the message it may hold.
func (p *Part) find(path []int) (found *Part, part, ok bool) {
	for _, n := range path {
		if part && p.Message != nil {
			p, part = p.Message, false
		}
		switch {
		case n >= 1 && n <= len(p.Parts):
			p = p.Parts[n-1]
		case n == 1 && !part && len(p.Parts) == 0:
			// A message without parts has itself as part 1.
		default:
			return nil, false, false
		}
		part = true
	}
	return p, part, true
}

// Find returns the part with the number path, counted from 1 on each level, as
// the whole of Section means it. The empty path is the message itself.
func (p *Part) Find(path []int) (*Part, bool) {
	found, _, ok := p.find(path)
	return found, ok
}

// Leaves calls f for every part that has no parts, in their order, until f
// returns false. Of a message within the message it calls f for the part that
// holds it, and then for the leaves of it.
func (p *Part) Leaves(f func(*Part) bool) bool {
	for _, c := range p.Parts {
		if !c.Leaves(f) {
			return false
		}
	}
	if len(p.Parts) > 0 {
		return true
	}
	return f(p) && (p.Message == nil || p.Message.Leaves(f))
}

// Param returns the value of a parameter of the part's type, whose name is in
// lower case, or "".
func (p *Part) Param(name string) string { return paramValue(p.Params, name) }

// Body reads the body of p from the message r, with its transfer encoding undone.
func (p *Part) Body(r io.ReaderAt) io.Reader {
	return Decode(io.NewSectionReader(r, p.BodyOffset, p.BodySize), p.Encoding)
}

// firstRead is how much of a message is read to find its header: one page
// holds that of every message a chat client sends.
const firstRead = 4 << 10

// ReadHeader returns the header block of a message of size octets with its
// blank line. It reads little more than that. A message without blank line is
// all header.
//
// Errors: fault.Invalid when the block is larger than MaxHeader;
// fault.Internal when r fails.
func ReadHeader(r io.ReaderAt, size int64) ([]byte, error) {
	for n := min(size, firstRead); ; n = min(size, 8*n) {
		n = min(n, MaxHeader+1)
		block := make([]byte, n)
		if got, err := r.ReadAt(block, 0); int64(got) < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fault.Wrap(fault.Internal, err, "message: read header")
		}
		end := HeaderEnd(block)
		if end < 0 && n == size {
			end = len(block)
		}
		switch {
		case end > MaxHeader || end < 0 && n > MaxHeader:
			return nil, fault.Wrap(fault.Invalid, ErrHeader, "message: header is larger than 1 MiB")
		case end >= 0:
			return block[:end], nil
		}
	}
}

package message

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"madmail/internal/fault"
)

// Limits of a structure. A message beyond them is described all the same, with
// less detail: what lies deeper or comes later is part of the last part
// within the limits.
const (
	MaxNesting   = 50     // parts within parts
	MaxParts     = 10_000 // of all levels
	maxText      = 4 << 20
	maxBoundary  = 1000
	readerBuffer = 32 << 10
)

// Part is one node of a message's MIME structure (RFC 2045, RFC 2046): the
// message itself, a part of a multipart, or a message within a message.
//
// Offsets count octets from the beginning of the stored message. A part's body
// reaches up to the line end before the next delimiter, which belongs to the
// delimiter (RFC 2046 section 5.1.1). A blank line in that place ends the header
// first, when the body is empty.
type Part struct {
	HeaderOffset, HeaderSize int64 // with the blank line
	BodyOffset, BodySize     int64
	Lines                    int64 // line feeds in the body

	// Type and Subtype are in lower case. Without a usable Content-Type they
	// are text/plain in us-ascii, or message/rfc822 in a digest.
	Type, Subtype string
	Params        []Param

	ID, Description   Text
	Encoding          string // in lower case; "7bit" without the field
	MD5, Location     Text
	Disposition       string // in lower case; "" without the field
	DispositionParams []Param
	Language          []string

	// Parts are the children of a multipart, at least one. A multipart in which
	// no part is found is described as application/octet-stream.
	Parts []*Part
	// Message is what a message/rfc822 holds, and Envelope its envelope; nil
	// for all other types.
	Message  *Part
	Envelope *Envelope
}

// ParseStructure reads a message of size octets once, from its beginning to
// its end, and describes it. It takes any octets; memory is bounded by the
// limits above and by the text of the fields it reports, not by size.
//
// The only errors are those of r, of kind fault.Internal.
func ParseStructure(r io.ReaderAt, size int64) (*Part, error) {
	s := scanner{text: maxText, items: MaxAddresses}
	in := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), int(min(readerBuffer, size)))
	root := s.open(0, false)
	for {
		p, err := in.ReadSlice('\n')
		if len(p) > 0 {
			s.line(p, err == nil)
		}
		switch {
		case err == nil || errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && s.at == size:
			s.closeTo(0, size, s.feeds)
			return root, nil
		case errors.Is(err, io.EOF):
			return nil, fault.Wrap(fault.Internal, io.ErrUnexpectedEOF, "message: read structure")
		default:
			return nil, fault.Wrap(fault.Internal, err, "message: read structure")
		}
	}
}

type frame struct {
	part     *Part
	header   []byte // collected while inHeader
	inHeader bool
	digest   bool   // message/rfc822 is the default type of this part
	delim    []byte // "--" and the boundary of a multipart that may still go on
	feeds    int64  // line feeds before the body
}

// scanner follows the lines of a message with a stack of open parts.
type scanner struct {
	at      int64 // octets seen
	feeds   int64 // line feeds seen
	midLine bool  // the next piece continues a long line
	lastEOL int64 // length of the line end before the present line
	lastCR  bool  // the piece before ended in CR

	stack []frame
	parts int
	text  int // octets of field text that may still be kept
	items int // address structures and parameters that may still be kept
}

// open begins a part at off. It is the caller's to put it into its parent.
func (s *scanner) open(off int64, digest bool) *Part {
	p := &Part{HeaderOffset: off}
	s.stack = append(s.stack, frame{part: p, inHeader: true, digest: digest})
	s.parts++
	return p
}

func (s *scanner) top() *frame { return &s.stack[len(s.stack)-1] }

// line takes a line with its line feed, or a piece of one.
func (s *scanner) line(p []byte, last bool) {
	whole := !s.midLine
	start, feeds := s.at, s.feeds
	s.at += int64(len(p))
	if last {
		s.feeds++
	}
	if !whole || len(p) < 2 || p[0] != '-' || p[1] != '-' || !s.delimiter(p, start, feeds) {
		if t := s.top(); t.inHeader {
			s.headerLine(t, p, whole)
		}
	}
	s.midLine = !last
	if last {
		s.lastEOL = 1
		if n := len(p); n >= 2 && p[n-2] == '\r' || n == 1 && s.lastCR {
			s.lastEOL = 2
		}
	}
	s.lastCR = !last && p[len(p)-1] == '\r'
}

// delimiter handles a line that ends parts: a delimiter of any multipart that
// is open (RFC 2046 section 5.1.2), the innermost first.
func (s *scanner) delimiter(p []byte, start, feeds int64) bool {
	text := bytes.TrimRight(p, " \t\r\n")
	for i := len(s.stack) - 1; i >= 0; i-- {
		delim := s.stack[i].delim
		if delim == nil || !bytes.HasPrefix(text, delim) {
			continue
		}
		switch rest := text[len(delim):]; {
		case len(rest) == 0 && s.parts < MaxParts:
			s.closeTo(i+1, start-s.lastEOL, feeds-min(1, s.lastEOL))
			f := s.top()
			digest := f.part.Subtype == "digest"
			f.part.Parts = append(f.part.Parts, s.open(s.at, digest))
			return true
		case string(rest) == "--":
			s.closeTo(i+1, start-s.lastEOL, feeds-min(1, s.lastEOL))
			s.top().delim = nil // an epilogue follows
			return true
		}
	}
	return false
}

// headerLine takes a line of the header of the innermost part.
func (s *scanner) headerLine(t *frame, p []byte, whole bool) {
	if !whole || !blankLine(p) {
		if room := MaxHeader - len(t.header); room > 0 {
			t.header = append(t.header, p[:min(room, len(p))]...)
		}
		return
	}
	t.part.HeaderSize = s.at - t.part.HeaderOffset
	t.part.BodyOffset = s.at
	s.endHeader(t)
}

// endHeader reads the fields of a part whose body begins at BodyOffset.
func (s *scanner) endHeader(t *frame) {
	p := t.part
	var envelope *Envelope // where to put that of a message within a message
	if depth := len(s.stack); depth > 1 {
		if up := s.stack[depth-2].part; up.Message == p {
			envelope = up.Envelope
		}
	}
	h := s.kept(t.header, envelope != nil)
	t.inHeader, t.header, t.feeds = false, nil, s.feeds
	s.describe(p, h, t.digest)
	if envelope != nil {
		*envelope = h.envelope(&s.items)
	}
	deep := len(s.stack) >= MaxNesting
	switch {
	case p.Type == "multipart":
		boundary := paramValue(p.Params, "boundary")
		if !deep && boundary != "" && len(boundary) <= maxBoundary {
			t.delim = []byte("--" + boundary)
		}
	case p.Type == "message" && (p.Subtype == "rfc822" || p.Subtype == "global"):
		if deep || s.parts >= MaxParts {
			p.opaque()
			break
		}
		p.Envelope = &Envelope{}
		p.Message = s.open(p.BodyOffset, false)
	}
}

// opaque makes a leaf of a part whose inside is not described.
func (p *Part) opaque() { p.Type, p.Subtype, p.Params = "application", "octet-stream", nil }

// kept returns the fields of a header block that a structure is made of, as
// long as there is room for their text.
func (s *scanner) kept(block []byte, envelope bool) Header {
	var h Header
	for _, f := range ScanHeader(block) {
		if (describes(f) || envelope && inEnvelope(f)) && len(f) <= s.text {
			s.text -= len(f)
			h = append(h, f)
		}
	}
	return h
}

func describes(f Field) bool {
	const prefix = "Content-"
	return len(f) > len(prefix) && asciiEqualFold(f[:len(prefix)], prefix)
}

func inEnvelope(f Field) bool {
	for _, name := range [...]string{"Date", "Subject", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "In-Reply-To", "Message-ID"} {
		if f.Is(name) {
			return true
		}
	}
	return false
}

// describe fills in what the header of a part says about its body.
func (s *scanner) describe(p *Part, h Header, digest bool) {
	v, _ := h.Get("Content-Type")
	typ, subtype, params, ok := mediaType(v)
	switch {
	case ok:
		p.Type, p.Subtype, p.Params = typ, subtype, s.some(params)
	case digest:
		p.Type, p.Subtype = "message", "rfc822"
	default:
		p.Type, p.Subtype, p.Params = "text", "plain", []Param{{"charset", "us-ascii"}}
	}
	p.ID, p.Description = h.text("Content-ID"), h.text("Content-Description")
	p.MD5, p.Location = h.text("Content-MD5"), h.text("Content-Location")
	if v, ok := h.Get("Content-Transfer-Encoding"); ok {
		p.Encoding = firstToken(v)
	}
	if p.Encoding == "" {
		p.Encoding = "7bit"
	}
	if v, ok := h.Get("Content-Disposition"); ok {
		p.Disposition, params = disposition(v)
		p.DispositionParams = s.some(params)
	}
	if v, ok := h.Get("Content-Language"); ok {
		p.Language = languages(v)
	}
}

func (s *scanner) some(ps []Param) []Param {
	ps = ps[:min(len(ps), s.items)]
	s.items -= len(ps)
	return ps
}

// closeTo ends the parts from level on. Their bodies end at end, with feeds
// line feeds of the message before it.
func (s *scanner) closeTo(level int, end, feeds int64) {
	for len(s.stack) > level {
		s.close(end, feeds)
	}
}

// close ends the innermost part.
func (s *scanner) close(end, feeds int64) {
	t := s.top()
	p := t.part
	if t.inHeader {
		// No blank line: everything is header and the body is empty.
		end = max(end, p.HeaderOffset)
		p.HeaderSize, p.BodyOffset = end-p.HeaderOffset, end
		depth := len(s.stack)
		s.endHeader(t)
		s.top().feeds = feeds
		if len(s.stack) > depth { // the message it holds is empty, too
			s.close(end, feeds)
			t = s.top()
		}
		t.feeds = feeds
	}
	// A blank line that ends a header stays with it even where it is the line end
	// before a delimiter; the parts around it reach as far.
	last := p.Message
	if n := len(p.Parts); n > 0 {
		last = p.Parts[n-1]
	}
	if last != nil && last.BodyOffset+last.BodySize > end {
		end = last.BodyOffset + last.BodySize
		feeds++
	}
	p.BodySize = max(end-p.BodyOffset, 0)
	p.Lines = max(feeds-t.feeds, 0)
	if p.Type == "multipart" && len(p.Parts) == 0 {
		p.opaque()
	}
	s.stack = s.stack[:len(s.stack)-1]
}

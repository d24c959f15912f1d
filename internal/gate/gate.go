// Package gate is the encryption rule: one streaming decision for every
// ingress. It is fed a message once, while somebody else stores it, keeps
// constant memory, and says at the end whether the message may pass.
//
// The rules are those of the official relay network: PGP/MIME whose packets
// are session keys followed by exactly one encrypted data packet; the first
// step of the old SecureJoin handshake in clear; delivery reports from other
// servers; setup messages to oneself. No substring tests: the MIME structure,
// the armour and the packets are followed octet by octet.
//
// The gate does not know who asks nor where the message will go.
package gate

import (
	"bytes"
	"errors"
	"mime"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/message"
	"madmail/internal/openpgp"
)

// ErrUnencrypted is the refusal of clear text. Clients look for its words.
var ErrUnencrypted = fault.New(fault.Unencrypted, "Encryption Needed: Invalid Unencrypted Mail")

// Kind says why a message may pass, or that it may not.
type Kind uint8

// The outcomes.
const (
	Clear      Kind = iota // not encrypted and no exception: refuse
	Encrypted              // PGP/MIME, packets checked
	SecureJoin             // first step of the old handshake
	Report                 // delivery report of another server
	Setup                  // Autocrypt Setup Message to oneself
)

var kindNames = [...]string{"clear", "encrypted", "securejoin", "report", "setup"}

// String returns the kind's name for logs and metrics.
func (k Kind) String() string { return kindNames[k] }

// Options say which direction's rules hold.
type Options struct {
	// Outgoing is mail of our own users: no reports, no armour header.
	Outgoing bool
	// NoSecureJoin switches the exception for the old handshake off.
	NoSecureJoin bool
	// ToSelf says that the only recipient is the sender.
	ToSelf bool
}

// Verdict is the decision and what was seen on the way.
type Verdict struct {
	Kind Kind
	// Why explains Clear, for logs: it holds no content.
	Why error

	// Malformed says that the header block cannot be parsed or is too large.
	Malformed bool
	// From is the first address of the first From field as written; "" when
	// there is none. Froms counts the fields.
	From  string
	Froms int
	// Received counts trace fields, to find loops.
	Received int
	// NUL and BareEOL report octets that must not be stored: a NUL stops every
	// client that fetches it, a line end other than CRLF breaks sizes.
	NUL     bool
	BareEOL bool
}

// Reasons for Clear.
var (
	errNotMultipart = errors.New("gate: neither encrypted nor an exception")
	errChildren     = errors.New("gate: wrong number of parts")
	errPartType     = errors.New("gate: wrong type of part")
	errVersionPart  = errors.New("gate: version part is not \"Version: 1\"")
	errEncoding     = errors.New("gate: unknown or broken transfer encoding")
	errJoin         = errors.New("gate: not a SecureJoin request")
	errHeader       = errors.New("gate: malformed header")
	errUnfinished   = errors.New("gate: message ends inside its parts")
)

// candidate is what a message claims to be, by its header.
type candidate uint8

const (
	plain candidate = iota
	encrypted
	join
	report
	setup
)

type place uint8

const (
	inHeader place = iota
	inOpaque       // nothing more to look at
	inPreamble
	inPartHeader
	inPartBody
	inEpilogue
)

// Limits of what is kept.
const (
	maxLine       = 8 << 10
	maxPartHeader = 64 << 10
	maxText       = 1 << 10
)

// Checker judges one message. Write it in any pieces, then ask Close.
type Checker struct {
	opt Options
	v   Verdict

	at       place
	claim    candidate
	boundary []byte // "--" and the boundary

	line    []byte // beginning of a line whose end has not come yet
	midLine bool   // the next piece continues a long line
	lastCR  bool   // the previous piece of this line ended in CR

	header []byte // header block of the message, then of the present part
	parts  int
	why    error

	dec  decoder
	text []byte // decoded body of a small part
	pgp  *pgp
}

type pgp struct {
	walk  openpgp.Walker
	armor *openpgp.Armor
}

// New returns a Checker for one message.
func New(opt Options) *Checker { return &Checker{opt: opt} }

// Write takes the next octets of the message. It never fails: a decision that
// has fallen early is told by Close, so that the caller reads to the end.
func (c *Checker) Write(p []byte) (int, error) {
	n := len(p)
	if bytes.IndexByte(p, 0) >= 0 {
		c.v.NUL = true
	}
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			c.hold(p)
			break
		}
		c.finish(p[:i+1])
		p = p[i+1:]
	}
	return n, nil
}

// hold keeps the beginning of a line, or passes a piece on when it is long.
func (c *Checker) hold(p []byte) {
	for len(c.line)+len(p) > maxLine {
		k := maxLine - len(c.line)
		c.line = append(c.line, p[:k]...)
		p = p[k:]
		c.piece(c.line, false)
		c.line = c.line[:0]
	}
	c.line = append(c.line, p...)
}

// finish takes the rest of a line with its line feed.
func (c *Checker) finish(p []byte) {
	if len(c.line) == 0 && len(p) <= maxLine {
		c.piece(p, true)
		return
	}
	c.hold(p)
	c.piece(c.line, true)
	c.line = c.line[:0]
}

// piece takes a line or, when it is long, a part of one. last tells whether
// the line ends here. The octets are only valid during the call.
func (c *Checker) piece(p []byte, last bool) {
	whole := last && !c.midLine
	c.endings(p, last)
	switch c.at {
	case inHeader:
		c.headerLine(p, whole)
	case inPreamble, inPartHeader, inPartBody:
		if whole && p[0] == '-' && c.delimiter(p) {
			break
		}
		switch c.at {
		case inPartHeader:
			c.partHeaderLine(p, whole)
		case inPartBody:
			c.partBody(p, whole)
		}
	}
	c.midLine = !last
}

// endings notes line ends that are not CRLF.
func (c *Checker) endings(p []byte, last bool) {
	if len(p) == 0 {
		return
	}
	if c.v.BareEOL {
		return
	}
	if c.midLine && c.lastCR && p[0] != '\n' {
		c.v.BareEOL = true
	}
	i := bytes.IndexByte(p, '\r')
	n := len(p)
	switch {
	case !last:
		c.lastCR = p[n-1] == '\r'
		if i >= 0 && i != n-1 {
			c.v.BareEOL = true
		}
	case n == 1:
		if !c.midLine || !c.lastCR {
			c.v.BareEOL = true
		}
	case i != n-2:
		c.v.BareEOL = true
	}
	if last {
		c.lastCR = false
	}
}

func blank(p []byte) bool { return p[0] == '\n' || len(p) == 2 && p[0] == '\r' && p[1] == '\n' }

func (c *Checker) headerLine(p []byte, whole bool) {
	if c.v.Malformed {
		return
	}
	if whole && blank(p) {
		c.judgeHeader()
		return
	}
	if len(c.header)+len(p) > message.MaxHeader {
		c.v.Malformed = true
		c.header = nil
		return
	}
	c.header = append(c.header, p...)
}

// judgeHeader decides what the message claims to be.
func (c *Checker) judgeHeader() {
	c.at = inOpaque
	h, err := message.ParseHeader(c.header)
	if err != nil {
		c.v.Malformed = true
		return
	}
	c.v.Froms = h.Count("From")
	c.v.Received = h.Count("Received")
	if from, ok := h.Get("From"); ok {
		c.v.From, _ = message.FirstAddress(from)
	}
	typ, boundary := mediaType(h)
	c.claim = c.claimOf(h, typ)
	if c.claim == plain || !strings.HasPrefix(typ, "multipart/") || boundary == "" {
		c.claim = plain
		return
	}
	if c.claim == report || c.claim == setup {
		return // nothing inside is looked at
	}
	c.boundary = []byte("--" + boundary)
	c.at = inPreamble
	c.header = c.header[:0]
}

func (c *Checker) claimOf(h message.Header, typ string) candidate {
	if typ == "multipart/encrypted" {
		return encrypted
	}
	if v, ok := h.Get("Secure-Join"); ok && !c.opt.NoSecureJoin && (v == "vc-request" || v == "vg-request") {
		return join
	}
	if c.opt.Outgoing {
		if s, _ := h.Get("Subject"); c.opt.ToSelf && typ == "multipart/mixed" && s == "Autocrypt Setup Message" {
			return setup
		}
		return plain
	}
	if auto, _ := h.Get("Auto-Submitted"); typ == "multipart/report" && auto != "" &&
		strings.HasPrefix(strings.ToLower(c.v.From), "mailer-daemon@") {
		return report
	}
	return plain
}

// mediaType returns the type in lower case and the boundary. A message without
// the field is text/plain (RFC 2045 section 5.2).
func mediaType(h message.Header) (typ, boundary string) {
	v, ok := h.Get("Content-Type")
	if !ok {
		return "text/plain", ""
	}
	typ, params, err := mime.ParseMediaType(v)
	if err != nil {
		return "", ""
	}
	return typ, params["boundary"]
}

// delimiter handles a line that is a boundary delimiter (RFC 2046 section 5.1.1).
func (c *Checker) delimiter(p []byte) bool {
	if !bytes.HasPrefix(p, c.boundary) {
		return false
	}
	rest := p[len(c.boundary):]
	closing := bytes.HasPrefix(rest, []byte("--"))
	if closing {
		rest = rest[2:]
	}
	if len(bytes.TrimRight(rest, " \t\r\n")) > 0 {
		return false
	}
	switch c.at {
	case inPartHeader:
		// A part may end inside its header only by having no body at all.
		c.partStart()
		c.partEnd()
	case inPartBody:
		c.partEnd()
	}
	if closing {
		c.at = inEpilogue
		return true
	}
	c.parts++
	c.at, c.header = inPartHeader, c.header[:0]
	return true
}

func (c *Checker) refuse(err error) {
	if c.why == nil {
		c.why = err
	}
}

func (c *Checker) partHeaderLine(p []byte, whole bool) {
	if whole && blank(p) {
		c.partStart()
		return
	}
	if len(c.header)+len(p) > maxPartHeader {
		c.refuse(errHeader)
		c.at = inOpaque
		return
	}
	c.header = append(c.header, p...)
}

// partStart looks at a part's header and prepares for its body.
func (c *Checker) partStart() {
	c.at = inPartBody
	c.text = c.text[:0]
	c.dec = nil
	h, err := message.ParseHeader(c.header)
	if err != nil {
		c.refuse(errHeader)
		return
	}
	typ, _ := mediaType(h)
	enc, _ := h.Get("Content-Transfer-Encoding")
	sink := c.small
	switch {
	case c.claim == encrypted && c.parts == 1:
		if typ != "application/pgp-encrypted" {
			c.refuse(errPartType)
		}
	case c.claim == encrypted && c.parts == 2:
		if typ != "application/octet-stream" {
			c.refuse(errPartType)
		}
		c.pgp = &pgp{}
		c.pgp.armor = openpgp.NewArmor(&c.pgp.walk, !c.opt.Outgoing)
		sink = c.armored
	case c.claim == join && c.parts == 1:
		if typ != "text/plain" {
			c.refuse(errPartType)
		}
	default:
		c.refuse(errChildren)
	}
	if c.why != nil {
		return
	}
	if c.dec = newDecoder(enc, sink); c.dec == nil {
		c.refuse(errEncoding)
	}
}

func (c *Checker) partBody(p []byte, whole bool) {
	if c.why != nil || c.dec == nil {
		return
	}
	if err := c.dec.line(p, whole); err != nil {
		c.refuse(err)
	}
}

// small collects the body of a part that is only a line of text.
func (c *Checker) small(p []byte) error {
	if len(c.text)+len(p) > maxText {
		return errJoin
	}
	c.text = append(c.text, p...)
	return nil
}

func (c *Checker) armored(p []byte) error {
	_, err := c.pgp.armor.Write(p)
	return err
}

// partEnd judges the part that ends here.
func (c *Checker) partEnd() {
	if c.why != nil {
		return
	}
	if c.dec != nil {
		if err := c.dec.end(); err != nil {
			c.refuse(err)
			return
		}
	}
	switch {
	case c.claim == encrypted && c.parts == 1:
		if string(bytes.TrimSpace(c.text)) != "Version: 1" {
			c.refuse(errVersionPart)
		}
	case c.claim == encrypted && c.parts == 2:
		if err := c.pgp.armor.Close(); err != nil {
			c.refuse(err)
		} else if err := c.pgp.walk.Close(); err != nil {
			c.refuse(err)
		}
	case c.claim == join:
		switch strings.ToLower(string(bytes.TrimSpace(c.text))) {
		case "secure-join: vc-request", "secure-join: vg-request":
		default:
			c.refuse(errJoin)
		}
	}
}

// Close ends the message and gives the verdict.
func (c *Checker) Close() Verdict {
	if len(c.line) > 0 {
		// The last line has no line end; it can still be the closing delimiter.
		c.v.BareEOL = c.v.BareEOL || bytes.IndexByte(c.line, '\r') >= 0
		seen := c.v.BareEOL
		c.piece(append(c.line, '\r', '\n'), true)
		c.v.BareEOL = seen
		c.line = c.line[:0]
	}
	if c.at == inHeader && !c.v.Malformed {
		c.judgeHeader() // a message may be a header alone
	}
	c.v.Kind, c.v.Why = c.decide()
	return c.v
}

func (c *Checker) decide() (Kind, error) {
	switch {
	case c.v.Malformed:
		return Clear, errHeader
	case c.claim == plain:
		return Clear, errNotMultipart
	case c.claim == report:
		return Report, nil
	case c.claim == setup:
		return Setup, nil
	case c.why != nil:
		return Clear, c.why
	case c.at != inEpilogue:
		return Clear, errUnfinished
	case c.claim == encrypted && c.parts == 2:
		return Encrypted, nil
	case c.claim == join && c.parts == 1:
		return SecureJoin, nil
	}
	return Clear, errChildren
}

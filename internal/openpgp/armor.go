package openpgp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
)

// ErrArmor is any departure from the armour's form.
var ErrArmor = errors.New("openpgp: not a well-formed armoured message")

const (
	beginLine   = "-----BEGIN PGP MESSAGE-----\r\n"
	endLine     = "-----END PGP MESSAGE-----"
	versionLine = "Version: "
)

type armorState uint8

const (
	inBegin    armorState = iota // matching beginLine
	lineStart                    // at the first octet of a line
	inVersion                    // skipping an armour header line
	inData                       // within a line of base64
	inChecksum                   // within "=XXXX"
	wantLF                       // after CR
	inEnd                        // matching endLine
	afterEnd                     // only CRLFs may follow
)

// Armor undoes the ASCII armour of a message (RFC 9580 section 6.2) and writes
// the octets to the writer given to NewArmor.
//
// It is strict on purpose, as the official network's filter is: the data
// begin with the BEGIN line and end with the END line and CRLFs; lines end in
// CRLF; the blank line is optional; base64 is canonical; the checksum line is
// optional and its value is not compared. No armour header is known but
// Version, and that only when allowed.
type Armor struct {
	out     io.Writer
	version bool // a Version line is tolerated

	state   armorState
	matched int        // octets of the present literal or checksum
	after   armorState // state after CRLF
	first   bool       // still on the first line after BEGIN
	begun   bool       // base64 has begun: no more blank or header lines
	padded  bool       // padding was seen: no more data
	summed  bool       // the checksum line was seen: only END may follow

	quad  [4]byte // characters that do not fill a group yet
	nquad int
	buf   [3 * 1024]byte
	err   error
}

// NewArmor returns a reader that writes to out. With allowVersion one
// "Version: " line right after BEGIN is skipped instead of refused.
func NewArmor(out io.Writer, allowVersion bool) *Armor {
	return &Armor{out: out, version: allowVersion}
}

// Write takes the next octets. An error stays.
func (a *Armor) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && a.err == nil {
		p = p[a.step(p):]
	}
	if a.err != nil {
		return 0, a.err
	}
	return n, nil
}

// Close says whether the armour was complete. It does not close the writer.
func (a *Armor) Close() error {
	if a.err == nil && a.state != afterEnd {
		a.err = ErrArmor
	}
	return a.err
}

func (a *Armor) fail() int {
	a.err = ErrArmor
	return 1
}

// step consumes at least one octet or sets err.
func (a *Armor) step(p []byte) int {
	c := p[0]
	switch a.state {
	case inBegin:
		if c != beginLine[a.matched] {
			return a.fail()
		}
		if a.matched++; a.matched == len(beginLine) {
			a.state, a.first = lineStart, true
		}
	case lineStart:
		return a.startLine(c)
	case inVersion:
		return a.versionHeader(c)
	case inData:
		return a.data(p)
	case inChecksum:
		return a.checksum(c)
	case wantLF:
		if c != '\n' {
			return a.fail()
		}
		a.state = a.after
	case inEnd:
		if c != endLine[a.matched] {
			return a.fail()
		}
		if a.matched++; a.matched == len(endLine) {
			a.state = afterEnd
		}
	case afterEnd:
		if c != '\r' {
			return a.fail()
		}
		a.state, a.after = wantLF, afterEnd
	}
	return 1
}

// startLine decides what a line is by its first octet. It consumes that octet
// only where the next state expects it gone.
func (a *Armor) startLine(c byte) int {
	first := a.first
	a.first = false
	switch {
	case c == '-':
		if a.nquad != 0 {
			return a.fail()
		}
		a.state, a.matched = inEnd, 1
	case c == '\r' && !a.begun:
		a.state, a.after = wantLF, lineStart
	case a.summed:
		return a.fail()
	case c == '=' && a.nquad == 0:
		a.state, a.matched, a.begun = inChecksum, 0, true
	case c == versionLine[0] && first:
		// "Version: " or base64 that begins with V: the fifth octet on tells,
		// so the octets are kept until then.
		a.state, a.matched = inVersion, 1
	default:
		a.state, a.begun = inData, true
		return 0
	}
	return 1
}

func (a *Armor) versionHeader(c byte) int {
	if a.matched < len(versionLine) {
		if c == versionLine[a.matched] {
			a.matched++
			return 1
		}
		// Not the header after all: what matched so far was base64.
		held := a.matched
		a.state, a.begun = inData, true
		a.chars([]byte(versionLine[:held]))
		return 0
	}
	if !a.version {
		return a.fail()
	}
	switch c {
	case '\r':
		a.state, a.after = wantLF, lineStart
	case '\n':
		return a.fail()
	}
	return 1
}

func (a *Armor) checksum(c byte) int {
	if a.matched < 4 {
		if !isBase64(c) {
			return a.fail()
		}
		a.matched++
		return 1
	}
	if c != '\r' {
		return a.fail()
	}
	a.summed = true
	a.state, a.after = wantLF, lineStart
	return 1
}

// data takes base64 up to the end of the line or of p.
func (a *Armor) data(p []byte) int {
	end := bytes.IndexByte(p, '\r')
	run := p
	if end >= 0 {
		run = p[:end]
	}
	if len(run) > 0 {
		a.chars(run)
		return len(run)
	}
	a.state, a.after = wantLF, lineStart
	return 1
}

// chars decodes characters of a line. The decoder is strict, but it skips line
// feeds, which must not stand here, and it takes padding only at the end.
func (a *Armor) chars(run []byte) {
	if a.padded && a.nquad == 0 || bytes.IndexByte(run, '\n') >= 0 {
		a.err = ErrArmor
		return
	}
	for a.nquad > 0 && len(run) > 0 && a.err == nil {
		a.quad[a.nquad] = run[0]
		run = run[1:]
		if a.nquad++; a.nquad == 4 {
			a.nquad = 0
			a.decode(a.quad[:])
		}
	}
	for len(run) >= 4 && a.err == nil {
		n := min(len(run)&^3, len(a.buf)/3*4)
		if a.padded {
			a.err = ErrArmor
			return
		}
		a.decode(run[:n])
		run = run[n:]
	}
	if a.err == nil && len(run) > 0 {
		if a.padded {
			a.err = ErrArmor
			return
		}
		a.nquad = copy(a.quad[:], run)
	}
}

var strict = base64.StdEncoding.Strict()

func (a *Armor) decode(group []byte) {
	n, err := strict.Decode(a.buf[:], group)
	if err != nil {
		a.err = ErrArmor
		return
	}
	a.padded = group[len(group)-1] == '='
	if _, err := a.out.Write(a.buf[:n]); err != nil {
		a.err = err
	}
}

func isBase64(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/'
}

// Package openpgp knows just enough of OpenPGP to tell an encrypted message
// from anything else: the ASCII armour, byte by byte, and the framing of
// packets (RFC 9580 sections 4.2 and 6). It looks at no key and decrypts
// nothing. Both readers are fed with Write, keep constant memory and decide
// the same whatever way the bytes are cut.
package openpgp

import "errors"

// Reasons for a refusal. They are for logs and tests; users see one sentence.
var (
	ErrNotPacket     = errors.New("openpgp: not a packet header")
	ErrPacketType    = errors.New("openpgp: packet type is not allowed here")
	ErrIndeterminate = errors.New("openpgp: indeterminate or misplaced partial length")
	ErrTrailing      = errors.New("openpgp: data after the encrypted packet")
	ErrTruncated     = errors.New("openpgp: data ends too early")
	ErrTooManyKeys   = errors.New("openpgp: too many session key packets")
	ErrVersion       = errors.New("openpgp: unknown version of the encrypted data packet")
)

// MaxSessionKeys bounds the session key packets of one message.
const MaxSessionKeys = 1000

// Packet types that an encrypted message is made of (RFC 9580 section 5).
const (
	typePKESK = 1
	typeSKESK = 3
	typeSEIPD = 18
)

type walkState uint8

const (
	atHeader walkState = iota
	atLength           // first octet of a current-format length
	inLength           // further octets of a definite length
	inBody
)

// Walker follows the packets of a message: any number of session key packets,
// then exactly one encrypted data packet (SEIPD version 1 or 2) that ends the
// data. The zero value is ready.
type Walker struct {
	state   walkState
	typ     byte
	need    int    // length octets still to come
	length  uint64 // their value so far
	add     uint64 // what a two-octet length adds
	left    uint64 // body octets still to skip
	partial bool   // another chunk follows this one
	opened  bool   // the first body octet was seen
	keys    int
	done    bool
	err     error
}

// Write takes the next octets. An error stays.
func (w *Walker) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && w.err == nil {
		if w.state == inBody {
			p = p[w.skip(p):]
			continue
		}
		w.octet(p[0])
		p = p[1:]
	}
	if w.err != nil {
		return 0, w.err
	}
	return n, nil
}

// Close says whether the data were an encrypted message: nil when they were.
func (w *Walker) Close() error {
	if w.err == nil && (!w.done || w.state != atHeader) {
		w.err = ErrTruncated
	}
	return w.err
}

func (w *Walker) octet(c byte) {
	switch w.state {
	case atHeader:
		w.header(c)
	case atLength:
		w.newLength(c)
	case inLength:
		w.length = w.length<<8 | uint64(c)
		if w.need--; w.need == 0 {
			w.chunk(w.length+w.add, false)
		}
	}
}

func (w *Walker) header(c byte) {
	if w.done {
		w.err = ErrTrailing
		return
	}
	w.opened = false
	switch {
	case c&0xC0 == 0xC0: // current format
		w.typ = c & 0x3F
		w.state = atLength
	case c&0x80 != 0: // legacy format
		w.typ = c >> 2 & 0x0F
		if c&3 == 3 {
			w.err = ErrIndeterminate
			return
		}
		w.expectLength(1<<(c&3), 0, 0)
	default:
		w.err = ErrNotPacket
		return
	}
	switch w.typ {
	case typePKESK, typeSKESK:
		if w.keys++; w.keys > MaxSessionKeys {
			w.err = ErrTooManyKeys
		}
	case typeSEIPD:
	default:
		w.err = ErrPacketType
	}
}

func (w *Walker) expectLength(octets int, sofar, add uint64) {
	w.state, w.need, w.length, w.add = inLength, octets, sofar, add
}

// newLength reads the first octet of a current-format length (RFC 9580 section 4.2.1).
func (w *Walker) newLength(c byte) {
	switch {
	case c < 192:
		w.chunk(uint64(c), false)
	case c < 224:
		w.expectLength(1, uint64(c)-192, 192)
	case c == 255:
		w.expectLength(4, 0, 0)
	case w.typ != typeSEIPD:
		w.err = ErrIndeterminate
	default:
		w.chunk(1<<(c&31), true)
	}
}

// chunk begins the body, or the next chunk of one with partial lengths.
func (w *Walker) chunk(n uint64, partial bool) {
	w.left, w.partial = n, partial
	w.state = inBody
	if n == 0 {
		w.endChunk()
	}
}

func (w *Walker) skip(p []byte) int {
	if !w.opened && w.typ == typeSEIPD && p[0] != 1 && p[0] != 2 {
		w.err = ErrVersion
		return len(p)
	}
	w.opened = true
	n := len(p)
	if uint64(n) > w.left {
		n = int(w.left)
	}
	if w.left -= uint64(n); w.left == 0 {
		w.endChunk()
	}
	return n
}

func (w *Walker) endChunk() {
	switch {
	case w.partial:
		w.state = atLength
	case w.typ == typeSEIPD && !w.opened:
		w.err = ErrTruncated // an empty body has no version
	default:
		w.state = atHeader
		w.done = w.typ == typeSEIPD
	}
}

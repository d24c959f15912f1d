// Package inflate decodes raw DEFLATE (RFC 1951) that arrives in pieces.
//
// Decoders of the usual kind pull their input and give out what they have when a
// block ends in a way they know. A server cannot use them for COMPRESS=DEFLATE
// (RFC 4978): clients flush as they like, also in the middle of an octet, and
// everything that can be decoded must be, at once, or both sides wait for each
// other. This decoder is handed octets and stops between any two bits; between
// commands it is a window of plain text and a few words.
package inflate

import "errors"

// MaxWindow is how far a match reaches back, in octets (RFC 1951 section 2).
const MaxWindow = 32 << 10

// The errors of Decode.
var (
	ErrCorrupt = errors.New("inflate: not a DEFLATE stream")
	// ErrEnd says that the stream had a last block, and something came after it.
	ErrEnd = errors.New("inflate: the stream has ended")
)

type state uint8

const (
	header      state = iota // a block begins
	storedSize               // of a stored block
	stored                   // its octets
	counts                   // of a dynamic block's codes
	codeLengths              // of its code lengths' code
	lengths                  // of its two codes
	symbols                  // of a block with codes
	ended
)

// Decoder decodes one stream. The zero value is at its beginning.
type Decoder struct {
	// window is the end of the plain text so far: a ring once it has MaxWindow octets.
	window []byte
	oldest int    // where it begins in the ring
	packed []byte // the window as a stream of its own, after Pack
	acc    uint64 // bits that were not used yet, the next one lowest
	n      uint   // how many

	state state
	final bool
	full  bool
	left  int // octets of a stored block, or of a match
	back  int // distance of that match

	lit, dist *table   // of the present block
	dyn       *dynamic // while they are being read
}

// dynamic is the header of a dynamic block as far as it was read.
type dynamic struct {
	nlit, ndist, nlen int
	i                 int // next length
	lens              [320]uint8
	code              table
}

// Pending reports whether the last Decode stopped because dst was full: there may
// be more without further input.
func (d *Decoder) Pending() bool { return d.full }

// Decode decodes src. It appends to dst, up to its capacity, and returns how many
// octets of src it took, and the longer dst. It takes all of src unless dst
// is full. An error is final.
func (d *Decoder) Decode(dst, src []byte) (int, []byte, error) {
	used, from := 0, len(dst)
	err := d.unpack()
	for on := true; on && err == nil; {
		for d.n <= 56 && used < len(src) && d.state != stored && d.state != ended {
			d.acc |= uint64(src[used]) << d.n
			d.n += 8
			used++
		}
		d.full, on = false, false
		switch d.state {
		case header:
			on, err = d.header()
		case storedSize:
			on, err = d.storedSize()
		case stored:
			var k int
			dst, k = d.stored(dst, src[used:])
			used += k
			on = d.state != stored
		case counts:
			on, err = d.counts()
		case codeLengths:
			on, err = d.codeLengths()
		case lengths:
			on, err = d.lengths()
		case symbols:
			dst, err = d.symbols(dst, from)
			on = d.state != symbols
		case ended:
			if used < len(src) || d.n >= 8 {
				err = ErrEnd
			}
		}
		on = !d.full && (on || used < len(src)) // what was short of bits gets more
	}
	d.remember(dst[from:])
	return used, dst, err
}

// remember keeps the end of the plain text for later matches.
func (d *Decoder) remember(p []byte) {
	if len(p) >= MaxWindow {
		d.window, d.oldest = append(d.window[:0], p[len(p)-MaxWindow:]...), 0
		return
	}
	k := min(len(p), MaxWindow-len(d.window))
	d.window = append(d.window, p[:k]...)
	for p = p[k:]; len(p) > 0; p = p[k:] {
		k = copy(d.window[d.oldest:], p)
		d.oldest = (d.oldest + k) % MaxWindow
	}
}

// past returns plain text that begins back octets before the window's end, up to
// the end or to where the ring turns over.
func (d *Decoder) past(back int) []byte {
	at := d.oldest - back
	if at >= 0 {
		return d.window[at:d.oldest]
	}
	return d.window[len(d.window)+at:]
}

func (d *Decoder) take(bits uint) uint64 {
	v := d.acc & (1<<bits - 1)
	d.acc >>= bits
	d.n -= bits
	return v
}

func (d *Decoder) header() (bool, error) {
	if d.final {
		d.state = ended
		return true, nil
	}
	if d.n < 3 {
		return false, nil
	}
	d.final = d.take(1) == 1
	switch d.take(2) {
	case 0:
		d.take(d.n & 7) // to the end of the octet
		d.state = storedSize
	case 1:
		d.lit, d.dist, d.state = &fixedLit, &fixedDist, symbols
	case 2:
		d.dyn, d.state = new(dynamic), counts
	default:
		return false, ErrCorrupt
	}
	return true, nil
}

func (d *Decoder) storedSize() (bool, error) {
	if d.n < 32 {
		return false, nil
	}
	size, check := d.take(16), d.take(16)
	if size != check^0xffff {
		return false, ErrCorrupt
	}
	d.left, d.state = int(size), stored
	return true, nil
}

// stored copies octets of a stored block: from the bits at hand, then from src.
func (d *Decoder) stored(dst, src []byte) ([]byte, int) {
	for d.left > 0 && d.n >= 8 && len(dst) < cap(dst) {
		dst = append(dst, byte(d.take(8)))
		d.left--
	}
	k := 0
	if d.n < 8 {
		k = min(d.left, len(src), cap(dst)-len(dst))
		dst = append(dst, src[:k]...)
		d.left -= k
	}
	if d.left == 0 {
		d.state = header
	} else {
		d.full = len(dst) == cap(dst)
	}
	return dst, k
}

func (d *Decoder) counts() (bool, error) {
	if d.n < 14 {
		return false, nil
	}
	y := d.dyn
	y.nlit, y.ndist, y.nlen = int(d.take(5))+257, int(d.take(5))+1, int(d.take(4))+4
	if y.nlit > 286 || y.ndist > 30 {
		return false, ErrCorrupt
	}
	d.state = codeLengths
	return true, nil
}

// order is how the code length code's lengths follow each other (RFC 1951
// section 3.2.7).
var order = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

func (d *Decoder) codeLengths() (bool, error) {
	y := d.dyn
	for ; y.i < y.nlen; y.i++ {
		if d.n < 3 {
			return false, nil
		}
		y.lens[order[y.i]] = uint8(d.take(3))
	}
	if !y.code.build(y.lens[:19], false) {
		return false, ErrCorrupt
	}
	clear(y.lens[:])
	y.i, d.state = 0, lengths
	return true, nil
}

func (d *Decoder) lengths() (bool, error) {
	y := d.dyn
	for y.i < y.nlit+y.ndist {
		sym, bits, err := y.code.decode(d.acc, d.n)
		if err != nil || bits == 0 {
			return false, err
		}
		var extra, repeat uint
		var value uint8
		switch {
		case sym < 16:
			value, repeat = uint8(sym), 1
		case sym == 16:
			if y.i == 0 {
				return false, ErrCorrupt
			}
			value, extra, repeat = y.lens[y.i-1], 2, 3
		case sym == 17:
			extra, repeat = 3, 3
		default:
			extra, repeat = 7, 11
		}
		if d.n < bits+extra {
			return false, nil
		}
		d.take(bits)
		repeat += uint(d.take(extra))
		if y.i+int(repeat) > y.nlit+y.ndist {
			return false, ErrCorrupt
		}
		for range repeat {
			y.lens[y.i] = value
			y.i++
		}
	}
	lit, dist := new(table), new(table)
	if y.lens[256] == 0 || !lit.build(y.lens[:y.nlit], false) || !dist.build(y.lens[y.nlit:y.nlit+y.ndist], true) {
		return false, ErrCorrupt
	}
	d.lit, d.dist, d.dyn, d.state = lit, dist, nil, symbols
	return true, nil
}

// symbols decodes up to the end of the block, of the bits, or of the room.
func (d *Decoder) symbols(dst []byte, from int) ([]byte, error) {
	for {
		if d.left > 0 {
			if dst = d.copy(dst, from); d.left > 0 {
				d.full = true
				return dst, nil
			}
		}
		sym, bits, err := d.lit.decode(d.acc, d.n)
		if err != nil || bits == 0 {
			return dst, err
		}
		switch {
		case sym < 256:
			if d.full = len(dst) == cap(dst); d.full {
				return dst, nil
			}
			d.take(bits)
			dst = append(dst, byte(sym))
			continue
		case sym == 256:
			d.take(bits)
			d.lit, d.dist, d.state = nil, nil, header
			return dst, nil
		case sym > 285:
			return dst, ErrCorrupt
		}
		// A match is read whole or not at all: at most 48 bits.
		size := lengthOf[sym-257]
		need := bits + uint(size.extra)
		if d.n < need {
			return dst, nil
		}
		length := int(size.base) + int(d.acc>>bits&(1<<size.extra-1))
		code, more, err := d.dist.decode(d.acc>>need, d.n-need)
		if err != nil || more == 0 {
			return dst, err
		}
		if code > 29 {
			return dst, ErrCorrupt
		}
		reach := distanceOf[code]
		need += more
		if d.n < need+uint(reach.extra) {
			return dst, nil
		}
		d.back = int(reach.base) + int(d.acc>>need&(1<<reach.extra-1))
		if d.back > len(d.window)+len(dst)-from {
			return dst, ErrCorrupt
		}
		d.take(need + uint(reach.extra))
		d.left = length
	}
}

// copy repeats what was d.back octets ago, in dst or in the window before it, as
// far as there is room.
func (d *Decoder) copy(dst []byte, from int) []byte {
	for d.left > 0 && len(dst) < cap(dst) {
		k := min(d.left, cap(dst)-len(dst))
		if before := d.back - (len(dst) - from); before > 0 {
			text := d.past(before)
			k = min(k, len(text))
			dst = append(dst, text[:k]...)
		} else {
			k = min(k, d.back)
			at := len(dst) - d.back
			dst = append(dst, dst[at:at+k]...)
		}
		d.left -= k
	}
	return dst
}

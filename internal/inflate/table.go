package inflate

import "math/bits"

const (
	maxBits  = 15 // of a code
	fastBits = 9
)

// table decodes one Huffman code (RFC 1951 section 3.2.2). Codes of up to
// fastBits are looked up, longer ones are followed bit by bit.
type table struct {
	fast  [1 << fastBits]uint16 // symbol<<4 | length, by the next bits; 0 for longer codes
	count [maxBits + 1]uint16   // codes by length
	order [288]uint16           // symbols in order of their codes
}

// build makes the table of a code with the given lengths by symbol, and reports
// whether it is one. A code of one symbol may leave its other half unused where
// single is set, as may one of none.
func (t *table) build(lens []uint8, single bool) bool {
	for _, l := range lens {
		t.count[l]++
	}
	t.count[0] = 0
	left, n := 1, 0
	for l := 1; l <= maxBits; l++ {
		left = left<<1 - int(t.count[l])
		if left < 0 {
			return false
		}
		n += int(t.count[l])
	}
	if left > 0 && !(single && n <= 1) {
		return false
	}
	var at, next [maxBits + 2]uint16 // in order; and the next code
	for l := 1; l <= maxBits; l++ {
		at[l+1] = at[l] + t.count[l]
		next[l+1] = (next[l] + t.count[l]) << 1
	}
	for sym, l := range lens {
		if l == 0 {
			continue
		}
		t.order[at[l]] = uint16(sym)
		at[l]++
		code := next[l]
		next[l]++
		if l <= fastBits {
			for i := bits.Reverse16(code) >> (16 - l); i < 1<<fastBits; i += 1 << l {
				t.fast[i] = uint16(sym)<<4 | uint16(l)
			}
		}
	}
	return true
}

// decode finds the symbol that the lowest of n bits mean. It took 0 bits when
// there are too few.
func (t *table) decode(acc uint64, n uint) (sym int, took uint, err error) {
	if e := t.fast[acc&(1<<fastBits-1)]; e != 0 {
		if took = uint(e & 15); took <= n {
			return int(e >> 4), took, nil
		}
		return 0, 0, nil
	}
	var code, first, index int
	for l := uint(1); l <= maxBits; l++ {
		if l > n {
			return 0, 0, nil
		}
		code |= int(acc >> (l - 1) & 1)
		count := int(t.count[l])
		if code-count < first {
			return int(t.order[index+code-first]), l, nil
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return 0, 0, ErrCorrupt
}

type span struct {
	base  uint16
	extra uint8
}

// The lengths and distances of matches (RFC 1951 section 3.2.5), and the codes of
// blocks that bring none (section 3.2.6).
var (
	lengthOf            [29]span
	distanceOf          [30]span
	fixedLit, fixedDist table
)

func init() {
	base := uint16(3)
	for i := range lengthOf {
		extra := uint8(max(0, i/4-1))
		lengthOf[i] = span{base, extra}
		base += 1 << extra
	}
	lengthOf[28] = span{258, 0}
	base = 1
	for i := range distanceOf {
		extra := uint8(max(0, i/2-1))
		distanceOf[i] = span{base, extra}
		base += 1 << extra
	}
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144, i >= 280:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		default:
			lens[i] = 7
		}
	}
	fixedLit.build(lens[:], false)
	var dist [32]uint8
	for i := range dist {
		dist[i] = 5
	}
	fixedDist.build(dist[:], false)
}

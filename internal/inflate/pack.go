package inflate

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/flate"
)

// packFrom is the size of a window, in octets, from which Pack is worth its while.
const packFrom = 2 << 10

// Pack makes a decoder smaller that will not be used for some time. Commands repeat
// themselves: 32 KiB of them become 2 to 6. The next Decode undoes it, which takes as
// long as decoding a window. An error leaves the decoder as it was.
func (d *Decoder) Pack() error {
	if len(d.window) < packFrom {
		return nil
	}
	var b bytes.Buffer
	text := append(bytes.Clone(d.window[d.oldest:]), d.window[:d.oldest]...)
	if err := flate.StatelessDeflate(&b, text, true, nil); err != nil {
		return fmt.Errorf("inflate: pack the window: %w", err)
	}
	if b.Len() < len(text)/2 {
		d.packed, d.window, d.oldest = bytes.Clone(b.Bytes()), nil, 0
	}
	return nil
}

// Kept returns how many octets the decoder keeps for later matches.
func (d *Decoder) Kept() int { return cap(d.window) + cap(d.packed) }

// unpack restores the window after Pack.
func (d *Decoder) unpack() error {
	if d.packed == nil {
		return nil
	}
	var own Decoder
	_, text, err := own.Decode(make([]byte, 0, MaxWindow), d.packed)
	if err != nil {
		return fmt.Errorf("inflate: unpack the window: %w", err)
	}
	d.window, d.packed = text, nil
	return nil
}

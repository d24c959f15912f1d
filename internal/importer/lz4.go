package importer

import (
	"encoding/binary"
	"errors"
	"io"
)

// The frame format of LZ4: a magic number, a descriptor, blocks, an end mark. Its
// checksums are not compared: the length of the message tells whether all is there.
const (
	lz4Magic     = 0x184D2204
	lz4Window    = 64 << 10 // as far back as a match may reach
	lz4Stored    = 1 << 31  // of a block's size: it is not compressed
	lz4BlockMost = 4 << 20
)

var errLZ4 = errors.New("damaged LZ4 data")

// lz4Reader reads a frame. Its memory is bounded by one block and the window.
type lz4Reader struct {
	r       io.Reader
	begun   bool
	linked  bool // blocks refer to those before them
	blockCk bool
	most    int    // of a block, decoded
	in      []byte // a block as it was read
	out     []byte // the window, then what was decoded of this block
	at      int    // first octet of out that was not handed out
	err     error
}

func newLZ4(r io.Reader) *lz4Reader { return &lz4Reader{r: r} }

func (z *lz4Reader) Read(p []byte) (int, error) {
	for z.at == len(z.out) {
		if z.err == nil {
			z.err = z.block()
		}
		if z.err != nil {
			return 0, z.err
		}
	}
	n := copy(p, z.out[z.at:])
	z.at += n
	return n, nil
}

// full reads exactly len(p) octets: a frame that ends early is damaged.
func (z *lz4Reader) full(p []byte) error {
	_, err := io.ReadFull(z.r, p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (z *lz4Reader) header() error {
	var b [15]byte
	if err := z.full(b[:7]); err != nil {
		return err
	}
	flags, size := b[4], b[5]>>4&7
	if binary.LittleEndian.Uint32(b[:]) != lz4Magic || flags>>6 != 1 || flags&1 != 0 || size < 4 {
		return errLZ4 // dictionaries are not used for mail
	}
	z.linked, z.blockCk = flags&0x20 == 0, flags&0x10 != 0
	z.most = 64 << 10 << (2 * (size - 4))
	if flags&0x08 != 0 { // the length of the content; its checksum octet was read for its first
		return z.full(b[7:15])
	}
	return nil
}

func (z *lz4Reader) block() error {
	if !z.begun {
		if err := z.header(); err != nil {
			return err
		}
		z.begun = true
	}
	var word [4]byte
	if err := z.full(word[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(word[:])
	if n == 0 {
		return io.EOF
	}
	size := int(n &^ lz4Stored)
	if size > min(z.most, lz4BlockMost) {
		return errLZ4
	}
	if cap(z.in) < size {
		z.in = make([]byte, size)
	}
	z.in = z.in[:size]
	if err := z.full(z.in); err != nil {
		return err
	}
	if z.blockCk {
		if err := z.full(word[:]); err != nil {
			return err
		}
	}
	keep := 0
	if z.linked {
		keep = min(len(z.out), lz4Window)
	}
	z.out = append(z.out[:0], z.out[len(z.out)-keep:]...)
	z.at = keep
	if n&lz4Stored != 0 {
		z.out = append(z.out, z.in...)
		return nil
	}
	var err error
	z.out, err = lz4Block(z.out, z.in, keep+z.most)
	return err
}

// lz4Block appends the decoded src to dst, which may refer to what dst has, and grows
// to most octets.
func lz4Block(dst, src []byte, most int) ([]byte, error) {
	length := func(n int) (int, bool) {
		if n < 15 {
			return n, true
		}
		for {
			if len(src) == 0 {
				return 0, false
			}
			c := src[0]
			src = src[1:]
			if n += int(c); n > most {
				return 0, false
			}
			if c < 255 {
				return n, true
			}
		}
	}
	for len(src) > 0 {
		token := src[0]
		src = src[1:]
		n, ok := length(int(token >> 4))
		if !ok || n > len(src) || len(dst)+n > most {
			return dst, errLZ4
		}
		dst = append(dst, src[:n]...)
		if src = src[n:]; len(src) == 0 {
			return dst, nil // the last sequence is literals alone
		}
		if len(src) < 2 {
			return dst, errLZ4
		}
		back := int(binary.LittleEndian.Uint16(src))
		src = src[2:]
		n, ok = length(int(token & 15))
		n += 4
		if !ok || back == 0 || back > len(dst) || len(dst)+n > most {
			return dst, errLZ4
		}
		for from := len(dst) - back; n > 0; n-- {
			dst = append(dst, dst[from]) // a match may overlap what it makes
			from++
		}
	}
	return dst, nil
}

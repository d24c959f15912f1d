package inlet

import (
	"encoding/binary"
	"errors"
	"io"
)

// Opcodes of WebSocket frames (RFC 6455 section 5.2).
const (
	OpContinuation = 0
	OpText         = 1
	OpBinary       = 2
	OpClose        = 8
	OpPing         = 9
	OpPong         = 10
)

// MaxControl is the longest payload of a control frame, in octets.
const MaxControl = 125

// ErrFrame is about octets that are no frame of a client (RFC 6455 section 5).
var ErrFrame = errors.New("inlet: malformed WebSocket frame")

// Frames reads the frames of a client, one after the other, none of them into
// memory. An error of From, a deadline's for one, may come anywhere: the next call
// goes on from there. The zero value with From is ready for use.
type Frames struct {
	From io.Reader

	Op    byte   // of the present frame
	Final bool   // it is the last of its message
	Left  uint64 // octets of its payload that are not read yet

	head [14]byte
	have int
	mask [4]byte
	at   int
}

// Next reads the head of the next frame, once the payload of the present one is
// read. It returns io.EOF for a close frame, and ErrFrame for what cannot be one:
// extensions, no mask, an opcode that nobody has defined, a control frame in pieces or
// over MaxControl.
func (f *Frames) Next() error {
	if err := f.need(2); err != nil {
		return err
	}
	final, op, size := f.head[0]&0x80 != 0, f.head[0]&0xf, uint64(f.head[1]&0x7f)
	switch {
	case f.head[0]&0x70 != 0, f.head[1]&0x80 == 0:
		return ErrFrame
	case op > OpBinary && op < OpClose, op > OpPong:
		return ErrFrame
	case op >= OpClose && (size > MaxControl || !final):
		return ErrFrame
	case op == OpClose:
		return io.EOF
	}
	end := 2
	switch size {
	case 126:
		end = 4
	case 127:
		end = 10
	}
	if err := f.need(end + 4); err != nil {
		return err
	}
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		if size = binary.BigEndian.Uint64(f.head[2:]); size>>63 != 0 {
			return ErrFrame
		}
	}
	f.mask = [4]byte(f.head[end : end+4])
	f.Op, f.Final, f.Left = op, final, size
	f.have, f.at = 0, 0
	return nil
}

func (f *Frames) need(n int) error {
	for f.have < n {
		got, err := f.From.Read(f.head[f.have:n])
		f.have += got
		if err != nil {
			return err
		}
	}
	return nil
}

// Payload reads from the payload of the present frame, without its mask.
func (f *Frames) Payload(p []byte) (int, error) {
	n, err := f.From.Read(p[:min(uint64(len(p)), f.Left)])
	for i := range n {
		p[i] ^= f.mask[f.at&3]
		f.at++
	}
	f.Left -= uint64(n)
	return n, err
}

// AppendFrame appends the head of a server's frame that is a whole message with a
// payload of size octets.
func AppendFrame(b []byte, op byte, size int) []byte {
	b = append(b, 0x80|op)
	switch {
	case size <= MaxControl:
		return append(b, byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(size))
	}
}

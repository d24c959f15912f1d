package irohrelay

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// errMessage is about the layer below frames (RFC 6455).
var errMessage = errors.New("malformed WebSocket message")

// webSocket carries frames as messages: one frame, without its length, in each
// binary message. It reads and writes them in their other form, so that nothing
// else knows the difference. A message has to come in one piece: browsers send
// theirs so, and its length is needed before it.
type webSocket struct {
	net.Conn
	head    [15]byte // of the message that begins, with the type of the frame
	have    int
	out     [HeaderSize]byte // header of the frame in the other form
	outLeft int
	left    uint64 // of the payload
	mask    [4]byte
	at      int
	skip    bool // the message is no frame

	mu sync.Mutex // one message at a time is written
}

// NetConn returns the connection below.
func (w *webSocket) NetConn() net.Conn { return w.Conn }

const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// Read reads frames with their length. What a deadline interrupts goes on later.
func (w *webSocket) Read(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case w.outLeft > 0:
			n := copy(p, w.out[HeaderSize-w.outLeft:])
			w.outLeft -= n
			return n, nil
		case w.left > 0 && w.skip:
			var drop [125]byte
			if _, err := w.payload(drop[:]); err != nil {
				return 0, err
			}
		case w.left > 0:
			return w.payload(p)
		default:
			if err := w.begin(); err != nil {
				return 0, err
			}
		}
	}
}

func (w *webSocket) payload(p []byte) (int, error) {
	n, err := w.Conn.Read(p[:min(uint64(len(p)), w.left)])
	for i := range n {
		p[i] ^= w.mask[w.at&3]
		w.at++
	}
	w.left -= uint64(n)
	return n, err
}

// need reads until n octets of the head are there.
func (w *webSocket) need(n int) error {
	for w.have < n {
		got, err := w.Conn.Read(w.head[w.have:n])
		w.have += got
		if err != nil {
			return err
		}
	}
	return nil
}

// begin reads the head of a message, and its first octet if it is a frame.
func (w *webSocket) begin() error {
	if err := w.need(2); err != nil {
		return err
	}
	op, size := w.head[0]&0xf, uint64(w.head[1]&0x7f)
	switch {
	case w.head[0]&0xf0 != 0x80, w.head[1]&0x80 == 0: // in pieces, with extensions, not masked
		return errMessage
	case op >= opClose && size > 125, op == opBinary && size == 0:
		return errMessage
	case op == opClose:
		return io.EOF
	}
	end := 2
	switch size {
	case 126:
		end = 4
	case 127:
		end = 10
	}
	if op == opBinary {
		end++ // the type of the frame
	}
	if err := w.need(end + 4); err != nil {
		return err
	}
	if op == opBinary {
		end--
	}
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(w.head[2:]))
	case 127:
		size = binary.BigEndian.Uint64(w.head[2:])
	}
	if size > uint64(1+maxPayload) {
		return errMessage
	}
	w.mask = [4]byte(w.head[end : end+4])
	w.left, w.at, w.have = size, 0, 0
	if w.skip = op != opBinary; w.skip {
		return nil
	}
	w.out[0] = w.head[end+4] ^ w.mask[0]
	w.at, w.left = 1, w.left-1
	binary.BigEndian.PutUint32(w.out[1:], uint32(w.left))
	w.outLeft = HeaderSize
	return nil
}

// Write writes whole frames with their length.
func (w *webSocket) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]byte, 0, len(p)+8)
	for rest := p; len(rest) > 0; {
		if len(rest) < HeaderSize {
			return 0, io.ErrShortWrite
		}
		n := uint64(binary.BigEndian.Uint32(rest[1:]))
		if uint64(len(rest)-HeaderSize) < n {
			return 0, io.ErrShortWrite
		}
		out = append(out, 0x80|opBinary)
		switch size := n + 1; {
		case size < 126:
			out = append(out, byte(size))
		case size < 1<<16:
			out = binary.BigEndian.AppendUint16(append(out, 126), uint16(size))
		default:
			out = binary.BigEndian.AppendUint64(append(out, 127), size)
		}
		out = append(append(out, rest[0]), rest[HeaderSize:HeaderSize+n]...)
		rest = rest[HeaderSize+n:]
	}
	if _, err := w.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

package irohrelay

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"madmail/internal/inlet"
)

// errMessage is about a message that holds no frame of ours.
var errMessage = errors.New("malformed WebSocket message")

// webSocket carries frames as messages: one frame, without its length, in each
// binary message. It reads and writes them in their other form, so that nothing
// else knows the difference. A message has to come in one piece: browsers send
// theirs so, and its length is needed before it.
type webSocket struct {
	net.Conn
	in      inlet.Frames
	typed   bool             // the type of the frame is read
	out     [HeaderSize]byte // header of the frame in the other form
	outLeft int

	mu sync.Mutex // one message at a time is written
}

func newWebSocket(c net.Conn) *webSocket { return &webSocket{Conn: c, in: inlet.Frames{From: c}} }

// NetConn returns the connection below.
func (w *webSocket) NetConn() net.Conn { return w.Conn }

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
		case w.in.Left == 0:
			if err := w.begin(); err != nil {
				return 0, err
			}
		case w.in.Op != inlet.OpBinary:
			var drop [inlet.MaxControl]byte
			if _, err := w.in.Payload(drop[:]); err != nil {
				return 0, err
			}
		case !w.typed:
			if n, err := w.in.Payload(w.out[:1]); n == 0 && err != nil {
				return 0, err
			} else if n == 1 {
				w.typed, w.outLeft = true, HeaderSize
				binary.BigEndian.PutUint32(w.out[1:], uint32(w.in.Left))
			}
		default:
			return w.in.Payload(p)
		}
	}
}

// begin reads the head of a message.
func (w *webSocket) begin() error {
	if err := w.in.Next(); err != nil {
		return err
	}
	w.typed = false
	if !w.in.Final || w.in.Op == inlet.OpContinuation || w.in.Op == inlet.OpBinary && w.in.Left == 0 || w.in.Left > 1+uint64(maxPayload) {
		return errMessage
	}
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
		n := int64(binary.BigEndian.Uint32(rest[1:]))
		if int64(len(rest)-HeaderSize) < n {
			return 0, io.ErrShortWrite
		}
		out = append(inlet.AppendFrame(out, inlet.OpBinary, int(n)+1), rest[0])
		out = append(out, rest[HeaderSize:HeaderSize+n]...)
		rest = rest[HeaderSize+n:]
	}
	if _, err := w.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

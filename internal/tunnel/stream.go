package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"madmail/internal/inlet"
)

// Upgrade makes a request that wants it a WebSocket and hands the octets inside to
// take, which owns the connection then. It reports false, and has said nothing, for
// every other request, also for one that is nearly so: who guesses learns nothing.
func Upgrade(w http.ResponseWriter, r *http.Request, take func(net.Conn)) bool {
	accept, ok := inlet.WebSocketAccept(r.Header)
	if !ok || !inlet.IsWebSocket(r.Header) || r.Method != http.MethodGet || r.ProtoMajor != 1 || r.Header.Get("Sec-WebSocket-Version") != "13" {
		return false
	}
	conn, err := inlet.Hijack(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+accept+"\r\n\r\n")
	if err == nil {
		take(&stream{Conn: conn})
	}
	return true
}

// The codes of messages (RFC 6455 section 5.2).
const (
	opMore   = 0
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10

	maxControl = 125
	pongTime   = 10 * time.Second
)

var errMessage = errors.New("tunnel: malformed WebSocket message")

// stream is the payload of messages, one after the other: where one ends means
// nothing. A deadline may interrupt a read anywhere; the next goes on from there.
type stream struct {
	net.Conn

	head [14]byte // of the message that begins
	have int
	mask [4]byte
	at   int
	left uint64 // of the payload
	op   byte

	control [maxControl]byte // payload of a ping
	got     int

	mu  sync.Mutex // guards the field below: one message at a time is written
	out []byte
}

// NetConn returns the connection below.
func (s *stream) NetConn() net.Conn { return s.Conn }

// Read reads payload.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if s.left == 0 {
			if err := s.begin(); err != nil {
				return 0, err
			}
			continue
		}
		if s.op < opClose {
			return s.payload(p)
		}
		n, err := s.payload(s.control[s.got:])
		s.got += n
		if err == nil && s.left == 0 && s.op == opPing {
			err = s.pong()
		}
		if err != nil {
			return 0, err
		}
	}
}

func (s *stream) payload(p []byte) (int, error) {
	n, err := s.Conn.Read(p[:min(uint64(len(p)), s.left)])
	for i := range n {
		p[i] ^= s.mask[s.at&3]
		s.at++
	}
	s.left -= uint64(n)
	return n, err
}

func (s *stream) need(n int) error {
	for s.have < n {
		got, err := s.Conn.Read(s.head[s.have:n])
		s.have += got
		if err != nil {
			return err
		}
	}
	return nil
}

// begin reads the head of a message. One without payload is over then.
func (s *stream) begin() error {
	if err := s.need(2); err != nil {
		return err
	}
	op, size := s.head[0]&0xf, uint64(s.head[1]&0x7f)
	switch {
	case s.head[0]&0x70 != 0, s.head[1]&0x80 == 0: // with extensions, not masked
		return errMessage
	case op != opMore && op != opText && op != opBinary && op != opClose && op != opPing && op != opPong:
		return errMessage
	case op >= opClose && (size > maxControl || s.head[0]&0x80 == 0):
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
	if err := s.need(end + 4); err != nil {
		return err
	}
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(s.head[2:]))
	case 127:
		if size = binary.BigEndian.Uint64(s.head[2:]); size>>63 != 0 {
			return errMessage
		}
	}
	s.mask = [4]byte(s.head[end : end+4])
	s.op, s.left, s.at, s.have, s.got = op, size, 0, 0, 0
	if op == opPing && size == 0 {
		return s.pong()
	}
	return nil
}

// pong answers a ping. Who does not take the answer is not read from any more.
func (s *stream) pong() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.Conn.SetWriteDeadline(time.Now().Add(pongTime))
	return s.writeLocked(opPong, s.control[:s.got])
}

// Write writes one message.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writeLocked(opBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *stream) writeLocked(op byte, p []byte) error {
	out := append(s.out[:0], 0x80|op)
	switch n := len(p); {
	case n < 126:
		out = append(out, byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, 126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 127), uint64(n))
	}
	s.out = append(out, p...)
	_, err := s.Conn.Write(s.out)
	return err
}

package tunnel

import (
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
		take(newStream(conn))
	}
	return true
}

const pongTime = 10 * time.Second

// stream is the payload of messages, one after the other: where one ends means
// nothing. A deadline may interrupt a read anywhere; the next goes on from there.
type stream struct {
	net.Conn
	in inlet.Frames

	control [inlet.MaxControl]byte // payload of a ping
	got     int

	mu  sync.Mutex // guards the field below: one message at a time is written
	out []byte
}

func newStream(c net.Conn) *stream { return &stream{Conn: c, in: inlet.Frames{From: c}} }

// NetConn returns the connection below.
func (s *stream) NetConn() net.Conn { return s.Conn }

// Read reads payload.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if s.in.Left == 0 {
			if err := s.begin(); err != nil {
				return 0, err
			}
			continue
		}
		if s.in.Op < inlet.OpClose {
			return s.in.Payload(p)
		}
		n, err := s.in.Payload(s.control[s.got:])
		s.got += n
		if err == nil && s.in.Left == 0 && s.in.Op == inlet.OpPing {
			err = s.pong()
		}
		if err != nil {
			return 0, err
		}
	}
}

// begin reads the head of a message. One without payload is over then.
func (s *stream) begin() error {
	if err := s.in.Next(); err != nil {
		return err
	}
	s.got = 0
	if s.in.Op == inlet.OpPing && s.in.Left == 0 {
		return s.pong()
	}
	return nil
}

// pong answers a ping. Who does not take the answer is not read from any more.
func (s *stream) pong() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.Conn.SetWriteDeadline(time.Now().Add(pongTime))
	return s.writeLocked(inlet.OpPong, s.control[:s.got])
}

// Write writes one message.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writeLocked(inlet.OpBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *stream) writeLocked(op byte, p []byte) error {
	s.out = append(inlet.AppendFrame(s.out[:0], op, len(p)), p...)
	_, err := s.Conn.Write(s.out)
	return err
}

package turnserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Deadlines of TCP and TLS connections.
const (
	handshakeTime = 10 * time.Second
	frameTime     = 10 * time.Second // between the first octet of a frame and its last; also to write one
	strangerTime  = 30 * time.Second // between frames, without an allocation
	strangerLimit = 2 * time.Minute  // in all, without an allocation
	clientTime    = 15 * time.Minute // between frames; allocations are refreshed more often
)

// maxFrame is the longest frame from a client, in octets: what the library takes.
const maxFrame = inboundMTU - 1

// stream is a TCP or TLS connection. Read returns one whole frame at a time.
type stream struct {
	net.Conn
	raw    net.Conn // below TLS
	key    streamKey
	began  time.Time
	killed sync.Once
	left   sync.Once
	gone   func() // the library is done with it

	dismissed bool // guarded by Server.mu

	mu        sync.Mutex // guards the fields below
	allocated bool
}

var errFrame = errors.New("turnserver: not a STUN message or channel data")

// frameLen is the length of a frame that begins with these four octets (RFC 8656
// section 12.5: over streams channel data is padded).
func frameLen(h []byte) (int, error) {
	n := int(binary.BigEndian.Uint16(h[2:]))
	switch h[0] >> 6 {
	case 0:
		if n%4 != 0 {
			return 0, errFrame
		}
		n += 20
	case 1:
		n = 4 + (n+3)&^3
	default:
		return 0, errFrame
	}
	if n > maxFrame {
		return 0, errFrame
	}
	return n, nil
}

// filler is a Binding indication, which is heard and not answered (RFC 8489
// section 6.3.2).
var filler = []byte{0, 0x11, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// Read fills p with the next frame. The library reads with a buffer of
// inboundMTU octets. It keeps a frame of at most eight octets back until more
// comes, so such a one is followed by a filler.
func (c *stream) Read(p []byte) (int, error) {
	c.mu.Lock()
	wait := clientTime
	if !c.allocated {
		wait = min(strangerTime, time.Until(c.began.Add(strangerLimit)))
	}
	c.mu.Unlock()
	if len(p) < maxFrame {
		return 0, io.ErrShortBuffer
	}
	if wait <= 0 {
		return 0, c.fail(errors.New("turnserver: no allocation"))
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(wait))
	if _, err := io.ReadFull(c.Conn, p[:1]); err != nil {
		return 0, c.fail(err)
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(frameTime))
	if _, err := io.ReadFull(c.Conn, p[1:4]); err != nil {
		return 0, c.fail(err)
	}
	n, err := frameLen(p)
	if err != nil {
		return 0, c.fail(err)
	}
	if _, err := io.ReadFull(c.Conn, p[4:n]); err != nil {
		return 0, c.fail(err)
	}
	if n <= 8 {
		n += copy(p[n:], filler)
	}
	return n, nil
}

// Write sends a whole frame or ends the connection: half of one would spoil all
// that follow.
func (c *stream) Write(p []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(frameTime))
	n, err := c.Conn.Write(p)
	if err != nil {
		_ = c.fail(err)
	}
	return n, err
}

// fail ends the connection. The library may still hold it.
func (c *stream) fail(err error) error {
	c.killed.Do(func() {
		_ = c.raw.Close() // not by TLS, which would take its time to say goodbye
	})
	return err
}

// Close is the library's last call.
func (c *stream) Close() error {
	_ = c.fail(nil)
	c.left.Do(c.gone)
	return nil
}

// mark notes whether the client has an allocation.
func (c *stream) mark(allocated bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.allocated = allocated; !allocated {
		c.began = time.Now()
	}
}

// streams is a listener as one instance sees it. What it accepts has been
// counted and, with TLS, has a finished handshake: the library would keep a
// connection whose handshake failed, for ever.
type streams struct {
	in    *instance
	queue <-chan *stream
	back  chan *stream // one that came when the last instance was over
	addr  net.Addr
}

func (l *streams) Accept() (net.Conn, error) {
	var c *stream
	select {
	case c = <-l.back:
	default:
		select {
		case c = <-l.queue:
		case <-l.in.stop:
			return nil, net.ErrClosed
		}
	}
	if l.in.adopt(c) {
		return c, nil
	}
	l.back <- c // there is room: it was empty, or c came from it
	<-l.in.stop
	return nil, net.ErrClosed
}

func (l *streams) Close() error   { return nil }
func (l *streams) Addr() net.Addr { return l.addr }

// Serve accepts clients over TCP, or over TLS when conf is not nil, until l is
// closed; then it returns nil, and nobody is connected any more. Call it once
// for each listener, from a goroutine of its own.
func (s *Server) Serve(l net.Listener, conf *tls.Config) error {
	closing := make(chan struct{})
	queue, back := make(chan *stream), make(chan *stream, 1)
	leave := s.enter(func() { l.Close() })
	if leave == nil {
		l.Close()
		return nil
	}
	defer leave()
	ended := make(chan struct{})
	s.tasks.Go("turn streams", func() {
		defer close(ended)
		s.run(closing, func(in *instance) (func(), error) {
			return func() {}, in.start(nil, &streams{in: in, queue: queue, back: back, addr: l.Addr()})
		})
	})
	var err error
	for {
		var conn net.Conn
		if conn, err = l.Accept(); err == nil {
			s.welcome(conn, conf, queue, closing)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			err = nil
			break
		}
		// Out of descriptors, most likely: others must end first.
		pause := time.NewTimer(50 * time.Millisecond)
		select {
		case <-pause.C:
		case <-s.stopping:
			pause.Stop()
		}
	}
	close(closing)
	<-ended
	select {
	case c := <-back:
		s.dismiss(c)
		_ = c.fail(nil)
	default:
	}
	return err
}

// welcome counts a connection and hands it to the instance that runs.
func (s *Server) welcome(conn net.Conn, conf *tls.Config, queue chan<- *stream, closing <-chan struct{}) {
	c := &stream{Conn: conn, raw: conn, key: streamKey{addrOf(conn.RemoteAddr()), addrOf(conn.LocalAddr())}, began: time.Now(), gone: func() {}}
	if !s.admit(c) {
		s.stats.unanswered.Add(1)
		conn.Close()
		return
	}
	s.tasks.Go("turn handshake", func() {
		if conf != nil {
			ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
			defer cancel()
			secure := tls.Server(conn, conf)
			if err := secure.HandshakeContext(ctx); err != nil {
				s.dismiss(c)
				conn.Close()
				return
			}
			c.Conn = secure
		}
		select {
		case queue <- c:
		case <-closing:
			s.dismiss(c)
			_ = c.fail(nil)
		}
	})
}

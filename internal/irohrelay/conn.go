package irohrelay

import (
	"bufio"
	"crypto/rand"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// readBuffer holds a packet of the usual size. Longer ones are read past it.
const readBuffer = 2 << 10

// firstRead is how much of a long frame has to come before room is made for the
// rest: a length alone costs a client nothing.
const firstRead = 4 << 10

// writeBuffer is how much is written at once. Longer frames are written by
// themselves.
const writeBuffer = 16 << 10

var writeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, writeBuffer); return &b }}

var errSilent = errors.New("no answer to a ping")

// conn is one connection of a client.
type conn struct {
	hub  *Hub
	nc   net.Conn
	from netip.AddrPort
	once sync.Once

	// The reader's own.
	id       NodeID
	br       *bufio.Reader
	limit    *rate.Limiter
	joined   bool // the handshake is over
	last     time.Time
	idle     time.Duration
	asked    time.Time // the ping without an answer, or zero
	question [pingSize]byte
	reached  map[NodeID]struct{}
	recent   NodeID // last added to reached

	mu      sync.Mutex // guards the fields below
	closed  bool
	writing bool // a goroutine writes
	urgent  fifo // disco and control, in the order they came
	data    fifo
	waiting [3]int // frames by class
	bytes   int
}

func newConn(h *Hub, nc net.Conn, from netip.AddrPort) *conn {
	return &conn{hub: h, nc: nc, from: from, br: bufio.NewReaderSize(nc, readBuffer), limit: bucket(h.opt.Rate)}
}

// abort closes the connection at once. A goodbye over TLS would wait for a
// client that does not read.
func (c *conn) abort() {
	c.once.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.hub.waiting.Add(int64(-c.bytes))
		c.urgent, c.data, c.bytes = fifo{}, fifo{}, 0
		c.mu.Unlock()
		nc := c.nc
		for {
			below, ok := nc.(interface{ NetConn() net.Conn })
			if !ok {
				break
			}
			nc = below.NetConn()
		}
		nc.Close()
	})
}

// run serves the connection until it ends.
func (c *conn) run() {
	h, log := c.hub, c.hub.opt.Log
	if err := c.handshake(); err != nil {
		switch {
		case errors.Is(err, errDenied):
			h.count.denied.Add(1)
		case errors.Is(err, errVersion):
			h.count.otherVersion.Add(1)
		case errors.Is(err, os.ErrDeadlineExceeded):
			h.count.silent.Add(1)
		default:
			h.count.badHandshake.Add(1)
		}
		log.Debug("a client did not come in", "err", err)
		return
	}
	h.register(c)
	log.Debug("a client came", "node", c.id)
	c.joined, c.last, c.idle = true, time.Now(), c.patience()
	_ = c.nc.SetReadDeadline(c.last.Add(c.idle))
	err := c.loop()
	c.abort() // packets for it find the next connection, or none
	h.unregister(c)
	switch {
	case errors.Is(err, errSilent):
		h.count.noPong.Add(1)
	case errors.Is(err, errType), errors.Is(err, errLength), errors.Is(err, errHealth):
		h.count.badFrames.Add(1)
	}
	log.Debug("a client went", "node", c.id, "err", err)
}

var errDenied = errors.New("not allowed")

// handshake reads the frame by which a client says who it is.
func (c *conn) handshake() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(c.hub.opt.Handshake)); err != nil {
		return err
	}
	var head [HeaderSize]byte
	if err := c.fill(head[:]); err != nil {
		return err
	}
	t, n, err := parseHeader(head)
	if err != nil {
		return err
	}
	if t != ClientInfo {
		return errFirst
	}
	payload := make([]byte, n)
	if err := c.fill(payload); err != nil {
		return err
	}
	id, message, err := parseInfo(payload)
	if err != nil {
		return err
	}
	if a := c.hub.opt.Allow; a != nil && !a(id, c.from) {
		_ = c.nc.SetWriteDeadline(time.Now().Add(c.hub.opt.Write))
		_, _ = c.nc.Write(AppendFrame(nil, Health, []byte("not authenticated"))) // it is told nothing if it does not listen
		return errDenied
	}
	c.id = id
	return checkVersion(message)
}

// patience is how long a client may be silent.
func (c *conn) patience() time.Duration {
	return c.hub.opt.Idle + time.Second + mathrand.N(4*time.Second)
}

// fill reads until p is full. Deadlines on the way are appointments: they look
// whether the client lives, and what was read stays.
func (c *conn) fill(p []byte) error {
	for got := 0; got < len(p); {
		n, err := c.br.Read(p[got:])
		got += n
		if err != nil {
			if !c.joined || !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			if err := c.look(); err != nil {
				return err
			}
		}
	}
	return nil
}

// look asks a client that was silent for long whether it lives, and gives up one
// that did not answer. It makes the next appointment.
func (c *conn) look() error {
	now := time.Now()
	if !c.asked.IsZero() {
		until := c.asked.Add(c.hub.opt.Pong)
		if !now.Before(until) {
			return errSilent
		}
		return c.nc.SetReadDeadline(until)
	}
	if now.Sub(c.last) < c.idle {
		c.idle = c.patience()
		return c.nc.SetReadDeadline(c.last.Add(c.idle))
	}
	_, _ = rand.Read(c.question[:]) // never fails
	c.asked = now
	c.hub.count.asked.Add(1)
	c.enqueue(control, AppendFrame(nil, Ping, c.question[:]))
	return c.nc.SetReadDeadline(now.Add(c.hub.opt.Pong))
}

// loop reads frames until one is wrong or the connection ends.
func (c *conn) loop() error {
	for {
		frame, err := c.next()
		if err != nil {
			return err
		}
		c.last = time.Now()
		if err := c.handle(frame); err != nil {
			return err
		}
	}
}

// next reads a frame, header included, and delays the reading of more when the
// client sends too fast.
func (c *conn) next() ([]byte, error) {
	var head [HeaderSize]byte
	if err := c.fill(head[:]); err != nil {
		return nil, err
	}
	_, n, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, HeaderSize+min(n, firstRead))
	copy(frame, head[:])
	if err := c.fill(frame[HeaderSize:]); err != nil {
		return nil, err
	}
	if n > firstRead {
		all := make([]byte, HeaderSize+n)
		copy(all, frame)
		if err := c.fill(all[len(frame):]); err != nil {
			return nil, err
		}
		frame = all
	}
	c.hub.count.bytesIn.Add(int64(len(frame)))
	for _, l := range []*rate.Limiter{c.limit, c.hub.total} {
		if l == nil || l.AllowN(time.Now(), len(frame)) {
			continue
		}
		c.hub.count.throttled.Add(1)
		if err := l.WaitN(c.hub.ctx, len(frame)); err != nil {
			return nil, err
		}
	}
	return frame, nil
}

func (c *conn) handle(frame []byte) error {
	count := &c.hub.count
	switch payload := frame[HeaderSize:]; Type(frame[0]) {
	case SendPacket:
		c.forward(frame)
	case Ping:
		count.pings.Add(1)
		if c.enqueue(control, AppendFrame(nil, Pong, payload)) == taken {
			count.pongs.Add(1)
		}
	case Pong:
		if !c.asked.IsZero() && [pingSize]byte(payload) == c.question {
			c.asked = time.Time{} // the appointment that stands comes too early, and makes another
		}
	case Health:
		return errHealth
	default:
		count.ignored.Add(1)
	}
	return nil
}

// forward turns what a client sends into what the other receives, in place: both
// frames have the same length, and one name gives way to the other.
func (c *conn) forward(frame []byte) {
	count := &c.hub.count
	count.packetsIn.Add(1)
	dst := NodeID(frame[HeaderSize:])
	class := data
	if isDisco(frame[HeaderSize+len(dst):]) {
		class = disco
		count.discoIn.Add(1)
	}
	to := c.hub.find(dst)
	if to == nil {
		count.noDestination.Add(1)
		return
	}
	frame[0] = byte(RecvPacket)
	copy(frame[HeaderSize:], c.id[:])
	switch to.enqueue(class, frame) {
	case taken:
		count.packetsOut.Add(1)
		c.remember(dst)
	case tooMany:
		count.queueFull.Add(1)
	case tooLong:
		count.bytesFull.Add(1)
	case isClosed:
		count.noDestination.Add(1)
	}
}

func (c *conn) remember(dst NodeID) {
	if c.reached == nil {
		c.reached = make(map[NodeID]struct{})
	} else if dst == c.recent {
		return
	}
	if len(c.reached) < c.hub.opt.Peers {
		c.reached[dst] = struct{}{}
		c.recent = dst
	}
}

// class is what sort of frame waits.
type class int

const (
	disco   class = iota // search for a direct path: it makes the relay superfluous
	control              // what the hub itself has to say
	data
)

// outcome says what became of a frame.
type outcome int

const (
	taken outcome = iota
	tooMany
	tooLong
	isClosed
)

// enqueue lets a frame wait for being written, and never waits itself.
func (c *conn) enqueue(k class, frame []byte) outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return isClosed
	case c.waiting[k] >= c.hub.opt.Queue:
		return tooMany
	case c.bytes+len(frame) > c.hub.opt.QueueBytes:
		return tooLong
	}
	// What the hub itself has to say is short, and never more than a queue full.
	all := c.hub.waiting.Add(int64(len(frame)))
	if fits := c.bytes+len(frame) <= c.hub.share(all-int64(len(frame))) || c.bytes == 0 && all <= int64(c.hub.opt.QueueTotal); !fits && k != control {
		c.hub.waiting.Add(int64(-len(frame)))
		return tooLong
	}
	c.waiting[k]++
	c.bytes += len(frame)
	if k == data {
		c.data.push(frame, k)
	} else {
		c.urgent.push(frame, k)
	}
	if !c.writing {
		c.writing = true
		// Whoever enqueues runs in the group, so it is not being waited out.
		c.hub.group.Go("relay write", c.write)
	}
	return taken
}

// take appends frames that wait to buf while they fit. One that is too long for
// any buffer comes alone. When nothing waits the writer has ended.
func (c *conn) take(buf []byte) (filled, long []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		q := &c.urgent
		if q.len() == 0 {
			q = &c.data
		}
		if q.len() == 0 {
			break
		}
		fits := len(buf)+len(q.first()) <= cap(buf)
		if !fits && len(buf) > 0 {
			break
		}
		frame, k := q.pop()
		c.waiting[k]--
		c.bytes -= len(frame)
		c.hub.waiting.Add(int64(-len(frame)))
		if !fits {
			return buf, frame
		}
		buf = append(buf, frame...)
	}
	c.writing = len(buf) > 0
	return buf, nil
}

// write writes until nothing waits.
func (c *conn) write() {
	buf := writeBuffers.Get().(*[]byte)
	defer writeBuffers.Put(buf)
	for {
		frames, long := c.take((*buf)[:0])
		if long != nil {
			frames = long
		}
		if len(frames) == 0 || !c.send(frames) {
			return
		}
	}
}

// send writes whole frames. A client that does not take them in time is given up.
func (c *conn) send(frames []byte) bool {
	err := c.nc.SetWriteDeadline(time.Now().Add(c.hub.opt.Write))
	if err == nil {
		_, err = c.nc.Write(frames)
	}
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.hub.count.slow.Add(1)
		}
		c.abort() // nothing is enqueued any more, so no other writer begins
		return false
	}
	c.hub.count.bytesOut.Add(int64(len(frames)))
	return true
}

// fifo is frames in the order they came.
type fifo struct {
	items []waiting
	head  int
}

type waiting struct {
	frame []byte
	class class
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) first() []byte { return q.items[q.head].frame }

func (q *fifo) push(frame []byte, k class) {
	if q.head > 32 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, waiting{frame, k})
}

func (q *fifo) pop() ([]byte, class) {
	if q.len() == 0 {
		return nil, 0
	}
	w := q.items[q.head]
	q.items[q.head] = waiting{}
	if q.head++; q.head == len(q.items) {
		if cap(q.items) > 32 {
			q.items = nil
		}
		q.items, q.head = q.items[:0], 0
	}
	return w.frame, w.class
}

// ReadFrame reads one frame as a client does. It checks the type and the length.
func ReadFrame(r io.Reader) (Type, []byte, error) {
	var head [HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	t, n, err := parseHeader(head)
	if err != nil {
		return 0, nil, err
	}
	p := make([]byte, n)
	_, err = io.ReadFull(r, p)
	return t, p, err
}

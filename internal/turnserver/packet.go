package turnserver

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"madmail/internal/address"
)

// maxFaults is how many errors in a row a socket may give that do not say that
// it is closed.
const maxFaults = 1000

// maxAnswers is how many answers to strangers one source gets in a second: such
// answers are longer than the questions, and questions lie about their origin.
const maxAnswers = 30

// maxSources bounds how many sources are remembered within a second. When there
// are more, the others get no answer to what they did not sign.
const maxSources = 8192

// packet is one that came when the last instance was over.
type packet struct {
	data []byte
	from net.Addr
}

// packets is a UDP socket as one instance sees it: it ends when the socket is
// closed, or the instance.
type packets struct {
	net.PacketConn
	in     *instance
	next   *packet // for the instance that comes next, which reads when this one has ended
	closed func()  // the socket is
	once   sync.Once
	ended  chan struct{} // the library reads no more

	mu      sync.Mutex // guards the fields below
	second  time.Time
	answers map[netip.Addr]int
}

func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	for faults := 0; ; {
		n, from, err := p.take(b)
		if err == nil && !p.in.stale() {
			return n, from, nil
		}
		if err == nil {
			*p.next = packet{bytes.Clone(b[:n]), from}
			<-p.in.stop
			p.once.Do(func() { close(p.ended) })
			return 0, nil, net.ErrClosed
		}
		faults++
		over := errors.Is(err, net.ErrClosed) || faults > maxFaults
		if over {
			p.closed()
		}
		if over || p.in.stopped() {
			p.once.Do(func() { close(p.ended) })
			return 0, nil, net.ErrClosed
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = p.PacketConn.SetReadDeadline(time.Time{}) // left behind by an earlier instance
		}
	}
}

// take reads the packet that the last instance has left, or one of the socket.
func (p *packets) take(b []byte) (int, net.Addr, error) {
	if left := *p.next; left.data != nil {
		*p.next = packet{}
		return copy(b, left.data), left.from, nil
	}
	return p.PacketConn.ReadFrom(b)
}

func (p *packets) WriteTo(b []byte, to net.Addr) (int, error) {
	if toStranger(b) && !p.mayAnswer(address.Network(addrOf(to).Addr())) {
		p.in.s.stats.unanswered.Add(1)
		return len(b), nil
	}
	return p.PacketConn.WriteTo(b, to)
}

// Close is the library's; the socket belongs to whoever handed it in.
func (p *packets) Close() error { return nil }

// toStranger reports whether a packet answers what anybody can ask: an error, or
// the answer to a Binding request (RFC 8489 section 5).
func toStranger(b []byte) bool {
	return len(b) >= 2 && (b[0] == 1 && b[1]&0x10 != 0 || b[0] == 1 && b[1] == 1)
}

func (p *packets) mayAnswer(from netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.in.s.opt.Now(); now.Sub(p.second) >= time.Second || p.answers == nil {
		p.second, p.answers = now, make(map[netip.Addr]int)
	}
	n, known := p.answers[from]
	if !known && len(p.answers) >= maxSources || n >= maxAnswers {
		return false
	}
	p.answers[from] = n + 1
	return true
}

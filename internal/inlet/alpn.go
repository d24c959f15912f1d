package inlet

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"madmail/internal/task"
)

const (
	helloTime    = 10 * time.Second // for the first message of a TLS client, and to hand it over
	maxDeciding  = 8192             // connections of which it is not known yet what they want
	maxPerSource = 128              // of them, of one address or IPv6 network
)

// Splitter serves several doors on one TLS port. A client says in its first
// message which protocols it speaks (ALPN, RFC 7301); the first of them that has
// a route decides. The door does the handshake, and finds the message untouched.
type Splitter struct {
	route  func(protocol string) *Listener
	rest   *Listener
	group  task.Group
	ctx    context.Context // ends with Stop; it has no other owner
	cancel context.CancelFunc
	slots  slots
}

// NewSplitter returns a splitter that asks route for the door of a protocol, by
// its name; nil is none. All others go to rest: clients without ALPN, with other
// protocols only, and what is no TLS.
func NewSplitter(rest *Listener, route func(protocol string) *Listener) *Splitter {
	s := &Splitter{route: route, rest: rest, slots: slots{perSource: maxPerSource}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections until l is closed; then it returns nil.
func (s *Splitter) Serve(l net.Listener) error {
	return serve(l, &s.group, &s.slots, s.decide)
}

// Stop ends what is undecided and waits for it until ctx ends. Listeners are
// closed by whoever opened them, routes, too.
func (s *Splitter) Stop(ctx context.Context) error {
	s.cancel()
	return s.group.Wait(ctx)
}

func (s *Splitter) decide(conn net.Conn) {
	ctx, cancel := context.WithTimeout(s.ctx, helloTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	first, protocols := hello(conn)
	if !stop() { // too late
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	to := s.rest
	for _, p := range protocols {
		if r := s.route(p); r != nil {
			to = r
			break
		}
	}
	if err := to.Hand(ctx, again(conn, first)); err != nil {
		conn.Close()
	}
}

var errEnough = errors.New("inlet: enough was read")

// hello reads the first message of a TLS client. It returns the octets that it
// took from conn, and the protocols that the client offers.
func hello(conn net.Conn) (first []byte, protocols []string) {
	tap := &tap{Conn: conn}
	// The handshake of crypto/tls knows all ways in which this message may be
	// cut, and its limits. It is ended when the message is there.
	_ = tls.Server(tap, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		protocols = h.SupportedProtos
		return nil, errEnough
	}}).Handshake()
	return tap.read, protocols
}

// tap keeps what is read, and writes nothing: an alert would be the door's.
type tap struct {
	net.Conn
	read []byte
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.read = append(t.read, p[:n]...)
	return n, err
}

func (t *tap) Write(p []byte) (int, error)      { return len(p), nil }
func (t *tap) SetWriteDeadline(time.Time) error { return nil }
func (t *tap) Close() error                     { return nil }

// serve gives each connection of l to begin, in a goroutine that holds a place.
// When there is none the connection is closed.
func serve(l net.Listener, group *task.Group, places *slots, begin func(net.Conn)) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of descriptors, most likely: others must end first.
			pause := time.NewTimer(50 * time.Millisecond)
			<-pause.C
			continue
		}
		give := places.take(conn.RemoteAddr())
		if give == nil {
			conn.Close()
			continue
		}
		group.Go("inlet", func() {
			defer give()
			begin(conn)
		})
	}
}

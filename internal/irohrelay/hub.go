// Package irohrelay passes packets between clients that cannot reach each other:
// the relay protocol of iroh 0.35, version 3, as messengers use it for realtime
// channels of apps.
//
// It knows nothing of mail and of accounts. Keys of clients are made anew at
// each start and travel in encrypted messages only, so it cannot tell ours from
// others, and limits take the place of passwords. It cannot read what it passes
// on, keeps nothing on disk, and records nobody's contacts.
//
// A Hub is one registry of clients, however they reach it: by HTTP servers that
// mount its Handler, by listeners that it Serves. frame.go is the grammar, conn.go
// one client, http.go the way in, websocket.go the way in for browsers, stun.go
// tells clients their public address.
//
// All methods may be called from many goroutines. A client's connection has a
// goroutine that reads, and one that writes while there is something to write:
// a client that is silent costs a few kilobytes and no time.
//
// Lock order: Hub.mu before conn.mu.
package irohrelay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/task"
)

// Options make a hub. Zero values mean the defaults, negative ones no limit
// where there can be none.
type Options struct {
	Clients    int   // connections in all; 10,000
	PerAddress int   // connections of one IPv4 address or IPv6 /64, loopback aside; 64
	Handshakes int   // a second, in all, of which one address has an eighth, loopback aside; 200
	Rate       int64 // octets a second that one connection sends; 4 MiB
	TotalRate  int64 // octets a second that all send; no limit
	Queue      int   // packets that wait for one connection, of each sort; 512
	QueueBytes int   // octets that wait for one connection; 4 MiB
	QueueTotal int   // octets that wait for all connections; 64 MiB
	Standby    int   // older connections of one client that stay; 3
	Peers      int   // of one client, who are told when it is gone; 1024

	Handshake time.Duration // until a client has said who it is; 10 s
	Idle      time.Duration // silence after which a client is asked whether it lives, plus 1 to 5 s; 15 s
	Pong      time.Duration // until it has to answer; 5 s
	Write     time.Duration // until it has to take what is written; 2 s

	// Allow decides who may come in; nil lets everybody.
	Allow func(id NodeID, from netip.AddrPort) bool
	Log   *slog.Logger
}

// Check tells what is wrong with options. Errors are fault.Invalid.
func (o Options) Check() error { return o.fill() }

func (o *Options) fill() error {
	for name, v := range map[string]*struct {
		p   *int
		def int
	}{
		"Clients": {&o.Clients, 10000}, "PerAddress": {&o.PerAddress, 64}, "Handshakes": {&o.Handshakes, 200},
		"Queue": {&o.Queue, 512}, "QueueBytes": {&o.QueueBytes, 4 << 20}, "QueueTotal": {&o.QueueTotal, 64 << 20}, "Standby": {&o.Standby, 3}, "Peers": {&o.Peers, 1024},
	} {
		if *v.p == 0 {
			*v.p = v.def
		}
		if *v.p < 0 {
			if name == "Queue" || name == "Peers" {
				return fault.Newf(fault.Invalid, "irohrelay: %s cannot be %d", name, *v.p)
			}
			*v.p = math.MaxInt32
		}
	}
	for name, v := range map[string]*struct {
		p   *time.Duration
		def time.Duration
	}{
		"Handshake": {&o.Handshake, 10 * time.Second}, "Idle": {&o.Idle, 15 * time.Second}, "Pong": {&o.Pong, 5 * time.Second}, "Write": {&o.Write, 2 * time.Second},
	} {
		if *v.p == 0 {
			*v.p = v.def
		}
		if *v.p < 0 {
			return fault.Newf(fault.Invalid, "irohrelay: %s cannot be %v", name, *v.p)
		}
	}
	if least := HeaderSize + maxPayload; o.QueueBytes < least || o.QueueTotal < least {
		return fault.Newf(fault.Invalid, "irohrelay: QueueBytes %d or QueueTotal %d is less than one frame", o.QueueBytes, o.QueueTotal)
	}
	if o.Rate == 0 {
		o.Rate = 4 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Hub passes packets between the clients connected to it. Make one with New.
type Hub struct {
	opt        Options
	handler    http.Handler
	handshakes *rate.Limiter // nil: no limit
	total      *rate.Limiter // nil: no limit
	ctx        context.Context
	cancel     context.CancelFunc
	group      task.Group
	count      counters
	waiting    atomic.Int64 // octets that wait for all connections

	mu      sync.RWMutex // guards the fields below
	stopped bool
	servers map[*http.Server]struct{}
	nodes   map[NodeID]*node
	conns   map[*conn]struct{} // the ones that shake hands included
	places  int                // taken, before a connection is made too
	sources map[netip.Addr]int
	second  time.Time          // when fresh was begun
	fresh   map[netip.Addr]int // handshakes since
}

// node is one client, which may be connected more than once: it may know this
// server under several names, and opens a connection to each. Closing the older
// ones would make it open them again, without end.
type node struct {
	active  *conn
	standby []*conn             // oldest first
	reached map[NodeID]struct{} // by connections that ended
}

// New returns a hub without clients. Errors are fault.Invalid.
func New(opt Options) (*Hub, error) {
	if err := opt.fill(); err != nil {
		return nil, err
	}
	h := &Hub{
		opt: opt, servers: make(map[*http.Server]struct{}), nodes: make(map[NodeID]*node),
		conns: make(map[*conn]struct{}), sources: make(map[netip.Addr]int), fresh: make(map[netip.Addr]int),
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.group.Panicked = func(name string, v any, stack []byte) {
		opt.Log.Error("a task panicked", "task", name, "panic", fmt.Sprint(v), "stack", string(stack))
	}
	if opt.Handshakes < math.MaxInt32 {
		h.handshakes = rate.NewLimiter(rate.Limit(opt.Handshakes), opt.Handshakes)
	}
	h.total = bucket(opt.TotalRate)
	h.handler = h.routes()
	return h, nil
}

// bucket never holds less than a frame.
func bucket(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(2*perSecond, int64(HeaderSize+maxPayload)), 1<<30)))
}

// Stop closes every connection and listener and waits for what they run. It may
// be called twice.
func (h *Hub) Stop(ctx context.Context) error {
	h.mu.Lock()
	h.stopped = true
	h.cancel()
	var errs []error
	for s := range h.servers {
		if err := s.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for c := range h.conns {
		c.abort()
	}
	h.mu.Unlock()
	return errors.Join(append(errs, h.group.Wait(ctx))...)
}

// admit takes a place for a connection, or says with which HTTP status it is
// turned away. give gives the place back.
func (h *Hub) admit(from netip.AddrPort) (give func(), status int) {
	src := address.Network(from.Addr())
	h.mu.Lock()
	defer h.mu.Unlock()
	counted := !from.Addr().Unmap().IsLoopback() // there is a proxy in front: it stands for many
	switch {
	case h.stopped:
		return nil, http.StatusServiceUnavailable
	case h.places >= h.opt.Clients:
		h.count.full.Add(1)
		return nil, http.StatusServiceUnavailable
	case counted && h.sources[src] >= h.opt.PerAddress:
		h.count.perAddress.Add(1)
		return nil, http.StatusTooManyRequests
	case h.handshakes != nil && counted && h.freshOf(src) >= max(1, h.opt.Handshakes/8):
		h.count.tooFast.Add(1)
		return nil, http.StatusTooManyRequests
	case h.handshakes != nil && !h.handshakes.Allow():
		h.count.tooFast.Add(1)
		return nil, http.StatusServiceUnavailable
	}
	h.places++
	if counted {
		h.sources[src]++
		h.fresh[src]++
	}
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.places--
		if counted {
			if h.sources[src]--; h.sources[src] == 0 {
				delete(h.sources, src)
			}
		}
	}), 0
}

// freshOf is how many connections of a source began in this second. No more are
// counted than the limit on all lets in.
func (h *Hub) freshOf(src netip.Addr) int {
	if now := time.Now(); now.Sub(h.second) >= time.Second {
		h.second = now
		clear(h.fresh)
	}
	return h.fresh[src]
}

// share is how much may wait for one connection while this much waits for all: a
// sixteenth of what is free. Few slow readers have as much as they like, many
// have little, and never is everything taken.
func (h *Hub) share(waiting int64) int {
	return int(max(0, int64(h.opt.QueueTotal)-waiting) / 16)
}

// adopt starts a connection whose upgrade was answered. It reports whether it
// took it over, with its place.
func (h *Hub) adopt(nc net.Conn, from netip.AddrPort, give func()) bool {
	c := newConn(h, nc, from)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return false
	}
	h.conns[c] = struct{}{}
	h.count.accepted.Add(1)
	if _, ok := nc.(*webSocket); ok {
		h.count.browsers.Add(1)
	}
	h.group.Go("relay client", func() {
		defer give()
		defer func() {
			h.mu.Lock()
			delete(h.conns, c)
			h.mu.Unlock()
			c.abort()
			h.count.closed.Add(1)
		}()
		c.run()
	})
	return true
}

// register makes c the connection that packets for its client go to.
func (h *Hub) register(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[c.id]
	if n == nil {
		h.nodes[c.id] = &node{active: c}
		return
	}
	n.standby = append(n.standby, n.active)
	n.active = c
	if len(n.standby) > h.opt.Standby {
		h.count.evicted.Add(1)
		n.standby[0].abort()
		n.standby = slices.Delete(n.standby, 0, 1)
	}
}

// unregister forgets c. With the last connection of a client the client is gone,
// and those who heard from it are told.
func (h *Hub) unregister(c *conn) {
	h.mu.Lock()
	n := h.nodes[c.id]
	if n == nil {
		h.mu.Unlock()
		return
	}
	if n.reached == nil {
		n.reached = c.reached
	} else {
		for id := range c.reached {
			if len(n.reached) < h.opt.Peers {
				n.reached[id] = struct{}{}
			}
		}
	}
	switch i := slices.Index(n.standby, c); {
	case i >= 0:
		n.standby = slices.Delete(n.standby, i, i+1)
	case n.active != c: // it had to make room
	case len(n.standby) > 0:
		n.active = n.standby[len(n.standby)-1]
		n.standby = n.standby[:len(n.standby)-1]
	default:
		n.active = nil
		delete(h.nodes, c.id)
	}
	var tell []*conn
	if n.active == nil {
		for id := range n.reached {
			if p := h.nodes[id]; p != nil {
				tell = append(tell, p.active)
			}
		}
	}
	h.mu.Unlock()
	for _, to := range tell {
		if to.enqueue(control, AppendFrame(nil, NodeGone, c.id[:])) == taken {
			h.count.gone.Add(1)
		}
	}
}

// find returns the connection that packets for id go to, or nil.
func (h *Hub) find(id NodeID) *conn {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if n := h.nodes[id]; n != nil {
		return n.active
	}
	return nil
}

// counters are what a hub did since it was made.
type counters struct {
	accepted, browsers, closed, evicted                   atomic.Int64
	full, perAddress, tooFast                             atomic.Int64
	badHandshake, denied, otherVersion, silent            atomic.Int64
	badFrames, ignored, pings, pongs, asked, noPong, slow atomic.Int64
	bytesIn, bytesOut, packetsIn, packetsOut, discoIn     atomic.Int64
	noDestination, queueFull, bytesFull, gone, throttled  atomic.Int64
	stun4, stun6, stunBad, stunTooMany                    atomic.Int64
}

// Stats is how a hub is, and what it did since it was made.
type Stats struct {
	Connections int `json:"connections"` // now
	Nodes       int `json:"nodes"`       // clients, now

	Waiting int `json:"waiting"` // octets that wait to be written, now

	Accepted        int64 `json:"accepted"`
	AcceptedWS      int64 `json:"accepted_websocket"` // of those
	Closed          int64 `json:"closed"`
	Evicted         int64 `json:"evicted"`          // older connections of one client that made room
	RefusedFull     int64 `json:"refused_full"`     // by the limit on all connections
	RefusedAddress  int64 `json:"refused_address"`  // by the limit on one address
	RefusedRate     int64 `json:"refused_rate"`     // by the limit on handshakes
	BadHandshakes   int64 `json:"bad_handshakes"`   // malformed, or not signed
	Denied          int64 `json:"denied"`           // by Allow
	OtherVersions   int64 `json:"other_versions"`   // of the protocol
	SilentHandshake int64 `json:"silent_handshake"` // in time

	BytesIn    int64 `json:"bytes_in"`
	BytesOut   int64 `json:"bytes_out"`
	PacketsIn  int64 `json:"packets_in"`
	PacketsOut int64 `json:"packets_out"` // queued for their destination
	DiscoIn    int64 `json:"disco_in"`    // of packets in: search for a direct path
	Throttled  int64 `json:"throttled"`   // frames that were read late

	DroppedNoDestination int64 `json:"dropped_no_destination"`
	DroppedQueueFull     int64 `json:"dropped_queue_full"`
	DroppedBytesFull     int64 `json:"dropped_bytes_full"`

	Pings        int64 `json:"pings"` // of clients
	Pongs        int64 `json:"pongs"` // to them
	Asked        int64 `json:"asked"` // pings to silent clients
	NoPong       int64 `json:"no_pong"`
	SlowWrites   int64 `json:"slow_writes"` // clients that did not take what was written
	BadFrames    int64 `json:"bad_frames"`
	Ignored      int64 `json:"ignored"`
	GoneMessages int64 `json:"gone_messages"`

	STUN4       int64 `json:"stun_v4"` // answers
	STUN6       int64 `json:"stun_v6"`
	STUNBad     int64 `json:"stun_bad"`      // what is no request
	STUNRefused int64 `json:"stun_too_many"` // requests over the limit of their source
}

// Stats returns how the hub is.
func (h *Hub) Stats() Stats {
	h.mu.RLock()
	conns, nodes := len(h.conns), len(h.nodes)
	h.mu.RUnlock()
	c := &h.count
	return Stats{
		Connections: conns, Nodes: nodes, Waiting: int(h.waiting.Load()),
		Accepted: c.accepted.Load(), AcceptedWS: c.browsers.Load(), Closed: c.closed.Load(), Evicted: c.evicted.Load(), RefusedFull: c.full.Load(), RefusedAddress: c.perAddress.Load(),
		RefusedRate: c.tooFast.Load(), BadHandshakes: c.badHandshake.Load(), Denied: c.denied.Load(), OtherVersions: c.otherVersion.Load(), SilentHandshake: c.silent.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), PacketsIn: c.packetsIn.Load(), PacketsOut: c.packetsOut.Load(), DiscoIn: c.discoIn.Load(),
		Throttled: c.throttled.Load(), DroppedNoDestination: c.noDestination.Load(), DroppedQueueFull: c.queueFull.Load(), DroppedBytesFull: c.bytesFull.Load(),
		Pings: c.pings.Load(), Pongs: c.pongs.Load(), Asked: c.asked.Load(), NoPong: c.noPong.Load(), SlowWrites: c.slow.Load(), BadFrames: c.badFrames.Load(),
		Ignored: c.ignored.Load(), GoneMessages: c.gone.Load(),
		STUN4: c.stun4.Load(), STUN6: c.stun6.Load(), STUNBad: c.stunBad.Load(), STUNRefused: c.stunTooMany.Load(),
	}
}

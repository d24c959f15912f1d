// Package webimap is the door for browsers: reading by requests and WebSocket
// below /webimap, sending by the same and by POST /websmtp/send. Every request
// shows address and password; a socket does so once.
//
// It turns JSON into calls of the store and into envelopes for the one intake, and
// turns answers into JSON. It owns no mail and no accounts. Reading never sets \Seen.
//
// Messages pass in both directions as a stream: a body goes to the spool while it is
// read, and from the file to the connection while it is sent, so that neither takes
// memory. What a client may have under way is bounded: see the limits below. A
// socket that waits has one goroutine; what wakes it is the event bus.
//
// All methods may be called from many goroutines. The lock of the Handler is held
// while a session is entered, left or ended; it is never held over the network.
package webimap

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"madmail/internal/address"
	"madmail/internal/auth"
	"madmail/internal/caller"
	"madmail/internal/delivery"
	"madmail/internal/event"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/task"
)

// Limits of this door.
const (
	MaxSockets  = 50               // of one account
	maxRequests = 50               // of one account under way at a time, outside sockets
	inFlight    = 8                // requests of one socket
	maxStrange  = 1024             // sockets that have not said yet whose they are
	maxText     = 512 << 10        // of a request, the message aside
	maxWait     = 2 * time.Minute  // of a request that waits for mail
	loginTime   = 10 * time.Second // for the first message of a socket that has to log in
	pingEvery   = 30 * time.Second
	deadAfter   = time.Minute      // without any traffic
	stall       = time.Minute      // without any progress of what is read or sent
	work        = 55 * time.Second // for what the store does
	storing     = 10 * time.Minute // for a message that was read
)

// Auth verifies logins.
type Auth interface {
	// Login decides who user is, and makes an account for somebody new where that is
	// allowed. Every refusal is fault.Denied.
	Login(ctx context.Context, user string, password []byte, remote netip.Addr) (auth.Identity, error)
	// Allowed reports whether an account that logged in may stay.
	Allowed(a address.Addr) bool
}

// Intake takes messages.
type Intake interface {
	Check(ctx context.Context, e *delivery.Envelope, to address.Addr) error
	Accept(ctx context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error)
}

// Options are what New needs. All but Logger must be set. The functions are called
// from many goroutines and read memory only.
type Options struct {
	Auth   Auth
	Store  mailbox.Store
	Bus    *event.Bus
	Intake Intake
	// Reading and Sending say what is switched on.
	Reading, Sending func() bool
	// Origins are those whose pages may call from elsewhere; "*" stands for all.
	Origins func() []string
	// HasRoom reports whether an account may store n octets more.
	HasRoom func(a address.Addr, n int64) bool
	// MaySend counts a message of an account, and reports whether it may send one now.
	MaySend func(a address.Addr) bool
	// MaxSize is the size limit of a message, in octets.
	MaxSize       func() int64
	MaxRecipients int
	Logger        *slog.Logger
}

// Stats are counts since the start, but for Sockets and Waiting, which are of now.
type Stats struct {
	Sockets      int   // that are open
	Waiting      int   // requests that wait for mail
	Requests     int64 // with a login that was right, those of sockets aside
	Opened       int64 // sockets
	FailedLogins int64
	Pushed       int64 // messages that sockets were told of
	Sent         int64 // messages taken
	Refused      int64 // messages not taken
	Slow         int64 // sockets and answers cut off because nobody read them
	Silent       int64 // sockets closed because nothing came
	Full         int64 // requests and sockets over a limit
}

// Handler serves the door.
type Handler struct {
	Options
	mux      *http.ServeMux
	failures caller.Failures
	searches chan struct{} // a search costs much: as many as there are processors
	strange  chan struct{}
	group    task.Group

	waiting                                                                       atomic.Int64
	requests, opened, failedLogins, pushed, sent, refused, slow, silent, overFull atomic.Int64

	mu       sync.Mutex // guards the fields below
	stopping bool
	sessions map[*session]struct{}
	byOwner  map[address.Addr]load
}

// load is what one account has under way.
type load struct{ sockets, requests int }

// session is a socket, or a request under way.
type session struct {
	account address.Addr // zero for a socket that has not logged in
	socket  *socket      // nil for a request
	// ctx ends with the session: what is done for it stops then.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Why a session ended. None of them is trouble.
var (
	errEnded    = errors.New("webimap: the sessions of this account were ended")
	errStopping = errors.New("webimap: the server stops")
	errLeft     = errors.New("webimap: the session is over")
)

// New returns the door.
func New(o Options) (*Handler, error) {
	if o.Auth == nil || o.Store == nil || o.Bus == nil || o.Intake == nil || o.Reading == nil || o.Sending == nil || o.Origins == nil ||
		o.HasRoom == nil || o.MaySend == nil || o.MaxSize == nil || o.MaxRecipients <= 0 {
		return nil, errors.New("webimap: an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{
		Options: o, searches: make(chan struct{}, runtime.GOMAXPROCS(0)), strange: make(chan struct{}, maxStrange),
		sessions: make(map[*session]struct{}), byOwner: make(map[address.Addr]load),
	}
	h.group.Panicked = func(name string, value any, stack []byte) {
		h.Logger.Error("a session panicked", "what", name, "panic", value, "stack", string(stack))
	}
	h.mux = h.routes()
	return h, nil
}

// Owns reports whether a path is of this door.
func Owns(path string) bool {
	for _, p := range []string{"/webimap", "/websmtp"} {
		if rest, ok := strings.CutPrefix(path, p); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	// Sending has a switch of its own, also where it is done below /webimap.
	on := h.Reading
	if r.URL.Path == "/webimap/send" || !strings.HasPrefix(r.URL.Path, "/webimap") {
		on = h.Sending
	}
	if !on() {
		notFound(w, r)
		return
	}
	allowed := h.cross(w, r)
	if r.Method == http.MethodOptions {
		if !allowed {
			refuse(w, refusal{http.StatusForbidden, "origin not allowed", ""})
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// Stats returns the counts.
func (h *Handler) Stats() Stats {
	s := Stats{
		Waiting: int(h.waiting.Load()), Requests: h.requests.Load(), Opened: h.opened.Load(), FailedLogins: h.failedLogins.Load(), Pushed: h.pushed.Load(),
		Sent: h.sent.Load(), Refused: h.refused.Load(), Slow: h.slow.Load(), Silent: h.silent.Load(), Full: h.overFull.Load(),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.sessions {
		if x.socket != nil {
			s.Sockets++
		}
	}
	return s
}

// Each calls f with every socket: its remote address, and the port of ours that it
// came to.
func (h *Handler) Each(f func(remote netip.Addr, port int)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.sessions {
		if x.socket != nil {
			f(x.socket.remote, x.socket.port)
		}
	}
}

// login decides whose a request is. The second result is what it gets otherwise.
func (h *Handler) login(r *http.Request, email string, password []byte) (address.Addr, *refusal) {
	defer clear(password)
	who, _ := caller.Of(r)
	if h.failures.Full(who, time.Now()) {
		h.overFull.Add(1)
		return address.Addr{}, &refusal{http.StatusTooManyRequests, "too many failures, try again later", ""}
	}
	id, err := h.Auth.Login(r.Context(), email, password, who)
	if err != nil {
		if !fault.Is(err, fault.Denied) {
			x := h.refusal(err, reading)
			return address.Addr{}, &x
		}
		h.failures.Count(who, time.Now())
		h.failedLogins.Add(1)
		return address.Addr{}, &wrong
	}
	return id.Account, nil
}

// enter begins a session. It fails when the account has too many, and when it was
// blocked or removed meanwhile: nobody would end the session then.
func (h *Handler) enter(ctx context.Context, a address.Addr, s *socket) (*session, *refusal) {
	x := &session{account: a, socket: s}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	h.mu.Lock()
	l := h.byOwner[a]
	switch {
	case h.stopping:
		h.mu.Unlock()
		x.cancel(errStopping)
		return nil, &refusal{http.StatusServiceUnavailable, "the server is stopping", ""}
	case a.IsZero():
	case s == nil && l.requests >= maxRequests, s != nil && l.sockets >= MaxSockets:
		h.mu.Unlock()
		x.cancel(errLeft)
		h.overFull.Add(1)
		return nil, &refusal{http.StatusTooManyRequests, "too many sessions of this account", ""}
	case s == nil:
		l.requests++
		h.byOwner[a] = l
	default:
		l.sockets++
		h.byOwner[a] = l
	}
	h.sessions[x] = struct{}{}
	h.mu.Unlock()
	if !a.IsZero() && !h.Auth.Allowed(a) {
		h.leave(x)
		return nil, &wrong
	}
	return x, nil
}

// leave ends a session that was entered. It may be called twice.
func (h *Handler) leave(x *session) {
	x.cancel(errLeft)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.sessions[x]; !ok {
		return
	}
	delete(h.sessions, x)
	if x.account.IsZero() {
		return
	}
	l := h.byOwner[x.account]
	if x.socket == nil {
		l.requests--
	} else {
		l.sockets--
	}
	if l == (load{}) {
		delete(h.byOwner, x.account)
	} else {
		h.byOwner[x.account] = l
	}
}

// EndSessions ends the sockets and the requests under way of an account.
func (h *Handler) EndSessions(a address.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.sessions {
		if x.account == a {
			h.endLocked(x, errEnded)
		}
	}
}

// CloseReading ends all sockets and waiting requests: reading was switched off.
func (h *Handler) CloseReading() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for x := range h.sessions {
		h.endLocked(x, errLeft)
	}
}

func (h *Handler) endLocked(x *session, why error) {
	x.cancel(why)
	if x.socket != nil {
		code, text := websocket.StatusPolicyViolation, "this session was ended"
		if errors.Is(why, errStopping) {
			code, text = websocket.StatusGoingAway, "the server is stopping"
		}
		x.socket.end(code, text)
	}
}

// Stop ends all sessions and waits for them, until ctx ends; then it closes what is
// left. It may be called twice.
func (h *Handler) Stop(ctx context.Context) error {
	h.mu.Lock()
	h.stopping = true
	for x := range h.sessions {
		h.endLocked(x, errStopping)
	}
	h.mu.Unlock()
	err := h.group.Wait(ctx)
	if err == nil {
		return nil
	}
	h.mu.Lock()
	for x := range h.sessions {
		if x.socket != nil {
			x.socket.kill()
		}
	}
	h.mu.Unlock()
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(err, h.group.Wait(last))
}

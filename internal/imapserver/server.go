// Package imapserver speaks IMAP4rev1 with clients: sessions on the ports 143
// (STARTTLS) and 993 (TLS), one file per command or family of commands.
//
// A session knows states, their order, limits and responses. Logins are
// verified by Authenticator, messages come in through Appender, mailboxes are
// those of mailbox.Store. It does not know files, SQL or other doors.
//
// A connection has a goroutine while it works. While it waits, in IDLE or for
// long between commands, it holds no buffers and, on Linux, no goroutine:
// package readable says when its client speaks (park.go).
package imapserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/auth"
	"madmail/internal/event"
	"madmail/internal/imap"
	"madmail/internal/inlet"
	"madmail/internal/mailbox"
	"madmail/internal/readable"
	"madmail/internal/task"
)

// Mode says which of the two services a listener offers.
type Mode uint8

// The modes.
const (
	STARTTLS Mode = iota // port 143
	TLS                  // port 993
)

// Authenticator verifies logins.
type Authenticator interface {
	Login(ctx context.Context, user string, password []byte, remote netip.Addr) (auth.Identity, error)
	// Allowed reports whether an account that logged in may stay. A session asks
	// once it can be found by EndSessions, so that a ban in between meets it.
	Allowed(a address.Addr) bool
}

// Appender takes the messages of APPEND and REPLACE.
type Appender interface {
	// Spool takes one message. It reads r to its end, unless it fails. The caller
	// closes the body.
	Spool(ctx context.Context, t mailbox.Target, r io.Reader, size int64) (mailbox.Arrival, error)
	// Commit puts what Spool took into a mailbox, and removes the message replaced
	// when it is not nil, all or nothing. It returns when that is durable.
	Commit(ctx context.Context, to mailbox.Box, list []mailbox.Arrival, replaced *mailbox.Ref) ([]mailbox.Placed, error)
}

// Quota tells what an account uses, in octets; limit is math.MaxInt64 for none.
type Quota interface {
	Usage(a address.Addr) (used, messages, limit int64)
}

// Metadata keeps annotations (RFC 5464). Mailbox "" is the server's. Names of entries
// are in lower case.
type Metadata interface {
	// Get returns a value; ok is false where there is none.
	Get(ctx context.Context, a address.Addr, mailbox, entry string) (value string, ok bool, err error)
	// Entries names the entries that are there, each with a text that is another one
	// when somebody has set another value.
	Entries(ctx context.Context, a address.Addr, mailbox string) (map[string]string, error)
	// Set sets and removes, all or nothing. fault.Full stands for too many entries,
	// fault.TooBig for a value too long.
	Set(ctx context.Context, a address.Addr, mailbox string, list []imap.Annotation) error
}

// Options configure a server. Auth, Store, Append, Bus and Quota are required.
type Options struct {
	Auth     Authenticator
	Store    mailbox.Store
	Append   Appender
	Bus      *event.Bus
	Quota    Quota
	Metadata Metadata // nil: none is offered
	// TLS is used for STARTTLS and for mode TLS; nil offers neither.
	TLS *tls.Config
	// Hostname is said in the greeting.
	Hostname func() string
	// MaxAppend is the size limit of a message of an account, in octets; that of the
	// zero address is the server's.
	MaxAppend func(address.Addr) int64
	// Tokens are further capabilities after login, such as XCHATMAIL.
	Tokens func() []string
	// AllowInsecureAuth lets clients log in before TLS.
	AllowInsecureAuth bool
	// NoCompress withholds COMPRESS=DEFLATE.
	NoCompress bool

	// Limits returns the limits of the moment; nil means DefaultLimits.
	Limits func() Limits

	MaxErrors       int           // bad commands of one session; 50
	MaxAuthFailures int           // of one session; 5
	LoginTimeout    time.Duration // before login; 1 minute
	IdleTimeout     time.Duration // between commands; 30 minutes (RFC 3501 section 5.4)
	KeepAlive       time.Duration // between words in IDLE; 2 minutes
	ReadTimeout     time.Duration // within a command; 1 minute

	Logger *slog.Logger
}

// Limits are what one client may take. All are positive.
type Limits struct {
	Sessions   int // in all
	PerAddress int // sessions of one remote address
	PerAccount int // sessions of one account
	Command    int // octets of a command without its literals
	Literals   int // octets of a command's literals, the messages of APPEND aside
	Nesting    int // of search keys
}

// DefaultLimits fit every client that we know, with room.
var DefaultLimits = Limits{Sessions: 20_000, PerAddress: 2000, PerAccount: 64, Command: imap.MaxLine, Literals: 64 << 10, Nesting: imap.MaxNesting}

func (o *Options) fill() error {
	switch {
	case o.Auth == nil || o.Store == nil || o.Append == nil || o.Bus == nil || o.Quota == nil:
		return errors.New("imapserver: Auth, Store, Append, Bus and Quota are required")
	}
	if o.Hostname == nil {
		o.Hostname = func() string { return "" }
	}
	if o.MaxAppend == nil {
		o.MaxAppend = func(address.Addr) int64 { return 100 << 20 }
	}
	if o.Tokens == nil {
		o.Tokens = func() []string { return nil }
	}
	num := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	if o.Limits == nil {
		o.Limits = func() Limits { return DefaultLimits }
	}
	num(&o.MaxErrors, 50)
	num(&o.MaxAuthFailures, 5)
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	dur(&o.LoginTimeout, time.Minute)
	dur(&o.IdleTimeout, 30*time.Minute)
	dur(&o.KeepAlive, 2*time.Minute)
	dur(&o.ReadTimeout, time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Server serves IMAP on listeners it is handed. Make one with New.
type Server struct {
	opt    Options
	group  task.Group
	woken  task.Crew                       // runs sessions that were parked
	poller atomic.Pointer[readable.Poller] // nil: sessions keep their goroutines
	once   sync.Once

	mu        sync.Mutex // guards the fields below
	sessions  map[*session]struct{}
	byAddr    map[netip.Addr]int
	byAccount map[address.Addr]int
	stopping  bool

	logins, failedLogins atomic.Int64
	commands             map[string]*atomic.Int64 // by name; never changed after New
	refusing             atomic.Int64             // connections, now
}

// Stats are counts since the start.
type Stats struct {
	Sessions, Idle       int // now
	Parked               int // of them, without a goroutine
	Logins, FailedLogins int64
	Commands             map[string]int64 // by name; "other" are those that are unknown
}

const otherCommand = "other"

// count counts a command.
func (s *Server) count(name string) {
	n, ok := s.commands[name]
	if !ok {
		n = s.commands[otherCommand]
	}
	n.Add(1)
}

// New checks opt and returns a server without listeners.
func New(opt Options) (*Server, error) {
	if err := opt.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		opt:       opt,
		sessions:  make(map[*session]struct{}),
		byAddr:    make(map[netip.Addr]int),
		byAccount: make(map[address.Addr]int),
	}
	s.group.Panicked = func(_ string, v any, stack []byte) {
		opt.Logger.Error("an IMAP session panicked", "panic", fmt.Sprint(v), "stack", string(stack))
	}
	s.woken.Panicked = s.group.Panicked
	s.commands = map[string]*atomic.Int64{otherCommand: new(atomic.Int64)}
	for name := range handlers {
		s.commands[name] = new(atomic.Int64)
	}
	return s, nil
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Sessions: len(s.sessions), Logins: s.logins.Load(), FailedLogins: s.failedLogins.Load(), Commands: make(map[string]int64, len(s.commands))}
	for name, n := range s.commands {
		st.Commands[name] = n.Load()
	}
	for c := range s.sessions {
		if c.idling.Load() {
			st.Idle++
		}
		c.mu.Lock()
		if c.parked {
			st.Parked++
		}
		c.mu.Unlock()
	}
	return st
}

// Each calls f with every session: its remote address, and the port of ours that it
// came to.
func (s *Server) Each(f func(remote netip.Addr, port int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		port := 0
		c.mu.Lock()
		if a, ok := c.conn.LocalAddr().(*net.TCPAddr); ok {
			port = a.Port
		}
		c.mu.Unlock()
		f(c.remote, port)
	}
}

// Serve accepts connections until l is closed or the server stops; then it
// returns nil. Sessions live on until Stop.
func (s *Server) Serve(l net.Listener, mode Mode) error {
	s.once.Do(func() {
		p, err := readable.New()
		if err == nil {
			s.poller.Store(p)
		} else if !errors.Is(err, readable.ErrUnsupported) {
			s.opt.Logger.Warn("idle sessions keep their goroutines", "err", err)
		}
	})
	inlet.Accept(l, s.isStopping, func(err error) { s.opt.Logger.Warn("accept failed", "err", err) }, func(conn net.Conn) { s.start(conn, mode) })
	return nil
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

func (s *Server) start(conn net.Conn, mode Mode) {
	c := newSession(s, conn)
	s.mu.Lock()
	limits := s.opt.Limits()
	full := s.stopping || len(s.sessions) >= limits.Sessions || s.byAddr[c.remote] >= limits.PerAddress
	if !full {
		s.sessions[c] = struct{}{}
		s.byAddr[c.remote]++
	}
	s.mu.Unlock()
	if full {
		if s.refusing.Add(1) > maxRefusals {
			s.refusing.Add(-1)
			conn.Close()
			return
		}
		s.group.Go("refuse", func() {
			defer s.refusing.Add(-1)
			c.refuse(mode)
		})
		return
	}
	s.group.Go("handshake", func() {
		if mode == TLS && !c.handshake() {
			c.close()
			return
		}
		// A goroutine of its own for what follows: the handshake grew this one's stack.
		s.group.Go("session", func() {
			c.greet()
			s.serve(c, false)
		})
	})
}

// maxRefusals bounds the connections that are told at one time why they are refused:
// with TLS that takes a handshake. Others are closed without a word.
const maxRefusals = 32

// refuse says that there is no room, and closes.
func (c *session) refuse(mode Mode) {
	defer func() { c.conn.Close() }()
	if c.conn.SetDeadline(time.Now().Add(2*time.Second)) != nil || mode == TLS && !c.handshake() {
		return
	}
	c.put("* BYE [UNAVAILABLE] Too many connections, try again later\r\n")
	if c.flush() == nil {
		c.part()
	}
	c.out.release()
}

// serve runs a session until it ends or is parked.
func (s *Server) serve(c *session, resumed bool) {
	parked := false
	defer func() {
		if !parked { // also after a panic
			c.close()
		}
	}()
	parked = c.run(resumed)
}

// enter counts a login and reports whether the account may have one more session.
func (s *Server) enter(a address.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byAccount[a] >= s.opt.Limits().PerAccount {
		return false
	}
	s.byAccount[a]++
	return true
}

func (s *Server) remove(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.sessions[c]; !ok {
		return
	}
	delete(s.sessions, c)
	if s.byAddr[c.remote]--; s.byAddr[c.remote] <= 0 {
		delete(s.byAddr, c.remote)
	}
	if a := c.account(); !a.IsZero() {
		if s.byAccount[a]--; s.byAccount[a] <= 0 {
			delete(s.byAccount, a)
		}
	}
}

// MetadataChanged says that annotations of the server may have changed.
func (s *Server) MetadataChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		c.mu.Lock()
		if c.noted {
			c.stirred = true
			c.interrupt()
		}
		c.mu.Unlock()
	}
}

// EndSessions ends the sessions that are logged in as a.
func (s *Server) EndSessions(a address.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		if c.account() == a {
			c.end("This account's sessions were ended")
		}
	}
}

// Stop says BYE to all sessions and waits for them, until ctx ends; then it
// closes what is left. It may be called twice.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	for c := range s.sessions {
		c.end("The server is stopping")
	}
	s.mu.Unlock()
	err := s.wait(ctx)
	if err == nil {
		return s.stopPoller()
	}
	s.mu.Lock()
	for c := range s.sessions {
		c.conn.Close()
	}
	s.mu.Unlock()
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(err, s.wait(last), s.stopPoller())
}

func (s *Server) wait(ctx context.Context) error {
	return errors.Join(s.group.Wait(ctx), s.woken.Wait(ctx))
}

func (s *Server) stopPoller() error {
	s.once.Do(func() {}) // a listener that comes late finds none
	if p := s.poller.Swap(nil); p != nil {
		return p.Close()
	}
	return nil
}

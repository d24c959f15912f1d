// Package smtpserver speaks SMTP with clients and other servers: sessions on
// the ports 25 (MX), 587 (submission with STARTTLS) and 465 (submission over TLS).
//
// A session knows states, their order, limits and replies. Whether a login is
// good, a recipient may be named and a message may pass is asked of the flows
// behind Authenticator and Intake. It does not know files, SQL or other doors.
//
// Each connection is one goroutine. While it waits for a command it holds no
// buffer.
package smtpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/auth"
	"madmail/internal/delivery"
	"madmail/internal/inlet"
	"madmail/internal/smtp"
	"madmail/internal/task"
	"madmail/internal/throttle"
)

// Mode says which of the three services a listener offers.
type Mode uint8

// The modes.
const (
	MX            Mode = iota // other servers, port 25: no login, local recipients
	Submission                // clients, port 587: STARTTLS, then login
	SubmissionTLS             // clients, port 465: TLS from the start
)

// Authenticator verifies logins.
type Authenticator interface {
	Login(ctx context.Context, user string, password []byte, remote netip.Addr) (auth.Identity, error)
	// Allowed reports whether an account that logged in may stay. A session asks
	// once it can be found by EndSessions, so that a ban in between meets it.
	Allowed(a address.Addr) bool
}

// Intake takes messages.
type Intake interface {
	// Check is asked for each recipient; it reads memory only.
	Check(ctx context.Context, e *delivery.Envelope, to address.Addr) error
	// Accept reads the message and returns when it is durable. An error of r
	// drops the message.
	Accept(ctx context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error)
}

// Options configure a server. Auth, Intake and Hostname are required.
type Options struct {
	Auth     Authenticator
	Intake   Intake
	Hostname func() string
	// TLS is used for STARTTLS and for SubmissionTLS; nil offers neither.
	TLS *tls.Config
	// MaxSize is the limit of a message, in octets, announced as SIZE.
	MaxSize func(Mode) int64
	// AllowInsecureAuth lets clients log in before TLS.
	AllowInsecureAuth bool

	// Doors are what differs between port 25 and submission, in this order.
	Doors [2]Door

	MaxRecipients   int           // per transaction; 20,000
	MaxSessions     int           // in all; 10,000
	MaxPerAddress   int           // sessions of one remote address; 1,000
	MaxErrors       int           // bad commands of one session; 20
	MaxAuthFailures int           // of one session; 3
	IdleTimeout     time.Duration // waiting for a command; 5 minutes
	WriteTimeout    time.Duration // for sending replies; 1 minute
	GreetTimeout    time.Duration // handshake, and the first command; 30 s
	DataTimeout     time.Duration // without any octet of a message; 1 minute
	MinRate         int64         // octets a second of a message, after 30 s; 1024
	MessageTimeout  time.Duration // for all of a message, however steadily it comes; 2 hours
	TurnTime        time.Duration // for waiting until the limits let a message begin; 5 s
	AcceptTimeout   time.Duration // for storing a message after its end; 50 s

	// RatePerMinute and RateBurst bound the messages of one sender; 0 is off.
	RatePerMinute, RateBurst int

	Logger *slog.Logger
	Now    func() time.Time
}

// Door are values of one kind of port. Zero values are those of the Options.
type Door struct {
	MaxRecipients             int
	IdleTimeout, WriteTimeout time.Duration
	// Limits are how many messages may be in progress or begin. A message waits for
	// its turn.
	Limits throttle.Rules
	// RefuseSender says at MAIL what is wrong with a sender, where the clients of
	// earlier versions expected it.
	RefuseSender bool
}

func (o *Options) fill() error {
	switch {
	case o.Auth == nil:
		return errors.New("smtpserver: Options.Auth is nil")
	case o.Intake == nil:
		return errors.New("smtpserver: Options.Intake is nil")
	case o.Hostname == nil:
		return errors.New("smtpserver: Options.Hostname is nil")
	}
	if o.MaxSize == nil {
		o.MaxSize = func(Mode) int64 { return 100 << 20 }
	}
	num := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	num(&o.MaxRecipients, 20000)
	num(&o.MaxSessions, 10000)
	num(&o.MaxPerAddress, 1000)
	num(&o.MaxErrors, 20)
	num(&o.MaxAuthFailures, 3)
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	dur(&o.IdleTimeout, 5*time.Minute)
	dur(&o.WriteTimeout, time.Minute)
	dur(&o.TurnTime, 5*time.Second)
	dur(&o.GreetTimeout, 30*time.Second)
	dur(&o.DataTimeout, time.Minute)
	dur(&o.AcceptTimeout, 50*time.Second)
	dur(&o.MessageTimeout, 2*time.Hour)
	for i := range o.Doors {
		num(&o.Doors[i].MaxRecipients, o.MaxRecipients)
		dur(&o.Doors[i].IdleTimeout, o.IdleTimeout)
		dur(&o.Doors[i].WriteTimeout, o.WriteTimeout)
	}
	if o.MinRate == 0 {
		o.MinRate = 1024
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Server serves SMTP on listeners it is handed. Make one with New.
type Server struct {
	opt   Options
	group task.Group
	rate  *limiter[address.Addr]
	peers *limiter[netip.Addr] // networks of other servers
	turns [2]*throttle.Throttle
	seed  maphash.Seed
	quit  context.Context // ends when the server stops
	end   context.CancelFunc

	mu       sync.Mutex // guards the fields below
	sessions map[*session]struct{}
	byAddr   map[netip.Addr]int
	seen     map[uint64]struct{} // who came to port 25 since the start
	stopping bool

	stats counters
}

type counters struct {
	accepted, refused, logins, failedLogins, panics atomic.Int64

	by [2]struct{ started, completed, aborted, deferred, failedLogins atomic.Int64 } // port 25, submission

	mu     sync.Mutex // guards the field below
	failed map[FailedCommand]int64
}

// maxFailed bounds the table of failed commands; there are some dozens.
const maxFailed = 500

// FailedCommand is a command that got a refusal.
type FailedCommand struct {
	Submission bool   // else port 25
	Command    string // MAIL, RCPT or DATA
	Code       int
	Enhanced   string // as in "5.1.1", or ""
}

// Transactions are counts of one kind of port.
type Transactions struct {
	Started, Completed, Aborted, Deferred, FailedLogins int64
	Sessions                                            int // open now
}

// module is 0 for port 25 and 1 for submission.
func (c *session) module() int {
	if c.mode == MX {
		return 0
	}
	return 1
}

// count notes the reply to a command.
func (c *session) count(verb string, r smtp.Reply) {
	if verb == "BDAT" {
		verb = "DATA"
	}
	switch {
	case verb != "MAIL" && verb != "RCPT" && verb != "DATA":
	case r.Positive():
		if verb == "MAIL" {
			c.srv.stats.by[c.module()].started.Add(1)
		}
	case r.Code > 0:
		s := &c.srv.stats
		s.mu.Lock()
		defer s.mu.Unlock()
		k := FailedCommand{c.module() == 1, verb, r.Code, r.Enhanced}
		if _, known := s.failed[k]; !known && len(s.failed) >= maxFailed {
			return
		}
		if s.failed == nil {
			s.failed = make(map[FailedCommand]int64)
		}
		s.failed[k]++
	}
}

// Stats are counts since the start.
type Stats struct {
	Sessions     int // open now
	Seen         int // addresses that connected to port 25; it stops at 100,000
	Accepted     int64
	Refused      int64 // messages
	Logins       int64
	FailedLogins int64
	MX           Transactions // port 25
	Submission   Transactions
	Failed       map[FailedCommand]int64
}

// New checks opt and returns a server without listeners.
func New(opt Options) (*Server, error) {
	if err := opt.fill(); err != nil {
		return nil, err
	}
	s := &Server{
		opt:      opt,
		sessions: make(map[*session]struct{}),
		byAddr:   make(map[netip.Addr]int),
		seen:     make(map[uint64]struct{}),
		seed:     maphash.MakeSeed(),
		rate:     newLimiter[address.Addr](opt.RatePerMinute, opt.RateBurst),
		peers:    newLimiter[netip.Addr](peerPerMinute, peerBurst),
	}
	for i, d := range opt.Doors {
		s.turns[i] = throttle.New(d.Limits)
	}
	s.quit, s.end = context.WithCancel(context.Background())
	s.group.Panicked = func(name string, v any, stack []byte) {
		s.stats.panics.Add(1)
		opt.Logger.Error("an SMTP session panicked", "panic", fmt.Sprint(v), "stack", string(stack))
	}
	return s, nil
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	var by [2]Transactions
	s.mu.Lock()
	n, seen := len(s.sessions), len(s.seen)
	for c := range s.sessions {
		by[c.module()].Sessions++
	}
	s.mu.Unlock()
	for i := range by {
		c := &s.stats.by[i]
		by[i].Started, by[i].Completed, by[i].Aborted, by[i].Deferred, by[i].FailedLogins = c.started.Load(), c.completed.Load(), c.aborted.Load(), c.deferred.Load(), c.failedLogins.Load()
	}
	s.stats.mu.Lock()
	failed := maps.Clone(s.stats.failed)
	s.stats.mu.Unlock()
	return Stats{n, seen, s.stats.accepted.Load(), s.stats.refused.Load(), s.stats.logins.Load(), s.stats.failedLogins.Load(), by[0], by[1], failed}
}

// Session is an open session, as operators see it.
type Session struct {
	Remote     netip.Addr
	Port       int // of ours
	Submission bool
}

// Each calls f with every session.
func (s *Server) Each(f func(Session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		f(Session{c.remote, c.port, c.mode != MX})
	}
}

// maxSeen bounds the table of addresses that connected.
const maxSeen = 100_000

// note remembers that a server connected, by a number that only this process can
// compute. The caller holds s.mu.
func (s *Server) note(remote netip.Addr) {
	if len(s.seen) < maxSeen {
		s.seen[maphash.Comparable(s.seed, remote)] = struct{}{}
	}
}

// Serve accepts connections until l is closed or the server stops; then it
// returns nil. Sessions live on until Stop.
func (s *Server) Serve(l net.Listener, mode Mode) error {
	inlet.Accept(l, s.isStopping, func(err error) { s.opt.Logger.Warn("accept failed", "err", err) }, func(conn net.Conn) { s.start(conn, mode) })
	return nil
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// portOf is the port that a connection came to, or 0.
func portOf(conn net.Conn) int {
	if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

func remoteOf(conn net.Conn) netip.Addr {
	if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
		return ap.Addr().Unmap()
	}
	return netip.Addr{}
}

// start begins a session, or turns the connection away.
func (s *Server) start(conn net.Conn, mode Mode) {
	c := newSession(s, conn, mode)
	s.mu.Lock()
	full := s.stopping || len(s.sessions) >= s.opt.MaxSessions || s.byAddr[c.remote] >= s.opt.MaxPerAddress
	if !full {
		s.sessions[c] = struct{}{}
		s.byAddr[c.remote]++
		if mode == MX {
			s.note(c.remote)
		}
	}
	s.mu.Unlock()
	if full {
		s.group.Go("refuse", func() {
			_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
			if mode != SubmissionTLS {
				_, _ = conn.Write(smtp.Say(421, "4.7.0", "Too many connections, try again later").Append(nil))
			}
			conn.Close()
		})
		return
	}
	s.group.Go("session", func() {
		if mode == SubmissionTLS && !c.handshake() {
			c.close()
			return
		}
		// A goroutine of its own for what follows: the handshake grew this one's stack.
		s.group.Go("session", func() {
			defer c.close()
			c.run()
		})
	})
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
}

// MaySend counts a message of an account that comes by another door, and reports
// whether the account may send one now: how much it may send is one limit.
func (s *Server) MaySend(a address.Addr) bool { return s.rate.allow(a, s.opt.Now()) }

// EndSessions ends the sessions that are logged in as a.
func (s *Server) EndSessions(a address.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.sessions {
		if c.account() == a {
			c.interrupt(true)
		}
	}
}

// Stop tells idle sessions 421 and waits for messages under way, until ctx
// ends; then it closes what is left. It may be called twice.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	s.end()
	for c := range s.sessions {
		c.interrupt(false)
	}
	s.mu.Unlock()
	err := s.group.Wait(ctx)
	if err == nil {
		return nil
	}
	s.mu.Lock()
	for c := range s.sessions {
		c.conn.Close()
	}
	s.mu.Unlock()
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(err, s.group.Wait(last))
}

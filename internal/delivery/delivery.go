package delivery

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/quota"
)

// MaxReceived is how many Received fields mark a message as going in circles
// (RFC 5321 section 6.3).
const MaxReceived = 50

// Accounts answers from memory who exists.
type Accounts interface {
	Exists(a address.Addr) bool
	Blocked(a address.Addr) bool
}

// Outgoing takes mail for other domains.
type Outgoing interface {
	// Carries reports, by a nil error, whether mail for a domain is taken. Otherwise
	// the kind is fault.Refused. It reads memory only.
	Carries(d address.Domain) error
	// OpenRelay says whether strangers may send to other domains through us.
	OpenRelay() bool
	// Send keeps a message until it is delivered, and returns when that is durable.
	Send(ctx context.Context, from address.Addr, to []address.Addr, body io.ReaderAt, size int64) error
}

// Options are what New needs. All but Outgoing, Origins, Logger and Now must be set.
type Options struct {
	Store    mailbox.Store
	Quota    *quota.Cache
	Accounts Accounts
	// Local says which domains are ours.
	Local func(address.Domain) bool
	// MaxSize is the size limit of a message, in octets, by door.
	MaxSize func(Via) int64
	// Form, when not nil, is what a message has to keep to besides, by door.
	Form func(Via) Form
	// AppendLimit, when not nil, is the largest message that an account takes, in
	// octets and through whatever door; 0 for what holds for all.
	AppendLimit func(address.Addr) int64
	// Junk, when not nil, is the name of the folder for mail that checks want set aside;
	// "" is INBOX.
	Junk func() string
	// Tags, when not nil, says whether mail for a name with a tag that nobody has goes to
	// whoever has the name without it.
	Tags func() bool
	// Outgoing is nil when there is no way to other domains.
	Outgoing Outgoing
	// Origins examines mail of other servers; nil takes them at their word.
	Origins Origins
	// NoSecureJoin, when not nil, says whether the clear-text step of the old SecureJoin
	// handshake is refused.
	NoSecureJoin func() bool
	// Delivered, when not nil, is told of each account that got a message from somebody
	// else. It must return at once.
	Delivered func(to address.Addr)
	// Full, when not nil, is told of each message of size octets that did not fit into a
	// mailbox. It must return at once.
	Full   func(to address.Addr, size int64, via Via)
	Logger *slog.Logger
	Now    func() time.Time
}

// Form are limits of what a message looks like. Zero values leave MaxReceived and
// message.MaxHeader, and lines of any length.
type Form struct {
	Header, Line int64 // octets, line ends included
	Received     int
}

// Service is the intake. All methods may be called from many goroutines.
type Service struct {
	Options
	repeats                                     repeats
	accepted, refused, stored, queued, repeated atomic.Int64
	results                                     [len(rules)][len(resultWords)]atomic.Int64
}

// resultWords are what becomes of a message, by the kind of its error.
var resultWords = [...]string{"accepted", "error", "invalid", "denied", "refused", "unencrypted", "unknown", "exists", "too_big", "full", "busy"}

func result(err error) int {
	if err == nil {
		return 0
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return 2
	case fault.Denied:
		return 3
	case fault.Refused:
		return 4
	case fault.Unencrypted:
		return 5
	case fault.NotFound:
		return 6
	case fault.Exists:
		return 7
	case fault.TooBig:
		return 8
	case fault.Full:
		return 9
	case fault.Busy:
		return 10
	}
	return 1
}

// note counts what became of n messages.
func (s *Service) note(via Via, err error, n int) {
	s.results[via][result(err)].Add(int64(n))
}

// Results calls f with each count of messages by door and result. What is 0 is left out,
// but not the accepted ones.
func (s *Service) Results(f func(door, result string, n int64)) {
	for v := range s.results {
		for r := range s.results[v] {
			if n := s.results[v][r].Load(); n > 0 || r == 0 {
				f(Via(v).String(), resultWords[r], n)
			}
		}
	}
}

// New checks o and returns the intake.
func New(o Options) (*Service, error) {
	switch {
	case o.Store == nil:
		return nil, errors.New("delivery: no store")
	case o.Quota == nil:
		return nil, errors.New("delivery: no quota")
	case o.Accounts == nil:
		return nil, errors.New("delivery: no accounts")
	case o.Local == nil:
		return nil, errors.New("delivery: no local domains")
	case o.MaxSize == nil:
		return nil, errors.New("delivery: no size limit")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Service{Options: o}
	_, _ = rand.Read(s.repeats.key[:]) // never fails
	return s, nil
}

// Stats are counts since the start.
type Stats struct {
	Accepted int64 // messages
	Refused  int64 // messages
	Stored   int64 // copies, one per local recipient
	Queued   int64 // recipients elsewhere
	Repeated int64 // copies that a server sent again, and that were there already
}

// Stats returns the counts.
func (s *Service) Stats() Stats {
	return Stats{Accepted: s.accepted.Load(), Refused: s.refused.Load(), Stored: s.stored.Load(), Queued: s.queued.Load(), Repeated: s.repeated.Load()}
}

// Check says whether a recipient may be named in e, before any data. It reads
// memory only. A recipient of ours is never refused here for being unknown or
// full: that would break group messages and tell strangers who exists; Accept
// decides it when the whole envelope is known.
//
// The error is of kind fault.Refused for a recipient that this door does not
// carry mail to, and for every recipient when nothing is taken from the sender's
// domain.
func (s *Service) Check(_ context.Context, e *Envelope, to address.Addr) error {
	if s.Origins != nil && rules[e.Via].foreign {
		if err := s.Origins.Takes(e.From.Domain()); err != nil {
			return err
		}
	}
	if s.Local(to.Domain()) {
		return nil
	}
	if s.Outgoing == nil || !rules[e.Via].relay && !(e.Via == Inbound && s.Outgoing.OpenRelay()) {
		return fault.New(fault.Refused, "Relaying denied")
	}
	return s.Outgoing.Carries(to.Domain())
}

// Accept takes the message from r to its end and returns when it is durable in
// the mailbox of every recipient that can have it, and in the queue for those of
// other domains.
//
// When r fails, or ctx ends, nothing is stored. Errors: fault.TooBig,
// fault.Unencrypted, fault.Invalid for a message that breaks the format rules,
// fault.Refused, fault.NotFound when no recipient exists, fault.Full when all
// that exist are full, fault.Busy when the disk is full.
func (s *Service) Accept(ctx context.Context, e *Envelope, r io.Reader) (Result, error) {
	res, err := s.accept(ctx, e, r)
	s.note(e.Via, err, 1)
	if err != nil {
		s.refused.Add(1)
		s.Logger.DebugContext(ctx, "message refused", "via", e.Via.String(), "from", e.From, "kind", fault.KindOf(err).String(), "err", err)
		return res, err
	}
	s.accepted.Add(1)
	s.stored.Add(int64(res.Local))
	s.queued.Add(int64(res.Queued))
	s.Logger.DebugContext(ctx, "message accepted", "via", e.Via.String(), "from", e.From, "size", res.Size, "local", res.Local, "failed", len(res.Failed))
	return res, nil
}

// Reader returns who gets the mail for a recipient of ours: itself, as a rule.
func (s *Service) Reader(to address.Addr) address.Addr {
	if s.Tags == nil || s.Accounts.Exists(to) || !s.Tags() || !s.Local(to.Domain()) {
		return to
	}
	if b, tagged := to.Untagged(); tagged && s.Accounts.Exists(b) {
		return b
	}
	return to
}

// untagged returns e with those who get its mail as recipients, each once.
func (s *Service) untagged(e *Envelope) *Envelope {
	if !slices.ContainsFunc(e.To, func(a address.Addr) bool { return s.Reader(a) != a }) {
		return e
	}
	c := *e
	c.To = make([]address.Addr, 0, len(e.To))
	named := make(map[address.Addr]bool, len(e.To))
	for _, a := range e.To {
		if b := s.Reader(a); !named[b] {
			named[b] = true
			c.To = append(c.To, b)
		}
	}
	return &c
}

func (s *Service) accept(ctx context.Context, e *Envelope, r io.Reader) (Result, error) {
	if len(e.To) == 0 {
		return Result{}, fault.New(fault.Invalid, "No recipients")
	}
	e = s.untagged(e)
	if rules[e.Via].foreign && s.Origins != nil {
		return s.acceptForeign(ctx, e, r)
	}
	body, err := s.spool(ctx, e, r)
	if err != nil {
		return Result{}, err
	}
	defer body.Close()
	return s.store(ctx, e, body, nil, mailbox.Inbox)
}

// box is where a message for an account goes. A folder that cannot be made is no reason
// to keep it back.
func (s *Service) box(ctx context.Context, to address.Addr, folder string) mailbox.Box {
	b := mailbox.Box{Account: to, Name: folder}
	if folder == mailbox.Inbox {
		return b
	}
	if err := s.Store.CreateBox(ctx, b, `\Junk`); err != nil && !fault.Is(err, fault.Exists) {
		s.Logger.WarnContext(ctx, "a folder cannot be made", "account", to, "err", err)
		b.Name = mailbox.Inbox
	}
	return b
}

// store puts the body into a folder of those who can have it. seen is what tells a
// message that was sent again, or nil.
func (s *Service) store(ctx context.Context, e *Envelope, body mailbox.Body, seen *fingerprint, folder string) (Result, error) {
	res := Result{Size: body.Size()}
	received := e.Received
	if received.IsZero() {
		received = s.Now()
	}
	targets := make([]mailbox.Target, 0, len(e.To))
	held := make([]*quota.Reservation, 0, len(e.To))
	defer func() {
		for _, h := range held {
			h.Release()
		}
	}()
	if rules[e.Via].foreign && e.From.Local() == "admin" && s.Local(e.From.Domain()) {
		return res, nil // our notices come from there, and not by this door: dropped
	}
	var elsewhere []address.Addr
	for _, to := range e.To {
		if s.Outgoing != nil && !s.Local(to.Domain()) {
			elsewhere = append(elsewhere, to)
			continue
		}
		if s.repeats.has(seen, to, s.Now()) {
			s.repeated.Add(1)
			res.Local++
			continue
		}
		h, err := s.admit(e.Via, to, body.Size())
		if err != nil {
			res.Failed = append(res.Failed, Failure{To: to, Err: err})
			continue
		}
		held = append(held, h)
		targets = append(targets, mailbox.Target{
			Box:      s.box(ctx, to, folder),
			Internal: received,
		})
	}
	if len(targets) > 0 {
		placed, err := s.Store.Deliver(ctx, targets, body)
		if err != nil {
			return res, err
		}
		for i, p := range placed {
			if p.Err != nil {
				res.Failed = append(res.Failed, Failure{To: targets[i].Box.Account, Err: p.Err})
				continue
			}
			to := targets[i].Box.Account
			s.repeats.add(seen, to, s.Now())
			if s.Delivered != nil && to != e.From {
				s.Delivered(to)
			}
			res.Local++
		}
	}
	if len(elsewhere) > 0 {
		// Last: what fails here makes the sender try again, and copies stored twice are
		// told apart by clients, unlike mail that was sent to strangers twice.
		if err := s.Outgoing.Send(ctx, e.From, elsewhere, body, body.Size()); err != nil {
			return res, err
		}
		res.Queued = len(elsewhere)
	}
	if res.Local+res.Queued == 0 {
		return res, s.nobody(res.Failed)
	}
	return res, nil
}

// admit decides about one recipient and sets its room aside.
func (s *Service) admit(via Via, to address.Addr, size int64) (*quota.Reservation, error) {
	// A blocked name answers like one that never was, and so do the names of offices
	// to strangers.
	if !s.Accounts.Exists(to) || s.Accounts.Blocked(to) || rules[via].foreign && account.Reserved(to.Local()) {
		return nil, fault.New(fault.NotFound, "No such user here")
	}
	if s.tooBigFor(to, size) {
		return nil, errTooBig
	}
	return s.room(via, to, size)
}

// room sets room aside.
func (s *Service) room(via Via, to address.Addr, size int64) (*quota.Reservation, error) {
	r, err := s.Quota.Reserve(to, size)
	if err != nil && s.Full != nil {
		s.Full(to, size, via)
	}
	return r, err
}

var errTooBig = fault.New(fault.TooBig, "Message exceeds maximum size")

// tooBigFor reports whether a message passes the limit of one account.
func (s *Service) tooBigFor(a address.Addr, size int64) bool {
	if s.AppendLimit == nil {
		return false
	}
	n := s.AppendLimit(a)
	return n > 0 && size > n
}

// nobody picks the error for a message that no recipient got: a temporary one
// when trying again can help, else full or too large before unknown.
func (s *Service) nobody(failed []Failure) error {
	best := fault.New(fault.NotFound, "No such user here")
	rank := func(err error) int {
		switch fault.KindOf(err) {
		case fault.Busy:
			return 3
		case fault.Internal:
			return 2
		case fault.Full, fault.TooBig:
			return 1
		}
		return 0
	}
	for _, f := range failed {
		if rank(f.Err) > rank(best) {
			best = f.Err
		}
	}
	return best
}

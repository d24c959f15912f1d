package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/authres"
	"madmail/internal/fault"
	"madmail/internal/gate"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// Origins says what the word of other servers is worth.
type Origins interface {
	// Takes reports, by a nil error, whether mail of a domain is taken; "" is the
	// null reverse-path. Otherwise the kind is fault.Refused. It reads memory only.
	Takes(from address.Domain) error
	// Prove examines a message that the gate let pass. The error is of kind
	// fault.Refused for a message that is not to be taken, and fault.Busy when that
	// cannot be decided now.
	Prove(ctx context.Context, m Foreign) (Proof, error)
	// Arrived is told when a message was accepted.
	Arrived(m Foreign)
	// Missed is told who got nothing of a message that others got. It is asked only
	// when a notification would reach whoever sent it.
	Missed(ctx context.Context, m Foreign, to address.Addr, failed []Failure)
}

// Foreign is a message of another server.
type Foreign struct {
	// From is the first address of the From field as written; Envelope the
	// reverse-path.
	From     string
	Envelope address.Addr
	// Client is who brings it by SMTP; zero else.
	Client authres.Client
	// Report says that it is a delivery report, to the null reverse-path.
	Report bool
	// Text is the message as it came, Size octets long. It is not there after the
	// call.
	Text io.ReaderAt
	Size int64
}

// Proof is what Prove found out.
type Proof struct {
	// Field is put on top of the header: a complete field, or empty.
	Field []byte
	// Forged says that From and reverse-path differ: who is named there gets no
	// notifications. Proven says that From is beyond doubt.
	Forged, Proven bool
	// Junk says that it goes into the folder for such mail, where there is one.
	Junk bool
}

// acceptForeign takes a message of another server. It is spooled as it came,
// because a signature covers all of it, and edited afterwards.
func (s *Service) acceptForeign(ctx context.Context, e *Envelope, r io.Reader) (Result, error) {
	if err := s.Origins.Takes(e.From.Domain()); err != nil {
		return Result{}, err
	}
	raw, err := s.Store.NewBody(ctx)
	if err != nil {
		return Result{}, err
	}
	defer raw.Abort()
	n := counter{r: r}
	v, err := s.read(ctx, e, &n, raw, true)
	if err != nil {
		return Result{}, err
	}
	m := Foreign{From: v.From, Envelope: e.From, Client: e.Client, Report: v.Kind == gate.Report && e.From.IsZero(), Text: raw, Size: n.n}
	proof, err := s.Origins.Prove(ctx, m)
	if err != nil {
		return Result{}, err
	}
	body, seen, err := s.edit(ctx, m, proof.Field)
	if err != nil {
		return Result{}, err
	}
	defer body.Close()
	folder := mailbox.Inbox
	if proof.Junk && s.Junk != nil && s.Junk() != "" {
		folder = s.Junk()
	}
	res, err := s.store(ctx, e, body, seen, folder)
	if err != nil {
		return res, err
	}
	for _, f := range res.Failed {
		// The other server tries again, and who has the message is passed over then.
		if k := fault.KindOf(f.Err); k == fault.Busy || k == fault.Internal {
			return res, f.Err
		}
	}
	s.Origins.Arrived(m)
	if len(res.Failed) > 0 && proof.Proven && !proof.Forged && !e.From.IsZero() {
		s.Origins.Missed(ctx, m, e.From, res.Failed)
	}
	return res, nil
}

// edit makes the body that is stored. The fingerprint is that of the message
// without what it gets on its way.
func (s *Service) edit(ctx context.Context, m Foreign, field []byte) (mailbox.Body, *fingerprint, error) {
	block, err := headerOf(m)
	if err != nil {
		return nil, nil, err
	}
	n := len(block)
	w, err := s.Store.NewBody(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer w.Abort()
	if _, err := w.Write(field); err != nil {
		return nil, nil, err
	}
	h := s.repeats.hash()
	both := io.MultiWriter(w, h)
	if _, err := both.Write(message.Strip(block, false)); err != nil {
		return nil, nil, err
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	if _, err := io.CopyBuffer(both, struct{ io.Reader }{io.NewSectionReader(m.Text, int64(n), m.Size-int64(n))}, *buf); err != nil {
		return nil, nil, err
	}
	body, err := w.Seal()
	if err != nil {
		return nil, nil, err
	}
	var f fingerprint
	h.Sum(f[:0])
	return body, &f, nil
}

// headerOf reads the header block of a message, or all of it when it is nothing else.
func headerOf(m Foreign) ([]byte, error) {
	for room := min(m.Size, 8<<10); ; room = min(m.Size, message.MaxHeader, 8*room) {
		block := make([]byte, room)
		if _, err := m.Text.ReadAt(block, 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, fault.Wrap(fault.Busy, err, "delivery: read the spool")
		}
		if n := message.HeaderEnd(block); n >= 0 {
			return block[:n], nil
		}
		if room == min(m.Size, message.MaxHeader) {
			return block, nil
		}
	}
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// fingerprint tells a message from all others.
type fingerprint [sha256.Size]byte

// Servers that did not hear our answer send the same message once more, by another
// transport at once or minutes later.
const (
	remember    = 10 * time.Minute
	maxRemember = 1 << 16 // deliveries in one span, 2 MiB
)

// repeats remembers who got which message lately. The zero value with a key is
// ready.
type repeats struct {
	key [32]byte

	mu     sync.Mutex // guards the fields below
	recent map[fingerprint]struct{}
	older  map[fingerprint]struct{}
	turned time.Time
}

// hash returns a hash that nobody else can compute.
func (r *repeats) hash() hash.Hash {
	h := sha256.New()
	h.Write(r.key[:])
	return h
}

func (r *repeats) of(m *fingerprint, to address.Addr) (f fingerprint) {
	h := r.hash()
	h.Write(m[:])
	io.WriteString(h, to.Wire())
	h.Sum(f[:0])
	return f
}

// has reports whether to got m already; never when m is nil.
func (r *repeats) has(m *fingerprint, to address.Addr, now time.Time) bool {
	if m == nil {
		return false
	}
	f := r.of(m, to)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	_, recent := r.recent[f]
	_, older := r.older[f]
	return recent || older
}

// turn forgets what is old.
func (r *repeats) turn(now time.Time) {
	switch age := now.Sub(r.turned); {
	case r.recent == nil || age >= 2*remember:
		r.recent, r.older, r.turned = make(map[fingerprint]struct{}), nil, now
	case age >= remember || len(r.recent) >= maxRemember:
		r.recent, r.older, r.turned = make(map[fingerprint]struct{}), r.recent, now
	}
}

// add remembers that to got m, for ten to twenty minutes, or less when there is very
// much mail.
func (r *repeats) add(m *fingerprint, to address.Addr, now time.Time) {
	if m == nil {
		return
	}
	f := r.of(m, to)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	r.recent[f] = struct{}{}
}

package delivery

import (
	"context"
	"io"

	"madmail/internal/address"
	"madmail/internal/mailbox"
	"madmail/internal/quota"
)

// Append puts a message into a mailbox of the account that brings it (IMAP
// APPEND). The same limits and the same encryption rule hold as for
// submission, except that From may be anybody: clients move received mail.
func (s *Service) Append(ctx context.Context, t mailbox.Target, r io.Reader, size int64) (mailbox.Placed, error) {
	a, err := s.Spool(ctx, t, r, size)
	if err != nil {
		return mailbox.Placed{}, err
	}
	defer a.Body.Close()
	placed, err := s.Commit(ctx, t.Box, []mailbox.Arrival{a}, nil)
	if err != nil {
		return mailbox.Placed{}, err
	}
	return placed[0], nil
}

// reserved is a body with the room that is set aside for it, until Close.
type reserved struct {
	mailbox.Body
	room *quota.Reservation
}

func (b reserved) Close() error {
	b.room.Release()
	return b.Body.Close()
}

// Spool takes a message of size octets for Commit, under the rules of Append,
// and sets room aside for it. The caller closes the body in any case.
func (s *Service) Spool(ctx context.Context, t mailbox.Target, r io.Reader, size int64) (mailbox.Arrival, error) {
	b, err := s.reserve(ctx, t.Box.Account, r, size)
	if err != nil {
		s.note(Append, err, 1)
		s.refused.Add(1)
		return mailbox.Arrival{}, err
	}
	return mailbox.Arrival{Body: b, Flags: t.Flags, Keywords: t.Keywords, Internal: t.Internal}, nil
}

func (s *Service) reserve(ctx context.Context, a address.Addr, r io.Reader, size int64) (mailbox.Body, error) {
	if size > s.MaxSize(Append) || s.tooBigFor(a, size) {
		return nil, errTooBig
	}
	room, err := s.room(Append, a, size)
	if err != nil {
		return nil, err
	}
	body, err := s.spool(ctx, &Envelope{Via: Append, Identity: a, From: a, To: []address.Addr{a}, Size: size}, r)
	if err != nil {
		room.Release()
		return nil, err
	}
	return reserved{body, room}, nil
}

// Commit puts what Spool took into a mailbox, and removes the message replaced
// when it is not nil: all of it or nothing (mailbox.Store, Add). It returns when
// that is durable.
func (s *Service) Commit(ctx context.Context, to mailbox.Box, list []mailbox.Arrival, replaced *mailbox.Ref) ([]mailbox.Placed, error) {
	bare := make([]mailbox.Arrival, len(list))
	for i, a := range list {
		if r, ok := a.Body.(reserved); ok {
			a.Body = r.Body // as the store knows it
		}
		bare[i] = a
	}
	placed, err := s.Store.Add(ctx, to, bare, replaced)
	s.note(Append, err, len(list))
	if err != nil {
		s.refused.Add(int64(len(list)))
		return nil, err
	}
	s.accepted.Add(int64(len(list)))
	s.stored.Add(int64(len(list)))
	return placed, nil
}

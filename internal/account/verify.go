package account

import (
	"bytes"
	"context"
	"crypto/subtle"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// Verdict is what memory says about a login.
type Verdict uint8

// The verdicts of Quick.
const (
	NoAccount Verdict = iota
	Match             // the password is right
	Mismatch          // the password is wrong
	NeedsHash         // only a slow hash can tell: call Verify
)

// Quick compares password with a's row as far as that takes microseconds: a
// fast hash, or a password that verified before. It does not look at blocks.
func (s *Store) Quick(a address.Addr, password []byte) Verdict {
	e := s.get(a)
	if e == nil {
		return NoAccount
	}
	p, err := parseHash(e.hash)
	switch {
	case err != nil || len(password) == 0 || len(password) > maxPassword:
		return Mismatch
	case !p.slow():
		if !p.matches(password) {
			return Mismatch
		}
		s.improve(a, e, &p, password)
		return Match
	}
	if known := e.live.verified.Load(); known != nil {
		d := s.hashes.pair(pairVerified, a, e.hash, password)
		if subtle.ConstantTimeCompare(known[:], d[:]) == 1 {
			return Match
		}
	}
	return NeedsHash
}

var errDenied = fault.New(fault.Denied, "Authentication failed")

// Verify compares password with a's row, by a slow hash when need be. It
// returns nil, fault.Denied, or fault.Busy when no slot came free in time. A
// refusal costs what every refusal costs. Blocks are not looked at.
func (s *Store) Verify(ctx context.Context, a address.Addr, password []byte) error {
	switch s.Quick(a, password) {
	case Match:
		return nil
	case NoAccount, Mismatch:
		return s.Refuse(ctx, a, password)
	}
	e := s.get(a)
	if e == nil {
		return s.Refuse(ctx, a, password)
	}
	p, err := parseHash(e.hash)
	if err != nil {
		return s.Refuse(ctx, a, password)
	}
	tried := s.hashes.pair(pairTried, a, e.hash, password)
	if s.hashes.wasRefused(tried) {
		return errDenied
	}
	ok := false
	if err := s.hashes.run(ctx, func() { ok = p.matches(password) }); err != nil {
		return err
	}
	if !ok {
		s.hashes.remember(tried)
		return errDenied
	}
	d := [32]byte(s.hashes.pair(pairVerified, a, e.hash, password))
	e.live.verified.Store(&d)
	s.improve(a, e, &p, password)
	return nil
}

// Refuse is the refusal of a login that needs no comparison: it costs what
// Verify's refusals cost. The error is fault.Denied or fault.Busy.
func (s *Store) Refuse(ctx context.Context, a address.Addr, password []byte) error {
	hash := ""
	if e := s.get(a); e != nil {
		hash = e.hash
	}
	password = password[:min(len(password), maxPassword)]
	p := s.hashes.pair(pairRefused, a, hash, password)
	if s.hashes.wasRefused(p) {
		return errDenied
	}
	if err := s.hashes.run(ctx, func() { burn(password) }); err != nil {
		return err
	}
	s.hashes.remember(p)
	return errDenied
}

// SlowHashes returns how many slow hashes were computed, for metrics.
func (s *Store) SlowHashes() int64 { return s.hashes.slow.Load() }

// improve rewrites a's hash in the background when the password deserves
// another form. One rewrite runs at a time; who comes meanwhile is rewritten
// after a later login.
func (s *Store) improve(a address.Addr, e *entry, p *parsed, password []byte) {
	if p.deserves(password) {
		return
	}
	select {
	case s.rewrite <- struct{}{}:
	default:
		return
	}
	password = bytes.Clone(password)
	s.tasks.Go("rewrite hash", func() {
		defer func() { clear(password); <-s.rewrite }()
		ctx, cancel := context.WithTimeout(context.Background(), hashTimeout)
		defer cancel()
		hash, err := s.hash(ctx, password)
		if err == nil {
			err = s.replaceHash(ctx, a, e, hash)
		}
		if err != nil {
			s.log.Warn("account: rewrite a hash", "domain", string(a.Domain()), "error", err)
		}
	})
}

// replaceHash writes hash if the row still holds e's. It never makes a row.
func (s *Store) replaceHash(ctx context.Context, a address.Addr, e *entry, hash string) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, "UPDATE passwords SET "+s.layout.hash+" = ? WHERE "+s.layout.name+" = ? AND "+s.layout.hash+" = ?",
			hash, e.name(a), e.hash)
		if err != nil || n == 0 {
			return err
		}
		tx.AfterCommit(func() {
			s.update(a, func(now *entry) {
				if now.hash == e.hash {
					now.hash = hash
					now.live.verified.Store(nil)
				}
			})
		})
		return nil
	})
}

package account

import (
	"context"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// noteEvery is how often a user's last login is written, in seconds.
const noteEvery = 3600

// LoggedIn accounts for a login that was verified. It touches the database
// only for the first login of an account that holds a registration token;
// last logins are kept in memory and written by Flush, at most once per
// account and hour and once after a start.
//
// It fails with fault.Denied when the token was used up or deleted meanwhile
// (the account is then removed), and with fault.Busy.
func (s *Store) LoggedIn(ctx context.Context, a address.Addr) error {
	e := s.get(a)
	if e == nil {
		return errDenied
	}
	if e.token != "" && e.first == 1 {
		if err := s.consume(ctx, a, e); err != nil {
			return err
		}
	}
	now := s.now().Unix()
	e.live.seen.Store(now)
	if noted := e.live.noted.Load(); (noted == 0 || now-noted >= noteEvery) && e.live.noted.CompareAndSwap(noted, now) {
		s.dirtyMu.Lock()
		s.dirty[a] = struct{}{}
		s.dirtyMu.Unlock()
	}
	return nil
}

// consume turns a's reservation of a token into a use. Of two first logins at
// once one takes the use and the other finds it taken.
func (s *Store) consume(ctx context.Context, a address.Addr, e *entry) error {
	gone, removed := false, false
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		now := s.now().Unix()
		n, err := tx.Exec(ctx, `UPDATE quotas SET used_token = NULL, first_login_at = ?, last_login_at = ?
			WHERE username = ? AND first_login_at = 1 AND used_token = ?`, now, now, e.quotaName(a), e.token)
		if err != nil {
			return err
		}
		if n == 0 { // somebody else's first login, or a removal
			var rows int
			err := tx.QueryRow(ctx, "SELECT count(*) FROM passwords WHERE "+s.layout.name+" = ?", []any{e.name(a)}, []any{&rows})
			gone = rows == 0
			return err
		}
		n, err = tx.Exec(ctx, "UPDATE registration_tokens SET used_count = used_count + 1 WHERE token = ? AND used_count < max_uses", e.token)
		if err != nil {
			return err
		}
		if n == 0 {
			gone, removed = true, true
			_, err := s.deleteRows(ctx, tx, a)
			return err
		}
		tx.AfterCommit(func() { s.update(a, func(e *entry) { e.first, e.last, e.token = now, now, "" }) })
		return nil
	})
	if err != nil {
		return err
	}
	if removed {
		s.ended(a, Removed)
	}
	if gone {
		return errDenied
	}
	return nil
}

// flushBatch is how many last logins share a transaction.
const flushBatch = 500

// Flush writes the last logins that are due. What cannot be written now is
// written by the next call.
func (s *Store) Flush(ctx context.Context) error {
	s.dirtyMu.Lock()
	due := make([]address.Addr, 0, len(s.dirty))
	for a := range s.dirty {
		due = append(due, a)
	}
	clear(s.dirty)
	s.dirtyMu.Unlock()
	for len(due) > 0 {
		n := min(len(due), flushBatch)
		if err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error { return s.writeLogins(ctx, tx, due[:n]) }); err != nil {
			s.dirtyMu.Lock()
			for _, a := range due {
				s.dirty[a] = struct{}{}
			}
			s.dirtyMu.Unlock()
			return fault.Wrap(fault.KindOf(err), err, "account: write last logins")
		}
		due = due[n:]
	}
	return nil
}

func (s *Store) writeLogins(ctx context.Context, tx *db.Tx, due []address.Addr) error {
	for _, a := range due {
		e := s.get(a)
		if e == nil {
			continue
		}
		at := e.live.seen.Load()
		first := e.first
		if first == 1 {
			first = at
		}
		// The row may be missing (credentials made alone), and the account may be
		// gone: a flush must not make rows for it.
		_, err := tx.Exec(ctx, `INSERT INTO quotas (username, created_at, first_login_at, last_login_at)
			SELECT ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM passwords WHERE `+s.layout.name+` = ?)
			ON CONFLICT (username) DO UPDATE SET first_login_at = excluded.first_login_at, last_login_at = excluded.last_login_at`,
			e.quotaName(a), e.created, first, at, e.name(a))
		if err != nil {
			return err
		}
		tx.AfterCommit(func() {
			s.update(a, func(e *entry) { e.first, e.last = first, max(e.last, at) })
		})
	}
	return nil
}

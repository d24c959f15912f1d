// Package device keeps the push tokens that clients leave with their account,
// so that a notification service can be told to wake them.
//
// Its table is push_tokens. Everything is held in memory too, filled at Open
// and changed when a write has been committed, so List costs no statement:
// it is asked for every delivered message. A token is opaque text; the
// package does not know what it means nor which service takes it.
//
// All methods may be called from many goroutines.
package device

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// Bounds: what one account may leave here.
const (
	MaxToken   = 8192 // bytes
	MaxDevices = 16   // tokens; a further one takes the place of the oldest
)

// refreshAfter is how old a token's time may be before it is written again:
// clients leave their token at every connection.
const refreshAfter = time.Hour

// Options say what a Store needs. DB is needed.
type Options struct {
	DB  *db.DB
	Now func() time.Time
}

// Store is the push tokens. Make one with Open.
type Store struct {
	db  *db.DB
	now func() time.Time

	mu sync.RWMutex // guards the field below
	m  map[address.Addr][]device
}

// device is one token; the slices in the map are replaced, never changed.
type device struct {
	token string
	at    time.Time
}

// Open reads the tokens into memory.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.DB == nil {
		return nil, fault.New(fault.Invalid, "device: DB is not set")
	}
	s := &Store{db: o.DB, now: o.Now}
	if s.now == nil {
		s.now = time.Now
	}
	return s, s.Reload(ctx)
}

// Reload reads the table again, for hands that used SQL.
func (s *Store) Reload(ctx context.Context) error {
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		m, others, err := read(ctx, &tx.Q)
		if err != nil {
			return err
		}
		for name, wire := range others { // or they would not go with their account
			_, err := tx.Exec(ctx, `INSERT INTO push_tokens (username, device_token, updated_at)
				SELECT ?, device_token, updated_at FROM push_tokens WHERE username = ?
				ON CONFLICT (username, device_token) DO UPDATE SET updated_at = max(updated_at, excluded.updated_at)`, wire, name)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "DELETE FROM push_tokens WHERE username = ?", name); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.m = m
		})
		return nil
	})
	return fault.Wrap(fault.KindOf(err), err, "device: load")
}

// read returns the tokens, and the names that earlier versions wrote in another spelling
// with the normal form of each.
func read(ctx context.Context, q *db.Q) (m map[address.Addr][]device, others map[string]string, err error) {
	rows, err := q.Query(ctx, "SELECT username, device_token, updated_at FROM push_tokens ORDER BY updated_at, username")
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	m, others = make(map[address.Addr][]device), make(map[string]string)
	for rows.Next() {
		var name, token string
		var at db.Time
		if err := rows.Scan(&name, &token, &at); err != nil {
			return nil, nil, fault.Wrap(fault.Internal, err, "device: read")
		}
		a, err := address.Parse(name)
		if err != nil {
			continue
		}
		if a.Wire() != name {
			others[name] = a.Wire()
		}
		m[a] = append(slices.DeleteFunc(m[a], func(d device) bool { return d.token == token }), device{token, at.Time})
	}
	return m, others, fault.Wrap(fault.Busy, rows.Err(), "device: read")
}

// Add leaves a token with a, or refreshes its time. When a has MaxDevices
// others the oldest goes. Errors: fault.Invalid for a token that is empty,
// too long or has control characters; fault.Busy.
func (s *Store) Add(ctx context.Context, a address.Addr, token string) error {
	if token == "" || len(token) > MaxToken {
		return fault.Newf(fault.Invalid, "a device token has 1 to %d bytes", MaxToken)
	}
	for i := 0; i < len(token); i++ {
		if token[i] < ' ' || token[i] == 0x7f {
			return fault.New(fault.Invalid, "a device token has no control characters")
		}
	}
	now := s.now().UTC().Truncate(time.Second)
	for _, d := range s.get(a) {
		if d.token == token && now.Sub(d.at) < refreshAfter {
			return nil
		}
	}
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO push_tokens (username, device_token, updated_at) VALUES (?, ?, ?)
			ON CONFLICT (username, device_token) DO UPDATE SET updated_at = excluded.updated_at`, a.Wire(), token, db.At(now))
		if err != nil {
			return err
		}
		// Also counts what other writes of this transaction did.
		_, err = tx.Exec(ctx, `DELETE FROM push_tokens WHERE username = ? AND device_token <> ? AND device_token NOT IN (
			SELECT device_token FROM push_tokens WHERE username = ? AND device_token <> ? ORDER BY updated_at DESC, device_token LIMIT ?)`,
			a.Wire(), token, a.Wire(), token, MaxDevices-1)
		if err != nil {
			return err
		}
		return s.refresh(ctx, tx, a)
	})
}

// refresh takes a's rows into memory after the commit.
func (s *Store) refresh(ctx context.Context, tx *db.Tx, a address.Addr) error {
	rows, err := tx.Query(ctx, "SELECT device_token, updated_at FROM push_tokens WHERE username = ? ORDER BY updated_at", a.Wire())
	if err != nil {
		return err
	}
	defer rows.Close()
	var list []device
	for rows.Next() {
		var token string
		var at db.Time
		if err := rows.Scan(&token, &at); err != nil {
			return fault.Wrap(fault.Internal, err, "device: read")
		}
		list = append(list, device{token, at.Time})
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(list) == 0 {
			delete(s.m, a)
		} else {
			s.m[a] = list
		}
	})
	return fault.Wrap(fault.Busy, rows.Err(), "device: read")
}

func (s *Store) get(a address.Addr) []device {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[a]
}

// List returns a's tokens, the latest first. It reads memory only.
func (s *Store) List(a address.Addr) []string {
	list := s.get(a)
	if len(list) == 0 {
		return nil
	}
	tokens := make([]string, 0, len(list))
	for _, d := range slices.Backward(list) {
		tokens = append(tokens, d.token)
	}
	return tokens
}

// RemoveToken takes one token from a, as when the service says it is dead.
func (s *Store) RemoveToken(ctx context.Context, a address.Addr, token string) error {
	return s.remove(ctx, a, "DELETE FROM push_tokens WHERE username = ? AND device_token = ?", a.Wire(), token)
}

// Remove takes all tokens from a, as when the account goes.
func (s *Store) Remove(ctx context.Context, a address.Addr) error {
	return s.remove(ctx, a, "DELETE FROM push_tokens WHERE username = ?", a.Wire())
}

func (s *Store) remove(ctx context.Context, a address.Addr, query string, args ...any) error {
	if len(s.get(a)) == 0 {
		return nil
	}
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, query, args...); err != nil {
			return err
		}
		return s.refresh(ctx, tx, a)
	})
}

// Expire removes tokens that were last left before t, and those of accounts
// that keep says are gone; nil keeps all. It returns how many went.
func (s *Store) Expire(ctx context.Context, t time.Time, keep func(address.Addr) bool) (int, error) {
	type due struct {
		a     address.Addr
		token string
	}
	var all []due
	s.mu.RLock()
	for a, list := range s.m {
		gone := keep != nil && !keep(a)
		for _, d := range list {
			if gone || d.at.Before(t) {
				all = append(all, due{a, d.token})
			}
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(x, y due) int { return cmp.Compare(x.token, y.token) })
	for i, d := range all {
		if err := s.RemoveToken(ctx, d.a, d.token); err != nil {
			return i, err
		}
	}
	return len(all), nil
}

package account

import (
	"context"
	"database/sql"
	"encoding/base64"
	"io"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// Token is a registration token.
type Token struct {
	Token     string
	MaxUses   int
	Used      int // consumed by first logins
	Pending   int // held by accounts that have not logged in
	Comment   string
	ExpiresAt time.Time // zero for never
	CreatedAt time.Time
}

// Status returns "active", "expired" or "exhausted" at the time now.
func (t Token) Status(now time.Time) string {
	switch {
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return "expired"
	case t.Available() == 0:
		return "exhausted"
	}
	return "active"
}

// Available returns how many accounts can still be made with t.
func (t Token) Available() int { return max(0, t.MaxUses-t.Used-t.Pending) }

const (
	maxToken   = 255
	maxComment = 1024
)

// CreateToken stores t; an empty Token is drawn, MaxUses 0 means 1. Errors:
// fault.Invalid, fault.Exists, fault.Busy.
func (s *Store) CreateToken(ctx context.Context, t Token) (Token, error) {
	return s.storeToken(ctx, t, "")
}

// ReplaceToken is CreateToken, but a token that exists gets the new limit, comment
// and end. Its uses stay.
func (s *Store) ReplaceToken(ctx context.Context, t Token) (Token, error) {
	t, err := s.storeToken(ctx, t, " ON CONFLICT (token) DO UPDATE SET max_uses = excluded.max_uses, comment = excluded.comment, expires_at = excluded.expires_at")
	if err != nil {
		return t, err
	}
	t, _, err = s.TokenInfo(ctx, t.Token)
	return t, err
}

func (s *Store) storeToken(ctx context.Context, t Token, conflict string) (Token, error) {
	if t.Token == "" {
		var b [18]byte
		if _, err := io.ReadFull(s.random, b[:]); err != nil {
			return Token{}, fault.Wrap(fault.Internal, err, "account: read random bytes")
		}
		t.Token = base64.RawURLEncoding.EncodeToString(b[:])
	}
	if t.MaxUses == 0 {
		t.MaxUses = 1
	}
	if t.MaxUses < 0 || len(t.Token) > maxToken || len(t.Comment) > maxComment || !printable(t.Token) {
		return Token{}, fault.Newf(fault.Invalid, "a token has at least one use and at most %d printable characters", maxToken)
	}
	t.Used, t.Pending = 0, 0
	t.CreatedAt = s.now().UTC().Truncate(time.Second)
	expires := db.Time{}
	if !t.ExpiresAt.IsZero() {
		expires = db.At(t.ExpiresAt)
		t.ExpiresAt = expires.Time
	}
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO registration_tokens (token, max_uses, used_count, comment, expires_at, created_at) VALUES (?, ?, 0, ?, ?, ?)"+conflict,
			t.Token, t.MaxUses, t.Comment, expires, db.At(t.CreatedAt))
		return err
	})
	if fault.Is(err, fault.Exists) {
		return Token{}, fault.New(fault.Exists, "token already exists")
	}
	return t, err
}

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

const selectTokens = `SELECT t.token, t.max_uses, t.used_count, coalesce(t.comment, ''), t.expires_at, t.created_at,
	(SELECT count(*) FROM quotas q WHERE q.used_token = t.token AND q.first_login_at = 1) FROM registration_tokens t`

func scanToken(scan func(dest ...any) error) (t Token, err error) {
	var expires, created db.Time
	if err := scan(&t.Token, &t.MaxUses, &t.Used, &t.Comment, &expires, &created, &t.Pending); err != nil {
		return Token{}, fault.Wrap(fault.Internal, err, "account: read tokens")
	}
	t.ExpiresAt, t.CreatedAt = expires.Time, created.Time
	return t, nil
}

// Tokens returns every token, newest first.
func (s *Store) Tokens(ctx context.Context) (list []Token, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, selectTokens+" ORDER BY t.created_at DESC, t.token")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			t, err := scanToken(rows.Scan)
			if err != nil {
				return err
			}
			list = append(list, t)
		}
		return fault.Wrap(fault.Busy, rows.Err(), "account: read tokens")
	})
	return list, err
}

// TokenInfo returns one token and the accounts that hold it without having
// logged in. An unknown token is fault.NotFound.
func (s *Store) TokenInfo(ctx context.Context, token string) (t Token, pending []address.Addr, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q *db.Q) error {
		t, err = tokenRow(ctx, q, token)
		return err
	})
	if err != nil {
		return Token{}, nil, err
	}
	for _, i := range s.List() {
		if i.Token == token && i.Pending {
			pending = append(pending, i.Addr)
		}
	}
	return t, pending, nil
}

func tokenRow(ctx context.Context, q *db.Q, token string) (t Token, err error) {
	var rows *sql.Rows
	if rows, err = q.Query(ctx, selectTokens+" WHERE t.token = ?", token); err != nil {
		return Token{}, err
	}
	defer rows.Close()
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return Token{}, fault.Wrap(fault.Busy, err, "account: read a token")
		}
		return Token{}, fault.New(fault.NotFound, "token not found")
	}
	return scanToken(rows.Scan)
}

// CheckToken reports whether an account could be made with token now: nil,
// fault.Refused with a text for the user, or fault.Busy.
func (s *Store) CheckToken(ctx context.Context, token string) error {
	return s.db.Read(ctx, func(ctx context.Context, q *db.Q) error { return usable(ctx, q, token, s.now()) })
}

func usable(ctx context.Context, q *db.Q, token string, now time.Time) error {
	t, err := tokenRow(ctx, q, token)
	switch {
	case fault.Is(err, fault.NotFound):
		return fault.New(fault.Refused, "Invalid registration token: not found")
	case err != nil:
		return err
	}
	if status := t.Status(now); status != "active" {
		return fault.New(fault.Refused, "Invalid registration token: "+status)
	}
	return nil
}

// reserve is usable inside the transaction that makes the account, whose
// quota row then is the reservation.
func reserve(ctx context.Context, tx *db.Tx, token string, now time.Time) error {
	return usable(ctx, &tx.Q, token, now)
}

// DeleteToken removes a token. Accounts that hold it and have not logged in
// are removed when they try to. An unknown token is fault.NotFound.
func (s *Store) DeleteToken(ctx context.Context, token string) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, "DELETE FROM registration_tokens WHERE token = ?", token)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "token not found")
		}
		return err
	})
}

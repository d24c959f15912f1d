package ops

import (
	"context"
	"time"

	"madmail/internal/account"
	"madmail/internal/fault"
	"madmail/internal/settings"
	"madmail/internal/units"
)

// Token is a registration token. Times are RFC 3339 in UTC.
type Token struct {
	Token     string  `json:"token"`
	MaxUses   int     `json:"max_uses"`
	Used      int     `json:"used_count"` // by accounts that have logged in
	Uses      int     `json:"uses"`       // the same, as earlier documents name it
	Pending   int     `json:"pending"`    // held by accounts that have not
	Available int     `json:"available"`
	Remaining int     `json:"remaining"` // the same, as earlier documents name it
	Expired   bool    `json:"expired"`
	Status    string  `json:"status"` // active, exhausted or expired
	Comment   string  `json:"comment"`
	ExpiresAt *string `json:"expires_at"` // null for never
	CreatedAt string  `json:"created_at"`
	// Required tells whether registration asks for tokens at all.
	Required bool             `json:"token_required"`
	Holders  []PendingAccount `json:"pending_accounts,omitempty"`
}

// PendingAccount holds a token until its first login.
type PendingAccount struct {
	Username string `json:"username"`
	Status   string `json:"status"`
}

// NewToken asks for a token. Zero values are drawn, 1, and never.
type NewToken struct {
	Token   string `json:"token"`
	MaxUses *int   `json:"max_uses"`
	Comment string `json:"comment"`
	Expires string `json:"expires"` // a duration from now
	// Replace lets a token that exists have the new values.
	Replace bool `json:"replace,omitempty"`
	// ExpiresAt is an end in RFC 3339, instead of Expires.
	ExpiresAt string `json:"expires_at,omitempty"`
}

// TokenName names a token.
type TokenName struct {
	Token string `json:"token"`
}

func (d *Desk) token(t account.Token) Token {
	now := d.Settings.Current()
	r := Token{
		Token: t.Token, MaxUses: t.MaxUses, Used: t.Used, Uses: t.Used, Pending: t.Pending, Available: t.Available(),
		Status: t.Status(time.Now()), Comment: t.Comment, CreatedAt: t.CreatedAt.UTC().Format(time.RFC3339),
		Required: now.Bool(settings.TokenRequired) || !now.Bool(settings.RegistrationOpen),
	}
	r.Remaining, r.Expired = r.Available, r.Status == "expired"
	if !t.ExpiresAt.IsZero() {
		s := t.ExpiresAt.UTC().Format(time.RFC3339)
		r.ExpiresAt = &s
	}
	return r
}

func (d *Desk) tokenCreate(ctx context.Context, p NewToken) (Token, error) {
	t := account.Token{Token: p.Token, Comment: p.Comment, MaxUses: 1}
	if p.MaxUses != nil {
		if t.MaxUses = *p.MaxUses; t.MaxUses < 1 {
			return Token{}, fault.New(fault.Invalid, "a token has at least one use")
		}
	}
	if p.Expires != "" {
		in, err := units.ParseDuration(p.Expires)
		if err != nil || in <= 0 || in > 100*365*24*time.Hour {
			return Token{}, fault.WithHint(fault.Newf(fault.Invalid, "%.40q is not a time to expire after", p.Expires), `write "7d" or "12h"`)
		}
		t.ExpiresAt = time.Now().Add(in)
	}
	if p.ExpiresAt != "" {
		at, err := time.Parse(time.RFC3339, p.ExpiresAt)
		if err != nil {
			return Token{}, fault.WithHint(fault.Newf(fault.Invalid, "%.40q is not a time", p.ExpiresAt), `write "2027-01-31T12:00:00Z"`)
		}
		t.ExpiresAt = at.UTC()
	}
	store := d.Accounts.CreateToken
	if p.Replace {
		store = d.Accounts.ReplaceToken
	}
	t, err := store(ctx, t)
	if err != nil {
		return Token{}, err
	}
	return d.token(t), nil
}

func (d *Desk) tokenList(ctx context.Context, _ none) (map[string][]Token, error) {
	all, err := d.Accounts.Tokens(ctx)
	list := make([]Token, 0, len(all))
	for _, t := range all {
		list = append(list, d.token(t))
	}
	return map[string][]Token{"tokens": list}, err
}

func (d *Desk) tokenStatus(ctx context.Context, p TokenName) (Token, error) {
	t, pending, err := d.Accounts.TokenInfo(ctx, p.Token)
	if err != nil {
		return Token{}, err
	}
	r := d.token(t)
	for _, a := range pending {
		r.Holders = append(r.Holders, PendingAccount{Username: a.Wire(), Status: "awaiting first login"})
	}
	return r, nil
}

func (d *Desk) tokenDelete(ctx context.Context, p TokenName) (TokenName, error) {
	return p, d.Accounts.DeleteToken(ctx, p.Token)
}

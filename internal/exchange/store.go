// Package exchange fetches mail from exchangers: boxes on the web where servers that
// cannot be reached leave mail for each other. An operator names them, each is asked
// again and again, and what it holds enters through the one intake like other mail
// of strangers.
//
// Two kinds of box are understood. One answers GET URL/me/full and cannot be told
// that a message arrived, so what was seen is remembered for a month. The other, whose
// URL ends in /pull, is asked for each of our domains and told afterwards which
// messages may go.
//
// Its tables are exchangers, exchanger_state and exchanger_seen. All methods may be called from many
// goroutines.
package exchange

import (
	"cmp"
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"madmail/internal/db"
	"madmail/internal/fault"
)

// Limits of what an operator may say.
const (
	MinInterval     = 5 * time.Second
	MaxInterval     = 24 * time.Hour
	DefaultInterval = time.Minute
	MaxExchangers   = 100
	maxName         = 64
	maxURL          = 1024
)

// Exchanger is a box that mail is fetched from.
type Exchanger struct {
	Name     string
	URL      string // without the token
	Token    string // "" for none
	Enabled  bool
	Interval time.Duration
	// LastPoll is when it answered last, the zero time for never; LastError why it
	// did not since, or "". Received counts the messages taken.
	LastPoll  time.Time
	LastError string
	Received  int64
}

// Pulls reports whether the box is asked by domain and told what arrived.
func (x Exchanger) Pulls() bool {
	u, err := url.Parse(x.URL)
	return err == nil && strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/pull")
}

// check brings what an operator wrote into its stored form: a token in the URL's
// user part is kept apart. Errors are of kind fault.Invalid.
func (x Exchanger) check() (Exchanger, error) {
	x.Name = strings.TrimSpace(x.Name)
	if x.Name == "" || len(x.Name) > maxName || strings.ContainsFunc(x.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return x, fault.Newf(fault.Invalid, "the name of an exchanger has 1 to %d characters", maxName)
	}
	u, err := url.Parse(strings.TrimSpace(x.URL))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || len(x.URL) > maxURL {
		return x, fault.WithHint(fault.New(fault.Invalid, "the URL of an exchanger cannot be used"), "write https://host/path")
	}
	if u.User != nil {
		x.Token = u.User.Username()
		if p, ok := u.User.Password(); ok {
			x.Token = p
		}
		u.User = nil
	}
	u.Fragment, u.RawQuery = "", ""
	u.Path = strings.TrimRight(u.Path, "/")
	x.URL = u.String()
	if len(x.Token) > maxURL || strings.ContainsFunc(x.Token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return x, fault.New(fault.Invalid, "the token of an exchanger is visible ASCII")
	}
	if x.Interval == 0 {
		x.Interval = DefaultInterval
	}
	if x.Interval < MinInterval || x.Interval > MaxInterval {
		return x, fault.Newf(fault.Invalid, "an exchanger is asked every %v at most and every %v at least", MinInterval, MaxInterval)
	}
	return x, nil
}

// literal reports whether the URL's host is an IP address, which no certificate names.
func literal(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(u.Hostname())
	return err == nil
}

// Store is the list of exchangers. Make one with Open.
type Store struct {
	db  *db.DB
	now func() time.Time

	mu      sync.Mutex // guards the fields below
	list    []Exchanger
	changed chan struct{} // closed when the list changes
}

// Open reads the table. now may be nil.
func Open(ctx context.Context, d *db.DB, now func() time.Time) (*Store, error) {
	if now == nil {
		now = time.Now
	}
	s := &Store{db: d, now: now, changed: make(chan struct{})}
	return s, s.Reload(ctx)
}

// Reload reads the table again, for hands that used SQL. Rows that make no sense are
// passed over.
func (s *Store) Reload(ctx context.Context) error {
	return s.change(ctx, func(context.Context, *db.Tx) error { return nil })
}

// List returns the exchangers by name.
func (s *Store) List() []Exchanger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// Get returns one; the error is of kind fault.NotFound.
func (s *Store) Get(name string) (Exchanger, error) {
	for _, x := range s.List() {
		if x.Name == name {
			return x, nil
		}
	}
	return Exchanger{}, fault.Newf(fault.NotFound, "no exchanger is called %q", name)
}

// change runs f and reads the table in the same transaction.
func (s *Store) change(ctx context.Context, f func(context.Context, *db.Tx) error) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		list, err := read(ctx, &tx.Q)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.list = list
			close(s.changed)
			s.changed = make(chan struct{})
		})
		return nil
	})
}

func read(ctx context.Context, q *db.Q) (list []Exchanger, err error) {
	rows, err := q.Query(ctx, `SELECT e.name, e.url, coalesce(s.token, ''), e.enabled, e.poll_interval, e.last_poll_at, coalesce(s.last_error, ''), coalesce(s.received_total, 0)
		FROM exchangers e LEFT JOIN exchanger_state s ON s.name = e.name ORDER BY e.name LIMIT ?`, MaxExchangers)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x Exchanger
		var seconds int64
		var at db.Time
		if err := rows.Scan(&x.Name, &x.URL, &x.Token, &x.Enabled, &seconds, &at, &x.LastError, &x.Received); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "exchange: read")
		}
		x.Interval = time.Duration(min(max(seconds, int64(MinInterval/time.Second)), int64(MaxInterval/time.Second))) * time.Second
		if at.Valid {
			x.LastPoll = at.Time
		}
		token := x.Token
		if x, err = x.check(); err == nil {
			x.Token = cmp.Or(token, x.Token)
			list = append(list, x)
		}
	}
	return list, fault.Wrap(fault.Internal, rows.Err(), "exchange: read")
}

// Add stores a new exchanger. Errors: fault.Exists for a name that is taken,
// fault.Invalid, fault.Full when there are too many.
func (s *Store) Add(ctx context.Context, x Exchanger) error {
	x, err := x.check()
	if err != nil {
		return err
	}
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) error {
		var n, same int
		if err := tx.QueryRow(ctx, "SELECT count(*), count(CASE WHEN name = ? THEN 1 END) FROM exchangers", []any{x.Name}, []any{&n, &same}); err != nil {
			return err
		}
		switch {
		case same > 0:
			return fault.Newf(fault.Exists, "an exchanger is called %q already", x.Name)
		case n >= MaxExchangers:
			return fault.Newf(fault.Full, "there are %d exchangers already", n)
		}
		now := db.At(s.now())
		if _, err := tx.Exec(ctx, "INSERT INTO exchangers (name, url, enabled, poll_interval, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
			x.Name, x.URL, x.Enabled, int64(x.Interval/time.Second), now, now); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT OR REPLACE INTO exchanger_state (name, token) VALUES (?, ?)", x.Name, x.Token)
		return err
	})
}

// Change is what may be changed; nil leaves a value.
type Change struct {
	URL, Token *string
	Enabled    *bool
	Interval   *time.Duration
}

// Set changes an exchanger. Errors: fault.NotFound, fault.Invalid.
func (s *Store) Set(ctx context.Context, name string, c Change) error {
	x, err := s.Get(name)
	if err != nil {
		return err
	}
	if c.URL != nil {
		x.URL = *c.URL
	}
	if c.Token != nil {
		x.Token = *c.Token
	}
	if c.Enabled != nil {
		x.Enabled = *c.Enabled
	}
	if c.Interval != nil {
		if x.Interval = *c.Interval; x.Interval == 0 {
			x.Interval = -1 // not "the default"
		}
	}
	if x, err = x.check(); err != nil {
		return err
	}
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE exchangers SET url = ?, enabled = ?, poll_interval = ?, updated_at = ? WHERE name = ?",
			x.URL, x.Enabled, int64(x.Interval/time.Second), db.At(s.now()), name); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO exchanger_state (name, token) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET token = excluded.token", name, x.Token)
		return err
	})
}

// Remove forgets an exchanger. The error is of kind fault.NotFound.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, "DELETE FROM exchangers WHERE name = ?", name)
		if err == nil && n == 0 {
			err = fault.Newf(fault.NotFound, "no exchanger is called %q", name)
		}
		if err == nil {
			_, err = tx.Exec(ctx, "DELETE FROM exchanger_state WHERE name = ?", name)
		}
		return err
	})
}

// polled stores the outcome of asking a box. A time of the last answer is kept when
// why is not "".
func (s *Store) polled(ctx context.Context, name string, received int64, why string) error {
	return s.change(ctx, func(ctx context.Context, tx *db.Tx) error {
		if why == "" {
			if _, err := tx.Exec(ctx, "UPDATE exchangers SET last_poll_at = ? WHERE name = ?", db.At(s.now()), name); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO exchanger_state (name, last_error, received_total) SELECT name, ?, ? FROM exchangers WHERE name = ?
			ON CONFLICT (name) DO UPDATE SET last_error = excluded.last_error, received_total = received_total + excluded.received_total`, why, received, name)
		return err
	})
}

// How long it is remembered what was fetched, and how much of it.
const (
	rememberSeen = 30 * 24 * time.Hour
	maxSeen      = 200_000
)

// mark stands for a message that was fetched.
type mark [16]byte

// seen reports whether one of the marks is known.
func (s *Store) seen(ctx context.Context, marks ...mark) (known bool, err error) {
	err = s.db.Read(ctx, func(ctx context.Context, q *db.Q) error {
		for _, m := range marks {
			var n int
			if err := q.QueryRow(ctx, "SELECT count(*) FROM exchanger_seen WHERE mark = ?", []any{m[:]}, []any{&n}); err != nil {
				return err
			}
			known = known || n > 0
		}
		return nil
	})
	return known, err
}

// remember stores marks and forgets old ones.
func (s *Store) remember(ctx context.Context, marks ...mark) error {
	now := s.now()
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, m := range marks {
			if _, err := tx.Exec(ctx, "INSERT INTO exchanger_seen (mark, seen_at) VALUES (?, ?) ON CONFLICT (mark) DO NOTHING", m[:], now.Unix()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Forget drops what was remembered too long, or is too much. It belongs into a daily
// job.
func (s *Store) Forget(ctx context.Context) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM exchanger_seen WHERE seen_at < ?", s.now().Add(-rememberSeen).Unix()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM exchanger_seen WHERE mark IN (SELECT mark FROM exchanger_seen ORDER BY seen_at DESC LIMIT -1 OFFSET ?)", maxSeen)
		return err
	})
}

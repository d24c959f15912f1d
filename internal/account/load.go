package account

import (
	"context"
	"slices"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// layout is how the passwords table names its columns.
type layout struct {
	name, hash string
	created    bool // has created_at
}

func layoutOf(columns []string) layout {
	if slices.Contains(columns, "key") {
		return layout{name: "key", hash: "value"}
	}
	return layout{name: "username", hash: "hash", created: slices.Contains(columns, "created_at")}
}

// loaded is what Reload reads before it is published.
type loaded struct {
	all        map[address.Addr]*entry
	blocked    map[address.Addr]*blockRow
	removing   map[address.Addr]struct{}
	byDefault  int64
	unreadable int // rows whose name is no address
	doubles    int // rows whose name is another spelling of one that is kept
}

// Reload reads the tables again, for hands that used SQL. It runs as a write,
// so that no change falls between reading and publishing; what is known in
// memory only (last logins, verified passwords) is kept.
func (s *Store) Reload(ctx context.Context) error {
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		l, lay, err := load(ctx, &tx.Q)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.publish(l, lay) })
		return nil
	})
	return fault.Wrap(fault.KindOf(err), err, "account: load")
}

func (s *Store) publish(l *loaded, lay layout) {
	if l.unreadable > 0 || l.doubles > 0 {
		s.log.Warn("account: rows were left out", "not_an_address", l.unreadable, "other_spelling", l.doubles)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, e := range l.all {
		if old := s.all[a]; old != nil {
			e.live = old.live
		}
	}
	s.all, s.blocked, s.removing, s.layout = l.all, l.blocked, l.removing, lay
	s.byDefault.Store(l.byDefault)
}

func load(ctx context.Context, q *db.Q) (*loaded, layout, error) {
	columns, err := q.Columns(ctx, "passwords")
	if err != nil {
		return nil, layout{}, err
	}
	lay := layoutOf(columns)
	l := &loaded{all: make(map[address.Addr]*entry), blocked: make(map[address.Addr]*blockRow), removing: make(map[address.Addr]struct{})}
	quotas, err := l.quotas(ctx, q)
	if err != nil {
		return nil, lay, err
	}
	if err := l.passwords(ctx, q, lay, quotas); err != nil {
		return nil, lay, err
	}
	if err := l.appendLimits(ctx, q); err != nil {
		return nil, lay, err
	}
	if err := l.removals(ctx, q); err != nil {
		return nil, lay, err
	}
	return l, lay, l.blocks(ctx, q)
}

func (l *loaded) appendLimits(ctx context.Context, q *db.Q) error {
	rows, err := q.Query(ctx, "SELECT username, bytes FROM append_limits WHERE bytes > 0")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return fault.Wrap(fault.Internal, err, "account: read append limits")
		}
		if a, err := address.Parse(name); err == nil && l.all[a] != nil {
			l.all[a].largest = n
		}
	}
	return fault.Wrap(fault.Busy, rows.Err(), "account: read append limits")
}

func (l *loaded) removals(ctx context.Context, q *db.Q) error {
	rows, err := q.Query(ctx, "SELECT username FROM removals")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return fault.Wrap(fault.Internal, err, "account: read removals")
		}
		// An account that hands made anew by SQL keeps what it has.
		if a, err := address.Parse(name); err == nil && l.all[a] == nil {
			l.removing[a] = struct{}{}
		}
	}
	return fault.Wrap(fault.Busy, rows.Err(), "account: read removals")
}

// quotas reads the rows as entries by the name that stands in the table.
func (l *loaded) quotas(ctx context.Context, q *db.Q) (map[string]*entry, error) {
	rows, err := q.Query(ctx, `SELECT username, coalesce(max_storage, 0), coalesce(created_at, 0), coalesce(first_login_at, 0),
		coalesce(last_login_at, 0), coalesce(used_token, '') FROM quotas`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := make(map[string]*entry)
	for rows.Next() {
		var name string
		e := &entry{live: &live{}}
		if err := rows.Scan(&name, &e.limit, &e.created, &e.first, &e.last, &e.token); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "account: read quotas")
		}
		if name == globalDefault {
			l.byDefault = e.limit
			continue
		}
		all[name] = e
	}
	return all, fault.Wrap(fault.Busy, rows.Err(), "account: read quotas")
}

func (l *loaded) passwords(ctx context.Context, q *db.Q, lay layout, quotas map[string]*entry) error {
	created := "0"
	if lay.created {
		created = "coalesce(created_at, 0)"
	}
	rows, err := q.Query(ctx, "SELECT "+lay.name+", "+lay.hash+", "+created+" FROM passwords ORDER BY rowid")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name, hash string
		var at int64
		if err := rows.Scan(&name, &hash, &at); err != nil {
			return fault.Wrap(fault.Internal, err, "account: read passwords")
		}
		if strings.HasPrefix(name, "__") {
			continue // a setting
		}
		a, err := address.Parse(name)
		if err != nil {
			l.unreadable++
			continue
		}
		e := l.entryOf(a, name, quotas)
		e.hash = hash
		if e.created == 0 {
			e.created = at
		}
		// Two spellings of one address: the one that was used last is the account.
		if other := l.all[a]; other != nil {
			l.doubles++
			if other.last >= e.last {
				other.also = append(other.also, name)
				continue
			}
			e.also = append(other.also, other.name(a))
		}
		l.all[a] = e
	}
	return fault.Wrap(fault.Busy, rows.Err(), "account: read passwords")
}

// entryOf finds the quota row of a password row, by its own spelling first.
func (l *loaded) entryOf(a address.Addr, name string, quotas map[string]*entry) *entry {
	wire := a.Wire()
	e, quotaName := quotas[name], name
	if e == nil && name != wire {
		e, quotaName = quotas[wire], wire
	}
	if e == nil {
		e, quotaName = &entry{live: &live{}}, wire
	}
	if name != wire {
		e.row = name
	}
	if quotaName != wire {
		e.quotaRow = quotaName
	}
	return e
}

func (l *loaded) blocks(ctx context.Context, q *db.Q) error {
	rows, err := q.Query(ctx, "SELECT username, coalesce(reason, ''), blocked_at FROM blocked_users")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name, reason string
		var at db.Time
		if err := rows.Scan(&name, &reason, &at); err != nil {
			return fault.Wrap(fault.Internal, err, "account: read blocks")
		}
		a, err := address.Parse(name)
		if err != nil {
			l.unreadable++
			continue
		}
		b := l.blocked[a]
		if b == nil {
			b = &blockRow{}
			l.blocked[a] = b
		}
		b.rows = append(b.rows, name)
		b.reason, b.at = reason, time.Time{}
		if at.Valid {
			b.at = at.Time
		}
	}
	return fault.Wrap(fault.Busy, rows.Err(), "account: read blocks")
}

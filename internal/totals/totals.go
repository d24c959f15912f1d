// Package totals keeps counts of messages over restarts.
//
// Its table is message_stats, which earlier versions have, too. Others count in
// memory since their start; a Store adds what was counted before. It knows names and
// numbers and nothing of what they count.
//
// All methods may be called from many goroutines.
package totals

import (
	"context"
	"sync"

	"madmail/internal/db"
	"madmail/internal/fault"
)

// Store adds up. Make one with Open.
type Store struct {
	db  *db.DB
	now func() map[string]int64

	flushing sync.Mutex // one Flush at a time; above mu

	mu      sync.Mutex // guards the field below
	before  map[string]int64
	written map[string]int64
}

// Open reads the table. now returns the counts since the start of this process, by
// the names of the table; it may be called at any time and never counts down.
func Open(ctx context.Context, d *db.DB, now func() map[string]int64) (*Store, error) {
	t := &Store{db: d, now: now, before: make(map[string]int64), written: make(map[string]int64)}
	err := d.Read(ctx, func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, "SELECT name, coalesce(count, 0) FROM message_stats")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var n int64
			if err := rows.Scan(&name, &n); err != nil {
				return fault.Wrap(fault.Internal, err, "totals: read counts")
			}
			t.before[name] = max(0, n)
		}
		return fault.Wrap(fault.Busy, rows.Err(), "totals: read counts")
	})
	return t, err
}

// All returns every count: of earlier runs and of this one.
func (t *Store) All() map[string]int64 {
	all := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, n := range t.before {
		all[name] += n
	}
	return all
}

// Flush writes the totals that changed since the last one. Rows of names that
// nobody counts stay as they are.
func (t *Store) Flush(ctx context.Context) error {
	t.flushing.Lock()
	defer t.flushing.Unlock()
	now, all := t.now(), make(map[string]int64)
	t.mu.Lock()
	for name, n := range now {
		if n != t.written[name] {
			all[name] = t.before[name] + n
		}
	}
	t.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	return t.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		for name, n := range all {
			if _, err := tx.Exec(ctx, "INSERT INTO message_stats (name, count) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = excluded.count", name, n); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			for name := range all {
				t.written[name] = now[name]
			}
		})
		return nil
	})
}

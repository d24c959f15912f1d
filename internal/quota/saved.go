package quota

import (
	"context"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// saveBatch is how many rows share a transaction.
const saveBatch = 500

type saved struct{ used, messages int64 }

// Save writes what changed since the last Save into the table quota_usage, for
// operators to look at: the counters are the truth, and a start measures the disk.
// The first Save compares all rows, and removes those of accounts without mail.
//
// One Save runs at a time. What cannot be written now is written by the next one.
func (c *Cache) Save(ctx context.Context, d *db.DB) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	if !c.compared {
		if err := c.compare(ctx, d); err != nil {
			return err
		}
		c.compared = true
	}
	c.mu.Lock()
	due := make([]address.Addr, 0, len(c.unsaved))
	for a := range c.unsaved {
		due = append(due, a)
	}
	clear(c.unsaved)
	c.mu.Unlock()
	for len(due) > 0 {
		n := min(len(due), saveBatch)
		if err := d.Write(ctx, func(ctx context.Context, tx *db.Tx) error { return c.write(ctx, tx, due[:n]) }); err != nil {
			c.mu.Lock()
			for _, a := range due {
				c.unsaved[a] = struct{}{}
			}
			c.mu.Unlock()
			return fault.Wrap(fault.KindOf(err), err, "quota: save")
		}
		due = due[n:]
	}
	return nil
}

func (c *Cache) write(ctx context.Context, tx *db.Tx, list []address.Addr) error {
	for _, a := range list {
		used, messages, _ := c.Usage(a)
		var err error
		if used == 0 && messages == 0 {
			_, err = tx.Exec(ctx, "DELETE FROM quota_usage WHERE username = ?", a.Wire())
		} else {
			_, err = tx.Exec(ctx, `INSERT INTO quota_usage (username, bytes, messages) VALUES (?, ?, ?)
				ON CONFLICT (username) DO UPDATE SET bytes = excluded.bytes, messages = excluded.messages`, a.Wire(), used, messages)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compare makes the rows that are as they should be count as saved.
func (c *Cache) compare(ctx context.Context, d *db.DB) error {
	rows := make(map[string]saved)
	err := d.Read(ctx, func(ctx context.Context, q *db.Q) error {
		r, err := q.Query(ctx, "SELECT username, bytes, messages FROM quota_usage")
		if err != nil {
			return err
		}
		defer r.Close()
		for r.Next() {
			var name string
			var s saved
			if err := r.Scan(&name, &s.used, &s.messages); err != nil {
				return fault.Wrap(fault.Internal, err, "quota: read what was saved")
			}
			rows[name] = s
		}
		return fault.Wrap(fault.Busy, r.Err(), "quota: read what was saved")
	})
	if err != nil {
		return err
	}
	var strange []string // no address, or not in its normal form
	c.mu.Lock()
	for name, s := range rows {
		a, err := address.Parse(name)
		if err != nil || a.Wire() != name {
			strange = append(strange, name)
			continue
		}
		if e := c.m[a]; e != nil && e.used == s.used && e.messages == s.messages {
			delete(c.unsaved, a)
		} else {
			c.unsaved[a] = struct{}{}
		}
	}
	c.mu.Unlock()
	if len(strange) == 0 {
		return nil
	}
	return d.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		for _, name := range strange {
			if _, err := tx.Exec(ctx, "DELETE FROM quota_usage WHERE username = ?", name); err != nil {
				return err
			}
		}
		return nil
	})
}

package db

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"madmail/internal/fault"
)

// originOf tells the predecessors' databases from ours, and keyed whether accounts and
// settings are in the first one's passwords(key, value). The second predecessor goes on
// with that table where it finds it, and writes its ledger then or, in later versions,
// makes indexes that nobody else makes.
func originOf(ctx context.Context, q querier, present map[string]string) (origin Origin, keyed bool, err error) {
	cols, err := columnsOf(ctx, q, "passwords")
	if err != nil {
		return Ours, false, fault.Wrap(fault.Internal, err, "db: inspect passwords")
	}
	keyed = slices.ContainsFunc(cols, func(c column) bool { return c.name == "key" })
	if _, ok := present["_sqlx_migrations"]; ok {
		return FromV2, keyed, nil
	}
	if !keyed {
		return Ours, false, nil
	}
	const mark = "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND name IN ('mailbox_modseq_username_key', 'federation_silent_dismiss_domain_key')"
	var n int
	if err := q.QueryRowContext(ctx, mark).Scan(&n); err != nil {
		return Ours, keyed, fault.Wrap(kindOf(err), err, "db: list indexes")
	}
	if n > 0 {
		return FromV2, keyed, nil
	}
	return FromV1, keyed, nil
}

// adopt writes an empty ledger. In a database that somebody else made it
// first adds the tables and columns that are missing, so that migrations and
// statements find what they expect, and counts the versions that the second
// predecessor applied as applied. Nothing that is there is changed, except
// that of rows with one key the latest stays, where the table had allowed more.
func (d *DB) adopt(ctx context.Context, all []migration, present map[string]string) error {
	if _, err := d.w.ExecContext(ctx, createLedger); err != nil {
		return fault.Wrap(kindOf(err), err, "db: create the ledger")
	}
	if len(present) == 0 {
		return nil
	}
	d.log.Info("db: adopting a database made by another program", "tables", len(present))
	if err := d.complete(ctx, all, present); err != nil {
		return err
	}
	keys := uniqueKeys
	if d.origin == FromV1 { // one build of it rewrote its file with CREATE TABLE AS, which drops all keys
		keys = append(slices.Clone(keys), [2]string{"passwords", "key"})
	}
	for _, k := range keys {
		if err := d.makeUnique(ctx, k[0], k[1]); err != nil {
			return err
		}
	}
	if _, ok := present["_sqlx_migrations"]; !ok {
		return nil
	}
	done, err := foreignLedger(ctx, d.w)
	if err != nil {
		return err
	}
	for _, m := range all {
		if done[m.version] {
			if err := d.record(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func foreignLedger(ctx context.Context, q querier) (map[int64]bool, error) {
	rows, err := q.QueryContext(ctx, "SELECT version FROM _sqlx_migrations WHERE success")
	if err != nil {
		return nil, fault.Wrap(kindOf(err), err, "db: read _sqlx_migrations")
	}
	defer rows.Close()
	done := make(map[int64]bool)
	for rows.Next() {
		var v int64
		if err := rows.Scan(&v); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "db: read _sqlx_migrations")
		}
		done[v] = true
	}
	return done, fault.Wrap(fault.Internal, rows.Err(), "db: read _sqlx_migrations")
}

// complete compares the tables with those of a fresh database, made in
// memory from the same migrations, and adds what is missing.
func (d *DB) complete(ctx context.Context, all []migration, present map[string]string) error {
	mem, err := sql.Open(driverName, ":memory:")
	if err != nil {
		return fault.Wrap(fault.Internal, err, "db: open a database in memory")
	}
	defer mem.Close()
	mem.SetMaxOpenConns(1)
	for _, m := range all {
		if _, err := mem.ExecContext(ctx, m.script); err != nil {
			return fault.Wrap(fault.Internal, err, "db: apply "+m.file+" in memory")
		}
	}
	want, err := tables(ctx, mem)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "db: list tables")
	}
	for name, statement := range want {
		if _, ok := present[name]; !ok {
			if _, err := d.w.ExecContext(ctx, statement); err != nil {
				return fault.Wrap(kindOf(err), err, "db: create "+name)
			}
			continue
		}
		if name == "passwords" && d.keyed {
			continue // its layout is supported as it is
		}
		if err := d.completeTable(ctx, mem, name); err != nil {
			return err
		}
	}
	return nil
}

func (d *DB) completeTable(ctx context.Context, mem *sql.DB, table string) error {
	want, err := columnsOf(ctx, mem, table)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "db: inspect "+table)
	}
	have, err := columnsOf(ctx, d.w, table)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "db: inspect "+table)
	}
	for _, w := range want {
		if slices.ContainsFunc(have, func(h column) bool { return strings.EqualFold(h.name, w.name) }) {
			continue
		}
		def := fmt.Sprintf("ALTER TABLE %q ADD COLUMN %q %s", table, w.name, w.decl)
		// SQLite takes only constants as defaults of added columns; Time reads NULL.
		if w.def.Valid && !strings.ContainsAny(w.def.String, "(_") {
			def += " DEFAULT " + w.def.String
			if w.notNull {
				def += " NOT NULL"
			}
		}
		if _, err := d.w.ExecContext(ctx, def); err != nil {
			return fault.Wrap(kindOf(err), err, "db: add "+table+"."+w.name)
		}
	}
	return nil
}

// uniqueKeys are the columns that upserts rely on.
var uniqueKeys = [][2]string{
	{"settings", "key"}, {"quotas", "username"}, {"blocked_users", "username"}, {"registration_tokens", "token"},
	{"dns_overrides", "lookup_key"}, {"federation_rules", "domain"}, {"federation_server_stats", "domain"},
	{"message_stats", "name"}, {"exchangers", "name"}, {"federation_silent_dismiss", "domain"}, {"mailbox_modseq", "username"},
	{"contacts", "slug"},
}

// makeUnique gives table, if it is there, a unique index on col unless it has one.
func (d *DB) makeUnique(ctx context.Context, table, col string) error {
	if have, err := columnsOf(ctx, d.w, table); err != nil || len(have) == 0 {
		return fault.Wrap(kindOf(err), err, "db: inspect "+table)
	}
	// A unique index whose only column is col.
	const find = `SELECT count(*) FROM pragma_index_list(?) l
		WHERE l."unique" AND l.partial = 0
		AND (SELECT group_concat(i.name) FROM pragma_index_info(l.name) i) = ?`
	var n int
	if err := d.w.QueryRowContext(ctx, find, table, col).Scan(&n); err != nil {
		return fault.Wrap(kindOf(err), err, "db: inspect "+table)
	}
	if n > 0 {
		return nil
	}
	dedupe := fmt.Sprintf("DELETE FROM %q WHERE rowid NOT IN (SELECT max(rowid) FROM %q GROUP BY %q)", table, table, col)
	index := fmt.Sprintf("CREATE UNIQUE INDEX IF NOT EXISTS %q ON %q (%q)", table+"_"+col+"_key", table, col)
	for _, s := range []string{dedupe, index} {
		if _, err := d.w.ExecContext(ctx, s); err != nil {
			return fault.Wrap(kindOf(err), err, "db: make "+table+"."+col+" unique")
		}
	}
	return nil
}

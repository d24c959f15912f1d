package db

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/fault"
)

//go:embed migrations
var files embed.FS

func embedded() fs.FS {
	sub, err := fs.Sub(files, path.Join("migrations", dialect))
	if err != nil {
		panic(err) // the directory is part of the binary
	}
	return sub
}

// migration is one file.
type migration struct {
	version             int64
	file, name          string
	script, fingerprint string
}

var migrationName = regexp.MustCompile(`^(\d{14})_([a-z0-9_]+)\.sql$`)

// loadMigrations returns the files in order.
func loadMigrations(from fs.FS) ([]migration, error) {
	entries, err := fs.ReadDir(from, ".")
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "db: list migrations")
	}
	var all []migration
	for _, e := range entries {
		m := migrationName.FindStringSubmatch(e.Name())
		if m == nil {
			return nil, fault.Newf(fault.Internal, "db: migration %s is not named YYYYMMDDhhmmss_name.sql", e.Name())
		}
		b, err := fs.ReadFile(from, e.Name())
		if err != nil {
			return nil, fault.Wrap(fault.Internal, err, "db: read migration")
		}
		version, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			return nil, fault.Wrap(fault.Internal, err, "db: migration version")
		}
		script := strings.ReplaceAll(string(b), "\r\n", "\n")
		sum := sha256.Sum256([]byte(script))
		all = append(all, migration{version, e.Name(), m[2], script, hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(all, func(a, b migration) int { return cmp.Compare(a.version, b.version) })
	for i, m := range all {
		if i > 0 && all[i-1].version == m.version {
			return nil, fault.Newf(fault.Internal, "db: migrations %s and %s have one version", all[i-1].file, m.file)
		}
	}
	return all, nil
}

const createLedger = `CREATE TABLE IF NOT EXISTS _madmail_migrations (
    version    BIGINT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at BIGINT NOT NULL
)`

// migrate adopts the database when it is a predecessor's and applies what is
// missing, one transaction per file. BEGIN IMMEDIATE is the lock that makes a
// second process wait here.
func (d *DB) migrate(ctx context.Context, from fs.FS) error {
	all, err := loadMigrations(from)
	if err != nil {
		return err
	}
	for {
		more, err := d.migrateOne(ctx, all)
		if err != nil {
			return err
		}
		if !more {
			return nil
		}
	}
}

func (d *DB) migrateOne(ctx context.Context, all []migration) (more bool, err error) {
	if _, err := d.w.ExecContext(ctx, beginWrite); err != nil {
		return false, fault.Wrap(kindOf(err), err, "db: lock the migrations")
	}
	defer func() {
		if err != nil {
			_, _ = d.w.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
			return
		}
		_, err = d.w.ExecContext(ctx, "COMMIT")
		err = fault.Wrap(fault.Internal, err, "db: commit a migration")
	}()
	present, err := tables(ctx, d.w)
	if err != nil {
		return false, fault.Wrap(fault.Internal, err, "db: list tables")
	}
	if d.origin, d.keyed, err = originOf(ctx, d.w, present); err != nil {
		return false, err
	}
	if _, ok := present["_madmail_migrations"]; !ok {
		return true, d.adopt(ctx, all, present)
	}
	applied, err := d.ledger(ctx, all)
	if err != nil {
		return false, err
	}
	for _, m := range all {
		if !applied[m.version] {
			return true, d.apply(ctx, m)
		}
	}
	return false, nil
}

// ledger returns the applied versions after comparing them with the files.
func (d *DB) ledger(ctx context.Context, all []migration) (map[int64]bool, error) {
	known := make(map[int64]migration, len(all))
	for _, m := range all {
		known[m.version] = m
	}
	rows, err := d.w.QueryContext(ctx, "SELECT version, name, checksum FROM _madmail_migrations ORDER BY version")
	if err != nil {
		return nil, fault.Wrap(kindOf(err), err, "db: read the ledger")
	}
	defer rows.Close()
	applied := make(map[int64]bool)
	for rows.Next() {
		var version int64
		var name, checksum string
		if err := rows.Scan(&version, &name, &checksum); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "db: read the ledger")
		}
		m, ok := known[version]
		switch {
		case !ok && strings.HasSuffix(name, "_add"):
			d.log.Warn("db: the database has a newer, additive migration", "version", version)
		case !ok:
			return nil, fault.WithHint(fault.Newf(fault.Internal, "db: database is newer than this program (version %d)", version),
				"install the version that wrote it, or restore the backup made before the upgrade")
		case m.fingerprint != checksum:
			return nil, fault.WithHint(fault.Newf(fault.Internal, "db: migration %d (%s) was changed after it had been applied: "+
				"run `make reset-db` (development) or restore the original file, then restart", version, m.file), "make reset-db, which forgets the accounts; or install the program that wrote it")
		}
		applied[version] = true
	}
	return applied, fault.Wrap(fault.Internal, rows.Err(), "db: read the ledger")
}

func (d *DB) apply(ctx context.Context, m migration) error {
	if _, err := d.w.ExecContext(ctx, m.script); err != nil {
		return fault.Wrap(kindOf(err), err, fmt.Sprintf("db: apply %s", m.file))
	}
	return d.record(ctx, m)
}

func (d *DB) record(ctx context.Context, m migration) error {
	_, err := d.w.ExecContext(ctx, "INSERT INTO _madmail_migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, ?)",
		m.version, m.name, m.fingerprint, d.now().Unix())
	return fault.Wrap(fault.Internal, err, "db: record a migration")
}

package db

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"madmail/internal/fault"
)

const (
	driverName  = "sqlite"
	dialect     = "sqlite" // directory below migrations/
	busyTimeout = 30 * time.Second
	beginWrite  = "BEGIN IMMEDIATE"
)

// dsn names the file and what every connection to it is set to.
func dsn(path string, reader bool, opt Options) string {
	q := url.Values{}
	for _, pragma := range []string{
		"busy_timeout(" + strconv.FormatInt(opt.busy().Milliseconds(), 10) + ")",
		"journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)", "temp_store(MEMORY)",
	} {
		q.Add("_pragma", pragma)
	}
	if opt.Cache != "" {
		q.Add("_pragma", "cache_size("+opt.Cache+")")
	}
	if reader {
		q.Add("_pragma", "query_only(1)")
	}
	return fileURI(path, q)
}

// fileURI is how SQLite is told of a file and of what its connections are set to.
func fileURI(path string, q url.Values) string {
	p := filepath.ToSlash(path)
	if !strings.HasPrefix(p, "/") {
		p = "/" + p // a drive letter
	}
	return "file://" + (&url.URL{Path: p}).EscapedPath() + "?" + q.Encode()
}

// CreateForeign makes an SQLite file, mode 0600, that is written once and then read by
// OpenForeign or adopted. A file that is there is an error of kind fault.Exists.
func CreateForeign(ctx context.Context, path string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "db: create")
	}
	f, err := os.OpenFile(abs, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	switch {
	case errors.Is(err, os.ErrExist):
		return nil, fault.Wrap(fault.Exists, err, "db: create")
	case err != nil:
		return nil, fault.Wrap(fault.Busy, err, "db: create")
	}
	d, err := sql.Open(driverName, fileURI(abs, url.Values{"_pragma": {"journal_mode(MEMORY)", "synchronous(FULL)"}}))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "db: create "+path)
	}
	d.SetMaxOpenConns(1)
	return d, nil
}

// OpenForeign opens another program's SQLite file for reading. Nothing in it is
// changed; what that program left in its write-ahead log is read, too. A file that does
// not exist is an error of kind fault.NotFound.
func OpenForeign(ctx context.Context, path string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(abs)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Wrap(fault.NotFound, err, "db: open")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "db: open")
	}
	q := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(" + strconv.FormatInt(busyTimeout.Milliseconds(), 10) + ")", "query_only(1)"}}
	d, err := sql.Open(driverName, fileURI(abs, q))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "db: open "+path)
	}
	var n int
	if err := d.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&n); err != nil {
		return nil, errors.Join(fault.Wrap(fault.Invalid, err, "db: open "+path), d.Close())
	}
	return d, nil
}

// prepareFile creates the file with its mode, or narrows the mode of one that
// a predecessor left to the umask. SQLite gives -wal and -shm the same mode.
func prepareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return f.Chmod(0o600)
	}
	return nil
}

// kindOf sorts the driver's errors.
func kindOf(err error) fault.Kind {
	var fe *fault.Error
	if errors.As(err, &fe) {
		return fe.Kind
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fault.Busy
	}
	if errors.Is(err, sql.ErrNoRows) {
		return fault.NotFound
	}
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return fault.Internal
	}
	switch se.Code() {
	case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_ROWID:
		return fault.Exists
	}
	switch se.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN:
		return fault.Busy
	}
	return fault.Internal
}

// locked reports whether another connection held the file.
func locked(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && (se.Code()&0xff == sqlite3.SQLITE_BUSY || se.Code()&0xff == sqlite3.SQLITE_LOCKED)
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// column is one row of a table's description.
type column struct {
	name, decl string
	notNull    bool
	def        sql.NullString
}

// columnsOf describes table in its order; a table that is absent has none.
func columnsOf(ctx context.Context, q querier, table string) ([]column, error) {
	rows, err := q.QueryContext(ctx, "SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []column
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.name, &c.decl, &c.notNull, &c.def); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, rows.Err()
}

// tables returns the name and the defining statement of every table.
func tables(ctx context.Context, q querier) (map[string]string, error) {
	rows, err := q.QueryContext(ctx, "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := make(map[string]string)
	for rows.Next() {
		var name string
		var def sql.NullString
		if err := rows.Scan(&name, &def); err != nil {
			return nil, err
		}
		all[name] = def.String
	}
	return all, rows.Err()
}

// Backup writes a copy of the database, as it is at one moment, to a file that must
// not exist. Writers go on meanwhile.
func (d *DB) Backup(ctx context.Context, path string) error {
	c, err := d.readers.Conn(ctx)
	if err != nil {
		return fault.Wrap(kindOf(err), err, "db: backup")
	}
	defer c.Close()
	// Readers may only query; this one writes another file.
	for _, q := range []string{"PRAGMA query_only(0)", "VACUUM INTO '" + strings.ReplaceAll(path, "'", "''") + "'"} {
		if _, err = c.ExecContext(ctx, q); err != nil {
			break
		}
	}
	if _, e := c.ExecContext(context.WithoutCancel(ctx), "PRAGMA query_only(1)"); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	return fault.Wrap(kindOf(err), err, "db: backup")
}

package db

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"madmail/internal/fault"
	"madmail/internal/latency"
	"madmail/internal/logging"
	"madmail/internal/task"
)

// Names of the database file in the state directory, in order of preference.
const (
	FileName    = "credentials.db"
	OldFileName = "chatmail.db"
)

// Options say which database to open. Path or StateDir is needed.
type Options struct {
	StateDir string // where relative and default paths lie
	Path     string // configured file; "" chooses as ChoosePath does
	Readers  int    // read connections, default 4
	// Cache is the size of a connection's cache in pages, below zero in KiB, as SQLite
	// counts; "" leaves it. Busy is how long a statement waits for another program, 30 s.
	Cache string
	Busy  time.Duration
	Log   *slog.Logger
	Now   func() time.Time
	// Migrations are those of a database that is not the main one: files named
	// YYYYMMDDhhmmss_name.sql.
	Migrations fs.FS
}

func (o *Options) busy() time.Duration {
	if o.Busy <= 0 {
		return busyTimeout
	}
	return o.Busy
}

// Origin says who made a database.
type Origin uint8

// The origins of a database.
const (
	Ours   Origin = iota
	FromV1        // the first predecessor
	FromV2        // the second, perhaps on what the first had left
)

// DB is an open database. Close it.
type DB struct {
	path   string
	log    *slog.Logger
	now    func() time.Time
	origin Origin
	keyed  bool

	readers *sql.DB
	readMu  sync.Mutex // guards the field below
	readSQL map[string]*sql.Stmt

	writer *sql.DB
	w      *sql.Conn            // used by the writing goroutine only
	wSQL   map[string]*sql.Stmt // likewise

	reads, writes latency.Histogram

	queue   chan *job
	closing chan struct{}
	gone    chan struct{} // closed when the writing goroutine has ended
	once    sync.Once
	tasks   task.Group
}

// Latencies return how long reads and writes took since Open, waiting included.
func (d *DB) Latencies() (reads, writes latency.Counts) { return d.reads.Read(), d.writes.Read() }

// ChoosePath returns the database file for a state directory: configured when
// not empty (relative to stateDir), else an existing credentials.db, else an
// existing chatmail.db, else credentials.db.
func ChoosePath(stateDir, configured string) string {
	if configured != "" {
		if filepath.IsAbs(configured) {
			return configured
		}
		return filepath.Join(stateDir, configured)
	}
	for _, name := range []string{FileName, OldFileName} {
		p := filepath.Join(stateDir, name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return filepath.Join(stateDir, FileName)
}

// Open opens the database, creates it when absent, and brings its tables up
// to date. A migration that was edited after it had been applied, or a
// database newer than this program, is refused and left as it is.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.StateDir == "" && o.Path == "" {
		return nil, fault.New(fault.Invalid, "db: neither StateDir nor Path is set")
	}
	path, err := filepath.Abs(ChoosePath(o.StateDir, o.Path))
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "db: path")
	}
	d := &DB{
		path: path, log: o.Log, now: o.Now,
		readSQL: make(map[string]*sql.Stmt), wSQL: make(map[string]*sql.Stmt),
		queue: make(chan *job, queueLength), closing: make(chan struct{}), gone: make(chan struct{}),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	migrations := o.Migrations
	if migrations == nil {
		migrations = embedded()
	}
	if err := d.open(ctx, migrations, o); err != nil {
		return nil, errors.Join(err, d.closePools())
	}
	d.tasks.Panicked = func(name string, v any, stack []byte) {
		d.log.Error("db: panic", "task", name, "value", v, "stack", string(stack))
	}
	d.tasks.Go("db writer", d.write)
	return d, nil
}

func (d *DB) open(ctx context.Context, migrations fs.FS, o Options) (err error) {
	if err := prepareFile(d.path); err != nil {
		return fault.WithHint(fault.Wrap(fault.Internal, err, "db: open "+d.path),
			"the server needs read and write access to the file and its directory")
	}
	if d.writer, err = sql.Open(driverName, dsn(d.path, false, o)); err != nil {
		return fault.Wrap(fault.Internal, err, "db: open "+d.path)
	}
	d.writer.SetMaxOpenConns(1)
	if d.w, err = connect(ctx, d.writer, o.busy()); err != nil {
		return fault.Wrap(fault.Internal, err, "db: open "+d.path)
	}
	if err := d.migrate(ctx, migrations); err != nil {
		return err
	}
	if d.readers, err = sql.Open(driverName, dsn(d.path, true, o)); err != nil {
		return fault.Wrap(fault.Internal, err, "db: open "+d.path)
	}
	readers := max(o.Readers, 0)
	if readers == 0 {
		readers = 4
	}
	d.readers.SetMaxOpenConns(readers)
	d.readers.SetMaxIdleConns(readers)
	return nil
}

// connect opens a connection, and tries again for as long as others may hold the file:
// SQLite does not wait for them while it changes the journal mode, which one process
// may do while another opens or closes the same file.
func connect(ctx context.Context, pool *sql.DB, wait time.Duration) (*sql.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		conn, err := pool.Conn(ctx)
		if !locked(err) {
			return conn, err
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, err
		}
	}
}

// Path returns the file's absolute path.
func (d *DB) Path() string { return d.path }

// Origin says which program made the database.
func (d *DB) Origin() Origin { return d.origin }

// KeyValue reports whether accounts and settings are kept in passwords(key, value), as
// the first predecessor laid it out and the second goes on with.
func (d *DB) KeyValue() bool { return d.keyed }

// Close waits for the writes that have been accepted, until ctx ends, and
// closes the file. It may be called twice.
func (d *DB) Close(ctx context.Context) error {
	var err error
	d.once.Do(func() {
		close(d.closing)
		if werr := d.tasks.Wait(ctx); werr != nil {
			// The writer still uses its connection: leave it to the process's end.
			err = fault.Wrap(fault.Busy, werr, "db: close")
			return
		}
		err = fault.Wrap(fault.Internal, d.closePools(), "db: close")
	})
	return err
}

func (d *DB) closePools() error {
	var all []error
	d.readMu.Lock()
	for _, s := range d.readSQL {
		all = append(all, s.Close())
	}
	clear(d.readSQL)
	d.readMu.Unlock()
	if d.readers != nil {
		all = append(all, d.readers.Close())
	}
	for _, s := range d.wSQL {
		all = append(all, s.Close())
	}
	if d.w != nil {
		all = append(all, d.w.Close())
	}
	if d.writer != nil {
		all = append(all, d.writer.Close())
	}
	return errors.Join(all...)
}

// readTimeout bounds a Read whose caller set no deadline.
const readTimeout = 30 * time.Second

// Read runs f on one read connection. All its queries see the same state of
// the database. The Q is valid until f returns.
func (d *DB) Read(ctx context.Context, f func(ctx context.Context, q *Q) error) error {
	defer d.reads.Since(time.Now())
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readTimeout)
		defer cancel()
	}
	tx, err := d.readers.BeginTx(ctx, nil)
	if err != nil {
		return fault.Wrap(kindOf(err), err, "db: read")
	}
	// Ends the snapshot; nothing was written, so nothing can be lost.
	defer func() { _ = tx.Rollback() }()
	return f(ctx, &Q{prepare: func(ctx context.Context, query string) (*sql.Stmt, error) {
		d.log.Log(ctx, logging.Trace, "sql", "statement", query) // never its values
		s, err := d.readStmt(ctx, query)
		if err != nil {
			return nil, err
		}
		return tx.StmtContext(ctx, s), nil
	}})
}

// readStmt keeps one prepared statement per text. Texts are constants of the
// nouns, so the map is as large as the program.
func (d *DB) readStmt(ctx context.Context, query string) (*sql.Stmt, error) {
	d.readMu.Lock()
	s := d.readSQL[query]
	d.readMu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := d.readers.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	d.readMu.Lock()
	defer d.readMu.Unlock()
	if other := d.readSQL[query]; other != nil {
		return other, s.Close()
	}
	d.readSQL[query] = s
	return s, nil
}

// Q runs queries. A query is not started again while its rows are open.
type Q struct {
	prepare func(ctx context.Context, query string) (*sql.Stmt, error)
	steady  bool // statements are not interrupted when their context ends
}

// Query runs a statement that returns rows. Close the rows.
func (q *Q) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if q.steady {
		ctx = context.WithoutCancel(ctx)
	}
	s, err := q.prepare(ctx, query)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), err, "db: prepare")
	}
	rows, err := s.QueryContext(ctx, args...)
	if err != nil {
		return nil, fault.Wrap(kindOf(err), err, "db: query")
	}
	return rows, nil
}

// QueryRow runs a statement that returns one row into dest. No row is an
// error of kind fault.NotFound.
func (q *Q) QueryRow(ctx context.Context, query string, args, dest []any) error {
	if q.steady {
		ctx = context.WithoutCancel(ctx)
	}
	s, err := q.prepare(ctx, query)
	if err != nil {
		return fault.Wrap(kindOf(err), err, "db: prepare")
	}
	err = s.QueryRowContext(ctx, args...).Scan(dest...)
	return fault.Wrap(kindOf(err), err, "db: query")
}

// Columns returns the names of a table's columns; none when it is absent.
func (q *Q) Columns(ctx context.Context, table string) ([]string, error) {
	rows, err := q.Query(ctx, "SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var n string
		if err := rows.Scan(&n); err != nil {
			return nil, fault.Wrap(fault.Internal, err, "db: columns")
		}
		names = append(names, n)
	}
	return names, fault.Wrap(fault.Internal, rows.Err(), "db: columns")
}

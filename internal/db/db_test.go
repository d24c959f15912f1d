package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"madmail/internal/fault"
)

func open(t testing.TB, o Options) *DB {
	t.Helper()
	if o.StateDir == "" {
		o.StateDir = t.TempDir()
	}
	d, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// raw opens a file as a foreign program would.
func raw(t testing.TB, path string) *sql.DB {
	t.Helper()
	c, err := sql.Open(driverName, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func must(t testing.TB, c *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := c.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func count(t testing.TB, d *DB, query string, args ...any) (n int) {
	t.Helper()
	err := d.Read(t.Context(), func(ctx context.Context, q *Q) error {
		return q.QueryRow(ctx, query, args, []any{&n})
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func setting(key, value string) func(context.Context, *Tx) error {
	return func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?)", key, value)
		return err
	}
}

// D07, known failure B46: both file names are recognised.
func TestTheDatabaseFileIsChosenInOrder(t *testing.T) {
	dir := t.TempDir()
	want := func(configured, name string) {
		t.Helper()
		if got := ChoosePath(dir, configured); got != filepath.Join(dir, name) {
			t.Errorf("ChoosePath(%q) = %q, want %q", configured, got, name)
		}
	}
	want("", "credentials.db")
	if err := os.WriteFile(filepath.Join(dir, "chatmail.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want("", "chatmail.db")
	if err := os.WriteFile(filepath.Join(dir, "credentials.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want("", "credentials.db")
	want("other.db", "other.db")
}

func TestOnlyTheOwnerMayReadTheFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := open(t, Options{StateDir: dir})
	if err := d.Write(t.Context(), setting("a", "b")); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s%s has mode %v, want 0600", FileName, suffix, info.Mode())
		}
	}
}

func TestOddPathsOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c#d%41")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	open(t, Options{StateDir: dir})
	if _, err := os.Stat(filepath.Join(dir, FileName)); err != nil {
		t.Error(err)
	}
}

func TestOneFailingWriteLeavesTheOthersOfItsBatchAlone(t *testing.T) {
	d := open(t, Options{})
	// The first write holds the writer until the others wait behind it.
	entered, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Write(t.Context(), func(context.Context, *Tx) error { close(entered); <-release; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-entered
	mine := errors.New("mine")
	results := make([]error, 30)
	for i := range results {
		wg.Go(func() {
			results[i] = d.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
				if err := setting(fmt.Sprint("k", i), "v")(ctx, tx); err != nil {
					return err
				}
				switch i % 3 {
				case 1:
					return mine
				case 2:
					panic("in a write")
				}
				return nil
			})
		})
	}
	close(release)
	wg.Wait()
	for i, err := range results {
		ok := [3]bool{err == nil, errors.Is(err, mine), fault.Is(err, fault.Internal)}[i%3]
		if !ok {
			t.Errorf("write %d: %v", i, err)
		}
	}
	if n := count(t, d, "SELECT count(*) FROM settings"); n != 10 {
		t.Errorf("%d rows, want 10", n)
	}
}

func TestADuplicateKeyIsExistsAndNoRowIsNotFound(t *testing.T) {
	d := open(t, Options{})
	if err := d.Write(t.Context(), setting("a", "1")); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), setting("a", "2")); !fault.Is(err, fault.Exists) {
		t.Errorf("got %v (%v), want exists", err, fault.KindOf(err))
	}
	err := d.Read(t.Context(), func(ctx context.Context, q *Q) error {
		var v string
		return q.QueryRow(ctx, "SELECT value FROM settings WHERE key = ?", []any{"b"}, []any{&v})
	})
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want not found", err)
	}
}

// "database is locked" must never reach a caller of this process.
func TestManyWritersNeverFindTheDatabaseLocked(t *testing.T) {
	d := open(t, Options{})
	const writers, each = 64, 40
	var order []int64 // appended on the writing goroutine
	var committed atomic.Int64
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				err := d.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
					var n int64
					if err := tx.QueryRow(ctx, "SELECT count(*) FROM settings", nil, []any{&n}); err != nil {
						return err
					}
					tx.AfterCommit(func() { order = append(order, n) })
					return setting(fmt.Sprintf("%d-%d", w, i), "v")(ctx, tx)
				})
				if err != nil {
					t.Error(err)
					return
				}
				committed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := count(t, d, "SELECT count(*) FROM settings"); int64(n) != committed.Load() || n != writers*each {
		t.Errorf("%d rows for %d writes", n, committed.Load())
	}
	for i, n := range order {
		if int64(i) != n {
			t.Fatalf("after-commit call %d belongs to write %d", i, n)
		}
	}
}

func TestAWaitingWriteCanBeWithdrawnAndABegunOneFinishes(t *testing.T) {
	d := open(t, Options{})
	entered, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		first <- d.Write(ctx, func(_ context.Context, tx *Tx) error {
			close(entered)
			<-release
			return setting("begun", "v")(ctx, tx) // with the cancelled context
		})
	}()
	<-entered
	cancel()
	if err := d.Write(ctx, setting("late", "v")); !fault.Is(err, fault.Busy) {
		t.Errorf("write with an ended context: %v", err)
	}
	waiting, stop := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() { second <- d.Write(waiting, setting("withdrawn", "v")) }()
	stop()
	if err := <-second; !fault.Is(err, fault.Busy) {
		t.Errorf("withdrawn write: %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("begun write: %v", err)
	}
	if n := count(t, d, "SELECT count(*) FROM settings WHERE key = 'begun'"); n != 1 {
		t.Error("the begun write is not there")
	}
	if n := count(t, d, "SELECT count(*) FROM settings"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

func TestAWriteWaitsForAForeignLock(t *testing.T) {
	d := open(t, Options{})
	c, err := raw(t, d.Path()).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.Write(t.Context(), setting("a", "b")) }()
	// Reading goes on meanwhile.
	if n := count(t, d, "SELECT count(*) FROM settings"); n != 0 {
		t.Errorf("%d rows", n)
	}
	if _, err := c.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReadsSeeOneStateAndCannotWrite(t *testing.T) {
	d := open(t, Options{})
	err := d.Read(t.Context(), func(ctx context.Context, q *Q) error {
		var before, after int
		if err := q.QueryRow(ctx, "SELECT count(*) FROM settings", nil, []any{&before}); err != nil {
			return err
		}
		if err := d.Write(ctx, setting("a", "b")); err != nil {
			return err
		}
		if err := q.QueryRow(ctx, "SELECT count(*) FROM settings", nil, []any{&after}); err != nil {
			return err
		}
		if before != after {
			t.Errorf("one read saw %d rows, then %d", before, after)
		}
		rows, err := q.Query(ctx, "INSERT INTO settings VALUES ('x', 'y') RETURNING key")
		if err == nil {
			rows.Next()
			err = rows.Err()
			rows.Close()
		}
		if err == nil {
			t.Error("a read connection wrote")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestClosingRefusesNewWritesAndFinishesTheOld(t *testing.T) {
	d, err := Open(t.Context(), Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var stored atomic.Int64
	for i := range 50 {
		wg.Go(func() {
			switch err := d.Write(t.Context(), setting(fmt.Sprint(i), "v")); {
			case err == nil:
				stored.Add(1)
			case !fault.Is(err, fault.Busy):
				t.Error(err)
			}
		})
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	wg.Wait()
	if err := d.Write(t.Context(), setting("late", "v")); !fault.Is(err, fault.Busy) {
		t.Errorf("write after Close: %v", err)
	}
	again := open(t, Options{Path: d.Path()})
	if n := count(t, again, "SELECT count(*) FROM settings"); int64(n) != stored.Load() {
		t.Errorf("%d rows, %d writes said done", n, stored.Load())
	}
}

// Known failure B58: a NULL or differently typed time stopped the boot.
func TestTimesOfAllPredecessorsAreRead(t *testing.T) {
	d := open(t, Options{})
	want := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	forms := []any{
		"2024-05-06 07:08:09", "2024-05-06T07:08:09Z", "2024-05-06T09:08:09.123456789+02:00",
		"2024-05-06 09:08:09.123+02:00", "2024-05-06 07:08:09.5 +0000 UTC", want.Unix(), At(want),
		"2024-05-06 07:08:09.123456+00", "2024-05-06 09:08:09+02", "2024-05-06 10:38:09+03:30", // of PostgreSQL
		// What time.Time.String says in Tehran, and of a time that was just measured.
		"2024-05-06 10:38:09.123456789 +0330 +0330", "2024-05-06 10:38:09 +0330 +0330 m=+12.345678901", "2024-05-06 09:08:09.5 +0200 CEST m=+0.1",
	}
	for i, f := range forms {
		err := d.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
			_, err := tx.Exec(ctx, "INSERT INTO blocked_users VALUES (?, '', ?)", i, f)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var got Time
		err = d.Read(t.Context(), func(ctx context.Context, q *Q) error {
			return q.QueryRow(ctx, "SELECT blocked_at FROM blocked_users WHERE username = ?", []any{i}, []any{&got})
		})
		if err != nil || !got.Valid || !got.Equal(want) {
			t.Errorf("%v: got %v, %v", f, got, err)
		}
	}
	for _, odd := range []any{nil, "yesterday", ""} {
		var got Time
		if err := got.Scan(odd); err != nil || got.Valid {
			t.Errorf("Scan(%v) = %v, %v; want not valid", odd, got, err)
		}
	}
	if n := count(t, d, "SELECT count(*) FROM blocked_users WHERE blocked_at = '2024-05-06 07:08:09'"); n < 2 {
		t.Errorf("%d rows in the form that sorts", n)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, parallel := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			d := open(b, Options{})
			var n atomic.Int64
			b.SetParallelism(parallel)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := d.Write(context.Background(), setting(fmt.Sprint(n.Add(1)), "v")); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

func contains(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not name %q", err, p)
		}
	}
}

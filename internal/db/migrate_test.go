package db

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"testing/fstest"
)

// inspection are the statements of the operators' sheet, verbatim.
var inspection = []string{
	"SELECT * FROM settings ORDER BY key;",
	"SELECT * FROM quotas ORDER BY last_login_at DESC;",
	"SELECT * FROM federation_stats ORDER BY last_updated DESC LIMIT 30;",
	"SELECT * FROM blocked_users;",
	"SELECT * FROM registration_tokens;",
}

// inspect runs the sheet as the sqlite3 shell would, while the server runs.
func inspect(t *testing.T, path string) {
	t.Helper()
	c := raw(t, path)
	for _, s := range inspection {
		rows, err := c.Query(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		for rows.Next() {
		}
		if err := rows.Err(); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		rows.Close()
	}
}

// REQ-14.
func TestREQ14MigrationsAreVersionedByFileName(t *testing.T) {
	all, err := loadMigrations(embedded())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := fs.ReadDir(embedded(), ".")
	if err != nil {
		t.Fatal(err)
	}
	var want []int64
	for i, m := range all {
		if m.file != entries[i].Name() || !migrationName.MatchString(m.file) {
			t.Errorf("migration %d is %s, file %s", i, m.file, entries[i].Name())
		}
		if i > 0 && m.version <= all[i-1].version {
			t.Errorf("%s does not rise", m.file)
		}
		want = append(want, m.version)
	}
	d := open(t, Options{})
	if got := ledgerOf(t, raw(t, d.Path())); !reflect.DeepEqual(got, want) {
		t.Errorf("ledger %v, want %v", got, want)
	}
	if d.Origin() != Ours {
		t.Errorf("origin %v", d.Origin())
	}
	// REQ-29 to REQ-33, known failure B56.
	inspect(t, d.Path())
}

func ledgerOf(t *testing.T, c *sql.DB) (versions []int64) {
	t.Helper()
	rows, err := c.Query("SELECT version FROM _madmail_migrations ORDER BY version")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v int64
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		versions = append(versions, v)
	}
	return versions
}

func snapshot(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// REQ-15, REQ-16.
func TestREQ15AnEditedMigrationStopsTheBootAndChangesNothing(t *testing.T) {
	files := fstest.MapFS{
		"20240101000000_one.sql": {Data: []byte("CREATE TABLE one\n(a);")},
		"20240102000000_two.sql": {Data: []byte("CREATE TABLE two (a);")},
	}
	dir := t.TempDir()
	reopen := func(m fstest.MapFS) error {
		d, err := Open(t.Context(), Options{StateDir: dir, Migrations: m})
		if err != nil {
			return err
		}
		return d.Close(t.Context())
	}
	if err := reopen(files); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, filepath.Join(dir, FileName))

	edited := fstest.MapFS{
		"20240101000000_one.sql":   {Data: []byte("CREATE TABLE one (b);")},
		"20240102000000_two.sql":   files["20240102000000_two.sql"],
		"20240103000000_three.sql": {Data: []byte("CREATE TABLE three (a);")},
	}
	contains(t, reopen(edited), "20240101000000", "20240101000000_one.sql", "make reset-db")
	if !bytes.Equal(before, snapshot(t, filepath.Join(dir, FileName))) {
		t.Error("the refused boot changed the database")
	}
	// Line ends are not an edit.
	crlf := fstest.MapFS{
		"20240101000000_one.sql": {Data: []byte("CREATE TABLE one\r\n(a);")},
		"20240102000000_two.sql": files["20240102000000_two.sql"],
	}
	if err := reopen(crlf); err != nil {
		t.Errorf("restored file: %v", err)
	}
	// Deleting the database solves it.
	for _, s := range []string{"", "-wal", "-shm"} {
		if err := os.RemoveAll(filepath.Join(dir, FileName+s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := reopen(edited); err != nil {
		t.Errorf("after a reset: %v", err)
	}
}

// Known failure B59.
func TestANewerDatabaseIsRefusedUnlessItOnlyAdds(t *testing.T) {
	old := fstest.MapFS{"20240101000000_one.sql": {Data: []byte("CREATE TABLE one (a);")}}
	for name, ok := range map[string]bool{"20990101000000_new.sql": false, "20990101000000_new_add.sql": true} {
		dir := t.TempDir()
		newer := fstest.MapFS{name: {Data: []byte("CREATE TABLE new (a);")}, "20240101000000_one.sql": old["20240101000000_one.sql"]}
		d, err := Open(t.Context(), Options{StateDir: dir, Migrations: newer})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		d, err = Open(t.Context(), Options{StateDir: dir, Migrations: old})
		if ok != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			err = d.Close(t.Context())
			if err != nil {
				t.Error(err)
			}
		} else {
			contains(t, err, "database is newer than this program (version 20990101000000)")
		}
	}
}

func TestABadMigrationLeavesNothingHalfDone(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(t.Context(), Options{StateDir: dir, Migrations: fstest.MapFS{
		"20240101000000_one.sql": {Data: []byte("CREATE TABLE one (a); CREATE TABLE one (a);")},
	}})
	contains(t, err, "20240101000000_one.sql")
	present, err := tables(t.Context(), raw(t, filepath.Join(dir, FileName)))
	if err != nil || present["one"] != "" {
		t.Errorf("table one is there: %v, %v", present, err)
	}
	for _, name := range []string{"2024_x.sql", "20240101000000_X.sql", "readme"} {
		if _, err := loadMigrations(fstest.MapFS{name: {}}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestTwoProcessesMayStartTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			d, err := Open(context.Background(), Options{StateDir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			if err := d.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// makeV2 writes the database of the second predecessor, with two of its
// migrations applied and one failed, a table without a unique key and one
// that lacks columns.
func makeV2(t *testing.T, path string) {
	t.Helper()
	must(t, raw(t, path),
		"CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT, installed_on TIMESTAMP, success BOOLEAN, checksum BLOB, execution_time BIGINT)",
		"INSERT INTO _sqlx_migrations VALUES (20240101000000, 'init', '', true, x'00', 0), (20240201000000, 'federation stats', '', true, x'00', 0), (20240301000000, 'passwords', '', false, x'00', 0)",
		"CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
		"INSERT INTO settings VALUES ('__REGISTRATION_OPEN__', 'true')",
		"CREATE TABLE passwords (username TEXT PRIMARY KEY, hash TEXT NOT NULL, created_at INTEGER)",
		"INSERT INTO passwords VALUES ('a@example.org', 'x', 7)",
		"CREATE TABLE quotas (username TEXT PRIMARY KEY, max_storage BIGINT)",
		"INSERT INTO quotas VALUES ('a@example.org', 5)",
		"CREATE TABLE blocked_users (username TEXT, reason TEXT, blocked_at TIMESTAMP)",
		"INSERT INTO blocked_users VALUES ('b@example.org', 'old', NULL), ('b@example.org', 'new', NULL)",
	)
}

// Known failures B58, B59.
func TestADatabaseOfTheSecondPredecessorIsAdopted(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "chatmail.db")
	makeV2(t, path)
	d := open(t, Options{StateDir: dir})
	if d.Path() != path || d.Origin() != FromV2 {
		t.Errorf("path %s, origin %v", d.Path(), d.Origin())
	}
	inspect(t, path)
	c := raw(t, path)
	all, err := loadMigrations(embedded())
	if err != nil {
		t.Fatal(err)
	}
	if got := ledgerOf(t, c); len(got) != len(all) {
		t.Errorf("ledger %v", got)
	}
	for query, want := range map[string]int{
		"SELECT count(*) FROM _sqlx_migrations":                                              3, // never written to
		"SELECT count(*) FROM blocked_users":                                                 1,
		"SELECT count(*) FROM blocked_users WHERE reason = 'new'":                            1,
		"SELECT count(*) FROM quotas WHERE max_storage = 5 AND last_login_at = 0":            1,
		"SELECT count(*) FROM passwords":                                                     1,
		"SELECT count(*) FROM push_tokens":                                                   0,
		"SELECT count(*) FROM sqlite_master WHERE name = 'blocked_users_username_key'":       1,
		"SELECT count(*) FROM sqlite_master WHERE name LIKE '%_key' AND tbl_name='settings'": 0, // its primary key will do
	} {
		if n := count(t, d, query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
}

// TestTheSecondPredecessorMayHaveTakenOverTheFirst: it goes on with passwords(key, value),
// with its ledger or, in later versions, without one. Neither is taken for the first
// predecessor's, now and at every later start, and the table keeps its two columns: with
// a column username it would be read as another layout after a way back.
func TestTheSecondPredecessorMayHaveTakenOverTheFirst(t *testing.T) {
	for name, made := range map[string][]string{
		"with a ledger": {
			"CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT, installed_on TIMESTAMP, success BOOLEAN, checksum BLOB, execution_time BIGINT)",
			"INSERT INTO _sqlx_migrations VALUES (20240101000000, 'init', '', true, x'00', 0)",
		},
		"without": {
			"CREATE TABLE mailbox_modseq (username TEXT PRIMARY KEY NOT NULL, modseq INTEGER NOT NULL DEFAULT 0)",
			"CREATE UNIQUE INDEX IF NOT EXISTS mailbox_modseq_username_key ON mailbox_modseq (username)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, FileName)
			must(t, raw(t, path), append([]string{
				"CREATE TABLE passwords (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
				"INSERT INTO passwords VALUES ('a@example.org', 'x'), ('__REGISTRATION_OPEN__', 'false')",
				"CREATE TABLE settings (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
			}, made...)...)
			for range 2 {
				d := open(t, Options{StateDir: dir})
				if d.Origin() != FromV2 || !d.KeyValue() {
					t.Errorf("origin %v, key and value %v", d.Origin(), d.KeyValue())
				}
				err := d.Read(t.Context(), func(ctx context.Context, q *Q) error {
					cols, err := q.Columns(ctx, "passwords")
					if !reflect.DeepEqual(cols, []string{"key", "value"}) {
						t.Errorf("columns %v", cols)
					}
					return err
				})
				if err := errors.Join(err, d.Close(t.Context())); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestADatabaseOfTheFirstPredecessorKeepsItsLayout(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	must(t, raw(t, path),
		"CREATE TABLE passwords (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
		"INSERT INTO passwords VALUES ('a@example.org', 'x'), ('__JIT_REGISTRATION_ENABLED__', 'true')",
		"CREATE TABLE registration_tokens (token text, max_uses integer, used_count integer, comment text, created_at datetime, expires_at datetime, PRIMARY KEY (token))",
		"INSERT INTO registration_tokens VALUES ('t', 1, 0, '', '2024-05-06 07:08:09.123+02:00', NULL)",
	)
	d := open(t, Options{StateDir: dir})
	if d.Origin() != FromV1 {
		t.Errorf("origin %v", d.Origin())
	}
	inspect(t, path)
	if n := count(t, d, "SELECT count(*) FROM passwords WHERE key IS NOT NULL AND value IS NOT NULL"); n != 2 {
		t.Errorf("%d rows", n)
	}
	err := d.Read(t.Context(), func(ctx context.Context, q *Q) error {
		cols, err := q.Columns(ctx, "passwords")
		if !reflect.DeepEqual(cols, []string{"key", "value"}) {
			t.Errorf("columns %v", cols)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// One build of the first predecessor kept its database in memory and wrote it out with
// CREATE TABLE AS: columns and rows are there, keys are not.
func TestADatabaseWithoutKeysGetsThem(t *testing.T) {
	dir := t.TempDir()
	must(t, raw(t, filepath.Join(dir, FileName)),
		"CREATE TABLE passwords (key TEXT, value TEXT)",
		"INSERT INTO passwords VALUES ('a@example.org', 'old'), ('a@example.org', 'new'), ('__LOG_DISABLED__', 'true')",
		"CREATE TABLE exchangers (name TEXT, url TEXT, enabled NUM, poll_interval INT, last_poll_at NUM, created_at NUM, updated_at NUM)",
		"INSERT INTO exchangers VALUES ('x', 'http://192.0.2.1/mxdeliv', 1, 60, '0001-01-01 00:00:00 +0000 UTC', '2024-05-06 10:38:09.1 +0330 +0330 m=+1.5', NULL)",
	)
	d := open(t, Options{StateDir: dir})
	err := d.Write(t.Context(), func(ctx context.Context, tx *Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO passwords (key, value) VALUES ('__LOG_DISABLED__', 'false') ON CONFLICT (key) DO UPDATE SET value = excluded.value")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := count(t, d, "SELECT count(*) FROM passwords WHERE key = 'a@example.org' AND value = 'new' OR key = '__LOG_DISABLED__' AND value = 'false'"); n != 2 {
		t.Errorf("%d rows are as they should be", n)
	}
	if n := count(t, d, "SELECT count(*) FROM passwords"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

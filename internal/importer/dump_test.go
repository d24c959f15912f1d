package importer

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"madmail/internal/db"
	"madmail/internal/fault"
)

// dump is what pg_dump 15 wrote, with fewer rows.
func dump(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("testdata/first.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// files are the names in a directory.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// TestADumpOfPostgreSQLBecomesTheFilesOfSQLite, and what was in it is taken over.
func TestADumpOfPostgreSQLBecomesTheFilesOfSQLite(t *testing.T) {
	o := &old{t: t, dir: t.TempDir()}
	n, err := Dump(t.Context(), iotest.OneByteReader(strings.NewReader(dump(t))), o.dir)
	if err != nil || n != 22 {
		t.Fatalf("%d rows, %v", n, err)
	}
	if got := files(t, o.dir); !slices.Equal(got, []string{"credentials.db", "imapsql.db"}) {
		t.Errorf("files %q", got)
	}
	for _, name := range files(t, o.dir) {
		if st, err := os.Stat(filepath.Join(o.dir, name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
	}
	o.db, err = sql.Open("sqlite", filepath.Join(o.dir, "imapsql.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.db.Close()
	body := "Subject: one\r\n\r\n1\r\n"
	if err := os.Mkdir(filepath.Join(o.dir, "messages"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.dir, "messages", "0123456789abcdef0123456789abcdef"), []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	u := o.open(alice)
	r := u.run()
	if r.Messages != 1 || r.Mailboxes != 4 || r.Quotas != 1 || r.Blocked != 1 || r.Tokens != 1 || r.Rules != 1 || r.NotTaken != 1 {
		t.Errorf("%+v", r)
	}
	if v := u.view(alice, "Entwürfe/テスト"); v.UIDValidity != 3594623774 || v.UIDNext != 3 || v.Len() != 1 || v.At(0).UID != 2 || !slices.Equal(v.At(0).Keywords, []string{"$forwarded", "it's"}) {
		t.Errorf("%+v", v)
	}
	if got := u.body(alice, "Entwürfe/テスト", 2); got != body {
		t.Errorf("%q", got)
	}
	err = u.db.Read(t.Context(), func(ctx context.Context, q *db.Q) error {
		var reason, comment string
		var blocked, expires db.Time
		if err := q.QueryRow(ctx, "SELECT reason, blocked_at FROM blocked_users", nil, []any{&reason, &blocked}); err != nil {
			return err
		}
		if err := q.QueryRow(ctx, "SELECT comment, expires_at FROM registration_tokens", nil, []any{&comment, &expires}); err != nil {
			return err
		}
		if reason != "it's; spam\n); INSERT INTO x" || comment != `back\slash` || blocked.Unix() != 1741072089 || expires.Unix() != 1930374489 {
			t.Errorf("%q %q %v %v", reason, comment, blocked, expires)
		}
		var enabled, n int64
		if err := q.QueryRow(ctx, "SELECT enabled, poll_interval FROM exchangers", nil, []any{&enabled, &n}); err != nil || enabled != 0 || n != 120 {
			t.Errorf("exchanger: %d %d %v", enabled, n, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := Dump(t.Context(), strings.NewReader(dump(t)), o.dir); !fault.Is(err, fault.Exists) || fault.HintOf(err) == "" {
		t.Errorf("again: %v", err)
	}
}

// TestABadDumpLeavesNothing behind, and says where it is bad.
func TestABadDumpLeavesNothing(t *testing.T) {
	good := dump(t)
	for name, x := range map[string][2]string{
		"empty":             {"", "no accounts"},
		"no dump":           {"hello\n", "no accounts"},
		"rows by COPY":      {"--\nCOPY public.users (id) FROM stdin;\n1\n", "line 2 of the dump: rows are not INSERT"},
		"no columns":        {"INSERT INTO public.users VALUES (1);\n", "line 1 of the dump: the statement is not"},
		"cut off":           {good[:strings.Index(good, "mallory")+3], "has no end"},
		"a key twice":       {good + "INSERT INTO public.passwords (key, value) VALUES ('alice@example.org', 'x');\n", "passwords: "},
		"fewer values":      {"INSERT INTO public.users (id, username) VALUES (1);\n", "is not understood"},
		"no value":          {"INSERT INTO public.users (id) VALUES ();\n", "is not understood"},
		"a call":            {"INSERT INTO public.users (id) VALUES (f(1));\n", "is not understood"},
		"something behind":  {"INSERT INTO public.users (id) VALUES (1); DROP TABLE users);\n", "is not understood"},
		"long":              {"INSERT INTO public.users (id, username) VALUES (1, '" + strings.Repeat("x", maxStatement), "too long"},
		"an unwanted table": {strings.Repeat("x", 1<<17) + "\nINSERT INTO other VALUES (f('x'), 1.5);\n", "no accounts"},
	} {
		dir := t.TempDir()
		_, err := Dump(t.Context(), strings.NewReader(x[0]), dir)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), x[1]) {
			t.Errorf("%s: %v, want %q", name, err, x[1])
		}
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("%s leaves %q", name, left)
		}
	}
	dir := t.TempDir()
	broken := errors.New("broken")
	if _, err := Dump(t.Context(), iotest.ErrReader(broken), dir); !errors.Is(err, broken) || len(files(t, dir)) > 0 {
		t.Errorf("%v, %q", err, files(t, dir))
	}
}

func FuzzDump(f *testing.F) {
	f.Add([]byte("INSERT INTO a.\"b\" (c, \"D\") VALUES ('it''s', NULL);\nINSERT INTO b (x) VALUES (true);\n"))
	f.Add([]byte(dump(f)))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := 1 + strings.Count(string(data), "\n")
		_ = readDump(strings.NewReader(string(data)), func(table string) bool { return table != "skip" }, func(s statement) error {
			if s.line < 1 || s.line > lines || s.table == "" || len(s.columns) == 0 || len(s.columns) != len(s.values) {
				t.Fatalf("%+v", s)
			}
			for _, v := range s.values {
				switch v.(type) {
				case nil, int64, string:
				default:
					t.Fatalf("%T", v)
				}
			}
			return nil
		})
	})
}

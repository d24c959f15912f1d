package quota

import (
	"context"
	"fmt"
	"testing"

	"madmail/internal/db"
	"madmail/internal/fault"
)

func table(t testing.TB, d *db.DB) (s string) {
	t.Helper()
	err := d.Read(t.Context(), func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, "SELECT username, bytes, messages FROM quota_usage ORDER BY username")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var bytes, messages int64
			if err := rows.Scan(&name, &bytes, &messages); err != nil {
				return err
			}
			s += fmt.Sprintln(name, bytes, messages)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWhatIsUsedIsSavedForOperators(t *testing.T) {
	d, err := db.Open(t.Context(), db.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(context.Background())
	if err := d.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO quota_usage (username, bytes, messages) VALUES ('a@x.org', 1, 1), ('gone@x.org', 5, 5), ('Odd', 1, 1), ('same@x.org', 7, 1)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c := fixed(1000)
	a, b, same := addr(t, "a@x.org"), addr(t, "b@x.org"), addr(t, "same@x.org")
	c.Add(a, 100, 2)
	c.Add(same, 7, 1)
	reserve(t, c, b, 10).Release()
	save := func(want string) {
		t.Helper()
		if err := c.Save(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if got := table(t, d); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		if n := len(c.unsaved); n != 0 {
			t.Errorf("%d are not saved", n)
		}
	}
	save("a@x.org 100 2\nsame@x.org 7 1\n")
	c.Add(b, 30, 1)
	c.Add(a, -100, -2)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Save(gone, d); !fault.Is(err, fault.Busy) || len(c.unsaved) != 2 {
		t.Errorf("%v; %d are not saved", err, len(c.unsaved))
	}
	save("b@x.org 30 1\nsame@x.org 7 1\n")
	for i := range 3 * saveBatch / 2 {
		c.Add(addr(t, fmt.Sprintf("many%d@x.org", i)), 1, 1)
		c.Add(b, 1, 0)
	}
	if err := c.Save(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	var n int64
	if err := d.Read(t.Context(), func(ctx context.Context, q *db.Q) error {
		return q.QueryRow(ctx, "SELECT count(*) FROM quota_usage", nil, []any{&n})
	}); err != nil || n != 3*saveBatch/2+2 {
		t.Errorf("%d rows, %v", n, err)
	}
}

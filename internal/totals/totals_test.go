package totals

import (
	"context"
	"reflect"
	"testing"

	"madmail/internal/db"
	"madmail/internal/fault"
)

func open(t testing.TB, dir string) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{StateDir: dir})
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

func row(t testing.TB, d *db.DB, name string) (n int64) {
	t.Helper()
	err := d.Read(t.Context(), func(ctx context.Context, q *db.Q) error {
		return q.QueryRow(ctx, "SELECT coalesce(sum(count), -1) FROM message_stats WHERE name = ?", []any{name}, []any{&n})
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCountsGoOnOverRestarts(t *testing.T) {
	d := open(t, t.TempDir())
	if err := d.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO message_stats (name, count) VALUES ('sent', 40), ('of another version', 7), ('odd', -3)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for run := range int64(3) {
		sent, odd := int64(0), int64(0)
		y, err := Open(t.Context(), d, func() map[string]int64 { return map[string]int64{"sent": sent, "odd": odd} })
		if err != nil {
			t.Fatal(err)
		}
		if err := y.Flush(t.Context()); err != nil { // nothing counted: nothing written
			t.Fatal(err)
		}
		if got := row(t, d, "odd"); run == 0 && got != -3 {
			t.Errorf("an empty flush wrote %d", got)
		}
		for sent < 10 {
			sent += 5
			odd++
			for range 2 { // the same again adds nothing
				if err := y.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			want := map[string]int64{"sent": 40 + 10*run + sent, "odd": 2*run + odd, "of another version": 7}
			if got := y.All(); !reflect.DeepEqual(got, want) {
				t.Errorf("run %d: %v, want %v", run, got, want)
			}
			for name, n := range want {
				if got := row(t, d, name); got != n {
					t.Errorf("run %d: row %q is %d, want %d", run, name, got, n)
				}
			}
		}
	}
}

func TestAFlushThatFailsIsMadeUpFor(t *testing.T) {
	d := open(t, t.TempDir())
	sent := int64(3)
	y, err := Open(t.Context(), d, func() map[string]int64 { return map[string]int64{"sent": sent} })
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := y.Flush(gone); !fault.Is(err, fault.Busy) || row(t, d, "sent") != -1 {
		t.Errorf("%v; row %d", err, row(t, d, "sent"))
	}
	if err := y.Flush(t.Context()); err != nil || row(t, d, "sent") != 3 {
		t.Errorf("%v; row %d", err, row(t, d, "sent"))
	}
}

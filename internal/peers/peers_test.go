package peers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

type fixture struct {
	*Store
	d      *db.DB
	now    time.Time
	queued map[address.Domain]int
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(context.Background()) })
	f := &fixture{d: d, now: time.Unix(1793534400, 0)}
	f.Store, err = Open(Options{DB: d, Now: func() time.Time { return f.now }, Queued: func() map[address.Domain]int { return f.queued }})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestTheInspectionStatementShowsFederation is REQ-31, with the statement as operators have it
// (known failure 56).
func TestTheInspectionStatementShowsFederation(t *testing.T) {
	f := setUp(t)
	f.Tried("old.example", SMTP, false)
	f.now = f.now.Add(time.Minute)
	f.Tried("new.example", HTTPS, false)
	f.Tried("new.example", SMTP, true)
	f.Sent("new.example", 1500*time.Millisecond)
	f.Received("new.example")
	f.queued = map[address.Domain]int{"old.example": 3}
	if err := f.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	type row struct {
		domain                                                string
		queued, failHTTPS, failSMTP, okSMTP, in, sent, ms, at int64
	}
	var got []row
	err := f.d.Read(t.Context(), func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, "SELECT * FROM federation_stats ORDER BY last_updated DESC LIMIT 30;")
		if err != nil {
			return err
		}
		defer rows.Close()
		names, err := rows.Columns()
		if err != nil {
			return err
		}
		for rows.Next() {
			var r row
			var other any
			dest := make([]any, len(names))
			for i, n := range names {
				dest[i] = &other
				if p := map[string]any{"domain": &r.domain, "queued_messages": &r.queued, "failed_https": &r.failHTTPS, "failed_smtp": &r.failSMTP, "success_smtp": &r.okSMTP,
					"inbound_deliveries": &r.in, "successful_deliveries": &r.sent, "total_latency_ms": &r.ms, "last_updated": &r.at}[n]; p != nil {
					dest[i] = p
				}
			}
			if err := rows.Scan(dest...); err != nil {
				return err
			}
			got = append(got, r)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []row{
		{"new.example", 0, 1, 0, 1, 1, 1, 1500, 1793534460},
		{"old.example", 3, 0, 1, 0, 0, 0, 0, 1793534400},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestListShowsWhatIsNotFlushedYet(t *testing.T) {
	// Known failure 38: the command showed numbers half a minute old.
	f := setUp(t)
	for range 2 {
		f.Sent("a.example", time.Second)
		f.Tried("[192.0.2.1]", HTTP, true)
		if err := f.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.now = f.now.Add(time.Second)
	f.Sent("a.example", time.Second)
	f.queued = map[address.Domain]int{"b.example": 7}
	list, err := f.List(t.Context(), 10)
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if a := list[0]; a.Domain != "a.example" || a.Delivered != 3 || a.Latency != 3*time.Second || !a.LastActive.Equal(f.now) {
		t.Errorf("a: %+v", a)
	}
	if l := list[1]; l.Domain != "[192.0.2.1]" || l.Succeeded[HTTP] != 2 {
		t.Errorf("literal: %+v", l)
	}
	if b := list[2]; b.Queued != 7 || !b.LastActive.IsZero() {
		t.Errorf("b: %+v", b)
	}
	if list, err := f.List(t.Context(), 1); err != nil || len(list) != 1 {
		t.Errorf("limit: %v, %v", list, err)
	}
}

func TestAFailedFlushLosesNothing(t *testing.T) {
	f := setUp(t)
	f.Received("a.example")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Flush(ctx); !fault.Is(err, fault.Busy) {
		t.Fatalf("flush: %v", err)
	}
	f.Received("a.example")
	if err := f.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := f.List(t.Context(), 10); err != nil || len(list) != 1 || list[0].Inbound != 2 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestQueuedFallsBackToZero(t *testing.T) {
	f := setUp(t)
	for _, q := range []map[address.Domain]int{{"a.example": 2}, {}, {"a.example": 2}, nil} {
		f.queued = q
		if err := f.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := f.d.Read(t.Context(), func(ctx context.Context, r *db.Q) error {
			return r.QueryRow(ctx, "SELECT queued_messages FROM federation_server_stats WHERE domain = 'a.example'", nil, []any{&n})
		}); err != nil || n != q["a.example"] {
			t.Errorf("%v: %d, %v", q, n, err)
		}
	}
}

func TestStrangersCannotFillMemory(t *testing.T) {
	f := setUp(t)
	for i := range maxPending + 10 {
		f.Received(address.Domain(fmt.Sprintf("d%d.example", i)))
	}
	if len(f.pending) != maxPending || f.Missed() != 10 {
		t.Errorf("%d domains, %d missed", len(f.pending), f.Missed())
	}
}

func TestCountingFromManySides(t *testing.T) {
	f := setUp(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				f.Tried("a.example", SMTP, true)
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if err := f.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if list, err := f.List(t.Context(), 1); err != nil || list[0].Succeeded[SMTP] != 400 {
		t.Errorf("%+v, %v", list, err)
	}
}

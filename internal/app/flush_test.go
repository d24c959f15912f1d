//go:build unix

package app

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// TestCountsAreThereAfterARestart: what operators look at with SQL is written at the
// latest when the server stops, and counting goes on from there.
func TestCountsAreThereAfterARestart(t *testing.T) {
	h := newHouse(t)
	h.start()
	h.fill("somebody")
	used := h.must("accounts.info", `{"username":"somebody"}`)["used_bytes"].(float64)
	if used == 0 {
		t.Fatal("nothing is used")
	}
	h.stop()
	rows := func(query string) (n int64) {
		t.Helper()
		d, err := sql.Open("sqlite", filepath.Join(h.dir, "credentials.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := d.QueryRow(query).Scan(&n); err != nil {
			t.Fatal(query, err)
		}
		return n
	}
	for _, run := range []int64{1, 2} {
		for query, want := range map[string]int64{
			"SELECT count FROM message_stats WHERE name = 'sent_messages'":                                   run,
			"SELECT count FROM message_stats WHERE name = 'received_messages'":                               run,
			"SELECT bytes FROM quota_usage WHERE username = 'somebody@[127.0.0.1]' AND messages > 0":         run * int64(used),
			"SELECT coalesce(sum(count), 0) FROM message_stats WHERE name = 'push_successful_notifications'": 0,
		} {
			if got := rows(query); got != want {
				t.Errorf("run %d: %s: %d, want %d", run, query, got, want)
			}
		}
		h.start()
		if got := h.must("status", "")["counters"].(map[string]any)["sent_messages"]; got != float64(run) {
			t.Errorf("run %d: %v sent messages after a start", run, got)
		}
		h.fill("somebody")
		h.stop()
	}
}

// TestAFullAccountIsMeasuredSoon: whoever is full removes files; however many accounts
// there are, the next look is at those that something did not fit into.
func TestAFullAccountIsMeasuredSoon(t *testing.T) {
	h := newHouse(t)
	h.start()
	dir := h.fill("somebody")
	who, err := address.Parse("somebody@[127.0.0.1]")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.accounts.SetLimit(t.Context(), who, 3000); err != nil {
		t.Fatal(err)
	}
	if r, err := h.quota.Reserve(who, 2000); !fault.Is(err, fault.Full) {
		t.Fatal(r, err)
	}
	list, err := os.ReadDir(filepath.Join(dir, "Maildir", "new"))
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := os.Remove(filepath.Join(dir, "Maildir", "new", list[0].Name())); err != nil {
		t.Fatal(err)
	}
	// The rotation is busy with others, and nobody else turns it.
	if err := h.jobs.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	other, err := address.Parse("other@[127.0.0.1]")
	if err != nil {
		t.Fatal(err)
	}
	h.measure = slices.Repeat([]address.Addr{other}, 500)
	if err := h.measureSome(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := h.quota.Reserve(who, 2000)
	if err != nil {
		t.Fatal("still full:", err)
	}
	r.Release()
}

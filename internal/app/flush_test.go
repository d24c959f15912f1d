//go:build unix

package app

import (
	"database/sql"
	"path/filepath"
	"testing"
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

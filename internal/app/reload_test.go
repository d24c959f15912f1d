//go:build unix

package app

import (
	"database/sql"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/internal/settings"
)

// TestReadinessIsToldWhenEveryPortAnswers: known failure 54. Whoever hears READY and
// connects at once is greeted.
func TestReadinessIsToldWhenEveryPortAnswers(t *testing.T) {
	h := newHouse(t)
	path := filepath.Join(h.dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	_ = l.SetReadDeadline(time.Now().Add(20 * time.Second))
	told := make(chan error, 1)
	go func() { // ends when it heard, or with the deadline
		var b [512]byte
		for {
			n, err := l.Read(b[:])
			if err != nil {
				told <- err
				return
			}
			if !strings.HasPrefix(string(b[:n]), "READY=1") {
				continue
			}
			for _, name := range []string{"smtp", "submission", "imap"} {
				if hello, err := h.greeting(name); err != nil || hello == "" {
					told <- fmt.Errorf("%s: %q, %v", name, hello, err)
					return
				}
			}
			told <- nil
			return
		}
	}()
	h.start()
	if err := <-told; err != nil {
		t.Error(err)
	}
	// A port that is taken: no word of being ready.
	two := newHouse(t)
	two.ports["imap"] = h.ports["imap"]
	two.listen("imap", "127.0.0.1", h.ports["imap"])
	two.write()
	if a, err := New(t.Context(), two.options()); err == nil {
		_ = a.Stop(t.Context())
		t.Fatal("two servers on one port")
	}
	_ = l.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	for {
		var b [512]byte
		n, err := l.Read(b[:])
		if err != nil {
			break
		}
		if strings.HasPrefix(string(b[:n]), "READY=1") {
			t.Error("ready, without its ports")
		}
	}
}

// TestWhoseRetentionCounts: decision D13, known failure 31. The file's counts on a new
// database and not on one of the second predecessor, which never obeyed it; a setting
// counts at once, everywhere.
func TestWhoseRetentionCounts(t *testing.T) {
	for _, second := range []bool{false, true} {
		h := newHouse(t)
		h.lines["retention"], h.lines["log"] = `"24h"`, `"stderr"`
		h.write()
		if second {
			h.adopt()
		}
		h.start()
		want := 24 * time.Hour
		if second {
			want = 0
		}
		if got := h.keepingRules().Retention; got != want {
			t.Errorf("second predecessor %v: %v, want %v", second, got, want)
		}
		if told := strings.Contains(h.stderr.String(), "the line retention of the configuration is not obeyed"); told != second {
			t.Errorf("second predecessor %v: told %v", second, told)
		}
		h.must("settings.set", `{"name":"message_retention_enabled","value":"true"}`)
		if got := h.keepingRules().Retention; got != 24*time.Hour {
			t.Errorf("switched on: %v", got)
		}
		h.must("settings.set", `{"name":"message_retention","value":"3d"}`)
		if got := h.keepingRules().Retention; got != 72*time.Hour {
			t.Errorf("another age: %v", got)
		}
		h.must("settings.set", `{"name":"message_retention_enabled","value":"false"}`)
		if got := h.keepingRules().Retention; got != 0 {
			t.Errorf("switched off: %v", got)
		}
		h.must("settings.set", fmt.Sprintf(`{"name":%q,"value":"90d"}`, settings.DormantRetention))
		if got := h.keepingRules().Dormant; got != 90*24*time.Hour {
			t.Errorf("dormant: %v", got)
		}
	}
}

// adopt puts a database of the second predecessor into the state directory.
func (h *house) adopt() {
	h.t.Helper()
	d, err := sql.Open("sqlite", filepath.Join(h.dir, "credentials.db"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer d.Close()
	// Its ledger is what it is known by.
	if _, err := d.Exec(`CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
		success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)`); err != nil {
		h.t.Fatal(err)
	}
}

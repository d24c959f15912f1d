//go:build linux

package requirements

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"madmail/test/load"
	"madmail/test/testserver"
)

// idlers is how many sessions TestIdleSessionsSurviveAReload holds: IDLE_SESSIONS, or few
// enough for every day; never more than descriptors allow.
func idlers(t *testing.T) int {
	t.Helper()
	n := 200
	if v := os.Getenv("IDLE_SESSIONS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	return min(n, int(l.Max)-500)
}

// TestIdleSessionsSurviveAReload is number 10 of the known failures: by command, by
// signal and by API the file is read again, and nobody is cut off. The load does it with
// IDLE_SESSIONS=10000.
func TestIdleSessionsSurviveAReload(t *testing.T) {
	s := testserver.New(t, "")
	n := idlers(t)
	s.Command("settings", "set", "imap_max_sessions_per_address", fmt.Sprint(n+100))
	readers := make([]*load.Reader, n)
	const at = 16
	var all sync.WaitGroup
	for w := range at {
		all.Go(func() {
			for i := w; i < n; i += at {
				r, err := target(s).Login(fmt.Sprintf("idle%06d", i))
				if err == nil {
					_, err = r.Do("SELECT INBOX")
				}
				if err == nil {
					err = r.Idle()
				}
				if err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
				readers[i] = r
			}
		})
	}
	all.Wait()
	defer func() {
		for _, r := range readers {
			if r != nil {
				r.Close()
			}
		}
	}()
	if t.Failed() {
		return
	}
	idle := func() int { return int(data(t, s, "status")["counters"].(map[string]any)["imap_idle"].(float64)) }
	before := idle()
	s.Command("reload")
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR2, syscall.SIGUSR1} {
		if err := syscall.Kill(s.PID(), sig); err != nil {
			t.Fatal(err)
		}
	}
	s.Command("settings", "set", "smtp_port", fmt.Sprint(s.SMTP)) // after the signals: changes wait for each other
	s.Command("port", "http", "disable")
	s.Command("port", "http", "enable")
	if got := idle(); got != before || got < n {
		t.Errorf("%d sessions idle after the reloads, %d before, %d made", got, before, n)
	}
	// And each of them works: a message wakes it.
	c, err := target(s).NewSender("sender-a")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := 0; i < n; i += 50 {
		var to []string
		for k := i; k < min(i+50, n); k++ {
			to = append(to, fmt.Sprintf("idle%06d@[127.0.0.1]", k))
		}
		if _, err := c.Send(to, load.Message("sender-a@[127.0.0.1]", 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range readers {
		if err := r.Wait(); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
}

package imapserver

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func secureClient(t *testing.T, d *desk) *client {
	t.Helper()
	conn, err := tls.Dial("tcp", d.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
	c.login(alice)
	return c
}

// TestNotifyMissesNothing delivers and removes while clients that never poll watch:
// one the mailbox it has selected, one all others. In the end both know how it is.
func TestNotifyMissesNothing(t *testing.T) {
	const total = 100
	for _, z := range []bool{false, true} {
		t.Run(fmt.Sprintf("compress %v", z), func(t *testing.T) {
			t.Parallel()
			d := build(t, TLS, nil)
			inside, outside, worker := secureClient(t, d), secureClient(t, d), secureClient(t, d)
			if z {
				inside.compress()
				outside.compress()
			}
			inside.do("s", "SELECT INBOX")
			inside.do("n", "NOTIFY SET (SELECTED (MessageNew (FLAGS) MessageExpunge FlagChange))")
			outside.do("n", "NOTIFY SET (INBOXES (MessageNew MessageExpunge FlagChange))")
			worker.do("s", "SELECT INBOX")
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for i := range total {
					d.deliver(t, alice, fmt.Sprintf("Subject: %d\r\n\r\n%d\r\n", i, i))
				}
				worker.do("x", `UID STORE 1:50 +FLAGS.SILENT (\Deleted)`)
				worker.do("y", "EXPUNGE")
				worker.do("z", fmt.Sprintf(`UID STORE %d +FLAGS (\Seen)`, total))
			})
			count, fetched := 0, make(map[int]bool)
			for done := false; !done; {
				l := inside.line()
				var n, uid int
				switch {
				case scan(l, "* %d EXISTS", &n):
					count = n
				case strings.HasSuffix(l, " EXPUNGE"):
					count--
				case strings.HasPrefix(l, "* ") && strings.Contains(l, "FETCH ("):
					if scan(l[strings.Index(l, "("):], "(UID %d FLAGS ())", &uid) {
						fetched[uid] = true
					}
					done = strings.Contains(l, `\Seen`)
				default:
					t.Fatalf("inside: %q", l)
				}
			}
			if count != total-50 || len(fetched) != total {
				t.Errorf("inside: knows of %d messages and was sent %d", count, len(fetched))
			}
			for {
				l := outside.line()
				if !strings.HasPrefix(l, `* STATUS "INBOX" (MESSAGES `) {
					t.Fatalf("outside: %q", l)
				}
				if strings.Contains(l, fmt.Sprintf("(MESSAGES %d UIDNEXT %d ", total-50, total+1)) && strings.Contains(l, " UNSEEN 49 ") {
					break
				}
			}
		})
	}
}

func scan(l, format string, n *int) bool {
	k, err := fmt.Sscanf(l, format, n)
	return err == nil && k == 1
}

// TestNotifyWakesParkedSessions: a session that waits without a goroutine, outside
// IDLE, tells what it was asked to tell.
func TestNotifyWakesParkedSessions(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // they do not park there: see package readable
	}
	t.Parallel()
	d := build(t, TLS, nil)
	inside, outside, gone := secureClient(t, d), secureClient(t, d), secureClient(t, d)
	inside.do("s", "SELECT INBOX")
	inside.do("n", "NOTIFY SET (SELECTED-DELAYED (MessageNew MessageExpunge))")
	outside.do("n", "NOTIFY SET (PERSONAL (MessageNew MessageExpunge))")
	gone.do("n", "NOTIFY SET (PERSONAL (MessageNew MessageExpunge))")
	gone.do("m", "NOTIFY NONE")
	for deadline := time.Now().Add(10 * time.Second); d.srv.Stats().Parked < 3; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", d.srv.Stats())
		}
	}
	d.deliver(t, alice, "Subject: x\r\n\r\nx\r\n")
	inside.until("* 1 EXISTS")
	outside.until(`* STATUS "INBOX" (MESSAGES 1 `)
	if l := gone.do("o", "NOOP"); len(l) != 1 {
		t.Errorf("after NONE: %q", l)
	}
}

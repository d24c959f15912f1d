package imapserver

import (
	"bufio"
	"crypto/tls"
	"errors"
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

// TestNotifyTellsOfWhatOthersDo to the list of mailboxes, to subscriptions and to
// annotations, and not of the client's own deeds.
func TestNotifyTellsOfWhatOthersDo(t *testing.T) {
	t.Parallel()
	d := build(t, TLS, nil)
	watch, act := secureClient(t, d), secureClient(t, d)
	act.do("a", "CREATE old/one")
	act.do("b", "CREATE old/two")
	watch.do("n", "NOTIFY SET (PERSONAL (MailboxName SubscriptionChange MailboxMetadataChange ServerMetadataChange))")
	for i, x := range []struct {
		do   string
		want []string
	}{
		{"CREATE new", []string{`* LIST (\HasNoChildren \Subscribed) "/" "new"`}},
		{"CREATE new/low", []string{`* LIST (\HasChildren \Subscribed) "/" "new"`, `* LIST (\HasNoChildren \Subscribed) "/" "new/low"`}},
		{"CREATE up/low (USE (\\Sent))", []string{`* LIST (\NonExistent \HasChildren) "/" "up"`, `* LIST (\HasNoChildren \Sent \Subscribed) "/" "up/low"`}},
		{"RENAME new newer", []string{`* LIST (\HasChildren \Subscribed) "/" "newer" ("OLDNAME" ("new"))`}},
		{"RENAME old/one old/three", []string{`* LIST (\HasNoChildren \Subscribed) "/" "old/three" ("OLDNAME" ("old/one"))`}},
		{"UNSUBSCRIBE old/two", []string{`* LIST (\HasNoChildren) "/" "old/two"`}},
		{"DELETE newer/low", []string{`* LIST (\HasNoChildren \Subscribed) "/" "newer"`, `* LIST (\NonExistent \HasNoChildren) "/" "newer/low"`}},
		{`SETMETADATA INBOX (/private/devicetoken "x" /private/comment "y")`, []string{`* METADATA "INBOX" /private/comment /private/devicetoken`}},
		{`SETMETADATA INBOX (/private/comment NIL)`, []string{`* METADATA "INBOX" /private/comment`}},
	} {
		if l := act.do(fmt.Sprint("t", i), x.do); !strings.HasPrefix(l[len(l)-1], fmt.Sprint("t", i, " OK")) {
			t.Fatal(l)
		}
		for _, want := range x.want {
			if got := watch.line(); got != want {
				t.Errorf("%s: %q, want %q", x.do, got, want)
			}
		}
	}
	// The operator's doing.
	d.mu.Lock()
	d.meta[" /shared/comment"] = "another"
	d.mu.Unlock()
	d.srv.MetadataChanged()
	if got := watch.line(); got != `* METADATA "" /shared/comment` {
		t.Error(got)
	}
	// Its own.
	for i, do := range []string{"CREATE mine", "RENAME mine yours", "UNSUBSCRIBE yours", "DELETE yours", `SETMETADATA INBOX (/private/comment "mine")`} {
		tag := fmt.Sprint("o", i)
		if l := watch.do(tag, do); len(l) != 1 || !strings.HasPrefix(l[0], tag+" OK") {
			t.Errorf("%s: %q", do, l)
		}
	}
	if l := watch.do("p", "NOOP"); len(l) != 1 {
		t.Errorf("%q", l)
	}
}

// TestNotifyAndTheSelectedMailbox: what the client put there is not sent to it, flags
// come with the UID, and what it did not hear of is told when it leaves.
func TestNotifyAndTheSelectedMailbox(t *testing.T) {
	t.Parallel()
	d := build(t, TLS, nil)
	c, act := secureClient(t, d), secureClient(t, d)
	c.do("s", "SELECT INBOX")
	act.do("s", "SELECT INBOX")
	c.do("n", "NOTIFY SET (SELECTED (MessageNew (UID BODY.PEEK[TEXT]) MessageExpunge FlagChange)) (PERSONAL (MessageNew MessageExpunge))")
	if l := c.do("a", "APPEND INBOX {7+}\r\n\r\nmine\n"); len(l) != 2 || l[0] != "* 1 EXISTS" {
		t.Errorf("%q", l)
	}
	d.deliver(t, alice, "\r\ntheirs")
	c.until("* 2 EXISTS")
	if l := c.line(); l != "* 2 FETCH (UID 2 BODY[TEXT] {6}\r\ntheirs)" {
		t.Error(l)
	}
	act.do("f", `UID STORE 1 +FLAGS (\Flagged)`)
	if l := c.line(); l != `* 1 FETCH (UID 1 FLAGS (\Flagged))` {
		t.Error(l)
	}
	// Nothing of the selected mailbox: NOTIFY SET is a NOOP, too, and what comes later waits.
	c.do("m", "NOTIFY SET (SELECTED NONE) (PERSONAL (MessageNew MessageExpunge))")
	d.deliver(t, alice, "\r\nunheard")
	if l := c.do("u", "UNSELECT"); len(l) != 1 {
		t.Errorf("%q", l)
	}
	if l := c.line(); !strings.HasPrefix(l, `* STATUS "INBOX" (MESSAGES 3 UIDNEXT 4 `) {
		t.Error(l)
	}
}

// TestNotifyEndsWhereItCannotGoOn, and says so.
func TestNotifyEndsWhereItCannotGoOn(t *testing.T) {
	t.Parallel()
	d := build(t, TLS, nil)
	c := secureClient(t, d)
	c.do("n", "NOTIFY SET (PERSONAL (MessageNew MessageExpunge MailboxMetadataChange))")
	d.mu.Lock()
	d.metaErr = errors.New("the disk is gone")
	d.mu.Unlock()
	d.deliver(t, alice, "\r\nx")
	c.until("* OK [NOTIFICATIONOVERFLOW] ")
	if l := c.do("m", "NOTIFY SET (PERSONAL (MailboxMetadataChange))"); !strings.HasPrefix(l[len(l)-1], "m NO ") {
		t.Errorf("%q", l)
	}
	d.deliver(t, alice, "\r\nx")
	if l := c.do("o", "NOOP"); len(l) != 1 {
		t.Errorf("%q", l)
	}
}

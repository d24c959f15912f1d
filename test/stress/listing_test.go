// Package stress treats the real binary as a busy or hostile network does.
package stress

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

const password = "tEvx4GmQz8bYw2KpLr7sNd5u"

func target(srv *testserver.Server) load.Target {
	return load.Target{
		SMTP:   fmt.Sprintf("127.0.0.1:%d", srv.SubmissionTLS),
		IMAP:   fmt.Sprintf("127.0.0.1:%d", srv.IMAPTLS),
		Domain: "[127.0.0.1]", Password: password, PID: srv.PID(),
	}
}

var listed = regexp.MustCompile(`^\* \d+ FETCH \(UID (\d+) .*"<(\d{8})-`)

// TestNothingIsMissedWhileListing has many messages come into one mailbox while
// its client lists all the while: by UID ranges as Delta Chat does, by SEARCH, in
// IDLE. Each is seen, none twice, in order. Predecessors lost some of a thousand
// at 50 a second (known failure A1); CRASH_ROUNDS asks for a thousand at that pace
// and at ten times that.
func TestNothingIsMissedWhileListing(t *testing.T) {
	srv := testserver.New(t, "")
	if os.Getenv("CRASH_ROUNDS") == "" {
		listWhile(t, srv, 300, 1)
		return
	}
	for _, pause := range []time.Duration{20 * time.Millisecond, 2 * time.Millisecond} {
		t.Run(fmt.Sprint(int64(time.Second/pause), " a second"), func(t *testing.T) { listWhile(t, srv, 1000, pause) })
	}
}

func listWhile(t *testing.T, srv *testserver.Server, count int, pause time.Duration) {
	tg := target(srv)
	reader := fmt.Sprint("readerreader", int64(pause))
	c, err := tg.Login(reader)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Do("SELECT INBOX"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		s, err := tg.NewSender("writerwriter")
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close()
		text := load.Message("writerwriter@"+tg.Domain, 1500)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := range count {
			<-tick.C
			if _, err := s.Send([]string{reader + "@" + tg.Domain}, bytes.Replace(text, []byte("04478418-"), fmt.Appendf(nil, "%08d-", i), 1)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	next, seen := 1, 0
	for deadline := time.Now().Add(4 * time.Minute); seen < count; {
		if time.Now().After(deadline) || t.Failed() {
			t.Fatalf("%d of %d seen", seen, count)
		}
		for _, noise := range []string{"NOOP", "UID SEARCH UNSEEN", "STATUS INBOX (MESSAGES UIDNEXT)"} {
			if _, err := c.Do(noise); err != nil {
				t.Fatal(err)
			}
		}
		lines, err := c.Do(fmt.Sprintf("UID FETCH %d:%d (UID ENVELOPE)", next, next+499))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			p := listed.FindStringSubmatch(l)
			if p == nil {
				continue
			}
			uid, _ := strconv.Atoi(p[1])
			n, _ := strconv.Atoi(p[2])
			if uid < next || n != seen {
				t.Fatalf("message %d has UID %d, expected message %d with UID %d or more", n, uid, seen, next)
			}
			next, seen = uid+1, seen+1
		}
	}
}

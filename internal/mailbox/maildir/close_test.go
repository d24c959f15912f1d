package maildir

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"madmail/internal/mailbox"
)

// A stop has a few seconds. What a checkpoint cannot do in them is in the journal:
// to stop in good order, and to have lost nothing, does not depend on it.
func TestCloseLeavesToTheNextStartWhatTakesTooLong(t *testing.T) {
	const boxes = 20
	for _, slow := range []string{"create", "syncall"} {
		t.Run(slow, func(t *testing.T) {
			var s *Store
			var asked atomic.Int64
			closing, release := make(chan struct{}), make(chan struct{})
			dir := t.TempDir()
			opt := Options{Dir: dir, Checkpoint: time.Hour, hook: func(op, path string) error {
				if op != slow {
					return nil
				}
				select {
				case <-closing:
				default:
					return nil // it is quick until then
				}
				asked.Add(1)
				if slow == "syncall" {
					<-release
				}
				for slow == "create" && !s.hurry.Load() {
					time.Sleep(time.Millisecond)
				}
				return nil
			}}
			var err error
			if s, err = Open(t.Context(), opt); err != nil {
				t.Fatal(err)
			}
			for i := range boxes {
				deliver(t, s, fmt.Sprintf("Subject: %d\r\n\r\n.\r\n", i), inbox(t, fmt.Sprintf("u%d@x.org", i)))
			}
			close(closing)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
			close(release)
			end, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := s.group.Wait(end); err != nil {
				t.Fatal(err)
			}
			_ = s.j.close()
			if n := asked.Load(); s.settled || n == 0 || n >= boxes {
				t.Errorf("asked for %d, settled: %v", n, s.settled)
			}

			next := open(t, Options{Dir: dir})
			if n := next.Stats().Replayed; n != boxes {
				t.Errorf("%d records replayed", n)
			}
			for i := range boxes {
				got := contents(t, next, inbox(t, fmt.Sprintf("u%d@x.org", i)))
				if len(got) != 1 || !strings.HasPrefix(got[mailbox.UID(1)], fmt.Sprintf("Subject: %d\r\n", i)) {
					t.Errorf("u%d: %v", i, got)
				}
			}
		})
	}
}

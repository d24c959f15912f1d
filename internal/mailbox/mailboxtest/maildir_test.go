package mailboxtest_test

import (
	"context"
	"testing"
	"time"

	"madmail/internal/mailbox"
	"madmail/internal/mailbox/mailboxtest"
	"madmail/internal/mailbox/maildir"
)

func stop(t *testing.T, s *maildir.Store) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func open(t *testing.T, opt maildir.Options) *maildir.Store {
	s, err := maildir.Open(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Hydrate(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func TestMaildirIsAStore(t *testing.T) {
	mailboxtest.Run(t, func(t *testing.T) mailbox.Store { return open(t, maildir.Options{Dir: t.TempDir()}) })
}

func TestMaildirCallsItsHooks(t *testing.T) {
	mailboxtest.RunHooks(t, func(t *testing.T, h mailboxtest.Hooks) mailbox.Store {
		return open(t, maildir.Options{Dir: t.TempDir(), Changed: h.Changed, Used: h.Used})
	})
}

func TestMaildirKeepsEverythingOverAStop(t *testing.T) {
	dir := t.TempDir()
	var last *maildir.Store
	mailboxtest.RunReopen(t, func(t *testing.T) mailbox.Store {
		if last != nil {
			stop(t, last)
		}
		last = open(t, maildir.Options{Dir: dir})
		return last
	})
}

package maildir

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// restoreSome restores INBOX and a folder: one message by copy, one by link in each.
func restoreSome(t *testing.T, s *Store, from string) error {
	r := s.Restore()
	for i, name := range []string{mailbox.Inbox, "Old/Sent"} {
		b, err := r.Box(mailbox.Box{Account: addr(t, "alice@example.org"), Name: name}, Kept{UIDValidity: 50 + uint32(i), UIDNext: 30, SpecialUse: []string{"", `\Sent`}[i]})
		if fault.Is(err, fault.Exists) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := b.Copy(mailbox.Message{UID: 4, Internal: 1000}, strings.NewReader("copied\r\n")); err != nil {
			return err
		}
		m := mailbox.Message{UID: 9, Internal: 2000, Flags: mailbox.Seen, Keywords: []string{"chat"}}
		linked, err := b.Link(m, from)
		if err == nil && !linked { // the caller's way where links do not work
			_, err = b.Copy(m, strings.NewReader("linked\r\n"))
		}
		if err != nil {
			return err
		}
	}
	return r.Commit(t.Context())
}

// TestARestoreThatFailsAnywhereIsRepeated: each call to the disk fails once. Nothing is
// lost or doubled by doing it again, also when the store was used in between.
func TestARestoreThatFailsAnywhereIsRepeated(t *testing.T) {
	broken := errors.New("broken disk")
	for nth := 1; ; nth++ {
		dir, from := t.TempDir(), filepath.Join(t.TempDir(), "body")
		if err := os.WriteFile(from, []byte("linked\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		box := inbox(t, "alice@example.org")
		s := open(t, Options{Dir: dir})
		deliver(t, s, "came meanwhile\r\n", box)
		closeStore(t, s)

		calls := 0
		armed := false
		s = open(t, Options{Dir: dir, hook: func(op, path string) error {
			if !armed {
				return nil
			}
			if calls++; calls == nth {
				return fmt.Errorf("%w at %s %s", broken, op, path)
			}
			return nil
		}})
		armed = true
		err := restoreSome(t, s, from)
		armed = false
		closeStore(t, s)
		if err != nil && !errors.Is(err, broken) {
			t.Fatalf("call %d: %v", nth, err)
		}
		s = open(t, Options{Dir: dir})
		if nth%2 == 0 {
			if _, err := s.View(t.Context(), box); err != nil {
				t.Fatal(err)
			}
		}
		if err := restoreSome(t, s, from); err != nil {
			t.Fatalf("call %d, again: %v", nth, err)
		}
		closeStore(t, s)
		s = open(t, Options{Dir: dir})
		for name, want := range map[string]map[mailbox.UID]string{
			mailbox.Inbox: {4: "copied\r\n", 9: "linked\r\n", 30: "came meanwhile\r\n"}, "Old/Sent": {4: "copied\r\n", 9: "linked\r\n"},
		} {
			if got := contents(t, s, mailbox.Box{Account: box.Account, Name: name}); !maps.Equal(got, want) {
				t.Fatalf("call %d: %s has %v, want %v", nth, name, got, want)
			}
		}
		v, err := s.View(t.Context(), box)
		if err != nil {
			t.Fatal(err)
		}
		if m := v.At(1); v.UIDValidity != 50 || v.UIDNext != 31 || m.Flags != mailbox.Seen || m.Internal != 2000 || len(m.Keywords) != 1 {
			t.Fatalf("call %d: %+v of %d, next %d", nth, m, v.UIDValidity, v.UIDNext)
		}
		closeStore(t, s)
		if calls < nth {
			if nth < 10 {
				t.Fatalf("only %d calls", calls)
			}
			return
		}
	}
}

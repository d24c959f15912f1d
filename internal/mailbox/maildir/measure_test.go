package maildir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"madmail/internal/mailbox"
)

// TestMeasuringUnderLoadFindsNothingWrong: mail that comes and goes while an
// account is measured is no mistake in counting.
func TestMeasuringUnderLoadFindsNothingWrong(t *testing.T) {
	dir := t.TempDir()
	var m meter
	s := open(t, Options{Dir: dir, Used: m.add})
	a := inbox(t, "a@x.org")
	deliver(t, s, "first\r\n", a)
	var stop atomic.Bool
	done := make(chan error, 2)
	for range 2 {
		go func() {
			for i := 0; !stop.Load(); i++ {
				placed, err := tryDeliver(s, body(t, s, fmt.Sprintf("message %d\r\n", i)), a)
				if err == nil && i%2 == 0 {
					_, err = s.Expunge(t.Context(), a, mailbox.UIDSet{}.Add(placed[0].UID), false)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for before := s.Stats().Delivered; s.Stats().Delivered < before+200; {
		u, err := s.Usage(t.Context(), a.Account)
		if err != nil {
			t.Fatal(err)
		}
		if u.Mended {
			t.Fatalf("counted wrong: %+v", u)
		}
	}
	stop.Store(true)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	u, err := s.Usage(t.Context(), a.Account)
	if err != nil || u.Mended || u.Bytes != m.of(a.Account) || u.Bytes != du(t, dir, a.Account) {
		t.Errorf("measured %+v, %v; counted %d, on disk %d", u, err, m.of(a.Account), du(t, dir, a.Account))
	}
	// By hand it is one.
	if err := os.WriteFile(filepath.Join(dir, "mail", "a@x.org", "Maildir", "cur", "by.hand:2,S"), []byte("by hand\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Usage(t.Context(), a.Account); err != nil || !v.Mended || v.Bytes != u.Bytes+9 || m.of(a.Account) != v.Bytes {
		t.Errorf("after a hand edit: %+v, %v; counted %d", v, err, m.of(a.Account))
	}
	if v, err := s.Usage(t.Context(), a.Account); err != nil || v.Mended {
		t.Errorf("a second look: %+v, %v", v, err)
	}
}

// TestMeasuringARemovedAccountLeavesNothing: an account may be removed between
// the decision to measure it and its turn.
func TestMeasuringARemovedAccountLeavesNothing(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	a := inbox(t, "a@x.org")
	deliver(t, s, "message\r\n", a)
	if err := s.Settle(t.Context()); err != nil { // it has a directory
		t.Fatal(err)
	}
	// The removal waits in the queue, and the measuring behind it.
	begun, hold := make(chan struct{}), make(chan struct{})
	done := make(chan error, 3)
	go func() {
		done <- s.do(t.Context(), &op{plan: func() error { close(begun); <-hold; return nil }})
	}()
	<-begun
	go func() { done <- s.RemoveAccount(t.Context(), a.Account) }()
	until(t, "the removal waits", func() bool { return len(s.reqs) == 1 })
	go func() {
		u, err := s.Usage(t.Context(), a.Account)
		if err == nil && u != (mailbox.Usage{}) {
			err = fmt.Errorf("usage %+v", u)
		}
		done <- err
	}()
	until(t, "the measuring waits", func() bool { return len(s.reqs) == 2 })
	close(hold)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if s.lookup(a) != nil {
		t.Error("the store remembers a mailbox of an account that is gone")
	}
}

// TestAccountsOfEarlierVersionsAreFound: the second version kept the domain as clients
// write it. Where two stand for one address none is lost.
func TestAccountsOfEarlierVersionsAreFound(t *testing.T) {
	dir := t.TempDir()
	at := func(n string) string { return filepath.Join(dir, "mail", n, "Maildir", "new") }
	for _, n := range []string{"a@2001:db8::1", "b@[ipv6:2001:db8::1]", "C@x.org", "Ж@x.org", "d@x.org", "D@x.org", "no address"} {
		if err := os.MkdirAll(at(n), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(at(n), "m"), []byte(n+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mail", "F@x.org"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second start finds them, too
		s := open(t, Options{Dir: dir})
		if err := s.Hydrate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"a@2001:db8::1": "a@2001:db8::1", "b@[IPv6:2001:db8::1]": "b@[ipv6:2001:db8::1]", "c@x.org": "C@x.org", "ж@x.org": "Ж@x.org", "d@x.org": "d@x.org",
		} {
			if got := contents(t, s, inbox(t, name)); len(got) != 1 || got[1] != want+"\r\n" {
				t.Errorf("%s holds %v", name, got)
			}
		}
		if _, err := os.Stat(filepath.Join(at("D@x.org"), "m")); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	}
}

// TestFoldersOfEarlierVersionsAreFound: the second version wrote names as they are
// where ours have a percent form. None is lost, none stands for another.
func TestFoldersOfEarlierVersionsAreFound(t *testing.T) {
	dir := t.TempDir()
	a := inbox(t, "a@x.org")
	names := []string{"100%", ".drafts", "a:b", "%41", "a%2fb", "plain", "Привет"}
	spelled := func(n string) (string, bool) { return strings.ReplaceAll(n, "&-", "&"), n != "no&-" }
	for _, x := range []struct{ made, name, index string }{
		{"R&-D", "R&D", "1 V1 N2\n1 S6 T1 :m\n"}, {"never&-listed", "never&listed", ""}, {"ours&-", "ours&-", "1 V1 N1 M1 Gmadmail\n"}, {"no&-", "no&-", ""},
	} {
		d := filepath.Join(dir, "mail", "a@x.org", "folders", x.made, "Maildir")
		if err := os.MkdirAll(filepath.Join(d, "new"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "new", "m"), []byte(x.name+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if x.index != "" {
			if err := os.WriteFile(filepath.Join(d, "chatmail-uidlist"), []byte(x.index), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		names = append(names, x.name)
	}
	for _, n := range append(names[:7:7], "..dots", "taken%", "taken%25") {
		d := filepath.Join(dir, "mail", "a@x.org", "folders", n, "Maildir", "new")
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "m"), []byte(n+"\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // a second start finds them, too
		s := open(t, Options{Dir: dir, Spelled: spelled})
		if err := s.Hydrate(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		boxes, err := s.Boxes(t.Context(), a.Account)
		if err != nil || len(boxes) != 1+len(names)+2 {
			t.Errorf("%d mailboxes, %v: %v", len(boxes), err, boxes)
		}
		for _, n := range names {
			got := contents(t, s, mailbox.Box{Account: a.Account, Name: n})
			if len(got) != 1 || got[1] != n+"\r\n" {
				t.Errorf("%q holds %v", n, got)
			}
		}
		// Of two that would become one the first keeps its place, and the other its mail.
		if got := contents(t, s, mailbox.Box{Account: a.Account, Name: "taken%"}); len(got) != 1 || got[1] != "taken%25\r\n" {
			t.Errorf("two directories: %v", got)
		}
		if _, err := os.Stat(filepath.Join(dir, "mail", "a@x.org", "folders", "taken%", "Maildir", "new", "m")); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
	}
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"madmail/internal/fault"
)

// wholeState is a state directory: two accounts, one with a folder, a queue, a key, and what
// is not to be copied.
func wholeState(t *testing.T) (dir string, files map[string]string) {
	t.Helper()
	dir = t.TempDir()
	files = map[string]string{
		"mail/alice@example.org/Maildir/cur/1.a:2,S": "one", "mail/alice@example.org/Maildir/new/2.a": "two", "mail/alice@example.org/Maildir/chatmail-uidlist": "index",
		"mail/alice@example.org/folders/Archive/Maildir/cur/3.a:2,": "three", "mail/alice@example.org/mailboxes.json": "{}",
		"mail/bob@[127.0.0.1]/Maildir/new/1.b": "four", "remote_queue/q1.meta": "meta", "remote_queue/q1.body": "body", "admin_token": "secret", "certs/privkey.pem": "key", "dkim/default.key": "dkim",
	}
	put(t, dir, files)
	put(t, dir, map[string]string{
		"credentials.db": "live", "credentials.db-wal": "live", "journal/seg-1": "j", "spool/x": "s", "mta-sts/cache": "c", "lock": "l", "madmail.pid": "1", "mail/.trash-1/x": "t",
		"mail/alice@example.org/Maildir/tmp/half": "h", "certs/new.pem.tmp": "h",
	})
	return dir, files
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func source(dir string) Source {
	return Source{
		Dir: dir, Version: "test", Queue: filepath.Join(dir, "remote_queue"), Database: filepath.Join(dir, "credentials.db"), Settle: func(context.Context) error { return nil },
		Copy: func(_ context.Context, path string) error {
			return os.WriteFile(path, []byte("as of one moment"), 0o600)
		},
	}
}

// holds compares a directory with files, and nothing else but what is named.
func holds(t *testing.T, dir string, files map[string]string, besides ...string) {
	t.Helper()
	want := make(map[string]string)
	for k, v := range files {
		want[k] = v
	}
	for _, name := range besides {
		want[name] = ""
	}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		text, ok := want[rel]
		if !ok {
			t.Errorf("%s was copied", rel)
		}
		got, err := os.ReadFile(path)
		if err == nil && text != "" && string(got) != text {
			t.Errorf("%s is %q, want %q", rel, got, text)
		}
		delete(want, rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

func absent(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Lstat(p); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", p, err)
		}
	}
}

// TestACopySharesNothingThatChanges: everything that is state, nothing that is not.
func TestACopySharesNothingThatChanges(t *testing.T) {
	dir, files := wholeState(t)
	dest := filepath.Join(t.TempDir(), "deep", "copy")
	if err := os.Mkdir(filepath.Dir(dest), 0o700); err != nil {
		t.Fatal(err)
	}
	p := &Progress{}
	m, err := Create(t.Context(), source(dir), dest, p)
	if err != nil {
		t.Fatal(err)
	}
	files["credentials.db"] = "as of one moment"
	holds(t, dest, files, ManifestName)
	if m.Files < int64(len(files)-1) || m.Bytes == 0 || m.Server != "test" || m.Database != "credentials.db" || p.Linked.Load() != 4 {
		t.Errorf("%+v, %d linked", m, p.Linked.Load())
	}
	// The original may go and change: the copy stays.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "state")
	for _, empty := range []bool{false, true} {
		if empty { // a directory that a package made
			to = t.TempDir()
		}
		if again, err := Restore(t.Context(), dest, to, &Progress{}); err != nil || again != m {
			t.Fatalf("%+v, %v", again, err)
		}
		holds(t, to, files)
		absent(t, to+".partial")
	}
	// What is restored shares nothing with the copy.
	put(t, to, map[string]string{"mail/alice@example.org/Maildir/new/2.a": "changed"})
	holds(t, dest, files, ManifestName)
}

// TestACopyOverSomethingIsRefused, and what is there stays.
func TestACopyOverSomethingIsRefused(t *testing.T) {
	dir, files := wholeState(t)
	dest := filepath.Join(t.TempDir(), "copy")
	if _, err := Create(t.Context(), source(dir), dest, &Progress{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), source(dir), dest, &Progress{}); !fault.Is(err, fault.Exists) {
		t.Errorf("over another copy: %v", err)
	}
	for _, inside := range []string{dir, filepath.Join(dir, "copy"), filepath.Join(dir, "mail", "x")} {
		if _, err := Create(t.Context(), source(dir), inside, &Progress{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("into the state: %v", err)
		}
	}
	other := t.TempDir()
	put(t, other, map[string]string{"precious": "x"})
	if _, err := Restore(t.Context(), dest, other, &Progress{}); !fault.Is(err, fault.Exists) || fault.HintOf(err) == "" {
		t.Errorf("onto a directory that is not empty: %v", err)
	}
	holds(t, other, map[string]string{"precious": "x"})
	files["credentials.db"] = "as of one moment"
	holds(t, dest, files, ManifestName)
	if _, err := Restore(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "x"), &Progress{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("of no copy: %v", err)
	}
}

// TestACopyThatFailsLeavesNothing: whichever step it is, and what an earlier try left is
// no obstacle.
func TestACopyThatFailsLeavesNothing(t *testing.T) {
	full := errors.New("no space left on device")
	for name, spoil := range map[string]func(s *Source, cancel func()){
		"the mail cannot be settled": func(s *Source, _ func()) { s.Settle = func(context.Context) error { return full } },
		"the database does not fit":  func(s *Source, _ func()) { s.Copy = func(context.Context, string) error { return full } },
		"half of the database was written": func(s *Source, _ func()) {
			s.Copy = func(_ context.Context, path string) error {
				return errors.Join(os.WriteFile(path, []byte("ha"), 0o600), full)
			}
		},
		"somebody interrupts": func(s *Source, cancel func()) {
			s.Settle = func(context.Context) error { cancel(); return nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, files := wholeState(t)
			dest := filepath.Join(t.TempDir(), "copy")
			put(t, dest+".partial", map[string]string{"left": "by a crash"})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := source(dir)
			spoil(&s, cancel)
			if _, err := Create(ctx, s, dest, &Progress{}); err == nil {
				t.Fatal("it did not fail")
			}
			absent(t, dest, dest+".partial")
			if _, err := Create(t.Context(), source(dir), dest, &Progress{}); err != nil {
				t.Fatal(err)
			}
			files["credentials.db"] = "as of one moment"
			holds(t, dest, files, ManifestName)
		})
	}
}

// TestAnInterruptedRestoreLeavesThePlace: without its manifest, which comes last, nothing is restored; an
// interrupted restore leaves the place as it was.
func TestAnInterruptedRestoreLeavesThePlace(t *testing.T) {
	dir, _ := wholeState(t)
	dest := filepath.Join(t.TempDir(), "copy")
	if _, err := Create(t.Context(), source(dir), dest, &Progress{}); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Restore(ctx, dest, to, &Progress{}); !fault.Is(err, fault.Busy) {
		t.Errorf("interrupted: %v", err)
	}
	holds(t, to, nil)
	absent(t, to+".partial")
	if err := os.Remove(filepath.Join(dest, ManifestName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), dest, to, &Progress{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("without its manifest: %v", err)
	}
	holds(t, to, nil)
}

// asking is a context that does something each time it is asked.
type asking struct {
	context.Context
	then func()
}

func (a asking) Err() error {
	a.then()
	return a.Context.Err()
}

// TestAMoveBehindTheCopyIsNotMissed: a message goes from a mailbox that is still to be
// copied to one that was.
func TestAMoveBehindTheCopyIsNotMissed(t *testing.T) {
	dir, files := wholeState(t)
	const from, to = "mail/alice@example.org/folders/Archive/Maildir/cur/3.a:2,", "mail/alice@example.org/Maildir/cur/9.a:2,"
	dest := filepath.Join(t.TempDir(), "copy")
	var once sync.Once
	ctx := asking{t.Context(), func() {
		if _, err := os.Stat(filepath.Join(dest+".partial", "mail/alice@example.org/Maildir/chatmail-uidlist")); err != nil {
			return // its INBOX is not done
		}
		once.Do(func() {
			if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
				t.Error(err)
			}
		})
	}}
	if _, err := Create(ctx, source(dir), dest, &Progress{}); err != nil {
		t.Fatal(err)
	}
	delete(files, from)
	files[to] = "three"
	files["credentials.db"] = "as of one moment"
	holds(t, dest, files, ManifestName)
}

// TestNothingIsMissedWhileItChanges: messages arrive and change their flags while they
// are copied. Each that was there before is in the copy.
func TestNothingIsMissedWhileItChanges(t *testing.T) {
	dir := t.TempDir()
	const count = 300
	box := func(i int) string {
		if i%2 == 0 {
			return filepath.Join(dir, "mail", "a@example.org", "Maildir")
		}
		return filepath.Join(dir, "mail", "a@example.org", "folders", "Archive", "Maildir")
	}
	for i := range count {
		path := filepath.Join(box(i), "new", fmt.Sprintf("%d.m", i))
		if err := os.MkdirAll(filepath.Join(box(i), "cur"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, map[string]string{"credentials.db": "d"})
	stop := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() { // flags: from new to cur, and other names there
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			i := n % count
			for _, pair := range [][2]string{{"new/%d.m", "cur/%d.m:2,S"}, {"cur/%d.m:2,S", "cur/%d.m:2,FS"}, {"cur/%d.m:2,FS", "cur/%d.m:2,S"}} {
				_ = os.Rename(filepath.Join(box(i), fmt.Sprintf(pair[0], i)), filepath.Join(box(i), fmt.Sprintf(pair[1], i))) // not there: another step
			}
		}
	})
	busy.Go(func() { // arrivals
		for n := count; ; n++ {
			select {
			case <-stop:
				return
			default:
				if err := os.WriteFile(filepath.Join(box(n), "new", fmt.Sprintf("%d.m", n)), []byte("x"), 0o600); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	s := source(dir)
	s.Queue = ""
	dest := filepath.Join(t.TempDir(), "copy")
	_, err := Create(t.Context(), s, dest, &Progress{})
	close(stop)
	busy.Wait()
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	if err := filepath.WalkDir(dest, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			have[unique(e.Name())] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if !have[fmt.Sprintf("%d.m", i)] {
			t.Errorf("message %d is in no mailbox of the copy", i)
		}
	}
}

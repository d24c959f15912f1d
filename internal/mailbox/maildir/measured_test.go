package maildir

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/internal/mailbox"
)

// age makes everything below dir look as if it had been there for an hour.
func age(t *testing.T, dir string) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, then, then)
	}); err != nil {
		t.Fatal(err)
	}
}

// kept is a closed store of three mailboxes whose sizes were kept.
func kept(t *testing.T) (dir string, boxes []mailbox.Box) {
	t.Helper()
	dir = t.TempDir()
	s := open(t, Options{Dir: dir})
	a, b := inbox(t, "alice@example.org"), inbox(t, "bob@[127.0.0.1]")
	archive := mailbox.Box{Account: a.Account, Name: "Ärchiv & Co"}
	if err := s.CreateBox(t.Context(), archive, ""); err != nil {
		t.Fatal(err)
	}
	deliver(t, s, "one\r\n", a, b)
	deliver(t, s, "three\r\n", b)
	deliver(t, s, "old\r\n", archive)
	closeStore(t, s)
	age(t, filepath.Join(dir, "mail"))
	s = open(t, Options{Dir: dir})
	if err := s.Hydrate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	return dir, []mailbox.Box{a, b, archive}
}

// measureAgain starts a store and compares what it tells with what is on disk.
func measureAgain(t *testing.T, dir string, boxes []mailbox.Box) *Store {
	t.Helper()
	var m meter
	s := open(t, Options{Dir: dir, Used: m.add})
	if err := s.Hydrate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, b := range boxes {
		if got, want := m.of(b.Account), du(t, dir, b.Account); got != want {
			t.Errorf("%s: %d are counted, on disk are %d", b.Account.Wire(), got, want)
		}
	}
	return s
}

// indexes makes every index unreadable and leaves size and time: who reads one fails
// to find the messages' sizes in it.
func spoil(t *testing.T, s *Store, boxes []mailbox.Box) {
	t.Helper()
	for _, b := range boxes {
		path := filepath.Join(s.boxDir(b), indexName)
		st, err := os.Stat(path)
		if err == nil {
			err = os.WriteFile(path, bytes.Repeat([]byte("x"), int(st.Size())), 0o600)
		}
		if err == nil {
			err = os.Chtimes(path, st.ModTime(), st.ModTime())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestACleanStopSparesTheNextStartTheReading: what did not change is believed, once.
func TestACleanStopSparesTheNextStartTheReading(t *testing.T) {
	dir, boxes := kept(t)
	list := filepath.Join(dir, "journal", "measured")
	data, err := os.ReadFile(list)
	if err != nil || len(parseMeasured(data)) != len(boxes) {
		t.Fatalf("%v: %q", err, data)
	}
	spoil(t, &Store{mail: filepath.Join(dir, "mail")}, boxes)
	s := measureAgain(t, dir, boxes)
	if _, err := os.Stat(list); !os.IsNotExist(err) {
		t.Error("the list is there while the store runs:", err)
	}
	for _, b := range boxes {
		if data, err := os.ReadFile(filepath.Join(s.boxDir(b), indexName)); err != nil || !strings.HasPrefix(string(data), "xxx") {
			t.Errorf("%s was read, and mended: %q, %v", b.Name, data, err)
		}
	}
	// Only now it is found out, and mended.
	if got := contents(t, s, boxes[1]); len(got) != 2 {
		t.Errorf("%d messages", len(got))
	}
	closeStore(t, s)
}

// TestWhatChangedSinceTheStopIsMeasured: by hand, by a crash, or because the list is
// damaged.
func TestWhatChangedSinceTheStopIsMeasured(t *testing.T) {
	first := func(t *testing.T, dir, pattern string) string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(dir, "mail", pattern))
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, err)
		}
		return found[0]
	}
	for name, change := range map[string]func(t *testing.T, dir string, boxes []mailbox.Box){
		"a message removed": func(t *testing.T, dir string, _ []mailbox.Box) {
			if err := os.Remove(first(t, dir, "bob*/Maildir/new/*")); err != nil {
				t.Fatal(err)
			}
		},
		"a message added": func(t *testing.T, dir string, _ []mailbox.Box) {
			if err := os.WriteFile(filepath.Join(first(t, dir, "alice*/folders/*/Maildir/cur"), "1700000000.by-hand:2,S"), []byte("by hand\r\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a folder added": func(t *testing.T, dir string, _ []mailbox.Box) {
			box := filepath.Join(dir, "mail", "alice@example.org", "folders", "New", "Maildir")
			for _, sub := range []string{"new", "cur", "tmp"} {
				if err := os.MkdirAll(filepath.Join(box, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(box, "new", "1700000000.by-hand"), []byte("by hand\r\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"an account removed": func(t *testing.T, dir string, _ []mailbox.Box) {
			if err := os.RemoveAll(filepath.Join(dir, "mail", "bob@[127.0.0.1]")); err != nil {
				t.Fatal(err)
			}
		},
		"an index lost": func(t *testing.T, dir string, _ []mailbox.Box) {
			if err := os.Remove(first(t, dir, "bob*/Maildir/"+indexName)); err != nil {
				t.Fatal(err)
			}
		},
		"the list damaged": func(t *testing.T, dir string, boxes []mailbox.Box) {
			path := filepath.Join(dir, "journal", "measured")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(first(t, dir, "alice*/Maildir/new/*")); err != nil {
				t.Fatal(err)
			}
		},
		"a crash": func(t *testing.T, dir string, boxes []mailbox.Box) {
			list, err := os.ReadFile(filepath.Join(dir, "journal", "measured"))
			if err != nil {
				t.Fatal(err)
			}
			s := measureAgain(t, dir, boxes)
			deliver(t, s, "more\r\n", boxes[1])
			copied := t.TempDir() // as if the power went: the journal is not empty
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			closeStore(t, s)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(copied, dir); err != nil {
				t.Fatal(err)
			}
			// Even a list that the power brought back counts nothing then.
			if err := os.WriteFile(filepath.Join(dir, "journal", "measured"), list, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, boxes := kept(t)
			change(t, dir, boxes)
			closeStore(t, measureAgain(t, dir, boxes))
			closeStore(t, measureAgain(t, dir, boxes))
		})
	}
}

// TestFreshChangesAreNotKept: what a coarse clock could hide is measured again.
func TestFreshChangesAreNotKept(t *testing.T) {
	dir := t.TempDir()
	a := inbox(t, "alice@example.org")
	s := measureAgain(t, dir, nil)
	deliver(t, s, "one\r\n", a)
	closeStore(t, s)
	data, err := os.ReadFile(filepath.Join(dir, "journal", "measured"))
	if err != nil || string(data) != string(appendMeasured(nil, nil)) {
		t.Fatalf("%q, %v", data, err)
	}
	// The same time as before the removal, as a coarse clock would have it.
	box := filepath.Join(dir, "mail", "alice@example.org", "Maildir", "new")
	st, err := os.Stat(box)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(box, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(box, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	closeStore(t, measureAgain(t, dir, []mailbox.Box{a}))
}

// TestAStoreThatDidNotMeasureKeepsNothing: a command that works without a server
// leaves the list to the next start, which looks at every line anyway.
func TestAStoreThatDidNotMeasureKeepsNothing(t *testing.T) {
	dir, boxes := kept(t)
	s := open(t, Options{Dir: dir})
	if err := s.RemoveAccount(t.Context(), boxes[0].Account); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	closeStore(t, measureAgain(t, dir, boxes))
}

func FuzzMeasured(f *testing.F) {
	f.Add(appendMeasured(nil, nil))
	f.Add([]byte(measuredHead + "alice@example.org\tINBOX\t1\t2\t3\t4\t5\t6\t7\t8\t9\t10\ncrc 00000000\n"))
	f.Add([]byte(strings.Repeat("\t", 40)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var list []measured
		for _, m := range parseMeasured(data) {
			list = append(list, m)
		}
		if again := parseMeasured(appendMeasured(nil, list)); len(again) != len(list) {
			t.Errorf("%q: %d of %d come back", data, len(again), len(list))
		}
	})
}

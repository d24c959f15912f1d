package backup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/fault"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tree lists the files below dir with their texts.
func tree(t testing.TB, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == ManifestName {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		list = append(list, rel+" "+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// state makes a directory as a server has it, with what does not belong into a copy.
func state(t testing.TB) (s Source, want []string) {
	t.Helper()
	dir := t.TempDir()
	for path, text := range map[string]string{
		"mail/a@x.org/Maildir/new/1.madmail":     "one",
		"mail/a@x.org/Maildir/cur/2.madmail:2,S": "two",
		"mail/a@x.org/Maildir/chatmail-uidlist":  "index",
		"mail/a@x.org/folders/B/Maildir/new/3":   "three",
		"mail/a@x.org/mailboxes.json":            "{}",
		"remote_queue/7.body":                    "body",
		"certs/privkey.pem":                      "key",
		"admin_token":                            "token",
		"credentials.db":                         "database of the copy",
	} {
		write(t, filepath.Join(dir, path), text)
		want = append(want, path+" "+text)
	}
	for _, path := range []string{
		"mail/.trash-1/Maildir/new/9", "mail/a@x.org/Maildir/tmp/half", "mail/a@x.org/chatmail-uidlist.tmp", "remote_queue/8.meta.new",
		"journal/seg-1", "spool/x", "run/control.sock", "lock", "madmail.pid", "credentials.db-wal", "credentials.db-shm",
	} {
		write(t, filepath.Join(dir, path), "not to be copied")
	}
	write(t, filepath.Join(dir, "credentials.db"), "in use")
	slices.Sort(want)
	return Source{Dir: dir, Version: "1", Database: filepath.Join(dir, "credentials.db"), Queue: filepath.Join(dir, "remote_queue"),
		Settle: func(context.Context) error { return nil },
		Copy: func(_ context.Context, path string) error {
			return os.WriteFile(path, []byte("database of the copy"), 0o600)
		},
		Now: func() time.Time { return time.Unix(1_800_000_000, 0) }}, want
}

func TestACopyHoldsTheStateAndComesBack(t *testing.T) {
	s, want := state(t)
	dest := filepath.Join(t.TempDir(), "copy")
	var p Progress
	m, err := Create(t.Context(), s, dest, &p)
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, dest); !slices.Equal(got, want) {
		t.Errorf("copied\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if read, err := Read(dest); err != nil || read != m || m.Began != "2027-01-15T08:00:00Z" || m.Database != "credentials.db" || m.Files == 0 {
		t.Errorf("%+v, %v; %+v", read, err, m)
	}
	if p.Linked.Load() != 3 {
		t.Errorf("%d of 3 messages were linked", p.Linked.Load())
	}
	to := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), dest, to, &Progress{}); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, to); !slices.Equal(got, want) {
		t.Errorf("restored\n%s", strings.Join(got, "\n"))
	}
	if _, err := os.Stat(filepath.Join(to, ManifestName)); !os.IsNotExist(err) {
		t.Error("the manifest was restored:", err)
	}
	// The restored server changes its files; the copy must not change with them.
	if a, b := stat(t, dest, want[len(want)-1]), stat(t, to, want[len(want)-1]); os.SameFile(a, b) {
		t.Error("a restored file is a link into the copy")
	}
	if _, err := Restore(t.Context(), dest, to, &Progress{}); !fault.Is(err, fault.Exists) {
		t.Error("restored over a state:", err)
	}
}

func stat(t testing.TB, dir, entry string) os.FileInfo {
	t.Helper()
	name, _, _ := strings.Cut(entry, " ")
	st, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// TestHalfACopyIsNone: whatever fails, nothing is left that could be taken for a copy.
func TestHalfACopyIsNone(t *testing.T) {
	full := errors.New("no space left on device")
	for name, change := range map[string]func(*Source, context.CancelFunc){
		"settle":   func(s *Source, _ context.CancelFunc) { s.Settle = func(context.Context) error { return full } },
		"database": func(s *Source, _ context.CancelFunc) { s.Copy = func(context.Context, string) error { return full } },
		"given up": func(s *Source, cancel context.CancelFunc) {
			s.Settle = func(context.Context) error { cancel(); return nil }
		},
	} {
		s, _ := state(t)
		ctx, cancel := context.WithCancel(t.Context())
		change(&s, cancel)
		parent := t.TempDir()
		dest := filepath.Join(parent, "copy")
		if _, err := Create(ctx, s, dest, &Progress{}); err == nil || name != "given up" && !errors.Is(err, full) || name == "given up" && !fault.Is(err, fault.Busy) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
			t.Errorf("%s: left behind %v, %v", name, left, err)
		}
		if _, err := Read(dest); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func TestWhereACopyMayNotLie(t *testing.T) {
	s, _ := state(t)
	for dest, want := range map[string]fault.Kind{
		s.Dir: fault.Invalid, filepath.Join(s.Dir, "copy"): fault.Invalid, filepath.Join(s.Dir, "mail", "..", "x"): fault.Invalid, t.TempDir(): fault.Exists,
	} {
		if _, err := Create(t.Context(), s, dest, &Progress{}); !fault.Is(err, want) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v (%s)", dest, err, fault.HintOf(err))
		}
	}
	// Beside it, with a name that begins alike, is elsewhere.
	if _, err := Create(t.Context(), s, s.Dir+"-copy", &Progress{}); err != nil {
		t.Error(err)
	}
}

func TestManifestsThatAreNoOnes(t *testing.T) {
	for _, text := range []string{"", "{}", "x", `{"version":2,"database":"a"}`, `{"version":1,"database":"../a"}`, `{"version":1,"database":""}`} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, ManifestName), text)
		if m, err := Read(dir); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
}

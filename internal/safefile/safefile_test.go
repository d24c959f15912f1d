package safefile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"madmail/internal/fault"
)

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// names lists a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range list {
		all = append(all, e.Name())
	}
	return all
}

func TestAFileIsMadeAndReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin_token")
	for _, x := range []struct {
		data string
		mode fs.FileMode
	}{
		{"first\n", 0o600},
		{"the second is longer\n", 0o640},
		{"", 0o600},
		{strings.Repeat("large\n", 1<<16), 0o666}, // beyond what a umask leaves
	} {
		if err := Write(path, []byte(x.data), x.mode); err != nil {
			t.Fatal(err)
		}
		if got := content(t, path); got != x.data {
			t.Errorf("%d octets, want %d", len(got), len(x.data))
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != x.mode {
			t.Errorf("mode %v, want %v", st.Mode(), x.mode)
		}
		if got := names(t, dir); len(got) != 1 {
			t.Errorf("left behind: %q", got)
		}
	}
}

// steps lists what Write does, in order.
func steps(t *testing.T) []string {
	t.Helper()
	var all []string
	err := write(filepath.Join(t.TempDir(), "f"), []byte("x"), 0o600, func(step string) error {
		all = append(all, step)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestAFailureKeepsTheOldFile fails each step in turn.
func TestAFailureKeepsTheOldFile(t *testing.T) {
	all := steps(t)
	if want := "create owner mode write sync close rename sync directory"; strings.Join(all, " ") != want {
		t.Fatalf("steps %q, want %q", all, want)
	}
	for _, old := range []bool{true, false} {
		for _, at := range all {
			t.Run(fmt.Sprintf("%s, old file: %v", at, old), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "f")
				want := 0
				if old {
					if err := Write(path, []byte("old"), 0o600); err != nil {
						t.Fatal(err)
					}
					want = 1
				}
				err := write(path, []byte("new"), 0o644, func(step string) error {
					if step == at {
						return &fs.PathError{Op: step, Path: path, Err: syscall.ENOSPC}
					}
					return nil
				})
				if !fault.Is(err, fault.Busy) || !errors.Is(err, syscall.ENOSPC) || fault.HintOf(err) == "" {
					t.Errorf("error %v of kind %v, hint %q", err, fault.KindOf(err), fault.HintOf(err))
				}
				if at == "sync directory" {
					if got := content(t, path); got != "new" {
						t.Errorf("after the rename the file reads %q", got)
					}
					return
				}
				if got := names(t, dir); len(got) != want {
					t.Errorf("in the directory: %q", got)
				}
				if old && content(t, path) != "old" {
					t.Errorf("the old file reads %q", content(t, path))
				}
			})
		}
	}
}

// TestAStopLeavesTheOldFileOrTheNewOne looks at the file before each step, as
// after a crash there.
func TestAStopLeavesTheOldFileOrTheNewOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	renamed := false
	err := write(path, []byte("new"), 0o600, func(step string) error {
		want := "old"
		if step == "sync directory" {
			want, renamed = "new", true
		}
		if got := content(t, path); got != want {
			t.Errorf("before %q: %q, want %q", step, got, want)
		}
		return nil
	})
	if err != nil || !renamed {
		t.Errorf("renamed: %v, %v", renamed, err)
	}
}

func TestWhatCannotBeWrittenIsSaid(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "by a directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name, path string
		kind       fault.Kind
	}{
		{"a directory that is missing", filepath.Join(dir, "missing", "f"), fault.NotFound},
		{"a directory in the way", filepath.Join(dir, "taken"), fault.Internal},
		{"a file for a directory", filepath.Join(dir, "file", "f"), fault.Internal},
		{"a name that is too long", filepath.Join(dir, strings.Repeat("x", 300)), fault.Internal},
	} {
		err := Write(x.path, []byte("new"), 0o600)
		if !fault.Is(err, x.kind) {
			t.Errorf("%s: %v, want kind %v", x.name, err, x.kind)
		}
		if got := names(t, dir); len(got) != 2 {
			t.Errorf("%s: in the directory %q", x.name, got)
		}
	}
}

func TestASymbolicLinkIsReplaced(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("target"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", path); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := content(t, target); got != "target" {
		t.Errorf("the target reads %q", got)
	}
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() || content(t, path) != "new" {
		t.Errorf("%v, %v", st, err)
	}
}

// TestWritersAndReadersNeverSeeAPart has many write one path while others read it.
func TestWritersAndReadersNeverSeeAPart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	text := func(n int) []byte { return bytes.Repeat([]byte{byte('a' + n)}, 10_000) }
	if err := Write(path, text(0), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			for range 20 {
				if err := Write(path, text(n), 0o600); err != nil {
					t.Error(err)
				}
			}
		}()
		go func() {
			defer wg.Done()
			for range 100 {
				data, err := os.ReadFile(path)
				if err != nil || len(data) != 10_000 || bytes.Count(data, data[:1]) != 10_000 {
					t.Errorf("read %d octets, %v", len(data), err)
					return
				}
			}
		}()
	}
	wg.Wait()
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestRootLeavesFilesToTheServer: what a command makes without a server belongs to
// whoever owns the state directory, also when root types it (known-failures B65).
func TestRootLeavesFilesToTheServer(t *testing.T) {
	top, err := os.MkdirTemp("", "madmail-owner-*") // t.TempDir is below a directory of ours alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, "state")
	if err := errors.Join(os.Chmod(top, 0o755), os.Mkdir(dir, 0o750)); err != nil {
		t.Fatal(err)
	}
	want := uint32(os.Geteuid())
	if want == 0 {
		want = 65534
		if err := os.Chown(dir, int(want), int(want)); err != nil {
			t.Fatal(err)
		}
	}
	before := os.Geteuid()
	var out, errs bytes.Buffer
	for _, line := range []string{"accounts create alice -p correct-horse-battery-22", "imap-mboxes create alice Notes", "admin-token --raw"} {
		if code := Main(append([]string{"--state-dir", dir}, strings.Fields(line)...), strings.NewReader(""), &out, &errs); code != done {
			t.Fatalf("%s: exit code %d: %s", line, code, errs.String())
		}
	}
	if os.Geteuid() != before {
		t.Fatalf("the rights did not come back: %d", os.Geteuid())
	}
	seen := 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen++
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != want {
			t.Errorf("%s belongs to %d, want %d", path, st.Uid, want)
		}
		return nil
	})
	if err != nil || seen < 5 {
		t.Fatalf("%d files, %v", seen, err)
	}
}

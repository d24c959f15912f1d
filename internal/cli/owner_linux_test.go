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

// TestRootIsWarned: a server that root starts by hand makes files that the service
// cannot read. It is said, and the doctor finds them, also below the first level.
func TestRootIsWarned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	root := os.Geteuid() == 0
	if root {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "chatmail.toml")
	if err := os.WriteFile(config, []byte("primary_domain = \"[127.0.0.1]\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if root {
		if err := os.Chown(config, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	args := []string{"--config", config, "--state-dir", dir}
	if code := Main(append(args, "run", "--boot-once"), strings.NewReader(""), &out, &errs); code != done {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if strings.Contains(errs.String(), "cannot read what root makes") != root {
		t.Errorf("root: %v, %q", root, errs.String())
	}
	out.Reset()
	Main(append(args, "doctor"), strings.NewReader(""), &out, &errs) // there are other findings: no server runs
	if strings.Contains(out.String(), "belong to somebody else") != root || root && !strings.Contains(out.String(), "chown -R 65534: ") {
		t.Errorf("root: %v, %s", root, out.String())
	}
}

//go:build linux

package requirements

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"madmail/test/testport"
)

// workshop runs targets of the Makefile on a state directory of their own.
type workshop struct {
	t    *testing.T
	vars []string
	dir  string // of the state
	pid  string // file
}

func newWorkshop(t *testing.T) *workshop {
	t.Helper()
	root := t.TempDir()
	w := &workshop{t: t, dir: filepath.Join(root, "data"), pid: filepath.Join(root, "pid")}
	w.vars = []string{"-s", "-C", "../..", "BINARY=" + filepath.Join(root, "madmail"), "STATE_DIR=" + w.dir,
		"PID_FILE=" + w.pid, "LOG_FILE=" + filepath.Join(root, "log")}
	if err := os.Mkdir(w.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	p := testport.Ports(t, 7)
	conf := fmt.Sprintf(`primary_domain = "127.0.0.1"
public_ip = "127.0.0.1"
smtp_listen = "127.0.0.1:%d"
submission_listen = "127.0.0.1:%d"
submission_tls_listen = "127.0.0.1:%d"
imap_listen = "127.0.0.1:%d"
imap_tls_listen = "127.0.0.1:%d"
http_listen = "127.0.0.1:%d"
http_tls_listen = "127.0.0.1:%d"
`, p[0], p[1], p[2], p[3], p[4], p[5], p[6])
	if err := os.WriteFile(filepath.Join(w.dir, "chatmail.toml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.make(true, "stop") })
	return w
}

// make runs a target, with variables of its own, and returns what was printed.
func (w *workshop) make(works bool, args ...string) string {
	w.t.Helper()
	cmd := exec.Command("make", append(w.vars, args...)...)
	// As typed by a person: not below another make.
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "MAKE") && !strings.HasPrefix(v, "MFLAGS") && !strings.HasPrefix(v, "CHATMAIL_") && !strings.HasPrefix(v, "DCLOGIN") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if works != (err == nil) {
		w.t.Fatalf("make %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// running is the server as it tells itself over the control socket.
func (w *workshop) running() (pid int, version string) {
	w.t.Helper()
	out, err := exec.Command(filepath.Join(filepath.Dir(w.dir), "madmail"), "--state-dir", w.dir, "--config", filepath.Join(w.dir, "chatmail.toml"), "status", "--json").Output()
	var st struct {
		Data struct {
			Running bool
			PID     int
			Version string
		}
	}
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	if err != nil || !st.Data.Running {
		w.t.Fatalf("%v: %s", err, out)
	}
	return st.Data.PID, st.Data.Version
}

// works reports whether a process is there; one that only waits to be reaped is not.
func works(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil
}

// TestREQ44TheTestBetweenServersSaysWhatItNeeds and does nothing else without it.
func TestREQ44TheTestBetweenServersSaysWhatItNeeds(t *testing.T) {
	w := newWorkshop(t)
	if out := w.make(false, "test-dclogin", "DCLOGIN1=dclogin:a@b"); !strings.Contains(out, "usage: make test-dclogin DCLOGIN1=") || !strings.Contains(out, "Error 2") {
		t.Errorf("%q", out)
	}
}

// TestREQ48NoOldBinaryStays, whatever came before make restart, and nobody else's
// process is stopped.
func TestREQ48NoOldBinaryStays(t *testing.T) {
	w := newWorkshop(t)
	w.make(true, "run-bg", "VERSION=1.0.0")
	old, version := w.running()
	if version != "1.0.0" {
		t.Fatalf("version %q runs", version)
	}
	if text, err := os.ReadFile(w.pid); err != nil || strings.TrimSpace(string(text)) != fmt.Sprint(old) {
		t.Errorf("the file names %q, %v; %d runs", text, err, old)
	}
	if out := w.make(false, "run-bg"); !strings.Contains(out, fmt.Sprintf("pid %d", old)) {
		t.Errorf("a second one: %q", out)
	}
	w.make(true, "restart", "VERSION=2.0.0")
	now, version := w.running()
	if version != "2.0.0" || now == old {
		t.Errorf("after a restart version %q runs as %d, before as %d", version, now, old)
	}
	if works(old) {
		t.Errorf("the old process, %d, is still there", old)
	}

	// A server that the file does not name is neither stopped nor passed off as new.
	elsewhere := "PID_FILE=" + w.pid + "-other"
	if out := w.make(false, "restart", "VERSION=3.0.0", elsewhere); !strings.Contains(out, fmt.Sprintf("another instance is running (pid %d)", now)) {
		t.Errorf("another server has the state: %q", out)
	}
	if out := w.make(false, "reset-db", elsewhere); !strings.Contains(out, "stop it first") {
		t.Errorf("the database would go under a server: %q", out)
	}
	if pid, version := w.running(); pid != now || version != "2.0.0" {
		t.Errorf("version %q runs as %d", version, pid)
	}

	// Nor is a process that got the number of a server that is gone.
	stranger := exec.Command("sleep", "600")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.pid+"-other", fmt.Appendln(nil, stranger.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	w.make(true, "stop", elsewhere)
	if err := stranger.Process.Kill(); err != nil {
		t.Errorf("a stranger was stopped: %v", err)
	}
	_ = stranger.Wait()

	w.make(true, "reset-db")
	for name, want := range map[string]bool{"credentials.db": false, "admin_token": true, "chatmail.toml": true, "certs/fullchain.pem": true, "mail": true} {
		if _, err := os.Stat(filepath.Join(w.dir, name)); (err == nil) != want {
			t.Errorf("after reset-db %s: %v", name, err)
		}
	}
	if works(now) {
		t.Errorf("reset-db left the server, %d, running", now)
	}
}

//go:build interop && linux

package interop

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// host is a machine that systemd has booted: the files of this one, with changes of
// its own, and the network of the test.
type host struct {
	t   *testing.T
	pid int // of systemd
	log string
}

// boot starts one. programs is a directory that it sees as /programs.
func boot(t *testing.T, programs string) *host {
	t.Helper()
	script, err := filepath.Abs("testdata/systemd.sh")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, log: filepath.Join(t.TempDir(), "systemd.log")}
	log, err := os.Create(h.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("sh", script, t.TempDir(), programs)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(h.log)
			t.Logf("systemd said:\n%s", text)
		}
		if h.pid != 0 {
			_ = syscall.Kill(h.pid, syscall.SIGKILL) // and with it all that it started
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	wait(t, "systemd is running", func() bool {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		var pid int
		if _, err := fmt.Sscan(string(children), &pid); err != nil {
			return false
		}
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) != "systemd\n" {
			return false
		}
		h.pid = pid
		out, _, _ := h.try("systemctl", "is-system-running")
		return slices.Contains([]string{"running", "degraded"}, strings.TrimSpace(out))
	})
	return h
}

// wait asks again and again, for two minutes at most.
func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

// try runs a program on the host.
func (h *host) try(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", fmt.Sprint(h.pid), "--all", "--root", "--wd"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func (h *host) run(args ...string) string {
	h.t.Helper()
	out, errs, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("%q: %v\n%s%s", args, err, out, errs)
	}
	return out
}

// fails runs a program that must not succeed, and returns what it complains of.
func (h *host) fails(args ...string) string {
	h.t.Helper()
	out, errs, err := h.try(args...)
	if x := (*exec.ExitError)(nil); !errors.As(err, &x) {
		h.t.Fatalf("%q: %v\n%s%s", args, err, out, errs)
	}
	return errs
}

// unit is a property of our unit.
func (h *host) unit(property string) string {
	h.t.Helper()
	return strings.TrimSpace(h.run("systemctl", "show", "madmail", "--value", "-p", property))
}

func (h *host) active(version string) {
	h.t.Helper()
	var s struct {
		Data struct {
			Running bool
			Version string
		}
	}
	if err := json.Unmarshal([]byte(h.run("madmail", "status", "--json")), &s); err != nil || h.unit("ActiveState") != "active" || !s.Data.Running || version != "" && s.Data.Version != version {
		h.t.Errorf("the unit is %s, %+v, %v; want version %s", h.unit("ActiveState"), s.Data, err, version)
	}
}

// healthy lets the doctor look.
func (h *host) healthy() {
	h.t.Helper()
	var d struct {
		Data struct {
			Findings []struct{ Check, Level, Finding, Evidence string }
		}
	}
	out := h.run("madmail", "doctor", "--json")
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		h.t.Fatal(err)
	}
	fine := 0
	for _, f := range d.Data.Findings {
		switch {
		case f.Level == "failure":
			h.t.Errorf("the doctor: %+v", f)
		case slices.Contains([]string{"server", "files", "ports", "client", "calls", "admin-token", "binary"}, f.Check):
			if f.Level != "ok" {
				h.t.Errorf("the doctor: %+v", f)
			}
			fine++
		}
	}
	if fine != 7 {
		h.t.Errorf("%d checks of 7 were made: %s", fine, out)
	}
}

// releases makes programs of two versions that know the key of their maker, both
// signed, one that says what it is and does not start, and one that was changed.
func releases(t *testing.T, dir string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []string{"9.0.0", "9.1.0"} {
		path := filepath.Join(t.TempDir(), v)
		cmd := exec.Command("go", "build", "-trimpath", "-o", path, "-ldflags", "-s -w -X madmail/internal/version.Version="+v+" -X madmail/internal/version.ReleaseKey="+base64.StdEncoding.EncodeToString(public), "madmail/cmd/madmail")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		put(v, append(data, ed25519.Sign(private, data)...))
	}
	dead := []byte("#!/bin/sh\n[ \"$1\" = version ] && echo madmail 9.2.0 && exit 0\nexit 1\n")
	put("dead", append(dead, ed25519.Sign(private, dead)...))
	put("changed", append(bytes.ToUpper(dead), ed25519.Sign(private, dead)...))
}

// TestUnderSystemd installs the program on a machine, as its operator does, and does to
// it what happens in its life.
func TestUnderSystemd(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	for _, c := range [][2]string{{"nsenter", "util-linux"}, {"systemctl", "systemd"}, {"useradd", "passwd"}} {
		tool(t, c[0], c[1])
	}
	run(t, "", tool(t, "ip", "iproute2"), "link", "set", "lo", "up")
	programs := t.TempDir()
	releases(t, programs)
	program, err := os.ReadFile(testserver.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(programs, "madmail"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	h := boot(t, programs)
	install := func() {
		t.Helper()
		h.run("/programs/madmail", "install", "-n", "--simple", "--ip", "127.0.0.1", "--install-service", "--start-service")
	}
	install()
	h.active("")
	if h.unit("UnitFileState") != "enabled" {
		t.Error("it does not start with the machine")
	}
	tg := load.Target{SMTP: "127.0.0.1:465", IMAP: "127.0.0.1:993", Domain: "[127.0.0.1]", Password: password}
	sent := 0
	send := func() {
		t.Helper()
		s, err := tg.NewSender("sender-one")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Send([]string{"reader-one@[127.0.0.1]"}, load.Message("sender-one@[127.0.0.1]", 2000+sent)); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	here := func() {
		t.Helper()
		r, err := tg.Login("reader-one")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		lines, err := r.Do("STATUS INBOX (MESSAGES)")
		if want := fmt.Sprintf("(MESSAGES %d)", sent); err != nil || !strings.Contains(strings.Join(lines, " "), want) {
			t.Errorf("%q, %v; want %s", lines, err, want)
		}
	}
	here()
	send()
	h.healthy()
	six := tg
	six.SMTP, six.IMAP = "[::1]:465", "[::1]:993"
	if err := six.Ensure("sixth-no-%d", 1); err != nil {
		t.Errorf("by IPv6: %v", err)
	}

	r, err := tg.Login("reader-one")
	if err != nil {
		t.Fatal(err)
	}
	pid := h.unit("MainPID")
	h.run("systemctl", "reload", "madmail")
	if _, err := r.Do("NOOP"); err != nil || h.unit("MainPID") != pid {
		t.Errorf("a session after a reload: %v", err)
	}

	// Killed, it comes back, and what was accepted is there.
	h.run("systemctl", "kill", "-s", "KILL", "madmail")
	wait(t, "it was killed and runs again", func() bool { return h.unit("MainPID") != pid && h.unit("ActiveState") == "active" })
	if err := r.Wait(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the session of a server that was killed: %v", err)
	}
	r.Close()
	here()

	// Hung, it is killed by the watchdog.
	h.run("sh", "-c", "mkdir -p /run/systemd/system/madmail.service.d && printf '[Service]\\nWatchdogSec=5\\n' >/run/systemd/system/madmail.service.d/test.conf && systemctl daemon-reload && systemctl restart madmail")
	pid = h.unit("MainPID")
	h.run("kill", "-STOP", pid)
	wait(t, "it hung and runs again", func() bool { return h.unit("MainPID") != pid && h.unit("ActiveState") == "active" })
	h.run("sh", "-c", "rm -r /run/systemd/system/madmail.service.d && systemctl daemon-reload && systemctl restart madmail")
	here()

	// A configuration that cannot be used: said once, not tried again.
	h.run("sh", "-c", "cp -p /etc/madmail/chatmail.toml /tmp/good && echo nonsense = 1 >>/etc/madmail/chatmail.toml")
	h.fails("systemctl", "restart", "madmail")
	if h.unit("ActiveState") != "failed" || h.unit("ExecMainStatus") != "2" {
		t.Errorf("with a bad configuration: %s, status %s", h.unit("ActiveState"), h.unit("ExecMainStatus"))
	}
	h.run("sh", "-c", "cp -p /tmp/good /etc/madmail/chatmail.toml && systemctl start madmail")
	h.active("")

	// Other versions.
	if why := h.fails("madmail", "upgrade", "/programs/9.0.0"); !strings.Contains(why, "--unsigned") {
		t.Error(why)
	}
	h.run("madmail", "upgrade", "--unsigned", "/programs/9.0.0")
	h.active("9.0.0")
	h.run("madmail", "upgrade", "/programs/9.1.0")
	h.active("9.1.0")
	if why := h.fails("madmail", "upgrade", "/programs/changed"); !strings.Contains(why, "INVALID SIGNATURE") {
		t.Error(why)
	}
	if why := h.fails("madmail", "upgrade", "/programs/dead"); !strings.Contains(why, "version 9.2.0 does not start; 9.1.0 runs again") {
		t.Error(why)
	}
	h.active("9.1.0")
	for range 4 { // more starts than systemd allows in ten seconds by itself
		h.run("madmail", "versions", "use", "9.0.0")
		h.run("madmail", "versions", "use", "9.1.0")
	}
	h.active("9.1.0")
	here()
	send()
	h.healthy()

	// Gone, and back with the mail.
	h.run("madmail", "uninstall", "-y", "--keep-data")
	if _, _, err := h.try("test", "-e", "/etc/systemd/system/madmail.service"); err == nil {
		t.Error("the unit is still there")
	}
	h.run("id", "madmail") // the owner of what is kept has a name
	install()
	h.active("")
	here()
	h.healthy()
	h.run("/programs/madmail", "uninstall", "-y")
	for _, path := range []string{"/etc/madmail", "/var/lib/madmail", "/run/madmail", "/opt/madmail", "/usr/local/bin/madmail", "/etc/systemd/system/madmail.service"} {
		if _, _, err := h.try("test", "-e", path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	h.fails("id", "madmail")
}

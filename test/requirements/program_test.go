//go:build linux

package requirements

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"madmail/test/testserver"
)

// TestREQ05AnOrdinaryUserIsToldAboutLowPorts: one line with the port and the target
// that helps; ports above 1023 need nothing.
func TestREQ05AnOrdinaryUserIsToldAboutLowPorts(t *testing.T) {
	s := testserver.New(t, "")
	limit := 1024
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if limit, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
			t.Fatal(err)
		}
	}
	// As nobody, where the test may become that; a directory of its own that nobody can
	// enter and write.
	dir, err := os.MkdirTemp("", "ordinary")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "madmail")
	text, err := os.ReadFile(s.Program())
	if err == nil {
		err = os.WriteFile(program, text, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "chatmail.toml"), fmt.Appendf(nil, "smtp_listen = \"127.0.0.1:25\"\nimap_listen = \"127.0.0.1:%d\"\nhttp_listen = \"127.0.0.1:%d\"\ntls_mode = \"self_signed\"\n", s.IMAP, s.HTTP), 0o644)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Stop() // its port is free now
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--config", filepath.Join(dir, "chatmail.toml"), "--state-dir", filepath.Join(dir, "state"), "run")
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if limit <= 25 {
		t.Logf("this system lets everybody bind port 25: nothing to be told")
		return
	}
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil || !strings.Contains(string(out), "port 25 needs a privilege: run make dev-bind-cap") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestREQ15AnEditedMigrationStopsTheProgram: what runs and what only looks name version
// and file, and the database stays as it is.
func TestREQ15AnEditedMigrationStopsTheProgram(t *testing.T) {
	s := testserver.New(t, "")
	login(t, s, "member-one")
	s.Stop()
	path := filepath.Join(s.Dir, "credentials.db")
	d, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	var version int64
	var name string
	if err := d.QueryRow(`SELECT version, name FROM _madmail_migrations ORDER BY version LIMIT 1`).Scan(&version, &name); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Exec(`UPDATE _madmail_migrations SET checksum = 'x' || substr(checksum, 2) WHERE version = ?`, version); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"run"}, {"accounts", "status"}, {"doctor", "state"}} {
		cmd := exec.Command(s.Program(), append([]string{"--config", filepath.Join(s.Dir, "chatmail.toml"), "--state-dir", s.Dir}, args...)...)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), fmt.Sprintf("%d (%d_%s.sql) was changed", version, version, name)) || !strings.Contains(string(out), "make reset-db") {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the database was changed: %v", err)
	}
}

// TestREQ19AnAddressOfTheMachineIsADomain in both spellings, for one account; where the
// domain is a name, an address is refused, and the log says which.
func TestREQ19AnAddressOfTheMachineIsADomain(t *testing.T) {
	s := testserver.New(t, "")
	login(t, s, "traveller-one")
	bare := target(s)
	bare.Domain = "127.0.0.1"
	r, err := bare.Login("traveller-one")
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if n := len(data(t, s, "accounts", "list")["accounts"].([]any)); n != 1 {
		t.Errorf("%d accounts", n)
	}
	named := testserver.NewWith(t, testserver.Options{Host: "127.0.0.1", Dir: t.TempDir(), Domain: "chat.example", Extra: "debug = true\n", Env: []string{"RUST_LOG=debug"}})
	far := target(named)
	far.Domain = "[192.0.2.7]"
	if r, err := far.Login("traveller-one"); err == nil {
		r.Close()
		t.Error("a domain that nobody configured was let in")
	}
	named.Stop()
	if out := named.Output(); !strings.Contains(out, "domain=[192.0.2.7]") || !strings.Contains(out, "jit_domain") {
		t.Errorf("the log does not say which domain, and where it belongs:\n%s", out)
	}
}

// TestREQ20LimitsOfNamesChangeWithAReload.
func TestREQ20LimitsOfNamesChangeWithAReload(t *testing.T) {
	s := testserver.New(t, "")
	refused(t, s, "sevenrs", password)
	refused(t, s, "abcdefghijklmnopqrstu", password)
	login(t, s, "eighters")
	file, err := os.OpenFile(filepath.Join(s.Dir, "chatmail.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString("min_username_length = 3\nmax_username_length = 30\npassword_min_length = 40\n")
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Command("reload")
	refused(t, s, "sevenrs", password) // its password is short now
	to := target(s)
	to.Password = strings.Repeat("long-password-", 4)
	for _, name := range []string{"sevenrs", "abc", "abcdefghijklmnopqrstu"} {
		r, err := to.Login(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r.Close()
	}
	login(t, s, "eighters") // who was there stays
}

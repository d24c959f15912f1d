//go:build linux

package requirements

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testport"
	"madmail/test/testserver"
)

// TestREQ04ACertificateForThisMachineIsMadeOnce, as make dev-certs does.
func TestREQ04ACertificateForThisMachineIsMadeOnce(t *testing.T) {
	s := testserver.New(t, "")
	dir := t.TempDir()
	var first []byte
	for range 2 {
		if out, err := exec.Command(s.Program(), "--state-dir", dir, "certificate", "dev").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text, err := os.ReadFile(filepath.Join(dir, "certs", "fullchain.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		if block == nil {
			t.Fatalf("%q", text)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || c.VerifyHostname("127.0.0.1") != nil || c.VerifyHostname("localhost") != nil || c.Subject.CommonName != "127.0.0.1" {
			t.Errorf("%v, %s, names %v %v", err, c.Subject, c.DNSNames, c.IPAddresses)
		}
		if days := c.NotAfter.Sub(c.NotBefore).Hours() / 24; days < 3640 || days > 3660 {
			t.Errorf("valid for %.0f days", days)
		}
		if first != nil && string(first) != string(text) {
			t.Error("the second run made another one")
		}
		first = text
	}
	// A server on them offers STARTTLS.
	if err := os.RemoveAll(filepath.Join(s.Dir, "certs")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(s.Dir, "certs"), os.DirFS(filepath.Join(dir, "certs"))); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Start()
	for port, say := range map[int][2]string{s.IMAP: {"a CAPABILITY\r\nb LOGOUT\r\n", "STARTTLS"}, s.SMTP: {"EHLO x\r\nQUIT\r\n", "STARTTLS"}} {
		if text := dialogue(t, port, say[0]); !strings.Contains(text, say[1]) {
			t.Errorf("port %d: %q", port, text)
		}
	}
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.IMAPTLS), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if block, _ := pem.Decode(first); string(block.Bytes) != string(conn.ConnectionState().PeerCertificates[0].Raw) {
		t.Error("another certificate is shown")
	}
	if info, err := os.Stat(filepath.Join(dir, "certs", "privkey.pem")); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestREQ13WhatHandsRemovedIsNoticed by a running server.
func TestREQ13WhatHandsRemovedIsNoticed(t *testing.T) {
	s := testserver.New(t, "")
	login(t, s, "receiver")
	login(t, s, "sender-a")
	send(t, s, "sender-a", "receiver", 4, 50_000)
	s.Stop()
	s.Start() // everything is in its place now
	r := login(t, s, "receiver")
	before := used(t, r)
	s.Command("imap-acct", "quota", "set", "receiver", fmt.Sprint(before<<10))
	if c, err := target(s).NewSender("sender-a"); err != nil {
		t.Fatal(err)
	} else if _, err := c.Send([]string{"receiver@[127.0.0.1]"}, load.Message("sender-a@[127.0.0.1]", 50_000)); err == nil {
		t.Error("a full account takes mail")
	} else {
		c.Close()
	}
	files, _ := messages(t, data(t, s, "accounts", "info", "receiver")["maildir_path"].(string))
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := r.Do("SELECT INBOX"); err != nil {
			t.Fatal(err)
		}
		if used(t, r) == 0 {
			send(t, s, "sender-a", "receiver", 1, 50_000) // there is room again
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d KiB are counted still, of %d", used(t, r), before)
		}
	}
}

// dialogue sends lines to a port, waits until the server closes and returns what it said.
func dialogue(t *testing.T, port int, lines string) string {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(conn)
	hello, err := r.ReadString('\n') // who speaks first is not interrupted
	if err == nil {
		_, err = io.WriteString(conn, lines)
	}
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return hello + string(rest)
}

var turnEntry = regexp.MustCompile(`\(/shared/vendor/deltachat/turn "127\.0\.0\.1:(\d+):(\d+):([^"]+)"\)`)

// TestREQ24ClientsAreToldWhereCallsAreRelayed.
func TestREQ24ClientsAreToldWhereCallsAreRelayed(t *testing.T) {
	port := testport.Ports(t, 1)[0]
	s := testserver.New(t, fmt.Sprintf("turn_enable = true\nturn_secret = \"s3cret\"\nturn_listen_udp = \"127.0.0.1:%d\"\n", port))
	r := login(t, s, "caller-one")
	ask := func() string {
		lines, err := r.Do(`GETMETADATA "" (/shared/vendor/deltachat/turn)`)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(lines, "\n")
	}
	m := turnEntry.FindStringSubmatch(ask())
	if m == nil || m[1] != fmt.Sprint(port) {
		t.Fatalf("%q", ask())
	}
	s.Command("creds", "turn", "off")
	if text := ask(); turnEntry.MatchString(text) {
		t.Errorf("switched off: %q", text)
	}
	s.Command("creds", "turn", "on")
	if text := ask(); !turnEntry.MatchString(text) {
		t.Errorf("switched on again: %q", text)
	}
}

// refused fails when a login succeeds.
func refused(t *testing.T, s *testserver.Server, user, with string) {
	t.Helper()
	to := target(s)
	to.Password = with
	if r, err := to.Login(user); err == nil {
		r.Close()
		t.Errorf("%s was let in", user)
	}
}

// TestACrashIsNoBadConfiguration: the runtime's exit code after a panic is 2, which the
// unit takes for a configuration that cannot be used.
func TestACrashIsNoBadConfiguration(t *testing.T) {
	s := testserver.New(t, "")
	st := s.Crash()
	if w, ok := st.Sys().(syscall.WaitStatus); !ok || !w.Signaled() || w.Signal() != syscall.SIGABRT || w.CoreDump() {
		t.Errorf("%v", st)
	}
	if out := s.Output(); !strings.Contains(out, "goroutine ") {
		t.Errorf("it does not tell where: %s", out)
	}
	s.Start()
}

// TestABanReachesTheRunningServer is number 7 of the known failures: sessions end
// and logins are refused when the command returns, not at the next start.
func TestABanReachesTheRunningServer(t *testing.T) {
	s := testserver.New(t, "")
	r := login(t, s, "spammer-one")
	s.Command("accounts", "ban", "spammer-one", "spam", "--yes")
	if err := r.Wait(); err == nil {
		t.Error("the session goes on")
	}
	refused(t, s, "spammer-one", password)
	s.Command("accounts", "unban", "spammer-one", "--yes")
	login(t, s, "spammer-one")
}

// TestAnAccountOfTheCommandLineIsNotTakenOver is number 8: a login with another
// password is refused, and changes none.
func TestAnAccountOfTheCommandLineIsNotTakenOver(t *testing.T) {
	s := testserver.New(t, "")
	s.Command("accounts", "create", "member-one", "-p", password)
	refused(t, s, "member-one", "password-of-an-attacker-1")
	login(t, s, "member-one")
}

// TestClosedRegistrationIsClosed is number 9: for first logins, too.
func TestClosedRegistrationIsClosed(t *testing.T) {
	s := testserver.New(t, "")
	s.Command("registration", "close")
	refused(t, s, "stranger-one", password)
	s.Command("registration", "open")
	login(t, s, "stranger-one")
}

// TestAnOldPasswordEndsWithTheCommand is number 16: no cache outlives it.
func TestAnOldPasswordEndsWithTheCommand(t *testing.T) {
	s := testserver.New(t, "")
	login(t, s, "member-one")
	s.Command("accounts", "set-password", "member-one", "-p", "another-good-password-77")
	refused(t, s, "member-one", password)
}

// TestAStateDirectoryOnTheCommandLineCounts is number 47: it beats the file.
func TestAStateDirectoryOnTheCommandLineCounts(t *testing.T) {
	s := testserver.New(t, "state_dir = \"/nonexistent/state\"\n")
	if got := data(t, s, "accounts", "status")["state_dir"]; got != s.Dir {
		t.Errorf("%v, want %s", got, s.Dir)
	}
}

// TestNothingIsAskedOfPrograms is number 70: with --json there is no question, and
// without an answer nothing is removed.
func TestNothingIsAskedOfPrograms(t *testing.T) {
	s := testserver.New(t, "")
	login(t, s, "member-one")
	for _, args := range [][]string{{"accounts", "delete", "member-one"}, {"accounts", "delete-all"}, {"imap-acct", "purge-all"}, {"creds", "remove", "member-one"}} {
		out := s.Command(append(args, "--json")...)
		if !strings.Contains(out, `"aborted"`) || strings.Contains(out, "[y/N]") || strings.Count(out, "\n") != 1 {
			t.Errorf("%q: %q", args, out)
		}
	}
	login(t, s, "member-one")
}

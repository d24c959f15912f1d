// Package testserver starts the real binary for tests: free ports, a
// configuration, start, stop, kill and restart on the same state directory.
package testserver

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"madmail/test/testport"
)

// Ports are where a server listens, on 127.0.0.1.
type Ports struct{ SMTP, Submission, SubmissionTLS, IMAP, IMAPTLS, HTTP, HTTPS int }

// Server is one real process at a time over one state directory.
type Server struct {
	Ports
	Host   string // address and domain
	Dir    string // state directory
	binary string
	config string
	env    []string
	t      testing.TB

	mu  sync.Mutex // guards the fields below
	cmd *exec.Cmd
	out bytes.Buffer
}

// Binary returns the program under test: MADMAIL_BINARY, or one built for this run.
func Binary(t testing.TB) string {
	t.Helper()
	if b := os.Getenv("MADMAIL_BINARY"); b != "" {
		return b
	}
	b := filepath.Join(t.TempDir(), "madmail")
	cmd := exec.Command("go", "build", "-o", b, "madmail/cmd/madmail")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return b
}

// New prepares a server and starts it. extra, whole lines, is appended to its
// configuration; unless it says otherwise the server logs to its output.
func New(t testing.TB, extra string) *Server {
	t.Helper()
	return NewIn(t, t.TempDir(), extra)
}

// NewIn is New with a given state directory.
func NewIn(t testing.TB, dir, extra string) *Server {
	t.Helper()
	return newAt(t, "127.0.0.1", dir, extra)
}

// NewAt is New on another address of this machine, which is its domain, too.
func NewAt(t testing.TB, host, extra string) *Server {
	t.Helper()
	return newAt(t, host, t.TempDir(), extra)
}

func newAt(t testing.TB, host, dir, extra string) *Server {
	t.Helper()
	return NewWith(t, Options{Host: host, Dir: dir, Extra: extra})
}

// Options are what NewWith can be told. Host and Dir must be set.
type Options struct {
	Host, Dir string
	Domain    string // Host when empty
	Extra     string // lines for the configuration
	// For mail of other servers; free ones when 0.
	SMTPPort, HTTPPort, HTTPSPort int
	Env                           []string
}

// NewWith is New with all that can be said.
func NewWith(t testing.TB, o Options) *Server {
	t.Helper()
	host, extra := o.Host, o.Extra
	s := &Server{Host: host, Dir: o.Dir, binary: Binary(t), env: o.Env, t: t}
	free := testport.Ports(t, 7)
	for i, p := range []*int{&s.SMTP, &s.Submission, &s.SubmissionTLS, &s.IMAP, &s.IMAPTLS, &s.HTTP, &s.HTTPS} {
		*p = free[i]
	}
	s.SMTP, s.HTTP, s.HTTPS = cmp.Or(o.SMTPPort, s.SMTP), cmp.Or(o.HTTPPort, s.HTTP), cmp.Or(o.HTTPSPort, s.HTTPS)
	s.config = filepath.Join(s.Dir, "chatmail.toml")
	text := fmt.Sprintf(strings.NewReplacer("DOMAIN", cmp.Or(o.Domain, host), "HOST", host).Replace(`primary_domain = "DOMAIN"
hostname = "DOMAIN"
public_ip = "HOST"
smtp_listen = "HOST:%d"
submission_listen = "HOST:%d"
submission_tls_listen = "HOST:%d"
imap_listen = "HOST:%d"
imap_tls_listen = "HOST:%d"
http_listen = "HOST:%d"
http_tls_listen = "HOST:%d"
`), s.SMTP, s.Submission, s.SubmissionTLS, s.IMAP, s.IMAPTLS, s.HTTP, s.HTTPS) + extra
	if !strings.Contains("\n"+extra, "\ntls_mode = ") {
		text += "tls_mode = \"self_signed\"\n"
	}
	if !strings.Contains("\n"+extra, "\nlog = ") {
		text += "log = \"stderr\"\n"
	}
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("output of the server:\n%s", s.Output())
		}
	})
	return s
}

// Launch starts the process and does not wait for it.
func (s *Server) Launch() *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(s.binary, "--config", s.config, "--state-dir", s.Dir, "run")
	cmd.Stdout, cmd.Stderr = s, s
	cmd.Env = append(os.Environ(), s.env...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.cmd = cmd
	s.mu.Unlock()
	return cmd
}

// Start starts the process, waits until it greets, and checks that what runs is
// the binary under test (REQ-42).
func (s *Server) Start() {
	s.t.Helper()
	cmd := s.Launch()
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(s.Host, fmt.Sprint(s.IMAP)), time.Second)
		if err == nil {
			var b [4]byte
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err = io.ReadFull(conn, b[:])
			conn.Close()
			if err == nil && string(b[:]) == "* OK" {
				break
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the server does not greet: %v\n%s", err, s.Output())
		}
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			s.t.Fatalf("the server ended: %v\n%s", err, s.Output())
		}
		time.Sleep(10 * time.Millisecond)
	}
	if want, got := hash(s.t, s.binary), hash(s.t, fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)); want != got {
		s.t.Fatalf("another binary runs: %s, want %s", got, want)
	}
}

func hash(t testing.TB, path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Write collects the process's output.
func (s *Server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

// Output returns what the process printed so far.
func (s *Server) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// Says waits until the process has printed a text, half a minute at most: what it prints
// may come later than what it answers.
func (s *Server) Says(text string) bool {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(s.Output(), text) {
			return true
		}
	}
	return false
}

// end ends the process, if there is one, and returns how it ended.
func (s *Server) end(sig os.Signal) *os.ProcessState {
	s.mu.Lock()
	cmd := s.cmd
	s.cmd = nil
	s.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(sig)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the process
	select {
	case err := <-done:
		if sig == syscall.SIGTERM && err != nil {
			s.t.Errorf("the server ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		s.t.Error("the server did not stop within 15 s")
	}
	return cmd.ProcessState
}

// Stop ends the process as a service manager does.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends it as a crash does.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Crash lets the runtime end the process as it does after a panic, and a watchdog, and
// returns how it ended.
func (s *Server) Crash() *os.ProcessState {
	s.t.Helper()
	st := s.end(syscall.SIGABRT)
	if st == nil {
		s.t.Fatal("no server runs")
	}
	return st
}

// Program returns the path of the binary under test.
func (s *Server) Program() string { return s.binary }

// PID returns the running process's id.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

// Command runs a command of the binary against this server and returns its output.
func (s *Server) Command(args ...string) string {
	s.t.Helper()
	out, err := exec.Command(s.binary, append([]string{"--config", s.config, "--state-dir", s.Dir}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("madmail %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Move makes a listener of the configuration, "http_tls" say, listen on another port,
// at once when the server runs.
func (s *Server) Move(listener string, from, to int) {
	s.t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	was, is := fmt.Sprintf("\n%s_listen = \"%s:%d\"\n", listener, s.Host, from), fmt.Sprintf("\n%s_listen = \"%s:%d\"\n", listener, s.Host, to)
	if bytes.Count(text, []byte(was)) != 1 {
		s.t.Fatalf("%s does not listen on port %d", listener, from)
	}
	if err := os.WriteFile(s.config, bytes.Replace(text, []byte(was), []byte(is), 1), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	running := s.cmd != nil
	s.mu.Unlock()
	if running {
		s.Command("reload")
	}
}

// Link returns a login link for an address of this server, which the first
// login makes.
func (s *Server) Link(local, domain, password string) string {
	return fmt.Sprintf("dclogin:%s@%s?p=%s&v=1&ih=%s&ip=%d&is=ssl&sh=%s&sp=%d&ss=ssl&ic=3", local, domain, password, s.Host, s.IMAPTLS, s.Host, s.SubmissionTLS)
}

//go:build linux

// Package requirements shows, on the built program, what operators were promised:
// each test is named after the requirement. Those that need more than the program
// have their test, of the same form of name, beside the code; go test -run TestREQ
// runs all.
package requirements

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// TestMain builds the program once.
func TestMain(m *testing.M) {
	if os.Getenv("MADMAIL_BINARY") != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "requirements")
	if err == nil {
		b := filepath.Join(dir, "madmail")
		build := exec.Command("go", "build", "-o", b, "madmail/cmd/madmail")
		build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
		if err = build.Run(); err == nil {
			err = os.Setenv("MADMAIL_BINARY", b)
		}
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const password = "Vq8sX2mLr5kTz7Wb9NcY3dJf"

func target(s *testserver.Server) load.Target {
	return load.Target{SMTP: fmt.Sprintf("127.0.0.1:%d", s.SubmissionTLS), IMAP: fmt.Sprintf("127.0.0.1:%d", s.IMAPTLS), Domain: "[127.0.0.1]", Password: password}
}

func login(t *testing.T, s *testserver.Server, user string) *load.Reader {
	t.Helper()
	r, err := target(s).Login(user)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// send submits count messages of size bytes.
func send(t *testing.T, s *testserver.Server, from, to string, count, size int) {
	t.Helper()
	c, err := target(s).NewSender(from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range count {
		if _, err := c.Send([]string{to + "@[127.0.0.1]"}, load.Message(from+"@[127.0.0.1]", size)); err != nil {
			t.Fatal(err)
		}
	}
}

// data runs a command and decodes what it found.
func data(t *testing.T, s *testserver.Server, args ...string) (m map[string]any) {
	t.Helper()
	var env struct{ Data map[string]any }
	out := s.Command(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &env); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return env.Data
}

// listening is the TCP ports that a process has open, as the system knows them:
// what ss -tlnp shows.
func listening(t *testing.T, pid int) (ports []int) {
	t.Helper()
	mine := make(map[string]bool)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil {
			if inode, ok := strings.CutPrefix(name, "socket:["); ok {
				mine[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !mine[f[9]] {
				continue
			}
			n, err := strconv.ParseUint(f[1][strings.LastIndexByte(f[1], ':')+1:], 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			ports = append(ports, int(n))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func configured(s *testserver.Server) []int {
	p := []int{s.SMTP, s.Submission, s.SubmissionTLS, s.IMAP, s.IMAPTLS, s.HTTP, s.HTTPS}
	slices.Sort(p)
	return p
}

// bound is what the program says of its sockets.
func bound(t *testing.T, s *testserver.Server) (ports []int) {
	t.Helper()
	for _, l := range data(t, s, "port", "bound")["listeners"].([]any) {
		if l := l.(map[string]any); l["proto"] == "tcp" {
			ports = append(ports, int(l["port"].(float64)))
		}
	}
	slices.Sort(ports)
	return ports
}

// TestREQ01WhatListensIsWhatIsConfigured: no port is missing, none is extra.
func TestREQ01WhatListensIsWhatIsConfigured(t *testing.T) {
	s := testserver.New(t, "")
	if got, want := listening(t, s.PID()), configured(s); !slices.Equal(got, want) {
		t.Errorf("the system knows %v, configured are %v", got, want)
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.PID())); err != nil || string(name) != "madmail\n" {
		t.Errorf("the process is called %q, %v", name, err)
	}
}

// TestREQ03ThePortsThatAreToldAreBound, after changes, too.
func TestREQ03ThePortsThatAreToldAreBound(t *testing.T) {
	s := testserver.New(t, "")
	if got, want := bound(t, s), listening(t, s.PID()); !slices.Equal(got, want) {
		t.Errorf("told %v, bound %v", got, want)
	}
	s.Command("port", "http", "disable")
	if got, want := bound(t, s), listening(t, s.PID()); !slices.Equal(got, want) || slices.Contains(got, s.HTTP) {
		t.Errorf("without HTTP: told %v, bound %v", got, want)
	}
}

var tokenForm = regexp.MustCompile(`^[0-9a-f]{64}\n$`)

// TestREQ06TheTokenFileIsMadeOnceAndMended.
func TestREQ06TheTokenFileIsMadeOnceAndMended(t *testing.T) {
	s := testserver.New(t, "")
	file := filepath.Join(s.Dir, "admin_token")
	read := func() string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := read()
	if info, err := os.Stat(file); err != nil || !tokenForm.MatchString(first) || info.Mode().Perm() != 0o600 {
		t.Errorf("the form is wrong, or the mode: %v, %v", info, err)
	}
	s.Stop()
	s.Start()
	if read() != first {
		t.Error("the second start changed the token")
	}
	s.Stop()
	if err := os.WriteFile(file, []byte("damaged!\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if again := read(); !tokenForm.MatchString(again) || again == first {
		t.Error("a damaged file was not replaced")
	}
}

// TestREQ07TheTokenIsPrintedOnceIfAnythingIsLogged.
func TestREQ07TheTokenIsPrintedOnceIfAnythingIsLogged(t *testing.T) {
	s := testserver.New(t, "")
	token := strings.TrimSpace(s.Command("admin-token", "--raw"))
	s.Stop()
	s.Start()
	s.Stop()
	if n := strings.Count(s.Output(), token); n != 1 {
		t.Errorf("it was printed %d times in two runs", n)
	}
	silent := testserver.New(t, "log = \"off\"\n")
	silent.Command("admin-token", "--raw")
	silent.Stop()
	if out := silent.Output(); out != "" {
		t.Errorf("a server that logs nothing printed %d bytes", len(out))
	}
}

// TestREQ08TheCommandReadsTheFileOfTheServer.
func TestREQ08TheCommandReadsTheFileOfTheServer(t *testing.T) {
	s := testserver.New(t, "")
	file := filepath.Join(s.Dir, "admin_token")
	for _, content := range []string{"", strings.Repeat("0123456789abcdef", 4) + "\n"} {
		if content != "" {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(s.Program(), "--state-dir", s.Dir, "admin-token", "--raw")
		cmd.Dir = t.TempDir()
		out, err := cmd.Output()
		if err != nil || string(out) != strings.TrimSpace(string(b)) {
			t.Errorf("from elsewhere: %v, same as the file: %v", err, string(out) == strings.TrimSpace(string(b)))
		}
	}
	s.Command("reload")
	body := fmt.Sprintf(`{"resource":"/admin/status","headers":{"Authorization":"Bearer %s"}}`, s.Command("admin-token", "--raw"))
	r, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d/api/admin", s.HTTP), "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if reply, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(reply), `"status":200`) {
		t.Errorf("the server does not take the new token: %s, %v", reply, err)
	}
}

var storage = regexp.MustCompile(`STORAGE (\d+) (\d+)`)

// used is what the server says that an account stores, in KiB as RFC 9208 has it.
func used(t *testing.T, r *load.Reader) (kib int) {
	t.Helper()
	lines, err := r.Do(`GETQUOTAROOT INBOX`)
	if err != nil {
		t.Fatal(err)
	}
	m := storage.FindStringSubmatch(strings.Join(lines, "\n"))
	if m == nil {
		t.Fatalf("no quota in %q", lines)
	}
	kib, err = strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// TestREQ11WhatWasDeliveredCountsAtOnce: the memory is the truth, not the table.
func TestREQ11WhatWasDeliveredCountsAtOnce(t *testing.T) {
	s := testserver.New(t, "")
	r := login(t, s, "receiver")
	login(t, s, "sender-a")
	before := used(t, r)
	send(t, s, "sender-a", "receiver", 10, 1<<20)
	if got := used(t, r) - before; got < 10*1024 || got > 10*1024*3/2 {
		t.Errorf("ten messages of 1 MiB count %d KiB", got)
	}
}

// messages are the files of messages below a directory, and their sizes together.
func messages(t *testing.T, dir string) (files []string, bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if parent := filepath.Base(filepath.Dir(path)); e.Type().IsRegular() && (parent == "cur" || parent == "new") {
			info, err := e.Info()
			if err != nil {
				return err
			}
			files, bytes = append(files, path), bytes+info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files, bytes
}

// TestREQ12AStartCountsWhatIsThere: what hands changed meanwhile, and what a crash left.
func TestREQ12AStartCountsWhatIsThere(t *testing.T) {
	s := testserver.New(t, "")
	r := login(t, s, "receiver")
	if _, err := r.Do("CREATE Archive"); err != nil {
		t.Fatal(err)
	}
	login(t, s, "sender-a")
	send(t, s, "sender-a", "receiver", 5, 20_000)
	s.Kill()
	s.Start()
	s.Stop() // everything is in its place now
	dir := data(t, s, "accounts", "info", "receiver")["maildir_path"].(string)
	files, _ := messages(t, dir)
	if len(files) != 5 {
		t.Fatalf("%d messages survived, want 5: %q", len(files), files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files[:2] {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, place := range []string{filepath.Dir(files[0]), filepath.Join(dir, "folders", "Archive", "Maildir", "cur")} {
		if err := os.WriteFile(filepath.Join(place, "1700000000.by-hand.example:2,"), append(text, "more\r\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Start()
	_, want := messages(t, dir)
	if got := int64(data(t, s, "accounts", "info", "receiver")["used_bytes"].(float64)); got != want {
		t.Errorf("%d bytes are counted, %d are there", got, want)
	}
}

// TestREQ16WithoutItsDatabaseTheServerStartsAgain: mail, token and configuration stay.
func TestREQ16WithoutItsDatabaseTheServerStartsAgain(t *testing.T) {
	s := testserver.New(t, "")
	login(t, s, "receiver")
	login(t, s, "sender-a")
	send(t, s, "sender-a", "receiver", 3, 5_000)
	token := s.Command("admin-token", "--raw")
	s.Stop()
	reset := exec.Command("make", "-C", "../..", "reset-db", "STATE_DIR="+s.Dir, "PID_FILE="+filepath.Join(s.Dir, "no.pid"))
	if out, err := reset.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(s.Dir, "*.db*")); err != nil || len(left) > 0 {
		t.Fatalf("left: %q, %v", left, err)
	}
	s.Start()
	if s.Command("admin-token", "--raw") != token {
		t.Error("the token changed")
	}
	r := login(t, s, "receiver")
	if lines, err := r.Do("SELECT INBOX"); err != nil || !strings.Contains(strings.Join(lines, "\n"), "* 3 EXISTS") {
		t.Errorf("%q, %v", lines, err)
	}
}

// TestREQ21ADebuggingServerShowsBothProtocols, for one session.
func TestREQ21ADebuggingServerShowsBothProtocols(t *testing.T) {
	dir := t.TempDir()
	s := testserver.NewWith(t, testserver.Options{Host: "127.0.0.1", Dir: dir, Env: []string{"RUST_LOG=debug"}})
	login(t, s, "somebody")
	send(t, s, "somebody", "somebody", 1, 3_000)
	s.Stop()
	for _, module := range []string{"imap", "smtp"} {
		if !strings.Contains(s.Output(), "="+module) {
			t.Errorf("nothing of %s", module)
		}
	}
	// Delta Chat cannot register: the reason of each refusal is there.
	s.Start()
	for _, user := range []string{"short", "a"} {
		refused(t, s, user, password)
	}
	foreign := target(s)
	foreign.Domain = "[192.0.2.7]"
	if r, err := foreign.Login("traveller-one"); err == nil {
		r.Close()
		t.Error("a domain that is not ours was let in")
	}
	s.Stop()
	for _, reason := range []string{"domain=[192.0.2.7]", "not in local_domains or jit_domain", "refused"} {
		if !strings.Contains(s.Output(), reason) {
			t.Errorf("%q is not in the log", reason)
		}
	}
	if strings.Contains(s.Output(), password) {
		t.Error("a password was logged")
	}
}

// TestREQ22OperatorsMakeAccountsWhileClientsCannot.
func TestREQ22OperatorsMakeAccountsWhileClientsCannot(t *testing.T) {
	s := testserver.New(t, "")
	s.Command("registration", "close")
	s.Command("creds", "jit", "disable")
	if r, err := target(s).Login("stranger-one"); err == nil {
		r.Close()
		t.Error("a first login made an account")
	}
	s.Command("accounts", "create", "member", "-p", password)
	login(t, s, "member")
}

// TestREQ28DebugSaysSomethingEvenWithoutALog.
func TestREQ28DebugSaysSomethingEvenWithoutALog(t *testing.T) {
	s := testserver.New(t, "log = \"off\"\ndebug = true\n")
	s.Stop()
	if !strings.Contains(s.Output(), "INFO") {
		t.Errorf("no INFO in\n%s", s.Output())
	}
}

// TestREQ34AnOrdinaryServerIsSilent through logins, mail and refusals.
func TestREQ34AnOrdinaryServerIsSilent(t *testing.T) {
	s := testserver.New(t, "log = \"off\"\n")
	login(t, s, "sender-a")
	login(t, s, "receiver")
	var all sync.WaitGroup
	for range 8 { // 10,000 in all
		all.Go(func() { send(t, s, "sender-a", "receiver", 1250, 1_000) })
	}
	all.Wait()
	wrong := target(s)
	wrong.Password = "not-the-password-at-all"
	if r, err := wrong.Login("receiver"); err == nil {
		r.Close()
		t.Error("a wrong password was taken")
	}
	s.Stop()
	if out := s.Output(); out != "" {
		t.Errorf("%d bytes were printed:\n%s", len(out), out)
	}
}

// TestREQ35DebugWithInfoIsReasonable: some lines, but fewer than five a connection.
func TestREQ35DebugWithInfoIsReasonable(t *testing.T) {
	dir := t.TempDir()
	s := testserver.NewWith(t, testserver.Options{Host: "127.0.0.1", Dir: dir, Extra: "debug = true\n", Env: []string{"RUST_LOG=info"}})
	const connections = 20
	for i := range connections {
		login(t, s, fmt.Sprintf("somebody-%d", i))
	}
	s.Stop()
	lines := strings.Split(strings.TrimSpace(s.Output()), "\n")
	if n := len(lines); n == 0 || n > 5*connections {
		t.Errorf("%d lines for %d connections", n, connections)
	}
	if out := s.Output(); strings.Contains(out, "DEBUG") || !strings.Contains(out, "INFO") {
		t.Errorf("other levels than INFO and above, or none:\n%s", out)
	}
}

// TestREQ36TraceShowsFramesAndStatements, and no secret among them.
func TestREQ36TraceShowsFramesAndStatements(t *testing.T) {
	s := testserver.NewWith(t, testserver.Options{Host: "127.0.0.1", Dir: t.TempDir(), Extra: "debug = true\n", Env: []string{"RUST_LOG=chatmail=trace"}})
	r := login(t, s, "somebody")
	if _, err := r.Do(`SETMETADATA INBOX (/private/devicetoken "openpgp:secret-token")`); err != nil {
		t.Fatal(err)
	}
	send(t, s, "somebody", "somebody", 1, 3_000)
	s.Stop()
	out := s.Output()
	for _, want := range []string{"TRACE", "LOGIN ***", "Setmetadata completed", "EHLO", "235 2.7.0", "MAIL FROM:", "354 Go ahead", "statement=", "SELECT "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not shown", want)
		}
	}
	for _, secret := range []string{password, "secret-token", "BEGIN PGP"} {
		if strings.Contains(out, secret) {
			t.Errorf("%q was logged", secret)
		}
	}
}

// TestTenThousandAccountsAreListedQuickly: the listing reads memory, not the disk.
// It is bounded widely; the benchmark of the same name measures.
func TestTenThousandAccountsAreListedQuickly(t *testing.T) {
	s := testserver.New(t, "")
	list := importMany(t, s, 10_000)
	start := time.Now()
	got := data(t, s, "accounts", "list")["accounts"].([]any)
	if len(got) != list {
		t.Errorf("%d accounts, want %d", len(got), list)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// importMany makes accounts by a file.
func importMany(t testing.TB, s *testserver.Server, n int) int {
	t.Helper()
	type row struct {
		Username string `json:"username"`
		Hash     string `json:"hash"`
	}
	rows := make([]row, n)
	hash := strings.TrimSpace(s.Command("hash", "-p", password, "--hash", "sha256"))
	for i := range rows {
		rows[i] = row{fmt.Sprintf("user-%05d", i), hash}
	}
	text, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.Dir, "many.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Command("accounts", "import", file)
	return n
}

// BenchmarkAccountsList is "accounts list --json" over 10,000 accounts, the
// process that asks included.
func BenchmarkAccountsList(b *testing.B) {
	s := testserver.New(b, "")
	importMany(b, s, 10_000)
	for b.Loop() {
		s.Command("accounts", "list", "--json")
	}
}

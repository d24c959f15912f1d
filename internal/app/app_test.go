//go:build unix

package app

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"madmail/internal/address"
	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/test/load"
	"madmail/test/testport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// output collects what a server prints.
type output struct {
	mu sync.Mutex // guards the field below
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// house is a state directory with a configuration, and at most one server.
type house struct {
	*App
	t      testing.TB
	dir    string
	ports  map[string]int // by listener
	spare  int            // one more port
	lines  map[string]string
	env    map[string]string
	stderr output
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), ports: make(map[string]int), env: make(map[string]string), lines: map[string]string{
		"primary_domain": `"127.0.0.1"`, "hostname": `"first.example.org"`, "public_ip": `"127.0.0.1"`, "tls_mode": `"self_signed"`,
	}}
	free := testport.Ports(t, 8)
	h.spare = free[7]
	for i, name := range []string{"smtp", "submission", "submission_tls", "imap", "imap_tls", "http", "http_tls"} {
		h.ports[name] = free[i]
		h.listen(name, "127.0.0.1", h.ports[name])
	}
	h.write()
	t.Cleanup(h.stop)
	return h
}

func (h *house) listen(name, host string, port int) {
	h.lines[name+"_listen"] = fmt.Sprintf("%q", net.JoinHostPort(host, fmt.Sprint(port)))
}

// write writes the configuration.
func (h *house) write() {
	h.t.Helper()
	var b strings.Builder
	for k, v := range h.lines {
		fmt.Fprintf(&b, "%s = %s\n", k, v)
	}
	if err := os.WriteFile(h.file(), []byte(b.String()), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) file() string { return filepath.Join(h.dir, "chatmail.toml") }

func (h *house) options() Options {
	return Options{ConfigPath: h.file(), StateDir: h.dir, Stderr: &h.stderr, Env: func(k string) string { return h.env[k] }}
}

func (h *house) start() {
	h.t.Helper()
	a, err := New(h.t.Context(), h.options())
	if err != nil {
		h.t.Fatal(err)
	}
	h.App = a
}

func (h *house) stop() {
	h.t.Helper()
	if h.App == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.App.Stop(ctx); err != nil {
		h.t.Error(err)
	}
	if err := h.App.Stop(ctx); err != nil {
		h.t.Errorf("a second stop: %v", err)
	}
	h.App = nil
}

// op runs an operator's action and decodes its result.
func (h *house) op(name, params string) (m map[string]any, err error) {
	h.t.Helper()
	v, err := h.Ops.Run(h.t.Context(), name, json.RawMessage(params))
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	return m, err
}

func (h *house) must(name, params string) map[string]any {
	h.t.Helper()
	m, err := h.op(name, params)
	if err != nil {
		h.t.Fatalf("%s %s: %v (%s)", name, params, err, fault.HintOf(err))
	}
	return m
}

func (h *house) target() load.Target {
	return load.Target{
		SMTP: fmt.Sprintf("127.0.0.1:%d", h.ports["submission_tls"]), IMAP: fmt.Sprintf("127.0.0.1:%d", h.ports["imap_tls"]),
		Domain: "[127.0.0.1]", Password: "Vq8sX2mLr5kTz7Wb9NcY3dJf",
	}
}

// login makes the account by its first login, too.
func (h *house) login(user string) *load.Reader {
	h.t.Helper()
	r, err := h.target().Login(user)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(r.Close)
	return r
}

func do(t testing.TB, r *load.Reader, cmd string) string {
	t.Helper()
	lines, err := r.Do(cmd)
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return strings.Join(lines, "\n")
}

// greeting is the first line of a listener.
func (h *house) greeting(name string) (string, error) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports[name]))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// serial is the number of the certificate that a listener shows.
func (h *house) serial(name string) string {
	h.t.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports[name]), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestABusyPortBindsNothing: all ports or none, and the error says which is
// taken and how to find by whom.
func TestABusyPortBindsNothing(t *testing.T) {
	h := newHouse(t)
	var taken []net.Listener
	for _, name := range []string{"imap", "http_tls"} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports[name]))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		taken = append(taken, l)
	}
	_, err := New(t.Context(), h.options())
	if !fault.Is(err, fault.Busy) {
		t.Fatalf("got %v (%s), want fault.Busy", err, fault.KindOf(err))
	}
	for _, l := range taken {
		if !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("the error does not name %s: %v", l.Addr(), err)
		}
	}
	// This process holds it, which the system tells on some systems only.
	want := fmt.Sprintf("another program holds port %d; ss -tlnp names it", h.ports["imap"])
	if runtime.GOOS == "linux" {
		name := filepath.Base(os.Args[0])
		want = fmt.Sprintf("%s (pid %d) holds port %d", name[:min(len(name), 15)], os.Getpid(), h.ports["imap"]) // 15: what the kernel keeps
	}
	if fault.HintOf(err) != want {
		t.Errorf("hint %q, want %q", fault.HintOf(err), want)
	}
	for name, port := range h.ports {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if busy := name == "imap" || name == "http_tls"; busy != (err != nil) {
			t.Errorf("%s after the failure: %v", name, err)
		}
		if err == nil {
			l.Close()
		}
	}
	if _, err := os.Stat(filepath.Join(h.dir, "run", "madmail.pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the process id stays: %v", err)
	}
	for _, l := range taken {
		l.Close()
	}
	h.start() // and the state was given back
}

func TestREQ05WhyAPortCannotBeBound(t *testing.T) {
	for _, x := range []struct {
		err  error
		kind fault.Kind
		hint string
	}{
		{&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", os.ErrPermission)}, fault.Invalid,
			"port 25 needs a privilege: run make dev-bind-cap, or set smtp_listen to a port above 1023"},
		{errors.New("no such host"), fault.Invalid, ""},
	} {
		err := bindError(config.Listener{Name: "smtp", Addr: "127.0.0.1:25"}, nil, x.err)
		if !fault.Is(err, x.kind) || fault.HintOf(err) != x.hint || !strings.HasPrefix(err.Error(), "smtp: ") {
			t.Errorf("%v: %v (%s), hint %q", x.err, err, fault.KindOf(err), fault.HintOf(err))
		}
	}
}

func TestTheSecondIsToldWhoRuns(t *testing.T) {
	h := newHouse(t)
	h.start()
	for _, offline := range []bool{false, true} {
		opt := h.options()
		opt.Offline = offline
		_, err := New(t.Context(), opt)
		want := fmt.Sprintf("another instance is running (pid %d)", os.Getpid())
		if !errors.Is(err, ErrLocked) || !fault.Is(err, fault.Busy) || err.Error() != want || fault.HintOf(err) == "" {
			t.Errorf("offline %v: %v, want %s", offline, err, want)
		}
	}
	if _, err := h.greeting("imap"); err != nil {
		t.Errorf("the first one suffered: %v", err)
	}
	h.stop()
	h.start()
}

func TestAReloadTakesTheNewFile(t *testing.T) {
	h := newHouse(t)
	h.start()
	idle := h.login("idler-one")
	do(t, idle, "SELECT INBOX")
	if err := idle.Idle(); err != nil {
		t.Fatal(err)
	}
	before := h.serial("imap_tls")
	cert, key := certs.DefaultPaths(h.dir)
	if err := certs.SelfSigned(cert, key, []string{"second.example.org"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	oldIMAP := h.ports["imap"]
	h.ports["imap"] = h.spare
	h.listen("imap", "127.0.0.1", h.ports["imap"])
	delete(h.lines, "submission_listen")
	h.lines["hostname"], h.lines["default_quota"], h.lines["auth_auto_create"] = `"second.example.org"`, `"5M"`, "false"
	h.lines["max_message_size"], h.lines["language"], h.lines["min_username_length"] = `"3M"`, `"fa"`, "3"
	h.write()
	r, err := h.Reload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(r.Changes, "\n"); !strings.Contains(text, fmt.Sprintf("imap listens on 127.0.0.1:%d", h.ports["imap"])) ||
		!strings.Contains(text, "submission is closed") || len(r.Restart) > 0 {
		t.Errorf("%+v", r)
	}
	if h.serial("imap_tls") == before || h.serial("http_tls") == before {
		t.Error("the old certificate is shown")
	}
	for _, name := range []string{"imap", "smtp"} {
		if line, err := h.greeting(name); err != nil || !strings.Contains(line, "second.example.org") {
			t.Errorf("%s greets %q, %v", name, line, err)
		}
	}
	for _, port := range []int{oldIMAP, h.ports["submission"]} {
		if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			conn.Close()
			t.Errorf("port %d still accepts", port)
		}
	}
	f := h.facts()
	if f.Quota != 5<<20 || f.MaxMessage != 3<<20 || f.Open || f.Language != "fa" || f.IMAP != h.ports["imap"] || f.SMTP != 0 {
		t.Errorf("%+v", f)
	}
	if _, err := h.target().Login("newcomer-one"); err == nil {
		t.Error("registration is closed and a first login made an account")
	}
	// The session that idled all the while hears of mail.
	s, err := h.target().NewSender("idler-one")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Send([]string{"idler-one@[127.0.0.1]"}, load.Message("idler-one@[127.0.0.1]", 2000)); err != nil {
		t.Fatal(err)
	}
	if err := idle.Wait(); err != nil {
		t.Errorf("the idle session ended: %v", err)
	}
	h.lines["max_user_send_per_minute"] = "7"
	h.write()
	if r, err := h.Reload(t.Context()); err != nil || len(r.Restart) != 1 {
		t.Errorf("%+v, %v; want to be told that a restart is needed", r, err)
	}
}

// TestABadReloadChangesNothing: a mistake in the file, a key of another
// certificate, a port that is taken.
func TestABadReloadChangesNothing(t *testing.T) {
	h := newHouse(t)
	h.start()
	cert, key := certs.DefaultPaths(h.dir)
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	before := h.serial("imap_tls")
	for _, x := range []struct {
		name string
		do   func() (undo func())
		want string
		kind fault.Kind
	}{
		{"a mistake in the file", func() func() {
			h.lines["default_quota"] = `"1 gig"`
			return func() { delete(h.lines, "default_quota") }
		}, `default_quota: "1 gig" is not a size`, fault.Invalid},
		{"a key of another certificate", func() func() {
			if err := certs.SelfSigned(filepath.Join(h.dir, "x.pem"), key, nil, time.Now()); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.WriteFile(key, good, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "private key does not match", fault.Invalid},
		{"no certificate", func() func() {
			if err := os.Rename(cert, cert+".away"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.Rename(cert+".away", cert); err != nil {
					t.Fatal(err)
				}
			}
		}, "no such file", fault.Invalid},
		{"a port that is taken", func() func() {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			h.lines["imap_listen"] = fmt.Sprintf("%q", l.Addr().String())
			return func() { l.Close(); h.listen("imap", "127.0.0.1", h.ports["imap"]) }
		}, "address already in use", fault.Busy},
		{"the same port on another address that is taken", func() func() {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", h.ports["imap"]))
			if err != nil {
				t.Fatal(err)
			}
			h.listen("imap", "127.0.0.2", h.ports["imap"])
			return func() { l.Close(); h.listen("imap", "127.0.0.1", h.ports["imap"]) }
		}, "address already in use", fault.Busy},
	} {
		t.Run(x.name, func(t *testing.T) {
			undo := x.do()
			defer undo()
			h.lines["hostname"], h.lines["language"], h.lines["auth_auto_create"] = `"second.example.org"`, `"ru"`, "false"
			h.write()
			r, err := h.Reload(t.Context())
			if err == nil || r.Reloaded || !strings.Contains(err.Error(), x.want) || !fault.Is(err, x.kind) {
				t.Errorf("%+v, %v (%s); want %q", r, err, fault.KindOf(err), x.want)
			}
			for _, name := range []string{"smtp", "imap"} {
				if line, err := h.greeting(name); err != nil || !strings.Contains(line, "first.example.org") {
					t.Errorf("%s greets %q, %v", name, line, err)
				}
			}
			if f := h.facts(); f.Language != "" || !f.Open || f.IMAP != h.ports["imap"] || h.serial("imap_tls") != before {
				t.Errorf("something changed: %+v", f)
			}
			if n := len(h.Listeners()); n != 7 {
				t.Errorf("%d listeners", n)
			}
		})
	}
	h.write()
	if _, err := h.Reload(t.Context()); err != nil {
		t.Errorf("a good file afterwards: %v", err)
	}
}

func TestAStoredPortMovesItsListener(t *testing.T) {
	h := newHouse(t)
	h.start()
	session := h.login("mover-one")
	old := h.ports["imap_tls"]
	port := h.spare
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := h.op("settings.set", fmt.Sprintf(`{"name":"imap_tls_port","value":"%d"}`, port)); !fault.Is(err, fault.Busy) {
		t.Errorf("a taken port: %v", err)
	}
	if _, err := h.op("settings.set", fmt.Sprintf(`{"name":"imap_tls_port","value":"%d"}`, h.ports["smtp"])); !fault.Is(err, fault.Invalid) ||
		fault.HintOf(err) != fmt.Sprintf("smtp of this server has port %d already", h.ports["smtp"]) {
		t.Errorf("our own port: %v, %s", err, fault.HintOf(err))
	}
	if got := h.must("settings.get", `{"name":"imap_tls_port"}`); got["is_set"] != false || h.port("imap_tls") != old {
		t.Errorf("%v, listens on %d", got, h.port("imap_tls"))
	}
	taken.Close()
	got := h.must("settings.set", fmt.Sprintf(`{"name":"imap_tls_port","value":"%d"}`, port))
	if want := fmt.Sprintf("imap_tls listens on 127.0.0.1:%d; open sessions stay", port); got["applied"] != want {
		t.Errorf("applied %q, want %q", got["applied"], want)
	}
	h.ports["imap_tls"] = port
	do(t, h.login("mover-one"), "NOOP")
	do(t, session, "NOOP")
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", old)); err == nil {
		conn.Close()
		t.Error("the old port still accepts")
	}
	// The same port on another address: the old socket may be in the way.
	h.lines["imap_tls_listen"] = fmt.Sprintf(`"127.0.0.2:%d"`, old)
	h.write()
	if _, err := h.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := h.must("settings.set", `{"name":"imap_tls_local_only","value":"yes"}`); got["applied"] != fmt.Sprintf("imap_tls listens on 127.0.0.1:%d; open sessions stay", port) {
		t.Errorf("%v", got["applied"])
	}
	do(t, h.login("mover-one"), "NOOP")
	if got := h.must("settings.set", `{"name":"http_enabled","value":"no"}`); got["applied"] != "http is closed; open sessions stay" {
		t.Errorf("%v", got["applied"])
	}
	for _, x := range []struct{ params, want string }{
		{`{"name":"language","value":"es"}`, "in effect"},
		{`{"name":"language","value":"es"}`, "nothing changes: this value counted already"},
		{`{"name":"smtp_hostname","value":"third.example.org"}`, "in effect"},
		{`{"name":"turn_port","value":"3479"}`, "in effect"},
		{`{"name":"sasl_port","value":"2424"}`, "stored; this version does nothing with it"},
		{`{"name":"dkim_selector","value":"x"}`, "in effect"},
	} {
		if got := h.must("settings.set", x.params); got["applied"] != x.want {
			t.Errorf("%s: %v, want %s", x.params, got["applied"], x.want)
		}
	}
	if line, err := h.greeting("smtp"); err != nil || !strings.Contains(line, "third.example.org") {
		t.Errorf("%q, %v", line, err)
	}
	h.stop()
	h.start()
	do(t, h.login("mover-one"), "NOOP") // the stored port counts after a restart, too
}

func TestREQ37LoggingIsSwitchedWhileTheServerRuns(t *testing.T) {
	h := newHouse(t)
	log := filepath.Join(h.dir, "the.log")
	h.lines["log"] = fmt.Sprintf("%q", log)
	h.lines["debug"] = "true"
	h.write()
	h.start()
	size := func() int64 {
		st, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	if size() == 0 {
		t.Error("nothing is logged with debug")
	}
	h.lines["debug"] = "false"
	h.write()
	if _, err := h.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.must("settings.set", `{"name":"log_disabled","value":"yes"}`)
	before := size()
	h.log.Error("not to be seen")
	if size() != before {
		t.Error("a record was written while the log was switched off")
	}
	h.must("settings.reset", `{"name":"log_disabled"}`)
	h.log.Error("to be seen")
	if size() == before {
		t.Error("no record was written after the log was switched on")
	}
}

// TestARestartKeepsEverything: accounts, mail with its numbers and flags,
// settings, tokens, the admin token and the certificate.
func TestARestartKeepsEverything(t *testing.T) {
	h := newHouse(t)
	h.start()
	s, err := h.target().NewSender("keeper-one")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Send([]string{"keeper-one@[127.0.0.1]"}, load.Message("keeper-one@[127.0.0.1]", 3000)); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	r := h.login("keeper-one")
	do(t, r, "CREATE Kept")
	do(t, r, "SELECT INBOX")
	do(t, r, `UID STORE 2 +FLAGS.SILENT (\Seen \Flagged)`)
	do(t, r, "UID COPY 3 Kept")
	do(t, r, `UID STORE 1 +FLAGS.SILENT (\Deleted)`)
	do(t, r, "EXPUNGE")
	do(t, r, `SETMETADATA INBOX (/private/devicetoken "token-of-a-phone")`)
	h.must("settings.set", `{"name":"language","value":"ru"}`)
	h.must("tokens.create", `{"token":"friends","max_uses":3}`)
	h.must("accounts.ban", `{"username":"mallory@[127.0.0.1]","reason":"spam"}`)
	look := func() string {
		t.Helper()
		r := h.login("keeper-one")
		var all []string
		for _, cmd := range []string{
			"STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)", "STATUS Kept (MESSAGES UIDNEXT UIDVALIDITY)", `LIST "" *`,
			"SELECT INBOX", "UID FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER])", "GETQUOTAROOT INBOX", "GETMETADATA INBOX (/private/devicetoken)",
		} {
			all = append(all, cmd, do(t, r, cmd))
		}
		for _, op := range []string{"accounts.ban-list", "tokens.list", "registration", "admin-token"} {
			raw, err := json.Marshal(h.must(op, ""))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, op, string(raw))
		}
		all = append(all, h.serial("imap_tls"), h.facts().Language, fmt.Sprint(h.Accounts()))
		return strings.Join(all, "\n")
	}
	before := look()
	for _, how := range []string{"a first restart", "a second restart"} {
		h.stop()
		h.start()
		if after := look(); after != before {
			t.Errorf("%s:\nbefore\n%s\nafter\n%s", how, before, after)
		}
	}
}

// inspection runs the statements that operators are given, word for word, by another
// process's driver on the file of a running server.
type inspection struct {
	*house
	d *sql.DB
}

func inspected(t *testing.T) *inspection {
	t.Helper()
	h := newHouse(t)
	h.start()
	d, err := sql.Open("sqlite", "file:"+filepath.Join(h.dir, "credentials.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &inspection{h, d}
}

func (i *inspection) query(statement string) (columns []string, list []map[string]any) {
	i.t.Helper()
	rows, err := i.d.QueryContext(i.t.Context(), statement)
	if err != nil {
		i.t.Fatalf("%s: %v", statement, err)
	}
	defer rows.Close()
	if columns, err = rows.Columns(); err != nil {
		i.t.Fatal(err)
	}
	for rows.Next() {
		values, dest := make([]any, len(columns)), make([]any, len(columns))
		for n := range values {
			dest[n] = &values[n]
		}
		if err := rows.Scan(dest...); err != nil {
			i.t.Fatal(err)
		}
		row := make(map[string]any)
		for n, name := range columns {
			row[name] = values[n]
		}
		list = append(list, row)
	}
	if err := rows.Err(); err != nil {
		i.t.Fatal(err)
	}
	return columns, list
}

func TestREQ29TheSettingsCanBeInspected(t *testing.T) {
	i := inspected(t)
	i.must("settings.set", `{"name":"imap_port","value":"`+fmt.Sprint(i.ports["imap"])+`"}`)
	i.must("settings.set", `{"name":"language","value":"fa"}`)
	_, got := i.query("SELECT * FROM settings ORDER BY key;")
	var keys []string
	for _, row := range got {
		keys = append(keys, fmt.Sprintf("%s=%s", row["key"], row["value"]))
	}
	for _, want := range []string{"__IMAP_PORT__=" + fmt.Sprint(i.ports["imap"]), "__LANGUAGE__=fa", "__PUSH_MODE__=off"} {
		if !slices.Contains(keys, want) {
			t.Errorf("%q, without %s", keys, want)
		}
	}
	if !slices.IsSorted(keys) {
		t.Errorf("%q", keys)
	}
}

func TestREQ30TheLastLoginsCanBeInspected(t *testing.T) {
	i := inspected(t)
	never, err := i.register(t.Context(), "", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	i.login("account-a")
	<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // times are whole seconds
	i.login("account-b")
	_, got := i.query("SELECT * FROM quotas ORDER BY last_login_at DESC;")
	var names []string
	for _, row := range got {
		names = append(names, fmt.Sprint(row["username"]))
	}
	if want := []string{"account-b@[127.0.0.1]", "account-a@[127.0.0.1]", never.Email}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestREQ31OtherServersCanBeInspected(t *testing.T) {
	i := inspected(t)
	columns, _ := i.query("SELECT * FROM federation_stats ORDER BY last_updated DESC LIMIT 30;")
	for _, c := range []string{"domain", "last_updated", "last_active", "queued_messages", "failed_https", "success_smtp", "inbound_deliveries"} {
		if !slices.Contains(columns, c) {
			t.Errorf("no column %s in %q", c, columns)
		}
	}
	for _, d := range []address.Domain{"early.example", "late.example"} {
		i.fed.peers.Received(d)
		if err := i.fed.peers.Flush(t.Context()); err != nil { // what the flusher does, within 30 s
			t.Fatal(err)
		}
		<-time.After(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	}
	_, got := i.query("SELECT * FROM federation_stats ORDER BY last_updated DESC LIMIT 30;")
	if len(got) != 2 || got[0]["domain"] != "late.example" || got[0]["inbound_deliveries"] != int64(1) || got[1]["domain"] != "early.example" {
		t.Errorf("%v", got)
	}
}

func TestREQ32TheBlockListCanBeInspected(t *testing.T) {
	i := inspected(t)
	i.login("account-a")
	before := time.Now().Add(-time.Second)
	i.must("accounts.ban", `{"username":"account-a@[127.0.0.1]","reason":"spam"}`)
	_, got := i.query("SELECT * FROM blocked_users;")
	if len(got) != 1 || got[0]["username"] != "account-a@[127.0.0.1]" || got[0]["reason"] != "spam" {
		t.Fatalf("%v", got)
	}
	at, ok := got[0]["blocked_at"].(time.Time)
	if text, isText := got[0]["blocked_at"].(string); isText {
		var err error
		at, err = time.Parse(time.DateTime, text)
		ok = err == nil
	}
	if !ok || at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("blocked at %v", got[0]["blocked_at"])
	}
}

func TestREQ33TheRegistrationTokensCanBeInspected(t *testing.T) {
	i := inspected(t)
	i.must("tokens.create", `{"token":"friends","max_uses":2,"comment":"for friends"}`)
	a, err := i.register(t.Context(), "friends", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	const tokens = "SELECT * FROM registration_tokens;"
	if _, got := i.query(tokens); len(got) != 1 || got[0]["used_count"] != int64(0) || got[0]["max_uses"] != int64(2) || got[0]["comment"] != "for friends" {
		t.Errorf("%v", got)
	}
	first := i.target()
	first.Password = a.Password
	r, err := first.Login(strings.TrimSuffix(a.Email, "@[127.0.0.1]"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, got := i.query(tokens); len(got) != 1 || got[0]["used_count"] != int64(1) {
		t.Errorf("after the first login: %v", got)
	}
}

// TestREQ06TheAdminToken is REQ-06 to REQ-09, as far as the API is not concerned.
func TestREQ06TheAdminToken(t *testing.T) {
	h := newHouse(t)
	h.lines["log"] = `"stderr"`
	h.write()
	h.start()
	token := h.must("admin-token", "")["token"].(string)
	if n := strings.Count(h.stderr.String(), token); n != 1 {
		t.Errorf("the new token was shown %d times, want once:\n%s", n, h.stderr.String())
	}
	h.stop()
	h.start()
	if again := h.must("admin-token", "")["token"]; again != token || strings.Count(h.stderr.String(), token) != 1 {
		t.Errorf("second start: token %v, output\n%s", again, h.stderr.String())
	}
	if rotated := h.must("admin-token", `{"Rotate":true}`)["token"]; rotated == token {
		t.Error("rotation kept the token")
	}
	h.stop()
	h.env["CHATMAIL_ADMIN_TOKEN"] = "token-of-the-environment"
	h.lines["admin_token"] = `"token-of-the-file"`
	h.write()
	h.start()
	if got := h.must("admin-token", "")["token"]; got != "token-of-the-environment" {
		t.Errorf("%v", got)
	}
	if _, err := h.op("admin-token", `{"Rotate":true}`); !fault.Is(err, fault.Refused) {
		t.Errorf("rotating a configured token: %v", err)
	}
	h.stop()
	delete(h.env, "CHATMAIL_ADMIN_TOKEN")
	h.lines["admin_token"] = `"disabled"`
	h.write()
	if err := os.Remove(filepath.Join(h.dir, "admin_token")); err != nil {
		t.Fatal(err)
	}
	h.start()
	if _, err := h.op("admin-token", ""); err == nil || err.Error() != "admin API is disabled in configuration" {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "admin_token")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a token was made all the same: %v", err)
	}
}

// TestREQ26ASilentServerIsSilent is REQ-26 and REQ-34: with log off nothing is
// written, whatever the environment says.
func TestREQ26ASilentServerIsSilent(t *testing.T) {
	h := newHouse(t)
	h.env["RUST_LOG"], h.env["MADMAIL_LOG"] = "trace", "trace"
	h.start()
	do(t, h.login("silent-one"), "NOOP")
	h.must("accounts.create-random", "")
	h.stop()
	if got := h.stderr.String(); got != "" {
		t.Errorf("written: %q", got)
	}
}

func TestAnExplicitDirectoryBeatsTheFile(t *testing.T) {
	h := newHouse(t)
	other := t.TempDir()
	h.lines["state_dir"], h.lines["log"] = fmt.Sprintf("%q", other), `"stderr"`
	h.write()
	h.start()
	if h.StateDir != h.dir {
		t.Errorf("the state is in %s", h.StateDir)
	}
	if n := strings.Count(h.stderr.String(), "is not used"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, h.stderr.String())
	}
	if entries, err := os.ReadDir(other); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// TestTheServiceManagerIsTold: ready, alive in half of the time it gave, and
// stopping.
func TestTheServiceManagerIsTold(t *testing.T) {
	h := newHouse(t)
	path := filepath.Join(h.dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	h.start()
	heard := make(map[string]int)
	_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
	next := func() string {
		var b [256]byte
		n, err := l.Read(b[:])
		if err != nil {
			t.Fatalf("heard %v: %v", heard, err)
		}
		return string(b[:n])
	}
	for heard["READY=1\nSTATUS="] < 1 || heard["WATCHDOG=1"] < 3 {
		heard[next()]++
	}
	if heard["READY=1\nSTATUS="] != 1 {
		t.Errorf("heard %v", heard)
	}
	s, err := h.target().NewSender("told-one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send([]string{"told-one@[127.0.0.1]"}, load.Message("told-one@[127.0.0.1]", 3000)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for range 2 { // a reload that fails leaves a server that is ready, too
		h.must("reload", "")
		for ok := false; !ok; {
			word := next()
			heard[word]++
			_, ok = strings.CutPrefix(word, "RELOADING=1\nMONOTONIC_USEC=")
		}
		for heard["READY=1"] < 1 {
			heard[next()]++
		}
		heard["READY=1"] = 0
		h.lines["smtp_listen"] = `"nowhere"`
		h.write()
		if _, err := h.op("reload", ""); err == nil {
			t.Error("a bad file was taken")
		}
		for heard["READY=1"] < 1 {
			heard[next()]++
		}
		heard["READY=1"] = 0
		h.listen("smtp", "127.0.0.1", h.ports["smtp"])
		h.write()
	}
	h.stop()
	for heard["STOPPING=1"] < 1 {
		heard[next()]++
	}
	if heard["STOPPING=1"] != 1 {
		t.Errorf("heard %v", heard)
	}
	// What has to be measured first is told, and asks for time.
	h.start()
	for {
		word := next()
		if strings.HasPrefix(word, "STATUS=") && strings.HasSuffix(word, "\nEXTEND_TIMEOUT_USEC=60000000") {
			break
		}
		if strings.HasPrefix(word, "READY=1") {
			t.Error("mail was measured without a word")
			break
		}
	}
}

func TestWithoutAServerActionsWorkAndSayWhenTheyCount(t *testing.T) {
	h := newHouse(t)
	h.start()
	s, err := h.target().NewSender("offline-one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send([]string{"offline-one@[127.0.0.1]"}, load.Message("offline-one@[127.0.0.1]", 3000)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	online := h.must("accounts.info", `{"username":"offline-one"}`)
	h.stop()
	opt := h.options()
	opt.Offline, opt.ConfigPath = true, filepath.Join(h.dir, "not-read.toml")
	if opt.Config, err = config.Load(h.file()); err != nil {
		t.Fatal(err)
	}
	if h.App, err = New(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	offline := h.must("accounts.info", `{"username":"offline-one"}`)
	if offline["used_bytes"] == 0.0 || offline["used_bytes"] != online["used_bytes"] || offline["message_count"] != 1.0 {
		t.Errorf("offline %v bytes, online %v", offline["used_bytes"], online["used_bytes"])
	}
	if got := h.must("accounts.status", ""); got["mail_directories"] != 1.0 || got["storage_bytes"] != online["used_bytes"] {
		t.Errorf("%v", got)
	}
	if got := h.must("status", ""); got["running"] != false || got["pid"] != 0.0 {
		t.Errorf("%v", got)
	}
	if got := h.must("settings.set", `{"name":"imap_tls_port","value":"2993"}`); got["applied"] != "stored; it counts from the next start" {
		t.Errorf("%v", got["applied"])
	}
	if _, err := h.op("reload", ""); !fault.Is(err, fault.NotFound) {
		t.Errorf("a reload of nothing: %v", err)
	}
	if len(h.Listeners()) != 0 {
		t.Error("something listens")
	}
}

// TestStoppingSaysGoodbye: sessions are told, and the stop does not wait for
// them to answer.
func TestStoppingSaysGoodbye(t *testing.T) {
	h := newHouse(t)
	h.start()
	r := h.login("leaver-one")
	do(t, r, "SELECT INBOX")
	if err := r.Idle(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if err := r.Wait(); !errors.Is(err, io.EOF) {
		t.Errorf("the session ended with %v", err)
	}
}

// TestSlowPeersDoNotHoldUpAStop: each gets a word where it can hear one, what does
// not end in time is cut off, and what is in memory still goes to disk.
func TestSlowPeersDoNotHoldUpAStop(t *testing.T) {
	h := newHouse(t)
	h.lines["log"] = `"stderr"`
	h.write()
	h.start()
	r := h.login("patient-one")
	do(t, r, "SELECT INBOX")
	say := func(name, text string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports[name]))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		return conn, bufio.NewReader(conn)
	}
	until := func(br *bufio.Reader, prefix string) {
		t.Helper()
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				t.Fatalf("%s does not come: %v", prefix, err)
			}
			if strings.HasPrefix(line, prefix) {
				return
			}
		}
	}
	_, idle := say("submission", "EHLO x\r\n")
	until(idle, "250 ")
	_, other := say("imap", "")
	until(other, "* OK ")
	data, slow := say("smtp", "HELO x\r\nMAIL FROM:<a@peer.example>\r\nRCPT TO:<patient-one@[127.0.0.1]>\r\nDATA\r\nhalf")
	until(slow, "354 ")
	web, asked := say("http", "POST /new HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
	defer web.Close()
	until(asked, "HTTP/1.1 100 ")                                             // it is being read
	for _, name := range []string{"imap_tls", "submission_tls", "http_tls"} { // handshakes that do not go on
		say(name, "\x16\x03\x01\x02")
	}

	ctx, cancel := context.WithTimeout(context.Background(), order+2*time.Second)
	defer cancel()
	a := h.App
	h.App = nil
	began := time.Now()
	if err := a.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(began); took < time.Second || ctx.Err() != nil {
		t.Errorf("the stop took %v, %v", took, ctx.Err())
	}
	until(idle, "421 4.3.2 ")
	until(other, "* BYE ")
	if _, err := io.Copy(io.Discard, slow); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the slow sender: %v", err)
	}
	data.Close()
	if out := h.stderr.String(); strings.Contains(out, "mail could not be taken") || strings.Contains(out, "what=IMAP") || !strings.Contains(out, "what=SMTP") || !strings.Contains(out, "what=HTTP") {
		t.Errorf("logged:\n%s", out)
	}
	h.start()
	if got := h.must("accounts.info", `{"username":"patient-one"}`); got["last_login_at"] == nil || got["message_count"] != 0.0 {
		t.Errorf("after the stop: %v", got)
	}
}

// TestStatusTellsWhoIsConnected by service and by port, and who came since the start.
func TestStatusTellsWhoIsConnected(t *testing.T) {
	h := newHouse(t)
	h.start()
	r := h.login("counted-one")
	do(t, r, "NOOP")
	for range 2 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports["smtp"]))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	web := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer web.CloseIdleConnections()
	resp, err := web.Get(fmt.Sprintf("http://127.0.0.1:%d/", h.ports["http"]))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	st := h.must("status", "")
	services := make(map[string]string)
	for _, v := range st["services"].([]any) {
		v := v.(map[string]any)
		services[v["name"].(string)] = fmt.Sprintf("%v of %v", v["connections"], v["unique_ips"])
	}
	if want := map[string]string{"IMAP": "1 of 1", "SMTP": "2 of 1", "Submission": "0 of 0", "HTTP": "1 of 1"}; !maps.Equal(services, want) {
		t.Errorf("services %v, want %v", services, want)
	}
	ports := make(map[string]float64)
	for _, p := range st["ports"].([]any) {
		p := p.(map[string]any)
		if p["connections"] != 0.0 {
			ports[p["label"].(string)] = p["connections"].(float64)
		}
	}
	if want := map[string]float64{"IMAP TLS": 1, "SMTP": 2, "HTTP": 1}; !maps.Equal(ports, want) {
		t.Errorf("ports %v, want %v", ports, want)
	}
	if n := st["server_tracker"].(map[string]any)["unique_conn_ips"]; n != 1.0 {
		t.Errorf("%v addresses came to port 25", n)
	}
}

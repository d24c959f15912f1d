//go:build unix

package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"madmail/internal/control"
	"madmail/test/load"
	"madmail/test/testport"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"madmail": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"maddy":   func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts plays the command line as operators and programs use it. Beside
// testscript's own commands there are: code, config, ready, port, await, signal,
// login, send, message, json and same (below).
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			numbers, release, err := testport.Reserve(len(ports) + len(spare))
			if err != nil {
				return err
			}
			e.Defer(release)
			for i, name := range append(slices.Clone(ports), spare...) {
				e.Setenv("PORT_"+strings.ToUpper(name), strconv.Itoa(numbers[i]))
			}
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command takes a second more
			for _, k := range []string{"CHATMAIL_CONFIG", "MADDY_CONFIG", "CHATMAIL_STATE_DIR", "MADDY_STATE_DIR", "MADMAIL_STATE_DIR",
				"CHATMAIL_SMTP_ADDR", "CHATMAIL_IMAP_ADDR", "CHATMAIL_HTTP_ADDR", "CHATMAIL_ADMIN_TOKEN", "RUST_LOG", "MADMAIL_LOG", "NOTIFY_SOCKET"} {
				e.Setenv(k, "")
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "config": configure, "ready": ready, "signal": send, "login": login, "send": submit, "json": inJSON, "same": same, "message": message, "port": port, "await": await, "sqlite": sqlite,
		},
	})
}

var ports = []string{"smtp", "submission", "submission_tls", "imap", "imap_tls", "http", "http_tls"}

// spare are further ports, which a script's own lines may use.
var spare = []string{"turn", "spare"}

// sqlite runs the statements of a file on a database: sqlite DATABASE FILE.
func sqlite(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sqlite DATABASE FILE")
	}
	d, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = d.Exec(ts.ReadFile(args[1]))
	ts.Check(errors.Join(err, d.Close()))
}

// code N PROGRAM ARGS runs a program and compares its exit code.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var e *exec.ExitError
		if !errors.As(err, &e) {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// config [LINE...] writes data/chatmail.toml with this script's ports. A LINE
// replaces the one with the same key.
func configure(ts *testscript.TestScript, _ bool, args []string) {
	lines := map[string]string{"primary_domain": `"127.0.0.1"`, "hostname": `"127.0.0.1"`, "public_ip": `"127.0.0.1"`, "tls_mode": `"self_signed"`}
	for _, name := range ports {
		lines[name+"_listen"] = fmt.Sprintf(`"127.0.0.1:%s"`, ts.Getenv("PORT_"+strings.ToUpper(name)))
	}
	for _, a := range args {
		key, value, ok := strings.Cut(a, "=")
		if !ok {
			ts.Fatalf("%q is not key=value", a)
		}
		lines[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	var b strings.Builder
	for k, v := range lines {
		fmt.Fprintf(&b, "%s = %s\n", k, v)
	}
	ts.Check(os.MkdirAll(ts.MkAbs("data"), 0o700))
	ts.Check(os.WriteFile(ts.MkAbs("data/chatmail.toml"), []byte(b.String()), 0o600))
}

// until asks again and again whether something has come about.
func until(ts *testscript.TestScript, what string, done func() bool) {
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			ts.Fatalf("not within a minute: %s", what)
		}
	}
}

// ready waits until the server of data/ answers; ! ready until none does.
func ready(ts *testscript.TestScript, neg bool, _ []string) {
	until(ts, "the server answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := control.Call(ctx, ts.MkAbs("data/run"), "status", nil)
		return (err == nil) != neg
	})
}

// port NAME waits until something accepts on one of this script's ports; with
// ! until nothing does.
func port(ts *testscript.TestScript, neg bool, args []string) {
	addr := "127.0.0.1:" + ts.Getenv("PORT_"+strings.ToUpper(args[0]))
	until(ts, addr, func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
		}
		return (err == nil) != neg
	})
}

// await FILE waits until a file is there; await PATTERN PROGRAM ARGS until a
// program's output has a text.
func await(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, strings.Join(args, " "), func() bool {
		if len(args) == 1 {
			_, err := os.Stat(ts.MkAbs(args[0]))
			return err == nil
		}
		return ts.Exec(args[1], args[2:]...) == nil && strings.Contains(ts.ReadFile("stdout"), args[0])
	})
}

// signal NAME sends a signal to the server in the background.
func send(ts *testscript.TestScript, _ bool, args []string) {
	sig := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT}[args[0]]
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(sig))
	}
}

func target(ts *testscript.TestScript, password string) load.Target {
	return load.Target{
		SMTP: "127.0.0.1:" + ts.Getenv("PORT_SUBMISSION_TLS"), IMAP: "127.0.0.1:" + ts.Getenv("PORT_IMAP_TLS"), Domain: "[127.0.0.1]", Password: password,
	}
}

// login NAME PASSWORD logs in by IMAP.
func login(ts *testscript.TestScript, neg bool, args []string) {
	r, err := target(ts, args[1]).Login(args[0])
	if err == nil {
		r.Close()
	}
	if (err == nil) == neg {
		ts.Fatalf("login of %s: %v", args[0], err)
	}
}

// send FROM PASSWORD TO submits one encrypted message.
func submit(ts *testscript.TestScript, neg bool, args []string) {
	s, err := target(ts, args[1]).NewSender(args[0])
	if err == nil {
		_, err = s.Send([]string{args[2] + "@[127.0.0.1]"}, load.Message(args[0]+"@[127.0.0.1]", 3000))
		s.Close()
	}
	if (err == nil) == neg {
		ts.Fatalf("message of %s: %v", args[0], err)
	}
}

// json STREAM PATH WANT looks into the one line of JSON that was printed:
// "json stdout data.accounts.0.username alice". WANT is JSON, or "*" for
// anything that is there.
func inJSON(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile(args[0])
	if strings.Count(text, "\n") != 1 {
		ts.Fatalf("%s is not one line:\n%s", args[0], text)
	}
	var v any
	ts.Check(json.Unmarshal([]byte(text), &v))
	there := true
	for _, key := range strings.Split(args[1], ".") {
		switch x := v.(type) {
		case map[string]any:
			v, there = x[key]
		case []any:
			i, err := strconv.Atoi(key)
			if there = err == nil && i < len(x); there {
				v = x[i]
			}
		default:
			there = false
		}
		if !there {
			break
		}
	}
	good := there
	if there && args[2] != "*" {
		var want any
		ts.Check(json.Unmarshal([]byte(args[2]), &want))
		good = reflect.DeepEqual(v, want)
	}
	if good == neg {
		ts.Fatalf("%s is %v (there: %v), in %s", args[1], v, there, text)
	}
}

// same FILE remembers a file's content the first time and compares it after.
func same(ts *testscript.TestScript, neg bool, args []string) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(ts.ReadFile(args[0]))))
	key := "SUM_" + args[0]
	if old := ts.Getenv(key); old != "" && (old == sum) == neg {
		ts.Fatalf("%s: changed %v", args[0], old != sum)
	}
	ts.Setenv(key, sum)
}

// message FILE SIZE writes an encrypted message from alice to a file, with the line
// ends of this system.
func message(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.ReplaceAll(load.Message("alice@[127.0.0.1]", n), []byte("\r\n"), []byte("\n")), 0o600))
}

func commands(c *cobra.Command) (all []*cobra.Command) {
	for _, sub := range c.Commands() {
		all = append(append(all, sub), commands(sub)...)
	}
	return all
}

// TestEveryCommandExplainsItself: one line that says what it does, an example
// that calls it, and help that shows both.
func TestEveryCommandExplainsItself(t *testing.T) {
	root := (&shell{}).root()
	if len(commands(root)) < 35 {
		t.Fatalf("%d commands", len(commands(root)))
	}
	for _, c := range append(commands(root), root) {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: says %q", path, c.Short)
		}
		if !strings.Contains(c.Example, path) {
			t.Errorf("%s: its example is %q", path, c.Example)
		}
		for _, line := range strings.Split(c.Example, "\n") {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "   ")
			if i := strings.LastIndex(line, "| "); i >= 0 {
				line = line[i+2:]
			}
			words := strings.Fields(line)
			found, rest, err := root.Find(words[1:])
			if err != nil || words[0] != "madmail" {
				t.Errorf("%s: the example %q is no command: %v", path, line, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: the example %q: %v", path, line, err)
			} else if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%s: the example %q: %v", path, line, err)
			}
		}
		var out, errs bytes.Buffer
		args := append(strings.Fields(path)[1:], "--help")
		if code := Main(args, strings.NewReader(""), &out, &errs); code != done || errs.Len() > 0 || !strings.Contains(out.String(), c.Example) {
			t.Errorf("%s: exit code %d, stderr %q, stdout\n%s", strings.Join(args, " "), code, errs.String(), out.String())
		}
	}
}

// TestMisuseIsTwo: every command refuses what it does not know, with exit code
// 2, one line that says what is wrong and one that says where to look.
func TestMisuseIsTwo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	for _, c := range append(commands((&shell{}).root()), (&shell{}).root()) {
		for _, extra := range [][]string{{"--no-such-flag"}, {"x1", "x2", "x3", "x4", "x5"}} {
			args := append(append(strings.Fields(c.CommandPath())[1:], extra...), "--state-dir", dir)
			if takesMany := strings.Contains(c.Use, "[REASON]") || strings.Contains(c.Use, "..."); takesMany && extra[0] == "x1" {
				continue
			}
			var out, errs bytes.Buffer
			code := Main(args, strings.NewReader(""), &out, &errs)
			if code != misuse || out.Len() > 0 || !strings.HasPrefix(errs.String(), "Error: ") || !strings.Contains(errs.String(), "Hint: ") {
				t.Errorf("%s: exit code %d, stdout %q, stderr %q", strings.Join(args, " "), code, out.String(), errs.String())
			}
			out.Reset()
			errs.Reset()
			code = Main(append(args, "--json"), strings.NewReader(""), &out, &errs)
			var e struct {
				OK    *bool
				Error string
			}
			if err := json.Unmarshal(errs.Bytes(), &e); code != misuse || err != nil || e.OK == nil || *e.OK || e.Error == "" || out.Len() > 0 {
				t.Errorf("%s --json: exit code %d, stdout %q, stderr %q", strings.Join(args, " "), code, out.String(), errs.String())
			}
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("misuse made a state directory")
	}
}

// TestTheDocumentsNameRealCommands: whatever the documents tell operators to
// type is taken by this program.
func TestTheDocumentsNameRealCommands(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`(?:sudo -u madmail )?(madmail [^`]*)`")
	checked := 0
	for _, file := range append(files, "../../README.md", "../../dist/chatmail.toml") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		block := false
		for n, line := range strings.Split(string(data), "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				block = !block
			}
			var texts []string
			if block && strings.HasPrefix(line, "madmail ") {
				line, _, _ = strings.Cut(line, "#")
				texts = append(texts, line)
			}
			for _, m := range quoted.FindAllStringSubmatch(line, -1) {
				texts = append(texts, m[1])
			}
			for _, text := range texts {
				for _, words := range choices(strings.Fields(strings.ReplaceAll(text, `"`, ""))) {
					checked++
					root := (&shell{}).root()
					root.InitDefaultCompletionCmd()
					c, rest, err := root.Find(words[1:])
					if err == nil {
						err = c.ParseFlags(rest)
					}
					if err == nil {
						err = c.ValidateArgs(c.Flags().Args())
					}
					if err == nil && len(c.Commands()) > 0 {
						err = errors.New("it lacks a command")
					}
					if err != nil {
						t.Errorf("%s:%d: %s: %v", filepath.Base(file), n+1, strings.Join(words, " "), err)
					}
				}
			}
		}
	}
	if checked < 30 {
		t.Errorf("%d commands were found", checked)
	}
}

// choices writes "registration open|close" out as two commands.
func choices(words []string) (all [][]string) {
	all = [][]string{nil}
	for _, w := range words {
		var next [][]string
		for _, alternative := range strings.Split(w, "|") {
			for _, begun := range all {
				next = append(next, append(slices.Clone(begun), alternative))
			}
		}
		all = next
	}
	return all
}

// Command bench measures a mail server on loopback (T1). Without -smtp and -imap
// it starts the binary named by MADMAIL_BINARY, held to one CPU where the system
// has taskset, and keeps itself to the others.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"madmail/test/load"
)

var (
	pinned bool     // the server had a CPU of its own
	used   []string // state directories, removed at the very end
)

// fetched is the size of the message that is fetched over and over.
const fetched = 12_000_000

// zerosListen in the environment makes this process the one a FETCH is compared with.
const zerosListen = "BENCH_ZEROS"

func main() {
	run := run
	if os.Getenv(zerosListen) != "" {
		run = zeros
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var t load.Target
	flag.StringVar(&t.SMTP, "smtp", "", "submission over TLS, host:port on loopback; default: start our own server")
	flag.StringVar(&t.IMAP, "imap", "", "IMAP over TLS, host:port on loopback")
	flag.StringVar(&t.HTTPS, "https", "", "HTTPS, host:port on loopback, for /mxdeliv; left out when not given with -smtp")
	flag.StringVar(&t.Domain, "domain", "[127.0.0.1]", "domain of the accounts")
	flag.StringVar(&t.Password, "password", "tEvx4GmQz8bYw2KpLr7sNd5u", "password of all accounts")
	flag.IntVar(&t.PID, "pid", 0, "process of the server, for CPU and memory")
	seconds := flag.Int("seconds", 5, "how long each scenario runs, at most 60")
	idle := flag.Int("idle", 5000, "idle connections, at most 10000")
	only := flag.String("only", "", "run the scenarios whose names begin so")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	if *seconds < 1 || *seconds > 60 || *idle < 1 || *idle > 10000 {
		return fmt.Errorf("-seconds is 1 to 60, -idle 1 to 10000")
	}
	own := t.SMTP == ""
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	d := time.Duration(*seconds) * time.Second
	members := func(n, to int) func() ([]load.Figure, error) {
		return func() ([]load.Figure, error) {
			if err := t.Ensure("member%06d", 64); err != nil {
				return nil, err
			}
			return t.Submit(n, to, 1500, d)
		}
	}
	federation := func(n int) func() ([]load.Figure, error) {
		return func() ([]load.Figure, error) {
			if t.HTTPS == "" {
				return nil, nil
			}
			if err := t.Ensure("member%06d", 64); err != nil {
				return nil, err
			}
			return t.Federation(n, 1500, d)
		}
	}
	var all []load.Figure
	// Not before: ext4 does not reuse inodes for minutes, and looks at each one
	// that was freed lately whenever a file is created.
	defer func() {
		for _, dir := range used {
			_ = os.RemoveAll(dir)
		}
	}()
	defer func() {
		if own {
			fmt.Fprintf(os.Stderr, "server held to one CPU: %v; memory limit of the Go runtime: 900 MiB\n", pinned)
		}
	}()
	for _, s := range []struct {
		name string
		run  func() ([]load.Figure, error)
	}{
		{"register", func() ([]load.Figure, error) { return t.Register("fresh", 8, 20000, d) }},
		{"1 pair", func() ([]load.Figure, error) { return t.Pairs(1, 1500, d) }},
		{"8 pairs", func() ([]load.Figure, error) { return t.Pairs(8, 1500, d) }},
		{"64 pairs", func() ([]load.Figure, error) { return t.Pairs(64, 1500, d) }},
		{"open loop", func() ([]load.Figure, error) { return t.Open(50, 1500, d) }},
		{"large 50 KiB", func() ([]load.Figure, error) { return t.Pairs(8, 50<<10, d) }},
		{"large 1 MiB", func() ([]load.Figure, error) { return t.Pairs(4, 1<<20, d) }},
		{"large 10 MiB", func() ([]load.Figure, error) { return t.Pairs(2, 10<<20, d) }},
		{"mxdeliv 1", federation(1)}, {"mxdeliv 8", federation(8)}, {"mxdeliv 64", federation(64)},
		{"warm logins", func() ([]load.Figure, error) {
			if err := t.Ensure("receiver%04d", 8); err != nil {
				return nil, err
			}
			return t.Warm(8, d)
		}},
		{"submit 1", members(1, 1)}, {"submit 8", members(8, 1)}, {"submit 64", members(64, 1)},
		{"fan-out", members(1, 50)},
		{"mailbox", func() ([]load.Figure, error) { return t.Prefetch(10000, 1500) }},
		{"fetch", func() ([]load.Figure, error) {
			zeros, stop, err := startZeros()
			if err != nil {
				return nil, err
			}
			defer stop()
			return t.Fetch(fetched, d, zeros)
		}},
		{"idle", func() ([]load.Figure, error) { return t.Idle(*idle) }},
		{"services", func() ([]load.Figure, error) {
			if !own {
				return nil, nil
			}
			return services(&t, d)
		}},
		{"boot", func() ([]load.Figure, error) {
			if !own {
				return nil, nil
			}
			return boot(&t, 10_000, 20)
		}},
	} {
		if *only != "" && !strings.HasPrefix(s.name, *only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s ...\n", s.name)
		f, err := alone(&t, own, interrupted, s.run)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		all = append(all, f...)
	}
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(all)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	last := ""
	for _, f := range all {
		if f.Scenario != last {
			fmt.Fprintf(w, "%s\t\t\n", f.Scenario)
			last = f.Scenario
		}
		fmt.Fprintf(w, "  %s\t%.3g\t%s\n", f.Name, f.Value, f.Unit)
	}
	return w.Flush()
}

// alone runs a scenario, on a fresh server where we start it: what one scenario
// leaves behind, in memory or on disk, is not the next one's cost.
func alone(t *load.Target, own bool, interrupted <-chan os.Signal, run func() ([]load.Figure, error)) ([]load.Figure, error) {
	if own {
		stop, err := start(t)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	if err := t.Check(); err != nil {
		return nil, err
	}
	type result struct {
		f   []load.Figure
		err error
	}
	done := make(chan result, 1)
	go func() { // ends with the scenario, or with the process
		f, err := run()
		done <- result{f, err}
	}()
	select {
	case r := <-done:
		return r.f, r.err
	case <-interrupted:
		return nil, errors.New("interrupted")
	}
}

// start runs the binary on ports of its own.
func start(t *load.Target) (stop func(), err error) {
	bin := os.Getenv("MADMAIL_BINARY")
	if bin == "" {
		return nil, fmt.Errorf("set MADMAIL_BINARY, or name a server with -smtp and -imap")
	}
	dir, err := os.MkdirTemp("", "madmail-bench-")
	if err != nil {
		return nil, err
	}
	t.SMTP, t.IMAP, t.HTTPS = port(), port(), port()
	conf := filepath.Join(dir, "chatmail.toml")
	command = func(args ...string) *exec.Cmd {
		return exec.Command(bin, append([]string{"--config", conf, "--state-dir", dir}, args...)...)
	}
	text := fmt.Sprintf("primary_domain = \"127.0.0.1\"\npublic_ip = \"127.0.0.1\"\nsmtp_listen = %q\nsubmission_tls_listen = %q\nimap_tls_listen = %q\nhttp_listen = %q\nhttp_tls_listen = %q\n", port(), t.SMTP, t.IMAP, port(), t.HTTPS)
	configure = func(extra string) error { return os.WriteFile(conf, []byte(text+extra), 0o600) }
	if err := configure(""); err != nil {
		return nil, err
	}
	if err := launch(t, command("run").Args); err != nil {
		return nil, err
	}
	t.Counter = func() map[string]int64 {
		out, err := command("--json", "status").Output()
		var st struct {
			Data struct{ Counters map[string]int64 }
		}
		if err != nil || json.Unmarshal(out, &st) != nil {
			return nil
		}
		return st.Data.Counters
	}
	return func() {
		if err := halt(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		used = append(used, dir)
	}, nil
}

var (
	server    *exec.Cmd                      // that is running
	command   func(args ...string) *exec.Cmd // of the binary, about that server
	configure func(extra string) error       // writes its configuration, with these lines more
)

// port is a free one on loopback.
func port() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}

// zeros writes to TLS connections until it is killed, with as many threads as the
// server takes. The address is its first line of output.
func zeros() error {
	runtime.GOMAXPROCS(max(4, runtime.GOMAXPROCS(0)))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return load.ServeZeros(l, fetched)
}

// startZeros runs zeros in a process of its own, held to the server's CPU.
func startZeros() (z load.Zeros, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return z, nil, err
	}
	args, _ := hold([]string{self})
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), zerosListen+"=1", "GOMEMLIMIT=900MiB")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return z, nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if _, err := fmt.Fscanln(out, &z.Addr); err != nil {
		stop()
		return z, nil, fmt.Errorf("what a FETCH is compared with does not start: %w", err)
	}
	z.PID = cmd.Process.Pid
	return z, stop, nil
}

// hold makes a command run on the first CPU alone, where that can be had.
func hold(args []string) (held []string, ok bool) {
	if _, err := exec.LookPath("taskset"); err != nil || runtime.NumCPU() == 1 {
		return args, false
	}
	return append([]string{"taskset", "-c", "0"}, args...), true
}

// halt ends the server as a service manager does.
func halt() error {
	_ = server.Process.Signal(syscall.SIGTERM)
	if err := server.Wait(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// launch starts the server and waits until it listens.
func launch(t *load.Target, args []string) error {
	args, held := hold(args)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "GOMEMLIMIT=900MiB")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	server, t.PID = cmd, cmd.Process.Pid
	if held {
		pin := exec.Command("taskset", "-a", "-p", "-c", fmt.Sprintf("1-%d", runtime.NumCPU()-1), fmt.Sprint(os.Getpid()))
		if err := pin.Run(); err != nil {
			held = false
		}
	}
	pinned = held
	for deadline := time.Now().Add(20 * time.Second); ; {
		if conn, err := net.Dial("tcp", t.IMAP); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not start")
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// boot measures a start over many accounts with mail: to the first login, and what
// it takes to list them. It needs a server that was started here.
func boot(t *load.Target, accounts, messages int) ([]load.Figure, error) {
	if err := t.Fill("tenant%05d", accounts, messages); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("boot, %d accounts with %d messages", accounts, messages)
	var f []load.Figure
	// The first stop may leave a journal that has to be replayed, the second leaves none.
	for _, when := range [2]string{"right after the last delivery", "at rest"} {
		start := time.Now()
		if err := halt(); err != nil {
			return nil, err
		}
		stopped := time.Since(start)
		start = time.Now()
		if err := launch(t, command("run").Args); err != nil {
			return nil, err
		}
		listens := time.Since(start)
		r, err := t.Login(fmt.Sprintf("tenant%05d", accounts/2))
		if err != nil {
			return nil, err
		}
		_, err = r.Do("SELECT INBOX")
		r.Close()
		if err != nil {
			return nil, err
		}
		ready := time.Since(start)
		f = append(f,
			load.Figure{Scenario: name, Name: "stop, " + when, Unit: "ms", Value: stopped.Seconds() * 1000},
			load.Figure{Scenario: name, Name: "start to listening, " + when, Unit: "ms", Value: listens.Seconds() * 1000},
			load.Figure{Scenario: name, Name: "start to the first login and SELECT, " + when, Unit: "ms", Value: ready.Seconds() * 1000})
	}
	best := time.Hour
	for range 3 {
		start := time.Now()
		out, err := command("accounts", "list", "--json").Output()
		if err != nil {
			return nil, err
		}
		if n := bytes.Count(out, []byte("tenant")); n < accounts {
			return nil, fmt.Errorf("only %d accounts are listed", n)
		}
		best = min(best, time.Since(start))
	}
	return append(f, load.Figure{Scenario: name, Name: "accounts list --json", Unit: "ms", Value: best.Seconds() * 1000}), nil
}

// services measures what calls, realtime apps and disguise cost while nobody uses
// them: two servers with nothing to do, one without and one with them. It needs a
// server that was started here.
func services(t *load.Target, d time.Duration) ([]load.Figure, error) {
	const name = "idle, without and with TURN, iroh relay and Shadowsocks"
	var f []load.Figure
	for _, x := range []struct{ name, lines string }{{"without", ""}, {"with", fmt.Sprintf(
		"turn_enable = true\nturn_secret = \"idle\"\nturn_listen_udp = %q\nturn_listen_tls = %q\niroh_relay_url = \"http://%s\"\nss_addr = %q\nss_password = \"idle idle\"\n", port(), port(), port(), port())}} {
		if err := halt(); err != nil {
			return nil, err
		}
		if err := configure(x.lines); err != nil {
			return nil, err
		}
		if err := launch(t, command("run").Args); err != nil {
			return nil, err
		}
		for _, g := range t.Rest(d) {
			f = append(f, load.Figure{Scenario: name, Name: x.name + ": " + g.Name, Unit: g.Unit, Value: g.Value})
		}
	}
	return f, nil
}

// Package cli is the command line: flags, help, text and JSON output. What a
// command does is an operation of ops, run by the server through the control
// socket or, when no server runs, in this process under the state lock.
package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"madmail/internal/app"
	"madmail/internal/config"
	"madmail/internal/control"
	"madmail/internal/fault"
	"madmail/internal/invite"
	"madmail/internal/ops"
	"madmail/internal/version"
)

// Exit codes.
const (
	done   = 0
	failed = 1
	misuse = 2
)

// shell is one invocation.
type shell struct {
	in       io.Reader
	out, err io.Writer
	config   string
	stateDir string
	json     bool
	debug    bool
	blocks   [4]string // named blocks of a legacy configuration
	ran      bool      // the arguments were good: what fails now is not misuse
	serving  bool      // the command is run
	once     bool      // run starts and stops at once
}

// usageError is a mistake in the arguments.
type usageError struct{ error }

// Main runs a command line and returns the exit code.
func Main(args []string, in io.Reader, out, err io.Writer) int {
	s := &shell{in: in, out: out, err: err}
	root := s.root()
	if len(args) == 0 && config.BinaryName() == "maddy" {
		// The unit files of the first version start it so.
		fmt.Fprintln(err, `Note: "maddy" alone starts the server as it always did; write "maddy run".`)
		args = []string{"run"}
	}
	root.SetArgs(oneDash(args))
	c, e := root.ExecuteContextC(context.Background())
	if e == nil {
		return done
	}
	var u usageError
	wrong := !s.ran || errors.As(e, &u)
	// Where the mistake comes first the flags behind it were not read.
	s.json = s.json || !s.ran && slices.Contains(args, "--json")
	s.complain(e, c, wrong)
	var f failure
	if wrong || fault.Is(e, fault.Invalid) && !errors.As(e, &f) {
		return misuse
	}
	return failed
}

// oneDash gives the long flags before the command, and those of "run", the second dash
// that the parser of the first version did without: its containers start it so.
func oneDash(args []string) []string {
	out := slices.Clone(args)
	command := ""
	for i := 0; i < len(out) && (command == "" || command == "run"); i++ {
		bare := strings.TrimLeft(out[i], "-")
		switch name, _, whole := strings.Cut(bare, "="); {
		case bare == out[i]:
			command = bare
		case name == "debug":
			out[i] = "--" + bare
		case slices.Contains([]string{"config", "state-dir", "libexec", "log"}, name):
			out[i] = "--" + bare
			if !whole {
				i++ // its value
			}
		}
	}
	return out
}

// failure is an error that lies with the server, not with the arguments, whatever its
// kind says.
type failure struct{ error }

// Unwrap returns the error.
func (f failure) Unwrap() error { return f.error }

// complain says what went wrong, once. For a program it is one line.
func (s *shell) complain(e error, c *cobra.Command, wrong bool) {
	if s.json && !s.serving {
		_ = encoder(s.err).Encode(map[string]any{"ok": false, "error": e.Error()})
		return
	}
	word := "Error:"
	if s.serving {
		word = version.Name + ": error:"
	}
	fmt.Fprintln(s.err, word, strings.TrimSpace(e.Error()))
	hint := fault.HintOf(e)
	if hint == "" && wrong && !s.serving {
		hint = fmt.Sprintf("%q shows how", c.CommandPath()+" --help")
	}
	if hint != "" {
		fmt.Fprintln(s.err, "Hint:", hint)
	}
}

func encoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // links are for copying
	return e
}

func (s *shell) root() *cobra.Command {
	root := &cobra.Command{
		Use:   version.Name,
		Short: "A complete mail server for Delta Chat",
		Example: "  madmail run                      start the server\n" +
			"  madmail accounts create-random   make an account and print its login link\n" +
			"  madmail status                   tell how the server is",
		SilenceErrors: true, SilenceUsage: true, Version: version.Version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			err := s.checkBlocks()
			s.ran = err == nil
			return err
		},
		RunE: s.needsCommand,
	}
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetVersionTemplate(version.Name + " {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&s.config, "config", "", "configuration `file`")
	f.StringVar(&s.stateDir, "state-dir", "", "state `directory`")
	f.StringVar(&s.stateDir, "libexec", "", "same as --state-dir")
	_ = f.MarkHidden("libexec")
	f.BoolVar(&s.once, "boot-once", false, "start and stop at once")
	_ = f.MarkHidden("boot-once")
	f.BoolVar(&s.json, "json", false, "machine-readable output")
	f.BoolVar(&s.debug, "debug", false, "log debugging messages to stderr")
	for i, b := range legacyBlocks {
		f.StringVar(&s.blocks[i], b.flag, "", "accepted for scripts of the first version")
		_ = f.MarkHidden(b.flag)
	}
	root.Flags().BoolP("version", "V", false, "print name and version")
	root.SetHelpCommand(&cobra.Command{
		Use: "help [COMMAND]", Short: "Explain a command", Example: "  madmail help accounts ban",
		RunE: func(h *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 || c == nil {
				return usageError{fmt.Errorf("unknown command %q", strings.Join(args, " "))}
			}
			return c.Help()
		},
	})
	root.AddCommand(s.run(), s.version(), s.status(), s.reload(), s.adminToken(), s.accounts(), s.createUser(), s.registration(), s.tokens(),
		s.settings(), s.federation(), s.endpoints(), s.queue(), s.openrelay(), s.messageSize(), s.language(), s.tasks(), s.port(), s.submissionAccess(), s.notice(), s.storage(), s.restart(), s.logs(), s.configCommand(),
		s.doctor(), s.monitor(), s.backup(), s.restore(), s.importV1(), s.migratePGP(), s.imapAcct(), s.imapMboxes(), s.imapMsgs(), s.hash(), s.push(), s.webhooks(), s.adminWeb(), s.exchanger(), s.sharing(), s.dkim(), s.zone(), s.proxy(), s.realtime(), s.webimap(), s.websmtp(), s.webmailCORS(), s.sharedPort(), s.creds(), s.certificate(), s.banList("madmail"), s.blocklist(), s.delete("delete", true))
	root.AddCommand(s.generate()...)
	root.AddCommand(s.htmlExport(), s.htmlServe(), s.htmlMigrate())
	root.AddCommand(s.federationSize(), s.cache(), s.install(), s.uninstall(), s.upgrade(), s.versions(), s.service(), s.firewall())
	return root
}

// legacyBlocks are the flags and variables by which scripts of the first version
// name a block of their configuration.
var legacyBlocks = [4]struct{ flag, env string }{
	{"cfg-block", "MADDY_CFGBLOCK"}, {"storage-cfg-block", "MADDY_STORAGE_CFGBLOCK"}, {"auth-block", "MADDY_AUTH_CFGBLOCK"}, {"storage-block", ""},
}

// checkBlocks refuses names of blocks that are not in the configuration, unless they
// are usual. All mean the same: there is one database.
func (s *shell) checkBlocks() error {
	for i, b := range legacyBlocks {
		name := s.blocks[i]
		if name == "" && b.env != "" {
			name = os.Getenv(b.env)
		}
		switch name {
		case "", "local_authdb", "local_mailboxes", "blocklist", "accounts", "remote_queue":
		default:
			raw, err := os.ReadFile(config.FindFile(s.config, os.Getenv))
			if err != nil || !slices.Contains(strings.Fields(string(raw)), name) {
				return usageError{fmt.Errorf("unknown configuration block: %s", name)}
			}
		}
	}
	return nil
}

// group is a command that only holds others.
func (s *shell) group(use, short, example string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, RunE: s.needsCommand}
	c.AddCommand(sub...)
	return c
}

// needsCommand is what a group does when nobody says which of its commands.
func (s *shell) needsCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 && s.once && !c.HasParent() {
		s.serving = true
		return s.serve(false, true, nil)
	}
	if len(args) == 0 {
		if !s.json {
			c.SetOut(s.err)
			_ = c.Help()
		}
		return usageError{errors.New("no command given")}
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		text += ", did you mean " + strings.Join(like, " or ") + "?"
	}
	return usageError{errors.New(text)}
}

// result prints what a command found: text for people, an envelope for programs.
func (s *shell) result(command, message string, data any, text func(io.Writer)) error {
	if !s.json {
		text(s.out)
		return nil
	}
	env := map[string]any{"ok": true, "command": command, "data": data}
	if message != "" {
		env["message"] = message
	}
	return encoder(s.out).Encode(env)
}

// call runs an operation and decodes its result into out.
func (s *shell) call(op string, params, out any) error { return s.callWith(op, params, nil, 0, out) }

// callWith is call for an operation that reads size octets of input.
func (s *shell) callWith(op string, params any, input io.ReadSeeker, size int64, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	raw, err := s.perform(ctx, op, params, input, size)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, out)
}

// patience is how long a command waits for another one that works on the same
// state without a server, or for a server that is starting.
const patience = 5 * time.Second

// find tells where the configuration and the state are.
func (s *shell) find() (path string, conf *config.Config, dir string) {
	path = config.FindFile(s.config, os.Getenv)
	conf, err := config.Load(path)
	if err != nil {
		// Somebody who mends things must be able to look at accounts meanwhile.
		if conf = (&config.Config{}); !s.json {
			fmt.Fprintf(s.err, "Warning: the configuration is not used: %v\n", err)
		}
	}
	return path, conf, conf.FindStateDir(s.stateDir, os.Getenv)
}

// perform runs an operation: by the server, else here under the state lock.
func (s *shell) perform(ctx context.Context, op string, params any, input io.ReadSeeker, size int64) (json.RawMessage, error) {
	path, conf, dir := s.find()
	ends := time.Now().Add(patience)
	for {
		if input != nil {
			if _, err := input.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
		}
		raw, err := control.CallWith(ctx, conf.FindRuntimeDir(dir), op, params, input, size)
		if !errors.Is(err, control.ErrNoServer) {
			return raw, err
		}
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return nil, config.ErrNoState(dir)
		}
		with := ctx
		if input != nil {
			with = ops.WithInput(ctx, input, size)
		}
		work := func() (err error) {
			raw, err = s.alone(with, app.Options{ConfigPath: path, Config: conf, StateDir: s.stateDir, Offline: true, Stderr: s.err, Debug: s.debug}, op, params)
			return err
		}
		if op == "backup" { // it reads the state and writes somewhere else
			err = work()
		} else {
			err = asOwner(dir, conf.FindRuntimeDir(dir), work)
		}
		if !errors.Is(err, app.ErrLocked) || time.Now().After(ends) {
			return raw, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// alone runs an operation in this process.
func (s *shell) alone(ctx context.Context, opt app.Options, op string, params any) (raw json.RawMessage, err error) {
	a, err := app.New(ctx, opt)
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(params)
	if err == nil {
		var v any
		if v, err = a.Ops.Run(ctx, op, in); err == nil {
			raw, err = json.Marshal(v)
		}
	}
	return raw, errors.Join(err, a.Stop(ctx))
}

func (s *shell) run() *cobra.Command {
	var dev, version bool
	var log []string
	c := &cobra.Command{
		Use:     "run",
		Short:   "Start the server in the foreground",
		Example: "  madmail run\n  madmail run --dev --state-dir data   try it out: makes what it needs and says what to do next",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if version {
				return s.version().RunE(nil, nil)
			}
			s.serving = true
			if err := crashLoudly(); err != nil {
				return fault.Wrap(fault.Internal, err, "limit core files")
			}
			return s.serve(dev, s.once, log) // fault.Invalid is exit code 2: a service manager must not try again
		},
	}
	c.Flags().BoolVar(&dev, "dev", false, "make a configuration for this machine when there is none, and show how to connect")
	c.Flags().StringSliceVar(&log, "log", nil, "log to these `targets` instead of those of the configuration")
	c.Flags().BoolVarP(&version, "v", "v", false, "print name and version")
	_ = c.Flags().MarkHidden("v")
	return c
}

func (s *shell) serve(dev, once bool, log []string) error {
	path := config.FindFile(s.config, os.Getenv)
	if dev {
		var err error
		if path, err = s.prepare(); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, append([]os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}, moreSignals...)...)
	defer signal.Stop(signals)
	a, err := app.New(ctx, app.Options{ConfigPath: path, StateDir: s.stateDir, Debug: s.debug, Log: log, Once: once, Stderr: s.err})
	if err != nil {
		return err
	}
	if w := foreignRoot(a.StateDir); w != "" {
		fmt.Fprintln(s.err, "madmail: warning:", w)
	}
	if dev {
		if err := s.welcome(ctx, a, path); err != nil {
			fmt.Fprintln(s.err, "madmail: warning:", err)
		}
	}
	again := false
	for !once && !again {
		select {
		case sig := <-signals:
			if once = sig == os.Interrupt || sig == syscall.SIGTERM; !once {
				s.react(ctx, a, sig)
			}
		case <-a.Restart():
			again = true
		}
	}
	ending, cancel := context.WithTimeout(context.Background(), 6500*time.Millisecond) // a service manager kills after 7 s
	defer cancel()
	go func() { // a second signal ends at once; this ends with the process or after it
		for {
			select {
			case sig := <-signals:
				if sig == os.Interrupt || sig == syscall.SIGTERM {
					os.Exit(failed)
				}
			case <-ending.Done():
				return
			}
		}
	}()
	err = a.Stop(ending)
	if !again {
		if dev && err == nil {
			fmt.Fprintln(s.out, "\nStopped.")
		}
		return err
	}
	// What runs next may be another binary: this one was replaced meanwhile.
	return errors.Join(err, replace())
}

// prepare writes a first configuration where there is none.
func (s *shell) prepare() (string, error) {
	first := func(choices ...string) string {
		for _, c := range choices {
			if c != "" {
				return c
			}
		}
		return ""
	}
	s.stateDir = first(s.stateDir, os.Getenv("CHATMAIL_STATE_DIR"), os.Getenv("MADDY_STATE_DIR"), os.Getenv("MADMAIL_STATE_DIR"), "data")
	path := first(s.config, os.Getenv("CHATMAIL_CONFIG"), os.Getenv("MADDY_CONFIG"), filepath.Join(s.stateDir, "chatmail.toml"))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", fault.Wrap(fault.Invalid, err, "make the state directory")
	}
	return path, os.WriteFile(path, config.Starter{Privileged: app.MayBindLowPorts()}.Text(), 0o640)
}

// welcome says what to do next.
func (s *shell) welcome(ctx context.Context, a *app.App, path string) error {
	fmt.Fprintf(s.out, "madmail %s is running. State: %s, configuration: %s\n\n", version.Version, a.StateDir, path)
	if !app.MayBindLowPorts() {
		fmt.Fprintln(s.out, "As an ordinary user it uses ports above 1023 (make dev-bind-cap allows the usual ones).")
	}
	for _, l := range a.Listeners() {
		fmt.Fprintf(s.out, "  %-15s %s\n", l.Name, l.Addr)
	}
	fmt.Fprintf(s.out, "\nInvite page: %s\n", a.URL())
	if a.Accounts() > 0 {
		fmt.Fprintf(s.out, "Accounts: %d. Another one: madmail accounts create-random --state-dir %s\n\nCtrl-C stops the server.\n", a.Accounts(), a.StateDir)
		return nil
	}
	link, err := a.FirstAccount(ctx)
	if err != nil {
		return err
	}
	code, err := invite.Terminal(link)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\nA first account. Paste the link into Delta Chat on this machine, or scan the code:\n\n%s\n\n%s\nCtrl-C stops the server.\n", link, code)
	return nil
}

func (s *shell) version() *cobra.Command {
	var verbose bool
	c := &cobra.Command{Use: "version", Short: "Print name and version", Args: cobra.NoArgs, Example: "  madmail version -v",
		RunE: func(*cobra.Command, []string) error {
			data := map[string]string{"name": version.Name, "version": version.Version, "build": version.BuildID(), "platform": version.Platform()}
			return s.result("version", "", data, func(w io.Writer) {
				fmt.Fprintln(w, version.Name, version.Version)
				if verbose {
					fmt.Fprintf(w, "build %s\nplatform %s\n", version.BuildID(), version.Platform())
				}
			})
		}}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "also build and platform")
	return c
}

func (s *shell) status() *cobra.Command {
	var details bool
	c := &cobra.Command{Use: "status", Short: "Tell how the server is", Args: cobra.NoArgs, Example: "  madmail status -d\n  madmail status --json",
		RunE: func(*cobra.Command, []string) error {
			var st ops.Status
			if err := s.call("status", nil, &st); err != nil {
				return err
			}
			if !details {
				st.Ports = nil
			}
			return s.result("status", "", st, func(w io.Writer) {
				if !st.Running {
					fmt.Fprintln(w, "server: not running")
				}
				for _, v := range st.Services {
					if v.Name == "TURN" {
						fmt.Fprintf(w, "%-15s relays: %d\n", v.Name, v.Connections)
						continue
					}
					fmt.Fprintf(w, "%-15s connections: %-6d unique IPs: %d\n", v.Name, v.Connections, v.UniqueIPs)
				}
				if details && st.Running {
					fmt.Fprintln(w, "\nPer-port breakdown:\nPORT\tPROTO\tTYPE\tCONNECTIONS\tUNIQUE IPs")
					for _, p := range st.Ports {
						unique, what := "-", ""
						if p.UniqueIPs != nil {
							unique = strconv.Itoa(*p.UniqueIPs)
						} else if p.Service == "TURN" {
							what = " relays"
						}
						fmt.Fprintf(w, "%d\t%s\t%s\t%d%s\t%s\n", p.Port, p.Proto, p.Label, p.Connections, what, unique)
					}
				}
				fmt.Fprintf(w, "\nRegistered users:   %d\n", st.RegisteredUsers)
				if st.OpenRelay {
					fmt.Fprintln(w, "Open relay:         strangers can send to anybody through this server (madmail openrelay disable)")
				}
				if t := st.Tracker; t != nil {
					boot, _ := time.Parse(time.RFC3339, st.BootTime)
					fmt.Fprintf(w, "Boot time:          %s (up %s)\n", boot.UTC().Format("2006-01-02 15:04:05 MST"), uptime(st.Uptime))
					fmt.Fprintf(w, "\nEmail servers seen (since last restart):\n  Connection IPs:   %d\n  Domain servers:   %d\n  IP servers:       %d\n", t.IPs, t.Domains, t.IPServers)
				}
			})
		}}
	c.Flags().BoolVarP(&details, "details", "d", false, "also the ports")
	return c
}

// uptime is a time since a start as people read it: 1d 2h 3m.
func uptime(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd %dh %dm", d/(24*time.Hour), d/time.Hour%24, d/time.Minute%60)
	case d >= time.Hour:
		return fmt.Sprintf("%dh %dm", d/time.Hour, d/time.Minute%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm %ds", d/time.Minute, d/time.Second%60)
	}
	return fmt.Sprintf("%ds", seconds)
}

func (s *shell) adminToken() *cobra.Command {
	var raw, noQR, rotate bool
	c := &cobra.Command{Use: "admin-token", Short: "Show the token of the admin API", Args: cobra.NoArgs, Example: "  madmail admin-token --raw",
		RunE: func(*cobra.Command, []string) error {
			var t ops.AdminToken
			if err := s.call("admin-token", map[string]bool{"Rotate": rotate}, &t); err != nil {
				return err
			}
			if raw && !s.json {
				_, err := io.WriteString(s.out, t.Token)
				return err
			}
			return s.result("admin-token", "", t, func(w io.Writer) {
				fmt.Fprintf(w, "\n  Admin API URL:   %s\n  Admin Token:     %s\n\n", t.APIURL, t.Token)
				link := panelLink(t)
				if f, ok := w.(*os.File); ok && !noQR && term.IsTerminal(int(f.Fd())) {
					if code, err := invite.Terminal(link); err == nil {
						fmt.Fprintln(w, code)
					}
				}
				fmt.Fprintf(w, "  %s\n\n", link)
			})
		}}
	c.Flags().BoolVar(&raw, "raw", false, "the token alone, without a line end")
	c.Flags().BoolVar(&noQR, "no-qr", false, "no QR code of the link")
	c.Flags().BoolVar(&rotate, "rotate", false, "make a new token; the old one stops working")
	return c
}

// panelLink opens the operators' page, logged in: that of the server, or the one for
// any server. What follows the # stays in the browser.
func panelLink(t ops.AdminToken) string {
	panel := cmp.Or(t.PanelURL, "https://admin.madmail.chat/") + "#"
	b, err := json.Marshal(map[string]string{"u": t.APIURL, "t": t.Token})
	if err != nil {
		return panel // cannot be: these are strings
	}
	return panel + base64.RawURLEncoding.EncodeToString(b)
}

func (s *shell) registration() *cobra.Command {
	c := s.group("registration", "Show or change whether accounts can be made", "  madmail registration status\n  madmail registration close")
	sub := func(use, short string, open *bool, aliases ...string) {
		c.AddCommand(&cobra.Command{Use: use, Aliases: aliases, Short: short, Args: cobra.NoArgs, Example: "  madmail registration " + use,
			RunE: func(*cobra.Command, []string) error {
				var r ops.Registration
				if err := s.call("registration", map[string]*bool{"Open": open}, &r); err != nil {
					return err
				}
				return s.result("registration "+use, "", r, func(w io.Writer) {
					word := map[bool]string{true: "OPEN", false: "CLOSED"}[r.Open]
					if open != nil {
						fmt.Fprintln(w, "Registration is now", word)
					} else {
						fmt.Fprintln(w, "Registration is", word)
					}
					if r.JIT != r.Open {
						fmt.Fprintln(w, "JIT registration is", map[bool]string{true: "ENABLED: a first login makes an account", false: "DISABLED: first logins make no accounts"}[r.JIT])
					}
				})
			}})
	}
	yes, no := true, false
	sub("open", "Let anybody make an account", &yes)
	sub("close", "Let nobody make an account without an invitation", &no, "closed")
	sub("status", "Tell whether registration is open", nil)
	return c
}

// confirm asks on stderr; a program is never asked.
func (s *shell) confirm(question string, yes bool) bool {
	if yes {
		return true
	}
	if f, ok := s.in.(*os.File); s.json && (!ok || !term.IsTerminal(int(f.Fd()))) {
		return false
	}
	fmt.Fprintf(s.err, "%s [y/N] ", question)
	line, _ := bufio.NewReader(s.in).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	return false
}

// password returns what was given, or reads one: without echo from a terminal, else a line.
func (s *shell) password(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if f, ok := s.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(s.err, "Password: ")
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(s.err)
		return string(b), err
	}
	line, err := bufio.NewReader(s.in).ReadString('\n')
	if line == "" && err != nil {
		return "", fault.New(fault.Invalid, "no password on standard input; use -p")
	}
	return strings.TrimRight(line, "\r\n"), nil
}

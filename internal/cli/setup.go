package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/control"
	"madmail/internal/fault"
	"madmail/internal/setup"
)

// layoutFlags are the flags that say where things are.
func layoutFlags(c *cobra.Command, l *setup.Layout, root *string) {
	f := c.Flags()
	f.StringVar(&l.Name, "binary-name", "", "`name` of the program, from which all paths derive; that of this one without it")
	f.StringVar(&l.Service, "service-name", "", "`name` of the service, when it is another one")
	f.StringVar(&l.ConfigDir, "config-dir", "", "`directory` of the configuration; /etc/NAME without it")
	f.StringVar(&l.Binary, "binary-path", "", "`path` of the program; /usr/local/bin/NAME without it")
	f.StringVar(&l.UnitDir, "systemd-path", "", "`directory` of the unit; /etc/systemd/system without it")
	f.StringVar(&l.User, "user", "", "`user` of the service; NAME without it")
	f.StringVar(&l.Group, "group", "", "`group` of the service; that of the user without it")
	f.StringVar(root, "root", "", "do it below this `directory`, for an image of a machine; no program is run")
	for _, alias := range [][2]string{{"maddy-user", "user"}, {"maddy-group", "group"}} {
		f.Var(f.Lookup(alias[1]).Value, alias[0], "same as --"+alias[1])
		_ = f.MarkHidden(alias[0])
	}
}

// ourName is a name that was given, or that of this program.
func ourName(given string) string {
	if given == "" {
		return config.BinaryName()
	}
	return given
}

// mayChange refuses what only root can do, before anything is half done.
func mayChange(root string) error {
	if root == "" && os.Geteuid() != 0 {
		return fault.WithHint(fault.New(fault.Refused, "this changes the system: run it as root"), "--dry-run shows what it would do; --root DIR does it elsewhere")
	}
	return nil
}

// gone are flags of earlier versions whose parts this version does not have, and what
// to do instead. Given they are an error: nobody shall believe that they worked.
var gone = map[string]string{
	"cloudflare":                   "\"madmail dns\" prints the records",
	"allow-unencrypted-submission": "only encrypted mail is carried",
	"pgp-passthrough-senders":      "only encrypted mail is carried",
	"pgp-passthrough-recipients":   "only encrypted mail is carried",
	"turn-off-tls":                 "clients that join by a link accept the self-signed certificate",
}

// always are flags that ask for what is so in any case.
var always = []string{"enable-chatmail", "require-pgp-encryption", "allow-secure-join", "skip-dns", "skip-sync", "generate-certs", "disable-turn", "no-turn", "install-service"}

func (s *shell) install() *cobra.Command {
	var o setup.Options
	var root, cache string
	var quiet, simple, dry, certOnly, rules, later bool
	c := &cobra.Command{Use: "install", Short: "Put the server on this machine: user, directories, configuration, certificate, service", Args: cobra.NoArgs,
		Example: "  madmail install --domain chat.example.org --start-service\n  madmail install --simple --ip 192.0.2.1\n  madmail install --domain chat.example.org --dry-run",
		RunE: func(c *cobra.Command, _ []string) error {
			for name, instead := range gone {
				if c.Flags().Changed(name) {
					return fault.WithHint(fault.Newf(fault.Invalid, "--%s: this version does not do that", name), instead)
				}
			}
			explicit := o.ConfigDir != "" || s.stateDir != ""
			o.StateDir, o.Name = s.stateDir, ourName(o.Name)
			if simple {
				o.TURN, o.SS = true, true
			}
			if f, ok := s.in.(*os.File); !quiet && !simple && !s.json && ok && term.IsTerminal(int(f.Fd())) {
				if err := s.askForInstall(&o); err != nil {
					return err
				}
			}
			if certOnly {
				o.Obtain = true
			}
			o.Obtain = o.Obtain && !later && root == ""
			if !dry && !certOnly {
				var err error
				if o.Program, err = os.Executable(); err != nil {
					return fault.Wrap(fault.Internal, err, "install")
				}
			} else if dry {
				o.Program = os.Args[0]
			}
			// With paths of one's own the machine's directories are left alone.
			if !explicit || root != "" {
				if err := documents(c.Root(), &o); err != nil {
					return err
				}
			}
			return s.carryInstall(setup.Machine(root), o, installing{root: root, dry: dry, certOnly: certOnly, explicit: explicit, rules: rules})
		}}
	layoutFlags(c, &o.Layout, &root)
	f := c.Flags()
	f.BoolVarP(&quiet, "non-interactive", "n", false, "ask nothing")
	f.BoolVarP(&simple, "simple", "s", false, "ask nothing, and serve calls and Shadowsocks with secrets that are drawn")
	f.StringVar(&o.Domain, "domain", "", "`domain` of the addresses")
	f.StringVar(&o.Hostname, "hostname", "", "`name` of this machine; the domain without it")
	f.StringVar(&o.IP, "ip", "", "public `address` of this machine; it is the domain when there is none")
	f.StringVar(&o.TLSMode, "tls-mode", "", "autocert, acme, file or self_signed; without it file where there is a pair, autocert for a domain, self_signed for an address")
	f.StringVar(&o.Cert, "cert-path", "", "certificate `file`, with its chain")
	f.StringVar(&o.Key, "key-path", "", "key `file`")
	f.StringVar(&o.ACMEEmail, "acme-email", "", "`address` where the authority reaches you")
	f.BoolVar(&o.AutoIPCert, "auto-ip-cert", false, "order a certificate for an IP address, too")
	f.StringVar(&o.DNSProvider, "acme-dns-provider", "", "`name` of who has the domain, for --tls-mode acme: "+strings.Join(providers(), ", "))
	f.StringVar(&o.DNSToken, "acme-dns-token", "", "`secret` that lets records of the domain be changed")
	f.BoolVar(&o.Staging, "staging", false, "order certificates for tests only, that nobody trusts")
	f.BoolVar(&o.Obtain, "obtain-certificate", false, "order a certificate now; the server does it at its start otherwise")
	f.BoolVar(&later, "no-obtain-certificate", false, "order none now, also with --cert-only")
	f.StringVar(&o.HTTPListen, "http-listen", "", "where the invite page listens without TLS ([::]:80)")
	f.StringVar(&o.Language, "lang", "", "`language` of the pages: en, fa, ru or es")
	f.StringVar(&o.MaxMessageSize, "max-message-size", "", "largest message, as in 100M")
	f.BoolVar(&o.TURN, "enable-turn", false, "relay calls")
	f.BoolVar(&o.Sharing, "enable-contact-sharing", false, "let visitors make contact pages")
	f.StringVar(&o.TURNServer, "turn-server", "", "`name` that clients are told for calls")
	f.StringVar(&o.TURNSecret, "turn-secret", "", "`secret` for calls; drawn without it")
	f.BoolVar(&o.SS, "enable-ss", false, "serve Shadowsocks")
	f.StringVar(&o.SSPassword, "ss-password", "", "`password` of Shadowsocks; drawn without it")
	f.BoolVar(&o.Iroh, "enable-iroh", false, "relay realtime apps")
	f.BoolVar(&o.SkipUser, "skip-user", false, "make no user")
	f.BoolVar(&o.SkipUnit, "skip-systemd", false, "write no unit")
	f.BoolVar(&o.Start, "start-service", false, "start the service, now and at each boot")
	f.BoolVar(&o.Force, "force", false, "replace a configuration that is there; a copy is kept as .bak")
	f.BoolVar(&certOnly, "cert-only", false, "do no more than the certificate needs")
	f.BoolVar(&rules, "firewall", false, "print what a firewall has to let in")
	f.BoolVar(&dry, "dry-run", false, "do nothing, and say what would be done")
	f.StringVar(&cache, "cache-dir", "", "accepted; there is no cache")
	f.StringVar(&cache, "libexec-dir", "", "accepted; there are no helpers")
	f.StringVar(&cache, "iroh-port", "", "accepted; \"madmail port iroh set\" changes it")
	for _, name := range []string{"cache-dir", "libexec-dir", "iroh-port"} {
		_ = f.MarkHidden(name)
	}
	for name := range gone {
		f.String(name, "", "not in this version")
		f.Lookup(name).NoOptDefVal = "yes"
		_ = f.MarkHidden(name)
	}
	for _, name := range always {
		f.Bool(name, false, "accepted; it is so in any case")
		_ = f.MarkHidden(name)
	}
	return c
}

// providers are those that a token is enough for.
func providers() []string {
	return slices.DeleteFunc(certs.Providers(), func(p string) bool { return p == "rfc2136" })
}

// documents writes what is installed beside the program.
func documents(root *cobra.Command, o *setup.Options) error {
	var man, bash, zsh, fish bytes.Buffer
	Manual(&man)
	if err := errors.Join(root.GenBashCompletionV2(&bash, true), root.GenZshCompletion(&zsh), root.GenFishCompletion(&fish, true)); err != nil {
		return err
	}
	o.Man, o.Bash, o.Zsh, o.Fish = man.Bytes(), bash.Bytes(), zsh.Bytes(), fish.Bytes()
	return nil
}

// askForInstall asks what was not said, each with what is taken without an answer.
func (s *shell) askForInstall(o *setup.Options) error {
	in := bufio.NewReader(s.in)
	ask := func(question, usual string) (string, error) {
		fmt.Fprintf(s.err, "%s [%s] ", question, usual)
		line, err := in.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if line = strings.TrimSpace(line); line == "" {
			line = usual
		}
		return line, nil
	}
	var err error
	text := func(at *string, question, usual string) {
		if *at == "" && err == nil {
			*at, err = ask(question, usual)
		}
	}
	yes := func(at *bool, question string) {
		var answer string
		if !*at && err == nil {
			answer, err = ask(question, "no")
			*at = strings.HasPrefix(strings.ToLower(answer), "y")
		}
	}
	name, _ := os.Hostname()
	if o.Domain == "" && o.IP != "" {
		o.Domain = o.IP
	}
	text(&o.Domain, "Domain of the addresses, or the IP address of this machine:", name)
	text(&o.Hostname, "Name of this machine:", o.Domain)
	usual := "autocert"
	if _, err := netip.ParseAddr(strings.Trim(o.Domain, "[]")); err == nil || !strings.Contains(o.Hostname, ".") {
		usual = "self_signed"
	}
	text(&o.TLSMode, "Certificate, autocert, acme, file or self_signed:", usual)
	switch o.TLSMode {
	case "autocert", "acme":
		text(&o.ACMEEmail, "Address where the authority reaches you, may be empty:", "")
		if o.TLSMode == "acme" {
			text(&o.DNSProvider, "Who has the domain, "+strings.Join(providers(), ", ")+":", "cloudflare")
			text(&o.DNSToken, "Secret that lets records be changed:", "")
		}
	case "file":
		text(&o.Cert, "Certificate file:", filepath.Join("/etc", o.Name, "certs/fullchain.pem"))
		text(&o.Key, "Key file:", filepath.Join("/etc", o.Name, "certs/privkey.pem"))
	}
	yes(&o.TURN, "Relay calls?")
	yes(&o.SS, "Serve Shadowsocks, for networks that block mail ports?")
	text(&o.Language, "Language of the pages, en, fa, ru or es:", "en")
	return err
}

// installing is how it is done.
type installing struct {
	root                           string
	dry, certOnly, explicit, rules bool
}

func (s *shell) carryInstall(m setup.System, o setup.Options, how installing) error {
	steps, done, err := m.Install(o)
	if err != nil {
		return err
	}
	if how.certOnly {
		steps = certificateSteps(steps)
	}
	if how.dry {
		return s.result("install", "", map[string]any{"dry_run": true, "primary_domain": done.Domain, "steps": setup.Texts(steps)}, func(w io.Writer) {
			for _, t := range setup.Texts(steps) {
				fmt.Fprintln(w, "would do:", t)
			}
		})
	}
	if err := mayChange(how.root); err != nil && !(how.explicit && o.SkipUser) {
		return err
	}
	l := o.Fill()
	err = setup.Carry(context.Background(), steps, func(text string) {
		if !s.json {
			fmt.Fprintln(s.err, text)
		}
	})
	if err != nil {
		return err
	}
	if done.Trouble != nil {
		fmt.Fprintf(s.err, "Warning: no certificate was obtained, a self-signed one is in its place: %v\n", done.Trouble)
		hint := fault.HintOf(done.Trouble)
		if hint == "" {
			hint = "the server tries again; \"madmail certificate get\" does it now"
		}
		fmt.Fprintln(s.err, "Hint:", hint)
	}
	if how.certOnly {
		data := map[string]any{"cert_only": true, "primary_domain": done.Domain, "tls_mode": done.TLSMode, "cert_path": done.Cert, "key_path": done.Key, "action": done.Ordered}
		return s.result("install", "", data, func(w io.Writer) { fmt.Fprintln(w, "Certificate:", done.Cert) })
	}
	data := map[string]any{
		"installed": true, "primary_domain": done.Domain, "paths_explicit": how.explicit, "config": done.Config, "config_path": done.Config, "config_kept": done.ConfigKept,
		"state_dir": l.StateDir, "service_installed": done.Unit, "service_started": done.Started, "firewall_applied": false, "man_page": o.Man != nil, "completions": o.Bash != nil,
	}
	return s.result("install", "", data, func(w io.Writer) {
		fmt.Fprintf(w, "\nInstalled for %s.\n", done.Domain)
		if done.ConfigKept {
			fmt.Fprintf(w, "The configuration was there and stays as it is: %s\n", done.Config)
		}
		if how.rules || o.TURN || o.SS {
			fmt.Fprintln(w, "\nA firewall has to let in:")
			for _, p := range setup.Ports(o.TURN, o.SS, false) {
				fmt.Fprintln(w, " ", p)
			}
		}
		fmt.Fprintln(w, "\nNext:")
		if done.Unit && !done.Started {
			fmt.Fprintln(w, "  systemctl enable --now", l.Service)
		}
		fmt.Fprintf(w, "  %s dns --print-only         the records that your domain needs\n  %s doctor                   is everything as it should be?\n  %s accounts create-random   a first account\n", l.Name, l.Name, l.Name)
	})
}

// certificateSteps are those that a certificate needs.
func certificateSteps(all []setup.Step) (list []setup.Step) {
	for _, s := range all {
		if strings.HasPrefix(s.Text, "user") || strings.HasPrefix(s.Text, "directory") || strings.Contains(s.Text, "certificate") {
			list = append(list, s)
		}
	}
	return list
}

func (s *shell) uninstall() *cobra.Command {
	var r setup.Removal
	var root, log string
	var yes, dry bool
	c := &cobra.Command{Use: "uninstall", Short: "Take the server off this machine", Args: cobra.NoArgs,
		Example: "  madmail uninstall --keep-data\n  madmail uninstall --dry-run",
		RunE: func(*cobra.Command, []string) error {
			m := setup.Machine(root)
			r.StateDir, r.Name = s.stateDir, ourName(r.Name)
			steps, err := m.Uninstall(r)
			if err != nil {
				return err
			}
			if len(steps) == 0 {
				return s.result("uninstall", "", map[string]any{"found": false}, func(w io.Writer) { fmt.Fprintln(w, "Nothing of it is installed.") })
			}
			texts := setup.Texts(steps)
			data := map[string]any{"uninstalled": !dry, "binary": r.Fill().Binary, "dry_run": dry, "keep_data": r.KeepData, "removed": texts}
			if dry {
				return s.result("uninstall", "", data, func(w io.Writer) {
					for _, t := range texts {
						fmt.Fprintln(w, "would do:", t)
					}
				})
			}
			if err := mayChange(root); err != nil {
				return err
			}
			yes = yes || r.Force // earlier versions have no other word for it
			if !yes && !s.json {
				for _, t := range texts {
					fmt.Fprintln(s.err, " ", t)
				}
			}
			if !s.confirm("Are you sure you want to proceed with uninstallation", yes) {
				return s.aborted("uninstall")
			}
			l := r.Fill()
			if conf, err := config.Load(l.Config()); err == nil && root == "" && !m.Manager && control.Answers(context.Background(), conf.FindRuntimeDir(l.StateDir)) {
				return fault.WithHint(fault.New(fault.Busy, "the server is running"), "stop it first")
			}
			var carried []string
			err = setup.Carry(context.Background(), steps, func(t string) {
				carried = append(carried, t)
				if !s.json {
					fmt.Fprintln(s.err, t)
				}
			})
			if err == nil {
				carried = append(carried, "done")
			}
			if log == "" {
				log = "/var/log/" + l.Name + "-uninstall.log"
			}
			if err := errors.Join(err, m.Log(log, carried)); err != nil {
				return err
			}
			return s.result("uninstall", "", data, func(w io.Writer) {
				if r.KeepData {
					fmt.Fprintln(w, "Uninstalled. The data stay where they are.")
					return
				}
				fmt.Fprintln(w, "Uninstalled.")
			})
		}}
	layoutFlags(c, &r.Layout, &root)
	f := c.Flags()
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.BoolVar(&r.Force, "force", false, "do not ask, and remove the user even where data stay")
	f.BoolVar(&r.KeepData, "keep-data", false, "leave mail, accounts, keys and logs, and the user who owns them")
	f.BoolVar(&r.KeepUser, "keep-user", false, "leave the user")
	f.BoolVar(&r.KeepConfig, "keep-config", false, "leave the configuration")
	f.BoolVar(&r.KeepBinary, "keep-binary", false, "leave the program")
	f.BoolVar(&dry, "dry-run", false, "do nothing, and say what would be done")
	f.StringVar(&log, "log-file", "", "write what was done to this `file`; /var/log/NAME-uninstall.log without it")
	return c
}

// service is systemctl with the service's name.
func (s *shell) service() *cobra.Command {
	verb := func(word, short string) *cobra.Command {
		return &cobra.Command{Use: word, Short: short, Args: cobra.NoArgs, Example: "  madmail service " + word,
			RunE: func(*cobra.Command, []string) error {
				m := setup.Machine("")
				if !m.Manager {
					return fault.WithHint(fault.New(fault.NotFound, "systemd does not run here"), `"madmail run" starts the server`)
				}
				args := []string{word, config.BinaryName()}
				if word == "status" {
					args = append(args, "--no-pager")
				}
				out, err := m.Run(context.Background(), "systemctl", args...)
				if err != nil {
					return err
				}
				return s.result("service "+word, "", map[string]string{"service": config.BinaryName(), "output": out}, func(w io.Writer) {
					if out != "" {
						fmt.Fprintln(w, out)
					}
				})
			}}
	}
	install := &cobra.Command{Use: "install", Short: "Write the unit alone, for the configuration that is there", Args: cobra.NoArgs, Example: "  madmail service install",
		RunE: func(*cobra.Command, []string) error {
			if err := mayChange(""); err != nil {
				return err
			}
			l := setup.Layout{Name: config.BinaryName(), StateDir: s.stateDir}.Fill()
			if err := setup.Machine("").InstallUnit(context.Background(), l); err != nil {
				return err
			}
			m := "Wrote " + l.Unit()
			return s.result("service install", m, map[string]string{"unit": l.Unit()}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	uninstall := &cobra.Command{Use: "uninstall", Short: "Stop the service and remove its unit; all else stays", Args: cobra.NoArgs, Example: "  madmail service uninstall",
		RunE: func(*cobra.Command, []string) error {
			if err := mayChange(""); err != nil {
				return err
			}
			l := setup.Layout{Name: config.BinaryName()}.Fill()
			if err := setup.Machine("").RemoveUnit(context.Background(), l); err != nil {
				return err
			}
			m := "Removed " + l.Unit()
			return s.result("service uninstall", m, map[string]string{"unit": l.Unit()}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	return s.group("service", "Start, stop and see the service that systemd runs", "  madmail service status", install, uninstall,
		verb("start", "Start it"), verb("stop", "Stop it"), verb("status", "Show how it is"))
}

// firewall prints the rules. It changes none: what a machine has, others manage.
func (s *shell) firewall() *cobra.Command {
	rule := func(use, short, ufw, iptables string) *cobra.Command {
		var turn, ss, iroh bool
		c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Example: "  madmail firewall " + use + " --turn",
			RunE: func(*cobra.Command, []string) error {
				list := setup.Rules(turn, ss, iroh)
				return s.result("firewall "+use, "", map[string]any{"applied": false, "rules": list}, func(w io.Writer) {
					fmt.Fprintln(w, "# Nothing was changed. With ufw:")
					for _, r := range list {
						fmt.Fprintln(w, ufw, r)
					}
					fmt.Fprintln(w, "# With iptables, and the same with ip6tables:")
					for _, r := range list {
						port, proto, _ := strings.Cut(r, "/")
						fmt.Fprintf(w, "iptables %s INPUT -p %s --dport %s -j ACCEPT\n", iptables, proto, port)
					}
				})
			}}
		c.Flags().BoolVar(&turn, "turn", false, "with those for calls")
		c.Flags().BoolVar(&ss, "ss", false, "with that of Shadowsocks")
		c.Flags().BoolVar(&iroh, "iroh", false, "with that of realtime apps")
		return c
	}
	return s.group("firewall", "Print what a firewall has to let in", "  madmail firewall apply --turn",
		rule("apply", "Print the commands that let it in", "ufw allow", "-I"), rule("remove", "Print the commands that take it back", "ufw delete allow", "-D"))
}

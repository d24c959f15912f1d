package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/safefile"
	"madmail/internal/settings"
	"madmail/internal/units"
)

// accountsExport writes the accounts for another server.
func (s *shell) accountsExport() *cobra.Command {
	var file string
	var full bool
	c := &cobra.Command{Use: "export", Short: "Write the accounts with their password hashes, for another server", Args: cobra.NoArgs,
		Example: "  madmail accounts export -o accounts.json\n  madmail accounts export --full -o everything.json",
		RunE: func(*cobra.Command, []string) error {
			var r ops.Exported
			if err := s.call("accounts.export", map[string]bool{"Full": full}, &r); err != nil {
				return err
			}
			list := r.Users
			if !full {
				list = make([]ops.Transfer, len(r.Users))
				for i, u := range r.Users {
					list[i] = ops.Transfer{Username: u.Username, Hash: u.Hash}
				}
			}
			if file == "" {
				if s.json {
					return s.result("accounts export", "", map[string]any{"accounts": list, "users": list}, nil)
				}
				e := encoder(s.out)
				e.SetIndent("", "  ")
				return e.Encode(list)
			}
			raw, err := json.MarshalIndent(list, "", "  ")
			if err != nil {
				return err
			}
			if err := safefile.Write(file, append(raw, '\n'), 0o600); err != nil {
				return err
			}
			m := fmt.Sprintf("Exported %d accounts to %s", len(list), file)
			return s.result("accounts export", m, map[string]any{"count": len(list), "output": file}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().StringVarP(&file, "output", "o", "", "write to a `file` that only its owner can read")
	c.Flags().BoolVar(&full, "full", false, "limits of storage and of messages, times and blocks, too")
	return c
}

// importPart bounds the octets of accounts that go to the server at a time, and
// importRows their number.
const (
	importPart = 512 << 10
	importRows = 500
)

func (s *shell) accountsImport() *cobra.Command {
	return &cobra.Command{Use: "import FILE", Short: "Take accounts over from another server; - reads standard input", Args: cobra.ExactArgs(1),
		Example: "  madmail accounts import accounts.json",
		RunE: func(_ *cobra.Command, args []string) error {
			in := s.in
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fault.Wrap(fault.Invalid, err, "accounts import")
				}
				defer f.Close()
				in = f
			}
			total := ops.Imported{Errors: []string{}}
			if err := s.importFrom(in, &total); err != nil {
				if total.Imported > 0 {
					err = fault.WithHint(err, fmt.Sprintf("%d account(s) were imported before; run it again with a file that is right, they stay as they are", total.Imported))
				}
				return err
			}
			m := fmt.Sprintf("Imported %d account(s)", total.Imported)
			err := s.result("accounts import", m, total, func(w io.Writer) {
				fmt.Fprintf(w, "Imported: %d, skipped: %d\n", total.Imported, total.Skipped)
				for _, e := range total.Errors {
					fmt.Fprintln(s.err, e)
				}
			})
			if err == nil && total.Imported == 0 && len(total.Errors) > 0 {
				return fault.New(fault.Refused, "nothing was imported")
			}
			return err
		}}
}

// importFrom reads a list of accounts row by row, and hands it on in parts: each is
// one message to the server.
func (s *shell) importFrom(in io.Reader, total *ops.Imported) error {
	wrong := func(err error) error {
		return fault.WithHint(fault.Wrap(fault.Invalid, err, "accounts import"), `the file is a list: [{"username":"a@example.org","hash":"..."}]`)
	}
	rows := json.NewDecoder(in)
	if t, err := rows.Token(); err != nil {
		return wrong(err)
	} else if t != json.Delim('[') {
		return wrong(errors.New("no list"))
	}
	var part []ops.Transfer
	octets := 0
	flush := func() error {
		if len(part) == 0 {
			return nil
		}
		var r ops.Imported
		if err := s.call("accounts.import", ops.Transfers{Users: part}, &r); err != nil {
			return err
		}
		total.Imported += r.Imported
		total.Skipped += r.Skipped
		total.Errors = append(total.Errors, r.Errors...)
		if rows.More() {
			s.say("%d accounts are imported, %d skipped so far", total.Imported, total.Skipped)
		}
		part, octets = part[:0], 0
		return nil
	}
	for rows.More() {
		from := rows.InputOffset()
		var t ops.Transfer
		if err := rows.Decode(&t); err != nil {
			return errors.Join(wrong(err), flush())
		}
		n := int(rows.InputOffset() - from)
		if n > importPart {
			return wrong(errors.New("a row is too long"))
		}
		if len(part) == importRows || octets+n > importPart {
			if err := flush(); err != nil {
				return err
			}
		}
		part, octets = append(part, t), octets+n
	}
	if _, err := rows.Token(); err != nil {
		return errors.Join(wrong(err), flush())
	}
	return flush()
}

func (s *shell) accountsDeleteAll() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "delete-all", Short: "Remove every account with its mail, and block the names", Args: cobra.NoArgs, Example: "  madmail accounts delete-all --yes",
		RunE: func(*cobra.Command, []string) error {
			var st ops.QuotaStatus
			if err := s.call("quota.status", nil, &st); err != nil {
				return err
			}
			if !s.confirm(fmt.Sprintf("Delete ALL %d user accounts (destructive)?", st.Accounts), yes) {
				return s.aborted("accounts delete-all")
			}
			var r ops.Bulk
			if err := s.call("accounts.delete-all", nil, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Deleted %d account(s).", r.Done)
			return s.result("accounts delete-all", m, map[string]any{"deleted": r.Done, "errors": r.Errors}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// quotaText is a limit for people.
func quotaText(n *int64) string {
	if n == nil {
		return "none"
	}
	return units.FormatSize(*n)
}

// quotaSize reads a limit: a size, "none" or "default".
func quotaSize(text string) (int64, error) {
	switch text {
	case "none", "unlimited", "-1":
		return -1, nil
	case "default":
		return 0, nil
	}
	n, err := units.ParseSize(text)
	if err == nil && n <= 0 {
		err = fault.New(fault.Invalid, "a limit is more than 0")
	}
	return n, err
}

// accountsQuota is "accounts quota", and "imap-acct quota" as the first version had it.
func (s *shell) accountsQuota(path string) *cobra.Command {
	show := func(command, word string, q ops.Quota) error {
		return s.result(command, "", q, func(w io.Writer) {
			fmt.Fprintf(w, "%s%s: %s used, limit %s", word, q.Username, units.FormatSize(q.UsedBytes), quotaText(q.MaxBytes))
			if q.IsDefault {
				fmt.Fprint(w, " (default)")
			}
			fmt.Fprintln(w)
		})
	}
	set := func(use, short, user string, n func([]string) (int64, error), args cobra.PositionalArgs, example string) *cobra.Command {
		name := path + " " + strings.Fields(use)[0]
		return &cobra.Command{Use: use, Short: short, Args: args, Example: "  madmail " + name + " " + example,
			RunE: func(_ *cobra.Command, a []string) error {
				size, err := n(a)
				if err != nil {
					return err
				}
				who := user
				if who == "" {
					who = a[0]
				}
				p := ops.QuotaChange{MaxBytes: size}
				if user == "" {
					p.Username = who
				}
				var q ops.Quota
				if err := s.call("quota.set", p, &q); err != nil {
					return err
				}
				if user != "" {
					return s.result(name, "", q, func(w io.Writer) { fmt.Fprintln(w, "Default limit:", quotaText(q.MaxBytes)) })
				}
				return show(name, "", q)
			}}
	}
	get := &cobra.Command{Use: "get USER", Short: "Show what an account stores and may store", Args: cobra.ExactArgs(1), Example: "  madmail " + path + " get alice",
		RunE: func(_ *cobra.Command, a []string) error {
			var q ops.Quota
			if err := s.call("quota.get", ops.User{Username: a[0]}, &q); err != nil {
				return err
			}
			return show(path+" get", "", q)
		}}
	status := &cobra.Command{Use: "status", Short: "Show what all store, and the default limit", Args: cobra.NoArgs, Example: "  madmail " + path + " status",
		RunE: func(*cobra.Command, []string) error {
			var q ops.QuotaStatus
			if err := s.call("quota.status", nil, &q); err != nil {
				return err
			}
			return s.result(path+" status", "", q, func(w io.Writer) {
				fmt.Fprintf(w, "Accounts: %d\nStored: %s\nDefault limit: %s\n", q.Accounts, units.FormatSize(q.TotalBytes), quotaText(q.DefaultBytes))
			})
		}}
	list := &cobra.Command{Use: "list", Short: "List what each account stores and may store", Args: cobra.NoArgs, Example: "  madmail " + path + " list",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Accounts []ops.AccountInfo `json:"accounts"`
			}
			if err := s.call("accounts.list", nil, &r); err != nil {
				return err
			}
			rows := make([]ops.Quota, len(r.Accounts))
			for i, a := range r.Accounts {
				rows[i] = ops.Quota{Username: a.Username, UsedBytes: a.UsedBytes, MaxBytes: a.MaxBytes, IsDefault: a.IsDefaultQuota}
			}
			return s.result(path+" list", "", map[string]any{"quotas": rows}, func(w io.Writer) {
				for _, q := range rows {
					fmt.Fprintf(w, "%s\t%s\t%s\n", q.Username, units.FormatSize(q.UsedBytes), quotaText(q.MaxBytes))
				}
			})
		}}
	return s.group("quota", "Show and change how much an account may store", "  madmail "+path+" get alice\n  madmail "+path+" set alice 2G", get,
		set("set USER SIZE", "Limit an account; SIZE is none for no limit", "", func(a []string) (int64, error) { return quotaSize(a[1]) }, cobra.ExactArgs(2), "alice 2G"),
		set("reset USER", "Let the default count for an account", "", func([]string) (int64, error) { return 0, nil }, cobra.ExactArgs(1), "alice"),
		set("set-default SIZE", "Limit all accounts that have no limit of their own", "*", func(a []string) (int64, error) { return quotaSize(a[0]) }, cobra.ExactArgs(1), "1G"), status, list)
}

// messageSize shows and changes the largest message.
func (s *shell) messageSize() *cobra.Command {
	run := func(command string, p ops.SizeChange) error {
		var m ops.MessageSize
		if err := s.call("message-size", p, &m); err != nil {
			return err
		}
		return s.result(command, "", m, func(w io.Writer) {
			fmt.Fprintf(w, "Largest message: %s (%s)\n", m.Effective, m.Source)
			if m.Applied != "" {
				fmt.Fprintln(w, m.Applied)
			}
		})
	}
	status := &cobra.Command{Use: "status", Short: "Show the largest message", Args: cobra.NoArgs, Example: "  madmail message-size status",
		RunE: func(*cobra.Command, []string) error { return run("message-size status", ops.SizeChange{}) }}
	return s.orStatus(s.group("message-size", "Show and change the largest message", "  madmail message-size set 50M", status,
		&cobra.Command{Use: "set SIZE", Short: "Store a size, as in 50M", Args: cobra.ExactArgs(1), Example: "  madmail message-size set 50M",
			RunE: func(_ *cobra.Command, a []string) error { return run("message-size set", ops.SizeChange{Set: a[0]}) }},
		&cobra.Command{Use: "reset", Short: "Forget the stored size", Args: cobra.NoArgs, Example: "  madmail message-size reset",
			RunE: func(*cobra.Command, []string) error { return run("message-size reset", ops.SizeChange{Reset: true}) }}), status)
}

// orStatus lets a group alone mean one of its commands.
func (s *shell) orStatus(c, status *cobra.Command) *cobra.Command {
	group := c.RunE
	c.RunE = func(x *cobra.Command, args []string) error {
		if len(args) == 0 {
			return status.RunE(status, nil)
		}
		return group(x, args)
	}
	return c
}

func (s *shell) language() *cobra.Command {
	run := func(command string, p map[string]any) error {
		var l ops.Language
		if err := s.call("language", p, &l); err != nil {
			return err
		}
		return s.result(command, "", l, func(w io.Writer) { fmt.Fprintf(w, "Language: %s (%s)\n", l.Current, l.Source) })
	}
	status := &cobra.Command{Use: "status", Short: "Show the language of the public pages", Args: cobra.NoArgs, Example: "  madmail language status",
		RunE: func(*cobra.Command, []string) error { return run("language status", nil) }}
	return s.orStatus(s.group("language", "Show and change the language of the public pages", "  madmail language set fa", status,
		&cobra.Command{Use: "set LANGUAGE", Short: "en, fa, ru or es", Args: cobra.ExactArgs(1), Example: "  madmail language set fa",
			RunE: func(_ *cobra.Command, a []string) error { return run("language set", map[string]any{"Set": a[0]}) }},
		&cobra.Command{Use: "reset", Short: "Let the file say it again", Args: cobra.NoArgs, Example: "  madmail language reset",
			RunE: func(*cobra.Command, []string) error { return run("language reset", map[string]any{"Reset": true}) }}), status)
}

func (s *shell) tasks() *cobra.Command {
	line := func(w io.Writer, o ops.TaskDone) {
		if o.Skipped {
			fmt.Fprintf(w, "%s: skipped (%s)\n", o.Task, o.Detail)
			return
		}
		if o.Renewed != nil {
			fmt.Fprintf(w, "%s: %s\n", o.Task, map[bool]string{true: "there is a new certificate", false: "the certificate is good"}[*o.Renewed])
			return
		}
		fmt.Fprintf(w, "%s: deleted %d item(s)\n", o.Task, o.Deleted)
	}
	var age string
	run := &cobra.Command{Use: "run TASK", Short: "Run one task now", Args: cobra.ExactArgs(1), Example: "  madmail tasks run prune-old-messages --retention 30d",
		RunE: func(_ *cobra.Command, a []string) error {
			var o ops.TaskDone
			if err := s.call("tasks.run", ops.TaskRun{Task: a[0], Retention: age}, &o); err != nil {
				return err
			}
			return s.result("tasks run", "", o, func(w io.Writer) { line(w, o) })
		}}
	run.Flags().StringVar(&age, "retention", "", "an `age` instead of the configured one, as in 30d")
	return s.group("tasks", "See and run what keeps the house in order", "  madmail tasks list\n  madmail tasks run-all",
		&cobra.Command{Use: "list", Short: "List the tasks", Args: cobra.NoArgs, Example: "  madmail tasks list",
			RunE: func(*cobra.Command, []string) error {
				var r ops.Tasks
				if err := s.call("tasks.list", nil, &r); err != nil {
					return err
				}
				return s.result("tasks list", "", r, func(w io.Writer) {
					for _, t := range r.Tasks {
						on := "off"
						if t.Enabled {
							on = "on"
						}
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Name, on, t.Every, t.Description)
					}
				})
			}}, run,
		&cobra.Command{Use: "run-all", Short: "Run all tasks that are switched on", Args: cobra.NoArgs, Example: "  madmail tasks run-all",
			RunE: func(*cobra.Command, []string) error {
				var r map[string][]ops.TaskDone
				if err := s.call("tasks.run-all", nil, &r); err != nil {
					return err
				}
				return s.result("tasks run-all", "", r, func(w io.Writer) {
					for _, o := range r["outcomes"] {
						line(w, o)
					}
				})
			}})
}

// portLabels are how operators know the services.
var portLabels = map[string]string{
	"smtp": "SMTP (25)", "submission": "Submission (587)", "submission-tls": "Submission TLS (465)", "imap": "IMAP (143)", "imap-tls": "IMAP TLS (993)",
	"turn": "TURN (3478)", "sasl": "SASL (24)", "iroh": "Iroh (3340)", "shadowsocks": "Shadowsocks (8388)", "http": "HTTP (80)", "https": "HTTPS (443)",
}

func (s *shell) port() *cobra.Command {
	status := &cobra.Command{Use: "status", Short: "List the services with their ports", Args: cobra.NoArgs, Example: "  madmail port status",
		RunE: func(*cobra.Command, []string) error { return s.portStatus("port status", "") }}
	bound := &cobra.Command{Use: "bound", Short: "List the sockets that are bound at this moment", Args: cobra.NoArgs, Example: "  madmail port bound --json",
		RunE: func(*cobra.Command, []string) error {
			var b ops.Bound
			if err := s.call("ports.bound", nil, &b); err != nil {
				return err
			}
			return s.result("port bound", "", b, func(w io.Writer) {
				for _, l := range b.Listeners {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Service, l.Proto, l.Addr, l.Source)
				}
				if b.ServerIsNotRunning {
					fmt.Fprintln(w, "server: not running")
				}
			})
		}}
	c := s.group("port", "Show and change where services listen", "  madmail port status\n  madmail port imap-tls set 1993\n  madmail port http disable", status, bound)
	for _, name := range ops.PortNames() {
		c.AddCommand(s.portOf(name))
	}
	return s.orStatus(c, status)
}

func (s *shell) portStatus(command, only string) error {
	var r map[string][]ops.PortService
	if err := s.call("ports.status", nil, &r); err != nil {
		return err
	}
	list := r["services"]
	if only != "" {
		list = slices.DeleteFunc(list, func(p ops.PortService) bool { return p.Name != only })
	}
	data := map[string]any{"services": list}
	if only != "" && len(list) == 1 {
		data["name"], data["port"], data["mode"] = list[0].Name, list[0].Port, list[0].Mode
		if list[0].Enabled != nil {
			data["enabled"] = *list[0].Enabled
		}
	}
	return s.result(command, "", data, func(w io.Writer) {
		for _, p := range list {
			source := "default"
			if p.Source == "db" {
				source = "override"
			} else if p.Source != "" {
				source = p.Source
			}
			fmt.Fprintf(w, "  %-24s port=%s (%s) mode=%s", portLabels[p.Name]+":", p.Port, source, p.Mode)
			if p.Enabled != nil {
				fmt.Fprintf(w, " enabled=%s", map[bool]string{true: "yes", false: "no"}[*p.Enabled])
			}
			if !p.Bound {
				fmt.Fprint(w, " (not listening)")
			}
			fmt.Fprintln(w)
		}
	})
}

func (s *shell) portOf(name string) *cobra.Command {
	port, local, on, _ := ops.PortKeys(name)
	change := func(use string, args cobra.PositionalArgs, short, example string, f func([]string) (key settings.Key, value string, data map[string]any, err error)) *cobra.Command {
		word := strings.Fields(use)[0]
		return &cobra.Command{Use: use, Short: short, Args: args, Example: "  madmail port " + name + " " + example,
			RunE: func(_ *cobra.Command, a []string) error {
				k, value, data, err := f(a)
				if err != nil {
					return err
				}
				op, p := "settings.set", ops.SettingName{Name: string(k), Value: value}
				if value == "" {
					op = "settings.reset"
				}
				var x ops.Setting
				if err := s.call(op, p, &x); err != nil {
					return err
				}
				data["name"], data["reload_required"] = name, strings.HasPrefix(x.Applied, "stored;")
				return s.result("port", "", data, func(w io.Writer) { fmt.Fprintf(w, "%s %s: %s\n", name, word, x.Applied) })
			}}
	}
	mode := func(word, value string) *cobra.Command {
		return change(word, cobra.NoArgs, map[string]string{"local": "Listen for this machine only", "public": "Listen for everybody"}[word], word,
			func([]string) (settings.Key, string, map[string]any, error) {
				if local == "" {
					return "", "", nil, fault.Newf(fault.Invalid, "%s does not support local/public mode", name)
				}
				return local, value, map[string]any{"mode": word}, nil
			})
	}
	switched := func(word, value string) *cobra.Command {
		return change(word, cobra.NoArgs, map[string]string{"enable": "Listen again", "disable": "Do not listen"}[word], word,
			func([]string) (settings.Key, string, map[string]any, error) {
				if on == "" || name != "http" && name != "https" {
					return "", "", nil, fault.Newf(fault.Invalid, "%s does not support enable/disable", name)
				}
				return on, value, map[string]any{"enabled": value == "true"}, nil
			})
	}
	status := &cobra.Command{Use: "status", Short: "Show where it listens", Args: cobra.NoArgs, Example: "  madmail port " + name + " status",
		RunE: func(*cobra.Command, []string) error { return s.portStatus("port", name) }}
	c := s.group(name, "Show and change where "+portLabels[name]+" listens", "  madmail port "+name+" status", status,
		change("set PORT", cobra.ExactArgs(1), "Listen on another port", "set 2525", func(a []string) (settings.Key, string, map[string]any, error) {
			if n, err := strconv.Atoi(a[0]); err != nil || n < 1 || n > 65535 {
				return "", "", nil, fault.Newf(fault.Invalid, "invalid port %q (must be 1-65535)", a[0])
			}
			return port, a[0], map[string]any{"port": a[0]}, nil
		}),
		change("reset", cobra.NoArgs, "Listen where the file says", "reset", func([]string) (settings.Key, string, map[string]any, error) {
			return port, "", map[string]any{"reset": true}, nil
		}), mode("local", "true"), mode("public", "false"), switched("enable", "true"), switched("disable", "false"))
	switch name {
	case "submission-tls", "imap-tls":
		c.Aliases = []string{strings.ReplaceAll(name, "-", "_")}
	case "shadowsocks":
		c.Aliases = []string{"ss"}
	}
	return s.orStatus(c, status)
}

func (s *shell) submissionAccess() *cobra.Command {
	keys := []settings.Key{settings.SubmissionLocalOnly, settings.SubmissionTLSLocalOnly}
	set := func(word, value string) *cobra.Command {
		return &cobra.Command{Use: word, Short: map[string]string{"local": "Take mail of users on this machine only", "public": "Take mail of users everywhere"}[word], Args: cobra.NoArgs,
			Example: "  madmail submission-access " + word,
			RunE: func(*cobra.Command, []string) error {
				for _, k := range keys {
					var x ops.Setting
					if err := s.call("settings.set", ops.SettingName{Name: string(k), Value: value}, &x); err != nil {
						return err
					}
				}
				return s.result("submission-access "+word, "", map[string]string{"mode": word}, func(w io.Writer) { fmt.Fprintln(w, "Submission is now", word) })
			}}
	}
	status := &cobra.Command{Use: "status", Short: "Tell from where users can send", Args: cobra.NoArgs, Example: "  madmail submission-access status",
		RunE: func(*cobra.Command, []string) error {
			mode := "local"
			for _, k := range keys {
				var x ops.Setting
				if err := s.call("settings.get", ops.SettingName{Name: string(k)}, &x); err != nil {
					return err
				}
				if x.Value != "true" {
					mode = "public"
				}
			}
			return s.result("submission-access status", "", map[string]string{"mode": mode}, func(w io.Writer) { fmt.Fprintln(w, "Submission is", mode) })
		}}
	return s.group("submission-access", "Let users send from anywhere, or from this machine only", "  madmail submission-access status", status, set("local", "true"), set("public", "false"))
}

func (s *shell) notice() *cobra.Command {
	var to, subject string
	var yes bool
	c := &cobra.Command{Use: "notice TEXT", Short: "Put a message of the operator into the inbox of one user, or of all", Args: cobra.MaximumNArgs(1),
		Example: "  madmail notice --to alice Hello\n  cat notice.txt | madmail notice --subject Maintenance",
		RunE: func(_ *cobra.Command, a []string) error {
			text := strings.Join(a, "")
			if text == "" {
				raw, err := io.ReadAll(io.LimitReader(s.in, 64<<10))
				if err != nil {
					return err
				}
				text = string(raw)
			}
			if to == "" {
				var who ops.Audience
				if err := s.call("notice.audience", nil, &who); err != nil {
					return err
				}
				if !s.confirm(fmt.Sprintf("Send this to all %d users?", who.TotalUsers), yes) {
					return s.aborted("notice")
				}
			}
			var r ops.Noticed
			if err := s.call("notice.send", ops.Notice{Subject: subject, Body: text, Recipient: to}, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Sent to %d user(s), %d failed.", r.Sent, r.Failed)
			return s.result("notice", m, r, func(w io.Writer) {
				fmt.Fprintln(w, m)
				for _, e := range r.Errors {
					fmt.Fprintln(s.err, e)
				}
			})
		}}
	c.Flags().StringVar(&to, "to", "", "one `user`; all without it")
	c.Flags().StringVar(&subject, "subject", "Notice", "`subject` of the message")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (s *shell) storage() *cobra.Command {
	return &cobra.Command{Use: "storage", Short: "Tell what the server takes on disk", Args: cobra.NoArgs, Example: "  madmail storage --json",
		RunE: func(*cobra.Command, []string) error {
			var r ops.Storage
			if err := s.call("storage", nil, &r); err != nil {
				return err
			}
			return s.result("storage", "", r, func(w io.Writer) {
				fmt.Fprintf(w, "State directory: %s, %s\nDatabase: %s\nDisk: %s of %s used (%.1f %%), %s left\n", r.StateDir.Path, units.FormatSize(r.StateDir.Size),
					units.FormatSize(r.Database.Size), units.FormatSize(r.Disk.Used), units.FormatSize(r.Disk.Total), r.Disk.PercentUsed, units.FormatSize(r.Disk.Available))
			})
		}}
}

func (s *shell) restart() *cobra.Command {
	return &cobra.Command{Use: "restart", Short: "Let the running server stop and start again, with the binary that is installed now", Args: cobra.NoArgs, Example: "  madmail restart",
		RunE: func(*cobra.Command, []string) error {
			var r ops.Restarting
			if err := s.call("restart", nil, &r); err != nil {
				return err
			}
			return s.result("restart", r.Message, r, func(w io.Writer) { fmt.Fprintln(w, r.Message) })
		}}
}

// logs shows what was logged, where anything is.
func (s *shell) logs() *cobra.Command {
	var follow bool
	var n int
	c := &cobra.Command{Use: "logs", Short: "Show what was logged, where anything is", Args: cobra.NoArgs, Example: "  madmail logs -f",
		RunE: func(*cobra.Command, []string) error {
			conf, err := config.Load(config.FindFile(s.config, os.Getenv))
			if err != nil {
				return err
			}
			targets := strings.Fields(conf.Log)
			off := func(t string) bool { return t == "off" || t == "false" || t == "no" }
			if !conf.Debug && (len(targets) == 0 || slices.ContainsFunc(targets, off)) {
				m := "logging is disabled (No-Log)"
				return s.result("logs", m, map[string]any{"enabled": false}, func(w io.Writer) { fmt.Fprintln(w, m) })
			}
			args := []string{"-u", config.BinaryName(), "-n", strconv.Itoa(n), "--no-pager"}
			program := "journalctl"
			for _, t := range targets {
				if strings.HasPrefix(t, "/") {
					program, args = "tail", []string{"-n", strconv.Itoa(n), t}
				}
			}
			if follow {
				args = append([]string{"-f"}, args...)
			}
			path, err := exec.LookPath(program)
			if err != nil {
				return fault.WithHint(fault.Newf(fault.NotFound, "%s is not installed", program), "the server writes to standard error; look where it was started")
			}
			cmd := exec.Command(path, args...)
			cmd.Stdout, cmd.Stderr = s.out, s.err
			// An interrupt is for that program: it ends, and so do we.
			caught := make(chan os.Signal, 1)
			signal.Notify(caught, os.Interrupt)
			defer signal.Stop(caught)
			err = cmd.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) && follow {
				return nil
			}
			return err
		}}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as more is logged")
	c.Flags().IntVarP(&n, "lines", "n", 100, "so many `lines`")
	return c
}

// configCommand checks and shows the configuration without a server.
func (s *shell) configCommand() *cobra.Command {
	check := &cobra.Command{Use: "check [FILE]", Short: "Read a configuration and tell what is wrong with it", Args: cobra.MaximumNArgs(1), Example: "  madmail config check /etc/madmail/madmail.toml",
		RunE: func(_ *cobra.Command, a []string) error {
			file := config.FindFile(s.config, os.Getenv)
			if len(a) > 0 {
				file = a[0]
				if _, err := os.Stat(file); err != nil {
					return fault.Wrap(fault.Invalid, err, "config check")
				}
			}
			conf, err := config.Load(file)
			if err != nil {
				return err
			}
			m := file + " is fine."
			if conf.File == "" {
				m = "There is no configuration file; defaults count."
			}
			notes := []string{}
			for _, n := range conf.Notes {
				notes = append(notes, n.Error())
			}
			return s.result("config check", m, map[string]any{"file": file, "ok": true, "notes": notes}, func(w io.Writer) {
				for _, n := range notes {
					fmt.Fprintln(w, n)
				}
				fmt.Fprintln(w, m)
			})
		}}
	show := &cobra.Command{Use: "show", Short: "Show the values of the settings and where they come from, secrets hidden", Args: cobra.NoArgs, Example: "  madmail config show",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Settings []ops.Setting `json:"settings"`
			}
			if err := s.call("settings.list", nil, &r); err != nil {
				return err
			}
			return s.result("config show", "", r, func(w io.Writer) {
				for _, x := range r.Settings {
					fmt.Fprintf(w, "%s\t%s\t%s\n", x.Name, shown(x), x.Source)
				}
			})
		}}
	show.Flags().Bool("effective", true, "the values that count")
	return s.group("config", "Check and show the configuration", "  madmail config check", check, show)
}

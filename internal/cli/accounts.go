package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
	"madmail/internal/units"
)

func (s *shell) accounts() *cobra.Command {
	return s.group("accounts", "Manage accounts", "  madmail accounts list\n  madmail accounts create alice\n  madmail accounts ban bob spam",
		s.accountsStatus(), s.accountsList(), s.accountsInfo(), s.accountsCreate(), s.accountsDCLogin(), s.createRandom("accounts create-random"), s.setPassword(), s.accountsQuota("accounts quota"), s.accountsExport(), s.accountsImport(), s.accountsDeleteAll(),
		s.delete("delete", false), s.accountsBan(), s.accountsUnban(), s.banList("madmail accounts"))
}

func (s *shell) accountsStatus() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Tell about the accounts as a whole", Args: cobra.NoArgs, Example: "  madmail accounts status",
		RunE: func(*cobra.Command, []string) error {
			var r ops.AccountsStatus
			if err := s.call("accounts.status", nil, &r); err != nil {
				return err
			}
			return s.result("accounts status", "", r, func(w io.Writer) {
				word := func(b bool, yes, no string) string {
					if b {
						return yes
					}
					return no
				}
				fmt.Fprintln(w, "Login accounts:", r.Logins)
				fmt.Fprintln(w, "Registration:", word(r.RegistrationOpen, "open", "closed"))
				fmt.Fprintln(w, "Registration token required:", word(r.TokenRequired, "yes", "no"))
				fmt.Fprintln(w, "JIT registration:", word(r.JITEnabled, "enabled", "disabled"))
				fmt.Fprintln(w, "Blocklisted:", r.Blocklisted)
				fmt.Fprintln(w, "Mail directories:", r.MailDirectories)
				fmt.Fprintln(w, "Storage:", units.FormatSize(r.StorageBytes))
				fmt.Fprintln(w, "State directory:", r.StateDir)
				fmt.Fprintln(w, "Database:", r.Database)
			})
		}}
}

func (s *shell) accountsList() *cobra.Command {
	var p ops.AccountPick
	c := &cobra.Command{Use: "list", Short: "List the accounts, one address a line", Args: cobra.NoArgs, Example: "  madmail accounts list --json",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Accounts []ops.AccountInfo `json:"accounts"`
			}
			if err := s.call("accounts.list", p, &r); err != nil {
				return err
			}
			return s.result("accounts list", "", r, func(w io.Writer) {
				for _, a := range r.Accounts {
					fmt.Fprintln(w, a.Username)
				}
			})
		}}
	c.Flags().BoolVar(&p.Pending, "pending", false, "only those that never logged in")
	c.Flags().StringVar(&p.Dormant, "dormant", "", "only those that nobody used for so `long`: 90d")
	return c
}

func (s *shell) accountsInfo() *cobra.Command {
	return &cobra.Command{Use: "info USER", Short: "Show one account", Args: cobra.ExactArgs(1), Example: "  madmail accounts info alice",
		RunE: func(_ *cobra.Command, args []string) error {
			var a ops.AccountInfo
			if err := s.call("accounts.info", ops.User{Username: args[0]}, &a); err != nil {
				return err
			}
			return s.result("accounts info", "", a, func(w io.Writer) {
				fmt.Fprintln(w, "Username:", a.Username)
				fmt.Fprintln(w, "Credentials:", map[bool]string{true: "present", false: "missing"}[a.Credentials])
				if a.Blocked {
					fmt.Fprintf(w, "Blocklisted: yes (%s)\n", *a.BlockReason)
				} else {
					fmt.Fprintln(w, "Blocklisted: no")
				}
				for _, t := range []struct {
					name string
					at   *int64
				}{{"Created at (unix)", a.CreatedAt}, {"First login at (unix)", a.FirstLoginAt}, {"Last login at (unix)", a.LastLoginAt}} {
					if t.at != nil {
						fmt.Fprintf(w, "%s: %d (%s)\n", t.name, *t.at, time.Unix(*t.at, 0).UTC().Format(time.RFC3339))
					}
				}
				if a.FirstLoginPending {
					fmt.Fprintln(w, "First login: pending")
				}
				limit := "no limit"
				if a.MaxBytes != nil {
					limit = units.FormatSize(*a.MaxBytes)
				}
				fmt.Fprintf(w, "Storage: %s of %s in %d messages\n", units.FormatSize(a.UsedBytes), limit, a.MessageCount)
				fmt.Fprintln(w, "Maildir:", map[bool]string{true: "present", false: "missing"}[a.MaildirPresent])
				fmt.Fprintln(w, "Maildir path:", a.MaildirPath)
			})
		}}
}

func (s *shell) accountsCreate() *cobra.Command {
	var password string
	c := &cobra.Command{Use: "create USER", Short: "Make an account", Args: cobra.ExactArgs(1),
		Example: "  madmail accounts create alice\n  echo secret | madmail accounts create alice@example.org",
		RunE: func(_ *cobra.Command, args []string) error {
			password, err := s.password(password)
			if err != nil {
				return err
			}
			var r ops.Created
			if err := s.call("accounts.create", ops.User{Username: args[0], Password: password}, &r); err != nil {
				return err
			}
			m := "Created account: " + r.Username
			return s.result("accounts create", m, loginLink{r.Username, r.Email, r.DCLogin}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().StringVarP(&password, "password", "p", "", "the password; asked for when absent")
	// Version 1 let operators choose how it is kept.
	c.Flags().String("hash", "", "no effect: the strength of the password decides")
	c.Flags().Int("bcrypt-cost", 0, "no effect")
	_, _ = c.Flags().MarkHidden("hash"), c.Flags().MarkHidden("bcrypt-cost")
	return c
}

// loginLink is an account with the link that logs a client in.
type loginLink struct {
	Username string `json:"username"`
	Email    string `json:"email"`
	DCLogin  string `json:"dclogin"`
}

func (s *shell) accountsDCLogin() *cobra.Command {
	var password string
	c := &cobra.Command{Use: "dclogin USER", Short: "Print the link that logs a client in", Args: cobra.ExactArgs(1), Example: "  madmail accounts dclogin alice",
		RunE: func(_ *cobra.Command, args []string) error {
			password, err := s.password(password)
			if err != nil {
				return err
			}
			var r ops.Created
			if err := s.call("accounts.dclogin", ops.User{Username: args[0], Password: password}, &r); err != nil {
				return err
			}
			return s.result("accounts dclogin", "", loginLink{r.Username, r.Email, r.DCLogin}, func(w io.Writer) { fmt.Fprintln(w, r.DCLogin) })
		}}
	c.Flags().StringVarP(&password, "password", "p", "", "the password; asked for when absent")
	return c
}

func (s *shell) createUser() *cobra.Command { return s.createRandom("create-user") }

func (s *shell) createRandom(path string) *cobra.Command {
	var only bool
	use := path[strings.LastIndexByte(path, ' ')+1:]
	c := &cobra.Command{Use: use, Short: "Make an account with a random name and password", Args: cobra.NoArgs, Example: "  madmail " + path,
		RunE: func(*cobra.Command, []string) error {
			var r ops.Created
			if err := s.call("accounts.create-random", nil, &r); err != nil {
				return err
			}
			if only && !s.json {
				e := encoder(s.out)
				e.SetIndent("", "  ")
				return e.Encode(map[string]string{"email": r.Email, "password": r.Password, "dclogin": r.DCLogin})
			}
			return s.result("create-user", "", r, func(w io.Writer) {
				fmt.Fprintf(w, "Email: %s\nPassword: %s\nLogin link: %s\n", r.Email, r.Password, r.DCLogin)
			})
		}}
	c.Flags().BoolVar(&only, "json-only", false, "a bare JSON object")
	return c
}

func (s *shell) setPassword() *cobra.Command {
	var password string
	c := &cobra.Command{Use: "set-password USER", Short: "Change a password", Args: cobra.ExactArgs(1), Example: "  madmail accounts set-password alice",
		RunE: func(_ *cobra.Command, args []string) error {
			password, err := s.password(password)
			if err != nil {
				return err
			}
			var r ops.User
			if err := s.call("accounts.set-password", ops.User{Username: args[0], Password: password}, &r); err != nil {
				return err
			}
			m := "Password changed: " + r.Username
			return s.result("accounts set-password", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().StringVarP(&password, "password", "p", "", "the password; asked for when absent")
	return c
}

// delete is "accounts delete", and "delete" as earlier versions had it.
func (s *shell) delete(use string, short bool) *cobra.Command {
	var yes, noBlock bool
	reason, name := "account deleted via CLI", "accounts delete"
	if short {
		name = "delete"
	}
	c := &cobra.Command{Use: use + " USER", Short: "Remove an account with its mail, and block its name", Args: cobra.ExactArgs(1),
		Example: "  madmail " + name + " alice -y",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.remove(name, "accounts.delete", ops.User{Username: args[0], Reason: reason, NoBlock: noBlock}, yes)
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	if short {
		c.Flags().StringVar(&reason, "reason", reason, "why, for the block list")
	} else {
		c.Flags().BoolVar(&noBlock, "no-block", false, "leave the name free")
	}
	return c
}

func (s *shell) accountsBan() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "ban USER [REASON]", Short: "Remove an account with its mail, and block its name with a reason", Args: cobra.MinimumNArgs(1),
		Example: "  madmail accounts ban bob spam",
		RunE: func(_ *cobra.Command, args []string) error {
			reason := strings.Join(args[1:], " ")
			if reason == "" {
				reason = "banned via CLI"
			}
			return s.remove("accounts ban", "accounts.ban", ops.User{Username: args[0], Reason: reason}, yes)
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (s *shell) remove(command, op string, u ops.User, yes bool) error {
	if !s.confirm("Delete account "+u.Username+" (credentials, mail, blocklist)?", yes) {
		return s.aborted(command)
	}
	var r ops.User
	if err := s.call(op, u, &r); err != nil {
		return err
	}
	return s.result(command, "", r, func(w io.Writer) {
		if r.Reason == "" {
			fmt.Fprintln(w, "Deleted:", r.Username)
			return
		}
		fmt.Fprintf(w, "Deleted and blocklisted: %s\nReason: %s\n", r.Username, r.Reason)
	})
}

// aborted is the answer to a question that was answered with no.
func (s *shell) aborted(command string) error {
	return s.result(command, "aborted", struct{}{}, func(w io.Writer) { fmt.Fprintln(w, "Aborted.") })
}

func (s *shell) blocklist() *cobra.Command {
	list := s.banList("")
	list.Use, list.Example = "list", "  madmail blocklist list"
	remove := s.accountsUnban()
	remove.Use, remove.Example = "remove USER", "  madmail blocklist remove bob -y"
	return s.group("blocklist", "Manage the names that may not log in", "  madmail blocklist add bob spam\n  madmail blocklist list",
		list, remove, s.unbanAll(),
		&cobra.Command{Use: "add USER [REASON]", Short: "Block a name; an account of that name stays", Args: cobra.MinimumNArgs(1),
			Example: "  madmail blocklist add bob spam",
			RunE: func(_ *cobra.Command, args []string) error {
				var r ops.User
				if err := s.call("accounts.block", ops.User{Username: args[0], Reason: strings.Join(args[1:], " ")}, &r); err != nil {
					return err
				}
				m := fmt.Sprintf("Blocked: %s (%s)", r.Username, r.Reason)
				return s.result("blocklist add", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
			}})
}

func (s *shell) accountsUnban() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "unban USER", Short: "Free a blocked name", Args: cobra.ExactArgs(1), Example: "  madmail accounts unban bob",
		RunE: func(c *cobra.Command, args []string) error {
			if !s.confirm("Unblock "+args[0]+"?", yes) {
				return s.aborted(words(c))
			}
			var r ops.User
			if err := s.call("accounts.unban", ops.User{Username: args[0]}, &r); err != nil {
				return err
			}
			m := "Unblocked: " + r.Username
			return s.result(words(c), m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (s *shell) banList(under string) *cobra.Command {
	return &cobra.Command{Use: "ban-list", Short: "List the blocked names", Args: cobra.NoArgs, Example: "  " + under + " ban-list",
		RunE: func(c *cobra.Command, _ []string) error {
			var r struct {
				Entries []ops.Blocked `json:"entries"`
			}
			if err := s.call("accounts.ban-list", nil, &r); err != nil {
				return err
			}
			return s.result(words(c), "", r, func(w io.Writer) {
				if len(r.Entries) == 0 {
					fmt.Fprintln(w, "(no blocked users)")
				}
				for _, b := range r.Entries {
					fmt.Fprintf(w, "%s\t%s\t%s\n", b.Username, b.Reason, b.BlockedAt)
				}
			})
		}}
}

// words is a command's name in the envelope: "accounts unban".
func words(c *cobra.Command) string {
	_, name, _ := strings.Cut(c.CommandPath(), " ")
	return name
}

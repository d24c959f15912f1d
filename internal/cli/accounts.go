package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"encoding/json"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
	"madmail/internal/units"
)

func (s *shell) accounts() *cobra.Command {
	c := &cobra.Command{Use: "accounts", Short: "Manage accounts",
		Example: "  madmail accounts list\n  madmail accounts create alice\n  madmail accounts ban bob spam"}
	c.AddCommand(s.accountsList(), s.accountsInfo(), s.accountsCreate(), s.createRandom("create-random"), s.setPassword(),
		s.accountsDelete(), s.accountsBan(), s.accountsUnban(), s.banList())
	return c
}

func (s *shell) accountsList() *cobra.Command {
	var pending bool
	c := &cobra.Command{Use: "list", Short: "List the accounts, one address a line", Args: cobra.NoArgs, Example: "  madmail accounts list --json",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Accounts []ops.AccountInfo `json:"accounts"`
			}
			if err := s.call("accounts.list", map[string]bool{"Pending": pending}, &r); err != nil {
				return err
			}
			return s.result("accounts list", "", r, func(w io.Writer) {
				for _, a := range r.Accounts {
					fmt.Fprintln(w, a.Username)
				}
			})
		}}
	c.Flags().BoolVar(&pending, "pending", false, "only those that never logged in")
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
					fmt.Fprintf(w, "Blocklisted: yes (%s)\n", a.BlockReason)
				} else {
					fmt.Fprintln(w, "Blocklisted: no")
				}
				for _, t := range []struct {
					name string
					at   int64
				}{{"Created at (unix)", a.CreatedAt}, {"First login at (unix)", a.FirstLoginAt}, {"Last login at (unix)", a.LastLoginAt}} {
					if t.at > 1 {
						fmt.Fprintf(w, "%s: %d (%s)\n", t.name, t.at, time.Unix(t.at, 0).UTC().Format(time.RFC3339))
					}
				}
				if a.FirstLoginPending {
					fmt.Fprintln(w, "First login: pending")
				}
				fmt.Fprintf(w, "Storage: %s of %s in %d messages\n", units.FormatSize(a.UsedBytes), units.FormatSize(a.MaxBytes), a.MessageCount)
			})
		}}
}

func (s *shell) accountsCreate() *cobra.Command {
	var password string
	c := &cobra.Command{Use: "create USER", Short: "Make an account", Args: cobra.ExactArgs(1),
		Example: "  madmail accounts create alice\n  echo secret | madmail accounts create alice@example.org",
		RunE: func(_ *cobra.Command, args []string) error {
			if password == "" {
				var err error
				if password, err = s.password(); err != nil {
					return err
				}
			}
			var r ops.Created
			if err := s.call("accounts.create", ops.User{Username: args[0], Password: password}, &r); err != nil {
				return err
			}
			m := "Created account: " + r.Username
			return s.result("accounts create", m, map[string]string{"username": r.Username}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().StringVarP(&password, "password", "p", "", "the password; asked for when absent")
	return c
}

func (s *shell) createUser() *cobra.Command { return s.createRandom("create-user") }

func (s *shell) createRandom(use string) *cobra.Command {
	var only bool
	c := &cobra.Command{Use: use, Short: "Make an account with a random name and password", Args: cobra.NoArgs, Example: "  madmail " + use,
		RunE: func(*cobra.Command, []string) error {
			var r ops.Created
			if err := s.call("accounts.create-random", nil, &r); err != nil {
				return err
			}
			if only && !s.json {
				e := json.NewEncoder(s.out)
				e.SetIndent("", "  ")
				e.SetEscapeHTML(false)
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
			if password == "" {
				var err error
				if password, err = s.password(); err != nil {
					return err
				}
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

func (s *shell) accountsDelete() *cobra.Command {
	var yes, noBlock bool
	c := &cobra.Command{Use: "delete USER", Short: "Remove an account with its mail, and block its name", Args: cobra.ExactArgs(1),
		Example: "  madmail accounts delete alice -y",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.remove("accounts delete", ops.User{Username: args[0], Reason: "account deleted via CLI", NoBlock: noBlock}, "Deleted and blocklisted", yes)
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&noBlock, "no-block", false, "leave the name free")
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
			return s.remove("accounts ban", ops.User{Username: args[0], Reason: reason}, "Deleted and blocklisted", yes)
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (s *shell) remove(command string, u ops.User, done string, yes bool) error {
	if !s.confirm("Delete account "+u.Username+" (credentials, mail, blocklist)?", yes) {
		return s.result(command, "aborted", struct{}{}, func(w io.Writer) { fmt.Fprintln(w, "Aborted.") })
	}
	op := strings.ReplaceAll(command, " ", ".")
	var r ops.User
	if err := s.call(op, u, &r); err != nil {
		return err
	}
	if u.NoBlock {
		done = "Deleted"
	}
	return s.result(command, "", r, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s\n", done, r.Username)
		if r.Reason != "" {
			fmt.Fprintf(w, "Reason: %s\n", r.Reason)
		}
	})
}

func (s *shell) accountsUnban() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "unban USER", Short: "Free a blocked name", Args: cobra.ExactArgs(1), Example: "  madmail accounts unban bob",
		RunE: func(_ *cobra.Command, args []string) error {
			if !s.confirm("Unblock "+args[0]+"?", yes) {
				return s.result("accounts unban", "aborted", struct{}{}, func(w io.Writer) { fmt.Fprintln(w, "Aborted.") })
			}
			var r ops.User
			if err := s.call("accounts.unban", ops.User{Username: args[0]}, &r); err != nil {
				return err
			}
			m := "Unblocked: " + r.Username
			return s.result("accounts unban", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

func (s *shell) banList() *cobra.Command {
	return &cobra.Command{Use: "ban-list", Short: "List the blocked names", Args: cobra.NoArgs, Example: "  madmail accounts ban-list",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Entries []ops.Blocked `json:"entries"`
			}
			if err := s.call("accounts.ban-list", nil, &r); err != nil {
				return err
			}
			return s.result("accounts ban-list", "", r, func(w io.Writer) {
				if len(r.Entries) == 0 {
					fmt.Fprintln(w, "(no blocked users)")
				}
				for _, b := range r.Entries {
					fmt.Fprintf(w, "%s\t%s\t%s\n", b.Username, b.Reason, b.BlockedAt)
				}
			})
		}}
}

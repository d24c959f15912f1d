package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/account"
	"madmail/internal/ops"
)

// The commands of the first version, for scripts that use them.

// hash prints a password's hash as it is stored.
func (s *shell) hash() *cobra.Command {
	var password string
	p := account.HashParams{}
	c := &cobra.Command{Use: "hash", Short: "Print the hash of a password as it is stored", Args: cobra.NoArgs, Example: "  echo secret | madmail hash\n  madmail hash --hash argon2",
		RunE: func(*cobra.Command, []string) error {
			password, err := s.password(password)
			if err != nil {
				return err
			}
			text, err := account.HashWith([]byte(password), p)
			if err != nil {
				return err
			}
			return s.result("hash", "", map[string]string{"algorithm": p.Algorithm, "hash": text}, func(w io.Writer) { fmt.Fprintln(w, text) })
		}}
	f := c.Flags()
	f.StringVarP(&password, "password", "p", "", "the password; asked for when absent")
	f.StringVar(&p.Algorithm, "hash", "bcrypt", "bcrypt, argon2 or sha256")
	f.IntVar(&p.Cost, "bcrypt-cost", 10, "cost of bcrypt, 4 to 31")
	f.Uint32Var(&p.Time, "argon2-time", 3, "passes of argon2")
	f.Uint32Var(&p.Memory, "argon2-memory", 1024, "memory of argon2 in `KiB`")
	f.Uint8Var(&p.Threads, "argon2-threads", 1, "threads of argon2")
	return c
}

// renamed is a command under an earlier name.
func renamed(c *cobra.Command, use, path string) *cobra.Command {
	c.Use = use
	c.Example = "  madmail " + path
	c.Aliases = nil
	return c
}

// switchOf makes the three commands around a switch.
func (s *shell) switchOf(path, short, what string, words [2]string, key string, inverted bool) *cobra.Command {
	show := func(command string, on, now bool) error {
		return s.result(command, "", map[string]bool{"enabled": on}, func(w io.Writer) {
			verb := "is"
			if now {
				verb = "is now"
			}
			fmt.Fprintln(w, what, verb, map[bool]string{true: "ENABLED", false: "DISABLED"}[on])
		})
	}
	set := func(word string, on bool) *cobra.Command {
		return &cobra.Command{Use: word, Short: short, Args: cobra.NoArgs, Example: "  madmail " + path + " " + word,
			RunE: func(*cobra.Command, []string) error {
				var x ops.Setting
				if err := s.call("settings.set", ops.SettingName{Name: key, Value: strconv.FormatBool(on != inverted)}, &x); err != nil {
					return err
				}
				return show(path+" "+word, on, true)
			}}
	}
	status := &cobra.Command{Use: "status", Short: "Tell how it is", Args: cobra.NoArgs, Example: "  madmail " + path + " status",
		RunE: func(*cobra.Command, []string) error {
			var x ops.Setting
			if err := s.call("settings.get", ops.SettingName{Name: key}, &x); err != nil {
				return err
			}
			return show(path+" status", (x.Value == "true") != inverted, false)
		}}
	name := path[strings.LastIndexByte(path, ' ')+1:]
	return s.group(name, short, "  madmail "+path+" status", set(words[0], true), set(words[1], false), status)
}

// credsRegistration is "registration" under an earlier name.
func (s *shell) credsRegistration() *cobra.Command {
	c := renamed(s.registration(), "registration", "creds registration status")
	for _, x := range c.Commands() {
		x.Example = "  madmail creds registration " + x.Name()
	}
	return c
}

// credsUsers are the commands of "creds" about accounts.
func (s *shell) credsUsers() []*cobra.Command {
	var quiet, yes bool
	list := &cobra.Command{Use: "list", Short: "List the addresses", Args: cobra.NoArgs, Example: "  madmail creds list",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Accounts []ops.AccountInfo `json:"accounts"`
			}
			if err := s.call("accounts.list", nil, &r); err != nil {
				return err
			}
			if len(r.Accounts) == 0 && !s.json && !quiet {
				fmt.Fprintln(s.err, "No users.")
			}
			return s.result("creds list", "", r, func(w io.Writer) {
				for _, a := range r.Accounts {
					fmt.Fprintln(w, a.Username)
				}
			})
		}}
	list.Flags().BoolVarP(&quiet, "quiet", "q", false, "nothing else")
	remove := &cobra.Command{Use: "remove USER", Short: "Remove an account with its mail; its name is free again", Args: cobra.ExactArgs(1), Example: "  madmail creds remove alice --yes",
		RunE: func(_ *cobra.Command, a []string) error {
			if !s.confirm("Are you sure you want to delete this user account?", yes) {
				return s.aborted("creds remove")
			}
			var u ops.User
			if err := s.call("accounts.delete", ops.User{Username: a[0]}, &u); err != nil {
				return err
			}
			m := "Removed " + u.Username
			return s.result("creds remove", m, u, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	remove.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return []*cobra.Command{list, renamed(s.accountsCreate(), "create USER", "creds create alice"), remove,
		renamed(s.setPassword(), "password USER", "creds password alice"),
		s.credsRegistration(),
		s.switchOf("creds jit", "Let a first login make an account", "JIT registration", [2]string{"enable", "disable"}, "jit_registration_enabled", false),
		s.switchOf("creds logging", "Write a log", "Logging", [2]string{"on", "off"}, "log_disabled", true)}
}

// imapAcct are the mailbox tools of the first version that work on whole accounts.
func (s *shell) imapAcct() *cobra.Command {
	purge := func(use, short, which string, args cobra.PositionalArgs, p func([]string) ops.Purge, example string) *cobra.Command {
		word := strings.Fields(use)[0]
		var yes bool
		c := &cobra.Command{Use: use, Short: short, Args: args, Example: "  madmail imap-acct " + example,
			RunE: func(_ *cobra.Command, a []string) error {
				if !s.confirm(short+"?", yes) {
					return s.aborted("imap-acct " + word)
				}
				q := p(a)
				q.Which = which
				var r ops.Purged
				if err := s.call("mail.purge", q, &r); err != nil {
					return err
				}
				m := fmt.Sprintf("Removed %d message(s).", r.Deleted)
				return s.result("imap-acct "+word, m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
			}}
		c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
		return c
	}
	first := func(a []string) string {
		if len(a) > 0 {
			return a[0]
		}
		return ""
	}
	unused := &cobra.Command{Use: "prune-unused DURATION", Short: "Remove accounts that nobody ever logged in to", Args: cobra.ExactArgs(1), Example: "  madmail imap-acct prune-unused 30d",
		RunE: func(_ *cobra.Command, a []string) error {
			var o ops.TaskDone
			if err := s.call("tasks.run", ops.TaskRun{Task: "prune-unused-accounts", Retention: a[0]}, &o); err != nil {
				return err
			}
			m := fmt.Sprintf("Removed %d account(s).", o.Deleted)
			return s.result("imap-acct prune-unused", m, o, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	unused.Flags().BoolP("yes", "y", false, "accepted; nothing is asked")
	return s.group("imap-acct", "Mailbox tools of the first version, for whole accounts", "  madmail imap-acct list\n  madmail imap-acct purge-read 30d",
		renamed(s.accountsList(), "list", "imap-acct list"), s.imapCreate(), s.imapRemove(), s.accountsQuota("imap-acct quota"), s.imapStat(), s.imapAppendLimit(), unused,
		purge("purge-msgs USER", "Remove all messages of an account", "all", cobra.ExactArgs(1), func(a []string) ops.Purge { return ops.Purge{Username: a[0]} }, "purge-msgs alice"),
		purge("purge-all", "Remove all messages of all accounts", "all", cobra.NoArgs, func([]string) ops.Purge { return ops.Purge{} }, "purge-all"),
		purge("purge-read [DURATION]", "Remove the messages that were read, of all accounts", "read", cobra.MaximumNArgs(1), func(a []string) ops.Purge { return ops.Purge{Older: first(a)} }, "purge-read 30d"),
		purge("prune-unread DURATION", "Remove the messages that nobody read in a long time, of all accounts", "unread", cobra.ExactArgs(1), func(a []string) ops.Purge { return ops.Purge{Older: a[0]} }, "prune-unread 90d"))
}

func (s *shell) imapStat() *cobra.Command {
	c := s.accountsQuota("imap-acct quota")
	for _, x := range c.Commands() {
		if x.Name() == "status" {
			return renamed(x, "stat", "imap-acct stat")
		}
	}
	return nil
}

// imapMboxes are those that work on the mailboxes of an account.
func (s *shell) imapMboxes() *cobra.Command {
	var subscribed, yes bool
	var special string
	list := &cobra.Command{Use: "list USER", Short: "List the mailboxes of an account", Args: cobra.ExactArgs(1), Example: "  madmail imap-mboxes list alice",
		RunE: func(_ *cobra.Command, a []string) error {
			var r struct {
				Mailboxes []ops.Mailbox `json:"mailboxes"`
			}
			if err := s.call("mailboxes.list", ops.MailboxChange{Username: a[0]}, &r); err != nil {
				return err
			}
			return s.result("imap-mboxes list", "", r, func(w io.Writer) {
				for _, m := range r.Mailboxes {
					if !subscribed || m.Subscribed {
						fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", m.Name, m.Messages, m.Unseen, m.SpecialUse)
					}
				}
			})
		}}
	list.Flags().BoolVarP(&subscribed, "subscribed", "s", false, "only those that clients subscribed to")
	change := func(use, short, op string, n int, p func([]string) ops.MailboxChange, example string) *cobra.Command {
		word := strings.Fields(use)[0]
		return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(n), Example: "  madmail imap-mboxes " + example,
			RunE: func(_ *cobra.Command, a []string) error {
				if op == "mailboxes.remove" && !s.confirm("Remove the mailbox "+a[1]+" with its messages?", yes) {
					return s.aborted("imap-mboxes " + word)
				}
				var r ops.MailboxChange
				if err := s.call(op, p(a), &r); err != nil {
					return err
				}
				return s.result("imap-mboxes "+word, "", r, func(w io.Writer) { fmt.Fprintln(w, "Done.") })
			}}
	}
	create := change("create USER NAME", "Make a mailbox", "mailboxes.create", 2, func(a []string) ops.MailboxChange {
		return ops.MailboxChange{Username: a[0], Name: a[1], SpecialUse: special}
	}, "create alice Notes")
	create.Flags().StringVar(&special, "special", "", `what it is for, as in "\Archive"`)
	remove := change("remove USER NAME", "Remove a mailbox with its messages", "mailboxes.remove", 2, func(a []string) ops.MailboxChange {
		return ops.MailboxChange{Username: a[0], Name: a[1]}
	}, "remove alice Notes --yes")
	remove.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return s.group("imap-mboxes", "Mailbox tools of the first version, for the mailboxes of an account", "  madmail imap-mboxes list alice", list, create, remove,
		change("rename USER OLD NEW", "Rename a mailbox", "mailboxes.rename", 3, func(a []string) ops.MailboxChange {
			return ops.MailboxChange{Username: a[0], Name: a[1], NewName: a[2]}
		}, "rename alice Notes Old"))
}

// imapMsgs are those that work on messages.
func (s *shell) imapMsgs() *cobra.Command {
	var byUID, full, yes bool
	uidFlag := func(c *cobra.Command) *cobra.Command {
		c.Flags().BoolVarP(&byUID, "uid", "u", false, "the numbers are UIDs")
		return c
	}
	list := &cobra.Command{Use: "list USER MAILBOX [SET]", Short: "List messages: number, UID, time, size, flags", Args: cobra.RangeArgs(2, 3), Example: "  madmail imap-msgs list alice INBOX 1:20",
		RunE: func(_ *cobra.Command, a []string) error {
			p := ops.MessageSet{Username: a[0], Mailbox: a[1], Set: "1:*", UID: byUID, Full: full}
			if len(a) > 2 {
				p.Set = a[2]
			}
			var r struct {
				Messages []ops.MessageInfo `json:"messages"`
			}
			if err := s.call("messages.list", p, &r); err != nil {
				return err
			}
			return s.result("imap-msgs list", "", r, func(w io.Writer) {
				for _, m := range r.Messages {
					fmt.Fprintf(w, "%d\t%d\t%s\t%d\t%s\n", m.Number, m.UID, m.Received, m.Size, strings.Join(m.Flags, " "))
					for _, f := range []string{"From", "To", "Subject", "Date", "Message-ID"} {
						if v, ok := m.Header[f]; ok {
							fmt.Fprintf(w, "\t%s: %s\n", f, oneLine(v))
						}
					}
				}
			})
		}}
	list.Flags().BoolVarP(&full, "full", "f", false, "also sender, recipient, subject and date of each")
	flags := func(use, short, mode string) *cobra.Command {
		word := strings.Fields(use)[0]
		return uidFlag(&cobra.Command{Use: use, Short: short, Args: cobra.MinimumNArgs(4), Example: "  madmail imap-msgs " + word + " alice INBOX 1:* \\\\Seen",
			RunE: func(_ *cobra.Command, a []string) error {
				var r ops.Changed
				if err := s.call("messages.flags", ops.MessageSet{Username: a[0], Mailbox: a[1], Set: a[2], UID: byUID, Mode: mode, Flags: a[3:]}, &r); err != nil {
					return err
				}
				return s.touched("imap-msgs "+word, r)
			}})
	}
	to := func(word, short string) *cobra.Command {
		return uidFlag(&cobra.Command{Use: word + " USER MAILBOX SET TARGET", Short: short, Args: cobra.ExactArgs(4), Example: "  madmail imap-msgs " + word + " alice INBOX 1:10 Archive",
			RunE: func(_ *cobra.Command, a []string) error {
				var r ops.Changed
				if err := s.call("messages."+word, ops.MessageSet{Username: a[0], Mailbox: a[1], Set: a[2], UID: byUID, Target: a[3]}, &r); err != nil {
					return err
				}
				return s.touched("imap-msgs "+word, r)
			}})
	}
	remove := uidFlag(&cobra.Command{Use: "remove USER MAILBOX SET", Short: "Remove messages", Args: cobra.ExactArgs(3), Example: "  madmail imap-msgs remove alice INBOX 1:10 --yes",
		RunE: func(_ *cobra.Command, a []string) error {
			if !s.confirm("Remove messages "+a[2]+" of "+a[1]+"?", yes) {
				return s.aborted("imap-msgs remove")
			}
			var r ops.Changed
			if err := s.call("messages.remove", ops.MessageSet{Username: a[0], Mailbox: a[1], Set: a[2], UID: byUID}, &r); err != nil {
				return err
			}
			return s.touched("imap-msgs remove", r)
		}})
	remove.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return s.group("imap-msgs", "Mailbox tools of the first version, for messages", "  madmail imap-msgs list alice INBOX", uidFlag(list), s.imapAdd(), uidFlag(s.imapDump(&byUID)),
		flags("add-flags USER MAILBOX SET FLAG...", "Set flags, and leave the others", "add"), flags("rem-flags USER MAILBOX SET FLAG...", "Take flags away", "remove"),
		flags("set-flags USER MAILBOX SET FLAG...", "Set flags, and no others", "set"), remove, to("copy", "Copy messages to another mailbox"), to("move", "Move messages to another mailbox"))
}

func (s *shell) touched(command string, r ops.Changed) error {
	m := fmt.Sprintf("%d message(s).", r.Messages)
	return s.result(command, m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
}

package cli

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

// imapCreate gives an account the mailboxes that clients expect.
func (s *shell) imapCreate() *cobra.Command {
	var bare bool
	p := ops.Furnish{}
	c := &cobra.Command{Use: "create USER", Short: "Make the usual mailboxes of an account that can log in", Args: cobra.ExactArgs(1), Example: "  madmail imap-acct create alice --archive-name Old",
		RunE: func(_ *cobra.Command, a []string) error {
			q := p
			if bare {
				q = ops.Furnish{}
			}
			q.Username = a[0]
			var r map[string][]string
			if err := s.call("mailboxes.furnish", q, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Made %d mailbox(es).", len(r["created"]))
			return s.result("imap-acct create", m, map[string]any{"username": a[0], "created": r["created"]}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	f := c.Flags()
	f.BoolVar(&bare, "no-specialuse", false, "the INBOX alone")
	f.StringVar(&p.Sent, "sent-name", "Sent", "`name` of the mailbox for what was sent")
	f.StringVar(&p.Trash, "trash-name", "Trash", "`name` of the mailbox for what was thrown away")
	f.StringVar(&p.Junk, "junk-name", "Junk", "`name` of the mailbox for junk")
	f.StringVar(&p.Drafts, "drafts-name", "Drafts", "`name` of the mailbox for drafts")
	f.StringVar(&p.Archive, "archive-name", "Archive", "`name` of the mailbox for what is kept")
	return c
}

func (s *shell) imapRemove() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "remove USER", Short: "Remove the mail of an account and block its name; its password stays", Args: cobra.ExactArgs(1), Example: "  madmail imap-acct remove alice --yes",
		RunE: func(_ *cobra.Command, a []string) error {
			if !s.confirm("Remove all mail of "+a[0]+" and block the name?", yes) {
				return s.aborted("imap-acct remove")
			}
			var r ops.User
			if err := s.call("mail.remove", ops.User{Username: a[0]}, &r); err != nil {
				return err
			}
			m := "Removed the mail of " + r.Username
			return s.result("imap-acct remove", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// imapAppendLimit shows or sets the limit of one account.
func (s *shell) imapAppendLimit() *cobra.Command {
	var value int64
	c := &cobra.Command{Use: "appendlimit USER", Short: "Show or set the largest message that an account takes, by whatever way", Args: cobra.ExactArgs(1),
		Example: "  madmail imap-acct appendlimit alice --value 1048576",
		RunE: func(c *cobra.Command, a []string) error {
			p := ops.AppendLimitChange{Username: a[0]}
			if c.Flags().Changed("value") {
				p.Value = &value
			}
			var r ops.AppendLimit
			if err := s.call("appendlimit", p, &r); err != nil {
				return err
			}
			return s.result("imap-acct appendlimit", "", r, func(w io.Writer) {
				if r.AppendLimit > 0 {
					fmt.Fprintln(w, r.AppendLimit)
				} else {
					fmt.Fprintf(w, "No limit of its own; %d for all\n", r.EffectiveBytes)
				}
			})
		}}
	c.Flags().Int64VarP(&value, "value", "v", 0, "the limit in `octets`, -1 for none but that of all")
	return c
}

// imapAdd puts a message into a mailbox.
func (s *shell) imapAdd() *cobra.Command {
	p := ops.MessageAdd{}
	c := &cobra.Command{Use: "add USER MAILBOX", Short: "Put the message on standard input into a mailbox, under the rules for clients; prints its UID", Args: cobra.ExactArgs(2),
		Example: "  cat message.eml | madmail imap-msgs add alice INBOX",
		RunE: func(_ *cobra.Command, a []string) error {
			q := p
			q.Username, q.Mailbox = a[0], a[1]
			if q.Received != "" {
				at, err := moment(q.Received)
				if err != nil {
					return err
				}
				q.Received = at.Format(time.RFC3339)
			}
			f, size, err := s.spool()
			if err != nil {
				return err
			}
			defer discard(f)
			var r ops.Added
			if err := s.callWith("messages.add", q, f, size, &r); err != nil {
				return err
			}
			return s.result("imap-msgs add", "", r, func(w io.Writer) { fmt.Fprintln(w, r.UID) })
		}}
	c.Flags().StringArrayVarP(&p.Flags, "flag", "f", nil, "set this `flag`; may be repeated")
	c.Flags().StringVarP(&p.Received, "date", "d", "", "when it was received, as in 2026-01-31T12:00:00Z; now without it")
	return c
}

// moment reads a time as people and earlier versions write it.
func moment(text string) (time.Time, error) {
	for _, form := range []string{time.RFC3339, time.RFC1123Z, time.RFC1123, "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.Parse(form, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fault.WithHint(fault.Newf(fault.Invalid, "%.40q is not a time", text), `write "2026-01-31T12:00:00Z"`)
}

// discard closes a file and removes it.
func discard(f *os.File) {
	f.Close()
	_ = os.Remove(f.Name()) // what stays is in the directory for such files
}

// spool copies a message from standard input to a file, with the line ends of mail
// (RFC 5322 section 2.1). The caller discards it.
func (s *shell) spool() (f *os.File, size int64, err error) {
	f, err = os.CreateTemp("", "madmail-message-*")
	if err != nil {
		return nil, 0, err
	}
	if size, err = mailLines(f, s.in); err == nil && size == 0 {
		err = fault.New(fault.Invalid, "there is no message on standard input")
	}
	if err != nil {
		discard(f)
		return nil, 0, err
	}
	return f, size, nil
}

// mailLines copies text with line ends of any system to w, with CR LF.
func mailLines(w io.Writer, text io.Reader) (size int64, err error) {
	out, in := bufio.NewWriter(w), bufio.NewReader(text)
	var last byte
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return size, out.Flush()
		}
		if err != nil {
			return 0, err
		}
		if b == '\n' && last != '\r' {
			_ = out.WriteByte('\r') // Flush has the error
			size++
		}
		_ = out.WriteByte(b)
		size, last = size+1, b
	}
}

// imapDump prints messages as they are stored.
func (s *shell) imapDump(byUID *bool) *cobra.Command {
	return &cobra.Command{Use: "dump USER MAILBOX SET", Short: "Print messages as they are stored", Args: cobra.ExactArgs(3), Example: "  madmail imap-msgs dump alice INBOX 1",
		RunE: func(_ *cobra.Command, a []string) error {
			var r struct {
				Messages []ops.MessageInfo `json:"messages"`
			}
			if err := s.call("messages.list", ops.MessageSet{Username: a[0], Mailbox: a[1], Set: a[2], UID: *byUID}, &r); err != nil {
				return err
			}
			if len(r.Messages) == 0 {
				return fault.New(fault.NotFound, "there is no such message")
			}
			type whole struct {
				UID     uint32 `json:"uid"`
				Size    int64  `json:"size"`
				Content string `json:"content_base64"`
			}
			list := []whole{}
			for _, m := range r.Messages {
				var text strings.Builder
				out := s.out
				if s.json {
					out = &text
				}
				if err := s.read(out, ops.MessagePart{Username: a[0], Mailbox: a[1], UID: m.UID}); err != nil {
					return err
				}
				list = append(list, whole{m.UID, m.Size, base64.StdEncoding.EncodeToString([]byte(text.String()))})
			}
			return s.result("imap-msgs dump", "", map[string]any{"messages": list}, func(io.Writer) {})
		}}
}

// read copies a stored message to w.
func (s *shell) read(w io.Writer, p ops.MessagePart) error {
	for {
		var part ops.MessageData
		if err := s.call("messages.read", p, &part); err != nil {
			return err
		}
		if _, err := w.Write(part.Data); err != nil {
			return err
		}
		if part.Next <= p.Offset {
			return nil
		}
		p.Offset = part.Next
	}
}

// oneLine is text of strangers for a terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.Join(strings.Fields(text), " "))
}

package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"madmail/internal/ops"
)

func (s *shell) tokens() *cobra.Command {
	c := s.group("registration-tokens", "Manage invitations: tokens that let somebody make an account",
		"  madmail registration-tokens create --max-uses 5 --expires 7d\n  madmail registration-tokens list",
		s.tokenCreate(), s.tokenList(), s.tokenStatus(), s.tokenDelete())
	c.Aliases = []string{"reg-tokens", "tokens"}
	return c
}

func (s *shell) tokenCreate() *cobra.Command {
	var p ops.NewToken
	uses := 1
	c := &cobra.Command{Use: "create", Short: "Make a token", Args: cobra.NoArgs, Example: "  madmail registration-tokens create --max-uses 5 --expires 7d --comment friends",
		RunE: func(*cobra.Command, []string) error {
			p.MaxUses = &uses
			var t ops.Token
			if err := s.call("tokens.create", p, &t); err != nil {
				return err
			}
			if !t.Required && !s.json {
				fmt.Fprintln(s.err, "Note: registration does not ask for tokens; \"madmail settings set registration_token_required yes\" makes it, \"madmail registration close\" as well.")
			}
			return s.result("registration-tokens create", "", t, func(w io.Writer) {
				if f, ok := s.out.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
					_, _ = io.WriteString(w, t.Token) // for a script
					return
				}
				fmt.Fprintf(w, "Token: %s\nMax Uses: %d\nComment: %s\nExpires At: %s\n", t.Token, t.MaxUses, t.Comment, never(t.ExpiresAt))
			})
		}}
	f := c.Flags()
	f.StringVar(&p.Token, "token", "", "the token itself; drawn when absent")
	f.IntVar(&uses, "max-uses", 1, "how many accounts it is good for")
	f.StringVar(&p.Comment, "comment", "", "a note for the list")
	f.StringVar(&p.Expires, "expires", "", "when it ends, from now: 7d, 12h")
	return c
}

func never(at *string) string {
	if at == nil {
		return "never"
	}
	return *at
}

func (s *shell) tokenList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the tokens", Args: cobra.NoArgs, Example: "  madmail registration-tokens list",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Tokens []ops.Token `json:"tokens"`
			}
			if err := s.call("tokens.list", nil, &r); err != nil {
				return err
			}
			return s.result("registration-tokens list", "", r, func(w io.Writer) {
				if len(r.Tokens) == 0 {
					fmt.Fprintln(w, "No registration tokens found.")
					return
				}
				fmt.Fprintf(w, "%-26s %5s %8s %7s %-9s %s\n%s\n", "TOKEN", "MAX", "CONSUMED", "PENDING", "STATUS", "COMMENT", strings.Repeat("-", 90))
				for _, t := range r.Tokens {
					if len(t.Token) > 26 {
						t.Token = t.Token[:23] + "..."
					}
					fmt.Fprintf(w, "%-26s %5d %8d %7d %-9s %s\n", t.Token, t.MaxUses, t.Used, t.Pending, t.Status, t.Comment)
				}
			})
		}}
}

func (s *shell) tokenStatus() *cobra.Command {
	return &cobra.Command{Use: "status TOKEN", Short: "Show one token and who holds it", Args: cobra.ExactArgs(1), Example: "  madmail registration-tokens status friends",
		RunE: func(_ *cobra.Command, args []string) error {
			var t ops.Token
			if err := s.call("tokens.status", ops.TokenName{Token: args[0]}, &t); err != nil {
				return err
			}
			return s.result("registration-tokens status", "", t, func(w io.Writer) {
				fmt.Fprintf(w, "Token: %s\nStatus: %s\nMax Uses: %d\nConsumed: %d\nPending: %d\nAvailable: %d\nComment: %s\nCreated At: %s\nExpires At: %s\n",
					t.Token, t.Status, t.MaxUses, t.Used, t.Pending, t.Available, t.Comment, t.CreatedAt, never(t.ExpiresAt))
				if t.ExpiresAt != nil {
					if at, err := time.Parse(time.RFC3339, *t.ExpiresAt); err == nil {
						if left := time.Until(at); left > 0 {
							fmt.Fprintf(w, "Expires In: %dm\n", int64(left/time.Minute))
						} else {
							fmt.Fprintf(w, "Expired: %dm ago\n", int64(-left/time.Minute))
						}
					}
				}
				if len(t.Holders) > 0 {
					fmt.Fprintf(w, "Pending Accounts (%d):\n", len(t.Holders))
					for _, h := range t.Holders {
						fmt.Fprintf(w, "- %s (%s)\n", h.Username, h.Status)
					}
				}
			})
		}}
}

func (s *shell) tokenDelete() *cobra.Command {
	return &cobra.Command{Use: "delete TOKEN", Short: "Remove a token", Args: cobra.ExactArgs(1), Example: "  madmail registration-tokens delete friends",
		RunE: func(_ *cobra.Command, args []string) error {
			var t ops.TokenName
			if err := s.call("tokens.delete", ops.TokenName{Token: args[0]}, &t); err != nil {
				return err
			}
			m := "Deleted: " + t.Token
			return s.result("registration-tokens delete", m, t, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
}

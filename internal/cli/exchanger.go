package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
)

func (s *shell) exchanger() *cobra.Command {
	c := s.group("exchanger", "Fetch mail from boxes where servers that cannot be reached leave it",
		"  madmail exchanger add relief https://box.example/inbox\n  madmail exchanger list\n  madmail exchanger set relief --poll-interval 30",
		s.exchangerList(), s.exchangerAdd(), s.exchangerSet(), s.exchangerRemove(), s.exchangerSwitch("enable", true), s.exchangerSwitch("disable", false))
	c.Aliases = []string{"exchangers"}
	return c
}

func (s *shell) exchangerList() *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the exchangers", Args: cobra.NoArgs, Example: "  madmail exchanger list --json",
		RunE: func(*cobra.Command, []string) error {
			var r struct {
				Exchangers []ops.Exchanger `json:"exchangers"`
			}
			if err := s.call("exchangers.list", nil, &r); err != nil {
				return err
			}
			return s.result("exchanger list", "", r, func(w io.Writer) {
				if len(r.Exchangers) == 0 {
					fmt.Fprintln(w, "No exchangers configured.")
					return
				}
				fmt.Fprintln(w, "NAME\tURL\tENABLED\tINTERVAL\tLAST POLL\tRECEIVED\tLAST ERROR")
				for _, x := range r.Exchangers {
					last := x.LastPoll
					if last == "" {
						last = "never"
					}
					fmt.Fprintf(w, "%s\t%s\t%t\t%s\t%s\t%d\t%s\n", x.Name, x.URL, x.Enabled, seconds(x.Interval), last, x.Received, x.Error)
				}
			})
		}}
}

// exchangerDone prints an exchanger after a change.
func (s *shell) exchangerDone(command, op string, p ops.ExchangerChange, word string) error {
	var x ops.Exchanger
	if err := s.call(op, p, &x); err != nil {
		return err
	}
	m := fmt.Sprintf("Exchanger %s %s.", x.Name, word)
	return s.result(command, m, x, func(w io.Writer) { fmt.Fprintln(w, m) })
}

func (s *shell) exchangerAdd() *cobra.Command {
	var interval int64
	var token string
	c := &cobra.Command{Use: "add NAME URL", Short: "Fetch mail from one more exchanger; a URL ending in /pull is asked by domain", Args: cobra.ExactArgs(2),
		Example: "  madmail exchanger add relief https://box.example/inbox --interval 30\n  madmail exchanger add other https://box.example/pull --token SECRET",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.exchangerDone("exchanger add", "exchangers.add", ops.ExchangerChange{Name: args[0], URL: &args[1], Token: &token, Interval: &interval}, "added")
		}}
	c.Flags().Int64Var(&interval, "interval", 60, "`seconds` between two questions, at least 5")
	c.Flags().StringVar(&token, "token", "", "`secret` that the exchanger asks for")
	return c
}

func (s *shell) exchangerSet() *cobra.Command {
	var interval int64
	var url, token string
	c := &cobra.Command{Use: "set NAME", Short: "Change an exchanger", Args: cobra.ExactArgs(1), Example: "  madmail exchanger set relief --poll-interval 30",
		RunE: func(c *cobra.Command, args []string) error {
			p := ops.ExchangerChange{Name: args[0]}
			if c.Flags().Changed("poll-interval") {
				p.Interval = &interval
			}
			if c.Flags().Changed("url") {
				p.URL = &url
			}
			if c.Flags().Changed("token") {
				p.Token = &token
			}
			return s.exchangerDone("exchanger set", "exchangers.set", p, "changed")
		}}
	c.Flags().Int64Var(&interval, "poll-interval", 60, "`seconds` between two questions, at least 5")
	c.Flags().StringVar(&url, "url", "", "another `URL`")
	c.Flags().StringVar(&token, "token", "", "another `secret`, or an empty one")
	return c
}

func (s *shell) exchangerSwitch(word string, on bool) *cobra.Command {
	return &cobra.Command{Use: word + " NAME", Short: map[bool]string{true: "Fetch mail from an exchanger again", false: "Fetch no mail from an exchanger for now"}[on], Args: cobra.ExactArgs(1),
		Example: "  madmail exchanger " + word + " relief",
		RunE: func(_ *cobra.Command, args []string) error {
			return s.exchangerDone("exchanger "+word, "exchangers.set", ops.ExchangerChange{Name: args[0], Enabled: &on}, word+"d")
		}}
}

func (s *shell) exchangerRemove() *cobra.Command {
	return &cobra.Command{Use: "remove NAME", Aliases: []string{"delete"}, Short: "Forget an exchanger", Args: cobra.ExactArgs(1), Example: "  madmail exchanger remove relief",
		RunE: func(_ *cobra.Command, args []string) error {
			var x ops.ExchangerName
			if err := s.call("exchangers.remove", ops.ExchangerName{Name: args[0]}, &x); err != nil {
				return err
			}
			m := "Exchanger " + args[0] + " removed."
			return s.result("exchanger remove", m, x, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
}

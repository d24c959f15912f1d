package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
)

func (s *shell) cache() *cobra.Command {
	return s.group("cache", "Keep the memory in step with the database", "  madmail cache reload",
		&cobra.Command{Use: "reload", Short: "Read accounts and storage anew, after a change by SQL", Args: cobra.NoArgs, Example: "  madmail cache reload",
			RunE: func(*cobra.Command, []string) error {
				var r ops.Caches
				if err := s.call("cache.reload", nil, &r); err != nil {
					return err
				}
				m := "Accounts and storage were read again."
				return s.result("cache reload", m, r, func(w io.Writer) { fmt.Fprintln(w, m) })
			}})
}

// federationSize shows and changes the largest message of other servers.
func (s *shell) federationSize() *cobra.Command {
	run := func(command string, p ops.SizeChange) error {
		var m ops.FederationSize
		if err := s.call("federation-size", p, &m); err != nil {
			return err
		}
		return s.result(command, "", m, func(w io.Writer) {
			fmt.Fprintf(w, "Largest message of other servers: %s (%s)\n", m.Effective, m.Source)
			if m.Applied != "" {
				fmt.Fprintln(w, m.Applied)
			}
		})
	}
	status := &cobra.Command{Use: "status", Short: "Show the size", Args: cobra.NoArgs, Example: "  madmail federation-size status",
		RunE: func(*cobra.Command, []string) error { return run("federation-size status", ops.SizeChange{}) }}
	return s.orStatus(s.group("federation-size", "Show and change the largest message of other servers", "  madmail federation-size set 70M", status,
		&cobra.Command{Use: "set SIZE", Short: "Store a size, as in 70M", Args: cobra.ExactArgs(1), Example: "  madmail federation-size set 70M",
			RunE: func(_ *cobra.Command, a []string) error { return run("federation-size set", ops.SizeChange{Set: a[0]}) }},
		&cobra.Command{Use: "reset", Short: "Forget the stored size", Args: cobra.NoArgs, Example: "  madmail federation-size reset",
			RunE: func(*cobra.Command, []string) error {
				return run("federation-size reset", ops.SizeChange{Reset: true})
			}}), status)
}

func (s *shell) unbanAll() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "clear", Short: "Free all blocked names", Args: cobra.NoArgs, Example: "  madmail blocklist clear -y",
		RunE: func(*cobra.Command, []string) error {
			if !s.confirm("Free all blocked names?", yes) {
				return s.aborted("blocklist clear")
			}
			var r ops.Bulk
			if err := s.call("accounts.unban-all", nil, &r); err != nil {
				return err
			}
			m := fmt.Sprintf("Freed %d name(s).", r.Done)
			return s.result("blocklist clear", m, map[string]any{"unblocked": r.Done, "errors": r.Errors}, func(w io.Writer) { fmt.Fprintln(w, m) })
		}}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

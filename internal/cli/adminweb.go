package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

// adminWeb shows and changes whether and where the operators' page is served.
func (s *shell) adminWeb() *cobra.Command {
	run := func(command string, p ops.AdminWebChange) error {
		var r ops.AdminWeb
		if err := s.call("admin-web", p, &r); err != nil {
			return err
		}
		if !r.Built && p.Enabled != nil && *p.Enabled {
			fmt.Fprintln(s.err, `Note: the page is not in this program; "make build-with-admin-web" builds one with it.`)
		}
		return s.result(command, "", r, func(w io.Writer) {
			fmt.Fprintf(w, "Admin web dashboard: %s\nPath: %s\n", enabledWord[r.Enabled], r.Path)
			if r.Applied != "" {
				fmt.Fprintln(w, r.Applied)
			}
		})
	}
	sub := func(word, short string, on *bool) *cobra.Command {
		return &cobra.Command{Use: word, Short: short, Args: cobra.NoArgs, Example: "  madmail admin-web " + word,
			RunE: func(*cobra.Command, []string) error { return run("admin-web "+word, ops.AdminWebChange{Enabled: on}) }}
	}
	yes, no := true, false
	status := sub("status", "Tell whether and where it is served", nil)
	var reset bool
	path := &cobra.Command{Use: "path [PATH]", Short: "Show or change where it is served", Args: cobra.MaximumNArgs(1), Example: "  madmail admin-web path /desk\n  madmail admin-web path --reset",
		RunE: func(_ *cobra.Command, a []string) error {
			p := ops.AdminWebChange{Reset: reset}
			if len(a) > 0 {
				if p.Path = a[0]; reset || p.Path == "" {
					return fault.New(fault.Invalid, "a path, or --reset")
				}
			}
			return run("admin-web path", p)
		}}
	path.Flags().BoolVar(&reset, "reset", false, "let the file say it again, or take /admin")
	return s.orStatus(s.group("admin-web", "Show and change whether and where the operators' page is served", "  madmail admin-web enable\n  madmail admin-web path /desk", status,
		sub("enable", "Serve it from now on", &yes), sub("disable", "Serve it no more", &no), path), status)
}

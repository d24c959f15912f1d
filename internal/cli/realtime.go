package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
)

func (s *shell) realtime() *cobra.Command {
	show := func() error {
		var r ops.Realtime
		if err := s.call("iroh.status", nil, &r); err != nil {
			return err
		}
		return s.result("iroh status", "", r, func(w io.Writer) {
			if !r.Configured {
				fmt.Fprintln(w, "The relay for realtime apps is not configured: clients use those of strangers.\nmadmail iroh install gives them one.")
				return
			}
			fmt.Fprintf(w, "The relay for realtime apps is %s\nPort: %d\nURL: %s\n", map[bool]string{true: "ENABLED", false: "DISABLED"}[r.RuntimeEnabled], r.Port, r.URL)
		})
	}
	enable := func(use, short string, on bool) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, Example: "  madmail iroh " + use, RunE: func(*cobra.Command, []string) error {
			var r ops.Switched
			if err := s.call("iroh.enable", map[string]bool{"Enabled": on}, &r); err != nil {
				return err
			}
			return s.result("iroh "+use, "", r, func(w io.Writer) {
				fmt.Fprintf(w, "The relay for realtime apps is now %s\n%s\n", map[bool]string{true: "ENABLED", false: "DISABLED"}[r.Enabled], r.Applied)
			})
		}}
	}
	var url string
	install := &cobra.Command{Use: "install", Short: "Give clients the relay, under a URL that is kept", Args: cobra.NoArgs,
		Example: "  madmail iroh install --url https://relay.example.org", RunE: func(*cobra.Command, []string) error {
			var r ops.RealtimeInstalled
			if err := s.call("iroh.install", map[string]string{"URL": url}, &r); err != nil {
				return err
			}
			return s.result("iroh install", "", r, func(w io.Writer) {
				fmt.Fprintf(w, "Clients are told %s\n%s\n", r.URL, r.Applied)
			})
		}}
	install.Flags().StringVar(&url, "url", "", "tell clients this `URL` instead of the one that fits this server")
	c := s.group("iroh", "Manage the relay for realtime apps", "  madmail iroh install\n  madmail iroh status",
		&cobra.Command{Use: "status", Short: "Tell how it is, and what clients are told", Args: cobra.NoArgs, Example: "  madmail iroh status",
			RunE: func(*cobra.Command, []string) error { return show() }},
		enable("enable", "Serve it, where it is configured, and tell clients", true), enable("disable", "Close its port, end its connections, tell clients nothing", false), install)
	s.unlessCommand(c, show)
	return c
}

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/fault"
	"madmail/internal/ops"
)

// sharedPort says which mail protocols the HTTPS port serves, too.
func (s *shell) sharedPort() *cobra.Command {
	run := func(command string, p ops.SharedPortChange) error {
		var r ops.SharedPort
		if err := s.call("shared-port", p, &r); err != nil {
			return err
		}
		return s.result(command, "", r, func(w io.Writer) {
			word := map[bool]string{true: "served", false: "not served"}
			fmt.Fprintf(w, "IMAP on the HTTPS port:       %s\nSubmission on the HTTPS port: %s\n", word[r.IMAP], word[r.SMTP])
			if !r.Listens {
				fmt.Fprintln(w, "There is no HTTPS port now: https_enabled is off.")
			}
			if r.Applied != "" {
				fmt.Fprintln(w, r.Applied)
			}
		})
	}
	sub := func(word, short string, on bool) *cobra.Command {
		return &cobra.Command{Use: word + " [imap|smtp|both]", Short: short, Args: cobra.MaximumNArgs(1), Example: "  madmail shared-port " + word + " imap",
			RunE: func(_ *cobra.Command, a []string) error {
				p := ops.SharedPortChange{IMAP: &on, SMTP: &on}
				which := "both"
				if len(a) > 0 {
					which = strings.ToLower(strings.TrimSpace(a[0]))
				}
				switch which {
				case "both", "all":
				case "imap":
					p.SMTP = nil
				case "smtp", "submission":
					p.IMAP = nil
				default:
					return fault.Newf(fault.Invalid, "unknown protocol: %.40q (expected imap, smtp or both)", a[0])
				}
				return run("shared-port "+word, p)
			}}
	}
	status := &cobra.Command{Use: "status", Short: "Tell what the HTTPS port serves beside the site", Args: cobra.NoArgs, Example: "  madmail shared-port status",
		RunE: func(*cobra.Command, []string) error { return run("shared-port status", ops.SharedPortChange{}) }}
	c := s.orStatus(s.group("shared-port", "Show or switch mail on the HTTPS port, for networks where the mail ports are blocked",
		"  madmail shared-port disable imap\n  madmail shared-port status", status,
		sub("enable", "Serve it to clients that name the protocol in their first message (ALPN)", true),
		sub("disable", "Leave the port to the site; sessions that are open stay", false)), status)
	c.Aliases = []string{"alpn"}
	return c
}

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"madmail/internal/ops"
)

func (s *shell) push() *cobra.Command {
	return s.group("push", "Wake sleeping clients by a notification service", "  madmail push status\n  madmail push auto",
		s.pushMode("status", "", "Show whether clients are woken"),
		s.pushMode("auto", "auto", "Wake clients, until the service fails again and again"),
		s.pushMode("on", "on", "Wake clients, whatever happens"),
		s.pushMode("off", "off", "Wake nobody"))
}

func (s *shell) pushMode(word, mode, short string) *cobra.Command {
	return &cobra.Command{Use: word, Short: short, Args: cobra.NoArgs, Example: "  madmail push " + word,
		RunE: func(*cobra.Command, []string) error {
			var p ops.Push
			if err := s.call("push", ops.PushMode{Mode: mode}, &p); err != nil {
				return err
			}
			return s.result("push", "", p, func(w io.Writer) {
				works := "no"
				if p.Enabled {
					works = "yes"
				}
				fmt.Fprintf(w, "Push mode: %s\nEnabled now: %s\nFailures in a row: %d (auto gives up at %d)\nPending: %d\nSent since the start: %d\nDead tokens removed: %d\n",
					p.Mode, works, p.Failures, p.Threshold, p.Pending, p.Sent, p.Gone)
			})
		}}
}

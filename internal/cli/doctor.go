package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/app"
	"madmail/internal/config"
	"madmail/internal/doctor"
	"madmail/internal/fault"
	"madmail/internal/ops"
)

func (s *shell) doctor() *cobra.Command {
	var fix bool
	c := &cobra.Command{Use: "doctor [CHECK]...", Short: "Look for usual troubles: what was found, the evidence, and what to type next", Args: cobra.ArbitraryArgs,
		Example: "  madmail doctor\n  madmail doctor client dns --json\n  madmail doctor --fix",
		RunE: func(_ *cobra.Command, args []string) error {
			var d ops.Diagnosis
			if err := s.call("doctor", ops.Checkup{Only: args, Fix: fix}, &d); err != nil {
				if fault.Is(err, fault.Invalid) && len(args) > 0 && strings.Contains(err.Error(), "is no check") {
					return err
				}
				// What keeps the state from being opened is the finding.
				facts := app.Examine(app.Options{ConfigPath: config.FindFile(s.config, os.Getenv), StateDir: s.stateDir, Env: os.Getenv}, err)
				if d.Findings, err = doctor.Run(context.Background(), facts, args, fix); err != nil {
					return err
				}
				d.Worst = doctor.Worst(d.Findings)
			}
			marks := map[doctor.Level]string{doctor.OK: "ok", doctor.Note: "note", doctor.Warning: "WARNING", doctor.Failure: "FAILURE", doctor.Unknown: "not known"}
			err := s.result("doctor", "", d, func(w io.Writer) {
				for _, f := range d.Findings {
					fmt.Fprintf(w, "%-9s %s: %s\n", marks[f.Level], f.Check, f.Finding)
					if f.Evidence != "" {
						fmt.Fprintf(w, "          %s\n", f.Evidence)
					}
					if f.Fixed != "" {
						fmt.Fprintf(w, "          mended: %s\n", f.Fixed)
					}
					if f.Next != "" && f.Level != doctor.OK {
						fmt.Fprintf(w, "          next: %s\n", f.Next)
					}
				}
			})
			if err == nil && d.Worst == doctor.Failure {
				return fault.New(fault.Refused, "something is broken: see the findings above")
			}
			return err
		}}
	c.Flags().BoolVar(&fix, "fix", false, "mend what can be mended without harm")
	return c
}

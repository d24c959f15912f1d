package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"madmail/internal/app"
	"madmail/internal/fault"
	"madmail/internal/importer"
	"madmail/internal/units"
)

// importLimit bounds an import: somebody waits for it.
const importLimit = 7 * 24 * time.Hour

// toldSkipped is how many things that were left out are shown to people.
const toldSkipped = 20

func (s *shell) importV1() *cobra.Command {
	var dry bool
	var from string
	c := &cobra.Command{Use: "import-v1", Short: "Take over mail, limits, blocks, tokens and rules of the first version; no server may run", Args: cobra.NoArgs,
		Example: "  madmail import-v1 --dry-run\n  madmail import-v1\n  pg_dump --data-only --column-inserts maddy | madmail import-v1 --from-dump -",
		RunE: func(*cobra.Command, []string) error {
			if dry && from != "" {
				return usageError{errors.New("--dry-run looks at what is there, --from-dump brings it")}
			}
			dump, err := s.dump(from)
			if err != nil {
				return failure{err}
			}
			if dump != nil {
				defer dump.Close()
			}
			path, conf, dir := s.find()
			ctx, cancel := context.WithTimeout(context.Background(), importLimit)
			defer cancel()
			ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
			defer stop()
			var r importer.Report
			err = asOwner(dir, conf.FindRuntimeDir(dir), func() (err error) {
				o := app.Options{ConfigPath: path, Config: conf, StateDir: s.stateDir, Env: os.Getenv, Stderr: s.err, Debug: s.debug}
				if dump != nil {
					r, err = app.ImportDump(ctx, o, dump, s.importing)
				} else {
					r, err = app.ImportV1(ctx, o, dry, s.importing)
				}
				return err
			})
			if errors.Is(err, app.ErrLocked) {
				return fault.WithHint(err, `stop the server first: "systemctl stop madmail"`)
			}
			if err != nil {
				return failure{err}
			}
			text := "Imported: "
			if dry {
				text = "To be imported: "
			}
			text += fmt.Sprintf("%d messages (%s) in %d mailboxes of %d users, %d limits, %d blocks, %d tokens, %d overrides, %d rules, %d exchangers, %d contact links.",
				r.Messages, units.FormatSize(r.Bytes), r.Mailboxes, r.Users, r.Quotas, r.Blocked, r.Tokens, r.Overrides, r.Rules, r.Exchangers, r.Contacts)
			return s.result("import-v1", text, r, func(w io.Writer) { writeImport(w, text, r) })
		}}
	c.Flags().BoolVar(&dry, "dry-run", false, "only tell what would be imported, and how much room it takes")
	c.Flags().StringVar(&from, "from-dump", "", "accounts and tables that lay in PostgreSQL, as `file` that pg_dump --data-only --column-inserts wrote; - is the standard input")
	c.Flags().Bool("keep", true, "accepted; the files of the first version are always kept")
	return c
}

// dump opens a dump, or returns nil when there is none.
func (s *shell) dump(path string) (io.ReadCloser, error) {
	switch path {
	case "":
		return nil, nil
	case "-":
		return io.NopCloser(s.in), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.NotFound, err, "import-v1")
	}
	return f, nil
}

// importing says how far an import is.
func (s *shell) importing(r importer.Report) {
	s.say("%d of %d messages, %s", r.Messages, r.Total, units.FormatSize(r.Bytes))
}

func writeImport(w io.Writer, text string, r importer.Report) {
	fmt.Fprintln(w, text)
	switch {
	case r.DryRun:
		fmt.Fprintf(w, "Room on disk that it needs: %s.\n", units.FormatSize(r.Needed))
	case r.Messages > 0:
		fmt.Fprintf(w, "%d messages are links to the first version's files, which stay as they are.\n", r.Linked)
	case r.Done:
		fmt.Fprintln(w, "Everything else was imported before.")
	}
	if r.NotTaken == 0 {
		return
	}
	fmt.Fprintf(w, "To look at (%d):\n", r.NotTaken)
	for i, x := range r.Skipped {
		if i == toldSkipped {
			fmt.Fprintln(w, "  and more; --json lists them")
			return
		}
		fmt.Fprintf(w, "  %s %s: %s\n", x.What, oneLine(x.Name), x.Reason)
	}
}

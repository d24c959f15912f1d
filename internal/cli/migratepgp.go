package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// migratePGP is "migrate-pgp-config" of the first version.
func (s *shell) migratePGP() *cobra.Command {
	var dry bool
	c := &cobra.Command{Use: "migrate-pgp-config", Short: "Rewrite the check pgp_encryption of an old configuration into directives of its submission block", Args: cobra.NoArgs,
		Example: "  madmail migrate-pgp-config --dry-run\n  madmail migrate-pgp-config --config /etc/maddy/maddy.conf",
		RunE: func(*cobra.Command, []string) error {
			file := config.FindFile(s.config, os.Getenv)
			st, err := os.Stat(file)
			if err != nil {
				return fault.Wrap(fault.Invalid, err, "migrate-pgp-config")
			}
			data, err := os.ReadFile(file)
			if err != nil {
				return fault.Wrap(fault.Invalid, err, "migrate-pgp-config")
			}
			text, n, err := config.MigratePGP(file, data)
			if err != nil {
				return err
			}
			r := config.PGPMigrated{Changed: n > 0, File: file, Checks: n}
			if n > 0 && !dry {
				if r.Backup, err = keepBeside(file, data, st.Mode().Perm()); err != nil {
					return err
				}
				// In place, so that owner, mode and links stay; as it was is kept.
				if err := os.WriteFile(file, text, st.Mode().Perm()); err != nil {
					return fault.WithHint(fault.Wrap(fault.Invalid, err, "migrate-pgp-config"), "as it was: "+r.Backup)
				}
			}
			return s.result("migrate-pgp-config", r.Summary(), r, func(w io.Writer) {
				if dry && n > 0 {
					_, _ = w.Write(text)
					s.say("%s", r.Summary())
					return
				}
				fmt.Fprintln(w, r.Summary())
			})
		}}
	c.Flags().BoolVar(&dry, "dry-run", false, "print how the file would read, and change nothing")
	return c
}

// keepBeside writes a copy of a file to its name with .bak, or the first .bak.N that is
// free, and returns the name.
func keepBeside(file string, data []byte, mode os.FileMode) (string, error) {
	name := file + ".bak"
	for i := 1; ; i++ {
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			return name, safefile.Write(name, data, mode)
		} else if err != nil {
			return "", fault.Wrap(fault.Invalid, err, "backup")
		}
		name = file + ".bak." + strconv.Itoa(i)
	}
}

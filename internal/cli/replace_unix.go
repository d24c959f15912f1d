//go:build unix

package cli

import (
	"os"
	"syscall"

	"madmail/internal/fault"
)

// replace runs the installed binary in the place of this process, with the same
// arguments. It returns only when that cannot be.
func replace() error {
	exe, err := os.Executable()
	if err == nil {
		err = syscall.Exec(exe, os.Args, os.Environ())
	}
	return fault.Wrap(fault.Internal, err, "restart")
}

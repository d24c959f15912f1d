//go:build unix

package cli

import (
	"os"
	"os/exec"
	"syscall"

	"madmail/internal/fault"
)

// replace runs the installed binary in the place of this process, with the same
// arguments. It returns only when that cannot be.
func replace() error {
	// What this process was started by may lead to another version now.
	exe, err := exec.LookPath(os.Args[0])
	if err != nil {
		exe, err = os.Executable()
	}
	if err == nil {
		err = syscall.Exec(exe, os.Args, os.Environ())
	}
	return fault.Wrap(fault.Internal, err, "restart")
}

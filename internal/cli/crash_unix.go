//go:build unix

package cli

import (
	"runtime/debug"
	"syscall"
)

// crashLoudly lets a crash end the process by SIGABRT. The runtime's own end is exit
// code 2, which tells a service manager that trying again is in vain; and a watchdog's
// SIGABRT would end in it, too. No memory is written to disk: mail and passwords are
// in it.
func crashLoudly() error {
	debug.SetTraceback("crash")
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}

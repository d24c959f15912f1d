//go:build unix

package cli

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"madmail/internal/app"
)

// moreSignals are handled where the system has them.
var moreSignals = []os.Signal{syscall.SIGUSR1, syscall.SIGUSR2}

// hangUp tells a server to reload.
func hangUp(pid int) error { return syscall.Kill(pid, syscall.SIGHUP) }

// react carries out a signal: SIGHUP and SIGUSR2 reload, SIGUSR1 opens the log
// files anew.
func (s *shell) react(ctx context.Context, a *app.App, sig os.Signal) {
	if sig == syscall.SIGUSR1 {
		if err := a.Log.Reopen(s.err); err != nil {
			fmt.Fprintln(s.err, "madmail: warning:", err)
		}
		return
	}
	if _, err := a.Reload(ctx); err != nil {
		fmt.Fprintln(s.err, "madmail: reload:", err)
	}
}

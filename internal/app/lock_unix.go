//go:build unix

package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"madmail/internal/fault"
)

// lock takes the state directory for this process. Who holds it is written
// inside, for the message to the one who comes second.
func lock(dir string) (release func() error, err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "state directory"), "it must be writable for this user")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			who := "unknown"
			if pid, err := os.ReadFile(path); err == nil && len(pid) > 0 {
				who = strings.TrimSpace(string(pid))
			}
			return nil, fault.WithHint(fault.Wrap(fault.Busy, fmt.Errorf("%w (pid %s)", ErrLocked, who), ""),
				"one server per state directory: \"madmail status\" tells about the one that runs")
		}
		return nil, fault.Wrap(fault.Invalid, err, "lock the state directory")
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f.Close, nil
}

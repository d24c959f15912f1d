//go:build !unix

package app

import (
	"fmt"
	"os"
	"path/filepath"

	"madmail/internal/fault"
)

// lock takes the state directory for this process: while the file is open for
// exclusive creation nobody else makes it.
func lock(dir string) (release func() error, err error) {
	path := filepath.Join(dir, "lock")
	_ = os.Remove(path) // fails while another process has it open
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Busy, fmt.Errorf("%w: %w", ErrLocked, err), "")
	}
	return func() error {
		f.Close()
		return os.Remove(path)
	}, nil
}

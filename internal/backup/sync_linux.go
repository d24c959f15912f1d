package backup

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"madmail/internal/fault"
)

// syncTree makes a tree durable: one call for all of it, however many files.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
	}
	return fault.Wrap(fault.Busy, err, "backup: sync")
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	return fault.Wrap(fault.Busy, err, "backup: sync")
}

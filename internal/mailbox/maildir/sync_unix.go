//go:build unix && !linux

package maildir

import (
	"os"
	"syscall"
)

func datasync(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, size int64) error { return f.Truncate(size) }

// syncFileSystem asks for everything to be written: there is no call for one
// file system.
func syncFileSystem(string) error {
	syscall.Sync()
	return nil
}

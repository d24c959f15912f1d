//go:build !linux

package backup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"madmail/internal/fault"
)

// syncTree makes a tree durable, file by file.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var f *os.File
			if f, err = os.OpenFile(path, os.O_RDWR, 0); err == nil {
				err = errors.Join(f.Sync(), f.Close())
			}
		}
		return fault.Wrap(fault.Busy, err, "backup: sync")
	})
}

// syncDir does nothing: not every system lets a directory be synced.
func syncDir(string) error { return nil }

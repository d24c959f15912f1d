//go:build !unix

package maildir

import (
	"io/fs"
	"os"
	"path/filepath"
)

func datasync(f *os.File) error { return f.Sync() }

func preallocate(f *os.File, size int64) error { return f.Truncate(size) }

// syncFileSystem flushes file by file: slow, and right.
func syncFileSystem(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // gone meanwhile
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil
		}
		defer f.Close()
		return f.Sync()
	})
}

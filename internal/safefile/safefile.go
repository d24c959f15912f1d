// Package safefile replaces files so that a reader, and the machine after a
// loss of power, finds the old content or the new one, never a part.
//
// It knows paths and bytes. It does not know what a file is for, and it does
// not lock: two writers of one path both succeed and the later one stays.
//
// While a file is written its directory has a second one, named
// ".<name>.<random>.tmp". A crash can leave it; it may be removed when nothing
// writes to the directory, as at start.
//
// All functions may be called from many goroutines.
package safefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"madmail/internal/fault"
)

// Write puts data in place of the file at path, or makes it, and returns when
// it is durable. mode is exact: the umask does not apply. The owner of a file
// that is replaced is kept where the process may give it, so that a command
// run by root does not lock the server out of its own files. A symbolic link
// at path is replaced, not followed.
//
// When Write fails before the rename, the old file is untouched. After it (a
// directory that cannot be synced) the new content is there, but may not
// survive a loss of power.
//
// Errors: fault.Busy when the disk is full, fault.NotFound when the directory
// is missing, fault.Internal otherwise. They carry the path.
func Write(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, func(string) error { return nil })
}

// write is Write with a hook that is asked before each step; its error is the
// step's result. Tests use it to fail or to stop at any step.
func write(path string, data []byte, mode fs.FileMode, before func(step string) error) (err error) {
	defer func() { err = kinded(err) }()
	dir := filepath.Dir(path)
	if err := before("create"); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	if err := fill(f, path, data, mode, before); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	err = before("rename")
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := before("sync directory"); err != nil {
		return err
	}
	return syncDir(dir)
}

// fill writes, syncs and closes the temporary file. The content comes last:
// when others may read it, owner and mode are right already.
func fill(f *os.File, path string, data []byte, mode fs.FileMode, before func(step string) error) error {
	steps := []struct {
		name string
		do   func() error
	}{
		{"owner", func() error { return keepOwner(f, path) }},
		{"mode", func() error { return f.Chmod(mode) }},
		{"write", func() error { _, err := f.Write(data); return err }},
		{"sync", f.Sync},
	}
	for _, s := range steps {
		err := before(s.name)
		if err == nil {
			err = s.do()
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	err := before("close")
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a directory durable. Some systems cannot, and say
// EINVAL or refuse to open a directory.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// kinded gives an error its kind.
func kinded(err error) error {
	const doing = "safefile: write"
	switch {
	case err == nil:
		return nil
	case full(err):
		return fault.WithHint(fault.Wrap(fault.Busy, err, doing), "the disk is full; free some space")
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.NotFound, err, doing)
	case errors.Is(err, fs.ErrPermission):
		return fault.WithHint(fault.Wrap(fault.Internal, err, doing), "give the user that the server runs as write access to the directory")
	}
	return fault.Wrap(fault.Internal, err, doing)
}

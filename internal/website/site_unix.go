//go:build unix

package website

import (
	"errors"
	"syscall"
)

// notDirectory reports whether a path went on behind a file.
func notDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

//go:build !unix

package safefile

import (
	"errors"
	"os"
	"syscall"
)

func keepOwner(*os.File, string) error { return nil }

func full(err error) bool { return errors.Is(err, syscall.ENOSPC) }

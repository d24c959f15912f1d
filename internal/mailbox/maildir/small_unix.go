//go:build unix

package maildir

import (
	"errors"
	"syscall"
)

// readFile reads the beginning of a file into p. Package os would ask the kernel
// besides whether the file can be waited for, and set up a finalizer.
func readFile(path string, p []byte) (int, error) {
	fd, err := again(func() (int, error) { return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0) })
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	// A regular file gives all there is, unless a signal comes.
	return again(func() (int, error) { return syscall.Read(fd, p) })
}

// again repeats a system call that a signal interrupted.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

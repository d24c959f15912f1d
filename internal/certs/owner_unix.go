//go:build unix

package certs

import (
	"os"
	"syscall"

	"madmail/internal/fault"
)

// ownAs gives path to the owner of another one, where this process may: root does,
// for everybody else it is so already.
func ownAs(path, as string) error {
	info, err := os.Stat(as)
	if err != nil {
		return fault.Wrap(fault.Busy, err, "certs")
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		return fault.Wrap(fault.Busy, err, "certs")
	}
	return nil
}

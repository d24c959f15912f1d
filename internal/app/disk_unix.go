//go:build linux || darwin || freebsd

package app

import "syscall"

// diskSpace returns the size of the file system that holds a path, and what an
// ordinary user may still write, in bytes.
func diskSpace(path string) (total, free int64, ok bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, false
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), true
}

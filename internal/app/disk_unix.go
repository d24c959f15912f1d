//go:build linux || darwin || freebsd

package app

import "syscall"

// diskSpace returns the size of the file system that holds a path, and what an
// ordinary user may still write, in bytes.
func diskSpace(path string) (total, free int64, ok bool) {
	total, free, _, _, ok = diskRoom(path)
	return total, free, ok
}

// diskRoom is diskSpace with the number of files that there can be, and can be more.
func diskRoom(path string) (total, free int64, inodes, freeInodes uint64, ok bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, 0, 0, false
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), uint64(st.Files), uint64(max(int64(st.Ffree), 0)), true
}

// openFiles is how many files this process may have open.
func openFiles() (uint64, bool) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, false
	}
	return uint64(l.Cur), true
}

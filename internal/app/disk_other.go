//go:build !linux && !darwin && !freebsd

package app

// diskSpace does not know.
func diskSpace(string) (total, free int64, ok bool) { return 0, 0, false }

// diskRoom does not know.
func diskRoom(string) (total, free int64, inodes, freeInodes uint64, ok bool) {
	return 0, 0, 0, 0, false
}

// openFiles does not know.
func openFiles() (uint64, bool) { return 0, false }

//go:build unix

package app

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// foreign returns files of a state directory whose owner is not the directory's: what
// root made by hand, the server's user cannot read. It looks at what lies directly
// below, and at the files that are named.
func foreign(dir string, more []string) (list []string, owner string) {
	of := func(path string) (uint32, bool) {
		info, err := os.Lstat(path)
		if err != nil {
			return 0, false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return 0, false
		}
		return st.Uid, true
	}
	mine, ok := of(dir)
	if !ok {
		return nil, ""
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		found = nil // the directory's name has a pattern's characters
	}
	seen := make(map[string]bool)
	for _, path := range append(found, more...) {
		if uid, ok := of(path); ok && uid != mine && !seen[path] {
			seen[path] = true
			list = append(list, path)
		}
	}
	return list, strconv.FormatUint(uint64(mine), 10) + ":"
}

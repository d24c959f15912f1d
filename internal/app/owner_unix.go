//go:build unix

package app

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// mostLooked and mostForeign bound how many files foreign looks at, and returns.
const (
	mostLooked  = 100_000
	mostForeign = 100
)

// foreign returns files of a state directory whose owner is not the directory's: what
// root made by hand, the server's user cannot read. It looks at those below, and at
// the ones that are named.
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
	seen := make(map[string]bool)
	look := func(path string) {
		if uid, ok := of(path); ok && uid != mine && !seen[path] {
			seen[path] = true
			list = append(list, path)
		}
	}
	left := mostLooked
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error { // what cannot be read is looked at, too
		if left--; left < 0 || len(list) >= mostForeign {
			return fs.SkipAll
		}
		look(path)
		return nil
	})
	for _, path := range more {
		look(path)
	}
	return list, strconv.FormatUint(uint64(mine), 10) + ":"
}

//go:build unix

package app

import (
	"io/fs"
	"syscall"
)

const linksAreCounted = true

// linksOf is how many names a file has.
func linksOf(st fs.FileInfo) (n uint64, known bool) {
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(s.Nlink), true
}

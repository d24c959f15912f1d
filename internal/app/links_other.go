//go:build !unix

package app

import "io/fs"

const linksAreCounted = false

func linksOf(fs.FileInfo) (n uint64, known bool) { return 0, false }

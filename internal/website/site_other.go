//go:build !unix

package website

// notDirectory reports whether a path went on behind a file: here that is an error of
// files that are not there.
func notDirectory(error) bool { return false }

//go:build !linux && !darwin && !freebsd

package app

// diskSpace does not know.
func diskSpace(string) (total, free int64, ok bool) { return 0, 0, false }

//go:build !linux

package app

// holder names the process that listens on a port; "" where that is not known.
func holder(network, port string) string { return "" }

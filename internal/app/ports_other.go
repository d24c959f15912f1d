//go:build !linux

package app

import "os"

// MayBindLowPorts reports whether this process may bind ports below 1024.
func MayBindLowPorts() bool { return os.Geteuid() <= 0 }

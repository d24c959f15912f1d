//go:build !linux

package app

import "runtime"

// memoryUsed is what the Go runtime has of the system, in octets.
func memoryUsed() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys - m.HeapReleased)
}

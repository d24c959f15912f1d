//go:build !linux

package load

import (
	"runtime"
	"time"
)

var began = time.Now()

func pinThread(int) func() { return runtime.UnlockOSThread }

// threadCPU is the time that passed: other systems do not tell it by thread.
func threadCPU() time.Duration { return time.Since(began) }

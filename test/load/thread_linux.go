package load

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// pinThread moves the calling thread, which is locked, to a CPU. The returned
// function ends the goroutine's hold on the thread; a thread that was moved is
// not used again.
func pinThread(cpu int) func() {
	var set, before unix.CPUSet
	if unix.SchedGetaffinity(0, &before) != nil {
		return runtime.UnlockOSThread
	}
	set.Set(cpu)
	if unix.SchedSetaffinity(0, &set) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread()
		}
	}
}

func threadCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

package load

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf is the CPU time that a process has used, 0 when it is not known. The files of
// /proc count in hundredths of a second.
func cpuOf(pid int) time.Duration {
	if pid <= 0 {
		return 0
	}
	// The clock of a process, as clock_getcpuclockid(3) makes it: the complement of
	// its id, and 2 for what the scheduler counted.
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

package mxdeliv

import (
	"time"

	"golang.org/x/sys/unix"
)

// coarse is how late timers may be: they go off at full milliseconds.
const coarse = 2 * time.Millisecond

// nap sleeps to the accuracy of the system, at the cost of a thread.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil) // interrupted, it is shorter
}

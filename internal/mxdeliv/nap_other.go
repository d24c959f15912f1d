//go:build !linux

package mxdeliv

import "time"

// coarse is nothing where timers are as exact as anything else.
const coarse = 0

func nap(d time.Duration) { time.Sleep(d) }

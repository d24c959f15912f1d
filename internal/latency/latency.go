// Package latency counts how long things take. It knows times and nothing of what took
// them.
package latency

import (
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of the buckets. What takes longer than the last counts in
// the sum and the count alone.
var Bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second,
}

// Histogram counts times by size. Its zero value is ready, and all methods may be called
// from many goroutines; none waits or allocates but Read.
type Histogram struct {
	buckets [len(Bounds) + 1]atomic.Int64
	sum     atomic.Int64 // nanoseconds
}

// Since counts the time since begun; for defer.
func (h *Histogram) Since(begun time.Time) { h.Observe(time.Since(begun)) }

// Observe counts a time. One below 0, as clocks may give it, counts as 0.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

// Counts are what was counted since the start.
type Counts struct {
	Count   int64
	Sum     time.Duration
	Buckets [len(Bounds)]int64 // times of at most Bounds[i], those of smaller buckets included
}

// Read returns the counts.
func (h *Histogram) Read() (c Counts) {
	for i := range h.buckets {
		c.Count += h.buckets[i].Load()
		if i < len(Bounds) {
			c.Buckets[i] = c.Count
		}
	}
	c.Sum = time.Duration(h.sum.Load())
	return c
}

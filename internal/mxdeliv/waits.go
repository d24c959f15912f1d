package mxdeliv

import (
	"context"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"

	"madmail/internal/threads"
)

// waits remembers how long messages took from their last octet to the answer, by
// size, so that the answer to one for nobody takes as long as one of them: neither the
// mean nor the spread tells them apart. The zero value is ready.
type waits struct {
	sleep func(time.Duration) // nap when nil

	mu    sync.Mutex // guards the fields below
	sizes [maxSizes]sample
	late  time.Duration // by how much a wait is longer than what was asked for, on average
}

const (
	maxSizes = 16 // by factors of four
	maxSeen  = 64
	maxWait  = 10 * time.Second
)

// sample is the latest times of one size.
type sample struct {
	times [maxSeen]time.Duration
	n     int // ever
}

func class(size int64) int { return min(bits.Len64(uint64(size))/2, maxSizes-1) }

// saw notes how long a message of so many octets took.
func (w *waits) saw(size int64, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.sizes[class(size)]
	s.times[s.n%maxSeen] = took
	s.n++
}

// pick returns one of the times of that size, or of the nearest one below.
func (w *waits) pick(size int64) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := class(size); i >= 0; i-- {
		if s := &w.sizes[i]; s.n > 0 {
			return min(s.times[rand.IntN(min(s.n, maxSeen))], maxWait) - w.late
		}
	}
	return 0
}

// wait returns when a message of so many octets, read at a moment, would have been
// stored.
func (w *waits) wait(ctx context.Context, size int64, read time.Time) {
	until := read.Add(w.pick(size))
	if rest := time.Until(until) - coarse; rest > 0 {
		t := time.NewTimer(rest)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
	rest := time.Until(until)
	if rest <= 0 {
		return
	}
	switch {
	case w.sleep != nil:
		w.sleep(rest)
	case threads.TryEnter():
		nap(rest)
		threads.Leave()
	default:
		time.Sleep(rest)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late += (time.Since(until) - w.late) / 8
}

package task

import (
	"context"
	"sync"
	"sync/atomic"
)

// spare is how many goroutines of a crew wait for work at most.
const spare = 16

// Crew runs many short pieces of work. Some goroutines stay after theirs and take the
// next piece: their stacks have the size that such work needs, where each new one
// starts small and is copied as it grows. A piece never waits for another.
//
// The zero value is ready to use; it must not be copied.
type Crew struct {
	Group

	once  sync.Once
	work  chan func()
	done  chan struct{}
	spare atomic.Int32
	ended sync.Once
}

func (c *Crew) init() { c.work, c.done = make(chan func()), make(chan struct{}) }

// Go runs f in a goroutine of the crew. A panic in f ends f only, and is reported
// under the name of the goroutine's first piece.
func (c *Crew) Go(name string, f func()) {
	c.once.Do(c.init)
	select {
	case c.work <- f:
	default:
		c.Group.Go(name, func() {
			f()
			c.linger()
		})
	}
}

// linger takes more work while the crew may keep its goroutine.
func (c *Crew) linger() {
	for c.spare.Add(1) <= spare {
		select {
		case f := <-c.work:
			c.spare.Add(-1)
			f()
		case <-c.done:
			c.spare.Add(-1)
			return
		}
	}
	c.spare.Add(-1)
}

// Busy returns how many goroutines are at work.
func (c *Crew) Busy() int { return max(c.Live()-int(c.spare.Load()), 0) }

// Wait lets go of those that wait for work, and blocks until all have ended or ctx is
// done. Work may still be given, and runs.
func (c *Crew) Wait(ctx context.Context) error {
	c.once.Do(c.init)
	c.ended.Do(func() { close(c.done) })
	return c.Group.Wait(ctx)
}

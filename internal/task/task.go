// Package task gives every goroutine an owner that waits for it.
//
// A Group starts named goroutines, catches their panics so that one session
// ends and not the process, and waits for all of them. It never cancels
// anything: the context that a goroutine was given does that.
package task

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Group owns goroutines. The zero value is ready to use; it must not be copied.
type Group struct {
	// Panicked, when not nil, is told of each caught panic. It must not block.
	Panicked func(name string, value any, stack []byte)

	wg   sync.WaitGroup
	live atomic.Int64
}

// Go runs f in a goroutine of the group. A panic in f ends f only.
func (g *Group) Go(name string, f func()) {
	g.wg.Add(1)
	g.live.Add(1)
	go func() {
		defer g.wg.Done()
		defer g.live.Add(-1)
		defer func() {
			if v := recover(); v != nil && g.Panicked != nil {
				g.Panicked(name, v, debug.Stack())
			}
		}()
		f()
	}()
}

// Live returns how many goroutines of the group are running.
func (g *Group) Live() int { return int(g.live.Load()) }

// Wait blocks until every goroutine of the group has ended or ctx is done.
// In the latter case it says how many are left.
func (g *Group) Wait(ctx context.Context) error {
	done := make(chan struct{})
	// Ends when the group does; the group outlives no process.
	go func() { g.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d goroutines still running: %w", g.Live(), ctx.Err())
	}
}

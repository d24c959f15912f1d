package task

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestACrewKeepsSomeGoroutinesAndRunsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Crew
		var ran, caught atomic.Int32
		c.Panicked = func(name string, value any, _ []byte) {
			if name != "piece" || value != "oops" {
				t.Error(name, value)
			}
			caught.Add(1)
		}
		gate := make(chan struct{})
		for range 100 { // none waits for another
			c.Go("piece", func() { ran.Add(1); <-gate })
		}
		synctest.Wait()
		if ran.Load() != 100 || c.Busy() != 100 {
			t.Fatal(ran.Load(), c.Busy())
		}
		close(gate)
		synctest.Wait()
		if c.Live() != spare || c.Busy() != 0 {
			t.Fatalf("%d goroutines stay, %d at work; want %d, 0", c.Live(), c.Busy(), spare)
		}
		c.Go("piece", func() { panic("oops") })
		synctest.Wait()
		if caught.Load() != 1 || c.Live() != spare-1 {
			t.Fatal(caught.Load(), c.Live())
		}
		for range 1000 {
			c.Go("piece", func() { ran.Add(1) })
			synctest.Wait()
		}
		if ran.Load() != 1100 || c.Live() != spare-1 {
			t.Fatal(ran.Load(), c.Live())
		}
		if err := c.Wait(context.Background()); err != nil || c.Live() != 0 {
			t.Fatal(err, c.Live())
		}
		c.Go("piece", func() { ran.Add(1) })
		if err := c.Wait(context.Background()); err != nil || ran.Load() != 1101 || c.Live() != 0 {
			t.Fatal(err, ran.Load(), c.Live())
		}
	})
}

package task

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAGroupWaitsForAllOfItsGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		var ended atomic.Int32
		for i := range 10 {
			g.Go("sleeper", func() {
				time.Sleep(time.Duration(i+1) * time.Second)
				ended.Add(1)
			})
		}
		if g.Live() != 10 {
			t.Error(g.Live(), "live")
		}
		if err := g.Wait(t.Context()); err != nil || ended.Load() != 10 || g.Live() != 0 {
			t.Error(err, ended.Load(), g.Live())
		}
		if err := g.Wait(t.Context()); err != nil { // of none
			t.Error(err)
		}
	})
}

func TestWaitingEndsWithItsContextAndSaysWhoIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group
		release := make(chan struct{})
		for range 3 {
			g.Go("stuck", func() { <-release })
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := g.Wait(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "3 goroutines") {
			t.Error(err)
		}
		close(release)
		if err := g.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAPanicEndsOneGoroutineAndIsTold(t *testing.T) {
	for _, told := range []bool{true, false} {
		var g Group
		var name string
		var value any
		var stack []byte
		if told {
			g.Panicked = func(n string, v any, s []byte) { name, value, stack = n, v, s }
		}
		var other atomic.Bool
		g.Go("session", func() { panic("oops") })
		g.Go("other", func() { other.Store(true) })
		if err := g.Wait(t.Context()); err != nil || g.Live() != 0 || !other.Load() {
			t.Error(err, g.Live(), other.Load())
		}
		if told && (name != "session" || value != "oops" || !strings.Contains(string(stack), "TestAPanicEndsOneGoroutineAndIsTold")) {
			t.Errorf("%q %v\n%s", name, value, stack)
		}
	}
}

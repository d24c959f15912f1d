package upkeep

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/fault"
)

func TestJobsRunOncePerIntervalAndALastTimeAtStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flushed, pruned atomic.Int64
		s, err := New(nil,
			Job{Name: "flush", Every: 30 * time.Second, AtStop: true, Run: func(context.Context) error { flushed.Add(1); return nil }},
			Job{Name: "prune", Every: time.Hour, Run: func(context.Context) error { pruned.Add(1); return errors.New("no") }},
		)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*time.Hour + time.Second) // fake time
		synctest.Wait()
		if flushed.Load() != 240 || pruned.Load() != 2 {
			t.Errorf("after two hours: flush ran %d times, prune %d; want 240, 2", flushed.Load(), pruned.Load())
		}
		for range 2 {
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if flushed.Load() != 241 || pruned.Load() != 2 {
			t.Errorf("after stop: flush ran %d times, prune %d; want 241, 2", flushed.Load(), pruned.Load())
		}
	})
}

func TestARunIsBoundedAndStopInterruptsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int64
		s, err := New(nil, Job{Name: "slow", Every: time.Second, Limit: time.Minute, Run: func(ctx context.Context) error {
			<-ctx.Done()
			ended.Add(1)
			return ctx.Err()
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(62*time.Second + 500*time.Millisecond)
		synctest.Wait()
		if ended.Load() != 1 {
			t.Errorf("a run without end ended %d times after its limit, want 1", ended.Load())
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ended.Load() != 2 {
			t.Errorf("after stop %d runs had ended, want 2", ended.Load())
		}
	})
}

func TestAPanicEndsOnlyItsJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		s, err := New(nil,
			Job{Name: "bad", Every: time.Second, Run: func(context.Context) error { panic("boom") }},
			Job{Name: "good", Every: time.Second, Run: func(context.Context) error { n.Add(1); return nil }})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if n.Load() != 10 {
			t.Errorf("the good job ran %d times, want 10", n.Load())
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBadJobsAndUnknownNamesAreRefused(t *testing.T) {
	nop := func(context.Context) error { return nil }
	for _, jobs := range [][]Job{
		{{Every: 1, Run: nop}},
		{{Name: "a", Every: 1}},
		{{Name: "a", Run: nop}},
		{{Name: "a", Every: 1, Run: nop}, {Name: "a", Every: 1, Run: nop}},
	} {
		if _, err := New(nil, jobs...); err == nil {
			t.Errorf("New(%v) accepted", jobs)
		}
	}
	s, err := New(nil, Job{Name: "a", Every: 1, Run: nop})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RunNow(t.Context(), "b"); !fault.Is(err, fault.NotFound) {
		t.Errorf("RunNow of an unknown job: %v", err)
	}
	if err := s.RunNow(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

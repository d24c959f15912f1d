package latency

import (
	"sync"
	"testing"
	"time"
)

func TestTimesFallIntoTheirBuckets(t *testing.T) {
	for i := 1; i < len(Bounds); i++ {
		if Bounds[i] <= Bounds[i-1] {
			t.Fatal("bounds do not rise at", i)
		}
	}
	var h Histogram
	for _, d := range []time.Duration{-time.Second, Bounds[0], Bounds[0] + 1, time.Second, time.Hour} {
		h.Observe(d)
	}
	c := h.Read()
	if c.Count != 5 || c.Buckets[0] != 2 || c.Buckets[1] != 3 || c.Buckets[len(Bounds)-1] != 4 || c.Sum != 2*Bounds[0]+1+time.Second+time.Hour {
		t.Errorf("%+v", c)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				h.Observe(time.Millisecond)
			}
		})
	}
	all.Wait()
	if c := h.Read(); c.Count != 8005 {
		t.Error(c.Count)
	}
	if n := testing.AllocsPerRun(100, func() { h.Observe(time.Second) }); n != 0 {
		t.Error(n, "allocations")
	}
}

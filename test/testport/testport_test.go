package testport

import (
	"sync"
	"testing"
)

func TestNobodyGetsTheSamePort(t *testing.T) {
	var mu sync.Mutex
	seen := make(map[int]bool)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for _, p := range Ports(t, 7) {
				mu.Lock()
				if seen[p] {
					t.Errorf("port %d was given twice", p)
				}
				seen[p] = true
				mu.Unlock()
				l, err := listen(p)
				if err != nil {
					t.Error(err)
					continue
				}
				l.Close()
			}
		})
	}
	wg.Wait()
	for _, n := range []int{-1, 0, 16} {
		if _, _, err := Reserve(n); err == nil {
			t.Errorf("%d ports were reserved", n)
		}
	}
}

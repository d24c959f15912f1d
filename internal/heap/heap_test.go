package heap

import "testing"

func TestASmallHeapGetsAFixedRoomAndALargeOneAThird(t *testing.T) {
	for _, c := range []struct {
		live, rest uint64
		want       int
	}{
		{0, 0, 600}, // the first collection is at 24 MiB: 4 MiB times this
		{1 << 20, 1 << 20, 600},
		{5 << 20, 1 << 20, 400},
		{11 << 20, 1 << 20, 200},
		{72 << 20, 0, 30},
		{300 << 20, 20 << 20, 30},
		{1 << 40, 0, 30},
	} {
		if got := percent(c.live, c.rest); got != c.want {
			t.Errorf("percent(%d, %d) = %d, want %d", c.live, c.rest, got, c.want)
		}
	}
}

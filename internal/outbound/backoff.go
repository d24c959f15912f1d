package outbound

import (
	"math"
	"time"
)

// Schedule says when a message is tried again: a few times soon, because a chat waits;
// then rarely, because a server may be away for a day.
type Schedule struct {
	Tries   int           // in the fast phase (3)
	Initial time.Duration // wait after the first try (1 min)
	Scale   float64       // by which each wait is longer than the one before (1.25)
	Slow    time.Duration // first wait of the slow phase (15 min)
	Longest time.Duration // wait (1 h)
}

// jitter is by how much a wait differs from the plan, at most, so that messages that
// failed together do not come back together.
const jitter = 0.1

// WithDefaults fills what was not said, or makes no sense.
func (s Schedule) WithDefaults() Schedule {
	if s.Tries <= 0 {
		s.Tries = 3
	}
	if s.Initial <= 0 {
		s.Initial = time.Minute
	}
	if !(s.Scale >= 1 && s.Scale <= 100) {
		s.Scale = 1.25
	}
	if s.Slow <= 0 {
		s.Slow = 15 * time.Minute
	}
	if s.Longest <= 0 {
		s.Longest = time.Hour
	}
	return s
}

// Wait returns how long to wait after so many tries. random is in [0, 1); half of it
// means no jitter.
func (s Schedule) Wait(tries int, random float64) time.Duration {
	s = s.WithDefaults()
	first, n := s.Initial, max(0, tries-1)
	if tries >= s.Tries {
		first, n = s.Slow, tries-s.Tries
	}
	wait := float64(first) * math.Pow(s.Scale, float64(min(n, 1000)))
	if !(wait < float64(s.Longest)) {
		wait = float64(max(s.Longest, first))
	}
	return time.Duration(wait * (1 + jitter*(2*random-1)))
}

// pause returns how long a destination is left alone after so many failures to reach it in
// a row. It is short: one try tells for all that waits.
func pause(failures int, random float64) time.Duration {
	return Schedule{Tries: math.MaxInt, Initial: 30 * time.Second, Scale: 1.5, Longest: 5 * time.Minute}.Wait(failures, random)
}

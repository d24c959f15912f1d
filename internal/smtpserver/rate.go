package smtpserver

import (
	"sync"
	"time"

	"madmail/internal/address"
)

// limiter is a leaky bucket per sender (GCRA): one time stamp each.
type limiter struct {
	every, room time.Duration

	mu sync.Mutex // guards the field below
	at map[address.Addr]time.Time
}

// maxSenders bounds the table; senders at rest are dropped first.
const maxSenders = 100_000

func newLimiter(perMinute, burst int) *limiter {
	if perMinute <= 0 {
		return nil
	}
	every := time.Minute / time.Duration(perMinute)
	return &limiter{every: every, room: every * time.Duration(max(burst, 1)-1), at: make(map[address.Addr]time.Time)}
}

// allow takes a token of a.
func (l *limiter) allow(a address.Addr, now time.Time) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	tat := l.at[a]
	if tat.Before(now) {
		tat = now
	}
	if tat.Sub(now) > l.room {
		return false
	}
	if len(l.at) >= maxSenders {
		for k, t := range l.at {
			if t.Before(now) {
				delete(l.at, k)
			}
		}
		if len(l.at) >= maxSenders {
			return false
		}
	}
	l.at[a] = tat.Add(l.every)
	return true
}

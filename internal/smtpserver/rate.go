package smtpserver

import (
	"sync"
	"time"
)

// limiter is a leaky bucket per sender (GCRA): one time stamp each. Senders are
// addresses of accounts, or networks of other servers.
type limiter[K comparable] struct {
	every, room time.Duration

	mu sync.Mutex // guards the field below
	at map[K]time.Time
}

// maxSenders bounds the table; senders at rest are dropped first.
const maxSenders = 100_000

func newLimiter[K comparable](perMinute, burst int) *limiter[K] {
	if perMinute <= 0 {
		return nil
	}
	every := time.Minute / time.Duration(perMinute)
	return &limiter[K]{every: every, room: every * time.Duration(max(burst, 1)-1), at: make(map[K]time.Time)}
}

// allow takes a token of a.
func (l *limiter[K]) allow(a K, now time.Time) bool {
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

// What another server may send: as much as by HTTP.
const (
	peerPerMinute = 200 * 60
	peerBurst     = 2000
)

package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"sync/atomic"

	"madmail/internal/address"
	"madmail/internal/fault"
)

const (
	defaultSlots = 2
	maxWaiting   = 256   // for a slot, beyond which the answer is Busy
	maxRefused   = 16384 // pairs remembered
)

// hasher bounds slow hashes and remembers refused pairs.
type hasher struct {
	key     [sha256.Size]byte // per process
	slots   chan struct{}
	waiting atomic.Int64
	slow    atomic.Int64 // slow hashes so far

	mu      sync.Mutex // guards the field below
	refused map[pair]struct{}
}

// pair is a digest of who tried what against which row.
type pair [sha256.Size]byte

// The purposes of a pair; one purpose's digest says nothing to the other.
const (
	pairTried   byte = iota // was compared with the row's hash
	pairRefused             // was refused before any comparison
	pairVerified
)

func newHasher(slots int) (*hasher, error) {
	if slots <= 0 {
		slots = defaultSlots
	}
	h := &hasher{slots: make(chan struct{}, slots), refused: make(map[pair]struct{})}
	if _, err := rand.Read(h.key[:]); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "account: read random bytes")
	}
	return h, nil
}

func (h *hasher) pair(purpose byte, a address.Addr, hash string, password []byte) (p pair) {
	mac := hmac.New(sha256.New, h.key[:])
	mac.Write([]byte{purpose})
	for _, s := range []string{a.Local(), string(a.Domain()), hash} {
		mac.Write([]byte(s))
		mac.Write([]byte{0})
	}
	mac.Write(password)
	mac.Sum(p[:0])
	return p
}

func (h *hasher) wasRefused(p pair) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.refused[p]
	return ok
}

// remember notes a refused pair. When the table is full an arbitrary one
// makes room: forgetting costs one slow hash later and nothing else.
func (h *hasher) remember(p pair) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.refused) >= maxRefused {
		for old := range h.refused {
			delete(h.refused, old)
			break
		}
	}
	h.refused[p] = struct{}{}
}

// run does one slow hash in a slot. It fails with fault.Busy when too many
// wait or ctx ends first.
func (h *hasher) run(ctx context.Context, f func()) error {
	select {
	case h.slots <- struct{}{}:
	default:
		if h.waiting.Add(1) > maxWaiting {
			h.waiting.Add(-1)
			return fault.New(fault.Busy, "Too many logins at once, try again later")
		}
		defer h.waiting.Add(-1)
		select {
		case h.slots <- struct{}{}:
		case <-ctx.Done():
			return fault.Wrap(fault.Busy, ctx.Err(), "account: wait to hash")
		}
	}
	defer func() { <-h.slots }()
	h.slow.Add(1)
	f()
	return nil
}

package shadowsocks

import (
	"hash/maphash"
	"sync"
)

// generation is how many salts are kept before the older half is forgotten. Only
// those who have the key can fill it.
const generation = 1 << 16

// replays remembers salts, at least the last 65,536 and at most twice as many. A
// connection recorded by somebody else cannot be played to us again meanwhile.
// With the ciphers of 2022 an older one is refused for its time.
type replays struct {
	seed maphash.Seed

	mu       sync.Mutex // guards the fields below
	now, old map[[2]uint64]struct{}
}

func newReplays() *replays {
	return &replays{seed: maphash.MakeSeed(), now: make(map[[2]uint64]struct{})}
}

// first remembers a salt and reports whether it is new.
func (r *replays) first(salt []byte) bool {
	half := len(salt) / 2
	k := [2]uint64{maphash.Bytes(r.seed, salt[:half]), maphash.Bytes(r.seed, salt[half:])}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.now[k]; ok {
		return false
	}
	if _, ok := r.old[k]; ok {
		return false
	}
	if len(r.now) >= generation {
		r.old, r.now = r.now, make(map[[2]uint64]struct{})
	}
	r.now[k] = struct{}{}
	return true
}

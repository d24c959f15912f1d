// Package caller says who asks over HTTP, and how often somebody failed to show
// who they are. It does not know what is asked for nor how it is proven.
//
// All functions and methods may be called from many goroutines.
package caller

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"madmail/internal/address"
)

// Of returns who is counted, and whether it is this very machine. A header that
// says for whom somebody speaks counts from a proxy on this machine alone, and of
// it the last address, which the proxy itself has seen.
func Of(r *http.Request) (who netip.Addr, direct bool) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	who = ap.Addr().Unmap().WithZone("")
	forwarded := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	if !who.IsLoopback() {
		return address.Network(who), false
	}
	if forwarded == "" && r.Header.Get("Forwarded") == "" && r.Header.Get("X-Real-IP") == "" {
		return who, true
	}
	last := strings.TrimSpace(forwarded[strings.LastIndexByte(forwarded, ',')+1:])
	if ip, err := netip.ParseAddr(last); err == nil {
		who = ip.Unmap().WithZone("")
	}
	return address.Network(who), false
}

// MaxFailures is how often one address may fail within Window; then it is Full.
const (
	MaxFailures = 10
	Window      = time.Minute
	maxCallers  = 10_000 // that are remembered
)

// Failures counts failures by address in a sliding window. Its zero value is
// ready.
type Failures struct {
	mu sync.Mutex // guards the field below
	m  map[netip.Addr][]time.Time
}

func (f *Failures) recentLocked(a netip.Addr, now time.Time) []time.Time {
	list := f.m[a]
	for len(list) > 0 && now.Sub(list[0]) >= Window {
		list = list[1:]
	}
	return list
}

// Full reports whether a has failed MaxFailures times lately.
func (f *Failures) Full(a netip.Addr, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.recentLocked(a, now)) >= MaxFailures
}

// Count adds a failure of a.
func (f *Failures) Count(a netip.Addr, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil {
		f.m = make(map[netip.Addr][]time.Time)
	}
	if _, known := f.m[a]; !known && len(f.m) >= maxCallers {
		for k := range f.m {
			if len(f.recentLocked(k, now)) == 0 {
				delete(f.m, k)
			}
		}
		for k := range f.m { // still full: some go, so that this is not done each time
			if len(f.m) < maxCallers*3/4 {
				break
			}
			delete(f.m, k)
		}
	}
	recent := f.recentLocked(a, now)
	if over := len(recent) - 2*MaxFailures; over > 0 { // many at once: what counts is that they are many
		recent = recent[over:]
	}
	f.m[a] = append(slices.Clone(recent), now)
}

// Forget forgives a.
func (f *Failures) Forget(a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.m, a)
}

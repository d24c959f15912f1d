// Package heap sets the goal of the garbage collector for a small server.
//
// Go's default lets the heap double between collections. A server with 6 MB in
// use then collects hundreds of times a second under load, and one with 200 MB
// in use, mostly idle connections, keeps as much again for nothing. Pace gives a
// fixed room when little is in use, and a third when much is.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	minRoom = 24 << 20 // octets between collections, at least
	share   = 3        // one part in share of what is in use, when that is more

	// The runtime collects no heap below this much times GOGC/100: a GOGC made
	// for less in use would let the first megabytes grow to a hundred.
	runtimeMin = 4 << 20
)

// Pace adjusts the goal after each collection, for the life of the process.
// An operator's GOGC is left alone. Call it once, from main.
func Pace() {
	if os.Getenv("GOGC") != "" {
		return
	}
	p := &pacer{samples: []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
	}}
	p.adjust()
	p.arm()
}

type pacer struct {
	samples []metrics.Sample
	percent int
}

// arm leaves garbage behind whose finalizer runs after the next collection.
func (p *pacer) arm() {
	type sentinel struct{ _ [16]byte }
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) {
		p.adjust()
		p.arm()
	})
}

func (p *pacer) adjust() {
	metrics.Read(p.samples)
	live, rest := p.samples[0].Value.Uint64(), p.samples[1].Value.Uint64()+p.samples[2].Value.Uint64()
	if want := percent(live, rest); want != p.percent {
		p.percent = want
		debug.SetGCPercent(want)
	}
}

// percent is the GOGC that leaves the room. The collector counts stacks and
// globals in: its goal is live + (live + rest) * GOGC / 100.
func percent(live, rest uint64) int {
	used := max(live+rest, runtimeMin)
	n := int(max(minRoom, used/share) * 100 / used)
	return n - n%5 // setting it stops the world for a moment: not for every breath
}

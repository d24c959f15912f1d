// Package readable tells when a connection has something to read, without a
// goroutine that waits for it.
//
// Ten thousand idle phones cost ten thousand stacks when each has a goroutine
// blocked in Read. A Poller waits for all of them in one goroutine; what wakes
// is a callback. Linux only; elsewhere New answers ErrUnsupported and callers
// keep their goroutines.
//
// All methods may be called from many goroutines.
package readable

import "errors"

// ErrUnsupported says that this system has no implementation.
var ErrUnsupported = errors.New("readable: not supported on this system")

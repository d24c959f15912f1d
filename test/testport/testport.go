// Package testport gives tests port numbers that nobody else takes, also when
// several test runs go on at once and servers are stopped and started again.
//
// A port that the system chose and that was closed again may be anybody's: the
// next outgoing connection of any program can get it. So ports are taken below
// the range that systems choose from, in blocks; who listens on a block's first
// port owns the block.
package testport

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

const (
	first, last = 10_000, 32_000
	block       = 16
)

// Reserve returns n ports of 127.0.0.1, at most 15, that are free and stay
// reserved until release is called.
func Reserve(n int) (ports []int, release func(), err error) {
	if n < 1 || n >= block {
		return nil, nil, errors.New("testport: between 1 and 15 ports")
	}
	blocks := (last - first) / block
	start := rand.IntN(blocks)
	for i := range blocks {
		base := first + (start+i)%blocks*block
		guard, err := listen(base)
		if err != nil {
			continue
		}
		ports = ports[:0]
		for p := base + 1; p < base+block && len(ports) < n; p++ {
			if l, err := listen(p); err == nil {
				l.Close()
				ports = append(ports, p)
			}
		}
		if len(ports) == n {
			return ports, func() { guard.Close() }, nil
		}
		guard.Close()
	}
	return nil, nil, errors.New("testport: no free ports")
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// Ports is Reserve for the time of a test.
func Ports(t testing.TB, n int) []int {
	t.Helper()
	ports, release, err := Reserve(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return ports
}

//go:build !linux

package readable

import "syscall"

// Poller waits for many connections at once.
type Poller struct{}

// Watch is one connection.
type Watch struct{}

// New answers ErrUnsupported.
func New() (*Poller, error) { return nil, ErrUnsupported }

// Close does nothing.
func (*Poller) Close() error { return nil }

// Watch answers ErrUnsupported.
func (*Poller) Watch(syscall.Conn, func()) (*Watch, error) { return nil, ErrUnsupported }

// Arm answers ErrUnsupported.
func (*Watch) Arm() error { return ErrUnsupported }

// Close does nothing.
func (*Watch) Close() {}

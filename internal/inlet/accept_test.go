package inlet

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// script is a listener that answers with what it was given, and is closed then.
type script struct {
	net.Listener
	answers []error // nil is a connection
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.answers) == 0 {
		return nil, net.ErrClosed
	}
	err := s.answers[0]
	s.answers = s.answers[1:]
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	theirs.Close()
	return ours, nil
}

func TestAcceptGoesOnAfterTrouble(t *testing.T) {
	full := os.NewSyscallError("accept", syscall.EMFILE)
	for _, c := range []struct {
		name             string
		answers          []error
		stopping         bool
		served, troubles int
		took             time.Duration
	}{
		{"until it is closed", []error{nil, nil}, false, 2, 0, 0},
		{"no descriptors for a while", []error{nil, full, full, nil}, false, 2, 2, 100 * time.Millisecond},
		{"a deadline", []error{os.ErrDeadlineExceeded, nil}, false, 1, 0, 0},
		{"the server stops", []error{nil, errors.New("gone"), nil}, true, 1, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, served, troubles := time.Now(), 0, 0
				Accept(&script{answers: c.answers}, func() bool { return c.stopping }, func(error) { troubles++ }, func(conn net.Conn) { served++; conn.Close() })
				if took := time.Since(began); served != c.served || troubles != c.troubles || took != c.took {
					t.Errorf("%d served, %d times trouble, after %v; want %d, %d, %v", served, troubles, took, c.served, c.troubles, c.took)
				}
			})
		})
	}
}

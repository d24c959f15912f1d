//go:build !unix

package cli

import "madmail/internal/fault"

// replace leaves it to the service manager: an exit that is a failure is
// followed by a start.
func replace() error { return fault.New(fault.Internal, "restart: this system cannot; start it again") }

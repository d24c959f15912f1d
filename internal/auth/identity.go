// Package auth verifies logins, creates accounts just in time and slows
// guessing down. It does not know SASL framing nor which door it guards.
package auth

import "madmail/internal/address"

// Identity is all that a door keeps of a login.
type Identity struct {
	Account address.Addr
	Created bool // this login created the account
}

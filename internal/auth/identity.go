// Package auth verifies logins, creates accounts just in time and slows
// guessing down. It does not know SASL framing nor which door it guards.
//
// A login walks down one table: an address that does not parse, a blocked
// one, a wrong password, and an unknown user who may not have an account, are
// all refused with the same words after the same work; a right password is
// accepted; an unknown user who may have an account gets it. Whether a new
// account is allowed is asked of the settings at that moment.
//
// Failures are counted by source and by user. From the second in a row on the
// refusal is delayed, one second doubling to sixteen. A right password is
// never delayed by that: memory decides about it before the throttle is
// asked, except for a weak password that this process has not seen yet.
// While several refusals of a user or source are pending, further passwords
// that need a slow hash are not compared at all; they wait and get the same
// refusal.
package auth

import "madmail/internal/address"

// Identity is all that a door keeps of a login.
type Identity struct {
	Account address.Addr
	Created bool // this login created the account
}

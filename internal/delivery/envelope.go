// Package delivery is the one intake: every message enters here, whatever door
// it came by. It applies the limits and rules, asks the encryption gate,
// reserves quota, stores for local recipients and returns only when the bytes
// are on disk.
//
// It does not know reply codes, sockets or HTTP: it answers with fault kinds.
package delivery

import (
	"time"

	"madmail/internal/address"
	"madmail/internal/authres"
)

// Via says by which door a message came. The rules of each are one row of the
// table in rules.go.
type Via uint8

// The doors.
const (
	Submission Via = iota // authenticated SMTP
	Inbound               // SMTP from other servers, port 25
	Federation            // POST /mxdeliv
	Append                // IMAP APPEND by the account itself
	Web                   // the browser's send
	Bounce                // made by our own queue
	Notice                // made by our operator
)

// Envelope is what a door knows of a message besides its content.
type Envelope struct {
	Via Via
	// Identity is the login that submits; zero for doors without login.
	Identity address.Addr
	// From is the reverse-path; zero is the null reverse-path.
	From address.Addr
	// To are the recipients that Check accepted, without duplicates.
	To []address.Addr
	// Client is who brings the message by SMTP from another server; zero else.
	Client authres.Client
	// Size is the size announced by the sender, in octets, or 0.
	Size int64
	// Received is when the door took the message; zero means now.
	Received time.Time
}

// Result says what Accept did.
type Result struct {
	Local  int   // recipients stored here
	Queued int   // recipients elsewhere, on their way
	Size   int64 // octets stored per recipient
	Failed []Failure
}

// Failure is a recipient that got nothing although the message was accepted.
type Failure struct {
	To  address.Addr
	Err error
}

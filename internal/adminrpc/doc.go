// Package adminrpc is the operators' door over HTTP: one URL, one JSON envelope
// in and out, and the actions of ops behind it under the resource names that the
// operators' page and its users know.
//
// The HTTP status is always 200; the true one is a number in the envelope. The
// bearer token stands inside the envelope, so no cookie and no cross-site request
// can carry it. It is compared in constant time, and failures are limited by
// address.
//
// A resource is one row of the table in resources.go: its name, its methods, and
// for each what it does and a sentence of documentation. The package shapes
// requests and replies; what is allowed and what happens is decided in ops. It
// never logs values.
//
// All methods may be called from many goroutines.
package adminrpc

// Package resolve asks name servers for what a mail relay needs to know: MX, address,
// TXT and TLSA records.
//
// It is a stub resolver: it asks the servers it is given (those of resolv.conf, unless
// told otherwise), which do the work and, for DANE, the validation. It follows no
// search list, reads no hosts file and caches nothing on disk. It does not decide
// what a missing record means for a message.
//
// Answers are kept for their time to live, negative ones too (RFC 2308), failures
// for some seconds (RFC 9520), in a cache bounded by entries and octets. Questions
// that several callers have at once are asked once.
//
// Errors tell the cases apart by kind: a name that does not exist is fault.NotFound, a
// name that cannot exist is fault.Invalid, everything that may be different later is
// fault.Busy; ReasonOf says more. A name that exists without records of the type
// asked for is no error: the answer is empty.
//
// Answer.Authentic says that every part of an answer was validated with DNSSEC. It is
// never true unless the path to the servers is trusted: servers on loopback, or
// "options trust-ad" in resolv.conf, or Options.TrustAD.
//
// All methods may be called from many goroutines.
package resolve

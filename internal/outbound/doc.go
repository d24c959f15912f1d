// Package outbound brings what lies in the queue to other servers: it takes up entries
// that are due, finds the hosts of their destination, tries the transports in order
// and decides from the answers what is delivered, refused or tried later.
//
// It knows no accounts, mailboxes or sessions. How a message goes over the wire is
// the business of its sub-packages httpsend and smtpsend, which implement Transport.
//
// The hosts of a domain are, in this order, what the operator said (policy), the address
// itself for IP literals, the MX records, the domain. For each host: HTTPS, plain HTTP
// where that is allowed, SMTP. An order that went well before is kept for half an hour. What
// the peer says about the message ends the try; only what says that this way does not
// lead to the peer leads to the next one. A refusal by HTTP is believed when SMTP
// confirms it.
//
// A destination has at most two entries in flight; one that fails has one, after a
// pause that grows to five minutes, and all that fail have half of the workers
// together. So a dead server delays no other. When a server is back, everything that
// waits for it is due at once.
//
// A failure for good is told to a sender of ours by one delivery status notification per
// try; nobody else is told, and no notification answers one.
//
// Certificates: a host found by name must show one that is valid for its name, over
// HTTPS and SMTP alike, unless the operator relaxed the domain or its name begins with
// an underscore. IP addresses may show any, and are the only ones reached in clear
// text.
//
// All methods may be called from many goroutines. Lock order: the queue's before the
// worker's.
package outbound

// Package queue keeps messages for other servers on disk until a worker is
// done with them.
//
// It knows bytes, times and a destination that it compares and nothing else.
// It does not know transports, why a try failed or when the next one is due:
// package outbound decides, queue remembers.
//
// An entry is one message from one sender to any number of recipients of one
// destination, so that a group message to fifty members on a server is one
// entry. On disk it is two files:
//
//	<id>.body   the message; a hard link where one message has several entries
//	<id>.meta   sender, recipients, tries, times (JSON, unix seconds)
//
// An entry exists when both do. The body is written and synced first; the meta
// file is written beside its place as <id>.meta.new, synced and renamed, then
// the directory is synced, once for all that wait for it. So whatever happens,
// an entry is there as it was or as it was to be. Removals are not synced: after
// a loss of power a message of the last seconds may be sent twice, never not
// at all.
//
// What cannot be read is renamed to <id>.meta_broken, with the reason in
// <id>.meta_note, counted and kept. At Open, files of a predecessor are taken over:
// <id>.meta with one rcpt_to as they are, the older three files per message by
// conversion; left-over .meta.new are removed, and a .body that has stood alone for an
// hour.
//
// In memory an entry is a record of fixed size. Envelopes and bodies are read
// when an entry is taken up, so that a hundred thousand entries for a dead server
// are ten megabytes.
//
// All methods may be called from many goroutines. No lock is held while the
// disk works.
package queue

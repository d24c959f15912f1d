// Package mailbox names what a mail store keeps: mailboxes, messages, UIDs,
// flags, immutable views, contents; and Store, the contract of a store.
//
// It does not know IMAP syntax, SMTP, quotas or policies, nor that somebody is
// waiting for a change. Sub-packages implement Store; package mailboxtest says
// what a Store is, as a suite that every implementation passes.
package mailbox

import (
	"context"
	"io"
	"time"

	"madmail/internal/address"
)

// Inbox is the name of the mailbox that every account has. IMAP treats any
// spelling of it alike (RFC 3501 section 5.1); here it is upper case only.
const Inbox = "INBOX"

// Delimiter separates levels of a mailbox name.
const Delimiter = '/'

// Box is one mailbox of one account. It is comparable and a map key.
type Box struct {
	Account address.Addr
	Name    string // UTF-8, levels separated by Delimiter; "INBOX" is canonical
}

// UID is a unique identifier of a message in its mailbox (RFC 3501 section
// 2.3.1.1): it only grows and is never used again. 0 is no UID.
type UID uint32

// ModSeq is a modification sequence (RFC 7162); 63 bits, grows per mailbox.
type ModSeq uint64

// Flags is a set of system flags.
type Flags uint8

// System flags of RFC 3501 section 2.3.2. \Recent is not kept.
const (
	Seen Flags = 1 << iota
	Answered
	Flagged
	Deleted
	Draft
)

// Message is what a view knows of one message. Keywords is sorted and shared:
// callers must not change it.
type Message struct {
	UID UID
	// Saved is when the message came into this mailbox, in unix seconds; 0 means
	// at Internal, as of mail that was delivered. See SavedAt.
	Saved    uint32
	Size     int64 // octets as stored, CRLF line ends
	Internal int64 // INTERNALDATE, unix seconds
	ModSeq   ModSeq
	Flags    Flags
	Keywords []string
}

// SavedAt returns when the message came into its mailbox, in unix seconds (RFC
// 8514): by delivery, APPEND, COPY or MOVE.
func (m Message) SavedAt() int64 {
	if m.Saved == 0 {
		return m.Internal
	}
	return int64(m.Saved)
}

// Arrived returns m as it is in a mailbox that it comes into at now, in unix
// seconds.
func (m Message) Arrived(now int64) Message {
	m.Saved = 0
	if now != m.Internal {
		m.Saved = uint32(min(max(now, 1), 1<<32-1))
	}
	return m
}

// UIDRange is an inclusive range of UIDs, First <= Last.
type UIDRange struct{ First, Last UID }

// UIDSet is a set of UIDs as sorted, disjoint ranges.
type UIDSet []UIDRange

// Body is a message that was spooled once and can be delivered to many
// mailboxes. It is sealed: its content no longer changes.
type Body interface {
	io.ReaderAt
	// Size returns the length in octets.
	Size() int64
	// Close releases memory or removes the spool file. Deliver does not call
	// it; a delivered message does not depend on it.
	Close() error
}

// BodyWriter receives a message while it is spooled: small ones stay in
// memory, larger ones go to a file on the store's file system.
type BodyWriter interface {
	io.Writer
	// ReaderAt reads what was written so far, until Seal or Abort.
	io.ReaderAt
	// Seal ends the writing. Afterwards only the Body is used.
	Seal() (Body, error)
	// Abort drops everything written. After Seal it does nothing.
	Abort()
}

// Target says where a delivery puts its body, and how the message looks there.
type Target struct {
	Box      Box
	Flags    Flags
	Keywords []string
	Internal time.Time // zero: now
}

// Arrival is one message of an Add, and how it looks.
type Arrival struct {
	Body     Body
	Flags    Flags
	Keywords []string
	Internal time.Time // zero: now
}

// Ref names a stored message.
type Ref struct {
	Box Box
	UID UID
}

// Placed says what became of one Target.
type Placed struct {
	UID         UID
	UIDValidity uint32
	Err         error // this target failed; the others are not affected
}

// Content reads one stored message. It stays readable after an expunge.
type Content interface {
	io.ReaderAt
	Size() int64
	Close() error
}

// ChangeOp says how a FlagChange combines with the flags that are there.
type ChangeOp uint8

// The three forms of STORE (RFC 3501 section 6.4.6).
const (
	SetFlags ChangeOp = iota
	AddFlags
	RemoveFlags
)

// FlagChange describes a STORE. UnchangedSince, when not 0, leaves messages
// with a higher ModSeq alone (RFC 7162 section 3.1.3).
type FlagChange struct {
	Op             ChangeOp
	Flags          Flags
	Keywords       []string
	UnchangedSince ModSeq
	// IfUnchanged must be set for UnchangedSince 0 to count ("never").
	IfUnchanged bool
}

// Changed is the outcome of Change.
type Changed struct {
	ModSeq   ModSeq // of the change; 0 when nothing changed
	Modified UIDSet // messages left alone because of UnchangedSince
}

// Info describes a mailbox in a listing.
type Info struct {
	Name       string
	SpecialUse string // "\Sent" and so on, or ""
	Subscribed bool
}

// Copied is the outcome of Copy and Move: From[i] became To[i] (COPYUID, RFC 4315).
type Copied struct {
	UIDValidity uint32
	From, To    []UID
}

// Usage is what an account stores, over all its mailboxes.
type Usage struct {
	Bytes    int64
	Messages int64
	// Mended tells that it was counted differently: files were put or removed
	// behind the store's back. The store's hook knows the right numbers by now.
	Mended bool
}

// Store keeps mailboxes. All methods may be called from many goroutines.
//
// A method that changes something returns after the change is durable: it
// survives the loss of power. It is visible in View, in full or not at all,
// when the method returns, and the store's change hook has been called for
// each mailbox concerned.
//
// Errors: fault.NotFound for a mailbox or message that does not exist,
// fault.Exists, fault.Invalid for names that cannot be, fault.Busy when the
// disk is full or fails (nothing was changed then).
type Store interface {
	// NewBody starts spooling a message.
	NewBody(ctx context.Context) (BodyWriter, error)

	// Deliver puts one body into many mailboxes. INBOX is made on first use,
	// other mailboxes must exist. The slice has one Placed per Target; the
	// error is not nil only when every target failed for the same reason.
	Deliver(ctx context.Context, to []Target, b Body) ([]Placed, error)

	// Add puts messages into one mailbox, in their order, and removes the message
	// replaced, if it is not nil: all of it as one change, or nothing. No view
	// shows a part of it, and no crash leaves one. It does not close the bodies.
	// Asked for nothing it does nothing.
	//
	// The error is fault.NotFound also when the replaced message is not there.
	Add(ctx context.Context, to Box, list []Arrival, replaced *Ref) ([]Placed, error)

	// View returns the present state of a mailbox. Taking it is cheap.
	View(ctx context.Context, b Box) (*View, error)
	// Open opens the content of a message.
	Open(ctx context.Context, b Box, uid UID) (Content, error)
	// Head returns the header block of a message with its blank line, or all
	// of a message that has none, up to some limit above message.MaxHeader.
	// It is cheaper than Open. Callers must not change it.
	Head(ctx context.Context, b Box, uid UID) ([]byte, error)

	// Change stores flags. UIDs that do not exist are ignored.
	Change(ctx context.Context, b Box, set UIDSet, c FlagChange) (Changed, error)
	// Expunge removes the messages of set; with onlyDeleted those alone that
	// have \Deleted. It returns the removed UIDs in ascending order.
	Expunge(ctx context.Context, b Box, set UIDSet, onlyDeleted bool) ([]UID, error)
	// Copy copies messages with flags and internal date, in order of UID, all or
	// none. The copies are saved now.
	Copy(ctx context.Context, from, to Box, set UIDSet) (Copied, error)
	// Move is Copy and Expunge as one change.
	Move(ctx context.Context, from, to Box, set UIDSet) (Copied, error)

	// Boxes lists an account's mailboxes by name; INBOX is always there and first.
	Boxes(ctx context.Context, a address.Addr) ([]Info, error)
	CreateBox(ctx context.Context, b Box, specialUse string) error
	// RenameBox renames a mailbox and those below it; renaming INBOX moves its
	// messages away and leaves it empty (RFC 3501 section 6.3.5).
	RenameBox(ctx context.Context, b Box, name string) error
	RemoveBox(ctx context.Context, b Box) error
	Subscribe(ctx context.Context, b Box, on bool) error

	// RemoveAccount removes all mailboxes of an account. Views and contents
	// that are open stay readable.
	RemoveAccount(ctx context.Context, a address.Addr) error
	// Usage measures an account on disk, repairing the index where files were
	// added or removed by hand. It reads directories, never message bodies.
	Usage(ctx context.Context, a address.Addr) (Usage, error)
	// Accounts calls f for every account that has mail on disk.
	Accounts(ctx context.Context, f func(a address.Addr) error) error
}

package imapserver

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math"
	"strconv"

	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// Object identifiers (RFC 8474) are made of what they name, and stored nowhere:
//
//	M<UIDVALIDITY>  a mailbox: no two of an account share one, and renaming keeps it
//	I<UIDVALIDITY>  INBOX
//	E<digest>       a message: its octets and its internal date
//	T<digest>       a thread: the message ID that all its messages refer back to
//
// A copy has the octets and the date of the original, and so its EMAILID.

// mailboxID names a mailbox.
func mailboxID(b mailbox.Box, v *mailbox.View) string {
	kind := "M"
	if b.Name == mailbox.Inbox {
		kind = "I"
	}
	return kind + strconv.FormatUint(uint64(v.UIDValidity), 10)
}

// emailID names the message that s has open. It reads all of it, in pieces.
func (s *searcher) emailID(c mailbox.Content) string {
	if c == nil {
		return ""
	}
	id, err := emailID(s.Message, c)
	s.failed(err)
	return id
}

func emailID(m mailbox.Message, c mailbox.Content) (string, error) {
	h := sha256.New()
	_, _ = h.Write(binary.BigEndian.AppendUint64([]byte("email"), uint64(m.Internal)))
	if _, err := io.Copy(h, io.NewSectionReader(c, 0, math.MaxInt64)); err != nil {
		return "", err
	}
	return "E" + hex.EncodeToString(h.Sum(nil)[:20]), nil
}

// objectID writes EMAILID or THREADID (RFC 8474 section 5).
func (f *fetcher) objectID(name string, m mailbox.Message) error {
	var id string
	if name == "EMAILID" {
		var err error
		if id, err = emailID(m, f.content); err != nil {
			return err
		}
	} else {
		head, err := f.header()
		if err != nil {
			return err
		}
		var ok bool
		if id, ok = threadID(message.ScanHeader(head)); !ok {
			f.put("THREADID NIL")
			return nil
		}
	}
	f.put(name, " (", id, ")")
	return nil
}

// threadID names the thread of a message with the header h: that of the first
// message it refers to, or its own. ok is false when it has no ID and refers to
// nothing.
func threadID(h message.Header) (id string, ok bool) {
	for _, name := range [...]string{"References", "In-Reply-To", "Message-ID"} {
		v, _ := h.Get(name)
		if ids := message.MessageIDs(v); len(ids) > 0 {
			sum := sha256.Sum256([]byte("thread" + ids[0]))
			return "T" + hex.EncodeToString(sum[:20]), true
		}
	}
	return "", false
}

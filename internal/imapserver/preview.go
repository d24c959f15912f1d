package imapserver

import (
	"madmail/internal/imap"
	"madmail/internal/message"
)

// Limits of PREVIEW.
const (
	previewReach = 256 << 10 // octets at the start of a message that are looked at
	previewLazy  = 64 << 10  // messages up to this size are looked at without delay
)

// preview writes the beginning of the message's text (RFC 8970). A client that
// does not want to wait gets NIL for what takes reading; what has no text to show,
// as encrypted mail has none, is an empty string.
func (f *fetcher) preview(lazy bool) error {
	f.put("PREVIEW ")
	size := f.content.Size()
	if lazy && size > previewLazy {
		f.put("NIL")
		return nil
	}
	tree, err := message.ParseStructure(f.content, min(size, previewReach))
	if err != nil {
		return err
	}
	text, err := tree.Preview(f.content)
	if err != nil {
		return err
	}
	b := f.out.bytes()
	*b = imap.Quote(*b, text)
	return nil
}

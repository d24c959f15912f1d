package imapserver

import (
	"errors"
	"io"

	"madmail/internal/imap"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// errUnknownCTE says that a part is packed in a way that cannot be undone.
var errUnknownCTE = errors.New("imapserver: unknown transfer encoding")

// decodable checks that all parts that BINARY items ask for can be decoded (RFC
// 3516 section 4.3). It is asked before the response of a message begins.
func (f *fetcher) decodable() error {
	for i := range f.items {
		it := &f.items[i]
		if it.Name != "BINARY[]" && it.Name != "BINARY.SIZE" || len(it.Section.Part) == 0 {
			continue
		}
		tree, err := f.parts()
		if err != nil {
			return err
		}
		if p, ok := tree.Find(it.Section.Part); ok && !whole(p) && !message.Decodable(p.Encoding) {
			return errUnknownCTE
		}
	}
	return nil
}

// whole reports whether a part is given as it stands: what holds other parts has
// no encoding of its own (RFC 2045 section 6.4).
func whole(p *message.Part) bool { return len(p.Parts) > 0 || p.Message != nil }

// decoded opens a section with its transfer encoding undone. Each call begins anew.
func (f *fetcher) decoded(s imap.Section) (io.Reader, bool, error) {
	if len(s.Part) == 0 {
		return io.NewSectionReader(f.content, 0, f.content.Size()), true, nil
	}
	tree, err := f.parts()
	if err != nil {
		return nil, false, err
	}
	p, ok := tree.Find(s.Part)
	switch {
	case !ok:
		return nil, false, nil
	case whole(p):
		return io.NewSectionReader(f.content, p.BodyOffset, p.BodySize), true, nil
	}
	return p.Body(f.content), true, nil
}

// binary writes BINARY[] or BINARY.SIZE (RFC 3516 section 4.2). The part is
// decoded twice, to count and to send: nothing of it is kept.
func (f *fetcher) binary(it *imap.FetchItem, m mailbox.Message) error {
	if !it.Peek && m.Flags&mailbox.Seen == 0 {
		f.seen = f.seen.Add(m.UID)
	}
	r, found, err := f.decoded(it.Section)
	if err != nil {
		return err
	}
	var n int64
	if found {
		if n, err = io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
	if it.Name == "BINARY.SIZE" {
		f.put("BINARY.SIZE[", it.Section.Text, "] ")
		f.num(uint64(n))
		return nil
	}
	f.put("BINARY[", it.Section.Text, "]")
	var off int64
	if it.Partial {
		f.put("<")
		f.num(uint64(it.Offset))
		f.put(">")
		off = min(it.Offset, n)
		n = min(it.Count, n-off)
	}
	if !found {
		f.put(" NIL")
		return nil
	}
	f.put(" ~{")
	f.num(uint64(n))
	f.put("}\r\n")
	if r, _, err = f.decoded(it.Section); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, r, off); err != nil {
		return err
	}
	return f.pieces(n, func(p []byte) error {
		_, err := io.ReadFull(r, p)
		return err
	})
}

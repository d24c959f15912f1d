package imapserver

import "madmail/internal/imap"

func (f *fetcher) structure(string) error { return errNoStructure }

func (f *fetcher) mimePart(imap.Section) (data []byte, off, n int64, found bool, err error) {
	return nil, 0, 0, false, errNoStructure
}

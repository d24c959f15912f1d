package webimap

import (
	"context"
	"errors"
	"io"
	"net/http"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// maxQuery is the length of what may be looked for, in octets.
const maxQuery = 1024

// search finds the messages of a mailbox that have a string, whatever its case, in
// subject, sender, Message-ID or text, and returns what yields them as long as ctx
// lasts.
func (m mail) search(ctx context.Context, q *query) (func(f func(summary) error) error, error) {
	switch {
	case q.Query == "":
		return nil, no(http.StatusBadRequest, "query is required")
	case len(q.Query) > maxQuery:
		return nil, no(http.StatusBadRequest, "query is too long")
	}
	session := ctx
	ctx, cancel := context.WithTimeout(ctx, work)
	defer cancel()
	b, v, err := m.view(ctx, q.Mailbox)
	if err != nil {
		return nil, err
	}
	select {
	case m.searches <- struct{}{}:
		defer func() { <-m.searches }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	find := imap.NewFinder(q.Query)
	buf := make([]byte, 16<<10)
	var found mailbox.UIDSet
	err = m.each(ctx, b, v, mailbox.All(), func(s summary) error {
		find.Reset()
		look(find, s.Envelope)
		if !find.Found() {
			err := m.inText(ctx, find, mailbox.Ref{Box: b, UID: s.UID}, buf)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
		}
		if find.Found() {
			found = found.Add(s.UID)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func(f func(summary) error) error { return m.each(session, b, v, found, f) }, nil
}

// look looks at what stands in the header.
func look(find *imap.Finder, e envelope) {
	feed := func(s string) {
		_, _ = io.WriteString(find, s)
		find.Break()
	}
	feed(e.Subject)
	feed(e.MessageID)
	for _, p := range e.From {
		feed(p.Name)
		feed(p.Mailbox + "@" + p.Host)
	}
}

// inText looks at those parts of a message that are text. Nobody looks for words in
// a picture or in an encrypted message.
func (m mail) inText(ctx context.Context, find *imap.Finder, at mailbox.Ref, buf []byte) error {
	c, err := m.Store.Open(ctx, at.Box, at.UID)
	if err != nil {
		return err
	}
	defer c.Close()
	tree, err := message.ParseStructure(c, c.Size())
	if err != nil {
		return err
	}
	tree.Leaves(func(p *message.Part) bool {
		if p.Type != "text" {
			return true
		}
		r := message.ToUTF8(p.Body(c), p.Param("charset"))
		for err == nil && !find.Found() {
			var n int
			if n, err = r.Read(buf); err == nil {
				err = context.Cause(ctx)
			}
			_, _ = find.Write(buf[:n])
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		find.Break()
		return err == nil && !find.Found()
	})
	return err
}

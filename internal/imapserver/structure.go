package imapserver

import (
	"strconv"
	"strings"

	"madmail/internal/imap"
	"madmail/internal/message"
)

// parts parses the message once for all items that need its structure.
func (f *fetcher) parts() (*message.Part, error) {
	if f.tree != nil {
		return f.tree, nil
	}
	var err error
	f.tree, err = message.ParseStructure(f.content, f.content.Size())
	return f.tree, err
}

// structure writes ENVELOPE, BODY or BODYSTRUCTURE (RFC 3501 section 7.4.2).
func (f *fetcher) structure(name string) error {
	f.put(name, " ")
	if name == "ENVELOPE" {
		head, err := f.header()
		if err != nil {
			return err
		}
		e := message.ScanHeader(head).Envelope()
		b := f.out.bytes()
		*b = appendEnvelope(*b, &e)
		return nil
	}
	tree, err := f.parts()
	if err != nil {
		return err
	}
	b := f.out.bytes()
	*b = appendPart(*b, tree, name == "BODYSTRUCTURE")
	return nil
}

func appendText(b []byte, t message.Text) []byte { return imap.NString(b, t.Value, t.Set) }

func appendOpt(b []byte, s string) []byte { return imap.NString(b, s, s != "") }

func appendEnvelope(b []byte, e *message.Envelope) []byte {
	b = appendText(append(b, '('), e.Date)
	b = appendText(append(b, ' '), e.Subject)
	for _, l := range [][]message.Address{e.From, e.Sender, e.ReplyTo, e.To, e.Cc, e.Bcc} {
		b = appendAddresses(append(b, ' '), l)
	}
	b = appendText(append(b, ' '), e.InReplyTo)
	b = appendText(append(b, ' '), e.MessageID)
	return append(b, ')')
}

func appendAddresses(b []byte, list []message.Address) []byte {
	if len(list) == 0 {
		return append(b, "NIL"...)
	}
	b = append(b, '(')
	for _, a := range list {
		b = appendOpt(append(b, '('), a.Name)
		b = appendOpt(append(b, ' '), a.Route)
		b = imap.NString(append(b, ' '), a.Mailbox, a.Mark != message.GroupEnd)
		b = imap.NString(append(b, ' '), a.Host, a.Mark == message.Single)
		b = append(b, ')')
	}
	return append(b, ')')
}

func appendParams(b []byte, ps []message.Param) []byte {
	if len(ps) == 0 {
		return append(b, "NIL"...)
	}
	b = append(b, '(')
	for i, p := range ps {
		if i > 0 {
			b = append(b, ' ')
		}
		b = imap.Quote(b, p.Name)
		b = imap.Quote(append(b, ' '), p.Value)
	}
	return append(b, ')')
}

// appendPart writes the structure of a part, with extension data for BODYSTRUCTURE.
func appendPart(b []byte, p *message.Part, extended bool) []byte {
	b = append(b, '(')
	if len(p.Parts) > 0 {
		for _, c := range p.Parts {
			b = appendPart(b, c, extended)
		}
		b = imap.Quote(append(b, ' '), p.Subtype)
		if extended {
			b = appendParams(append(b, ' '), p.Params)
			b = appendExtension(b, p)
		}
		return append(b, ')')
	}
	b = imap.Quote(b, p.Type)
	b = imap.Quote(append(b, ' '), p.Subtype)
	b = appendParams(append(b, ' '), p.Params)
	b = appendText(append(b, ' '), p.ID)
	b = appendText(append(b, ' '), p.Description)
	b = imap.Quote(append(b, ' '), p.Encoding)
	b = strconv.AppendInt(append(b, ' '), p.BodySize, 10)
	if p.Message != nil {
		b = appendEnvelope(append(b, ' '), p.Envelope)
		b = appendPart(append(b, ' '), p.Message, extended)
	}
	if p.Message != nil || p.Type == "text" {
		b = strconv.AppendInt(append(b, ' '), p.Lines, 10)
	}
	if extended {
		b = appendText(append(b, ' '), p.MD5)
		b = appendExtension(b, p)
	}
	return append(b, ')')
}

func appendExtension(b []byte, p *message.Part) []byte {
	if p.Disposition == "" {
		b = append(b, " NIL"...)
	} else {
		b = imap.Quote(append(b, " ("...), p.Disposition)
		b = appendParams(append(b, ' '), p.DispositionParams)
		b = append(b, ')')
	}
	switch len(p.Language) {
	case 0:
		b = append(b, " NIL"...)
	case 1:
		b = imap.Quote(append(b, ' '), p.Language[0])
	default:
		b = append(b, " ("...)
		for i, l := range p.Language {
			if i > 0 {
				b = append(b, ' ')
			}
			b = imap.Quote(b, l)
		}
		b = append(b, ')')
	}
	return appendText(append(b, ' '), p.Location)
}

// mimePart finds a section that names a part.
func (f *fetcher) mimePart(s imap.Section) (data []byte, off, n int64, found bool, err error) {
	tree, err := f.parts()
	if err != nil {
		return nil, 0, 0, false, err
	}
	kind := message.Whole
	switch s.Spec {
	case "MIME":
		kind = message.MIMEOnly
	case "TEXT":
		kind = message.TextOnly
	case "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT":
		kind = message.HeaderOnly
	}
	off, n, found = tree.Section(s.Part, kind)
	if !found || !strings.HasPrefix(s.Spec, "HEADER.FIELDS") {
		return nil, off, n, found, nil
	}
	head := make([]byte, min(n, message.MaxHeader))
	if _, err := f.content.ReadAt(head, off); err != nil {
		return nil, 0, 0, false, err
	}
	return f.fields(head, s.Fields, s.Spec == "HEADER.FIELDS.NOT"), 0, 0, true, nil
}

package message

// Text is a value that may be missing: NIL in IMAP. The zero value is missing.
type Text struct {
	Value string
	Set   bool
}

// Envelope is what an ENVELOPE response holds (RFC 3501 section 7.4.2). Texts
// are unfolded and otherwise as in the message: encoded words stay encoded, and
// octets above 127 may occur. Bcc and all other lists may be empty: NIL.
type Envelope struct {
	Date, Subject                      Text
	From, Sender, ReplyTo, To, Cc, Bcc []Address
	InReplyTo, MessageID               Text
}

// Envelope reads the fields of an envelope. Where a field occurs twice the
// first one counts; Sender and Reply-To are From where they are missing or
// empty. It takes any header and makes at most MaxAddresses structures.
func (h Header) Envelope() Envelope {
	left := MaxAddresses
	return h.envelope(&left)
}

func (h Header) envelope(left *int) Envelope {
	list := func(name string) []Address {
		v, _ := h.Get(name)
		if v == "" {
			return nil
		}
		return addressList(v, left)
	}
	e := Envelope{
		Date: h.text("Date"), Subject: h.text("Subject"),
		From: list("From"), Sender: list("Sender"), ReplyTo: list("Reply-To"),
		To: list("To"), Cc: list("Cc"), Bcc: list("Bcc"),
		InReplyTo: h.text("In-Reply-To"), MessageID: h.text("Message-ID"),
	}
	if len(e.Sender) == 0 {
		e.Sender = e.From
	}
	if len(e.ReplyTo) == 0 {
		e.ReplyTo = e.From
	}
	return e
}

func (h Header) text(name string) Text {
	v, ok := h.Get(name)
	return Text{Value: v, Set: ok}
}

// ScanHeader is ParseHeader for messages that are stored already: lines that
// are no fields are passed over, and so is what exceeds the limits.
func ScanHeader(block []byte) Header {
	block = block[:min(len(block), MaxHeader)]
	var h Header
	for len(block) > 0 && len(h) < MaxFields && !blankLine(block) {
		n := fieldLength(block)
		f := Field(block[:n])
		if name := f.Name(); name != "" && fieldName(f[:len(name)]) {
			h = append(h, f)
		}
		block = block[n:]
	}
	return h
}

// blankLine reports whether b begins with an empty line.
func blankLine(b []byte) bool {
	return b[0] == '\n' || len(b) > 1 && b[0] == '\r' && b[1] == '\n'
}

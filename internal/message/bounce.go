package message

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Failure is a recipient that a message could not be brought to.
type Failure struct {
	Recipient address.Addr
	Status    string // enhanced status code (RFC 3463), "5.0.0" if empty or malformed
	Reply     string // what the other server said, with its code: "550 5.1.1 No such user"
	Remote    string // name of that server; "" when none was reached
}

// Notice is what a delivery status notification tells (RFC 3464).
type Notice struct {
	ID       string // of the Message-ID, without angle brackets; unique and not to be guessed
	Host     string // name of this server
	Domain   address.Domain
	To       address.Addr // envelope sender of the original
	Date     time.Time
	Arrived  time.Time // of the original; the zero time is left out
	Original []byte    // header block of the original
	Failures []Failure
}

const (
	maxReply     = 500      // octets of a server's reply that are quoted
	maxReturned  = 64 << 10 // octets of the original header that are returned
	maxHostName  = 255
	bounceIntro  = "This is the mail delivery system of "
	bounceReason = "Your message could not be delivered to:"
)

// Bounce writes the message that tells a sender about failures for good:
// multipart/report with a text, a delivery-status and the header of the original
// (RFC 3462, RFC 3464). All of it is 7-bit but for addresses and header lines
// that were not. It goes out with the null reverse-path.
//
// Chat clients take a message of their own as failed when From begins with
// MAILER-DAEMON, the first per-recipient block says "failed" and the header holds
// the Message-ID. Other relays ask for Auto-Submitted, too.
//
// Errors: fault.Invalid when there is nobody to tell (no bounce answers a
// bounce), nothing to tell, or no usable ID.
func Bounce(n Notice) ([]byte, error) {
	switch {
	case n.To.IsZero():
		return nil, fault.New(fault.Invalid, "message: a bounce to the null reverse-path")
	case len(n.Failures) == 0:
		return nil, fault.New(fault.Invalid, "message: a bounce without failures")
	case n.ID == "" || strings.ContainsFunc(n.ID, func(r rune) bool { return r <= ' ' || r >= 127 || strings.ContainsRune(`<>"`, r) }):
		return nil, fault.New(fault.Invalid, "message: a bounce without a usable Message-ID")
	case n.Domain == "":
		return nil, fault.New(fault.Invalid, "message: a bounce without the domain it comes from")
	}
	host := oneLine(n.Host, maxHostName)
	if host == "" {
		host = n.Domain.Host()
	}
	original := returned(n.Original)
	boundary := boundaryFor(n.ID, original)

	var b bytes.Buffer
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, format, args...)
		b.WriteString("\r\n")
	}
	part := func(typ string, text []byte) {
		line("--%s", boundary)
		line("Content-Type: %s", typ)
		if !isASCII(text) {
			line("Content-Transfer-Encoding: 8bit")
		}
		line("")
		b.Write(text)
		line("")
	}
	line("From: Mail Delivery System <MAILER-DAEMON@%s>", n.Domain)
	line("To: <%s>", n.To.Wire())
	line("Subject: Undelivered Mail Returned to Sender")
	line("Date: %s", n.Date.Format(time.RFC1123Z))
	line("Message-ID: <%s>", n.ID)
	line("Auto-Submitted: auto-replied")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=%q", boundary)
	line("")
	part(`text/plain; charset="utf-8"`, n.text(host))
	if status := n.status(host); isASCII(status) {
		part("message/delivery-status", status)
	} else { // RFC 6533 section 3
		part("message/global-delivery-status", status)
	}
	part("text/rfc822-headers", original)
	line("--%s--", boundary)
	return b.Bytes(), nil
}

// text is the part for people.
func (n Notice) text(host string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s.\r\n\r\n%s\r\n", bounceIntro, host, bounceReason)
	for _, f := range n.Failures {
		fmt.Fprintf(&b, "\r\n<%s>", f.Recipient.Wire())
		if reply := oneLine(f.Reply, maxReply); reply != "" {
			fmt.Fprintf(&b, ":\r\n    %s", reply)
		}
		b.WriteString("\r\n")
	}
	return b.Bytes()
}

// status is the part for programs (RFC 3464 section 2).
func (n Notice) status(host string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "Reporting-MTA: dns; %s\r\n", host)
	if !n.Arrived.IsZero() {
		fmt.Fprintf(&b, "Arrival-Date: %s\r\n", n.Arrived.Format(time.RFC1123Z))
	}
	for _, f := range n.Failures {
		kind := "rfc822"
		if !isASCII([]byte(f.Recipient.Wire())) {
			kind = "utf-8"
		}
		fmt.Fprintf(&b, "\r\nFinal-Recipient: %s; %s\r\nAction: failed\r\nStatus: %s\r\n", kind, f.Recipient.Wire(), enhanced(f.Status))
		if remote := oneLine(f.Remote, maxHostName); remote != "" {
			fmt.Fprintf(&b, "Remote-MTA: dns; %s\r\n", remote)
		}
		if reply := oneLine(f.Reply, maxReply); reply != "" {
			fmt.Fprintf(&b, "Diagnostic-Code: smtp; %s\r\n", reply)
		}
	}
	return b.Bytes()
}

// enhanced returns a status code of the form of RFC 3463 section 2, whatever
// another server called one.
func enhanced(s string) string {
	class, rest, _ := strings.Cut(s, ".")
	subject, detail, _ := strings.Cut(rest, ".")
	if class != "4" && class != "5" || !upTo3Digits(subject) || !upTo3Digits(detail) {
		return "5.0.0"
	}
	return s
}

func upTo3Digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 3
}

// oneLine makes another server's text fit to stand in a field: one line of
// printable ASCII with single spaces, at most limit octets.
func oneLine(s string, limit int) string {
	b := make([]byte, 0, min(len(s), limit))
	for i := 0; i < len(s) && len(b) < limit; i++ {
		switch c := s[i]; {
		case c <= ' ' || c == 127:
			if len(b) > 0 && b[len(b)-1] != ' ' {
				b = append(b, ' ')
			}
		case c > 127:
			b = append(b, '?')
		default:
			b = append(b, c)
		}
	}
	return strings.TrimRight(string(b), " ")
}

// returned is what goes back of a header block: whole fields with CRLF, as many
// as the limit takes. The Message-ID comes along in any case.
func returned(block []byte) []byte {
	h := ScanHeader(block)
	out := make([]byte, 0, min(len(block), maxReturned))
	id := -1
	for i, f := range h {
		if f.Is("Message-ID") && len(f) <= 1000 {
			id = i
			break
		}
	}
	room := maxReturned
	if id >= 0 {
		room -= len(h[id]) + 2
	}
	for i, f := range h {
		f = crlf(f)
		if i != id {
			if len(f) > room {
				continue
			}
			room -= len(f)
		}
		out = append(out, f...)
	}
	return out
}

// crlf returns a field whose lines end in CRLF and which holds no NUL.
func crlf(f Field) Field {
	if bytes.Count(f, []byte("\n")) == bytes.Count(f, []byte("\r\n")) && bytes.Count(f, []byte("\r")) == bytes.Count(f, []byte("\n")) &&
		bytes.HasSuffix(f, []byte("\n")) && bytes.IndexByte(f, 0) < 0 {
		return f
	}
	out := make(Field, 0, len(f)+8)
	for _, c := range bytes.TrimRight(f, "\r\n") {
		switch c {
		case '\r', 0:
		case '\n':
			out = append(out, '\r', '\n')
		default:
			out = append(out, c)
		}
	}
	return append(out, '\r', '\n')
}

// boundaryFor makes a boundary of a message's ID that no returned line begins with.
func boundaryFor(id string, original []byte) string {
	b := []byte("report_")
	for i := 0; i < len(id) && len(b) < 60; i++ {
		if c := id[i]; c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b = append(b, c)
		}
	}
	for bytes.Contains(original, append([]byte("--"), b...)) && len(b) < 70 {
		b = append(b, 'x')
	}
	return string(b)
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c > 127 {
			return false
		}
	}
	return true
}

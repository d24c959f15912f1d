package outbound

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"madmail/internal/smtp"
)

// How long an answer that may be somebody's mistake is believed to pass.
const (
	unsignedFor = 6 * time.Hour  // no valid signature: their DNS, or a stale key
	fullFor     = 24 * time.Hour // mailbox full by HTTP
	maxAfter    = 6 * time.Hour  // longest wait that a peer can ask for
	maxReply    = 500
)

// ClassifyHTTP says what an answer to POST /mxdeliv means. body is its beginning,
// after its Retry-After field.
func ClassifyHTTP(host string, status int, body []byte, after string, now time.Time) Outcome {
	o := Outcome{Remote: host, Answered: true, Reply: "HTTP " + strconv.Itoa(status) + " " + http.StatusText(status)}
	switch {
	case status >= 200 && status < 300:
		o.Result, o.Status = Delivered, "2.0.0"
	case status == http.StatusBadRequest:
		// The official relays answer 400 to everything and put an SMTP reply into the body.
		code, reply := smtpReply(body)
		if code == 0 {
			return o.failed("5.5.0") // any web server
		}
		o.Reply = reply
		o.Status, _ = smtp.SplitEnhanced(code, reply[3:][min(1, len(reply)-3):])
		switch {
		case code < 500:
			o.Result = Later
		case unsigned(reply):
			o.Result, o.Limit = Later, unsignedFor
		default:
			o.Result, o.Firm = Doubtful, true
		}
	case status == http.StatusForbidden:
		o.Result, o.Status = Doubtful, "5.7.1"
		o.Reply = withText(o.Reply, body)
	case status == http.StatusRequestEntityTooLarge:
		o.Result, o.Status, o.TooBig = Doubtful, "5.3.4", true
	case status == http.StatusNotFound && strings.HasPrefix(string(body), noRecipients):
		o = o.failed("5.1.1")
		o.Reply = withText(o.Reply, body)
	case status == http.StatusNotFound, status == http.StatusGone:
		o = o.failed("5.3.2")
		o.NoService = true
	case status == http.StatusInsufficientStorage:
		o.Result, o.Status, o.Limit = Later, "4.2.2", fullFor
		o.After = retryAfter(after, now)
	default: // 3xx is not followed: it could move mail to another host
		o = o.failed("4.3.0")
		o.After = retryAfter(after, now)
	}
	return o
}

// noRecipients is what the first version says of recipients that it does not have, or
// could not look up: the service is there, and SMTP decides.
const noRecipients = "No valid recipients"

func (o Outcome) failed(status string) Outcome {
	o.Result, o.Status = Failed, status
	return o
}

// smtpReply returns the reply line that a body begins with, or 0. A web server's own
// page may begin with the number of its own status.
func smtpReply(body []byte) (int, string) {
	line, _, _ := strings.Cut(string(body[:min(len(body), maxReply)]), "\n")
	code, _, text, err := smtp.ParseReplyLine(strings.TrimRight(line, "\r"))
	if err != nil || code < 401 || code/10%10 > 5 {
		return 0, ""
	}
	return code, strings.TrimRight(strconv.Itoa(code)+" "+text, " ")
}

// withText adds the first line of a body that is meant to be read.
func withText(reply string, body []byte) string {
	line, _, _ := strings.Cut(string(body[:min(len(body), 200)]), "\n")
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '<' || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
		return reply
	}
	return reply + ": " + line
}

// unsigned recognises the words by which the official relays refuse a signature, for
// good, also when their DNS fails.
func unsigned(reply string) bool {
	return strings.Contains(reply, "No valid DKIM signature found")
}

func retryAfter(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxAfter)
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(0, t.Sub(now)), maxAfter)
	}
	return 0
}

// Stage is where in an SMTP dialogue a reply came.
type Stage uint8

// The stages.
const (
	Greeting  Stage = iota // before MAIL: greeting, EHLO, STARTTLS
	Mail                   // to MAIL FROM
	Recipient              // to RCPT TO
	Data                   // to DATA
	End                    // to the end of the data
)

// ClassifySMTP says what a reply means at a stage, for whom it concerns. A positive
// one is Delivered at End and Failed before: there is more to come.
func ClassifySMTP(host string, stage Stage, code int, text string) Outcome {
	text = text[:min(len(text), maxReply)]
	o := Outcome{Remote: host, Answered: stage != Greeting, Reply: strings.TrimRight(strconv.Itoa(code)+" "+text, " ")}
	o.Status, _ = smtp.SplitEnhanced(code, text)
	switch {
	case code < 400:
		if stage == End && code < 300 {
			o.Result = Delivered
			return o
		}
		return o.failed("5.5.0") // out of step
	case stage == Greeting:
		// A host that does not talk to us now says nothing about the message; another
		// may (RFC 5321 section 5.1).
		o.Result, o.Status = Failed, orElse(o.Status, "4.4.2")
	case code == 421 && stage != End:
		o.Result, o.Status = Failed, orElse(o.Status, "4.4.2")
	case code == 530:
		o.Result, o.Status = Failed, orElse(o.Status, "5.7.0") // it wants TLS, or a login
	case code < 500:
		o.Result, o.Status = Later, orElse(o.Status, "4.0.0")
	case unsigned(o.Reply):
		o.Result, o.Limit = Later, unsignedFor
	default:
		o.Result, o.Status = Refused, orElse(o.Status, "5.0.0")
		o.TooBig = code == 552 && strings.HasPrefix(o.Status, "5.3.4")
	}
	return o
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

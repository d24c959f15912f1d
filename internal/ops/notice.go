package ops

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Notice is a message from the operator to one user, or to all.
type Notice struct {
	Subject   string `json:"subject"`
	Body      string `json:"body"`
	Recipient string `json:"recipient"` // "" for everybody
}

// Noticed says who got a notice.
type Noticed struct {
	Sent   int      `json:"sent"`
	Failed int      `json:"failed"`
	Errors []string `json:"errors"`
}

// Audience says who a notice to everybody would reach.
type Audience struct {
	TotalUsers int    `json:"total_users"`
	Domain     string `json:"domain"`
}

const (
	maxSubject   = 500
	maxNotice    = 64 << 10
	noticesAtOne = 500 // recipients that share one delivery
	maxErrors    = 100 // that are repeated to the operator
)

func (d *Desk) audience(context.Context, none) (Audience, error) {
	return Audience{TotalUsers: d.Accounts.Count(), Domain: string(d.Domains.Registration())}, nil
}

func (d *Desk) notice(ctx context.Context, n Notice) (Noticed, error) {
	r := Noticed{Errors: []string{}}
	n.Subject = strings.TrimSpace(n.Subject)
	switch {
	case n.Subject == "" || strings.TrimSpace(n.Body) == "":
		return r, fault.New(fault.Invalid, "subject and body are required")
	case len(n.Subject) > maxSubject || strings.ContainsFunc(n.Subject, unicode.IsControl):
		return r, fault.Newf(fault.Invalid, "a subject is one line of at most %d bytes", maxSubject)
	case len(n.Body) > maxNotice:
		return r, fault.Newf(fault.Invalid, "a notice has at most %d bytes", maxNotice)
	case !utf8.ValidString(n.Subject) || !utf8.ValidString(n.Body) || strings.ContainsRune(n.Body, 0):
		return r, fault.New(fault.Invalid, "a notice is text")
	}
	var to []address.Addr
	header := "hidden-recipients: ;"
	if n.Recipient != "" {
		a, err := d.parse(n.Recipient)
		if err != nil {
			return r, err
		}
		if !d.Accounts.Exists(a) {
			return r, missing(fault.New(fault.NotFound, ""), a)
		}
		to, header = []address.Addr{a}, "<"+a.Wire()+">"
	} else {
		for _, i := range d.Accounts.List() {
			to = append(to, i.Addr)
		}
	}
	for len(to) > 0 {
		batch := to[:min(len(to), noticesAtOne)]
		to = to[len(batch):]
		failed, err := d.Notify(ctx, batch, d.compose(n, header))
		if err != nil {
			failed = nil
			for _, a := range batch {
				failed = append(failed, a.Wire()+": "+fault.UserText(err))
			}
		}
		r.Sent += len(batch) - len(failed)
		r.Failed += len(failed)
		r.Errors = append(r.Errors, failed[:min(len(failed), maxErrors-len(r.Errors))]...)
	}
	return r, nil
}

// compose writes the message: plain text, encoded so that no line of it can
// become a header or end the message.
func (d *Desk) compose(n Notice, to string) []byte {
	var b bytes.Buffer
	domain := d.Domains.Registration()
	fmt.Fprintf(&b, "From: Admin <admin@%s>\r\nTo: %s\r\nSubject: %s\r\n", domain, to, mime.QEncoding.Encode("utf-8", n.Subject))
	fmt.Fprintf(&b, "Date: %s\r\nMessage-ID: <%s@%s>\r\nAuto-Submitted: auto-generated\r\n", time.Now().UTC().Format(time.RFC1123Z), rand.Text(), domain.Host())
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n")
	text := strings.ReplaceAll(strings.ReplaceAll(n.Body, "\r\n", "\n"), "\n", "\r\n")
	for enc := base64.StdEncoding.EncodeToString([]byte(text)); enc != ""; {
		line := enc[:min(76, len(enc))]
		b.WriteString(line + "\r\n")
		enc = enc[len(line):]
	}
	return b.Bytes()
}

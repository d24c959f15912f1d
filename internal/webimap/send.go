package webimap

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/delivery"
	"madmail/internal/fault"
	"madmail/internal/message"
)

// send takes a message. The sender is the account, whatever the request says.
func (m mail) send(ctx context.Context, q *query, text *spool) (err error) {
	defer func() {
		if err == nil {
			m.sent.Add(1)
		} else {
			m.refused.Add(1)
		}
	}()
	e := delivery.Envelope{Via: delivery.Web, Identity: m.account, From: m.account, Received: time.Now()}
	switch {
	case len(q.To) == 0:
		return errNoRecipients
	case text.n > text.limit:
		return errTooBig
	case text.w == nil && text.err == nil:
		return errNoBody
	}
	if len(q.To) > m.MaxRecipients {
		return &refusal{http.StatusBadRequest, "Too many recipients", "452 4.5.3"}
	}
	if !m.Auth.Allowed(m.account) { // any more
		return &wrong
	}
	if !m.MaySend(m.account) {
		return &refusal{http.StatusTooManyRequests, "Too much mail from you, try again later", "450 4.7.1"}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storing) // all was read: it is stored also for who hangs up
	defer cancel()
	named := make(map[address.Addr]bool, len(q.To))
	for _, s := range q.To {
		to, err := recipient(s)
		if err != nil {
			return &refusal{http.StatusBadRequest, "Bad recipient address", "501 5.1.3"}
		}
		if named[to] {
			continue
		}
		named[to] = true
		if err := m.Intake.Check(ctx, &e, to); err != nil {
			x := m.refusal(err, atRecipient)
			return &x
		}
		e.To = append(e.To, to)
	}
	body, err := text.seal()
	if err == nil {
		defer body.Close()
		e.Size = body.Size()
		_, err = m.Intake.Accept(ctx, &e, message.NewLines(io.NewSectionReader(body, 0, body.Size())))
	}
	if err != nil {
		x := m.refusal(err, atMessage)
		return &x
	}
	return nil
}

func recipient(s string) (address.Addr, error) {
	s = strings.TrimSpace(s)
	if in, found := strings.CutPrefix(s, "<"); found {
		s = strings.TrimSuffix(in, ">")
	}
	if len(s) > 320 { // RFC 5321 section 4.5.3.1
		return address.Addr{}, fault.New(fault.Invalid, "address too long")
	}
	return address.Parse(s)
}

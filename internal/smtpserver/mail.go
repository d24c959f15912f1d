package smtpserver

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"madmail/internal/address"
	"madmail/internal/authres"
	"madmail/internal/delivery"
	"madmail/internal/fault"
	"madmail/internal/smtp"
	"madmail/internal/throttle"
)

// mail begins a transaction. What is wrong with the sender is told at RCPT,
// where clients expect it and where the connection stays usable.
func (c *session) mail(arg string) smtp.Reply {
	if c.mode != MX && c.account().IsZero() {
		if !c.mayAuth() {
			return smtp.Say(530, "5.7.0", "Must issue a STARTTLS command first")
		}
		return smtp.Say(530, "5.7.0", "Authentication required")
	}
	if c.tx.open {
		return smtp.Say(503, "5.5.1", "Sender already given")
	}
	// This machine itself may be a proxy, which stands for many.
	if c.mode == MX && !c.remote.IsLoopback() && !c.srv.peers.allow(address.Network(c.remote), c.srv.opt.Now()) {
		c.srv.stats.by[c.module()].deferred.Add(1)
		return smtp.Say(451, "4.7.1", "Too much mail from your server, try again later")
	}
	path, params, err := smtp.ParsePath(arg, "FROM:")
	if err != nil {
		return smtp.Say(501, "5.5.4", "Syntax: MAIL FROM:<address>")
	}
	tx := transaction{open: true}
	tx.env.Received = c.srv.opt.Now()
	tx.env.Via, tx.env.Client = delivery.Inbound, authres.Client{Addr: c.remote, Helo: c.helloName, TLS: c.secure}
	if c.mode != MX {
		tx.env.Via, tx.env.Identity, tx.env.Client = delivery.Submission, c.account(), authres.Client{}
	}
	if r := c.mailParams(&tx, params); r.Code != 0 {
		return r
	}
	if !tx.utf8 && !ascii(path) {
		return smtp.Say(553, "5.6.7", "Address needs SMTPUTF8")
	}
	if path != "" {
		if tx.env.From, err = address.Parse(path); err != nil {
			return smtp.Say(501, "5.1.7", "Bad sender address")
		}
	}
	if c.mode != MX {
		switch {
		case tx.env.From != tx.env.Identity:
			tx.deferred = &smtp.Reply{Code: 553, Enhanced: "5.7.1", Text: []string{"Sender address must be your own"}}
		case !c.srv.rate.allow(tx.env.From, c.srv.opt.Now()):
			c.srv.stats.by[c.module()].deferred.Add(1)
			tx.deferred = &smtp.Reply{Code: 450, Text: []string{"4.7.1: Too much mail from <" + tx.env.From.Wire() + ">, try again later"}}
		}
	}
	if d := tx.deferred; d != nil && c.door().RefuseSender {
		return *d
	}
	if tx.deferred == nil {
		for _, scope := range []throttle.Scope{throttle.All, throttle.IP, throttle.Source} {
			if !c.counts(scope) {
				continue
			}
			who := ""
			switch scope {
			case throttle.IP:
				who = address.Network(c.remote).String()
			case throttle.Source:
				who = string(tx.env.From.Domain())
			}
			if !c.turn(&tx, scope, who) {
				for _, end := range tx.turns {
					end()
				}
				return highLoad
			}
		}
	}
	c.tx = tx
	return smtp.Say(250, "2.1.0", "Sender OK")
}

func (c *session) mailParams(tx *transaction, params []smtp.Param) smtp.Reply {
	for _, p := range params {
		switch p.Key {
		case "SIZE":
			n, err := smtp.ParseSize(p.Value)
			if err != nil {
				return smtp.Say(501, "5.5.4", "SIZE is a number")
			}
			if n > c.srv.opt.MaxSize(c.mode) {
				return smtp.Say(552, "5.3.4", "Message exceeds maximum size")
			}
			tx.env.Size = n
		case "BODY":
			switch strings.ToUpper(p.Value) {
			case "7BIT", "8BITMIME":
			default:
				return smtp.Say(501, "5.5.4", "Unknown BODY")
			}
		case "SMTPUTF8":
			tx.utf8 = true
		case "AUTH", "RET", "ENVID": // no effect here
		default:
			return smtp.Say(555, "5.5.4", "Unknown parameter")
		}
	}
	return smtp.Reply{}
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// rcpt names a recipient.
func (c *session) rcpt(arg string) smtp.Reply {
	r := c.rcptReply(arg)
	if !r.Positive() && c.tx.refused == 0 {
		c.tx.refused = r.Code
	}
	return r
}

func (c *session) rcptReply(arg string) smtp.Reply {
	path, params, err := smtp.ParsePath(arg, "TO:")
	if err != nil || path == "" {
		return smtp.Say(501, "5.5.4", "Syntax: RCPT TO:<address>")
	}
	for _, p := range params {
		if p.Key != "NOTIFY" && p.Key != "ORCPT" {
			return smtp.Say(555, "5.5.4", "Unknown parameter")
		}
	}
	if c.tx.deferred != nil {
		return *c.tx.deferred
	}
	if c.tx.rcpts >= c.door().MaxRecipients {
		return smtp.Say(452, "4.5.3", "Too many recipients")
	}
	c.tx.rcpts++
	if !c.tx.utf8 && !ascii(path) {
		return smtp.Say(553, "5.6.7", "Address needs SMTPUTF8")
	}
	to, err := address.Parse(path)
	if err != nil {
		return smtp.Say(501, "5.1.3", "Bad recipient address")
	}
	if c.tx.seen[to] {
		return smtp.Say(250, "2.1.5", "Recipient OK")
	}
	if err := c.srv.opt.Intake.Check(context.Background(), &c.tx.env, to); err != nil {
		return c.refusal(err, atRecipient)
	}
	if d := to.Domain(); c.counts(throttle.Destination) && !c.tx.domains[d] {
		if !c.turn(&c.tx, throttle.Destination, string(d)) {
			return highLoad
		}
		if c.tx.domains == nil {
			c.tx.domains = make(map[address.Domain]bool)
		}
		c.tx.domains[d] = true
	}
	if c.tx.seen == nil {
		c.tx.seen = make(map[address.Addr]bool)
	}
	c.tx.seen[to] = true
	c.tx.env.To = append(c.tx.env.To, to)
	return smtp.Say(250, "2.1.5", "Recipient OK")
}

type stage uint8

const (
	atRecipient stage = iota
	atMessage
)

// refusal turns an error of the flows into a reply. It is the one place that
// knows both. The text is one line and safe for users.
func (c *session) refusal(err error, at stage) smtp.Reply {
	var own interface {
		SMTPReply() (code int, enhanced, text string)
	}
	if errors.As(err, &own) { // the operator's words
		return smtp.Say(own.SMTPReply())
	}
	text := fault.UserText(err)
	switch fault.KindOf(err) {
	case fault.Invalid:
		if at == atMessage {
			return smtp.Say(500, "5.6.0", text)
		}
		return smtp.Say(501, "5.5.4", text)
	case fault.Denied:
		return smtp.Say(535, "5.7.8", text)
	case fault.Refused:
		if at == atRecipient {
			return smtp.Say(550, "5.7.1", text)
		}
		return smtp.Say(554, "5.7.1", text)
	case fault.Unencrypted:
		return smtp.Say(523, "", text)
	case fault.NotFound:
		return smtp.Say(550, "5.1.1", text)
	case fault.Exists:
		return smtp.Say(554, "5.5.0", text)
	case fault.TooBig:
		return smtp.Say(552, "5.3.4", text)
	case fault.Full:
		return smtp.Say(552, "5.2.2", text)
	case fault.Busy:
		if fault.HintOf(err) != "" {
			c.srv.opt.Logger.Warn("mail was put off", "err", err, "hint", fault.HintOf(err))
			return smtp.Say(452, "4.3.1", "Insufficient system storage, try again later")
		}
		return smtp.Say(451, "4.3.2", text)
	case fault.Internal:
		c.srv.opt.Logger.Error("mail could not be taken", "err", err)
	}
	return smtp.Say(451, "4.3.0", "Internal server error, try again later")
}

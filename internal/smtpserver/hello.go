package smtpserver

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/smtp"
)

func (c *session) helo(arg string) smtp.Reply {
	if arg == "" {
		return smtp.Say(501, "5.5.4", "HELO needs a name")
	}
	c.reset()
	c.greeted, c.helloName = true, arg
	return smtp.Say(250, "", c.srv.opt.Hostname())
}

// ehlo announces what the server can do (RFC 5321 section 4.1.1.1). The
// argument is not checked: every client says [127.0.0.1].
func (c *session) ehlo(arg string) smtp.Reply {
	if arg == "" {
		return smtp.Say(501, "5.5.4", "EHLO needs a name")
	}
	c.reset()
	c.greeted, c.helloName = true, arg
	text := []string{c.srv.opt.Hostname(), "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING",
		"SIZE " + strconv.FormatInt(c.srv.opt.MaxSize(c.mode), 10)}
	if !c.secure && c.srv.opt.TLS != nil {
		text = append(text, "STARTTLS")
	}
	if c.mayAuth() && c.account().IsZero() {
		text = append(text, "AUTH PLAIN LOGIN")
	}
	return smtp.Reply{Code: 250, Text: text}
}

// mayAuth says whether a login can be taken now: never on the MX port, and
// not before TLS.
func (c *session) mayAuth() bool {
	return c.mode != MX && (c.secure || c.srv.opt.AllowInsecureAuth)
}

// starttls begins TLS (RFC 3207). Whatever the client sent after the command
// is thrown away: it came in clear and may be somebody else's.
func (c *session) starttls(arg string) smtp.Reply {
	switch {
	case arg != "":
		return smtp.Say(501, "5.5.4", "STARTTLS takes no argument")
	case c.secure:
		return smtp.Say(503, "5.5.1", "TLS is already active")
	case c.srv.opt.TLS == nil:
		return smtp.Say(454, "4.7.0", "TLS is not available")
	}
	c.wire.discard()
	c.reply(smtp.Say(220, "2.0.0", "Ready to start TLS"))
	if c.flush() != nil {
		return dead
	}
	if !c.handshake() {
		return dead
	}
	c.reset()
	c.greeted = false // RFC 3207 section 4.2: everything learnt before is forgotten
	c.login.Store(nil)
	return smtp.Reply{}
}

func (c *session) auth(arg string) smtp.Reply {
	mech, initial, _ := strings.Cut(arg, " ")
	switch {
	case c.mode == MX:
		return smtp.Say(502, "5.5.1", "No login on this port")
	case !c.mayAuth():
		return smtp.Say(530, "5.7.0", "Must issue a STARTTLS command first")
	case !c.account().IsZero():
		return smtp.Say(503, "5.5.1", "Already logged in")
	case c.tx.open:
		return smtp.Say(503, "5.5.1", "Not within a transaction")
	}
	var user string
	var password []byte
	var r smtp.Reply
	switch strings.ToUpper(mech) {
	case "PLAIN":
		user, password, r = c.plain(strings.TrimSpace(initial))
	case "LOGIN":
		user, password, r = c.loginMechanism(strings.TrimSpace(initial))
	default:
		return smtp.Say(504, "5.5.4", "Unknown mechanism")
	}
	defer clear(password)
	if r.Code != 0 {
		return r
	}
	return c.verify(user, password)
}

func (c *session) verify(user string, password []byte) smtp.Reply {
	ctx, cancel := context.WithTimeout(context.Background(), c.srv.opt.AcceptTimeout)
	defer cancel()
	id, err := c.srv.opt.Auth.Login(ctx, user, password, c.remote)
	if err != nil {
		c.srv.stats.failedLogins.Add(1)
		c.srv.stats.by[c.module()].failedLogins.Add(1)
		if fault.KindOf(err) != fault.Denied {
			return smtp.Say(454, "4.7.0", "Temporarily unavailable, try again later")
		}
		if c.failures++; c.failures >= c.srv.opt.MaxAuthFailures {
			c.reply(smtp.Say(535, "5.7.8", "Authentication failed"))
			return smtp.Say(421, "4.7.0", "Too many failed logins")
		}
		return smtp.Say(535, "5.7.8", "Authentication failed")
	}
	c.srv.stats.logins.Add(1)
	c.login.Store(&id.Account)
	if !c.srv.opt.Auth.Allowed(id.Account) {
		c.reply(smtp.Say(535, "5.7.8", "Authentication failed"))
		return smtp.Say(421, "4.7.0", "This account's sessions were ended")
	}
	return smtp.Say(235, "2.7.0", "Authentication succeeded")
}

// challenge asks the client for a line and decodes it. "*" cancels (RFC 4954 section 4).
func (c *session) challenge(prompt string) ([]byte, smtp.Reply) {
	c.out = append(append(append(c.out, "334 "...), prompt...), "\r\n"...)
	line, err := c.wire.line(smtp.MaxCommand)
	c.busy()
	if err != nil {
		c.farewell(err)
		return nil, dead
	}
	return decodeResponse(line)
}

func decodeResponse(line string) ([]byte, smtp.Reply) {
	if line == "*" {
		return nil, smtp.Say(501, "5.7.0", "Cancelled")
	}
	b, err := base64.StdEncoding.DecodeString(line)
	if err != nil {
		return nil, smtp.Say(501, "5.5.2", "Not base64")
	}
	return b, smtp.Reply{}
}

func (c *session) plain(initial string) (string, []byte, smtp.Reply) {
	var b []byte
	var r smtp.Reply
	switch initial {
	case "":
		b, r = c.challenge("")
	case "=":
	default:
		b, r = decodeResponse(initial)
	}
	if r.Code != 0 {
		return "", nil, r
	}
	defer clear(b)
	user, password, err := smtp.ParsePlain(b)
	if err != nil {
		return "", nil, smtp.Say(501, "5.5.2", "Malformed response")
	}
	return user, password, smtp.Reply{}
}

func (c *session) loginMechanism(initial string) (string, []byte, smtp.Reply) {
	var user []byte
	var r smtp.Reply
	if initial != "" {
		user, r = decodeResponse(initial)
	} else {
		user, r = c.challenge("VXNlcm5hbWU6")
	}
	if r.Code != 0 {
		return "", nil, r
	}
	password, r := c.challenge("UGFzc3dvcmQ6")
	return string(user), password, r
}

func (c *session) rset(string) smtp.Reply {
	c.reset()
	return smtp.Say(250, "2.0.0", "Reset")
}

func (c *session) noop(string) smtp.Reply { return smtp.Say(250, "2.0.0", "OK") }

// vrfy answers every name alike: it tells nobody who exists (RFC 5321 section 7.3).
func (c *session) vrfy(string) smtp.Reply {
	return smtp.Say(252, "2.0.0", "Send some mail, I will try my best")
}

func (c *session) expn(string) smtp.Reply { return smtp.Say(502, "5.5.1", "No lists here") }

func (c *session) help(string) smtp.Reply {
	return smtp.Say(214, "2.0.0", "See RFC 5321")
}

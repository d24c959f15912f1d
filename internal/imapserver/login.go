package imapserver

import (
	"encoding/base64"
	"slices"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/version"
)

// capabilities writes what the server offers in the present state. The tokens
// of chatmail are named after login only.
func (c *session) capabilities() {
	if c.account().IsZero() {
		c.put("IMAP4rev1 ID LITERAL+ SASL-IR")
		if !c.secure && c.srv.opt.TLS != nil {
			c.put(" STARTTLS")
		}
		if c.mayLogin() {
			c.put(" AUTH=PLAIN")
		} else {
			c.put(" LOGINDISABLED")
		}
		return
	}
	c.put("IMAP4rev1 IMAP4rev2 IDLE MOVE UIDPLUS QUOTA QUOTA=RES-STORAGE ID LITERAL+ NAMESPACE UNSELECT CHILDREN SPECIAL-USE CREATE-SPECIAL-USE ENABLE NOTIFY CONDSTORE QRESYNC UTF8=ACCEPT STATUS=SIZE WITHIN ESEARCH SEARCHRES LIST-EXTENDED LIST-STATUS I18NLEVEL=1 MULTIAPPEND REPLACE BINARY SORT ESORT THREAD=ORDEREDSUBJECT THREAD=REFERENCES PREVIEW OBJECTID SAVEDATE APPENDLIMIT=")
	c.num(uint64(max(c.srv.opt.MaxAppend(c.account()), 0)))
	if c.srv.opt.Metadata != nil {
		c.put(" METADATA METADATA-SERVER")
	}
	if !c.srv.opt.NoCompress && !c.out.deflate {
		c.put(" COMPRESS=DEFLATE")
	}
	for _, t := range c.srv.opt.Tokens() {
		c.put(" ", t)
	}
}

func (c *session) mayLogin() bool { return c.secure || c.srv.opt.AllowInsecureAuth }

func (c *session) capability(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	c.put("* CAPABILITY ")
	c.capabilities()
	c.put("\r\n")
	return ok("Capability completed")
}

func (c *session) noop(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	return ok("Done")
}

func (c *session) logout(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	c.put("* BYE Logging out\r\n")
	c.answer(cmd.tag, ok("Logout completed"))
	c.parting = true
	return response{} // and close
}

// id tells the product's name and nothing more (RFC 2971): versions help
// those who look for old ones.
func (c *session) id(cmd *command) response {
	p := cmd.p
	p.SP()
	if p.Peek('(') {
		n := 0
		p.List(func() {
			_ = p.String()
			p.SP()
			_, _ = p.NString()
			n++
		})
	} else if _, ok := p.NString(); ok {
		return response{status: "BAD", text: "Expected a list or NIL"}
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	c.put(`* ID ("name" "`, version.Name, "\")\r\n")
	return ok("ID completed")
}

// starttls begins TLS (RFC 3501 section 6.2.1). What the client sent after the
// command is thrown away: it came in clear and may be somebody else's.
func (c *session) starttls(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if c.secure || c.srv.opt.TLS == nil {
		return response{status: "BAD", text: "TLS is not available"}
	}
	c.wire.discard()
	c.answer(cmd.tag, ok("Begin TLS negotiation now"))
	if c.flush() != nil || !c.handshake() {
		return response{}
	}
	return response{sent: true}
}

func (c *session) loginCommand(cmd *command) response {
	p := cmd.p
	p.SP()
	user := p.AString()
	p.SP()
	password := []byte(p.AString())
	defer clear(password)
	if err := cmd.end(); err != nil {
		return response{status: "BAD", text: "Expected user name and password"}
	}
	return c.verify(user, password)
}

// authenticate does SASL PLAIN, with or without initial response (RFC 4959).
func (c *session) authenticate(cmd *command) response {
	p := cmd.p
	p.SP()
	mech := p.Atom()
	initial := ""
	if p.More() {
		p.SP()
		initial = p.Atom()
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if !strings.EqualFold(mech, "PLAIN") {
		return no("CANNOT", "Unknown mechanism")
	}
	if !c.mayLogin() {
		return no("PRIVACYREQUIRED", "Use STARTTLS first")
	}
	if initial == "" {
		c.put("+ \r\n")
		if c.flush() != nil {
			return response{}
		}
		line, err := c.wire.line(c.maxCommand, false)
		if err != nil {
			return response{}
		}
		if initial = string(line); initial == "*" {
			return response{status: "BAD", text: "Cancelled"}
		}
	} else if initial == "=" {
		initial = ""
	}
	b, err := base64.StdEncoding.DecodeString(initial)
	if err != nil {
		return response{status: "BAD", text: "Not base64"}
	}
	defer clear(b)
	parts := strings.SplitN(string(b), "\x00", 3)
	if len(parts) != 3 || parts[1] == "" || parts[0] != "" && parts[0] != parts[1] {
		return response{status: "BAD", text: "Malformed response"}
	}
	password := []byte(parts[2])
	defer clear(password)
	return c.verify(parts[1], password)
}

func (c *session) verify(user string, password []byte) response {
	if !c.mayLogin() {
		return no("PRIVACYREQUIRED", "Use STARTTLS first")
	}
	ctx, cancel := c.ctx()
	defer cancel()
	id, err := c.srv.opt.Auth.Login(ctx, user, password, c.remote)
	if err != nil {
		c.srv.failedLogins.Add(1)
		if c.failures++; c.failures >= c.srv.opt.MaxAuthFailures {
			c.errors = c.srv.opt.MaxErrors + 1
		}
		if fault.KindOf(err) != fault.Denied {
			// Clients count refusals by their words: this one must not look like a wrong password.
			return no("UNAVAILABLE", "Temporarily unavailable, try again later")
		}
		return no("AUTHENTICATIONFAILED", "Authentication failed")
	}
	if !c.srv.enter(id.Account) {
		return no("LIMIT", "Too many sessions of this account")
	}
	c.srv.logins.Add(1)
	c.login.Store(&id.Account)
	if !c.srv.opt.Auth.Allowed(id.Account) {
		c.end("This account's sessions were ended")
		return no("AUTHENTICATIONFAILED", "Authentication failed")
	}
	r := ok("Logged in")
	before := len(*c.out.bytes())
	c.capabilities()
	b := c.out.bytes()
	r.code = "CAPABILITY " + string((*b)[before:])
	*b = (*b)[:before]
	return r
}

// enable switches extensions on that change answers (RFC 5161).
func (c *session) enable(cmd *command) response {
	p := cmd.p
	var on []string
	for first := true; first || p.More(); first = false {
		p.SP()
		on = append(on, strings.ToUpper(p.Atom()))
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	var now []string // each once, also what is on already: clients look for it
	for _, name := range on {
		switch name {
		case "CONDSTORE":
			c.enableCondstore()
		case "QRESYNC":
			c.enableCondstore()
			c.qresync = true
		case "IMAP4REV2":
			name = "IMAP4rev2"
			c.rev2, c.utf8 = true, true
		case "UTF8=ACCEPT":
			c.utf8 = true
		default:
			continue
		}
		if !slices.Contains(now, name) {
			now = append(now, name)
		}
	}
	c.put("* ENABLED")
	for _, o := range now {
		c.put(" ", o)
	}
	c.put("\r\n")
	return ok("Enabled")
}

// compress switches both directions to raw deflate (RFC 4978).
func (c *session) compress(cmd *command) response {
	p := cmd.p
	p.SP()
	mech := p.Atom()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	switch {
	case !strings.EqualFold(mech, "DEFLATE") || c.srv.opt.NoCompress:
		return no("CANNOT", "Unknown compression")
	case c.out.deflate:
		return no("COMPRESSIONACTIVE", "Compression is active")
	}
	// Nothing may stand between the answer and the compressed stream.
	c.answer(cmd.tag, ok("Compression active"))
	if c.flush() != nil {
		return response{}
	}
	c.out.deflate = true
	in := &input{w: &c.wire}
	if n := c.wire.buffered(); n > 0 {
		// A client that did not wait has sent compressed octets already.
		in.take()
		in.n = copy(*in.raw, (*c.wire.buf)[c.wire.r:c.wire.w])
		c.wire.r = c.wire.w
	}
	c.wire.release()
	c.wire.in = in
	return response{sent: true}
}

func (c *session) namespace(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	c.put("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n")
	return ok("Namespace completed")
}

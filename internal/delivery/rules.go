package delivery

// rule is what one door's mail has to satisfy. This table is the policy of the
// intake; nothing else branches on Via.
type rule struct {
	name string
	// outgoing applies the stricter encryption rule for our own users' mail:
	// no bounces, no armour headers (relay-interop 2.1 against 2.2).
	outgoing bool
	// bound: reverse-path and From must be the login's address.
	bound bool
	// relay: recipients of other domains may be accepted.
	relay bool
	// exempt: the encryption rule is not asked (mail that we made ourselves).
	exempt bool
	// hide replaces the Subject by "[...]" as the official network does.
	hide bool
	// foreign: mail of other servers, whose word on where it comes from is examined.
	foreign bool
	// keep leaves the header block as it is.
	keep bool
}

var rules = [...]rule{
	Submission: {name: "submission", outgoing: true, bound: true, relay: true, hide: true},
	Inbound:    {name: "smtp", foreign: true},
	Federation: {name: "mxdeliv", foreign: true},
	Append:     {name: "append", outgoing: true, keep: true},
	Web:        {name: "web", outgoing: true, bound: true, relay: true, hide: true},
	Bounce:     {name: "bounce", exempt: true},
	Notice:     {name: "notice", exempt: true},
}

// String returns the door's name for logs and metrics.
func (v Via) String() string {
	if int(v) < len(rules) {
		return rules[v].name
	}
	return "via?"
}

package imap

import "strings"

// Limits of NOTIFY.
const (
	maxNotifyGroups = 32
	maxNotifyNames  = 256 // of a group
)

// Events are kinds of changes that a client can ask to be told of (RFC 5465
// section 5).
type Events uint8

// The events that there are here.
const (
	FlagChange Events = 1 << iota
	MessageNew
	MessageExpunge
	MailboxName
	SubscriptionChange
	MailboxMetadataChange
	ServerMetadataChange

	messageEvents = FlagChange | MessageNew | MessageExpunge
)

// EventNames are the names of all Events, as BADEVENT lists them.
const EventNames = "FlagChange MailboxMetadataChange MailboxName MessageExpunge MessageNew ServerMetadataChange SubscriptionChange"

var eventNames = map[string]Events{
	"FLAGCHANGE": FlagChange, "MESSAGENEW": MessageNew, "MESSAGEEXPUNGE": MessageExpunge,
	"MAILBOXNAME": MailboxName, "SUBSCRIPTIONCHANGE": SubscriptionChange,
	"MAILBOXMETADATACHANGE": MailboxMetadataChange, "SERVERMETADATACHANGE": ServerMetadataChange,
}

// Notify is what NOTIFY asks for (RFC 5465 section 3.1). Without Groups and
// Selected nothing is to be told.
type Notify struct {
	Status   bool          // tell the state of what is watched
	Groups   []NotifyGroup // a mailbox may be in several: it has the events of all
	Selected NotifySelected
	// Unknown says that an event is asked for that this package does not know.
	Unknown bool
}

// NotifyGroup is a group of mailboxes and its events, none where Events is 0.
type NotifyGroup struct {
	Kind   string   // INBOXES, PERSONAL, SUBSCRIBED, SUBTREE or MAILBOXES
	Names  []string // of SUBTREE and MAILBOXES
	Events Events
}

// NotifySelected is the group of the selected mailbox.
type NotifySelected struct {
	Given   bool
	Delayed bool // expunges wait for a command that may report them
	Events  Events
	Fetch   []FetchItem // of each new message
}

// Includes reports whether a mailbox is in the group.
func (g NotifyGroup) Includes(name string, subscribed bool) bool {
	switch g.Kind {
	case "INBOXES": // mail arrives nowhere else
		return name == "INBOX"
	case "SUBSCRIBED":
		return subscribed
	case "PERSONAL":
		return true
	}
	for _, n := range g.Names {
		if n == name || g.Kind == "SUBTREE" && strings.HasPrefix(name, n) && name[len(n)] == '/' {
			return true
		}
	}
	return false
}

// Events are those of a mailbox, by the groups that it is in (RFC 5465 section 6).
func (n *Notify) Events(name string, subscribed bool) (e Events) {
	for _, g := range n.Groups {
		if g.Includes(name, subscribed) {
			e |= g.Events
		}
	}
	return e
}

// Server reports whether annotations of the server are watched, in whatever group
// that is asked for.
func (n *Notify) Server() bool {
	for _, g := range n.Groups {
		if g.Events&ServerMetadataChange != 0 {
			return true
		}
	}
	return false
}

// Notify takes the arguments of NOTIFY.
func (p *Parser) Notify() (n Notify) {
	if p.TryWord("NONE") {
		return n
	}
	if !p.TryWord("SET") {
		p.fail("SET or NONE")
	}
	p.SP()
	if n.Status = p.TryWord("STATUS"); n.Status {
		p.SP()
	}
	for first := true; p.err == nil && (first || p.More()); first = false {
		if !first {
			p.SP()
		}
		if p.notifyGroup(&n); len(n.Groups) > maxNotifyGroups {
			p.fail("fewer groups")
		}
	}
	return n
}

func (p *Parser) notifyGroup(n *Notify) {
	p.Expect('(')
	g := NotifyGroup{Kind: strings.ToUpper(p.Atom())}
	selected := false
	switch g.Kind {
	case "SELECTED", "SELECTED-DELAYED":
		if n.Selected.Given {
			p.fail("one group for the selected mailbox")
		}
		selected, n.Selected.Given, n.Selected.Delayed = true, true, g.Kind != "SELECTED"
	case "INBOXES", "PERSONAL", "SUBSCRIBED":
	case "SUBTREE", "MAILBOXES":
		p.SP()
		g.Names = p.mailboxes()
	default:
		p.fail("a group of mailboxes")
	}
	p.SP()
	var fetch []FetchItem
	if !p.TryWord("NONE") {
		g.Events, fetch = p.events(n)
	}
	p.Expect(')')
	switch {
	case selected && g.Events&^messageEvents != 0:
		p.fail("events of messages alone for the selected mailbox")
	case !selected && fetch != nil:
		p.fail("items to fetch for the selected mailbox alone")
	// RFC 5465 section 3.1: without both, nobody could make sense of the numbers.
	case g.Events&messageEvents != 0 && g.Events&(MessageNew|MessageExpunge) != MessageNew|MessageExpunge:
		p.fail("MessageNew and MessageExpunge, both")
	}
	if selected {
		n.Selected.Events, n.Selected.Fetch = g.Events, fetch
		return
	}
	n.Groups = append(n.Groups, g)
}

// mailboxes takes one mailbox, or several in parentheses.
func (p *Parser) mailboxes() (names []string) {
	if !p.Peek('(') {
		return []string{p.Mailbox()}
	}
	p.List(func() {
		if names = append(names, p.Mailbox()); len(names) > maxNotifyNames {
			p.fail("fewer mailboxes")
		}
	})
	if len(names) == 0 {
		p.fail("a mailbox")
	}
	return names
}

func (p *Parser) events(n *Notify) (e Events, fetch []FetchItem) {
	some := false
	p.List(func() {
		some = true
		name := strings.ToUpper(p.Atom())
		e |= eventNames[name]
		n.Unknown = n.Unknown || eventNames[name] == 0
		if name == "MESSAGENEW" && strings.HasPrefix(p.Rest(), " (") {
			p.SP()
			fetch = p.FetchItems()
		}
	})
	if !some {
		p.fail("an event")
	}
	return e, fetch
}

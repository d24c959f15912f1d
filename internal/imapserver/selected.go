package imapserver

import (
	"slices"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

func (c *session) selectCommand(cmd *command) response { return c.enterBox(cmd, false) }
func (c *session) examine(cmd *command) response       { return c.enterBox(cmd, true) }

// enterBox selects a mailbox (RFC 3501 section 6.3.1).
func (c *session) enterBox(cmd *command, readOnly bool) response {
	p := cmd.p
	p.SP()
	name := p.Mailbox()
	var q *resync
	condstore := false
	if p.More() {
		p.SP()
		p.List(func() {
			switch strings.ToUpper(p.Atom()) {
			case "CONDSTORE":
				condstore = true
			case "QRESYNC":
				q = parseResync(p)
			default:
				p.Refuse("CONDSTORE or QRESYNC")
			}
		})
	}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if q != nil && !c.qresync {
		return response{status: "BAD", text: "ENABLE QRESYNC first"}
	}
	if c.open && (c.qresync || c.rev2) {
		c.put("* OK [CLOSED] Previous mailbox is closed\r\n")
	}
	c.leave()
	c.condstore = c.condstore || condstore // HIGHESTMODSEQ comes in any case
	ctx, cancel := c.ctx()
	defer cancel()
	box := mailbox.Box{Account: c.account(), Name: name}
	// Subscribed first: what changes from here on is not missed.
	c.sub = c.srv.opt.Bus.Subscribe(box, c)
	v, err := c.srv.opt.Store.View(ctx, box)
	if err != nil {
		c.leave()
		return c.refusal(err)
	}
	c.box, c.open, c.readOnly, c.known = box, true, readOnly, v
	c.greetBox(v)
	c.resynchronise(q)
	if readOnly {
		return okCode("READ-ONLY", "Examine completed")
	}
	return okCode("READ-WRITE", "Select completed")
}

const systemFlags = `\Answered \Flagged \Deleted \Seen \Draft`

func (c *session) greetBox(v *mailbox.View) {
	flags := systemFlags + keywordsOf(v)
	c.put("* FLAGS (", flags, ")\r\n")
	if c.readOnly {
		c.put("* OK [PERMANENTFLAGS ()] Read-only\r\n")
	} else {
		c.put("* OK [PERMANENTFLAGS (", flags, ` \*)] Flags permitted`, "\r\n")
	}
	c.untagged(uint64(v.Len()), "EXISTS")
	if c.rev2 {
		c.put("* LIST () \"/\" ")
		c.boxName(c.box.Name)
		c.put("\r\n")
		c.okSelected(v)
		return
	}
	c.put("* 0 RECENT\r\n")
	for i := range v.Len() {
		if v.At(i).Flags&mailbox.Seen == 0 {
			c.okNumber("UNSEEN", uint64(i+1), "First unseen")
			break
		}
	}
	c.okSelected(v)
}

// keywordsOf lists the keywords that messages of v have, each after a space: as many
// as one command may set.
func keywordsOf(v *mailbox.View) string {
	var found []string
	for i := range v.Len() {
		for _, k := range v.At(i).Keywords {
			if len(found) < maxKeywords && !slices.Contains(found, k) {
				found = append(found, k)
			}
		}
	}
	slices.Sort(found)
	var b strings.Builder
	for _, k := range found {
		b.WriteString(" " + k)
	}
	return b.String()
}

// boxName writes the name of a mailbox as the client reads them.
func (c *session) boxName(name string) {
	if !c.utf8 {
		name = imap.EncodeName(name)
	}
	out := c.out.bytes()
	*out = imap.Quote(*out, name)
}

func (c *session) okSelected(v *mailbox.View) {
	c.okNumber("UIDVALIDITY", uint64(v.UIDValidity), "UIDs valid")
	c.okNumber("UIDNEXT", uint64(v.UIDNext), "Predicted next UID")
	c.okNumber("HIGHESTMODSEQ", uint64(v.HighestMod), "Highest")
	c.put("* OK [MAILBOXID (", mailboxID(c.box, v), ")] Name for ever\r\n") // RFC 8474 section 4.2
}

func (c *session) untagged(n uint64, what string) {
	c.put("* ")
	c.num(n)
	c.put(" ", what, "\r\n")
}

func (c *session) okNumber(code string, n uint64, text string) {
	c.put("* OK [", code, " ")
	c.num(n)
	c.put("] ", text, "\r\n")
}

// leave forgets the selected mailbox.
func (c *session) leave() {
	if c.sub != nil {
		c.sub.Close()
	}
	if c.interest != nil && c.open && c.interest.leaves(c.box.Name, c.known) {
		(*stirring)(c).Wake()
	}
	c.sub, c.known, c.open, c.box, c.saved = nil, nil, false, mailbox.Box{}, nil
}

// closeCommand expunges without telling, and leaves (RFC 3501 section 6.4.2).
func (c *session) closeCommand(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	box, readOnly := c.box, c.readOnly
	ctx, cancel := c.ctx()
	defer cancel()
	if !readOnly {
		if _, err := c.srv.opt.Store.Expunge(ctx, box, mailbox.All(), true); err != nil && !fault.Is(err, fault.NotFound) {
			return c.refusal(err)
		}
	}
	c.leave()
	return ok("Close completed")
}

func (c *session) unselect(cmd *command) response {
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	c.leave()
	return ok("Unselect completed")
}

// update tells the client what changed since it was last told. Without expunge
// it keeps quiet about messages that went: their sequence numbers stay.
func (c *session) update(expunge bool) error { return c.updateAfter(expunge, effects{}) }

// effects are what a command of this client did, for the update after it.
type effects struct {
	named  mailbox.UIDSet     // messages whose responses have a UID, since the command had
	asked  mailbox.UIDSet     // messages to tell of, also where nothing changed
	silent mailbox.UIDSet     // messages that change was applied to without an answer,
	failed mailbox.UIDSet     // but for these
	change mailbox.FlagChange // of silent
}

// expected reports whether m is what a client that knew old makes of it by its
// own silent change alone. What others did meanwhile it must be told (RFC 3501
// section 6.4.6).
func (e effects) expected(old *mailbox.View, m mailbox.Message) bool {
	i, ok := old.Index(m.UID)
	if !ok || !e.silent.Contains(m.UID) || e.failed.Contains(m.UID) {
		return false
	}
	mine, _ := e.change.Apply(old.At(i))
	return mine.Flags == m.Flags && slices.Equal(mine.Keywords, m.Keywords)
}

func (c *session) updateAfter(expunge bool, e effects) error {
	c.mu.Lock()
	c.woken = false // before the look, so that no change falls between
	c.mu.Unlock()
	ctx, cancel := c.ctx()
	defer cancel()
	v, err := c.srv.opt.Store.View(ctx, c.box)
	if fault.Is(err, fault.NotFound) {
		c.put("* BYE Mailbox was removed\r\n")
		return errClose
	}
	if err != nil {
		return nil // the next command sees it
	}
	if v.UIDValidity != c.known.UIDValidity {
		c.put("* BYE [UNAVAILABLE] Mailbox was rebuilt\r\n")
		return errClose
	}
	old := c.known
	d := Advance(old, v, expunge)
	c.known = d.Known
	if c.qresync && len(d.Vanished) > 0 {
		c.vanished("", d.Vanished)
	} else {
		for _, seq := range d.Expunged {
			c.untagged(uint64(seq), "EXPUNGE")
		}
	}
	if d.Exists {
		c.untagged(uint64(c.known.Len()), "EXISTS")
		if err := c.fetchNew(old.UIDNext); err != nil {
			return err
		}
	}
	var told mailbox.UIDSet
	for _, m := range d.Flags {
		expected := e.expected(old, m)
		if expected && !c.condstore {
			continue
		}
		i, _ := c.known.Index(m.UID)
		c.flagsFetch(i, m, e.named.Contains(m.UID), !expected)
		if len(e.asked) > 0 {
			told = told.Add(m.UID)
		}
	}
	c.known.Each(e.asked, func(i int, m mailbox.Message) {
		if !told.Contains(m.UID) && !e.failed.Contains(m.UID) {
			c.flagsFetch(i, m, e.named.Contains(m.UID), len(e.silent) == 0)
		}
	})
	return nil
}

// enableCondstore notes that the client understands mod-sequences. The first command
// that says so is answered with the highest one (RFC 7162 section 3.1).
func (c *session) enableCondstore() {
	if !c.condstore && c.open {
		c.okNumber("HIGHESTMODSEQ", uint64(c.known.HighestMod), "Highest")
	}
	c.condstore = true
}

// flagsFetch tells the flags of a message that nobody fetched. It names the UID
// only to clients that have asked for that, or caused it by a UID command: Delta
// Chat takes any response with the UID that it is fetching for the answer, and
// when another device's change came in between it dropped the message unread.
func (c *session) flagsFetch(i int, m mailbox.Message, named, flags bool) {
	c.put("* ")
	c.num(uint64(i + 1))
	c.put(" FETCH (")
	if named || c.qresync || c.rev2 || c.interest != nil && c.interest.selected.Events&imap.FlagChange != 0 {
		c.put("UID ")
		c.num(uint64(m.UID))
		if flags || c.condstore {
			c.put(" ")
		}
	}
	if flags {
		c.flags(m)
	}
	if c.condstore {
		if flags {
			c.put(" ")
		}
		c.put("MODSEQ (")
		c.num(uint64(m.ModSeq))
		c.put(")")
	}
	c.put(")\r\n")
}

func (c *session) flags(m mailbox.Message) {
	b := c.out.bytes()
	*b = append(*b, "FLAGS ("...)
	*b = appendFlags(*b, m)
	*b = append(*b, ')')
}

var flagNames = []struct {
	f    mailbox.Flags
	name string
}{
	{mailbox.Answered, `\Answered`}, {mailbox.Flagged, `\Flagged`}, {mailbox.Deleted, `\Deleted`},
	{mailbox.Seen, `\Seen`}, {mailbox.Draft, `\Draft`},
}

func appendFlags(b []byte, m mailbox.Message) []byte {
	first := true
	add := func(s string) {
		if !first {
			b = append(b, ' ')
		}
		first = false
		b = append(b, s...)
	}
	for _, n := range flagNames {
		if m.Flags&n.f != 0 {
			add(n.name)
		}
	}
	for _, k := range m.Keywords {
		add(k)
	}
	return b
}

// maxKeywords bounds the keywords of a command, and their length.
const maxKeywords = 64

const badFlags = "Unknown flag, or more than 64 keywords, or one of more than 128 octets"

// parseFlags splits flags into system flags and keywords. \Recent cannot be
// set and is ignored.
func parseFlags(names []string) (f mailbox.Flags, keywords []string, valid bool) {
next:
	for _, n := range names {
		if !strings.HasPrefix(n, `\`) {
			if len(keywords) >= maxKeywords || len(n) > 128 {
				return 0, nil, false
			}
			keywords = append(keywords, n)
			continue
		}
		for _, k := range flagNames {
			if strings.EqualFold(n, k.name) {
				f |= k.f
				continue next
			}
		}
		if !strings.EqualFold(n, `\Recent`) {
			return 0, nil, false
		}
	}
	return f, keywords, true
}

// resolve turns a set into UIDs of messages that the client knows.
func (c *session) resolve(set imap.NumSet, uid bool) mailbox.UIDSet {
	if uid {
		return c.uids(set)
	}
	n := c.known.Len()
	var out mailbox.UIDSet
	if set.Saved() {
		return c.saved
	}
	for _, r := range uidSet(set, mailbox.UID(n)) {
		for i := max(int64(r.First), 1); i <= min(int64(r.Last), int64(n)); i++ {
			uid := c.known.At(int(i - 1)).UID
			out = append(out, mailbox.UIDRange{First: uid, Last: uid})
			if k := len(out); k > 1 && out[k-2].Last+1 == uid {
				out[k-2].Last = uid
				out = out[:k-1]
			}
		}
	}
	return out.Normal()
}

// uids turns a set of UIDs into a store's.
func (c *session) uids(set imap.NumSet) mailbox.UIDSet {
	if set.Saved() {
		return c.saved
	}
	var last mailbox.UID
	if n := c.known.Len(); n > 0 {
		last = c.known.At(n - 1).UID
	}
	return uidSet(set, last)
}

// uidSet turns a set of UIDs into a store's; last is what "*" stands for.
func uidSet(set imap.NumSet, last mailbox.UID) (out mailbox.UIDSet) {
	for _, r := range set.Resolve(uint32(last)) {
		out = append(out, mailbox.UIDRange{First: mailbox.UID(r.First), Last: mailbox.UID(r.Last)})
	}
	return out.Normal()
}

func (c *session) expunge(cmd *command) response {
	set := mailbox.All()
	if cmd.uid {
		cmd.p.SP()
		nums := cmd.p.Set()
		if err := cmd.end(); err != nil {
			return bad(err)
		}
		set = c.resolve(nums, true)
	} else if err := cmd.end(); err != nil {
		return bad(err)
	}
	if c.readOnly {
		return no("READ-ONLY", "Mailbox is read-only")
	}
	ctx, cancel := c.ctx()
	defer cancel()
	if _, err := c.srv.opt.Store.Expunge(ctx, c.box, set, true); err != nil {
		return c.refusal(err)
	}
	if c.qresync {
		if err := c.update(true); err != nil {
			return response{}
		}
		return okCode("HIGHESTMODSEQ "+strconv.FormatUint(uint64(c.known.HighestMod), 10), "Expunge completed")
	}
	return ok("Expunge completed")
}

func (c *session) copy(cmd *command) response { return c.transfer(cmd, false) }
func (c *session) move(cmd *command) response { return c.transfer(cmd, true) }

// transfer is COPY and MOVE (RFC 3501 section 6.4.7, RFC 6851).
func (c *session) transfer(cmd *command, move bool) response {
	p := cmd.p
	p.SP()
	nums := p.Set()
	p.SP()
	to := mailbox.Box{Account: c.account(), Name: p.Mailbox()}
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if move && c.readOnly {
		return no("READ-ONLY", "Mailbox is read-only")
	}
	set := c.resolve(nums, cmd.uid)
	if len(set) == 0 {
		return ok("No messages")
	}
	ctx, cancel := c.ctx()
	defer cancel()
	if !move {
		var size int64
		c.known.Each(set, func(_ int, m mailbox.Message) { size += m.Size })
		if used, _, limit := c.srv.opt.Quota.Usage(c.account()); size > limit-used {
			return no("OVERQUOTA", "Mailbox is full")
		}
	}
	do := c.srv.opt.Store.Copy
	if move {
		do = c.srv.opt.Store.Move
	}
	res, err := do(ctx, c.box, to, set)
	if fault.Is(err, fault.NotFound) {
		return no("TRYCREATE", "Mailbox does not exist")
	}
	if err != nil {
		return c.refusal(err)
	}
	if len(res.From) == 0 {
		return ok("No messages")
	}
	if to == c.box {
		for _, u := range res.To {
			c.placed = c.placed.Add(u)
		}
	}
	code := "COPYUID " + strconv.FormatUint(uint64(res.UIDValidity), 10) + " " + formatUIDs(res.From) + " " + formatUIDs(res.To)
	if move {
		c.put("* OK [", code, "] Moved\r\n")
		return ok("Move completed")
	}
	return okCode(code, "Copy completed")
}

func formatUIDs(uids []mailbox.UID) string {
	nums := make([]uint32, len(uids))
	for i, u := range uids {
		nums[i] = uint32(u)
	}
	return string(imap.FormatUIDs(nil, nums))
}

package imapserver

import (
	"errors"
	"slices"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
)

// search answers SEARCH and UID SEARCH (RFC 3501 section 6.4.4, RFC 4731).
func (c *session) search(cmd *command) response {
	cmd.p.SP()
	s := cmd.p.Search()
	r, done := c.begin(cmd, &s)
	if done {
		return r
	}
	var hits []hit
	err := c.find(&s.Key, func(h hit, _ *searcher) error {
		hits = append(hits, h)
		return nil
	})
	if err != nil {
		return c.searchFailed(&s, err)
	}
	if !s.Return.Extended && !c.rev2 {
		c.oldResult("SEARCH", cmd.uid, &s, hits)
		return ok("Search completed")
	}
	c.extendedResult(cmd, &s, hits)
	return ok("Search completed")
}

// hit is a message that was found.
type hit struct {
	i int // in c.known
	mailbox.Message
}

func (h hit) num(uid bool) uint32 {
	if uid {
		return uint32(h.UID)
	}
	return uint32(h.i + 1)
}

// begin checks what SEARCH, SORT and THREAD have in common. With done the
// response is the answer.
func (c *session) begin(cmd *command, s *imap.Search) (r response, done bool) {
	if err := cmd.end(); err != nil {
		return bad(err), true
	}
	switch {
	case s.Charset == "":
	case c.utf8 && !c.rev2:
		// RFC 6855 section 3: all strings are UTF-8 now.
		return response{status: "BAD", text: "CHARSET does not go with UTF8=ACCEPT"}, true
	case !strings.EqualFold(s.Charset, "UTF-8") && !strings.EqualFold(s.Charset, "US-ASCII"):
		c.forget(s)
		return no("BADCHARSET (US-ASCII UTF-8)", "Unknown charset"), true
	}
	if c.rev2 && (s.Key.Uses("NEW") || s.Key.Uses("OLD") || s.Key.Uses("RECENT")) {
		return response{status: "BAD", text: "There is no RECENT in IMAP4rev2"}, true
	}
	if cmd.uid {
		if err := c.update(true); err != nil {
			return response{}, true
		}
	}
	if s.Key.Uses("MODSEQ") {
		c.enableCondstore()
	}
	return response{}, false
}

// forget empties the saved result after a search that was to be saved and
// failed (RFC 5182 section 2.1).
func (c *session) forget(s *imap.Search) {
	if s.Return.Save {
		c.saved = nil
	}
}

var errStopping = errors.New("imapserver: session is ending")

// find calls f for every message that matches, in their order.
func (c *session) find(key *imap.SearchKey, f func(hit, *searcher) error) error {
	s := &searcher{session: c, now: time.Now()}
	test, _ := s.compile(key)
	if len(s.texts) > maxTexts {
		return fault.New(fault.Refused, "Too many texts to look for at once")
	}
	for i := range c.known.Len() {
		if i%64 == 63 && c.isEnded() {
			return errStopping
		}
		h := hit{i, c.known.At(i)}
		s.hit = h
		if test() && s.err == nil && !s.gone {
			s.err = f(h, s)
		}
		s.next()
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

func (c *session) isEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended != ""
}

// searchFailed answers a search that could not be done.
func (c *session) searchFailed(s *imap.Search, err error) response {
	c.forget(s)
	if fault.Is(err, fault.Refused) {
		return no("LIMIT", fault.UserText(err))
	}
	if !errors.Is(err, errStopping) {
		c.srv.opt.Logger.Warn("search failed", "err", err)
	}
	return no("UNAVAILABLE", "The search could not be completed")
}

// oldResult writes all numbers: SEARCH or SORT of RFC 3501 and RFC 5256.
func (c *session) oldResult(name string, uid bool, s *imap.Search, hits []hit) {
	c.put("* ", name)
	var high mailbox.ModSeq
	for _, h := range hits {
		c.put(" ")
		c.num(uint64(h.num(uid)))
		high = max(high, h.ModSeq)
	}
	if high > 0 && s.Key.Uses("MODSEQ") { // RFC 7162 section 3.1.5
		c.put(" (MODSEQ ")
		c.num(uint64(high))
		c.put(")")
	}
	c.put("\r\n")
}

// extendedResult saves and writes what was asked for (RFC 4731 section 3.1, RFC
// 5182 section 2.1). The order of hits is the one that MIN and MAX mean: that of
// the mailbox, or of SORT (RFC 5267 section 3.1).
func (c *session) extendedResult(cmd *command, s *imap.Search, hits []hit) {
	ret := s.Return
	if !ret.Extended {
		ret.All = true // RFC 9051 section 6.4.4
	}
	var ends []hit
	if n := len(hits); n > 0 {
		if ret.Min {
			ends = append(ends, hits[0])
		}
		if ret.Max {
			ends = append(ends, hits[n-1])
		}
	}
	whole := ret.All || ret.Count || !ret.Min && !ret.Max
	chosen := ends
	if whole {
		chosen = hits
	}
	if ret.Save {
		uids := make([]mailbox.UID, len(chosen))
		for i, h := range chosen {
			uids[i] = h.UID
		}
		slices.Sort(uids)
		c.saved = nil
		for _, u := range uids {
			c.saved = c.saved.Add(u)
		}
		if !ret.Min && !ret.Max && !ret.All && !ret.Count {
			return // RFC 5182 section 2.1: SAVE alone returns nothing
		}
	}
	c.put("* ESEARCH (TAG ")
	out := c.out.bytes()
	*out = imap.Quote(*out, cmd.tag)
	c.put(")")
	if cmd.uid {
		c.put(" UID")
	}
	item := func(name string, n uint64) {
		c.put(" ", name, " ")
		c.num(n)
	}
	if n := len(hits); n > 0 {
		if ret.Min {
			item("MIN", uint64(hits[0].num(cmd.uid)))
		}
		if ret.Max {
			item("MAX", uint64(hits[n-1].num(cmd.uid)))
		}
		if ret.All {
			nums := make([]uint32, n)
			for i, h := range hits {
				nums[i] = h.num(cmd.uid)
			}
			c.put(" ALL ")
			out := c.out.bytes()
			*out = imap.FormatUIDs(*out, nums)
		}
	}
	if ret.Count {
		item("COUNT", uint64(len(hits)))
	}
	if s.Key.Uses("MODSEQ") && len(chosen) > 0 { // RFC 7162 section 3.1.10
		var high mailbox.ModSeq
		for _, h := range chosen {
			high = max(high, h.ModSeq)
		}
		item("MODSEQ", uint64(high))
	}
	c.put("\r\n")
}

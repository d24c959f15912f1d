package imapserver

import (
	"bytes"
	"io"
	"math"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// search answers SEARCH and UID SEARCH (RFC 3501 section 6.4.4).
func (c *session) search(cmd *command) response {
	p := cmd.p
	p.SP()
	if p.TryWord("CHARSET") {
		p.SP()
		if cs := p.AString(); p.Err() == nil && !strings.EqualFold(cs, "UTF-8") && !strings.EqualFold(cs, "US-ASCII") {
			return no("BADCHARSET (US-ASCII UTF-8)", "Unknown charset")
		}
		p.SP()
	}
	key := p.Search()
	if err := cmd.end(); err != nil {
		return bad(err)
	}
	if cmd.uid {
		if err := c.update(true); err != nil {
			return response{}
		}
	}
	s := searcher{session: c, now: time.Now()}
	withMod := usesModSeq(key)
	c.condstore = c.condstore || withMod
	var high mailbox.ModSeq
	c.put("* SEARCH")
	for i := range c.known.Len() {
		m := c.known.At(i)
		s.begin(i, m)
		found := s.matches(&key)
		s.end()
		if s.err != nil {
			c.srv.opt.Logger.Warn("search failed", "err", s.err)
			c.put("\r\n* BYE [UNAVAILABLE] Internal trouble, connect again\r\n")
			return response{}
		}
		if !found {
			continue
		}
		c.put(" ")
		if cmd.uid {
			c.num(uint64(m.UID))
		} else {
			c.num(uint64(i + 1))
		}
		high = max(high, m.ModSeq)
	}
	if withMod && high > 0 {
		c.put(" (MODSEQ ")
		c.num(uint64(high))
		c.put(")")
	}
	c.put("\r\n")
	return ok("Search completed")
}

func usesModSeq(k imap.SearchKey) bool {
	if k.Op == "MODSEQ" {
		return true
	}
	for _, s := range k.Keys {
		if usesModSeq(s) {
			return true
		}
	}
	return false
}

// searcher tries the keys of a search on one message after the other.
type searcher struct {
	*session
	now     time.Time
	seq     uint32
	m       mailbox.Message
	content mailbox.Content
	gone    bool
	head    []byte
	fields  message.Header
	err     error
}

func (s *searcher) begin(i int, m mailbox.Message) {
	s.seq, s.m = uint32(i+1), m
}

func (s *searcher) end() {
	if s.content != nil {
		s.content.Close()
	}
	s.content, s.head, s.fields, s.gone = nil, nil, nil, false
}

func (s *searcher) open() bool {
	if s.content != nil || s.gone {
		return !s.gone
	}
	ctx, cancel := s.ctx()
	defer cancel()
	var err error
	if s.content, err = s.srv.opt.Store.Open(ctx, s.box, s.m.UID); err != nil {
		s.content, s.gone = nil, true
	}
	return !s.gone
}

func (s *searcher) header() message.Header {
	if s.fields == nil && !s.gone {
		ctx, cancel := s.ctx()
		defer cancel()
		head, err := s.srv.opt.Store.Head(ctx, s.box, s.m.UID)
		if err != nil {
			if s.gone = fault.Is(err, fault.NotFound); !s.gone {
				s.err = err
			}
			return nil
		}
		s.head = head
		s.fields, _ = message.ParseHeader(head)
	}
	return s.fields
}

func contains(set []imap.NumRange, n uint32) bool {
	for _, r := range set {
		if n >= r.First && n <= r.Last {
			return true
		}
	}
	return false
}

func (s *searcher) matches(k *imap.SearchKey) bool {
	if s.err != nil {
		return false
	}
	has := func(f mailbox.Flags) bool { return s.m.Flags&f != 0 }
	switch k.Op {
	case "ALL", "OLD":
		return true
	case "NEW", "RECENT":
		return false // \Recent is not kept
	case "AND":
		for i := range k.Keys {
			if !s.matches(&k.Keys[i]) {
				return false
			}
		}
		return true
	case "OR":
		return s.matches(&k.Keys[0]) || s.matches(&k.Keys[1])
	case "NOT":
		return !s.matches(&k.Keys[0])
	case "SEQ":
		return contains(k.Set.Resolve(uint32(s.known.Len())), s.seq)
	case "UID":
		return contains(k.Set.Resolve(uint32(s.known.At(s.known.Len()-1).UID)), uint32(s.m.UID))
	case "ANSWERED":
		return has(mailbox.Answered)
	case "UNANSWERED":
		return !has(mailbox.Answered)
	case "DELETED":
		return has(mailbox.Deleted)
	case "UNDELETED":
		return !has(mailbox.Deleted)
	case "DRAFT":
		return has(mailbox.Draft)
	case "UNDRAFT":
		return !has(mailbox.Draft)
	case "FLAGGED":
		return has(mailbox.Flagged)
	case "UNFLAGGED":
		return !has(mailbox.Flagged)
	case "SEEN":
		return has(mailbox.Seen)
	case "UNSEEN":
		return !has(mailbox.Seen)
	case "KEYWORD", "UNKEYWORD":
		found := false
		for _, w := range s.m.Keywords {
			found = found || strings.EqualFold(w, k.Text)
		}
		return found == (k.Op == "KEYWORD")
	case "LARGER":
		return s.m.Size > k.Num
	case "SMALLER":
		return s.m.Size < k.Num
	case "OLDER": // RFC 5032
		return s.m.Internal <= s.now.Unix()-k.Num
	case "YOUNGER":
		return s.m.Internal >= s.now.Unix()-k.Num
	case "MODSEQ":
		return int64(s.m.ModSeq) >= k.Num
	case "BEFORE", "ON", "SINCE":
		return sameDay(k.Op, time.Unix(s.m.Internal, 0).UTC(), k.Date)
	case "SENTBEFORE", "SENTON", "SENTSINCE":
		v, _ := s.header().Get("Date")
		t, err := message.ParseDate(v)
		return err == nil && sameDay(strings.TrimPrefix(k.Op, "SENT"), t, k.Date)
	case "BCC", "CC", "FROM", "SUBJECT", "TO":
		return s.field(k.Op, k.Text)
	case "HEADER":
		return s.field(k.Text, k.Value)
	case "BODY":
		s.header()
		return s.text(int64(len(s.head)), k.Text)
	case "TEXT":
		return s.text(0, k.Text)
	}
	return false
}

// sameDay compares days, disregarding time and zone (RFC 3501 section 6.4.4).
func sameDay(op string, t, day time.Time) bool {
	y, m, d := t.Date()
	t = time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	switch op {
	case "BEFORE":
		return t.Before(day)
	case "ON":
		return t.Equal(day)
	}
	return !t.Before(day)
}

func (s *searcher) field(name, text string) bool {
	for _, f := range s.header() {
		if f.Is(name) && containsFold([]byte(f.Value()), text) {
			return true
		}
	}
	return false
}

func containsFold(b []byte, text string) bool {
	return bytes.Contains(bytes.ToLower(b), bytes.ToLower([]byte(text)))
}

// text looks for a string in the message from off on, piece by piece.
func (s *searcher) text(off int64, want string) bool {
	if !s.open() || len(want) > 4096 {
		return false
	}
	buf := make([]byte, 0, 64<<10)
	r := io.NewSectionReader(s.content, off, math.MaxInt64-off)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if containsFold(buf, want) {
			return true
		}
		if err != nil {
			if err != io.EOF {
				s.err = err
			}
			return false
		}
		if len(buf) > cap(buf)/2 {
			keep := min(len(want), len(buf))
			buf = buf[:copy(buf, buf[len(buf)-keep:])]
		}
	}
}

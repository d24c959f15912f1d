package imapserver

import (
	"io"
	"slices"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/mailbox"
	"madmail/internal/message"
)

// maxTexts bounds the strings that one search looks for in whole messages.
const maxTexts = 32

// searcher tries the keys of a search on one message after the other. It reads
// of a message what the keys need and no more: nothing, its header, or all of it,
// once and in pieces.
type searcher struct {
	*session
	now   time.Time
	texts []text
	buf   []byte // for texts
	err   error  // ends the search

	// of the present message
	hit
	gone    bool // expunged by somebody else meanwhile
	content mailbox.Content
	fields  message.Header
	read    bool // fields were read
	looked  bool // texts were looked for
}

// text is a string that is looked for in whole messages.
type text struct {
	*imap.Finder
	head bool // in the header, too
}

// next forgets the present message.
func (s *searcher) next() {
	if s.content != nil {
		s.content.Close()
	}
	s.content, s.fields, s.gone, s.read, s.looked = nil, nil, false, false, false
}

// failed notes why something of the message could not be read.
func (s *searcher) failed(err error) bool {
	switch {
	case err == nil:
		return false
	case fault.Is(err, fault.NotFound):
		s.gone = true
	default:
		s.err = err
	}
	return true
}

// header returns the fields of the message.
func (s *searcher) header() message.Header {
	if !s.read {
		s.read = true
		ctx, cancel := s.ctx()
		defer cancel()
		if head, err := s.srv.opt.Store.Head(ctx, s.box, s.UID); !s.failed(err) {
			s.fields = message.ScanHeader(head)
		}
	}
	return s.fields
}

// open opens the message, or returns nil.
func (s *searcher) open() mailbox.Content {
	if s.content == nil && !s.gone {
		ctx, cancel := s.ctx()
		defer cancel()
		if c, err := s.srv.opt.Store.Open(ctx, s.box, s.UID); !s.failed(err) {
			s.content = c
		}
	}
	return s.content
}

// sent is when the message says it was sent, or else when it came (RFC 5256
// section 2.2).
func (s *searcher) sent() time.Time {
	v, _ := s.header().Get("Date")
	if t, err := message.ParseDate(v); err == nil {
		return t
	}
	return time.Unix(s.Internal, 0).UTC()
}

// test tells whether a key matches the present message.
type test func() bool

// What a test has to read.
const (
	ofIndex = iota
	ofHeader
	ofAll
)

// compile turns a key into a test, and tells what it has to read.
func (s *searcher) compile(k *imap.SearchKey) (test, int) {
	switch k.Op {
	case "AND", "OR":
		return s.junction(k)
	case "NOT":
		t, cost := s.compile(&k.Keys[0])
		return func() bool { return !t() }, cost
	case "SENTBEFORE", "SENTON", "SENTSINCE":
		op := strings.TrimPrefix(k.Op, "SENT")
		return func() bool {
			v, _ := s.header().Get("Date")
			t, err := message.ParseDate(v)
			return err == nil && onDay(op, t, k.Date)
		}, ofHeader
	case "BCC", "CC", "FROM", "SUBJECT", "TO":
		return s.inField(k.Op, k.Text), ofHeader
	case "HEADER":
		return s.inField(k.Text, k.Value), ofHeader
	case "BODY", "TEXT":
		f := imap.NewFinder(k.Text)
		s.texts = append(s.texts, text{f, k.Op == "TEXT"})
		return func() bool { s.look(); return f.Found() }, ofAll
	case "EMAILID":
		return func() bool { return s.emailID(s.open()) == k.Text }, ofAll
	case "THREADID":
		return func() bool { id, ok := threadID(s.header()); return ok && id == k.Text }, ofHeader
	}
	return s.ofIndex(k), ofIndex
}

// junction joins tests, the cheap ones first.
func (s *searcher) junction(k *imap.SearchKey) (test, int) {
	type part struct {
		test
		cost int
	}
	var parts []part
	for i := range k.Keys {
		t, cost := s.compile(&k.Keys[i])
		parts = append(parts, part{t, cost})
	}
	slices.SortStableFunc(parts, func(a, b part) int { return a.cost - b.cost })
	ends := k.Op == "OR" // the outcome of a part that is that of the whole
	return func() bool {
		for _, p := range parts {
			if p.test() == ends {
				return ends
			}
		}
		return !ends
	}, parts[len(parts)-1].cost
}

var flagKeys = map[string]mailbox.Flags{
	"ANSWERED": mailbox.Answered, "DELETED": mailbox.Deleted, "DRAFT": mailbox.Draft, "FLAGGED": mailbox.Flagged, "SEEN": mailbox.Seen,
}

// ofIndex is the test of a key that the index answers.
func (s *searcher) ofIndex(k *imap.SearchKey) test {
	if f, ok := flagKeys[k.Op]; ok {
		return func() bool { return s.Flags&f != 0 }
	}
	if f, ok := flagKeys[strings.TrimPrefix(k.Op, "UN")]; ok {
		return func() bool { return s.Flags&f == 0 }
	}
	switch k.Op {
	case "ALL", "OLD", "SAVEDATESUPPORTED":
		return func() bool { return true }
	case "SEQ":
		set := s.saved
		if k.Set.Saved() {
			return func() bool { return set.Contains(s.UID) }
		}
		nums := uidSet(k.Set, mailbox.UID(s.known.Len()))
		return func() bool { return nums.Contains(mailbox.UID(s.i + 1)) }
	case "UID":
		set := s.uids(k.Set)
		return func() bool { return set.Contains(s.UID) }
	case "KEYWORD", "UNKEYWORD":
		return func() bool {
			found := slices.ContainsFunc(s.Keywords, func(w string) bool { return strings.EqualFold(w, k.Text) })
			return found == (k.Op == "KEYWORD")
		}
	case "LARGER":
		return func() bool { return s.Size > k.Num }
	case "SMALLER":
		return func() bool { return s.Size < k.Num }
	case "OLDER": // RFC 5032
		return func() bool { return s.Internal <= s.now.Unix()-k.Num }
	case "YOUNGER":
		return func() bool { return s.Internal >= s.now.Unix()-k.Num }
	case "MODSEQ":
		return func() bool { return s.ModSeq >= mailbox.ModSeq(k.Num) }
	case "BEFORE", "ON", "SINCE":
		return func() bool { return onDay(k.Op, time.Unix(s.Internal, 0).UTC(), k.Date) }
	case "SAVEDBEFORE", "SAVEDON", "SAVEDSINCE": // RFC 8514
		op := strings.TrimPrefix(k.Op, "SAVED")
		return func() bool { return onDay(op, time.Unix(s.SavedAt(), 0).UTC(), k.Date) }
	}
	return func() bool { return false } // NEW and RECENT: \Recent is not kept
}

// onDay compares days, disregarding time and zone (RFC 3501 section 6.4.4).
func onDay(op string, t, day time.Time) bool {
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

// inField looks for a string in the fields of a name.
func (s *searcher) inField(name, want string) test {
	f := imap.NewFinder(want)
	return func() bool {
		for _, field := range s.header() {
			if !field.Is(name) {
				continue
			}
			f.Reset()
			feed(f, message.DecodeWords(field.Value()))
			if f.Found() {
				return true
			}
		}
		return false
	}
}

func feed(f *imap.Finder, s string) {
	_, _ = io.WriteString(f, s)
	f.Break()
}

// look looks for all texts of the search in the message, in one pass.
func (s *searcher) look() {
	if s.looked {
		return
	}
	s.looked = true
	for _, t := range s.texts {
		t.Reset()
	}
	s.lookAtFields(s.header(), func(t text) bool { return t.head })
	if s.allFound() || s.gone || s.err != nil {
		return
	}
	m := s.open()
	if m == nil {
		return
	}
	tree, err := message.ParseStructure(m, m.Size())
	if s.failed(err) {
		return
	}
	tree.Leaves(func(p *message.Part) bool {
		if p.Message != nil {
			head := make([]byte, min(p.Message.HeaderSize, message.MaxHeader))
			if n, err := m.ReadAt(head, p.Message.HeaderOffset); n < len(head) && s.failed(err) {
				return false
			}
			s.lookAtFields(message.ScanHeader(head), func(text) bool { return true })
		} else {
			s.lookAtBody(m, p)
		}
		return s.err == nil && !s.allFound()
	})
}

func (s *searcher) allFound() bool {
	return !slices.ContainsFunc(s.texts, func(t text) bool { return !t.Found() })
}

// lookAtFields looks through a header, for the texts that may.
func (s *searcher) lookAtFields(h message.Header, may func(text) bool) {
	if !slices.ContainsFunc(s.texts, may) {
		return
	}
	for _, f := range h {
		v := f.Name() + ": " + message.DecodeWords(f.Value())
		for _, t := range s.texts {
			if may(t) {
				feed(t.Finder, v)
			}
		}
	}
}

// lookAtBody looks through a part: what is text as such, and everything else that
// is not packed as it stands. Nobody looks for words in an encoded picture.
func (s *searcher) lookAtBody(m mailbox.Content, p *message.Part) {
	r := p.Body(m)
	switch {
	case p.Type == "text":
		r = message.ToUTF8(r, p.Param("charset"))
	case p.Encoding == "base64" || p.Encoding == "quoted-printable":
		return
	}
	if s.buf == nil {
		s.buf = make([]byte, 16<<10)
	}
	for {
		n, err := r.Read(s.buf)
		for _, t := range s.texts {
			_, _ = t.Write(s.buf[:n])
		}
		if err != nil && err != io.EOF {
			s.failed(err)
		}
		if err != nil || s.allFound() {
			break
		}
	}
	for _, t := range s.texts {
		t.Break()
	}
}

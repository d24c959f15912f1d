package queue

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

// Limits on what is read and written.
const (
	MaxRecipients = 1000    // of one entry
	maxMeta       = 4 << 20 // octets of a meta file
	maxError      = 1000    // octets of a stored error
	maxNotice     = 400     // octets of a stored Message-ID
)

// ID names an entry. Its text has the form of a UUID.
type ID [16]byte

// ParseID reads an ID; the error is of kind fault.Invalid.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' && strings.ToLower(s) == s {
		if _, err := hex.Decode(id[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err == nil {
			return id, nil
		}
	}
	return ID{}, fault.New(fault.Invalid, "not the ID of a queue entry")
}

// String returns the text of the ID, as it stands in file names.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// Entry is a message and what is known about its delivery. It is a copy: changes
// count when it is given back to Retry.
type Entry struct {
	ID   ID
	From address.Addr // zero: the null reverse-path
	// To are the recipients that are not done, in the order of the envelope.
	To []Recipient
	// Destination is what all recipients have in common: their domain.
	Destination address.Domain
	// Group is common to the entries of one message.
	Group ID
	// Silent: nobody is told about failures.
	Silent bool

	Queued  time.Time // when it was accepted, to the millisecond
	Expires time.Time // after which it is given up
	Last    time.Time // last try, zero when there was none
	Due     time.Time // next try
	Tries   int
	// Doubts counts tries that ended with a refusal that another transport had
	// to confirm and could not.
	Doubts int
	Error  string // what went wrong at the last try
	// Notice is the Message-ID of the notification about the failed recipients,
	// written down before it is delivered: who finds it here again looks whether it
	// was. "" when there is none.
	Notice string
}

// Recipient is one recipient of an entry.
type Recipient struct {
	Addr address.Addr
	// Failure is set when the recipient failed for good and the sender has not
	// been told yet.
	Failure *Failure
}

// Failure says why a recipient failed for good.
type Failure struct {
	Status string `json:"status,omitempty"` // enhanced status code
	Reply  string `json:"reply,omitempty"`  // of the other server
	Remote string `json:"remote,omitempty"` // its name
}

// meta is a meta file. The first eight fields are those of the second predecessor,
// which reads ours as entries of one recipient.
type meta struct {
	ID     string  `json:"id"`
	From   string  `json:"mail_from"`
	To     string  `json:"rcpt_to"`
	Tries  int     `json:"tries_count"`
	Queued int64   `json:"queued_at_unix"`
	Last   int64   `json:"last_attempt_unix"`
	Due    int64   `json:"next_attempt_unix"`
	Error  *string `json:"last_error"`

	QueuedMS   int64           `json:"queued_at_unix_ms,omitempty"`
	Lifetime   int64           `json:"max_lifetime,omitempty"` // seconds
	DSN        *bool           `json:"dsn,omitempty"`          // nil means true
	Group      string          `json:"group,omitempty"`
	Doubts     int             `json:"doubts,omitempty"`
	Notice     string          `json:"notice,omitempty"`
	Recipients []metaRecipient `json:"recipients,omitempty"` // all of them, when more is to be said than rcpt_to does
}

type metaRecipient struct {
	Addr    string   `json:"rcpt_to"`
	Failure *Failure `json:"failure,omitempty"`
}

func encode(e *Entry) ([]byte, error) {
	if len(e.To) == 0 {
		return nil, fault.New(fault.Invalid, "queue: an entry without recipients")
	}
	dsn := !e.Silent
	m := meta{
		ID: e.ID.String(), From: e.From.Wire(), To: e.To[0].Addr.Wire(),
		Tries: e.Tries, Queued: e.Queued.Unix(), Last: unix(e.Last), Due: unix(e.Due),
		QueuedMS: e.Queued.UnixMilli(), Lifetime: max(1, int64(e.Expires.Sub(e.Queued)/time.Second)), DSN: &dsn, Doubts: e.Doubts, Notice: e.Notice,
	}
	if e.Group != (ID{}) {
		m.Group = e.Group.String()
	}
	if e.Error != "" {
		s := e.Error[:min(len(e.Error), maxError)]
		m.Error = &s
	}
	if len(e.To) > 1 || e.To[0].Failure != nil {
		for _, r := range e.To {
			m.Recipients = append(m.Recipients, metaRecipient{r.Addr.Wire(), r.Failure})
		}
	}
	b, err := json.Marshal(m)
	return append(b, '\n'), err
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromUnix(s int64) time.Time {
	if s <= 0 {
		return time.Time{}
	}
	return time.Unix(s, 0)
}

// The times that an entry may name, so that sums do not overflow.
const (
	maxUnix     = 1 << 40
	maxLifetime = 366 * 24 * time.Hour
)

// decode reads a meta file of ours or of the second predecessor. lifetime is that of
// entries that name none, came tells when the entry came if it does not say so: early
// releases of the second predecessor did not.
func decode(id ID, b []byte, lifetime time.Duration, came func() time.Time) (*Entry, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.ID != "" && m.ID != id.String() {
		return nil, fmt.Errorf("the file is of entry %.40q", m.ID)
	}
	return m.entry(id, lifetime, came)
}

func (m *meta) entry(id ID, lifetime time.Duration, came func() time.Time) (*Entry, error) {
	e := &Entry{ID: id, Tries: max(0, m.Tries), Doubts: max(0, m.Doubts), Silent: m.DSN != nil && !*m.DSN}
	for _, t := range []int64{m.Queued, m.Last, m.Due, m.QueuedMS / 1000, m.Lifetime} {
		if t < 0 || t > maxUnix {
			return nil, errors.New("a time is out of range")
		}
	}
	var err error
	if from := strings.Trim(m.From, "<>"); from != "" {
		if e.From, err = address.Parse(from); err != nil {
			return nil, fmt.Errorf("sender: %w", err)
		}
	}
	list := m.Recipients
	if len(list) == 0 {
		list = []metaRecipient{{Addr: m.To}}
	}
	if len(list) > MaxRecipients {
		return nil, errors.New("too many recipients")
	}
	for _, r := range list {
		a, err := address.Parse(r.Addr)
		if err != nil {
			return nil, fmt.Errorf("recipient: %w", err)
		}
		if e.Destination == "" {
			e.Destination = a.Domain()
		}
		if a.Domain() != e.Destination {
			return nil, errors.New("recipients of two destinations")
		}
		e.To = append(e.To, Recipient{a, r.Failure})
	}
	if m.Group != "" {
		if e.Group, err = ParseID(m.Group); err != nil {
			return nil, err
		}
	}
	if len(m.Notice) <= maxNotice { // a longer one is not ours
		e.Notice = m.Notice
	}
	e.Queued = fromUnix(m.Queued)
	if ms := m.QueuedMS; ms > 0 && ms/1000 == m.Queued {
		e.Queued = time.UnixMilli(ms)
	}
	e.Last, e.Due = fromUnix(m.Last), fromUnix(m.Due)
	if e.Queued.IsZero() {
		if e.Queued = e.Last; e.Queued.IsZero() {
			e.Queued = came()
		}
		if e.Queued.Unix() <= 0 || e.Queued.Unix() > maxUnix {
			return nil, errors.New("no time of acceptance")
		}
	}
	if m.Lifetime > 0 {
		lifetime = min(time.Duration(min(m.Lifetime, 1<<32))*time.Second, maxLifetime)
	}
	e.Expires = e.Queued.Add(lifetime)
	if m.Error != nil {
		e.Error = *m.Error
		e.Error = e.Error[:min(len(e.Error), maxError)]
	}
	return e, nil
}

// metaV1 is a meta file of the first predecessor.
type metaV1 struct {
	From         string
	To           []string
	TriesCount   map[string]int
	FirstAttempt time.Time
	LastAttempt  time.Time
	RcptTo       string `json:"rcpt_to"` // which it does not have
}

// decodeV1 returns one entry per destination, whose IDs depend on the file's name and the
// destination only: a conversion that was interrupted finds what it made.
// errNotV1 means that the file is of another kind.
func decodeV1(name string, b []byte, lifetime time.Duration, now time.Time) ([]*Entry, error) {
	var m metaV1
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if m.RcptTo != "" || m.To == nil {
		return nil, errNotV1
	}
	if len(m.To) > 10*MaxRecipients {
		return nil, errors.New("too many recipients")
	}
	var from address.Addr
	if s := strings.Trim(m.From, "<>"); s != "" {
		var err error
		if from, err = address.Parse(s); err != nil {
			return nil, fmt.Errorf("sender: %w", err)
		}
	}
	if m.FirstAttempt.Unix() <= 0 || m.FirstAttempt.Unix() > maxUnix {
		m.FirstAttempt = now
	}
	var list []*Entry
	byDomain := make(map[address.Domain]*Entry)
	for _, to := range m.To {
		a, err := address.Parse(to)
		if err != nil {
			return nil, fmt.Errorf("recipient: %w", err)
		}
		e := byDomain[a.Domain()]
		if e == nil || len(e.To) == MaxRecipients {
			e = &Entry{
				ID: derived(name, string(a.Domain()), len(list)), From: from, Destination: a.Domain(), Group: derived(name, "", 0),
				Queued: m.FirstAttempt, Expires: m.FirstAttempt.Add(lifetime), Due: now,
			}
			if l := m.LastAttempt.Unix(); l > 0 && l < maxUnix {
				e.Last = m.LastAttempt
			}
			byDomain[a.Domain()] = e
			list = append(list, e)
		}
		e.To = append(e.To, Recipient{Addr: a})
		e.Tries = max(e.Tries, m.TriesCount[to])
	}
	return list, nil
}

var errNotV1 = errors.New("not a file of the first predecessor")

package webimap

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"madmail/internal/mailbox"
)

// query is what a client asks for: the body of a request, or the data of a socket's.
// The message of a send is not in it: see lift.
type query struct {
	Mailbox     string      `json:"mailbox"`
	UID         mailbox.UID `json:"uid"`
	SinceUID    mailbox.UID `json:"since_uid"`
	Flags       []string    `json:"flags"`
	Op          string      `json:"op"`
	Dest        string      `json:"dest_mailbox"`
	Destination string      `json:"destination"`
	Query       string      `json:"query"`
	Name        string      `json:"name"`
	OldName     string      `json:"old_name"`
	NewName     string      `json:"new_name"`
	OldName2    string      `json:"oldName"`
	NewName2    string      `json:"newName"`
	To          []string    `json:"to"`
	// Packed is true in a request for a message in base64.
	Packed json.RawMessage `json:"body_base64"`

	Email    string `json:"email"` // of a login
	Password string `json:"password"`
}

func (q *query) packed() bool { return string(q.Packed) == "true" }

// envelope of a socket's request.
type request struct {
	ID     json.RawMessage `json:"req_id"`
	Type   string          `json:"type"`
	Action string          `json:"action"`
	Data   query           `json:"data"`
}

// maxID is how long the name of a request may be, in octets of JSON.
const maxID = 256

// id returns the request's name as JSON, or nothing.
func (q *request) id() (json.RawMessage, bool) {
	switch {
	case len(q.ID) > maxID:
		return nil, false
	case len(q.ID) == 0, string(q.ID) == `""`, string(q.ID) == "null":
		return nil, true
	case q.ID[0] != '"' && q.ID[0] != '-' && (q.ID[0] < '0' || q.ID[0] > '9'):
		return nil, false
	}
	return q.ID, true
}

// parse reads one JSON text into v, and the message in it into s, if s is not nil.
func parse(r io.Reader, limit int, s *spool, v any) error {
	var sink io.Writer
	if s != nil {
		sink = s
	}
	text, err := lift(r, limit, sink)
	if err == nil && json.Unmarshal(text, v) != nil {
		err = errInvalidJSON
	}
	var x *refusal
	if err != nil && !errors.As(err, &x) {
		err = errCut
	}
	return err
}

// longest is how long a request with a message may be: in base64 it is a third longer.
func longest(message int64) int64 { return message + message/3 + maxText }

// pace tells whether what is read or sent makes headway.
type pace struct {
	since time.Time
	got   int64
}

const (
	grace   = 30 * time.Second
	minRate = 1 << 10 // octets in a second after grace
)

// note counts n octets, and reports whether they were in time.
func (p *pace) note(n int) bool {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	p.got += int64(n)
	age := time.Since(p.since)
	return age <= grace || p.got >= int64(age/time.Second)*minRate
}

package db

import (
	"database/sql/driver"
	"strings"
	"time"

	"madmail/internal/fault"
)

// Time is a stored text time. It is written as "YYYY-MM-DD HH:MM:SS" in UTC,
// which sorts as text, and read in any form that a predecessor wrote: that
// one, RFC 3339 with fraction and offset, time.Time.String, unix seconds, NULL.
type Time struct {
	time.Time
	Valid bool // false for NULL and for text that is no time
}

// At returns t as a value to store.
func At(t time.Time) Time { return Time{Time: t.UTC().Truncate(time.Second), Valid: true} }

// Value implements driver.Valuer.
func (t Time) Value() (driver.Value, error) {
	if !t.Valid {
		return nil, nil
	}
	return t.UTC().Format(time.DateTime), nil
}

var timeForms = []string{
	time.DateTime, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07:00",
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999 -0700", "2006-01-02 15:04:05.999999999-07",
	time.DateOnly,
}

// Scan implements sql.Scanner. Text that is no time reads as not valid: one
// odd row written by hand must not keep the server from starting.
func (t *Time) Scan(src any) error {
	*t = Time{}
	switch v := src.(type) {
	case nil:
	case time.Time:
		*t = At(v)
	case int64:
		*t = At(time.Unix(v, 0))
	case string:
		t.parse(v)
	case []byte:
		t.parse(string(v))
	default:
		return fault.Newf(fault.Internal, "db: a %T is not a time", src)
	}
	return nil
}

func (t *Time) parse(s string) {
	s = strings.TrimSpace(s)
	// What String adds says nothing more, and a zone whose name is its offset, as in
	// "+0330 +0330", is none that time.Parse knows.
	s, _, _ = strings.Cut(s, " m=")
	if w := strings.Fields(s); len(w) == 4 {
		s = strings.Join(w[:3], " ")
	}
	for _, form := range timeForms {
		if v, err := time.Parse(form, s); err == nil {
			*t = At(v)
			return
		}
	}
}

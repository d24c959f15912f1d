package config

import (
	"time"

	"madmail/internal/throttle"
	"madmail/internal/units"
)

// Door are the values of one kind of port for mail; zero values leave a thing to what
// holds for all, or to its default.
type Door struct {
	MaxMessage, MaxHeader, MaxLine int64 // octets
	MaxReceived, MaxRecipients     int
	Read, Write                    time.Duration
	Limits                         throttle.Rules
	RefuseSender                   bool // at MAIL
	InsecureAuth                   bool
}

// MX returns the values of port 25.
func (c *Config) MX() Door {
	return door(c.SMTPMaxMessageSize, c.SMTPMaxHeaderSize, c.SMTPMaxLineLength, c.SMTPReadTimeout, c.SMTPWriteTimeout, c.SMTPLimits, c.SMTPDeferSenderReject,
		Door{MaxReceived: c.SMTPMaxReceived, MaxRecipients: c.SMTPMaxRecipients})
}

// Clients returns the values of submission.
func (c *Config) Clients() Door {
	return door(c.SubmissionMaxMessageSize, c.SubmissionMaxHeaderSize, c.SubmissionMaxLineLength, c.SubmissionReadTimeout, c.SubmissionWriteTimeout,
		c.SubmissionLimits, c.SubmissionDeferSenderReject,
		Door{MaxReceived: c.SubmissionMaxReceived, MaxRecipients: c.SubmissionMaxRecipients, InsecureAuth: c.SubmissionInsecureAuth})
}

// door reads texts that were checked. Each message asks: what is not set is not read.
func door(message, header, line, read, write, limits, deferred string, d Door) Door {
	size := func(s string) (n int64) {
		if s != "" {
			n, _ = units.ParseSize(s)
		}
		return n
	}
	span := func(s string) (t time.Duration) {
		if s != "" {
			t, _ = units.ParseDuration(s)
		}
		return t
	}
	d.MaxMessage, d.MaxHeader, d.MaxLine, d.Read, d.Write = size(message), size(header), size(line), span(read), span(write)
	if limits != "" {
		d.Limits, _ = throttle.Parse(limits)
	}
	d.RefuseSender = deferred != "" && !isYes(deferred)
	return d
}

package certs

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// Zone takes and removes TXT records of the domains that certificates are for. name is
// absolute, without the last dot. Add keeps other values of the same name.
type Zone interface {
	Add(ctx context.Context, name, value string) error
	Remove(ctx context.Context, name, value string) error
}

// How long a new record may take to be seen.
const (
	seenWait  = 60 * time.Second
	seenEvery = 5 * time.Second
	seenOnce  = 3 * time.Second
)

// records solves DNS-01.
type records struct {
	zone   Zone
	lookup func(ctx context.Context, name string) ([]string, error)
}

// Present implements acmez.Solver.
func (r records) Present(ctx context.Context, c acme.Challenge) error {
	return r.zone.Add(ctx, recordName(c), c.DNS01KeyAuthorization())
}

// CleanUp implements acmez.Solver.
func (r records) CleanUp(ctx context.Context, c acme.Challenge) error {
	// Also when the order was given up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
	defer cancel()
	return r.zone.Remove(ctx, recordName(c), c.DNS01KeyAuthorization())
}

// Wait implements acmez.Waiter: an authority that asks too early counts it as a
// failure. One that sees more than we do, or asks other servers, decides: a record that
// is not seen in time is no error.
func (r records) Wait(ctx context.Context, c acme.Challenge) error {
	until, cancel := context.WithTimeout(ctx, seenWait)
	defer cancel()
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		once, done := context.WithTimeout(until, seenOnce)
		list, err := r.lookup(once, recordName(c)+".")
		done()
		if err == nil && slices.Contains(list, c.DNS01KeyAuthorization()) {
			return nil
		}
		select {
		case <-until.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// recordName is where the record of a challenge goes (RFC 8555 section 8.4).
func recordName(c acme.Challenge) string {
	return strings.TrimSuffix(c.DNS01TXTRecordName(), ".")
}

// Package peers counts what happened with each other server: tries by transport,
// deliveries and how long they took, mail that came in.
//
// Its table is federation_server_stats, which the view federation_stats shows to
// operators. Memory holds what was counted since the last Flush and nothing else, so
// it is bounded by the servers dealt with in half a minute; a crash loses these
// counts. It decides nothing.
//
// All methods may be called from many goroutines; counting never blocks on the
// database.
package peers

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// Transport is how a message went.
type Transport uint8

// The transports.
const (
	HTTPS Transport = iota
	HTTP
	SMTP
)

// String returns the transport's name.
func (t Transport) String() string { return [...]string{"https", "http", "smtp"}[t] }

// Bounds: strangers choose the domains that are counted.
const (
	maxPending = 20_000  // domains between two flushes; further ones are not counted
	maxRows    = 100_000 // domains in the table; those silent for longest go first
)

// Stats are the counts of one domain.
type Stats struct {
	Domain     address.Domain
	Queued     int64 // entries that wait for it
	Failed     [3]int64
	Succeeded  [3]int64
	Inbound    int64         // messages from it
	Delivered  int64         // messages to it; one per message, whatever the number of recipients
	Latency    time.Duration // sum over Delivered, from acceptance to delivery
	LastActive time.Time     // when something was last counted
}

// Options are what Open needs. DB must be set.
type Options struct {
	DB *db.DB
	// Queued returns how many entries wait for each domain; nil counts none. It is
	// called by Flush.
	Queued func() map[address.Domain]int
	Now    func() time.Time
}

// Store counts. Make one with Open.
type Store struct {
	Options

	mu      sync.Mutex // guards the fields below
	pending map[address.Domain]*Stats
	seen    map[address.Domain]struct{}
	sum     Stats // of all, since the start
	missed  int64

	flushing sync.Mutex // one Flush at a time; above mu
	queued   map[address.Domain]int
}

// Open checks o. It reads nothing.
func Open(o Options) (*Store, error) {
	if o.DB == nil {
		return nil, fault.New(fault.Invalid, "peers: DB is not set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Queued == nil {
		o.Queued = func() map[address.Domain]int { return nil }
	}
	return &Store{Options: o, pending: make(map[address.Domain]*Stats), seen: make(map[address.Domain]struct{})}, nil
}

func (s *Store) count(d address.Domain, f func(*Stats)) {
	if d == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.sum)
	defer s.note(d)
	p := s.pending[d]
	if p == nil {
		if len(s.pending) >= maxPending {
			s.missed++
			return
		}
		p = &Stats{Domain: d}
		s.pending[d] = p
	}
	f(p)
	p.LastActive = s.Now()
}

// note remembers a domain that mail went to or came from. The caller holds s.mu.
func (s *Store) note(d address.Domain) {
	if p := s.pending[d]; p != nil && p.Inbound+p.Delivered > 0 && len(s.seen) < maxSeen {
		s.seen[d] = struct{}{}
	}
}

// maxSeen bounds the table of domains that were seen.
const maxSeen = 100_000

// Seen returns how many servers mail went to or came from since the start, by name
// and by IP literal. It stops at 100,000 together.
func (s *Store) Seen() (names, literals int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.seen {
		if _, ip := d.IP(); ip {
			literals++
		} else {
			names++
		}
	}
	return names, literals
}

// Sum returns the counts of all domains together since the start.
func (s *Store) Sum() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum
}

// Tried counts one try by one transport.
func (s *Store) Tried(d address.Domain, t Transport, ok bool) {
	s.count(d, func(p *Stats) {
		if ok {
			p.Succeeded[t]++
		} else {
			p.Failed[t]++
		}
	})
}

// Sent counts a message that was delivered, and the time since it was accepted.
func (s *Store) Sent(d address.Domain, took time.Duration) {
	s.count(d, func(p *Stats) {
		p.Delivered++
		p.Latency += max(0, took)
	})
}

// Received counts a message from d.
func (s *Store) Received(d address.Domain) { s.count(d, func(p *Stats) { p.Inbound++ }) }

// Missed returns how many events were not counted because too many domains came
// at once.
func (s *Store) Missed() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missed
}

// Flush writes what was counted. It writes nothing when nothing changed. When it
// fails, with fault.Busy, the counts are kept for the next time.
func (s *Store) Flush(ctx context.Context) error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	counted := s.pending
	s.pending = make(map[address.Domain]*Stats)
	s.mu.Unlock()
	queued := s.Queued()
	same := len(queued) == len(s.queued) && s.queued != nil
	for d, n := range queued {
		same = same && s.queued[d] == n
	}
	if len(counted) == 0 && same {
		return nil
	}
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		for d, p := range counted {
			if _, err := tx.Exec(ctx, upsert, d.Host(), p.Failed[HTTP], p.Failed[HTTPS], p.Failed[SMTP], p.Succeeded[HTTP], p.Succeeded[HTTPS], p.Succeeded[SMTP],
				p.Inbound, p.Delivered, p.Latency.Milliseconds(), p.LastActive.Unix()); err != nil {
				return err
			}
		}
		if !same {
			if _, err := tx.Exec(ctx, "UPDATE federation_server_stats SET queued_messages = 0 WHERE queued_messages <> 0"); err != nil {
				return err
			}
			for d, n := range queued {
				if _, err := tx.Exec(ctx, "INSERT INTO federation_server_stats (domain, queued_messages) VALUES (?, ?) ON CONFLICT (domain) DO UPDATE SET queued_messages = excluded.queued_messages", d.Host(), n); err != nil {
					return err
				}
			}
		}
		_, err := tx.Exec(ctx, `DELETE FROM federation_server_stats WHERE domain IN (
			SELECT domain FROM federation_server_stats WHERE queued_messages = 0 ORDER BY last_active DESC LIMIT -1 OFFSET ?)`, maxRows)
		return err
	})
	if err == nil {
		s.queued = queued
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, p := range counted {
		if now := s.pending[d]; now != nil {
			now.add(p)
		} else if len(s.pending) < maxPending {
			s.pending[d] = p
		}
	}
	return fault.Wrap(fault.Busy, err, "peers: flush")
}

const upsert = `INSERT INTO federation_server_stats (domain, failed_http, failed_https, failed_smtp, success_http, success_https, success_smtp,
		inbound_deliveries, successful_deliveries, total_latency_ms, last_active) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (domain) DO UPDATE SET failed_http = failed_http + excluded.failed_http, failed_https = failed_https + excluded.failed_https,
		failed_smtp = failed_smtp + excluded.failed_smtp, success_http = success_http + excluded.success_http, success_https = success_https + excluded.success_https,
		success_smtp = success_smtp + excluded.success_smtp, inbound_deliveries = inbound_deliveries + excluded.inbound_deliveries,
		successful_deliveries = successful_deliveries + excluded.successful_deliveries, total_latency_ms = total_latency_ms + excluded.total_latency_ms,
		last_active = max(last_active, excluded.last_active)`

func (p *Stats) add(o *Stats) {
	for i := range p.Failed {
		p.Failed[i] += o.Failed[i]
		p.Succeeded[i] += o.Succeeded[i]
	}
	p.Inbound += o.Inbound
	p.Delivered += o.Delivered
	p.Latency += o.Latency
	if o.LastActive.After(p.LastActive) {
		p.LastActive = o.LastActive
	}
}

// List returns the counts of all domains, with what is not flushed yet, those
// active last first; at most limit of them.
func (s *Store) List(ctx context.Context, limit int) ([]Stats, error) {
	s.flushing.Lock() // else a flush in between would count twice
	defer s.flushing.Unlock()
	all := make(map[address.Domain]*Stats)
	err := s.DB.Read(ctx, func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, `SELECT domain, failed_http, failed_https, failed_smtp, success_http, success_https, success_smtp,
			inbound_deliveries, successful_deliveries, total_latency_ms, last_active FROM federation_server_stats ORDER BY last_active DESC LIMIT ?`, maxRows)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var ms int64
			var at db.Time
			var p Stats
			if err := rows.Scan(&name, &p.Failed[HTTP], &p.Failed[HTTPS], &p.Failed[SMTP], &p.Succeeded[HTTP], &p.Succeeded[HTTPS], &p.Succeeded[SMTP], &p.Inbound, &p.Delivered, &ms, &at); err != nil {
				return fault.Wrap(fault.Internal, err, "peers: read")
			}
			if p.Domain, err = address.ParseDomain(name); err != nil {
				continue
			}
			p.Latency = time.Duration(ms) * time.Millisecond
			if at.Valid && at.Unix() > 0 {
				p.LastActive = at.Time
			}
			if known := all[p.Domain]; known != nil { // two spellings
				known.add(&p)
			} else {
				all[p.Domain] = &p
			}
		}
		return fault.Wrap(fault.Busy, rows.Err(), "peers: read")
	})
	if err != nil {
		return nil, err
	}
	get := func(d address.Domain) *Stats {
		if all[d] == nil {
			all[d] = &Stats{Domain: d}
		}
		return all[d]
	}
	s.mu.Lock()
	for d, p := range s.pending {
		get(d).add(p)
	}
	s.mu.Unlock()
	for d, n := range s.Queued() {
		get(d).Queued = int64(n)
	}
	list := make([]Stats, 0, len(all))
	for _, p := range all {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b Stats) int {
		return cmp.Or(b.LastActive.Compare(a.LastActive), cmp.Compare(a.Domain, b.Domain))
	})
	return list[:min(limit, len(list))], nil
}

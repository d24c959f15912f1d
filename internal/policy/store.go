package policy

import (
	"context"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// maxRows bounds each table; further ones are refused.
const maxRows = 100_000

// Reload reads the tables again, for hands that used SQL.
func (s *Store) Reload(ctx context.Context) error {
	return s.write(ctx, "policy: load", func(context.Context, *db.Tx) error { return nil })
}

// write runs f in a transaction and publishes the rules as they are after it.
func (s *Store) write(ctx context.Context, doing string, f func(context.Context, *db.Tx) error) error {
	err := s.DB.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := f(ctx, tx); err != nil {
			return err
		}
		set, err := s.read(ctx, &tx.Q)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.set.Store(set) })
		return nil
	})
	if err == nil || fault.Is(err, fault.NotFound) || fault.Is(err, fault.Full) {
		return err
	}
	return fault.Wrap(fault.KindOf(err), err, doing)
}

func (s *Store) read(ctx context.Context, q *db.Q) (*ruleSet, error) {
	set := &ruleSet{
		rules: make(map[address.Domain]time.Time), dismissed: make(map[address.Domain]time.Time),
		endpoints: make(map[address.Domain]Override), transports: make(map[address.Domain]Transports),
	}
	bad := 0
	// Keys that an earlier program stored in another spelling count, too. Where two
	// rows mean one domain, the one in normal form comes last.
	domain := func(text string) (address.Domain, bool) {
		d, err := address.ParseDomain(text)
		if err != nil {
			bad++
		}
		return d, err == nil
	}
	for _, t := range []struct {
		query string
		m     map[address.Domain]time.Time
	}{
		{"SELECT domain, created_at FROM federation_rules", set.rules},
		{"SELECT domain, created_at FROM federation_silent_dismiss", set.dismissed},
	} {
		err := each(ctx, q, t.query, func(scan func(...any) error) error {
			var text string
			var at db.Time
			err := scan(&text, &at)
			if d, ok := domain(text); ok && err == nil {
				t.m[d] = at.Time
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	err := each(ctx, q, "SELECT lookup_key, target_host, coalesce(comment, ''), created_at, updated_at FROM dns_overrides ORDER BY updated_at", func(scan func(...any) error) error {
		var o Override
		var created, updated db.Time
		if err := scan(&o.Key, &o.Target, &o.Comment, &created, &updated); err != nil {
			return err
		}
		d, ok := domain(o.Key)
		if !ok {
			return nil
		}
		e, err := ParseEndpoint(o.Target)
		if err != nil {
			bad++
			return nil
		}
		o.Key, o.Endpoint, o.Created, o.Updated = d.Host(), e, created.Time, updated.Time
		set.endpoints[d] = o
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = each(ctx, q, "SELECT domain, https, http, smtp, tls FROM federation_transports", func(scan func(...any) error) error {
		var text, https, http, smtp, tls string
		if err := scan(&text, &https, &http, &smtp, &tls); err != nil {
			return err
		}
		d, ok := domain(text)
		if !ok {
			return nil
		}
		t := Transports{RelaxedTLS: tls == "relaxed"}
		for _, p := range []struct {
			text string
			to   *Permission
		}{{https, &t.HTTPS}, {http, &t.HTTP}, {smtp, &t.SMTP}} {
			v, err := ParsePermission(p.text)
			if err != nil {
				bad++
			}
			*p.to = v
		}
		set.transports[d] = t
		return nil
	})
	if bad > 0 {
		s.Logger.Warn("rows about other servers make no sense and are left out", "rows", bad)
	}
	return set, err
}

// each runs a query and calls f for every row.
func each(ctx context.Context, q *db.Q, query string, f func(scan func(...any) error) error) error {
	rows, err := q.Query(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for n := 0; rows.Next(); n++ {
		if n == maxRows {
			return fault.Newf(fault.Internal, "policy: a table has more than %d rows", maxRows)
		}
		if err := f(rows.Scan); err != nil {
			return fault.Wrap(fault.Internal, err, "policy: read")
		}
	}
	return fault.Wrap(fault.Busy, rows.Err(), "policy: read")
}

// AddRule makes a domain an exception to the policy; one that is stays as it is.
// Errors: fault.Invalid, fault.Busy.
func (s *Store) AddRule(ctx context.Context, domain string) error {
	d, err := address.ParseDomain(domain)
	if err != nil {
		return err
	}
	if err := s.room(len(s.set.Load().rules)); err != nil {
		return err
	}
	// Stored without brackets, as the predecessors do.
	return s.write(ctx, "policy: add a rule", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO federation_rules (domain, created_at) VALUES (?, ?) ON CONFLICT (domain) DO NOTHING", d.Host(), s.Now().Unix())
		return err
	})
}

// RemoveRule takes a domain's exception back. Errors: fault.Invalid, fault.NotFound, fault.Busy.
func (s *Store) RemoveRule(ctx context.Context, domain string) error {
	return s.remove(ctx, domain, "federation_rules", "domain", "no rule for %q", func(set *ruleSet, d address.Domain) bool { _, ok := set.rules[d]; return ok })
}

// FlushRules removes all exceptions and returns how many there were.
func (s *Store) FlushRules(ctx context.Context) (int, error) {
	return s.flush(ctx, "DELETE FROM federation_rules")
}

// AddDismissal makes mail to a domain disappear. Errors: fault.Invalid, fault.Busy.
func (s *Store) AddDismissal(ctx context.Context, domain string) error {
	d, err := address.ParseDomain(domain)
	if err != nil {
		return err
	}
	if err := s.room(len(s.set.Load().dismissed)); err != nil {
		return err
	}
	return s.write(ctx, "policy: dismiss", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO federation_silent_dismiss (domain, created_at) VALUES (?, ?) ON CONFLICT (domain) DO NOTHING", d.Host(), s.Now().Unix())
		return err
	})
}

// RemoveDismissal takes a dismissal back. Errors: fault.Invalid, fault.NotFound, fault.Busy.
func (s *Store) RemoveDismissal(ctx context.Context, domain string) error {
	return s.remove(ctx, domain, "federation_silent_dismiss", "domain", "%q is not dismissed", func(set *ruleSet, d address.Domain) bool { _, ok := set.dismissed[d]; return ok })
}

// FlushDismissals removes all dismissals and returns how many there were.
func (s *Store) FlushDismissals(ctx context.Context) (int, error) {
	return s.flush(ctx, "DELETE FROM federation_silent_dismiss")
}

// SetOverride says where a domain is reached, or changes it. Errors: fault.Invalid,
// fault.Busy.
func (s *Store) SetOverride(ctx context.Context, key, target, comment string) error {
	d, err := address.ParseDomain(key)
	if err != nil {
		return err
	}
	if _, err := ParseEndpoint(target); err != nil {
		return err
	}
	if len(comment) > 1000 || strings.ContainsFunc(comment, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.Invalid, "a comment has at most 1000 bytes and no control characters")
	}
	if err := s.room(len(s.set.Load().endpoints)); err != nil {
		return err
	}
	now := db.At(s.Now())
	return s.write(ctx, "policy: set an override", func(ctx context.Context, tx *db.Tx) error {
		created := now
		for _, old := range spellings(d) { // one row per domain, in normal form
			var at db.Time
			err := tx.QueryRow(ctx, "SELECT created_at FROM dns_overrides WHERE lower(lookup_key) = ?", []any{old}, []any{&at})
			switch {
			case fault.Is(err, fault.NotFound):
			case err != nil:
				return err
			case at.Valid:
				created = at
			}
			if _, err := tx.Exec(ctx, "DELETE FROM dns_overrides WHERE lower(lookup_key) = ?", old); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "INSERT INTO dns_overrides (lookup_key, target_host, comment, created_at, updated_at) VALUES (?, ?, ?, ?, ?)",
			d.Host(), strings.TrimSpace(target), comment, created, now)
		return err
	})
}

// RemoveOverride removes an endpoint. Errors: fault.Invalid, fault.NotFound, fault.Busy.
func (s *Store) RemoveOverride(ctx context.Context, key string) error {
	return s.remove(ctx, key, "dns_overrides", "lookup_key", "no endpoint override found for %q", func(set *ruleSet, d address.Domain) bool { _, ok := set.endpoints[d]; return ok })
}

// SetTransports says how mail may go to a domain; the zero value takes back what was
// said. Errors: fault.Invalid, fault.Busy.
func (s *Store) SetTransports(ctx context.Context, domain string, t Transports) error {
	d, err := address.ParseDomain(domain)
	if err != nil {
		return err
	}
	if err := s.room(len(s.set.Load().transports)); err != nil {
		return err
	}
	tls := ""
	if t.RelaxedTLS {
		tls = "relaxed"
	}
	return s.write(ctx, "policy: set transports", func(ctx context.Context, tx *db.Tx) error {
		for _, old := range spellings(d) {
			if _, err := tx.Exec(ctx, "DELETE FROM federation_transports WHERE lower(domain) = ?", old); err != nil {
				return err
			}
		}
		if t == (Transports{}) {
			return nil
		}
		_, err := tx.Exec(ctx, "INSERT INTO federation_transports (domain, https, http, smtp, tls, updated_at) VALUES (?, ?, ?, ?, ?, ?)",
			d.Host(), t.HTTPS.String(), t.HTTP.String(), t.SMTP.String(), tls, s.Now().Unix())
		return err
	})
}

func (s *Store) room(n int) error {
	if n >= maxRows {
		return fault.Newf(fault.Full, "there are %d domains already", n)
	}
	return nil
}

func (s *Store) flush(ctx context.Context, query string) (n int, err error) {
	err = s.write(ctx, "policy: flush", func(ctx context.Context, tx *db.Tx) error {
		gone, err := tx.Exec(ctx, query)
		n = int(gone)
		return err
	})
	return n, err
}

// remove deletes all rows of a table that mean one domain.
func (s *Store) remove(ctx context.Context, key, table, column, missing string, has func(*ruleSet, address.Domain) bool) error {
	d, err := address.ParseDomain(key)
	if err != nil {
		return err
	}
	if !has(s.set.Load(), d) {
		return fault.Newf(fault.NotFound, missing, d.Host())
	}
	return s.write(ctx, "policy: remove", func(ctx context.Context, tx *db.Tx) error {
		for _, old := range spellings(d) {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE lower("+column+") = ?", old); err != nil {
				return err
			}
		}
		return nil
	})
}

// spellings returns the lower-case texts that earlier programs stored for a domain.
func spellings(d address.Domain) []string {
	ip, ok := d.IP()
	if !ok {
		return []string{string(d), string(d) + "."}
	}
	return []string{strings.ToLower(string(d)), ip.String(), "[" + ip.String() + "]", "ipv6:" + ip.String()}
}

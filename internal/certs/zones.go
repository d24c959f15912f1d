package certs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"madmail/internal/fault"
)

// ZoneOptions say who has the zone.
type ZoneOptions struct {
	Provider string
	Server   string // host:port of a server that takes updates, for rfc2136
	Token    string // the form depends on the provider
	// API is where the provider answers; "" is its usual address.
	API string
}

// recordTTL is the time to live of the records, in seconds: the least that all take.
const recordTTL = 300

// maxAnswer bounds what a provider may say.
const maxAnswer = 4 << 20

// providers are those that are served, each with the place of its API.
var providers = []struct {
	name, api string
	open      func(web) Zone
}{
	{"cloudflare", "https://api.cloudflare.com/client/v4", func(w web) Zone { return &cloudflare{web: w} }},
	{"digitalocean", "https://api.digitalocean.com/v2", func(w web) Zone { return &listed{web: w, list: "domain_record", data: plainText} }},
	{"gandi", "https://api.gandi.net/v5/livedns", func(w web) Zone { return gandi{w} }},
	{"hetzner", "https://api.hetzner.cloud/v1", func(w web) Zone { return hetzner{w} }},
	{"route53", "https://route53.amazonaws.com/2013-04-01", func(w web) Zone { return route53{w} }},
	{"vultr", "https://api.vultr.com/v2", func(w web) Zone { return &listed{web: w, list: "record", data: quoted} }},
}

// Providers are the names of who has zones that records can be put into.
func Providers() (names []string) {
	for _, p := range providers {
		names = append(names, p.name)
	}
	return append(names, "rfc2136")
}

// OpenZone returns the way to the records of a provider's zones. Errors are
// fault.Invalid.
func OpenZone(o ZoneOptions) (Zone, error) {
	if o.Provider == "rfc2136" {
		return openUpdates(o)
	}
	for _, p := range providers {
		if p.name != o.Provider {
			continue
		}
		if o.Token == "" {
			return nil, fault.WithHint(fault.Newf(fault.Invalid, "%s: acme_dns_token is missing", o.Provider), "make one at the provider that may change the records of the domain")
		}
		w := web{api: p.api, token: o.Token, client: &http.Client{Timeout: requestTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
		if o.API != "" {
			w.api = o.API
		}
		if id, _, ok := strings.Cut(o.Token, ":"); p.name == "route53" && (!ok || id == "") {
			return nil, fault.WithHint(fault.New(fault.Invalid, "route53: acme_dns_token is no key"), "write the access key's id, a colon, and its secret")
		}
		return p.open(w), nil
	}
	return nil, fault.WithHint(fault.Newf(fault.Invalid, "acme_dns_provider: %.40q is not served", o.Provider), "it is one of "+strings.Join(Providers(), ", "))
}

// quoted is a TXT record's data in the form of master files.
func quoted(value string) string { return `"` + value + `"` }

func plainText(value string) string { return value }

// web speaks JSON with a provider.
type web struct {
	api, token string
	client     *http.Client
}

// status is an answer that is no success.
type status struct {
	code int
	text string
}

func (s status) Error() string { return fmt.Sprintf("status %d: %s", s.code, s.text) }

// call sends in, unless it is nil, and reads the answer into out, unless it is nil.
func (w web) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fault.Wrap(fault.Internal, err, "certs: provider")
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.api+path, body)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: provider")
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	raw, err := w.send(req)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fault.Wrap(fault.Busy, err, "certs: provider")
	}
	return nil
}

// send returns the text of an answer, or status in an error.
func (w web) send(req *http.Request) ([]byte, error) {
	res, err := w.client.Do(req)
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "certs: provider")
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "certs: provider")
	}
	if res.StatusCode/100 == 2 {
		return raw, nil
	}
	kind := fault.Refused
	if res.StatusCode == http.StatusNotFound {
		kind = fault.NotFound
	} else if res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests {
		kind = fault.Busy
	}
	text := string(raw)
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "")
	}
	err = fault.Wrap(kind, status{res.StatusCode, text}, "certs: provider")
	if res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden {
		err = fault.WithHint(err, "acme_dns_token may not change records there")
	}
	return nil, err
}

// zones are the zones in which a name may lie, the longest first: without the name
// itself, and without top-level domains.
func zones(name string) (list []string) {
	for {
		_, rest, ok := strings.Cut(name, ".")
		if !ok || !strings.Contains(rest, ".") {
			return list
		}
		list, name = append(list, rest), rest
	}
}

// inZone tries the zones of a name until one is there.
func inZone(name string, try func(zone, host string) error) error {
	for _, z := range zones(name) {
		err := try(z, strings.TrimSuffix(name, "."+z))
		if !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return fault.WithHint(fault.Newf(fault.NotFound, "certs: the provider has no zone for %s", name), "is the domain there, and may the token see it?")
}

// made remembers the numbers of records, to remove them.
type made struct {
	mu  sync.Mutex // guards the field below
	ids map[[2]string]string
}

func (m *made) put(name, value, path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ids == nil {
		m.ids = make(map[[2]string]string)
	}
	m.ids[[2]string{name, value}] = path
}

func (m *made) take(name, value string) (path string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	path, ok = m.ids[[2]string{name, value}]
	delete(m.ids, [2]string{name, value})
	return path, ok
}

// cloudflare finds zones by name.
type cloudflare struct {
	web
	made
}

// Add implements Zone.
func (c *cloudflare) Add(ctx context.Context, name, value string) error {
	return inZone(name, func(zone, _ string) error {
		var found struct{ Result []struct{ ID string } }
		if err := c.call(ctx, http.MethodGet, "/zones?name="+url.QueryEscape(zone), nil, &found); err != nil {
			return err
		}
		if len(found.Result) == 0 {
			return fault.Newf(fault.NotFound, "certs: no zone %s", zone)
		}
		path := "/zones/" + url.PathEscape(found.Result[0].ID) + "/dns_records"
		var done struct{ Result struct{ ID string } }
		if err := c.call(ctx, http.MethodPost, path, map[string]any{"type": "TXT", "name": name, "content": quoted(value), "ttl": recordTTL}, &done); err != nil {
			return err
		}
		c.put(name, value, path+"/"+url.PathEscape(done.Result.ID))
		return nil
	})
}

// Remove implements Zone.
func (c *cloudflare) Remove(ctx context.Context, name, value string) error {
	if path, ok := c.take(name, value); ok {
		return c.call(ctx, http.MethodDelete, path, nil, nil)
	}
	return nil
}

// listed are providers that number the records of a domain.
type listed struct {
	web
	made
	list string // what the record is called in an answer
	data func(value string) string
}

// Add implements Zone.
func (l *listed) Add(ctx context.Context, name, value string) error {
	return inZone(name, func(zone, host string) error {
		path := "/domains/" + url.PathEscape(zone) + "/records"
		var done map[string]struct {
			ID json.RawMessage `json:"id"`
		}
		if err := l.call(ctx, http.MethodPost, path, map[string]any{"type": "TXT", "name": host, "data": l.data(value), "ttl": recordTTL}, &done); err != nil {
			return err
		}
		id := strings.Trim(string(done[l.list].ID), `"`)
		if id == "" {
			return fault.New(fault.Busy, "certs: the provider does not say which record it made")
		}
		l.put(name, value, path+"/"+url.PathEscape(id))
		return nil
	})
}

// Remove implements Zone.
func (l *listed) Remove(ctx context.Context, name, value string) error {
	if path, ok := l.take(name, value); ok {
		return l.call(ctx, http.MethodDelete, path, nil, nil)
	}
	return nil
}

// hetzner adds to and takes from sets of records.
type hetzner struct{ web }

func (h hetzner) act(ctx context.Context, name, value, action string, ttl any) error {
	return inZone(name, func(zone, host string) error {
		in := map[string]any{"records": []map[string]string{{"value": quoted(value)}}}
		if ttl != nil {
			in["ttl"] = ttl
		}
		return h.call(ctx, http.MethodPost, "/zones/"+url.PathEscape(zone)+"/rrsets/"+url.PathEscape(host)+"/TXT/actions/"+action, in, nil)
	})
}

// Add implements Zone.
func (h hetzner) Add(ctx context.Context, name, value string) error {
	return h.act(ctx, name, value, "add_records", recordTTL)
}

// Remove implements Zone.
func (h hetzner) Remove(ctx context.Context, name, value string) error {
	return h.act(ctx, name, value, "remove_records", nil)
}

// gandi replaces sets of records.
type gandi struct{ web }

type gandiSet struct {
	Values []string `json:"rrset_values"`
	TTL    int      `json:"rrset_ttl,omitempty"`
}

// change reads the set, changes it and writes it. Orders come one by one, and nobody
// else writes challenges of these names.
func (g gandi) change(ctx context.Context, name string, change func([]string) []string) error {
	return inZone(name, func(zone, host string) error {
		domain := "/domains/" + url.PathEscape(zone)
		if err := g.call(ctx, http.MethodGet, domain, nil, nil); err != nil {
			return err // the set is not there at first, the domain has to be
		}
		path := domain + "/records/" + url.PathEscape(host) + "/TXT"
		var set gandiSet
		if err := g.call(ctx, http.MethodGet, path, nil, &set); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		if set.Values = change(set.Values); len(set.Values) == 0 {
			return g.call(ctx, http.MethodDelete, path, nil, nil)
		}
		set.TTL = recordTTL
		return g.call(ctx, http.MethodPut, path, set, nil)
	})
}

// Add implements Zone.
func (g gandi) Add(ctx context.Context, name, value string) error {
	return g.change(ctx, name, func(have []string) []string { return append(have, quoted(value)) })
}

// Remove implements Zone.
func (g gandi) Remove(ctx context.Context, name, value string) error {
	return g.change(ctx, name, func(have []string) []string {
		return slices.DeleteFunc(have, func(v string) bool { return strings.Trim(v, `"`) == value })
	})
}

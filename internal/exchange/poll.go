package exchange

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/task"
)

// Limits of one round.
const (
	startDelay = 10 * time.Second
	pollLimit  = time.Minute // for a request, its answer included
	storeLimit = 10 * time.Minute
	maxAnswer  = 64 << 20
	maxBackOff = 10 * time.Minute
	maxAcks    = 1000
)

// Options configure a Poller. All but Transport, Logger and Now must be set.
type Options struct {
	Store *Store
	// Accept takes a message of size octets under the rules for mail of other servers,
	// and returns when it is durable. It may be tried again after errors of the kinds
	// fault.Busy and fault.Internal.
	Accept func(ctx context.Context, from address.Addr, to []address.Addr, size int64, r io.Reader) error
	// Known reports whether somebody here reads mail for an address; Domains are ours.
	Known   func(address.Addr) bool
	Domains func() []address.Domain
	// Transport carries the requests; nil is a plain one.
	Transport http.RoundTripper
	Logger    *slog.Logger
	Now       func() time.Time
}

// Poller asks the exchangers. Make one with New, then Start it.
type Poller struct {
	opt    Options
	names  http.RoundTripper // checks certificates
	bare   http.RoundTripper // does not: no certificate names an IP address
	group  task.Group
	mu     sync.Mutex // guards the fields below
	cancel context.CancelFunc
	closed bool
}

// New returns a poller that is not started.
func New(o Options) (*Poller, error) {
	if o.Store == nil || o.Accept == nil || o.Known == nil || o.Domains == nil {
		return nil, errors.New("exchange: an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Poller{opt: o, names: o.Transport, bare: o.Transport}
	if o.Transport == nil {
		p.names = &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 20 * time.Second}
		p.bare = &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 20 * time.Second,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} // #nosec: see the comment of the field
	}
	return p, nil
}

// Start begins the rounds, ten seconds later.
func (p *Poller) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil || p.closed {
		return errors.New("exchange: started twice")
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.group.Go("exchangers", func() { p.run(ctx) })
	return nil
}

// Stop breaks off what is under way, and waits until ctx ends. What was fetched and
// not stored is fetched again. It may be called twice, and before Start.
func (p *Poller) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	err := p.group.Wait(ctx)
	for _, t := range []http.RoundTripper{p.names, p.bare} {
		if t, ok := t.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
	}
	return err
}

// round is when a box is asked next, and how often it failed in a row.
type round struct {
	due      time.Time
	failures int
}

// run asks one box after the other, each when it is due.
func (p *Poller) run(ctx context.Context) {
	rounds := make(map[string]*round)
	wait := time.NewTimer(startDelay)
	defer wait.Stop()
	for first := true; ; first = false {
		p.opt.Store.mu.Lock()
		changed := p.opt.Store.changed
		p.opt.Store.mu.Unlock()
		now := p.opt.Now()
		if !first {
			p.due(ctx, rounds, now)
		}
		next := startDelay
		if !first {
			next = time.Hour
			for _, r := range rounds {
				next = min(next, max(r.due.Sub(p.opt.Now()), time.Second))
			}
		}
		wait.Reset(next)
		if first {
			changed = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-wait.C:
		}
	}
}

// due asks the boxes that are due.
func (p *Poller) due(ctx context.Context, rounds map[string]*round, now time.Time) {
	list := p.opt.Store.List()
	for name := range rounds {
		if !slices.ContainsFunc(list, func(x Exchanger) bool { return x.Name == name && x.Enabled }) {
			delete(rounds, name)
		}
	}
	for _, x := range list {
		if !x.Enabled || ctx.Err() != nil {
			continue
		}
		r := rounds[x.Name]
		if r == nil {
			r = &round{due: x.LastPoll.Add(x.Interval)}
			rounds[x.Name] = r
		}
		if limit := now.Add(max(x.Interval, maxBackOff)); r.due.After(limit) {
			r.due = limit // the interval became shorter, or the clock was set back
		}
		if r.due.After(now) {
			continue
		}
		if err := p.Poll(ctx, x); err != nil {
			r.failures++
			r.due = p.opt.Now().Add(max(x.Interval, min(x.Interval<<min(r.failures, 7), maxBackOff)))
		} else {
			r.failures, r.due = 0, p.opt.Now().Add(x.Interval)
		}
	}
}

// Poll asks one box now. What became of it is stored with the exchanger.
func (p *Poller) Poll(ctx context.Context, x Exchanger) error {
	received, err := p.poll(ctx, x)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	why := ""
	if err != nil {
		why = err.Error()
		p.opt.Logger.Warn("an exchanger could not be asked", "exchanger", x.Name, "err", err)
	}
	if e := p.opt.Store.polled(ctx, x.Name, received, why[:min(len(why), 500)]); e != nil {
		p.opt.Logger.Warn("the state of an exchanger is not stored", "exchanger", x.Name, "err", e)
	}
	return err
}

func (p *Poller) poll(ctx context.Context, x Exchanger) (received int64, err error) {
	if !x.Pulls() {
		n, _, err := p.fetch(ctx, x, x.URL+"/me/full")
		return n, err
	}
	for _, d := range p.opt.Domains() {
		n, taken, err := p.fetch(ctx, x, x.URL+"?domain="+url.QueryEscape(d.Host()))
		received += n
		if len(taken) > 0 {
			err = errors.Join(err, p.acknowledge(ctx, x, taken))
		}
		if err != nil {
			return received, err
		}
	}
	return received, nil
}

// request asks a box; the answer is closed by the caller. Redirects are not followed.
func (p *Poller) request(ctx context.Context, x Exchanger, method, target string, body []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the URL cannot be used")
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if x.Token != "" {
		r.Header.Set("Authorization", "Bearer "+x.Token)
	}
	t := p.names
	if literal(x.URL) {
		t = p.bare
	}
	return t.RoundTrip(r)
}

// letter is a message as boxes write it.
type letter struct {
	ID   string     `json:"id"`
	From string     `json:"from"`
	To   recipients `json:"to"`
	Body []byte     `json:"body"` // base64
}

// recipients are a list, or one alone.
type recipients []string

// UnmarshalJSON implements json.Unmarshaler.
func (r *recipients) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var one string
		err := json.Unmarshal(b, &one)
		*r = recipients{one}
		return err
	}
	return json.Unmarshal(b, (*[]string)(r))
}

// fetch takes what a box holds. taken are the messages that need not be offered again.
func (p *Poller) fetch(ctx context.Context, x Exchanger, target string) (received int64, taken []string, err error) {
	asking, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	resp, err := p.request(asking, x, http.MethodGet, target, nil)
	if err != nil {
		return 0, nil, fault.Wrap(fault.Busy, plain(err), "ask")
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound, http.StatusNoContent:
		return 0, nil, nil // nothing there
	default:
		return 0, nil, fault.Newf(fault.Busy, "the exchanger answers %d", resp.StatusCode)
	}
	// All of it first: storing takes its own time.
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, nil, fault.Wrap(fault.Busy, plain(err), "read the answer")
	case len(raw) > maxAnswer:
		return 0, nil, fault.Newf(fault.TooBig, "the answer is larger than %d MiB", maxAnswer>>20)
	}
	var answer struct {
		Messages []letter `json:"messages"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return 0, nil, fault.New(fault.Invalid, "the answer is not what exchangers say")
	}
	var put int
	for _, m := range answer.Messages {
		stored, done, err := p.take(ctx, x, m)
		if ctx.Err() != nil {
			return received, taken, ctx.Err()
		}
		if err != nil {
			p.opt.Logger.Debug("a fetched message was not stored", "exchanger", x.Name, "kind", fault.KindOf(err).String(), "err", err)
		}
		if stored {
			received++
		}
		if done && m.ID != "" {
			taken = append(taken, m.ID)
		}
		if !done {
			put++
		}
	}
	if put > 0 {
		return received, taken, fault.Newf(fault.Busy, "%d message(s) could not be stored and stay there", put)
	}
	return received, taken, nil
}

// take stores one message. done says that it need not come again: it is stored, was
// before, or is not to be had.
func (p *Poller) take(ctx context.Context, x Exchanger, m letter) (stored, done bool, err error) {
	var from address.Addr
	if text := strings.Trim(strings.TrimSpace(m.From), "<>"); text != "" {
		if from, err = address.Parse(text); err != nil {
			return false, true, err
		}
	}
	var all []address.Addr
	ours := p.opt.Domains()
	for _, to := range m.To {
		a, err := address.Parse(strings.Trim(strings.TrimSpace(to), "<>"))
		if err == nil && slices.Contains(ours, a.Domain()) && p.opt.Known(a) && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return false, true, nil
	}
	marks := []mark{content(all, m.Body)}
	if m.ID != "" {
		marks = append(marks, digest("id", x.Name, m.ID))
	}
	known, err := p.opt.Store.seen(ctx, marks...)
	if known || err != nil {
		return false, known, err
	}
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	err = p.opt.Accept(ctx, from, all, int64(len(m.Body)), bytes.NewReader(m.Body))
	if k := fault.KindOf(err); err != nil && (k == fault.Busy || k == fault.Internal) {
		return false, false, err
	}
	return err == nil, true, errors.Join(err, p.opt.Store.remember(ctx, marks...))
}

// acknowledge tells a box which messages may go.
func (p *Poller) acknowledge(ctx context.Context, x Exchanger, ids []string) error {
	for chunk := range slices.Chunk(ids, maxAcks) {
		if err := p.acknowledgeSome(ctx, x, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (p *Poller) acknowledgeSome(ctx context.Context, x Exchanger, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	body, err := json.Marshal(map[string]any{"ids": ids})
	if err != nil {
		return fault.Wrap(fault.Internal, err, "acknowledge")
	}
	resp, err := p.request(ctx, x, http.MethodPost, x.URL+"/ack", body)
	if err != nil {
		return fault.Wrap(fault.Busy, plain(err), "acknowledge")
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode != http.StatusOK {
		return fault.Newf(fault.Busy, "the exchanger answers %d to what it is told", resp.StatusCode)
	}
	return nil
}

// plain is an error without the URL, which says more than an operator's list should.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func digest(parts ...string) (m mark) {
	h := sha256.New()
	for _, s := range parts {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	copy(m[:], h.Sum(nil))
	return m
}

// content is the mark of a message for its recipients, whatever a box calls it.
func content(to []address.Addr, body []byte) mark {
	parts := []string{"content", string(body)}
	for _, a := range to {
		parts = append(parts, a.Wire())
	}
	return digest(parts...)
}

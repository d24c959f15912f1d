package mtasts

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"madmail/internal/fault"
	"madmail/internal/safefile"
)

const (
	// fetchTime bounds one fetch; RFC 8461 section 3.3 suggests a minute, a message
	// that waits suggests less.
	fetchTime = 20 * time.Second
	// retryAfter is the least time between two tries for one domain (section 3.3).
	retryAfter = 5 * time.Minute
	// refreshAfter is how often a policy past half of its life is fetched again
	// though its id is the same, so that it does not run out (section 10.2).
	refreshAfter = 24 * time.Hour
	suffix       = ".json"
)

// Options are what Open needs. LookupTXT must be set.
type Options struct {
	// Dir is made when it is missing; "" keeps policies in memory only.
	Dir string
	// LookupTXT returns the texts of a name. Any error means that nothing is known.
	LookupTXT func(ctx context.Context, name string) ([]string, error)
	// Client fetches; its transport has to check certificates. nil takes one with
	// the system's roots. Redirects are never followed.
	Client *http.Client
	// MaxDomains bounds the cache (2000); the policy that ends first makes room.
	MaxDomains int
	Logger     *slog.Logger
	Now        func() time.Time
}

// Cache knows the policies of domains. Make one with Open.
type Cache struct {
	opt    Options
	client http.Client

	mu      sync.Mutex // guards the fields below
	known   map[string]*known
	waiting map[string]chan struct{} // domains being asked about; closed when done
	failed  map[string]time.Time     // last failure of domains without a policy
}

// known is the policy of a domain and its file's form.
type known struct {
	ID      string    `json:"id"`
	Fetched time.Time `json:"fetched"`
	Text    string    `json:"policy"`
	policy  Policy
	failed  time.Time // last fetch that failed; guarded by Cache.mu
}

func (k *known) ends() time.Time { return k.Fetched.Add(k.policy.MaxAge) }

// Open reads the directory. Errors are fault.Invalid for the options, and of
// the directory otherwise.
func Open(o Options) (*Cache, error) {
	if o.LookupTXT == nil {
		return nil, fault.New(fault.Invalid, "mtasts: no lookup")
	}
	if o.MaxDomains <= 0 {
		o.MaxDomains = 2000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Cache{opt: o, known: make(map[string]*known), waiting: make(map[string]chan struct{}), failed: make(map[string]time.Time)}
	if o.Client != nil {
		c.client = *o.Client
	}
	c.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if o.Dir == "" {
		return c, nil
	}
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "mtasts")
	}
	return c, c.load()
}

// load reads the files, and removes those that are of no use.
func (c *Cache) load() error {
	files, err := os.ReadDir(c.opt.Dir)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "mtasts")
	}
	for _, f := range files {
		domain, ok := strings.CutSuffix(f.Name(), suffix)
		if !ok && !strings.HasSuffix(f.Name(), ".tmp") {
			continue // not ours
		}
		path := filepath.Join(c.opt.Dir, f.Name())
		if k := read(path); ok && hostName(domain) && k != nil && c.opt.Now().Before(k.ends()) && len(c.known) < c.opt.MaxDomains {
			c.known[domain] = k
			continue
		}
		if err := os.Remove(path); err != nil {
			c.opt.Logger.Warn("remove an old policy", "err", err)
		}
	}
	return nil
}

// read returns the policy in a file, or nil.
func read(path string) *known {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 2*MaxPolicy))
	if err != nil {
		return nil
	}
	k := new(known)
	if json.Unmarshal(raw, k) != nil || !recordID(k.ID) {
		return nil
	}
	if k.policy, err = Parse(k.Text); err != nil {
		return nil
	}
	return k
}

// Lookup returns the policy in force for a domain, the zero Policy when there is
// none. A policy that was seen stays in force until it ends, whatever the DNS or the
// web server say meanwhile, unless they show another one (RFC 8461 section 5.1).
//
// The only error is fault.Busy, when ctx ends before anything is known.
func (c *Cache) Lookup(ctx context.Context, domain string) (Policy, error) {
	domain = strings.ToLower(strings.TrimSuffix(domain, "."))
	if !hostName(domain) {
		return Policy{}, nil
	}
	for {
		if err := ctx.Err(); err != nil {
			return Policy{}, fault.Wrap(fault.Busy, err, "mtasts: policy of "+domain)
		}
		c.mu.Lock()
		wait := c.waiting[domain]
		if wait == nil {
			done := make(chan struct{})
			c.waiting[domain] = done
			c.mu.Unlock()
			return c.find(ctx, domain, done)
		}
		c.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
		}
	}
}

// find is Lookup while others wait for done.
func (c *Cache) find(ctx context.Context, domain string, done chan struct{}) (Policy, error) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, domain)
		close(done)
	}()
	txts, err := c.opt.LookupTXT(ctx, "_mta-sts."+domain)
	if ctx.Err() != nil {
		return Policy{}, fault.Wrap(fault.Busy, ctx.Err(), "mtasts: policy of "+domain)
	}
	id, announced := ParseRecord(txts)
	k, try := c.wants(domain, id, err == nil && announced)
	if try {
		fresh, ferr := c.fetch(ctx, domain, id)
		switch {
		case ferr != nil && ctx.Err() != nil:
			// The caller gave up; that says nothing about the domain.
			return Policy{}, fault.Wrap(fault.Busy, ctx.Err(), "mtasts: policy of "+domain)
		case ferr != nil:
			c.note(domain, k)
			c.opt.Logger.Info("fetch an MTA-STS policy", "domain", domain, "err", ferr)
		default:
			k = fresh
			c.keep(domain, k)
		}
	}
	if k == nil {
		return Policy{}, nil
	}
	return k.policy, nil
}

// wants returns what is known about a domain, and whether to fetch.
func (c *Cache) wants(domain, id string, announced bool) (k *known, try bool) {
	now := c.opt.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if k = c.known[domain]; k != nil && !now.Before(k.ends()) {
		delete(c.known, domain)
		k = nil
	}
	switch {
	case !announced:
		return k, false
	case k == nil:
		last, failed := c.failed[domain]
		return nil, !failed || now.Sub(last) >= retryAfter
	case k.ID != id:
		return k, now.Sub(k.failed) >= retryAfter
	}
	return k, now.Sub(k.Fetched) > k.policy.MaxAge/2 && now.Sub(k.failed) >= refreshAfter && now.Sub(k.Fetched) >= refreshAfter
}

// note remembers that a fetch failed.
func (c *Cache) note(domain string, k *known) {
	now := c.opt.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if k != nil {
		k.failed = now
		return
	}
	if len(c.failed) >= c.opt.MaxDomains {
		clear(c.failed) // forgetting costs a fetch, no more
	}
	c.failed[domain] = now
}

// fetch gets the policy document over HTTPS (RFC 8461 section 3.3).
func (c *Cache) fetch(ctx context.Context, domain, id string) (*known, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://mta-sts."+domain+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "mtasts: fetch")
	}
	res, err := c.client.Do(req)
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "mtasts: fetch")
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fault.Newf(fault.Busy, "mtasts: fetch: status %d", res.StatusCode)
	}
	if typ, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || typ != "text/plain" {
		return nil, fault.New(fault.Invalid, "mtasts: fetch: the policy is not text/plain")
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, MaxPolicy+1))
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "mtasts: fetch")
	}
	now := c.opt.Now()
	k := &known{ID: id, Fetched: now, Text: string(raw)}
	if k.policy, err = Parse(k.Text); err != nil {
		return nil, err
	}
	k.Text = k.policy.Text() // without what we do not know
	return k, nil
}

// keep stores a policy, in memory and on disk. A disk that fails costs another
// fetch after a restart.
func (c *Cache) keep(domain string, k *known) {
	c.mu.Lock()
	delete(c.failed, domain)
	out := ""
	if c.known[domain] == nil && len(c.known) >= c.opt.MaxDomains {
		for d, x := range c.known {
			if out == "" || x.ends().Before(c.known[out].ends()) {
				out = d
			}
		}
		delete(c.known, out)
	}
	c.known[domain] = k
	c.mu.Unlock()
	if c.opt.Dir == "" {
		return
	}
	var err error
	if out != "" {
		if err = os.Remove(filepath.Join(c.opt.Dir, out+suffix)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	raw, jerr := json.Marshal(k)
	if len(domain) <= 200 && jerr == nil { // longer ones make no file name
		err = errors.Join(err, safefile.Write(filepath.Join(c.opt.Dir, domain+suffix), append(raw, '\n'), 0o640))
	}
	if err = errors.Join(err, jerr); err != nil {
		c.opt.Logger.Warn("keep an MTA-STS policy", "domain", domain, "err", err)
	}
}

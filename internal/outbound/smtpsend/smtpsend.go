// Package smtpsend brings messages to other mail servers by SMTP (RFC 5321), with
// STARTTLS (RFC 3207), PIPELINING (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152) and
// SMTPUTF8 (RFC 6531) where the server has them.
//
// One transaction carries one message to all recipients that the server takes at a
// time. A connection is kept for a minute after its last message and used again. Which
// TLS is demanded comes with the target; where it is, nothing of the message goes out
// before it stands. What a reply means is decided by package outbound.
//
// All methods may be called from many goroutines.
package smtpsend

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/outbound"
)

// Options are what New needs. Dialer and Hostname must be set.
type Options struct {
	Dialer *outbound.Dialer
	// Hostname is the name we greet with; IP addresses get their brackets.
	Hostname func() string
	Roots    *x509.CertPool // authorities; nil means the system's
	// Timeout bounds each step of a dialogue (60 s), EndTimeout the answer to the end of a
	// message (5 min: RFC 5321 section 4.5.3.2.6 has 10).
	Timeout, EndTimeout time.Duration
	// Idle is how long an unused connection is kept (50 s).
	Idle time.Duration
	// MaxIdle is how many of them are kept for a host (2), Reuse how many messages one
	// carries; 0 or less is no limit.
	MaxIdle, Reuse int
	// Port is used where none is named (25).
	Port int
}

// Client sends. Make one with New.
type Client struct {
	opt Options

	secured [Authenticated + 1]atomic.Int64
	vouched [outbound.ByDANE + 1]atomic.Int64

	mu     sync.Mutex // guards the fields below
	idle   map[key][]*conn
	kept   int
	closed bool
}

// key is what connections must have in common to be used for each other's messages.
type key struct {
	host  string
	port  int
	level outbound.Level
	named bool
}

const (
	maxKept    = 100 // idle connections in all
	maxPerHost = 2
)

// Security is how safe a connection is.
type Security uint8

// The kinds.
const (
	Clear         Security = iota // no TLS
	Encrypted                     // TLS with any certificate
	Authenticated                 // TLS with a certificate that was checked
)

// Connections counts connections since the start, by how safe they are and by what
// vouched for the host.
func (c *Client) Connections() (by map[Security]int64, vouched map[outbound.By]int64) {
	by, vouched = make(map[Security]int64), make(map[outbound.By]int64)
	for i := range c.secured {
		by[Security(i)] = c.secured[i].Load()
	}
	for i := range c.vouched {
		vouched[outbound.By(i)] = c.vouched[i].Load()
	}
	return by, vouched
}

// New checks o.
func New(o Options) (*Client, error) {
	switch {
	case o.Dialer == nil:
		return nil, errors.New("smtpsend: no dialer")
	case o.Hostname == nil:
		return nil, errors.New("smtpsend: no host name")
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.EndTimeout <= 0 {
		o.EndTimeout = 5 * time.Minute
	}
	if o.Idle <= 0 {
		o.Idle = 50 * time.Second
	}
	if o.MaxIdle <= 0 {
		o.MaxIdle = maxPerHost
	}
	if o.Port == 0 {
		o.Port = 25
	}
	return &Client{opt: o, idle: make(map[key][]*conn)}, nil
}

// hello is the name in EHLO (RFC 5321 section 4.1.3).
func (c *Client) hello() string {
	name := c.opt.Hostname()
	d, err := address.ParseDomain(name)
	if err != nil {
		return "localhost"
	}
	if ip, ok := d.IP(); ok && ip.IsValid() {
		return string(d)
	}
	return d.Host()
}

// Deliver implements outbound.Transport.
func (c *Client) Deliver(ctx context.Context, t outbound.Target, l *outbound.Letter) []outbound.Outcome {
	if t.Port == 0 {
		t.Port = c.opt.Port
	}
	outs := outbound.Every(l, outbound.Outcome{})
	todo := make([]int, len(l.To))
	for i := range todo {
		todo[i] = i
	}
	fill := func(o outbound.Outcome) []outbound.Outcome {
		for _, i := range todo {
			outs[i] = o
		}
		return outs
	}
	k := key{t.Host, t.Port, t.TLS.Level, t.Named}
	if t.TLS.Verify != nil {
		k.level = 255 // decided for one destination; never shared
	}
	cn := c.take(k)
	for fresh := cn == nil; len(todo) > 0; {
		if cn == nil {
			var out *outbound.Outcome
			if cn, out = c.connect(ctx, t); out != nil {
				return fill(*out)
			}
		}
		some, rest := todo, []int(nil)
		if len(some) > maxTransaction {
			some, rest = todo[:maxTransaction], todo[maxTransaction:]
		}
		res := cn.send(ctx, l, some)
		if res.stale && !fresh { // it was closed while it lay idle; nothing was lost
			cn.close()
			cn, fresh = nil, true
			continue
		}
		fresh = true
		var again []int
		for j, i := range some {
			if outs[i] = res.outs[j]; res.again[j] {
				again = append(again, i)
			}
		}
		progress := len(again) < len(some)
		todo = append(again, rest...)
		if res.broken {
			cn.close()
			cn = nil
			if len(todo) > 0 && !res.delivered {
				for _, i := range rest {
					outs[i] = res.outs[0]
				}
				return outs
			}
		}
		if !progress {
			break
		}
	}
	if cn != nil {
		c.keep(k, cn)
	}
	return outs
}

// take returns an idle connection, or nil.
func (c *Client) take(k key) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.idle[k]
	for len(list) > 0 {
		cn := list[len(list)-1]
		list = list[:len(list)-1]
		c.kept--
		if cn.timer.Stop() {
			c.set(k, list)
			return cn
		}
		// Its time is over; whoever is told closes it.
	}
	c.set(k, list)
	return nil
}

func (c *Client) set(k key, list []*conn) {
	if len(list) == 0 {
		delete(c.idle, k)
	} else {
		c.idle[k] = list
	}
}

// keep puts a connection aside for the next message.
func (c *Client) keep(k key, cn *conn) {
	c.mu.Lock()
	if k.level == 255 || c.closed || c.kept >= maxKept || len(c.idle[k]) >= c.opt.MaxIdle || c.opt.Reuse > 0 && cn.used >= c.opt.Reuse {
		c.mu.Unlock()
		cn.quit(false)
		return
	}
	defer c.mu.Unlock()
	c.idle[k] = append(c.idle[k], cn)
	c.kept++
	cn.timer = time.AfterFunc(c.opt.Idle, func() {
		c.mu.Lock()
		list := c.idle[k]
		for i, other := range list {
			if other == cn {
				c.set(k, append(list[:i:i], list[i+1:]...))
				c.kept--
				break
			}
		}
		c.mu.Unlock()
		cn.quit(true)
	})
}

// Close closes idle connections; those in use are closed after their message.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	var all []*conn
	for k, list := range c.idle {
		for _, cn := range list {
			if cn.timer.Stop() {
				all = append(all, cn)
			}
		}
		delete(c.idle, k)
	}
	c.kept = 0
	c.mu.Unlock()
	for _, cn := range all {
		cn.quit(false)
	}
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

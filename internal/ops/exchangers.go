package ops

import (
	"context"
	"time"

	"madmail/internal/exchange"
)

// Exchanger is a box that mail is fetched from.
type Exchanger struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	TokenSet bool   `json:"token_set"`
	Enabled  bool   `json:"enabled"`
	Interval int64  `json:"poll_interval"` // seconds
	LastPoll string `json:"last_poll_at"`  // of the last answer, RFC 3339, or ""
	Error    string `json:"last_error,omitempty"`
	Received int64  `json:"received_total"`
}

// ExchangerChange adds or changes an exchanger; nil leaves a value.
type ExchangerChange struct {
	Name     string  `json:"name"`
	URL      *string `json:"url"`
	Token    *string `json:"token"`
	Enabled  *bool   `json:"enabled"`
	Interval *int64  `json:"poll_interval"` // seconds
}

// ExchangerName names an exchanger.
type ExchangerName struct {
	Name string `json:"name"`
}

func (d *Desk) defineExchangers(t Table) {
	Define(t, "exchangers.list", "List where mail is fetched", d.exchangers)
	Define(t, "exchangers.add", "Fetch mail from one more exchanger", d.exchangerAdd)
	Define(t, "exchangers.set", "Change an exchanger", d.exchangerSet)
	Define(t, "exchangers.remove", "Fetch no mail from an exchanger any more", d.exchangerRemove)
}

func exchanger(x exchange.Exchanger) Exchanger {
	return Exchanger{Name: x.Name, URL: x.URL, TokenSet: x.Token != "", Enabled: x.Enabled, Interval: int64(x.Interval / time.Second),
		LastPoll: stamp(x.LastPoll), Error: x.LastError, Received: x.Received}
}

func (d *Desk) exchangers(context.Context, none) (map[string][]Exchanger, error) {
	list := []Exchanger{}
	for _, x := range d.Exchangers.List() {
		list = append(list, exchanger(x))
	}
	return map[string][]Exchanger{"exchangers": list}, nil
}

// NearestInterval returns the nearest number of seconds at which an exchanger can be
// asked, and the usual one for what is none.
func NearestInterval(n int64) int64 {
	if n <= 0 {
		return int64(exchange.DefaultInterval / time.Second)
	}
	return min(max(n, int64(exchange.MinInterval/time.Second)), int64(exchange.MaxInterval/time.Second))
}

// seconds is an interval of at most a day, or what check will refuse.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(n, -1), 1<<30)) * time.Second
}

func (d *Desk) exchangerAdd(ctx context.Context, p ExchangerChange) (Exchanger, error) {
	x := exchange.Exchanger{Name: p.Name, Enabled: p.Enabled == nil || *p.Enabled}
	if p.URL != nil {
		x.URL = *p.URL
	}
	if p.Token != nil {
		x.Token = *p.Token
	}
	if p.Interval != nil {
		x.Interval = seconds(*p.Interval)
	}
	if err := d.Exchangers.Add(ctx, x); err != nil {
		return Exchanger{}, err
	}
	x, err := d.Exchangers.Get(x.Name)
	return exchanger(x), err
}

func (d *Desk) exchangerSet(ctx context.Context, p ExchangerChange) (Exchanger, error) {
	c := exchange.Change{URL: p.URL, Token: p.Token, Enabled: p.Enabled}
	if p.Interval != nil {
		n := seconds(*p.Interval)
		c.Interval = &n
	}
	if err := d.Exchangers.Set(ctx, p.Name, c); err != nil {
		return Exchanger{}, err
	}
	x, err := d.Exchangers.Get(p.Name)
	return exchanger(x), err
}

func (d *Desk) exchangerRemove(ctx context.Context, p ExchangerName) (ExchangerName, error) {
	return p, d.Exchangers.Remove(ctx, p.Name)
}

package resolve

import (
	"container/list"
	"time"

	"github.com/miekg/dns"
)

// question is what a cache entry answers: a lower-case name without its final dot.
type question struct {
	name string
	typ  uint16
}

// outcome is an answer to a question: records, or an error, for some time.
type outcome struct {
	rrs       []dns.RR // of the type asked for
	authentic bool
	err       error
	asked     time.Time
	ttl       time.Duration
}

// overhead is about what an entry costs beside its records, in octets.
const overhead = 400

func (o *outcome) cost(q question) int {
	n := overhead + 2*len(q.name)
	for _, rr := range o.rrs {
		n += 64 + 2*dns.Len(rr)
	}
	return n
}

// cache keeps outcomes, the least recently used of which go first. Its user locks.
type cache struct {
	maxEntries, maxBytes int
	entries              map[question]*list.Element
	order                *list.List // front: used last
	bytes                int
}

type entry struct {
	q    question
	o    *outcome
	cost int
}

func newCache(entries, bytes int) *cache {
	return &cache{maxEntries: entries, maxBytes: bytes, entries: make(map[question]*list.Element), order: list.New()}
}

// get returns what is known at now and was asked after since.
func (c *cache) get(q question, now, since time.Time) *outcome {
	el := c.entries[q]
	if el == nil {
		return nil
	}
	e := el.Value.(*entry)
	if now.Sub(e.o.asked) >= e.o.ttl {
		c.remove(el)
		return nil
	}
	if e.o.asked.Before(since) {
		return nil
	}
	c.order.MoveToFront(el)
	return e.o
}

// put keeps o unless it lives for no time or is too large.
func (c *cache) put(q question, o *outcome) {
	if el := c.entries[q]; el != nil {
		c.remove(el)
	}
	cost := o.cost(q)
	if o.ttl <= 0 || cost > c.maxBytes/16 {
		return
	}
	c.entries[q] = c.order.PushFront(&entry{q, o, cost})
	c.bytes += cost
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.entries, e.q)
	c.bytes -= e.cost
}

func (c *cache) clear() {
	clear(c.entries)
	c.order.Init()
	c.bytes = 0
}

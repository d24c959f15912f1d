package load

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Figure is one measured number.
type Figure struct {
	Scenario, Name, Unit string
	Value                float64
}

// cpu returns the processor time that the server has used, 0 when it is not known.
func (t Target) cpu() time.Duration { return cpuOf(t.PID) }

// rss returns the server's resident memory in octets.
func (t Target) rss() int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.PID))
	if err != nil {
		return 0
	}
	for _, l := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

func (t Target) syncs() int64 {
	if t.Counter == nil {
		return 0
	}
	return t.Counter()["journal_syncs"]
}

func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[min(len(d)-1, int(q*float64(len(d))))]) / float64(time.Millisecond)
}

// together runs f for i below n at once and joins their errors.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// pair is a sender and the idle receiver that it writes to.
type pair struct {
	to      []string
	from    *Sender
	reader  *Reader
	msg     []byte
	exists  []time.Duration // from the reference time to the wake-up
	fetched []time.Duration // and to the fetched body
}

// pairs connects n of them.
func (t Target) pairs(n, size int) (list []*pair, stop func(), err error) {
	list = make([]*pair, n)
	for i := range list {
		list[i] = &pair{to: []string{t.address(fmt.Sprintf("receiver%04d", i))}}
	}
	stop = func() {
		for _, p := range list {
			if p.from != nil {
				p.from.Close()
			}
			if p.reader != nil {
				p.reader.Close()
			}
		}
	}
	err = together(n, func(i int) (err error) {
		p := list[i]
		if p.reader, err = t.Login(fmt.Sprintf("receiver%04d", i)); err != nil {
			return err
		}
		if err := p.reader.Compress(); err != nil {
			return err
		}
		lines, err := p.reader.Do("SELECT INBOX")
		if err != nil {
			return err
		}
		for _, l := range lines {
			_, _ = fmt.Sscanf(l, "* OK [UIDNEXT %d]", &p.reader.next)
		}
		if err := p.reader.Idle(); err != nil {
			return err
		}
		if p.from, err = t.NewSender(fmt.Sprintf("sender%06d", i)); err == nil {
			p.msg = Message(p.from.from, size)
		}
		return err
	})
	return list, stop, err
}

// exchange sends one message and has it fetched and deleted. Times count from since,
// or from the end of DATA when that is zero.
func (p *pair) exchange(since time.Time) error {
	var sent time.Time
	ready := make(chan error, 1)
	go func() { // ends with the answer
		var err error
		sent, err = p.from.Send(p.to, p.msg)
		ready <- err
	}()
	if err := p.reader.Wait(); err != nil {
		return err
	}
	woken := time.Now()
	k, err := p.reader.Take()
	done := time.Now()
	if serr := <-ready; serr != nil || err != nil || k != 1 {
		return fmt.Errorf("load: fetched %d messages: %w", k, errors.Join(serr, err))
	}
	if since.IsZero() {
		since = sent
	}
	p.exists = append(p.exists, woken.Sub(since))
	p.fetched = append(p.fetched, done.Sub(since))
	if err := p.reader.Delete(); err != nil {
		return err
	}
	return p.reader.Idle()
}

// times are all that was measured.
func times(list []*pair) (exists, fetched []time.Duration) {
	for _, p := range list {
		exists = append(exists, p.exists...)
		fetched = append(fetched, p.fetched...)
	}
	return exists, fetched
}

// Pairs lets n senders each write to one idle receiver, who fetches and deletes
// every message before the next is sent, for d.
func (t Target) Pairs(n, size int, d time.Duration) ([]Figure, error) {
	name := fmt.Sprintf("%d pairs, %d octets", n, size)
	list, stop, err := t.pairs(n, size)
	defer stop()
	if err != nil {
		return nil, err
	}
	cpu, syncs, start := t.cpu(), t.syncs(), time.Now()
	err = together(n, func(i int) error {
		for time.Since(start) < d {
			if err := list[i].exchange(time.Time{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	e, f := times(list)
	count := float64(len(e))
	return []Figure{
		{name, "messages", "msg/s", count / took.Seconds()},
		{name, "end of DATA to EXISTS, p50", "ms", quantile(e, .5)},
		{name, "end of DATA to EXISTS, p99", "ms", quantile(e, .99)},
		{name, "end of DATA to body fetched, p50", "ms", quantile(f, .5)},
		{name, "end of DATA to body fetched, p99", "ms", quantile(f, .99)},
		{name, "server CPU per message", "ms", float64(t.cpu()-cpu) / count / float64(time.Millisecond)},
		{name, "syncs per message", "", float64(t.syncs()-syncs) / count},
	}, nil
}

// openPairs is how many pairs share the messages of an open loop.
const openPairs = 16

// Open sends perSecond messages a second, whatever the server does, for d: each has
// its moment, and the time counts from there, also while the one before is awaited.
func (t Target) Open(perSecond, size int, d time.Duration) ([]Figure, error) {
	name := fmt.Sprintf("open loop, %d messages a second, %d octets", perSecond, size)
	list, stop, err := t.pairs(openPairs, size)
	defer stop()
	if err != nil {
		return nil, err
	}
	total := int(d.Seconds() * float64(perSecond))
	start := time.Now().Add(50 * time.Millisecond)
	err = together(openPairs, func(i int) error {
		for k := i; k < total; k += openPairs {
			at := start.Add(time.Duration(k) * time.Second / time.Duration(perSecond))
			time.Sleep(time.Until(at))
			if err := list[i].exchange(at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	e, f := times(list)
	return []Figure{
		{name, "moment of sending to EXISTS, p50", "ms", quantile(e, .5)},
		{name, "moment of sending to EXISTS, p99", "ms", quantile(e, .99)},
		{name, "moment of sending to body fetched, p50", "ms", quantile(f, .5)},
		{name, "moment of sending to body fetched, p99", "ms", quantile(f, .99)},
	}, nil
}

// Submit lets n senders submit as fast as they can, with to recipients each.
func (t Target) Submit(n, to, size int, d time.Duration) ([]Figure, error) {
	name := fmt.Sprintf("submit, %d senders, %d recipients", n, to)
	senders := make([]*Sender, n)
	defer func() {
		for _, s := range senders {
			if s != nil {
				s.Close()
			}
		}
	}()
	if err := together(n, func(i int) (err error) {
		senders[i], err = t.NewSender(fmt.Sprintf("sender%06d", i))
		return err
	}); err != nil {
		return nil, err
	}
	counts := make([]int, n)
	cpu, syncs, start := t.cpu(), t.syncs(), time.Now()
	if err := together(n, func(i int) error {
		var rcpt []string
		for k := range to {
			rcpt = append(rcpt, t.address(fmt.Sprintf("member%06d", i*to+k)))
		}
		msg := Message(senders[i].from, size)
		for time.Since(start) < d {
			if _, err := senders[i].Send(rcpt, msg); err != nil {
				return err
			}
			counts[i]++
		}
		return nil
	}); err != nil {
		return nil, err
	}
	took := time.Since(start)
	sum := 0
	for _, c := range counts {
		sum += c
	}
	m, copies := float64(sum), float64(sum*to)
	return []Figure{
		{name, "messages", "msg/s", m / took.Seconds()},
		{name, "copies", "1/s", copies / took.Seconds()},
		{name, "server CPU per copy", "ms", float64(t.cpu()-cpu) / copies / float64(time.Millisecond)},
		{name, "syncs per message", "", float64(t.syncs()-syncs) / m},
	}, nil
}

// Register makes accounts by logging in, at most max of them.
func (t Target) Register(prefix string, n, max int, d time.Duration) ([]Figure, error) {
	return t.logins("first logins (accounts made just in time)", n, max, d, func(i, k int) string { return fmt.Sprintf("%s%02dx%06d", prefix, i, k) })
}

// Warm logs into known accounts, selects INBOX and leaves.
func (t Target) Warm(n int, d time.Duration) ([]Figure, error) {
	return t.logins("login, SELECT, logout of known accounts", n, 1<<30, d, func(i, k int) string { return fmt.Sprintf("receiver%04d", i) })
}

func (t Target) logins(name string, n, max int, d time.Duration, user func(i, k int) string) ([]Figure, error) {
	counts := make([]int, n)
	cpu, start := t.cpu(), time.Now()
	if err := together(n, func(i int) error {
		for k := 0; k < max/n && time.Since(start) < d; k++ {
			r, err := t.Login(user(i, k))
			if err != nil {
				return err
			}
			_, err = r.Do("SELECT INBOX")
			if err == nil {
				_, err = r.Do("LOGOUT")
			}
			r.Close()
			if err != nil {
				return err
			}
			counts[i]++
		}
		return nil
	}); err != nil {
		return nil, err
	}
	took, sum := time.Since(start), 0
	for _, c := range counts {
		sum += c
	}
	return []Figure{
		{name, fmt.Sprintf("%d at once", n), "1/s", float64(sum) / took.Seconds()},
		{name, "server CPU each", "ms", float64(t.cpu()-cpu) / float64(sum) / float64(time.Millisecond)},
	}, nil
}

// Idle opens n idle connections with COMPRESS and reports the server's memory
// for each, and how long a wake-up takes among them.
func (t Target) Idle(n int) ([]Figure, error) {
	name := fmt.Sprintf("%d idle TLS connections, COMPRESS on", n)
	before := t.rss()
	readers := make([]*Reader, n)
	defer func() {
		for _, r := range readers {
			if r != nil {
				r.Close()
			}
		}
	}()
	const at = 16
	if err := together(at, func(w int) (err error) {
		for i := w; i < n; i += at {
			if readers[i], err = t.Login(fmt.Sprintf("idle%06d", i)); err != nil {
				return err
			}
			// One compressor for all would mix them up; a plain stored block is enough here.
			if _, err = readers[i].Do("SELECT INBOX"); err != nil {
				return err
			}
			if err = readers[i].Compress(); err != nil {
				return err
			}
			if err = readers[i].Idle(); err != nil {
				return err
			}
			readers[i].z = nil // its window is the load's, not the server's, memory
		}
		return nil
	}); err != nil {
		return nil, err
	}
	time.Sleep(3 * time.Second) // let the server's collector finish
	after := t.rss()
	s, err := t.NewSender("sender000000")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var wake []time.Duration
	for k := range min(n, 200) {
		i := k * (n / min(n, 200))
		sent := make(chan time.Time, 1)
		failed := make(chan error, 1)
		go func() { // ends with the answer
			at, err := s.Send([]string{t.address(fmt.Sprintf("idle%06d", i))}, Message(s.from, 1500))
			sent <- at
			failed <- err
		}()
		if err := readers[i].Wait(); err != nil {
			return nil, err
		}
		woken := time.Now()
		wake = append(wake, woken.Sub(<-sent))
		if err := <-failed; err != nil {
			return nil, err
		}
	}
	return []Figure{
		{name, "resident memory each", "KiB", float64(after-before) / float64(n) / 1024},
		{name, "wake-up p50", "ms", quantile(wake, .5)},
		{name, "wake-up p99", "ms", quantile(wake, .99)},
	}, nil
}

// Rest leaves a server alone and reports its memory and the processor time that it
// takes meanwhile.
func (t Target) Rest(d time.Duration) []Figure {
	time.Sleep(3 * time.Second) // let its start and its collector finish
	before := t.cpu()
	time.Sleep(d)
	return []Figure{
		{Name: "resident memory", Unit: "MiB", Value: float64(t.rss()) / (1 << 20)},
		{Name: "processor time", Unit: "ms/s", Value: float64(t.cpu()-before) / float64(time.Millisecond) / d.Seconds()},
	}
}

// Fill makes the accounts of a pattern below n and puts messages into each.
func (t Target) Fill(pattern string, n, messages int) error {
	if err := t.Ensure(pattern, n); err != nil {
		return err
	}
	const each = 50 // recipients of a message
	return together(8, func(w int) error {
		s, err := t.NewSender(fmt.Sprintf("filler%04d", w))
		if err != nil {
			return err
		}
		defer s.Close()
		msg := Message(s.from, 1500)
		for first := w * each; first < n; first += 8 * each {
			var rcpt []string
			for i := first; i < min(first+each, n); i++ {
				rcpt = append(rcpt, t.address(fmt.Sprintf(pattern, i)))
			}
			for range messages {
				if _, err := s.Send(rcpt, msg); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Ensure makes the accounts of a pattern below n exist.
func (t Target) Ensure(pattern string, n int) error {
	return together(8, func(w int) error {
		for i := w; i < n; i += 8 {
			r, err := t.Login(fmt.Sprintf(pattern, i))
			if err != nil {
				return err
			}
			r.Close()
		}
		return nil
	})
}

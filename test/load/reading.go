package load

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"
)

// Prefetch fills a mailbox with count messages and measures what a client does
// with it that comes back: SELECT, its question about the last messages, and the
// messages themselves.
func (t Target) Prefetch(count, size int) ([]Figure, error) {
	const user, writers = "hoarder000", 16
	if err := t.Ensure("hoarder%03d", 1); err != nil {
		return nil, err
	}
	err := together(writers, func(i int) error {
		s, err := t.NewSender(fmt.Sprintf("hoardwriter%03d", i))
		if err != nil {
			return err
		}
		defer s.Close()
		msg := Message(s.from, size)
		for k := i; k < count; k += writers {
			if _, err := s.Send([]string{t.address(user)}, msg); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := t.Login(user)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	last := func(n int, items string) (time.Duration, error) {
		start := time.Now()
		lines, err := r.Do(fmt.Sprintf("UID FETCH %d:%d (%s)", count-n+1, count, items))
		if err == nil && len(lines) != n {
			err = fmt.Errorf("load: %d messages in the answer about the last %d", len(lines), n)
		}
		return time.Since(start), err
	}
	const ask = "UID RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID DATE FROM CONTENT-TYPE SECURE-JOIN CHAT-VERSION CHAT-IS-POST-MESSAGE)]"
	var selects, asks []time.Duration
	for range 50 {
		start := time.Now()
		if _, err := r.Do("SELECT INBOX"); err != nil {
			return nil, err
		}
		selects = append(selects, time.Since(start))
		took, err := last(200, ask)
		if err != nil {
			return nil, err
		}
		asks = append(asks, took)
	}
	var thousand, bodies []time.Duration
	for range 50 {
		took, err := last(1000, ask)
		if err != nil {
			return nil, err
		}
		thousand = append(thousand, took)
		if took, err = last(1000, "UID FLAGS BODY.PEEK[]"); err != nil {
			return nil, err
		}
		bodies = append(bodies, took)
	}
	first := thousand[0]
	name := fmt.Sprintf("mailbox of %d messages", count)
	return []Figure{
		{name, "SELECT p50", "ms", quantile(selects, 0.5)},
		{name, "SELECT p99", "ms", quantile(selects, 0.99)},
		{name, "prefetch of 200 p50", "ms", quantile(asks, 0.5)},
		{name, "prefetch of 200 p99", "ms", quantile(asks, 0.99)},
		{name, "prefetch of 1,000, the first", "ms", quantile([]time.Duration{first}, 0.5)},
		{name, "prefetch of 1,000, later", "ms", quantile(thousand, 0.5)},
		{name, "fetching 1,000 messages", "msg/s", 1e6 / quantile(bodies, 0.5)},
	}, nil
}

// Fetch reads whole large messages for d and compares what the server spends on
// an octet with what writing it to a TLS connection costs alone.
func (t Target) Fetch(size int, d time.Duration) ([]Figure, error) {
	const user = "bulkreader"
	r, err := t.Login(user)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s, err := t.NewSender("bulkwriter")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.Send([]string{t.address(user)}, Message(s.from, size)); err != nil {
		return nil, err
	}
	if _, err := r.Do("SELECT INBOX"); err != nil {
		return nil, err
	}
	floor, err := encryption(d / 2)
	if err != nil {
		return nil, err
	}
	_ = r.conn.SetDeadline(time.Now().Add(2 * d))
	cpu, start, octets := t.cpu(), time.Now(), 0.0
	peak := int64(0)
	for time.Since(start) < d {
		if _, err := r.Do("UID FETCH * (FLAGS BODY.PEEK[])"); err != nil {
			return nil, err
		}
		octets += float64(size)
		peak = max(peak, t.rss())
	}
	took := time.Since(start)
	name := fmt.Sprintf("fetch of %d MB", size/1000/1000)
	out := []Figure{{name, "rate", "MB/s", octets / took.Seconds() / 1e6}}
	if spent := t.cpu() - cpu; spent > 0 {
		rate := octets / spent.Seconds() / 1e6
		out = append(out,
			Figure{name, "server", "MB per CPU second", rate},
			Figure{name, "TLS alone", "MB per CPU second", floor},
			Figure{name, "share of TLS alone", "%", 100 * rate / floor},
			Figure{name, "RSS of the server", "MiB", float64(peak) / (1 << 20)})
	}
	return out, nil
}

// encryption returns how many MB of fresh octets a CPU second writes to a TLS
// connection on loopback, socket included.
func encryption(d time.Duration) (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	type result struct {
		rate float64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		rate, err := writer(l, d)
		done <- result{rate, err}
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if _, err := io.Copy(io.Discard, c); err != nil {
		return 0, err
	}
	r := <-done
	return r.rate, r.err
}

func writer(l net.Listener, d time.Duration) (float64, error) {
	conn, err := l.Accept()
	if err != nil {
		return 0, err
	}
	cert, err := certificate()
	if err != nil {
		return 0, err
	}
	c := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}})
	defer c.Close()
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	// The CPU time is read by thread. It runs where the server does, and the
	// reader elsewhere, as with the server: loopback is cheaper within one CPU.
	runtime.LockOSThread()
	defer pinThread(0)()
	chunk := make([]byte, 16<<10)
	var octets float64
	before := threadCPU()
	for start := time.Now(); time.Since(start) < d; {
		for range 64 {
			if _, err := c.Write(chunk); err != nil {
				return 0, err
			}
			octets += float64(len(chunk))
		}
	}
	return octets / (threadCPU() - before).Seconds() / 1e6, nil
}

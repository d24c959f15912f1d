package load

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
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

// Fetch reads whole large messages for about d and compares what the server spends
// on them with what alone spends on as many octets: a process that ServeZeros. The
// two take turns with the same client, and the median of the pairs counts: others on
// the machine slow both down.
func (t Target) Fetch(size int, d time.Duration, alone Zeros) ([]Figure, error) {
	const user, times, leastPairs = "bulkreader", 8, 9
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
	z, err := greeted(alone.Addr, false)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	read := func(r *Reader, pid int) (spent, took time.Duration, err error) {
		before, start := cpuOf(pid), time.Now()
		for range times {
			if _, err := r.Do("UID FETCH * (FLAGS BODY.PEEK[])"); err != nil {
				return 0, 0, err
			}
		}
		return cpuOf(pid) - before, time.Since(start), nil
	}
	// MB per second in the time that times messages take.
	rate := func(took float64) float64 { return times * float64(size) / took * 1e3 }
	var takes, costs, floors, shares []float64 // times in ns
	peak := int64(0)
	for start, n := time.Now(), -1; n < leastPairs || time.Since(start) < d; n++ {
		floor, _, err := read(z, alone.PID)
		if err != nil {
			return nil, err
		}
		cost, took, err := read(r, t.PID)
		if err != nil {
			return nil, err
		}
		peak = max(peak, t.rss())
		if n < 0 { // neither is warm
			continue
		}
		takes, costs, floors = append(takes, float64(took)), append(costs, float64(cost)), append(floors, float64(floor))
		if cost > 0 {
			shares = append(shares, 100*float64(floor)/float64(cost))
		}
	}
	name := fmt.Sprintf("fetch of %d MB", size/1000/1000)
	out := []Figure{{name, "rate", "MB/s", rate(median(takes))}}
	if len(shares) == len(costs) && alone.PID != 0 {
		out = append(out,
			Figure{name, "server", "MB per CPU second", rate(median(costs))},
			Figure{name, "TLS alone", "MB per CPU second", rate(median(floors))},
			Figure{name, "share of TLS alone", "%", median(shares)},
			Figure{name, "RSS of the server", "MiB", float64(peak) / (1 << 20)})
	}
	return out, nil
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// Zeros is a process that ServeZeros.
type Zeros struct {
	Addr string // host:port
	PID  int
}

// ServeZeros answers each line from a TLS connection as an IMAP server would that
// spends nothing on a FETCH but encryption and the socket: with a message of size
// zeros, written a record at a time. It goes on until l is closed.
func ServeZeros(l net.Listener, size int) error {
	cert, err := certificate()
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		// A client that goes away ends its connection alone.
		_ = writeZeros(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}}), size)
		conn.Close()
	}
}

func writeZeros(conn net.Conn, size int) error {
	if _, err := io.WriteString(conn, "* OK ready\r\n"); err != nil {
		return err
	}
	record := make([]byte, 16<<10)
	for lines := bufio.NewReader(conn); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		tag, _, _ := strings.Cut(line, " ")
		if _, err := fmt.Fprintf(conn, "* 1 FETCH (BODY[] {%d}\r\n", size); err != nil {
			return err
		}
		for left := size; left > 0; left -= len(record) {
			if _, err := conn.Write(record[:min(left, len(record))]); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(conn, ")\r\n%s OK\r\n", tag); err != nil {
			return err
		}
	}
}

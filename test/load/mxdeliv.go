package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// peerDomain is where the messages of Federation come from: an address, so that the
// DNS plays no part.
const peerDomain = "[192.0.2.1]"

// Federation lets n connections of another server bring messages by POST /mxdeliv, one
// at a time each, as fast as they can, for d. Every message is another one: what comes
// twice is stored once.
func (t Target) Federation(n, size int, d time.Duration) ([]Figure, error) {
	name := fmt.Sprintf("/mxdeliv, %d connections, %d octets", n, size)
	if t.HTTPS == "" {
		return nil, errors.New("load: no address for HTTPS")
	}
	counts := make([]int, n)
	clients := make([]*http.Client, n)
	for i := range clients {
		clients[i] = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			DialTLSContext:  func(context.Context, string, string) (net.Conn, error) { return dial(t.HTTPS, false) },
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxConnsPerHost: 1,
		}}
		defer clients[i].CloseIdleConnections()
	}
	cpu, syncs, start := t.cpu(), t.syncs(), time.Now()
	if err := together(n, func(i int) error {
		msg := bytes.TrimSuffix(Message("peer@"+peerDomain, size), []byte(".\r\n"))
		at := bytes.Index(msg, []byte("04478418-"))
		for time.Since(start) < d {
			copy(msg[at:], fmt.Sprintf("%04x%04x", i, counts[i]&0xffff))
			if err := t.bring(clients[i], t.address(fmt.Sprintf("member%06d", i)), msg); err != nil {
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
	m := float64(sum)
	return []Figure{
		{name, "messages", "msg/s", m / took.Seconds()},
		{name, "server CPU per message", "ms", float64(t.cpu()-cpu) / m / float64(time.Millisecond)},
		{name, "syncs per message", "", float64(t.syncs()-syncs) / m},
	}, nil
}

// bring posts one message.
func (t Target) bring(c *http.Client, to string, msg []byte) error {
	r, err := http.NewRequest(http.MethodPost, "https://"+t.HTTPS+"/mxdeliv", bytes.NewReader(msg))
	if err != nil {
		return err
	}
	r.Header["X-Mail-From"], r.Header["X-Mail-To"] = []string{"peer@" + peerDomain}, []string{to}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("load: server said %d %q", resp.StatusCode, text)
	}
	return err
}

// Package irohtest is a client of the relay for tests: one connection, one
// goroutine that reads and one that sends.
package irohtest

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"madmail/internal/irohrelay"
)

// Request is what clients send before frames, to the octet.
const Request = "GET /relay HTTP/1.1\r\nupgrade: iroh derp http\r\nhost: relay.example.org:3340\r\n\r\n"

// Client is a connection to a relay.
type Client struct {
	net.Conn
	ID  irohrelay.NodeID
	Key ed25519.PrivateKey
	r   *bufio.Reader
}

// Key makes a key.
func Key() ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// Dial connects as the owner of key. It waits until the relay knows it, which
// the answer to a ping shows.
func Dial(ctx context.Context, addr string, key ed25519.PrivateKey) (*Client, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c, err := Over(nc, key)
	if err != nil {
		nc.Close()
	}
	return c, err
}

// Over is Dial over a connection that is there.
func Over(nc net.Conn, key ed25519.PrivateKey) (*Client, error) {
	c := &Client{Conn: nc, Key: key, ID: irohrelay.NodeID(key.Public().(ed25519.PublicKey)), r: bufio.NewReaderSize(nc, 4096)}
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return nil, err
	}
	ping := irohrelay.AppendFrame(nil, irohrelay.Ping, []byte("hello..."))
	// Everything at once: clients wait for nothing.
	if _, err := nc.Write(append(irohrelay.AppendClientInfo([]byte(Request), key), ping...)); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(c.r, &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, Status(resp.StatusCode)
	}
	t, p, err := c.Read()
	if err != nil {
		return nil, err
	}
	if t != irohrelay.Pong || string(p) != "hello..." {
		return nil, fmt.Errorf("irohtest: got frame %d %q for a ping", t, p)
	}
	return c, nil
}

// Status is the answer of a relay that turned a client away.
type Status int

// Error says the status.
func (s Status) Error() string { return fmt.Sprintf("irohtest: HTTP status %d", int(s)) }

// Read returns the next frame.
func (c *Client) Read() (irohrelay.Type, []byte, error) { return irohrelay.ReadFrame(c.r) }

// Write sends a frame.
func (c *Client) Write(t irohrelay.Type, payload ...[]byte) error {
	_, err := c.Conn.Write(irohrelay.AppendFrame(nil, t, payload...))
	return err
}

// Send sends a packet.
func (c *Client) Send(to irohrelay.NodeID, packet []byte) error {
	return c.Write(irohrelay.SendPacket, to[:], packet)
}

// Packet returns the next packet and whom it is from. Other frames are errors.
func (c *Client) Packet() (from irohrelay.NodeID, packet []byte, err error) {
	t, p, err := c.Read()
	if err != nil {
		return from, nil, err
	}
	if t != irohrelay.RecvPacket {
		return from, nil, fmt.Errorf("irohtest: got frame %d %q, want a packet", t, p)
	}
	return irohrelay.NodeID(p), p[len(from):], nil
}

// Closed reads until the relay has closed the connection. It fails on a frame.
func (c *Client) Closed() error {
	t, p, err := c.Read()
	if err == nil {
		return fmt.Errorf("irohtest: got frame %d %q, want the end", t, p)
	}
	if err, ok := err.(net.Error); ok && err.Timeout() {
		return err
	}
	return nil
}

var _ io.Closer = (*Client)(nil)

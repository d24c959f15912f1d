// Package httpsend brings messages to other relays by POST /mxdeliv, over HTTPS or
// plain HTTP.
//
// One request carries one message to up to 80 recipients; more take several
// requests. Redirects are not followed. Connections are kept and shared, two per host
// at most. What an answer means is decided by package outbound.
//
// All methods may be called from many goroutines.
package httpsend

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"madmail/internal/outbound"
	"madmail/internal/peers"
)

// Limits of one request: a web server in front of a relay takes about a hundred header
// lines, and little more than 32 KiB of them.
const (
	maxRecipients = 80
	maxHeader     = 24 << 10
	maxAnswer     = 4 << 10 // octets of an answer that are read
	slowest       = 64 << 10
)

// Options are what New needs. Dialer must be set.
type Options struct {
	Dialer *outbound.Dialer
	Roots  *x509.CertPool // authorities; nil means the system's
	// Timeout bounds one request without the time that the body needs (60 s).
	Timeout time.Duration
	// Ports used where none is named (443, 80).
	HTTPSPort, HTTPPort int
	Now                 func() time.Time
}

// Client sends. Make one with New.
type Client struct {
	opt        Options
	transports [2][2]*http.Transport // by "any certificate" and "named"
}

// New checks o.
func New(o Options) (*Client, error) {
	if o.Dialer == nil {
		return nil, errors.New("httpsend: no dialer")
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.HTTPSPort == 0 {
		o.HTTPSPort = 443
	}
	if o.HTTPPort == 0 {
		o.HTTPPort = 80
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Client{opt: o}
	for i := range 2 {
		for j := range 2 {
			t := outbound.TLS{}
			if i == 1 {
				t.Level = outbound.AnyCert
			}
			named := j == 1
			c.transports[i][j] = &http.Transport{
				DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
					return o.Dialer.DialContext(ctx, addr, named)
				},
				TLSClientConfig:        t.Config("", o.Roots), // the name is filled in per host
				TLSHandshakeTimeout:    15 * time.Second,
				ForceAttemptHTTP2:      true,
				DisableCompression:     true,
				MaxConnsPerHost:        2,
				MaxIdleConnsPerHost:    2,
				MaxIdleConns:           200,
				IdleConnTimeout:        55 * time.Second, // official relays close after 60
				MaxResponseHeaderBytes: 32 << 10,
				WriteBufferSize:        32 << 10,
			}
		}
	}
	return c, nil
}

// Close closes idle connections.
func (c *Client) Close() {
	for _, list := range c.transports {
		for _, t := range list {
			t.CloseIdleConnections()
		}
	}
}

// Deliver implements outbound.Transport.
func (c *Client) Deliver(ctx context.Context, t outbound.Target, l *outbound.Letter) []outbound.Outcome {
	if !l.ASCII() {
		return outbound.Every(l, outbound.Outcome{Result: outbound.Failed, Status: "5.6.7", Reply: "HTTP carries no such address", Remote: t.Host})
	}
	outs := make([]outbound.Outcome, 0, len(l.To))
	for len(outs) < len(l.To) {
		header := make(http.Header, 2)
		size := 0
		if !l.From.IsZero() { // the null sender is told by leaving the line out
			header.Set("X-Mail-From", l.From.Wire())
			size += len(l.From.Wire())
		}
		n := 0
		for _, a := range l.To[len(outs):] {
			if size += len("X-Mail-To: \r\n") + len(a.Wire()); n == maxRecipients || n > 0 && size > maxHeader {
				break
			}
			header["X-Mail-To"] = append(header["X-Mail-To"], a.Wire())
			n++
		}
		o := c.post(ctx, t, l.Message, header)
		for range n {
			outs = append(outs, o)
		}
		if o.Result == outbound.Failed { // nor would the next one
			for len(outs) < len(l.To) {
				outs = append(outs, o)
			}
		}
	}
	return outs
}

// post sends one request.
func (c *Client) post(ctx context.Context, t outbound.Target, m *outbound.Message, header http.Header) outbound.Outcome {
	ctx, cancel := context.WithTimeout(ctx, c.opt.Timeout+time.Duration(m.Size()/slowest)*time.Second)
	defer cancel()
	u := url.URL{Scheme: t.By.String(), Host: t.Host, Path: "/mxdeliv"}
	if t.Path != "" {
		p, err := url.Parse(t.Path)
		if err != nil {
			return outbound.Unreachable(t.Host, err)
		}
		u.Path, u.RawPath = p.Path, p.RawPath
	}
	port := t.Port
	switch {
	case port == 0 && t.By == peers.HTTPS:
		port = c.opt.HTTPSPort
	case port == 0:
		port = c.opt.HTTPPort
	}
	u.Host = net.JoinHostPort(t.Host, strconv.Itoa(port))
	if t.By == peers.HTTPS && port == 443 || t.By == peers.HTTP && port == 80 { // as it stands in Host
		u.Host = t.Host
		if net.ParseIP(t.Host) != nil && net.ParseIP(t.Host).To4() == nil {
			u.Host = "[" + t.Host + "]"
		}
	}
	body := func() (io.ReadCloser, error) { return io.NopCloser(m.NewReader()), nil }
	r := (&http.Request{
		Method: http.MethodPost, URL: &u, Host: u.Host, Header: header, ContentLength: m.Size(), GetBody: body,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	r.Body, _ = body()
	header["User-Agent"] = nil
	anyCert, named := 0, 0
	if t.TLS.Level != outbound.Verified {
		anyCert = 1
	}
	if t.Named {
		named = 1
	}
	// Not http.Client: it would follow redirects.
	resp, err := c.transports[anyCert][named].RoundTrip(r)
	if err != nil {
		return outbound.Unreachable(t.Host, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && resp.StatusCode == http.StatusBadRequest {
		return outbound.Unreachable(t.Host, err) // what it meant stands in the body
	}
	return outbound.ClassifyHTTP(t.Host, resp.StatusCode, answer, resp.Header.Get("Retry-After"), c.opt.Now())
}

package outbound

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"madmail/internal/fault"
	"madmail/internal/task"
)

// Dialer connects to hosts found for a destination. The zero value but for Resolver
// is ready.
type Dialer struct {
	Resolver Resolver
	// Self reports whether this server answers there: mail for others must not come
	// back to us. nil: nowhere.
	Self func(netip.AddrPort) bool
	// Timeout bounds name and connection (20 s).
	Timeout time.Duration
	// Local is the address of ours that connections come from; zero leaves it to the
	// system. What it cannot reach, of the other family, is passed over.
	Local netip.Addr
	// IPv4 passes over all addresses of IPv6.
	IPv4 bool
	// Stagger is how long one address has before the next is tried as well (250 ms).
	Stagger time.Duration
}

const maxAddresses = 8

// Dial connects to a host, trying its addresses one after the other, the next also
// when one takes long. named says that the operator named the host; else addresses
// that mean this machine or everybody are passed over.
//
// Errors: fault.Refused when the host is this server or has no address that may be
// used, fault.NotFound when it does not exist, else fault.Busy.
func (d *Dialer) Dial(ctx context.Context, host string, port int, named bool) (net.Conn, error) {
	timeout := d.Timeout
	if timeout <= 0 {
		timeout = 20 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	addrs, err := d.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	var usable []netip.AddrPort
	for _, a := range addrs {
		a = a.Unmap()
		if !named && (a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
			continue
		}
		if a.Is6() && d.IPv4 || d.Local.IsValid() && a.Is4() != d.Local.Unmap().Is4() {
			continue
		}
		to := netip.AddrPortFrom(a, uint16(port))
		if d.Self != nil && d.Self(to) {
			return nil, fault.New(fault.Refused, "this host is this server")
		}
		if usable = append(usable, to); len(usable) == maxAddresses {
			break
		}
	}
	switch {
	case len(addrs) == 0:
		return nil, fault.New(fault.NotFound, "the host has no address")
	case len(usable) == 0:
		return nil, fault.New(fault.Refused, "the host has no address that mail may go to")
	}
	return d.race(ctx, usable)
}

// DialContext dials for HTTP clients; see Dial.
func (d *Dialer) DialContext(ctx context.Context, addr string, named bool) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "connect")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "connect")
	}
	return d.Dial(ctx, host, int(n), named)
}

func (d *Dialer) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	addrs, err := d.Resolver.LookupAddr(ctx, host)
	if err != nil {
		return nil, fault.Wrap(fault.KindOf(err), err, "address")
	}
	return addrs, nil
}

// race returns the first connection that is made and closes the others.
func (d *Dialer) race(ctx context.Context, addrs []netip.AddrPort) (net.Conn, error) {
	stagger := d.Stagger
	if stagger <= 0 {
		stagger = 250 * time.Millisecond
	}
	type result struct {
		conn net.Conn
		err  error
	}
	from := &net.Dialer{KeepAlive: 30 * time.Second}
	if d.Local.IsValid() {
		from.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.Local, 0))
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, len(addrs))
	var group task.Group
	defer func() { // the losers end at once: their context does
		cancel()
		_ = group.Wait(context.Background())
		close(results)
		for r := range results {
			if r.conn != nil {
				_ = r.conn.Close()
			}
		}
	}()
	var errs []error
	running := 0
	next := time.NewTimer(0)
	defer next.Stop()
	for len(addrs) > 0 || running > 0 {
		select {
		case <-next.C:
			if len(addrs) == 0 {
				continue
			}
			to := addrs[0]
			addrs = addrs[1:]
			running++
			group.Go("dial", func() {
				conn, err := from.DialContext(ctx, "tcp", to.String())
				results <- result{conn, err}
			})
			next.Reset(stagger)
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			next.Reset(0)
		}
	}
	return nil, fault.Wrap(fault.Busy, errors.Join(errs...), "connect")
}

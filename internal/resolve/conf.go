package resolve

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"madmail/internal/fault"
)

// confPath is where systems keep the addresses of their name servers.
const confPath = "/etc/resolv.conf"

// maxServers is how many name servers are used, maxConf how much of a file is read.
const (
	maxServers = 8
	maxConf    = 64 << 10
)

// conf is what resolv.conf says that matters here.
type conf struct {
	servers []string // host:port
	trustAD bool
}

// readConf reads the file at path. A missing file is like an empty one: the server
// on this machine is asked, as the C library does.
func readConf(path string) (conf, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return parseConf(strings.NewReader(""))
	}
	if err != nil {
		return conf{}, fault.Wrap(fault.Invalid, err, "resolve")
	}
	defer f.Close()
	return parseConf(f)
}

// parseConf reads the nameserver lines and the option trust-ad; everything else is
// passed over.
func parseConf(r io.Reader) (conf, error) {
	var c conf
	sc := bufio.NewScanner(io.LimitReader(r, maxConf))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if s, err := serverAddr(f[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, s)
			}
		case "options":
			for _, o := range f[1:] {
				if o == "trust-ad" {
					c.trustAD = true
				}
			}
		}
	}
	if err := sc.Err(); err != nil {
		return conf{}, fault.Wrap(fault.Invalid, err, "resolve: read "+confPath)
	}
	if len(c.servers) == 0 {
		c.servers = []string{"127.0.0.1:53", "[::1]:53"}
	}
	return c, nil
}

// serverAddr reads the address of a name server: an IP address with or without a
// port. IPv6 addresses with a port stand in brackets; they may have a zone.
func serverAddr(s string) (string, error) {
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return net.JoinHostPort(ip.String(), "53"), nil
	}
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		if _, err = netip.ParseAddr(host); err == nil {
			var n uint64
			if n, err = strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
				return net.JoinHostPort(host, port), nil
			}
		}
	}
	return "", fault.Newf(fault.Invalid, "%q is not the IP address of a name server, with or without a port", s)
}

// onLoopback reports whether all servers are on this machine.
func onLoopback(servers []string) bool {
	for _, s := range servers {
		ap, err := netip.ParseAddrPort(s)
		if err != nil || !ap.Addr().IsLoopback() {
			return false
		}
	}
	return len(servers) > 0
}

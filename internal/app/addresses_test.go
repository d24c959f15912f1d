//go:build unix

package app

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
)

// TestSeveralAddressesOfOneService: each answers; a change to loopback only and back
// opens and closes what it should (operator specification 2.6).
func TestSeveralAddressesOfOneService(t *testing.T) {
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Logf("IPv6 is not there: %v", err)
	} else {
		l.Close()
		testLoopbackOfBoth(t)
	}
	h := newHouse(t)
	h.lines["imap_listen"] = fmt.Sprintf("%q", fmt.Sprintf("127.0.0.1:%d 127.0.0.2:%d", h.ports["imap"], h.ports["imap"]))
	h.write()
	h.start()
	h.reach("imap", "127.0.0.1", "127.0.0.2")
	h.lines["imap_listen"] = fmt.Sprintf("[\"127.0.0.2:%d\"]", h.ports["imap"])
	h.write()
	h.must("reload", "")
	h.reach("imap", "127.0.0.2")
}

func testLoopbackOfBoth(t *testing.T) {
	h := newHouse(t)
	h.listen("imap", "::", h.ports["imap"])
	h.write()
	h.start()
	h.reach("imap", "::")
	h.must("settings.set", `{"name":"imap_local_only","value":"true"}`)
	h.reach("imap", "127.0.0.1", "::1")
	h.must("settings.set", `{"name":"imap_local_only","value":"false"}`)
	h.reach("imap", "::")
	h.stop()
}

// reach wants a service to be bound to these hosts, and to greet on each.
func (h *house) reach(name string, hosts ...string) {
	h.t.Helper()
	var want, got []string
	for _, host := range hosts {
		want = append(want, net.JoinHostPort(host, fmt.Sprint(h.ports[name])))
	}
	for _, b := range h.Listeners() {
		if b.Name != name {
			continue
		}
		got = append(got, b.Addr)
		conn, err := net.Dial("tcp", strings.Replace(b.Addr, "[::]", "[::1]", 1))
		if err != nil {
			h.t.Errorf("%s: %v", b.Addr, err)
			continue
		}
		line := make([]byte, 4)
		if _, err := conn.Read(line); err != nil || string(line) != "* OK" {
			h.t.Errorf("%s says %q, %v", b.Addr, line, err)
		}
		conn.Close()
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		h.t.Errorf("%s listens on %q, not %q", name, got, want)
	}
}

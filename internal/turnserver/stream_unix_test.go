//go:build unix

package turnserver

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/pion/turn/v5"
)

// A system may give a client the same port for connections to two of ours.
func TestOnePortForTwoConnections(t *testing.T) {
	b := start(t, nil)
	var clients []*turn.Client
	port := 0
	for _, kind := range []string{"tcp", "tls"} {
		dialer := net.Dialer{
			LocalAddr: &net.TCPAddr{IP: loopback.AsSlice(), Port: port},
			Control: func(_, _ string, raw syscall.RawConn) (err error) {
				if e := raw.Control(func(fd uintptr) {
					err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
				}); e != nil {
					err = e
				}
				return err
			},
		}
		to := b.tcp
		if kind == "tls" {
			to = b.tls
		}
		c, err := dialer.Dial("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		port = c.LocalAddr().(*net.TCPAddr).Port
		if kind == "tls" {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		}
		clients = append(clients, b.clientOver(turn.NewSTUNConn(c), to, b.Credentials("", time.Hour)))
	}
	for _, client := range clients {
		relay, err := client.Allocate()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { relay.Close() })
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.Server.clients) != 2 || b.nconns != 2 {
		t.Fatalf("%d connections known, %d counted", len(b.Server.clients), b.nconns)
	}
	for k, c := range b.Server.clients {
		c.mu.Lock()
		if !c.allocated {
			t.Errorf("%v: its allocation went to another", k)
		}
		c.mu.Unlock()
	}
}

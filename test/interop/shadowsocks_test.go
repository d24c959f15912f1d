//go:build interop

package interop

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"madmail/test/testport"
	"madmail/test/testserver"
)

// TestShadowsocksClient reaches IMAP through ss-local, the client of Debian.
func TestShadowsocksClient(t *testing.T) {
	program := tool(t, "ss-local", "shadowsocks-libev")
	for _, cipher := range []string{"aes-128-gcm", "aes-256-gcm", "chacha20-ietf-poly1305"} {
		t.Run(cipher, func(t *testing.T) {
			free := testport.Ports(t, 2)
			s := testserver.New(t, fmt.Sprintf("ss_addr = \"127.0.0.1:%d\"\nss_password = \"our secret\"\nss_cipher = %q\n", free[0], cipher))
			local := exec.Command(program, "-s", "127.0.0.1", "-p", fmt.Sprint(free[0]), "-b", "127.0.0.1", "-l", fmt.Sprint(free[1]), "-k", "our secret", "-m", cipher, "-t", "60")
			var out strings.Builder
			local.Stdout, local.Stderr = &out, &out
			if err := local.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = local.Process.Kill()
				_ = local.Wait()
				if t.Failed() {
					t.Log(out.String())
				}
			})
			for _, host := range []string{"127.0.0.1", "localhost"} {
				conn := socks(t, free[1], host, s.IMAPTLS)
				c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				br := bufio.NewReader(c)
				if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "* OK") {
					t.Fatalf("%q, %v", line, err)
				}
				fmt.Fprint(c, "a LOGIN \"proxied-user@[127.0.0.1]\" \"correct-horse-battery-staple-22\"\r\nb LOGOUT\r\n")
				all, err := io.ReadAll(br)
				if err != nil || !strings.Contains(string(all), "a OK") || !strings.Contains(string(all), "b OK") {
					t.Errorf("%s, %v", all, err)
				}
			}
		})
	}
}

// socks asks a SOCKS5 proxy on loopback for a connection (RFC 1928).
func socks(t *testing.T, port int, host string, target int) net.Conn {
	t.Helper()
	var conn net.Conn
	for end := time.Now().Add(10 * time.Second); ; {
		var err error
		if conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte{5, 1, 0}); err != nil {
		t.Fatal(err)
	}
	head := append([]byte{5, 1, 0, 3, byte(len(host))}, host...)
	answer := make([]byte, 2)
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(head, byte(target>>8), byte(target))); err != nil {
		t.Fatal(err)
	}
	answer = make([]byte, 10)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[1] != 0 {
		t.Fatalf("%v, %v", answer, err)
	}
	return conn
}

package imapserver

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
)

const (
	bulkSize  = 12 << 20 // of the message
	bulkTimes = 16       // that it is fetched
)

// bulkReader fetches the message again and again, or reads what comes of itself. It
// does not decrypt.
func bulkReader(addr, what string) error {
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		return err
	}
	if what == "fetch" {
		var cmds strings.Builder
		fmt.Fprintf(&cmds, "a LOGIN %s \"secret alice\"\r\nb SELECT INBOX\r\n", alice)
		for range bulkTimes {
			cmds.WriteString("c UID FETCH 1 (BODY.PEEK[])\r\n")
		}
		cmds.WriteString("d LOGOUT\r\n")
		if _, err := io.WriteString(conn, cmds.String()); err != nil {
			return err
		}
	}
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{raw}, make([]byte, 256<<10))
	if err == nil && n < bulkTimes*bulkSize*99/100 {
		err = fmt.Errorf("%d octets came", n)
	}
	return err
}

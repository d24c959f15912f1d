// Package invite makes what a person needs to join: login links and their QR
// codes. It knows the form of the links, not whether a login exists.
package invite

import (
	"net/url"
	"strconv"
	"strings"

	"rsc.io/qr"

	"madmail/internal/address"
)

// Server is how clients reach the mail services.
type Server struct {
	Host     string // name or bare IP address
	IMAPPort int
	IMAPTLS  bool // TLS from the start, else STARTTLS
	SMTPPort int
	SMTPTLS  bool
	// AnyCertificate tells clients to accept the certificate as it is. It
	// switches their checks off for good, so only for self-signed ones.
	AnyCertificate bool
}

// Link returns the dclogin: link of an account. Host and ports are always
// named: clients cannot guess them for IP addresses and unusual ports.
func Link(a address.Addr, password string, s Server) string {
	security := func(tls bool) string {
		if tls {
			return "ssl"
		}
		return "starttls"
	}
	var b strings.Builder
	b.WriteString("dclogin:" + a.Wire() + "?p=" + url.QueryEscape(password) + "&v=1")
	b.WriteString("&ih=" + url.QueryEscape(s.Host) + "&ip=" + strconv.Itoa(s.IMAPPort) + "&is=" + security(s.IMAPTLS))
	b.WriteString("&sh=" + url.QueryEscape(s.Host) + "&sp=" + strconv.Itoa(s.SMTPPort) + "&ss=" + security(s.SMTPTLS))
	if s.AnyCertificate {
		b.WriteString("&ic=3")
	}
	return b.String()
}

// PNG returns a QR code as a picture of about 256 pixels.
func PNG(text string) ([]byte, error) {
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		return nil, err
	}
	c.Scale = max(2, 256/(c.Size+8))
	return c.PNG(), nil
}

// Terminal returns a QR code in half blocks, for a terminal.
func Terminal(text string) (string, error) {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for y := -2; y < c.Size+2; y += 2 {
		for x := -2; x < c.Size+2; x++ {
			switch top, bottom := c.Black(x, y), c.Black(x, y+1); {
			case top && bottom:
				b.WriteString(" ")
			case top:
				b.WriteString("▄")
			case bottom:
				b.WriteString("▀")
			default:
				b.WriteString("█")
			}
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}

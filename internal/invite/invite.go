// Package invite makes what a person needs to join: login links and their QR
// codes. It knows the form of the links, not whether a login exists.
package invite

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"net/url"
	"strconv"
	"strings"

	"rsc.io/qr"

	"madmail/internal/address"
	"madmail/internal/fault"
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
	b.WriteString("dclogin:" + inLink.Replace(a.Wire()) + "?p=" + url.QueryEscape(password) + "&v=1")
	b.WriteString("&ih=" + url.QueryEscape(s.Host) + "&ip=" + strconv.Itoa(s.IMAPPort) + "&is=" + security(s.IMAPTLS))
	b.WriteString("&sh=" + url.QueryEscape(s.Host) + "&sp=" + strconv.Itoa(s.SMTPPort) + "&ss=" + security(s.SMTPTLS))
	if s.AnyCertificate {
		b.WriteString("&ic=3")
	}
	return b.String()
}

// inLink escapes what ends an address in a link. Clients take the rest as it
// is, brackets too.
var inLink = strings.NewReplacer("?", "%3F", "#", "%23", "&", "%26")

const (
	// MaxText is the longest text of a QR code, in bytes.
	MaxText = 2048
	side    = 256 // of a picture, in pixels
	quiet   = 4   // modules of white that readers need around a code
)

// PNG returns a QR code as a square picture of 256 pixels, or more when each
// module would have less than two. Errors: fault.TooBig for more than MaxText.
func PNG(text string) ([]byte, error) {
	c, err := encode(text, qr.M)
	if err != nil {
		return nil, err
	}
	scale := max(2, side/(c.Size+2*quiet))
	n := max(side, scale*(c.Size+2*quiet))
	edge := (n - scale*c.Size) / 2
	img := image.NewPaletted(image.Rect(0, 0, n, n), color.Palette{color.White, color.Black})
	for y := range c.Size * scale {
		for x := range c.Size * scale {
			if c.Black(x/scale, y/scale) {
				img.SetColorIndex(x+edge, y+edge, 1)
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return nil, fault.Wrap(fault.Internal, err, "invite: draw a QR code")
	}
	return b.Bytes(), nil
}

func encode(text string, level qr.Level) (*qr.Code, error) {
	if len(text) > MaxText {
		return nil, fault.Newf(fault.TooBig, "a QR code holds at most %d bytes", MaxText)
	}
	c, err := qr.Encode(text, level)
	return c, fault.Wrap(fault.TooBig, err, "invite")
}

// Terminal returns a QR code in half blocks, for a terminal: what is dark in
// the code is left dark. Errors as PNG's.
func Terminal(text string) (string, error) {
	c, err := encode(text, qr.L)
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

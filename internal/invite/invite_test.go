package invite

import (
	"bytes"
	"image/png"
	"net/url"
	"strings"
	"testing"

	"rsc.io/qr"

	"madmail/internal/address"
	"madmail/internal/fault"
)

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestLinksSayHowToConnect compares with the forms that clients were seen to
// take (client contract 1.1).
func TestLinksSayHowToConnect(t *testing.T) {
	loopback := Server{Host: "127.0.0.1", IMAPPort: 39993, IMAPTLS: true, SMTPPort: 39465, SMTPTLS: true, AnyCertificate: true}
	for _, x := range []struct {
		name, addr, password string
		server               Server
		want                 string
	}{
		{"IP address, own certificate", "u1@[127.0.0.1]", "secret", loopback,
			"dclogin:u1@[127.0.0.1]?p=secret&v=1&ih=127.0.0.1&ip=39993&is=ssl&sh=127.0.0.1&sp=39465&ss=ssl&ic=3"},
		{"domain, public certificate, STARTTLS", "alice@example.org", "s", Server{Host: "mx.example.org", IMAPPort: 143, SMTPPort: 587},
			"dclogin:alice@example.org?p=s&v=1&ih=mx.example.org&ip=143&is=starttls&sh=mx.example.org&sp=587&ss=starttls"},
		{"a password of every kind", "alice@example.org", "a&b=c?d#e%f+g/h i:ü", Server{Host: "x.org", IMAPPort: 1, SMTPPort: 2, SMTPTLS: true},
			"dclogin:alice@example.org?p=a%26b%3Dc%3Fd%23e%25f%2Bg%2Fh+i%3A%C3%BC&v=1&ih=x.org&ip=1&is=starttls&sh=x.org&sp=2&ss=ssl"},
		{"IPv6", "u1@[IPv6:2001:db8::1]", "s", Server{Host: "2001:db8::1", IMAPPort: 993, IMAPTLS: true, SMTPPort: 465, SMTPTLS: true},
			"dclogin:u1@[IPv6:2001:db8::1]?p=s&v=1&ih=2001%3Adb8%3A%3A1&ip=993&is=ssl&sh=2001%3Adb8%3A%3A1&sp=465&ss=ssl"},
		{"a name that would end the address", "a?b#c&d@example.org", "s", Server{Host: "x.org", IMAPPort: 1, SMTPPort: 2},
			"dclogin:a%3Fb%23c%26d@example.org?p=s&v=1&ih=x.org&ip=1&is=starttls&sh=x.org&sp=2&ss=starttls"},
	} {
		t.Run(x.name, func(t *testing.T) {
			got := Link(addr(t, x.addr), x.password, x.server)
			if got != x.want {
				t.Errorf("got  %s\nwant %s", got, x.want)
			}
			// Read back as clients do: the address up to the first "?", unescaped.
			who, query, _ := strings.Cut(strings.TrimPrefix(got, "dclogin:"), "?")
			who, err := url.PathUnescape(who)
			if err != nil || who != addr(t, x.addr).Wire() {
				t.Errorf("address %q, %v", who, err)
			}
			keys, err := url.ParseQuery(query)
			if err != nil || keys.Get("p") != x.password || keys.Get("ih") != x.server.Host {
				t.Errorf("keys %v, %v", keys, err)
			}
		})
	}
}

// modules is the code that a picture has to show.
func modules(t testing.TB, text string, level qr.Level) *qr.Code {
	t.Helper()
	c, err := qr.Encode(text, level)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPicturesAreTheCode(t *testing.T) {
	for _, text := range []string{"1", "dcaccount:example.org", strings.Repeat("x", 300), strings.Repeat("x", 1200), strings.Repeat("\xff", MaxText)} {
		data, err := PNG(text)
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		c := modules(t, text, qr.M)
		n := img.Bounds().Dx()
		scale := max(2, 256/(c.Size+8))
		edge := (n - scale*c.Size) / 2
		if n != img.Bounds().Dy() || n < 256 || n > 256 && scale > 2 || edge < 4*scale {
			t.Errorf("%d bytes: %v, %d pixels a module, edge %d", len(text), img.Bounds(), scale, edge)
		}
		dark := func(x, y int) bool { r, _, _, _ := img.At(x, y).RGBA(); return r < 0x8000 }
		for y := range n {
			for x := range n {
				mx, my := (x-edge)/scale, (y-edge)/scale
				if inside := x >= edge && y >= edge; dark(x, y) != (inside && c.Black(mx, my)) {
					t.Fatalf("%d bytes: pixel %d,%d is wrong", len(text), x, y)
				}
			}
		}
	}
}

func TestTerminalsShowTheCode(t *testing.T) {
	text := "dclogin:u1@[127.0.0.1]?p=secret&v=1"
	got, err := Terminal(text)
	if err != nil {
		t.Fatal(err)
	}
	c := modules(t, text, qr.L)
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) < (c.Size+4)/2 {
		t.Fatalf("%d lines for %d modules", len(lines), c.Size)
	}
	for i, line := range lines {
		cells := []rune(line)
		if len(cells) != c.Size+4 {
			t.Fatalf("line %d has %d cells, want %d", i, len(cells), c.Size+4)
		}
		for j, r := range cells {
			x, y := j-2, 2*i-2
			want := map[[2]bool]rune{{true, true}: ' ', {true, false}: '▄', {false, true}: '▀', {false, false}: '█'}[[2]bool{c.Black(x, y), c.Black(x, y+1)}]
			if r != want {
				t.Fatalf("module %d,%d is %q, want %q", x, y, r, want)
			}
		}
	}
}

func TestTooLongForACode(t *testing.T) {
	long := strings.Repeat("x", MaxText+1)
	if _, err := PNG(long); !fault.Is(err, fault.TooBig) {
		t.Error(err)
	}
	if _, err := Terminal(long); !fault.Is(err, fault.TooBig) {
		t.Error(err)
	}
}

func FuzzCodes(f *testing.F) {
	f.Add("")
	f.Add("0123456789")
	f.Add("HTTPS://EXAMPLE.ORG")
	f.Add(strings.Repeat("é", 1024))
	f.Fuzz(func(t *testing.T, text string) {
		data, err := PNG(text)
		if err != nil {
			if len(text) <= MaxText || !fault.Is(err, fault.TooBig) {
				t.Fatalf("%d bytes: %v", len(text), err)
			}
			return
		}
		if _, err := png.DecodeConfig(bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if _, err := Terminal(text); err != nil {
			t.Fatal(err)
		}
	})
}

package message

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPreview(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "A: b\r\n\r\nHello,\r\n\r\n  World!\r\n", "Hello, World!"},
		{"quotations", "A: b\r\n\r\n> you said\r\n>> x\r\nNo.\r\n-- \r\nme\r\n", "No."},
		{"encoded", "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe\r\n", "Grüße"},
		{"alternative", "Content-Type: multipart/alternative; boundary=q\r\n\r\n--q\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n--q\r\n\r\nplain\r\n--q--\r\n", "plain"},
		{"only HTML", "Content-Type: text/html\r\n\r\n<p>x</p>\r\n", ""},
		{"attachment", "Content-Disposition: attachment\r\n\r\nx\r\n", ""},
		{"encrypted", "Content-Type: multipart/encrypted; boundary=q\r\n\r\n--q\r\n\r\nVersion: 1\r\n--q--\r\n", ""},
		{"armored", "A: b\r\n\r\nSee:\r\n-----BEGIN PGP MESSAGE-----\r\n\r\nabc\r\n", "See:"},
		{"a message within", "Content-Type: message/rfc822\r\n\r\nA: b\r\n\r\nnot mine\r\n", ""},
		{"long", "A: b\r\n\r\n" + strings.Repeat("ä", 300), strings.Repeat("ä", MaxPreview)},
		{"no room for a word", "A: b\r\n\r\n" + strings.Repeat("a", MaxPreview-1) + " b", strings.Repeat("a", MaxPreview-1)},
		{"not UTF-8, controls", "A: b\r\n\r\n\xff\x00a\tb\r\n", "\ufffd a b"},
		{"nothing", "A: b\r\n", ""},
	} {
		r := bytes.NewReader([]byte(c.in))
		p, err := ParseStructure(r, r.Size())
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Preview(r)
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func FuzzPreview(f *testing.F) {
	f.Add([]byte("Content-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\nContent-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--q--\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		p, err := ParseStructure(r, r.Size())
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Preview(r)
		if err != nil || !utf8.ValidString(got) || utf8.RuneCountInString(got) > MaxPreview || strings.ContainsAny(got, "\x00\r\n") {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

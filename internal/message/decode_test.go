package message

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
	"testing/iotest"
)

func TestDecode(t *testing.T) {
	for _, c := range []struct{ encoding, in, want string }{
		{"7bit", "a=41", "a=41"}, {"base64", "aGVsbG8=", "hello"}, {"base64", "aGVs\r\nbG8", "hello"}, {"base64", "aGk=aGk=", "hihi"},
		{"base64", "a*G$k=", "hi"}, {"base64", "a", ""}, {"base64", "aA", "h"}, {"base64", "====", ""}, {"base64", "", ""},
		{"quoted-printable", "a=41=3d", "aA="}, {"quoted-printable", "soft=\r\nline", "softline"}, {"quoted-printable", "soft=  \r\nline", "softline"},
		{"quoted-printable", "end \t\r\nnext", "end\r\nnext"}, {"quoted-printable", "a b", "a b"}, {"quoted-printable", "=zz=4", "=zz=4"},
		{"quoted-printable", "a=", "a"}, {"quoted-printable", "==41", "=A"}, {"quoted-printable", "=\nx", "x"}, {"quoted-printable", "= x", "= x"},
		{"quoted-printable", "trailing ", "trailing"}, {"x-unknown", "=41", "=41"},
	} {
		for _, slow := range []bool{false, true} {
			r := Decode(strings.NewReader(c.in), c.encoding)
			if slow {
				r = iotest.OneByteReader(r)
			}
			got, err := io.ReadAll(r)
			if err != nil || string(got) != c.want {
				t.Errorf("%s %q: %q, %v; want %q", c.encoding, c.in, got, err, c.want)
			}
		}
	}
}

func TestDecodeLongTexts(t *testing.T) {
	data := bytes.Repeat([]byte("Grüße =\x00\xff \t. und so weiter \r\n"), 5000)
	var b64, qp bytes.Buffer
	w := base64.NewEncoder(base64.StdEncoding, &b64)
	_, _ = w.Write(data)
	w.Close()
	q := quotedprintable.NewWriter(&qp)
	_, _ = q.Write(data)
	q.Close()
	for enc, r := range map[string]io.Reader{"base64": &b64, "quoted-printable": &qp} {
		got, err := io.ReadAll(Decode(r, enc))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d of %d octets, %v", enc, len(got), len(data), err)
		}
	}
	wantErr := iotest.ErrReader(io.ErrClosedPipe)
	if _, err := io.ReadAll(Decode(wantErr, "base64")); err != io.ErrClosedPipe {
		t.Error(err)
	}
}

func TestCharsets(t *testing.T) {
	for _, c := range []struct{ charset, in, want string }{
		{"ISO-8859-1", "J\xf6rg", "Jörg"}, {"windows-1252", "\x80", "€"}, {"koi8-r", "\xd0", "п"}, {"utf-8", "ö", "ö"}, {"big5", "a\xa4", "a\xa4"},
	} {
		got, err := io.ReadAll(ToUTF8(strings.NewReader(c.in), c.charset))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", c.charset, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("aGVsbG8=", "=41 \r\n=\r\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, s := range []string{a, b} {
			for _, enc := range []string{"base64", "quoted-printable"} {
				whole, err := io.ReadAll(Decode(strings.NewReader(s), enc))
				slow, err2 := io.ReadAll(Decode(iotest.OneByteReader(strings.NewReader(s)), enc))
				if err != nil || err2 != nil || !bytes.Equal(whole, slow) || len(whole) > len(s) {
					t.Fatalf("%s %q: %q and %q", enc, s, whole, slow)
				}
			}
		}
	})
}

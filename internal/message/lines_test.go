package message

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestLinesEndInCRLF(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "\n": "\r\n", "a\nb\r\nc\n\nd": "a\r\nb\r\nc\r\n\r\nd", "\r\r\n\n": "\r\r\n\r\n", "a\rb": "a\rb",
	} {
		for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
			for _, size := range []int{1, 2, 3, 100} {
				var b bytes.Buffer
				if _, err := io.CopyBuffer(&b, struct{ io.Reader }{NewLines(wrap(strings.NewReader(in)))}, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				if b.String() != want {
					t.Errorf("%q by %d: %q", in, size, b.String())
				}
			}
		}
	}
}

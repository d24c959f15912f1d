package inlet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// frame makes a frame of a client.
func frame(first byte, payload string) []byte {
	b := AppendFrame(nil, 0, len(payload))
	b[0], b[1] = first, b[1]|0x80
	mask := [4]byte{0xde, 0xad, 0xbe, 0xef}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i&3])
	}
	return b
}

// flaky gives one octet at a time, and lets a deadline pass before each.
type flaky struct {
	r    io.Reader
	late bool
}

func (f *flaky) Read(p []byte) (int, error) {
	if f.late = !f.late; f.late {
		return 0, os.ErrDeadlineExceeded
	}
	return f.r.Read(p[:min(1, len(p))])
}

// read tells what comes out of in, and how it ends.
func read(in io.Reader) string {
	f := Frames{From: in}
	var out strings.Builder
	p := make([]byte, 1000)
	for {
		var n int
		var err error
		if f.Left == 0 {
			if err = f.Next(); err == nil {
				fmt.Fprintf(&out, "[%d %v %d]", f.Op, f.Final, f.Left)
			}
		} else {
			n, err = f.Payload(p)
			out.Write(p[:n])
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			fmt.Fprintf(&out, "%v", err)
			return out.String()
		}
	}
}

func TestFrames(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		in   []byte
		want string
	}{
		{frame(0x82, "abc"), "[2 true 3]abcEOF"},
		{append(frame(0x01, "ab"), frame(0x80, "")...), "[1 false 2]ab[0 true 0]EOF"},
		{frame(0x82, long), "[2 true 300]" + long + "EOF"},
		{append(frame(0x89, "?"), frame(0x88, "bye")...), "[9 true 1]?EOF"},
		{frame(0x82, strings.Repeat("y", 70000))[:14], "[2 true 70000]EOF"},
		{[]byte{0x82, 3, 'a', 'b', 'c'}, ErrFrame.Error()}, // no mask
		{frame(0xc2, "abc"), ErrFrame.Error()},             // an extension's
		{frame(0x83, "abc"), ErrFrame.Error()},             // an opcode of nobody
		{frame(0x8b, "abc"), ErrFrame.Error()},
		{frame(0x09, "abc"), ErrFrame.Error()}, // a ping in pieces
		{frame(0x89, long), ErrFrame.Error()},
		{[]byte{0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, ErrFrame.Error()},
		{[]byte{0x82, 0xfe, 0xff}, "EOF"},
	} {
		if got := read(bytes.NewReader(c.in)); got != c.want {
			t.Errorf("% x: %q, want %q", c.in[:min(len(c.in), 14)], got, c.want)
		}
		if got := read(&flaky{r: bytes.NewReader(c.in)}); got != c.want {
			t.Errorf("% x, interrupted: %q, want %q", c.in[:min(len(c.in), 14)], got, c.want)
		}
	}
}

// FuzzFrames: frames are the same however their octets arrive.
func FuzzFrames(f *testing.F) {
	f.Add(append(frame(0x02, "a"), frame(0x89, "b")...))
	f.Add(frame(0x82, strings.Repeat("x", 300)))
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, pieces := read(bytes.NewReader(in)), read(&flaky{r: bytes.NewReader(in)})
		if whole != pieces {
			t.Errorf("%q, in pieces %q", whole, pieces)
		}
	})
}

package inflate

import (
	"bytes"
	"compress/flate"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// decode hands src over in pieces and collects the text; dst has room for room
// octets at a time.
func decode(d *Decoder, src []byte, piece, room int) ([]byte, error) {
	var all []byte
	buf := make([]byte, 0, room)
	for len(src) > 0 || d.Pending() {
		n := min(piece, len(src))
		used, out, err := d.Decode(buf, src[:n])
		all = append(all, out...)
		if err != nil {
			return all, err
		}
		src = src[used:]
	}
	return all, nil
}

func samples() map[string][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	words := make([]byte, 0, 200_000)
	for len(words) < 200_000 {
		words = append(words, []string{"UID FETCH ", "1:500 ", "(UID RFC822.SIZE ", "BODY.PEEK[]", "\r\n", "A0001 "}[rnd.IntN(6)]...)
		if rnd.IntN(9) == 0 {
			words = append(words, noise[rnd.IntN(90_000):][:rnd.IntN(40)]...)
		}
	}
	return map[string][]byte{"nothing": nil, "a letter": {'x'}, "zeros": make([]byte, 300_000), "noise": noise, "words": words}
}

func TestDecodeWhatTheStandardLibraryWrites(t *testing.T) {
	for name, text := range samples() {
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, 6, flate.BestCompression} {
			var b bytes.Buffer
			w, err := flate.NewWriter(&b, level)
			if err != nil {
				t.Fatal(err)
			}
			for p := text; len(p) > 0; {
				n := min(len(p), 10_007)
				_, _ = w.Write(p[:n])
				_ = w.Flush()
				p = p[n:]
			}
			w.Close()
			for _, piece := range []int{1, 7, 1000, 1 << 20} {
				for _, room := range []int{1, 100, 8192} {
					var d Decoder
					got, err := decode(&d, b.Bytes(), piece, room)
					if err != nil || !bytes.Equal(got, text) {
						t.Fatalf("%s, level %d, pieces of %d, room for %d: %d octets, %v; want %d", name, level, piece, room, len(got), err, len(text))
					}
					if len(d.window) > MaxWindow {
						t.Fatalf("a window of %d", len(d.window))
					}
				}
			}
		}
	}
}

// Whatever a client flushes is there at once, however it flushes.
func TestEveryFlushDeliversAll(t *testing.T) {
	data, err := os.ReadFile("testdata/flushes.txt")
	if err != nil {
		t.Fatal(err)
	}
	streams := map[string]*Decoder{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if line[0] == '#' {
			continue
		}
		src, err1 := hex.DecodeString(f[1])
		want, err2 := hex.DecodeString(f[2])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if streams[f[0]] == nil {
			streams[f[0]] = new(Decoder)
		}
		got, err := decode(streams[f[0]], src, len(src), 8192)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %q, %v; want %q", f[0], got, err, want)
		}
	}
	if len(streams) != 9 {
		t.Errorf("%d streams", len(streams))
	}
}

// A window is as good as new after Pack, wherever the stream is interrupted, and
// the window of a client's commands becomes small.
func TestAPackedWindowDecodesOn(t *testing.T) {
	for name, text := range samples() {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(text)
		_ = w.Flush()
		var d Decoder
		var got []byte
		for i, src := 0, b.Bytes(); i < len(src); i += 997 {
			some, err := decode(&d, src[i:min(i+997, len(src))], 997, 1000)
			if err != nil {
				t.Fatal(name, err)
			}
			got = append(got, some...)
			if err := d.Pack(); err != nil {
				t.Fatal(name, err)
			}
			if name == "words" && len(got) > MaxWindow && (d.packed == nil || d.window != nil) {
				t.Fatal("the window was not packed")
			}
		}
		if !bytes.Equal(got, text) {
			t.Errorf("%s: other octets than without Pack", name)
		}
	}
	var d Decoder
	var commands []byte
	for i := 0; len(commands) < 2*MaxWindow; i++ {
		commands = fmt.Appendf(commands, "A%04d IDLE\r\nDONE\r\nA%04d UID FETCH %d:* (UID INTERNALDATE RFC822.SIZE)\r\nA%04d UID STORE %d +FLAGS.SILENT (\\Deleted)\r\n", 3*i, 3*i+1, 100+i, 3*i+2, 100+i)
	}
	d.remember(commands)
	if err := d.Pack(); err != nil || len(d.packed) == 0 || cap(d.packed) > 8<<10 {
		t.Errorf("%d octets of commands are %d packed, %v", MaxWindow, cap(d.packed), err)
	}
}

func TestCorruptStreams(t *testing.T) {
	for name, src := range map[string]string{
		"block of type 3":            "\x07",
		"size of a stored block":     "\x00\x01\x00\x00\x00",
		"match before the beginning": "\x03\x02\x00",
		"too many literal codes":     "\xf5\xff\xff",
		"no code lengths":            "\x04\x00\x00\x00\x00\x00\x00\x00",
	} {
		if _, err := decode(new(Decoder), []byte(src), 100, 1000); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := new(Decoder)
	if _, err := decode(d, []byte("\x03\x00"), 100, 1000); err != nil {
		t.Errorf("an empty last block: %v", err)
	}
	if _, err := decode(d, []byte("x"), 100, 1000); !errors.Is(err, ErrEnd) {
		t.Errorf("after the last block: %v", err)
	}
}

// FuzzDecode compares with the standard library: what that decodes is decoded
// alike, in any pieces, and nothing makes the decoder panic or hang.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x03\x00"), uint8(1), uint8(1))
	f.Add([]byte{0x4b, 0x4c, 0x04, 0x00}, uint8(3), uint8(2))
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	_, _ = w.Write([]byte("UID FETCH 1:* (FLAGS)\r\nUID FETCH 1:* (FLAGS)\r\n"))
	_ = w.Flush()
	f.Add(b.Bytes(), uint8(9), uint8(20))
	data, err := os.ReadFile("testdata/flushes.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if p := strings.Fields(line); line[0] != '#' {
			src, _ := hex.DecodeString(p[1])
			f.Add(src, uint8(5), uint8(255))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, piece, room uint8) {
		if len(src) > 1<<16 {
			return
		}
		want, stdErr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(src)), 1<<20))
		if len(want) == 1<<20 {
			return
		}
		got, err := decode(new(Decoder), src, int(piece)+1, int(room)+1)
		if stdErr == nil && !bytes.Equal(got, want) || err == nil && !bytes.HasPrefix(got, want) {
			t.Fatalf("%q, %v; the standard library says %q, %v", got, err, want, stdErr)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	text := samples()["words"]
	var z bytes.Buffer
	w, _ := flate.NewWriter(&z, 6)
	_, _ = w.Write(text)
	_ = w.Flush()
	buf := make([]byte, 0, 8192)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var d Decoder
		for src := z.Bytes(); len(src) > 0 || d.Pending(); {
			used, _, err := d.Decode(buf, src)
			if err != nil {
				b.Fatal(err)
			}
			src = src[used:]
		}
	}
}

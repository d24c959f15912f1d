package openpgp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// The tests of package gate feed whole messages, the official network's vectors
// among them. Here the two readers are held against plain descriptions of the same
// rules that have all octets at hand.

// plainWalk is Walker's rule on a slice.
func plainWalk(p []byte) error {
	for keys := 0; ; {
		if len(p) == 0 {
			return ErrTruncated
		}
		c := p[0]
		typ, lengths := c&0x3f, 0
		switch {
		case c < 0x80:
			return ErrNotPacket
		case c < 0xC0:
			if typ = c >> 2 & 15; c&3 == 3 {
				return ErrIndeterminate
			}
			lengths = 1 << (c & 3)
		}
		if typ != 1 && typ != 3 && typ != 18 {
			return ErrPacketType
		}
		if typ != 18 {
			if keys++; keys > MaxSessionKeys {
				return ErrTooManyKeys
			}
		}
		p = p[1:]
		var body []byte
		for more := true; more; {
			more = false
			head := lengths
			if lengths == 0 {
				if len(p) == 0 {
					return ErrTruncated
				}
				switch c := p[0]; {
				case c < 192:
					head = 1
				case c < 224:
					head = 2
				case c == 255:
					head = 5
				case typ != 18:
					return ErrIndeterminate
				default:
					head, more = 1, true
				}
			}
			if len(p) < head {
				return ErrTruncated
			}
			n := uint64(0)
			for _, b := range p[:head] {
				n = n<<8 | uint64(b)
			}
			switch {
			case lengths != 0:
			case more:
				n = 1 << (p[0] & 31)
			case head == 2:
				n = n - 192<<8 + 192
			case head == 5:
				n &= 1<<32 - 1
			}
			p = p[head:]
			have := min(n, uint64(len(p)))
			body = append(body, p[:have]...)
			if typ == 18 && len(body) > 0 && body[0] != 1 && body[0] != 2 {
				return ErrVersion
			}
			if have < n {
				return ErrTruncated
			}
			p = p[have:]
		}
		if typ != 18 {
			continue
		}
		if len(body) == 0 {
			return ErrTruncated
		}
		if len(p) > 0 {
			return ErrTrailing
		}
		return nil
	}
}

func walk(p []byte, cut int) error {
	var w Walker
	for len(p) > 0 {
		n := min(len(p), cut)
		if _, err := w.Write(p[:n]); err != nil {
			return w.Close()
		}
		p = p[n:]
	}
	return w.Close()
}

func packet(typ byte, lengths []byte, body ...byte) []byte {
	return append(append([]byte{0xC0 | typ}, lengths...), body...)
}

func body(first byte, n int) []byte {
	b := bytes.Repeat([]byte{0xA5}, n)
	b[0] = first
	return b
}

var walkVectors = []struct {
	name string
	data []byte
	want error
}{
	{"nothing", nil, ErrTruncated},
	{"text", []byte("hello"), ErrNotPacket},
	{"one octet of length", packet(18, []byte{191}, body(2, 191)...), nil},
	{"two octets, least", packet(18, []byte{192, 0}, body(2, 192)...), nil},
	{"two octets, most", packet(18, []byte{223, 255}, body(2, 8383)...), nil},
	{"four octets", packet(18, []byte{255, 0, 0, 0, 3}, body(1, 3)...), nil},
	{"four octets of a packet that does not come", packet(18, []byte{255, 255, 255, 255, 255}, body(1, 3)...), ErrTruncated},
	{"half a length", packet(18, []byte{255, 0, 0}), ErrTruncated},
	{"header alone", []byte{0xC0 | 18}, ErrTruncated},
	{"chunks of 1", append(packet(18, []byte{224}, 2), 224, 9, 1, 7), nil},
	{"the last chunk is empty", append(packet(18, []byte{224}, 2), 0), nil},
	{"chunks that do not end", packet(18, []byte{224}, 2), ErrTruncated},
	{"a chunk of 2^30 that does not come", packet(18, []byte{254}, body(1, 5)...), ErrTruncated},
	{"chunks of a key", packet(1, []byte{224}, 3), ErrIndeterminate},
	{"empty", packet(18, []byte{0}), ErrTruncated},
	{"empty keys", append(packet(1, []byte{0}), packet(18, []byte{1}, 1)...), nil},
	{"version 0", packet(18, []byte{1}, 0), ErrVersion},
	{"legacy keys", append([]byte{0x84, 1, 3, 0x85, 0, 1, 3, 0x86, 0, 0, 0, 1, 3}, packet(18, []byte{1}, 1)...), nil},
	{"legacy data of type 2", []byte{0x88, 1, 1}, ErrPacketType},
	{"legacy of no length", []byte{0x87, 1}, ErrIndeterminate},
	{"something behind", append(packet(18, []byte{1}, 1), 0), ErrTrailing},
}

func TestTheWalkFollowsEveryLength(t *testing.T) {
	for _, v := range walkVectors {
		if got := plainWalk(v.data); !errors.Is(got, v.want) {
			t.Errorf("%s: the plain walk says %v, want %v", v.name, got, v.want)
		}
		for _, cut := range []int{1, 2, 7, 1 << 20} {
			if got := walk(v.data, cut); !errors.Is(got, v.want) {
				t.Errorf("%s in pieces of %d: %v, want %v", v.name, cut, got, v.want)
			}
		}
	}
	keys := bytes.Repeat(packet(1, []byte{1}, 3), MaxSessionKeys)
	end := packet(18, []byte{1}, 1)
	if err := walk(append(keys, end...), 100); err != nil {
		t.Error("as many keys as may be:", err)
	}
	if err := walk(append(append(keys, packet(3, []byte{1}, 4)...), end...), 100); !errors.Is(err, ErrTooManyKeys) {
		t.Error("one key more:", err)
	}
}

func TestAnErrorStays(t *testing.T) {
	var w Walker
	if _, err := w.Write([]byte("x")); !errors.Is(err, ErrNotPacket) {
		t.Fatal(err)
	}
	if n, err := w.Write(packet(18, []byte{1}, 1)); n != 0 || !errors.Is(err, ErrNotPacket) || w.Close() != err {
		t.Error(n, err, w.Close())
	}
	a := NewArmor(&bytes.Buffer{}, false)
	if _, err := a.Write([]byte("x")); !errors.Is(err, ErrArmor) {
		t.Fatal(err)
	}
	if n, err := a.Write([]byte(beginLine)); n != 0 || !errors.Is(err, ErrArmor) || a.Close() != err {
		t.Error(n, err, a.Close())
	}
}

func FuzzWalker(f *testing.F) {
	for _, v := range walkVectors {
		f.Add(v.data, uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint8) {
		want := plainWalk(data)
		for _, n := range []int{int(cut) + 1, 1, len(data) + 1} {
			if got := walk(data, n); !errors.Is(got, want) || (got == nil) != (want == nil) {
				t.Fatalf("%x in pieces of %d: %v, want %v", data, n, got, want)
			}
		}
	})
}

// plainArmor is Armor's rule as one expression.
var plainArmor = regexp.MustCompile(`^-----BEGIN PGP MESSAGE-----\r\n(Version: [^\r\n]*\r\n)?(?:\r\n)*((?:[A-Za-z0-9+/]*=?=?(?:\r\n))*?)(?:=[A-Za-z0-9+/]{4}\r\n)?-----END PGP MESSAGE-----(?:\r\n)*$`)

func decodePlain(s string, version bool) ([]byte, bool) {
	m := plainArmor.FindStringSubmatch(s)
	if m == nil || m[1] != "" && !version {
		return nil, false
	}
	// Line ends do not count, not even several: the official filter removes them all.
	data, err := base64.StdEncoding.Strict().DecodeString(strings.ReplaceAll(m[2], "\r\n", ""))
	return data, err == nil
}

func unarmor(s string, version bool, cut int) ([]byte, error) {
	var b bytes.Buffer
	a := NewArmor(&b, version)
	for len(s) > 0 {
		n := min(len(s), cut)
		if _, err := a.Write([]byte(s[:n])); err != nil {
			break
		}
		s = s[n:]
	}
	return b.Bytes(), a.Close()
}

func armoredAs(lines string) string { return beginLine + lines + endLine + "\r\n" }

func TestTheArmourIsDecoded(t *testing.T) {
	for n := range 300 {
		want := body(byte(n), n+1)
		text := base64.StdEncoding.EncodeToString(want)
		for _, width := range []int{1, 3, 4, 64, 76, 1000} {
			var lines strings.Builder
			for s := text; s != ""; {
				k := min(width, len(s))
				lines.WriteString(s[:k] + "\r\n")
				s = s[k:]
			}
			if width < 3 && strings.Contains(text, "=") {
				continue // a line of "=" alone is a checksum that went wrong
			}
			for _, sum := range []string{"", "=AbC/\r\n"} {
				for _, cut := range []int{1, 5, 1 << 20} {
					got, err := unarmor(armoredAs("\r\n"+lines.String()+sum), false, cut)
					plain := strings.HasSuffix(text, "=") && width == 3 // the padding may stand alone
					if !plain && (err != nil || !bytes.Equal(got, want)) {
						t.Fatalf("%d octets in lines of %d, pieces of %d: %v", n+1, width, cut, err)
					}
				}
			}
		}
	}
}

func TestAHeaderOfArmourIsTakenOrNot(t *testing.T) {
	for text, want := range map[string][2]bool{ // without and with leave
		"Version: x\r\n\r\nAAAA\r\n":           {false, true},
		"Version: x\r\nAAAA\r\n":               {false, true},
		"Version: \r\n\r\nAAAA\r\n":            {false, true},
		"\r\nVersion: x\r\nAAAA\r\n":           {false, false},
		"Version: x\r\nVersion: y\r\nAAAA\r\n": {false, false},
		"Comment: x\r\n\r\nAAAA\r\n":           {false, false},
		"Version: x\nAAAA\r\n":                 {false, false},
		"Vers\r\n":                             {true, true}, // base64 like any other
		"Version1\r\n":                         {true, true},
		"Version:\r\n":                         {false, false},
	} {
		for i, leave := range []bool{false, true} {
			if _, err := unarmor(armoredAs(text), leave, 3); (err == nil) != want[i] {
				t.Errorf("%q, Version allowed %v: %v", text, leave, err)
			}
		}
	}
}

func FuzzArmor(f *testing.F) {
	for _, s := range []string{"", "AAAA\r\n", "\r\nAAAA\r\n=AAAA\r\n", "AAA=\r\n", "AA==\r\n=SXlf\r\n", "A\r\nAAA\r\n", "Version: x\r\n\r\nAAAA\r\n", "AAAA", "AAAA\n", "AB==\r\n", "=AAAA\r\nAAAA\r\n", "AAAA\r\n\r\nAAAA\r\n"} {
		f.Add(armoredAs(s), uint8(2))
	}
	f.Add(endLine, uint8(1))
	f.Fuzz(func(t *testing.T, s string, cut uint8) {
		for _, version := range []bool{false, true} {
			want, ok := decodePlain(s, version)
			for _, n := range []int{int(cut) + 1, 1, len(s) + 1} {
				got, err := unarmor(s, version, n)
				if (err == nil) != ok || ok && !bytes.Equal(got, want) {
					t.Fatal(fmt.Sprintf("%q, Version allowed %v, pieces of %d:", s, version, n), got, err, "want", want, ok)
				}
			}
		}
	})
}

package irohrelay

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func seedKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x2a}, 32)) }

// vectors are the frames of testdata by name.
func vectors(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string][]byte)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] != "#" {
			m[f[0]] = unhex(t, f[2])
			if want := fmt.Sprint(m[f[0]][0]); f[1] != want {
				t.Errorf("%s: type %s, want %s", f[0], f[1], want)
			}
		}
	}
	return m
}

func TestReferenceVectors(t *testing.T) {
	key := seedKey()
	id := key.Public().(ed25519.PublicKey)
	made := map[string][]byte{
		"ClientInfo": AppendClientInfo(nil, key), "SendPacket": AppendFrame(nil, SendPacket, id, []byte("Goodbye!")),
		"RecvPacket": AppendFrame(nil, RecvPacket, id, []byte("Hello World!")), "KeepAlive": AppendFrame(nil, KeepAlive),
		"NotePreferred": AppendFrame(nil, NotePreferred, []byte{1}), "NodeGone": AppendFrame(nil, NodeGone, id),
		"Ping": AppendFrame(nil, Ping, bytes.Repeat([]byte{0x2a}, 8)), "Pong": AppendFrame(nil, Pong, bytes.Repeat([]byte{0x2a}, 8)),
		"Health": AppendFrame(nil, Health, []byte("Hello? Yes this is dog.")), "Restarting": AppendFrame(nil, Restarting, []byte{0, 0, 0, 10, 0, 0, 0, 20}),
		"Denied":       AppendFrame(nil, Health, []byte("not authenticated")),
		"TwoDatagrams": AppendFrame(nil, SendPacket, id, []byte("\x03\x00abc"), []byte("\x05\x00defgh")),
	}
	want := vectors(t)
	if len(want) != len(made) {
		t.Errorf("%d vectors, want %d", len(want), len(made))
	}
	for name, w := range want {
		if !bytes.Equal(made[name], w) {
			t.Errorf("%s: made %x, want %x", name, made[name], w)
		}
		typ, payload, err := ReadFrame(bytes.NewReader(w))
		if err != nil || !bytes.Equal(AppendFrame(nil, typ, payload), w) {
			t.Errorf("%s: read %d %x, %v", name, typ, payload, err)
		}
	}
	got, message, err := parseInfo(want["ClientInfo"][HeaderSize:])
	if err != nil || !bytes.Equal(got[:], id) || checkVersion(message) != nil {
		t.Errorf("read %x %x, %v", got, message, err)
	}
}

func signed(key ed25519.PrivateKey, message string) []byte {
	return bytes.Join([][]byte{[]byte(magic), key.Public().(ed25519.PublicKey), ed25519.Sign(key, []byte(message)), []byte(message)}, nil)
}

func whole(p []byte) error {
	_, message, err := parseInfo(p)
	if err != nil {
		return err
	}
	return checkVersion(message)
}

func TestHandshakesThatAreRefused(t *testing.T) {
	key := seedKey()
	good := signed(key, "\x03")
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if whole(bad) == nil {
			t.Errorf("octet %d changed: accepted", i)
		}
	}
	base := "5866666666666666666666666666666666666666666666666666666666666666"
	one := "01" + strings.Repeat("00", 31)
	for name, c := range map[string]struct {
		payload []byte
		want    error
	}{
		"good":              {good, nil},
		"octets behind":     {signed(key, "\x03 and more"), nil},
		"long three":        {signed(key, "\x83\x00"), nil},
		"version 2":         {signed(key, "\x02"), errVersion},
		"version 4":         {signed(key, "\x04"), errVersion},
		"version 131":       {signed(key, "\x83\x01"), errVersion},
		"unfinished number": {signed(key, "\x83"), errVersion},
		"endless number":    {signed(key, strings.Repeat("\x80", 20)), errVersion},
		"no message":        {signed(key, ""), errVersion},
		"too short":         {good[:104], errLength},
		"weak key":          {append([]byte(magic), unhex(t, one+base+one+"03")...), errKey},
		"weak key, signed":  {append([]byte(magic), unhex(t, strings.Repeat("00", 31)+"80"+base+one+"03")...), errKey},
		"weak R":            {bytes.Join([][]byte{[]byte(magic), key.Public().(ed25519.PublicKey), unhex(t, one+one), {3}}, nil), errKey},
	} {
		if err := whole(c.payload); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestLengths(t *testing.T) {
	for typ := range 256 {
		size, known := sizes[Type(typ)]
		for _, n := range []int{0, 1, 7, 8, 9, 31, 32, 33, 104, 105, 1024, 1025, 65568, 65569, 1 << 20, 1<<32 - 1} {
			var head [HeaderSize]byte
			head[0] = byte(typ)
			binary.BigEndian.PutUint32(head[1:], uint32(n))
			_, got, err := parseHeader(head)
			switch {
			case !known && !errors.Is(err, errType), known && (n < size[0] || n > size[1]) != errors.Is(err, errLength), err == nil && got != n:
				t.Errorf("type %d, length %d: %d, %v", typ, n, got, err)
			}
		}
	}
}

func TestDisco(t *testing.T) {
	long := strings.Repeat("x", 40)
	for p, want := range map[string]bool{
		discoMagic + long: true, "\x40\x00" + discoMagic + long: true, "x" + discoMagic + long: false, discoMagic: false, "": false,
		discoMagic + long[:31]: false, discoMagic + long[:32]: true, long: false,
	} {
		if isDisco([]byte(p)) != want {
			t.Errorf("%q: want %v", p, want)
		}
	}
}

const stunRequest = "0001 0008 2112a442 0102030405060708090a0b0c 8028 0004 5b20f9cc"

func TestSTUN(t *testing.T) {
	v4, v6 := "0101 000c 2112a442 0102030405060708090a0b0c 0020 0008 0001 2013 2010a746", "0101 0018 2112a442 0102030405060708090a0b0c 0020 0014 0002 21ec 2113a4420102030405060708090a0b08"
	for from, want := range map[string]string{"1.2.3.4:257": v4, "[::ffff:1.2.3.4]:257": v4, "[1::4]:254": v6, "[1::4%eth0]:254": v6} {
		got, ok := STUNResponse(unhex(t, stunRequest), netip.MustParseAddrPort(from))
		if !ok || !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("%s: %x, want %s", from, got, want)
		}
	}
	with := func(attributes string) []byte {
		a := unhex(t, attributes)
		b := binary.BigEndian.AppendUint16([]byte{0, 1}, uint16(len(a)))
		return append(append(b, unhex(t, "2112a442 0102030405060708090a0b0c")...), a...)
	}
	marked := with("8022 0003 61626300 8028 0004 00000000")
	binary.BigEndian.PutUint32(marked[len(marked)-4:], crc32.ChecksumIEEE(marked[:len(marked)-8])^stunXOR)
	for name, c := range map[string]struct {
		packet []byte
		want   bool
	}{
		"no attributes":       {with(""), true},
		"unknown attribute":   {with("ffee 0003 61626300"), true},
		"with a name":         {marked, true},
		"wrong fingerprint":   {with("8028 0004 00000000"), false},
		"fingerprint first":   {append(unhex(t, "0001 000c 2112a442 0102030405060708090a0b0c"), unhex(t, "8028 0004 5b20f9cc ffee 0000")...), false},
		"attribute overruns":  {with("ffee 0008 61626300"), false},
		"half an attribute":   {with("ffee"), false},
		"indication":          {unhex(t, "0011 0000 2112a442 0102030405060708090a0b0c"), false},
		"response":            {unhex(t, "0101 0000 2112a442 0102030405060708090a0b0c"), false},
		"allocate":            {unhex(t, "0003 0000 2112a442 0102030405060708090a0b0c"), false},
		"top bits":            {unhex(t, "c001 0000 2112a442 0102030405060708090a0b0c"), false},
		"other cookie":        {unhex(t, "0001 0000 2112a443 0102030405060708090a0b0c"), false},
		"short":               {unhex(t, "0001 0000 2112a442 0102030405060708090a0b"), false},
		"length lies":         {unhex(t, "0001 0004 2112a442 0102030405060708090a0b0c"), false},
		"nothing":             {nil, false},
		"longer than it says": {append(with(""), 0, 0, 0, 0), false},
	} {
		if _, ok := STUNResponse(c.packet, netip.MustParseAddrPort("192.0.2.1:9")); ok != c.want {
			t.Errorf("%s: answered %v, want %v", name, ok, c.want)
		}
	}
	if _, ok := STUNResponse(unhex(t, stunRequest), netip.AddrPort{}); ok {
		t.Error("answered nobody")
	}
}

func TestAQueueKeepsItsOrder(t *testing.T) {
	var q fifo
	in, out := 0, 0
	for round := range 200 {
		for range round % 97 {
			q.push(binary.BigEndian.AppendUint32(nil, uint32(in)), data)
			in++
		}
		for range round % 89 {
			if f, _ := q.pop(); f != nil {
				if got := int(binary.BigEndian.Uint32(f)); got != out {
					t.Fatalf("got %d, want %d", got, out)
				}
				out++
			}
		}
		if q.len() != in-out || len(q.items) > 2*q.len()+97+64 {
			t.Fatalf("%d wait in %d, want %d", q.len(), len(q.items), in-out)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v)
		f.Add(append(bytes.Clone(v), v...))
	}
	f.Add([]byte{4, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		for r := bytes.NewReader(b); ; {
			before := r.Len()
			typ, p, err := ReadFrame(r)
			if err != nil {
				return
			}
			if again := AppendFrame(nil, typ, p); !bytes.Equal(again, b[len(b)-before:len(b)-r.Len()]) {
				t.Fatalf("%x became %x", b, again)
			}
			if typ == ClientInfo {
				if id, message, err := parseInfo(p); err == nil && !ed25519.Verify(id[:], message, p[len(magic)+32:][:64]) {
					t.Fatal("accepted without a signature")
				}
			}
			isDisco(p)
		}
	})
}

func FuzzSTUN(f *testing.F) {
	f.Add(unhex(f, stunRequest))
	f.Add(unhex(f, "0001 0000 2112a442 0102030405060708090a0b0c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := STUNResponse(b, netip.MustParseAddrPort("192.0.2.1:9")); ok && (len(a) != 32 || !bytes.Equal(a[4:20], b[4:20])) {
			t.Fatalf("%x for %x", a, b)
		}
	})
}

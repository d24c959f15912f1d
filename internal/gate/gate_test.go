package gate

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	mrand "math/rand/v2"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// pk makes a packet in the current format with a definite length.
func pk(typ byte, body []byte) []byte {
	p := []byte{0xC0 | typ}
	switch n := len(body); {
	case n < 192:
		p = append(p, byte(n))
	case n < 8384:
		p = append(p, byte((n-192)>>8)+192, byte(n-192))
	default:
		p = append(p, 255, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(p, body...)
}

// old makes a packet in the legacy format with 1, 2 or 4 length octets.
func old(typ byte, octets int, body []byte) []byte {
	n := len(body)
	switch octets {
	case 1:
		return append([]byte{0x80 | typ<<2, byte(n)}, body...)
	case 2:
		return append([]byte{0x80 | typ<<2 | 1, byte(n >> 8), byte(n)}, body...)
	}
	return append([]byte{0x80 | typ<<2 | 2, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

func fill(first byte, n int) []byte {
	b := bytes.Repeat([]byte{0xA5}, n)
	b[0] = first
	return b
}

var (
	pkesk  = pk(1, fill(6, 71))
	skesk  = pk(3, fill(6, 62))
	seipd1 = pk(18, fill(1, 300))
	seipd2 = pk(18, fill(2, 301))
)

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func b64(data []byte) string {
	s := base64.StdEncoding.EncodeToString(data)
	var b strings.Builder
	for len(s) > 64 {
		b.WriteString(s[:64] + "\r\n")
		s = s[64:]
	}
	b.WriteString(s + "\r\n")
	return b.String()
}

const (
	begin = "-----BEGIN PGP MESSAGE-----\r\n"
	end   = "-----END PGP MESSAGE-----"
)

func armored(data []byte) string { return begin + "\r\n" + b64(data) + "=SXlf\r\n" + end + "\r\n" }

const head = "From: <alice@[127.0.0.1]>\r\nTo: \"hidden-recipients\": ;\r\nSubject: [...]\r\nDate: Mon, 23 Nov 2026 11:42:11 +0000\r\nMessage-ID: <04478418-12fe-4376-814d-2991a9b69913@localhost>\r\nMIME-Version: 1.0\r\n"

const ctype = "Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";\r\n\tboundary=\"18eab2747cb8f311_c968\"\r\n"

const part1 = "--18eab2747cb8f311_c968\r\nContent-Type: application/pgp-encrypted; charset=\"utf-8\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\nVersion: 1\r\n\r\n"

func part2(body string) string {
	return "--18eab2747cb8f311_c968\r\nContent-Type: application/octet-stream; charset=\"utf-8\"\r\nContent-Transfer-Encoding: 7bit\r\n\r\n" + body + "\r\n"
}

const closing = "--18eab2747cb8f311_c968--\r\n"

func pgpMIME(armor string) string {
	return ctype + head + "Chat-Version: 1.0\r\n\r\n" + part1 + part2(armor) + closing
}

func joinRequest(header, typ, body, extra string) string {
	return "Content-Type: multipart/mixed; boundary=\"b\"\r\n" + head + "Secure-Join: " + header + "\r\nSecure-Join-Invitenumber: y3l4O\r\n\r\n" +
		"--b\r\nContent-Type: " + typ + "; charset=\"utf-8\"\r\n\r\n" + body + "\r\n" + extra + "--b--\r\n"
}

func bounce(from, auto, typ string) string {
	s := "From: Mail Delivery System <" + from + ">\r\nSubject: Undelivered Mail\r\n"
	if auto != "" {
		s += "Auto-Submitted: " + auto + "\r\n"
	}
	return s + "Content-Type: " + typ + "\r\n\r\n--x\r\n\r\nfailed\r\n--x--\r\n"
}

func judge(t testing.TB, opt Options, msg string) Verdict {
	t.Helper()
	c := New(opt)
	if n, err := c.Write([]byte(msg)); err != nil || n != len(msg) {
		t.Fatalf("Write: %d, %v", n, err)
	}
	return c.Close()
}

type vector struct {
	name    string
	msg     string
	out, in Kind
	toSelf  bool
}

func vectors() []vector {
	good := cat(pkesk, pkesk, seipd1)
	both := func(name, msg string, k Kind) vector { return vector{name: name, msg: msg, out: k, in: k} }
	pgp := func(name, armor string, k Kind) vector { return both(name, pgpMIME(armor), k) }
	raw := func(name string, data []byte, k Kind) vector { return pgp(name, armored(data), k) }
	divisible := cat(pkesk, pk(18, fill(1, 300)))
	for len(divisible)%3 != 0 {
		divisible = append(divisible[:len(pkesk):len(pkesk)], pk(18, fill(1, len(divisible)-len(pkesk)-2))...)
	}
	padded := cat(pkesk, pk(18, fill(1, 301)))
	for len(padded)%3 != 1 {
		padded = append(padded[:len(pkesk):len(pkesk)], pk(18, fill(1, len(padded)-len(pkesk)-2))...)
	}
	partial := append([]byte{0xC0 | 18, 224 + 9}, fill(2, 512)...)
	partial = append(partial, 224+10)
	partial = append(partial, fill(0, 1024)...)
	partial = append(partial, 5, 1, 2, 3, 4, 5)
	withChild := func(extra string) string {
		return ctype + head + "\r\n" + part1 + part2(armored(good)) + extra + closing
	}
	return []vector{
		both("1 encrypted", pgpMIME(armored(good)), Encrypted),
		both("2 fake-encrypted", head+"Content-Type: text/plain\r\n\r\n"+armored([]byte("word"))+"\r\n", Clear),
		both("3 plain", head+"\r\nhello\r\n", Clear),
		raw("4 literal", pk(11, []byte("b\x00\x00\x00\x00\x00hello")), Clear),
		both("5 mdn", head+"Auto-Submitted: auto-replied\r\nContent-Type: multipart/report; report-type=disposition-notification; boundary=x\r\n\r\n--x\r\n\r\nread\r\n--x--\r\n", Clear),
		{name: "6 mailer-daemon", msg: bounce("MAILER-DAEMON@example.org", "auto-replied", "multipart/report; report-type=delivery-status; boundary=x"), out: Clear, in: Report},
		both("7 mailer-daemon without Auto-Submitted", bounce("MAILER-DAEMON@example.org", "", "multipart/report; boundary=x"), Clear),
		both("8 mailer-daemon text", bounce("MAILER-DAEMON@example.org", "auto-replied", "text/plain"), Clear),
		{name: "9 setup message to self", msg: "From: <a@b>\r\nSubject: Autocrypt Setup Message\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\n--x--\r\n", out: Setup, in: Clear, toSelf: true},
		both("10 setup message to another", "From: <a@b>\r\nSubject: Autocrypt Setup Message\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\n--x--\r\n", Clear),
		both("11 securejoin vc", joinRequest("vc-request", "text/plain", "Secure-Join: vc-request", ""), SecureJoin),
		both("12 securejoin vg", joinRequest("vg-request", "text/plain", "secure-join: VG-request\r\n\r\n", ""), SecureJoin),
		both("13 securejoin fake body", joinRequest("vc-request", "text/plain", "buy now", ""), Clear),
		both("14 securejoin two children", joinRequest("vc-request", "text/plain", "Secure-Join: vc-request", "--b\r\n\r\nattachment\r\n"), Clear),
		both("15 securejoin not multipart", head+"Secure-Join: vc-request\r\n\r\nSecure-Join: vc-request\r\n", Clear),
		both("16 securejoin later step", joinRequest("vc-request-with-auth", "text/plain", "Secure-Join: vc-request", ""), Clear),
		both("securejoin html", joinRequest("vc-request", "text/html", "Secure-Join: vc-request", ""), Clear),
		{name: "27 armour Version line", msg: pgpMIME(begin + "Version: GnuPG v2\r\n\r\n" + b64(good) + "=SXlf\r\n" + end + "\r\n"), out: Clear, in: Encrypted},
		pgp("28 armour Comment line", begin+"Comment: hi\r\n\r\n"+b64(good)+"=SXlf\r\n"+end+"\r\n", Clear),
		pgp("29 Version then Comment", begin+"Version: x\r\nComment: hi\r\n\r\n"+b64(good)+"=SXlf\r\n"+end+"\r\n", Clear),
		pgp("30 no blank line", begin+b64(good)+"=SXlf\r\n"+end+"\r\n", Encrypted),
		pgp("31 no line end behind END", begin+"\r\n"+b64(good)+"=SXlf\r\n"+end, Encrypted),
		pgp("31 three line ends behind END", begin+"\r\n"+b64(good)+"=SXlf\r\n"+end+"\r\n\r\n\r\n", Encrypted),
		pgp("32 text after END", armored(good)+"hello\r\n", Clear),
		pgp("33 blank line before BEGIN", "\r\n"+armored(good), Clear),
		pgp("34 bare LF armour", strings.ReplaceAll(armored(good), "\r\n", "\n"), Clear),
		pgp("35 padding moved", begin+"\r\n"+b64(divisible)+"==\r\n=SXlf\r\n"+end+"\r\n", Clear),
		pgp("36 base64 of text", armored([]byte("just some ordinary text here")), Clear),
		pgp("37 prose", begin+"\r\nhello, this is not base64!\r\n"+end+"\r\n", Clear),
		pgp("38 checksum only", begin+"\r\n=SXlf\r\n"+end+"\r\n", Clear),
		pgp("39 BEGIN only", begin, Clear),
		pgp("39 END only", end+"\r\n", Clear),
		raw("40 legacy PKESK, current SEIPD", cat(old(1, 1, fill(3, 90)), seipd1), Encrypted),
		raw("41 legacy lengths of 2 and 4", cat(old(1, 2, fill(3, 268)), old(1, 4, fill(3, 268)), seipd1), Encrypted),
		raw("42 legacy indeterminate", append([]byte{0x80 | 1<<2 | 3}, seipd1...), Clear),
		raw("43 partial lengths", cat(pkesk, partial), Encrypted),
		raw("44 SKESK and SEIPD2", cat(skesk, seipd2), Encrypted),
		raw("45 SEIPD alone", seipd2, Encrypted),
		raw("46 PKESK only", pkesk, Clear),
		raw("46 PKESK and literal", cat(pkesk, pk(11, []byte("hello"))), Clear),
		raw("46 SEIPD and PKESK", cat(seipd1, pkesk), Clear),
		raw("46 two SEIPD", cat(seipd1, seipd2), Clear),
		raw("47 SED", cat(pkesk, pk(9, fill(1, 50))), Clear),
		raw("47 OCB", cat(pkesk, pk(20, fill(1, 50))), Clear),
		raw("47 marker", cat(pk(10, []byte("PGP")), seipd1), Clear),
		raw("47 padding", cat(seipd1, pk(21, fill(1, 5))), Clear),
		raw("47 compressed", pk(8, fill(1, 50)), Clear),
		raw("47 signature first", cat(pk(2, fill(4, 50)), seipd1), Clear),
		raw("48 one octet too many", append(cat(pkesk, seipd1), 0), Clear),
		raw("48 one octet too few", good[:len(good)-1], Clear),
		pgp("49 no checksum, unpadded", begin+"\r\n"+b64(divisible)+end+"\r\n", Encrypted),
		pgp("50 no checksum, padded", begin+"\r\n"+b64(padded)+end+"\r\n", Encrypted),
		both("51 one child", ctype+head+"\r\n"+part1+closing, Clear),
		both("52 three children", withChild("--18eab2747cb8f311_c968\r\n\r\nmore\r\n"), Clear),
		both("52 nested multipart", ctype+head+"\r\n"+part1+strings.Replace(part2(armored(good)), "application/octet-stream", "multipart/mixed; boundary=y", 1)+closing, Clear),
		both("52 wrong types", ctype+head+"\r\n"+part1+strings.Replace(part2(armored(good)), "application/octet-stream", "text/plain", 1)+closing, Clear),
		both("52 Version: 2", strings.Replace(pgpMIME(armored(good)), "Version: 1\r\n", "Version: 2\r\n", 1), Clear),
		both("53 base64 transfer encoding", ctype+head+"\r\n"+part1+strings.Replace(part2(b64([]byte(armored(good)))), "7bit", "base64", 1)+closing, Encrypted),
		both("quoted-printable", ctype+head+"\r\n"+part1+strings.Replace(part2(strings.ReplaceAll(armored(good), "=", "=3D")), "7bit", "quoted-printable", 1)+closing, Encrypted),
		both("unknown transfer encoding", ctype+head+"\r\n"+part1+strings.Replace(part2(armored(good)), "7bit", "x-uuencode", 1)+closing, Clear),
		raw("empty SEIPD", cat(pkesk, pk(18, nil)), Clear),
		raw("SEIPD version 3", cat(pkesk, pk(18, fill(3, 30))), Clear),
		raw("partial PKESK", cat([]byte{0xC1, 224 + 9}, fill(3, 512), []byte{1, 0}, seipd1), Clear),
		raw("1001 session keys", cat(bytes.Repeat(pk(1, []byte{3}), 1001), seipd1), Clear),
		raw("1000 session keys", cat(bytes.Repeat(pk(1, []byte{3}), 1000), seipd1), Encrypted),
		pgp("space in base64", begin+"\r\n"+strings.Replace(b64(good), "\r\n", " \r\n", 1)+"=SXlf\r\n"+end+"\r\n", Clear),
		pgp("two messages", armored(good)+armored(good), Clear),
		both("no closing delimiter", ctype+head+"\r\n"+part1+part2(armored(good)), Clear),
		both("text with the token of PGP/MIME", head+"X: application/pgp-encrypted\r\n\r\napplication/pgp-encrypted\r\n"+armored(good), Clear),
		both("header only", head, Clear),
		both("empty", "", Clear),
		both("broken header", "no colon here\r\n\r\nx\r\n", Clear),
	}
}

func TestVectorsOfTheOfficialNetwork(t *testing.T) {
	for _, v := range vectors() {
		t.Run(v.name, func(t *testing.T) {
			if got := judge(t, Options{Outgoing: true, ToSelf: v.toSelf}, v.msg); got.Kind != v.out {
				t.Errorf("outgoing: %v (%v), want %v", got.Kind, got.Why, v.out)
			}
			if got := judge(t, Options{ToSelf: v.toSelf}, v.msg); got.Kind != v.in {
				t.Errorf("incoming: %v (%v), want %v", got.Kind, got.Why, v.in)
			}
		})
	}
}

func TestSecureJoinExceptionCanBeSwitchedOff(t *testing.T) {
	msg := joinRequest("vc-request", "text/plain", "Secure-Join: vc-request", "")
	if v := judge(t, Options{NoSecureJoin: true}, msg); v.Kind != Clear {
		t.Errorf("got %v", v.Kind)
	}
}

func TestVerdictDoesNotDependOnHowWritesAreCut(t *testing.T) {
	rnd := mrand.New(mrand.NewPCG(1, 2))
	for _, v := range vectors() {
		want := judge(t, Options{}, v.msg)
		for round := range 4 {
			c := New(Options{})
			for msg := v.msg; len(msg) > 0; {
				n := 1
				if round > 0 {
					n = 1 + rnd.IntN(min(len(msg), 1<<(3*round)))
				}
				_, _ = c.Write([]byte(msg[:n]))
				msg = msg[n:]
			}
			got := c.Close()
			if got.Kind != want.Kind || got.From != want.From || got.NUL != want.NUL || got.BareEOL != want.BareEOL || got.Froms != want.Froms {
				t.Errorf("%s, round %d: %+v, in one piece %+v", v.name, round, got, want)
			}
		}
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	msg := pgpMIME(armored(cat(pkesk, seipd1)))
	last := strings.LastIndex(msg, closing) + len(closing) - 2 // the final CRLF may be missing
	for n := range last {
		if v := judge(t, Options{}, msg[:n]); v.Kind == Encrypted {
			t.Fatalf("cut at %d of %d: accepted", n, len(msg))
		}
	}
}

func TestEverySingleOctetChangeEndsInAVerdict(t *testing.T) {
	msg := []byte(pgpMIME(armored(cat(pkesk, seipd1))))
	for i := range msg {
		for _, c := range []byte{0, '\r', '\n', '=', '-', 'A', 0xff, msg[i] ^ 1} {
			m := bytes.Clone(msg)
			m[i] = c
			v := judge(t, Options{}, string(m))
			if (c == 0) != v.NUL && msg[i] != 0 {
				t.Fatalf("octet %d set to %d: NUL reported %v", i, c, v.NUL)
			}
		}
	}
}

func TestFactsAboutTheMessage(t *testing.T) {
	v := judge(t, Options{}, "Received: a\r\nReceived: b\r\nFrom: \"A, B\" (c) <Bob@Example.ORG>, x@y\r\nFrom: z@z\r\n\r\nhi\r\n")
	if v.From != "Bob@Example.ORG" || v.Froms != 2 || v.Received != 2 || v.NUL || v.BareEOL || v.Malformed {
		t.Errorf("%+v", v)
	}
	for msg, want := range map[string]bool{
		"From: a@b\r\n\r\nx\r\n": false, "From: a@b\n\r\nx\r\n": true, "From: a@b\r\n\r\nx\ny\r\n": true,
		"From: a@b\r\n\r\nx\ry\r\n": true, "From: a@b\r\n\r\nx": false, "From: a@b\r\n\r\nx\r": true, "\n": true,
		"From: a@b\r\n\r\n" + strings.Repeat("x", 20000) + "\r\n":             false,
		"From: a@b\r\n\r\n" + strings.Repeat("x", 20000) + "\ry\r\n":          true,
		"From: a@b\r\n\r\n" + strings.Repeat("x", maxLine-1) + "\r\ny\r\n":    false,
		"From: a@b\r\n\r\n" + strings.Repeat("x", maxLine-1) + "\r" + "y\r\n": true,
	} {
		if got := judge(t, Options{}, msg); got.BareEOL != want {
			t.Errorf("%.40q… BareEOL %v, want %v", msg, got.BareEOL, want)
		}
	}
}

func TestMessagesOfRealOpenPGPCode(t *testing.T) {
	e, err := openpgp.NewEntity("a", "", "a@b", nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypt := func(size int, cfg *packet.Config, symmetric bool) string {
		var b bytes.Buffer
		a, err := armor.Encode(&b, "PGP MESSAGE", nil)
		if err != nil {
			t.Fatal(err)
		}
		var w interface {
			Write([]byte) (int, error)
			Close() error
		}
		if symmetric {
			w, err = openpgp.SymmetricallyEncrypt(a, []byte("pass"), nil, cfg)
		} else {
			w, err = openpgp.Encrypt(a, []*openpgp.Entity{e, e}, nil, nil, cfg)
		}
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, size)
		_, _ = rand.Read(data)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(b.String(), "\n", "\r\n") + "\r\n"
	}
	for _, size := range []int{0, 1, 100, 10_000, 3_000_000} {
		for _, sym := range []bool{false, true} {
			for _, cfg := range []*packet.Config{{}, {AEADConfig: &packet.AEADConfig{}}} {
				name := fmt.Sprintf("%d octets, symmetric %v, AEAD %v", size, sym, cfg.AEADConfig != nil)
				if v := judge(t, Options{Outgoing: true}, pgpMIME(encrypt(size, cfg, sym))); v.Kind != Encrypted {
					t.Errorf("%s: %v (%v)", name, v.Kind, v.Why)
				}
			}
		}
	}
}

func FuzzGate(f *testing.F) {
	for _, v := range vectors() {
		f.Add([]byte(v.msg), uint8(7))
	}
	f.Fuzz(func(t *testing.T, msg []byte, cut uint8) {
		for _, out := range []bool{true, false} {
			whole := New(Options{Outgoing: out})
			_, _ = whole.Write(msg)
			a := whole.Close()
			parts := New(Options{Outgoing: out})
			for p := msg; len(p) > 0; {
				n := min(len(p), int(cut)+1)
				_, _ = parts.Write(p[:n])
				p = p[n:]
			}
			b := parts.Close()
			if a.Kind != b.Kind || a.From != b.From || a.BareEOL != b.BareEOL || a.NUL != b.NUL {
				t.Fatalf("cut in pieces of %d: %+v, whole %+v", int(cut)+1, b, a)
			}
		}
	})
}

func BenchmarkGate(b *testing.B) {
	for _, size := range []int{1000, 1 << 20, 20 << 20} {
		msg := []byte(pgpMIME(armored(cat(pkesk, pk(18, fill(2, size))))))
		b.Run(fmt.Sprint(len(msg)), func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				c := New(Options{Outgoing: true})
				for p := msg; len(p) > 0; {
					n := min(len(p), 16<<10)
					_, _ = c.Write(p[:n])
					p = p[n:]
				}
				if v := c.Close(); v.Kind != Encrypted {
					b.Fatal(v.Why)
				}
			}
		})
	}
}

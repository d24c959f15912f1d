package shadowsocks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"
)

// A client that was written from SIP004 and SIP022, not from the server.
type client struct {
	io.Reader
	w          io.Writer
	modern     bool
	key, salt  []byte
	up, down   cipher.AEAD
	upN        uint64
	downN      uint64
	left       []byte
	downCipher func(salt []byte) cipher.AEAD
	now        func() time.Time
}

func keyOf(name, pass string) (key []byte) {
	if strings.HasPrefix(name, "2022-") {
		key, _ = base64.StdEncoding.DecodeString(pass)
		return key
	}
	n := 32
	if strings.Contains(name, "128") {
		n = 16
	}
	prev := []byte{}
	for len(key) < n {
		h := md5.New()
		h.Write(prev)
		h.Write([]byte(pass))
		prev = h.Sum(nil)
		key = append(key, prev...)
	}
	return key[:n]
}

func subCipher(name string, key, salt []byte) cipher.AEAD {
	sub := make([]byte, len(key))
	if strings.HasPrefix(name, "2022-") {
		blake3.DeriveKey("shadowsocks 2022 session subkey", append(append([]byte{}, key...), salt...), sub)
	} else {
		// RFC 5869 by hand.
		x := hmac.New(sha1.New, salt)
		x.Write(key)
		prk := x.Sum(nil)
		var t, okm []byte
		for i := byte(1); len(okm) < len(key); i++ {
			e := hmac.New(sha1.New, prk)
			e.Write(t)
			e.Write([]byte("ss-subkey"))
			e.Write([]byte{i})
			t = e.Sum(nil)
			okm = append(okm, t...)
		}
		sub = okm[:len(key)]
	}
	if strings.Contains(name, "chacha") {
		a, err := chacha20poly1305.New(sub)
		if err != nil {
			panic(err)
		}
		return a
	}
	b, err := aes.NewCipher(sub)
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	return a
}

func newClient(rw io.ReadWriter, name, pass string) *client {
	c := &client{Reader: rw, w: rw, modern: strings.HasPrefix(name, "2022-"), key: keyOf(name, pass), now: time.Now}
	c.salt = make([]byte, len(c.key))
	_, _ = rand.Read(c.salt)
	c.up = subCipher(name, c.key, c.salt)
	c.downCipher = func(salt []byte) cipher.AEAD { return subCipher(name, c.key, salt) }
	return c
}

func nonce(n uint64) []byte {
	b := make([]byte, 12)
	binary.LittleEndian.PutUint64(b, n)
	return b
}

func (c *client) seal(p []byte) []byte {
	b := c.up.Seal(nil, nonce(c.upN), p, nil)
	c.upN++
	return b
}

func (c *client) chunk(p []byte) []byte {
	return append(c.seal(binary.BigEndian.AppendUint16(nil, uint16(len(p)))), c.seal(p)...)
}

// targetAddress is a target in the form of SOCKS5.
func targetAddress(host string, port uint16) []byte {
	var b []byte
	if ip, err := netip.ParseAddr(host); err != nil {
		b = append([]byte{3, byte(len(host))}, host...)
	} else if ip.Is4() {
		b = append([]byte{1}, ip.AsSlice()...)
	} else {
		b = append([]byte{4}, ip.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, port)
}

// hello is the beginning of a stream: where to, and perhaps a first payload.
func (c *client) hello(host string, port uint16, first []byte) []byte {
	if !c.modern {
		return append(append([]byte{}, c.salt...), c.chunk(append(targetAddress(host, port), first...))...)
	}
	pad := 0
	if len(first) == 0 {
		pad = 1 + int(c.salt[0])
	}
	head := append(binary.BigEndian.AppendUint16(targetAddress(host, port), uint16(pad)), make([]byte, pad)...)
	return c.helloOf(0, uint64(c.now().Unix()), append(head, first...))
}

func (c *client) helloOf(typ byte, unix uint64, head []byte) []byte {
	fixed := binary.BigEndian.AppendUint64([]byte{typ}, unix)
	fixed = binary.BigEndian.AppendUint16(fixed, uint16(len(head)))
	return append(append(append([]byte{}, c.salt...), c.seal(fixed)...), c.seal(head)...)
}

func (c *client) Write(p []byte) (int, error) {
	limit := 0x3FFF
	if c.modern {
		limit = 0xFFFF
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), limit)
		if _, err := c.w.Write(c.chunk(rest[:n])); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func (c *client) open(n int) ([]byte, error) {
	b := make([]byte, n+16)
	if _, err := io.ReadFull(c.Reader, b); err != nil {
		return nil, err
	}
	p, err := c.down.Open(nil, nonce(c.downN), b, nil)
	c.downN++
	return p, err
}

func (c *client) Read(p []byte) (int, error) {
	for len(c.left) == 0 {
		size := -1
		if c.down == nil {
			salt := make([]byte, len(c.key))
			if _, err := io.ReadFull(c.Reader, salt); err != nil {
				return 0, err
			}
			c.down = c.downCipher(salt)
			if c.modern {
				fixed, err := c.open(1 + 8 + len(c.key) + 2)
				if err != nil {
					return 0, err
				}
				age := c.now().Unix() - int64(binary.BigEndian.Uint64(fixed[1:]))
				if fixed[0] != 1 || age < -30 || age > 30 || string(fixed[9:9+len(c.key)]) != string(c.salt) {
					return 0, errors.New("the answer's header is wrong")
				}
				size = int(binary.BigEndian.Uint16(fixed[9+len(c.key):]))
			}
		}
		if size < 0 {
			b, err := c.open(2)
			if err != nil {
				return 0, err
			}
			size = int(binary.BigEndian.Uint16(b))
		}
		var err error
		if c.left, err = c.open(size); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

// dribble sends one octet at a time.
type dribble struct{ net.Conn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

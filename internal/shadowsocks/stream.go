package shadowsocks

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Errors of a stream. Nobody but a test tells them apart: a client that errs is
// read from in silence, whatever it did.
var (
	errChunk    = errors.New("shadowsocks: a chunk does not open")
	errHeader   = errors.New("shadowsocks: malformed header")
	errTime     = errors.New("shadowsocks: the clocks differ")
	errReplayed = errors.New("shadowsocks: seen before")
)

const (
	maxOld      = 0x3FFF // payload of a chunk, SIP004
	maxModern   = 0xFFFF // and SIP022
	maxDrift    = 30 * time.Second
	fixedLen    = 1 + 8 + 2 // type, time, length: SIP022 section 3.1.3
	typeRequest = 0
	typeAnswer  = 1
	bodyTime    = time.Minute // for the rest of a chunk
)

// buffers hold one chunk from a client.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxModern+tagLen); return &b }}

// opener reads the chunks of a client. It holds a buffer only while there is
// something in it.
type opener struct {
	conn  net.Conn
	c     *credential
	aead  cipher.AEAD
	nonce [nonceLen]byte
	salt  [maxSalt]byte
	small [fixedLen + tagLen]byte
	buf   *[]byte
	rest  []byte // of buf, not read yet
}

// increment counts a nonce up, little end first.
func increment(n *[nonceLen]byte) {
	for i := range n {
		if n[i]++; n[i] != 0 {
			return
		}
	}
}

// open decrypts in place.
func (o *opener) open(b []byte) ([]byte, error) {
	plain, err := o.aead.Open(b[:0], o.nonce[:], b, nil)
	if err != nil {
		return nil, errChunk
	}
	increment(&o.nonce)
	return plain, nil
}

// take reads and decrypts n octets into a pooled buffer.
func (o *opener) take(n int) ([]byte, error) {
	o.release()
	o.buf = buffers.Get().(*[]byte)
	b := (*o.buf)[:n+tagLen]
	if _, err := io.ReadFull(o.conn, b); err != nil {
		return nil, err
	}
	return o.open(b)
}

func (o *opener) release() {
	if o.buf != nil {
		buffers.Put(o.buf)
		o.buf, o.rest = nil, nil
	}
}

// begin reads the salt and what proves that the client has the key. now is for
// the clock of SIP022. What is left of the first chunk stays in o.rest.
func (o *opener) begin(now time.Time, seen *replays) (target, error) {
	salt := o.salt[:o.c.keyLen]
	if _, err := io.ReadFull(o.conn, salt); err != nil {
		return target{}, err
	}
	var err error
	if o.aead, err = o.c.session(salt); err != nil {
		return target{}, err
	}
	if !o.c.modern {
		return o.beginOld(seen)
	}
	fixed := o.small[:fixedLen+tagLen]
	if _, err := io.ReadFull(o.conn, fixed); err != nil {
		return target{}, err
	}
	if fixed, err = o.open(fixed); err != nil {
		return target{}, err
	}
	sent := binary.BigEndian.Uint64(fixed[1:9])
	switch drift := int64(sent) - now.Unix(); {
	case fixed[0] != typeRequest:
		return target{}, errHeader
	case drift > int64(maxDrift/time.Second) || drift < -int64(maxDrift/time.Second):
		return target{}, errTime
	case !seen.first(salt):
		return target{}, errReplayed
	}
	b, err := o.take(int(binary.BigEndian.Uint16(fixed[9:])))
	if err != nil {
		return target{}, err
	}
	t, n := parseTarget(b)
	if n <= 0 || len(b) < n+2 {
		return target{}, errHeader
	}
	pad := int(binary.BigEndian.Uint16(b[n:]))
	if b = b[n+2:]; pad > len(b) || pad == 0 && len(b) == 0 { // SIP022: one of the two must be there
		return target{}, errHeader
	}
	o.rest = b[pad:]
	return t, nil
}

// beginOld reads chunks until the target is complete.
func (o *opener) beginOld(seen *replays) (target, error) {
	var head []byte
	for first := true; ; first = false {
		b, err := o.next(time.Time{})
		if err != nil {
			return target{}, err
		}
		if first && !seen.first(o.salt[:o.c.keyLen]) {
			return target{}, errReplayed
		}
		whole := b
		if len(head) > 0 {
			whole = append(head, b...)
		}
		t, n := parseTarget(whole)
		if n < 0 {
			return target{}, errHeader
		}
		if n > 0 {
			o.rest = b[n-len(head):]
			return t, nil
		}
		head = append([]byte(nil), whole...) // shorter than the longest target, which would have been whole
	}
}

// next returns the next chunk's payload, good until the next call. With a limit,
// the wait for its beginning ends then.
func (o *opener) next(limit time.Time) ([]byte, error) {
	if len(o.rest) > 0 {
		b := o.rest
		o.rest = nil
		return b, nil
	}
	o.release()
	if !limit.IsZero() {
		_ = o.conn.SetReadDeadline(limit)
	}
	size := o.small[:2+tagLen]
	if _, err := io.ReadFull(o.conn, size); err != nil {
		return nil, err
	}
	size, err := o.open(size)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size))
	if !o.c.modern && n > maxOld {
		return nil, errHeader
	}
	if !limit.IsZero() {
		_ = o.conn.SetReadDeadline(time.Now().Add(bodyTime))
	}
	return o.take(n)
}

// target is what a client asks for.
type target struct {
	host string // name or address
	port uint16
}

// parseTarget reads an address in the form of SOCKS5. n is its length, 0 when
// octets are missing, below 0 when it is none.
func parseTarget(b []byte) (t target, n int) {
	if len(b) == 0 {
		return t, 0
	}
	from := 1
	switch b[0] {
	case 1:
		n = 1 + 4
	case 4:
		n = 1 + 16
	case 3:
		if len(b) < 2 {
			return t, 0
		}
		if b[1] == 0 {
			return t, -1
		}
		from, n = 2, 2+int(b[1])
	default:
		return t, -1
	}
	if len(b) < n+2 {
		return t, 0
	}
	t.host, t.port = string(b[from:n]), binary.BigEndian.Uint16(b[n:])
	if b[0] != 3 {
		ip, _ := netip.AddrFromSlice(b[from:n])
		t.host = ip.Unmap().String()
	}
	return t, n + 2
}

// Room in a sealer's buffer: what comes before the payload, and the payload.
const (
	headRoom = maxSalt + fixedLen + maxSalt + tagLen
	payload  = 8 << 10
)

// sealer writes chunks to a client.
type sealer struct {
	c       *credential
	request []byte // the client's salt
	aead    cipher.AEAD
	nonce   [nonceLen]byte
	buf     []byte
}

// room is where the next payload goes.
func (w *sealer) room() []byte {
	if w.buf == nil {
		w.buf = make([]byte, headRoom+payload+tagLen)
	}
	return w.buf[headRoom : headRoom+payload]
}

func (w *sealer) seal(dst, plain []byte) []byte {
	dst = w.aead.Seal(dst, w.nonce[:], plain, nil)
	increment(&w.nonce)
	return dst
}

// chunk encrypts the first n octets of room and returns what to send: the first
// time with salt and header.
func (w *sealer) chunk(n int, now time.Time) ([]byte, error) {
	var room [headRoom]byte
	head := room[:0]
	if w.aead == nil {
		head = room[:w.c.keyLen]
		_, _ = rand.Read(head) // never fails
		var err error
		if w.aead, err = w.c.session(head); err != nil {
			return nil, err
		}
		if w.c.modern {
			var fixed [fixedLen + maxSalt]byte
			f := append(fixed[:0], typeAnswer)
			f = binary.BigEndian.AppendUint64(f, uint64(now.Unix()))
			f = append(f, w.request...)
			f = binary.BigEndian.AppendUint16(f, uint16(n))
			return w.finish(w.seal(head, f), n), nil
		}
	}
	return w.finish(w.seal(head, []byte{byte(n >> 8), byte(n)}), n), nil
}

// finish seals the payload in place, with head before it.
func (w *sealer) finish(head []byte, n int) []byte {
	at := headRoom - len(head)
	copy(w.buf[at:], head)
	end := w.seal(w.buf[headRoom:headRoom], w.buf[headRoom:headRoom+n])
	return w.buf[at : headRoom+len(end)]
}

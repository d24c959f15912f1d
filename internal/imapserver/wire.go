package imapserver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/klauspost/compress/flate"

	"madmail/internal/inflate"
)

const (
	bufSize = 8 << 10
	outSize = 16 << 10
	// fewOctets is what a flush has at most that is not worth compressing: the codes of
	// a block cost more than they save.
	fewOctets = 80
	dictSize  = 8 << 10 // what the stateless compressor uses of deflate's window
)

var (
	buffers = sync.Pool{New: func() any { b := make([]byte, bufSize); return &b }}
	outs    = sync.Pool{New: func() any { b := make([]byte, 0, outSize+4096); return &b }}
	packed  = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

var errLineTooLong = errors.New("imapserver: command line too long")

// wire reads a connection, inflating where COMPRESS is on, into a buffer that
// exists only while something is in it.
type wire struct {
	conn net.Conn
	buf  *[]byte // plain octets r..w
	r, w int
	one  [1]byte

	// wait reads octets when nothing at all is pending: it may be interrupted.
	wait func(p []byte) (int, error)
	// more reads octets in the middle of something.
	more func(p []byte) (int, error)

	in *input // not nil when COMPRESS is on
}

// input is the compressed direction from the client. Between commands it keeps
// only the plain text that further input may refer to.
type input struct {
	w    *wire
	raw  *[]byte // compressed octets r..n
	r, n int
	dec  inflate.Decoder
}

func (w *wire) buffered() int { return w.w - w.r }

// atRest reports whether no compressed input is on its way.
func (w *wire) atRest() bool { return w.in == nil || w.in.raw == nil && !w.in.dec.Pending() }

// push puts an octet that was read from the connection where a read would have
// put it. The wire is empty and at rest.
func (w *wire) push(b byte) {
	if w.in == nil {
		w.buf = buffers.Get().(*[]byte)
		(*w.buf)[0] = b
		w.r, w.w = 0, 1
		return
	}
	w.in.begin(b)
}

// release gives empty buffers back.
func (w *wire) release() {
	if w.buf != nil && w.r == w.w {
		buffers.Put(w.buf)
		w.buf, w.r, w.w = nil, 0, 0
	}
}

// rest makes what is kept between commands small: the client has been silent for
// long, and may be for longer.
func (w *wire) rest() error {
	if w.in == nil || !w.atRest() {
		return nil
	}
	return w.in.dec.Pack()
}

// discard drops what was read ahead.
func (w *wire) discard() {
	w.r = w.w
	w.release()
	if w.in != nil {
		w.in.drop()
	}
}

// fill reads more plain octets. idle says that nothing is under way: the wait
// may be interrupted and no buffer is held meanwhile.
func (w *wire) fill(idle bool) error {
	w.release()
	if w.in != nil {
		return w.in.fill(idle)
	}
	if w.buf == nil {
		read := w.more
		if idle {
			read = w.wait
		}
		n, err := read(w.one[:])
		if n == 0 {
			return noProgress(err)
		}
		w.push(w.one[0])
		return nil
	}
	w.compact()
	n, err := w.more((*w.buf)[w.w:])
	w.w += n
	if n > 0 {
		return nil
	}
	return noProgress(err)
}

func noProgress(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// compact makes room behind what is buffered.
func (w *wire) compact() {
	if w.r > 0 {
		copy(*w.buf, (*w.buf)[w.r:w.w])
		w.w -= w.r
		w.r = 0
	}
}

// fill inflates some octets into the buffer, waiting for input where needed.
func (in *input) fill(idle bool) error {
	w := in.w
	read := w.more
	if idle {
		read = w.wait
	}
	for first, rest := true, false; ; {
		if in.r < in.n || in.dec.Pending() {
			if n, err := in.inflate(); n > 0 || err != nil {
				return err
			}
			continue
		}
		if w.buffered() == 0 {
			w.release()
		}
		if rest && idle {
			return errQuiet // the end of a flush that came apart: nobody has spoken
		}
		// The first octet is waited for without holding anything.
		p := w.one[:]
		if !first {
			in.take()
			p = *in.raw
		}
		n, err := read(p)
		if n == 0 {
			in.give()
			return noProgress(err)
		}
		if first {
			in.begin(w.one[0])
		} else {
			in.r, in.n = 0, n
			rest = true
		}
		first = false
	}
}

// inflate decodes into the wire's buffer and returns how many octets came.
func (in *input) inflate() (int, error) {
	w := in.w
	if w.buf == nil {
		w.buf = buffers.Get().(*[]byte)
		w.r, w.w = 0, 0
	}
	w.compact()
	var src []byte
	if in.raw != nil {
		src = (*in.raw)[in.r:in.n]
	}
	used, out, err := in.dec.Decode((*w.buf)[w.w:w.w:len(*w.buf)], src)
	w.w += len(out)
	in.r += used
	in.give()
	return len(out), err
}

// begin puts the first octet after a rest where inflate finds it.
func (in *input) begin(b byte) {
	in.take()
	(*in.raw)[0] = b
	in.r, in.n = 0, 1
}

func (in *input) take() {
	if in.raw == nil {
		in.raw = buffers.Get().(*[]byte)
		in.r, in.n = 0, 0
	}
}

// give gives the raw buffer back when it is used up.
func (in *input) give() {
	if in.raw != nil && in.r == in.n {
		buffers.Put(in.raw)
		in.raw = nil
	}
}

// drop forgets what was read ahead, and the window.
func (in *input) drop() {
	in.r = in.n
	in.give()
	in.dec = inflate.Decoder{}
}

// line reads up to a line feed, at most limit octets as it is when they come, and returns it without
// the line end. A bare line feed ends a line too: some clients send it.
func (w *wire) line(limit func() int, idle bool) ([]byte, error) {
	var long []byte
	for {
		if w.buf != nil {
			have := (*w.buf)[w.r:w.w]
			if i := bytes.IndexByte(have, '\n'); i >= 0 {
				w.r += i + 1
				l := append(long, have[:i]...)
				if n := len(l); n > 0 && l[n-1] == '\r' {
					l = l[:n-1]
				}
				return l, nil
			}
			if len(long)+len(have) > limit() {
				return nil, errLineTooLong
			}
			if len(have) == len(*w.buf) {
				long = append(long, have...)
				w.r, w.w = 0, 0
			}
		}
		if err := w.fill(idle && len(long) == 0 && w.buffered() == 0); err != nil {
			return nil, err
		}
	}
}

// read takes octets of a literal.
func (w *wire) read(p []byte) (int, error) {
	if w.buffered() == 0 {
		if w.in == nil {
			w.release()
			return w.more(p)
		}
		if err := w.fill(false); err != nil {
			return 0, err
		}
	}
	n := copy(p, (*w.buf)[w.r:w.w])
	w.r += n
	return n, nil
}

// output collects what goes to the client and compresses it where COMPRESS is on.
type output struct {
	conn    net.Conn
	buf     *[]byte
	deflate bool
	before  []byte // the end of what was sent last within one command: the compressor's dictionary
}

func (o *output) bytes() *[]byte {
	if o.buf == nil {
		o.buf = outs.Get().(*[]byte)
	}
	return o.buf
}

// flush sends what was collected. With COMPRESS each flush ends in an empty
// stored block, so that the client sees all of it.
func (o *output) flush() error {
	if o.buf == nil || len(*o.buf) == 0 {
		return nil
	}
	var err error
	if o.deflate {
		z := packed.Get().(*bytes.Buffer)
		z.Reset()
		if len(*o.buf) <= fewOctets {
			store(z, *o.buf)
		} else {
			err = flate.StatelessDeflate(z, *o.buf, false, o.before)
		}
		if err == nil {
			_, err = o.conn.Write(z.Bytes())
		}
		packed.Put(z)
		o.before = append(o.before[:0], (*o.buf)[max(0, len(*o.buf)-dictSize):]...)
	} else {
		_, err = o.conn.Write(*o.buf)
	}
	*o.buf = (*o.buf)[:0]
	return err
}

// store writes p as a stored block, and the empty one that ends a flush (RFC 1951
// section 3.2.4).
func store(z *bytes.Buffer, p []byte) {
	n := uint16(len(p))
	z.Write([]byte{0, byte(n), byte(n >> 8), byte(^n), byte(^n >> 8)})
	z.Write(p)
	z.WriteString("\x00\x00\x00\xff\xff")
}

// release gives the buffer back when it is empty.
func (o *output) release() {
	if o.buf != nil && len(*o.buf) == 0 {
		if cap(*o.buf) <= 2*outSize {
			outs.Put(o.buf)
		}
		o.buf = nil
	}
	o.before = nil
}

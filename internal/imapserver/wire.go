package imapserver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/klauspost/compress/flate"
)

const (
	bufSize   = 8 << 10
	outSize   = 16 << 10
	maxWindow = 32 << 10 // of deflate (RFC 1951)
	dictSize  = 8 << 10  // what the stateless compressor uses of it
)

var (
	buffers   = sync.Pool{New: func() any { b := make([]byte, bufSize); return &b }}
	outs      = sync.Pool{New: func() any { b := make([]byte, 0, outSize+4096); return &b }}
	packed    = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}
)

// flushed is how a compressed stream ends at a flush: an empty stored block.
var flushed = [4]byte{0, 0, 0xff, 0xff}

var (
	errLineTooLong = errors.New("imapserver: command line too long")
	// errDry says that the compressed input so far is used up, at a point where
	// the inflater can be let go.
	errDry = errors.New("imapserver: no more compressed input")
)

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
// only the plain text that further input may refer to: clients end each command
// with an empty stored block, and there the inflater can be let go.
type input struct {
	w       *wire
	raw     *[]byte
	r, n    int
	last    [4]byte
	dec     io.ReadCloser
	history []byte
}

func (w *wire) buffered() int { return w.w - w.r }

// atRest reports whether no compressed input is on its way.
func (w *wire) atRest() bool { return w.in == nil || w.in.dec == nil && w.in.raw == nil }

// settle lets the inflater go when the input so far is used up: that shows
// only when one asks it for more.
func (w *wire) settle() {
	in := w.in
	if in == nil || in.dec == nil || in.r < in.n || in.last != flushed || w.buffered() > 0 {
		return
	}
	if w.buf == nil {
		w.buf = buffers.Get().(*[]byte)
	}
	w.r, w.w = 0, 0
	_ = in.inflate()
	w.release()
}

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
	if w.buf == nil {
		if in.dec == nil {
			// Nothing pending anywhere: wait for the first octet without holding anything.
			read := w.more
			if idle {
				read = w.wait
			}
			n, err := read(w.one[:])
			if n == 0 {
				return noProgress(err)
			}
			in.begin(w.one[0])
		}
		w.buf = buffers.Get().(*[]byte)
		w.r, w.w = 0, 0
	}
	w.compact()
	for {
		if in.dec == nil {
			in.open()
		}
		had := w.buffered()
		err := in.inflate()
		n := w.buffered() - had
		if errors.Is(err, errDry) {
			if n == 0 {
				w.release()
				if w.buf == nil || idle {
					return in.fill(idle)
				}
				if err := in.refill(); err != nil {
					return err
				}
				continue
			}
			return nil
		}
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// inflate reads once from the inflater into the wire's buffer. With errDry the
// inflater was let go.
func (in *input) inflate() error {
	w := in.w
	n, err := in.dec.Read((*w.buf)[w.w:])
	in.remember((*w.buf)[w.w : w.w+n])
	w.w += n
	if errors.Is(err, errDry) {
		in.let()
	}
	return err
}

func (in *input) take() {
	if in.raw == nil {
		in.raw = buffers.Get().(*[]byte)
		in.r, in.n = 0, 0
	}
}

// begin starts to inflate with the first octet after a rest.
func (in *input) begin(b byte) {
	in.take()
	(*in.raw)[0] = b
	in.r, in.n = 0, 1
	in.note([]byte{b})
	in.open()
}

func (in *input) open() {
	in.dec = inflaters.Get().(io.ReadCloser)
	_ = in.dec.(flate.Resetter).Reset(in, in.history)
}

// let gives inflater and raw buffer back; the history is all that is needed.
func (in *input) let() {
	if in.dec != nil {
		inflaters.Put(in.dec)
		in.dec = nil
	}
	if in.raw != nil && in.r == in.n {
		buffers.Put(in.raw)
		in.raw = nil
	}
}

func (in *input) drop() {
	in.r = in.n
	in.let()
	in.history = nil
}

func (in *input) remember(p []byte) {
	if len(p) >= maxWindow {
		in.history = append(in.history[:0], p[len(p)-maxWindow:]...)
		return
	}
	if over := len(in.history) + len(p) - maxWindow; over > 0 {
		in.history = append(in.history[:0], in.history[over:]...)
	}
	in.history = append(in.history, p...)
}

// note remembers the last four octets of the compressed stream.
func (in *input) note(p []byte) {
	if len(p) >= 4 {
		copy(in.last[:], p[len(p)-4:])
		return
	}
	copy(in.last[:], in.last[len(p):])
	copy(in.last[4-len(p):], p)
}

// refill waits for more compressed octets.
func (in *input) refill() error {
	in.take()
	n, err := in.w.more(*in.raw)
	if n == 0 {
		return noProgress(err)
	}
	in.r, in.n = 0, n
	in.note((*in.raw)[:n])
	return nil
}

// ReadByte implements io.ByteReader, so that the inflater never reads ahead.
func (in *input) ReadByte() (byte, error) {
	if in.r == in.n {
		if in.last == flushed {
			return 0, errDry
		}
		if err := in.refill(); err != nil {
			return 0, err
		}
	}
	c := (*in.raw)[in.r]
	in.r++
	return c, nil
}

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c, err := in.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = c
	n := copy(p[1:], (*in.raw)[in.r:in.n])
	in.r += n
	return n + 1, nil
}

// line reads up to a line feed, at most limit octets, and returns it without
// the line end. A bare line feed ends a line too: some clients send it.
func (w *wire) line(limit int, idle bool) ([]byte, error) {
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
			if len(long)+len(have) > limit {
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
		if err = flate.StatelessDeflate(z, *o.buf, false, o.before); err == nil {
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

package smtpserver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
)

const (
	bufSize = 8 << 10
	// maxSkip is how much of a line that is too long is read away.
	maxSkip = 256 << 10
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufSize); return &b }}

var (
	errLineTooLong = errors.New("smtpserver: command line too long")
	errEndless     = errors.New("smtpserver: command line without end")
	errBareLF      = errors.New("smtpserver: command ends in a bare line feed")
)

// wire reads from a connection into a buffer that exists only while something
// is in it.
type wire struct {
	conn net.Conn
	buf  *[]byte
	r, w int
	one  [1]byte
	// before is called ahead of each read from the connection: it flushes
	// replies and moves the deadline.
	before func() error
}

func (w *wire) buffered() int { return w.w - w.r }

// release gives an empty buffer back.
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
}

// fill reads more. Without a buffer it waits for a single octet.
func (w *wire) fill() error {
	if err := w.before(); err != nil {
		return err
	}
	if w.buf == nil {
		n, err := w.conn.Read(w.one[:])
		if n == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			return err
		}
		w.buf = buffers.Get().(*[]byte)
		(*w.buf)[0] = w.one[0]
		w.r, w.w = 0, 1
		return nil
	}
	if w.r > 0 {
		copy(*w.buf, (*w.buf)[w.r:w.w])
		w.w -= w.r
		w.r = 0
	}
	n, err := w.conn.Read((*w.buf)[w.w:])
	w.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// line reads a command line of at most limit octets and returns it without its
// end. A longer line is read away, within reason.
func (w *wire) line(limit int) (string, error) {
	var long []byte
	tooLong, skipped := false, 0
	for {
		have := []byte(nil)
		if w.buf != nil {
			have = (*w.buf)[w.r:w.w]
		}
		if i := bytes.IndexByte(have, '\n'); i >= 0 {
			l := have[:i]
			w.r += i + 1
			if len(long) > 0 {
				l = append(long, l...)
			}
			if tooLong || len(l) > limit {
				return "", errLineTooLong
			}
			if len(l) == 0 || l[len(l)-1] != '\r' {
				return "", errBareLF
			}
			return string(l[:len(l)-1]), nil
		}
		if w.buf != nil && len(have) == bufSize {
			if tooLong = tooLong || len(long)+len(have) > limit; !tooLong {
				long = append(long, have...)
			} else if skipped += len(have); skipped > maxSkip {
				return "", errEndless
			}
			w.r, w.w = 0, 0
		}
		if err := w.fill(); err != nil {
			return "", err
		}
	}
}

// ReadSlice implements smtp.LineSource.
func (w *wire) ReadSlice() ([]byte, error) {
	for {
		if w.buf != nil {
			have := (*w.buf)[w.r:w.w]
			if i := bytes.IndexByte(have, '\n'); i >= 0 {
				w.r += i + 1
				return have[:i+1], nil
			}
			if len(have) == bufSize {
				w.r = w.w
				return have, nil
			}
		}
		if err := w.fill(); err != nil {
			return nil, err
		}
	}
}

// read takes octets as they come, for BDAT.
func (w *wire) read(p []byte) (int, error) {
	if w.buffered() == 0 {
		w.release()
		if err := w.before(); err != nil {
			return 0, err
		}
		return w.conn.Read(p)
	}
	n := copy(p, (*w.buf)[w.r:w.w])
	w.r += n
	return n, nil
}

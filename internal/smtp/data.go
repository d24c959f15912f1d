package smtp

import (
	"bytes"
	"errors"
	"io"
)

// Errors of a DataReader.
var (
	// ErrBareEOL says that a line of the message did not end in CRLF. It comes
	// in place of io.EOF, after everything was read.
	ErrBareEOL = errors.New("smtp: line end other than CRLF")
	// ErrTooBig says that the message passed the limit. More can be read, to
	// find its end.
	ErrTooBig = errors.New("smtp: message too big")
)

// LineSource gives the next octets up to and including a line feed, or as many
// as it holds when the line is longer. The slice is valid until the next call.
type LineSource interface {
	ReadSlice() ([]byte, error)
}

// DataReader reads the message that follows DATA (RFC 5321 section 4.5.2): it
// undoes dot-stuffing and ends with io.EOF at CRLF.CRLF and nowhere else. An
// end of the source before that is io.ErrUnexpectedEOF.
type DataReader struct {
	src  LineSource
	left int64 // what the limit still allows

	rest    []byte // decoded octets not handed out yet
	midLine bool   // the next slice continues a line
	lastCR  bool   // and the octet before it was CR
	bare    bool
	end     error
}

// NewDataReader reads from src at most limit octets.
func NewDataReader(src LineSource, limit int64) *DataReader {
	return &DataReader{src: src, left: limit}
}

// Read implements io.Reader.
func (d *DataReader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(d.rest) == 0 {
			if d.end != nil {
				break
			}
			d.next()
			continue
		}
		k := copy(p[n:], d.rest)
		d.rest = d.rest[k:]
		n += k
		if int64(k) > d.left {
			d.left = 0
			return n, ErrTooBig
		}
		d.left -= int64(k)
	}
	if n == 0 && len(p) > 0 {
		return 0, d.end
	}
	return n, nil
}

// Ended reports whether the end of the message was reached.
func (d *DataReader) Ended() bool { return d.end == io.EOF || d.end == ErrBareEOL }

// Drain reads to the end of the message, at most limit octets.
func (d *DataReader) Drain(limit int64) error {
	d.rest = nil
	for d.end == nil {
		if limit < 0 {
			return ErrTooBig
		}
		d.next()
		limit -= int64(len(d.rest))
		d.rest = nil
	}
	if d.Ended() {
		return nil
	}
	return d.end
}

func (d *DataReader) next() {
	line, err := d.src.ReadSlice()
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		d.end = err
		return
	}
	n := len(line)
	last := line[n-1] == '\n'
	if !d.midLine && line[0] == '.' {
		if last && string(line) == ".\r\n" {
			d.end = io.EOF
			if d.bare {
				d.end = ErrBareEOL
			}
			return
		}
		line = line[1:]
	}
	d.check(line, last)
	d.midLine = !last
	d.rest = line
}

// check looks for line ends other than CRLF.
func (d *DataReader) check(line []byte, last bool) {
	n := len(line)
	if n == 0 {
		d.lastCR = false
		return
	}
	if d.midLine && d.lastCR && line[0] != '\n' {
		d.bare = true
	}
	i := bytes.IndexByte(line, '\r')
	switch {
	case !last:
		if i >= 0 && i != n-1 {
			d.bare = true
		}
	case n == 1:
		if !d.midLine || !d.lastCR {
			d.bare = true
		}
	case i != n-2:
		d.bare = true
	}
	d.lastCR = !last && line[n-1] == '\r'
}

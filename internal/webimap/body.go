package webimap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"unicode/utf8"

	"madmail/internal/mailbox"
)

// spool takes the message of a request while it is read. It is a writer that never
// fails for a message that is too large: it drops that, so that the rest of the
// request is read and the answer heard.
type spool struct {
	store mailbox.Store
	ctx   context.Context
	limit int64
	w     mailbox.BodyWriter // nil until there is something
	n     int64
	err   error // of the store
}

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	if s.err == nil && s.n <= s.limit {
		if s.w == nil {
			s.w, s.err = s.store.NewBody(s.ctx)
		}
		if s.err == nil {
			_, s.err = s.w.Write(p)
		}
	}
	return len(p), nil
}

// seal returns what was written. The caller closes it.
func (s *spool) seal() (mailbox.Body, error) {
	switch {
	case s.n > s.limit:
		return nil, errTooBig
	case s.err != nil:
		return nil, s.err
	case s.w == nil:
		return nil, errNoBody
	}
	return s.w.Seal()
}

// drop forgets what was written. After seal it does nothing.
func (s *spool) drop() {
	if s.w != nil {
		s.w.Abort()
	}
}

// chunk is how much of a message is looked at or sent at a time.
const chunk = 8 << 10

// isText reports whether all of r is UTF-8.
func isText(r io.Reader) (bool, error) {
	var buf [chunk]byte
	left := 0
	for {
		n, err := r.Read(buf[left:])
		b := buf[:left+n]
		for len(b) > 0 {
			c, size := utf8.DecodeRune(b)
			if c == utf8.RuneError && size == 1 {
				if utf8.FullRune(b) {
					return false, nil
				}
				break // goes on in the next chunk
			}
			b = b[size:]
		}
		left = copy(buf[:], b)
		if errors.Is(err, io.EOF) {
			return left == 0, nil
		}
		if err != nil {
			return false, err
		}
	}
}

const hexDigits = "0123456789abcdef"

// quote writes all of r as a JSON string. What is no UTF-8 becomes U+FFFD.
func quote(w *bufio.Writer, r io.Reader) error {
	var buf [chunk]byte
	left := 0
	_ = w.WriteByte('"') // a failed writer fails at the end, too
	for {
		n, err := r.Read(buf[left:])
		b := buf[:left+n]
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return err
		}
		for len(b) > 0 {
			plain := bytes.IndexFunc(b, func(c rune) bool { return c < ' ' || c == '"' || c == '\\' || c >= 0x7f })
			if plain < 0 {
				plain = len(b)
			}
			if _, err := w.Write(b[:plain]); err != nil {
				return err
			}
			if b = b[plain:]; len(b) == 0 {
				break
			}
			c, size := utf8.DecodeRune(b)
			if c == utf8.RuneError && size == 1 && !utf8.FullRune(b) && !end {
				break
			}
			switch {
			case c == '"' || c == '\\':
				_, _ = w.Write([]byte{'\\', byte(c)})
			case c == '\n':
				_, _ = w.WriteString(`\n`)
			case c == '\r':
				_, _ = w.WriteString(`\r`)
			case c == '\t':
				_, _ = w.WriteString(`\t`)
			case c < ' ' || c == 0x7f:
				_, _ = w.Write([]byte{'\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15]})
			default:
				_, _ = w.WriteRune(c)
			}
			b = b[size:]
		}
		left = copy(buf[:], b)
		if end {
			return w.WriteByte('"')
		}
	}
}

// quoteBase64 writes all of r as a JSON string in base64.
func quoteBase64(w *bufio.Writer, r io.Reader) error {
	_ = w.WriteByte('"')
	e := base64.NewEncoder(base64.StdEncoding, w)
	if _, err := io.CopyBuffer(e, struct{ io.Reader }{r}, make([]byte, chunk)); err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return err
	}
	return w.WriteByte('"')
}

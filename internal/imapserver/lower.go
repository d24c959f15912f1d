package imapserver

import (
	"errors"
	"net"
	"os"
	"sync"
)

// maxHeld is how much is sent at once while a message streams: four TLS records.
const maxHeld = 64 << 10

var helds = sync.Pool{New: func() any { b := make([]byte, 0, maxHeld+17<<10); return &b }}

// lowerConn is the connection below TLS, where two things can be had that
// crypto/tls does not offer.
//
// It can be told to have nothing to read. crypto/tls reads ahead: when a client
// sends two records in one segment, the second lies inside it while the socket
// is silent. Asking TLS for octets over a dry connection shows whether it has some.
//
// And it can hold records back to send several at once. A record is 16 KiB, and
// with one write for each most of a fetch's time goes to system calls and to
// waking the reader.
type lowerConn struct {
	net.Conn
	dry bool // of the session's goroutine

	mu   sync.Mutex // guards the field below
	held *[]byte    // records to send; nil when they go out at once
}

func (l *lowerConn) Read(p []byte) (int, error) {
	if l.dry {
		return 0, os.ErrDeadlineExceeded // temporary: TLS goes on afterwards
	}
	return l.Conn.Read(p)
}

// CloseWrite ends our side of the connection.
func (l *lowerConn) CloseWrite() error {
	if half, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (l *lowerConn) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		return l.Conn.Write(p)
	}
	*l.held = append(*l.held, p...)
	if len(*l.held) >= maxHeld {
		if err := l.sendLocked(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// hold begins to hold records back, until let.
func (l *lowerConn) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = helds.Get().(*[]byte)
	}
}

// let sends what was held back.
func (l *lowerConn) let() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		return nil
	}
	err := l.sendLocked()
	helds.Put(l.held)
	l.held = nil
	return err
}

func (l *lowerConn) sendLocked() error {
	if len(*l.held) == 0 {
		return nil
	}
	_, err := l.Conn.Write(*l.held)
	*l.held = (*l.held)[:0]
	return err
}

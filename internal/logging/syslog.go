package logging

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// syslog sends each record to the system's log over its local socket (RFC 3164, as
// local daemons take it: without time and host). Where there is none it writes
// otherwise.
type syslog struct {
	path      string
	otherwise io.Writer

	mu     sync.Mutex // guards the fields below
	conn   net.Conn
	closed bool
}

// severities begin the lines of the text handler.
var severities = []struct {
	prefix   string
	severity int
}{{"level=ERROR", 3}, {"level=WARN", 4}, {"level=INFO", 6}}

// mail is the facility (RFC 5424 section 6.2.1).
const mail = 2 << 3

// Write takes one record.
func (s *syslog) Write(p []byte) (int, error) {
	severity := 7
	for _, x := range severities {
		if bytes.HasPrefix(p, []byte(x.prefix)) {
			severity = x.severity
		}
	}
	line := fmt.Appendf(nil, "<%d>%s[%d]: %s", mail|severity, filepath.Base(os.Args[0]), os.Getpid(), bytes.TrimRight(p, "\n"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 2 { // the daemon may have been started anew
		if s.conn == nil && !s.closed {
			s.conn, _ = net.DialTimeout("unixgram", s.path, time.Second)
		}
		if s.conn == nil {
			break
		}
		_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second)) // a daemon that hangs must not hang us
		if _, err := s.conn.Write(line); err == nil {
			return len(p), nil
		}
		s.conn.Close()
		s.conn = nil
	}
	return s.otherwise.Write(p)
}

// Close gives the socket back.
func (s *syslog) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

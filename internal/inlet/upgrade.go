package inlet

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// IsWebSocket reports whether a request wants to become a WebSocket.
func IsWebSocket(h http.Header) bool {
	return strings.EqualFold(h.Get("Upgrade"), "websocket")
}

// WebSocketAccept answers the key of a client (RFC 6455 section 4.2.2).
func WebSocketAccept(h http.Header) (string, bool) {
	key := h.Get("Sec-WebSocket-Key")
	if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) != 16 {
		return "", false
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:]), true
}

// upgradeTime is how long a client has to take the answer to its request.
const upgradeTime = 10 * time.Second

// Hijack takes the connection of a request of HTTP/1.1, says answer, and returns it
// without deadlines, with what the client sent ahead. On an error nothing was said,
// unless the connection broke; then it is closed.
func Hijack(w http.ResponseWriter, answer string) (net.Conn, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("inlet: take over: %w", err)
	}
	if err = conn.SetDeadline(time.Time{}); err == nil {
		err = conn.SetWriteDeadline(time.Now().Add(upgradeTime))
	}
	if err == nil {
		_, err = io.WriteString(conn, answer)
	}
	if err == nil {
		err = conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("inlet: take over: %w", err)
	}
	return ahead(conn, rw.Reader), nil
}

// ahead gives a connection back what was read of it.
func ahead(conn net.Conn, r *bufio.Reader) net.Conn {
	n := r.Buffered()
	if n == 0 {
		return conn
	}
	first, _ := r.Peek(n) // it is there
	return again(conn, bytes.Clone(first))
}

package irohrelay

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"madmail/internal/inlet"
)

// protocol is what clients ask for, to the letter, and without the header
// Connection that belongs to it.
const protocol = "iroh derp http"

// Owns reports whether a path belongs to the relay. Clients ask at the root of a
// server only, whatever the URL says that they were given.
func Owns(path string) bool {
	switch path {
	case "/relay", "/derp", "/ping", "/relay/probe", "/derp/probe", "/generate_204":
		return true
	}
	return false
}

// Handler returns what answers the paths that the relay Owns. It may be mounted
// on several servers. Connections that it takes over outlive those servers, until
// Stop.
func (h *Hub) Handler() http.Handler { return h.handler }

// Serve answers on a listener of the hub's own until it is closed.
func (h *Hub) Serve(l net.Listener) error {
	s := &http.Server{
		Handler: h.handler, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
		MaxHeaderBytes: 8 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	h.mu.Lock()
	if h.stopped {
		h.mu.Unlock()
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
	h.servers[s] = struct{}{}
	h.mu.Unlock()
	err := s.Serve(l)
	h.mu.Lock()
	delete(h.servers, s)
	h.mu.Unlock()
	s.Close() // those who only asked, and keep the connection
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (h *Hub) routes() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, serve http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet { // HEAD neither: it cannot be upgraded
				w.Header().Set("Allow", http.MethodGet)
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			serve(w, r)
		})
	}
	for _, p := range []string{"/relay", "/derp"} {
		get(p, h.upgrade)
	}
	for _, p := range []string{"/ping", "/relay/probe", "/derp/probe"} {
		get(p, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Access-Control-Allow-Origin", "*") })
	}
	get("/generate_204", func(w http.ResponseWriter, r *http.Request) {
		if c := r.Header.Get("X-Tailscale-Challenge"); isChallenge(c) {
			w.Header().Set("X-Tailscale-Response", "response "+c)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func isChallenge(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return 0 < len(s) && len(s) < 64
}

// upgrade turns a request into a connection of the relay.
func (h *Hub) upgrade(w http.ResponseWriter, r *http.Request) {
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	messages := false
	switch values := r.Header["Upgrade"]; {
	case len(values) == 1 && values[0] == protocol:
	case len(values) == 1 && inlet.IsWebSocket(r.Header):
		if r.Header.Get("Sec-WebSocket-Version") != "13" {
			w.Header().Set("Sec-WebSocket-Version", "13")
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		accept, ok := inlet.WebSocketAccept(r.Header)
		if !ok {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n"
		messages = true
	default:
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	give, status := h.admit(from)
	if status != 0 {
		w.WriteHeader(status)
		return
	}
	nc, err := inlet.Hijack(w, answer)
	if err != nil {
		give()
		w.WriteHeader(http.StatusBadRequest) // HTTP/2
		return
	}
	if messages {
		nc = newWebSocket(nc)
	}
	if !h.adopt(nc, from, give) {
		give()
		nc.Close()
	}
}

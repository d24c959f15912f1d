package adminui

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// RelayPath is where the page sends what it asks when its host is 127.0.0.1. It takes
// itself for a desktop program then, whose shell passes requests on.
const RelayPath = "/__proxy"

// maxRelayed bounds a request: that of the admin API, and its wrapping.
const maxRelayed = 33 << 20

// Relay takes the wrapping off a request and has it answered by the handler that door
// knows for its address; nil means that it is not this server's, and nothing is sent
// anywhere else.
func Relay(door func(target *url.URL) http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, maxRelayed+1))
		var q struct {
			TargetURL string          `json:"targetUrl"`
			Payload   json.RawMessage `json:"payload"`
		}
		switch {
		case err != nil || len(raw) > maxRelayed || json.Unmarshal(raw, &q) != nil || len(q.Payload) == 0:
			text(w, http.StatusBadRequest, "Bad request", "")
			return
		case !sameOrigin(r):
			text(w, http.StatusForbidden, "Forbidden", "")
			return
		}
		target, err := url.Parse(q.TargetURL)
		if err != nil || target.Scheme != "https" && target.Scheme != "http" {
			text(w, http.StatusNotFound, "Not found", "")
			return
		}
		next := door(target)
		if next == nil {
			text(w, http.StatusNotFound, "Not found", "")
			return
		}
		inner := r.Clone(r.Context())
		inner.URL, inner.RequestURI = target, target.RequestURI()
		inner.Body, inner.ContentLength = io.NopCloser(strings.NewReader(string(q.Payload))), int64(len(q.Payload))
		next.ServeHTTP(w, inner)
	})
}

// sameOrigin reports whether the page that asks, if one does, was served from here.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

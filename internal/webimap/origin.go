package webimap

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Admits reports whether a page may read what r is answered: one of this host, or of
// an origin in the list, where "*" stands for all. A request without an origin comes
// from no page of elsewhere.
func Admits(r *http.Request, origins []string) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return true
	}
	return slices.ContainsFunc(origins, func(o string) bool { return o == "*" || strings.EqualFold(strings.TrimSuffix(o, "/"), origin) })
}

// Cross sets the fields of an answer by which browsers let the page that r comes from
// read it, if it may, and reports that.
func Cross(w http.ResponseWriter, r *http.Request, origins []string, methods, headers string) bool {
	head := w.Header()
	head.Add("Vary", "Origin")
	allowed := Admits(r, origins)
	if origin := r.Header.Get("Origin"); origin != "" && allowed {
		head.Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions {
			head.Set("Access-Control-Allow-Methods", methods)
			head.Set("Access-Control-Allow-Headers", headers)
			head.Set("Access-Control-Max-Age", "86400")
		}
	}
	return allowed
}

func (h *Handler) cross(w http.ResponseWriter, r *http.Request) bool {
	return Cross(w, r, h.Origins(), "GET, POST, PUT, DELETE, OPTIONS", "Content-Type, X-Email, X-Password")
}

// Package website is the public site: what this server is, how to join, new
// accounts, QR codes, and the settings that mail clients look up; or the pages
// that an operator wrote instead. It asks app for facts and accounts; it knows
// neither mail nor the database.
package website

import (
	"context"
	"crypto/tls"
	"embed"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"madmail/internal/fault"
	"madmail/internal/invite"
)

//go:embed assets
var assets embed.FS

// Account is a new account.
type Account struct{ Email, Password, Link string }

// Facts are what the site tells. Ports are 0 where a service is off.
type Facts struct {
	Domain, Host      string
	Open              bool
	Language          string // "" lets the browser decide
	Quota, MaxMessage int64
	IMAPTLS, IMAP     int
	SMTPTLS, SMTP     int
	SelfSigned        bool

	// For pages of operators, under the names that earlier versions gave them.
	MailDomain, MXDomain, WebDomain string // IP addresses in brackets
	PublicIP, Version               string
	JIT, TURN                       bool
	IMAPSecurity, SMTPSecurity      string // in login links
	SSURL, STUN                     string // "" where there is none
	Retention                       time.Duration
}

// Options configure the site. Register and Facts are required.
type Options struct {
	// Register makes an account. host is the Host header. Errors of kind
	// fault.Refused carry a text for the user.
	Register func(ctx context.Context, token, host string) (Account, error)
	Facts    func() Facts
	// Own is the operator's own site as it is now; nil is none. It is asked for each
	// request, and its files are read for each.
	Own func() Own
	// Reserved tells of a path that it belongs to another door, even when that is
	// closed: no file of a site is shown there.
	Reserved func(path string) bool
	// PerMinute is how many accounts may be made in a minute by all visitors together;
	// nil sets no limit.
	PerMinute func() int
	// Policy is the MTA-STS policy (RFC 8461 section 3.2), or ""; Key the record of
	// the DKIM key with a selector. Without them there is none.
	Policy func() string
	Key    func(selector string) (record string, ok bool)
	// Cross, when not nil, sets the fields of an answer of /new by which browsers let a
	// page of elsewhere read it.
	Cross func(w http.ResponseWriter, r *http.Request)
	// Before may take a request out of the site's hands, for what else is served on
	// the same port; nil leaves it to the site. The site's limit on bodies does not
	// hold for what is taken.
	Before func(r *http.Request) http.Handler
	TLS    *tls.Config
	Logger *slog.Logger
}

// Server serves the site on listeners it is handed.
type Server struct {
	opt   Options
	http  *http.Server
	pages pages

	mu     sync.Mutex // guards the fields below
	all    *rate.Limiter
	visits map[netip.Prefix]*visitor
	open   map[net.Conn]struct{}
}

// visitor is what one network may still ask for.
type visitor struct{ burst, hour *rate.Limiter }

// New returns a server without listeners.
func New(opt Options) (*Server, error) {
	if opt.Register == nil || opt.Facts == nil {
		return nil, errors.New("website: Register and Facts are required")
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opt: opt, all: rate.NewLimiter(rate.Inf, 1), visits: make(map[netip.Prefix]*visitor), open: make(map[net.Conn]struct{})}
	s.pages.making = make(chan struct{}, maxMaking)
	mux := http.NewServeMux()
	for path, serve := range map[string]http.HandlerFunc{
		"/{$}": s.file, "/index.html": s.file, "/qr": s.qr, "/main.css": s.file,
		"/.well-known/autoconfig/mail/config-v1.1.xml": s.autoconfig, "/mail/config-v1.1.xml": s.autoconfig,
	} {
		mux.HandleFunc("GET "+path, serve) // and HEAD
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", "GET, HEAD")
			plain(w, http.StatusMethodNotAllowed, "Method not allowed")
		})
	}
	mux.HandleFunc("GET /.well-known/mta-sts.txt", s.policy)
	mux.HandleFunc("GET /.well-known/_domainkey/{selector}", s.key)
	mux.HandleFunc("/new", s.create)
	mux.HandleFunc("/", s.fallback)
	s.http = &http.Server{
		Handler: s.harden(mux), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 256 << 10, TLSConfig: opt.TLS, ErrorLog: log.New(io.Discard, "", 0),
		ConnState: s.count,
	}
	return s, nil
}

// Serve serves a listener until it is closed.
func (s *Server) Serve(l net.Listener, overTLS bool) error {
	var err error
	if overTLS {
		err = s.http.ServeTLS(l, "", "")
	} else {
		err = s.http.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) count(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.open[conn] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		delete(s.open, conn)
	}
}

// Each calls f with every connection: its remote address, and the port of ours that
// it came to. Those that another protocol took over are not among them.
func (s *Server) Each(f func(remote netip.Addr, port int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.open {
		var remote netip.Addr
		if ap, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil {
			remote = ap.Addr().Unmap()
		}
		port := 0
		if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
			port = a.Port
		}
		f(remote, port)
	}
}

// Stop ends the site, letting requests under way finish until ctx ends; then it
// closes their connections.
func (s *Server) Stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	switch {
	case errors.Is(err, net.ErrClosed): // whoever opened the listeners closed them first
		return nil
	case err != nil:
		_ = s.http.Close()
	}
	return err
}

// harden sets what every answer carries. A panic ends one request, visibly.
func (s *Server) harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				s.opt.Logger.Error("a request panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				http.Error(w, "Internal server error", http.StatusInternalServerError)
			}
		}()
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		if s.opt.Before != nil {
			if other := s.opt.Before(r); other != nil {
				other.ServeHTTP(w, r)
				return
			}
		}
		if slices.Contains(strings.Split(r.URL.Path, "/"), "..") {
			plain(w, http.StatusNotFound, "Not found") // rather than a redirection to what is meant
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		next.ServeHTTP(w, r)
	})
}

// plain answers with a short page that says nothing about this server.
func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<!DOCTYPE html>\n<title>%s</title>\n<h1>%s</h1>\n", text, text)
}

// view is what one answer shows beside the facts.
type view struct {
	Account *Account
	Problem string
}

func picture(text string) template.URL {
	png, err := invite.PNG(text)
	if err != nil {
		return ""
	}
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(png))
}

// language is what the visitor asks for, else what the operator set, else what
// the browser prefers.
func language(r *http.Request, set string) string {
	if l := r.URL.Query().Get("lang"); words[l] != nil {
		return l
	}
	if words[set] != nil {
		return set
	}
	best, weight := "en", 0.0
	for part := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, param, _ := strings.Cut(strings.TrimSpace(part), ";")
		tag, _, _ = strings.Cut(strings.ToLower(tag), "-")
		q := 1.0
		if v, ok := strings.CutPrefix(strings.TrimSpace(param), "q="); ok {
			q, _ = strconv.ParseFloat(v, 64) // what is no number weighs nothing
		}
		if words[tag] != nil && q > weight && q <= 1 {
			best, weight = tag, q
		}
	}
	return best
}

// maxVisitors bounds the table of networks that asked for accounts; when it is
// full it is begun anew.
const maxVisitors = 100_000

// allow limits what makes accounts: 2 a second, 5 at once and 60 an hour for
// one address or one IPv6 network, and PerMinute for all. Loopback is exempt.
func (s *Server) allow(r *http.Request) bool {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip := ap.Addr().Unmap()
	if ip.IsLoopback() {
		return true
	}
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.visits[p]
	if v == nil {
		if len(s.visits) >= maxVisitors {
			clear(s.visits)
		}
		v = &visitor{burst: rate.NewLimiter(2, 5), hour: rate.NewLimiter(rate.Every(time.Minute), 60)}
		s.visits[p] = v
	}
	return v.burst.Allow() && v.hour.Allow() && s.allowAll()
}

// allowAll is the limit of all networks together. The caller holds s.mu.
func (s *Server) allowAll() bool {
	if s.opt.PerMinute == nil {
		return true
	}
	n := max(s.opt.PerMinute(), 1)
	if limit := rate.Limit(n) / 60; s.all.Limit() != limit {
		s.all = rate.NewLimiter(limit, n)
	}
	return s.all.Allow()
}

// create answers /new: an account for whoever asks, where registration is open.
func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	if s.opt.Cross != nil {
		s.opt.Cross(w, r)
	}
	switch r.Method {
	case http.MethodPost:
	case http.MethodGet:
		if f := s.opt.Facts(); !f.SelfSigned && f.Open {
			http.Redirect(w, r, "dcaccount:https://"+f.Domain+"/new", http.StatusMovedPermanently)
			return
		}
	case http.MethodOptions:
		w.Header().Set("Allow", "GET, POST, OPTIONS")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		w.Header().Set("Allow", "GET, POST, OPTIONS")
		refuse(w, http.StatusMethodNotAllowed, "Use POST")
		return
	}
	token, page, err := token(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	no := func(status int, text string) {
		if page {
			s.result(w, r, status, view{Problem: text})
			return
		}
		refuse(w, status, text)
	}
	if !s.allow(r) {
		w.Header().Set("Retry-After", "60")
		no(http.StatusTooManyRequests, "Too many new accounts, try again later")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	a, err := s.opt.Register(ctx, token, r.Host)
	if err != nil {
		status, text := http.StatusServiceUnavailable, fault.UserText(err)
		if fault.Is(err, fault.Refused) || fault.Is(err, fault.Invalid) {
			status = http.StatusForbidden
		} else {
			w.Header().Set("Retry-After", "60")
			s.opt.Logger.Warn("an account could not be made", "err", err)
		}
		no(status, text)
		return
	}
	switch {
	case page:
		s.result(w, r, http.StatusOK, view{Account: &a})
	case r.Method == http.MethodGet:
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, a.Link, http.StatusFound)
	default:
		answer(w, http.StatusOK, map[string]string{"email": a.Email, "password": a.Password, "dclogin_url": a.Link})
	}
}

// token finds the registration token: in the query, a form or a JSON body. page
// tells whether a person's browser asks, by the page's own form.
func token(r *http.Request) (t string, page bool, err error) {
	if t = r.URL.Query().Get("token"); t != "" || r.Method != http.MethodPost {
		return t, false, nil
	}
	switch typ, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); typ {
	case "application/json":
		var body struct{ Token string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil && err != io.EOF {
			return "", false, errors.New("the body is not JSON")
		}
		return body.Token, false, nil
	case "application/x-www-form-urlencoded":
		if err := r.ParseForm(); err != nil {
			return "", false, errors.New("the form cannot be read")
		}
		return r.PostForm.Get("token"), r.PostForm.Has("page"), nil
	}
	return "", false, nil
}

// refuse answers in the form that clients understand: they show reason verbatim.
func refuse(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]string{"error": text, "reason": text})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // links are for copying, and nosniff keeps it from being a page
	_ = e.Encode(v)
}

// qr draws a QR code. Its text may hold a password: it is neither logged nor cached.
func (s *Server) qr(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("data")
	if text == "" {
		http.Error(w, "Missing 'data' parameter", http.StatusBadRequest)
		return
	}
	png, err := invite.PNG(text)
	if err != nil {
		http.Error(w, "Too long for a QR code", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate")
	_, _ = w.Write(png)
}

// policy tells other servers which TLS to demand of us.
func (s *Server) policy(w http.ResponseWriter, _ *http.Request) {
	text := ""
	if s.opt.Policy != nil {
		text = s.opt.Policy()
	}
	if text == "" {
		plain(w, http.StatusNotFound, "Not found")
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text)
}

// key shows a DKIM record to those who cannot read it in the DNS.
func (s *Server) key(w http.ResponseWriter, r *http.Request) {
	selector := r.PathValue("selector")
	if len(selector) > 64 || strings.ContainsFunc(selector, func(c rune) bool {
		return !(c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}) {
		http.Error(w, "invalid selector", http.StatusBadRequest)
		return
	}
	if s.opt.Key != nil {
		if record, ok := s.opt.Key(selector); ok {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "max-age=86400")
			_, _ = io.WriteString(w, record+"\n")
			return
		}
	}
	http.Error(w, "DKIM key not found", http.StatusNotFound)
}

// autoconfig tells mail clients the ports, so that they need not guess nor ask
// third parties.
func (s *Server) autoconfig(w http.ResponseWriter, _ *http.Request) {
	f := s.opt.Facts()
	var b strings.Builder
	esc := func(t string) string {
		var e strings.Builder
		_ = xml.EscapeText(&e, []byte(t))
		return e.String()
	}
	fmt.Fprintf(&b, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<clientConfig version=\"1.1\">\n  <emailProvider id=\"%s\">\n    <domain>%s</domain>\n    <displayName>%s chatmail</displayName>\n",
		esc(f.Domain), esc(f.Domain), esc(f.Domain))
	server := func(kind, typ string, port int, socket string) {
		if port == 0 {
			return
		}
		fmt.Fprintf(&b, "    <%s type=\"%s\">\n      <hostname>%s</hostname>\n      <port>%d</port>\n      <socketType>%s</socketType>\n      <authentication>password-cleartext</authentication>\n      <username>%%EMAILADDRESS%%</username>\n    </%s>\n",
			kind, typ, esc(f.Host), port, socket, kind)
	}
	server("incomingServer", "imap", f.IMAPTLS, "SSL")
	server("incomingServer", "imap", f.IMAP, "STARTTLS")
	server("outgoingServer", "smtp", f.SMTPTLS, "SSL")
	server("outgoingServer", "smtp", f.SMTP, "STARTTLS")
	b.WriteString("  </emailProvider>\n</clientConfig>\n")
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Cache-Control", "max-age=3600")
	_, _ = io.WriteString(w, b.String())
}

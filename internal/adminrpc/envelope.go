package adminrpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"madmail/internal/caller"
	"madmail/internal/fault"
	"madmail/internal/version"
)

// Runner runs an action of ops by name.
type Runner interface {
	Run(ctx context.Context, name string, params json.RawMessage) (any, error)
}

// Options are what New needs. Ops and Token must be set.
type Options struct {
	Ops Runner
	// Token returns the token that counts now. It is asked for at each request.
	Token func() (string, error)
	// Origins are further origins whose pages may call, beside those of this host.
	Origins []string
	// Reachable says whether a host name leads to this server; nil believes all.
	Reachable func(ctx context.Context, host string) error
	Logger    *slog.Logger
	Now       func() time.Time
}

// Limits on what is taken from strangers and from operators.
const (
	maxRequest = 1 << 20
	maxImport  = 32 << 20
	timeout    = time.Minute // of one request, from its first byte to the reply
)

// Origins that are always allowed: where the page is hosted for operators who
// have none of their own.
var hosted = []string{"https://admin.madmail.chat", "http://admin.madmail.chat"}

// Server answers. Make one with New.
type Server struct {
	Options
	table map[string]Resource
	limit caller.Failures

	mu     sync.Mutex // guards the fields below
	peers  peersSeen
	sample sample
}

// New checks o.
func New(o Options) (*Server, error) {
	if o.Ops == nil || o.Token == nil {
		return nil, errors.New("adminrpc: Ops and Token are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{Options: o, table: make(map[string]Resource)}
	for _, r := range Resources() {
		for _, name := range append([]string{r.Name}, r.Aliases...) {
			s.table[name] = r
		}
	}
	return s, nil
}

// request is the envelope as it comes.
type request struct {
	Method   string            `json:"method"`
	Resource string            `json:"resource"`
	Headers  map[string]string `json:"headers"`
	Body     json.RawMessage   `json:"body"`
}

// Reply is the envelope as it goes.
type Reply struct {
	Status   int     `json:"status"`
	Resource string  `json:"resource"`
	Body     any     `json:"body"`
	Error    *string `json:"error"`
	Version  string  `json:"version"`
}

// Version is what operators' pages compare with the releases of the programs
// that came before: they would offer an "update" to one of those below 3.
func Version() string {
	major, _, _ := strings.Cut(version.Version, ".")
	if n, err := strconv.Atoi(major); err == nil && n >= 3 {
		return version.Version
	}
	return "3.0.0+" + version.Version
}

func refusal(status int, resource, text string) Reply {
	return Reply{Status: status, Resource: resource, Error: &text, Version: Version()}
}

// retired is a path that counted until a moment ago: whoever changed it there
// still has to hear that it worked.
var retired = []string{"/admin/reload", "/admin/status"}

// ServeHTTP answers on the admin path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.serve(w, r, nil) }

// Retired answers on a path that is no longer the admin path: only what a page
// needs to follow.
func (s *Server) Retired() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, retired) })
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, only []string) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	allowed := s.mayCall(origin, r.Host)
	if allowed {
		h.Set("Access-Control-Allow-Origin", origin)
	}
	if r.Method == http.MethodOptions {
		if !allowed {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		h.Set("Access-Control-Allow-Methods", "POST, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	reply := s.answer(ctx, w, r, only)
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if err := json.NewEncoder(w).Encode(reply); err != nil {
		s.Logger.Debug("a reply was not taken", "err", err)
	}
}

// mayCall reports whether a page of an origin may call us: one of this host on any
// port, so that a page can follow its server to another one, or one of the list.
func (s *Server) mayCall(origin, host string) bool {
	if origin == "" {
		return false
	}
	if slices.Contains(hosted, origin) || slices.Contains(s.Origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" || u.User != nil {
		return false
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	return name != "" && strings.EqualFold(u.Hostname(), name)
}

// answer reads one request and does what it asks.
func (s *Server) answer(ctx context.Context, w http.ResponseWriter, r *http.Request, only []string) (reply Reply) {
	if r.Method != http.MethodPost {
		return refusal(http.StatusMethodNotAllowed, "", "only POST is accepted")
	}
	q, problem := s.read(w, r)
	if problem != nil {
		return *problem
	}
	if !s.authorised(r, q.Headers) {
		return refusal(http.StatusUnauthorized, "", "unauthorized")
	}
	return s.perform(ctx, q, only, arrivalOf(r))
}

// arrival is the port by which a request came, and whether it is that of HTTPS.
type arrival struct {
	port   string // "" where that is not known
	secure bool
}

func arrivalOf(r *http.Request) (d arrival) {
	d.secure = r.TLS != nil
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if _, port, err := net.SplitHostPort(at.String()); err == nil && port != "0" {
			d.port = port
		}
	}
	return d
}

// read takes the envelope in. Only who shows the token may send much, and only
// accounts.
func (s *Server) read(w http.ResponseWriter, r *http.Request) (q request, problem *Reply) {
	tooBig, malformed := refusal(http.StatusRequestEntityTooLarge, "", "request body too large"), refusal(http.StatusBadRequest, "", "invalid JSON request body")
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil {
		return q, &malformed
	}
	if len(raw) > maxRequest {
		head := opening(raw)
		if head.Method != http.MethodPatch || head.Resource != "/admin/accounts" || !s.authorised(r, head.Headers) {
			return q, &tooBig
		}
		_ = http.NewResponseController(w).SetReadDeadline(s.Now().Add(timeout))
		rest, err := io.ReadAll(io.LimitReader(r.Body, maxImport-maxRequest))
		if err != nil {
			return q, &malformed
		}
		if raw = append(raw, rest...); len(raw) >= maxImport {
			return q, &tooBig
		}
	}
	return parse(raw)
}

// parse reads an envelope.
func parse(raw []byte) (q request, problem *Reply) {
	malformed := refusal(http.StatusBadRequest, "", "invalid JSON request body")
	if err := json.Unmarshal(raw, &q); err != nil || q.Resource == "" {
		return q, &malformed
	}
	q.normalise()
	return q, nil
}

func (q *request) normalise() {
	if q.Method = strings.ToUpper(q.Method); q.Method == "" {
		q.Method = http.MethodGet
	}
	if bytes.Equal(bytes.TrimSpace(q.Body), []byte("null")) {
		q.Body = nil
	}
}

// opening reads the fields before the body of an envelope whose end did not come.
func opening(raw []byte) (q request) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return q
	}
	for {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return request{}
		}
		switch key {
		case "method":
			err = d.Decode(&q.Method)
		case "resource":
			err = d.Decode(&q.Resource)
		case "headers":
			err = d.Decode(&q.Headers)
		case "body":
			q.normalise()
			return q
		default:
			var skip json.RawMessage
			err = d.Decode(&skip)
		}
		if err != nil {
			return request{}
		}
	}
}

// authorised reports whether a request shows the token. Ten failures of an address
// in a minute shut it out; the loopback of this machine is exempt, unless a proxy
// speaks for others there.
func (s *Server) authorised(r *http.Request, headers map[string]string) bool {
	who, direct := caller.Of(r)
	now := s.Now()
	if !direct && s.limit.Full(who, now) {
		return false
	}
	given := ""
	for _, v := range []string{headers["Authorization"], headers["authorization"], r.Header.Get("Authorization")} {
		if token, ok := strings.CutPrefix(v, "Bearer "); ok {
			given = strings.TrimSpace(token)
			break
		}
	}
	want, err := s.Token()
	if err != nil {
		s.Logger.Error("the admin token cannot be read", "err", err)
	}
	// Digests have one length: time tells nothing, not even how long the token is.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	same := subtle.ConstantTimeCompare(a[:], b[:]) == 1
	if same && given != "" && err == nil {
		s.limit.Forget(who)
		return true
	}
	if !direct {
		s.limit.Count(who, now)
	}
	return false
}

// perform does what an authorised request asks. A panic ends the request.
func (s *Server) perform(ctx context.Context, q request, only []string, by arrival) (reply Reply) {
	defer func() {
		if v := recover(); v != nil {
			s.Logger.Error("an admin request panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			reply = refusal(http.StatusInternalServerError, q.Resource, "internal error")
		}
	}()
	res, ok := s.table[q.Resource]
	if only != nil && !slices.Contains(only, q.Resource) {
		ok = false
	}
	if !ok {
		return refusal(http.StatusNotFound, q.Resource, fmt.Sprintf("unknown resource: %.200s", q.Resource))
	}
	m, ok := res.method(q.Method)
	if !ok {
		return refusal(http.StatusMethodNotAllowed, q.Resource, fmt.Sprintf("method %.20s is not allowed on %s", q.Method, q.Resource))
	}
	status, body, err := m.run(ctx, &call{s: s, resource: q.Resource, body: q.Body, by: by})
	if err != nil && status < http.StatusBadRequest { // else it says more than the kind
		status = statusOf(err)
	}
	if m.Changes {
		s.Logger.Info("an operator's change", "method", m.Method, "resource", res.Name, "status", status)
	}
	if err != nil {
		text := err.Error()
		if hint := fault.HintOf(err); hint != "" {
			text += " (" + hint + ")"
		}
		if text == "" {
			text = "internal error"
		}
		return refusal(status, q.Resource, text)
	}
	return Reply{Status: status, Resource: q.Resource, Body: body, Version: Version()}
}

// statuses say how a kind of failure reads in the envelope.
var statuses = map[fault.Kind]int{
	fault.Internal: 500, fault.Invalid: 400, fault.Denied: 401, fault.Refused: 403, fault.Unencrypted: 403, fault.NotFound: 404,
	fault.Exists: 409, fault.TooBig: 413, fault.Full: 507, fault.Busy: 503,
}

func statusOf(err error) int {
	if s, ok := statuses[fault.KindOf(err)]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Package mxdeliv is the door for mail that other servers bring by HTTP: POST
// /mxdeliv, the envelope in header fields and the message as the body. It turns a
// request into an envelope, hands it to the one intake and turns the answer into a
// status code. What is not for anybody here is examined and answered like what was
// stored, after the same wait: nobody learns who has an account.
package mxdeliv

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/delivery"
	"madmail/internal/fault"
	"madmail/internal/message"
)

// Path is where requests are expected; with a slash behind it, too.
const Path = "/mxdeliv"

// Limits of this door.
const (
	MaxRecipients = 1000
	maxAddress    = 320  // octets of an address (RFC 5321 section 4.5.3.1)
	maxParallel   = 2048 // requests under way: slow ones cost 64 KiB at most and no time
	perPeer       = 256  // of them from one address or IPv6 network
	perSecond     = 200  // requests from one address or IPv6 network
	burst         = 2000
	maxPeers      = 10_000 // networks that are counted
	stall         = time.Minute
	grace         = 30 * time.Second
	minRate       = 1 << 10 // octets per second after grace
)

// Intake takes messages.
type Intake interface {
	Accept(ctx context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error)
}

// Options configure the door. All functions are called from many goroutines and
// read memory only.
type Options struct {
	Intake Intake
	// Known reports whether somebody here reads mail for an address.
	Known func(address.Addr) bool
	// Local reports whether a domain is ours.
	Local func(address.Domain) bool
	// Takes reports, by a nil error, whether mail from a domain is taken; "" is the
	// null reverse-path.
	Takes func(from address.Domain) error
	// MaxSize is the size limit of a message in octets.
	MaxSize func() int64
	// Plain reports whether mail from a domain may come without TLS.
	Plain  func(from address.Domain) bool
	Logger *slog.Logger
	Now    func() time.Time
}

// Stats are counts since the start.
type Stats struct {
	Requests int64 // of any kind
	Accepted int64 // messages
	Dropped  int64 // messages for nobody
	Refused  int64 // messages
}

// Handler serves the door.
type Handler struct {
	opt   Options
	slots chan struct{}

	requests, accepted, dropped, refused atomic.Int64
	waits                                waits

	mu    sync.Mutex // guards the field below
	peers map[netip.Prefix]*peer
}

// peer is what one address or IPv6 network is doing.
type peer struct {
	rate *rate.Limiter
	open int // requests under way
}

// New returns the door.
func New(o Options) (*Handler, error) {
	if o.Intake == nil || o.Known == nil || o.Local == nil || o.Takes == nil || o.MaxSize == nil || o.Plain == nil {
		return nil, errors.New("mxdeliv: an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Handler{opt: o, slots: make(chan struct{}, maxParallel), peers: make(map[netip.Prefix]*peer)}, nil
}

// Stats returns the counts.
func (h *Handler) Stats() Stats {
	return Stats{Requests: h.requests.Load(), Accepted: h.accepted.Load(), Dropped: h.dropped.Load(), Refused: h.refused.Load()}
}

// answer is what a request gets.
type answer struct {
	status int
	text   string
	retry  string // seconds
}

var (
	ok         = answer{status: http.StatusOK, text: "OK"}
	badRequest = answer{status: http.StatusBadRequest, text: "bad request"}
	forbidden  = answer{status: http.StatusForbidden, text: "Forbidden"}
	tooLarge   = answer{status: http.StatusRequestEntityTooLarge, text: "message too large"}
	onlyTLS    = answer{status: http.StatusForbidden, text: "HTTPS required"}
	// Not 429: releases of the second version drop a message at any 4xx.
	tooOften = answer{status: http.StatusServiceUnavailable, text: "too many requests", retry: "10"}
	busy     = answer{status: http.StatusServiceUnavailable, text: "try again later", retry: "60"}
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.requests.Add(1)
	a := h.serve(w, r)
	head := w.Header()
	head.Set("Content-Type", "text/plain; charset=utf-8")
	if a.status == http.StatusMethodNotAllowed {
		head.Set("Allow", http.MethodPost)
	}
	if a.retry != "" {
		head.Set("Retry-After", a.retry)
	}
	// The site's limit for answers counted from before the message was read.
	_ = http.NewResponseController(w).SetWriteDeadline(h.opt.Now().Add(stall))
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.text)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) answer {
	if r.Method != http.MethodPost {
		return answer{status: http.StatusMethodNotAllowed}
	}
	leave, allowed := h.enter(r.RemoteAddr)
	if !allowed {
		return tooOften
	}
	defer leave()
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return busy
	}
	limit := h.opt.MaxSize()
	if r.ContentLength > limit {
		h.refused.Add(1)
		return tooLarge
	}
	e, known, bad := h.envelope(r)
	if bad != nil {
		h.refused.Add(1)
		return *bad
	}
	if r.TLS == nil && !h.opt.Plain(e.From.Domain()) {
		h.refused.Add(1)
		return onlyTLS
	}
	body := &paced{r: r.Body, control: http.NewResponseController(w), now: h.opt.Now, since: h.opt.Now()}
	if e.To == nil {
		n, err := io.Copy(io.Discard, io.LimitReader(body, limit+1))
		switch {
		case n > limit:
			h.refused.Add(1)
			return tooLarge
		case err != nil:
			return busy
		}
		h.dropped.Add(1)
		return ok
	}
	if err := h.opt.Takes(e.From.Domain()); known && err != nil {
		h.refused.Add(1)
		return forbidden
	}
	// Finished also when the other server hangs up once all was read: it is stored then.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Hour)
	defer cancel()
	_, err := h.opt.Intake.Accept(ctx, e, message.NewLines(body))
	if err == nil {
		h.waits.saw(body.got, time.Since(body.ended))
		h.accepted.Add(1)
		return ok
	}
	a := h.refusal(err)
	if k := fault.KindOf(err); !known && (k == fault.Unencrypted || k == fault.Refused || k == fault.Invalid) {
		a = ok // about a message for nobody, nothing is said
	}
	if a.status == http.StatusOK {
		// The same was done as for somebody, but for what it takes to store it.
		if _, rest := io.Copy(io.Discard, io.LimitReader(body, limit+1-body.got)); rest != nil {
			h.refused.Add(1)
			return busy
		}
		h.waits.wait(ctx, body.got, body.ended)
		h.dropped.Add(1)
	} else {
		h.refused.Add(1)
	}
	return a
}

// refusal turns an error of the intake into an answer. Where the official network
// reads a line of SMTP from the answer, it gets one.
func (h *Handler) refusal(err error) answer {
	text := fault.UserText(err)
	switch fault.KindOf(err) {
	case fault.NotFound:
		return ok
	case fault.Unencrypted:
		return answer{status: http.StatusForbidden, text: text}
	case fault.Refused:
		return answer{status: http.StatusBadRequest, text: "554 5.7.1 " + text}
	case fault.TooBig:
		return tooLarge
	case fault.Full:
		return answer{status: http.StatusInsufficientStorage, text: "quota"}
	case fault.Busy:
		h.opt.Logger.Debug("mail was put off", "err", err, "hint", fault.HintOf(err))
		return busy
	case fault.Internal:
		if errors.Is(err, errCut) {
			return busy
		}
		h.opt.Logger.Error("mail could not be taken", "err", err)
		return answer{status: http.StatusInternalServerError, text: "error"}
	}
	return badRequest
}

// envelope reads the header fields. known is false when nobody here is named. There are
// no recipients when none could be, or when the sender is one that is never heard.
func (h *Handler) envelope(r *http.Request) (e *delivery.Envelope, known bool, bad *answer) {
	e = &delivery.Envelope{Via: delivery.Federation, Received: h.opt.Now(), Size: max(r.ContentLength, 0)}
	named, n := make(map[address.Addr]bool), 0
	for _, v := range r.Header.Values("X-Mail-To") {
		for part := range split(v) {
			if n++; n > MaxRecipients {
				return nil, false, &badRequest
			}
			to, err := parse(part)
			if err != nil || named[to] {
				continue // whatever it is, it is nobody here
			}
			named[to] = true
			if h.opt.Local(to.Domain()) && !account.Reserved(to.Local()) {
				e.To = append(e.To, to)
				known = known || h.opt.Known(to)
			}
		}
	}
	if n == 0 {
		return nil, false, &badRequest
	}
	from := strings.TrimSpace(r.Header.Get("X-Mail-From"))
	if from != "" && from != "<>" {
		var err error
		if e.From, err = parse(from); err != nil {
			return nil, false, &badRequest
		}
		if strings.EqualFold(e.From.Local(), "admin") {
			e.To = nil
			return e, false, nil
		}
	}
	return e, known, nil
}

func parse(v string) (address.Addr, error) {
	v = strings.TrimSpace(v)
	if in, found := strings.CutPrefix(v, "<"); found {
		v = strings.TrimSuffix(in, ">")
	}
	if len(v) > maxAddress {
		return address.Addr{}, fault.New(fault.Invalid, "address too long")
	}
	return address.Parse(v)
}

// split yields the parts of a value between commas outside quotes, bar empty ones.
func split(v string) func(func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i <= len(v); i++ {
			switch {
			case i == len(v) || v[i] == ',' && !quoted:
				if part := strings.TrimSpace(v[start:i]); part != "" && !yield(part) {
					return
				}
				start = i + 1
			case v[i] == '"':
				quoted = !quoted
			case v[i] == '\\' && quoted && i+1 < len(v):
				i++
			}
		}
	}
}

// enter counts a request of a network in, unless it asks too often or has too many
// under way; leave counts it out. Loopback is not counted: proxies of the operator
// stand there.
func (h *Handler) enter(remote string) (leave func(), allowed bool) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return nil, false
	}
	ip := ap.Addr().Unmap()
	if ip.IsLoopback() {
		return func() {}, true
	}
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	at, err := ip.Prefix(bits)
	if err != nil {
		return nil, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[at]
	if p == nil {
		if len(h.peers) >= maxPeers {
			maps.DeleteFunc(h.peers, func(_ netip.Prefix, p *peer) bool { return p.open == 0 })
		}
		p = &peer{rate: rate.NewLimiter(perSecond, burst)}
		h.peers[at] = p
	}
	if p.open >= perPeer || !p.rate.AllowN(h.opt.Now(), 1) {
		return nil, false
	}
	p.open++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		p.open--
	}, true
}

// errCut says that the other server did not send all, or too slowly.
var errCut = errors.New("mxdeliv: the message was cut off")

// paced insists on progress.
type paced struct {
	r       io.Reader
	control *http.ResponseController
	now     func() time.Time
	since   time.Time
	next    time.Time // when the deadline is moved again
	got     int64
	ended   time.Time // when all was read
}

func (p *paced) Read(b []byte) (int, error) {
	if t := p.now(); t.After(p.next) {
		// Not settable in tests without a connection, where nothing stalls.
		_ = p.control.SetReadDeadline(t.Add(stall))
		p.next = t.Add(time.Second)
		if age := t.Sub(p.since); age > grace && p.got < int64(age/time.Second)*minRate {
			return 0, errCut
		}
	}
	n, err := p.r.Read(b)
	p.got += int64(n)
	if errors.Is(err, io.EOF) && p.ended.IsZero() {
		p.ended = time.Now()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = errors.Join(errCut, err)
	}
	return n, err
}

package webimap

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"madmail/internal/address"
	"madmail/internal/event"
	"madmail/internal/mailbox"
)

// protocol is what a client offers as a sub-protocol; behind authPrefix stands
// address:password in base64url, for who wants neither in the URL.
const (
	protocol   = "madmail"
	authPrefix = "madmail.auth."
)

// socket is one WebSocket. It has a goroutine that reads, one for each request under
// way, and one while it is told of new messages.
type socket struct {
	mail
	remote netip.Addr
	port   int

	// life ends with the connection: kill closes it at once.
	life context.Context
	kill context.CancelFunc

	unknown bool // it has not logged in, and is counted as such
	session *session
	slots   chan struct{} // requests under way, and the one being read
	last    atomic.Int64  // when something passed, unix nanoseconds
	timer   *time.Timer
	ended   atomic.Bool

	watched mailbox.Box
	sub     *event.Subscription
	wakes   atomic.Int64 // since the teller began; it is there while this is not 0
	told    mailbox.UID  // of the teller
	of      uint32       // the UIDVALIDITY that told belongs to

	writing sync.Mutex // one message at a time

	mu   sync.Mutex // guards the field below
	conn *websocket.Conn
}

// credentials are what a client showed when it opened a socket.
type credentials struct {
	email, password string
	shown           bool
	subprotocol     string
}

// credentialsOf looks in the header, in sub-protocols and in the query.
func credentialsOf(r *http.Request) (c credentials) {
	var offered []string
	for _, v := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(v, ",") {
			offered = append(offered, textproto.TrimString(p))
		}
	}
	take := func(email, password string) {
		if !c.shown {
			c.email, c.password, c.shown = email, password, true
		}
	}
	if e := r.Header.Get("X-Email"); e != "" {
		take(e, r.Header.Get("X-Password"))
	}
	for _, p := range offered {
		if p == protocol {
			c.subprotocol = p
		}
		text, ok := strings.CutPrefix(p, authPrefix)
		if !ok {
			continue
		}
		raw, _ := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
		email, password, _ := strings.Cut(string(raw), ":")
		take(email, password)
		if c.subprotocol == "" {
			c.subprotocol = p // a browser gives up when none of its offers is taken
		}
	}
	if q := r.URL.Query(); q.Has("email") || q.Has("password") {
		take(q.Get("email"), q.Get("password"))
	}
	return c
}

// upgrade opens a socket. Who shows a wrong password is refused before that.
func (h *Handler) upgrade(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		notAllowed(w, "GET, OPTIONS")
		return
	}
	if !Admits(r, h.Origins()) {
		refuse(w, refusal{http.StatusForbidden, "origin not allowed", ""})
		return
	}
	// RFC 6455 section 4.2.1. The library checks it, too, but does not answer in JSON.
	key, _ := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.ProtoMajor != 1 || !hasToken(r.Header, "Connection", "upgrade") || !hasToken(r.Header, "Upgrade", "websocket"):
		if r.ProtoMajor == 1 {
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "Upgrade")
		}
		refuse(w, refusal{http.StatusUpgradeRequired, "WebSocket expected", ""})
		return
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		refuse(w, refusal{http.StatusUpgradeRequired, "WebSocket version 13 expected", ""})
		return
	case len(key) != 16:
		refuse(w, refusal{http.StatusBadRequest, "bad WebSocket key", ""})
		return
	}
	if err := h.open(w, r); err != nil {
		refuse(w, h.outcome(err))
	}
}

// hasToken reports whether a field of the header lists a token.
func hasToken(header http.Header, name, token string) bool {
	for _, v := range header.Values(name) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// open makes the socket. An error is for the client; nothing was sent then.
func (h *Handler) open(w http.ResponseWriter, r *http.Request) error {
	s := &socket{mail: mail{Handler: h}, slots: make(chan struct{}, inFlight)}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		s.remote = ap.Addr().Unmap()
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		s.port = a.Port
	}
	s.life, s.kill = context.WithCancel(context.Background())
	c := credentialsOf(r)
	if err := s.admit(r, c); err != nil {
		s.release()
		return err
	}
	s.alive()
	var protocols []string
	if c.subprotocol != "" {
		protocols = append(protocols, c.subprotocol)
	}
	alive := func(context.Context, []byte) { s.alive() }
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: protocols, InsecureSkipVerify: true, // Admits was asked
		CompressionMode: websocket.CompressionNoContextTakeover, // the other mode keeps a megabyte for each socket
		OnPingReceived:  func(ctx context.Context, b []byte) bool { alive(ctx, b); return true }, OnPongReceived: alive,
	})
	if err != nil { // it has answered
		s.release()
		return nil
	}
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	h.opened.Add(1)
	var opening *http.Request
	if s.unknown { // its login needs to know where it comes from
		opening = &http.Request{RemoteAddr: r.RemoteAddr, Header: r.Header.Clone()}
	}
	h.group.Go("socket", func() {
		defer s.release()
		defer func() { s.kill(); _ = conn.CloseNow() }()
		s.run(opening)
	})
	return nil
}

// admit decides whether a socket may be opened, and for whom.
func (s *socket) admit(r *http.Request, c credentials) error {
	if !c.shown {
		select {
		case s.strange <- struct{}{}:
			s.unknown = true
			return s.enter(address.Addr{})
		default:
			s.overFull.Add(1)
			return no(http.StatusServiceUnavailable, "too many sockets without a login")
		}
	}
	if c.email == "" || c.password == "" {
		return no(http.StatusUnauthorized, "missing credentials")
	}
	since, err := (&exchange{r: r}).number("since_uid", maxUID)
	if err != nil {
		return err
	}
	who, bad := s.login(r, c.email, []byte(c.password))
	if bad != nil {
		return bad
	}
	s.account = who
	if err := s.watch(r.Context(), r.URL.Query().Get("mailbox"), mailbox.UID(since)); err != nil {
		return err
	}
	return s.enter(who)
}

// enter makes the socket a session of an account.
func (s *socket) enter(a address.Addr) error {
	x, bad := s.Handler.enter(s.life, a, s)
	if bad != nil {
		return bad
	}
	s.session = x
	return nil
}

// release undoes open.
func (s *socket) release() {
	s.kill()
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.sub != nil {
		s.sub.Close()
	}
	if s.session != nil {
		s.leave(s.session)
	}
	s.introduced()
}

// introduced makes room for another socket that has not logged in.
func (s *socket) introduced() {
	if s.unknown {
		s.unknown = false
		<-s.strange
	}
}

// end closes the connection in good order. It does not wait for that.
func (s *socket) end(code websocket.StatusCode, text string) {
	if s.ended.Swap(true) {
		return
	}
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn == nil {
		return // still opening: run looks
	}
	s.group.Go("close", func() {
		// Who does not answer in time is cut off.
		late := time.AfterFunc(2*time.Second, s.kill)
		defer late.Stop()
		_ = conn.Close(code, text)
	})
}

func (s *socket) alive() { s.last.Store(time.Now().UnixNano()) }

// run reads requests until the connection ends. r is what the socket was opened with,
// as far as it is needed to log in.
func (s *socket) run(r *http.Request) {
	if s.account.IsZero() && !s.introduce(r) {
		return
	}
	if s.ended.Load() || !s.Reading() { // while it was opened
		_ = s.conn.Close(websocket.StatusPolicyViolation, "this session was ended")
		return
	}
	s.timer = time.AfterFunc(time.Hour, s.tick)
	s.timer.Reset(pingEvery)
	s.sub = s.Bus.Subscribe(s.watched, s)
	s.Wake() // for what is there
	for s.next() {
	}
}

// watch names the mailbox whose new messages the client is told of.
func (s *socket) watch(ctx context.Context, name string, since mailbox.UID) error {
	b, v, err := s.view(ctx, name)
	if err != nil {
		return err
	}
	s.watched, s.told, s.of = b, since, v.UIDValidity
	return nil
}

// introduce takes the login that a socket begins with when it was opened without.
func (s *socket) introduce(r *http.Request) bool {
	ctx, cancel := context.WithTimeout(s.life, loginTime)
	defer cancel()
	s.conn.SetReadLimit(maxIntroduction)
	_, in, err := s.conn.Reader(ctx)
	if err != nil {
		return false
	}
	var q request
	id, valid := json.RawMessage(nil), false
	if err = parse(in, maxIntroduction, nil, &q); err == nil {
		id, valid = q.id()
	}
	switch {
	case err != nil:
	case !valid:
		err = errBadID
	case q.Action != "login":
		err = no(http.StatusUnauthorized, "login first")
	case q.Data.Email == "" || q.Data.Password == "":
		err = no(http.StatusUnauthorized, "missing credentials")
	default:
		// A refusal may be delayed: longer than a client that is not known may take.
		loginCtx, done := context.WithTimeout(s.life, work)
		defer done()
		who, bad := s.login(r.WithContext(loginCtx), q.Data.Email, []byte(q.Data.Password))
		if bad != nil {
			err = bad
			break
		}
		s.account = who
		if err = s.watch(loginCtx, q.Data.Mailbox, q.Data.SinceUID); err != nil {
			break
		}
		stranger := s.session
		err = s.enter(who)
		s.leave(stranger)
	}
	s.introduced()
	if err != nil {
		x := s.outcome(err)
		_ = s.reply(id, "error", value(x.text))
		_ = s.conn.Close(websocket.StatusPolicyViolation, "login refused")
		return false
	}
	return s.reply(id, "result", value(status{"ok"})) == nil
}

// maxIntroduction is how long the login of a socket may be, in octets.
const maxIntroduction = 8 << 10

var errBadID = no(http.StatusBadRequest, "invalid req_id")

// tick asks the client for a sign of life, or gives up.
func (s *socket) tick() {
	if s.life.Err() != nil {
		return
	}
	if len(s.slots) == cap(s.slots) {
		s.alive() // nothing is read while so much is under way
	}
	idle := time.Since(time.Unix(0, s.last.Load()))
	if idle >= deadAfter {
		s.silent.Add(1)
		s.kill()
		return
	}
	s.timer.Reset(min(pingEvery, deadAfter-idle))
	s.group.Go("ping", func() {
		ctx, cancel := context.WithTimeout(s.life, pingEvery)
		defer cancel()
		_ = s.conn.Ping(ctx) // an answer counts when it comes
	})
}

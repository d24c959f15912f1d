package webimap

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"madmail/internal/address"
	"madmail/internal/auth"
	"madmail/internal/delivery"
	"madmail/internal/event"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/maildir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logins lets everybody in whose password is right, and knows who is blocked.
type logins struct{ gone sync.Map }

func (l *logins) Login(_ context.Context, user string, password []byte, _ netip.Addr) (auth.Identity, error) {
	a, err := address.Parse(user)
	if err != nil || string(password) != "right" {
		return auth.Identity{}, fault.New(fault.Denied, "Authentication failed")
	}
	return auth.Identity{Account: a}, nil
}

func (l *logins) Allowed(a address.Addr) bool { _, gone := l.gone.Load(a); return !gone }

// intake puts messages of anybody into the mailboxes of all.
type intake struct{ store mailbox.Store }

func (intake) Check(context.Context, *delivery.Envelope, address.Addr) error { return nil }

func (i intake) Accept(ctx context.Context, e *delivery.Envelope, r io.Reader) (delivery.Result, error) {
	w, err := i.store.NewBody(ctx)
	if err != nil {
		return delivery.Result{}, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, r); err != nil {
		return delivery.Result{}, err
	}
	b, err := w.Seal()
	if err != nil {
		return delivery.Result{}, err
	}
	defer b.Close()
	for _, to := range e.To {
		if _, err := i.store.Deliver(ctx, []mailbox.Target{{Box: mailbox.Box{Account: to, Name: mailbox.Inbox}}}, b); err != nil {
			return delivery.Result{}, err
		}
	}
	return delivery.Result{Local: len(e.To)}, nil
}

type house struct {
	*Handler
	t      testing.TB
	store  *maildir.Store
	logins logins
	on     atomic.Bool
	lines  *pipes
	server *http.Server
	served chan struct{}
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t}
	h.on.Store(true)
	bus := event.New()
	var err error
	h.store, err = maildir.Open(t.Context(), maildir.Options{Dir: t.TempDir(), Changed: bus.Publish})
	if err != nil {
		t.Fatal(err)
	}
	h.Handler, err = New(Options{
		Auth: &h.logins, Store: h.store, Bus: bus, Intake: intake{h.store}, Reading: h.on.Load, Sending: h.on.Load, Origins: func() []string { return nil },
		HasRoom: func(address.Addr, int64) bool { return true }, MaySend: func(address.Addr) bool { return true },
		MaxSize: func() int64 { return 1 << 20 }, MaxRecipients: 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) close() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(h.Handler.Stop(ctx), h.Handler.Stop(ctx)); err != nil {
		h.t.Error(err)
	}
	if h.server != nil {
		_ = h.server.Close()
		<-h.served
	}
	if err := h.store.Close(ctx); err != nil {
		h.t.Error(err)
	}
}

// pipes is a listener without a socket, so that fake time can pass.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// from is a pipe that says where it comes from.
type from struct{ net.Conn }

func (from) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 99} }
func (from) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

func (h *house) listen() {
	h.lines = &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	h.server = &http.Server{Handler: h.Handler, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute, ReadHeaderTimeout: 10 * time.Second}
	h.served = make(chan struct{})
	go func() { defer close(h.served); _ = h.server.Serve(h.lines) }()
}

func (h *house) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		here, there := net.Pipe()
		select {
		case h.lines.conns <- from{there}:
			return here, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}}
}

const there = "ws://server/webimap/ws?email=ann@there.example&password=right"

func (h *house) dial(more string) *websocket.Conn {
	h.t.Helper()
	conn, _, err := websocket.Dial(h.t.Context(), there+more, &websocket.DialOptions{HTTPClient: h.client()})
	if err != nil {
		h.t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	return conn
}

func ann(t testing.TB) address.Addr {
	t.Helper()
	a, err := address.Parse("ann@there.example")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (h *house) deliver(text string) {
	h.t.Helper()
	a := ann(h.t)
	if _, err := h.Intake.Accept(h.t.Context(), &delivery.Envelope{To: []address.Addr{a}}, strings.NewReader(text)); err != nil {
		h.t.Fatal(err)
	}
}

const letter = "From: =?utf-8?q?B=C3=B6b?= <bob@there.example>\r\nTo: friends: ann@there.example, x@y.example;\r\nSubject: =?utf-8?b?SGFsbMO2Y2hlbg==?=\r\n\r\nText\r\n"

// TestSilentSocketsAreClosed: a client that answers no ping for a minute is gone. One
// that does stays.
func TestSilentSocketsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close()
		h.listen()
		lively := h.dial("")
		defer lively.CloseNow()
		ctx := lively.CloseRead(t.Context()) // answers pings
		dead, _, err := websocket.Dial(t.Context(), there, &websocket.DialOptions{HTTPClient: h.client(), OnPingReceived: func(context.Context, []byte) bool { return false }})
		if err != nil {
			t.Fatal(err)
		}
		defer dead.CloseNow()
		dead.CloseRead(t.Context())
		begun := time.Now()
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		if n := h.Handler.Stats().Sockets; n != 2 {
			t.Fatalf("%d sockets after %v, want 2", n, time.Since(begun))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := h.Handler.Stats(); s.Sockets != 1 || s.Silent != 1 {
			t.Errorf("%+v after %v", s, time.Since(begun))
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if ctx.Err() != nil || h.Handler.Stats().Sockets != 1 {
			t.Error("who answers is closed", ctx.Err())
		}
	})
}

// TestSocketsThatNobodyReadsAreClosed: what is pushed to one waits a minute for it.
func TestSocketsThatNobodyReadsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close()
		h.listen()
		conn := h.dial("")
		defer conn.CloseNow()
		for range 10 { // the first is being pushed; no goroutine for each wake-up
			h.deliver(letter)
		}
		synctest.Wait()
		if n := h.Handler.group.Live(); n > 3 {
			t.Errorf("%d goroutines for one socket", n)
		}
		time.Sleep(stall + time.Second)
		synctest.Wait()
		if s := h.Handler.Stats(); s.Sockets != 0 || s.Slow == 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestWhoDoesNotLogInIsClosed: a socket without a password has ten seconds.
func TestWhoDoesNotLogInIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close()
		h.listen()
		conn, _, err := websocket.Dial(t.Context(), "ws://server/webimap/ws", &websocket.DialOptions{HTTPClient: h.client()})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		if len(h.strange) != 1 {
			t.Error("not counted")
		}
		time.Sleep(loginTime + time.Second)
		synctest.Wait()
		if n := h.Handler.Stats().Sockets; n != 0 || len(h.strange) != 0 {
			t.Errorf("%d sockets, %d strangers", n, len(h.strange))
		}
	})
}

// TestAPollWaitsLongerThanARequestMayTake: two minutes, though the server allows
// requests less; and it ends with the first message.
func TestAPollWaitsLongerThanARequestMayTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close()
		h.listen()
		ask := func() (list []summary, took time.Duration) {
			begun := time.Now()
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://server/webimap/messages?wait=100000", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Email", "ann@there.example")
			r.Header.Set("X-Password", "right")
			c := h.client()
			res, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if err := json.NewDecoder(res.Body).Decode(&list); err != nil || res.StatusCode != 200 {
				t.Fatal(res.StatusCode, err)
			}
			return list, time.Since(begun)
		}
		if list, took := ask(); len(list) != 0 || list == nil || took != 2*time.Minute {
			t.Errorf("%v after %v", list, took)
		}
		var late sync.WaitGroup
		late.Go(func() {
			time.Sleep(95 * time.Second)
			h.deliver(letter)
		})
		list, took := ask()
		late.Wait()
		if len(list) != 1 || took != 95*time.Second {
			t.Fatalf("%v after %v", list, took)
		}
		e := list[0].Envelope
		if e.Subject != "Hallöchen" || e.From[0].Name != "Böb" || len(e.To) != 2 || e.Date != list[0].Date {
			t.Errorf("%+v", list[0])
		}
		if h.Handler.Stats().Waiting != 0 {
			t.Error("still waiting")
		}
	})
}

// TestASlowSenderIsCutOff: a request must come at a rate.
func TestASlowSenderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close()
		h.listen()
		body, drip := io.Pipe()
		var sender sync.WaitGroup
		sender.Go(func() {
			for range 1000 {
				if _, err := io.WriteString(drip, " "); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
			drip.Close()
		})
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://server/websmtp/send", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Email", "ann@there.example")
		r.Header.Set("X-Password", "right")
		c := h.client()
		begun := time.Now()
		res, err := c.Do(r)
		if err == nil {
			if res.StatusCode != http.StatusRequestTimeout {
				t.Error(res.Status)
			}
			res.Body.Close()
		}
		body.Close()
		sender.Wait()
		if took := time.Since(begun); took > 2*time.Minute {
			t.Error("after", took)
		}
	})
}

// TestEightRequestsOfASocketAtATime: what comes beyond that waits in the connection.
func TestEightRequestsOfASocketAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.close()
		var now, most atomic.Int64
		gate := make(chan struct{})
		h.MaySend = func(address.Addr) bool {
			most.Store(max(most.Load(), now.Add(1)))
			<-gate
			now.Add(-1)
			return true
		}
		h.listen()
		conn := h.dial("")
		defer conn.CloseNow()
		var writer sync.WaitGroup
		writer.Go(func() {
			for range 20 {
				if conn.Write(t.Context(), websocket.MessageText, []byte(`{"req_id":1,"action":"send","data":{"to":["bob@there.example"],"body":"a\r\n"}}`)) != nil {
					return
				}
			}
		})
		synctest.Wait()
		if now.Load() != inFlight {
			t.Errorf("%d under way, want %d", now.Load(), inFlight)
		}
		close(gate)
		for range 20 {
			if _, raw, err := conn.Read(t.Context()); err != nil || !bytes.Contains(raw, []byte("sent")) {
				t.Fatal(err, string(raw))
			}
		}
		writer.Wait()
		if most.Load() > inFlight {
			t.Errorf("%d at a time", most.Load())
		}
	})
}

// TestLongFramesCloseTheSocket: also those that are short on the wire.
func TestLongFramesCloseTheSocket(t *testing.T) {
	h := newHouse(t)
	defer h.close()
	server := httptest.NewServer(h.Handler)
	defer server.Close()
	for name, mode := range map[string]websocket.CompressionMode{"plain": websocket.CompressionDisabled, "packed": websocket.CompressionContextTakeover} {
		conn, res, err := websocket.Dial(t.Context(), strings.Replace(there, "ws://server", server.URL, 1), &websocket.DialOptions{CompressionMode: mode})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.CloseNow()
		offered := strings.Contains(res.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate")
		if offered != (name == "packed") {
			t.Errorf("%s: %v", name, res.Header)
		}
		read := make(chan error, 1)
		go func() { // while it is written: the server does not wait for the end
			_, _, err := conn.Read(t.Context())
			read <- err
		}()
		_ = conn.Write(t.Context(), websocket.MessageText, []byte(`{"action":"send","data":{"to":["ann@there.example"],"body":"`+strings.Repeat("x", 16<<20)+`"}}`))
		if err := <-read; websocket.CloseStatus(err) != websocket.StatusMessageTooBig && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "EOF") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAWatchedMailboxThatIsMadeAnew: its numbers begin anew, and so does the telling.
func TestAWatchedMailboxThatIsMadeAnew(t *testing.T) {
	h := newHouse(t)
	defer h.close()
	server := httptest.NewServer(h.Handler)
	defer server.Close()
	b := mailbox.Box{Account: ann(t), Name: "Box"}
	fill := func() {
		t.Helper()
		h.deliver(letter)
		v, err := h.store.View(t.Context(), mailbox.Box{Account: ann(t), Name: mailbox.Inbox})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.store.Copy(t.Context(), mailbox.Box{Account: ann(t), Name: mailbox.Inbox}, b, only(v.At(v.Len()-1).UID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.store.CreateBox(t.Context(), b, ""); err != nil {
		t.Fatal(err)
	}
	fill()
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(there, "ws://server", server.URL, 1)+"&mailbox=Box&since_uid=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	told := func() string {
		t.Helper()
		_, raw, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if got := told(); !strings.Contains(got, `"uid":1,`) {
		t.Error(got)
	}
	if err := errors.Join(h.store.RemoveBox(t.Context(), b), h.store.CreateBox(t.Context(), b, "")); err != nil {
		t.Fatal(err)
	}
	fill()
	if got := told(); !strings.Contains(got, `"new_message"`) {
		t.Error(got)
	}
}

// rest makes a request of ann's.
func (h *house) rest(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("X-Email", "ann@there.example")
	r.Header.Set("X-Password", "right")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestABlockBetweenLoginAndSession: whoever is removed while the password was compared
// gets no session that nobody would end.
func TestABlockBetweenLoginAndSession(t *testing.T) {
	h := newHouse(t)
	defer h.close()
	h.logins.gone.Store(ann(t), true)
	if w := h.rest("GET", "/webimap/mailboxes", ""); w.Code != http.StatusUnauthorized || !strings.Contains(w.Body.String(), wrong.text) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if len(h.sessions) != 0 || len(h.byOwner) != 0 {
		t.Error("a session stays")
	}
}

func TestRequestsOfOneAccountAreBounded(t *testing.T) {
	h := newHouse(t)
	defer h.close()
	var held []*session
	for range maxRequests {
		s, bad := h.enter(t.Context(), ann(t), nil)
		if bad != nil {
			t.Fatal(bad)
		}
		held = append(held, s)
	}
	if w := h.rest("GET", "/webimap/mailboxes", ""); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	h.leave(held[0])
	h.leave(held[0])
	if w := h.rest("GET", "/webimap/mailboxes", ""); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, s := range held {
		h.leave(s)
	}
	if len(h.byOwner) != 0 {
		t.Error(h.byOwner)
	}
}

// TestHandshakes: what is no WebSocket is refused in JSON, before the password counts.
func TestHandshakes(t *testing.T) {
	h := newHouse(t)
	defer h.close()
	whole := map[string]string{"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
	for _, x := range []struct {
		field, value string
		status       int
	}{
		{"Connection", "", 426}, {"Upgrade", "h2c", 426}, {"Sec-WebSocket-Version", "12", 426}, {"Sec-WebSocket-Key", "dGhl", 400}, {"Sec-WebSocket-Key", "", 400},
		{"Origin", "https://evil.example", 403}, {"Origin", "null", 403}, {"X-Email", "ann@there.example", 401}, {"Sec-WebSocket-Protocol", "madmail.auth.%%", 401},
	} {
		r := httptest.NewRequest("GET", "/webimap/ws", nil)
		for k, v := range whole {
			r.Header.Set(k, v)
		}
		r.Header.Set(x.field, x.value)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var e struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Error == "" || w.Code != x.status {
			t.Errorf("%s %q: %d %s, want %d", x.field, x.value, w.Code, w.Body, x.status)
		}
	}
	if n := len(h.sessions) + len(h.strange); n != 0 {
		t.Error(n, "sessions stay")
	}
}

func TestTenWrongPasswordsLockAnAddress(t *testing.T) {
	h := newHouse(t)
	defer h.close()
	ask := func(remote, password string) int {
		r := httptest.NewRequest("GET", "/webimap/mailboxes", nil)
		r.RemoteAddr = remote
		r.Header.Set("X-Email", "ann@there.example")
		r.Header.Set("X-Password", password)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for range 10 {
		if got := ask("192.0.2.1:1", "wrong"); got != 401 {
			t.Fatal(got)
		}
	}
	if got := ask("192.0.2.1:2", "right"); got != 429 {
		t.Error("the same address:", got)
	}
	if got := ask("192.0.2.2:1", "right"); got != 200 {
		t.Error("another:", got)
	}
}

func TestEveryFaultHasAnAnswer(t *testing.T) {
	h := newHouse(t)
	defer h.close()
	for _, k := range fault.Kinds() {
		for _, at := range []stage{reading, atRecipient, atMessage} {
			x := h.refusal(fault.Wrap(k, errors.New("secret"), "doing"), at)
			if x.status < 400 || x.text == "" || strings.Contains(x.text, "secret") || (x.code == "") != (at == reading) {
				t.Errorf("%v at %d: %+v", k, at, x)
			}
		}
	}
}

func TestLift(t *testing.T) {
	for _, x := range []struct{ name, in, out, body string }{
		{"nothing", `{"a": [1, "body", {"b":"\"body\":"}]}`, `{"a":[1,"body",{"b":"\"body\":"}]}`, ""},
		{"a body", ` { "to" : ["x"] , "body" : "a\r\nb" , "c":"d"}`, `{"to":["x"],"body":"","c":"d"}`, "a\r\nb"},
		{"within", `{"data":{"body":"a"}}`, `{"data":{"body":""}}`, "a"},
		{"escapes", `{"body":"\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00"}`, `{"body":""}`, "\"\\/\b\f\n\r\tAé😀"},
		{"half pairs", `{"body":"\ud83dx\ude00\ud83d\u0041\ud83d\ud83d\ude00\ud83d"}`, `{"body":""}`, "\ufffdx\ufffd\ufffdA\ufffd😀\ufffd"},
		{"octets", "{\"body\":\"\xff\xc3\xa9\"}", `{"body":""}`, "\xffé"},
		{"base64", `{"body_base64":"aGFs\r\nbG_DtmNo_ZW4="}`, `{"body_base64":""}`, "hal" + "lo\xc3\xb6ch\xfde\x6e"},
		{"base64 without padding", `{"body_base64":"YQ"}`, `{"body_base64":""}`, "a"},
		{"not a string", `{"body_base64":true,"body":7}`, `{"body_base64":true,"body":7}`, ""},
		{"not the name", `{"xbody":"a","body ":"b"}`, `{"xbody":"a","body ":"b"}`, ""},
	} {
		if x.name == "base64" {
			raw, err := base64.RawURLEncoding.DecodeString("aGFsbG_DtmNo_ZW4")
			if err != nil {
				t.Fatal(err)
			}
			x.body = string(raw)
		}
		for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
			var body bytes.Buffer
			out, err := lift(wrap(strings.NewReader(x.in)), 1000, &body)
			if err != nil || string(out) != x.out || body.String() != x.body {
				t.Errorf("%s: %q, %q, %v; want %q, %q", x.name, out, body.String(), err, x.out, x.body)
			}
		}
	}
	for in, want := range map[string]error{
		`{"body":"a`: errInvalidJSON, `{"body":"a\`: errInvalidJSON, `{"body":"\u12`: errInvalidJSON, `{"body":"\u12zz"}`: errInvalidJSON, `{"a":"b`: errInvalidJSON,
		"{\"body\":\"a\nb\"}": errInvalidJSON, `{"body":"a","body":"b"}`: errTwoBodies, `{"body_base64":"a="}`: errBadBase64, `{"body_base64":"YQ==YQ=="}`: errBadBase64,
		`{"a":"` + strings.Repeat("x", 1000) + `"}`: errTooLong,
	} {
		if _, err := lift(strings.NewReader(in), 1000, io.Discard); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", in, err, want)
		}
	}
}

func TestQuoteIsJSON(t *testing.T) {
	for _, in := range []string{"", "a", "\"\\/\x00\x1f\x7f\r\n\t", "é😀", strings.Repeat("é", chunk), "x" + strings.Repeat("😀", chunk), "\xff\xc3", "a\xe2\x82", "\xed\xa0\x80", "\u2028"} {
		for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
			var b bytes.Buffer
			w := bufio.NewWriter(&b)
			if err := errors.Join(quote(w, wrap(strings.NewReader(in))), w.Flush()); err != nil {
				t.Fatal(err)
			}
			var got string
			if err := json.Unmarshal(b.Bytes(), &got); err != nil || got != strings.ToValidUTF8(in, "\ufffd") && strings.ToValidUTF8(in, "") == in {
				t.Errorf("%.20q: %q, %v", in, got, err)
			}
			text, err := isText(wrap(strings.NewReader(in)))
			if want := strings.ToValidUTF8(in, "") == in; err != nil || text != want {
				t.Errorf("%.20q: is text %v, %v", in, text, err)
			}
		}
	}
}

// requests are what fuzzers begin with.
var requests = []string{
	`{"req_id":"1","action":"send","data":{"from":"a","to":["ann@there.example"],"body":"From: a\r\n\r\nb"}}`,
	`{"req_id":2,"action":"fetch","data":{"mailbox":"INBOX","uid":1,"body_base64":true}}`,
	`{"action":"list_messages","data":{"since_uid":4294967295}}`,
	`{"action":"flags","data":{"uid":1,"flags":["\\Seen","x"],"op":"set"}}`,
	`{"action":"move","data":{"uid":1,"dest_mailbox":"../x"}}`, `{"action":"search","data":{"query":"ö"}}`,
	`{"action":"rename_mailbox","data":{"oldName":"INBOX","newName":"a/b"}}`, `{"action":"create_mailbox","data":{"name":"a//b"}}`,
	`{"type":"ping"}`, `{"req_id":{},"action":"list_mailboxes"}`, `{"data":{"body":"\ud800","body_base64":"`, `[[[[`, `null`,
	`{"req_id":"x","action":"delete_mailbox","data":{"name":"a"}}`, `{"req_id":"x","action":"copy","data":{"uid":1,"destination":"inbox/a"}}`,
}

// FuzzRequest speaks to a socket that is logged in: whatever comes, it answers with
// JSON or closes, and goes on.
func FuzzRequest(f *testing.F) {
	for _, r := range requests {
		f.Add([]byte(r))
	}
	h := newHouse(f)
	defer h.close()
	h.deliver(letter)
	server := httptest.NewServer(h.Handler)
	defer server.Close()
	dial := func(t testing.TB) *websocket.Conn {
		conn, _, err := websocket.Dial(context.Background(), server.URL+"/webimap/ws?email=ann@there.example&password=right&since_uid=4294967295", nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadLimit(-1)
		return conn
	}
	conn := dial(f)
	defer func() { conn.CloseNow() }()
	f.Fuzz(func(t *testing.T, raw []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		// What stops a fuzzer is not an answer but none: the second request is always answered.
		for _, text := range [][]byte{raw, []byte(`{"req_id":"alive","action":"list_mailboxes"}`)} {
			if err := conn.Write(ctx, websocket.MessageText, text); err != nil {
				t.Fatalf("after %q: %v", raw, err)
			}
		}
		for answers := 0; answers < 2; {
			_, got, err := conn.Read(ctx)
			var frame struct {
				Action string
				Data   json.RawMessage
			}
			if err != nil || json.Unmarshal(got, &frame) != nil {
				t.Fatalf("after %q: %v %q", raw, err, got)
			}
			switch frame.Action {
			case "result", "error", "pong":
				answers++
			case "new_message":
			default:
				t.Fatalf("after %q: %q", raw, got)
			}
		}
	})
}

// FuzzSend takes any body of a request.
func FuzzSend(f *testing.F) {
	for _, r := range requests {
		f.Add(r)
	}
	f.Add(`{"to":["ann@there.example","<b@c.example>"],"body_base64":"RnJvbTogYQ0KDQpi"}`)
	h := newHouse(f)
	defer h.close()
	f.Fuzz(func(t *testing.T, body string) {
		w := h.rest("POST", "/websmtp/send", body)
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code == http.StatusInternalServerError {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
		w = h.rest("POST", "/webimap/message/flags", body)
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code == http.StatusInternalServerError {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}

// FuzzLift compares with a decoder that reads all of it.
func FuzzLift(f *testing.F) {
	for _, r := range requests {
		f.Add(r)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var body bytes.Buffer
		out, err := lift(strings.NewReader(in), 1<<20, &body)
		var whole, rest map[string]json.RawMessage
		if json.Unmarshal([]byte(in), &whole) != nil || err != nil {
			return
		}
		if err := json.Unmarshal(out, &rest); err != nil || len(rest) != len(whole) {
			t.Fatalf("%q became %q: %v", in, out, err)
		}
		var want string
		if raw, ok := whole["body"]; ok && strings.Count(in, "body") == 1 && json.Unmarshal(raw, &want) == nil && raw[0] == '"' && !strings.Contains(in, `\`) && strings.ToValidUTF8(in, "") == in {
			if got := body.String(); got != want {
				t.Errorf("%q: %q, want %q", in, got, want)
			}
		}
	})
}

func BenchmarkLift(b *testing.B) {
	in := `{"to":["a@b.example"],"body":"` + strings.Repeat(strings.Repeat("x", 76)+`\r\n`, 1<<14) + `"}`
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := lift(strings.NewReader(in), 1000, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAddressesOfRecipients(t *testing.T) {
	for in, want := range map[string]string{" <a@b.example> ": "a@b.example", "a@b.example": "a@b.example", "": "", "<>": "", strings.Repeat("a", 400) + "@b.example": "", "a b@c.example": ""} {
		got, err := recipient(in)
		if (err == nil) != (want != "") || err == nil && got.Wire() != want {
			t.Errorf("%.20q: %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]bool{"/webimap": true, "/webimap/ws": true, "/websmtp/send": true, "/webimapx": false, "/": false} {
		if Owns(in) != want {
			t.Error(in)
		}
	}
}

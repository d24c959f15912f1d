// Package webmail uses mail for browsers as their pages do, against the real binary.
package webmail

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"madmail/test/load"
	"madmail/test/testserver"
)

// TestMain builds the program once for all tests, unless one is named.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("MADMAIL_BINARY") == "" {
		dir, err := os.MkdirTemp("", "webmail")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary := filepath.Join(dir, "madmail")
		build := exec.Command("go", "build", "-o", binary, "madmail/cmd/madmail")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		os.Setenv("MADMAIL_BINARY", binary)
	}
	return m.Run()
}

const password = "correct-horse-battery-9"

// patience is how long a test waits for what has to come; nothing is timed by it.
const patience = 30 * time.Second

type browser struct {
	t        testing.TB
	s        *testserver.Server
	email    string
	password string
	header   http.Header
}

var client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, MaxConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

func visitor(t testing.TB, s *testserver.Server, name string) *browser {
	return &browser{t: t, s: s, email: name + "@[127.0.0.1]", password: password, header: make(http.Header)}
}

func (b *browser) url(path string) string {
	return fmt.Sprintf("https://127.0.0.1:%d%s", b.s.HTTPS, path)
}

// ask makes a request and returns status, header and body.
func (b *browser) ask(method, path, body string) (int, http.Header, []byte) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, b.url(path), strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header = b.header.Clone()
	if b.email != "" {
		r.Header.Set("X-Email", b.email)
		r.Header.Set("X-Password", b.password)
	}
	res, err := client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res.StatusCode, res.Header, raw
}

// get is ask for what has to be there, as JSON into v.
func (b *browser) get(method, path, body string, v any) {
	b.t.Helper()
	status, _, raw := b.ask(method, path, body)
	if status != http.StatusOK {
		b.t.Fatalf("%s %s: %d %s", method, path, status, raw)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		b.t.Fatalf("%s %s: %v: %s", method, path, err, raw)
	}
}

// refused is ask for what must not be: status, error and code.
func (b *browser) refused(method, path, body string, status int, text, code string) {
	b.t.Helper()
	got, _, raw := b.ask(method, path, body)
	var e struct{ Error, Code string }
	if err := json.Unmarshal(raw, &e); err != nil || got != status || !strings.Contains(e.Error, text) || !strings.HasPrefix(e.Code, code) || code == "" && e.Code != "" {
		b.t.Errorf("%s %s: %d %s, want %d %q %q", method, path, got, raw, status, text, code)
	}
}

type person struct{ Name, Mailbox, Host string }

type message struct {
	UID      uint32
	SeqNum   int `json:"seq_num"`
	Flags    []string
	Size     int64
	Date     time.Time
	Envelope struct {
		Date         time.Time
		Subject      string
		From, To, Cc []person
		MessageID    string `json:"message_id"`
	}
	Body       *string
	BodyBase64 *string `json:"body_base64"`
}

type folder struct {
	Name             string
	Attributes       []string
	Messages, Unseen int
}

// letter is an encrypted message, with CR LF.
func letter(from string) string {
	return strings.TrimSuffix(string(load.Message(from, 3000)), ".\r\n")
}

func sending(to []string, body string) string {
	raw, err := json.Marshal(map[string]any{"from": "somebody@else.example", "to": to, "body": body})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// socket is an open WebSocket.
type socket struct {
	*websocket.Conn
	t      testing.TB
	n      int
	pushed []message // that came while something else was waited for
}

type frame struct {
	ID     string `json:"req_id"`
	Action string
	Data   json.RawMessage
}

func (b *browser) dial(path string, o *websocket.DialOptions) (*websocket.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if o == nil {
		o = &websocket.DialOptions{}
	}
	o.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	conn, res, err := websocket.Dial(ctx, "wss"+strings.TrimPrefix(b.url(path), "https"), o)
	if err == nil {
		conn.SetReadLimit(-1)
		b.t.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, res, err
}

func (b *browser) open(more string) *socket {
	b.t.Helper()
	conn, _, err := b.dial("/webimap/ws?email="+b.email+"&password="+b.password+more, &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		b.t.Fatal(err)
	}
	return &socket{Conn: conn, t: b.t}
}

// read returns the next frame, or the reason of the server to close.
func (s *socket) read() (f frame, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, raw, err := s.Read(ctx)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		s.t.Fatalf("%v: %s", err, raw)
	}
	return f, nil
}

// ask sends a request and returns its answer.
func (s *socket) ask(action string, data any) frame {
	s.t.Helper()
	s.n++
	id := fmt.Sprint("r", s.n)
	raw, err := json.Marshal(map[string]any{"req_id": id, "action": action, "data": data})
	if err != nil {
		s.t.Fatal(err)
	}
	s.say(string(raw))
	for {
		f, err := s.read()
		if err != nil {
			s.t.Fatalf("%s: %v", action, err)
		}
		if f.ID == id {
			return f
		}
		s.push(f)
	}
}

func (s *socket) say(text string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) push(f frame) {
	s.t.Helper()
	var m message
	if err := json.Unmarshal(f.Data, &m); err != nil || f.Action != "new_message" || f.ID != "" {
		s.t.Fatalf("unexpected: %+v", f)
	}
	s.pushed = append(s.pushed, m)
}

// next returns the next message that the server tells of.
func (s *socket) next() message {
	s.t.Helper()
	for len(s.pushed) == 0 {
		f, err := s.read()
		if err != nil {
			s.t.Fatal(err)
		}
		s.push(f)
	}
	m := s.pushed[0]
	s.pushed = s.pushed[1:]
	return m
}

// want compares an answer.
func (s *socket) want(f frame, action, data string) {
	s.t.Helper()
	if f.Action != action || string(f.Data) != data {
		s.t.Errorf("answer %s %s, want %s %s", f.Action, f.Data, action, data)
	}
}

// closed waits for the server to close, and returns its code.
func (s *socket) closed() websocket.StatusCode {
	s.t.Helper()
	for {
		f, err := s.read()
		if err != nil {
			return websocket.CloseStatus(err)
		}
		s.push(f)
	}
}

func server(t *testing.T, extra string) *testserver.Server {
	t.Helper()
	s := testserver.New(t, extra)
	s.Command("webmail-cors", "enable")
	return s
}

func TestSwitchesCountAtOnce(t *testing.T) {
	s := testserver.New(t, "")
	ann := visitor(t, s, "annannann")
	off := func(path string) {
		t.Helper()
		ann.refused("GET", path, "", http.StatusNotFound, "not found", "")
		ann.refused("OPTIONS", path, "", http.StatusNotFound, "not found", "")
	}
	for _, p := range []string{"/webimap/mailboxes", "/webimap/ws", "/webimap/send", "/websmtp/send", "/webimap", "/webimap/nothing"} {
		off(p)
	}
	if out := s.Command("webimap", "enable"); !strings.Contains(out, "enabled") {
		t.Error(out)
	}
	var boxes []folder
	ann.get("GET", "/webimap/mailboxes", "", &boxes) // makes the account
	if len(boxes) != 1 || boxes[0].Name != "INBOX" || boxes[0].Messages != 0 {
		t.Error(boxes)
	}
	off("/webimap/send")
	ann.refused("GET", "/webimap/nothing", "", http.StatusNotFound, "not found", "")
	ann.refused("POST", "/webimap/mailboxes", "", http.StatusMethodNotAllowed, "method not allowed", "")
	sock := ann.open("")
	sock.want(sock.ask("send", map[string]any{"to": []string{ann.email}, "body": letter(ann.email)}), "error", `"send is not enabled"`)
	s.Command("websmtp", "enable")
	sock.want(sock.ask("send", map[string]any{"to": []string{ann.email}, "body": letter(ann.email)}), "result", `{"status":"sent"}`)
	s.Command("webimap", "disable")
	if code := sock.closed(); code != websocket.StatusPolicyViolation {
		t.Error("closed with", code)
	}
	off("/webimap/mailboxes")
	var sent struct{ Status string }
	ann.get("POST", "/webimap/send", sending([]string{ann.email}, letter(ann.email)), &sent)
	ann.get("POST", "/websmtp/send", sending([]string{ann.email}, letter(ann.email)), &sent)
	if sent.Status != "sent" {
		t.Error(sent)
	}
}

func TestMailGoesFromPageToPage(t *testing.T) {
	s := server(t, "")
	ann, bob := visitor(t, s, "annannann"), visitor(t, s, "bobbobbob")
	var none []message
	ann.get("GET", "/webimap/messages", "", &none)
	bob.get("GET", "/webimap/messages?wait=0", "", &none)
	sock := bob.open("")
	// A request waits, and a socket is open: both learn of what comes by no clock.
	polled := make(chan []message, 1)
	go func() {
		var list []message
		bob.get("GET", "/webimap/messages?since_uid=0&wait=120", "", &list)
		polled <- list
	}()
	text := letter(ann.email)
	var sent struct{ Status string }
	ann.get("POST", "/websmtp/send", sending([]string{bob.email, bob.email}, text), &sent)
	told := sock.next()
	var waited []message
	select {
	case waited = <-polled:
	case <-time.After(2 * patience):
		t.Fatal("the request does not learn of the message")
	}
	if len(waited) != 1 || waited[0].UID != told.UID || told.SeqNum != 1 || len(told.Flags) != 0 || told.Size == 0 || told.Date.IsZero() {
		t.Errorf("told %+v, waited %+v", told, waited)
	}
	e := told.Envelope
	if e.Subject != "[...]" || len(e.From) != 1 || e.From[0].Mailbox != "annannann" || e.From[0].Host != "[127.0.0.1]" || e.Cc == nil || e.MessageID == "" ||
		!e.Date.Equal(time.Date(2026, 11, 23, 11, 42, 11, 0, time.UTC)) {
		t.Errorf("envelope %+v", e)
	}

	// Reading sets no flag, whatever the form.
	path := fmt.Sprintf("/webimap/message/%d", told.UID)
	var whole message
	bob.get("GET", path, "", &whole)
	if whole.Body == nil || whole.BodyBase64 != nil || int64(len(*whole.Body)) != whole.Size || !strings.Contains(*whole.Body, "BEGIN PGP MESSAGE") {
		t.Errorf("fetched %+v", whole)
	}
	var packed message
	bob.get("GET", path+"?body_base64=1", "", &packed)
	if packed.Body != nil || packed.BodyBase64 == nil || *packed.BodyBase64 != base64.StdEncoding.EncodeToString([]byte(*whole.Body)) {
		t.Errorf("fetched packed %+v", packed)
	}
	bob.header.Set("Accept", "message/rfc822")
	status, head, raw := bob.ask("GET", path, "")
	bob.header.Del("Accept")
	if status != http.StatusOK || head.Get("Content-Type") != "message/rfc822" || string(raw) != *whole.Body {
		t.Errorf("raw: %d %v %d octets", status, head, len(raw))
	}
	f := sock.ask("fetch", map[string]any{"uid": told.UID})
	var fetched message
	if err := json.Unmarshal(f.Data, &fetched); err != nil || f.Action != "result" || fetched.Body == nil || *fetched.Body != *whole.Body {
		t.Errorf("%v %s", err, f.Data)
	}
	f = sock.ask("fetch", map[string]any{"uid": told.UID, "body_base64": true})
	var bySocket message
	if err := json.Unmarshal(f.Data, &bySocket); err != nil || bySocket.Body != nil || bySocket.BodyBase64 == nil || *bySocket.BodyBase64 != *packed.BodyBase64 {
		t.Errorf("%v %s", err, f.Data)
	}
	state := func(unseen int, flags ...string) {
		t.Helper()
		var boxes []folder
		bob.get("GET", "/webimap/mailboxes", "", &boxes)
		i := slices.IndexFunc(boxes, func(b folder) bool { return b.Name == "INBOX" })
		if i < 0 || boxes[i].Unseen != unseen || boxes[i].Messages != 1 {
			t.Errorf("mailboxes %+v, want %d unseen", boxes, unseen)
		}
		var list []message
		bob.get("GET", "/webimap/messages", "", &list)
		if len(list) != 1 || !slices.Equal(list[0].Flags, flags) {
			t.Errorf("messages %+v, want flags %q", list, flags)
		}
	}
	state(1)
	var ok struct{ Status string }
	flag := func(method, flags, op string) {
		t.Helper()
		bob.get(method, "/webimap/message/flags", fmt.Sprintf(`{"mailbox":"INBOX","uid":%d,"flags":%s,"op":%q}`, told.UID, flags, op), &ok)
	}
	flag("POST", `["\\seen","$Chat"]`, "add")
	state(0, `\Seen`, "$Chat")
	flag("PUT", `["\\Flagged"]`, "set")
	state(1, `\Flagged`)
	flag("POST", `["\\Flagged"]`, "remove")
	state(1)
	bob.refused("POST", "/webimap/message/flags", fmt.Sprintf(`{"uid":%d,"flags":[],"op":"mark"}`, told.UID), 400, "invalid op: must be add, remove, or set", "")
	bob.refused("POST", "/webimap/message/flags", fmt.Sprintf(`{"uid":%d,"flags":["a b"],"op":"add"}`, told.UID), 400, "invalid flags", "")
	bob.refused("POST", "/webimap/message/flags", `{"uid":4000,"flags":[],"op":"add"}`, 404, "message not found", "")
	bob.refused("POST", "/webimap/message/flags", `{"uid":`, 400, "invalid JSON", "")
	bob.refused("GET", "/webimap/message/4000", "", 404, "message not found", "")
	bob.refused("GET", "/webimap/message/x", "", 400, "invalid uid", "")
	bob.refused("GET", "/webimap/messages?since_uid=-1", "", 400, "invalid since_uid", "")
	bob.refused("GET", "/webimap/messages?mailbox=None", "", 400, "unknown mailbox", "")
	bob.get("GET", fmt.Sprintf("/webimap/messages?since_uid=%d", told.UID), "", &none)
	if none == nil || len(none) != 0 {
		t.Errorf("nothing new: %v", none)
	}

	// Folders, by the socket.
	sock.want(sock.ask("create_mailbox", map[string]any{"name": "Alt/Neu"}), "result", `{"status":"created"}`)
	sock.want(sock.ask("copy", map[string]any{"uid": told.UID, "dest_mailbox": "Alt/Neu"}), "result", `{"status":"copied"}`)
	sock.want(sock.ask("rename_mailbox", map[string]any{"oldName": "Alt/Neu", "newName": "Ablage"}), "result", `{"status":"renamed"}`)
	sock.want(sock.ask("copy", map[string]any{"uid": told.UID, "destination": "None"}), "error", `"unknown mailbox"`)
	sock.want(sock.ask("move", map[string]any{"mailbox": "Ablage", "uid": 1, "destination": "inbox"}), "result", `{"status":"moved"}`)
	if again := sock.next(); again.UID <= told.UID || again.SeqNum != 2 {
		t.Errorf("the move into the watched mailbox: %+v", again)
	}
	for _, x := range []struct {
		query string
		found int
	}{{"annANNann@", 2}, {"[...]", 2}, {"04478418-12FE", 2}, {"nobody", 0}} {
		f := sock.ask("search", map[string]any{"query": x.query})
		var list []message
		if err := json.Unmarshal(f.Data, &list); err != nil || list == nil || len(list) != x.found {
			t.Errorf("search %q: %v %s", x.query, err, f.Data)
		}
	}
	sock.want(sock.ask("search", map[string]any{}), "error", `"query is required"`)
	sock.want(sock.ask("delete_mailbox", map[string]any{"name": "Ablage"}), "result", `{"status":"deleted"}`)
	sock.want(sock.ask("delete_mailbox", map[string]any{"name": "Ablage"}), "error", `"unknown mailbox"`)
	sock.want(sock.ask("fly", nil), "error", `"unknown action: fly"`)
	sock.want(sock.ask("delete", map[string]any{"uid": told.UID}), "result", `{"status":"deleted"}`)
	sock.want(sock.ask("fetch", map[string]any{"uid": told.UID}), "error", `"message not found"`)
	f = sock.ask("list_messages", map[string]any{"since_uid": told.UID})
	var left []message
	if err := json.Unmarshal(f.Data, &left); err != nil || len(left) != 1 || left[0].SeqNum != 1 {
		t.Errorf("%v %s", err, f.Data)
	}
	bob.get("DELETE", fmt.Sprintf("/webimap/messages/INBOX/%d", left[0].UID), "", &ok)
	bob.refused("DELETE", fmt.Sprintf("/webimap/message/%d", left[0].UID), "", 404, "message not found", "")
	sock.say(`{"type":"ping"}`)
	if f, err := sock.read(); err != nil || f.Action != "pong" || string(f.Data) != "{}" {
		t.Errorf("%v %+v", err, f)
	}
	sock.say(`{"req_id":`)
	if f, err := sock.read(); err != nil || f.Action != "error" || string(f.Data) != `"invalid JSON"` || f.ID != "" {
		t.Errorf("%v %+v", err, f)
	}
	if f := sock.ask("list_mailboxes", nil); !bytes.Contains(f.Data, []byte(`"name":"INBOX","messages":0,"unseen":0`)) {
		t.Errorf("%s", f.Data)
	}
}

func TestWhatIsNotSent(t *testing.T) {
	s := server(t, "smtp_max_recipients = 3\nmax_user_send_per_minute = 60\nmax_user_send_burst_size = 40\n")
	s.Command("message-size", "set", "64K")
	ann := visitor(t, s, "annannann")
	me, text := []string{ann.email}, letter(ann.email)
	clear := "From: <" + ann.email + ">\r\nSubject: hi\r\n\r\nhello\r\n"
	sock := ann.open("")
	for _, x := range []struct {
		name, body string
		status     int
		text, code string
	}{
		{"not encrypted", sending(me, clear), 403, "Encryption Needed", "523"},
		{"somebody else's", sending(me, letter("other@[127.0.0.1]")), 400, "Invalid FROM", "500 5.6.0"},
		{"to nobody", sending(nil, text), 400, "missing recipients", "503 5.5.1"},
		{"to what is no address", sending([]string{"@@"}, text), 400, "Bad recipient", "501 5.1.3"},
		{"to one who is not there", sending([]string{"nobodynobody@[127.0.0.1]"}, text), 400, "No such user", "550 5.1.1"},
		{"to too many", sending([]string{"a@b.example", "b@b.example", "c@b.example", "d@b.example"}, text), 400, "Too many recipients", "452 4.5.3"},
		{"too large", sending(me, text+strings.Repeat("x", 64<<10)), 413, "maximum size", "552 5.3.4"},
		{"far too large", sending(me, strings.Repeat("x", 2<<20)), 413, "maximum size", "552 5.3.4"},
		{"without a message", `{"to":["` + ann.email + `"]}`, 400, "missing body", "500 5.6.0"},
		{"with two", `{"to":["` + ann.email + `"],"body":"a","body_base64":"YQ=="}`, 400, "more than one body", "500 5.6.0"},
		{"no base64", `{"to":["` + ann.email + `"],"body_base64":"a*b"}`, 400, "not base64", "500 5.6.0"},
		{"no JSON", `{"to":["` + ann.email + `"],"body":"a\x"}`, 400, "invalid JSON", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			here := *ann
			here.t = t
			here.refused("POST", "/websmtp/send", x.body, x.status, x.text, x.code)
			if x.name == "far too large" {
				return // a frame of that length ends the connection
			}
			sock.say(`{"req_id":"x","action":"send","data":` + x.body + `}`)
			if f, err := sock.read(); err != nil || f.Action != "error" || !strings.Contains(string(f.Data), x.text) {
				t.Errorf("by socket: %v %+v", err, f)
			}
		})
	}
	s.Command("federation", "policy", "reject")
	ann.refused("POST", "/websmtp/send", sending([]string{"bob@elsewhere.example"}, text), 403, "olicy", "550 5.7.1")
	// Octets that are no UTF-8 arrive as they were sent.
	odd := strings.Replace(text, "Chat-Version: 1.0\r\n", "Chat-Version: 1.0\r\nX-Odd: \xff\xfe\r\n", 1)
	body := fmt.Sprintf(`{"to":[%q],"body_base64":%q}`, ann.email, base64.StdEncoding.EncodeToString([]byte(odd)))
	var ok struct{ Status string }
	ann.get("POST", "/websmtp/send", body, &ok)
	told := sock.next()
	var got message
	ann.get("GET", fmt.Sprintf("/webimap/message/%d", told.UID), "", &got)
	if got.Body == nil || !strings.Contains(*got.Body, "X-Odd: \ufffd\ufffd\r\n") || got.BodyBase64 == nil {
		t.Fatalf("%+v", got)
	}
	if raw, err := base64.StdEncoding.DecodeString(*got.BodyBase64); err != nil || !bytes.Contains(raw, []byte("X-Odd: \xff\xfe\r\n")) {
		t.Errorf("%v %q", err, raw)
	}
	// What a client may send is one limit for all doors.
	refused := 0
	for range 60 {
		if status, _, raw := ann.ask("POST", "/websmtp/send", sending(me, text)); status == http.StatusTooManyRequests {
			refused++
			if !bytes.Contains(raw, []byte(`"code":"450`)) {
				t.Errorf("%s", raw)
			}
		}
	}
	if refused == 0 {
		t.Error("sixty messages at once are no trouble")
	}
	s.Command("accounts", "quota", "set", ann.email, "1K")
	bob := visitor(t, s, "bobbobbob")
	var none []message
	bob.get("GET", "/webimap/messages", "", &none)
	bob.refused("POST", "/websmtp/send", sending(me, letter(bob.email)), http.StatusInsufficientStorage, "full", "552 5.2.2")
}

func TestWhoGetsIn(t *testing.T) {
	s := server(t, "")
	ann := visitor(t, s, "annannann")
	var boxes []folder
	ann.get("GET", "/webimap/mailboxes", "", &boxes)
	stranger := &browser{t: t, s: s, header: make(http.Header)}
	stranger.refused("GET", "/webimap/mailboxes", "", 401, "missing X-Email header", "")
	stranger.header.Set("X-Email", ann.email)
	stranger.refused("GET", "/webimap/mailboxes", "", 401, "missing X-Password header", "")
	s.Command("accounts", "create", "blocked99", "-p", password)
	s.Command("blocklist", "add", "blocked99")
	wrong := *ann
	wrong.password += "x"
	blocked := visitor(t, s, "blocked99")
	_, _, a := wrong.ask("GET", "/webimap/mailboxes", "")
	_, _, b := blocked.ask("GET", "/webimap/mailboxes", "")
	if !bytes.Equal(a, b) || !bytes.Contains(a, []byte("invalid credentials")) {
		t.Errorf("wrong: %s, blocked: %s", a, b)
	}
	// A socket is refused before it is one.
	if _, res, err := wrong.dial("/webimap/ws?email="+wrong.email+"&password="+wrong.password, nil); err == nil || res == nil || res.StatusCode != 401 {
		t.Errorf("%v %v", res, err)
	}
	// The other ways to show a password.
	auth := "madmail.auth." + base64.RawURLEncoding.EncodeToString([]byte(ann.email+":"+password))
	for _, offers := range [][]string{{"madmail", auth}, {auth}} {
		conn, _, err := ann.dial("/webimap/ws", &websocket.DialOptions{Subprotocols: offers})
		if err != nil {
			t.Fatal(err)
		}
		if conn.Subprotocol() != offers[0] {
			t.Errorf("offered %q, taken %q", offers, conn.Subprotocol())
		}
		sock := &socket{Conn: conn, t: t}
		if f := sock.ask("list_mailboxes", nil); f.Action != "result" {
			t.Errorf("%+v", f)
		}
	}
	conn, _, err := ann.dial("/webimap/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	sock := &socket{Conn: conn, t: t}
	sock.want(sock.ask("login", map[string]any{"email": ann.email, "password": password}), "result", `{"status":"ok"}`)
	if f := sock.ask("list_mailboxes", nil); f.Action != "result" {
		t.Errorf("%+v", f)
	}
	for _, x := range []string{`{"req_id":"q","action":"list_mailboxes"}`, `{"req_id":"q","action":"login","data":{"email":"` + ann.email + `","password":"x"}}`} {
		conn, _, err := ann.dial("/webimap/ws", nil)
		if err != nil {
			t.Fatal(err)
		}
		sock := &socket{Conn: conn, t: t}
		sock.say(x)
		if f, err := sock.read(); err != nil || f.Action != "error" || f.ID != "q" {
			t.Errorf("%s: %v %+v", x, err, f)
		}
		if code := sock.closed(); code != websocket.StatusPolicyViolation {
			t.Error("closed with", code)
		}
	}
	// Guesses of one address are enough at some point: then nobody there gets in.
	for range 5 { // once is enough, unless it takes most of a minute
		var all sync.WaitGroup
		for i := range 12 {
			all.Go(func() {
				guess := *ann
				guess.password = fmt.Sprint("guess", i)
				guess.ask("GET", "/webimap/mailboxes", "")
			})
		}
		all.Wait()
		if status, _, _ := ann.ask("GET", "/webimap/mailboxes", ""); status == http.StatusTooManyRequests {
			break
		}
	}
	ann.refused("GET", "/webimap/mailboxes", "", http.StatusTooManyRequests, "too many failures", "")
}

func TestSessionsEndWithTheAccount(t *testing.T) {
	s := server(t, "")
	for _, x := range []struct {
		name string
		end  []string
	}{
		{"banned999", []string{"accounts", "ban", "banned999", "spam", "--yes"}},
		{"deleted99", []string{"accounts", "delete", "deleted99", "--yes"}},
		{"changed99", []string{"accounts", "set-password", "changed99", "-p", "another-battery-77"}},
	} {
		ann := visitor(t, s, x.name)
		var boxes []folder
		ann.get("GET", "/webimap/mailboxes", "", &boxes)
		one, two := ann.open(""), ann.open("&mailbox=INBOX&since_uid=7")
		polled := make(chan int, 1)
		go func() {
			status, _, _ := ann.ask("GET", "/webimap/messages?wait=120", "")
			polled <- status
		}()
		one.want(one.ask("fetch", map[string]any{"uid": 1}), "error", `"message not found"`)
		s.Command(x.end...)
		for _, sock := range []*socket{one, two} {
			if code := sock.closed(); code != websocket.StatusPolicyViolation {
				t.Errorf("%s: closed with %v", x.name, code)
			}
		}
		select {
		case status := <-polled:
			if status != http.StatusUnauthorized {
				t.Errorf("%s: the request that waited: %d", x.name, status)
			}
		case <-time.After(2 * patience):
			t.Fatal("the request still waits")
		}
	}
}

func TestWhosePagesMayCall(t *testing.T) {
	s := server(t, "")
	ann := visitor(t, s, "annannann")
	var boxes []folder
	ann.get("GET", "/webimap/mailboxes", "", &boxes)
	preflight := func(origin, path string, want int, allowed bool) {
		t.Helper()
		b := &browser{t: t, s: s, header: http.Header{"Origin": {origin}, "Access-Control-Request-Method": {"GET"}, "Access-Control-Request-Headers": {"x-email"}}}
		status, head, _ := b.ask("OPTIONS", path, "")
		if got := head.Get("Access-Control-Allow-Origin"); status != want || (got == origin) != allowed || !allowed && got != "" {
			t.Errorf("%s at %s: %d, allowed %q", origin, path, status, got)
		}
		if allowed && path != "/new" && (head.Get("Access-Control-Allow-Headers") != "Content-Type, X-Email, X-Password" || head.Get("Access-Control-Allow-Methods") != "GET, POST, PUT, DELETE, OPTIONS" || head.Get("Access-Control-Max-Age") != "86400") {
			t.Errorf("%v", head)
		}
		if !slices.Contains(head.Values("Vary"), "Origin") {
			t.Errorf("Vary: %q", head.Values("Vary"))
		}
	}
	home, away := ann.url(""), "https://mail.example:8443"
	preflight(home, "/webimap/mailboxes", 204, true)
	preflight(away, "/webimap/mailboxes", 403, false) // though both services are on
	preflight(away, "/new", 204, false)
	if _, res, err := ann.dial("/webimap/ws?email="+ann.email+"&password="+password, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {away}}}); err == nil || res == nil || res.StatusCode != 403 {
		t.Errorf("%v %v", res, err)
	}
	s.Command("webmail-dev", "add", "HTTPS://Mail.example:8443/")
	preflight(away, "/webimap/mailboxes", 204, true)
	preflight(away, "/websmtp/send", 204, true)
	preflight(away, "/new", 204, true)
	preflight("https://evil.example", "/webimap/mailboxes", 403, false)
	ann.header.Set("Origin", away)
	if status, head, _ := ann.ask("GET", "/webimap/mailboxes", ""); status != 200 || head.Get("Access-Control-Allow-Origin") != away {
		t.Errorf("%d %v", status, head)
	}
	conn, _, err := ann.dial("/webimap/ws?email="+ann.email+"&password="+password, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {away}}})
	if err != nil {
		t.Fatal(err)
	}
	conn.CloseNow()
	s.Command("webmail-cors", "set", "*")
	preflight("https://evil.example", "/webimap/mailboxes", 204, true)
	out := s.Command("webmail-cors", "--json")
	var j struct {
		Data struct {
			Status  string
			Origins string   `json:"cors_origins"`
			List    []string `json:"cors_origins_list"`
			Reflect bool     `json:"auto_reflect_origin"`
			On      bool     `json:"browser_access_enabled"`
		}
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil || j.Data.Status != "enabled" || j.Data.Origins != "*" || !j.Data.Reflect || !j.Data.On || len(j.Data.List) != 1 {
		t.Errorf("%v %s", err, out)
	}
	s.Command("webmail-cors", "reset")
	preflight(away, "/webimap/mailboxes", 403, false)
}

func TestAFewSocketsOfEachAccount(t *testing.T) {
	s := server(t, "")
	ann := visitor(t, s, "annannann")
	var boxes []folder
	ann.get("GET", "/webimap/mailboxes", "", &boxes)
	open := make([]*socket, 50)
	for i := range open {
		open[i] = ann.open("")
	}
	path := "/webimap/ws?email=" + ann.email + "&password=" + password
	if _, res, err := ann.dial(path, nil); err == nil || res == nil || res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("%v %v", res, err)
	}
	if out := s.Command("status", "--json"); !strings.Contains(out, `"HTTP"`) {
		t.Error(out)
	}
	// Eight requests at once, all answered, whatever the order.
	sock := open[0]
	for i := range 40 {
		sock.say(fmt.Sprintf(`{"req_id":%d,"action":"list_mailboxes"}`, i))
	}
	seen := make(map[int]bool)
	for range 40 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, raw, err := sock.Read(ctx)
		cancel()
		var f struct {
			ID int `json:"req_id"`
		}
		if err != nil || json.Unmarshal(raw, &f) != nil {
			t.Fatal(err, string(raw))
		}
		seen[f.ID] = true
	}
	if len(seen) != 40 {
		t.Error(len(seen), "answers")
	}
	if err := open[1].Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	// The server has counted it out when it has answered the close, or soon after.
	for end := time.Now().Add(patience); ; {
		conn, res, err := ann.dial(path, nil)
		if err == nil {
			conn.CloseNow()
			break
		}
		if res == nil || res.StatusCode != http.StatusTooManyRequests || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	s.Stop()
	if code := open[2].closed(); code != websocket.StatusGoingAway {
		t.Error("a server that stops closes with", code)
	}
}

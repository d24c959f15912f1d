//go:build unix

package app

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/internal/dkim"
	"madmail/internal/settings"
	"madmail/test/load"
)

// hashes are the forms that the second version writes or takes over, all of "correct-horse".
var hashes = map[string]string{
	"sha256sha":  "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:Xp3x6MFxhwLGLVdC94TJvOHtm2Nq/eseD72Q+xjNNNM=",
	"argontwo1":  "argon2:3:1024:1:AAECAwQFBgcICQoLDA0ODw==:lFkf1t+fzMf6APyAzdejZrnosh68GQBDb9H9OiZ8bmRgukVbi5JlU7vjU0zRrehr6q7YDB+OG3SSLISPOEES2A==",
	"bcryptone":  "bcrypt:$2a$04$Hbwi1fxK9J.OkC.qb3AbFOqHTLU0mXABIr/z/JG7Am7JcKg3Iw88e",
	"barebcrypt": "$2a$04$Hbwi1fxK9J.OkC.qb3AbFOqHTLU0mXABIr/z/JG7Am7JcKg3Iw88e",
	"crypt256s":  "$5$saltstring$UNouvAAuUXMNRoKXgH9.yjHRClwHK18Zbefa.NeFzaB",
	"crypt512s":  "$6$saltstring$uXKeUi4olDYi2J2NT4w4S/Tu4dcSxAntn0.gN61mXOwWuCvCegWxwzc4DEP8DurHm6CaiKlL8kKPSgKi6X5JT0",
}

// secondSchema is the database of the second version after its six migrations, with what
// it seeds.
const secondSchema = `
CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
	success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (20240101000000, 'init', 1, x'00', 1),
	(20240201000000, 'federation stats', 1, x'00', 1), (20240301000000, 'passwords', 1, x'00', 1), (20240401000000, 'madmail compat', 1, x'00', 1),
	(20240501000000, 'federation silent dismiss', 1, x'00', 1), (20240601000000, 'mailbox modseq', 1, x'00', 1);
CREATE TABLE settings (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);
CREATE TABLE quotas (username TEXT PRIMARY KEY NOT NULL, max_storage INTEGER NOT NULL DEFAULT 0, created_at INTEGER NOT NULL,
	first_login_at INTEGER NOT NULL, last_login_at INTEGER NOT NULL, used_token TEXT);
CREATE TABLE blocked_users (username TEXT PRIMARY KEY NOT NULL, reason TEXT NOT NULL, blocked_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE registration_tokens (token TEXT PRIMARY KEY NOT NULL, max_uses INTEGER NOT NULL DEFAULT 1, used_count INTEGER NOT NULL DEFAULT 0,
	comment TEXT, expires_at TIMESTAMP, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE dns_overrides (lookup_key TEXT PRIMARY KEY NOT NULL, target_host TEXT NOT NULL, comment TEXT,
	created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE federation_server_stats (domain TEXT PRIMARY KEY NOT NULL, queued_messages INTEGER NOT NULL DEFAULT 0, failed_http INTEGER NOT NULL DEFAULT 0,
	failed_https INTEGER NOT NULL DEFAULT 0, failed_smtp INTEGER NOT NULL DEFAULT 0, success_http INTEGER NOT NULL DEFAULT 0,
	success_https INTEGER NOT NULL DEFAULT 0, success_smtp INTEGER NOT NULL DEFAULT 0, inbound_deliveries INTEGER NOT NULL DEFAULT 0,
	successful_deliveries INTEGER NOT NULL DEFAULT 0, total_latency_ms INTEGER NOT NULL DEFAULT 0, last_active INTEGER NOT NULL DEFAULT 0);
CREATE TABLE passwords (username TEXT PRIMARY KEY NOT NULL, hash TEXT NOT NULL, created_at INTEGER NOT NULL DEFAULT (strftime('%s', 'now')));
CREATE TABLE push_tokens (username TEXT NOT NULL, device_token TEXT NOT NULL, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (username, device_token));
CREATE TABLE federation_rules (id INTEGER PRIMARY KEY AUTOINCREMENT, domain TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL DEFAULT (strftime('%s', 'now')));
CREATE TABLE message_stats (name TEXT PRIMARY KEY NOT NULL, count INTEGER NOT NULL DEFAULT 0);
CREATE TABLE exchangers (name TEXT PRIMARY KEY NOT NULL, url TEXT NOT NULL, enabled INTEGER NOT NULL DEFAULT 1, poll_interval INTEGER NOT NULL DEFAULT 60,
	last_poll_at TIMESTAMP, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE federation_silent_dismiss (domain TEXT PRIMARY KEY NOT NULL, created_at INTEGER NOT NULL DEFAULT (strftime('%s', 'now')));
CREATE TABLE mailbox_modseq (username TEXT PRIMARY KEY NOT NULL, modseq INTEGER NOT NULL DEFAULT 0);
INSERT INTO settings VALUES ('__JIT_REGISTRATION_ENABLED__', 'true'), ('__REGISTRATION_OPEN__', 'true'), ('__APPENDLIMIT__', '100M'),
	('__MAX_MESSAGE_SIZE__', '100M'), ('__MAX_FEDERATION_SIZE__', '70M'), ('__PUSH_MODE__', 'off'), ('__PUSH_ENABLED__', 'false');
INSERT INTO message_stats VALUES ('sent_messages', 41), ('outbound_messages', 42), ('received_messages', 43), ('push_successful_notifications', 44);
`

const (
	secondText  = "From: <peer@there.example>\r\nSubject: kept\r\nDate: Mon, 01 Jan 2024 10:00:00 +0000\r\nMessage-ID: <1@there.example>\r\n\r\nold mail\r\n"
	secondOwner = "sha256sha@[127.0.0.1]"
	secondToken = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// put writes a file of the state.
func (h *house) put(text string, path ...string) {
	h.t.Helper()
	p := filepath.Join(append([]string{h.dir}, path...)...)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// secondVersion writes a state directory as the second version leaves it, but for what
// the configuration says. Mail for remote.example goes to peer.
func (h *house) secondVersion(peer string) {
	t := h.t
	t.Helper()
	script := secondSchema + `
		INSERT INTO settings VALUES ('__LANGUAGE__', 'fa'), ('__SS_PASSWORD__', 's3cret'), ('__FEDERATION_POLICY__', 'ACCEPT'), ('__MESSAGE_RETENTION__', '720h'),
			('__WEBHOOK_ENABLED__', 'true'), ('__WEBHOOK_URL__', 'https://hooks.example/x'), ('__WEBHOOK_SECRET__', 'whs'), ('__WEBHOOK_EVENT_USER_REGISTERED__', 'true'),
			('__WEBHOOK_EVENT_QUOTA_EXCEEDED__', 'false');
		INSERT INTO quotas VALUES ('__GLOBAL_DEFAULT__', 2147483648, 0, 0, 0, NULL), ('` + secondOwner + `', 12345678, 1600000000, 1600000000, 1600000001, NULL),
			('pending12@[127.0.0.1]', 0, 1600000000, 1, 0, 'invite');
		INSERT INTO blocked_users (username, reason) VALUES ('mallory12@[127.0.0.1]', 'banned via CLI');
		INSERT INTO registration_tokens (token, max_uses, used_count, comment, expires_at) VALUES ('invite', 3, 1, 'friends', NULL), ('late', 1, 0, '', '2020-01-01T00:00:00Z'),
			('open', 1, 0, '', '2099-01-01T00:00:00Z');
		INSERT INTO dns_overrides (lookup_key, target_host, comment) VALUES ('remote.example', '` + peer + `', '');
		INSERT INTO federation_server_stats (domain, success_https, inbound_deliveries, last_active) VALUES ('there.example', 5, 6, 1700000000);
		INSERT INTO federation_rules (domain) VALUES ('evil.example'), ('192.0.2.1');
		INSERT INTO federation_silent_dismiss (domain) VALUES ('quiet.example');
		INSERT INTO exchangers (name, url, enabled) VALUES ('ex', 'https://ex.example/pull', 0);
		INSERT INTO mailbox_modseq VALUES ('` + secondOwner + `', 99);
		INSERT INTO push_tokens (username, device_token) VALUES ('` + secondOwner + `', 'openpgp:tok');`
	script += "INSERT INTO passwords (username, hash) VALUES ('literal12@2001:db8::1', '" + hashes["bcryptone"] + "');" // it knows no brackets there
	h.put(secondText, "mail", "literal12@2001:db8::1", "Maildir", "new", "77777777-7777-4777-8777-777777777777")
	for user, hash := range hashes {
		script += "INSERT INTO passwords (username, hash) VALUES ('" + user + "@[127.0.0.1]', '" + hash + "');"
	}
	h.change("credentials.db", script)
	h.change("sharing.db", `CREATE TABLE contacts (slug TEXT PRIMARY KEY NOT NULL, url TEXT NOT NULL, name TEXT NOT NULL DEFAULT '', created_at TEXT NOT NULL DEFAULT (datetime('now')));
		INSERT INTO contacts (slug, url, name) VALUES ('bob', 'openpgp4fpr:AABB#a=b%40c', 'Bob'), ('mine', 'reserved', '');`)
	h.put(secondToken+"\n", "admin_token")
	key, err := dkim.Generate(dkim.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	h.put(string(pem), "dkim", "default.private")

	// Mail. What is in cur was seen, with or without a letter; UID 3 was expunged; one
	// file was never listed.
	inbox := []string{"mail", secondOwner, "Maildir"}
	at := func(box []string, more ...string) []string { return append(box[:len(box):len(box)], more...) }
	h.put(secondText, at(inbox, "new", "11111111-1111-4111-8111-111111111111")...)
	h.put(secondText, at(inbox, "cur", "22222222-2222-4222-8222-222222222222:2,S")...)
	h.put(secondText, at(inbox, "cur", "44444444-4444-4444-8444-444444444444")...)
	h.put(secondText, at(inbox, "new", "55555555-5555-4555-8555-555555555555")...)
	h.put(fmt.Sprintf("1 V1 N5\n1 S%d T1700000000 :11111111-1111-4111-8111-111111111111\n2 S%[1]d T1700000100 :22222222-2222-4222-8222-222222222222\n"+
		"4 S%[1]d T1700000200 :44444444-4444-4444-8444-444444444444\n", len(secondText)), at(inbox, "chatmail-uidlist")...)
	h.put("half", at(inbox, "tmp", ".chatmail-uidlist.tmp")...)
	for _, name := range []string{"DeltaChat", "100%", ".hidden", "Entw&APw-rfe", "R&-D", "a_b"} {
		box := []string{"mail", secondOwner, "folders", name, "Maildir"}
		h.put(secondText, at(box, "new", "66666666-6666-4666-8666-666666666666")...)
		h.put(fmt.Sprintf("1 V1 N8\n7 S%d T1700000000 :66666666-6666-4666-8666-666666666666\n", len(secondText)), at(box, "chatmail-uidlist")...)
	}
	for user := range hashes {
		for _, sub := range []string{"cur", "new", "tmp"} {
			for _, box := range []string{"Maildir", "folders/DeltaChat/Maildir"} {
				if err := os.MkdirAll(filepath.Join(h.dir, "mail", user+"@[127.0.0.1]", box, sub), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}
	}

	// The queue: one that was tried, one of earlier releases that does not know when it
	// came, and what a stop left.
	for id, meta := range map[string]string{
		"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa": fmt.Sprintf(`{"id":"aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa","mail_from":"%s","rcpt_to":"one@remote.example","tries_count":1,"queued_at_unix":%d,"last_attempt_unix":%[2]d,"next_attempt_unix":%[2]d,"last_error":"federation failed"}`, secondOwner, time.Now().Unix()-60),
		"bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb": `{"id":"bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb","mail_from":"","rcpt_to":"two@remote.example","tries_count":0,"last_attempt_unix":0,"next_attempt_unix":0}`,
	} {
		h.put(secondText, "remote_queue", id+".body")
		h.put(meta, "remote_queue", id+".meta")
	}
	h.put("half", "remote_queue", "cccccccc-cccc-4ccc-8ccc-cccccccccccc.body.new")
	h.put(fmt.Sprintf("%s\n%d\nopenpgp:tok", secondOwner, time.Now().Unix()-60), "pending_notifications", "dddddddd-dddd-4ddd-8ddd-dddddddddddd")
}

// TestAServerTakesOverTheSecondVersion: what an operator who changes the binary sees, and
// what the clients see that go on.
func TestAServerTakesOverTheSecondVersion(t *testing.T) {
	got := make(chan string, 10)
	peer := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.URL.Path + " " + r.Header.Get("X-Mail-From") + " " + strings.Join(r.Header.Values("X-Mail-To"), ",") + " " + string(b)
	}))
	defer peer.Close()
	h := newHouse(t)
	h.lines["queue_post_init_delay"] = `"1ms"`
	h.lines["enable_contact_sharing"] = "true"
	h.write()
	h.secondVersion(peer.URL)
	h.start()

	for user := range hashes {
		x := h.target()
		x.Password = "correct-horse"
		r, err := x.Login(user)
		if err != nil {
			t.Errorf("%s: %v", user, err)
			continue
		}
		r.Close()
	}

	x := h.target()
	x.Password = "correct-horse"
	x.Domain = "2001:db8::1"
	r, err := x.Login("literal12")
	if err != nil {
		t.Fatal(err)
	}
	if text := do(t, r, "SELECT INBOX"); !strings.Contains(text, "* 1 EXISTS") {
		t.Errorf("an account of an IPv6 address: %s", text)
	}
	r.Close()
	x.Domain = h.target().Domain
	r, err = x.Login("sha256sha")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	list := do(t, r, `LIST "" "*"`)
	for _, want := range []string{"INBOX", "DeltaChat", `100%`, ".hidden", "Entw&APw-rfe", "R&-D", "a_b"} {
		if !strings.Contains(list, want) {
			t.Errorf("LIST lacks %q: %s", want, list)
		}
	}
	if text := do(t, r, "SELECT INBOX"); !strings.Contains(text, "* 4 EXISTS") || !strings.Contains(text, "UIDVALIDITY 1]") || !strings.Contains(text, "UIDNEXT 6]") {
		t.Errorf("SELECT: %s", text)
	}
	text := do(t, r, "UID FETCH 1:* (FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
	for _, want := range []string{`UID 1 FLAGS ()`, `UID 2 FLAGS (\Seen)`, `UID 4 FLAGS (\Seen)`, `UID 5 FLAGS ()`} {
		if !strings.Contains(text, want) {
			t.Errorf("FETCH lacks %s: %s", want, text)
		}
	}
	if !strings.Contains(text, "14-Nov-2023 22:13:20 +0000") {
		t.Errorf("FETCH: %s", text)
	}
	if texts := h.inbox(secondOwner); len(texts) != 4 || texts[0] != secondText || texts[3] != secondText {
		t.Errorf("INBOX: %q", texts)
	}
	for _, name := range []string{"DeltaChat", `"100%"`, `.hidden`, "Entw&APw-rfe", "R&-D", "a_b"} {
		if text := do(t, r, "SELECT "+name); !strings.Contains(text, "* 1 EXISTS") || !strings.Contains(text, "UIDVALIDITY 1]") || !strings.Contains(text, "UIDNEXT 8]") {
			t.Errorf("SELECT %s: %s", name, text)
		}
	}
	if text := do(t, r, "GETQUOTAROOT INBOX"); !strings.Contains(text, "STORAGE 1 12056") && !strings.Contains(text, "STORAGE 2 12056") {
		t.Errorf("quota: %s", text)
	}

	// The queue is sent.
	want := map[string]bool{
		"/mxdeliv " + secondOwner + " one@remote.example " + secondText: true,
		"/mxdeliv  two@remote.example " + secondText:                    true,
	}
	for range 2 {
		select {
		case m := <-got:
			if !want[m] {
				t.Errorf("the peer got %q", m)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the queue is not sent: %+v", h.must("queue.list", "{}"))
		}
	}
	if _, err := os.Stat(filepath.Join(h.dir, "remote_queue", "cccccccc-cccc-4ccc-8ccc-cccccccccccc.body.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a body stays: %v", err)
	}

	// What operators see.
	now := h.settings.Current()
	w, err := settings.ParseWebhooks(now.Text(settings.OperatorWebhooks))
	if err != nil || !w.Enabled || w.URL != "https://hooks.example/x" || w.Secret != "whs" || !w.UserRegistered || w.QuotaExceeded {
		t.Errorf("webhooks %+v, %v", w, err)
	}
	if now.Value(settings.Language) != "fa" || now.Text(settings.SSPassword) != "s3cret" {
		t.Errorf("settings: %s", now.Value(settings.Language))
	}
	if h.token() != secondToken {
		t.Errorf("admin token %q", h.token())
	}
	for op, wants := range map[string][]string{
		"accounts.ban-list":       {"mallory12@[127.0.0.1]", "banned via CLI"},
		"tokens.list":             {"invite", "friends", "pending:1", "expired", "2099-01-01"},
		"federation.list":         {"evil.example", "192.0.2.1"},
		"federation.dismiss-list": {"quiet.example"},
		"federation.status":       {"there.example"},
		"endpoints.list":          {"remote.example"},
		"exchangers.list":         {"ex.example/pull"},
		"sharing.list":            {"bob", "AABB", "mine", "reserved"},
	} {
		text := fmt.Sprint(h.must(op, "{}"))
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s: %s", op, want, text)
			}
		}
	}
	status := h.admin("GET", "/admin/status", "{}").fields(t)
	for name, want := range map[string]string{"sent_messages": "41", "outbound_messages": "44", "received_messages": "43"} {
		if got := fmt.Sprint(status[name]); got != want {
			t.Errorf("%s %s, want %s", name, got, want)
		}
	}
}

// secondClient is the second version's way of bringing mail by SMTP: it calls itself by our
// name or by a bare address, waits for each reply, wants the very code, does not know
// RSET or SIZE, and hides no dots.
func (h *house) secondClient(helo, from, to, text string, starttls bool) error {
	h.t.Helper()
	var conn net.Conn
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports["smtp"]))
	if err != nil {
		return err
	}
	defer func() { conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	say := func(line string, want int) error {
		if line != "" {
			if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
				return err
			}
		}
		// It takes whatever came for the reply, as soon as that has a last line.
		buf, all := make([]byte, 4096), ""
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
			all += string(buf[:n])
			for _, l := range strings.Split(strings.TrimRight(all, "\r\n"), "\r\n") {
				if len(l) > 3 && l[3] == ' ' {
					if !strings.HasPrefix(l, fmt.Sprint(want)) {
						return fmt.Errorf("%s: %s, want %d", line, l, want)
					}
					return nil
				}
			}
		}
	}
	type step struct {
		line string
		want int
	}
	steps := []step{{"", 220}, {"EHLO " + helo, 250}}
	if starttls {
		steps = append(steps, step{"STARTTLS", 220}, step{"EHLO " + helo, 250})
	}
	steps = append(steps, step{"MAIL FROM:<" + from + ">", 250}, step{"RCPT TO:<" + to + ">", 250}, step{"DATA", 354}, step{text + ".", 250}, step{"QUIT", 221})
	for _, s := range steps {
		if err := say(s.line, s.want); err != nil {
			return err
		}
		if s.line == "STARTTLS" {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		}
	}
	return nil
}

// TestTheSecondVersionBringsMail: by both ways, as its releases do it.
func TestTheSecondVersionBringsMail(t *testing.T) {
	h := newHouse(t)
	h.start()
	h.login("bobbobbob")
	const to = "bobbobbob@127.0.0.1"
	n := 0
	for _, from := range []string{"peer@[192.0.2.1]", "peer@192.0.2.1", "peer@there.example"} {
		for _, helo := range []string{"127.0.0.1", "first.example.org", "192.0.2.1", "there.example"} {
			text := string(load.Message("peer@there.example", 1000+100*n))
			if err := h.secondClient(helo, from, to, text, true); err != nil {
				t.Errorf("EHLO %s, MAIL FROM:<%s>: %v", helo, from, err)
				continue
			}
			n++
		}
	}
	for _, door := range []string{"http_tls", "http"} {
		for _, from := range []string{"peer@[192.0.2.1]", "peer@192.0.2.1"} {
			if status, body := h.post(door, from, load.Message(from, 9000+100*n), to); status != http.StatusOK || body != "OK" {
				t.Errorf("%s from %s: %d %s", door, from, status, body)
				continue
			}
			n++
		}
	}
	if got := len(h.inbox("bobbobbob@[127.0.0.1]")); got != n || n != 16 {
		t.Errorf("%d messages of %d", got, n)
	}
}

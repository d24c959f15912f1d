package importer

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/maildir"
)

// oldSchema is the part of the first version's index that matters here.
const oldSchema = `
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO schema_version VALUES (6);
CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, username VARCHAR(255) NOT NULL UNIQUE, msgsizelimit INTEGER DEFAULT NULL, inboxId BIGINT DEFAULT 0);
CREATE TABLE mboxes (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, uid INTEGER NOT NULL REFERENCES users(id), name VARCHAR(255) NOT NULL,
	sub INTEGER NOT NULL DEFAULT 0, mark INTEGER NOT NULL DEFAULT 0, msgsizelimit INTEGER DEFAULT NULL, uidnext INTEGER NOT NULL DEFAULT 1,
	uidvalidity BIGINT NOT NULL, specialuse VARCHAR(255) DEFAULT NULL, msgsCount INTEGER NOT NULL DEFAULT 0, UNIQUE(uid, name));
CREATE TABLE extKeys (id VARCHAR(255) PRIMARY KEY NOT NULL, uid INTEGER NOT NULL, refs INTEGER NOT NULL DEFAULT 1);
CREATE TABLE msgs (mboxId INTEGER NOT NULL REFERENCES mboxes(id), msgId BIGINT NOT NULL, date BIGINT NOT NULL, bodyLen INTEGER NOT NULL,
	mark INTEGER NOT NULL DEFAULT 0, bodyStructure BLOB NOT NULL, cachedHeader BLOB NOT NULL, extBodyKey VARCHAR(255) DEFAULT NULL,
	seen INTEGER NOT NULL DEFAULT 0, compressAlgo VARCHAR(255), recent INTEGER NOT NULL DEFAULT 1, PRIMARY KEY(mboxId, msgId));
CREATE TABLE flags (mboxId INTEGER NOT NULL, msgId INTEGER NOT NULL, flag VARCHAR(255) NOT NULL, UNIQUE (mboxId, msgId, flag));
CREATE TABLE quota (username TEXT PRIMARY KEY, max_storage INTEGER, created_at INTEGER, first_login_at INTEGER, last_login_at INTEGER, used_token TEXT);
CREATE TABLE blocked_users (username TEXT PRIMARY KEY, reason TEXT, blocked_at DATETIME);
CREATE TABLE registration_tokens (token TEXT PRIMARY KEY, max_uses INTEGER, used_count INTEGER, comment TEXT, expires_at DATETIME, created_at DATETIME);
CREATE TABLE dns_overrides (lookup_key TEXT PRIMARY KEY, target_host TEXT, comment TEXT, created_at DATETIME, updated_at DATETIME);
CREATE TABLE federation_rules (id INTEGER PRIMARY KEY AUTOINCREMENT, domain TEXT UNIQUE, created_at INTEGER);
CREATE TABLE exchangers (name TEXT PRIMARY KEY, url TEXT, enabled NUMERIC, poll_interval INTEGER, last_poll_at DATETIME, created_at DATETIME, updated_at DATETIME);
CREATE TABLE message_stats (name TEXT PRIMARY KEY, count INTEGER);
CREATE TABLE federation_server_stats (domain TEXT PRIMARY KEY, queued_messages INTEGER, failed_http INTEGER, failed_http_s INTEGER, failed_smtp INTEGER,
	success_http INTEGER, success_http_s INTEGER, success_smtp INTEGER, inbound_deliveries INTEGER, successful_deliveries INTEGER, total_latency_ms INTEGER, last_active INTEGER);
`

// old is a state directory of the first version.
type old struct {
	t   testing.TB
	dir string
	db  *sql.DB
	n   int
}

func newOld(t testing.TB) *old {
	t.Helper()
	o := &old{t: t, dir: t.TempDir()}
	var err error
	if o.db, err = sql.Open("sqlite", filepath.Join(o.dir, "imapsql.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.db.Close() })
	o.exec(oldSchema)
	return o
}

func (o *old) exec(q string, args ...any) int64 {
	o.t.Helper()
	r, err := o.db.Exec(q, args...)
	if err != nil {
		o.t.Fatalf("%s: %v", q, err)
	}
	id, err := r.LastInsertId()
	if err != nil {
		o.t.Fatal(err)
	}
	return id
}

// user adds an account with its INBOX.
func (o *old) user(name string) (user, inbox int64) {
	user = o.exec("INSERT INTO users (username) VALUES (?)", name)
	inbox = o.box(user, "INBOX", 4000000000+uint32(user), 1, "")
	o.exec("UPDATE users SET inboxId = ? WHERE id = ?", inbox, user)
	return user, inbox
}

func (o *old) box(user int64, name string, validity, next uint32, use string) int64 {
	return o.exec("INSERT INTO mboxes (uid, name, sub, uidnext, uidvalidity, specialuse) VALUES (?, ?, 1, ?, ?, nullif(?, ''))", user, name, next, validity, use)
}

// file writes a body and returns its key.
func (o *old) file(user int64, data []byte) string {
	o.t.Helper()
	o.n++
	key := fmt.Sprintf("%d/%08x", user, o.n)
	path := filepath.Join(o.dir, "messages", key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		o.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return key
}

func (o *old) message(box, uid int64, size int, key, algo string, flags ...string) {
	seen := slices.Contains(flags, `\Seen`)
	o.exec("INSERT INTO msgs (mboxId, msgId, date, bodyLen, bodyStructure, cachedHeader, extBodyKey, seen, compressAlgo) VALUES (?, ?, ?, ?, '', '', nullif(?, ''), ?, nullif(?, ''))",
		box, uid, 1700000000+uid, size, key, seen, algo)
	for _, f := range flags {
		o.exec("INSERT INTO flags VALUES (?, ?, ?)", box, uid, f)
	}
	o.exec("UPDATE mboxes SET uidnext = max(uidnext, ?) WHERE id = ?", uid+1, box)
}

// tree is what the first version's files are, without the journal files of SQLite.
func (o *old) tree() map[string]string {
	o.t.Helper()
	all := make(map[string]string)
	list := []string{"imapsql.db"}
	_ = filepath.WalkDir(filepath.Join(o.dir, "messages"), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(o.dir, path)
			list = append(list, rel)
		}
		return nil
	})
	for _, n := range list {
		data, err := os.ReadFile(filepath.Join(o.dir, n))
		if err != nil {
			o.t.Fatal(err)
		}
		all[n] = string(data)
	}
	return all
}

// ours is the state that is imported into.
type ours struct {
	t     testing.TB
	old   *old
	db    *db.DB
	store *maildir.Store
	names map[string]bool
}

func (o *old) open(names ...string) *ours {
	o.t.Helper()
	u := &ours{t: o.t, old: o, names: make(map[string]bool)}
	for _, n := range names {
		u.names[n] = true
	}
	var err error
	if u.db, err = db.Open(o.t.Context(), db.Options{StateDir: o.dir}); err != nil {
		o.t.Fatal(err)
	}
	if u.store, err = maildir.Open(o.t.Context(), maildir.Options{Dir: o.dir}); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(u.close)
	return u
}

func (u *ours) close() {
	ctx := context.WithoutCancel(u.t.Context())
	if err := u.store.Close(ctx); err != nil {
		u.t.Error(err)
	}
	if err := u.db.Close(ctx); err != nil {
		u.t.Error(err)
	}
}

func (u *ours) options() Options {
	return Options{DB: u.db, Store: u.store, StateDir: u.old.dir, Index: filepath.Join(u.old.dir, "imapsql.db"), Messages: filepath.Join(u.old.dir, "messages"),
		Exists: func(a address.Addr) bool { return u.names[a.Wire()] }}
}

func (u *ours) run() Report {
	u.t.Helper()
	r, err := Run(u.t.Context(), u.options())
	if err != nil {
		u.t.Fatal(err)
	}
	return r
}

func key(t testing.TB, account, name string) mailbox.Box {
	t.Helper()
	a, err := address.Parse(account)
	if err != nil {
		t.Fatal(err)
	}
	return mailbox.Box{Account: a, Name: name}
}

func (u *ours) view(account, name string) *mailbox.View {
	u.t.Helper()
	v, err := u.store.View(u.t.Context(), key(u.t, account, name))
	if err != nil {
		u.t.Fatal(err)
	}
	return v
}

func (u *ours) body(account, name string, uid mailbox.UID) string {
	u.t.Helper()
	c, err := u.store.Open(u.t.Context(), key(u.t, account, name), uid)
	if err != nil {
		u.t.Fatal(err)
	}
	defer c.Close()
	data, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		u.t.Fatal(err)
	}
	return string(data)
}

func (u *ours) skipped(r Report, name, reason string) {
	u.t.Helper()
	if !slices.ContainsFunc(r.Skipped, func(s Skipped) bool { return s.Name == name && strings.Contains(s.Reason, reason) }) {
		u.t.Errorf("nothing was said of %q with %q: %v", name, reason, r.Skipped)
	}
}

// long is the message that testdata has in several forms of LZ4.
func long() []byte {
	b := []byte("From: a@example.org\r\nTo: b@example.org\r\nSubject: ...\r\n\r\n")
	for i := range 3000 {
		b = fmt.Appendf(b, "line %d of a message that repeats itself now and then\r\n", i%700)
	}
	return b
}

func packed(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(data, nil)
}

const alice = "alice@example.org"

func TestMailKeepsItsUIDsFlagsDatesAndContents(t *testing.T) {
	o := newOld(t)
	user, inbox := o.user(alice)
	plain := []byte("Subject: ...\r\n\r\nplain\r\n")
	lz, err := os.ReadFile("testdata/linked.lz4")
	if err != nil {
		t.Fatal(err)
	}
	o.message(inbox, 7, len(plain), o.file(user, plain), "", `\Seen`, `\Recent`, "$Forwarded", "chat")
	o.message(inbox, 9, len(long()), o.file(user, packed(t, long())), "zstd", `\Answered`, `\Flagged`)
	o.message(inbox, 12, len(long()), o.file(user, lz), "lz4")
	if err := os.WriteFile(filepath.Join(o.dir, "messages", "flat"), plain, 0o600); err != nil {
		t.Fatal(err)
	}
	o.message(inbox, 4000000000, len(plain), fmt.Sprint(user)+"/flat", "", `\Deleted`, `\Draft`)
	sent := o.box(user, "Sent.2024", 77, 40, `\Sent`)
	o.message(sent, 3, len(plain), o.file(user, plain), "")
	o.exec("UPDATE mboxes SET sub = 0 WHERE id = ?", sent)
	before := o.tree()

	u := o.open(alice)
	r := u.run()
	if r.Users != 1 || r.Mailboxes != 2 || r.Messages != 5 || r.Linked != 3 || r.NotTaken != 0 || r.Bytes != int64(3*len(plain)+2*len(long())) {
		t.Errorf("report: %+v", r)
	}
	v := u.view(alice, "INBOX")
	if v.UIDValidity != 4000000001 || v.UIDNext != 4000000001 {
		t.Errorf("UIDVALIDITY %d, UIDNEXT %d", v.UIDValidity, v.UIDNext)
	}
	want := []mailbox.Message{
		{UID: 7, Flags: mailbox.Seen, Size: int64(len(plain)), Keywords: []string{"$Forwarded", "chat"}},
		{UID: 9, Flags: mailbox.Answered | mailbox.Flagged, Size: int64(len(long()))},
		{UID: 12, Size: int64(len(long()))},
		{UID: 4000000000, Flags: mailbox.Deleted | mailbox.Draft, Size: int64(len(plain))},
	}
	if v.Len() != len(want) {
		t.Fatalf("INBOX has %d messages", v.Len())
	}
	for i, w := range want {
		m := v.At(i)
		if m.UID != w.UID || m.Flags != w.Flags || m.Size != w.Size || m.Internal != 1700000000+int64(w.UID) || !slices.Equal(m.Keywords, w.Keywords) {
			t.Errorf("message %d is %+v, want %+v", i, m, w)
		}
	}
	for uid, body := range map[mailbox.UID][]byte{7: plain, 9: long(), 12: long(), 4000000000: plain} {
		if got := u.body(alice, "INBOX", uid); got != string(body) {
			t.Errorf("body of %d has %d octets, want %d", uid, len(got), len(body))
		}
	}
	if v := u.view(alice, "Sent/2024"); v.UIDValidity != 77 || v.UIDNext != 40 || v.Len() != 1 || v.At(0).UID != 3 {
		t.Errorf("Sent/2024: %d %d %d", v.UIDValidity, v.UIDNext, v.Len())
	}
	boxes, err := u.store.Boxes(t.Context(), key(t, alice, "").Account)
	if err != nil {
		t.Fatal(err)
	}
	if want := []mailbox.Info{{Name: "INBOX", Subscribed: true}, {Name: "Sent/2024", SpecialUse: `\Sent`}}; !slices.Equal(boxes, want) {
		t.Errorf("mailboxes %v, want %v", boxes, want)
	}
	if !maps.Equal(o.tree(), before) {
		t.Error("the first version's files changed")
	}
	// What a client does now is not undone by a second run.
	if _, err := u.store.Expunge(t.Context(), key(t, alice, "INBOX"), mailbox.UIDSet{{First: 7, Last: 7}}, false); err != nil {
		t.Fatal(err)
	}
	if r := u.run(); !r.Done || r.Messages != 0 || r.Mailboxes != 0 {
		t.Errorf("second run: %+v", r)
	}
	u.close()
	u = o.open(alice)
	if v := u.view(alice, "INBOX"); v.Len() != 3 || v.At(0).UID != 9 || v.UIDValidity != 4000000001 {
		t.Errorf("after a restart INBOX has %d messages", v.Len())
	}
	if got := u.body(alice, "INBOX", 9); got != string(long()) {
		t.Error("after a restart the content is another one")
	}
}

func TestWhatIsNotUnderstoodIsSaidAndTheRestIsTakenOver(t *testing.T) {
	o := newOld(t)
	user, inbox := o.user(alice)
	body := []byte("Subject: ...\r\n\r\nx\r\n")
	o.message(inbox, 1, len(body), fmt.Sprint(user)+"/gone", "")
	o.message(inbox, 2, len(body), "../imapsql.db", "")
	o.message(inbox, 3, len(body), o.file(user, []byte("no zstd")), "zstd")
	o.message(inbox, 4, len(body), o.file(user, body), "rot13")
	o.message(inbox, 5, len(body)+1, o.file(user, body), "", "two words")
	o.message(inbox, 6, len(body), "", "")
	o.message(inbox, 7, len(body), o.file(user, []byte("no lz4")), "lz4")
	o.message(inbox, 8, len(body), o.file(user, body), "")
	o.box(user, "a..b", 5, 1, "")
	o.user("stranger@example.org")
	o.user("not an address")
	other, otherInbox := o.user("Alice@Example.org")
	o.message(otherInbox, 1, len(body), o.file(other, body), "")
	o.exec("INSERT INTO quota (username, last_login_at) VALUES (?, 20), ('Alice@Example.org', 10)", alice)
	o.exec("UPDATE schema_version SET version = 9")

	u := o.open(alice)
	r := u.run()
	for name, reason := range map[string]string{
		alice + " INBOX 1": "its body is not", alice + " INBOX 2": "its body is not", alice + " INBOX 3": "cannot be unpacked", alice + " INBOX 4": "rot13",
		alice + " INBOX 5": "taken over, but", alice + " INBOX 6": "its body is not", alice + " INBOX 7": "cannot be unpacked", alice + " a//b": "empty",
		"stranger@example.org": "no such account", "not an address": "not an address", "Alice@Example.org": "another spelling",
	} {
		u.skipped(r, name, reason)
	}
	u.skipped(r, alice+" INBOX 5", "a flag that cannot be kept")
	u.skipped(r, "", "schema 9")
	v := u.view(alice, "INBOX")
	if v.Len() != 2 || v.At(0).UID != 5 || v.At(1).UID != 8 || v.UIDNext != 9 {
		t.Errorf("INBOX has %d messages, UIDNEXT %d", v.Len(), v.UIDNext)
	}
	if r.Messages != 2 {
		t.Errorf("%d messages", r.Messages)
	}
	accounts := 0
	if err := u.store.Accounts(t.Context(), func(address.Addr) error { accounts++; return nil }); err != nil || accounts != 1 {
		t.Errorf("%d accounts have mail, %v", accounts, err)
	}
	// An account that is made later gets its mail by another run.
	u.names["stranger@example.org"] = true
	if r := u.run(); r.Mailboxes != 1 || !r.Done {
		t.Errorf("another run: %+v", r)
	}
}

func TestMailThatCameMeanwhileIsKept(t *testing.T) {
	o := newOld(t)
	user, inbox := o.user(alice)
	body := []byte("Subject: ...\r\n\r\nold\r\n")
	for uid := range int64(3) {
		o.message(inbox, uid+1, len(body), o.file(user, body), "")
	}
	u := o.open(alice)
	for i := range 2 {
		w, err := u.store.NewBody(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "Subject: ...\r\n\r\nnew %d\r\n", i)
		b, err := w.Seal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.store.Deliver(t.Context(), []mailbox.Target{{Box: key(t, alice, "INBOX"), Flags: mailbox.Seen}}, b); err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	u.run()
	for range 2 {
		v := u.view(alice, "INBOX")
		if v.UIDValidity != 4000000001 || v.Len() != 5 || v.UIDNext != 6 {
			t.Fatalf("UIDVALIDITY %d, %d messages, UIDNEXT %d", v.UIDValidity, v.Len(), v.UIDNext)
		}
		if v.At(3).Flags != mailbox.Seen || !strings.Contains(u.body(alice, "INBOX", 4), "new 0") || !strings.Contains(u.body(alice, "INBOX", 5), "new 1") {
			t.Error("the new mail is not behind the old")
		}
		u.close()
		u = o.open(alice)
	}
}

func TestTheTablesAreTakenOverAndRowsHereWin(t *testing.T) {
	o := newOld(t)
	o.exec("INSERT INTO quota VALUES (?, 5000, 1600000000, 1600000001, 1600000002, 'tok'), ('__GLOBAL_DEFAULT__', 777, NULL, NULL, NULL, NULL), ('Bob@Example.org', 1, 0, 0, 9, NULL), ('bob@example.org', 2, 0, 0, 3, NULL)", alice)
	o.exec("INSERT INTO blocked_users VALUES ('bad@example.org', 'spam', '2024-05-06 07:08:09.123456789+02:00'), ('here@example.org', 'theirs', NULL)")
	o.exec("INSERT INTO registration_tokens VALUES ('t1', 5, 2, 'friends', NULL, '2024-01-02T03:04:05Z')")
	o.exec("INSERT INTO dns_overrides VALUES ('example.net', '192.0.2.1', 'why', NULL, NULL)")
	o.exec("INSERT INTO federation_rules (domain, created_at) VALUES ('blocked.example', 1600000000)")
	o.exec("INSERT INTO exchangers VALUES ('x', 'https://x.example', 0, 30, NULL, NULL, NULL)")
	o.exec("INSERT INTO message_stats VALUES ('outbound_messages', 12)")
	o.exec("INSERT INTO federation_server_stats VALUES ('peer.example', 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1600000000)")
	o.exec("INSERT INTO users (username, msgsizelimit) VALUES (?, 9000), ('bob@example.org', NULL)", alice)
	u := o.open()
	if err := u.db.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO blocked_users (username, reason) VALUES ('here@example.org', 'ours')")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	dry := u.options()
	dry.DryRun = true
	if r, err := Tables(t.Context(), dry); err != nil || r.Quotas != 3 {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	for i := range 2 {
		r, err := Tables(t.Context(), u.options())
		if err != nil {
			t.Fatal(err)
		}
		want := Report{Quotas: 3, AppendLimits: 1, Blocked: 1, Tokens: 1, Overrides: 1, Rules: 1, Exchangers: 1, Stats: 2, NotTaken: 1}
		if i == 1 {
			want = Report{}
		}
		r.Skipped = nil
		if fmt.Sprint(r) != fmt.Sprint(want) {
			t.Errorf("run %d: %+v, want %+v", i, r, want)
		}
	}
	for query, want := range map[string]string{
		"SELECT max_storage || ' ' || created_at || ' ' || first_login_at || ' ' || last_login_at || ' ' || used_token FROM quotas WHERE username = '" + alice + "'": "5000 1600000000 1600000001 1600000002 tok",
		"SELECT username || ' ' || bytes FROM append_limits":                                                                   alice + " 9000",
		"SELECT max_storage || '' FROM quotas WHERE username = '__GLOBAL_DEFAULT__'":                                           "777",
		"SELECT max_storage || '' FROM quotas WHERE username = 'bob@example.org'":                                              "1",
		"SELECT reason || ' ' || CAST(blocked_at AS TEXT) FROM blocked_users WHERE username = 'bad@example.org'":               "spam 2024-05-06 05:08:09",
		"SELECT reason FROM blocked_users WHERE username = 'here@example.org'":                                                 "ours",
		"SELECT max_uses || ' ' || used_count || ' ' || comment || ' ' || CAST(created_at AS TEXT) FROM registration_tokens":   "5 2 friends 2024-01-02 03:04:05",
		"SELECT target_host || ' ' || comment FROM dns_overrides WHERE lookup_key = 'example.net'":                             "192.0.2.1 why",
		"SELECT domain || ' ' || created_at FROM federation_rules":                                                             "blocked.example 1600000000",
		"SELECT url || ' ' || enabled || ' ' || poll_interval FROM exchangers":                                                 "https://x.example 0 30",
		"SELECT count || '' FROM message_stats WHERE name = 'outbound_messages'":                                               "12",
		"SELECT failed_http || ' ' || failed_https || ' ' || success_https || ' ' || last_active FROM federation_server_stats": "2 3 6 1600000000",
	} {
		var got string
		if err := u.db.Read(t.Context(), func(ctx context.Context, q *db.Q) error { return q.QueryRow(ctx, query, nil, []any{&got}) }); err != nil || got != want {
			t.Errorf("%s: %q, want %q, %v", query, got, want, err)
		}
	}
}

// small is a state with several users, mailboxes and forms of bodies.
func small(t testing.TB) (o *old, names []string) {
	o = newOld(t)
	for i := range 4 {
		name := fmt.Sprintf("user%d@example.org", i)
		names = append(names, name)
		user, inbox := o.user(name)
		chats := o.box(user, "DeltaChat", 900+uint32(i), 1, "")
		for uid := int64(1); uid <= 10; uid++ {
			body := fmt.Appendf(nil, "Subject: ...\r\n\r\n%s %d\r\n", name, uid)
			o.message(inbox, 3*uid, len(body), o.file(user, body), "", `\Seen`)
			o.message(chats, uid, len(body), o.file(user, packed(t, body)), "zstd")
		}
	}
	return o, names
}

// complete checks that everything of small is there, once.
func (u *ours) complete(names []string) {
	u.t.Helper()
	for i, name := range names {
		for box, step := range map[string]int{"INBOX": 3, "DeltaChat": 1} {
			v := u.view(name, box)
			if v.Len() != 10 {
				u.t.Fatalf("%s of %s has %d messages", box, name, v.Len())
			}
			if want := map[string]uint32{"INBOX": 4000000001 + uint32(i), "DeltaChat": 900 + uint32(i)}[box]; v.UIDValidity != want {
				u.t.Errorf("%s of %s has UIDVALIDITY %d, want %d", box, name, v.UIDValidity, want)
			}
			for n := range v.Len() {
				uid := mailbox.UID((n + 1) * step)
				if m := v.At(n); m.UID != uid || m.Flags != map[string]mailbox.Flags{"INBOX": mailbox.Seen}[box] {
					u.t.Errorf("%s of %s: message %d is %+v", box, name, n, m)
				}
				if got, want := u.body(name, box, uid), fmt.Sprintf("Subject: ...\r\n\r\n%s %d\r\n", name, n+1); got != want {
					u.t.Errorf("%s of %s: body %d is %q, want %q", box, name, uid, got, want)
				}
			}
		}
	}
	files := 0
	_ = filepath.WalkDir(filepath.Join(u.old.dir, "mail"), func(path string, d os.DirEntry, err error) error {
		if dir := filepath.Base(filepath.Dir(path)); err == nil && d.Type().IsRegular() && (dir == "new" || dir == "cur" || dir == "tmp") {
			files++
		}
		return nil
	})
	if files != len(names)*20 {
		u.t.Errorf("%d message files, want %d", files, len(names)*20)
	}
}

func TestAnImportThatIsStoppedGoesOnAndDoublesNothing(t *testing.T) {
	for stop := 1; stop <= 80; stop += 13 {
		t.Run(fmt.Sprint(stop), func(t *testing.T) {
			o, names := small(t)
			u := o.open(names...)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			opt := u.options()
			now, calls := time.Now(), 0
			opt.Now = func() time.Time { now = now.Add(time.Minute); return now }
			opt.Progress = func(Report) {
				if calls++; calls == stop {
					cancel()
				}
			}
			if _, err := Run(ctx, opt); !fault.Is(err, fault.Busy) {
				t.Fatalf("stopped: %v", err)
			}
			// A server that runs meanwhile finds files that no index names, and
			// gives them UIDs of its own.
			for _, n := range names {
				u.view(n, "INBOX")
			}
			u.close()
			u = o.open(names...)
			u.run()
			u.complete(names)
			u.close()
			u = o.open(names...)
			u.complete(names)
		})
	}
}

// killed is set in the process that is killed in the middle of an import.
const killed = "MADMAIL_TEST_IMPORT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killed); dir != "" {
		os.Exit(importForKill(dir))
	}
	os.Exit(m.Run())
}

// importForKill imports and says so after every message.
func importForKill(dir string) int {
	ctx := context.Background()
	d, err := db.Open(ctx, db.Options{StateDir: dir})
	if err != nil {
		return 3
	}
	s, err := maildir.Open(ctx, maildir.Options{Dir: dir})
	if err != nil {
		return 4
	}
	now := time.Now()
	_, err = Run(ctx, Options{DB: d, Store: s, StateDir: dir, Index: filepath.Join(dir, "imapsql.db"), Messages: filepath.Join(dir, "messages"),
		Exists: func(address.Addr) bool { return true }, Now: func() time.Time { now = now.Add(time.Minute); return now },
		Progress: func(r Report) { fmt.Println(r.Messages) }})
	if err != nil {
		return 5
	}
	fmt.Println("done")
	return 0
}

func TestAnImportThatIsKilledGoesOnAndDoublesNothing(t *testing.T) {
	for _, at := range []string{"1", "33", "79", "done"} {
		t.Run(at, func(t *testing.T) {
			o, names := small(t)
			c := exec.CommandContext(t.Context(), os.Args[0])
			c.Env = append(os.Environ(), killed+"="+o.dir)
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			reached := false
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if reached = lines.Text() == at; reached {
					break
				}
			}
			_ = c.Process.Kill()
			_ = c.Wait()
			if !reached {
				t.Fatalf("the import ended before message %s", at)
			}
			u := o.open(names...)
			u.run()
			u.complete(names)
		})
	}
}

func TestTooLittleRoomIsSaidBeforeAnythingIsWritten(t *testing.T) {
	o, names := small(t)
	u := o.open(names...)
	opt := u.options()
	opt.Free = func(string) (int64, bool) { return 1 << 20, true }
	if _, err := Run(t.Context(), opt); !fault.Is(err, fault.Full) {
		t.Errorf("error %v", err)
	}
	if list, err := os.ReadDir(filepath.Join(o.dir, "mail")); err != nil || len(list) != 0 {
		t.Errorf("mail/ has %d entries, %v", len(list), err)
	}
	opt.DryRun = true
	r, err := Run(t.Context(), opt)
	if err != nil || r.Messages != 80 || r.Mailboxes != 8 || r.Users != 4 {
		t.Errorf("dry run: %+v, %v", r, err)
	}
	if n, err := Waiting(t.Context(), opt); err != nil || n != 80 {
		t.Errorf("%d messages wait, %v", n, err)
	}
	if list, err := os.ReadDir(filepath.Join(o.dir, "mail")); err != nil || len(list) != 0 {
		t.Errorf("after a dry run mail/ has %d entries, %v", len(list), err)
	}
	opt.DryRun, opt.Free = false, func(string) (int64, bool) { return 1 << 40, true }
	if _, err := Run(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	u.complete(names)
	if n, err := Waiting(t.Context(), opt); err != nil || n != 0 {
		t.Errorf("%d messages wait, %v", n, err)
	}
}

func TestAnIndexThatIsNoneIsRefused(t *testing.T) {
	o := newOld(t)
	u := o.open()
	opt := u.options()
	opt.Index = filepath.Join(o.dir, "absent.db")
	if _, err := Run(t.Context(), opt); !fault.Is(err, fault.NotFound) {
		t.Errorf("absent: %v", err)
	}
	if _, err := os.Stat(opt.Index); !os.IsNotExist(err) {
		t.Error("it was made")
	}
	if err := os.WriteFile(opt.Index, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), opt); !fault.Is(err, fault.Invalid) {
		t.Errorf("no database: %v", err)
	}
	o.exec("DROP TABLE msgs")
	if _, err := Run(t.Context(), u.options()); !fault.Is(err, fault.Invalid) {
		t.Errorf("no table: %v", err)
	}
}

// TestSomebodyIsToldHowFarAnImportIs: at most once in a second, with numbers that rise.
func TestSomebodyIsToldHowFarAnImportIs(t *testing.T) {
	o, names := small(t)
	u := o.open(names...)
	opt := u.options()
	now := time.Unix(1_700_000_000, 0)
	opt.Now = func() time.Time { now = now.Add(600 * time.Millisecond); return now }
	var told []Report
	var at []time.Time
	opt.Progress = func(r Report) { told, at = append(told, r), append(at, now) }
	r, err := Run(t.Context(), opt)
	if err != nil || r.Messages == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(told) < 2 {
		t.Fatal(len(told), "reports")
	}
	for i := 1; i < len(told); i++ {
		if told[i].Messages < told[i-1].Messages || told[i].Messages > told[i].Total || at[i].Sub(at[i-1]) < time.Second {
			t.Errorf("%+v after %+v", told[i], told[i-1])
		}
	}
}

// Known failure A5: an upgrade from the first version drops all mail.
func TestAHundredThousandMessagesKeepTheirUIDs(t *testing.T) {
	const users, each = 20, 5000
	o := newOld(t)
	body := []byte("Subject: ...\r\n\r\nx\r\n")
	tx, err := o.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	insert, err := tx.Prepare("INSERT INTO msgs (mboxId, msgId, date, bodyLen, bodyStructure, cachedHeader, extBodyKey, seen) VALUES (?, ?, ?, ?, '', '', ?, ?)")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range int64(users) {
		name := fmt.Sprintf("user%d@example.org", i)
		names = append(names, name)
		if _, err := tx.Exec("INSERT INTO users (id, username, inboxId) VALUES (?, ?, ?)", i+1, name, i+1); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec("INSERT INTO mboxes (id, uid, name, sub, uidnext, uidvalidity) VALUES (?, ?, 'INBOX', 1, ?, ?)", i+1, i+1, 2*each+2, 1000+i); err != nil {
			t.Fatal(err)
		}
		k := o.file(i+1, body) // copies share their body
		for n := range int64(each) {
			if _, err := insert.Exec(i+1, 2*n+1, 1700000000+n, len(body), k, n%2); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	u := o.open(names...)
	if r := u.run(); r.Messages != users*each || r.Mailboxes != users || r.NotTaken != 0 {
		t.Fatalf("report %+v", r)
	}
	for i, name := range names {
		v := u.view(name, "INBOX")
		if v.Len() != each || v.UIDValidity != 1000+uint32(i) || v.UIDNext != 2*each+2 {
			t.Fatalf("%s: %d messages, UIDVALIDITY %d, UIDNEXT %d", name, v.Len(), v.UIDValidity, v.UIDNext)
		}
		for n := range v.Len() {
			if m := v.At(n); m.UID != mailbox.UID(2*n+1) || m.Internal != 1700000000+int64(n) || m.Flags != mailbox.Flags(n%2) {
				t.Fatalf("%s: message %d is %+v", name, n, m)
			}
		}
		if got := u.body(name, "INBOX", 2*each-1); got != string(body) {
			t.Errorf("%s: body %q", name, got)
		}
	}
}

func TestLZ4(t *testing.T) {
	for _, name := range []string{"linked", "independent", "checked"} {
		data, err := os.ReadFile("testdata/" + name + ".lz4")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(newLZ4(bytes.NewReader(data)))
		if err != nil || !bytes.Equal(got, long()) {
			t.Errorf("%s: %d octets, want %d, %v", name, len(got), len(long()), err)
		}
		for n := range len(data) - 8 { // of the end mark and the checksum
			if _, err := io.ReadAll(newLZ4(bytes.NewReader(data[:n]))); err == nil {
				t.Errorf("%s: %d octets of %d are read as a whole", name, n, len(data))
				break
			}
		}
	}
}

func FuzzLZ4(f *testing.F) {
	for _, seed := range []string{
		"\x04\x22\x4d\x18\x60\x40\x82\x05\x00\x00\x00\x1fa\x01\x00\xff\x00\x00\x00\x00\x00",                                                // literal and match
		"\x04\x22\x4d\x18\x40\x40\xc0\x04\x00\x00\x80abcd\x05\x00\x00\x00\x00\x04\x00\x10x\x00\x00\x00\x00",                                // a match in the block before
		"\x04\x22\x4d\x18\x7c\x40\x04\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x80abcd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", // lengths and checksums
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := io.Copy(io.Discard, newLZ4(bytes.NewReader(data)))
		// Each octet of a block stands for at most 255 of the message.
		if n > 256*int64(len(data))+64 {
			t.Errorf("%d octets of %d, %v", n, len(data), err)
		}
	})
}

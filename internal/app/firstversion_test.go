//go:build unix

package app

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"madmail/internal/account"
	"madmail/internal/fault"
	"madmail/internal/importer"
)

// firstVersion writes a state directory of the first version: an account with mail, a
// block and a rule.
func (h *house) firstVersion() {
	t, dir := h.t, h.dir
	t.Helper()
	hash, err := account.HashWith([]byte(h.target().Password), account.HashParams{Algorithm: "bcrypt", Cost: 4})
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("From: a@example.org\r\nSubject: kept\r\n\r\nold mail\r\n")
	if err := os.MkdirAll(filepath.Join(dir, "messages", "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "messages", "1", "abc"), body, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"credentials.db": `CREATE TABLE passwords (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL);
			INSERT INTO passwords VALUES ('alicealice@[127.0.0.1]', '` + hash + `'), ('__REGISTRATION_OPEN__', 'true');`,
		"imapsql.db": `CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, msgsizelimit INTEGER, inboxId INTEGER);
			CREATE TABLE mboxes (id INTEGER PRIMARY KEY, uid INTEGER, name TEXT, sub INTEGER, mark INTEGER, msgsizelimit INTEGER, uidnext INTEGER, uidvalidity INTEGER, specialuse TEXT, msgsCount INTEGER);
			CREATE TABLE msgs (mboxId INTEGER, msgId INTEGER, date INTEGER, bodyLen INTEGER, mark INTEGER, bodyStructure BLOB, cachedHeader BLOB, extBodyKey TEXT, seen INTEGER, compressAlgo TEXT, recent INTEGER);
			CREATE TABLE flags (mboxId INTEGER, msgId INTEGER, flag TEXT);
			CREATE TABLE quota (username TEXT PRIMARY KEY, max_storage INTEGER, created_at INTEGER, first_login_at INTEGER, last_login_at INTEGER, used_token TEXT);
			CREATE TABLE blocked_users (username TEXT PRIMARY KEY, reason TEXT, blocked_at DATETIME);
			INSERT INTO users VALUES (1, 'alicealice@[127.0.0.1]', NULL, 1);
			INSERT INTO mboxes VALUES (1, 1, 'INBOX', 1, 0, NULL, 18, 123456, NULL, 1);
			INSERT INTO msgs VALUES (1, 17, 1700000000, ` + fmt.Sprint(len(body)) + `, 0, '', '', '1/abc', 1, NULL, 0);
			INSERT INTO flags VALUES (1, 17, '\Seen');
			INSERT INTO quota VALUES ('alicealice@[127.0.0.1]', 12345678, 1600000000, 1600000000, 1600000001, NULL);
			INSERT INTO blocked_users VALUES ('mallory12@[127.0.0.1]', 'spam', NULL);`,
	} {
		d, err := sql.Open("sqlite", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Exec(script)
		if err = errors.Join(err, d.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAServerTakesOverTheFirstVersionByItself: what an operator who changes the binary
// sees, and the client that reads on. (Known failure A5.)
func TestAServerTakesOverTheFirstVersionByItself(t *testing.T) {
	h := newHouse(t)
	h.firstVersion()
	for range 2 {
		h.start()
		r := h.login("alicealice")
		if got := do(t, r, "SELECT INBOX"); !strings.Contains(got, "* 1 EXISTS") || !strings.Contains(got, "UIDVALIDITY 123456]") || !strings.Contains(got, "UIDNEXT 18]") {
			t.Errorf("SELECT: %s", got)
		}
		if got := do(t, r, "UID FETCH 17 (FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (SUBJECT)])"); !strings.Contains(got, `\Seen`) || !strings.Contains(got, "14-Nov-2023 22:13:20 +0000") || !strings.Contains(got, "RFC822.SIZE 48") {
			t.Errorf("FETCH: %s", got)
		}
		if got := do(t, r, "GETQUOTAROOT INBOX"); !strings.Contains(got, "STORAGE 1 12056") {
			t.Errorf("quota: %s", got)
		}
		if blocked := h.must("accounts.ban-list", "{}"); !strings.Contains(fmt.Sprint(blocked), "mallory12@[127.0.0.1]") {
			t.Errorf("blocked: %v", blocked)
		}
		if _, err := ImportV1(t.Context(), h.options(), false, nil); !errors.Is(err, ErrLocked) {
			t.Errorf("import-v1 beside a server: %v", err)
		}
		r.Close()
		h.stop()
	}
	r, err := ImportV1(t.Context(), h.options(), false, nil)
	if err != nil || !r.Done || r.Messages != 0 {
		t.Errorf("import-v1 afterwards: %+v, %v", r, err)
	}
}

// TestMuchMailOfTheFirstVersionWaitsForTheOperator: from 100,000 messages on a start does
// not make clients wait for the import; it takes the tables over and says what to do.
func TestMuchMailOfTheFirstVersionWaitsForTheOperator(t *testing.T) {
	h := newHouse(t)
	h.firstVersion()
	d, err := sql.Open("sqlite", filepath.Join(h.dir, "imapsql.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Exec(fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 18 UNION ALL SELECT i+1 FROM n WHERE i < %d)
		INSERT INTO msgs SELECT 1, i, 1700000000, 48, 0, '', '', '1/abc', 1, NULL, 0 FROM n`, 17+importAtStart-1))
	if err = errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	h.lines["log"] = fmt.Sprintf("%q", log)
	h.write()
	h.start()
	r := h.login("alicealice")
	if got := do(t, r, "SELECT INBOX"); !strings.Contains(got, "* 0 EXISTS") {
		t.Errorf("SELECT: %s", got)
	}
	if blocked := h.must("accounts.ban-list", "{}"); !strings.Contains(fmt.Sprint(blocked), "mallory12@[127.0.0.1]") {
		t.Errorf("blocked: %v", blocked)
	}
	r.Close()
	h.stop()
	text, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(text), "waits to be imported") || !strings.Contains(string(text), "madmail import-v1") || !strings.Contains(string(text), "100000") {
		t.Errorf("%s %v", text, err)
	}
	dry, err := ImportV1(t.Context(), h.options(), true, nil)
	if err != nil || dry.Messages != importAtStart {
		t.Errorf("%+v, %v", dry, err)
	}
}

func TestImportV1WorksWithoutAServer(t *testing.T) {
	h := newHouse(t)
	h.firstVersion()
	dry, err := ImportV1(t.Context(), h.options(), true, nil)
	if err != nil || dry.Messages != 1 || dry.Quotas != 1 || dry.Needed == 0 {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	r, err := ImportV1(t.Context(), h.options(), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Needed = dry.Needed; r.Users != 1 || r.Blocked != 1 || r.Quotas != 1 || r.Mailboxes != 1 || r.Messages != 1 || !slices.Equal(r.Skipped, []importer.Skipped{}) {
		t.Errorf("report %+v", r)
	}
	h.start()
	if got := do(t, h.login("alicealice"), "STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY)"); !strings.Contains(got, "MESSAGES 1 UIDNEXT 18 UIDVALIDITY 123456") {
		t.Errorf("STATUS: %s", got)
	}
}

// TestADumpIsTakenOverWithoutAServer: tables that lay in PostgreSQL, once.
func TestADumpIsTakenOverWithoutAServer(t *testing.T) {
	h := newHouse(t)
	h.lines["primary_domain"] = `"example.org"`
	h.write()
	dump, err := os.ReadFile("../importer/testdata/first.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ImportDump(t.Context(), h.options(), strings.NewReader("nothing"), nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("no dump: %v", err)
	}
	r, err := ImportDump(t.Context(), h.options(), strings.NewReader(string(dump)), nil)
	if err != nil || r.Users != 2 || r.Mailboxes != 5 || r.NotTaken != 1 { // its body is nowhere
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := ImportDump(t.Context(), h.options(), strings.NewReader(string(dump)), nil); !fault.Is(err, fault.Exists) {
		t.Errorf("again: %v", err)
	}
	h.start()
	if got := fmt.Sprint(h.must("accounts.list", "{}")); !strings.Contains(got, "alice@example.org") || !strings.Contains(got, "bob@example.org") {
		t.Errorf("accounts: %s", got)
	}
	h.says(map[string][]string{"exchangers.list": {"http://192.0.2.5/mxdeliv", "enabled:false"}, "tokens.list": {"t0ken", "2031-03-04"}, "accounts.ban-list": {"mallory@example.org"}})
}

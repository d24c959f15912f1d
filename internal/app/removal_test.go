//go:build unix

package app

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/test/load"
)

// fill makes an account by its first login and puts a message into its inbox.
func (h *house) fill(user string) (dir string) {
	h.t.Helper()
	h.login(user).Close()
	s, err := h.target().NewSender(user)
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Close()
	who := user + "@[127.0.0.1]"
	if _, err := s.Send([]string{who}, load.Message(who, 1500)); err != nil {
		h.t.Fatal(err)
	}
	if err := h.store.Settle(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	dir = filepath.Join(h.dir, "mail", who)
	if _, err := os.Stat(dir); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// TestAnInterruptedRemovalIsFinished: whatever ends a removal between the rows of
// an account and its mail, the next owner of the name finds nothing.
func TestAnInterruptedRemovalIsFinished(t *testing.T) {
	h := newHouse(t)
	h.start()
	dir := h.fill("somebody")
	kept := h.fill("somebody-else")
	h.stop()
	// As a crash after the transaction leaves it.
	d, err := sql.Open("sqlite", filepath.Join(h.dir, "credentials.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"DELETE FROM passwords WHERE username = 'somebody@[127.0.0.1]'", "DELETE FROM quotas WHERE username = 'somebody@[127.0.0.1]'",
		"INSERT INTO removals VALUES ('somebody@[127.0.0.1]', 1)",
	} {
		if _, err := d.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	h.start()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the mail is still there: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if got := h.accounts.Removals(); len(got) != 0 {
		t.Errorf("still to be removed: %v", got)
	}
	if got := do(t, h.login("somebody"), "STATUS INBOX (MESSAGES)"); !strings.Contains(got, "MESSAGES 0") {
		t.Errorf("the next owner of the name: %q", got)
	}
	// The same while the server runs, and without a command: a token that is used up
	// removes the account at its first login.
	h.must("accounts.create", `{"username":"newcomer","password":"Vq8sX2mLr5kTz7Wb9NcY3dJf"}`)
	newcomer := h.fill("newcomer")
	for _, s := range []string{
		"INSERT INTO registration_tokens (token, max_uses, used_count) VALUES ('t', 1, 1)",
		"UPDATE quotas SET first_login_at = 1, last_login_at = 0, used_token = 't' WHERE username = 'newcomer@[127.0.0.1]'",
	} {
		d, err := sql.Open("sqlite", filepath.Join(h.dir, "credentials.db"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Exec(s); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.accounts.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := h.target().Login("newcomer"); err == nil {
		r.Close()
		t.Error("logged in with a token that is used up")
	}
	if _, err := os.Stat(newcomer); !os.IsNotExist(err) {
		t.Errorf("the mail of the removed account is still there: %v", err)
	}
}

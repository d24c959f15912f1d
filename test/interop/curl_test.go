//go:build interop

package interop

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"madmail/test/load"
	"madmail/test/testserver"
)

// TestCurl submits, appends, lists, searches, fetches and deletes with curl.
func TestCurl(t *testing.T) {
	curl := tool(t, "curl", "curl")
	srv := testserver.New(t, "")
	alice, bob := account(t, srv, "alicealice"), account(t, srv, "bobbobbob")
	smtp, imap := fmt.Sprintf("smtps://127.0.0.1:%d", srv.SubmissionTLS), fmt.Sprintf("imaps://127.0.0.1:%d", srv.IMAPTLS)
	do := func(who string, args ...string) string {
		return run(t, "", curl, append([]string{"--silent", "--show-error", "--insecure", "--max-time", "30", "--user", who + ":" + password}, args...)...)
	}

	mail := filepath.Join(t.TempDir(), "mail.eml")
	text := strings.TrimSuffix(string(load.Message(alice, 5000)), ".\r\n")
	write(t, mail, text)
	do(alice, smtp+"/client.example", "--mail-from", alice, "--mail-rcpt", bob, "--upload-file", mail)

	if got := do(bob, imap+"/INBOX;UID=1"); !strings.HasSuffix(got, text) {
		t.Errorf("fetched %d octets, sent %d", len(got), len(text))
	}
	if got := do(bob, imap+"/INBOX;UID=1;SECTION=HEADER.FIELDS%20(SUBJECT)"); got != "Subject: [...]\r\n\r\n" {
		t.Errorf("%q", got)
	}
	do(bob, imap, "--request", "CREATE Notes")
	do(bob, imap+"/Notes", "--upload-file", mail)
	if got := do(bob, imap); !strings.Contains(got, `"/" "INBOX"`) || !strings.Contains(got, `"/" "Notes"`) {
		t.Errorf("list: %q", got)
	}
	if got := do(bob, imap+"/Notes?SUBJECT%20%5B...%5D"); got != "* SEARCH 1\r\n" {
		t.Errorf("search: %q", got)
	}
	do(bob, imap+"/INBOX", "--request", `STORE 1 +Flags \Deleted`)
	do(bob, imap+"/INBOX", "--request", "EXPUNGE")
	if got := do(bob, imap, "--request", "STATUS INBOX (MESSAGES UIDNEXT)"); got != "* STATUS \"INBOX\" (MESSAGES 0 UIDNEXT 2)\r\n" {
		t.Errorf("status: %q", got)
	}
}

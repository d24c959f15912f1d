package maildir

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"madmail/internal/mailbox"
)

// TestListingAMailboxOpensNoFile asks for the headers of 200 messages whose files
// were overwritten meanwhile: once they came while the store ran, once they were
// listed before.
func TestListingAMailboxOpensNoFile(t *testing.T) {
	const many = 200
	dir := t.TempDir()
	a := inbox(t, "a@x.org")
	head := func(i int) string { return fmt.Sprintf("Message-ID: <%d@x.org>\r\nSubject: [...]\r\n\r\n", i) }
	listed := func(s *Store) {
		t.Helper()
		if _, err := s.View(t.Context(), a); err != nil { // SELECT
			t.Fatal(err)
		}
		for i := range many {
			got, err := s.Head(t.Context(), a, mailbox.UID(i+1))
			if err != nil || string(got) != head(i) {
				t.Fatalf("header of message %d: %q, %v", i, got, err)
			}
		}
	}
	overwrite := func() {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "mail", "a@x.org", "Maildir", "new", "*"))
		if err != nil || len(files) != many {
			t.Fatal(len(files), err)
		}
		for _, f := range files {
			st, err := os.Stat(f)
			if err == nil {
				err = os.WriteFile(f, bytes.Repeat([]byte("x"), int(st.Size())), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	s := open(t, Options{Dir: dir})
	for i := range many {
		deliver(t, s, head(i)+"text\r\n", a)
	}
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := make(map[string][]byte)
	files, _ := filepath.Glob(filepath.Join(dir, "mail", "a@x.org", "Maildir", "new", "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		kept[f] = data
	}
	overwrite()
	listed(s)
	closeStore(t, s)
	for f, data := range kept {
		if err := os.WriteFile(f, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, Options{Dir: dir})
	listed(s)
	overwrite()
	listed(s)
}

//go:build interop

package interop

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/test/load"
	"madmail/test/testserver"
)

// TestMbsync synchronises a Maildir both ways with isync, several times: new
// messages, flags, deletions and folders from either side, and each time nothing
// is left for a second run.
func TestMbsync(t *testing.T) {
	mbsync := tool(t, "mbsync", "isync")
	srv := testserver.New(t, "")
	alice := account(t, srv, "alicealice")
	dir := t.TempDir()
	cert, rc, near := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "mbsyncrc"), filepath.Join(dir, "near")
	if err := os.Mkdir(near, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, cert, certificate(t, srv.IMAPTLS))
	write(t, rc, fmt.Sprintf(`IMAPAccount madmail
Host 127.0.0.1
Port %d
User %s
Pass %s
SSLType IMAPS
SystemCertificates no
CertificateFile %s

IMAPStore far
Account madmail

MaildirStore near
Path %s/
Inbox %s/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Remove Both
Expunge Both
SyncState *
`, srv.IMAPTLS, alice, password, cert, near, near))

	r, err := load.Target{IMAP: fmt.Sprintf("127.0.0.1:%d", srv.IMAPTLS), Domain: "[127.0.0.1]", Password: password}.Login("alicealice")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	do := func(format string, args ...any) []string {
		t.Helper()
		lines, err := r.Do(fmt.Sprintf(format, args...))
		if err != nil {
			t.Fatal(format, err)
		}
		return lines
	}
	sync := func() { t.Helper(); run(t, "", mbsync, "--config", rc, "--verbose", "all") }
	count := func(box string) int {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(near, box, "[cn]*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	// state is all there is on both sides.
	state := func() string {
		t.Helper()
		var b strings.Builder
		err := filepath.WalkDir(near, func(path string, e os.DirEntry, err error) error {
			if !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
				fmt.Fprintln(&b, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, box := range []string{"INBOX", "Local", `"R&AOQ-ume"`} {
			b.WriteString(do("STATUS %s (MESSAGES UIDNEXT UNSEEN HIGHESTMODSEQ)", box)[0] + "\n")
		}
		return b.String()
	}
	settled := func() {
		t.Helper()
		before := state()
		sync()
		if after := state(); after != before {
			t.Fatalf("a second run found something to do:\n%s\nthen\n%s", before, after)
		}
	}
	message := func(n int) string {
		text := strings.TrimSuffix(string(load.Message(alice, 2000)), ".\r\n")
		return strings.Replace(text, "04478418-", fmt.Sprintf("%08d-", n), 1)
	}
	appendTo := func(box string, n int) { m := message(n); do("APPEND %s {%d+}\r\n%s", box, len(m), m) }

	// Both sides have something new, in two folders each.
	do(`CREATE "R&AOQ-ume"`) // Räume, in modified UTF-7
	for n := range 5 {
		appendTo("INBOX", n)
		appendTo(`"R&AOQ-ume"`, 10+n)
	}
	for _, box := range []string{"INBOX", "Local"} {
		for _, sub := range []string{"new", "cur", "tmp"} {
			if err := os.MkdirAll(filepath.Join(near, box, sub), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 3 {
			write(t, filepath.Join(near, box, "cur", fmt.Sprintf("1764000000.%d_1.host:2,S", n)), strings.ReplaceAll(message(20+n), "\r\n", "\n"))
		}
	}
	sync()
	settled()
	if in, local, r := count("INBOX"), count("Local"), count("R&AOQ-ume"); in != 8 || local != 3 || r != 5 {
		t.Errorf("near: %d in INBOX, %d, %d", in, local, r)
	}
	if l := do("STATUS INBOX (MESSAGES UNSEEN)"); l[0] != `* STATUS "INBOX" (MESSAGES 8 UNSEEN 5)` {
		t.Error(l)
	}
	if l := do("STATUS Local (MESSAGES UNSEEN)"); l[0] != `* STATUS "Local" (MESSAGES 3 UNSEEN 0)` {
		t.Error(l)
	}

	// Flags from both sides, deletions from both sides. Near, the first three of
	// INBOX are its own, far the last three.
	do("SELECT INBOX")
	do(`UID STORE 1 +FLAGS (\Flagged)`)
	do(`UID STORE 2 +FLAGS (\Deleted)`)
	do("EXPUNGE")
	files, err := filepath.Glob(filepath.Join(near, "INBOX", "*", "*,U=3*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	base := filepath.Base(files[0])
	base, _, _ = strings.Cut(base, ":")
	if err := os.Rename(files[0], filepath.Join(near, "INBOX", "cur", base+":2,RS")); err != nil {
		t.Fatal(err)
	}
	files, err = filepath.Glob(filepath.Join(near, "INBOX", "*", "*,U=6*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	sync()
	settled()
	if flagged, err := filepath.Glob(filepath.Join(near, "INBOX", "cur", "*,U=4:2,F*")); err != nil || len(flagged) != 1 || count("INBOX") != 6 {
		t.Errorf("near: %d messages, flagged: %q, %v", count("INBOX"), flagged, err)
	}
	flags := strings.Join(do("UID FETCH 1:* (FLAGS)"), "\n")
	for _, want := range []string{`UID 1 FLAGS (\Flagged)`, `UID 8 FLAGS (\Answered \Seen)`} {
		if !strings.Contains(flags, want) {
			t.Errorf("%s is not in\n%s", want, flags)
		}
	}
	if strings.Contains(flags, "UID 2 ") || strings.Contains(flags, "UID 3 ") {
		t.Errorf("deleted messages are there:\n%s", flags)
	}
}

// certificate returns what the server shows, as PEM.
func certificate(t *testing.T, port int) string {
	t.Helper()
	c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ConnectionState().PeerCertificates[0].Raw}))
}

package admintoken

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"madmail/internal/fault"
)

// TestTheTokenFile is REQ-06.
func TestTheTokenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	first, created, err := Ensure(dir)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	data, err := os.ReadFile(path)
	if err != nil || !regexp.MustCompile(`^[0-9a-f]{64}\n$`).Match(data) {
		t.Errorf("%q, %v", data, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if again, created, err := Ensure(dir); again != first || created || err != nil {
		t.Error("the second start made another token")
	}
	old := strings.Repeat("aZ9_-", 8) + "abc" // 43 characters, as version 1 wrote them
	for content, kept := range map[string]bool{old: true, "": false, "short": false, strings.Repeat("x", 60) + "!": false, strings.Repeat("a", 200): false} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		token, created, err := Ensure(dir)
		if err != nil || created == kept || kept && token != content {
			t.Errorf("%q: token %q, created %v, %v", content, token, created, err)
		}
	}
	before, _ := Read(dir)
	after, err := Rotate(dir)
	if err != nil || after == before {
		t.Error("rotation kept the token", err)
	}
}

// TestTroubleIsNotANewToken: what cannot be read is not replaced, and what
// cannot be written is said.
func TestTroubleIsNotANewToken(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), dir) {
		t.Errorf("no file: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, FileName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, created, err := Ensure(dir); err == nil || created || fault.Is(err, fault.NotFound) {
		t.Errorf("a directory in its place: created %v, %v", created, err)
	}
	gone := filepath.Join(dir, "gone")
	if token, err := Rotate(gone); err == nil || token != "" {
		t.Errorf("no directory: %q, %v", token, err)
	}
	if token, _, err := Ensure(gone); err == nil || token != "" {
		t.Errorf("no directory: %q, %v", token, err)
	}
}

//go:build unix

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/internal/importer"
)

// TestAnImportOfAccountsSaysHowFarItIs: after each 500, to people and not to programs.
func TestAnImportOfAccountsSaysHowFarItIs(t *testing.T) {
	dir := t.TempDir()
	var rows []map[string]any
	for i := range 1200 {
		rows = append(rows, map[string]any{"username": fmt.Sprintf("user%04d@[127.0.0.1]", i), "hash": "sha256:c2FsdHNhbHQ=:" + strings.Repeat("A", 43) + "=", "append_limit": 5000})
	}
	raw, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "accounts.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, args := range [][]string{nil, {"--json"}} {
		state := filepath.Join(dir, fmt.Sprint("state", i))
		if err := os.Mkdir(state, 0o700); err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(dir, "chatmail.toml")
		if err := os.WriteFile(conf, []byte("primary_domain = \"127.0.0.1\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, said bytes.Buffer
		code := Main(append([]string{"accounts", "import", file, "--config", conf, "--state-dir", state}, args...), strings.NewReader(""), &out, &said)
		if code != 0 || !strings.Contains(out.String(), "1200") {
			t.Fatalf("%d %s %s", code, &out, &said)
		}
		want := "500 accounts are imported, 0 skipped so far\n1000 accounts are imported, 0 skipped so far\n"
		if args != nil {
			want = ""
		}
		if said.String() != want {
			t.Errorf("%q: %s", args, &said)
		}
		out.Reset()
		if code := Main([]string{"accounts", "export", "--full", "--config", conf, "--state-dir", state}, strings.NewReader(""), &out, &said); code != 0 || strings.Count(out.String(), `"append_limit": 5000`) != 1200 {
			t.Errorf("%d %s", code, &said)
		}
	}
}

// TestAnImportOfMailSaysHowFarItIs to people and not to programs.
func TestAnImportOfMailSaysHowFarItIs(t *testing.T) {
	for _, c := range []struct {
		json bool
		want string
	}{{false, "3 of 100000 messages, 2M\n"}, {true, ""}} {
		var said bytes.Buffer
		s := &shell{json: c.json, err: &said}
		s.importing(importer.Report{Messages: 3, Total: 100_000, Bytes: 2 << 20})
		if said.String() != c.want {
			t.Errorf("%q, want %q", &said, c.want)
		}
	}
}

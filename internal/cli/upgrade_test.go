//go:build unix

package cli

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestUpgradeLatest asks a release server on this machine, verifies, keeps and switches,
// below a directory; and says how far a long download is (operator specification 10.3).
func TestUpgradeLatest(t *testing.T) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	program := []byte("#!/bin/sh\necho madmail 3.1\nexit 0\n" + strings.Repeat("#"+strings.Repeat(" ", 1023), 9<<10))
	program = append(program, ed25519.Sign(key, program)...)
	broken := bytes.Clone(program)
	broken[len(broken)-1] ^= 1
	asset := "madmail-" + runtime.GOOS + "-" + runtime.GOARCH
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/list":
			fmt.Fprintf(w, `[{"tag_name":"v3.1","published_at":"2026-01-02T03:04:05Z","assets":[{"name":%q,"size":%d,"browser_download_url":"/new"}]}]`, asset, len(program))
		case "/new":
			w.Header().Set("Content-Length", fmt.Sprint(len(program)))
			_, _ = w.Write(program)
		case "/broken":
			_, _ = w.Write(broken)
		default:
			http.NotFound(w, r)
		}
	}))
	defer web.Close()
	root := t.TempDir()
	for _, name := range []string{"MADMAIL_INSTALL_ROOT", "MADMAIL_OPT_ROOT", "MADMAIL_RELEASE_URL", "MADMAIL_RELEASE_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("CHATMAIL_CONFIG", filepath.Join(root, "none.toml"))
	run := func(args ...string) (code int, out, said string) {
		var o, e bytes.Buffer
		code = Main(append(args, "--root", root), strings.NewReader(""), &o, &e)
		return code, o.String(), e.String()
	}
	// Nobody said where releases are: the error names what to set.
	for _, args := range [][]string{{"upgrade", "latest"}, {"versions", "list", "--remote"}} {
		if code, _, said := run(args...); code == 0 || !strings.Contains(said, "release_url") || !strings.Contains(said, "MADMAIL_RELEASE_URL") {
			t.Errorf("%q: %d %s", args, code, said)
		}
	}
	t.Setenv("MADMAIL_RELEASE_URL", web.URL+"/list")
	if code, _, said := run("upgrade", "latest"); code == 0 || !strings.Contains(said, "release_key") {
		t.Errorf("without a key: %d %s", code, said)
	}
	t.Setenv("MADMAIL_RELEASE_KEY", base64.StdEncoding.EncodeToString(pub))
	if code, _, said := run("upgrade", web.URL+"/broken"); code == 0 || !strings.Contains(said, "INVALID SIGNATURE") {
		t.Errorf("broken: %d %s", code, said)
	}
	remote := func() map[string]any {
		t.Helper()
		code, out, said := run("versions", "list", "--remote", "--json")
		var r struct {
			Data struct {
				Versions []map[string]any `json:"versions"`
			} `json:"data"`
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || len(r.Data.Versions) != 1 {
			t.Fatalf("%d %s %s", code, out, said)
		}
		return r.Data.Versions[0]
	}
	if v := remote(); v["version"] != "3.1" || v["source"] != "remote" || v["installed"] != false || v["remote_latest"] != true || v["asset"] != asset || v["asset_size"] != float64(len(program)) {
		t.Errorf("%v", v)
	}
	code, out, said := run("upgrade", "latest")
	if code != 0 || !strings.Contains(out, "Version 3.1 is in use.") || !strings.Contains(said, "Signature verification successful") || strings.Count(said, "Fetched ") != 2 {
		t.Errorf("%d %s %s", code, out, said)
	}
	if v := remote(); v["source"] != "both" || v["installed"] != true || v["active"] != true {
		t.Errorf("%v", v)
	}
	// A program without TLS and without a signature can be anybody's.
	if code, _, said := run("upgrade", web.URL+"/new", "--unsigned"); code == 0 || !strings.Contains(said, "without TLS") {
		t.Errorf("%d %s", code, said)
	}
}

//go:build linux

package requirements

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/test/testserver"
)

// get asks the site of a server, without following redirects.
func get(t *testing.T, s *testserver.Server, path string) (int, http.Header, string) {
	t.Helper()
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", s.HTTP, path))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(body)
}

// TestREQ17WithoutThePanelThePageSaysHowToBuildIt, when it is switched on; else there
// is no such page.
func TestREQ17WithoutThePanelThePageSaysHowToBuildIt(t *testing.T) {
	s := testserver.New(t, "")
	if code, _, body := get(t, s, "/admin"); code != 404 || strings.Contains(body, "build") {
		t.Errorf("switched off: %d %s", code, body)
	}
	s.Command("settings", "set", "admin_web_enabled", "true")
	for _, path := range []string{"/admin", "/admin/", "/admin/accounts"} {
		if code, _, body := get(t, s, path); code != 503 || !strings.Contains(body, "make build-with-admin-web") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, _, _ := get(t, s, "/administrator"); code != 404 {
		t.Error("a neighbour:", code)
	}
	s.Command("settings", "set", "admin_web_enabled", "false")
	if code, _, _ := get(t, s, "/admin"); code != 404 {
		t.Error("switched off again:", code)
	}
}

// tools makes a directory of programs: those of the system that are named, and
// scripts.
func tools(t *testing.T, scripts map[string]string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// npm is one that installs nothing and builds a page like the usual one.
const npm = `#!/bin/sh
[ "$1" = run ] || exit 0
mkdir -p build/_app/immutable
printf '<!doctype html><html><head><link rel="icon" href="/favicon.ico"></head><body><script>x = { base: "" }; import("/_app/immutable/start.js")</script></body></html>' >build/index.html
echo 'export {}' >build/_app/immutable/start.js
echo icon >build/favicon.ico
`

// TestREQ18ThePanelIsBuiltIn from its sources and served, with the types that browsers
// insist on; without bun and npm, and without sources, the target says what is missing.
func TestREQ18ThePanelIsBuiltIn(t *testing.T) {
	sources, built := t.TempDir(), filepath.Join(t.TempDir(), "build")
	make := func(path, from string) (string, error) {
		cmd := exec.Command("make", "-s", "-C", "../..", "build-admin-web", "ADMIN_WEB="+from)
		if path != "" {
			cmd = exec.Command("sh", "../../scripts/build-admin-web.sh", from, built)
			cmd.Env = []string{"PATH=" + path}
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := make("", sources); err == nil || !strings.Contains(out, "no sources") || !strings.Contains(out, "ADMIN_WEB=") {
		t.Errorf("without sources: %v %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(sources, "package.json"), []byte("{\n\t\"name\": \"panel\",\n\t\"version\": \"1.30.0\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	usual := []string{"sh", "mkdir", "find", "cp"}
	if out, err := make(tools(t, nil, usual...), sources); err == nil || !strings.Contains(out, "neither bun nor npm") {
		t.Errorf("without bun and npm: %v %s", err, out)
	}
	if out, err := make(tools(t, map[string]string{"npm": npm}, usual...), sources); err != nil {
		t.Fatalf("%v %s", err, out)
	}

	// What the page compares itself with; else it offers an update for ever, or never.
	if raw, err := os.ReadFile(filepath.Join(built, "version.json")); err != nil || string(raw) != "{\"version\":\"1.30.0\"}\n" {
		t.Errorf("version.json: %q, %v", raw, err)
	}

	// Embedded as the target does, without writing into the sources of the program.
	overlay := map[string]map[string]string{"Replace": {}}
	into, err := filepath.Abs("../../internal/adminui/build")
	if err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(built, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(built, path)
		overlay["Replace"][filepath.Join(into, rel)] = path
		return err
	}); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list, program := filepath.Join(t.TempDir(), "overlay.json"), filepath.Join(t.TempDir(), "madmail")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", list, "-o", program, "madmail/cmd/madmail")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("MADMAIL_BINARY", program)
	s := testserver.New(t, "")
	s.Command("settings", "set", "admin_web_enabled", "true")
	if code, h, _ := get(t, s, "/admin"); code != 308 || h.Get("Location") != "/admin/" {
		t.Errorf("%d %v", code, h)
	}
	code, h, body := get(t, s, "/admin/")
	if code != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/html") || !strings.Contains(body, `base: "/admin"`) || !strings.Contains(body, `import("/admin/_app/immutable/start.js")`) {
		t.Errorf("%d %v %s", code, h, body)
	}
	for path, want := range map[string]string{"/admin/_app/immutable/start.js": "text/javascript", "/admin/favicon.ico": "image/x-icon"} {
		if code, h, _ := get(t, s, path); code != 200 || h.Get("Content-Type") != want {
			t.Errorf("%s: %d %v", path, code, h)
		}
	}
	s.Command("settings", "set", "admin_web_path", "/quiet/place")
	if code, _, body := get(t, s, "/quiet/place/"); code != 200 || !strings.Contains(body, `base: "/quiet/place"`) {
		t.Errorf("another path: %d %s", code, body)
	}
	if code, _, _ := get(t, s, "/admin/"); code != 404 {
		t.Error("the path before:", code)
	}
}

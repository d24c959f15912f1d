//go:build unix

package app

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestASiteGivesWayToPathsOfOperators: the paths of admin API and page belong to these,
// wherever they are moved, and nobody else's file is there.
func TestASiteGivesWayToPathsOfOperators(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"index", "manage", "control", "news"} {
		if err := os.WriteFile(filepath.Join(dir, name+".html"), []byte("own "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := newHouse(t)
	h.lines["www_dir"] = "'" + dir + "'"
	h.write()
	h.start()
	get := func(path string) (int, string) {
		resp, err := http.Get(strings.TrimSuffix(h.URL(), "/") + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, path := range []string{"/", "/manage", "/control", "/news"} {
		if status, body := get(path); status != 200 || !strings.HasPrefix(body, "own ") {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	h.must("settings.set", `{"name":"admin_path","value":"/control"}`)
	h.must("settings.set", `{"name":"admin_web_path","value":"/manage"}`)
	for _, path := range []string{"/manage", "/manage/", "/control", "/control/"} {
		if _, body := get(path); strings.Contains(body, "own ") {
			t.Errorf("%s: %q", path, body)
		}
	}
	if _, body := get("/news"); body != "own news" {
		t.Errorf("/news: %q", body)
	}
	// A directory with the state in it is never shown, whatever the configuration says.
	if err := os.WriteFile(filepath.Join(h.dir, "index.html"), []byte("own state"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.lines["www_dir"] = "'" + h.dir + "'"
	h.write()
	h.must("reload", "{}")
	for _, path := range []string{"/", "/chatmail.toml", "/admin_token", "/news"} {
		if status, body := get(path); status != 500 || strings.Contains(body, "own state") || len(body) > 200 {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if found := h.must("doctor", `{"only":["site"]}`); !strings.Contains(fmt.Sprint(found), "holds the state directory") {
		t.Errorf("doctor: %v", found)
	}
}

//go:build linux

package requirements

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/test/testserver"
)

// shareWith sends a form or JSON to /share.
func shareWith(t *testing.T, s *testserver.Server, typ, accept, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("POST", fmt.Sprintf("http://127.0.0.1:%d/share", s.HTTP), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", typ)
	req.Header.Set("Accept", accept)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(got)
}

// TestContactPagesOfTheProgram: an operator switches them on over the links of the first
// version, visitors make more in every encoding (#94), the command line and the pages show
// the same, and a copy of the state has them all.
func TestContactPagesOfTheProgram(t *testing.T) {
	s := testserver.New(t, "log = \"stderr\"\n")
	s.Stop()
	d, err := sql.Open("sqlite", filepath.Join(s.Dir, "sharing.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Exec("CREATE TABLE `contacts` (`slug` text,`url` text NOT NULL,`name` text,`created_at` datetime,PRIMARY KEY (`slug`)); INSERT INTO contacts VALUES ('former', 'openpgp4fpr:AAAA', 'Former', '2024-05-01 10:00:00.5+00:00')"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s.Start()
	const form, invite = "application/x-www-form-urlencoded", "https://i.delta.chat/#0123456789ABCDEF0123456789ABCDEF01234567&i=abc&s=def&a=alice%40example.org"
	coded := "url=" + strings.NewReplacer("%", "%25", "&", "%26", "#", "%23").Replace(invite)
	for _, path := range []string{"/share", "/former"} {
		if status, _, _ := get(t, s, path); status != 404 {
			t.Errorf("%s while it is off: %d", path, status)
		}
	}
	if status, _ := shareWith(t, s, form, "", coded); status != 404 {
		t.Errorf("a page while it is off: %d", status)
	}
	s.Command("settings", "set", "contact_sharing_enabled", "true")
	var multi bytes.Buffer
	m := multipart.NewWriter(&multi)
	for _, f := range [][2]string{{"url", invite}, {"name", "By multipart"}, {"slug", "multi"}} {
		if err := m.WriteField(f[0], f[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ typ, body string }{
		{form, coded + "&slug=coded&name=By+form"}, {m.FormDataContentType(), multi.String()}, {"application/json", `{"url":"` + invite + `","slug":"json","name":"By JSON"}`},
	} {
		status, body := shareWith(t, s, x.typ, "application/json", x.body)
		var got struct{ Slug, URL, Name string }
		if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || !strings.HasPrefix(got.URL, "openpgp4fpr:0123456789ABCDEF0123456789ABCDEF01234567#i=abc&") || got.Slug == "" || !strings.HasPrefix(got.Name, "By ") {
			t.Errorf("%s: %d %s", x.typ, status, body)
		}
	}
	for slug, name := range map[string]string{"former": "Former", "coded": "By form", "multi": "By multipart", "json": "By JSON"} {
		status, h, body := get(t, s, "/"+slug)
		if status != 200 || h.Get("X-Robots-Tag") != "noindex" || !strings.Contains(body, "<h1>"+name+"</h1>") {
			t.Errorf("%s: %d %v %s", slug, status, h, body)
		}
	}
	s.Command("language", "set", "es")
	if status, body := shareWith(t, s, form, "", "url=x"); status != 400 || !strings.Contains(body, "no es un enlace de invitación") {
		t.Errorf("a refusal in the language of the page: %d %s", status, body)
	}
	for _, slug := range []string{"multi", "Multi", "madmail", "webimap"} {
		if status, body := shareWith(t, s, form, "", coded+"&slug="+slug); status != 400 || body == "" {
			t.Errorf("%s: %d %s", slug, status, body)
		}
	}
	s.Command("sharing", "remove", "multi")
	if status, _, _ := get(t, s, "/multi"); status != 404 {
		t.Errorf("a page that was removed: %d", status)
	}
	if links := data(t, s, "sharing", "list")["entries"].([]any); len(links) != 3 {
		t.Errorf("%v", links)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	s.Command("backup", copied)
	s.Stop()
	back, err := sql.Open("sqlite", filepath.Join(copied, "sharing.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	var n int
	if err := back.QueryRow("SELECT count(*) FROM contacts WHERE slug IN ('former', 'coded', 'json')").Scan(&n); err != nil || n != 3 {
		t.Errorf("the copy has %d links: %v", n, err)
	}
	if info, err := os.Stat(filepath.Join(s.Dir, "sharing.db")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if out := s.Output(); strings.Contains(out, "alice") || strings.Contains(out, "0123456789ABCDEF") || strings.Contains(out, "By form") {
		t.Errorf("an invite is in the log:\n%s", out)
	}
}

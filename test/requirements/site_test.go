//go:build linux

package requirements

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/test/testserver"
)

// visit asks a server for a page and returns status, body and header.
func visit(t *testing.T, c *http.Client, url string) (int, string, http.Header) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// TestAnOperatorsOwnSite from the first export to a typing error, on the running server
// (decisions H06 and H15, known-failures.md 73 and 74).
func TestAnOperatorsOwnSite(t *testing.T) {
	s := testserver.New(t, "# my own words\nlog = \"stderr\"\n")
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer c.CloseIdleConnections()
	plain, secure := fmt.Sprintf("http://127.0.0.1:%d", s.HTTP), fmt.Sprintf("https://127.0.0.1:%d", s.HTTPS)
	dir := filepath.Join(t.TempDir(), "site")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(s.Dir, "chatmail.toml")
	before, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	_, builtIn, _ := visit(t, c, plain+"/")
	s.Command("html-export", dir)
	if out := s.Command("html-serve", dir); !strings.Contains(out, "in effect") {
		t.Errorf("html-serve: %s", out)
	}
	if _, body, _ := visit(t, c, secure+"/"); body != builtIn {
		t.Errorf("what was exported shows something else: %q", body)
	}
	write("index.html", "<p>{{.MailDomain}} {{if not .RegistrationOpen}}closed{{else}}open{{end}}</p><style>@media{#a{}}</style>")
	write("info.html", "<p>{{ MailDomain|clean_domain }} {% if RegistrationOpen %}{{ Nobody }}open{% endif %} سلام</p>")
	for path, want := range map[string]string{"/": "<p>[127.0.0.1] open</p><style>@media{#a{}}</style>", "/info": "<p>127.0.0.1 open سلام</p>"} {
		for _, base := range []string{plain, secure} {
			for range 2 {
				if status, body, h := visit(t, c, base+path); status != 200 || body != want || h.Get("Cache-Control") != "no-cache" {
					t.Errorf("%s: %d %q %v", base+path, status, body, h)
				}
			}
		}
	}
	// What pages of earlier versions make login links of.
	write("link.html", `{{.ClientHost}} {{.PublicIP}} {{.MXDomain}} {{.WebDomain}} {{.ImapPortTLS}} {{.ImapPortStartTLS}} {{.SmtpPortTLS}} {{.SmtpPortStartTLS}} {{.DcloginImapSecurity}} {{.DcloginSmtpSecurity}} {{.JitRegistrationEnabled}} {{.TurnOffTLS}} {{.MessageRetentionLine}}`)
	want := fmt.Sprintf("127.0.0.1 127.0.0.1 [127.0.0.1] [127.0.0.1] %d %d %d %d default default true false Messages are removed when they are 30 days old.", s.IMAPTLS, s.IMAP, s.SubmissionTLS, s.Submission)
	if _, body, _ := visit(t, c, plain+"/link"); body != want {
		t.Errorf("%q, want %q", body, want)
	}
	// The settings of the moment count.
	s.Command("registration", "close")
	if _, body, _ := visit(t, c, plain+"/"); !strings.Contains(body, "closed") {
		t.Errorf("registration is closed, and the page says %q", body)
	}
	// A typing error is the operator's to see.
	write("info.html", "<p>\n{% if RegistrationOpen %}")
	if status, body, _ := visit(t, c, plain+"/info"); status != 500 || strings.Contains(body, "info.html") {
		t.Errorf("%d %q", status, body)
	}
	if !s.Says("file=info.html line=2") {
		t.Errorf("the log does not name the file: %s", s.Output())
	}
	if out := s.Command("html-serve", dir); !strings.Contains(out, "info.html:2: ") {
		t.Errorf("html-serve does not warn: %s", out)
	}
	// Routes of the program cannot be taken; nothing outside is shown.
	write("new.html", "stolen")
	write("mxdeliv.html", "stolen")
	if err := os.Symlink(config, filepath.Join(dir, "config.txt")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/mxdeliv", "/mxdeliv/", "/api/admin", "/.well-known/mta-sts.txt", "/config.txt", "/..%2fchatmail.toml", "/%2e%2e/chatmail.toml"} {
		if status, body, _ := visit(t, c, plain+path); status == 200 && path != "/api/admin" || strings.Contains(body, "stolen") || strings.Contains(body, "listen") {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
	if status, body, _ := visit(t, c, plain+"/qr?data=x"); status != 200 || !strings.HasPrefix(body, "\x89PNG") {
		t.Errorf("/qr: %d", status)
	}
	// Strict leaves out what is built in.
	if err := os.Remove(filepath.Join(dir, "main.css")); err != nil {
		t.Fatal(err)
	}
	if status, _, h := visit(t, c, plain+"/main.css"); status != 200 || h.Get("Cache-Control") != "public, max-age=86400" || h.Get("ETag") == "" {
		t.Errorf("a file that is not there: %d %v", status, h)
	}
	s.Command("html-serve", dir, "--strict")
	if status, _, _ := visit(t, c, plain+"/main.css"); status != 404 {
		t.Errorf("strict: %d", status)
	}
	// It lasts, and goes without a trace.
	s.Stop()
	if n := strings.Count(s.Output(), "Nobody"); n != 1 {
		t.Errorf("an unknown variable was logged %d times", n)
	}
	s.Start()
	if _, body, _ := visit(t, c, plain+"/"); !strings.Contains(body, "[127.0.0.1] closed") {
		t.Errorf("after a restart: %q", body)
	}
	s.Command("html-serve", "embedded")
	if status, body, _ := visit(t, c, plain+"/main.css"); status != 200 || body == "" {
		t.Errorf("embedded: %d", status)
	}
	if after, err := os.ReadFile(config); err != nil || string(after) != string(before) {
		t.Errorf("%v: the configuration became\n%s\nand was\n%s", err, after, before)
	}
}

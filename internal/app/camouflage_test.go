//go:build unix

package app

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNothingShowsUnderCamouflage: contract of HTTP 7.3; switched by a reload.
func TestNothingShowsUnderCamouflage(t *testing.T) {
	h := newHouse(t)
	h.start()
	get := func(path string) string {
		t.Helper()
		_, got, _, _ := request(t, h.ports["http_tls"], true, "GET "+path+" HTTP/1.1\nHost: first.example.org")
		return got
	}
	none := get("/nothing")
	hidden := []string{"/", "/index.html", "/main.css", "/qr?data=x", "/new", "/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml", "/madmail"}
	for _, path := range hidden[:4] {
		if resp, _, _, _ := request(t, h.ports["http_tls"], true, "GET "+path+" HTTP/1.1\nHost: first.example.org"); resp.StatusCode == 404 {
			t.Errorf("without camouflage %s: %s", path, resp.Status)
		}
	}
	h.lines["camouflage"] = "true"
	h.write()
	h.must("reload", "")
	for _, path := range hidden {
		if got := get(path); got != none {
			t.Errorf("%s: %s, want %s", path, got, none)
		}
	}
	for _, x := range [][2]string{{"GET /new?token=x", "403"}, {"POST /mxdeliv", "4"}, {"POST /api/admin", "200"}} {
		resp, got, _, _ := request(t, h.ports["http_tls"], true, x[0]+" HTTP/1.1\nHost: first.example.org\nContent-Length: 0")
		if !strings.HasPrefix(resp.Status, x[1]) || got == none {
			t.Errorf("%s: %s", x[0], resp.Status)
		}
	}
	h.lines["camouflage"] = "false"
	h.write()
	h.must("reload", "")
	if resp, _, _, _ := request(t, h.ports["http_tls"], true, "GET / HTTP/1.1\nHost: first.example.org"); resp.StatusCode != 200 {
		t.Errorf("switched off again: %s", resp.Status)
	}
}

// TestTheProgramIsOfferedUnlessSwitchedOff: contract of HTTP 3.7.
func TestTheProgramIsOfferedUnlessSwitchedOff(t *testing.T) {
	h := newHouse(t)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("program"), 1000)
	text = append(text, ed25519.Sign(private, text)...)
	opt := h.options()
	opt.Program, opt.ReleaseKey = filepath.Join(h.dir, "relay"), public
	if err := os.WriteFile(opt.Program, text, 0o700); err != nil {
		t.Fatal(err)
	}
	if h.App, err = New(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	resp, _, _, _ := request(t, h.ports["http_tls"], true, "GET /madmail HTTP/1.1\nHost: first.example.org\nConnection: close")
	if got, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, text) {
		t.Errorf("%s, %d octets, %v", resp.Status, len(got), err)
	}
	h.lines["serve_binary"] = "false"
	h.write()
	h.must("reload", "")
	if resp, _, _, _ := request(t, h.ports["http_tls"], true, "GET /madmail HTTP/1.1\nHost: first.example.org"); resp.StatusCode != 404 {
		t.Errorf("switched off: %s", resp.Status)
	}
}

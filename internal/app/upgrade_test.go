//go:build unix

package app

import (
	"crypto/ed25519"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"madmail/internal/fault"
	"madmail/internal/setup"
)

// TestAServerTakesAnotherVersion: fetched, verified, kept, and a restart asked for; what
// nobody vouches for changes nothing (thread #34).
func TestAServerTakesAnotherVersion(t *testing.T) {
	h := newHouse(t)
	h.start()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	program := []byte("#!/bin/sh\necho madmail 9.1\nexit 0\n")
	signed := append(program[:len(program):len(program)], ed25519.Sign(key, program)...)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/signed" {
			_, _ = w.Write(signed)
			return
		}
		_, _ = w.Write(program)
	}))
	defer web.Close()
	dir := t.TempDir()
	tree := setup.Tree{System: setup.System{Now: time.Now}, Name: "madmail", Dir: filepath.Join(dir, "opt"), Link: filepath.Join(dir, "bin", "madmail"), Key: pub}
	if _, err := h.App.upgradeIn(t.Context(), tree, setup.Releases{}, web.URL+"/unsigned"); !fault.Is(err, fault.Refused) || tree.Current() != "" {
		t.Errorf("%v, %q", err, tree.Current())
	}
	r, err := h.App.upgradeIn(t.Context(), tree, setup.Releases{}, web.URL+"/signed")
	if err != nil || r.Version != "9.1" || r.Status != "restarting" || !r.SignatureOK {
		t.Fatalf("%+v, %v", r, err)
	}
	<-h.App.Restart()
	if _, err := os.Stat(tree.Link); err != nil || tree.Current() != "9.1" {
		t.Error(err, tree.Current())
	}
}

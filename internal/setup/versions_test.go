package setup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/fault"
)

// script is a program that says its version.
func script(version string) []byte {
	return []byte("#!/bin/sh\necho madmail " + version + "\nexit 0\n")
}

func sign(key ed25519.PrivateKey, program []byte) []byte {
	return append(slices.Clone(program), ed25519.Sign(key, program)...)
}

func newTree(t *testing.T) (Tree, ed25519.PrivateKey, *[]string) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	words := &[]string{}
	return Tree{
		System: System{Now: func() time.Time { now = now.Add(time.Hour); return now }},
		Name:   "madmail", Dir: filepath.Join(dir, "opt"), Link: filepath.Join(dir, "bin", "madmail"), Key: pub,
		Service: func(_ context.Context, word string) error { *words = append(*words, word); return nil },
	}, key, words
}

func says(t *testing.T, path string) string {
	t.Helper()
	id, err := preflight(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestAnUpgradeSwitchesAndTheOldOneStays: operator specification 10.3; the program is
// executable, and the one before it is not overwritten (known-failures B72).
func TestAnUpgradeSwitchesAndTheOldOneStays(t *testing.T) {
	tree, key, words := newTree(t)
	if err := errors.Join(os.MkdirAll(filepath.Dir(tree.Link), 0o755), os.WriteFile(tree.Link, script("0.9"), 0o755)); err != nil {
		t.Fatal(err)
	}
	v, err := tree.Add(t.Context(), sign(key, script("1.0")), "file", "", false)
	if err != nil || v.Version != "1.0" || !v.Meta.SignatureOK {
		t.Fatalf("%+v, %v", v, err)
	}
	s, err := tree.Use(t.Context(), v.Version)
	if err != nil || s.Previous != "0.9" || !s.SignatureOK || says(t, tree.Link) != "1.0" || !slices.Equal(*words, []string{"stop", "start"}) {
		t.Fatalf("%+v, %v, %q", s, err, *words)
	}
	if s, err = tree.Use(t.Context(), "0.9"); err != nil || s.Previous != "1.0" || s.SignatureOK || says(t, tree.Link) != "0.9" {
		t.Fatalf("back: %+v, %v", s, err)
	}
	// The same once more is the same; another build of the version stands beside it.
	if v, err = tree.Add(t.Context(), sign(key, script("1.0")), "file", "", false); err != nil || v.Version != "1.0" {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err = tree.Add(t.Context(), sign(key, append(script("1.0"), "# other\n"...)), "file", "", false); err != nil || !strings.HasPrefix(v.Version, "1.0+") {
		t.Errorf("%+v, %v", v, err)
	}
	list, err := tree.List()
	if err != nil || len(list) != 3 || !slices.ContainsFunc(list, func(v Version) bool { return v.Version == "0.9" && v.Active }) {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := tree.Remove("0.9"); !fault.Is(err, fault.Refused) {
		t.Errorf("the version in use: %v", err)
	}
	removed, err := tree.Prune(1)
	if err != nil || len(removed) != 1 || removed[0] != "1.0" || tree.Current() != "0.9" {
		t.Errorf("%q, %v", removed, err)
	}
}

// TestAVersionThatDoesNotStartIsTakenBack: the one before runs again.
func TestAVersionThatDoesNotStartIsTakenBack(t *testing.T) {
	tree, key, _ := newTree(t)
	for _, id := range []string{"1.0", "2.0"} {
		if _, err := tree.Add(t.Context(), sign(key, script(id)), "file", "", false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tree.Use(t.Context(), "1.0"); err != nil {
		t.Fatal(err)
	}
	starts := 0
	tree.Service = func(_ context.Context, word string) error {
		if word == "start" {
			if starts++; starts == 1 {
				return errors.New("not ready")
			}
		}
		return nil
	}
	s, err := tree.Use(t.Context(), "2.0")
	if err == nil || !s.RolledBack || starts != 2 || tree.Current() != "1.0" || says(t, tree.Link) != "1.0" {
		t.Errorf("%+v, %v, %d starts, now %s", s, err, starts, tree.Current())
	}
	if !strings.Contains(err.Error(), "1.0 runs again") {
		t.Error(err)
	}
	// Nor does the one before: that is not hidden.
	tree.Service = func(_ context.Context, word string) error {
		if word == "start" {
			return errors.New("not ready")
		}
		return nil
	}
	if s, err = tree.Use(t.Context(), "2.0"); err == nil || !s.RolledBack || strings.Contains(err.Error(), "runs again") || !strings.Contains(fault.HintOf(err), "systemctl status") {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestNothingChangesForAProgramThatIsNotOurs: a bad signature, one that does not run,
// what is no program, names that lead elsewhere.
func TestNothingChangesForAProgramThatIsNotOurs(t *testing.T) {
	tree, key, words := newTree(t)
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	ran := filepath.Join(t.TempDir(), "ran")
	spy := []byte("#!/bin/sh\ntouch " + ran + "\necho madmail 1.0\nexit 0\n")
	broken := sign(key, spy)
	broken[20] ^= 1
	for name, data := range map[string][]byte{
		"another key": sign(other, spy), "no signature": spy, "changed": broken, "nothing": nil, "a signature alone": make([]byte, 64),
	} {
		if _, err := tree.Add(t.Context(), data, "file", "", false); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "INVALID SIGNATURE") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program that nobody vouches for was run")
	}
	for name, text := range map[string]string{"fails": "#!/bin/sh\nexit 1\n", "another program": "#!/bin/sh\necho hello\nexit 0\n", "leads elsewhere": "#!/bin/sh\necho madmail ../../etc\nexit 0\n", "no program": "text\n"} {
		if _, err := tree.Add(t.Context(), sign(key, []byte(text)), "file", "", false); !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unknown := tree
	unknown.Key = nil
	if _, err := unknown.Add(t.Context(), spy, "file", "", false); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "knows no key") {
		t.Errorf("%v", err)
	}
	left, err := os.ReadDir(tree.versions())
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 || len(*words) > 0 {
		t.Errorf("%v, %v, %q", left, err, *words)
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a b", strings.Repeat("1", 101)} {
		if _, err := tree.Use(t.Context(), id); err == nil {
			t.Errorf("%q is used", id)
		}
		if err := tree.Remove(id); err == nil {
			t.Errorf("%q is removed", id)
		}
	}
	// What was changed on disk after it was taken is not run.
	v, err := tree.Add(t.Context(), sign(key, script("1.0")), "file", "", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.Binary, script("1.0"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Use(t.Context(), "1.0"); !errors.Is(err, ErrSignature) || len(*words) > 0 {
		t.Errorf("%v, %q", err, *words)
	}
}

// TestTheWayBackToTheSecondVersion: what its upgrades left in the tree, without a sum and
// signed by somebody else, can be used again.
func TestTheWayBackToTheSecondVersion(t *testing.T) {
	tree, key, words := newTree(t)
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tree.versions(), "2.23.0")
	err = errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(filepath.Dir(tree.Link), 0o755),
		os.WriteFile(filepath.Join(dir, tree.Name), sign(other, script("2.23.0")), 0o755),
		os.WriteFile(filepath.Join(dir, "meta.json"), []byte(`{"version":"2.23.0","installed_at":"1767225600","source":"upgrade","os":"linux","signature_ok":true}`), 0o644),
		os.Symlink(dir, filepath.Join(tree.Dir, "current")), os.Symlink(filepath.Join(dir, tree.Name), tree.Link))
	if err != nil {
		t.Fatal(err)
	}
	v, err := tree.Add(t.Context(), sign(key, script("3.0")), "file", "", false)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := tree.Use(t.Context(), v.Version); err != nil || s.Previous != "2.23.0" || says(t, tree.Link) != "3.0" {
		t.Fatalf("%+v, %v", s, err)
	}
	*words = nil
	s, err := tree.Use(t.Context(), "2.23.0")
	if err != nil || s.Previous != "3.0" || s.SignatureOK || says(t, tree.Link) != "2.23.0" || !slices.Equal(*words, []string{"stop", "start"}) {
		t.Errorf("%+v, %v, %q", s, err, *words)
	}
}

func archive(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestArchivesAndAddresses: one program in a .tar.gz; https whose certificate holds.
func TestArchivesAndAddresses(t *testing.T) {
	tree, key, _ := newTree(t)
	good := archive(t, map[string][]byte{"madmail": sign(key, script("1.0"))})
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/good" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(good)
	}))
	web.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake that is refused
	web.StartTLS()
	defer web.Close()
	if _, _, _, err := Fetch(t.Context(), web.URL+"/good", false, nil); err == nil {
		t.Error("any certificate is taken")
	}
	if _, _, _, err := Fetch(t.Context(), web.URL+"/none", true, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("%v", err)
	}
	data, source, plain, err := Fetch(t.Context(), web.URL+"/good", true, nil)
	if err != nil || source != "url" || plain {
		t.Fatalf("%s, %v", source, err)
	}
	v, err := tree.Add(t.Context(), data, source, web.URL+"/good", false)
	if err != nil || v.Version != "1.0" || v.Meta.SourceURL != web.URL+"/good" {
		t.Fatalf("%+v, %v", v, err)
	}
	for name, data := range map[string][]byte{
		"two programs": archive(t, map[string][]byte{"a": []byte("1"), "b": []byte("2")}), "none": archive(t, nil), "half": good[:len(good)/2], "zip": []byte("PK\x03\x04rest"), "xz": []byte("\xfd7zXZ"),
	} {
		if _, err := tree.Add(t.Context(), data, "file", "", true); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := limited(zeros{}); !fault.Is(err, fault.TooBig) {
		t.Errorf("%v", err)
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

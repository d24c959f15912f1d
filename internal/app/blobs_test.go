//go:build unix

package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBlobsThatNobodyLinksToGo is known failure B29: shared bodies were never collected.
func TestBlobsThatNobodyLinksToGo(t *testing.T) {
	h := newHouse(t)
	blobs := filepath.Join(h.dir, "blobs")
	name := func(c string) string { return filepath.Join(blobs, c+c, strings.Repeat(c, 64)) }
	h.start()
	if d := h.must("tasks.run", `{"task":"gc-blobs"}`); d["skipped"] != true {
		t.Errorf("without a directory: %v", d)
	}
	old := time.Now().Add(-2 * blobAge)
	for _, c := range []string{"a", "b", "c", "d"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name(c)), 0o700), os.WriteFile(name(c), []byte("body"), 0o600), os.Chtimes(name(c), old, old)); err != nil {
			t.Fatal(err)
		}
	}
	mail := filepath.Join(h.dir, "mail", "held")
	odd := filepath.Join(blobs, "aa", "notes.txt")
	now := time.Now()
	if err := errors.Join(os.MkdirAll(filepath.Dir(mail), 0o700), os.Link(name("b"), mail), os.Chtimes(name("c"), now, now), os.WriteFile(odd, nil, 0o600), os.Chtimes(odd, old, old)); err != nil {
		t.Fatal(err)
	}
	if d := h.must("tasks.run", `{"task":"gc-blobs"}`); d["skipped"] != false || d["deleted"] != 2.0 {
		t.Errorf("%v", d)
	}
	for path, stays := range map[string]bool{name("a"): false, name("b"): true, name("c"): true, name("d"): false, mail: true, odd: true} {
		if _, err := os.Stat(path); (err == nil) != stays {
			t.Errorf("%s: %v", path, err)
		}
	}
}

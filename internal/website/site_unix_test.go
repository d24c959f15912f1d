//go:build unix

package website

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestPipesAndDirectoriesDoNotHang: opening a pipe waits for somebody who writes.
func TestPipesAndDirectoriesDoNotHang(t *testing.T) {
	s, dir, _ := own(t, nil, nil)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.html"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.html"), 0o755); err != nil {
		t.Fatal(err)
	}
	if w := ask(s, "GET", "/pipe", ""); w.Code != 500 {
		t.Errorf("pipe: %d", w.Code)
	}
	if w := ask(s, "GET", "/dir", ""); w.Code != 404 {
		t.Errorf("directory: %d", w.Code)
	}
	list, err := Check(Own{Dir: dir})
	if err != nil || len(list) != 1 || list[0].File != "pipe.html" || !list[0].Broken {
		t.Errorf("%v %v", err, list)
	}
}

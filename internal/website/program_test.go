package website

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// TestTheProgramIsOfferedWithItsSignature: contract of HTTP 3.7.
func TestTheProgramIsOfferedWithItsSignature(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay")
	text := bytes.Repeat([]byte("program "), 10_000)
	if err := os.WriteFile(path, text, 0o700); err != nil {
		t.Fatal(err)
	}
	p := NewProgram(path, "1.2.3", func(b []byte) bool { return bytes.Equal(b, text) })
	defer p.Close()
	ask := func(p http.Handler, method string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/madmail", nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		return w
	}
	first := ask(p, "GET")
	h := first.Header()
	if first.Code != 200 || !bytes.Equal(first.Body.Bytes(), text) || h.Get("Content-Length") != "80000" || h.Get("X-Madmail-Version") != "1.2.3" ||
		h.Get("X-Madmail-Platform") != runtime.GOOS+"/"+runtime.GOARCH || h.Get("Content-Disposition") != `attachment; filename="relay"` || h.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("%d, %v", first.Code, h)
	}
	// An upgrade puts another file in its place.
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("another"), 0o700); err != nil {
		t.Fatal(err)
	}
	if w := ask(p, "GET", "Range", "bytes=8-15"); w.Code != 206 || w.Body.String() != "program " {
		t.Errorf("a part: %d, %q", w.Code, w.Body)
	}
	if w := ask(p, "GET", "If-None-Match", h.Get("ETag")); w.Code != 304 || len(h.Get("ETag")) != 66 {
		t.Errorf("known already: %d, %s", w.Code, h.Get("ETag"))
	}
	if w := ask(p, "HEAD"); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "80000" {
		t.Errorf("HEAD: %d, %v", w.Code, w.Header())
	}
	if w := ask(p, "POST"); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	for range maxDownloads {
		p.places <- struct{}{}
	}
	if w := ask(p, "GET"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one download too many: %d", w.Code)
	}
	own := NewProgram(path, "1.2.3", func([]byte) bool { return false })
	defer own.Close()
	if w := ask(own, "GET"); w.Code != 404 {
		b, _ := io.ReadAll(w.Body)
		t.Errorf("without a signature: %d, %q", w.Code, b)
	}
}

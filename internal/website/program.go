package website

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// Program offers the running program, so that a server in a closed network can be
// brought up to date from a neighbour: the file carries the signature of its release.
// One without is not offered.
//
// The file is opened once and stays so: a program that takes its place meanwhile does
// not get mixed up with it.
type Program struct {
	path, version string
	signed        func(program []byte) bool
	places        chan struct{}

	once sync.Once
	file *os.File // nil: none to offer
	size int64
	etag string
}

const (
	maxDownloads = 4
	maxProgram   = 100 << 20
	downloadTime = 10 * time.Minute
)

// NewProgram offers the program at path.
func NewProgram(path, version string, signed func(program []byte) bool) *Program {
	return &Program{path: path, version: version, signed: signed, places: make(chan struct{}, maxDownloads)}
}

// open looks at the program when somebody asks for it first.
func (p *Program) open() {
	f, err := os.Open(p.path)
	if err != nil {
		return
	}
	text, err := io.ReadAll(io.LimitReader(f, maxProgram+1))
	if err != nil || len(text) > maxProgram || !p.signed(text) {
		f.Close()
		return
	}
	sum := sha256.Sum256(text)
	p.file, p.size, p.etag = f, int64(len(text)), `"`+hex.EncodeToString(sum[:])+`"`
}

// Close lets the file go. Nothing is offered afterwards.
func (p *Program) Close() error {
	p.once.Do(func() {})
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}

// ServeHTTP implements http.Handler.
func (p *Program) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		plain(w, http.StatusMethodNotAllowed, "Method not allowed")
		return
	}
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		w.Header().Set("Retry-After", strconv.Itoa(60))
		plain(w, http.StatusServiceUnavailable, "Too many downloads, try again later")
		return
	}
	if p.once.Do(p.open); p.file == nil {
		NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+filepath.Base(p.path)+`"`)
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("ETag", p.etag)
	h.Set("X-Madmail-Version", p.version)
	h.Set("X-Madmail-Platform", runtime.GOOS+"/"+runtime.GOARCH)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(downloadTime)) // that of a page is too short
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(p.file, 0, p.size))
}

package website

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/page"
	"madmail/internal/route"
	"madmail/internal/threads"
)

// Own is an operator's own site.
type Own struct {
	Dir string // "" where there is none
	// Strict leaves out what is built in: a file that is not in Dir is not there.
	Strict bool
	// Refused says why nothing of Dir may be shown, "" if it may.
	Refused string
}

// Limits of a site.
const (
	maxFile   = 1 << 30  // octets of a file
	maxName   = 1024     // octets of a path
	maxPages  = 256      // pages that are kept parsed
	maxParsed = 16 << 20 // octets of their sources
	maxShown  = 64 << 20 // octets of pages that are being made or sent
)

// maxMaking is how many pages are made at a time.
const maxMaking = 8

// chunkTime is how long a client may take for the next 32 KiB of a file.
const chunkTime = 30 * time.Second

// builtin is the tree that is in the program.
var builtin = func() fs.FS {
	sub, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}()

// pages are those of a site, parsed once as long as their files stay the same.
type pages struct {
	mu   sync.Mutex // guards the fields below
	kept map[string]*kept
	size int
	told map[string]string // what was logged of a file

	shown  atomic.Int64  // octets of pages under way
	making chan struct{} // has a place for each page that is being made
}

type kept struct {
	sum  [sha256.Size]byte
	page *page.Template
	err  error
}

// parse returns the page that a source is.
func (p *pages) parse(file string, src []byte) (*page.Template, bool, error) {
	sum := sha256.Sum256(src)
	p.mu.Lock()
	k := p.kept[file]
	p.mu.Unlock()
	if k != nil && k.sum == sum {
		return k.page, false, k.err
	}
	t, err := reader.Parse(src)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == nil || len(p.kept) >= maxPages || p.size+len(src) > maxParsed {
		p.kept, p.size = make(map[string]*kept), 0
	}
	p.kept[file] = &kept{sum, t, err}
	p.size += len(src)
	return t, true, err
}

// news reports whether something is said of a file for the first time since something
// else was.
func (p *pages) news(file, text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.told[file] == text {
		return false
	}
	if p.told == nil || len(p.told) >= maxPages {
		p.told = make(map[string]string)
	}
	p.told[file] = text
	return true
}

// source is a file of a site.
type source struct {
	name string // below the directory
	own  bool
	gone bool // the operator's directory is not there
}

// errMissing says that a site has no such file.
var errMissing = errors.New("there is no such file")

// Errors of files that cannot be shown.
var (
	errIrregular = errors.New("is no regular file")
	errHuge      = fmt.Errorf("is larger than %d octets", maxFile)
)

// shownPath is the path of a file that may be shown.
func shownPath(name string) bool {
	if len(name) > maxName || !fs.ValidPath(name) || strings.HasSuffix(name, backupSuffix) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") && part != "." {
			return false
		}
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == '\\' || r == 0x7f || r == ':' })
}

// candidates are the files that a path may mean, the likeliest first.
func candidates(urlPath string) []string {
	p := strings.TrimPrefix(urlPath, "/")
	switch {
	case p == "" || strings.HasSuffix(p, "/"):
		return []string{p + "index.html"}
	case strings.HasSuffix(p, ".html"):
		return []string{p}
	case strings.Contains(path.Base(p), "."):
		return []string{p, p + ".html"}
	}
	return []string{p + ".html", p}
}

// find opens the file that a path means: the operator's, else, unless they are strict,
// ours. moved says that it is a directory with a page in it. errMissing says that there
// is none; other errors are of the file that is returned.
func find(own Own, urlPath string) (f fs.File, src source, moved bool, err error) {
	names := candidates(urlPath)
	for _, n := range names {
		if !shownPath(n) {
			return nil, source{}, false, errMissing
		}
	}
	if own.Dir != "" {
		if own.Refused != "" {
			return nil, source{name: ".", own: true}, false, errors.New(own.Refused)
		}
		root, err := os.OpenRoot(own.Dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !own.Strict:
			return ours(names, true)
		case err != nil:
			return nil, source{name: ".", own: true}, false, err
		}
		defer root.Close()
		for _, n := range names {
			f, dir, err := openFile(root, n)
			switch {
			case dir:
				if _, err := root.Stat(n + "/index.html"); err == nil {
					return nil, source{}, true, nil
				}
			case err == nil:
				return f, source{name: n, own: true}, false, nil
			case !errors.Is(err, fs.ErrNotExist):
				return nil, source{name: n, own: true}, false, err
			}
		}
		if own.Strict {
			return nil, source{}, false, errMissing
		}
	}
	return ours(names, false)
}

// ours finds what is built in.
func ours(names []string, gone bool) (fs.File, source, bool, error) {
	for _, n := range names {
		if f, err := builtin.Open(n); err == nil {
			if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
				return f, source{name: n, gone: gone}, false, nil
			}
			f.Close()
		}
	}
	return nil, source{gone: gone}, false, errMissing
}

// openFile opens a file of an operator's. It is looked at before: opening a pipe would
// wait for somebody who writes.
func openFile(root *os.Root, name string) (f *os.File, dir bool, err error) {
	threads.Enter()
	defer threads.Leave()
	info, err := root.Stat(name)
	switch {
	case err != nil:
		if part := (*fs.PathError)(nil); errors.As(err, &part) && notDirectory(part.Err) {
			err = fs.ErrNotExist // a file where the path has a directory
		}
		return nil, false, err
	case info.IsDir():
		return nil, true, nil
	case !info.Mode().IsRegular():
		return nil, false, errIrregular
	case info.Size() > maxFile:
		return nil, false, errHuge
	}
	f, err = root.Open(name)
	return f, false, err
}

// waiting is a file of an operator's whose reads count as waiting for the disk.
type waiting struct{ f *os.File }

func (w waiting) Read(p []byte) (int, error) {
	threads.Enter()
	defer threads.Leave()
	return w.f.Read(p)
}

func (w waiting) Seek(offset int64, whence int) (int64, error) { return w.f.Seek(offset, whence) }

// fallback shows what no route of the program is.
func (s *Server) fallback(w http.ResponseWriter, r *http.Request) {
	first := route.First(r.URL.Path)
	if r.Method != http.MethodGet && r.Method != http.MethodHead || route.Door(first) || s.opt.Reserved != nil && s.opt.Reserved(r.URL.Path) {
		plain(w, http.StatusNotFound, "Not found")
		return
	}
	s.file(w, r)
}

// file shows the file that a path means.
func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	own := s.own()
	f, src, moved, err := find(own, r.URL.Path)
	if src.gone && s.pages.news(".", own.Dir) {
		s.opt.Logger.Error("the directory of the site is not there: the pages of the program are shown", "www_dir", own.Dir)
	}
	switch {
	case moved:
		w.Header().Set("Cache-Control", "no-cache")
		http.Redirect(w, r, path.Base(r.URL.Path)+"/", http.StatusPermanentRedirect)
		return
	case errors.Is(err, errMissing):
		s.missing(w, r)
		return
	case err != nil:
		s.broken(w, src.name, &page.Error{What: plainly(err)})
		return
	}
	defer f.Close()
	if !src.own && isContactPage(src.name) {
		plain(w, http.StatusNotFound, "Not found")
		return
	}
	if strings.HasSuffix(src.name, ".html") {
		s.html(w, r, http.StatusOK, f, src, view{})
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType(src.name))
	content, ok := f.(io.ReadSeeker)
	if !ok { // neither kind of file is such
		s.broken(w, src.name, &page.Error{What: "cannot be read"})
		return
	}
	if of, ok := f.(*os.File); ok {
		content = waiting{of}
	}
	var changed time.Time
	if src.own {
		h.Set("Cache-Control", "no-cache, must-revalidate")
		h.Del("Content-Security-Policy")
		if info, err := f.Stat(); err == nil {
			changed = info.ModTime()
			h.Set("ETag", fmt.Sprintf("\"%x-%x\"", changed.UnixNano(), info.Size()))
		}
	} else {
		data, err := fs.ReadFile(builtin, src.name)
		if err != nil {
			s.broken(w, src.name, &page.Error{What: plainly(err)})
			return
		}
		h.Set("Cache-Control", "public, max-age=86400")
		h.Set("ETag", fmt.Sprintf("\"%x\"", sha256.Sum256(data)))
	}
	http.ServeContent(&patient{ResponseWriter: w, until: http.NewResponseController(w).SetWriteDeadline}, r, "", changed, content)
}

// own is the operator's site as it is now.
func (s *Server) own() Own {
	if s.opt.Own == nil {
		return Own{}
	}
	return s.opt.Own()
}

// patient lets large files take their time, as long as the client goes on reading.
type patient struct {
	http.ResponseWriter
	until func(time.Time) error
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.until(time.Now().Add(chunkTime)) // where there is no connection there is no limit
	return p.ResponseWriter.Write(b)
}

// plainly is an error without the path that it carries: the log says it.
func plainly(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// html shows a page.
func (s *Server) html(w http.ResponseWriter, r *http.Request, status int, f fs.File, src source, v view) {
	out, err := s.render(r, f, src, v)
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "5")
		plain(w, http.StatusServiceUnavailable, "Too many visitors")
		return
	case err != nil:
		s.broken(w, src.name, err)
		return
	}
	defer s.pages.shown.Add(-int64(len(out)))
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	if v.Account != nil || v.Problem != "" || v.Contact != nil {
		h.Set("Cache-Control", "no-store")
	}
	if src.own {
		h.Del("Content-Security-Policy") // it is the operator who says what their pages may do
	}
	w.WriteHeader(status)
	_, _ = w.Write(out)
}

// errBusy says that as many pages are shown as memory is given to.
var errBusy = errors.New("too many pages are being shown")

// render makes a page. What it returns counts in shown until somebody subtracts it.
func (s *Server) render(r *http.Request, f fs.File, src source, v view) (out []byte, err error) {
	select {
	case s.pages.making <- struct{}{}:
		defer func() { <-s.pages.making }()
	case <-r.Context().Done():
		return nil, errBusy
	}
	if s.pages.shown.Load() > maxShown {
		return nil, errBusy
	}
	defer func() { s.pages.shown.Add(int64(len(out))) }()
	text, err := readAll(f)
	if err != nil {
		return nil, &page.Error{What: plainly(err)}
	}
	t, fresh, err := s.pages.parse(fmt.Sprint(src.own, src.name), text)
	if err != nil {
		return nil, err
	}
	if fresh && src.own {
		for _, u := range t.Unknown {
			if s.pages.news(src.name+" "+u.What, u.What) {
				s.opt.Logger.Warn("a page uses a variable that there is not; it is empty", "file", src.name, "line", u.Line, "variable", u.What)
			}
		}
	}
	facts := s.opt.Facts()
	return t.Render(values(facts, language(r, facts.Language), v))
}

// broken says that a page cannot be shown: to the visitor that it is so, to the operator
// why, once.
func (s *Server) broken(w http.ResponseWriter, name string, err error) {
	var e *page.Error
	if !errors.As(err, &e) {
		e = &page.Error{What: err.Error()}
	}
	if s.pages.news(name, e.Error()) {
		s.opt.Logger.Error("a page of the site cannot be shown", "file", name, "line", e.Line, "reason", e.What)
	}
	w.Header().Set("Cache-Control", "no-store")
	plain(w, http.StatusInternalServerError, "This page cannot be shown")
}

// types are content types by the end of a name: those of the machine may be others.
var types = map[string]string{
	".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".json": "application/json",
	".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".avif": "image/avif",
	".ico": "image/x-icon", ".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf", ".otf": "font/otf", ".txt": "text/plain; charset=utf-8",
	".md": "text/plain; charset=utf-8", ".xml": "application/xml", ".pdf": "application/pdf", ".wasm": "application/wasm", ".webmanifest": "application/manifest+json",
	".map": "application/json", ".mp4": "video/mp4", ".webm": "video/webm", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".zip": "application/zip", ".gz": "application/gzip",
	".apk": "application/vnd.android.package-archive", ".htm": "text/html; charset=utf-8", ".xdc": "application/webxdc+zip",
}

func contentType(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t := types[ext]; t != "" {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}

// result shows the index with a new account, or with what went wrong. An operator's page
// that has no place for it, or cannot be shown, is not used: the account is made.
func (s *Server) result(w http.ResponseWriter, r *http.Request, status int, v view) {
	if own := s.own(); own.Dir != "" {
		if out, ok := s.ownResult(own, r, v); ok {
			defer s.pages.shown.Add(-int64(len(out)))
			h := w.Header()
			h.Set("Content-Type", "text/html; charset=utf-8")
			h.Set("Cache-Control", "no-store")
			h.Del("Content-Security-Policy")
			w.WriteHeader(status)
			_, _ = w.Write(out)
			return
		}
	}
	f, err := builtin.Open("index.html")
	if err != nil {
		s.broken(w, "index.html", err)
		return
	}
	defer f.Close()
	s.html(w, r, status, f, source{name: "index.html"}, v)
}

func (s *Server) ownResult(own Own, r *http.Request, v view) ([]byte, bool) {
	f, src, _, err := find(own, "/")
	if err != nil || !src.own {
		return nil, false
	}
	defer f.Close()
	text, err := readAll(f)
	if err != nil || !bytes.Contains(text, []byte("Account")) || !bytes.Contains(text, []byte("Problem")) {
		return nil, false
	}
	if _, err := f.(io.Seeker).Seek(0, io.SeekStart); err != nil {
		return nil, false
	}
	out, err := s.render(r, f, src, v)
	return out, err == nil
}

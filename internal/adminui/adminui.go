// Package adminui serves the operators' page: files that were built into the program,
// under any prefix. It is files; what the page asks goes to the admin API like anybody's
// requests.
//
// The page is built for the root of a site. Its start page is changed so that it works
// below the prefix of the moment: the links to its own files, and the base of its router.
package adminui

import (
	"bytes"
	"embed"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"madmail/internal/fault"
)

//go:embed all:build
var embedded embed.FS

// MakeTarget builds the program with the page.
const MakeTarget = "make build-with-admin-web"

// Files are those that were built in, nil when the page was not.
func Files() fs.FS {
	sub, err := fs.Sub(embedded, "build")
	if err != nil {
		return nil
	}
	if _, err := fs.Stat(sub, startPage); err != nil {
		return nil
	}
	return sub
}

const startPage = "index.html"

// Page serves the files. Make one with New.
type Page struct {
	files fs.FS
	start []byte // as it was built
	built time.Time
}

// New reads the start page. files may be nil: then every answer says how the page is
// built in. The error is of kind fault.Invalid when there is no start page.
func New(files fs.FS) (*Page, error) {
	p := &Page{files: files}
	if files == nil {
		return p, nil
	}
	var err error
	if p.start, err = fs.ReadFile(files, startPage); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "operators' page")
	}
	return p, nil
}

// Built reports whether the page is there.
func (p *Page) Built() bool { return p.files != nil }

// Owns reports whether a path lies at or below a prefix, which begins with a slash and
// does not end in one.
func Owns(prefix, path string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && prefix != "" && (rest == "" || rest[0] == '/')
}

// policy lets the page run its own scripts and styles, and ask any server that an
// operator names.
const policy = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; " +
	"media-src 'self' blob:; worker-src 'self' blob:; connect-src *; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page below prefix. api is the path of the admin API on the same
// site, which fills the login form.
func (p *Page) Handler(prefix, api string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, prefix, api) })
}

func (p *Page) serve(w http.ResponseWriter, r *http.Request, prefix, api string) {
	h := w.Header()
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", policy)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		h.Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		text(w, http.StatusMethodNotAllowed, "Method not allowed", "")
		return
	}
	if p.files == nil {
		h.Set("Cache-Control", "no-store")
		text(w, http.StatusServiceUnavailable, "The operators' page is not part of this program", "Build it in with <code>"+MakeTarget+"</code> and restart the server.")
		return
	}
	if r.URL.Path == prefix {
		to := url.URL{Path: prefix + "/", RawQuery: r.URL.RawQuery} // older login links stand in the query
		http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, prefix+"/")
	if name == "" || name == startPage {
		p.open(w, r, prefix, api)
		return
	}
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00") || hidden(name) {
		text(w, http.StatusNotFound, "Not found", "")
		return
	}
	f, err := p.files.Open(name)
	if err == nil {
		defer f.Close()
		var st fs.FileInfo
		if st, err = f.Stat(); err == nil && st.IsDir() {
			err = fs.ErrNotExist
		}
	}
	switch {
	case err == nil:
		p.file(w, r, name, f)
	case errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(name, "_app/"):
		p.open(w, r, prefix, api) // a place inside the page
	default:
		text(w, http.StatusNotFound, "Not found", "")
	}
}

func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
}

// file answers with a file as it was built.
func (p *Page) file(w http.ResponseWriter, r *http.Request, name string, f fs.File) {
	body, err := io.ReadAll(f)
	if err != nil {
		text(w, http.StatusInternalServerError, "Internal server error", "")
		return
	}
	h := w.Header()
	switch base := path.Base(name); {
	case base == "version.json" || base == "sw.js":
		h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	case strings.Contains(name, "/immutable/"):
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	default:
		h.Set("Cache-Control", "public, max-age=3600")
	}
	if kind := kinds[path.Ext(name)]; kind != "" {
		h.Set("Content-Type", kind)
	}
	http.ServeContent(w, r, name, p.built, bytes.NewReader(body))
}

// kinds are the media types of the page's files. What the system thinks of them does
// not count: nosniff makes a wrong one fatal.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".json": "application/json", ".svg": "image/svg+xml",
	".png": "image/png", ".ico": "image/x-icon", ".woff2": "font/woff2", ".webmanifest": "application/manifest+json", ".wasm": "application/wasm", ".txt": "text/plain; charset=utf-8",
}

// What is changed in the start page: links and imports from the root, and the router's
// empty base.
var (
	rooted    = regexp.MustCompile(`((?:href|src)="|import\(")/`)
	emptyBase = regexp.MustCompile(`(\bbase:\s*)""`)
)

// open answers with the start page for this prefix.
func (p *Page) open(w http.ResponseWriter, r *http.Request, prefix, api string) {
	// Prefixes have a plain alphabet: settings see to it; quoting keeps it so.
	body := rooted.ReplaceAll(p.start, []byte("${1}"+strings.ReplaceAll(prefix, "$", "$$")+"/"))
	body = emptyBase.ReplaceAll(body, []byte("${1}"+strings.ReplaceAll(script(prefix), "$", "$$")))
	globals := "<script>window.__MADMAIL_ADMIN_PREFIX__=" + script(prefix) + ";window.__MADMAIL_API_DEFAULT__=" + script(api) + "</script>"
	if i := bytes.Index(body, []byte("<head>")); i >= 0 {
		i += len("<head>")
		body = append(body[:i:i], append([]byte(globals), body[i:]...)...)
	}
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Type", kinds[".html"])
	http.ServeContent(w, r, startPage, p.built, bytes.NewReader(body))
}

// script is a string of a script inside a page.
func script(s string) string {
	return strings.NewReplacer("<", `\x3c`, ">", `\x3e`, "&", `\x26`).Replace(strconv.QuoteToASCII(s))
}

// text answers with a short page.
func text(w http.ResponseWriter, status int, title, more string) {
	w.Header().Set("Content-Type", kinds[".html"])
	w.WriteHeader(status)
	body := "<!DOCTYPE html>\n<title>" + title + "</title>\n<h1>" + title + "</h1>\n"
	if more != "" {
		body += "<p>" + more + "</p>\n"
	}
	_, _ = io.WriteString(w, body) // who is gone needs none
}

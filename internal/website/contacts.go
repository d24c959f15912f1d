package website

import (
	"context"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/share"
)

// Contacts keeps contact pages.
type Contacts interface {
	// Create makes one. Errors are those of share.
	Create(ctx context.Context, slug, invite, name string) (share.Link, error)
	// Show returns one that visitors may see. The error is fault.NotFound when there is
	// none.
	Show(ctx context.Context, slug string) (share.Link, error)
}

// shareTime bounds what is asked of Contacts for one request.
const shareTime = 10 * time.Second

// contact is a contact page as templates see it. at is the address of the page, "" where
// it is not known.
func contact(l share.Link, at string) map[string]any {
	m := map[string]any{"Slug": l.Slug, "URL": "", "Name": l.Name, "Invite": "", "QR": template.URL(""), "Page": at}
	if !l.Reserved() {
		invite := l.Invite()
		m["URL"], m["Invite"], m["QR"] = l.URL, invite, picture(invite)
	}
	if at != "" {
		m["QR"] = picture(at)
	}
	return m
}

// The pages. Ours are shown for what they are made of and not by their names.
const (
	sharePage   = "contact_share.html"
	sharedPage  = "contact_share_success.html"
	contactPage = "contact_view.html"
)

func isContactPage(name string) bool {
	return name == sharePage || name == sharedPage || name == contactPage
}

// contactPage shows one of them: the operator's, if there is one, else ours.
func (s *Server) contactPage(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	f, src, _, err := find(s.own(), "/"+name)
	if errors.Is(err, errMissing) { // where nothing is taken from us but what belongs to the program
		f, src, _, err = ours([]string{name}, false)
	}
	if err != nil {
		s.broken(w, src.name, err)
		return
	}
	defer f.Close()
	s.html(w, r, status, f, src, v)
}

// Shows reports whether a site has something at a path.
func Shows(own Own, urlPath string) bool {
	f, _, moved, err := find(own, urlPath)
	if err == nil && f != nil {
		f.Close()
	}
	return moved || !errors.Is(err, errMissing)
}

// refusals say by which word of a page an error of share is told.
var refusals = []struct {
	err  error
	word string
}{
	{share.ErrURL, "badURL"}, {share.ErrName, "badName"}, {share.ErrSlug, "badSlug"}, {share.ErrReserved, "reserved"}, {share.ErrTaken, "taken"},
}

// share answers /share: a form, and what becomes of it.
func (s *Server) share(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.opt.Contacts == nil || !s.opt.Facts().Sharing:
		plain(w, http.StatusNotFound, "Not found")
		return
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		w.Header().Set("X-Robots-Tag", "noindex")
		s.contactPage(w, r, http.StatusOK, sharePage, view{})
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, HEAD, POST")
		plain(w, http.StatusMethodNotAllowed, "Method not allowed")
		return
	}
	w.Header().Set("X-Robots-Tag", "noindex")
	text := words[language(r, s.opt.Facts().Language)]
	f, err := readShared(r)
	asJSON := accepts(r, "application/json") || f.json && !accepts(r, "text/html")
	no := func(status int, word string) {
		switch {
		case asJSON:
			answer(w, status, map[string]string{"error": text[word]})
		case f.page:
			s.contactPage(w, r, status, sharePage, view{Problem: text[word]})
		default:
			h := w.Header()
			h.Set("Content-Type", "text/plain; charset=utf-8")
			h.Set("Cache-Control", "no-store")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text[word]+"\n")
		}
	}
	if !s.allowShare(r) {
		w.Header().Set("Retry-After", "360")
		no(http.StatusTooManyRequests, "tooMany")
		return
	}
	if err != nil {
		no(http.StatusBadRequest, "badForm")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), shareTime)
	defer cancel()
	l, err := s.opt.Contacts.Create(ctx, strings.TrimSpace(f.Slug), f.URL, f.Name)
	for _, x := range refusals {
		if errors.Is(err, x.err) {
			no(http.StatusBadRequest, x.word)
			return
		}
	}
	switch {
	case err != nil:
		w.Header().Set("Retry-After", "360")
		s.opt.Logger.Warn("a contact page could not be made", "err", err)
		no(http.StatusServiceUnavailable, "noRoom")
	case asJSON:
		answer(w, http.StatusOK, struct{ Slug, URL, Name string }{l.Slug, l.URL, l.Name})
	default:
		s.contactPage(w, r, http.StatusOK, sharedPage, view{Contact: &l, At: pageOf(r, l.Slug)})
	}
}

// maxShares is how often one network may ask for a contact page within shareWindow.
const (
	maxShares   = 10
	shareWindow = time.Hour
)

// allowShare limits what makes contact pages, whatever becomes of them.
func (s *Server) allowShare(r *http.Request) bool {
	network, local, ok := sourceOf(r)
	if !ok || local {
		return ok
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, now := s.visitor(network), time.Now()
	v.shares = slices.DeleteFunc(v.shares, func(t time.Time) bool { return now.Sub(t) >= shareWindow })
	if len(v.shares) >= maxShares {
		return false
	}
	v.shares = append(v.shares, now)
	return true
}

// pageOf is the address of a contact page as whoever asks reached this server.
func pageOf(r *http.Request, slug string) string {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	if r.Host == "" {
		return ""
	}
	return scheme + r.Host + "/" + slug
}

// shared is what a visitor sent.
type shared struct {
	URL, Name, Slug string

	page bool // by the form of our page
	json bool
}

// readShared reads a form in either of its encodings, or JSON.
func readShared(r *http.Request) (f shared, err error) {
	typ, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return f, err
	}
	switch typ {
	case "application/json":
		err := json.NewDecoder(r.Body).Decode(&f)
		f.json = true
		return f, err
	case "multipart/form-data":
		if err := r.ParseMultipartForm(maxBody); err != nil {
			return f, err
		}
		_ = r.MultipartForm.RemoveAll() // there is none on disk: the body fits into memory
	case "application/x-www-form-urlencoded":
		if err := r.ParseForm(); err != nil {
			return f, err
		}
	default:
		return f, errors.New("neither a form nor JSON")
	}
	return shared{URL: r.PostForm.Get("url"), Name: r.PostForm.Get("name"), Slug: r.PostForm.Get("slug"), page: r.PostForm.Has("page")}, nil
}

// accepts reports whether a client names a type among those that it wants.
func accepts(r *http.Request, typ string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		name, _, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), typ) {
			return true
		}
	}
	return false
}

// missing answers where there is no page: with the contact page of that name, if there
// is one.
func (s *Server) missing(w http.ResponseWriter, r *http.Request) {
	slug := strings.TrimPrefix(r.URL.Path, "/")
	if s.opt.Contacts != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) && isSlug(slug) && s.opt.Facts().Sharing {
		ctx, cancel := context.WithTimeout(r.Context(), shareTime)
		defer cancel()
		switch l, err := s.opt.Contacts.Show(ctx, slug); {
		case err == nil:
			w.Header().Set("X-Robots-Tag", "noindex")
			s.contactPage(w, r, http.StatusOK, contactPage, view{Contact: &l})
			return
		case !fault.Is(err, fault.NotFound):
			s.opt.Logger.Warn("contact pages cannot be read", "err", err)
		}
	}
	plain(w, http.StatusNotFound, "Not found")
}

// isSlug reports whether a text can be a slug at all, be it one that programs for earlier
// versions chose.
func isSlug(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	})
}

package webimap

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// exchange is one request of somebody who showed who he is.
type exchange struct {
	mail
	w       http.ResponseWriter
	r       *http.Request
	ctx     context.Context // ends with the session, and when the client leaves
	control *http.ResponseController
}

type action func(x *exchange) error

func (h *Handler) routes() *http.ServeMux {
	mux := http.NewServeMux()
	remove := func(x *exchange) error { return x.remove(x.r.URL.Query().Get("mailbox")) }
	for path, by := range map[string]map[string]action{
		"/webimap/mailboxes":                {"GET": (*exchange).mailboxes},
		"/webimap/messages":                 {"GET": (*exchange).messages},
		"/webimap/message/{uid}":            {"GET": (*exchange).message, "DELETE": remove},
		"/webimap/messages/{mailbox}/{uid}": {"DELETE": func(x *exchange) error { return x.remove(x.r.PathValue("mailbox")) }},
		"/webimap/message/flags":            {"POST": (*exchange).flags, "PUT": (*exchange).flags},
		"/webimap/send":                     {"POST": (*exchange).send},
		"/websmtp/send":                     {"POST": (*exchange).send},
	} {
		mux.Handle(path, h.methods(by))
	}
	mux.HandleFunc("/webimap/ws", h.upgrade)
	mux.HandleFunc("/", notFound)
	return mux
}

// methods serves the methods of one path.
func (h *Handler) methods(by map[string]action) http.Handler {
	allow := make([]string, 0, 3)
	for _, m := range []string{"GET", "POST", "PUT", "DELETE"} {
		if by[m] != nil {
			allow = append(allow, m)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		do := by[r.Method]
		if r.Method == http.MethodHead {
			do = by[http.MethodGet]
		}
		if do == nil {
			notAllowed(w, strings.Join(append(allow, "OPTIONS"), ", "))
			return
		}
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(stall)) // cannot be set in tests without a connection
		_ = control.SetWriteDeadline(time.Now().Add(2 * stall))
		if err := h.serve(do, &exchange{w: w, r: r, control: control}); err != nil {
			_ = control.SetWriteDeadline(time.Now().Add(stall))
			refuse(w, h.outcome(err))
		}
	})
}

func notAllowed(w http.ResponseWriter, allow string) {
	w.Header().Set("Allow", allow)
	refuse(w, refusal{http.StatusMethodNotAllowed, "method not allowed", ""})
}

func (h *Handler) serve(do action, x *exchange) error {
	email, password := x.r.Header.Get("X-Email"), x.r.Header.Get("X-Password")
	switch {
	case email == "":
		return no(http.StatusUnauthorized, "missing X-Email header")
	case password == "":
		return no(http.StatusUnauthorized, "missing X-Password header")
	}
	who, bad := h.login(x.r, email, []byte(password))
	if bad != nil {
		return bad
	}
	s, bad := h.enter(x.r.Context(), who, nil)
	if bad != nil {
		return bad
	}
	defer h.leave(s)
	h.requests.Add(1)
	x.mail, x.ctx = mail{h, who}, s.ctx
	return do(x)
}

// outcome turns any error of a request into an answer.
func (h *Handler) outcome(err error) refusal {
	switch {
	case errors.Is(err, errEnded):
		return wrong
	case errors.Is(err, errStopping):
		return refusal{http.StatusServiceUnavailable, "the server is stopping", ""}
	case errors.Is(err, errLeft):
		return refusal{http.StatusNotFound, "not found", ""}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		err = fault.New(fault.Busy, "the request took too long")
	}
	return h.refusal(err, reading)
}

func (x *exchange) brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(x.ctx, work)
}

func (x *exchange) mailboxes() error {
	ctx, cancel := x.brief()
	defer cancel()
	list, err := x.boxes(ctx)
	if err != nil {
		return err
	}
	answer(x.w, http.StatusOK, list)
	return nil
}

// number reads a number of the query, 0 when it is not there.
func (x *exchange) number(name string, most uint64) (uint64, error) {
	s := x.r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > most {
		return 0, no(http.StatusBadRequest, "invalid "+name)
	}
	return n, nil
}

const maxUID = 1<<32 - 1

func (x *exchange) messages() error {
	since, err := x.number("since_uid", maxUID)
	if err != nil {
		return err
	}
	seconds, err := x.number("wait", maxUID)
	if err != nil {
		return err
	}
	wait := min(time.Duration(seconds)*time.Second, maxWait)
	_ = x.control.SetReadDeadline(time.Now().Add(wait + stall))
	_ = x.control.SetWriteDeadline(time.Now().Add(wait + stall))
	b, v, err := x.await(x.ctx, x.r.URL.Query().Get("mailbox"), mailbox.UID(since), wait)
	if err != nil {
		return err
	}
	return x.stream("application/json", func(w *bufio.Writer) error {
		return array(w, func(f func(summary) error) error { return x.each(x.ctx, b, v, above(mailbox.UID(since)), f) })
	})
}

// wake is a waiter on the event bus: it holds one wake-up.
type wake chan struct{}

// Wake implements event.Waker.
func (w wake) Wake() bool {
	select {
	case w <- struct{}{}:
		return true
	default:
		return false
	}
}

// await returns a mailbox as soon as it has something above a UID, or after a time.
func (m mail) await(ctx context.Context, name string, uid mailbox.UID, wait time.Duration) (mailbox.Box, *mailbox.View, error) {
	has := func(v *mailbox.View) bool { return v.Len() > 0 && v.At(v.Len()-1).UID > uid }
	b, v, err := m.view(ctx, name)
	if err != nil || wait == 0 || has(v) {
		return b, v, err
	}
	woken := make(wake, 1)
	sub := m.Bus.Subscribe(b, woken)
	defer sub.Close()
	m.waiting.Add(1)
	defer m.waiting.Add(-1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		if _, v, err = m.view(ctx, name); err != nil || has(v) {
			return b, v, err
		}
		select {
		case <-woken:
		case <-timer.C:
			return b, v, nil
		case <-ctx.Done():
			return b, v, context.Cause(ctx)
		}
	}
}

// stream answers with what f writes. An error of f is returned as long as nothing was
// sent; later the answer ends where it stands.
func (x *exchange) stream(typ string, f func(w *bufio.Writer) error) error {
	out := &slowWriter{x: x, typ: typ}
	w := bufio.NewWriterSize(out, 16<<10)
	err := f(w)
	if err != nil && !out.begun {
		return err
	}
	if err == nil {
		err = w.Flush()
	}
	if errors.Is(err, errTooSlow) {
		x.slow.Add(1)
	}
	return nil
}

// slowWriter insists on headway.
type slowWriter struct {
	x     *exchange
	typ   string
	begun bool
	pace  pace
}

func (s *slowWriter) Write(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		s.x.w.Header().Set("Content-Type", s.typ)
	}
	_ = s.x.control.SetWriteDeadline(time.Now().Add(stall))
	if !s.pace.note(len(p)) {
		return 0, errTooSlow
	}
	return s.x.w.Write(p)
}

// uid reads the UID of the path.
func (x *exchange) uid() (mailbox.UID, error) {
	n, err := strconv.ParseUint(x.r.PathValue("uid"), 10, 32)
	if err != nil || n == 0 {
		return 0, no(http.StatusBadRequest, "invalid uid")
	}
	return mailbox.UID(n), nil
}

func (x *exchange) message() error {
	uid, err := x.uid()
	if err != nil {
		return err
	}
	ctx, cancel := x.brief()
	defer cancel()
	raw := false
	for part := range strings.SplitSeq(x.r.Header.Get("Accept"), ",") {
		typ, _, _ := strings.Cut(part, ";")
		raw = raw || strings.EqualFold(strings.TrimSpace(typ), "message/rfc822")
	}
	packed := x.r.URL.Query().Get("body_base64")
	x.w.Header().Add("Vary", "Accept")
	o, err := x.fetch(ctx, x.r.URL.Query().Get("mailbox"), uid, raw || packed == "1" || packed == "true")
	if err != nil {
		return err
	}
	defer o.Close()
	if !raw {
		return x.stream("application/json", o.write)
	}
	x.w.Header().Set("Content-Length", strconv.FormatInt(o.Content.Size(), 10))
	x.w.Header().Set("Content-Disposition", "attachment") // never shown as a page of this site
	return x.stream("message/rfc822", func(w *bufio.Writer) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{o.reader()}, make([]byte, 16<<10))
		return err
	})
}

func (x *exchange) remove(box string) error {
	uid, err := x.uid()
	if err != nil {
		return err
	}
	ctx, cancel := x.brief()
	defer cancel()
	if err := x.mail.remove(ctx, box, uid); err != nil {
		return err
	}
	return x.done("deleted")
}

func (x *exchange) done(word string) error {
	_ = x.control.SetWriteDeadline(time.Now().Add(stall))
	answer(x.w, http.StatusOK, status{word})
	return nil
}

// status is the answer to what was done.
type status struct {
	Status string `json:"status"`
}

// slowReader reads the body of a request, and insists on headway.
type slowReader struct {
	x    *exchange
	left int64
	over error // when more than left comes
	pace pace
	next time.Time // when the deadline is moved again
}

func (s *slowReader) Read(p []byte) (int, error) {
	if now := time.Now(); now.After(s.next) {
		_ = s.x.control.SetReadDeadline(now.Add(stall))
		s.next = now.Add(time.Second)
	}
	if s.left <= 0 {
		return 0, s.over
	}
	n, err := s.x.r.Body.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if !s.pace.note(n) {
		return n, errTooSlow
	}
	return n, err
}

// read reads the JSON of a request.
func (x *exchange) read(q *query, text *spool) error {
	in := &slowReader{x: x, left: maxText + 1, over: errTooLong}
	if text != nil {
		in.left, in.over = longest(text.limit)+1, errTooBig
	}
	if x.r.ContentLength >= in.left {
		return in.over
	}
	return parse(in, maxText, text, q)
}

func (x *exchange) flags() error {
	var q query
	if err := x.read(&q, nil); err != nil {
		return err
	}
	ctx, cancel := x.brief()
	defer cancel()
	if err := x.flag(ctx, &q); err != nil {
		return err
	}
	return x.done("ok")
}

func (x *exchange) send() error {
	var q query
	text := &spool{store: x.Store, ctx: x.ctx, limit: x.MaxSize()}
	defer text.drop()
	if err := x.read(&q, text); err != nil {
		x.refused.Add(1)
		return err
	}
	_ = x.control.SetWriteDeadline(time.Now().Add(storing + stall))
	if err := x.mail.send(x.ctx, &q, text); err != nil {
		return err
	}
	return x.done("sent")
}

package webimap

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// next reads a request and lets it run. It reports whether the connection goes on.
func (s *socket) next() bool {
	select {
	case s.slots <- struct{}{}:
	case <-s.life.Done():
		return false
	}
	handed := false
	defer func() {
		if !handed {
			<-s.slots
		}
	}()
	text := &spool{store: s.Store, ctx: s.session.ctx, limit: s.MaxSize()}
	defer func() {
		if !handed {
			text.drop()
		}
	}()
	s.conn.SetReadLimit(longest(text.limit))
	_, r, err := s.conn.Reader(s.life)
	if err != nil {
		return false
	}
	s.alive()
	in := &socketReader{s: s, r: r}
	var q request
	err = parse(in, maxText, text, &q)
	if in.err != nil {
		return false
	}
	if _, drained := io.Copy(io.Discard, in); drained != nil { // of what was refused before its end
		return false
	}
	handed = true
	s.group.Go("request", func() {
		defer func() { <-s.slots }()
		defer text.drop()
		s.serve(&q, text, err)
	})
	return true
}

// socketReader reads a message of the client, and insists on headway.
type socketReader struct {
	s    *socket
	r    io.Reader
	pace pace
	err  error // of the connection
}

func (r *socketReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.s.alive()
	if err == nil && !r.pace.note(n) {
		r.s.slow.Add(1)
		r.s.kill()
		err = errTooSlow
	}
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// serve answers a request. err is why it could not be read.
func (s *socket) serve(q *request, text *spool, err error) {
	id, valid := q.id()
	var data func(w *bufio.Writer) error
	switch {
	case err != nil:
	case !valid:
		err = errBadID
	case q.Type == "ping" && q.Action == "":
		_ = s.reply(nil, "pong", value(struct{}{}))
		return
	default:
		err = context.Cause(s.session.ctx)
		if err == nil {
			data, err = s.do(q.Action, &q.Data, text)
		}
	}
	if err == nil {
		if err = s.reply(id, "result", data); err == nil {
			return
		}
	}
	if s.life.Err() == nil {
		_ = s.reply(id, "error", value(s.outcome(err).text))
	}
}

// value is data of an answer that is at hand.
func value(v any) func(w *bufio.Writer) error {
	return func(w *bufio.Writer) error {
		raw, err := json.Marshal(v)
		if err == nil {
			_, err = w.Write(raw)
		}
		return err
	}
}

func done(word string, err error) (func(w *bufio.Writer) error, error) {
	return value(status{word}), err
}

// do does what a client asks, and returns what is to be answered.
func (s *socket) do(action string, q *query, text *spool) (func(w *bufio.Writer) error, error) {
	ctx, cancel := context.WithTimeout(s.session.ctx, work)
	defer cancel()
	switch action {
	case "send":
		if !s.Sending() {
			return nil, errSendOff
		}
		return done("sent", s.send(s.session.ctx, q, text))
	case "fetch":
		o, err := s.fetch(ctx, q.Mailbox, q.UID, q.packed())
		if err != nil {
			return nil, err
		}
		return func(w *bufio.Writer) error { defer o.Close(); return o.write(w) }, nil
	case "list_mailboxes":
		list, err := s.boxes(ctx)
		return value(list), err
	case "list_messages":
		b, v, err := s.view(ctx, q.Mailbox)
		return func(w *bufio.Writer) error {
			return array(w, func(f func(summary) error) error { return s.each(s.session.ctx, b, v, above(q.SinceUID), f) })
		}, err
	case "search":
		each, err := s.search(s.session.ctx, q)
		return func(w *bufio.Writer) error { return array(w, each) }, err
	case "flags":
		return done("ok", s.flag(ctx, q))
	case "delete":
		return done("deleted", s.remove(ctx, q.Mailbox, q.UID))
	case "move":
		return done("moved", s.transfer(ctx, q, true))
	case "copy":
		return done("copied", s.transfer(ctx, q, false))
	case "create_mailbox":
		return done("created", s.create(ctx, q.Name))
	case "delete_mailbox":
		return done("deleted", s.drop(ctx, q.Name))
	case "rename_mailbox":
		from, to := q.OldName, q.NewName
		if from == "" {
			from = q.OldName2
		}
		if to == "" {
			to = q.NewName2
		}
		return done("renamed", s.rename(ctx, from, to))
	}
	return nil, no(http.StatusBadRequest, "unknown action: "+shown(action))
}

// shown is what a client said, as far as it is worth repeating.
func shown(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// reply sends one message. An error of data is returned as long as nothing was sent;
// later it ends the connection, and is not returned.
func (s *socket) reply(id json.RawMessage, action string, data func(w *bufio.Writer) error) error {
	frames := &frames{s: s}
	w := bufio.NewWriterSize(frames, 4<<10)
	_ = w.WriteByte('{')
	if id != nil {
		_, _ = w.WriteString(`"req_id":`)
		_, _ = w.Write(id)
		_ = w.WriteByte(',')
	}
	_, _ = w.WriteString(`"action":` + strconv.Quote(action) + `,"data":`)
	err := data(w)
	if err == nil {
		_ = w.WriteByte('}')
		err = w.Flush()
	} else if frames.w == nil {
		return err
	}
	if err != nil {
		s.kill() // first, so that half a message does not look like a whole one
	}
	if err := frames.close(); err != nil {
		s.kill()
	}
	return nil
}

// frames is one message that is being sent. Nothing is begun, and no other message
// waits, before the first octets are there.
type frames struct {
	s     *socket
	w     io.WriteCloser
	pace  pace
	timer *time.Timer
}

// Write implements io.Writer.
func (f *frames) Write(p []byte) (n int, err error) {
	if f.w == nil {
		f.s.writing.Lock()
		f.timer = time.AfterFunc(stall, func() { f.s.slow.Add(1); f.s.kill() })
		if f.w, err = f.s.conn.Writer(f.s.life, websocket.MessageText); err != nil {
			f.timer.Stop()
			f.s.writing.Unlock()
			return 0, err
		}
	}
	if !f.pace.note(len(p)) {
		f.s.slow.Add(1)
		return 0, errTooSlow
	}
	n, err = f.w.Write(p)
	f.timer.Reset(stall)
	f.s.alive()
	return n, err
}

func (f *frames) close() error {
	if f.w == nil {
		return nil
	}
	defer f.s.writing.Unlock()
	defer f.timer.Stop()
	return f.w.Close()
}

// Wake implements event.Waker.
func (s *socket) Wake() bool {
	first := s.wakes.Add(1) == 1
	if first {
		s.group.Go("tell", s.tell)
	}
	return first
}

// tell tells the client of messages, until it knows of all.
func (s *socket) tell() {
	for {
		n := s.wakes.Load()
		ctx := s.session.ctx
		b, v, err := s.view(ctx, s.watched.Name)
		if err == nil {
			if v.UIDValidity != s.of { // removed, and made anew: all of it is new
				s.of, s.told = v.UIDValidity, 0
			}
			err = s.each(ctx, b, v, above(s.told), func(m summary) error {
				s.told = m.UID
				if err := s.reply(nil, "new_message", value(m)); err != nil {
					return err
				}
				s.pushed.Add(1)
				return context.Cause(s.life)
			})
		}
		if err != nil && context.Cause(ctx) == nil && s.life.Err() == nil && !errors.Is(err, errUnknownBox) {
			s.outcome(err) // logs what is trouble of ours; the next wake-up tries again
		}
		if s.wakes.CompareAndSwap(n, 0) {
			return
		}
	}
}

package maildir

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"madmail/internal/mailbox"
	"madmail/internal/threads"
)

// memBody is a message small enough for the journal.
type memBody struct{ data []byte }

func (b *memBody) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(b.data).ReadAt(p, off)
}
func (b *memBody) Size() int64  { return int64(len(b.data)) }
func (b *memBody) Close() error { return nil }

// fileBody is a message in the spool, durable under its name.
type fileBody struct {
	f    *os.File
	disk *disk
	name string
	size int64
	// kept says that a journal record names the file: the checkpoint removes it.
	kept atomic.Bool
	once sync.Once
}

func (b *fileBody) ReadAt(p []byte, off int64) (int, error) { return readAt(b.f, p, off) }
func (b *fileBody) Size() int64                             { return b.size }

func readAt(f *os.File, p []byte, off int64) (int, error) {
	threads.Enter()
	defer threads.Leave()
	return f.ReadAt(p, off)
}

func (b *fileBody) Close() error {
	var err error
	b.once.Do(func() {
		threads.Enter()
		defer threads.Leave()
		err = b.f.Close()
		if !b.kept.Load() {
			_ = os.Remove(b.f.Name())
		}
	})
	return err
}

// writer collects a body: in memory up to the inline limit, then in a file.
type writer struct {
	s    *Store
	buf  []byte
	f    *os.File
	size int64
	err  error
}

// NewBody starts spooling a message. See mailbox.Store.
func (s *Store) NewBody(context.Context) (mailbox.BodyWriter, error) {
	return &writer{s: s}, nil
}

func (w *writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.f == nil && len(w.buf)+len(p) <= w.s.opt.Inline {
		if w.buf == nil {
			w.buf = make([]byte, 0, max(4096, len(p)))
		}
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	if w.f == nil {
		if err := w.spill(); err != nil {
			w.err = trouble(err, "spool a message")
			return 0, w.err
		}
	}
	if err := w.s.disk.ask("spool", w.f.Name()); err != nil {
		w.err = trouble(err, "spool a message")
		return 0, w.err
	}
	threads.Enter()
	n, err := w.f.Write(p)
	threads.Leave()
	w.size += int64(n)
	if err != nil {
		w.err = trouble(err, "spool a message")
	}
	return n, w.err
}

// ReadAt reads what was written so far.
func (w *writer) ReadAt(p []byte, off int64) (int, error) {
	if w.f != nil {
		return readAt(w.f, p, off)
	}
	return bytes.NewReader(w.buf).ReadAt(p, off)
}

func (w *writer) spill() error {
	var id [12]byte
	_, _ = rand.Read(id[:])
	path := filepath.Join(w.s.spool, hex.EncodeToString(id[:]))
	if err := w.s.disk.ask("spool", path); err != nil {
		return err
	}
	threads.Enter()
	defer threads.Leave()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.f = f
	n, err := f.Write(w.buf)
	w.size, w.buf = int64(n), nil
	return err
}

func (w *writer) Seal() (mailbox.Body, error) {
	if w.err != nil {
		err := w.err
		w.Abort()
		return nil, err
	}
	w.err = errors.New("maildir: body is sealed")
	if w.f == nil {
		// Held in memory until the next checkpoint: exactly as large as it is.
		return &memBody{data: slices.Clone(w.buf)}, nil
	}
	err := w.s.disk.sync(w.f)
	if err == nil {
		err = w.s.disk.syncDir(w.s.spool)
	}
	if err != nil {
		w.drop()
		return nil, trouble(err, "sync a spooled message")
	}
	b := &fileBody{f: w.f, disk: w.s.disk, name: filepath.Base(w.f.Name()), size: w.size}
	w.f = nil
	return b, nil
}

func (w *writer) Abort() {
	w.err = errors.New("maildir: body was dropped")
	w.buf = nil
	w.drop()
}

func (w *writer) drop() {
	if w.f != nil {
		threads.Enter()
		defer threads.Leave()
		w.f.Close()
		_ = os.Remove(w.f.Name())
		w.f = nil
	}
}

// own returns b as a body of this store, copying one that is not.
func (s *Store) own(ctx context.Context, b mailbox.Body) (body mailbox.Body, done func(), err error) {
	switch b.(type) {
	case *memBody, *fileBody:
		return b, func() {}, nil
	}
	w, err := s.NewBody(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.Copy(w, io.NewSectionReader(b, 0, b.Size())); err != nil {
		w.Abort()
		return nil, nil, err
	}
	if body, err = w.Seal(); err != nil {
		return nil, nil, err
	}
	return body, func() { body.Close() }, nil
}

// memContent is a message that has no file yet.
type memContent struct{ memBody }

// content is an open message file. It stays readable after an unlink.
type content struct {
	*os.File
	size int64
}

func (c *content) ReadAt(p []byte, off int64) (int, error) { return readAt(c.File, p, off) }
func (c *content) Size() int64                             { return c.size }

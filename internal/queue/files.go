package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"madmail/internal/fault"
	"madmail/internal/threads"
)

// files are the operations on the queue's directory; tests let them fail.
type files interface {
	create(name string) (file, error) // which must not exist
	open(name string) (file, error)
	link(from, to string) error
	rename(from, to string) error
	remove(name string) error
	read(name string, limit int64) ([]byte, error)
	age(name string) (time.Time, error)
	names(each func(name string)) error
	syncDir() error
}

type file interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Sync() error
	Stat() (fs.FileInfo, error)
}

// directory is files on a real directory.
type directory string

func (d directory) path(name string) string { return filepath.Join(string(d), name) }

// waiting is a file whose calls count as waiting for the disk.
type waiting struct{ f *os.File }

func (w waiting) Write(p []byte) (int, error) {
	threads.Enter()
	defer threads.Leave()
	return w.f.Write(p)
}

func (w waiting) ReadAt(p []byte, off int64) (int, error) {
	threads.Enter()
	defer threads.Leave()
	return w.f.ReadAt(p, off)
}

func (w waiting) Sync() error {
	threads.Enter()
	defer threads.Leave()
	return w.f.Sync()
}

func (w waiting) Close() error {
	threads.Enter()
	defer threads.Leave()
	return w.f.Close()
}

func (w waiting) Stat() (fs.FileInfo, error) {
	threads.Enter()
	defer threads.Leave()
	return w.f.Stat()
}

func (d directory) create(name string) (file, error) {
	threads.Enter()
	defer threads.Leave()
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return waiting{f}, nil
}

func (d directory) open(name string) (file, error) {
	threads.Enter()
	defer threads.Leave()
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	return waiting{f}, nil
}

func (d directory) link(from, to string) error {
	threads.Enter()
	defer threads.Leave()
	return os.Link(d.path(from), d.path(to))
}

func (d directory) rename(from, to string) error {
	threads.Enter()
	defer threads.Leave()
	return os.Rename(d.path(from), d.path(to))
}

func (d directory) remove(name string) error {
	threads.Enter()
	defer threads.Leave()
	return os.Remove(d.path(name))
}

func (d directory) read(name string, limit int64) ([]byte, error) {
	threads.Enter()
	defer threads.Leave()
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d octets", name, limit)
	}
	return b, err
}

func (d directory) age(name string) (time.Time, error) {
	threads.Enter()
	defer threads.Leave()
	i, err := os.Stat(d.path(name))
	if err != nil {
		return time.Time{}, err
	}
	return i.ModTime(), nil
}

func (d directory) names(each func(name string)) error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		list, err := f.Readdirnames(1024)
		for _, n := range list {
			each(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// syncDir makes names durable. Some systems cannot, and say EINVAL or refuse to
// open a directory.
func (d directory) syncDir() error {
	threads.Enter()
	defer threads.Leave()
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, fs.ErrPermission) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// syncer lets everybody who waits for the directory share one sync.
type syncer struct {
	sync func() error

	mu      sync.Mutex // guards the fields below
	running bool
	next    *round
}

type round struct {
	done chan struct{}
	err  error
}

// wait returns after a sync that began after the call.
func (s *syncer) wait() error {
	s.mu.Lock()
	if s.next == nil {
		s.next = &round{done: make(chan struct{})}
	}
	mine := s.next
	if s.running { // whoever is syncing takes ours next
		s.mu.Unlock()
		<-mine.done
		return mine.err
	}
	s.running = true
	for s.next != nil {
		r := s.next
		s.next = nil
		s.mu.Unlock()
		r.err = s.sync()
		close(r.done)
		s.mu.Lock()
	}
	s.running = false
	s.mu.Unlock()
	return mine.err
}

// kinded gives an error of the disk its kind: everything there may be different
// later, except that a file is not there.
func kinded(err error, doing string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.NotFound, err, doing)
	case errors.Is(err, fs.ErrPermission):
		return fault.WithHint(fault.Wrap(fault.Busy, err, doing), "give the user that the server runs as write access to the queue's directory")
	}
	return fault.Wrap(fault.Busy, err, doing)
}

// suffixes of the files of an entry.
const (
	metaSuffix   = ".meta"
	newSuffix    = ".meta.new"
	bodySuffix   = ".body"
	halfSuffix   = ".body.new" // of the second predecessor, while it writes a body
	brokenSuffix = ".meta_broken"
	noteSuffix   = ".meta_note"
	headerSuffix = ".header" // of the first predecessor
)

// split takes a file name apart; suffix is "" for files that are not ours.
func split(name string) (base, suffix string) {
	for _, s := range []string{newSuffix, halfSuffix, metaSuffix, bodySuffix, brokenSuffix, noteSuffix, headerSuffix} {
		if b, ok := strings.CutSuffix(name, s); ok && b != "" && !strings.HasPrefix(b, ".") {
			return b, s
		}
	}
	return name, ""
}

package readable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"madmail/internal/task"
)

// Poller waits for many connections at once.
type Poller struct {
	file  *os.File
	raw   syscall.RawConn
	group task.Group

	mu      sync.Mutex // guards the fields below
	watches map[uint64]*Watch
	last    uint64
}

// Watch is one connection. It is disarmed at first and after each call.
type Watch struct {
	p  *Poller
	rc syscall.RawConn
	id uint64
	f  func()

	mu     sync.Mutex // guards the field below
	within bool       // the kernel knows the connection
}

// New starts a poller.
func New() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("readable: epoll: %w", err)
	}
	// The runtime's own poller waits for ours, so no thread sits in a system call.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("readable: epoll: %w", err)
	}
	p := &Poller{file: os.NewFile(uintptr(fd), "epoll"), watches: make(map[uint64]*Watch)}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
		return nil, fmt.Errorf("readable: epoll: %w", err)
	}
	p.group.Go("readable", p.run)
	return p, nil
}

// run ends when the file is closed.
func (p *Poller) run() {
	events := make([]unix.EpollEvent, 256)
	var ready []*Watch
	for {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			var err error
			for {
				if n, err = unix.EpollWait(int(fd), events, 0); err != unix.EINTR {
					break
				}
			}
			return n > 0 || err != nil
		})
		if err != nil {
			return
		}
		ready = ready[:0]
		p.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if w := p.watches[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]; w != nil {
				ready = append(ready, w)
			}
		}
		p.mu.Unlock()
		for _, w := range ready {
			w.f()
		}
	}
}

// Close stops the poller. No callback runs after it.
func (p *Poller) Close() error {
	err := p.file.Close()
	return errors.Join(err, p.group.Wait(context.Background()))
}

// Watch prepares to wait for conn. f is called once after each Arm, from the
// poller's goroutine, when there is something to read or the peer closed; it
// must return at once. Close the watch before the connection.
func (p *Poller) Watch(conn syscall.Conn, f func()) (*Watch, error) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("readable: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	w := &Watch{p: p, rc: rc, id: p.last, f: f}
	p.watches[w.id] = w
	return w, nil
}

// Arm asks for one call. What is readable already counts.
func (w *Watch) Arm() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	op := unix.EPOLL_CTL_MOD
	if !w.within {
		op = unix.EPOLL_CTL_ADD
	}
	if err := w.control(op, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLONESHOT); err != nil {
		return err
	}
	w.within = true
	return nil
}

func (w *Watch) control(op int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(uint32(w.id)), Pad: int32(uint32(w.id >> 32))}
	var err error
	outer := w.p.raw.Control(func(epoll uintptr) {
		inner := w.rc.Control(func(fd uintptr) { err = unix.EpollCtl(int(epoll), op, int(fd), &e) })
		err = errors.Join(err, inner)
	})
	if err = errors.Join(err, outer); err != nil {
		return fmt.Errorf("readable: %w", err)
	}
	return nil
}

// Close forgets the connection. A call that is under way may still happen.
func (w *Watch) Close() {
	w.p.mu.Lock()
	delete(w.p.watches, w.id)
	w.p.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.within {
		_ = w.control(unix.EPOLL_CTL_DEL, 0) // closing the connection would do it, too
		w.within = false
	}
}

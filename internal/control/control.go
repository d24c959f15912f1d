// Package control is the operator's door of a running server: the actions of
// ops over a unix socket, one JSON request and one JSON answer a connection.
// Who may use it is a matter of file permissions.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/task"
)

// SocketName is the socket's name in the runtime directory.
const SocketName = "control.sock"

const (
	maxRequest = 1 << 20
	timeout    = 2 * time.Minute
	maxAtOnce  = 32
)

// Runner runs an action by name.
type Runner interface {
	Run(ctx context.Context, name string, params json.RawMessage) (any, error)
}

// request is one line. Input octets follow it.
type request struct {
	Op     string          `json:"op"`
	Params json.RawMessage `json:"params,omitempty"`
	Input  int64           `json:"input,omitempty"`
}

type answer struct {
	Data  json.RawMessage `json:"data,omitempty"`
	Error string          `json:"error,omitempty"`
	Hint  string          `json:"hint,omitempty"`
	Kind  fault.Kind      `json:"kind,omitempty"`
}

// Server answers on a socket. It is a component.
type Server struct {
	path   string
	runner Runner
	group  task.Group

	mu sync.Mutex // guards the fields below
	l  net.Listener
	at int
}

// New returns a server for the socket in dir.
func New(dir string, r Runner, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{path: filepath.Join(dir, SocketName), runner: r}
	s.group.Panicked = func(_ string, v any, stack []byte) {
		log.Error("a control request panicked", "panic", fmt.Sprint(v), "stack", string(stack))
	}
	return s
}

// Start binds the socket. A socket that is there is stale: the caller holds the
// state lock.
func (s *Server) Start(context.Context) error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(fault.Internal, err, "control")
	}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return fault.WithHint(fault.Wrap(fault.Internal, err, "control"), "the runtime directory must be writable, and its path short")
	}
	if err := os.Chmod(s.path, 0o600); err != nil {
		l.Close()
		return fault.Wrap(fault.Internal, err, "control")
	}
	s.mu.Lock()
	s.l = l
	s.mu.Unlock()
	s.group.Go("accept", func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			full := s.at >= maxAtOnce
			if !full {
				s.at++
			}
			s.mu.Unlock()
			if full {
				// The answer fits into the socket's buffer: nobody can hold up the door.
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_ = json.NewEncoder(conn).Encode(answer{Error: "too many requests at once", Kind: fault.Busy})
				conn.Close()
				continue
			}
			s.group.Go("request", func() {
				defer func() {
					conn.Close()
					s.mu.Lock()
					s.at--
					s.mu.Unlock()
				}()
				s.serve(conn)
			})
		}
	})
	return nil
}

func (s *Server) serve(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var req request
	var a answer
	line := json.NewDecoder(io.LimitReader(conn, maxRequest))
	if err := line.Decode(&req); err != nil {
		a.Error, a.Kind = "malformed or too big request", fault.Invalid
	} else if ctx, err = withInput(ctx, req.Input, line.Buffered(), conn); err != nil {
		a = refused(err)
	} else if v, err := s.runner.Run(ctx, req.Op, req.Params); err != nil {
		a = refused(err)
	} else if a.Data, err = json.Marshal(v); err != nil {
		a = refused(err)
	}
	_ = json.NewEncoder(conn).Encode(a)
}

// withInput lets an action read the octets behind the request's line.
func withInput(ctx context.Context, n int64, read, rest io.Reader) (context.Context, error) {
	if n <= 0 {
		return ctx, nil
	}
	r := io.MultiReader(read, rest)
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil { // the end of the line
		return ctx, fault.Wrap(fault.Invalid, err, "control: read the input")
	}
	return ops.WithInput(ctx, r, n), nil
}

func refused(err error) answer {
	text := err.Error()
	if text == "" {
		text = "internal error" // an empty text would read as success
	}
	return answer{Error: text, Hint: fault.HintOf(err), Kind: fault.KindOf(err)}
}

// Stop unbinds the socket and waits for requests under way.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	if s.l != nil {
		s.l.Close()
	}
	s.mu.Unlock()
	return s.group.Wait(ctx)
}

// ErrNoServer says that nobody answers on the socket.
var ErrNoServer = errors.New("control: no server is running")

// Answers reports whether somebody listens on the socket in dir.
func Answers(ctx context.Context, dir string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, SocketName))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Call asks the server whose socket is in dir. Errors: ErrNoServer when there
// is no socket or nobody behind it, fault.Refused when this user may not open
// it, fault.Invalid for a request of more than 1 MiB, fault.Busy when the
// server ends before it answers; else what the action returned, with its kind.
func Call(ctx context.Context, dir, op string, params any) (json.RawMessage, error) {
	return CallWith(ctx, dir, op, params, nil, 0)
}

// CallWith is Call for an action that reads size octets of input, which may be
// more than a request.
func CallWith(ctx context.Context, dir, op string, params any, input io.Reader, size int64) (json.RawMessage, error) {
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "control")
	}
	if len(raw)+len(op) > maxRequest-64 {
		return nil, fault.New(fault.Invalid, "control: the request is too big")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, SocketName))
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fault.WithHint(fault.Wrap(fault.Refused, err, "control"), "run the command as root or as the server's user")
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoServer, err)
	}
	defer conn.Close()
	if dl, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(dl)
	}
	// A server that is full answers before it has read anything.
	werr := json.NewEncoder(conn).Encode(request{op, raw, size})
	if werr == nil && size > 0 {
		_, werr = io.CopyN(conn, input, size)
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return nil, fault.Wrap(fault.Busy, errors.Join(werr, err), "control: the server gave no answer")
	}
	if a.Error != "" {
		return nil, &fault.Error{Kind: a.Kind, Text: a.Error, Hint: a.Hint}
	}
	return a.Data, nil
}

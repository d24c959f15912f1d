package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"madmail/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type runner func(ctx context.Context, name string, params json.RawMessage) (any, error)

func (r runner) Run(ctx context.Context, name string, params json.RawMessage) (any, error) {
	return r(ctx, name, params)
}

// echo answers with what it was asked.
func echo(_ context.Context, name string, params json.RawMessage) (any, error) {
	return map[string]any{"op": name, "params": params}, nil
}

func start(t testing.TB, dir string, r runner, log *slog.Logger) *Server {
	t.Helper()
	s := New(dir, r, log)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := s.Stop(ctx); err != nil {
			t.Errorf("a second stop: %v", err)
		}
	})
	return s
}

func TestACallComesBack(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, echo, nil)
	got, err := Call(t.Context(), dir, "status", map[string]int{"n": 7})
	if err != nil || string(got) != `{"op":"status","params":{"n":7}}` {
		t.Errorf("%s, %v", got, err)
	}
	if st, err := os.Stat(filepath.Join(dir, SocketName)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v; only the owner may open it", st.Mode(), err)
	}
}

// TestErrorsKeepTheirKind: kind, text and hint are the same on both sides.
func TestErrorsKeepTheirKind(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, func(_ context.Context, name string, _ json.RawMessage) (any, error) {
		for _, k := range fault.Kinds() {
			if k.String() == name {
				return nil, fault.WithHint(fault.New(k, "text of "+name), "hint of "+name)
			}
		}
		switch name {
		case "plain":
			return nil, errors.New("plain text")
		case "empty":
			return nil, errors.New("")
		case "unprintable":
			return make(chan int), nil
		}
		return nil, nil
	}, nil)
	for _, k := range fault.Kinds() {
		_, err := Call(t.Context(), dir, k.String(), nil)
		if err == nil || fault.KindOf(err) != k || err.Error() != "text of "+k.String() || fault.HintOf(err) != "hint of "+k.String() {
			t.Errorf("%s: %v (%s), hint %q", k, err, fault.KindOf(err), fault.HintOf(err))
		}
	}
	for _, op := range []string{"plain", "empty", "unprintable"} {
		if got, err := Call(t.Context(), dir, op, nil); err == nil || fault.KindOf(err) != fault.Internal || err.Error() == "" {
			t.Errorf("%s: %s, %v", op, got, err)
		}
	}
	if got, err := Call(t.Context(), dir, "nothing", nil); err != nil || string(got) != "null" {
		t.Errorf("nothing: %s, %v", got, err)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SocketName)
	if _, err := Call(t.Context(), dir, "status", nil); !errors.Is(err, ErrNoServer) {
		t.Errorf("no socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as after a crash
	l.Close()
	if _, err := Call(t.Context(), dir, "status", nil); !errors.Is(err, ErrNoServer) || Answers(t.Context(), dir) {
		t.Errorf("nobody behind the socket: %v", err)
	}
	s := start(t, dir, echo, nil)
	if !Answers(t.Context(), dir) {
		t.Error("nobody answers")
	}
	if _, err := Call(t.Context(), dir, "status", nil); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays after a stop: %v", err)
	}
	if err := os.WriteFile(path, []byte("a plain file"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, dir, echo, nil)
	if _, err := Call(t.Context(), dir, "status", nil); err != nil {
		t.Error(err)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	blocked := t.TempDir()
	if err := os.MkdirAll(filepath.Join(blocked, SocketName, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"path too long": long, "no directory": filepath.Join(t.TempDir(), "none"), "a directory in the way": blocked} {
		s := New(dir, runner(echo), nil)
		if err := s.Start(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "control: ") {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("%s: stop %v", name, err)
		}
	}
}

// TestRequestsRunSideBySide: one that waits holds up nobody.
func TestRequestsRunSideBySide(t *testing.T) {
	dir := t.TempDir()
	entered, leave := make(chan struct{}), make(chan struct{})
	start(t, dir, func(ctx context.Context, name string, p json.RawMessage) (any, error) {
		if name == "slow" {
			close(entered)
			<-leave
		}
		return echo(ctx, name, p)
	}, nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := Call(t.Context(), dir, "slow", nil); err != nil {
			t.Error(err)
		}
	})
	<-entered
	for range 50 {
		if _, err := Call(t.Context(), dir, "quick", nil); err != nil {
			t.Error(err)
		}
	}
	close(leave)
	wg.Wait()
}

func TestTooManyAtOnceAreToldSo(t *testing.T) {
	dir := t.TempDir()
	entered, leave := make(chan struct{}), make(chan struct{})
	start(t, dir, func(context.Context, string, json.RawMessage) (any, error) {
		entered <- struct{}{}
		<-leave
		return nil, nil
	}, nil)
	var wg sync.WaitGroup
	for range maxAtOnce {
		wg.Go(func() {
			if _, err := Call(t.Context(), dir, "wait", nil); err != nil {
				t.Error(err)
			}
		})
		<-entered
	}
	if _, err := Call(t.Context(), dir, "one more", nil); !fault.Is(err, fault.Busy) || !strings.Contains(err.Error(), "too many requests") {
		t.Errorf("got %v", err)
	}
	close(leave)
	wg.Wait()
	go func() { <-entered }() // ends with the call below
	if _, err := Call(t.Context(), dir, "again", nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestBadInputIsRefused(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, echo, nil)
	if _, err := Call(t.Context(), dir, "big", strings.Repeat("x", 2<<20)); !fault.Is(err, fault.Invalid) {
		t.Errorf("2 MiB: %v", err)
	}
	if _, err := Call(t.Context(), dir, "bad", make(chan int)); !fault.Is(err, fault.Invalid) {
		t.Errorf("no JSON form: %v", err)
	}
	if got, err := Call(t.Context(), dir, "fits", strings.Repeat("x", 900<<10)); err != nil || len(got) < 900<<10 {
		t.Errorf("900 KiB: %d, %v", len(got), err)
	}
	for name, text := range map[string]string{
		"no JSON": "hello\n", "another shape": "[1]\n", "op is a number": `{"op":7}` + "\n", "half": `{"op":"x"`,
		"huge": `{"op":"` + strings.Repeat("x", 3<<20), "spaces": strings.Repeat(" ", 2<<20), "deep": strings.Repeat("[", 100_000), "nothing": "",
	} {
		conn, err := net.Dial("unix", filepath.Join(dir, SocketName))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.WriteString(conn, text) // the server may stop reading
			_ = conn.(*net.UnixConn).CloseWrite()
		})
		var a answer
		if err := json.NewDecoder(conn).Decode(&a); err != nil || a.Kind != fault.Invalid || a.Error == "" {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		conn.Close()
		wg.Wait()
	}
	if _, err := Call(t.Context(), dir, "status", nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAPanicEndsOneRequest(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s := start(t, dir, func(ctx context.Context, name string, p json.RawMessage) (any, error) {
		if name == "bad" {
			panic("by design")
		}
		return echo(ctx, name, p)
	}, slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := Call(t.Context(), dir, "bad", "params"); !fault.Is(err, fault.Busy) {
		t.Errorf("got %v", err)
	}
	if _, err := Call(t.Context(), dir, "good", nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "by design") || strings.Contains(log.String(), "params") && strings.Contains(log.String(), `"params"`) {
		t.Errorf("log: %s", log.String())
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	leave := make(chan struct{})
	start(t, dir, func(context.Context, string, json.RawMessage) (any, error) { <-leave; return nil, nil }, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Call(ctx, dir, "wait", nil); !fault.Is(err, fault.Busy) {
		t.Errorf("got %v", err)
	}
	close(leave)
}

// FuzzServe feeds the server bytes and expects one JSON answer, whatever they are.
func FuzzServe(f *testing.F) {
	for _, s := range []string{`{"op":"x"}`, `{"op":"x","params":{"a":[1]}}`, "", "{", "null", "[]", `{"op":1}`, `{"op":"x"}{"op":"y"}`, "\x00", `{"op":"\ud800"}`} {
		f.Add([]byte(s))
	}
	s := New(f.TempDir(), runner(echo), nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &wire{in: bytes.NewReader(data)}
		s.serve(c)
		var a answer
		if err := json.Unmarshal(c.out.Bytes(), &a); err != nil || (a.Error == "") == (a.Data == nil) {
			t.Fatalf("%q: %s, %v", data, c.out.Bytes(), err)
		}
	})
}

// wire is a connection of which only the bytes matter.
type wire struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error)  { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error) { return w.out.Write(p) }
func (w *wire) SetDeadline(time.Time) error { return nil }

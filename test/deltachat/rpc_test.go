//go:build deltachat

// Package deltachat drives the real Delta Chat core against a real server.
package deltachat

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// event is something a profile tells.
type event struct {
	Account int
	Kind    string
	Fields  map[string]any
}

func (e event) num(k string) int { n, _ := e.Fields[k].(float64); return int(n) }

// core is one process of the Delta Chat core.
type core struct {
	t     testing.TB
	dir   string // of its profiles
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{} // its output is

	mu       sync.Mutex // guards the fields below
	next     int
	calls    map[int]chan reply
	events   []event
	troubles int           // answers that could not be read
	news     chan struct{} // closed and replaced when events come
}

type reply struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// program finds the core's binary in the npm package of this platform.
func program(t testing.TB) string {
	arch := map[string]string{"amd64": "x64", "arm64": "arm64", "386": "ia32", "arm": "arm"}[runtime.GOARCH]
	path := filepath.Join("node_modules", "@deltachat", "stdio-rpc-server-"+runtime.GOOS+"-"+arch, "deltachat-rpc-server")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the Delta Chat core is not here: %v; run make test-deltachat", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func startCore(t testing.TB) *core {
	t.Helper()
	return startCoreBy(t)
}

// startCoreBy starts the core by another command, which gets its path as its last
// argument.
func startCoreBy(t testing.TB, command ...string) *core {
	t.Helper()
	return startCoreIn(t, filepath.Join(t.TempDir(), "accounts"), command...)
}

// startCoreIn is startCoreBy with the directory of the profiles.
func startCoreIn(t testing.TB, dir string, command ...string) *core {
	t.Helper()
	c := &core{t: t, dir: dir, ended: make(chan struct{}), calls: make(map[int]chan reply), news: make(chan struct{})}
	command = append(command, program(t))
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Env = append(os.Environ(), "DC_ACCOUNTS_PATH="+dir, "RUST_LOG=warn")
	if os.Getenv("DC_VERBOSE") != "" {
		c.cmd.Stderr = os.Stderr
	}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { defer close(c.ended); c.read(out) })
	wg.Go(c.pump)
	t.Cleanup(func() {
		c.in.Close()
		timer := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
		wg.Wait()
		timer.Stop()
		_ = c.cmd.Wait()
	})
	return c
}

// crash kills the process and starts another one, by the same command, over what
// it left behind. Whoever waits for an answer of the old one gets none.
func (p *person) crash(command ...string) *person {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		p.t.Fatal("the client outlived its end")
	}
	again := &person{core: startCoreIn(p.t, p.dir, command...), id: p.id, address: p.address}
	mark := again.mark()
	again.call(nil, "start_io", again.id)
	again.waitKind(mark, again.id, "ImapInboxIdle")
	return again
}

// read takes answers off the process's output until it ends.
func (c *core) read(out io.Reader) {
	r := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			break
		}
		var msg struct {
			ID int `json:"id"`
			reply
		}
		if err := json.Unmarshal(line, &msg); err != nil {
			c.mu.Lock()
			c.events = append(c.events, event{0, "Trouble", map[string]any{"line": err.Error()}})
			c.mu.Unlock()
			continue
		}
		c.mu.Lock()
		ch := c.calls[msg.ID]
		delete(c.calls, msg.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- msg.reply
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, ch := range c.calls {
		close(ch)
		delete(c.calls, id)
	}
	c.calls = nil
}

func (c *core) send(method string, params []any) chan reply {
	ch := make(chan reply, 1)
	if params == nil {
		params = []any{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		close(ch)
		return ch
	}
	c.next++
	c.calls[c.next] = ch
	b, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": c.next, "method": method, "params": params})
	if err == nil {
		_, err = c.in.Write(append(b, '\n'))
	}
	if err != nil {
		delete(c.calls, c.next)
		close(ch)
	}
	return ch
}

// pump keeps a request for events outstanding. One that is not answered for
// long is left to itself and another is made: events go to whoever asks first.
func (c *core) pump() {
	var late sync.WaitGroup
	defer late.Wait()
	for {
		ch := c.send("get_next_event_batch", nil)
		select {
		case r, ok := <-ch:
			if !c.take(r, ok) {
				return
			}
		case <-time.After(15 * time.Second):
			late.Go(func() {
				r, ok := <-ch
				c.take(r, ok)
			})
		}
	}
}

// take files events and reports whether there may be more.
func (c *core) take(r reply, ok bool) bool {
	if !ok {
		return false
	}
	var batch []struct {
		ContextID int            `json:"contextId"`
		Event     map[string]any `json:"event"`
	}
	trouble := ""
	if r.Error != nil {
		trouble = r.Error.Message
	} else if err := json.Unmarshal(r.Result, &batch); err != nil {
		trouble = err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if trouble != "" {
		c.events = append(c.events, event{0, "Trouble", map[string]any{"events": trouble}})
		c.troubles++
	}
	for _, b := range batch {
		kind, _ := b.Event["kind"].(string)
		if kind == "ImexProgress" {
			continue // a thousand of each transfer
		}
		c.events = append(c.events, event{b.ContextID, kind, b.Event})
	}
	close(c.news)
	c.news = make(chan struct{})
	return c.troubles < 20
}

// try calls a method and returns its error.
func (c *core) try(out any, method string, params ...any) error {
	c.t.Helper()
	select {
	case r, ok := <-c.send(method, params):
		switch {
		case !ok:
			return fmt.Errorf("%s: the core ended", method)
		case r.Error != nil:
			return fmt.Errorf("%s: %s", method, r.Error.Message)
		case out != nil:
			return json.Unmarshal(r.Result, out)
		}
		return nil
	case <-time.After(90 * time.Second):
		return fmt.Errorf("%s: no answer", method)
	}
}

func (c *core) call(out any, method string, params ...any) {
	c.t.Helper()
	if err := c.try(out, method, params...); err != nil {
		c.t.Fatal(err)
	}
}

// mark returns a position in the stream of events, to wait from.
func (c *core) mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.events)
}

// until waits until something is so that no event may tell of.
func (c *core) until(what string, so func() bool) {
	c.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("%s: not within a minute", what)
		}
	}
}

// wait returns the first event from mark on that is of a profile and satisfies ok.
func (c *core) wait(mark, account int, what string, ok func(event) bool) event {
	c.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		c.mu.Lock()
		fresh := c.events[min(mark, len(c.events)):]
		news := c.news
		c.mu.Unlock()
		// Outside the lock: the condition may ask the core.
		for _, e := range fresh {
			mark++
			if e.Account == account && ok(e) {
				return e
			}
		}
		select {
		case <-news:
		case <-deadline:
			c.mu.Lock()
			var seen []string
			for _, e := range c.events[max(0, len(c.events)-60):] {
				seen = append(seen, fmt.Sprintf("%d %s %v", e.Account, e.Kind, e.Fields))
			}
			c.mu.Unlock()
			c.t.Fatalf("profile %d: %s did not come within a minute; last events:\n%s", account, what, joinLines(seen))
		}
	}
}

func joinLines(l []string) string {
	s := ""
	for _, x := range l {
		if len(x) > 300 {
			x = x[:300]
		}
		s += x + "\n"
	}
	return s
}

func (c *core) waitKind(mark, account int, kind string) event {
	c.t.Helper()
	return c.wait(mark, account, kind, func(e event) bool { return e.Kind == kind })
}

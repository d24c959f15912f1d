package crash

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// The domains of the other side: addresses, whose servers may be reached in clear text.
const (
	takes   = "[192.0.2.1]" // every message
	delays  = "[192.0.2.2]" // every message, at its second try
	refuses = "[192.0.2.3]" // every recipient
)

// farSide is a mail server for the three domains.
type farSide struct {
	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	conns map[net.Conn]bool
	tries map[string]int // Message-ID to tries
	got   map[string]int // Message-ID to copies taken
}

func newFarSide(t *testing.T) *farSide {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &farSide{ln: ln, conns: make(map[net.Conn]bool), tries: make(map[string]int), got: make(map[string]int)}
	f.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[c] = true
			f.mu.Unlock()
			f.wg.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		f.mu.Lock()
		for c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		f.wg.Wait()
	})
	return f
}

var identity = regexp.MustCompile(`(?m)^Message-ID: (<[^>]+>)`)

func (f *farSide) serve(c net.Conn) {
	defer func() {
		c.Close()
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
	}()
	br := bufio.NewReader(c)
	to := ""
	fmt.Fprint(c, "220 far.example\r\n")
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return
		}
		switch verb := strings.ToUpper(line[:min(4, len(line))]); verb {
		case "EHLO":
			fmt.Fprint(c, "250-far.example\r\n250 8BITMIME\r\n")
		case "RCPT":
			to = line
			if strings.Contains(line, refuses) {
				fmt.Fprint(c, "550 5.1.1 No such user\r\n")
				continue
			}
			fmt.Fprint(c, "250 2.1.5 OK\r\n")
		case "DATA":
			fmt.Fprint(c, "354 Go on\r\n")
			var text strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(line)
			}
			fmt.Fprint(c, f.take(to, text.String()))
		default:
			fmt.Fprint(c, "250 2.0.0 OK\r\n")
		}
	}
}

func (f *farSide) take(to, text string) string {
	m := identity.FindStringSubmatch(text)
	if m == nil {
		return "554 5.6.0 No Message-ID\r\n"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries[m[1]]++
	if strings.Contains(to, delays) && f.tries[m[1]] == 1 {
		return "451 4.3.0 Later\r\n"
	}
	f.got[m[1]]++
	return "250 2.0.0 OK\r\n"
}

func (f *farSide) copies(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.got[id]
}

// notifications counts those in an INBOX on disk by the message they are about.
func notifications(t *testing.T, dir string) map[string]int {
	t.Helper()
	n := make(map[string]int)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if sub := filepath.Base(filepath.Dir(path)); sub != "new" && sub != "cur" {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		_, original, found := strings.Cut(string(b), "Content-Type: text/rfc822-headers")
		m := identity.FindStringSubmatch(original)
		if !found || m == nil || !strings.Contains(string(b), "\r\nAction: failed\r\n") {
			return fmt.Errorf("%s is no notification", path)
		}
		n[m[1]]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKillWithAQueue kills the server again and again while it queues messages, tries
// them, puts them off and tells their senders: what was answered 250 arrives or its
// sender is told, and nobody is told twice.
func TestKillWithAQueue(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	far := newFarSide(t)
	srv := testserver.New(t, "queue_initial_retry = \"1s\"\nqueue_post_init_delay = \"0s\"\n")
	for _, d := range []string{takes, delays, refuses} {
		srv.Command("endpoint-cache", "set", d, "smtp://"+far.ln.Addr().String())
	}
	target := load.Target{SMTP: fmt.Sprintf("127.0.0.1:%d", srv.SubmissionTLS), IMAP: fmt.Sprintf("127.0.0.1:%d", srv.IMAPTLS), Domain: "[127.0.0.1]", Password: password}
	const senders = 4
	if err := target.Ensure("sender%04d", senders); err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	promised := make(map[string]string) // Message-ID to domain
	var n counter
	total := rounds(t)
	for k := range total {
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				user := fmt.Sprintf("sender%04d", i)
				s, err := target.NewSender(user)
				if err != nil {
					return
				}
				defer s.Close()
				for {
					number := n.next()
					to := []string{takes, delays, refuses, refuses}[number%4]
					id, text := message(user+"@"+target.Domain, number, 1500)
					if _, err := s.Send([]string{"somebody@" + to}, text); err != nil {
						return
					}
					mu.Lock()
					promised[id] = to
					mu.Unlock()
				}
			})
		}
		<-time.After(time.Duration(100+rnd.IntN(400)) * time.Millisecond) // the random point
		srv.Kill()
		wg.Wait()
		for range rnd.IntN(3) { // while it finishes what was interrupted, too
			srv.Launch()
			<-time.After(time.Duration(rnd.IntN(150)) * time.Millisecond)
			srv.Kill()
		}
		if k%10 != 9 && k != total-1 {
			srv.Start()
			continue
		}
		// All that waits goes out.
		srv.Start()
		for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(srv.Command("queue", "status", "--json"), `"count":0,`); {
			if time.Now().After(deadline) {
				t.Fatalf("the queue does not empty: %s", srv.Command("queue", "list"))
			}
			srv.Command("queue", "retry")
		}
		srv.Stop() // now everything is in files
		told := make(map[string]int)
		for i := range senders {
			for id, n := range notifications(t, filepath.Join(srv.Dir, "mail", fmt.Sprintf("sender%04d@%s", i, target.Domain))) {
				told[id] += n
			}
		}
		for id, n := range told {
			if n != 1 {
				t.Errorf("the sender of %s was told %d times", id, n)
			}
		}
		for id, to := range promised {
			switch {
			case to == refuses && told[id] == 0:
				t.Errorf("%s was refused and nobody was told", id)
			case to != refuses && far.copies(id) == 0:
				t.Errorf("%s to %s was answered 250 and never arrived", id, to)
			case to != refuses && told[id] != 0:
				t.Errorf("%s to %s arrived and its sender was told that it failed", id, to)
			}
		}
		if broken, _ := filepath.Glob(filepath.Join(srv.Dir, "remote_queue", "*")); len(broken) != 0 {
			for _, b := range broken {
				if !strings.HasSuffix(b, ".body") { // a body alone goes an hour later
					t.Errorf("left in the queue: %s", b)
				}
			}
		}
		if t.Failed() {
			t.Fatalf("in round %d", k)
		}
		srv.Start()
	}
	if len(promised) < 10*total {
		t.Errorf("only %d messages in %d rounds: the load does not run", len(promised), total)
	}
	t.Logf("%d rounds, %d messages", total, len(promised))
}

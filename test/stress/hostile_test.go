package stress

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// rss returns the server's resident memory in MiB.
func rss(t *testing.T, srv *testserver.Server) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", srv.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// conn is a raw connection, a minute long at most.
func conn(t *testing.T, port int, secure bool) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c, bufio.NewReader(c)
}

func line(t *testing.T, br *bufio.Reader) string {
	t.Helper()
	s, err := br.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(s, "\r\n")
}

// ends reads until the server closes, and returns the last line.
func ends(t *testing.T, br *bufio.Reader) (last string) {
	t.Helper()
	for {
		s, err := br.ReadString('\n')
		if s != "" {
			last = strings.TrimRight(s, "\r\n")
		}
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatalf("the connection stays open; last line %q", last)
			}
			return last
		}
	}
}

// repeat writes s many times; the other side may close at any moment.
func repeat(c io.Writer, s string, n int) {
	block := strings.Repeat(s, max(1, 65536/len(s)))
	for range n * len(s) / len(block) {
		if _, err := io.WriteString(c, block); err != nil {
			return
		}
	}
}

// TestHostilePeersAreBounded lets peers misbehave one after the other: each gets
// a clear answer or is cut off, the server's memory stays bounded, and in the end
// ordinary clients are served as before.
func TestHostilePeersAreBounded(t *testing.T) {
	srv := testserver.New(t, "")
	tg := target(srv)
	if err := tg.Ensure("victimno%d", 2); err != nil {
		t.Fatal(err)
	}
	before := rss(t, srv)
	const room = 60 // MiB; the inputs below are larger together and alone

	login := func(t *testing.T) (net.Conn, *bufio.Reader) {
		c, br := conn(t, srv.IMAPTLS, true)
		line(t, br)
		fmt.Fprintf(c, "a LOGIN \"victimno0@[127.0.0.1]\" %s\r\n", password)
		if l := line(t, br); !strings.HasPrefix(l, "a OK ") {
			t.Fatal(l)
		}
		return c, br
	}

	t.Run("a million recipients", func(t *testing.T) {
		c, br := conn(t, srv.SMTP, false)
		line(t, br)
		fmt.Fprint(c, "HELO x\r\nMAIL FROM:<a@peer.example>\r\n")
		counts := map[string]int{}
		done := make(chan struct{})
		go func() { // ends with the connection
			defer close(done)
			for {
				s, err := br.ReadString('\n')
				if err != nil || len(s) < 3 {
					return
				}
				counts[s[:3]]++
			}
		}()
		for i := range 1_000_000 / 1000 {
			var b strings.Builder
			for k := range 1000 {
				fmt.Fprintf(&b, "RCPT TO:<u%d@[127.0.0.1]>\r\n", i*1000+k)
			}
			if _, err := io.WriteString(c, b.String()); err != nil {
				break
			}
		}
		c.(*net.TCPConn).CloseWrite()
		<-done
		if counts["452"] == 0 && counts["421"] == 0 {
			t.Errorf("answers: %v", counts)
		}
		if counts["250"] > 25_000 {
			t.Errorf("%d recipients taken", counts["250"])
		}
	})

	for _, x := range []struct {
		name, send, say string
		times           int
		imap            bool
		want            string
	}{
		{"an SMTP line without end", "x", "", 20 << 20, false, "421 "},
		{"an IMAP line without end", "x", "", 20 << 20, true, `\* BYE `},
		{"an IMAP literal larger than allowed, without waiting", "x", "a LOGIN {999999999+}\r\n", 20 << 20, true, `\* BYE `},
		{"NUL octets to SMTP", "\x00", "", 1 << 20, false, "421 "},
		{"garbage to SMTP", "GET / HTTP/1.1\r\n\r\n", "", 100_000, false, "421 |^50"},
		{"garbage to IMAP", "GET / HTTP/1.1\r\n\r\n", "", 100_000, true, `(\* B|GET BAD )`},
	} {
		t.Run(x.name, func(t *testing.T) {
			port := srv.SMTP
			if x.imap {
				port = srv.IMAP
			}
			c, br := conn(t, port, false)
			line(t, br)
			go func() { // ends with the connection
				_, _ = io.WriteString(c, x.say)
				repeat(c, x.send, x.times)
			}()
			// The words may be lost when we are still writing as the server closes.
			if last := ends(t, br); last != "" && !regexp.MustCompile("^"+x.want).MatchString(last) {
				t.Errorf("last words %q, want %q", last, x.want)
			}
		})
	}

	t.Run("a literal larger than allowed, asked for", func(t *testing.T) {
		c, br := login(t)
		for _, cmd := range []string{"b SELECT {99999999}\r\n", "b APPEND INBOX {99999999999}\r\n"} {
			fmt.Fprint(c, cmd)
			if l := line(t, br); !strings.HasPrefix(l, "b BAD") && !strings.HasPrefix(l, "b NO ") {
				t.Errorf("%q: %s", cmd, l)
			}
		}
	})

	t.Run("parentheses, sets and patterns", func(t *testing.T) {
		c, br := login(t)
		fmt.Fprint(c, "s SELECT INBOX\r\n")
		for !strings.HasPrefix(line(t, br), "s ") {
		}
		var set strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&set, "%d,", 2*i+1)
		}
		for _, cmd := range []string{
			"UID SEARCH " + strings.Repeat("(", 5000) + "ALL" + strings.Repeat(")", 5000),
			"UID SEARCH " + strings.Repeat("NOT ", 5000) + "ALL",
			"UID FETCH " + set.String() + "1 FLAGS",
			"UID FETCH 1:4294967295 (" + strings.Repeat("BODY.PEEK[] ", 700) + "FLAGS)",
			`LIST "" ` + strings.Repeat("%*", 2000),
			"FETCH 1 BODY[" + strings.Repeat("1.", 3000) + "1]",
		} {
			fmt.Fprint(c, "b "+cmd+"\r\n")
			for {
				l := line(t, br)
				if strings.HasPrefix(l, "b ") {
					break
				}
			}
		}
	})

	t.Run("half-open handshakes", func(t *testing.T) {
		for _, port := range []int{srv.IMAPTLS, srv.SubmissionTLS, srv.HTTPS} {
			for range 300 {
				c, _ := conn(t, port, false)
				_, _ = c.Write([]byte{22, 3, 1, 2}) // the beginning of a record
			}
		}
		for range 100 { // and after STARTTLS
			c, br := conn(t, srv.Submission, false)
			line(t, br)
			fmt.Fprint(c, "STARTTLS\r\n")
			if l := line(t, br); !strings.HasPrefix(l, "503 ") {
				t.Fatal(l)
			}
			fmt.Fprint(c, "EHLO x\r\nSTARTTLS\r\n")
			for !strings.HasPrefix(line(t, br), "220 ") {
			}
			_, _ = c.Write([]byte{22, 3, 1, 2})
		}
		login(t)
	})

	t.Run("slow senders, each with a large message", func(t *testing.T) {
		part := strings.Repeat(strings.Repeat("x", 998)+"\r\n", 2048) // 2 MB
		for range 50 {
			c, br := conn(t, srv.SMTP, false)
			line(t, br)
			fmt.Fprint(c, "HELO x\r\nMAIL FROM:<a@peer.example>\r\nRCPT TO:<victimno1@[127.0.0.1]>\r\nDATA\r\n")
			for !strings.HasPrefix(line(t, br), "354 ") {
			}
			if _, err := io.WriteString(c, "From: <a@peer.example>\r\n\r\n"+part); err != nil {
				t.Fatal(err)
			}
		}
		if now := rss(t, srv); now > before+room {
			t.Errorf("with 100 MB under way resident memory went from %d to %d MiB", before, now)
		}
		login(t)
	})

	if after := rss(t, srv); after > before+room {
		t.Errorf("resident memory went from %d to %d MiB", before, after)
	}
	s, err := tg.NewSender("victimno0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Send([]string{"victimno1@[127.0.0.1]"}, load.Message("victimno0@[127.0.0.1]", 2000)); err != nil {
		t.Error(err)
	}
}

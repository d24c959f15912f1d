package smtpserver

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counted counts writes: each is one packet, or one TLS record.
type counted struct {
	net.Conn
	writes atomic.Int32
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// TestABatchIsAnsweredByOneWrite, and so is a command whose answer has many lines.
func TestABatchIsAnsweredByOneWrite(t *testing.T) {
	d := &desk{}
	s, err := New(options(d))
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	c := &counted{Conn: b}
	s.start(c, MX)
	br := bufio.NewReader(a)
	expect(t, br, "220")
	ask := func(writes int32, batch string, replies ...string) {
		t.Helper()
		before := c.writes.Load()
		if _, err := io.WriteString(a, batch); err != nil {
			t.Fatal(err)
		}
		for _, r := range replies {
			expect(t, br, r)
		}
		if n := c.writes.Load() - before; n != writes {
			t.Errorf("%q was answered by %d writes, want %d", batch, n, writes)
		}
	}
	ask(1, "EHLO x\r\n", "250-mx.test", "250-PIPELINING", "250-8BITMIME", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES", "250-CHUNKING", "250-SIZE 1000", "250 STARTTLS")
	ask(1, "MAIL FROM:<a@b.org>\r\nRCPT TO:<b@x.org>\r\nRCPT TO:<c@x.org>\r\nRCPT TO:<d@elsewhere.org>\r\nDATA\r\n", "250", "250", "250", "550", "354")
	// The message ends within a batch: its answer goes with those that follow.
	ask(1, "text\r\n.\r\nNOOP\r\nMAIL FROM:<a@b.org>\r\nRSET\r\nNOOP\r\n", "250", "250", "250", "250", "250")
	ask(1, "QUIT\r\n", "221")
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestAMessageDoesNotTakeForEver, though it comes steadily.
func TestAMessageDoesNotTakeForEver(t *testing.T) {
	for name, how := range map[string]struct {
		begin, more, reply string
		every              time.Duration
	}{
		"DATA":                    {"DATA\r\n", strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1024), "354", 30 * time.Second},
		"chunks":                  {"BDAT 2\r\n\r\n", "BDAT 65536\r\n" + strings.Repeat(strings.Repeat("x", 62)+"\r\n", 1024), "250", 30 * time.Second},
		"chunks that never begin": {"BDAT 0\r\n", "BDAT 0\r\n", "250", time.Minute},
		"commands between chunks": {"BDAT 2\r\n\r\n", "NOOP\r\n", "250", time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &desk{}
				opt := options(d)
				opt.MaxSize = func(Mode) int64 { return 1 << 40 }
				s, conn, br := pipe(t, opt, MX)
				expect(t, br, "220")
				for _, l := range []string{"HELO x", "MAIL FROM:<a@b.org>", "RCPT TO:<c@x.org>"} {
					fmt.Fprintf(conn, "%s\r\n", l)
					expect(t, br, "250")
				}
				fmt.Fprint(conn, how.begin)
				expect(t, br, how.reply)
				start := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() {
					for {
						if _, err := io.WriteString(conn, how.more); err != nil {
							return
						}
						time.Sleep(how.every) // fake time
					}
				})
				line := ""
				for !strings.HasPrefix(line, "421") {
					var err error
					if line, err = br.ReadString('\n'); err != nil {
						t.Fatal(err)
					}
				}
				if took := time.Since(start); took < 2*time.Hour || took > 2*time.Hour+2*time.Minute {
					t.Errorf("it was cut off after %v", took)
				}
				conn.Close()
				wg.Wait()
				if err := s.Stop(t.Context()); err != nil {
					t.Error(err)
				}
				if len(d.letters()) != 0 {
					t.Error("a message that was cut off was stored")
				}
			})
		})
	}
}

// TestALoginUnderWayIsToldToo when the server stops, and when it takes too long.
func TestALoginUnderWayIsToldToo(t *testing.T) {
	for want, end := range map[string]func(*testing.T, *Server) error{
		"421 4.3.2": func(t *testing.T, s *Server) error { return s.Stop(t.Context()) },
		"421 4.4.2": func(*testing.T, *Server) error { return nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			opt := options(&desk{})
			opt.AllowInsecureAuth = true
			s, conn, br := pipe(t, opt, Submission)
			expect(t, br, "220")
			fmt.Fprint(conn, "HELO x\r\nAUTH LOGIN "+base64.StdEncoding.EncodeToString([]byte("a@x.org"))+"\r\n")
			expect(t, br, "250")
			expect(t, br, "334")
			synctest.Wait()
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := end(t, s); err != nil {
					t.Error(err)
				}
			})
			expect(t, br, want)
			if _, err := br.ReadByte(); err != io.EOF {
				t.Errorf("the connection is still open: %v", err)
			}
			wg.Wait()
			if err := s.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAddressesOutsideASCIINeedSMTPUTF8 announced, and used for this message.
func TestAddressesOutsideASCIINeedSMTPUTF8(t *testing.T) {
	d := &desk{}
	_, addr := serve(t, options(d), MX)
	c := dial(t, addr)
	for _, x := range [][2]string{
		{"EHLO x", "250-mx.test"}, {"", "250-PIPELINING"}, {"", "250-8BITMIME"}, {"", "250-SMTPUTF8"}, {"", "250-ENH"}, {"", "250-CH"}, {"", "250-SIZE"}, {"", "250 STARTTLS"},
		{"MAIL FROM:<jürgen@b.org>", "553 5.6.7"},
		{"MAIL FROM:<a@b.org>", "250"}, {"RCPT TO:<jürgen@x.org>", "553 5.6.7"}, {"RSET", "250"},
		{"MAIL FROM:<jürgen@b.org> SMTPUTF8", "250"}, {"RCPT TO:<jürgen@x.org>", "250"}, {"DATA", "354"}, {"text\r\n.", "250"},
		{"MAIL FROM:<a@b.org>", "250"}, {"RCPT TO:<jürgen@x.org>", "553 5.6.7"}, // it does not outlive its transaction
	} {
		if x[0] != "" {
			fmt.Fprintf(c.conn, "%s\r\n", x[0])
		}
		expect(t, c.br, x[1])
	}
	if l := d.letters(); len(l) != 1 || l[0].env.From.Local() != "jürgen" {
		t.Errorf("%d letters", len(l))
	}
}

// TestATooLargeSizeIsTold as what it is, whatever the width of the number.
func TestATooLargeSizeIsTold(t *testing.T) {
	_, addr := serve(t, options(&desk{}), MX)
	c := dial(t, addr)
	for _, x := range [][2]string{
		{"HELO x", "250"},
		{"MAIL FROM:<a@b.org> SIZE=1001", "552 5.3.4"},
		{"MAIL FROM:<a@b.org> SIZE=4294967297", "552 5.3.4"},           // 1 in 32 bits
		{"MAIL FROM:<a@b.org> SIZE=18446744073709551617", "552 5.3.4"}, // 1 in 64 bits
		{"MAIL FROM:<a@b.org> SIZE=9223372036854775808", "552 5.3.4"},  // the least number in 64 bits
		{"MAIL FROM:<a@b.org> SIZE=-1", "501 5.5.4"},
		{"MAIL FROM:<a@b.org> SIZE=", "501 5.5.4"},
		{"MAIL FROM:<a@b.org> SIZE=1000", "250"},
	} {
		fmt.Fprintf(c.conn, "%s\r\n", x[0])
		expect(t, c.br, x[1])
	}
}

package imapserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/address"
	"madmail/internal/event"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/mailboxtest"
	"madmail/internal/quota"
)

// counting counts what is written below TLS.
type counting struct {
	net.Listener
	writes, octets atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{c, l}, nil
}

type countingConn struct {
	net.Conn
	l *counting
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.l.writes.Add(1)
	c.l.octets.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// TestManyMessagesGoOutInFewWrites fetches them all, alone and with a large one
// between, and what the session does afterwards is sent at once again.
func TestManyMessagesGoOutInFewWrites(t *testing.T) {
	const many = 400
	d := build(t, TLS, nil)
	text := func(i int) string { return fmt.Sprintf("Subject: %d\r\n\r\n", i) + strings.Repeat("x", 1500) }
	large := "Subject: large\r\n\r\n" + strings.Repeat("y", 300<<10)
	for i := range many {
		if i == many/2 {
			d.deliver(t, alice, large)
		} else {
			d.deliver(t, alice, text(i))
		}
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counting{Listener: raw}
	done := make(chan error, 1)
	go func() { done <- d.srv.Serve(l, TLS) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &client{t: t, conn: conn, br: bufio.NewReader(conn), patient: true}
	c.login(alice)
	c.do("s", "SELECT INBOX")
	// The first records of a connection are small, and all go through here.
	c.do("w", "UID FETCH 1:* (BODY.PEEK[])")
	writes, octets := l.writes.Load(), l.octets.Load()
	got := c.do("f", "UID FETCH 1:* (BODY.PEEK[])")
	if len(got) != many+1 {
		t.Fatalf("%d answers", len(got))
	}
	for i, line := range got[:many] {
		want := text(i)
		if i == many/2 {
			want = large
		}
		if !strings.HasSuffix(line, "\r\n"+want+")") {
			t.Errorf("message %d: %.80q", i, line)
		}
	}
	writes, octets = l.writes.Load()-writes, l.octets.Load()-octets
	if most := octets/maxHeld + 2; writes > most {
		t.Errorf("%d octets went out in %d writes, at most %d were expected", octets, writes, most)
	}
	writes = l.writes.Load()
	if c.do("n", "NOOP"); l.writes.Load() != writes+1 {
		t.Errorf("NOOP was answered in %d writes", l.writes.Load()-writes)
	}
}

// withoutOpen is a store whose messages cannot be opened.
type withoutOpen struct{ mailbox.Store }

func (withoutOpen) Open(context.Context, mailbox.Box, mailbox.UID) (mailbox.Content, error) {
	return nil, errors.New("a message was opened")
}

// TestTheClientsQuestionOpensNoMessage asks what a client asks that comes back.
func TestTheClientsQuestionOpensNoMessage(t *testing.T) {
	d := build(t, STARTTLS, func(o *Options) { o.Store = withoutOpen{o.Store} })
	for i := range 200 {
		d.deliver(t, alice, fmt.Sprintf("Message-ID: <%d@x.org>\r\nReceived: by us\r\nChat-Version: 1.0\r\n\r\ntext\r\n", i))
	}
	c := d.dial(t)
	c.login(alice)
	c.do("s", "SELECT INBOX")
	const ask = "UID INTERNALDATE FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID DATE FROM CONTENT-TYPE SECURE-JOIN CHAT-VERSION CHAT-IS-POST-MESSAGE)]"
	got := c.do("f", "UID FETCH 1:* ("+ask+")")
	if len(got) != 201 || !strings.HasPrefix(got[200], "f OK") {
		t.Fatalf("%d lines, the last one %q", len(got), got[len(got)-1])
	}
	for i, line := range got[:200] {
		if want := fmt.Sprintf("\r\nMessage-ID: <%d@x.org>\r\nChat-Version: 1.0\r\n\r\n)", i); !strings.HasSuffix(line, want) {
			t.Errorf("message %d: %q", i, line)
		}
	}
	// The store does refuse.
	c.send("g UID FETCH 1 (BODY.PEEK[])\r\n")
	if got := c.line(); !strings.HasPrefix(got, "* BYE") {
		t.Errorf("the whole message: %q", got)
	}
}

// slow takes 40 seconds to open a message, from one UID on.
type slow struct {
	mailbox.Store
	from mailbox.UID
}

func (s slow) Open(ctx context.Context, b mailbox.Box, uid mailbox.UID) (mailbox.Content, error) {
	if uid >= s.from {
		time.Sleep(40 * time.Second)
	}
	return s.Store.Open(ctx, b, uid)
}

// TestASlowDiskDoesNotEndAFetch: what was held back meanwhile is sent in its own time.
func TestASlowDiskDoesNotEndAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 30
		d := &desk{bus: event.New(), quota: quota.New(func(address.Addr) int64 { return 1 << 30 }), store: mailboxtest.NewMemory()}
		for range many {
			d.deliver(t, alice, "Subject: x\r\n\r\n"+strings.Repeat("x", 1000))
		}
		srv, err := New(Options{Auth: d, Store: slow{d.store, many - 1}, Append: d, Bus: d.bus, Quota: d.quota, TLS: testTLS()})
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		srv.start(theirs, TLS)
		conn := tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
		c := &client{t: t, conn: conn, br: bufio.NewReader(conn)}
		c.login(alice)
		c.do("s", "SELECT INBOX")
		_ = conn.SetDeadline(time.Now().Add(time.Hour))
		began := time.Now()
		got := c.do("f", "UID FETCH 1:* (BODY.PEEK[])")
		if len(got) != many+1 || !strings.HasPrefix(got[many], "f OK") || time.Since(began) != 80*time.Second {
			t.Errorf("after %v %d lines, the last one %.40q", time.Since(began), len(got), got[len(got)-1])
		}
		ours.Close()
		if err := srv.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

package imapserver

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/event"
	"madmail/internal/mailbox/mailboxtest"
	"madmail/internal/quota"

	"madmail/internal/address"
)

// TestADayOfPhones runs a day in fake time: phones idle, are woken, fetch, delete,
// lose their connections and come back; mail comes all the time. Every message
// reaches its phone, keep-alives come as they should, and in the evening nothing
// is left: a goroutine that stays would keep the test from ending.
func TestADayOfPhones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const phones, day = 12, 24 * time.Hour
		d := &desk{bus: event.New(), meta: map[string]string{}, quota: quota.New(func(address.Addr) int64 { return 1 << 30 })}
		store := mailboxtest.NewMemory()
		store.Changed, store.Used = d.bus.Publish, d.quota.Add
		d.store = store
		var err error
		d.srv, err = New(Options{Auth: d, Store: store, Append: d, Bus: d.bus, Quota: d.quota, AllowInsecureAuth: true})
		if err != nil {
			t.Fatal(err)
		}
		evening := time.Now().Add(day)
		var all sync.WaitGroup
		got := make([]map[string]int, phones)
		sent := make([]int, phones)
		words := make([]int, phones)
		for i := range phones {
			got[i] = map[string]int{}
			who := fmt.Sprintf("phone%02d@[127.0.0.1]", i)
			rnd := newRand(uint64(i + 1))
			all.Go(func() { // the phone
				for time.Now().Before(evening) {
					p := &phone{t: t, got: got[i], words: &words[i]}
					p.live(d, who, min(time.Duration(rnd(180)+1)*time.Minute, time.Until(evening)))
					time.Sleep(time.Duration(rnd(600)) * time.Second)
				}
				p := &phone{t: t, got: got[i], words: &words[i]}
				p.live(d, who, time.Second) // what came while it was away
			})
			mail := newRand(uint64(i + 100))
			all.Go(func() { // its friends
				for time.Now().Before(evening.Add(-time.Minute)) {
					time.Sleep(time.Duration(mail(1200)+1) * time.Second)
					if time.Now().After(evening.Add(-time.Second)) {
						return
					}
					d.deliver(t, who, fmt.Sprintf("Message-ID: <%d@x>\r\n\r\nhello\r\n", sent[i]))
					sent[i]++
				}
			})
		}
		// Somebody connects and says nothing, and another logs in and says no more.
		for _, say := range []string{"", "a LOGIN quiet@x.org \"secret alice\"\r\n"} {
			ours, theirs := net.Pipe()
			d.srv.start(theirs, STARTTLS)
			all.Go(func() {
				began := time.Now()
				br := bufio.NewReader(ours)
				last := ""
				for first := true; ; first = false {
					l, err := br.ReadString('\n')
					if err != nil {
						break
					}
					if last = l; first && say != "" {
						_, _ = ours.Write([]byte(say))
					}
				}
				want := map[bool]time.Duration{true: time.Minute, false: 30 * time.Minute}[say == ""]
				if took := time.Since(began); !strings.HasPrefix(last, "* BYE") || took < want || took > want+time.Minute {
					t.Errorf("a silent session ended after %v with %q", took, last)
				}
			})
		}
		all.Wait()
		for i := range phones {
			if len(got[i]) != sent[i] {
				t.Errorf("phone %d: %d of %d messages", i, len(got[i]), sent[i])
			}
			for id, n := range got[i] {
				if n != 1 {
					t.Errorf("phone %d: %s came %d times", i, id, n)
				}
			}
			if words[i] == 0 {
				t.Errorf("phone %d: no keep-alive in a day", i)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.srv.Stop(ctx); err != nil {
			t.Error(err)
		}
		if st := d.srv.Stats(); st.Sessions != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestQuietPhonesBecomeSmall: what a client's compressor may refer to, up to 32 KiB, is
// kept in little space once the client has been silent for a keep-alive, and still is
// all there.
func TestQuietPhonesBecomeSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{bus: event.New(), meta: map[string]string{}, store: mailboxtest.NewMemory(), quota: quota.New(func(address.Addr) int64 { return 1 << 30 })}
		var err error
		d.srv, err = New(Options{Auth: d, Store: d.store, Append: d, Bus: d.bus, Quota: d.quota, AllowInsecureAuth: true})
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		d.srv.start(theirs, STARTTLS)
		socket := &buffered{Conn: ours, out: make(chan []byte, 100)}
		go socket.run()
		c := &client{t: t, conn: socket, br: bufio.NewReader(ours)}
		c.login("phone@x.org")
		c.do("s", "SELECT INBOX")
		c.compress()
		for i := range 1000 {
			c.do(fmt.Sprintf("a%d", i), fmt.Sprintf("UID FETCH %d:* (UID INTERNALDATE RFC822.SIZE)", i+1))
		}
		c.send("i IDLE\r\n")
		kept := func() int {
			synctest.Wait()
			for s := range d.srv.sessions {
				s.mu.Lock() // the session takes it around its waits
				defer s.mu.Unlock()
				return s.wire.in.dec.Kept()
			}
			return 0
		}
		c.until("+ ")
		if n := kept(); n < 32<<10 {
			t.Fatalf("%d octets after many commands: this test shows nothing", n)
		}
		c.until("* OK Still here")
		if n := kept(); n > 8<<10 {
			t.Errorf("%d octets are kept for a silent client", n)
		}
		c.send("DONE\r\n")
		c.until("i OK")
		if l := c.do("z", "UID FETCH 1:* (UID INTERNALDATE RFC822.SIZE)"); len(l) != 1 || !strings.HasPrefix(l[0], "z OK") {
			t.Error(l)
		}
		ours.Close()
		close(socket.out)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.srv.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// buffered is a pipe whose writer does not wait for the reader, as a socket.
type buffered struct {
	net.Conn
	out chan []byte
}

func (b *buffered) Write(p []byte) (int, error) {
	b.out <- bytes.Clone(p)
	return len(p), nil
}

func (b *buffered) run() {
	for p := range b.out {
		_, _ = b.Conn.Write(p)
	}
}

// phone is one connection of a client.
type phone struct {
	t     *testing.T
	conn  net.Conn
	br    *bufio.Reader
	got   map[string]int
	words *int
	n     int
}

var messageID = regexp.MustCompile(`UID (\d+) .*Message-ID: (<[^>]+>)`)

// do sends a command and returns the answer's lines as one text.
func (p *phone) do(cmd string) (string, bool) {
	p.n++
	tag := "p" + strconv.Itoa(p.n)
	if _, err := p.conn.Write([]byte(tag + " " + cmd + "\r\n")); err != nil {
		return "", false
	}
	var b strings.Builder
	for {
		l, err := p.br.ReadString('\n')
		if err != nil {
			return b.String(), false
		}
		b.WriteString(strings.TrimRight(l, "\r\n") + " ")
		if strings.HasPrefix(l, tag+" ") {
			return b.String(), strings.HasPrefix(l, tag+" OK")
		}
	}
}

// live connects, takes what waits, and idles for so long.
func (p *phone) live(d *desk, who string, long time.Duration) {
	ours, theirs := net.Pipe()
	defer ours.Close() // without a word, as phones do
	p.conn, p.br = ours, bufio.NewReader(ours)
	d.srv.start(theirs, STARTTLS)
	if _, err := p.br.ReadString('\n'); err != nil {
		p.t.Error(err)
		return
	}
	for _, cmd := range []string{`LOGIN "` + who + `" "secret alice"`, "SELECT INBOX (CONDSTORE)"} {
		if l, ok := p.do(cmd); !ok {
			p.t.Error(l)
			return
		}
	}
	end := time.Now().Add(long)
	for {
		if !p.take() || !time.Now().Before(end) {
			return
		}
		if _, err := p.conn.Write([]byte("i IDLE\r\n")); err != nil {
			return
		}
		for news := false; !news; {
			_ = p.conn.SetReadDeadline(end)
			l, err := p.br.ReadString('\n')
			if err != nil {
				return // the time is over
			}
			news = strings.HasSuffix(l, " EXISTS\r\n")
			if strings.HasPrefix(l, "* OK Still here") {
				*p.words++
			}
		}
		_ = p.conn.SetReadDeadline(time.Time{})
		if _, err := p.conn.Write([]byte("DONE\r\n")); err != nil {
			return
		}
		for {
			l, err := p.br.ReadString('\n')
			if err != nil {
				p.t.Error(err)
				return
			}
			if strings.HasPrefix(l, "i OK") {
				break
			}
		}
	}
}

// take fetches and deletes what is there.
func (p *phone) take() bool {
	text, ok := p.do("UID FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
	if !ok {
		p.t.Error(text)
		return false
	}
	var uids []string // those alone: more may have come since
	for part := range strings.SplitSeq(text, " FETCH (") {
		if m := messageID.FindStringSubmatch(part); m != nil {
			p.got[m[2]]++
			uids = append(uids, m[1])
		}
	}
	if len(uids) == 0 {
		return true
	}
	for _, cmd := range []string{"UID STORE " + strings.Join(uids, ",") + ` +FLAGS.SILENT (\Deleted)`, "EXPUNGE"} {
		if l, ok := p.do(cmd); !ok {
			p.t.Error(l)
			return false
		}
	}
	return true
}

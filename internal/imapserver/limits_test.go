package imapserver

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/address"
	"madmail/internal/event"
	"madmail/internal/mailbox/mailboxtest"
	"madmail/internal/quota"
)

// Every limit has a clear answer, and counts from the moment it is changed.
func TestLimitsAreLiveAndClear(t *testing.T) {
	var now atomic.Pointer[Limits]
	set := func(change func(*Limits)) {
		l := DefaultLimits
		change(&l)
		now.Store(&l)
	}
	set(func(*Limits) {})
	d := build(t, STARTTLS, func(o *Options) { o.Limits = func() Limits { return *now.Load() } })
	a := d.dial(t)
	a.login(alice)
	a.do("s", "SELECT INBOX")
	last := func(l []string) string { return l[len(l)-1] }

	nested := "SEARCH " + strings.Repeat("NOT ", 6) + "ALL"
	if l := a.do("1", nested); last(l) != "1 OK Search completed" {
		t.Error(l)
	}
	set(func(l *Limits) { l.Nesting = 4 })
	if l := a.do("2", nested); !strings.HasPrefix(last(l), "2 BAD") || !strings.Contains(last(l), "less nesting") {
		t.Error(l)
	}
	literal := "SEARCH SUBJECT {20+}\r\n" + strings.Repeat("x", 20)
	if l := a.do("3", literal); last(l) != "3 OK Search completed" {
		t.Error(l)
	}
	set(func(l *Limits) { l.Literals = 10 })
	a.send("4 SEARCH SUBJECT {20}\r\n")
	if l := a.line(); l != "4 BAD [TOOBIG] Literal too long" {
		t.Error(l)
	}

	set(func(l *Limits) { l.PerAccount = 1 })
	b := d.dial(t)
	b.line()
	if l := b.do("5", `LOGIN "`+alice+`" "secret alice"`); last(l) != "5 NO [LIMIT] Too many sessions of this account" {
		t.Error(l)
	}
	for _, change := range []func(*Limits){func(l *Limits) { l.PerAddress = 2 }, func(l *Limits) { l.Sessions = 2 }} {
		set(change)
		c := d.dial(t)
		if l := c.line(); l != "* BYE [UNAVAILABLE] Too many connections, try again later" {
			t.Error(l)
		}
	}
	set(func(l *Limits) { l.Command = 100 })
	if l := a.do("6", "NOOP"); last(l) != "6 OK Done" {
		t.Error(l)
	}
	a.send("7 SEARCH SUBJECT \"" + strings.Repeat("y", 10_000) + "\"\r\n")
	if l := a.until("* BYE"); last(l) != "* BYE [TOOBIG] Command line too long" {
		t.Error(l)
	}
}

// TestRefusedLiteralsEndLikeOtherErrors: a client that announces one literal after
// the other that is too long takes no more than any that makes mistakes.
func TestRefusedLiteralsEndLikeOtherErrors(t *testing.T) {
	d := build(t, STARTTLS, func(o *Options) { o.MaxErrors = 20 })
	c := d.dial(t)
	c.line()
	c.send(strings.Repeat("a NOOP {99999999}\r\n", 1000))
	got := c.until("* BYE")
	if len(got) != 22 || got[0] != "a BAD [TOOBIG] Literal too long" || got[21] != "* BYE Too many errors" {
		t.Errorf("%d lines, %q", len(got), got)
	}
	e := d.dial(t)
	e.line()
	e.send("a NOOP {99999999+}\r\n")
	if l := e.line(); l != "* BYE [TOOBIG] Literal too long" {
		t.Error(l)
	}
}

// TestAnonymousClientsHaveOneTime to log in, whatever they say meanwhile.
func TestAnonymousClientsHaveOneTime(t *testing.T) {
	for name, say := range map[string]string{"commands": "a NOOP\r\n", "a command without an end": "a"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &desk{bus: event.New(), quota: quota.New(func(address.Addr) int64 { return 1 << 30 }), store: mailboxtest.NewMemory()}
				srv, err := New(Options{Auth: d, Store: d.store, Append: d, Bus: d.bus, Quota: d.quota, AllowInsecureAuth: true})
				if err != nil {
					t.Fatal(err)
				}
				ours, theirs := net.Pipe()
				defer ours.Close()
				began := time.Now()
				srv.start(theirs, STARTTLS)
				var said sync.WaitGroup
				said.Go(func() {
					for err := error(nil); err == nil; _, err = ours.Write([]byte(say)) {
						time.Sleep(7 * time.Second)
					}
				})
				all, _ := io.ReadAll(ours)
				if took := time.Since(began); took != time.Minute || !strings.HasSuffix(string(all), "* BYE Autologout\r\n") {
					t.Errorf("after %v: %q", took, all)
				}
				ours.Close()
				said.Wait()
				if err := srv.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestRefusedTLSConnectionsHearWhy, too.
func TestRefusedTLSConnectionsHearWhy(t *testing.T) {
	d := build(t, TLS, func(o *Options) { o.Limits = func() Limits { l := DefaultLimits; l.PerAddress = 1; return l } })
	first := secureClient(t, d)
	conn, err := tls.Dial("tcp", d.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "* BYE [UNAVAILABLE] Too many connections, try again later\r\n" {
		t.Errorf("%q, %v", b, err)
	}
	if l := first.do("n", "NOOP"); l[0] != "n OK Done" {
		t.Error(l)
	}
}

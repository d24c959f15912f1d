package imapserver

import (
	"crypto/tls"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
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
	d := build(t, STARTTLS, func(o *Options) { o.LoginTimeout = 300 * time.Millisecond })
	busy, slow, in := d.dial(t), d.dial(t), d.dial(t)
	in.login(alice)
	busy.line()
	slow.line()
	slow.send("a NO") // and the rest never comes
	for {
		if _, err := busy.conn.Write([]byte("a NOOP\r\n")); err != nil {
			break
		}
		if l, err := busy.br.ReadString('\n'); err != nil || strings.HasPrefix(l, "* BYE") {
			break
		}
	}
	if l := slow.line(); l != "* BYE Autologout" {
		t.Error(l)
	}
	if l := in.do("n", "NOOP"); l[0] != "n OK Done" {
		t.Error(l)
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

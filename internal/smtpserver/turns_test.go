package smtpserver

import (
	"fmt"
	"testing"
	"time"

	"madmail/internal/throttle"
)

// TestMessagesWaitForTheirTurn: limits of the block files. Who waits in vain gets a
// temporary answer; who leaves makes room.
func TestMessagesWaitForTheirTurn(t *testing.T) {
	opt := options(&desk{})
	rules, err := throttle.Parse("ip concurrency 1; destination rate 1 1h")
	if err != nil {
		t.Fatal(err)
	}
	opt.Doors[0].Limits, opt.TurnTime = rules, 10*time.Millisecond
	_, addr := serve(t, opt, MX)
	say := func(c client, line, want string) {
		t.Helper()
		fmt.Fprintf(c.conn, "%s\r\n", line)
		expect(t, c.br, want)
	}
	one, two := dial(t, addr), dial(t, addr)
	say(one, "HELO a", "250")
	say(two, "HELO a", "250")
	say(one, "MAIL FROM:<x@a.example>", "250")
	say(two, "MAIL FROM:<x@a.example>", "451 4.4.5")
	say(one, "RCPT TO:<a@x.org>", "250")
	say(one, "RCPT TO:<b@x.org>", "250") // the same domain counts once
	say(one, "RSET", "250")
	say(two, "MAIL FROM:<x@a.example>", "250")
	say(two, "RCPT TO:<a@x.org>", "451 4.4.5")
	two.conn.Close()
	// The other side's session notices at some time; the turn is a limit of waiting only.
	for {
		fmt.Fprintf(one.conn, "MAIL FROM:<x@a.example>\r\n")
		line, err := one.br.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line[:3] == "250" {
			break
		}
	}
}

// TestAStopDoesNotWaitForTurns: a session that waits ends with the server.
func TestAStopDoesNotWaitForTurns(t *testing.T) {
	opt := options(&desk{})
	opt.Doors[0].Limits, opt.TurnTime = throttle.Rules{{Scope: throttle.All, N: 1}}, time.Hour
	s, addr := serve(t, opt, MX)
	one, two := dial(t, addr), dial(t, addr)
	fmt.Fprintf(one.conn, "HELO a\r\nMAIL FROM:<x@a.example>\r\n")
	expect(t, one.br, "250")
	expect(t, one.br, "250")
	fmt.Fprintf(two.conn, "HELO a\r\n")
	expect(t, two.br, "250")
	fmt.Fprintf(two.conn, "MAIL FROM:<x@a.example>\r\n")
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	expect(t, one.br, "421")
}

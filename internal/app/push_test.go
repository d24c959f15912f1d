//go:build unix

package app

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"madmail/test/load"
)

// TestAPhoneIsWoken: a token left over IMAP goes to the service when a message of
// somebody else comes, by whatever door; not for one's own copies, and not when
// push is off.
func TestAPhoneIsWoken(t *testing.T) {
	got := make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.Method + " " + string(b)
	}))
	defer srv.Close()
	h := newHouse(t)
	h.lines["push_url"] = fmt.Sprintf("%q", srv.URL)
	h.write()
	h.start()
	bob := h.login("bobbobbob")
	do(t, bob, `SETMETADATA INBOX (/private/devicetoken "openpgp:abc")`)
	alice, err := h.target().NewSender("alicealice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	self, err := h.target().NewSender("bobbobbob")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	send := func(s *load.Sender, from, to string) {
		t.Helper()
		if _, err := s.Send([]string{to}, load.Message(from, 1500)); err != nil {
			t.Fatal(err)
		}
	}
	const a, b = "alicealice@[127.0.0.1]", "bobbobbob@[127.0.0.1]"
	send(alice, a, b)
	h.must("push", `{"mode":"on"}`)
	send(self, b, b)
	select {
	case x := <-got:
		t.Error("woken although push was off, or by a copy to self:", x)
	case <-time.After(100 * time.Millisecond):
	}
	send(alice, a, b)
	select {
	case x := <-got:
		if x != "POST openpgp:abc" {
			t.Error(x)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not woken")
	}
	h.must("accounts.delete", `{"username":"`+b+`"}`)
	if s := h.push.Stats(); s.Pending != 0 {
		t.Error("pending for an account that is gone:", s.Pending)
	}
}

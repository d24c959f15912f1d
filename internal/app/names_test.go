//go:build unix

package app

import (
	"testing"

	"madmail/test/load"
)

// TestNamesThatUsersChooseCanSend is known failure B24 (#156): whoever edits the name in a
// login link can still send, in any spelling of it, and as nobody else.
func TestNamesThatUsersChooseCanSend(t *testing.T) {
	h := newHouse(t)
	h.start()
	for _, name := range []string{"my.own-name", "MyOwnName", "under_score9"} {
		h.login(name)
		s, err := h.target().NewSender(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		own := name + "@[127.0.0.1]"
		if _, err := s.Send([]string{own}, load.Message(own, 1500)); err != nil {
			t.Errorf("%s cannot send: %v", name, err)
		}
		if _, err := s.Send([]string{own}, load.Message("somebodyelse@[127.0.0.1]", 1500)); err == nil {
			t.Errorf("%s sends as somebody else", name)
		}
		s.Close()
	}
}

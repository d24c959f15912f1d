//go:build unix

package app

import (
	"fmt"
	"strings"
	"testing"

	"madmail/test/load"
)

// TestAnAppendLimitHoldsForItsAccount: IMAP and SMTP of the running server obey what
// imap-acct appendlimit stored, at once and after a restart.
func TestAnAppendLimitHoldsForItsAccount(t *testing.T) {
	h := newHouse(t)
	h.start()
	h.login("small-box").Close()
	h.login("other-one").Close()
	h.must("appendlimit", `{"username":"small-box","value":3000}`)
	for range 2 {
		r := h.login("small-box")
		if got := do(t, r, "STATUS INBOX (APPENDLIMIT)"); !strings.Contains(got, "APPENDLIMIT 3000") {
			t.Errorf("%q", got)
		}
		if got := do(t, r, "CAPABILITY"); !strings.Contains(got, "APPENDLIMIT=3000 ") {
			t.Errorf("%q", got)
		}
		for size, taken := range map[int]bool{500: true, 20_000: false} {
			text := load.Message("small-box@[127.0.0.1]", size)
			if _, err := r.Do(fmt.Sprintf("APPEND INBOX {%d+}\r\n%s", len(text), text)); (err == nil) != taken || !taken && !strings.Contains(err.Error(), "[TOOBIG]") {
				t.Errorf("APPEND of %d octets: %v", len(text), err)
			}
			s, err := h.target().NewSender("other-one")
			if err != nil {
				t.Fatal(err)
			}
			text = load.Message("other-one@[127.0.0.1]", size)
			if _, err := s.Send([]string{"small-box@[127.0.0.1]"}, text); (err == nil) != taken || !taken && !strings.Contains(err.Error(), "552 5.3.4") {
				t.Errorf("%d octets by SMTP: %v", len(text), err)
			}
			s.Close()
		}
		r.Close()
		h.stop()
		h.start()
	}
	h.must("appendlimit", `{"username":"small-box","value":-1}`)
	r := h.login("small-box")
	defer r.Close()
	if got := do(t, r, "STATUS INBOX (MESSAGES APPENDLIMIT)"); !strings.Contains(got, "MESSAGES 4 ") || !strings.Contains(got, "APPENDLIMIT 104857600") {
		t.Errorf("%q", got)
	}
}

package mailboxtest

import (
	"context"
	"testing"

	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

func TestMemoryIsAStore(t *testing.T) {
	Run(t, func(*testing.T) mailbox.Store { return NewMemory() })
}

func TestMemoryCallsItsHooks(t *testing.T) {
	RunHooks(t, func(_ *testing.T, h Hooks) mailbox.Store {
		m := NewMemory()
		m.Changed, m.Used = h.Changed, h.Used
		return m
	})
}

// TestMemoryReopensAsItIs checks RunReopen itself: what never stops keeps everything.
func TestMemoryReopensAsItIs(t *testing.T) {
	m := NewMemory()
	RunReopen(t, func(*testing.T) mailbox.Store { return m })
}

func TestMemoryFailsWhereItIsTold(t *testing.T) {
	m := NewMemory()
	s := newSuite(t, m)
	good, bad := s.box(mailbox.Inbox), s.made("bad")
	full := fault.New(fault.Busy, "no")
	m.Fail = func(method string, b mailbox.Box) error {
		if b == bad || method == "Expunge" {
			return full
		}
		return nil
	}
	b := s.body("text\r\n")
	placed, err := m.Deliver(s.ctx, []mailbox.Target{{Box: good}, {Box: bad}}, b)
	if err != nil || placed[0].Err != nil || placed[1].Err != full {
		t.Errorf("placed %+v, %v", placed, err)
	}
	if _, err := m.Expunge(s.ctx, good, mailbox.All(), false); err != full {
		t.Errorf("expunge: %v", err)
	}
	m.Fail = nil
	if got := s.texts(good); len(got) != 1 {
		t.Errorf("%d messages, want 1", len(got))
	}
	if got := s.texts(bad); len(got) != 0 {
		t.Errorf("%d messages where delivery failed", len(got))
	}
	ended, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err = m.View(ended, good)
	s.wantKind("view with an ended context", err, fault.Busy)
}

package event

import (
	"sync"
	"sync/atomic"
	"testing"

	"madmail/internal/address"
	"madmail/internal/mailbox"
)

type counter struct{ n atomic.Int64 }

func (c *counter) Wake() bool { return c.n.Add(1) == 1 }

// TestWakeupsThatAreNoNewsAreCounted: the bus says how many came while the one before was
// not looked at yet.
func TestWakeupsThatAreNoNewsAreCounted(t *testing.T) {
	b, c := New(), &counter{}
	inbox := box(t, "a@example.org", mailbox.Inbox)
	s := b.Subscribe(inbox, c)
	for range 5 {
		b.Publish(inbox)
	}
	s.Close()
	b.Publish(inbox)
	if got := b.Stats(); got != (Stats{Woken: 5, Merged: 4}) || c.n.Load() != 5 {
		t.Errorf("%+v", got)
	}
}

func box(t *testing.T, addr, name string) mailbox.Box {
	t.Helper()
	a, err := address.Parse(addr)
	if err != nil {
		t.Fatal(err)
	}
	return mailbox.Box{Account: a, Name: name}
}

func TestOnlyTheSubscribersOfAMailboxAreWoken(t *testing.T) {
	b := New()
	var in, other, gone counter
	one, two := box(t, "a@x.org", "INBOX"), box(t, "b@x.org", "INBOX")
	b.Subscribe(one, &in)
	b.Subscribe(two, &other)
	s := b.Subscribe(one, &gone)
	s.Close()
	s.Close()
	b.Publish(one)
	b.Publish(one)
	if in.n.Load() != 2 || other.n.Load() != 0 || gone.n.Load() != 0 {
		t.Errorf("woken %d, %d, %d times; want 2, 0, 0", in.n.Load(), other.n.Load(), gone.n.Load())
	}
}

func TestSubscribersOfAnAccountAreWokenByAllItsMailboxes(t *testing.T) {
	b := New()
	var in, account, other counter
	b.Subscribe(box(t, "a@x.org", "INBOX"), &in)
	s := b.Subscribe(box(t, "a@x.org", ""), &account)
	b.Subscribe(box(t, "b@x.org", ""), &other)
	b.Publish(box(t, "a@x.org", "INBOX"))
	b.Publish(box(t, "a@x.org", "Sent"))
	b.Publish(box(t, "a@x.org", ""))
	s.Close()
	b.Publish(box(t, "a@x.org", "INBOX"))
	if in.n.Load() != 2 || account.n.Load() != 3 || other.n.Load() != 0 {
		t.Errorf("woken %d, %d, %d times; want 2, 3, 0", in.n.Load(), account.n.Load(), other.n.Load())
	}
}

func TestNothingIsKeptForClosedSubscriptions(t *testing.T) {
	b := New()
	bx := box(t, "a@x.org", "INBOX")
	var c counter
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				s := b.Subscribe(bx, &c)
				b.Publish(bx)
				s.Close()
			}
		})
	}
	wg.Wait()
	if n := len(b.of(bx).m); n != 0 {
		t.Errorf("%d mailboxes kept after all subscriptions were closed", n)
	}
	if c.n.Load() < 800 {
		t.Errorf("woken %d times, want at least 800", c.n.Load())
	}
}

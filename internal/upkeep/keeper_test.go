package upkeep

import (
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/mailboxtest"
)

// yard is a store with accounts and somebody who keeps it in order.
type yard struct {
	*Keeper
	t     *testing.T
	store *mailboxtest.Memory
	rules Rules
	now   time.Time

	mu     sync.Mutex // guards the field below
	opened map[address.Addr]int
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{t: t, store: mailboxtest.NewMemory(), now: time.Unix(1_800_000_000, 0), opened: make(map[address.Addr]int)}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), db.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(t.Context()) })
	accounts, err := account.Open(t.Context(), account.Options{DB: d})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accounts.Close(t.Context()) })
	y.Keeper, err = NewKeeper(KeeperOptions{Store: y.store, Accounts: accounts, Rules: func() Rules { return y.rules }, Remove: y.store.RemoveAccount, Now: func() time.Time { return y.now }})
	if err != nil {
		t.Fatal(err)
	}
	y.store.Fail = func(op string, b mailbox.Box) error {
		if op == "View" {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.opened[b.Account]++
		}
		return nil
	}
	y.store.Changed = func(b mailbox.Box) { y.Keeper.Changed(b, y.rules.PurgeSeen) }
	return y
}

func addr(t *testing.T, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// put stores a message of a given age.
func (y *yard) put(who string, age time.Duration) mailbox.Box {
	y.t.Helper()
	b := mailbox.Box{Account: addr(y.t, who), Name: mailbox.Inbox}
	w, err := y.store.NewBody(y.t.Context())
	if err != nil {
		y.t.Fatal(err)
	}
	if _, err := io.WriteString(w, "Subject: x\r\n\r\ny\r\n"); err != nil {
		y.t.Fatal(err)
	}
	body, err := w.Seal()
	if err != nil {
		y.t.Fatal(err)
	}
	if _, err := y.store.Deliver(y.t.Context(), []mailbox.Target{{Box: b, Internal: y.now.Add(-age)}}, body); err != nil {
		y.t.Fatal(err)
	}
	return b
}

// run runs a task as the clock does and returns how many mailboxes were opened.
func (y *yard) run(task string) (removed, opened int) {
	y.t.Helper()
	clear(y.opened)
	for _, x := range y.Tasks() {
		if x.Name != task {
			continue
		}
		if on, why := x.On(); !on {
			y.t.Fatal(why)
		}
		var err error
		if removed, err = x.Run(y.t.Context(), 0); err != nil {
			y.t.Fatal(err)
		}
	}
	for _, n := range y.opened {
		opened += n
	}
	return removed, opened
}

// TestRetentionOpensOnlyWhatMayBeOld: known failure 30. Accounts whose mail is young,
// and that did not change, cost nothing; what arrives with an old date is found.
func TestRetentionOpensOnlyWhatMayBeOld(t *testing.T) {
	y := newYard(t)
	y.rules.Retention = 24 * time.Hour
	const accounts = 50
	for i := range accounts {
		y.put(fmt.Sprintf("user-%02d@example.org", i), time.Duration(i)*time.Minute)
	}
	y.put("old@example.org", 30*time.Hour)
	if n, opened := y.run("prune-old-messages"); n != 1 || opened != accounts+1 {
		t.Errorf("the first run removes %d, opens %d", n, opened)
	}
	// The one that lost a message changed, and is looked at once more.
	if n, opened := y.run("prune-old-messages"); n != 0 || opened != 1 {
		t.Errorf("the second removes %d, opens %d", n, opened)
	}
	if n, opened := y.run("prune-old-messages"); n != 0 || opened != 0 {
		t.Errorf("the third removes %d, opens %d", n, opened)
	}
	y.put("user-07@example.org", 48*time.Hour) // as IMAP APPEND may date it
	if n, opened := y.run("prune-old-messages"); n != 1 || opened != 1 {
		t.Errorf("after a change: removes %d, opens %d", n, opened)
	}
	y.now = y.now.Add(24*time.Hour - 25*time.Minute - time.Second) // 25 are a day old and more now
	n, opened := y.run("prune-old-messages")
	if n != accounts-26 || opened < n || opened > n+1 {
		t.Errorf("a day later: removes %d, opens %d", n, opened)
	}
	// A shorter rule counts at once (known failure 31).
	y.rules.Retention = time.Hour
	if n, _ := y.run("prune-old-messages"); n != 26 {
		t.Errorf("a shorter rule removes %d", n)
	}
}

// TestPurgeSeenOpensOnlyWhatChanged: it runs every quarter of a minute.
func TestPurgeSeenOpensOnlyWhatChanged(t *testing.T) {
	y := newYard(t)
	y.rules.PurgeSeen = true
	var boxes []mailbox.Box
	for i := range 20 {
		boxes = append(boxes, y.put(fmt.Sprintf("user-%02d@example.org", i), 0))
	}
	if n, opened := y.run("purge-seen"); n != 0 || opened != 20 {
		t.Errorf("the first run removes %d, opens %d", n, opened)
	}
	if n, opened := y.run("purge-seen"); n != 0 || opened != 0 {
		t.Errorf("with nothing changed: removes %d, opens %d", n, opened)
	}
	if _, err := y.store.Change(t.Context(), boxes[3], mailbox.All(), mailbox.FlagChange{Op: mailbox.AddFlags, Flags: mailbox.Seen}); err != nil {
		t.Fatal(err)
	}
	if n, opened := y.run("purge-seen"); n != 1 || opened != 1 {
		t.Errorf("one was read: removes %d, opens %d", n, opened)
	}
}

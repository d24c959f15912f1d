package account

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
	"madmail/internal/quota"
)

const (
	strongPassword = "zIf1Ln0RqXo3w8Kd5VbTyM"
	weakPassword   = "Summer2026!"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type fixture struct {
	*Store
	d     *db.DB
	clock *clock

	mu    sync.Mutex
	ended []string
}

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// setUp opens a store on a database in which statements were run before.
func setUp(t testing.TB, o Options, statements ...string) *fixture {
	t.Helper()
	dir := t.TempDir()
	if len(statements) > 0 {
		c, err := sql.Open("sqlite", filepath.Join(dir, db.FileName))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range statements {
			if _, err := c.Exec(s); err != nil {
				t.Fatalf("%s: %v", s, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := db.Open(t.Context(), db.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{d: d, clock: newClock()}
	o.DB, o.Now = d, f.clock.now
	o.Ended = func(a address.Addr, why Ending) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.ended = append(f.ended, fmt.Sprint(a.Wire(), " ", why))
	}
	if f.Store, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Store.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) write(t testing.TB, query string, args ...any) {
	t.Helper()
	err := f.d.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func (f *fixture) count(t testing.TB, query string, args ...any) (n int64) {
	t.Helper()
	err := f.d.Read(t.Context(), func(ctx context.Context, q *db.Q) error {
		return q.QueryRow(ctx, query, args, []any{&n})
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func (f *fixture) create(t testing.TB, who, password string) address.Addr {
	t.Helper()
	a := addr(t, who)
	if err := f.Create(t.Context(), New{Addr: a, Password: []byte(password)}); err != nil {
		t.Fatal(err)
	}
	return a
}

// settle waits for background rewrites.
func (f *fixture) clear(t testing.TB, a address.Addr) {
	t.Helper()
	if err := f.Cleared(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) settle(t testing.TB) {
	t.Helper()
	if err := f.tasks.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestAnAppendLimitBelongsToItsAccount: it is kept, and goes with the account.
func TestAnAppendLimitBelongsToItsAccount(t *testing.T) {
	f := setUp(t, Options{})
	a, b := f.create(t, "alice@example.org", strongPassword), f.create(t, "bob@example.org", strongPassword)
	want := func(a address.Addr, n int64) {
		t.Helper()
		for range 2 {
			if got := f.AppendLimit(a); got != n {
				t.Errorf("%d, want %d", got, n)
			}
			if err := f.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	set := func(n int64) {
		t.Helper()
		if err := f.SetAppendLimit(t.Context(), a, n); err != nil {
			t.Fatal(err)
		}
	}
	set(4000)
	want(a, 4000)
	want(b, 0)
	set(-1)
	want(a, 0)
	set(5000)
	if err := f.Delete(t.Context(), a, ""); err != nil {
		t.Fatal(err)
	}
	f.clear(t, a)
	f.create(t, "alice@example.org", strongPassword)
	want(a, 0)
	if err := f.SetAppendLimit(t.Context(), addr(t, "nobody@example.org"), 5); !fault.Is(err, fault.NotFound) {
		t.Errorf("nobody's: %v", err)
	}
}

func TestAnAccountLivesThroughAReopen(t *testing.T) {
	f := setUp(t, Options{})
	a := f.create(t, "alice@example.org", strongPassword)
	if err := f.SetLimit(t.Context(), a, 5000); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), Options{DB: f.d})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{f.Store, again} {
		i, err := s.Info(a)
		if err != nil || !i.Exists || !i.Pending || i.OwnLimit != 5000 || i.CreatedAt != f.clock.now().Unix() || s.Count() != 1 {
			t.Errorf("%+v, %v", i, err)
		}
		if s.Quick(a, []byte(strongPassword)) != Match || s.Quick(a, []byte("x")) != Mismatch {
			t.Error("the password does not count")
		}
	}
}

// TestAccountsFromElsewhereShareOneTransaction: all that can be are made, or none is.
func TestAccountsFromElsewhereShareOneTransaction(t *testing.T) {
	f := setUp(t, Options{})
	f.create(t, "bob@example.org", strongPassword)
	list := []New{{Addr: addr(t, "bob@example.org"), Password: []byte(strongPassword)}, {Addr: addr(t, "eve@example.org"), Hash: "rot13:x"},
		{Addr: addr(t, "mallory@example.org"), Password: []byte(strongPassword), BlockReason: "spam", AppendLimit: 77}, {Addr: addr(t, "token@example.org"), Password: []byte(strongPassword), Token: "t"}}
	for i := range 200 {
		list = append(list, New{Addr: addr(t, fmt.Sprintf("user%03d@example.org", i)), Password: []byte(strongPassword), AppendLimit: 4000})
	}
	list = append(list, New{Addr: addr(t, "USER000@example.org"), Password: []byte(strongPassword)})
	_, before := f.d.Latencies()
	errs, err := f.CreateMany(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	if _, after := f.d.Latencies(); after.Count-before.Count != 1 {
		t.Error(after.Count-before.Count, "transactions")
	}
	for i, want := range []fault.Kind{0: fault.Exists, 1: fault.Invalid, 3: fault.Invalid, 204: fault.Exists} {
		if i < 2 || i == 3 || i == 204 {
			if !fault.Is(errs[i], want) {
				t.Errorf("%s: %v, want %v", list[i].Addr, errs[i], want)
			}
		}
	}
	f.settle(t)
	if f.Count() != 202 || !f.Blocked(addr(t, "mallory@example.org")) || f.AppendLimit(addr(t, "user199@example.org")) != 4000 {
		t.Error(f.Count(), "accounts")
	}
	if n := f.count(t, "SELECT COUNT(*) FROM append_limits"); n != 201 {
		t.Error(n, "limits of messages")
	}
	// A database that refuses leaves nothing behind, in memory neither.
	f.write(t, "DROP TABLE append_limits")
	if _, err := f.CreateMany(t.Context(), []New{{Addr: addr(t, "carol@example.org"), Password: []byte(strongPassword)}, {Addr: addr(t, "dave@example.org"), Password: []byte(strongPassword), AppendLimit: 1}}); err == nil {
		t.Error("no error")
	}
	if f.Exists(addr(t, "carol@example.org")) || f.count(t, "SELECT COUNT(*) FROM passwords WHERE username LIKE 'carol%'") != 0 {
		t.Error("half of it was made")
	}
	if _, err := f.CreateMany(t.Context(), make([]New, MaxBatch+1)); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

// Known failure A8: nothing overwrites a row.
func TestCreatingNeverOverwrites(t *testing.T) {
	f := setUp(t, Options{})
	a := f.create(t, "alice@example.org", strongPassword)
	if err := f.Create(t.Context(), New{Addr: a, Password: []byte("another-" + strongPassword)}); !fault.Is(err, fault.Exists) {
		t.Errorf("second Create: %v", err)
	}
	// Also not a row that was written behind our back.
	f.write(t, "INSERT INTO passwords (username, hash) VALUES ('bob@example.org', 'x')")
	if err := f.Create(t.Context(), New{Addr: addr(t, "bob@example.org"), Password: []byte(strongPassword)}); !fault.Is(err, fault.Exists) {
		t.Errorf("row of somebody else: %v", err)
	}
	if n := f.count(t, "SELECT count(*) FROM passwords WHERE hash = 'x'"); n != 1 {
		t.Error("the row was overwritten")
	}
	if f.Quick(a, []byte(strongPassword)) != Match {
		t.Error("the first password is gone")
	}
}

func TestOfManyCreatorsOneWins(t *testing.T) {
	f := setUp(t, Options{})
	a := addr(t, "alice@example.org")
	var wg sync.WaitGroup
	won := make([]bool, 50)
	for i := range won {
		wg.Go(func() {
			err := f.Create(t.Context(), New{Addr: a, Password: fmt.Appendf(nil, "%s%02d", strongPassword, i)})
			won[i] = err == nil
			if err != nil && !fault.Is(err, fault.Exists) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	winners := 0
	for i, w := range won {
		if w {
			winners++
			if f.Quick(a, fmt.Appendf(nil, "%s%02d", strongPassword, i)) != Match {
				t.Error("the winner's password does not match")
			}
		}
	}
	if winners != 1 {
		t.Errorf("%d winners", winners)
	}
}

// REQ-32, known failure B56: the row says why and when.
func TestBlockingAndFreeing(t *testing.T) {
	f := setUp(t, Options{})
	a := f.create(t, "alice@example.org", strongPassword)
	if err := f.Block(t.Context(), a, "manually blocked"); err != nil {
		t.Fatal(err)
	}
	if err := f.Block(t.Context(), a, "spam"); err != nil {
		t.Fatal(err)
	}
	if !f.Blocked(a) || !f.Exists(a) {
		t.Error("a blocked account stays an account")
	}
	if n := f.count(t, "SELECT count(*) FROM blocked_users WHERE reason = 'spam' AND blocked_at = '2026-11-01 12:00:00'"); n != 1 {
		t.Error("no row with reason and time")
	}
	if got := f.Blocks(); len(got) != 1 || got[0].BlockReason != "spam" || !got[0].BlockedAt.Equal(f.clock.now()) {
		t.Errorf("%+v", got)
	}
	b := addr(t, "bob@example.org")
	if err := f.Delete(t.Context(), b, "banned via CLI"); err != nil {
		t.Fatal(err)
	}
	if err := f.Create(t.Context(), New{Addr: b, Password: []byte(strongPassword)}); !fault.Is(err, fault.Refused) {
		t.Errorf("created a blocked address: %v", err)
	}
	for range 2 {
		if err := f.Unblock(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	f.clear(t, b)
	f.create(t, "bob@example.org", strongPassword)
	want := []string{"alice@example.org 1", "alice@example.org 1", "bob@example.org 0"}
	if !reflect.DeepEqual(f.ended, want) {
		t.Errorf("ended %q", f.ended)
	}
}

// TestANameIsFreeWhenItsMailIsGone: who takes the name of a deleted account must not
// find its mail, whatever happens between the rows and the mail.
func TestANameIsFreeWhenItsMailIsGone(t *testing.T) {
	f := setUp(t, Options{}, "CREATE TABLE mailbox_modseq (username TEXT PRIMARY KEY, modseq INTEGER NOT NULL DEFAULT 0)",
		"INSERT INTO mailbox_modseq VALUES ('alice@example.org', 7), ('bob@example.org', 8)")
	a := f.create(t, "alice@example.org", strongPassword)
	if err := f.Delete(t.Context(), a, ""); err != nil {
		t.Fatal(err)
	}
	for _, doing := range []string{"at once", "read again"} {
		if got := f.Removals(); len(got) != 1 || got[0] != a || !f.Removing(a) {
			t.Errorf("%s: removals %v", doing, got)
		}
		if err := f.Create(t.Context(), New{Addr: a, Password: []byte(strongPassword)}); !fault.Is(err, fault.Busy) || f.Exists(a) {
			t.Errorf("%s: made anew: %v", doing, err)
		}
		if err := f.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.count(t, "SELECT sum(modseq) FROM mailbox_modseq"); n != 8 {
		t.Errorf("counters of earlier versions: %d are left", n)
	}
	for range 2 {
		f.clear(t, a)
	}
	if f.Removing(a) || len(f.Removals()) != 0 || f.count(t, "SELECT count(*) FROM removals") != 0 {
		t.Error("a cleared removal is remembered")
	}
	f.create(t, "alice@example.org", strongPassword)
	// What hands make by SQL is an account.
	f.write(t, "INSERT INTO removals VALUES ('alice@example.org', 1)")
	if err := f.Reload(t.Context()); err != nil || f.Removing(a) {
		t.Errorf("an account that is there is being removed (%v)", err)
	}
}

func TestDeletingLeavesNoRow(t *testing.T) {
	f := setUp(t, Options{})
	a := f.create(t, "alice@example.org", strongPassword)
	if err := f.Delete(t.Context(), a, ""); err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(t.Context(), a, ""); !fault.Is(err, fault.NotFound) {
		t.Errorf("second Delete: %v", err)
	}
	if n := f.count(t, "SELECT (SELECT count(*) FROM passwords) + (SELECT count(*) FROM quotas) + (SELECT count(*) FROM blocked_users)"); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	if f.Exists(a) || f.Count() != 0 || f.Quick(a, []byte(strongPassword)) != NoAccount {
		t.Error("memory still has it")
	}
	if err := f.SetPassword(t.Context(), a, []byte("x")); !fault.Is(err, fault.NotFound) {
		t.Errorf("SetPassword: %v", err)
	}
	if err := f.SetLimit(t.Context(), a, 1); !fault.Is(err, fault.NotFound) {
		t.Errorf("SetLimit: %v", err)
	}
	if err := f.LoggedIn(t.Context(), a); !fault.Is(err, fault.Denied) {
		t.Errorf("LoggedIn: %v", err)
	}
}

// Known failure B16: what verified before is forgotten with the row.
func TestAVerifiedPasswordIsRememberedUntilTheRowChanges(t *testing.T) {
	f := setUp(t, Options{})
	a := f.create(t, "alice@example.org", weakPassword)
	before := f.SlowHashes()
	for range 5 {
		if err := f.Verify(t.Context(), a, []byte(weakPassword)); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.SlowHashes() - before; n != 1 {
		t.Errorf("%d slow hashes for five logins", n)
	}
	if f.Quick(a, []byte(weakPassword)) != Match || f.Quick(a, []byte("other")) != NeedsHash {
		t.Error("the memory is not exact")
	}
	if err := f.SetPassword(t.Context(), a, []byte("Winter2026!")); err != nil {
		t.Fatal(err)
	}
	if f.Quick(a, []byte(weakPassword)) == Match || f.Verify(t.Context(), a, []byte(weakPassword)) == nil {
		t.Error("the old password still opens")
	}
	if err := f.Verify(t.Context(), a, []byte("Winter2026!")); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(f.ended, []string{"alice@example.org 2"}) {
		t.Errorf("ended %q", f.ended)
	}
}

// Every refusal costs one slow hash, whoever is or is not there, and the
// repetition of a refused pair costs nothing.
func TestEveryRefusalCostsTheSame(t *testing.T) {
	f := setUp(t, Options{})
	fast := f.create(t, "fast@example.org", strongPassword)
	slow := f.create(t, "slow@example.org", weakPassword)
	blockedFast := f.create(t, "blocked@example.org", strongPassword)
	for _, c := range []struct {
		name     string
		a        address.Addr
		password string
		refuse   bool
	}{
		{"fast hash, weak guess", fast, "guess", false}, {"fast hash, strong guess", fast, "x" + strongPassword, false},
		{"slow hash, weak guess", slow, "guess", false}, {"slow hash, strong guess", slow, "x" + strongPassword, false},
		{"unknown, weak guess", addr(t, "none@example.org"), "guess", false}, {"unknown, strong guess", addr(t, "none@example.org"), strongPassword, false},
		{"blocked, right password", blockedFast, strongPassword, true}, {"slow, refused unseen", slow, weakPassword, true},
		{"empty password", fast, "", false}, {"enormous password", fast, strings.Repeat("x", 1<<20), false},
	} {
		try := f.Verify
		if c.refuse {
			try = f.Refuse
		}
		for round, want := range []int64{1, 0, 0} {
			before := f.SlowHashes()
			if err := try(t.Context(), c.a, []byte(c.password)); !fault.Is(err, fault.Denied) {
				t.Errorf("%s: %v", c.name, err)
			}
			if n := f.SlowHashes() - before; n != want {
				t.Errorf("%s, round %d: %d slow hashes, want %d", c.name, round, n, want)
			}
		}
	}
	// A refusal without comparison must not stand in the way of the right password.
	if err := f.Verify(t.Context(), slow, []byte(weakPassword)); err != nil {
		t.Error(err)
	}
}

func TestHashingIsBounded(t *testing.T) {
	f := setUp(t, Options{HashSlots: 1})
	release := make(chan struct{})
	entered := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.hashes.run(t.Context(), func() { close(entered); <-release }); err != nil {
			t.Error(err)
		}
	})
	<-entered
	// Strong passwords need no slot.
	a := f.create(t, "alice@example.org", strongPassword)
	if f.Quick(a, []byte(strongPassword)) != Match {
		t.Error("a fast login waits for slow ones")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Verify(ctx, a, []byte("x")); !fault.Is(err, fault.Busy) || strings.Contains(strings.ToLower(fault.UserText(err)), "authentication") {
		t.Errorf("no slot: %v", err)
	}
	f.hashes.waiting.Store(maxWaiting)
	if err := f.Verify(t.Context(), a, []byte("x")); !fault.Is(err, fault.Busy) || strings.Contains(strings.ToLower(fault.UserText(err)), "authentication") {
		t.Errorf("too many wait: %v", err)
	}
	f.hashes.waiting.Store(0)
	close(release)
	wg.Wait()
}

func TestTheTableOfRefusedPairsIsBounded(t *testing.T) {
	h, err := newHasher(1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxRefused {
		h.remember(pair{byte(i), byte(i >> 8), byte(i >> 16)})
	}
	if len(h.refused) > maxRefused {
		t.Errorf("%d pairs", len(h.refused))
	}
}

// Known failures B14, B15: imported forms log in and are rewritten.
func TestOldHashesAreRewrittenAfterALogin(t *testing.T) {
	var statements []string
	statements = append(statements, "CREATE TABLE passwords (username TEXT PRIMARY KEY, hash TEXT NOT NULL, created_at INTEGER)")
	for i, v := range vectors {
		statements = append(statements, fmt.Sprintf("INSERT INTO passwords VALUES ('user%d@example.org', '%s', 1)", i, v.hash))
	}
	f := setUp(t, Options{}, statements...)
	for i, v := range vectors {
		a := addr(t, fmt.Sprintf("user%d@example.org", i))
		if err := f.Verify(t.Context(), a, []byte(v.password)); err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		f.settle(t)
		if n := f.count(t, "SELECT count(*) FROM passwords WHERE username = ? AND hash LIKE 'argon2:2:19456:1:%'", a.Wire()); n != 1 {
			t.Errorf("%s was not rewritten", v.name)
		}
		if err := f.Verify(t.Context(), a, []byte(v.password)); err != nil {
			t.Errorf("%s after the rewrite: %v", v.name, err)
		}
	}
	f.settle(t)
}

func TestARewriteNeitherResurrectsNorUndoes(t *testing.T) {
	f := setUp(t, Options{})
	a := f.create(t, "alice@example.org", strongPassword)
	old := f.get(a)
	if err := f.SetPassword(t.Context(), a, []byte("new-"+strongPassword)); err != nil {
		t.Fatal(err)
	}
	if err := f.replaceHash(t.Context(), a, old, "late"); err != nil {
		t.Fatal(err)
	}
	if f.Quick(a, []byte("new-"+strongPassword)) != Match {
		t.Error("the new password was undone")
	}
	now := f.get(a)
	if err := f.Delete(t.Context(), a, ""); err != nil {
		t.Fatal(err)
	}
	if err := f.replaceHash(t.Context(), a, now, "late"); err != nil {
		t.Fatal(err)
	}
	if f.Exists(a) || f.count(t, "SELECT count(*) FROM passwords") != 0 {
		t.Error("the account came back")
	}
}

// REQ-30, known failure B13.
func TestLastLoginsAreWrittenOncePerHour(t *testing.T) {
	f := setUp(t, Options{})
	a, b := f.create(t, "alice@example.org", strongPassword), f.create(t, "bob@example.org", strongPassword)
	f.create(t, "carol@example.org", strongPassword)
	login := func(a address.Addr) {
		t.Helper()
		if err := f.LoggedIn(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := f.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(a address.Addr) int64 {
		return f.count(t, "SELECT last_login_at FROM quotas WHERE username = ?", a.Wire())
	}
	start := f.clock.now().Unix()
	login(a)
	f.clock.advance(time.Minute)
	login(b)
	if got := f.count(t, "SELECT count(*) FROM (SELECT username FROM quotas ORDER BY last_login_at DESC LIMIT 1) WHERE username = 'bob@example.org'"); got != 1 {
		t.Error("the latest login is not first")
	}
	if f.count(t, "SELECT first_login_at FROM quotas WHERE username = ?", a.Wire()) != start {
		t.Error("the first login was not recorded")
	}
	login(a)
	if stored(a) != start {
		t.Error("written twice within an hour")
	}
	if i, _ := f.Info(a); i.LastLogin != start+60 || i.FirstLogin != start || i.Pending {
		t.Errorf("%+v", i)
	}
	f.clock.advance(time.Hour)
	login(a)
	if stored(a) != start+3660 {
		t.Errorf("after an hour: %d", stored(a)-start)
	}
	// The first login after a start counts whatever the hour.
	f.clock.advance(time.Minute)
	again, err := Open(t.Context(), Options{DB: f.d, Now: f.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.LoggedIn(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := again.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stored(a) != start+3720 {
		t.Errorf("after a restart: %d", stored(a)-start)
	}
	// A flush makes no rows for who is gone.
	if err := f.LoggedIn(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	f.write(t, "DELETE FROM passwords WHERE username = 'bob@example.org'")
	f.write(t, "DELETE FROM quotas WHERE username = 'bob@example.org'")
	f.clock.advance(2 * time.Hour)
	login(b)
	if f.count(t, "SELECT count(*) FROM quotas WHERE username = 'bob@example.org'") != 0 {
		t.Error("the flush made a row")
	}
}

func TestLimitsHaveOneOrder(t *testing.T) {
	file := int64(0)
	f := setUp(t, Options{DefaultLimit: func() int64 { return file }})
	a := f.create(t, "alice@example.org", strongPassword)
	want := func(n int64) {
		t.Helper()
		if got := f.Limit(a); got != n {
			t.Errorf("limit %d, want %d", got, n)
		}
	}
	set := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want(1 << 30)
	file = 7000
	want(7000)
	set(f.SetDefaultLimit(t.Context(), 6000))
	want(6000)
	set(f.SetLimit(t.Context(), a, 5000))
	want(5000)
	set(f.SetLimit(t.Context(), a, -1))
	want(quota.Unlimited)
	set(f.SetLimit(t.Context(), a, 0))
	want(6000)
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(6000)
	if n := f.count(t, "SELECT max_storage FROM quotas WHERE username = '__GLOBAL_DEFAULT__'"); n != 6000 {
		t.Errorf("row %d", n)
	}
	set(f.SetDefaultLimit(t.Context(), -1))
	want(math.MaxInt64)
	if f.Count() != 1 || len(f.List()) != 1 {
		t.Error("the default row counts as a user")
	}
}

// Both layouts of passwords; "__X__" keys are never users.
func TestTheKeyValueLayoutIsReadAndWritten(t *testing.T) {
	f := setUp(t, Options{},
		"CREATE TABLE passwords (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
		"INSERT INTO passwords VALUES ('alice@example.org', '"+vectors[0].hash+"'), ('__REGISTRATION_OPEN__', 'true'), ('broken', 'x')")
	if f.Count() != 1 || !f.Exists(addr(t, "alice@example.org")) {
		t.Errorf("%d accounts: %v", f.Count(), f.List())
	}
	b := f.create(t, "bob@example.org", strongPassword)
	if err := f.SetPassword(t.Context(), b, []byte("new-"+strongPassword)); err != nil {
		t.Fatal(err)
	}
	if err := f.LoggedIn(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.count(t, "SELECT count(*) FROM passwords WHERE key = 'bob@example.org' AND value LIKE 'sha256:%'"); n != 1 {
		t.Error("not written in the table's layout")
	}
	if err := f.Verify(t.Context(), addr(t, "alice@example.org"), []byte("correct-horse")); err != nil {
		t.Error(err)
	}
	f.settle(t)
	if n := f.count(t, "SELECT count(*) FROM passwords WHERE key = 'alice@example.org' AND value LIKE 'argon2:%'"); n != 1 {
		t.Error("not rewritten in the table's layout")
	}
	if err := f.Delete(t.Context(), b, "x"); err != nil {
		t.Fatal(err)
	}
	if n := f.count(t, "SELECT count(*) FROM passwords"); n != 3 {
		t.Errorf("%d rows", n)
	}
}

// Known failure B19: names of predecessors are folded, and rows are found
// under the names that they have.
func TestOtherSpellingsInTheTablesAreOneAccount(t *testing.T) {
	hash := vectors[0].hash
	var log bytes.Buffer
	f := setUp(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))},
		"CREATE TABLE passwords (username TEXT PRIMARY KEY, hash TEXT NOT NULL)",
		"CREATE TABLE quotas (username TEXT PRIMARY KEY, max_storage BIGINT, last_login_at BIGINT)",
		"CREATE TABLE blocked_users (username TEXT PRIMARY KEY, reason TEXT, blocked_at TIMESTAMP)",
		"INSERT INTO passwords VALUES ('Alice@Example.org', 'old'), ('alice@example.org', '"+hash+"'), ('u@192.0.2.1', '"+hash+"'), ('ÉVA@example.org', '"+hash+"')",
		"INSERT INTO quotas VALUES ('Alice@Example.org', 1, 5), ('alice@example.org', 2, 9), ('u@192.0.2.1', 3, 1)",
		"INSERT INTO blocked_users VALUES ('Bob@Example.org', 'r', NULL)",
	)
	if f.Count() != 3 {
		t.Errorf("%d accounts", f.Count())
	}
	if strings.Contains(strings.ToLower(log.String()), "alice") || !strings.Contains(log.String(), "other_spelling=1") {
		t.Errorf("log: %s", log.String())
	}
	if got := f.Limit(addr(t, "alice@example.org")); got != 2 {
		t.Errorf("limit %d: the spelling that was used last must count", got)
	}
	u, eva, bob := addr(t, "u@[192.0.2.1]"), addr(t, "éva@example.org"), addr(t, "bob@example.org")
	for _, a := range []address.Addr{u, eva} {
		if f.Quick(a, []byte("correct-horse")) != Match {
			t.Errorf("%s does not log in", a.Wire())
		}
		if err := f.SetPassword(t.Context(), a, []byte(strongPassword)); err != nil {
			t.Fatal(err)
		}
		if err := f.SetLimit(t.Context(), a, 77); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.count(t, "SELECT count(*) FROM quotas WHERE username IN ('u@192.0.2.1', 'éva@example.org') AND max_storage = 77"); n != 2 {
		t.Errorf("%d limits were written where they belong", n)
	}
	if !f.Blocked(bob) {
		t.Error("the block does not count")
	}
	if err := f.Unblock(t.Context(), bob); err != nil {
		t.Fatal(err)
	}
	if err := f.Delete(t.Context(), addr(t, "alice@example.org"), ""); err != nil {
		t.Fatal(err)
	}
	f.settle(t)
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.Blocked(bob) || f.Exists(addr(t, "alice@example.org")) {
		t.Error("another spelling came back from the table")
	}
	if f.Quick(u, []byte(strongPassword)) != Match || f.Quick(eva, []byte(strongPassword)) != Match {
		t.Error("a change was written to another row")
	}
}

func TestReloadSeesWhatHandsChanged(t *testing.T) {
	f := setUp(t, Options{})
	a := f.create(t, "alice@example.org", weakPassword)
	if err := f.Verify(t.Context(), a, []byte(weakPassword)); err != nil {
		t.Fatal(err)
	}
	f.write(t, "INSERT INTO passwords (username, hash) VALUES ('bob@example.org', ?)", vectors[0].hash)
	f.write(t, "INSERT INTO blocked_users (username, reason) VALUES ('carol@example.org', 'r')")
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.Count() != 2 || !f.Blocked(addr(t, "carol@example.org")) || f.Quick(a, []byte(weakPassword)) != Match {
		t.Error("reload lost or missed something")
	}
}

func TestGeneratedAccountsFollowThePolicy(t *testing.T) {
	f := setUp(t, Options{})
	check := func(c Credentials, name, password int) {
		t.Helper()
		if len(c.Addr.Local()) != name || len(c.Password) != password || strings.Trim(c.Addr.Local(), nameAlphabet) != "" ||
			strings.Trim(string(c.Password), passwordAlphabet) != "" {
			t.Errorf("%s / %s", c.Addr.Wire(), c.Password)
		}
		if f.Quick(c.Addr, c.Password) != Match && f.Verify(t.Context(), c.Addr, c.Password) != nil {
			t.Error("does not log in")
		}
		if s := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(s, string(c.Password)) || strings.Contains(s, c.Addr.Local()) {
			t.Errorf("prints %s", s)
		}
	}
	random := func(r Random) Credentials {
		t.Helper()
		r.Domain = "example.org"
		c, err := f.CreateRandom(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	check(random(Random{}), 8, 24)
	check(random(Random{NameLength: 12, PasswordLength: 24}), 12, 24)
	f.SetPolicy(Policy{NameLength: 3, MinName: 5, MaxName: 30, PasswordLength: 4, MinPassword: 12})
	check(random(Random{}), 5, 12)
}

type repeating struct{ n int }

func (r *repeating) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.n)
	}
	r.n++
	return len(p), nil
}

func TestGenerationTriesOtherNamesAndGivesUp(t *testing.T) {
	f := setUp(t, Options{Rand: &repeating{}})
	// Passwords and salts draw from the same source, so the names drawn are
	// found by trying: all names of one letter are taken or blocked but one.
	for i := range len(nameAlphabet) {
		name := strings.Repeat(nameAlphabet[i:i+1], 8)
		if err := f.Block(t.Context(), addr(t, name+"@example.org"), "r"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.CreateRandom(t.Context(), Random{Domain: "example.org"}); !fault.Is(err, fault.Busy) {
		t.Errorf("every name is taken: %v", err)
	}
	if err := f.Unblock(t.Context(), addr(t, "jjjjjjjj@example.org")); err != nil {
		t.Fatal(err)
	}
	f.random = &repeating{n: 5}
	c, err := f.CreateRandom(t.Context(), Random{Domain: "example.org"})
	if err != nil || c.Addr.Local() != "jjjjjjjj" {
		t.Errorf("%s, %v", c.Addr.Wire(), err)
	}
}

// REQ-20, known failure B17: lengths in characters, and characters.
func TestREQ20ThePolicyJudgesNamesAndPasswords(t *testing.T) {
	var p Policy
	for name, ok := range map[string]bool{
		"abcdefg": false, "abcdefgh": true, "cipy2tg51": true, strings.Repeat("a", 20): true, strings.Repeat("a", 21): false,
		"ääääääää": false, "a b c d e f": false, "abc%defgh": false, "abcd+tagged": false, "a.b-c_d.e": true, ".abcdefgh": false,
		"-abcdefgh": false, "_abcdefgh": false, "postmaster": false, "mailer-daemon": false, "hostmaster": false, "0123456789": true,
	} {
		if err := p.CheckName(name); (err == nil) != ok || err != nil && !fault.Is(err, fault.Refused) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for password, ok := range map[string]bool{
		"1234567": false, "12345678": true, "pässwörd": true, "äöüäöüä": false, "abc\x00defgh": false, "abc\ndefghi": false, "two words ok": true,
		strings.Repeat("a", 256): true, strings.Repeat("a", 257): false, "\xff\xfe\xfd\xfc\xff\xfe\xfd\xfc": false, strongPassword: true,
		strings.Repeat("A1", 25): true,
	} {
		if err := p.CheckPassword([]byte(password)); (err == nil) != ok || err != nil && !fault.Is(err, fault.Refused) {
			t.Errorf("password %q: %v", password, err)
		}
	}
	if (Policy{MinName: 3}).CheckName("abc") != nil || (Policy{MinPassword: 3}).CheckPassword([]byte("abc")) != nil {
		t.Error("directives do not change the limits")
	}
	if (Policy{MinName: 3}).CheckName("root") == nil {
		t.Error("a reserved name passes")
	}
}

// D14 of names: which domains are ours. Known failures B20, B21.
func TestDomainsAreOursInEverySpelling(t *testing.T) {
	for _, c := range []struct {
		name         string
		o            DomainOptions
		registration string
		local, not   []string
	}{
		{"configured", DomainOptions{Primary: "Example.ORG.", Local: []string{"a.example", "b.example"}, Mail: "m.example", Hostname: "h.example"},
			"example.org", []string{"EXAMPLE.org", "a.example", "b.example", "m.example"}, []string{"localhost", "127.0.0.1", "h.example", "other.example"}},
		{"IPv4", DomainOptions{Primary: "203.0.113.5"}, "[203.0.113.5]", []string{"203.0.113.5", "[203.0.113.5]"}, []string{"localhost", "203.0.113.6"}},
		{"IPv6", DomainOptions{Primary: "2001:db8::1"}, "[IPv6:2001:db8::1]", []string{"[IPv6:2001:DB8:0::1]", "[2001:db8::1]"}, []string{"[::1]"}},
		{"IDNA", DomainOptions{Primary: "bücher.example"}, "xn--bcher-kva.example", []string{"BÜCHER.example"}, nil},
		{"mail domain only", DomainOptions{Mail: "m.example", Hostname: "h.example"}, "m.example", []string{"h.example", "localhost"}, nil},
		{"nothing", DomainOptions{}, "[127.0.0.1]", []string{"localhost", "127.0.0.1", "[127.0.0.1]", "[::1]"}, []string{"example.org"}},
		{"host name", DomainOptions{Hostname: "h.example"}, "h.example", []string{"h.example", "localhost", "127.0.0.1"}, nil},
		{"loopback", DomainOptions{Primary: "localhost"}, "localhost", []string{"127.0.0.1"}, nil},
		{"jit domain", DomainOptions{Primary: "example.org", JIT: []string{"jit.example"}}, "example.org", []string{"jit.example"}, []string{"203.0.113.5"}},
		{"development", DomainOptions{Primary: "example.org", Dev: true}, "example.org", []string{"localhost"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := NewDomains(c.o)
			if err != nil {
				t.Fatal(err)
			}
			if string(d.Registration()) != c.registration {
				t.Errorf("registration %q", d.Registration())
			}
			for want, list := range map[bool][]string{true: append(c.local, c.registration), false: c.not} {
				for _, s := range list {
					dom, err := address.ParseDomain(s)
					if err != nil {
						t.Fatal(err)
					}
					if d.IsLocal(dom) != want || d.MayCreate(dom) != want {
						t.Errorf("%s is local: %v", s, !want)
					}
				}
			}
		})
	}
	if _, err := NewDomains(DomainOptions{Primary: "a b"}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "primary_domain") {
		t.Errorf("bad domain: %v", err)
	}
	dev, err := NewDomains(DomainOptions{Hostname: "h.example"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"": "h.example", "127.0.0.1:8080": "[127.0.0.1]", "localhost:8080": "localhost", "[::1]:80": "[IPv6:::1]", "evil.example": "h.example"} {
		if got := dev.RegistrationFor(host); string(got) != want {
			t.Errorf("Host %q: %q, want %q", host, got, want)
		}
	}
	if a, err := dev.Parse(" Alice "); err != nil || a.Wire() != "alice@h.example" {
		t.Errorf("bare name: %q, %v", a.Wire(), err)
	}
	if err := dev.Set(DomainOptions{Primary: "a b"}); err == nil || dev.Registration() != "h.example" {
		t.Error("a bad reload changed the domains")
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			d, err := db.Open(b.Context(), db.Options{StateDir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close(context.Background())
			hash, err := newHash(rand.Reader, []byte(strongPassword))
			if err != nil {
				b.Fatal(err)
			}
			err = d.Write(b.Context(), func(ctx context.Context, tx *db.Tx) error {
				for i := range n {
					name := fmt.Sprintf("user%06d@example.org", i)
					if _, err := tx.Exec(ctx, "INSERT INTO passwords (username, hash, created_at) VALUES (?, ?, 1)", name, hash); err != nil {
						return err
					}
					if _, err := tx.Exec(ctx, "INSERT INTO quotas (username, created_at, first_login_at, last_login_at) VALUES (?, 1, 1, ?)", name, i); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				s, err := Open(b.Context(), Options{DB: d})
				if err != nil || s.Count() != n {
					b.Fatal(s.Count(), err)
				}
			}
		})
	}
}

func BenchmarkExists(b *testing.B) {
	f := setUp(b, Options{})
	a := f.create(b, "alice@example.org", strongPassword)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if !f.Exists(a) || f.Blocked(a) {
				b.Fatal("gone")
			}
		}
	})
}

package quota

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"madmail/internal/address"
	"madmail/internal/fault"
)

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// fixed gives every account the same limit.
func fixed(n int64) *Cache {
	return New(func(address.Addr) int64 { return n })
}

func (c *Cache) entries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.m)
}

func wantUsage(t *testing.T, c *Cache, a address.Addr, bytes, messages int64) {
	t.Helper()
	if used, n, _ := c.Usage(a); used != bytes || n != messages {
		t.Errorf("%d bytes in %d messages, want %d in %d", used, n, bytes, messages)
	}
}

func reserve(t *testing.T, c *Cache, a address.Addr, n int64) *Reservation {
	t.Helper()
	r, err := c.Reserve(a, n)
	if err != nil {
		t.Fatalf("reserve %d: %v", n, err)
	}
	return r
}

func TestAnAccountFillsToTheByte(t *testing.T) {
	c, a := fixed(100), addr(t, "a@example.org")
	c.Add(a, 60, 3)
	for _, x := range []struct {
		n    int64
		fits bool
	}{{0, true}, {1, true}, {40, true}, {41, false}, {math.MaxInt64, false}} {
		if got := c.HasRoom(a, x.n); got != x.fits {
			t.Errorf("room for %d: %v", x.n, got)
		}
		r, err := c.Reserve(a, x.n)
		if (err == nil) != x.fits || err != nil && !fault.Is(err, fault.Full) {
			t.Errorf("reserve %d: %v", x.n, err)
		}
		if err == nil {
			r.Release()
		}
	}
	c.Add(a, 40, 1)
	if c.HasRoom(a, 1) || !c.HasRoom(a, 0) {
		t.Error("a full account has room for 1, or none for 0")
	}
	wantUsage(t, c, a, 100, 4)
}

// TestAFullAccountReceivesAgainAfterDeletion is known failure A6: nothing
// subtracted, so a busy user was full until a restart.
func TestAFullAccountReceivesAgainAfterDeletion(t *testing.T) {
	c, a := fixed(1000), addr(t, "a@example.org")
	for round := range 5 {
		for range 10 {
			r := reserve(t, c, a, 100)
			c.Add(a, 100, 1)
			r.Release()
		}
		if _, err := c.Reserve(a, 1); !fault.Is(err, fault.Full) {
			t.Fatalf("round %d: %v, want full", round, err)
		}
		c.Add(a, -1000, -10)
		wantUsage(t, c, a, 0, 0)
	}
}

func TestReservationsCountUntilReleased(t *testing.T) {
	c, a, b := fixed(100), addr(t, "a@example.org"), addr(t, "b@example.org")
	first, second := reserve(t, c, a, 50), reserve(t, c, a, 50)
	if _, err := c.Reserve(a, 1); !fault.Is(err, fault.Full) {
		t.Errorf("third reservation: %v", err)
	}
	if c.HasRoom(a, 1) {
		t.Error("reserved room is free")
	}
	reserve(t, c, b, 100).Release() // another account is not concerned
	wantUsage(t, c, a, 0, 0)        // reserved is not used
	first.Release()
	first.Release() // the second time it does nothing
	if _, err := c.Reserve(a, 51); !fault.Is(err, fault.Full) {
		t.Errorf("more than was released: %v", err)
	}
	reserve(t, c, a, 50).Release()
	second.Release()
	reserve(t, c, a, 100).Release()
}

// TestTheHookAndTheReservationDoNotCountTwice plays a delivery: reserve, the
// store's hook, release; and one that fails.
func TestTheHookAndTheReservationDoNotCountTwice(t *testing.T) {
	c, a := fixed(100), addr(t, "a@example.org")
	r := reserve(t, c, a, 60)
	c.Add(a, 60, 1)
	r.Release()
	wantUsage(t, c, a, 60, 1)
	if !c.HasRoom(a, 40) || c.HasRoom(a, 41) {
		t.Error("after a delivery of 60 of 100 there is not room for 40")
	}
	reserve(t, c, a, 40).Release() // failed
	wantUsage(t, c, a, 60, 1)
	if !c.HasRoom(a, 40) {
		t.Error("a failed delivery keeps its room")
	}
}

func TestLimitsAreAskedEachTime(t *testing.T) {
	var limit atomic.Int64
	c, a := New(func(address.Addr) int64 { return limit.Load() }), addr(t, "a@example.org")
	limit.Store(10)
	c.Add(a, 10, 1)
	if c.HasRoom(a, 1) {
		t.Error("room beyond the limit")
	}
	limit.Store(20)
	reserve(t, c, a, 10).Release()
	// A limit below what is used: full, and no more than that.
	limit.Store(5)
	if _, err := c.Reserve(a, 1); !fault.Is(err, fault.Full) {
		t.Errorf("above a lowered limit: %v", err)
	}
	if _, _, l := c.Usage(a); l != 5 {
		t.Errorf("limit %d, want 5", l)
	}
	limit.Store(Unlimited)
	reserve(t, c, a, 1<<50).Release()
	if !c.HasRoom(a, 1<<50) {
		t.Error("no room without a limit")
	}
}

func TestUsageNeverFallsBelowZero(t *testing.T) {
	c, a := fixed(100), addr(t, "a@example.org")
	c.Add(a, 10, 1)
	c.Add(a, -50, -7)
	wantUsage(t, c, a, 0, 0)
	if bytes, messages := c.Total(); bytes != 0 || messages != 0 {
		t.Errorf("%d bytes in %d messages in all", bytes, messages)
	}
	if c.HasRoom(a, 101) || !c.HasRoom(a, 100) {
		t.Error("less than nothing makes room")
	}
}

// TestTheOrderOfTheHooksDoesNotMatter: a removal by hand is noticed by whoever
// measures, and may be told before the delivery that it took back.
func TestTheOrderOfTheHooksDoesNotMatter(t *testing.T) {
	c, a := fixed(100), addr(t, "a@example.org")
	c.Add(a, -60, -1)
	c.Add(a, 60, 1)
	wantUsage(t, c, a, 0, 0)
	if !c.HasRoom(a, 100) {
		t.Error("what went still takes room")
	}
	if n := c.entries(); n != 0 {
		t.Errorf("%d entries for an account without mail", n)
	}
}

func TestFullAccountsAreSuspects(t *testing.T) {
	c, a, b := fixed(100), addr(t, "a@example.org"), addr(t, "b@example.org")
	c.Add(a, 90, 1)
	c.Add(b, 90, 1)
	for _, x := range []address.Addr{a, a, b, addr(t, "empty@example.org")} {
		if _, err := c.Reserve(x, 101); !fault.Is(err, fault.Full) {
			t.Fatal(err)
		}
	}
	one, other := c.Suspects(1), c.Suspects(10)
	if len(one) != 1 || len(other) != 1 || one[0] == other[0] || len(c.Suspects(10)) != 0 {
		t.Errorf("%v, then %v", one, other)
	}
}

// TestAccountsWithoutMailTakeNoMemory: names that were only asked about, or
// whose mail is gone, do not stay (known failure B32).
func TestAccountsWithoutMailTakeNoMemory(t *testing.T) {
	c, a := fixed(100), addr(t, "a@example.org")
	c.HasRoom(a, 1)
	c.Usage(a)
	reserve(t, c, a, 10).Release()
	c.Add(a, 10, 1)
	c.Add(a, -10, -1)
	if n := c.entries(); n != 0 {
		t.Errorf("%d entries for accounts without mail", n)
	}
}

func TestTotalIsTheSum(t *testing.T) {
	c := fixed(1000)
	c.Add(addr(t, "a@example.org"), 10, 1)
	c.Add(addr(t, "b@example.org"), 20, 3)
	reserve(t, c, addr(t, "c@example.org"), 500)
	if bytes, messages := c.Total(); bytes != 30 || messages != 4 {
		t.Errorf("total %d in %d, want 30 in 4", bytes, messages)
	}
}

// TestTheLimitHoldsUnderContention lets many deliver at once: used and
// reserved together never pass the limit, and all that fits is taken.
func TestTheLimitHoldsUnderContention(t *testing.T) {
	const limit, size, workers, tries = 10_000, 100, 8, 200
	c, a := fixed(limit), addr(t, "a@example.org")
	var stored atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for range tries {
				r, err := c.Reserve(a, size)
				if err != nil {
					continue
				}
				if n := stored.Load(); n > limit-size {
					t.Errorf("%d bytes stored and %d more reserved", n, size)
				}
				if rnd.IntN(4) > 0 {
					c.Add(a, size, 1)
					stored.Add(size)
				}
				r.Release()
			}
		}()
	}
	wg.Wait()
	used, messages, _ := c.Usage(a)
	if used != stored.Load() || used > limit || messages != used/size {
		t.Errorf("%d bytes in %d messages, stored %d, limit %d", used, messages, stored.Load(), limit)
	}
	if used != limit {
		t.Errorf("%d tries filled %d of %d", workers*tries, used, limit)
	}
}

func BenchmarkReserveAddRelease(b *testing.B) {
	c, a := fixed(Unlimited), addr(b, "a@example.org")
	b.ReportAllocs()
	for b.Loop() {
		r, err := c.Reserve(a, 1000)
		if err != nil {
			b.Fatal(err)
		}
		c.Add(a, 1000, 1)
		r.Release()
		c.Add(a, -1000, -1)
	}
}

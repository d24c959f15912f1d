package device

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

type fixture struct {
	*Store
	d  *db.DB
	mu sync.Mutex
	t  time.Time
}

func (f *fixture) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.t
}

func (f *fixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.t = f.t.Add(d)
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(context.Background()) })
	f := &fixture{d: d, t: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	if f.Store, err = Open(t.Context(), Options{DB: d, Now: f.now}); err != nil {
		t.Fatal(err)
	}
	return f
}

func addr(t *testing.T, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (f *fixture) add(t *testing.T, a address.Addr, token string) {
	t.Helper()
	if err := f.Add(t.Context(), a, token); err != nil {
		t.Fatal(err)
	}
}

// want compares memory and, by a second store, the table.
func (f *fixture) want(t *testing.T, a address.Addr, tokens ...string) {
	t.Helper()
	again, err := Open(t.Context(), Options{DB: f.d})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{f.Store, again} {
		if got := s.List(a); !reflect.DeepEqual(got, tokens) {
			t.Errorf("%q, want %q", got, tokens)
		}
	}
}

func TestTokensAreKeptOnceAndLatestFirst(t *testing.T) {
	f := setUp(t)
	a, b := addr(t, "a@example.org"), addr(t, "b@example.org")
	f.add(t, a, "one")
	f.advance(time.Second)
	f.add(t, a, "two")
	f.add(t, b, "one")
	f.want(t, a, "two", "one")
	f.add(t, a, "one") // within the hour: nothing is written
	f.want(t, a, "two", "one")
	f.advance(2 * time.Hour)
	f.add(t, a, "one")
	f.want(t, a, "one", "two")
	f.want(t, b, "one")
}

func TestTheOldestTokenMakesRoom(t *testing.T) {
	f := setUp(t)
	a := addr(t, "a@example.org")
	for i := range MaxDevices + 3 {
		f.add(t, a, fmt.Sprintf("token%02d", i))
		f.advance(time.Second)
	}
	got := f.List(a)
	if len(got) != MaxDevices || got[0] != "token18" || got[MaxDevices-1] != "token03" {
		t.Errorf("%q", got)
	}
	f.want(t, a, got...)
}

func TestParallelDevicesKeepTheBound(t *testing.T) {
	f := setUp(t)
	a := addr(t, "a@example.org")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := f.Add(t.Context(), a, fmt.Sprint("token", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := f.List(a); len(got) != MaxDevices {
		t.Errorf("%d tokens", len(got))
	}
}

func TestBadTokensAreInvalid(t *testing.T) {
	f := setUp(t)
	a := addr(t, "a@example.org")
	for _, token := range []string{"", strings.Repeat("a", MaxToken+1), "a\nb", "a\x00", "\x7f"} {
		if err := f.Add(t.Context(), a, token); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.10q: %v", token, err)
		}
	}
	f.add(t, a, strings.Repeat("a", MaxToken))
	if len(f.List(a)) != 1 {
		t.Error("the longest token is not there")
	}
}

// Known failure B23: tokens go with the account.
func TestRemoving(t *testing.T) {
	f := setUp(t)
	a, b := addr(t, "a@example.org"), addr(t, "b@example.org")
	f.add(t, a, "one")
	f.add(t, a, "two")
	f.add(t, b, "one")
	if err := f.RemoveToken(t.Context(), a, "one"); err != nil {
		t.Fatal(err)
	}
	f.want(t, a, "two")
	for range 2 {
		if err := f.Remove(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	f.want(t, a)
	f.want(t, b, "one")
}

// TestRowsOfAnotherSpellingGoWithTheAccount: the second version writes IPv6 domains as
// clients do.
func TestRowsOfAnotherSpellingGoWithTheAccount(t *testing.T) {
	f := setUp(t)
	a := addr(t, "a@[IPv6:2001:db8::1]")
	err := f.d.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		for _, row := range [][3]any{{"a@2001:db8::1", "one", 1}, {"a@[ipv6:2001:db8::1]", "two", 2}, {"a@2001:db8::1", "two", 3}, {a.Wire(), "one", 4}} {
			if _, err := tx.Exec(ctx, "INSERT INTO push_tokens (username, device_token, updated_at) VALUES (?, ?, ?)", row[:]...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.want(t, a, "one", "two")
	if err := f.RemoveToken(t.Context(), a, "two"); err != nil {
		t.Fatal(err)
	}
	f.want(t, a, "one")
	if err := f.Remove(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	f.want(t, a)
}

func TestOldTokensAndThoseOfNobodyExpire(t *testing.T) {
	f := setUp(t)
	a, b, gone := addr(t, "a@example.org"), addr(t, "b@example.org"), addr(t, "gone@example.org")
	f.add(t, a, "old")
	f.advance(100 * 24 * time.Hour)
	f.add(t, a, "new")
	f.add(t, b, "other")
	f.add(t, gone, "left")
	n, err := f.Expire(t.Context(), f.now().Add(-90*24*time.Hour), func(x address.Addr) bool { return x != gone })
	if n != 2 || err != nil {
		t.Errorf("%d expired, %v", n, err)
	}
	f.want(t, a, "new")
	f.want(t, b, "other")
	f.want(t, gone)
}

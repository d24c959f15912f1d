package account

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

func (f *fixture) token(t *testing.T, n int) string {
	t.Helper()
	tok, err := f.CreateToken(t.Context(), Token{MaxUses: n})
	if err != nil {
		t.Fatal(err)
	}
	return tok.Token
}

func (f *fixture) state(t *testing.T, token string) Token {
	t.Helper()
	tok, _, err := f.TokenInfo(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// Known failure of both predecessors: check, then reserve.
func TestOneTokenMakesOneAccountHoweverManyAsk(t *testing.T) {
	f := setUp(t, Options{})
	token := f.token(t, 1)
	var made atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			_, err := f.CreateRandom(t.Context(), Random{Domain: "example.org", Token: token})
			switch {
			case err == nil:
				made.Add(1)
			case !fault.Is(err, fault.Refused):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 || f.Count() != 1 {
		t.Errorf("%d accounts", made.Load())
	}
	if tok := f.state(t, token); tok.Used != 0 || tok.Pending != 1 || tok.Status(f.clock.now()) != "exhausted" {
		t.Errorf("%+v", tok)
	}
}

// REQ-33.
func TestAReservationBecomesAUseAtTheFirstLogin(t *testing.T) {
	f := setUp(t, Options{})
	token := f.token(t, 3)
	for range 3 {
		if _, err := f.CreateRandom(t.Context(), Random{Domain: "example.org", Token: token}); err != nil {
			t.Fatal(err)
		}
	}
	if _, pending, err := f.TokenInfo(t.Context(), token); err != nil || len(pending) != 3 {
		t.Errorf("pending %v, %v", pending, err)
	}
	accounts := f.List()
	// Two logins at once take one use.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := f.LoggedIn(t.Context(), accounts[0].Addr); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tok := f.state(t, token); tok.Used != 1 || tok.Pending != 2 || tok.Available() != 0 {
		t.Errorf("%+v", tok)
	}
	// Removing a pending account frees its reservation.
	if err := f.Delete(t.Context(), accounts[1].Addr, ""); err != nil {
		t.Fatal(err)
	}
	if tok := f.state(t, token); tok.Pending != 1 || tok.Available() != 1 {
		t.Errorf("%+v", tok)
	}
	if i, err := f.Info(accounts[0].Addr); err != nil || i.Token != "" || i.FirstLogin != f.clock.now().Unix() {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestAnAccountWhoseTokenIsGoneIsRemovedAtItsFirstLogin(t *testing.T) {
	f := setUp(t, Options{})
	token := f.token(t, 100)
	for range 100 {
		if _, err := f.CreateRandom(t.Context(), Random{Domain: "example.org", Token: token}); err != nil {
			t.Fatal(err)
		}
	}
	f.write(t, "UPDATE registration_tokens SET max_uses = 30")
	var in, out atomic.Int64
	var wg sync.WaitGroup
	for _, i := range f.List() {
		wg.Go(func() {
			switch err := f.LoggedIn(t.Context(), i.Addr); {
			case err == nil:
				in.Add(1)
			case fault.Is(err, fault.Denied):
				out.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tok := f.state(t, token)
	if in.Load() != 30 || out.Load() != 70 || tok.Used != 30 || tok.Pending != 0 || f.Count() != 30 || len(f.ended) != 70 {
		t.Errorf("%d in, %d out, %+v, %d accounts, %d ended", in.Load(), out.Load(), tok, f.Count(), len(f.ended))
	}
	if n := f.count(t, "SELECT (SELECT count(*) FROM passwords) + (SELECT count(*) FROM quotas)"); n != 60 {
		t.Errorf("%d rows", n)
	}
	// The same for a token that was deleted.
	late := f.token(t, 1)
	c, err := f.CreateRandom(t.Context(), Random{Domain: "example.org", Token: late})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteToken(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if err := f.LoggedIn(t.Context(), c.Addr); !fault.Is(err, fault.Denied) || f.Exists(c.Addr) {
		t.Errorf("deleted token: %v", err)
	}
	if err := f.LoggedIn(t.Context(), c.Addr); !fault.Is(err, fault.Denied) {
		t.Errorf("once more: %v", err)
	}
}

func TestTokensAreCheckedAndListed(t *testing.T) {
	f := setUp(t, Options{})
	at := f.clock.now().Add(time.Hour)
	if _, err := f.CreateToken(t.Context(), Token{Token: "summer", MaxUses: 2, Comment: "fair", ExpiresAt: at}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CreateToken(t.Context(), Token{Token: "summer"}); !fault.Is(err, fault.Exists) {
		t.Errorf("twice: %v", err)
	}
	for _, bad := range []Token{{Token: "a b"}, {Token: "a\x00"}, {MaxUses: -1}, {Token: strings.Repeat("a", 256)}} {
		if _, err := f.CreateToken(t.Context(), bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	list, err := f.Tokens(t.Context())
	if err != nil || len(list) != 1 || list[0].MaxUses != 2 || list[0].Comment != "fair" || !list[0].ExpiresAt.Equal(at) || list[0].Status(f.clock.now()) != "active" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := f.CheckToken(t.Context(), "summer"); err != nil {
		t.Error(err)
	}
	f.clock.advance(time.Hour)
	if err := f.CheckToken(t.Context(), "summer"); !fault.Is(err, fault.Refused) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	if err := f.Create(t.Context(), New{Addr: addr(t, "alice@example.org"), Password: []byte(strongPassword), Token: "summer"}); !fault.Is(err, fault.Refused) {
		t.Errorf("created with an expired token: %v", err)
	}
	if f.Exists(addr(t, "alice@example.org")) || f.count(t, "SELECT count(*) FROM passwords") != 0 {
		t.Error("a refused account left a row")
	}
	for _, err := range []error{f.CheckToken(t.Context(), "none"), f.Create(t.Context(), New{Addr: addr(t, "b@example.org"), Password: []byte("x"), Token: "none"})} {
		if !fault.Is(err, fault.Refused) {
			t.Errorf("unknown token: %v", err)
		}
	}
	if err := f.DeleteToken(t.Context(), "none"); !fault.Is(err, fault.NotFound) {
		t.Errorf("delete unknown: %v", err)
	}
	if tok := f.token(t, 1); len(tok) != 24 {
		t.Errorf("drawn token %q", tok)
	}
	var none address.Addr
	if _, err := f.Info(none); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

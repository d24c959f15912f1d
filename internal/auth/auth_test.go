package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
	"madmail/internal/settings"
)

const (
	strong = "zIf1Ln0RqXo3w8Kd5VbTyM"
	weak   = "Summer2026!"
)

var here = netip.MustParseAddr("192.0.2.7")

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// wait stands in for waiting: time passes at once.
func (c *clock) wait(_ context.Context, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

type house struct {
	*Service
	accounts *account.Store
	settings *settings.Store
	clock    *clock
	db       *db.DB
	log      bytes.Buffer
}

func build(t testing.TB, domains account.DomainOptions, file map[settings.Key]string) *house {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{db: d, clock: &clock{t: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}}
	if h.accounts, err = account.Open(t.Context(), account.Options{DB: d, Now: h.clock.now}); err != nil {
		t.Fatal(err)
	}
	if h.settings, err = settings.Open(t.Context(), settings.Options{DB: d, File: file}); err != nil {
		t.Fatal(err)
	}
	doms, err := account.NewDomains(domains)
	if err != nil {
		t.Fatal(err)
	}
	h.Service = New(Options{
		Accounts: h.accounts, Domains: doms, Settings: h.settings.Current, Now: h.clock.now, Wait: h.clock.wait,
		Log: slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	t.Cleanup(func() {
		if err := h.accounts.Close(context.Background()); err != nil && !fault.Is(err, fault.Busy) {
			t.Error(err)
		}
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) login(t testing.TB, user, password string) (Identity, error) {
	t.Helper()
	return h.Login(t.Context(), user, []byte(password), here)
}

func (h *house) set(t testing.TB, k settings.Key, v string) {
	t.Helper()
	if _, err := h.settings.Set(t.Context(), k, v); err != nil {
		t.Fatal(err)
	}
}

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (h *house) create(t testing.TB, who, password string) address.Addr {
	t.Helper()
	a := addr(t, who)
	if err := h.accounts.Create(t.Context(), account.New{Addr: a, Password: []byte(password)}); err != nil {
		t.Fatal(err)
	}
	return a
}

// refused checks what a client sees: the word that makes it tell its user.
func refused(t testing.TB, what string, err error) {
	t.Helper()
	if !fault.Is(err, fault.Denied) || !strings.Contains(strings.ToLower(fault.UserText(err)), "authentication") {
		t.Errorf("%s: %v, want a refusal", what, err)
	}
}

// The decision table of logins, row by row. REQ-19, REQ-20, REQ-22; known
// failures A8, A9, B17, B18, B20, B21.
func TestTheLoginTable(t *testing.T) {
	primary := account.DomainOptions{Primary: "example.org", Local: []string{"second.example"}}
	ip := account.DomainOptions{Primary: "203.0.113.5"}
	for _, c := range []struct {
		name           string
		domains        account.DomainOptions
		set            map[settings.Key]string
		file           map[settings.Key]string
		prepare        func(t *testing.T, h *house)
		user, password string
		want           string // account, "+" in front when created, "" when refused
		reason         string // in the log of a refusal
	}{
		{name: "1 no address", user: "a b@example.org", password: strong, reason: "malformed"},
		{name: "1 empty", user: "", password: strong, reason: "malformed"},
		{name: "1 domain is no domain", user: "alicealice@[x]", password: strong, reason: "malformed"},
		{name: "1 settings key", user: "__REGISTRATION_OPEN__", password: "true", reason: "malformed"},
		{name: "2 percent", user: "alice%other@example.org", password: strong, reason: "malformed"},
		{name: "2 foreign domain", user: "alicealice@other.example", password: strong, reason: "local_domains"},
		{name: "2 localhost in production", user: "alicealice@localhost", password: strong, reason: "local_domains"},
		{name: "2 known user of another domain", prepare: func(t *testing.T, h *house) { h.create(t, "alice@old.example", strong) },
			user: "alice@old.example", password: strong, want: "alice@old.example"},
		{name: "3 blocked, with account", prepare: func(t *testing.T, h *house) {
			if err := h.accounts.Block(t.Context(), h.create(t, "alicealice@example.org", strong), "r"); err != nil {
				t.Fatal(err)
			}
		}, user: "alicealice@example.org", password: strong, reason: "blocked"},
		{name: "3 blocked, without account", prepare: func(t *testing.T, h *house) {
			if err := h.accounts.Delete(t.Context(), addr(t, "alicealice@example.org"), "r"); err != nil {
				t.Fatal(err)
			}
		}, user: "alicealice@example.org", password: strong, reason: "blocked"},
		{name: "4 known user", prepare: func(t *testing.T, h *house) { h.create(t, "al@example.org", "x") }, user: " AL@Example.org. ", password: "x", want: "al@example.org"},
		{name: "4 known user, weak, everything closed", set: map[settings.Key]string{settings.RegistrationOpen: "no", settings.TokenRequired: "yes"},
			prepare: func(t *testing.T, h *house) { h.create(t, "al@example.org", weak) }, user: "al@example.org", password: weak, want: "al@example.org"},
		{name: "4 bare name", prepare: func(t *testing.T, h *house) { h.create(t, "al@example.org", weak) }, user: "al", password: weak, want: "al@example.org"},
		{name: "5 wrong password", prepare: func(t *testing.T, h *house) { h.create(t, "alicealice@example.org", strong) },
			user: "alicealice@example.org", password: "x" + strong, reason: "wrong password"},
		{name: "5 wrong password, weak", prepare: func(t *testing.T, h *house) { h.create(t, "alicealice@example.org", weak) },
			user: "alicealice@example.org", password: strong, reason: "wrong password"},
		{name: "5 empty password", prepare: func(t *testing.T, h *house) { h.create(t, "alicealice@example.org", weak) }, user: "alicealice@example.org", reason: "wrong password"},
		{name: "6 registration closed closes first logins", set: map[settings.Key]string{settings.RegistrationOpen: "no"},
			user: "alicealice@example.org", password: strong, reason: "first logins"},
		{name: "6 first logins named closed", set: map[settings.Key]string{settings.JITRegistration: "no"},
			user: "alicealice@example.org", password: strong, reason: "first logins"},
		{name: "6 file says no", file: map[settings.Key]string{settings.RegistrationOpen: "no"}, user: "alicealice@example.org", password: strong, reason: "first logins"},
		{name: "6 first logins named open", set: map[settings.Key]string{settings.RegistrationOpen: "no", settings.JITRegistration: "yes"},
			user: "alicealice@example.org", password: strong, want: "+alicealice@example.org"},
		{name: "6 file says no, operator says yes", file: map[settings.Key]string{settings.RegistrationOpen: "no"},
			set: map[settings.Key]string{settings.RegistrationOpen: "yes"}, user: "alicealice@example.org", password: strong, want: "+alicealice@example.org"},
		{name: "7 token required", set: map[settings.Key]string{settings.TokenRequired: "yes"}, user: "alicealice@example.org", password: strong, reason: "token"},
		{name: "8 name too short", user: "alice@example.org", password: strong, reason: "name"},
		{name: "8 name too long", user: strings.Repeat("a", 21) + "@example.org", password: strong, reason: "name"},
		{name: "8 name with umlaut", user: "älicealice@example.org", password: strong, reason: "name"},
		{name: "8 name with plus", user: "alice+alice@example.org", password: strong, reason: "name"},
		{name: "8 reserved name", user: "postmaster@example.org", password: strong, reason: "name"},
		{name: "8 dots", user: "alice..alice@example.org", password: strong, reason: "malformed"},
		{name: "8 leading dot", user: ".alicealice@example.org", password: strong, reason: "malformed"},
		{name: "8 password too short", user: "alicealice@example.org", password: "1234567", reason: "password"},
		{name: "8 password with control character", user: "alicealice@example.org", password: strong + "\x00", reason: "password"},
		{name: "9 self-made credentials", user: "cipy2tg51@example.org", password: strong, want: "+cipy2tg51@example.org"},
		{name: "9 long password", user: "cipy2tg51@example.org", password: strong + strong + "abcdef", want: "+cipy2tg51@example.org"},
		{name: "9 upper case", user: "CiPy2tg51@EXAMPLE.org", password: strong, want: "+cipy2tg51@example.org"},
		{name: "9 shortest and weak", user: "abcdefgh@second.example", password: "12345678", want: "+abcdefgh@second.example"},
		{name: "9 IP in brackets", domains: ip, user: "alicealice@[203.0.113.5]", password: strong, want: "+alicealice@[203.0.113.5]"},
		{name: "9 IP bare", domains: ip, user: "alicealice@203.0.113.5", password: strong, want: "+alicealice@[203.0.113.5]"},
		{name: "9 IPv6", domains: account.DomainOptions{Primary: "2001:db8::1"}, user: "alicealice@[IPv6:2001:DB8::1]", password: strong, want: "+alicealice@[IPv6:2001:db8::1]"},
		{name: "9 IP of a named server", user: "alicealice@203.0.113.5", password: strong, reason: "local_domains"},
		{name: "9 development", domains: account.DomainOptions{Dev: true}, user: "alicealice@[127.0.0.1]", password: strong, want: "+alicealice@[127.0.0.1]"},
		{name: "9 name of a deleted account", prepare: func(t *testing.T, h *house) {
			a := h.create(t, "alicealice@example.org", weak)
			if err := errors.Join(h.accounts.Delete(t.Context(), a, ""), h.accounts.Cleared(t.Context(), a)); err != nil {
				t.Fatal(err)
			}
		}, user: "alicealice@example.org", password: strong, want: "+alicealice@example.org"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.domains.Primary == "" && !c.domains.Dev {
				c.domains = primary
			}
			h := build(t, c.domains, c.file)
			for k, v := range c.set {
				h.set(t, k, v)
			}
			if c.prepare != nil {
				c.prepare(t, h)
			}
			before := h.accounts.Count()
			slow := h.accounts.SlowHashes()
			id, err := h.login(t, c.user, c.password)
			if c.want == "" {
				refused(t, c.name, err)
				if h.accounts.Count() != before {
					t.Error("an account was made")
				}
				if !strings.Contains(h.log.String(), c.reason) {
					t.Errorf("log %q does not say %q", h.log.String(), c.reason)
				}
				if strings.Contains(h.log.String(), "alice") || c.password != "" && strings.Contains(h.log.String(), c.password) {
					t.Errorf("log shows too much: %s", h.log.String())
				}
				if n := h.accounts.SlowHashes() - slow; n != 1 {
					t.Errorf("the refusal cost %d slow hashes", n)
				}
				return
			}
			wire, created := strings.CutPrefix(c.want, "+")
			if err != nil || id.Account.Wire() != wire || id.Created != created {
				t.Fatalf("%q, created %v, %v", id.Account.Wire(), id.Created, err)
			}
			if i, err := h.accounts.Info(id.Account); err != nil || i.LastLogin == 0 || i.Pending {
				t.Errorf("the login was not accounted for: %+v, %v", i, err)
			}
			again, err := h.login(t, c.user, c.password)
			if err != nil || again.Created || again.Account != id.Account {
				t.Errorf("second login: %+v, %v", again, err)
			}
		})
	}
}

// REQ-20: directives change the limits after a reload.
func TestThePolicyCanBeReloaded(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	_, err := h.login(t, "abc@example.org", strong)
	refused(t, "three characters", err)
	h.accounts.SetPolicy(account.Policy{MinName: 3})
	if _, err := h.login(t, "abc@example.org", strong); err != nil {
		t.Error(err)
	}
}

// REQ-19: both spellings are one account.
func TestREQ19SpellingsOfAnIPLiteralAreOneAccount(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "203.0.113.5"}, nil)
	for i, user := range []string{"alicealice@203.0.113.5", "alicealice@[203.0.113.5]", "ALICEALICE@[203.0.113.5]", "alicealice"} {
		if id, err := h.login(t, user, strong); err != nil || id.Created != (i == 0) {
			t.Errorf("%s: %+v, %v", user, id, err)
		}
	}
	if h.accounts.Count() != 1 {
		t.Errorf("%d accounts", h.accounts.Count())
	}
}

// Known failure A8; client contract 1.7: IMAP and SMTP arrive within a
// millisecond, with one password.
func TestSimultaneousFirstLoginsAllSucceed(t *testing.T) {
	for _, password := range []string{strong, weak} {
		h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
		slow := h.accounts.SlowHashes()
		var created atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				id, err := h.login(t, "alicealice@example.org", password)
				if err != nil {
					t.Error(err)
				}
				if id.Created {
					created.Add(1)
				}
			})
		}
		wg.Wait()
		if created.Load() != 1 || h.accounts.Count() != 1 {
			t.Errorf("%d created, %d accounts", created.Load(), h.accounts.Count())
		}
		// Making the hash, and one comparison for all that waited.
		if n := h.accounts.SlowHashes() - slow; n > 2 {
			t.Errorf("%d slow hashes for sixteen logins", n)
		}
	}
}

func TestOfDifferentFirstPasswordsOneCounts(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	var in atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, err := h.login(t, "alicealice@example.org", fmt.Sprint(strong, i))
			if err == nil {
				in.Add(1)
			} else {
				refused(t, "the others", err)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 {
		t.Errorf("%d passwords count", in.Load())
	}
}

// Known failure A8: an operator creates the account while a login tries.
func TestALoginNeverTakesOverAnAccountThatAnOperatorMakes(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	for i := range 50 {
		user := fmt.Sprintf("alice%04d@example.org", i)
		a := addr(t, user)
		var wg sync.WaitGroup
		var opErr, loginErr error
		wg.Go(func() {
			opErr = h.accounts.Create(t.Context(), account.New{Addr: a, Password: []byte("op-" + strong)})
		})
		wg.Go(func() { _, loginErr = h.login(t, user, "in-"+strong) })
		wg.Wait()
		if (opErr == nil) == (loginErr == nil) {
			t.Fatalf("both or none: %v, %v", opErr, loginErr)
		}
		if opErr == nil {
			if _, err := h.login(t, user, "op-"+strong); err != nil {
				t.Fatalf("the operator's password: %v", err)
			}
		}
	}
}

func TestARowWrittenBehindTheServersBackIsNotTakenOver(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	other, err := account.Open(t.Context(), account.Options{DB: dbOf(t, h)})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Create(t.Context(), account.New{Addr: addr(t, "alicealice@example.org"), Password: []byte(strong)}); err != nil {
		t.Fatal(err)
	}
	if err := other.Block(t.Context(), addr(t, "bobbobbob@example.org"), "r"); err != nil {
		t.Fatal(err)
	}
	_, err = h.login(t, "alicealice@example.org", "x"+strong)
	refused(t, "another password", err)
	_, err = h.login(t, "bobbobbob@example.org", strong)
	refused(t, "blocked", err)
	if err := h.accounts.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.login(t, "alicealice@example.org", strong); err != nil {
		t.Errorf("after a reload: %v", err)
	}
}

// dbOf opens h's database once more; both handles see one file.
func dbOf(t *testing.T, h *house) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{Path: h.db.Path()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(context.Background()) })
	return d
}

func TestRegistrationFollowsTheSettings(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	register := func(token string) (account.Credentials, error) {
		return h.Register(t.Context(), Registration{Token: token})
	}
	want := func(err error, text string) {
		t.Helper()
		if !fault.Is(err, fault.Refused) || !strings.Contains(fault.UserText(err), text) {
			t.Errorf("%v, want a refusal with %q", err, text)
		}
	}
	c, err := register("")
	if err != nil {
		t.Fatal(err)
	}
	if i, err := h.accounts.Info(c.Addr); err != nil || !i.Pending || c.Addr.Domain() != "example.org" {
		t.Errorf("%+v, %v", i, err)
	}
	if id, err := h.login(t, c.Addr.Wire(), string(c.Password)); err != nil || id.Created {
		t.Errorf("%+v, %v", id, err)
	}
	_, err = register("nonsense")
	want(err, "Invalid registration token")
	tok, err := h.accounts.CreateToken(t.Context(), account.Token{Token: "one"})
	if err != nil {
		t.Fatal(err)
	}
	h.set(t, settings.RegistrationOpen, "no")
	_, err = register("")
	want(err, "Registration is closed")
	h.set(t, settings.TokenRequired, "yes")
	_, err = register("")
	want(err, "Registration token is required")
	c, err = register(tok.Token)
	if err != nil {
		t.Fatalf("a token overrules: %v", err)
	}
	_, err = register(tok.Token)
	want(err, "Invalid registration token")
	if _, err := h.login(t, c.Addr.Wire(), string(c.Password)); err != nil {
		t.Error(err)
	}
	// The token of another account vanishes before its first login.
	tok, err = h.accounts.CreateToken(t.Context(), account.Token{})
	if err != nil {
		t.Fatal(err)
	}
	c, err = register(tok.Token)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.accounts.DeleteToken(t.Context(), tok.Token); err != nil {
		t.Fatal(err)
	}
	_, err = h.login(t, c.Addr.Wire(), string(c.Password))
	refused(t, "token gone", err)
	if h.Allowed(c.Addr) {
		t.Error("the account is still there")
	}
}

// 100 parallel requests with a one-use token, then its login from two sides.
func TestAOneUseTokenMakesOneAccount(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	tok, err := h.accounts.CreateToken(t.Context(), account.Token{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []account.Credentials
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			c, err := h.Register(t.Context(), Registration{Token: tok.Token})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got = append(got, c)
			} else if !fault.Is(err, fault.Refused) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(got) != 1 {
		t.Fatalf("%d accounts", len(got))
	}
	for range 100 {
		wg.Go(func() {
			if _, err := h.login(t, got[0].Addr.Wire(), string(got[0].Password)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	info, _, err := h.accounts.TokenInfo(t.Context(), tok.Token)
	if err != nil || info.Used != 1 || info.Pending != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

// Known failure B22.
func TestRefusalsSlowDown(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	h.create(t, "alice@example.org", strong)
	var delays []string
	for range 8 {
		before := h.clock.now()
		_, err := h.login(t, "alice@example.org", "wrong")
		refused(t, "wrong", err)
		delays = append(delays, h.clock.now().Sub(before).String())
	}
	if got := strings.Join(delays, " "); got != "0s 1s 2s 4s 8s 16s 16s 16s" {
		t.Errorf("delays %s", got)
	}
	// The right password is not delayed, and starts anew.
	before := h.clock.now()
	if _, err := h.login(t, "alice@example.org", strong); err != nil || h.clock.now() != before {
		t.Errorf("%v after %v", err, h.clock.now().Sub(before))
	}
	if _, err := h.login(t, "alice@example.org", "wrong again"); err == nil || h.clock.now() != before {
		t.Errorf("first failure after a success: %v after %v", err, h.clock.now().Sub(before))
	}
	// Failures count by source, too, and by /64 for IPv6.
	for i := range 4 {
		ip := netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))
		if _, err := h.Login(t.Context(), fmt.Sprintf("nobody%d@other.example", i), []byte("x"), ip); err == nil {
			t.Error("accepted")
		}
	}
	if d := h.clock.now().Sub(before); d != 1*time.Second+2*time.Second+4*time.Second {
		t.Errorf("four users from one subscriber: %v", d)
	}
	// Failures are forgotten.
	h.clock.wait(t.Context(), forgetAfter+time.Second)
	before = h.clock.now()
	if _, err := h.login(t, "alice@example.org", "wrong once more"); err == nil || h.clock.now() != before {
		t.Errorf("after a while: %v", h.clock.now().Sub(before))
	}
}

// Many people behind one address log in at once while somebody there guesses.
func TestABurstOfRightPasswordsIsNotDelayed(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	for i := range 20 {
		h.create(t, fmt.Sprintf("user%d@example.org", i), strong)
	}
	h.create(t, "weak@example.org", weak)
	if _, err := h.login(t, "weak@example.org", weak); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		_, err := h.login(t, "weak@example.org", "guess")
		refused(t, "guess", err)
	}
	hold := make(chan struct{})
	var wg, started sync.WaitGroup
	h.Service.wait = func(context.Context, time.Duration) { started.Done(); <-hold }
	started.Add(40)
	for i := range 40 {
		wg.Go(func() {
			_, err := h.login(t, "weak@example.org", fmt.Sprint("guess", i))
			refused(t, "guess", err)
		})
	}
	started.Wait()
	before := h.accounts.SlowHashes()
	for range 100 {
		_, err := h.login(t, "weak@example.org", weak)
		if err != nil {
			t.Errorf("a password that is known: %v", err)
		}
	}
	for i := range 20 {
		if _, err := h.login(t, fmt.Sprintf("user%d@example.org", i), strong); err != nil {
			t.Error(err)
		}
		if _, err := h.login(t, fmt.Sprintf("brandnew%d@example.org", i), strong); err != nil {
			t.Error(err)
		}
	}
	if n := h.accounts.SlowHashes() - before; n != 0 {
		t.Errorf("%d slow hashes", n)
	}
	close(hold)
	wg.Wait()
}

// While refusals of a user are pending no further guess is looked at.
func TestParallelGuessesAreNotCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
		h.Service.wait, h.throttle.now = sleep, time.Now
		h.create(t, "alice@example.org", weak)
		_, err := h.login(t, "alice@example.org", "guess")
		refused(t, "guess", err)
		before := h.accounts.SlowHashes()
		begun := time.Now()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				_, err := h.Login(t.Context(), "alice@example.org", fmt.Appendf(nil, "guess%d", i), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
				refused(t, "guess", err)
			})
		}
		wg.Wait()
		if n := h.accounts.SlowHashes() - before; n > pendingPerUser+1 {
			t.Errorf("%d guesses of 200 were compared", n)
		}
		if d := time.Since(begun); d < firstDelay || d > longestDelay {
			t.Errorf("the refusals took %v", d)
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
		h.Service.wait, h.throttle.now = sleep, time.Now
		for range 6 {
			_, err := h.login(t, "nobody@other.example", "x")
			refused(t, "x", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		_, err := h.Login(ctx, "nobody@other.example", []byte("x"), here)
		refused(t, "x", err)
		if d := time.Since(begun); d != 3*time.Second {
			t.Errorf("waited %v", d)
		}
	})
}

func TestTheThrottlesTablesAreBounded(t *testing.T) {
	th := newThrottle(nil)
	for i := range 3 * maxStates {
		a, err := address.New(fmt.Sprint("u", i), "example.org")
		if err != nil {
			t.Fatal(err)
		}
		k := keys{remote: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), user: a}
		if !th.enter(k) {
			t.Fatal("a new source is saturated")
		}
		th.fail(k)
		th.leave(k)
	}
	if len(th.remotes) > maxStates || len(th.users) > maxStates {
		t.Errorf("%d sources, %d users", len(th.remotes), len(th.users))
	}
	for range maxWaiting {
		if _, ok := th.wait(keys{}); !ok {
			t.Fatal("no place to wait")
		}
	}
	if _, ok := th.wait(keys{}); ok {
		t.Error("waiting is not bounded")
	}
}

func TestTroubleIsNotARefusal(t *testing.T) {
	h := build(t, account.DomainOptions{Primary: "example.org"}, nil)
	h.create(t, "alice@example.org", strong)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.Login(ctx, "alicealice@example.org", []byte(strong), here)
	if !fault.Is(err, fault.Busy) || strings.Contains(strings.ToLower(fault.UserText(err)), "authentication") {
		t.Errorf("creation without a database: %v", err)
	}
	// Known accounts log in from memory.
	if err := h.db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.login(t, "alice@example.org", strong); err != nil {
		t.Errorf("known account: %v", err)
	}
	if _, err := h.login(t, "bobbobbob@example.org", strong); !fault.Is(err, fault.Busy) {
		t.Errorf("new account: %v", err)
	}
}

func BenchmarkFirstLogins(b *testing.B) {
	for _, parallel := range []int{8, 64} {
		b.Run(fmt.Sprint(parallel), func(b *testing.B) {
			h := build(b, account.DomainOptions{Primary: "example.org"}, nil)
			var n atomic.Int64
			b.SetParallelism(parallel / 2)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := h.Login(context.Background(), fmt.Sprintf("u%08d@example.org", n.Add(1)), []byte(strong), here); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
		})
	}
}

func BenchmarkWarmLogin(b *testing.B) {
	for name, password := range map[string]string{"strong": strong, "weak": weak} {
		b.Run(name, func(b *testing.B) {
			h := build(b, account.DomainOptions{Primary: "example.org"}, nil)
			h.create(b, "alice@example.org", password)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Login(context.Background(), "alice@example.org", []byte(password), here); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

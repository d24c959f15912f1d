package auth

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/settings"
)

// loginTimeout bounds a Login whose caller set no deadline; clients give up
// after 60 s.
const loginTimeout = 60 * time.Second

// Options say what a Service needs. The first three are needed.
type Options struct {
	Accounts *account.Store
	Domains  *account.Domains
	Settings func() *settings.Snapshot
	Log      *slog.Logger
	Now      func() time.Time
	// Wait delays a refusal; it returns early when ctx ends. nil sleeps.
	Wait func(ctx context.Context, d time.Duration)
	// Made, when not nil, is told of each account that was made here: by a first login
	// or by registering, with a token or without. It must return at once.
	Made func(a address.Addr, login, token bool)
}

// Service verifies logins and makes accounts. Make one with New.
type Service struct {
	accounts *account.Store
	domains  *account.Domains
	settings func() *settings.Snapshot
	log      *slog.Logger
	wait     func(ctx context.Context, d time.Duration)
	throttle *throttle
	made     func(a address.Addr, login, token bool)

	mu      sync.Mutex // guards the field below
	flights map[address.Addr]chan struct{}
}

// New returns a Service.
func New(o Options) *Service {
	s := &Service{
		accounts: o.Accounts, domains: o.Domains, settings: o.Settings, log: o.Log, wait: o.Wait,
		throttle: newThrottle(o.Now), flights: make(map[address.Addr]chan struct{}), made: o.Made,
	}
	if s.made == nil {
		s.made = func(address.Addr, bool, bool) {}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.wait == nil {
		s.wait = sleep
	}
	return s
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// board joins the flight of a, the one piece of slow or creating work that is
// done for an address at a time. The first gets land to call at the end; the
// others get a nil land after the first has landed, and look again.
func (s *Service) board(ctx context.Context, a address.Addr) (land func(), err error) {
	s.mu.Lock()
	done, flying := s.flights[a]
	if !flying {
		done = make(chan struct{})
		s.flights[a] = done
	}
	s.mu.Unlock()
	if !flying {
		return func() {
			s.mu.Lock()
			delete(s.flights, a)
			s.mu.Unlock()
			close(done)
		}, nil
	}
	select {
	case <-done:
		return nil, nil
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Busy, ctx.Err(), "auth: wait for another login of the address")
	}
}

// Allowed reports whether an account that logged in may stay: it exists and
// is not blocked. A door asks once more after it has registered a session, so
// that a removal in between does not miss it.
func (s *Service) Allowed(a address.Addr) bool { return s.accounts.Exists(a) && !s.accounts.Blocked(a) }

// attempt is one login.
type attempt struct {
	user     address.Addr
	password []byte
	keys     keys
}

// Login decides who user is. user is an address in any spelling, or a local
// part of the registration domain. The password is the caller's to wipe.
//
// An unknown user gets an account when the settings, the domain and the
// policy for new accounts allow it. Logins of one address that arrive
// together find one account: the second waits until the first has made it and
// is then compared with it.
//
// Every refusal is fault.Denied with one text, after the same work. Repeated
// refusals are delayed; a right password is not, whatever others did from the
// same address. Temporary trouble is fault.Busy.
func (s *Service) Login(ctx context.Context, user string, password []byte, remote netip.Addr) (Identity, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, loginTimeout)
		defer cancel()
	}
	a, err := s.domains.Parse(user)
	t := attempt{user: a, password: password, keys: keys{remote: address.Network(remote), user: a}}
	if err != nil {
		return s.refuse(ctx, t, "malformed address")
	}
	for {
		if s.accounts.Blocked(a) {
			return s.refuse(ctx, t, "blocked")
		}
		var id Identity
		var again bool
		switch s.accounts.Quick(a, password) {
		case account.Match:
			return s.accept(ctx, t)
		case account.Mismatch:
			return s.refuse(ctx, t, "wrong password")
		case account.NeedsHash:
			id, again, err = s.compare(ctx, t)
		case account.NoAccount:
			if reason := s.mayNotCreate(t); reason != "" {
				return s.refuse(ctx, t, reason)
			}
			id, again, err = s.create(ctx, t)
		}
		if !again {
			return id, err
		}
	}
}

// compare verifies against a slow hash, one login of an address at a time: a
// burst of connections with one password costs one hash.
func (s *Service) compare(ctx context.Context, t attempt) (id Identity, again bool, err error) {
	if s.throttle.saturated(t.keys) {
		id, err = s.refuse(ctx, t, "too many failures")
		return id, false, err
	}
	land, err := s.board(ctx, t.user)
	if err != nil {
		return Identity{}, false, err
	}
	if land == nil {
		return Identity{}, true, nil
	}
	if s.accounts.Quick(t.user, t.password) != account.NeedsHash {
		land() // another flight ended between the look and the boarding
		return Identity{}, true, nil
	}
	entered := s.throttle.enter(t.keys)
	if !entered {
		land()
		id, err = s.refuse(ctx, t, "too many failures")
		return id, false, err
	}
	err = s.accounts.Verify(ctx, t.user, t.password)
	land()
	switch {
	case err == nil:
		s.throttle.leave(t.keys)
		id, err = s.accept(ctx, t)
	case fault.Is(err, fault.Denied):
		id, err = s.delay(ctx, t, "wrong password")
	default:
		s.throttle.leave(t.keys)
	}
	return id, false, err
}

// mayNotCreate returns why an unknown user gets no account, or "".
func (s *Service) mayNotCreate(t attempt) string {
	now, policy := s.settings(), s.accounts.Policy()
	switch {
	case !s.domains.MayCreate(t.user.Domain()):
		return "unknown user of a domain that is not in local_domains or jit_domain"
	case !now.Bool(settings.JITRegistration):
		return "unknown user, and first logins make no accounts"
	case now.Bool(settings.TokenRequired):
		return "unknown user, and new accounts need a token"
	case policy.CheckName(t.user.Local()) != nil:
		return "unknown user, and the policy does not allow the name"
	case policy.CheckPassword(t.password) != nil:
		return "unknown user, and the policy does not allow the password"
	}
	return ""
}

func (s *Service) create(ctx context.Context, t attempt) (id Identity, again bool, err error) {
	land, err := s.board(ctx, t.user)
	if err != nil {
		return Identity{}, false, err
	}
	if land == nil {
		return Identity{}, true, nil
	}
	err = s.accounts.Create(ctx, account.New{Addr: t.user, Password: t.password, LoggedIn: true})
	land()
	switch {
	case err == nil:
		s.throttle.reset(t.keys)
		s.made(t.user, true, false)
		return Identity{Account: t.user, Created: true}, false, nil
	case fault.Is(err, fault.Exists) && s.accounts.Exists(t.user):
		return Identity{}, true, nil // made meanwhile: compare with it
	case fault.Is(err, fault.Exists), fault.Is(err, fault.Refused):
		id, err = s.refuse(ctx, t, "blocked, or the row was written behind the server's back")
	}
	return id, false, err
}

// accept does the accounting of a right password.
func (s *Service) accept(ctx context.Context, t attempt) (Identity, error) {
	if err := s.accounts.LoggedIn(ctx, t.user); err != nil {
		if fault.Is(err, fault.Denied) {
			return s.refuse(ctx, t, "removed, or its registration token is used up")
		}
		return Identity{}, err
	}
	s.throttle.reset(t.keys)
	return Identity{Account: t.user}, nil
}

// refuse pays for a refusal that needs no comparison, and delays it. Who
// comes while too many refusals of the same source or user are pending only
// waits: its password is not looked at.
func (s *Service) refuse(ctx context.Context, t attempt, reason string) (Identity, error) {
	if !s.throttle.enter(t.keys) {
		s.note(t, "too many failures")
		if d, ok := s.throttle.wait(t.keys); ok {
			s.wait(ctx, d)
			s.throttle.waited()
		}
		return Identity{}, errDenied
	}
	if err := s.accounts.Refuse(ctx, t.user, t.password); !fault.Is(err, fault.Denied) {
		s.throttle.leave(t.keys)
		return Identity{}, err
	}
	return s.delay(ctx, t, reason)
}

// delay ends an attempt that entered the throttle.
func (s *Service) delay(ctx context.Context, t attempt, reason string) (Identity, error) {
	s.note(t, reason)
	if d := s.throttle.fail(t.keys); d > 0 {
		s.wait(ctx, d)
	}
	s.throttle.leave(t.keys)
	return Identity{}, errDenied
}

var errDenied = fault.New(fault.Denied, "Authentication failed")

func (s *Service) note(t attempt, reason string) {
	s.log.Debug("auth: refused", "domain", string(t.user.Domain()), "reason", reason)
}

// Registration asks for an account with a generated name and password.
type Registration struct {
	Token string
	Host  string // Host header, which counts only where no domain is configured
}

// Register makes an account for somebody who has never logged in. Errors are
// fault.Refused with a text for the user when registration is closed, a token
// is missing or it is of no use; fault.Busy.
//
// How often a source may ask is for the caller to limit.
func (s *Service) Register(ctx context.Context, r Registration) (account.Credentials, error) {
	now := s.settings()
	switch {
	case r.Token != "": // overrules closed registration; Create checks it
	case now.Bool(settings.TokenRequired):
		return account.Credentials{}, fault.New(fault.Refused, "Registration token is required")
	case !now.Bool(settings.RegistrationOpen):
		return account.Credentials{}, fault.New(fault.Refused, "Registration is closed")
	}
	if r.Token != "" {
		// Before any hashing, so that guesses cost little.
		if err := s.accounts.CheckToken(ctx, r.Token); err != nil {
			return account.Credentials{}, err
		}
	}
	c, err := s.accounts.CreateRandom(ctx, account.Random{Domain: s.domains.RegistrationFor(r.Host), Token: r.Token})
	if err == nil {
		s.made(c.Addr, false, r.Token != "")
	}
	return c, err
}

package account

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
)

// hashTimeout bounds the wait for a slot in calls that have no deadline.
const hashTimeout = 30 * time.Second

// hash makes the stored form of a new password, in a slot when it is slow.
func (s *Store) hash(ctx context.Context, password []byte) (text string, err error) {
	if len(password) == 0 || len(password) > maxPassword {
		return "", fault.Newf(fault.Invalid, "a password has 1 to %d bytes", maxPassword)
	}
	if strong(password) {
		return newHash(s.random, password)
	}
	if rerr := s.hashes.run(ctx, func() { text, err = newHash(s.random, password) }); rerr != nil {
		return "", rerr
	}
	return text, err
}

// New is an account to be made.
type New struct {
	Addr     address.Addr
	Password []byte
	Hash     string // instead of Password: a stored form, as CheckHash accepts
	Token    string // registration token to reserve
	LoggedIn bool   // this is the first login
	Limit    int64  // storage limit in bytes: 0 default, negative none
	// Times of an account that comes from elsewhere, unix seconds; 0 is now, and
	// never for the logins. They do not go with LoggedIn.
	CreatedAt, FirstLogin, LastLogin int64
	// AppendLimit is the largest message in octets, 0 for what holds for all; BlockReason,
	// when not "", blocks the account. Both are for accounts from elsewhere.
	AppendLimit int64
	BlockReason string
}

// Create makes an account in one transaction. It never overwrites one: two
// callers with one address get one account, and one of them fault.Exists.
//
// The rules of Policy are for the caller to ask. Errors: fault.Invalid for an
// empty password or a bad hash, fault.Exists, fault.Refused for a blocked
// address or a token that is unknown, expired or used up, fault.Busy, also while
// the mail of an account that had the name is being removed.
func (s *Store) Create(ctx context.Context, n New) error {
	e, err := s.prepare(ctx, n)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error { return s.insert(ctx, tx, n.Addr, e) })
}

// MaxBatch is how many accounts CreateMany makes at most.
const MaxBatch = 500

// hashing bounds the passwords that CreateMany hashes side by side; the hasher has a
// bound of its own on what it does at once.
const hashing = 64

// CreateMany is Create for up to MaxBatch accounts that come from elsewhere, in one
// transaction: either all of them are made for which errs is nil, or err is not nil and
// none is. Tokens are not taken.
func (s *Store) CreateMany(ctx context.Context, list []New) (errs []error, err error) {
	if len(list) > MaxBatch {
		return nil, fault.Newf(fault.Invalid, "more than %d accounts at once", MaxBatch)
	}
	entries := make([]*entry, len(list))
	failed := make([]error, len(list))
	free := make(chan struct{}, hashing)
	var wait sync.WaitGroup
	for i, n := range list {
		if n.Token != "" {
			failed[i] = fault.New(fault.Invalid, "an account from elsewhere takes no token")
			continue
		}
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			entries[i], failed[i] = s.prepare(ctx, n)
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fault.Wrap(fault.Busy, err, "accounts")
	}
	err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		errs = slices.Clone(failed) // this may run more than once
		for i, n := range list {
			if errs[i] != nil {
				continue
			}
			err := s.insert(ctx, tx, n.Addr, entries[i])
			if err == nil && n.BlockReason != "" {
				err = s.insertBlock(ctx, tx, n.Addr, n.BlockReason)
			} else if fault.Is(err, fault.Exists) || fault.Is(err, fault.Refused) || fault.Is(err, fault.Busy) && s.Removing(n.Addr) {
				errs[i], err = err, nil // of the account alone: nothing of it was written
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, n := range list {
		if errs[i] == nil && n.BlockReason != "" {
			s.ended(n.Addr, Blocked)
		}
	}
	return errs, nil
}

// prepare checks a new account and makes what is kept of it.
func (s *Store) prepare(ctx context.Context, n New) (*entry, error) {
	if s.Exists(n.Addr) {
		return nil, fault.New(fault.Exists, "The account exists already")
	}
	if s.Blocked(n.Addr) {
		return nil, errBlocked
	}
	hash := n.Hash
	var err error
	if hash == "" {
		hash, err = s.hash(ctx, n.Password)
	} else {
		err = CheckHash(hash)
	}
	if err != nil {
		return nil, err
	}
	now := s.now().Unix()
	e := &entry{hash: hash, created: now, first: 1, limit: n.Limit, token: n.Token, largest: max(n.AppendLimit, 0), live: &live{}}
	if n.CreatedAt > 0 {
		e.created = min(n.CreatedAt, now)
	}
	if n.FirstLogin > 1 {
		e.first, e.last = min(n.FirstLogin, now), min(max(n.LastLogin, n.FirstLogin), now)
	}
	if n.LoggedIn {
		e.first, e.last = now, now
		e.live.seen.Store(now)
		e.live.noted.Store(now)
	}
	return e, nil
}

var errBlocked = fault.New(fault.Refused, "The address is blocked")

func (s *Store) insert(ctx context.Context, tx *db.Tx, a address.Addr, e *entry) error {
	if s.Exists(a) { // also under a spelling that the table's key does not see
		return fault.New(fault.Exists, "The account exists already")
	}
	wire := a.Wire()
	columns, values, args := s.layout.name+", "+s.layout.hash, "?, ?", []any{wire, e.hash}
	if s.layout.created {
		columns, values, args = columns+", created_at", values+", ?", append(args, e.created)
	}
	if s.Removing(a) { // the next owner of a name must not find the mail of the last
		return fault.New(fault.Busy, "The account is being removed, try again later")
	}
	n, err := tx.Exec(ctx, "INSERT INTO passwords ("+columns+") SELECT "+values+
		" WHERE NOT EXISTS (SELECT 1 FROM blocked_users WHERE username = ?)", append(args, wire)...)
	if fault.Is(err, fault.Exists) {
		return fault.New(fault.Exists, "The account exists already")
	}
	if err != nil {
		return err
	}
	if n == 0 {
		return errBlocked
	}
	var token any
	if e.token != "" {
		token = e.token
		if err := reserve(ctx, tx, e.token, s.now()); err != nil {
			return err
		}
	}
	// Rows may be left from credentials that were removed alone.
	if _, err := tx.Exec(ctx, "DELETE FROM append_limits WHERE username = ?", wire); err != nil {
		return err
	}
	if e.largest > 0 {
		if _, err := tx.Exec(ctx, "INSERT INTO append_limits (username, bytes) VALUES (?, ?)", wire, e.largest); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO quotas (username, max_storage, created_at, first_login_at, last_login_at, used_token)
		VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (username) DO UPDATE SET max_storage = excluded.max_storage, created_at = excluded.created_at,
		first_login_at = excluded.first_login_at, last_login_at = excluded.last_login_at, used_token = excluded.used_token`,
		wire, e.limit, e.created, e.first, e.last, token)
	if err != nil {
		return err
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all[a] = e
	})
	return nil
}

// Credentials are a new account's, to be shown once. It prints itself
// without the password.
type Credentials struct {
	Addr     address.Addr
	Password []byte
}

// String hides the password.
func (c Credentials) String() string { return c.Addr.String() }

// GoString hides the password.
func (c Credentials) GoString() string { return c.Addr.String() }

// Random is an account to be made with a generated name and password. Zero
// lengths are the policy's.
type Random struct {
	Domain         address.Domain
	NameLength     int
	PasswordLength int
	Token          string
}

// randomTries bounds the search for a name that is free.
const randomTries = 10

// CreateRandom makes an account whose name and password it draws. Names that
// exist, are blocked or reserved are drawn again. Errors as Create's.
func (s *Store) CreateRandom(ctx context.Context, r Random) (Credentials, error) {
	p := s.Policy()
	if r.NameLength <= 0 {
		r.NameLength = p.NameLength
	}
	if r.PasswordLength <= 0 {
		r.PasswordLength = p.PasswordLength
	}
	password, err := randomText(s.random, passwordAlphabet, r.PasswordLength)
	if err != nil {
		return Credentials{}, err
	}
	hash, err := s.hash(ctx, password)
	if err != nil {
		return Credentials{}, err
	}
	for range randomTries {
		name, err := randomText(s.random, nameAlphabet, r.NameLength)
		if err != nil {
			return Credentials{}, err
		}
		a, err := address.New(string(name), r.Domain)
		if err != nil {
			return Credentials{}, err
		}
		if Reserved(a.Local()) || s.Blocked(a) {
			continue
		}
		switch err := s.Create(ctx, New{Addr: a, Hash: hash, Token: r.Token}); {
		case err == nil:
			return Credentials{Addr: a, Password: password}, nil
		case !fault.Is(err, fault.Exists):
			return Credentials{}, err
		}
	}
	return Credentials{}, fault.New(fault.Busy, "failed to create random account after max retries")
}

// SetPassword replaces a's password and ends its sessions. Errors:
// fault.NotFound, fault.Invalid for an empty password, fault.Busy.
func (s *Store) SetPassword(ctx context.Context, a address.Addr, password []byte) error {
	if !s.Exists(a) {
		return errNone
	}
	hash, err := s.hash(ctx, password)
	if err != nil {
		return err
	}
	err = s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		e := s.get(a)
		if e == nil {
			return errNone
		}
		n, err := tx.Exec(ctx, "UPDATE passwords SET "+s.layout.hash+" = ? WHERE "+s.layout.name+" = ?", hash, e.name(a))
		if err != nil {
			return err
		}
		if n == 0 {
			return errNone
		}
		tx.AfterCommit(func() {
			s.update(a, func(e *entry) {
				e.hash = hash
				e.live.verified.Store(nil)
			})
		})
		return nil
	})
	if err == nil {
		s.ended(a, PasswordChanged)
	}
	return err
}

var errNone = fault.New(fault.NotFound, "no such account")

// Delete removes a's credentials and quota row in one transaction. With a
// reason that is not empty it blocks the address in the same transaction, so
// that no login can make it anew; this also works for an address that has no
// account. Without a reason such an address is fault.NotFound.
//
// Ended(Removed) tells the owners of sessions, mail and push tokens. Until one of
// them says Cleared the name is not free; after a crash Removals has it.
func (s *Store) Delete(ctx context.Context, a address.Addr, blockReason string) error {
	existed := false
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if blockReason != "" {
			if err := s.insertBlock(ctx, tx, a, blockReason); err != nil {
				return err
			}
		}
		n, err := s.deleteRows(ctx, tx, a)
		existed = n > 0
		if err == nil && n == 0 && blockReason == "" {
			return errNone
		}
		return err
	})
	if err == nil && (existed || blockReason != "") {
		s.ended(a, Removed)
	}
	return err
}

// deleteRows removes every spelling that memory knows and the normal form, and
// notes that what belongs to the account is to be removed.
func (s *Store) deleteRows(ctx context.Context, tx *db.Tx, a address.Addr) (n int64, err error) {
	wire := a.Wire()
	names := []string{wire}
	if e := s.get(a); e != nil {
		names = append(names, e.also...)
		names = append(names, e.name(a), e.quotaName(a))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		rows, err := tx.Exec(ctx, "DELETE FROM passwords WHERE "+s.layout.name+" = ?", name)
		if err != nil {
			return 0, err
		}
		n += rows
		for _, table := range []string{"quotas", "append_limits"} {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE username = ?", name); err != nil {
				return 0, err
			}
		}
		// Earlier versions count changes of mailboxes there.
		if _, err := tx.Exec(ctx, "DELETE FROM mailbox_modseq WHERE username = ?", name); err != nil {
			return 0, err
		}
	}
	if _, err := tx.Exec(ctx, "INSERT INTO removals (username, removed_at) VALUES (?, ?) ON CONFLICT DO NOTHING", wire, s.now().Unix()); err != nil {
		return 0, err
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.all, a)
		s.removing[a] = struct{}{}
	})
	return n, nil
}

// Removing reports whether a was deleted and its mail may still be there.
func (s *Store) Removing(a address.Addr) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.removing[a]
	return ok
}

// Removals returns the addresses for which Removing is true.
func (s *Store) Removals() []address.Addr {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Collect(maps.Keys(s.removing))
}

// Cleared says that nothing of a deleted account is left: its name is free.
func (s *Store) Cleared(ctx context.Context, a address.Addr) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM removals WHERE username = ?", a.Wire()); err != nil {
			return err
		}
		tx.AfterCommit(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.removing, a)
		})
		return nil
	})
}

// Block forbids a to log in, register and receive, and ends its sessions. The
// account stays. Blocking again updates reason and time.
func (s *Store) Block(ctx context.Context, a address.Addr, reason string) error {
	err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error { return s.insertBlock(ctx, tx, a, reason) })
	if err == nil {
		s.ended(a, Blocked)
	}
	return err
}

func (s *Store) insertBlock(ctx context.Context, tx *db.Tx, a address.Addr, reason string) error {
	at := s.now().UTC().Truncate(time.Second)
	_, err := tx.Exec(ctx, `INSERT INTO blocked_users (username, reason, blocked_at) VALUES (?, ?, ?)
		ON CONFLICT (username) DO UPDATE SET reason = excluded.reason, blocked_at = excluded.blocked_at`, a.Wire(), reason, db.At(at))
	if err != nil {
		return err
	}
	tx.AfterCommit(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		b := &blockRow{rows: []string{a.Wire()}, reason: reason, at: at}
		if old := s.blocked[a]; old != nil {
			b.rows = append(b.rows, old.rows...)
		}
		s.blocked[a] = b
	})
	return nil
}

// Unblock frees a. An address that is not blocked is freed already.
func (s *Store) Unblock(ctx context.Context, a address.Addr) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		names := []string{a.Wire()}
		s.mu.RLock()
		if b := s.blocked[a]; b != nil {
			names = append(names, b.rows...)
		}
		s.mu.RUnlock()
		for _, name := range names {
			if _, err := tx.Exec(ctx, "DELETE FROM blocked_users WHERE username = ?", name); err != nil {
				return err
			}
		}
		tx.AfterCommit(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.blocked, a)
		})
		return nil
	})
}

// SetLimit stores a's own storage limit in bytes: 0 for the default, negative
// for none.
func (s *Store) SetLimit(ctx context.Context, a address.Addr, n int64) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		e := s.get(a)
		if e == nil {
			return errNone
		}
		_, err := tx.Exec(ctx, `INSERT INTO quotas (username, max_storage, created_at, first_login_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (username) DO UPDATE SET max_storage = excluded.max_storage`, e.quotaName(a), n, e.created, e.first)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.update(a, func(e *entry) { e.limit = n }) })
		return nil
	})
}

// SetAppendLimit stores the largest message that a takes, in octets: 0 or less for
// what holds for all. It never raises that.
func (s *Store) SetAppendLimit(ctx context.Context, a address.Addr, n int64) error {
	n = max(n, 0)
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if !s.Exists(a) {
			return errNone
		}
		_, err := tx.Exec(ctx, "DELETE FROM append_limits WHERE username = ?", a.Wire())
		if err == nil && n > 0 {
			_, err = tx.Exec(ctx, "INSERT INTO append_limits (username, bytes) VALUES (?, ?)", a.Wire(), n)
		}
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.update(a, func(e *entry) { e.largest = n }) })
		return nil
	})
}

// SetDefaultLimit stores the limit of accounts without one of their own: 0
// for the configured one, negative for none.
func (s *Store) SetDefaultLimit(ctx context.Context, n int64) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO quotas (username, max_storage) VALUES (?, ?)
			ON CONFLICT (username) DO UPDATE SET max_storage = excluded.max_storage`, globalDefault, n)
		if err != nil {
			return err
		}
		tx.AfterCommit(func() { s.byDefault.Store(n) })
		return nil
	})
}

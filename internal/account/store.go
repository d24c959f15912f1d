package account

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/db"
	"madmail/internal/fault"
	"madmail/internal/task"
)

// globalDefault is the row of quotas that holds the default limit.
const globalDefault = "__GLOBAL_DEFAULT__"

// Unlimited is the limit of an account that has none. It is the number that
// package quota takes for the same.
const Unlimited int64 = math.MaxInt64

// fallbackLimit is the default limit when nobody named one, in bytes.
const fallbackLimit = 1 << 30

// Ending says why an account's sessions have to end.
type Ending uint8

// The endings.
const (
	Removed         Ending = iota // the account is gone: its mail and the rest too
	Blocked                       // it may not log in any more
	PasswordChanged               // who logged in with the old password must not stay
)

// Options say what a Store needs. DB is needed.
type Options struct {
	DB     *db.DB
	Policy Policy
	// DefaultLimit gives the configured storage limit in bytes, 0 for the
	// built-in one of 1 GiB, negative for none. nil means 0.
	DefaultLimit func() int64
	// Ended is called after a commit, on the caller's goroutine.
	Ended func(a address.Addr, why Ending)
	// HashSlots is how many slow hashes run at once, default 2.
	HashSlots int
	Now       func() time.Time
	Rand      io.Reader // default crypto/rand
	Log       *slog.Logger
}

// Store is the accounts. Make one with Open.
type Store struct {
	db        *db.DB
	log       *slog.Logger
	now       func() time.Time
	random    io.Reader
	ended     func(address.Addr, Ending)
	file      func() int64
	policy    atomic.Pointer[Policy]
	byDefault atomic.Int64 // of the __GLOBAL_DEFAULT__ row, 0 for none
	layout    layout
	hashes    *hasher
	tasks     task.Group
	rewrite   chan struct{} // one background rewrite at a time

	mu       sync.RWMutex // guards the fields below
	all      map[address.Addr]*entry
	blocked  map[address.Addr]*blockRow
	removing map[address.Addr]struct{} // deleted, and not cleared yet

	dirtyMu sync.Mutex // guards the field below
	dirty   map[address.Addr]struct{}
}

// entry is one account. It is not changed but replaced, except for what live
// points to, which lives as long as the account.
type entry struct {
	row, quotaRow string   // names in the tables, "" when they are in normal form
	also          []string // rows of passwords that are other spellings of the address
	hash          string
	created       int64
	first         int64 // 0 unknown, 1 never logged in, else unix seconds
	last          int64 // as stored
	limit         int64 // 0 default, negative none
	largest       int64 // message in octets; 0 none of its own
	token         string
	live          *live
}

type live struct {
	seen     atomic.Int64                      // last login, unix seconds; 0 none since the start
	noted    atomic.Int64                      // last login that was put down for the table
	verified atomic.Pointer[[sha256.Size]byte] // digest of a password that matched a slow hash
}

type blockRow struct {
	rows   []string // names in the table
	reason string
	at     time.Time
}

// Open reads the tables into memory.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.DB == nil {
		return nil, fault.New(fault.Invalid, "account: DB is not set")
	}
	s := &Store{
		db: o.DB, log: o.Log, now: o.Now, random: o.Rand, ended: o.Ended, file: o.DefaultLimit,
		rewrite: make(chan struct{}, 1), dirty: make(map[address.Addr]struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	if s.ended == nil {
		s.ended = func(address.Addr, Ending) {}
	}
	if s.file == nil {
		s.file = func() int64 { return 0 }
	}
	s.SetPolicy(o.Policy)
	var err error
	if s.hashes, err = newHasher(o.HashSlots); err != nil {
		return nil, err
	}
	s.tasks.Panicked = func(name string, v any, stack []byte) {
		s.log.Error("account: panic", "task", name, "value", v, "stack", string(stack))
	}
	return s, s.Reload(ctx)
}

// Close waits for background rewrites and writes down the last logins.
func (s *Store) Close(ctx context.Context) error {
	if err := s.tasks.Wait(ctx); err != nil {
		return fault.Wrap(fault.Busy, err, "account: close")
	}
	return s.Flush(ctx)
}

// SetPolicy replaces the rules for new accounts.
func (s *Store) SetPolicy(p Policy) {
	p = p.complete()
	s.policy.Store(&p)
}

// Policy returns the rules for new accounts, complete.
func (s *Store) Policy() Policy { return *s.policy.Load() }

func (s *Store) get(a address.Addr) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.all[a]
}

// Exists reports whether a has an account. It reads memory only.
func (s *Store) Exists(a address.Addr) bool { return s.get(a) != nil }

// Blocked reports whether a may not log in, register or receive.
func (s *Store) Blocked(a address.Addr) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.blocked[a] != nil
}

// Count returns how many accounts there are.
func (s *Store) Count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.all)
}

// Info is what is known about an address. Times are unix seconds, 0 when
// unknown.
type Info struct {
	Addr        address.Addr
	Exists      bool
	Pending     bool // made for somebody who has never logged in
	CreatedAt   int64
	FirstLogin  int64
	LastLogin   int64
	Limit       int64  // effective, Unlimited for none
	OwnLimit    int64  // stored for this account: 0 default, negative none
	AppendLimit int64  // largest message of this account in octets, 0 for that of the server
	Token       string // registration token that a pending account holds
	Blocked     bool
	BlockReason string
	BlockedAt   time.Time
}

// Info describes a. An address that has neither an account nor a block is
// fault.NotFound.
func (s *Store) Info(a address.Addr) (Info, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, b := s.all[a], s.blocked[a]
	if e == nil && b == nil {
		return Info{}, fault.New(fault.NotFound, "no such account")
	}
	return s.infoLocked(a, e, b), nil
}

func (s *Store) infoLocked(a address.Addr, e *entry, b *blockRow) Info {
	i := Info{Addr: a}
	if e != nil {
		i.Exists, i.CreatedAt, i.OwnLimit, i.Limit, i.AppendLimit, i.Token = true, e.created, e.limit, s.effective(e.limit), e.largest, e.token
		i.LastLogin = max(e.last, e.live.seen.Load())
		i.Pending = e.first == 1 && i.LastLogin == 0
		if e.first > 1 {
			i.FirstLogin = e.first
		} else if i.LastLogin > 0 && e.first == 1 {
			i.FirstLogin = i.LastLogin
		}
	}
	if b != nil {
		i.Blocked, i.BlockReason, i.BlockedAt = true, b.reason, b.at
	}
	return i
}

// List returns every account, by address.
func (s *Store) List() []Info {
	s.mu.RLock()
	list := make([]Info, 0, len(s.all))
	for a, e := range s.all {
		list = append(list, s.infoLocked(a, e, s.blocked[a]))
	}
	s.mu.RUnlock()
	sortByAddress(list)
	return list
}

// Exported is an account with its password hash, to be taken elsewhere.
type Exported struct {
	Info
	Hash string // a stored form, as CheckHash accepts
}

// Export returns every account, by address, with its password hash.
func (s *Store) Export() []Exported {
	list := s.List()
	all := make([]Exported, 0, len(list))
	for _, i := range list {
		if e := s.get(i.Addr); e != nil {
			all = append(all, Exported{i, e.hash})
		}
	}
	return all
}

// Blocks returns every blocked address, by address.
func (s *Store) Blocks() []Info {
	s.mu.RLock()
	list := make([]Info, 0, len(s.blocked))
	for a, b := range s.blocked {
		list = append(list, s.infoLocked(a, s.all[a], b))
	}
	s.mu.RUnlock()
	sortByAddress(list)
	return list
}

func sortByAddress(list []Info) {
	slices.SortFunc(list, func(x, y Info) int {
		return cmp.Or(cmp.Compare(x.Addr.Domain(), y.Addr.Domain()), cmp.Compare(x.Addr.Local(), y.Addr.Local()))
	})
}

// Limit returns a's storage limit in bytes, Unlimited for none. It
// reads memory only; an address without an account has the default.
func (s *Store) Limit(a address.Addr) int64 {
	if e := s.get(a); e != nil {
		return s.effective(e.limit)
	}
	return s.effective(0)
}

// AppendLimit returns the largest message in octets that a has set for itself, 0 for
// none. It reads memory only.
func (s *Store) AppendLimit(a address.Addr) int64 {
	if e := s.get(a); e != nil {
		return e.largest
	}
	return 0
}

// DefaultLimit returns the limit of accounts that have none of their own, and
// whether an operator stored it.
func (s *Store) DefaultLimit() (limit int64, stored bool) {
	return s.effective(0), s.byDefault.Load() != 0
}

// effective resolves an account's own limit: own, stored default, configured
// default, 1 GiB; 0 passes on to the next and negative means none.
func (s *Store) effective(own int64) int64 {
	for _, n := range []int64{own, s.byDefault.Load(), s.file()} {
		if n < 0 {
			return Unlimited
		}
		if n > 0 {
			return n
		}
	}
	return fallbackLimit
}

func (e *entry) name(a address.Addr) string {
	if e.row != "" {
		return e.row
	}
	return a.Wire()
}

func (e *entry) quotaName(a address.Addr) string {
	if e.quotaRow != "" {
		return e.quotaRow
	}
	return a.Wire()
}

// update replaces a's entry by a changed copy, if it is there. It runs after
// commits, on the database's writing goroutine.
func (s *Store) update(a address.Addr, change func(e *entry)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.all[a]; old != nil {
		e := *old
		change(&e)
		s.all[a] = &e
	}
}

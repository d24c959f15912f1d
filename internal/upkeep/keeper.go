package upkeep

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
)

// Rules are what an operator said about old mail and idle accounts. A duration
// of 0 is off. They are asked for at each run.
type Rules struct {
	Retention time.Duration // messages that are older go
	PurgeSeen bool          // messages that were read go
	Unused    time.Duration // accounts that nobody logged in to go
	Dormant   time.Duration // accounts whose last login is older go
}

// KeeperOptions are what NewKeeper needs; all but Now and Extra must be set.
type KeeperOptions struct {
	Store    mailbox.Store
	Accounts *account.Store
	Rules    func() Rules
	// Remove removes an account with its mail, and leaves its name free.
	Remove func(context.Context, address.Addr) error
	Now    func() time.Time
	// Extra are the tasks of others.
	Extra []Task
}

// Keeper removes what is old: by rule, or because an operator says so. All it
// removes goes through the store, so that sizes, indexes and sessions agree.
type Keeper struct {
	KeeperOptions

	mu      sync.Mutex // guards the fields below
	touched map[address.Addr]struct{}
	all     bool // touched does not tell: look everywhere
	// oldest is the date of the oldest message of accounts that did not change since
	// they were looked at, unix seconds: retention need not open their mailboxes.
	oldest map[address.Addr]int64
}

// beingRead stands in oldest while an account is looked at.
const beingRead = math.MinInt64

// maxTouched bounds what is remembered between two runs of purge-seen. Beyond it
// the next run looks everywhere.
const maxTouched = 100_000

// NewKeeper checks o.
func NewKeeper(o KeeperOptions) (*Keeper, error) {
	if o.Store == nil || o.Accounts == nil || o.Rules == nil || o.Remove == nil {
		return nil, errors.New("upkeep: a keeper needs a store, accounts, rules and a way to remove")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Keeper{KeeperOptions: o, touched: make(map[address.Addr]struct{}), oldest: make(map[address.Addr]int64), all: true}, nil
}

// Pick says which messages are meant. Its zero value means all.
type Pick struct {
	Account address.Addr  // of one account; zero for all
	Seen    *bool         // those that were read, or were not
	Older   time.Duration // by internal date; 0 for any age

	byRule bool // it runs by itself: what is known to be young is not looked at
}

// Purge removes the messages that p picks and returns how many.
func (k *Keeper) Purge(ctx context.Context, p Pick) (int, error) {
	accounts := []address.Addr{p.Account}
	if p.Account.IsZero() {
		accounts = nil
		if err := k.Store.Accounts(ctx, func(a address.Addr) error {
			accounts = append(accounts, a)
			return ctx.Err()
		}); err != nil {
			return 0, err
		}
	}
	n := 0
	for _, a := range accounts {
		if p.byRule && k.youngerThan(a, k.Now().Add(-p.Older).Unix()) {
			continue
		}
		m, err := k.purge(ctx, a, p)
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// youngerThan reports whether no message of an account is as old as that, as far as it
// is known without a look.
func (k *Keeper) youngerThan(a address.Addr, date int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	oldest, known := k.oldest[a]
	return known && oldest >= date
}

// look notes that an account is read, and returns what keeps the date of its oldest
// message if it did not change meanwhile.
func (k *Keeper) look(a address.Addr) (keep func(oldest int64)) {
	set := func(date int64) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if date == beingRead {
			k.oldest[a] = date
		} else if now, ok := k.oldest[a]; ok && now == beingRead {
			k.oldest[a] = date
		}
	}
	set(beingRead)
	return set
}

func (k *Keeper) purge(ctx context.Context, a address.Addr, p Pick) (n int, err error) {
	keep, oldest := k.look(a), int64(math.MaxInt64)
	defer func() {
		if err != nil {
			k.forget(a)
			return
		}
		keep(oldest)
	}()
	boxes, err := k.Store.Boxes(ctx, a)
	if err != nil {
		return 0, err
	}
	before := int64(0)
	if p.Older > 0 {
		before = k.Now().Add(-p.Older).Unix()
	}
	for _, info := range boxes {
		if err := ctx.Err(); err != nil {
			return n, fault.Wrap(fault.Busy, err, "purge")
		}
		box := mailbox.Box{Account: a, Name: info.Name}
		v, err := k.Store.View(ctx, box)
		if fault.Is(err, fault.NotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return n, err
		}
		var set mailbox.UIDSet
		for i := range v.Len() {
			m := v.At(i)
			if (p.Seen == nil || *p.Seen == (m.Flags&mailbox.Seen != 0)) && (before == 0 || m.Internal < before) {
				set = set.Add(m.UID)
			}
			oldest = min(oldest, m.Internal) // also of what goes now: then there is a change
		}
		if len(set) == 0 {
			continue
		}
		gone, err := k.Store.Expunge(ctx, box, set, false)
		if n += len(gone); err != nil && !fault.Is(err, fault.NotFound) {
			return n, err
		}
	}
	return n, nil
}

// forget drops what is known of an account without a look.
func (k *Keeper) forget(a address.Addr) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.oldest, a)
}

// Changed is told by the store that a mailbox changed, so that retention and, where it
// is on, purge-seen need not look at all of them. It never blocks.
func (k *Keeper) Changed(b mailbox.Box, purgeSeen bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.oldest, b.Account)
	switch {
	case !purgeSeen:
	case k.all:
	case len(k.touched) >= maxTouched:
		k.all = true
		clear(k.touched)
	default:
		k.touched[b.Account] = struct{}{}
	}
}

// purgeSeen removes read messages where something changed since the last run.
func (k *Keeper) purgeSeen(ctx context.Context) (n int, err error) {
	k.mu.Lock()
	all, touched := k.all, k.touched
	k.all, k.touched = false, make(map[address.Addr]struct{})
	k.mu.Unlock()
	seen := true
	if all {
		if n, err = k.Purge(ctx, Pick{Seen: &seen}); err != nil {
			k.lookEverywhere()
		}
		return n, err
	}
	for a := range touched {
		m, err := k.purge(ctx, a, Pick{Seen: &seen})
		if n += m; err != nil {
			k.lookEverywhere()
			return n, err
		}
	}
	return n, nil
}

func (k *Keeper) lookEverywhere() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = true
	clear(k.touched)
}

// pruneAccounts removes the accounts that idle picks.
func (k *Keeper) pruneAccounts(ctx context.Context, idle func(account.Info) bool) (n int, err error) {
	for _, i := range k.Accounts.List() {
		if err := ctx.Err(); err != nil {
			return n, fault.Wrap(fault.Busy, err, "prune")
		}
		if !idle(i) {
			continue
		}
		// Somebody may have logged in since the list was made.
		if now, err := k.Accounts.Info(i.Addr); err != nil || !now.Exists || !idle(now) {
			continue
		}
		if err := k.Remove(ctx, i.Addr); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// Task is something that an operator can have done, and that may run by itself.
type Task struct {
	Name    string
	Aliases []string
	Doc     string
	Every   time.Duration // 0: only when an operator says so
	// On tells whether it runs by itself now, else why not.
	On func() (bool, string)
	// Run does it and returns how many things it removed. age is the operator's;
	// 0 takes the rule's.
	Run func(ctx context.Context, age time.Duration) (removed int, err error)
	// Job is what runs by itself, when that is not Run.
	Job func(ctx context.Context) error
	// NeedsAge: there is no rule; an operator must say how old is old.
	NeedsAge bool
}

// Outcome says what a task did.
type Outcome struct {
	Task    string
	Skipped bool
	Removed int
	Why     string // it was skipped
}

// Tasks returns the tasks in the order in which operators see them.
func (k *Keeper) Tasks() []Task {
	switched := func(on func(Rules) bool, why string) func() (bool, string) {
		return func() (bool, string) {
			if on(k.Rules()) {
				return true, ""
			}
			return false, why
		}
	}
	or := func(age, rule time.Duration) time.Duration {
		if age > 0 {
			return age
		}
		return rule
	}
	unread := false
	return append([]Task{
		{
			Name: "prune-old-messages", Aliases: []string{"prune-messages", "retention"}, Every: time.Hour,
			Doc: "Remove messages older than the retention time",
			On:  switched(func(r Rules) bool { return r.Retention > 0 }, "message retention is off"),
			Run: func(ctx context.Context, age time.Duration) (int, error) {
				return k.Purge(ctx, Pick{Older: or(age, k.Rules().Retention), byRule: age <= 0})
			},
		}, {
			Name: "prune-unused-accounts", Aliases: []string{"prune-unused", "unused-accounts"}, Every: time.Hour,
			Doc: "Remove accounts that nobody ever logged in to",
			On:  switched(func(r Rules) bool { return r.Unused > 0 }, "unused_account_retention is not set"),
			Run: func(ctx context.Context, age time.Duration) (int, error) {
				before := k.Now().Add(-or(age, k.Rules().Unused)).Unix()
				return k.pruneAccounts(ctx, func(i account.Info) bool { return i.Pending && i.CreatedAt > 0 && i.CreatedAt < before })
			},
		}, {
			Name: "prune-dormant-accounts", Aliases: []string{"prune-dormant", "dormant-accounts"}, Every: 24 * time.Hour,
			Doc: "Remove accounts whose last login is long ago",
			On:  switched(func(r Rules) bool { return r.Dormant > 0 }, "dormant_account_retention is not set"),
			Run: func(ctx context.Context, age time.Duration) (int, error) {
				before := k.Now().Add(-or(age, k.Rules().Dormant)).Unix()
				return k.pruneAccounts(ctx, func(i account.Info) bool { return i.LastLogin > 0 && i.LastLogin < before })
			},
		}, {
			Name: "purge-seen", Aliases: []string{"purge-read", "auto-purge-seen"}, Every: 15 * time.Second,
			Doc: "Remove messages that were read",
			On:  switched(func(r Rules) bool { return r.PurgeSeen }, "auto_purge_seen is off"),
			Run: func(ctx context.Context, age time.Duration) (int, error) {
				if age > 0 {
					seen := true
					return k.Purge(ctx, Pick{Seen: &seen, Older: age})
				}
				return k.purgeSeen(ctx)
			},
		}, {
			Name: "prune-unread-older", Aliases: []string{"purge-unread-older"}, NeedsAge: true,
			Doc: "Remove messages that nobody read in a given time",
			On:  func() (bool, string) { return false, "it runs only when you say so, with --retention" },
			Run: func(ctx context.Context, age time.Duration) (int, error) {
				return k.Purge(ctx, Pick{Seen: &unread, Older: age})
			},
		},
	}, k.Extra...)
}

// Run runs a task because an operator says so: when it is switched off it is
// skipped, unless they say how old is old. Errors: fault.NotFound for a name
// that is no task's, fault.Invalid for an age that is missing.
func (k *Keeper) Run(ctx context.Context, name string, age time.Duration) (Outcome, error) {
	for _, t := range k.Tasks() {
		if t.Name != name && !slices.Contains(t.Aliases, name) {
			continue
		}
		on, why := t.On()
		switch {
		case t.NeedsAge && age <= 0:
			return Outcome{}, fault.WithHint(fault.Newf(fault.Invalid, "%s: how old?", t.Name), "add --retention 30d, say")
		case !on && age <= 0:
			return Outcome{Task: t.Name, Skipped: true, Why: why}, nil
		}
		n, err := t.Run(ctx, age)
		return Outcome{Task: t.Name, Removed: n}, err
	}
	var names []string
	for _, t := range k.Tasks() {
		names = append(names, t.Name)
	}
	return Outcome{}, fault.Newf(fault.NotFound, "unknown task %q; use %s", name, join(names))
}

func join(names []string) string {
	var b []byte
	for i, n := range names {
		switch {
		case i > 0 && i == len(names)-1:
			b = append(b, " or "...)
		case i > 0:
			b = append(b, ", "...)
		}
		b = append(b, n...)
	}
	return string(b)
}

// Jobs returns the tasks that run by themselves. Each looks at its rule when its
// time comes; purge-seen forgets where it looked while it is off.
func (k *Keeper) Jobs() (jobs []Job) {
	for _, t := range k.Tasks() {
		if t.Every <= 0 {
			continue
		}
		jobs = append(jobs, Job{Name: t.Name, Every: t.Every, Limit: max(t.Every, 10*time.Minute), Run: func(ctx context.Context) error {
			if on, _ := t.On(); !on {
				if t.Name == "purge-seen" {
					k.lookEverywhere()
				}
				return nil
			}
			if t.Job != nil {
				return t.Job(ctx)
			}
			_, err := t.Run(ctx, 0)
			return err
		}})
	}
	return jobs
}

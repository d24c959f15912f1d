package settings

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"madmail/internal/db"
	"madmail/internal/fault"
)

// Options say where values come from. DB is needed.
type Options struct {
	DB        *db.DB
	File      map[Key]string              // the configuration file's values
	LookupEnv func(string) (string, bool) // os.LookupEnv; nil means no environment
	Log       *slog.Logger
}

// Store holds the current snapshot and changes it. Make one with Open.
type Store struct {
	db     *db.DB
	log    *slog.Logger
	env    map[Key]string
	mirror bool // write to passwords(key, value) too

	current atomic.Pointer[Snapshot]

	mu       sync.Mutex // guards the fields below; held while a change is stored
	file     map[Key]string
	stored   map[Key]string
	warned   map[string]bool
	watchers map[int]func(old, now *Snapshot)
	next     int
}

// Open reads the stored values. In a database that has none it seeds
// push_mode, which the predecessors expect to find; everything else is
// computed until an operator sets it.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.DB == nil {
		return nil, fault.New(fault.Invalid, "settings: DB is not set")
	}
	s := &Store{
		db: o.DB, log: o.Log, mirror: o.DB.KeyValue(), env: make(map[Key]string),
		file: maps.Clone(o.File), warned: make(map[string]bool), watchers: make(map[int]func(old, now *Snapshot)),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.LookupEnv != nil {
		for i := range catalogue {
			if e := &catalogue[i]; e.Env != "" {
				if v, ok := o.LookupEnv(e.Env); ok {
					s.env[e.Key] = v
				}
			}
		}
	}
	if err := s.seed(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.loadLocked(ctx)
}

// seed makes the settings table complete: see Open and the package comment.
func (s *Store) seed(ctx context.Context) error {
	return s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error {
		if s.mirror {
			// The rows that are in settings already win.
			_, err := tx.Exec(ctx, `INSERT INTO settings (key, value)
				SELECT key, value FROM passwords WHERE substr(key, 1, 2) = '__'
				AND key NOT IN (SELECT key FROM settings)`)
			if err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", string(PushMode), "off")
		return err
	})
}

// loadLocked reads the rows and publishes.
func (s *Store) loadLocked(ctx context.Context) error {
	stored := make(map[Key]string)
	err := s.db.Read(ctx, func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, "SELECT key, value FROM settings")
		if err != nil {
			return err
		}
		defer rows.Close()
		byAlias := make(map[Key]string)
		parts := make(map[Key]string) // of webhooks
		for rows.Next() {
			var k, v string
			if err := rows.Scan(&k, &v); err != nil {
				return fault.Wrap(fault.Internal, err, "settings: read")
			}
			i, ok := index[Key(k)]
			switch {
			case isWebhookRow(Key(k)):
				parts[Key(k)] = v
			case !ok: // a predecessor's or a later version's; it stays in the table
			case catalogue[i].Key == Key(k):
				stored[Key(k)] = v
			default:
				byAlias[catalogue[i].Key] = v
			}
		}
		for k, v := range byAlias {
			if _, ok := stored[k]; !ok {
				stored[k] = v
			}
		}
		if _, ok := stored[OperatorWebhooks]; !ok {
			if text, ok := webhooksOf(parts); ok {
				stored[OperatorWebhooks] = text
			}
		}
		return fault.Wrap(fault.Busy, rows.Err(), "settings: read")
	})
	if err != nil {
		return err
	}
	s.stored = stored
	s.publishLocked(s.resolveLocked(s.stored, true))
	return nil
}

func (s *Store) resolveLocked(stored map[Key]string, warn bool) *Snapshot {
	return resolve(layers{env: s.env, stored: stored, file: s.file}, func(e *Entry, from Source, err error) {
		id := string(e.Key) + from.String() + stored[e.Key]
		if !warn || s.warned[id] {
			return
		}
		s.warned[id] = true
		s.log.Warn("settings: a value is ignored", "key", string(e.Key), "source", from.String(), "reason", err.Error())
	})
}

func (s *Store) publishLocked(now *Snapshot) {
	old := s.current.Swap(now)
	if old == nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.watchers)) {
		s.watchers[id](old, now)
	}
}

// Current returns the snapshot of this moment.
func (s *Store) Current() *Snapshot { return s.current.Load() }

// Subscribe has f called after every publication, one at a time, in order. f
// must be short and must not change settings. The returned function ends it.
func (s *Store) Subscribe(f func(old, now *Snapshot)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.watchers[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, id)
	}
}

// Reload reads the table again and takes file as the configuration file's
// values; nil keeps those that are known. It is for hands that used SQL and
// for a file that was read anew.
func (s *Store) Reload(ctx context.Context, file map[Key]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if file != nil {
		s.file = maps.Clone(file)
	}
	return s.loadLocked(ctx)
}

// Change sets a key, or with Reset removes its stored value.
type Change struct {
	Key   Key
	Value string
	Reset bool
}

// Plan is a checked change that is not stored yet.
type Plan struct {
	Candidate *Snapshot           // what holds after Commit
	Effects   map[Effect][]string // targets by effect, sorted; Live and Restart without targets are present with none
	Changed   []Key               // whose value differs, in the order of the catalogue

	changes []Change // with canonical keys and values in normal form
	base    *Snapshot
}

// Plan checks changes, alone and together, and says what they would do. It
// changes nothing. Errors: fault.NotFound for a key that is not in the
// catalogue, fault.Invalid for a value that does not fit.
func (s *Store) Plan(changes ...Change) (*Plan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := maps.Clone(s.stored)
	p := &Plan{base: s.current.Load(), Effects: make(map[Effect][]string)}
	for _, c := range changes {
		i, ok := index[c.Key]
		if !ok {
			return nil, fault.New(fault.NotFound, "no such setting")
		}
		e := &catalogue[i]
		c.Key = e.Key
		if c.Reset {
			delete(stored, c.Key)
		} else {
			v, err := e.parse(c.Value)
			if err != nil {
				return nil, fault.WithHint(err, e.hint())
			}
			c.Value = v.text
			stored[c.Key] = v.text
		}
		p.changes = append(p.changes, c)
	}
	p.Candidate = s.resolveLocked(stored, false)
	// Rows written by hand may be at odds already; that must not stop other changes.
	if err := p.Candidate.crossCheck(); err != nil && p.base.crossCheck() == nil {
		return nil, err
	}
	for i := range catalogue {
		e := &catalogue[i]
		if p.base.values[i].text == p.Candidate.values[i].text {
			continue
		}
		p.Changed = append(p.Changed, e.Key)
		p.Effects[e.Effect] = append(p.Effects[e.Effect], e.Targets...)
	}
	for effect, targets := range p.Effects {
		slices.Sort(targets)
		p.Effects[effect] = slices.Compact(targets)
	}
	return p, nil
}

func (e *Entry) hint() string {
	switch e.Kind {
	case Bool:
		return "write yes or no"
	case Port:
		return "write a number from 1 to 65535"
	case Size:
		return `write a number with K, M, G or T, as in "100M"`
	case Number:
		return "write a whole number"
	case Duration:
		return `write a time such as "30d", "12h" or "1h30m"`
	}
	return ""
}

// Commit stores a plan in one transaction and publishes its candidate. It
// fails with fault.Busy, and changes nothing, when the database cannot be
// written or another change was published since the plan was made.
func (s *Store) Commit(ctx context.Context, p *Plan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.Load() != p.base {
		return fault.New(fault.Busy, "settings: another change came first")
	}
	if err := s.db.Write(ctx, func(ctx context.Context, tx *db.Tx) error { return s.store(ctx, tx, p.changes) }); err != nil {
		return err
	}
	for _, c := range p.changes {
		if c.Reset {
			delete(s.stored, c.Key)
		} else {
			s.stored[c.Key] = c.Value
		}
	}
	s.publishLocked(p.Candidate)
	return nil
}

// store writes changes to settings, to a predecessor's table when there is
// one, and to the names that predecessors have for the same setting.
func (s *Store) store(ctx context.Context, tx *db.Tx, changes []Change) error {
	tables := []string{"settings"}
	if s.mirror {
		tables = append(tables, "passwords")
	}
	for _, c := range changes {
		rows := rowsOf(c)
		for _, table := range tables {
			for _, k := range slices.Sorted(maps.Keys(rows)) {
				var err error
				if c.Reset {
					_, err = tx.Exec(ctx, "DELETE FROM "+table+" WHERE key = ?", string(k))
				} else {
					_, err = tx.Exec(ctx, "INSERT INTO "+table+" (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", string(k), rows[k])
				}
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// rowsOf are the rows of a change, with those that predecessors read.
func rowsOf(c Change) map[Key]string {
	e := &catalogue[index[c.Key]]
	rows := map[Key]string{e.Key: c.Value}
	for _, k := range e.Aliases {
		rows[k] = c.Value
	}
	if c.Key == OperatorWebhooks {
		w, err := ParseWebhooks(c.Value) // of a value that was checked
		if err != nil {
			w = Webhooks{}
		}
		maps.Copy(rows, w.rows())
	}
	return rows
}

// Set plans and commits one change without preparing anybody: for keys whose
// effect is Live, and for servers that do not run.
func (s *Store) Set(ctx context.Context, k Key, value string) (*Plan, error) {
	return s.change(ctx, Change{Key: k, Value: value})
}

// Reset is Set for removing the stored value.
func (s *Store) Reset(ctx context.Context, k Key) (*Plan, error) {
	return s.change(ctx, Change{Key: k, Reset: true})
}

func (s *Store) change(ctx context.Context, c Change) (*Plan, error) {
	for {
		p, err := s.Plan(c)
		if err != nil {
			return nil, err
		}
		err = s.Commit(ctx, p)
		if err != nil && s.Current() != p.base && ctx.Err() == nil {
			continue // somebody else's change came between; plan on top of it
		}
		return p, err
	}
}

// Explanation says everything about one setting.
type Explanation struct {
	Entry  Entry
	Value  string // "" for a secret
	Source Source
	IsSet  bool   // a value is stored, valid or not
	Stored string // that value, "" for a secret
}

// Explain tells a setting's value, where it comes from and what is stored.
func (s *Store) Explain(k Key) (Explanation, error) {
	i, ok := index[k]
	if !ok {
		return Explanation{}, fault.New(fault.NotFound, "no such setting")
	}
	s.mu.Lock()
	stored, isSet := s.stored[catalogue[i].Key]
	snap := s.current.Load()
	s.mu.Unlock()
	x := Explanation{Entry: catalogue[i], Source: snap.sources[i], IsSet: isSet}
	if !x.Entry.Secret {
		x.Value, x.Stored = snap.values[i].text, stored
	}
	return x, nil
}

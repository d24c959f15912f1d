package ops

import (
	"context"
	"math"

	"madmail/internal/account"
	"madmail/internal/fault"
	"madmail/internal/settings"
	"madmail/internal/units"
)

// Quota is the storage of an account. MaxBytes is null for no limit.
type Quota struct {
	Username  string `json:"username"`
	UsedBytes int64  `json:"used_bytes"`
	MaxBytes  *int64 `json:"max_bytes"`
	IsDefault bool   `json:"is_default"`
}

// QuotaChange asks for a limit in bytes: 0 for the default, negative for none.
// Without a name it is the default itself.
type QuotaChange struct {
	Username string `json:"username"`
	MaxBytes int64  `json:"max_bytes"`
}

// QuotaStatus is the storage of all. DefaultBytes is null for no limit.
type QuotaStatus struct {
	TotalBytes   int64  `json:"total_storage_bytes"`
	Accounts     int    `json:"accounts_count"`
	DefaultBytes *int64 `json:"default_quota_bytes"`
	IsSet        bool   `json:"is_set"` // an operator stored the default
}

// limit is a number for programs: null is none.
func limit(n int64) *int64 {
	if n == account.Unlimited {
		return nil
	}
	return &n
}

func (d *Desk) quotaStatus(ctx context.Context, _ none) (QuotaStatus, error) {
	_, bytes, err := d.Measured(ctx)
	n, stored := d.Accounts.DefaultLimit()
	return QuotaStatus{TotalBytes: bytes, Accounts: d.Accounts.Count(), DefaultBytes: limit(n), IsSet: stored}, err
}

func (d *Desk) quotaGet(ctx context.Context, u User) (Quota, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return Quota{}, err
	}
	i, err := d.Accounts.Info(a)
	if err == nil && !i.Exists {
		err = fault.New(fault.NotFound, "")
	}
	if err != nil {
		return Quota{}, missing(err, a)
	}
	used, _, max, err := d.Usage(ctx, a)
	return Quota{Username: a.Wire(), UsedBytes: used, MaxBytes: limit(max), IsDefault: i.OwnLimit == 0}, err
}

func (d *Desk) quotaSet(ctx context.Context, p QuotaChange) (Quota, error) {
	if p.MaxBytes > math.MaxInt64/2 {
		return Quota{}, fault.New(fault.Invalid, "no disk is that large")
	}
	if p.Username == "" {
		if err := d.Accounts.SetDefaultLimit(ctx, p.MaxBytes); err != nil {
			return Quota{}, err
		}
		n, _ := d.Accounts.DefaultLimit()
		return Quota{MaxBytes: limit(n), IsDefault: true}, nil
	}
	a, err := d.parse(p.Username)
	if err != nil {
		return Quota{}, err
	}
	if err := d.Accounts.SetLimit(ctx, a, p.MaxBytes); err != nil {
		return Quota{}, missing(err, a)
	}
	return d.quotaGet(ctx, User{Username: a.Wire()})
}

// AppendLimit is the largest message of an account, in octets.
type AppendLimit struct {
	Username       string `json:"username"`
	AppendLimit    int64  `json:"appendlimit"` // its own, -1 for none
	EffectiveBytes int64  `json:"effective_bytes"`
}

// AppendLimitChange stores a limit in octets, negative for none. Without one it only
// asks.
type AppendLimitChange struct {
	Username string `json:"username"`
	Value    *int64 `json:"value"`
}

func (d *Desk) appendLimit(ctx context.Context, p AppendLimitChange) (AppendLimit, error) {
	a, err := d.parse(p.Username)
	if err != nil {
		return AppendLimit{}, err
	}
	if n := p.Value; n != nil {
		if *n >= 0 && (*n < minSize || *n > maxSize) {
			return AppendLimit{}, fault.WithHint(fault.Newf(fault.Invalid, "a message size is from %d to %d octets", minSize, maxSize), "-1 is no limit of its own")
		}
		if err := d.Accounts.SetAppendLimit(ctx, a, *n); err != nil {
			return AppendLimit{}, missing(err, a)
		}
	}
	i, err := d.Accounts.Info(a)
	if err == nil && !i.Exists {
		err = fault.New(fault.NotFound, "")
	}
	if err != nil {
		return AppendLimit{}, missing(err, a)
	}
	s := d.Settings.Current()
	r := AppendLimit{Username: a.Wire(), AppendLimit: -1, EffectiveBytes: min(s.Size(settings.AppendLimit), s.Size(settings.MaxMessageSize))}
	if n := i.AppendLimit; n > 0 {
		r.AppendLimit, r.EffectiveBytes = n, min(n, r.EffectiveBytes)
	}
	return r, nil
}

// SizeChange stores a size or forgets it. Without both it only asks.
type SizeChange struct {
	Set   string
	Reset bool
}

// MessageSize is the largest message. The stored values are null when there are
// none.
type MessageSize struct {
	Effective      string  `json:"effective"`
	EffectiveBytes int64   `json:"effective_bytes"`
	AppendLimit    *string `json:"appendlimit"`
	MaxMessageSize *string `json:"max_message_size"`
	Config         string  `json:"config"` // what holds without stored values
	ConfigBytes    int64   `json:"config_bytes"`
	Source         string  `json:"source"` // db, config or default
	Applied        string  `json:"applied,omitempty"`
}

// FederationSize is the largest message from other servers.
type FederationSize struct {
	Effective         string  `json:"effective"`
	EffectiveBytes    int64   `json:"effective_bytes"`
	MaxFederationSize *string `json:"max_federation_size"`
	Config            string  `json:"config"`
	ConfigBytes       int64   `json:"config_bytes"`
	Source            string  `json:"source"`
	Applied           string  `json:"applied,omitempty"`
}

// Bounds of a message size that an operator may choose: less would stop key
// exchange, more no client sends.
const (
	minSize = 1 << 10
	maxSize = 10 << 30
)

func (d *Desk) resize(ctx context.Context, p SizeChange, keys ...settings.Key) (applied string, err error) {
	if p.Set != "" && p.Reset {
		return "", fault.New(fault.Invalid, "either a value or none")
	}
	if p.Set == "" && !p.Reset {
		return "", nil
	}
	if !p.Reset {
		n, err := units.ParseSize(p.Set)
		if err != nil {
			return "", fault.WithHint(err, `write a number with K, M, G or T, as in "100M"`)
		}
		if n < minSize || n > maxSize {
			return "", fault.Newf(fault.Invalid, "a message size is from %s to %s", units.FormatSize(minSize), units.FormatSize(maxSize))
		}
	}
	var changes []settings.Change
	for _, k := range keys {
		changes = append(changes, settings.Change{Key: k, Value: p.Set, Reset: p.Reset})
	}
	return d.Change(ctx, changes...)
}

// without is the snapshot that would hold without stored values of some keys.
func (d *Desk) without(keys ...settings.Key) (*settings.Snapshot, error) {
	var changes []settings.Change
	for _, k := range keys {
		changes = append(changes, settings.Change{Key: k, Reset: true})
	}
	p, err := d.Settings.Plan(changes...)
	if err != nil {
		return nil, err
	}
	return p.Candidate, nil
}

// stored is a setting's stored value, nil without one.
func (d *Desk) stored(k settings.Key) *string {
	x, err := d.Settings.Explain(k)
	if err != nil || !x.IsSet {
		return nil
	}
	return &x.Stored
}

func (d *Desk) messageSize(ctx context.Context, p SizeChange) (m MessageSize, err error) {
	keys := []settings.Key{settings.AppendLimit, settings.MaxMessageSize}
	if m.Applied, err = d.resize(ctx, p, keys...); err != nil {
		return m, err
	}
	smaller := func(s *settings.Snapshot) (settings.Key, int64) {
		if a, b := s.Size(keys[0]), s.Size(keys[1]); a < b {
			return keys[0], a
		} else {
			return keys[1], b
		}
	}
	now := d.Settings.Current()
	k, n := smaller(now)
	file, err := d.without(keys...)
	if err != nil {
		return m, err
	}
	_, m.ConfigBytes = smaller(file)
	m.EffectiveBytes, m.Source = n, sourceWords[now.Source(k)]
	m.Effective, m.Config = units.FormatSize(n), units.FormatSize(m.ConfigBytes)
	m.AppendLimit, m.MaxMessageSize = d.stored(keys[0]), d.stored(keys[1])
	return m, nil
}

func (d *Desk) federationSize(ctx context.Context, p SizeChange) (m FederationSize, err error) {
	const k = settings.MaxFederationSize
	if m.Applied, err = d.resize(ctx, p, k); err != nil {
		return m, err
	}
	now := d.Settings.Current()
	file, err := d.without(k)
	if err != nil {
		return m, err
	}
	m.EffectiveBytes, m.ConfigBytes, m.Source = now.Size(k), file.Size(k), sourceWords[now.Source(k)]
	m.Effective, m.Config = units.FormatSize(m.EffectiveBytes), units.FormatSize(m.ConfigBytes)
	m.MaxFederationSize = d.stored(k)
	return m, nil
}

package ops

import (
	"context"
	"strings"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/fault"
)

// Desk is what the actions work on. app fills it.
type Desk struct {
	Accounts *account.Store
	Domains  *account.Domains
	// Usage tells what an account stores.
	Usage func(address.Addr) (used, messages, limit int64)
	// Link makes a login link.
	Link func(a address.Addr, password string) string
	// RemoveMail removes an account's mail.
	RemoveMail func(ctx context.Context, a address.Addr) error
	// Status tells how the server is.
	Status func(ctx context.Context) Status
	// Reload reads configuration and certificates anew.
	Reload func(ctx context.Context) (Reloaded, error)
	// AdminToken returns the admin token and the API's URL.
	AdminToken func(rotate bool) (AdminToken, error)
	// Registration reads or changes whether accounts can be made.
	Registration func(ctx context.Context, open *bool) (bool, error)
}

// Service is the connections of one protocol.
type Service struct {
	Name        string `json:"name"`
	Connections int    `json:"connections"`
	UniqueIPs   int    `json:"unique_ips"`
}

// Status is how the server is. The field names are those of earlier versions.
type Status struct {
	Running         bool             `json:"running"`
	Version         string           `json:"version"`
	Build           string           `json:"build"`
	PID             int              `json:"pid"`
	BootTime        string           `json:"boot_time,omitempty"`
	Uptime          int64            `json:"uptime_seconds"`
	Services        []Service        `json:"services"`
	RegisteredUsers int              `json:"registered_users"`
	Ports           []Port           `json:"ports,omitempty"`
	Counters        map[string]int64 `json:"counters,omitempty"`
}

// Port is a listener that is bound.
type Port struct {
	Port  int    `json:"port"`
	Proto string `json:"proto"`
	Label string `json:"label"`
	Addr  string `json:"addr"`
	TLS   bool   `json:"tls"`
}

// Reloaded says what a reload did.
type Reloaded struct {
	Reloaded bool     `json:"reloaded"`
	Changes  []string `json:"changes,omitempty"`
	Restart  []string `json:"restart_needed,omitempty"`
}

// AdminToken is the key to the admin API.
type AdminToken struct {
	Token  string `json:"token"`
	APIURL string `json:"api_url"`
}

// User names an account.
type User struct {
	Username string `json:"username"`
	Password string `json:"password,omitempty"`
	Reason   string `json:"reason,omitempty"`
	NoBlock  bool   `json:"no_block,omitempty"`
}

// AccountInfo is what is known of an account.
type AccountInfo struct {
	Username          string `json:"username"`
	Credentials       bool   `json:"credentials"`
	Blocked           bool   `json:"blocked"`
	Blocklisted       bool   `json:"blocklisted"`
	BlockReason       string `json:"block_reason,omitempty"`
	CreatedAt         int64  `json:"created_at,omitempty"`
	FirstLoginAt      int64  `json:"first_login_at,omitempty"`
	LastLoginAt       int64  `json:"last_login_at,omitempty"`
	FirstLoginPending bool   `json:"first_login_pending"`
	UsedBytes         int64  `json:"used_bytes"`
	MaxBytes          int64  `json:"max_bytes"`
	MessageCount      int64  `json:"message_count"`
}

// Blocked is a line of the block list.
type Blocked struct {
	Username  string `json:"username"`
	Reason    string `json:"reason"`
	BlockedAt string `json:"blocked_at"`
}

// Created is a new account.
type Created struct {
	Username string `json:"username"`
	Email    string `json:"email"`
	Password string `json:"password,omitempty"`
	DCLogin  string `json:"dclogin,omitempty"`
}

// Registration is whether accounts can be made.
type Registration struct {
	Open bool `json:"open"`
}

type none struct{}

// NewTable returns the actions over d.
func NewTable(d *Desk) Table {
	t := make(Table)
	Define(t, "status", "Tell how the server is", func(ctx context.Context, _ none) (Status, error) { return d.Status(ctx), nil })
	Define(t, "reload", "Read configuration and certificates anew", func(ctx context.Context, _ none) (Reloaded, error) { return d.Reload(ctx) })
	Define(t, "admin-token", "Show the token of the admin API", func(_ context.Context, p struct{ Rotate bool }) (AdminToken, error) {
		return d.AdminToken(p.Rotate)
	})
	Define(t, "registration", "Show or change whether accounts can be made", func(ctx context.Context, p struct{ Open *bool }) (Registration, error) {
		open, err := d.Registration(ctx, p.Open)
		return Registration{open}, err
	})
	Define(t, "accounts.list", "List the accounts", d.list)
	Define(t, "accounts.info", "Show one account", d.info)
	Define(t, "accounts.create", "Make an account", d.create)
	Define(t, "accounts.create-random", "Make an account with a random name and password", d.createRandom)
	Define(t, "accounts.set-password", "Change a password", d.setPassword)
	Define(t, "accounts.delete", "Remove an account and its mail", d.remove)
	Define(t, "accounts.ban", "Remove an account and block its name", d.remove)
	Define(t, "accounts.unban", "Free a blocked name", d.unban)
	Define(t, "accounts.ban-list", "List the blocked names", d.banList)
	return t
}

// parse takes an address, or a name alone, which gets the registration domain.
func (d *Desk) parse(s string) (address.Addr, error) {
	a, err := d.Domains.Parse(s)
	if err != nil {
		return a, fault.WithHint(err, "write name@domain, or the name alone")
	}
	return a, nil
}

func (d *Desk) about(i account.Info) AccountInfo {
	used, messages, limit := d.Usage(i.Addr)
	return AccountInfo{
		Username: i.Addr.Wire(), Credentials: i.Exists, Blocked: i.Blocked, Blocklisted: i.Blocked, BlockReason: i.BlockReason,
		CreatedAt: i.CreatedAt, FirstLoginAt: i.FirstLogin, LastLoginAt: i.LastLogin, FirstLoginPending: i.Pending,
		UsedBytes: used, MaxBytes: limit, MessageCount: messages,
	}
}

func (d *Desk) list(_ context.Context, p struct{ Pending bool }) (map[string][]AccountInfo, error) {
	all := make([]AccountInfo, 0, d.Accounts.Count())
	for _, i := range d.Accounts.List() {
		if !p.Pending || i.Pending {
			all = append(all, d.about(i))
		}
	}
	return map[string][]AccountInfo{"accounts": all}, nil
}

func (d *Desk) info(_ context.Context, u User) (AccountInfo, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return AccountInfo{}, err
	}
	i, err := d.Accounts.Info(a)
	if err != nil {
		return AccountInfo{}, err
	}
	return d.about(i), nil
}

func (d *Desk) create(ctx context.Context, u User) (Created, error) {
	a, err := d.parse(u.Username)
	switch {
	case err != nil:
		return Created{}, err
	case u.Password == "":
		return Created{}, fault.New(fault.Invalid, "the password is empty")
	case !d.Domains.IsLocal(a.Domain()):
		return Created{}, fault.Newf(fault.Invalid, "%s is not a domain of this server", a.Domain())
	}
	switch err := d.Accounts.Create(ctx, account.New{Addr: a, Password: []byte(u.Password)}); fault.KindOf(err) {
	case fault.Exists:
		return Created{}, fault.New(fault.Exists, "account already exists: "+a.Wire())
	case fault.Refused:
		return Created{}, fault.New(fault.Refused, "username is blocklisted: "+a.Wire())
	default:
		if err != nil {
			return Created{}, err
		}
	}
	return Created{Username: a.Wire(), Email: a.Wire()}, nil
}

func (d *Desk) createRandom(ctx context.Context, _ none) (Created, error) {
	c, err := d.Accounts.CreateRandom(ctx, account.Random{Domain: d.Domains.Registration(), NameLength: 12, PasswordLength: 24})
	if err != nil {
		return Created{}, err
	}
	return Created{Username: c.Addr.Local(), Email: c.Addr.Wire(), Password: string(c.Password), DCLogin: d.Link(c.Addr, string(c.Password))}, nil
}

func (d *Desk) setPassword(ctx context.Context, u User) (User, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return User{}, err
	}
	if u.Password == "" {
		return User{}, fault.New(fault.Invalid, "the password is empty")
	}
	return User{Username: a.Wire()}, d.Accounts.SetPassword(ctx, a, []byte(u.Password))
}

func (d *Desk) remove(ctx context.Context, u User) (User, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return User{}, err
	}
	reason := strings.TrimSpace(u.Reason)
	if u.NoBlock {
		reason = ""
	}
	if !d.Accounts.Exists(a) && u.NoBlock {
		return User{}, fault.New(fault.NotFound, "no such account: "+a.Wire())
	}
	if err := d.Accounts.Delete(ctx, a, reason); err != nil && !(fault.Is(err, fault.NotFound) && reason != "") {
		return User{}, err
	}
	if reason != "" {
		if err := d.Accounts.Block(ctx, a, reason); err != nil {
			return User{}, err
		}
	}
	return User{Username: a.Wire(), Reason: reason}, d.RemoveMail(ctx, a)
}

func (d *Desk) unban(ctx context.Context, u User) (User, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return User{}, err
	}
	return User{Username: a.Wire()}, d.Accounts.Unblock(ctx, a)
}

func (d *Desk) banList(context.Context, none) (map[string][]Blocked, error) {
	list := []Blocked{}
	for _, b := range d.Accounts.Blocks() {
		list = append(list, Blocked{Username: b.Addr.Wire(), Reason: b.BlockReason, BlockedAt: b.BlockedAt.UTC().Format(time.RFC3339)})
	}
	return map[string][]Blocked{"entries": list}, nil
}

package ops

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/backup"
	"madmail/internal/doctor"
	"madmail/internal/exchange"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/settings"
	"madmail/internal/share"
	"madmail/internal/upkeep"
)

// Desk is what the actions work on. app fills it.
type Desk struct {
	Accounts *account.Store
	Domains  *account.Domains
	Settings *settings.Store
	// Change stores settings, all or none, makes them so, and says what became of them.
	Change func(ctx context.Context, c ...settings.Change) (effect string, err error)
	// Where the server keeps things.
	Where Where
	// Usage tells what an account stores, in bytes.
	Usage func(ctx context.Context, a address.Addr) (used, messages, limit int64, err error)
	// Measured tells how many accounts have mail and how many bytes it is in all.
	Measured func(ctx context.Context) (directories int, bytes int64, err error)
	// Mail is the directory of an account's mail, which may not exist.
	Mail func(address.Addr) string
	// Link makes a login link.
	Link func(a address.Addr, password string) string
	// RemoveMail removes an account's mail.
	RemoveMail func(ctx context.Context, a address.Addr) error
	// Certificate tells where the pair is; CertificateChanged lets the server take it.
	Certificate        func() CertificateFacts
	CertificateChanged func() error
	// Obtain orders a certificate, and Renewal tells how the last orders went.
	Obtain  func(context.Context, CertificateOrder) (CertificateMade, error)
	Renewal func() RenewalFacts
	// Status tells how the server is.
	Status func(ctx context.Context) Status
	// Reload reads configuration and certificates anew.
	Reload func(ctx context.Context) (Reloaded, error)
	// Realtime tells of the relay for realtime channels.
	Realtime func() RealtimeFacts
	// Proxy tells where Shadowsocks is, and ProxyPassword makes a password that
	// fits a cipher.
	Proxy         func() ProxyFacts
	ProxyPassword func(cipher string) (string, error)
	// TURN reports whether the configuration has calls relayed.
	TURN func() bool
	// Federation is the way to other servers.
	Federation Federation
	// Push tells how the wake-ups go; ResetPush forgets that they failed.
	Push      func() PushFacts
	ResetPush func()
	// Exchangers are where mail is fetched.
	Exchangers *exchange.Store
	// PanelBuilt reports whether the operators' page is in this program.
	PanelBuilt func() bool
	// Shares are the contact links.
	Shares *share.Store
	// Webhooks tells how those go, TestWebhook tries them, and Registered tells them of an
	// account that the operator made.
	Webhooks    func() WebhookFacts
	TestWebhook func(ctx context.Context) error
	Registered  func(a address.Addr)
	// Configuration is the file as it counts.
	Configuration func() Configuration
	// Upgrades tells what runs and where it came from; Upgrade takes another program from
	// an address, or from where releases are with "latest", and lets it run.
	Upgrades func() Upgrades
	Upgrade  func(ctx context.Context, from string) (Upgraded, error)
	// Keys sign what goes there.
	Keys Keys
	// Boxes are the mailboxes, and Append puts a message into one, under the rules for
	// what clients put there.
	Boxes  mailbox.Store
	Append func(ctx context.Context, t mailbox.Target, r io.Reader, size int64) (mailbox.Placed, error)
	// Facts are what a doctor asks about the server.
	Facts func(ctx context.Context) (doctor.Facts, error)
	// Backup copies the state.
	Backup  func(ctx context.Context, dest string, p *backup.Progress) (backup.Manifest, error)
	backups backups
	// Keeper removes what is old.
	Keeper *upkeep.Keeper
	// Storage tells what the server takes. It reads kept counters where it can.
	Storage func(ctx context.Context) (Storage, error)
	// ReloadCaches fills the caches anew, for hands that used SQL.
	ReloadCaches func(ctx context.Context) error
	// Restart begins a restart and returns.
	Restart func(ctx context.Context) error
	// Notify puts a message into inboxes. failed says whose it did not reach, and why.
	Notify func(ctx context.Context, to []address.Addr, message []byte) (failed []string, err error)
	// AdminToken returns the admin token and the API's URL.
	AdminToken func(rotate bool) (AdminToken, error)
}

// Where says where a server keeps things.
type Where struct {
	StateDir string `json:"state_dir"`
	Database string `json:"database"`
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
	Tracker         *Tracker         `json:"server_tracker,omitempty"` // nil without a server
	Counters        map[string]int64 `json:"counters,omitempty"`
	// OpenRelay: strangers can send to anybody through this server.
	OpenRelay bool `json:"open_relay"`
}

// Tracker is what other servers did since the start.
type Tracker struct {
	BootTime  string `json:"boot_time"`
	Uptime    int64  `json:"uptime_seconds"`
	IPs       int    `json:"unique_conn_ips"`   // that connected to port 25
	Domains   int    `json:"unique_domains"`    // that mail went to or came from
	IPServers int    `json:"unique_ip_servers"` // the same, without a name
}

// Port is a listener that is bound.
type Port struct {
	Port        int    `json:"port"`
	Proto       string `json:"proto"`
	Label       string `json:"label"`   // for people
	Service     string `json:"service"` // whose connections are among those of the Service of this name
	Name        string `json:"name"`    // in the configuration
	Addr        string `json:"addr"`
	TLS         bool   `json:"tls"`
	Source      string `json:"source"` // env, db, file or default
	Connections int    `json:"connections"`
	UniqueIPs   *int   `json:"unique_ips"` // null where there are no connections to tell apart
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
	// PanelURL is where this server has the operators' page, "" for nowhere.
	PanelURL string `json:"panel_url,omitempty"`
}

// User names an account.
type User struct {
	Username string `json:"username"`
	Password string `json:"password,omitempty"`
	Reason   string `json:"reason,omitempty"`
	NoBlock  bool   `json:"no_block,omitempty"`
}

// AccountInfo is what is known of an account. Times are unix seconds, null when
// there was none.
type AccountInfo struct {
	Username          string  `json:"username"`
	Credentials       bool    `json:"credentials"`
	Blocked           bool    `json:"blocked"`
	Blocklisted       bool    `json:"blocklisted"`
	BlockReason       *string `json:"block_reason"`
	CreatedAt         *int64  `json:"created_at"`
	FirstLoginAt      *int64  `json:"first_login_at"`
	LastLoginAt       *int64  `json:"last_login_at"`
	FirstLoginPending bool    `json:"first_login_pending"`
	UsedBytes         int64   `json:"used_bytes"`
	MaxBytes          *int64  `json:"max_bytes"` // null for no limit
	IsDefaultQuota    bool    `json:"is_default_quota"`
	MessageCount      int64   `json:"message_count"`
	MaildirPresent    bool    `json:"maildir_present"`
	MaildirPath       string  `json:"maildir_path"`
}

// AccountsStatus is the accounts as a whole.
type AccountsStatus struct {
	Logins           int   `json:"login_count"`
	RegistrationOpen bool  `json:"registration_open"`
	TokenRequired    bool  `json:"token_required"`
	JITEnabled       bool  `json:"jit_enabled"`
	Blocklisted      int   `json:"blocklisted"`
	MailDirectories  int   `json:"mail_directories"`
	StorageBytes     int64 `json:"storage_bytes"`
	Where
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
	JIT  bool `json:"jit_enabled"` // a first login makes the account
}

type none struct{}

// NewTable returns the actions over d.
func NewTable(d *Desk) Table {
	t := make(Table)
	Define(t, "status", "Tell how the server is", func(ctx context.Context, _ none) (Status, error) { return d.Status(ctx), nil })
	Define(t, "certificate.status", "Show the TLS certificate", d.certificate)
	Define(t, "certificate.get", "Order a certificate from an authority, unless there is a good one", func(ctx context.Context, p CertificateOrder) (CertificateMade, error) { return d.Obtain(ctx, p) })
	Define(t, "certificate.autocert", "Show how the orders of certificates go", d.autocert)
	Define(t, "certificate.self-signed", "Make a self-signed certificate", d.selfSigned)
	Define(t, "reload", "Read configuration and certificates anew", func(ctx context.Context, _ none) (Reloaded, error) { return d.Reload(ctx) })
	Define(t, "admin-token", "Show the token of the admin API", func(_ context.Context, p struct{ Rotate bool }) (AdminToken, error) {
		return d.AdminToken(p.Rotate)
	})
	Define(t, "registration", "Show or change whether accounts can be made", d.registration)
	Define(t, "accounts.status", "Tell about the accounts as a whole", d.accountsStatus)
	Define(t, "accounts.list", "List the accounts", d.list)
	Define(t, "accounts.info", "Show one account", d.info)
	Define(t, "accounts.create", "Make an account", d.create)
	Define(t, "accounts.dclogin", "Show the link that logs a client in", d.link)
	Define(t, "accounts.create-random", "Make an account with a random name and password", d.createRandom)
	Define(t, "accounts.set-password", "Change a password", d.setPassword)
	Define(t, "accounts.delete", "Remove an account and its mail", d.remove)
	Define(t, "accounts.ban", "Remove an account, if there is one, and block its name", d.ban)
	Define(t, "accounts.block", "Block a name and keep its account", d.block)
	Define(t, "accounts.unban", "Free a blocked name", d.unban)
	Define(t, "accounts.ban-list", "List the blocked names", d.banList)
	Define(t, "settings.list", "List the settings", d.settingsList)
	Define(t, "settings.get", "Show one setting", d.settingsGet)
	Define(t, "settings.set", "Store a setting", d.settingsSet)
	Define(t, "settings.reset", "Forget a stored setting", d.settingsReset)
	d.defineFederation(t)
	d.defineDKIM(t)
	d.defineExchangers(t)
	Define(t, "admin-web", "Show or change whether and where the operators' page is served", d.adminWeb)
	d.defineSharing(t)
	Define(t, "config", "Show the configuration as it counts", d.configuration)
	Define(t, "upgrade.status", "Tell what runs, and what was installed last", func(context.Context, none) (Upgrades, error) { return d.Upgrades(), nil })
	Define(t, "upgrade", "Fetch, verify and run another version of the program", d.upgrade)
	Define(t, "webhooks", "Show or change whom the server tells of accounts", d.webhooks)
	Define(t, "webhooks.test", "Send a trial event to the webhook", d.webhookTest)
	d.defineMailboxes(t)
	Define(t, "doctor", "Look for usual troubles", d.doctor)
	Define(t, "backup", "Copy the state while the server works", d.backup)
	Define(t, "backup.status", "Tell how far the copy is", d.backupStatus)
	Define(t, "push", "Show or change whether clients are woken", d.push)
	Define(t, "webmail", "Show or change mail for browsers", d.webmail)
	Define(t, "shared-port", "Show or switch mail on the HTTPS port", d.sharedPort)
	Define(t, "turn", "Show or switch the relay for calls", d.calls)
	Define(t, "iroh.status", "Tell how the relay for realtime channels is", d.realtimeStatus)
	Define(t, "iroh.enable", "Switch the relay for realtime channels", d.realtimeEnable)
	Define(t, "iroh.install", "Give clients the relay for realtime channels, and keep its URL", d.realtimeInstall)
	Define(t, "proxy.status", "Tell how Shadowsocks is", d.proxyStatus)
	Define(t, "proxy.enable", "Switch Shadowsocks", d.proxyEnable)
	Define(t, "proxy.cipher", "Show or change the cipher of Shadowsocks", d.proxyCipher)
	Define(t, "proxy.password", "Show or change the password of Shadowsocks", d.proxyPassword)
	Define(t, "accounts.export", "List the accounts with their password hashes, for another server", d.export)
	Define(t, "accounts.import", "Take accounts over from another server", d.takeOver)
	Define(t, "accounts.delete-all", "Remove every account with its mail, and block the names", d.deleteAll)
	Define(t, "accounts.unban-all", "Free all blocked names", d.unbanAll)
	Define(t, "quota.status", "Tell the storage of all accounts", d.quotaStatus)
	Define(t, "quota.get", "Show the storage of one account", d.quotaGet)
	Define(t, "appendlimit", "Show or set the largest message of one account", d.appendLimit)
	Define(t, "quota.set", "Limit the storage of an account, or of all that have no limit of their own", d.quotaSet)
	Define(t, "message-size", "Show or change the largest message", d.messageSize)
	Define(t, "federation-size", "Show or change the largest message from other servers", d.federationSize)
	Define(t, "language", "Show or change the language of the pages", d.language)
	Define(t, "storage", "Tell what this server takes", func(ctx context.Context, _ none) (Storage, error) { return d.Storage(ctx) })
	Define(t, "ports.bound", "List the sockets that are bound", d.bound)
	Define(t, "ports.status", "List the services with their ports", d.ports)
	Define(t, "cache.reload", "Read accounts and storage anew from the database", func(ctx context.Context, _ none) (Caches, error) {
		err := d.ReloadCaches(ctx)
		return Caches{err == nil, err == nil}, err
	})
	Define(t, "restart", "Stop and start in the same process", func(ctx context.Context, _ none) (Restarting, error) {
		return Restarting{"restarting", "the server restarts; it answers again in a few seconds"}, d.Restart(ctx)
	})
	Define(t, "notice.audience", "Tell whom a notice to everybody would reach", d.audience)
	Define(t, "notice.send", "Put a message into the inbox of one user, or of all", d.notice)
	Define(t, "mail.purge", "Remove messages by state and age", d.purge)
	Define(t, "retention", "Tell how long messages are kept", d.retention)
	Define(t, "tasks.list", "List the tasks that keep the house in order", d.tasks)
	Define(t, "tasks.run", "Run one task now", d.taskRun)
	Define(t, "tasks.run-all", "Run all tasks that are switched on", d.taskRunAll)
	Define(t, "tokens.create", "Make a registration token", d.tokenCreate)
	Define(t, "tokens.list", "List the registration tokens", d.tokenList)
	Define(t, "tokens.status", "Show one registration token", d.tokenStatus)
	Define(t, "tokens.delete", "Remove a registration token", d.tokenDelete)
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

func (d *Desk) about(ctx context.Context, i account.Info) (AccountInfo, error) {
	used, messages, limit, err := d.Usage(ctx, i.Addr)
	if err != nil {
		return AccountInfo{}, err
	}
	a := AccountInfo{
		Username: i.Addr.Wire(), Credentials: i.Exists, Blocked: i.Blocked, Blocklisted: i.Blocked,
		CreatedAt: moment(i.CreatedAt), FirstLoginAt: moment(i.FirstLogin), LastLoginAt: moment(i.LastLogin), FirstLoginPending: i.Pending, IsDefaultQuota: i.OwnLimit == 0,
		UsedBytes: used, MessageCount: messages, MaildirPath: d.Mail(i.Addr),
	}
	if i.Blocked {
		a.BlockReason = &i.BlockReason
	}
	if limit != account.Unlimited {
		a.MaxBytes = &limit
	}
	a.MaildirPresent = messages > 0 || isThere(a.MaildirPath)
	return a, nil
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func moment(unix int64) *int64 {
	if unix <= 0 {
		return nil
	}
	return &unix
}

// AccountPick picks accounts. Its zero value picks all.
type AccountPick struct {
	Pending bool   `json:"pending"` // those that never logged in
	Dormant string `json:"dormant"` // those that nobody used for so long, since they were made
}

func (d *Desk) list(ctx context.Context, p AccountPick) (map[string][]AccountInfo, error) {
	quiet, err := age(p.Dormant, false)
	if err != nil {
		return nil, err
	}
	before := time.Now().Add(-quiet).Unix()
	all := make([]AccountInfo, 0, d.Accounts.Count())
	for _, i := range d.Accounts.List() {
		if p.Pending && !i.Pending || quiet > 0 && max(i.LastLogin, i.CreatedAt) > before {
			continue
		}
		a, err := d.about(ctx, i)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return map[string][]AccountInfo{"accounts": all}, nil
}

func (d *Desk) info(ctx context.Context, u User) (AccountInfo, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return AccountInfo{}, err
	}
	i, err := d.Accounts.Info(a)
	if err != nil {
		return AccountInfo{}, missing(err, a)
	}
	return d.about(ctx, i)
}

// missing says which account there is none of.
func missing(err error, a address.Addr) error {
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	return fault.WithHint(fault.New(fault.NotFound, "no such account: "+a.Wire()), `"madmail accounts list" names them all`)
}

func (d *Desk) accountsStatus(ctx context.Context, _ none) (AccountsStatus, error) {
	s := d.Settings.Current()
	directories, bytes, err := d.Measured(ctx)
	return AccountsStatus{
		Logins: d.Accounts.Count(), RegistrationOpen: s.Bool(settings.RegistrationOpen), TokenRequired: s.Bool(settings.TokenRequired),
		JITEnabled: s.Bool(settings.JITRegistration), Blocklisted: len(d.Accounts.Blocks()),
		MailDirectories: directories, StorageBytes: bytes, Where: d.Where,
	}, err
}

func (d *Desk) registration(ctx context.Context, p struct{ Open *bool }) (Registration, error) {
	if p.Open != nil {
		if _, err := d.Change(ctx, settings.Change{Key: settings.RegistrationOpen, Value: strconv.FormatBool(*p.Open)}); err != nil {
			return Registration{}, err
		}
	}
	s := d.Settings.Current()
	return Registration{Open: s.Bool(settings.RegistrationOpen), JIT: s.Bool(settings.JITRegistration)}, nil
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
	d.Registered(a)
	return Created{Username: a.Wire(), Email: a.Wire(), DCLogin: d.Link(a, u.Password)}, nil
}

// link returns the link that logs a client in, to who knows the password.
func (d *Desk) link(ctx context.Context, u User) (Created, error) {
	a, err := d.parse(u.Username)
	switch {
	case err != nil:
		return Created{}, err
	case !d.Accounts.Exists(a):
		return Created{}, fault.New(fault.NotFound, "no such account: "+a.Wire())
	}
	if err := d.Accounts.Verify(ctx, a, []byte(u.Password)); fault.Is(err, fault.Denied) {
		return Created{}, fault.New(fault.Refused, "password does not match this account")
	} else if err != nil {
		return Created{}, err
	}
	return Created{Username: a.Wire(), Email: a.Wire(), DCLogin: d.Link(a, u.Password)}, nil
}

func (d *Desk) createRandom(ctx context.Context, _ none) (Created, error) {
	c, err := d.Accounts.CreateRandom(ctx, account.Random{Domain: d.Domains.Registration(), NameLength: 12, PasswordLength: 24})
	if err != nil {
		return Created{}, err
	}
	d.Registered(c.Addr)
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
	return User{Username: a.Wire()}, missing(d.Accounts.SetPassword(ctx, a, []byte(u.Password)), a)
}

// remove takes an account away. A name that has neither account nor mail is
// more likely a typing error than a name to block.
func (d *Desk) remove(ctx context.Context, u User) (User, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return User{}, err
	}
	if _, messages, _, err := d.Usage(ctx, a); err != nil {
		return User{}, err
	} else if !d.Accounts.Exists(a) && messages == 0 && !isThere(d.Mail(a)) {
		return User{}, missing(fault.New(fault.NotFound, ""), a)
	}
	if u.NoBlock {
		u.Reason = ""
	} else if strings.TrimSpace(u.Reason) == "" {
		u.Reason = "account deleted via CLI"
	}
	return d.take(ctx, a, u.Reason)
}

func (d *Desk) ban(ctx context.Context, u User) (User, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return User{}, err
	}
	if strings.TrimSpace(u.Reason) == "" {
		u.Reason = "banned via CLI"
	}
	return d.take(ctx, a, u.Reason)
}

// take removes credentials first, then mail: when it is interrupted the account
// is of no use, and the same command again, or the next start, does the rest.
func (d *Desk) take(ctx context.Context, a address.Addr, reason string) (User, error) {
	reason, err := oneLine(reason)
	if err != nil {
		return User{}, err
	}
	if err := d.Accounts.Delete(ctx, a, reason); err != nil && !(fault.Is(err, fault.NotFound) && reason == "") {
		return User{}, err
	}
	return User{Username: a.Wire(), Reason: reason}, d.RemoveMail(ctx, a)
}

const maxReason = 1024

func oneLine(reason string) (string, error) {
	reason = strings.TrimSpace(reason)
	if len(reason) > maxReason || strings.ContainsFunc(reason, unicode.IsControl) {
		return "", fault.Newf(fault.Invalid, "a reason is one line of at most %d bytes", maxReason)
	}
	return reason, nil
}

func (d *Desk) block(ctx context.Context, u User) (User, error) {
	a, err := d.parse(u.Username)
	if err != nil {
		return User{}, err
	}
	if strings.TrimSpace(u.Reason) == "" {
		u.Reason = "manually blocked"
	}
	reason, err := oneLine(u.Reason)
	if err != nil {
		return User{}, err
	}
	return User{Username: a.Wire(), Reason: reason}, d.Accounts.Block(ctx, a, reason)
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

// Package app builds the server: every part in order, undone in reverse. It is
// the one place that knows all of them; the dependency order is the reading
// order.
package app

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/admintoken"
	"madmail/internal/adminui"
	"madmail/internal/auth"
	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/control"
	"madmail/internal/db"
	"madmail/internal/delivery"
	"madmail/internal/device"
	"madmail/internal/event"
	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/imapserver"
	"madmail/internal/invite"
	"madmail/internal/logging"
	"madmail/internal/mailbox/maildir"
	"madmail/internal/ops"
	"madmail/internal/push"
	"madmail/internal/quota"
	"madmail/internal/settings"
	"madmail/internal/setup"
	"madmail/internal/share"
	"madmail/internal/smtpserver"
	"madmail/internal/task"
	"madmail/internal/totals"
	"madmail/internal/upkeep"
	"madmail/internal/version"
	"madmail/internal/webhook"
	"madmail/internal/webimap"
	"madmail/internal/website"
)

// Options are what the command line knows.
type Options struct {
	ConfigPath string
	StateDir   string // flag; "" lets the configuration decide
	Debug      bool
	Log        []string // targets; nil leaves them to the configuration
	// Config is used instead of reading ConfigPath; only a reload reads it.
	Config *config.Config
	// Offline builds what operator actions need and opens no door.
	Offline bool
	// Once boots up to the doors and opens none: what a start would find wrong is found,
	// and what it makes is made.
	Once   bool
	Stderr io.Writer
	Env    func(string) string
	// Program is the running program's file, "" finds it; ReleaseKey is the key that
	// releases are signed with, nil the one that was built in.
	Program    string
	ReleaseKey ed25519.PublicKey
	// Panel are the files of the operators' page; nil takes those that were built in.
	Panel fs.FS
}

// App is a built server. Make one with New.
type App struct {
	opt        Options
	StateDir   string
	RuntimeDir string
	Log        *logging.Root
	log        *slog.Logger
	booted     time.Time

	reload sync.Mutex // one reload or change of a setting at a time

	clearing sync.Mutex // one removal of what belonged to an account at a time
	conf     atomic.Pointer[config.Config]
	limits   atomic.Pointer[limits] // of IMAP, as last asked for

	db       *db.DB
	settings *settings.Store
	accounts *account.Store
	devices  *device.Store
	shares   *share.Store
	domains  *account.Domains
	quota    *quota.Cache
	bus      *event.Bus
	store    *maildir.Store
	auth     *auth.Service
	intake   *delivery.Service
	certs    *certs.Manager
	acme     *certs.ACME
	smtp     *smtpserver.Server
	imap     *imapserver.Server
	web      *website.Server
	webmail  *webimap.Handler
	jobs     *upkeep.Scheduler
	totals   *totals.Store
	Ops      ops.Table

	fed    federation
	readAt atomic.Int64 // when the configuration was read, unix nanoseconds
	push   *push.Notifier
	hooks  *webhook.Notifier
	doors  doors
	calls  calls
	admin  atomic.Pointer[admin]
	page   *adminui.Page
	binary *website.Program             // nil where the file is not known
	asked  [len(httpParts)]atomic.Int64 // requests over HTTP
	group  task.Group
	undo   []func(context.Context) error
	ends   []ending
	again  chan struct{} // somebody wants a restart

	restarting atomic.Bool
	keeper     atomic.Pointer[upkeep.Keeper]
	measure    []address.Addr // accounts still to be measured in this rotation
}

// New builds and starts everything. When it fails what was built is undone.
func New(ctx context.Context, opt Options) (a *App, err error) {
	if opt.Env == nil {
		opt.Env = os.Getenv
	}
	if opt.Stderr == nil {
		opt.Stderr = io.Discard
	}
	a = &App{opt: opt, booted: time.Now(), Log: logging.NewRoot(), again: make(chan struct{}, 1)}
	a.log = a.Log.Logger("app")
	defer func() {
		if err != nil {
			stop, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			err = errors.Join(err, a.Stop(stop))
			a = nil
		}
	}()
	for _, step := range []func(context.Context) error{
		a.openConfig, a.openState, a.openNouns, a.openStore, a.openFederation, a.openFlows, a.openDesk, a.clearRest,
	} {
		if err := step(ctx); err != nil {
			return a, err
		}
	}
	if opt.Offline {
		return a, nil
	}
	if opt.Once {
		if err := a.openDoors(ctx); err != nil {
			return a, err
		}
		return a, a.ensureToken(ctx)
	}
	for _, step := range []func(context.Context) error{a.openDoors, a.openOutbound, a.bind, a.startRenewal, a.startFederation, a.openControl, a.watchdog} {
		if err := step(ctx); err != nil {
			return a, err
		}
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS=")
	a.log.Info("ready")
	return a, nil
}

// ErrLocked says that another process has the state directory. It is of kind
// fault.Busy.
var ErrLocked = errors.New("another instance is running")

func (a *App) onStop(f func(context.Context) error) { a.undo = append(a.undo, f) }

// ending ends what waits for others: clients, servers, services.
type ending struct {
	what string
	stop func(context.Context) error
}

// onEnd is onStop for what waits for others. All of them end first, side by side.
func (a *App) onEnd(what string, f func(context.Context) error) {
	a.ends = append(a.ends, ending{what, f})
}

const (
	// leisure is how long others have for what is under way. A service manager
	// gives 7 s to all.
	leisure = 5 * time.Second
	// order is what is kept of the time to Stop for what comes after them: what is in
	// memory goes to disk.
	order = 1500 * time.Millisecond
)

// endAll lets sessions and transfers end, and cuts off what does not. It takes no
// more than leisure, and leaves order to what comes after it.
func (a *App) endAll(ctx context.Context) error {
	limit := leisure
	if d, ok := ctx.Deadline(); ok {
		limit = max(min(limit, time.Until(d)-order), 0)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	errs := make([]error, len(a.ends))
	var all sync.WaitGroup
	for i, e := range a.ends {
		all.Go(func() {
			if err := e.stop(ctx); errors.Is(err, context.DeadlineExceeded) {
				a.log.Warn("what was under way was cut off", "what", e.what, "err", err)
			} else {
				errs[i] = err
			}
		})
	}
	all.Wait()
	a.ends = nil
	return errors.Join(errs...)
}

// watchdog tells the service manager that this process lives, twice in the time
// after which it would be taken for dead.
func (a *App) watchdog(context.Context) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return nil // what the manager says about itself is no reason not to serve
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.onEnd("watchdog", func(context.Context) error { cancel(); return nil })
	a.group.Go("watchdog", func() {
		tick := time.NewTicker(limit / 2)
		defer tick.Stop()
		for {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return nil
}

// reloading is what a service manager is told before a reload. READY=1 ends it.
func reloading() string { return daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec() }

// Stop lets sessions end, for leisure, and undoes everything in reverse.
func (a *App) Stop(ctx context.Context) error {
	if !a.opt.Offline {
		word := daemon.SdNotifyStopping
		if a.restarting.Load() { // else the manager would count the time and end the process
			word = reloading()
		}
		_, _ = daemon.SdNotify(false, word)
	}
	errs := []error{a.endAll(ctx)}
	for len(a.undo) > 0 {
		f := a.undo[len(a.undo)-1]
		a.undo = a.undo[:len(a.undo)-1]
		errs = append(errs, f(ctx))
	}
	return errors.Join(errs...)
}

// openConfig reads the file and decides about logging before anything is logged.
func (a *App) openConfig(context.Context) error {
	conf := a.opt.Config
	if conf == nil {
		var err error
		if conf, err = config.Load(a.opt.ConfigPath); err != nil {
			return err
		}
	}
	a.conf.Store(conf)
	a.readAt.Store(time.Now().UnixNano())
	if err := a.applyLogging(conf, false); err != nil {
		fmt.Fprintln(a.opt.Stderr, "madmail: warning:", err)
	}
	a.notes(conf)
	a.StateDir = conf.FindStateDir(a.opt.StateDir, a.opt.Env)
	a.RuntimeDir = conf.UsualRuntimeDir(a.StateDir)
	if a.opt.Offline {
		a.RuntimeDir = conf.FindRuntimeDir(a.StateDir)
	}
	if conf.StateDir != "" && conf.StateDir != a.StateDir {
		a.log.Warn("the state directory of the configuration file is not used: another one was named", "used", a.StateDir)
	}
	return nil
}

// notes logs which lines of the file have no effect.
func (a *App) notes(conf *config.Config) {
	for _, n := range conf.Notes {
		a.log.Warn("configuration", "line", n.Error())
	}
}

func (a *App) applyLogging(conf *config.Config, disabled bool) error {
	filter := a.opt.Env("MADMAIL_LOG")
	if filter == "" {
		filter = a.opt.Env("RUST_LOG")
	}
	if filter == "" && !conf.Debug && !a.opt.Debug && a.opt.Env("CHATMAIL_TURN_DEBUG") == "1" {
		filter = "warn,turn=debug"
	}
	if base := map[bool]string{true: "debug", false: "warn"}[conf.Debug || a.opt.Debug]; filter == "" && len(conf.Verbose) > 0 {
		filter = base + "," + strings.Join(conf.Verbose, ",")
	}
	targets := conf.LogTargets()
	if len(a.opt.Log) > 0 {
		targets = a.opt.Log
	}
	d, err := logging.Decide(logging.Inputs{Debug: conf.Debug || a.opt.Debug, Targets: targets, Disabled: disabled, Filter: filter})
	return errors.Join(err, a.Log.Apply(d, a.opt.Stderr))
}

// openState takes the state directory for this process.
func (a *App) openState(ctx context.Context) error {
	if err := os.MkdirAll(a.StateDir, 0o750); err != nil {
		return fault.WithHint(fault.Wrap(fault.Invalid, err, "state directory"), "name another one with --state-dir")
	}
	if !a.opt.Offline {
		if err := a.openRuntimeDir(); err != nil {
			return err
		}
	}
	release, err := a.lock(ctx)
	if err != nil {
		return err
	}
	a.onStop(func(context.Context) error { return release() })
	if !a.opt.Offline {
		pid := filepath.Join(a.RuntimeDir, config.PIDFile)
		if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return fault.Wrap(fault.Invalid, err, "process id")
		}
		a.onStop(func(context.Context) error { return os.Remove(pid) })
	}
	return nil
}

// openRuntimeDir makes the directory of the socket. The unit that the second version
// writes for a state directory elsewhere makes none below /run, and the service may not.
func (a *App) openRuntimeDir() error {
	usable := func(dir string) error {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
		f, err := os.CreateTemp(dir, ".try-*")
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), os.Remove(f.Name()))
	}
	err := usable(a.RuntimeDir)
	own := config.OwnRuntimeDir(a.StateDir)
	if err != nil && a.RuntimeDir != own {
		a.log.Warn("the runtime directory cannot be used; the state directory has socket and process id", "directory", a.RuntimeDir, "err", err)
		a.RuntimeDir = own
		err = usable(own)
	}
	return fault.WithHint(fault.Wrap(fault.Invalid, err, "runtime directory"), "name another one by runtime_dir")
}

// lock takes the state directory. A server waits a moment for a command that
// works on the state by itself, and not for another server.
func (a *App) lock(ctx context.Context) (release func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		release, err = lock(a.StateDir)
		if a.opt.Offline || !errors.Is(err, ErrLocked) || control.Answers(ctx, a.RuntimeDir) {
			return release, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return release, err
		}
	}
}

// openNouns opens the database and what is kept in it.
func (a *App) openNouns(ctx context.Context) error {
	var err error
	if a.db, err = db.Open(ctx, db.Options{StateDir: a.StateDir, Path: a.conf.Load().DBDSN, Cache: a.conf.Load().DBCacheSize, Busy: time.Duration(a.conf.Load().DBBusyTimeout) * time.Millisecond, Log: a.Log.Logger("db")}); err != nil {
		return err
	}
	a.onStop(a.db.Close)
	if err := a.importTables(ctx); err != nil {
		return err
	}
	a.settings, err = settings.Open(ctx, settings.Options{DB: a.db, File: fileSettings(a.conf.Load()), LookupEnv: a.lookupEnv, Log: a.Log.Logger("settings")})
	if err != nil {
		return err
	}
	if err := a.applyLogging(a.conf.Load(), a.settings.Current().Bool(settings.LogDisabled)); err != nil {
		a.log.Warn("logging", "err", err)
	}
	if a.domains, err = account.NewDomains(domainOptions(a.conf.Load())); err != nil {
		return err
	}
	if a.accounts, err = account.Open(ctx, account.Options{
		DB: a.db, Policy: accountPolicy(a.conf.Load()), DefaultLimit: func() int64 { return a.conf.Load().Quota() }, Ended: a.ended, Log: a.Log.Logger("account"),
	}); err != nil {
		return err
	}
	a.onStop(a.accounts.Close)
	a.devices, err = device.Open(ctx, device.Options{DB: a.db})
	a.openShares(ctx)
	return err
}

func (a *App) lookupEnv(k string) (string, bool) {
	v := a.opt.Env(k)
	return v, v != ""
}

func fileSettings(c *config.Config) map[settings.Key]string {
	m := make(map[settings.Key]string)
	for k, v := range c.SettingsValues() {
		m[settings.Key(k)] = v
	}
	return m
}

func domainOptions(c *config.Config) account.DomainOptions {
	return account.DomainOptions{
		Primary: c.PrimaryDomain, Local: strings.Fields(c.LocalDomains), Mail: c.MailDomain, JIT: strings.Fields(c.JITDomain), Hostname: c.Hostname,
	}
}

func accountPolicy(c *config.Config) account.Policy {
	return account.Policy{
		NameLength: c.UsernameLength, PasswordLength: c.PasswordLength,
		MinName: c.MinUsernameLength, MaxName: c.MaxUsernameLength, MinPassword: c.PasswordMinLength,
	}
}

// openStore opens the mail and measures it.
func (a *App) openStore(ctx context.Context) error {
	a.quota = quota.New(a.accounts.Limit)
	a.bus = event.New()
	var err error
	a.store, err = maildir.Open(ctx, maildir.Options{Dir: a.StateDir, Logger: a.Log.Logger("storage"), Changed: a.boxChanged, Used: a.quota.Add,
		Spelled: imap.DecodeName, MaxBoxes: func() int { return a.settings.Current().Number(settings.IMAPMailboxes) }})
	if err != nil {
		return err
	}
	a.onStop(a.store.Close)
	if a.opt.Offline {
		return nil
	}
	if err := a.importMail(ctx); err != nil {
		return err
	}
	// The service manager gives a start two minutes; whoever makes headway gets more.
	next := time.Time{}
	return a.store.Hydrate(ctx, func(accounts int) {
		if now := time.Now(); now.After(next) {
			next = now.Add(5 * time.Second)
			_, _ = daemon.SdNotify(false, fmt.Sprintf("STATUS=measuring mail: %d accounts are done\nEXTEND_TIMEOUT_USEC=%d", accounts, time.Minute.Microseconds()))
		}
	})
}

func (a *App) openFlows(ctx context.Context) error {
	if err := a.openPush(); err != nil {
		return err
	}
	if err := a.openWebhooks(); err != nil {
		return err
	}
	a.auth = auth.New(auth.Options{Made: a.made, Accounts: a.accounts, Domains: a.domains, Settings: a.settings.Current, Log: a.Log.Logger("auth")})
	var err error
	a.intake, err = delivery.New(delivery.Options{
		Store: a.store, Quota: a.quota, Accounts: a.accounts, Local: a.domains.IsLocal,
		MaxSize: a.maxSize, Form: a.form, Junk: func() string { return a.conf.Load().JunkMailbox }, AppendLimit: a.accounts.AppendLimit, Tags: func() bool { return a.conf.Load().StripPlusTags }, NoSecureJoin: func() bool { return !a.settings.Current().Bool(settings.ClearSecureJoin) }, Outgoing: &a.fed, Origins: origins{a}, Delivered: func(to address.Addr) { a.push.Notify(to) }, Full: a.full, Logger: a.Log.Logger("delivery"),
	})
	if err != nil {
		return err
	}
	a.acme = certs.NewACME(a.StateDir, nil, a.Log.Logger("certs"))
	if err := a.openKeeper(); err != nil {
		return err
	}
	if a.totals, err = totals.Open(ctx, a.db, a.counts); err != nil {
		return err
	}
	a.jobs, err = upkeep.New(a.Log.Logger("tasks"), append([]upkeep.Job{
		{Name: "flush", Every: 30 * time.Second, AtStop: true, Run: a.accounts.Flush},
		{Name: "flush-usage", Every: 30 * time.Second, AtStop: true, Run: func(ctx context.Context) error { return a.quota.Save(ctx, a.db) }},
		{Name: "flush-counts", Every: 30 * time.Second, AtStop: true, Run: a.totals.Flush},
		{Name: "certificate", Every: 5 * time.Minute, Run: a.freshCertificate},
		{Name: "measure", Every: 30 * time.Second, Limit: 25 * time.Second, Run: a.measureSome},
		a.flushPeers(), a.pruneKeys(),
		{Name: "forget-fetched", Every: 24 * time.Hour, Run: a.fed.boxes.Forget},
	}, a.keeper.Load().Jobs()...)...)
	if err != nil || a.opt.Offline {
		return err
	}
	a.onStop(a.jobs.Stop)
	return a.jobs.Start(context.Background())
}

// counts are what was done since the start, by the names of the table message_stats.
func (a *App) counts() map[string]int64 {
	d := a.intake.Stats()
	return map[string]int64{
		"sent_messages": d.Accepted, "received_messages": d.Stored, "outbound_messages": a.fed.peers.Sum().Delivered,
		"push_successful_notifications": a.push.Stats().Sent,
	}
}

func mailDoor(d config.Door) smtpserver.Door {
	return smtpserver.Door{MaxRecipients: d.MaxRecipients, IdleTimeout: d.Read, WriteTimeout: d.Write, Limits: d.Limits, RefuseSender: d.RefuseSender}
}

// mailPort is what the file says of the port by which a message comes.
func (a *App) mailPort(via delivery.Via) config.Door {
	switch via {
	case delivery.Inbound:
		return a.conf.Load().MX()
	case delivery.Submission:
		return a.conf.Load().Clients()
	}
	return config.Door{}
}

func (a *App) form(via delivery.Via) delivery.Form {
	d := a.mailPort(via)
	return delivery.Form{Header: d.MaxHeader, Line: d.MaxLine, Received: d.MaxReceived}
}

// maxSize is the size limit of a message: the smaller of the two settings, or what the
// file says of the port while nobody has set another.
func (a *App) maxSize(via delivery.Via) int64 {
	s := a.settings.Current()
	n := s.Size(settings.MaxMessageSize)
	if s.Source(settings.MaxMessageSize) != settings.FromStore {
		if own := a.mailPort(via).MaxMessage; own > 0 {
			n = own
		}
	}
	n = min(n, s.Size(settings.AppendLimit))
	if via == delivery.Federation || via == delivery.Inbound {
		n = min(n, s.Size(settings.MaxFederationSize))
	}
	return n
}

// maxAppend is the largest message that an account may put into its mailboxes.
func (a *App) maxAppend(who address.Addr) int64 {
	n := a.maxSize(delivery.Append)
	if own := a.accounts.AppendLimit(who); own > 0 {
		n = min(n, own)
	}
	return n
}

// maxSuspects is how many full accounts are measured at a time.
const maxSuspects = 200

// measureSome measures accounts that were full, and fifty more in rotation, so that
// files put and removed by hand are noticed in time.
func (a *App) measureSome(ctx context.Context) error {
	if len(a.measure) == 0 {
		if err := a.store.Accounts(ctx, func(x address.Addr) error {
			a.measure = append(a.measure, x)
			return nil
		}); err != nil {
			return err
		}
	}
	n := min(50, len(a.measure))
	batch := append(a.quota.Suspects(maxSuspects), a.measure[:n]...)
	a.measure = a.measure[n:]
	for _, x := range batch {
		if _, err := a.store.Usage(ctx, x); err != nil {
			return err
		}
	}
	return nil
}

// ended is told by the accounts that somebody's sessions must not go on.
func (a *App) ended(x address.Addr, why account.Ending) {
	if a.smtp != nil {
		a.smtp.EndSessions(x)
		a.imap.EndSessions(x)
	}
	if a.webmail != nil {
		a.webmail.EndSessions(x)
	}
	if why == account.Removed {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := a.clear(ctx, x); err != nil { // the caller tries again, or the next start
			a.log.Warn("not all of a removed account is removed", "account", x, "err", err)
		}
	}
}

// openDoors builds the doors; none listens yet.
func (a *App) openDoors(context.Context) error {
	var err error
	if a.certs, err = certs.Open(a.certFiles(a.conf.Load())); err != nil {
		return err
	}
	a.smtp, err = smtpserver.New(smtpserver.Options{
		Auth: a.auth, Intake: a.intake, Hostname: a.hostname, TLS: a.certs.TLSConfig("smtp", "submission"),
		MaxSize: func(m smtpserver.Mode) int64 {
			if m == smtpserver.MX {
				return a.maxSize(delivery.Inbound)
			}
			return a.maxSize(delivery.Submission)
		},
		Doors: [2]smtpserver.Door{mailDoor(a.conf.Load().MX()), mailDoor(a.conf.Load().Clients())}, AllowInsecureAuth: a.conf.Load().SubmissionInsecureAuth,
		RatePerMinute: a.conf.Load().MaxUserSendPerMinute, RateBurst: a.conf.Load().MaxUserSendBurst,
		Logger: a.Log.Logger("smtp"),
	})
	if err != nil {
		return err
	}
	a.onEnd("SMTP", a.smtp.Stop)
	a.imap, err = imapserver.New(imapserver.Options{
		Auth: a.auth, Store: a.store, Append: a.intake, Bus: a.bus, Quota: a.quota, Metadata: metadata{a}, TLS: a.certs.TLSConfig("imap"),
		Hostname: a.hostname, MaxAppend: a.maxAppend,
		IdleTimeout: duration(a.conf.Load().IMAPAutoLogout), AllowInsecureAuth: a.conf.Load().IMAPInsecureAuth,
		Tokens: a.tokens, Limits: a.imapLimits, Logger: a.Log.Logger("imap"),
	})
	if err != nil {
		return err
	}
	a.onEnd("IMAP", a.imap.Stop)
	if err := errors.Join(a.openAdmin(), a.openInbound(), a.openWebmail()); err != nil {
		return err
	}
	if path, err := os.Executable(); a.opt.Program != "" || err == nil {
		a.binary = website.NewProgram(cmp.Or(a.opt.Program, path), version.Version, func(b []byte) bool { return setup.Signed(a.opt.ReleaseKey, b) })
		a.onStop(func(context.Context) error { return a.binary.Close() })
	}
	a.web, err = website.New(website.Options{
		Register: a.register, Facts: a.facts, Own: a.ownSite, Reserved: a.reserved, Contacts: a.shares, PerMinute: func() int { return a.settings.Current().Number(settings.NewAccountsPerMinute) }, Before: a.route, Cross: a.crossNew, Policy: a.stsPolicy, Key: a.keyRecord, TLS: a.acme.ForAuthorities(a.certs.TLSConfig("h2", "http/1.1")), Logger: a.Log.Logger("www"),
	})
	if err != nil {
		return err
	}
	a.onEnd("HTTP", a.web.Stop)
	return nil
}

// imapLimits answers from what it said last while the settings are the same: every
// read of a session asks.
func (a *App) imapLimits() imapserver.Limits {
	s := a.settings.Current()
	if last := a.limits.Load(); last != nil && last.of == s {
		return last.Limits
	}
	l := imapserver.Limits{
		Sessions: s.Number(settings.IMAPSessions), PerAddress: s.Number(settings.IMAPAddressSessions), PerAccount: s.Number(settings.IMAPAccountSessions),
		Command: int(s.Size(settings.IMAPCommand)), Literals: int(s.Size(settings.IMAPLiterals)), Nesting: s.Number(settings.IMAPNesting),
	}
	a.limits.Store(&limits{of: s, Limits: l})
	return l
}

// limits are those of IMAP under a snapshot of the settings.
type limits struct {
	of *settings.Snapshot
	imapserver.Limits
}

// certFiles is where the certificate is, and whether one is made where none is.
func (a *App) certFiles(conf *config.Config) certs.Options {
	cert, key := certs.DefaultPaths(a.StateDir)
	explicit := conf.TLSCert != "" || conf.TLSKey != ""
	if explicit {
		cert, key = conf.TLSCert, conf.TLSKey
	}
	return certs.Options{Cert: cert, Key: key, Names: a.certNames(), Make: conf.TLSMode == "self_signed" || conf.TLSMode == "" && !explicit || conf.Orders(), Mend: conf.Orders() && !explicit}
}

// selfSigned reports whether clients have to be told to take any certificate.
func (a *App) selfSigned() bool {
	if a.certs != nil {
		return a.certs.IsSelfSigned()
	}
	// No server runs: what lies there counts, or what the next start makes.
	o := a.certFiles(a.conf.Load())
	makes := o.Make
	o.Make = false
	c, err := certs.Open(o)
	if err != nil {
		return makes
	}
	return c.IsSelfSigned()
}

// certificateFacts say where the pair is and whose it is.
func (a *App) certificateFacts() ops.CertificateFacts {
	o := a.certFiles(a.conf.Load())
	f := ops.CertificateFacts{Mode: a.conf.Load().TLSMode, Domain: a.hostname(), Names: o.Names, Cert: o.Cert, Key: o.Key, Ours: o.Make && !a.conf.Load().Orders()}
	if f.Mode == "" {
		f.Mode = map[bool]string{true: "self_signed", false: "file"}[f.Ours]
	}
	return f
}

// certificateChanged lets the server take a new pair. Without one there is nothing
// to do.
func (a *App) certificateChanged() error {
	if a.certs == nil {
		return nil
	}
	return a.certs.Reload()
}

// freshCertificate takes a pair that somebody renewed.
func (a *App) freshCertificate(context.Context) error {
	ok, err := a.certs.Refresh()
	if ok {
		a.log.Info("the certificate was read again")
	}
	return err
}

func (a *App) certNames() []string {
	names := []string{a.hostname(), a.conf.Load().PublicIP, a.conf.Load().MXDomain}
	for _, d := range a.domains.Local() {
		names = append(names, d.Host())
	}
	return names
}

func (a *App) hostname() string {
	if h := a.settings.Current().Text(settings.SMTPHostname); h != "" {
		return h
	}
	if a.conf.Load().Hostname != "" {
		return a.conf.Load().Hostname
	}
	return systemName()
}

// systemName is what the system calls this machine.
func systemName() string {
	if h, err := os.Hostname(); err == nil && h != "" {
		return h
	}
	return "localhost"
}

// tokens are the capabilities that make a client treat this as a chatmail relay.
func (a *App) tokens() []string {
	t := []string{"XCHATMAIL"}
	if a.settings.Current().Enum(settings.PushMode) != "off" {
		t = append(t, "XDELTAPUSH")
	}
	return t
}

// Server tells how clients reach the mail services.
func (a *App) Server() invite.Server {
	s := invite.Server{Host: a.clientHost(), AnyCertificate: a.selfSigned()}
	if s.IMAPPort, s.IMAPTLS = a.port("imap_tls"), true; s.IMAPPort == 0 {
		s.IMAPPort, s.IMAPTLS = a.port("imap"), false
	}
	if s.SMTPPort, s.SMTPTLS = a.port("submission_tls"), true; s.SMTPPort == 0 {
		s.SMTPPort, s.SMTPTLS = a.port("submission"), false
	}
	return s
}

func (a *App) clientHost() string {
	switch conf := a.conf.Load(); {
	case conf.MXDomain != "":
		return strings.Trim(conf.MXDomain, "[]")
	case conf.PublicIP != "":
		return conf.PublicIP
	}
	return a.domains.Registration().Host()
}

// FirstAccount makes a first account for somebody who tries the server out and
// returns its login link.
func (a *App) FirstAccount(ctx context.Context) (string, error) {
	c, err := a.accounts.CreateRandom(ctx, account.Random{Domain: a.domains.Registration()})
	if err != nil {
		return "", err
	}
	return invite.Link(c.Addr, string(c.Password), a.Server()), nil
}

// Accounts returns how many accounts there are.
func (a *App) Accounts() int { return a.accounts.Count() }

// URL returns where the invite page is.
func (a *App) URL() string {
	if p := a.port("http"); p != 0 {
		return "http://" + net.JoinHostPort(a.clientHost(), strconv.Itoa(p)) + "/"
	}
	return "https://" + net.JoinHostPort(a.clientHost(), strconv.Itoa(a.port("http_tls"))) + "/"
}

// ensureToken makes the admin token where there is none.
func (a *App) ensureToken(ctx context.Context) error {
	if a.configuredToken() != "" {
		return nil
	}
	token, created, err := admintoken.Ensure(a.StateDir)
	if err == nil && created {
		// REQ-07: shown once, when there is a place to show it.
		a.log.Log(ctx, slog.LevelError, "a new admin token was made", "token", token, "api", a.apiURL())
	}
	return err
}

func (a *App) openControl(ctx context.Context) error {
	if err := a.ensureToken(ctx); err != nil {
		return err
	}
	c := control.New(a.RuntimeDir, a.Ops, a.log)
	if err := c.Start(ctx); err != nil {
		return err
	}
	a.onEnd("control", c.Stop)
	return nil
}

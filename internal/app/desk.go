package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/admintoken"
	"madmail/internal/adminui"
	"madmail/internal/auth"
	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/imap"
	"madmail/internal/invite"
	"madmail/internal/ops"
	"madmail/internal/settings"
	"madmail/internal/shadowsocks"
	"madmail/internal/smtpserver"
	"madmail/internal/tunnel"
	"madmail/internal/version"
	"madmail/internal/webhook"
	"madmail/internal/website"
)

// openDesk builds the operator's actions.
func (a *App) openDesk(context.Context) error {
	a.Ops = ops.NewTable(&ops.Desk{
		Accounts: a.accounts, Domains: a.domains, Usage: a.usage, Settings: a.settings, Change: a.change,
		Mail:       func(x address.Addr) string { return absolute(a.store.AccountDir(x)) },
		Where:      ops.Where{StateDir: absolute(a.StateDir), Database: a.db.Path()},
		Measured:   a.measured,
		Link:       func(x address.Addr, password string) string { return invite.Link(x, password, a.Server()) },
		RemoveMail: a.clear,
		Federation: ops.Federation{Policy: a.fed.policy, Peers: a.fed.peers, Queue: a.fed.queue, Trouble: a.fed.trouble, Limits: a.queueLimits},
		Push:       a.pushFacts, ResetPush: a.push.Reset,
		Exchangers: a.fed.boxes, Shares: a.shares, PanelBuilt: a.panelBuilt,
		Configuration: a.configuration, Upgrades: a.upgrades, Upgrade: a.upgrade,
		Webhooks: a.webhookFacts, TestWebhook: a.hooks.Test, Registered: func(x address.Addr) { a.hooks.Registered(x, webhook.Admin, false) },
		Keys: ops.Keys{
			Records: a.fed.keys.Records, Rotate: a.fed.keys.Rotate, Abandon: a.fed.keys.Abandon,
			Forget: a.fed.resolver.Reload, TXT: a.fed.resolver.TXT, Data: a.fed.resolver.LookupData, Addresses: names{a.fed.resolver}.LookupAddr,
			Facts: a.zoneFacts,
		},
		Facts: a.doctorFacts, Backup: a.backup, Boxes: a.store, Append: a.intake.Append, Keeper: a.keeper.Load(), Storage: a.storage, ReloadCaches: a.reloadCaches, Restart: a.restart, Notify: a.notify,
		Certificate: a.certificateFacts, CertificateChanged: a.certificateChanged, Obtain: a.obtainCertificate, Renewal: a.renewalFacts,
		Status: a.status, Reload: a.Reload, AdminToken: a.adminToken,
		Realtime: a.realtimeFacts, Proxy: a.proxyFacts, ProxyPassword: shadowsocks.NewPassword, TURN: func() bool { return a.conf.Load().TURNEnable },
	})
	return nil
}

// absolute is a path for somebody who stands in another directory.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (a *App) status(context.Context) ops.Status {
	st := ops.Status{
		Running: !a.opt.Offline, Version: version.Version, Build: version.BuildID(), PID: os.Getpid(),
		BootTime: a.booted.UTC().Format(time.RFC3339), Uptime: int64(time.Since(a.booted) / time.Second),
		RegisteredUsers: a.accounts.Count(), Services: []ops.Service{}, OpenRelay: a.fed.policy.OpenRelay(),
	}
	if a.opt.Offline {
		st.PID, st.BootTime, st.Uptime = 0, "", 0
		return st
	}
	names, literals := a.fed.peers.Seen()
	st.Tracker = &ops.Tracker{BootTime: st.BootTime, Uptime: st.Uptime, IPs: a.smtp.Stats().Seen, Domains: names, IPServers: literals}
	on := make(tally)
	a.imap.Each(func(ip netip.Addr, port int) { on.add("IMAP", port, ip) })
	a.smtp.Each(func(s smtpserver.Session) {
		if s.Submission {
			on.add("Submission", s.Port, s.Remote)
		} else {
			on.add("SMTP", s.Port, s.Remote)
		}
	})
	a.web.Each(func(ip netip.Addr, port int) { on.add("HTTP", port, ip) })
	a.webmail.Each(func(ip netip.Addr, port int) { on.add("HTTP", port, ip) })
	if s := a.calls.shadowsocks.Load(); s != nil {
		s.Remotes(func(ip netip.Addr) { on.add("Shadowsocks", a.port("shadowsocks"), ip) })
	}
	st.Services = append(st.Services, on.service("IMAP"), on.service("SMTP"), on.service("Submission"), on.service("HTTP"))
	s, d, im, sm := a.store.Stats(), a.intake.Stats(), a.imap.Stats(), a.smtp.Stats()
	bytes, messages := a.quota.Total()
	st.Counters = map[string]int64{
		"journal_syncs": s.Syncs, "checkpoints": s.Checkpoints, "copies_stored": s.Delivered, "mailboxes_loaded": s.Loaded,
		"messages_accepted": d.Accepted, "messages_refused": d.Refused, "imap_idle": int64(im.Idle),
		"imap_logins": im.Logins, "imap_failed_logins": im.FailedLogins, "smtp_logins": sm.Logins, "smtp_failed_logins": sm.FailedLogins,
		"storage_bytes": bytes, "storage_messages": messages,
	}
	for name, n := range a.totals.All() {
		st.Counters[name] = n
	}
	st.Counters["memory_bytes"] = memoryUsed()
	p := a.push.Stats()
	st.Counters["push_sent"], st.Counters["push_gone"], st.Counters["push_failed"], st.Counters["push_pending"] = p.Sent, p.Gone, p.Failed, int64(p.Pending)
	a.countCalls(&st)
	for _, b := range a.Listeners() {
		p := ops.Port{Port: a.port(b.Name), Proto: b.Net, Label: b.Name, Name: b.Name, Addr: b.l.Addr().String(), TLS: b.TLS, Source: b.Source}
		if d, ok := described[b.Name]; ok {
			p.Label, p.Service = d[0], d[1]
		}
		switch p.Service {
		case "TURN":
			if b.Net == "udp" {
				p.Connections = int(st.Counters["turn_allocations"])
			}
		case "":
		default:
			n, unique := on.port(p.Port)
			p.Connections, p.UniqueIPs = n, &unique
		}
		st.Ports = append(st.Ports, p)
	}
	return st
}

// described is what people call a listener, and the service whose connections it has.
var described = map[string][2]string{
	"smtp": {"SMTP", "SMTP"}, "submission": {"Submission", "Submission"}, "submission_tls": {"Submission TLS", "Submission"},
	"imap": {"IMAP", "IMAP"}, "imap_tls": {"IMAP TLS", "IMAP"}, "http": {"HTTP", "HTTP"}, "http_tls": {"HTTPS", "HTTP"},
	"turn": {"TURN", "TURN"}, "turn_tcp": {"TURN TCP", "TURN"}, "turn_tls": {"TURN TLS", "TURN"}, "shadowsocks": {"Shadowsocks", "Shadowsocks"},
	"iroh": {"Iroh", ""}, "stun": {"STUN", ""}, "openmetrics": {"OpenMetrics", ""},
}

// tally counts connections by service and by port.
type tally map[any]*counted

type counted struct {
	n      int
	unique map[netip.Addr]bool
}

func (t tally) add(service string, port int, ip netip.Addr) {
	for _, k := range []any{service, port} {
		c := t[k]
		if c == nil {
			c = &counted{unique: make(map[netip.Addr]bool)}
			t[k] = c
		}
		c.n++
		c.unique[ip] = true
	}
}

func (t tally) port(p int) (connections, unique int) {
	if c := t[p]; c != nil {
		return c.n, len(c.unique)
	}
	return 0, 0
}

func (t tally) service(name string) ops.Service {
	s := ops.Service{Name: name}
	if c := t[name]; c != nil {
		s.Connections, s.UniqueIPs = c.n, len(c.unique)
	}
	return s
}

// usage tells what an account stores. Without a server nothing was measured at
// start, so it is measured now.
func (a *App) usage(ctx context.Context, x address.Addr) (used, messages, limit int64, err error) {
	if !a.opt.Offline {
		used, messages, limit = a.quota.Usage(x)
		return used, messages, limit, nil
	}
	u, err := a.store.Usage(ctx, x)
	return u.Bytes, u.Messages, a.accounts.Limit(x), err
}

// measured returns how many accounts have mail, and how much in all.
func (a *App) measured(ctx context.Context) (directories int, bytes int64, err error) {
	err = a.store.Accounts(ctx, func(x address.Addr) error {
		directories++
		if !a.opt.Offline {
			return nil
		}
		u, err := a.store.Usage(ctx, x)
		bytes += u.Bytes
		return err
	})
	if !a.opt.Offline {
		bytes, _ = a.quota.Total()
	}
	return directories, bytes, err
}

// Reload reads the configuration and the certificates anew and applies what can
// be applied to a running server. What can fail comes first: on an error the
// server goes on as before. Open sessions stay.
func (a *App) Reload(ctx context.Context) (ops.Reloaded, error) {
	if a.opt.Offline {
		return ops.Reloaded{}, fault.WithHint(fault.New(fault.NotFound, "no server is running"), "the configuration is read when it starts")
	}
	a.reload.Lock()
	defer a.reload.Unlock()
	_, _ = daemon.SdNotify(false, reloading())
	defer func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }() // a failed reload leaves a server that works
	conf, err := config.Load(a.opt.ConfigPath)
	if err != nil {
		return ops.Reloaded{}, err
	}
	if _, err := account.NewDomains(domainOptions(conf)); err != nil {
		return ops.Reloaded{}, err
	}
	old := a.conf.Load()
	pair, err := certs.Open(a.certFiles(conf))
	if err != nil {
		return ops.Reloaded{}, err
	}
	if err := a.settings.Reload(ctx, fileSettings(conf)); err != nil {
		return ops.Reloaded{}, err
	}
	want := a.wanted(conf, a.settings.Current())
	calls, err := a.planCalls(conf, a.settings.Current(), want)
	if err != nil {
		return ops.Reloaded{}, errors.Join(err, a.settings.Reload(ctx, fileSettings(old)))
	}
	sockets, err := a.prepare(want)
	if err != nil {
		return ops.Reloaded{}, errors.Join(err, a.settings.Reload(ctx, fileSettings(old)))
	}
	if err := errors.Join(a.accounts.Reload(ctx), a.devices.Reload(ctx), a.fed.policy.Reload(ctx), a.fed.boxes.Reload(ctx)); err != nil {
		return ops.Reloaded{}, errors.Join(err, sockets.rollback(), a.settings.Reload(ctx, fileSettings(old)))
	}
	if err := a.domains.Set(domainOptions(conf)); err != nil {
		return ops.Reloaded{}, errors.Join(err, sockets.rollback()) // cannot be: it was checked above
	}
	if err := a.fed.keys.Use(a.signed(), a.settings.Current().Text(settings.DKIMSelector)); err != nil {
		return ops.Reloaded{}, errors.Join(err, sockets.rollback(), a.domains.Set(domainOptions(old)), a.settings.Reload(ctx, fileSettings(old)))
	}
	a.accounts.SetPolicy(accountPolicy(conf))
	a.conf.Store(conf)
	a.certs.Adopt(pair)
	a.readAt.Store(time.Now().UnixNano())
	a.commit(sockets, calls)
	if err := a.applyLogging(conf, a.settings.Current().Bool(settings.LogDisabled)); err != nil {
		a.log.Warn("logging", "err", err)
	}
	r := ops.Reloaded{Reloaded: true, Changes: append([]string{"settings, accounts and certificate read again"}, sockets.changes()...)}
	if startOnly(conf) != startOnly(old) {
		r.Restart = append(r.Restart, "state_dir, runtime_dir, db_..., sharing_dsn, proxy_protocol, max_user_send_..., remote_..., and of imap_..., smtp_... and submission_... time-outs, recipients, limits and insecure_auth take effect at the next start")
	}
	return r, nil
}

// startOnly is what a running server does not take from a new file.
func startOnly(c *config.Config) string {
	return fmt.Sprintf("%q", []any{c.StateDir, c.RuntimeDir, c.DBDSN, c.SharingDSN, c.MaxUserSendPerMinute, c.MaxUserSendBurst, c.ProxyProtocol,
		c.IMAPAutoLogout, c.IMAPInsecureAuth, mailDoor(c.MX()), mailDoor(c.Clients()), c.SubmissionInsecureAuth, c.DBCacheSize, c.DBBusyTimeout,
		c.RemoteCommandTimeout, c.RemoteSubmissionTimeout, c.RemoteConnectTimeout, c.RemoteIdleTime, c.RemoteMaxIdle, c.RemoteReuse, c.RemoteLocalIP, c.RemoteForceIPv4,
		c.RemoteLimits, c.RemoteMTASTSDir, c.RemoteRootCA})
}

// atOnce are settings of components that count at once: greetings read the
// host's name each time, and startCalls and settleCalls do the rest.
var atOnce = map[settings.Key]bool{
	settings.SMTPHostname: true, settings.TURNEnabled: true, settings.TURNPort: true, settings.TURNLocalOnly: true, settings.TURNRealm: true,
	settings.TURNSecret: true, settings.TURNRelayIP: true, settings.TURNTTL: true, settings.TURNRelayPortMin: true, settings.TURNRelayPortMax: true,
	settings.DKIMSelector: true,
	settings.IrohEnabled:  true, settings.IrohPort: true, settings.IrohLocalOnly: true, settings.IrohRelayURL: true,
	settings.SSEnabled: true, settings.SSPort: true, settings.SSCipher: true, settings.SSPassword: true,
	settings.SSWSEnabled: true, settings.SSWSPort: true, settings.HTTPProxyEnabled: true, settings.HTTPProxyPort: true, settings.HTTPProxyPath: true,
	settings.HTTPProxyUsername: true, settings.HTTPProxyPassword: true,
}

// change stores settings, all or none, and makes them so. Sockets that it names are opened
// before the value is stored; when that fails nothing is changed.
func (a *App) change(ctx context.Context, c ...settings.Change) (effect string, err error) {
	a.reload.Lock()
	defer a.reload.Unlock()
	p, err := a.settings.Plan(c...)
	if err != nil {
		return "", err
	}
	if slices.Contains(p.Changed, settings.HTTPProxyEnabled) && p.Candidate.Bool(settings.HTTPProxyEnabled) {
		if err := tunnel.Check(p.Candidate.Text(settings.HTTPProxyUsername), p.Candidate.Text(settings.HTTPProxyPassword)); err != nil {
			return "", err
		}
	}
	if slices.Contains(p.Changed, settings.DKIMSelector) {
		if err := a.fed.keys.Use(a.signed(), p.Candidate.Text(settings.DKIMSelector)); err != nil {
			return "", err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, a.fed.keys.Use(a.signed(), a.settings.Current().Text(settings.DKIMSelector)))
			}
		}()
	}
	if slices.Contains(p.Changed, settings.ContactSharing) && p.Candidate.Bool(settings.ContactSharing) && !a.opt.Offline {
		if err := a.shares.Open(ctx); err != nil {
			return "", err
		}
	}
	sockets := &rebinding{a: a}
	want := a.wanted(a.conf.Load(), p.Candidate)
	calls := plannedCalls{keep: true}
	if slices.ContainsFunc(p.Changed, func(k settings.Key) bool { return atOnce[k] }) {
		if calls, err = a.planCalls(a.conf.Load(), p.Candidate, want); err != nil {
			return "", err
		}
	}
	if !a.opt.Offline {
		if sockets, err = a.prepare(want); err != nil {
			return "", err
		}
	}
	if err := a.settings.Commit(ctx, p); err != nil {
		return "", errors.Join(err, sockets.rollback())
	}
	if a.opt.Offline {
		return "stored; it counts from the next start", nil
	}
	a.commit(sockets, calls)
	if err := a.applyLogging(a.conf.Load(), p.Candidate.Bool(settings.LogDisabled)); err != nil {
		a.log.Warn("logging", "err", err)
	}
	_, component := p.Effects[settings.Component]
	_, rebind := p.Effects[settings.Rebind]
	_, restart := p.Effects[settings.Restart]
	switch moved := sockets.changes(); {
	case len(p.Changed) == 0:
		return "nothing changes: this value counted already", nil
	case len(moved) > 0 && sockets.sessionsStay():
		return strings.Join(moved, "; ") + "; open sessions stay", nil
	case len(moved) > 0:
		return strings.Join(moved, "; "), nil
	case len(moved) == 0 && !slices.ContainsFunc(p.Changed, func(k settings.Key) bool { return !atOnce[k] }):
		return "in effect", nil
	case !slices.ContainsFunc(p.Changed, func(k settings.Key) bool { return !unserved(k) }):
		return "stored; this version does nothing with it", nil
	case component || restart || rebind:
		return "stored; it counts from the next start", nil
	}
	return "in effect", nil
}

// unserved reports whether a setting is only kept.
func unserved(k settings.Key) bool {
	e, err := settings.Lookup(string(k))
	return err == nil && e.Unserved
}

// origin is the site as browsers write it.
func (a *App) origin() string {
	host := strings.Trim(cmp.Or(a.settings.Current().Text(settings.SMTPHostname), a.conf.Load().Hostname, a.conf.Load().PrimaryDomain, "your-server"), "[]")
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	scheme, usual, p := "https://", 443, a.port("http_tls")
	if plain := a.port("http"); p == 0 && plain != 0 {
		scheme, usual, p = "http://", 80, plain
	}
	if p != 0 && p != usual {
		host += ":" + strconv.Itoa(p)
	}
	return scheme + host
}

// apiURL is where operators' pages ask.
func (a *App) apiURL() string {
	return a.origin() + cmp.Or(a.settings.Current().Text(settings.AdminPath), "/api/admin")
}

// panelBuilt reports whether the operators' page is in this program.
func (a *App) panelBuilt() bool { return a.opt.Panel != nil || adminui.Files() != nil }

// panelURL is where the operators' page is, "" while it is not served.
func (a *App) panelURL() string {
	s := a.settings.Current()
	if !a.panelBuilt() || !s.Bool(settings.AdminWebEnabled) {
		return ""
	}
	return a.origin() + s.Text(settings.AdminWebPath) + "/"
}

// configuredToken is the admin token of environment or file, "disabled", or ""
// when the token lies in the state directory.
func (a *App) configuredToken() string {
	if t := a.opt.Env("CHATMAIL_ADMIN_TOKEN"); t != "" {
		return t
	}
	return a.conf.Load().AdminToken
}

func (a *App) adminToken(rotate bool) (ops.AdminToken, error) {
	token := a.configuredToken()
	var err error
	switch {
	case token == "disabled":
		return ops.AdminToken{}, fault.New(fault.Refused, "admin API is disabled in configuration")
	case rotate && token != "":
		return ops.AdminToken{}, fault.WithHint(fault.New(fault.Refused, "the admin token is set in the configuration"), "change admin_token there")
	case rotate:
		token, err = admintoken.Rotate(a.StateDir)
	case token == "":
		token, _, err = admintoken.Ensure(a.StateDir)
	}
	if err != nil {
		return ops.AdminToken{}, err
	}
	return ops.AdminToken{Token: token, APIURL: a.apiURL(), PanelURL: a.panelURL()}, nil
}

// register makes an account for the invite page.
func (a *App) register(ctx context.Context, token, host string) (website.Account, error) {
	c, err := a.auth.Register(ctx, auth.Registration{Token: token, Host: host})
	if err != nil {
		return website.Account{}, err
	}
	return website.Account{Email: c.Addr.Wire(), Password: string(c.Password), Link: invite.Link(c.Addr, string(c.Password), a.Server())}, nil
}

// metadata answers IMAP annotations: the server's from settings, push tokens
// from the devices.
type metadata struct{ a *App }

const deviceToken = "/private/devicetoken"

// serverEntries are the server's that there may be.
var serverEntries = []string{
	"/shared/admin", "/shared/vendor/deltachat/irohrelay", "/shared/vendor/deltachat/maxsmtprecipients", "/shared/vendor/deltachat/turn",
	"/shared/vendor/deltachat/turns", "/shared/vendor/deltachat/turn-test-relay-only",
}

func (m metadata) Get(_ context.Context, who address.Addr, box, entry string) (string, bool, error) {
	if box != "" {
		if box == "INBOX" && entry == deviceToken {
			tokens := m.a.devices.List(who)
			if len(tokens) == 0 {
				return "", false, nil
			}
			for i, j := 0, len(tokens)-1; i < j; i, j = i+1, j-1 {
				tokens[i], tokens[j] = tokens[j], tokens[i] // oldest first
			}
			return strings.Join(tokens, " "), true, nil
		}
		return "", false, nil
	}
	switch entry {
	case "/shared/vendor/deltachat/maxsmtprecipients":
		if n := m.a.conf.Load().SubmissionMaxRecipients; n > 0 && n < 1000 {
			return strconv.Itoa(n), true, nil // clients make more messages of a larger group
		}
		return "1000", true, nil
	case "/shared/admin":
		if m.a.conf.Load().ACMEEmail != "" {
			return "mailto:" + m.a.conf.Load().ACMEEmail, true, nil
		}
	case "/shared/vendor/deltachat/irohrelay":
		u := m.a.relayURL()
		return u, u != "", nil
	case "/shared/vendor/deltachat/turn", "/shared/vendor/deltachat/turns", "/shared/vendor/deltachat/turn-test-relay-only":
		v := m.a.turnEntry(strings.TrimPrefix(entry, "/shared/vendor/deltachat/"), who.Wire())
		return v, v != "", nil
	}
	return "", false, nil
}

// Entries implements imapserver.Metadata. What is computed for each asking, as
// credentials of TURN are, counts as changed when it comes and when it goes.
func (m metadata) Entries(ctx context.Context, who address.Addr, box string) (map[string]string, error) {
	names := serverEntries
	switch box {
	case "":
	case "INBOX":
		names = []string{deviceToken}
	default:
		names = nil
	}
	all := make(map[string]string)
	for _, e := range names {
		v, ok, err := m.Get(ctx, who, box, e)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(e, "/turn") || strings.HasSuffix(e, "/turns") {
			v = ""
		}
		if ok {
			all[e] = v
		}
	}
	return all, nil
}

// Set implements imapserver.Metadata. Tokens are added and not removed: those of other
// devices are in the same entry, and dead ones end by themselves.
func (m metadata) Set(ctx context.Context, who address.Addr, box string, list []imap.Annotation) error {
	for _, a := range list {
		if box != "INBOX" || a.Entry != deviceToken || a.Remove {
			return fault.New(fault.Refused, "This entry cannot be set")
		}
	}
	for _, a := range list { // one: the grammar takes no entry twice
		if err := m.a.devices.Add(ctx, who, a.Value); err != nil {
			return err
		}
	}
	return nil
}

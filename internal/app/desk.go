package app

import (
	"context"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/admintoken"
	"madmail/internal/auth"
	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/invite"
	"madmail/internal/ops"
	"madmail/internal/settings"
	"madmail/internal/version"
	"madmail/internal/website"
)

// openDesk builds the operator's actions.
func (a *App) openDesk(context.Context) error {
	a.Ops = ops.NewTable(&ops.Desk{
		Accounts: a.accounts, Domains: a.domains, Usage: a.quota.Usage,
		Link:       func(x address.Addr, password string) string { return invite.Link(x, password, a.Server()) },
		RemoveMail: a.store.RemoveAccount,
		Status:     a.status, Reload: a.Reload, AdminToken: a.adminToken, Registration: a.registration,
	})
	return nil
}

func (a *App) status(context.Context) ops.Status {
	st := ops.Status{
		Running: !a.opt.Offline, Version: version.Version, Build: version.BuildID(), PID: os.Getpid(),
		BootTime: a.booted.UTC().Format(time.RFC3339), Uptime: int64(time.Since(a.booted) / time.Second),
		RegisteredUsers: a.accounts.Count(), Services: []ops.Service{},
	}
	if a.opt.Offline {
		st.PID, st.BootTime, st.Uptime = 0, "", 0
		return st
	}
	count := func(name string, remotes func(func(netip.Addr))) {
		n, unique := 0, make(map[netip.Addr]bool)
		remotes(func(ip netip.Addr) { n++; unique[ip] = true })
		st.Services = append(st.Services, ops.Service{Name: name, Connections: n, UniqueIPs: len(unique)})
	}
	count("IMAP", a.imap.Remotes)
	count("SMTP", a.smtp.Remotes)
	for _, b := range a.Listeners {
		st.Ports = append(st.Ports, ops.Port{Port: a.port(b.Name), Proto: "tcp", Label: b.Name, Addr: b.l.Addr().String(), TLS: b.TLS})
	}
	s, d, im, sm := a.store.Stats(), a.intake.Stats(), a.imap.Stats(), a.smtp.Stats()
	bytes, messages := a.quota.Total()
	st.Counters = map[string]int64{
		"journal_syncs": s.Syncs, "checkpoints": s.Checkpoints, "copies_stored": s.Delivered, "mailboxes_loaded": s.Loaded,
		"messages_accepted": d.Accepted, "messages_refused": d.Refused, "imap_idle": int64(im.Idle),
		"imap_logins": im.Logins, "imap_failed_logins": im.FailedLogins, "smtp_logins": sm.Logins, "smtp_failed_logins": sm.FailedLogins,
		"storage_bytes": bytes, "storage_messages": messages,
	}
	return st
}

// Reload reads the configuration and the certificates anew and applies what can
// be applied to a running server.
func (a *App) Reload(ctx context.Context) (ops.Reloaded, error) {
	a.reload.Lock()
	defer a.reload.Unlock()
	conf, err := config.Load(a.opt.ConfigPath)
	if err != nil {
		return ops.Reloaded{}, err
	}
	r := ops.Reloaded{Reloaded: true}
	if err := a.settings.Reload(ctx, fileSettings(conf)); err != nil {
		return r, err
	}
	if err := a.domains.Set(domainOptions(conf)); err != nil {
		return r, err
	}
	a.accounts.SetPolicy(policy(conf))
	if err := a.accounts.Reload(ctx); err != nil {
		return r, err
	}
	if err := a.devices.Reload(ctx); err != nil {
		return r, err
	}
	if err := a.applyLogging(conf, a.settings.Current().Bool(settings.LogDisabled)); err != nil {
		a.log.Warn("logging", "err", err)
	}
	if a.certs != nil {
		if err := a.certs.Reload(); err != nil {
			return r, err
		}
		r.Changes = append(r.Changes, "settings, accounts and certificate read again")
	}
	if conf.DefaultQuota != a.conf.DefaultQuota || listens(conf) != listens(a.conf) {
		r.Restart = append(r.Restart, "default_quota and listen addresses take effect at the next start")
	}
	return r, nil
}

func listens(c *config.Config) string {
	return strings.Join([]string{c.SMTPListen, c.SubmissionListen, c.SubmissionTLSListen, c.IMAPListen, c.IMAPTLSListen, c.HTTPListen, c.HTTPTLSListen}, " ")
}

func (a *App) apiURL() string {
	host := a.hostname()
	path := a.settings.Current().Text(settings.AdminPath)
	if path == "" {
		path = "/api/admin"
	}
	if p := a.port("http_tls"); p != 0 {
		if p != 443 {
			host += ":" + strconv.Itoa(p)
		}
		return "https://" + host + path
	}
	if p := a.port("http"); p != 0 {
		if p != 80 {
			host += ":" + strconv.Itoa(p)
		}
		return "http://" + host + path
	}
	return "https://" + host + path
}

func (a *App) adminToken(rotate bool) (ops.AdminToken, error) {
	if a.conf.AdminToken == "disabled" {
		return ops.AdminToken{}, fault.New(fault.Refused, "admin API is disabled in configuration")
	}
	token := a.conf.AdminToken
	var err error
	if rotate {
		token, err = admintoken.Rotate(a.StateDir)
	} else if token == "" {
		token, _, err = admintoken.Ensure(a.StateDir)
	}
	return ops.AdminToken{Token: token, APIURL: a.apiURL()}, err
}

func (a *App) registration(ctx context.Context, open *bool) (bool, error) {
	if open != nil {
		if _, err := a.settings.Set(ctx, settings.RegistrationOpen, strconv.FormatBool(*open)); err != nil {
			return false, err
		}
	}
	return a.settings.Current().Bool(settings.RegistrationOpen), nil
}

// register makes an account for the invite page.
func (a *App) register(ctx context.Context, token, host string) (website.Account, error) {
	c, err := a.auth.Register(ctx, auth.Registration{Token: token, Host: host})
	if err != nil {
		return website.Account{}, err
	}
	return website.Account{Email: c.Addr.Wire(), Password: string(c.Password), Link: invite.Link(c.Addr, string(c.Password), a.Server())}, nil
}

// facts are what the site tells its visitors.
func (a *App) facts() website.Facts {
	s := a.settings.Current()
	limit, _ := a.accounts.DefaultLimit()
	language := ""
	if s.Source(settings.Language) != settings.FromDefault {
		language = s.Enum(settings.Language) // else the visitor's browser decides
	}
	return website.Facts{
		Domain: a.domains.Registration().Host(), Host: a.clientHost(), Open: s.Bool(settings.RegistrationOpen) && !s.Bool(settings.TokenRequired),
		Language: language, Quota: limit, MaxMessage: a.maxSize(0),
		IMAPTLS: a.port("imap_tls"), IMAP: a.port("imap"), SMTPTLS: a.port("submission_tls"), SMTP: a.port("submission"),
		SelfSigned: a.certs.IsSelfSigned(),
	}
}

// metadata answers IMAP annotations: the server's from settings, push tokens
// from the devices.
type metadata struct{ a *App }

const deviceToken = "/private/devicetoken"

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
		return "1000", true, nil
	case "/shared/admin":
		if m.a.conf.ACMEEmail != "" {
			return "mailto:" + m.a.conf.ACMEEmail, true, nil
		}
	case "/shared/vendor/deltachat/irohrelay":
		if u := m.a.settings.Current().Text(settings.IrohRelayURL); u != "" && m.a.settings.Current().Bool(settings.IrohEnabled) {
			return u, true, nil
		}
	}
	return "", false, nil
}

func (m metadata) Set(ctx context.Context, who address.Addr, box, entry, value string, ok bool) error {
	if box == "INBOX" && entry == deviceToken {
		if !ok {
			return nil // clients never unset; other devices' tokens must stay
		}
		return m.a.devices.Add(ctx, who, value)
	}
	return fault.New(fault.Refused, "This entry cannot be set")
}

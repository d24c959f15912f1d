package app

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"madmail/internal/adminui"
	"madmail/internal/config"
	"madmail/internal/doctor"
	"madmail/internal/settings"
	"madmail/internal/version"
	"madmail/internal/website"
)

// facts are what the site tells its visitors.
func (a *App) facts() website.Facts {
	conf, s := a.conf.Load(), a.settings.Current()
	limit, _ := a.accounts.DefaultLimit()
	language := ""
	if s.Source(settings.Language) != settings.FromDefault {
		language = s.Enum(settings.Language) // else the visitor's browser decides
	}
	domain := a.domains.Registration()
	f := website.Facts{
		Domain: domain.Host(), Host: a.clientHost(), Open: s.Bool(settings.RegistrationOpen) && !s.Bool(settings.TokenRequired),
		Language: language, Quota: limit, MaxMessage: a.maxSize(0),
		IMAPTLS: a.port("imap_tls"), IMAP: a.port("imap"), SMTPTLS: a.port("submission_tls"), SMTP: a.port("submission"),
		SelfSigned: a.selfSigned(), Sharing: s.Bool(settings.ContactSharing),
		MailDomain: bracketed(domain.Host()), MXDomain: bracketed(a.clientHost()), WebDomain: bracketed(domain.Host()), PublicIP: conf.PublicIP, Version: version.Version,
		JIT: s.Bool(settings.RegistrationOpen) && s.Bool(settings.JITRegistration), TURN: a.calls.turn.Load() != nil && s.Bool(settings.TURNEnabled),
		IMAPSecurity: s.Enum(settings.DCLoginIMAP), SMTPSecurity: s.Enum(settings.DCLoginSMTP), Retention: s.Duration(settings.Retention),
	}
	if conf.WebDomain != "" {
		f.WebDomain = bracketed(conf.WebDomain)
	}
	if a.calls.shadowsocks.Load() != nil {
		f.SSURL = a.proxyFacts().Link
	}
	if p := a.port("turn"); p != 0 && f.TURN {
		f.STUN = net.JoinHostPort(a.turnHost(conf), strconv.Itoa(p))
	}
	return f
}

// bracketed is a host as it stands in mail addresses of earlier versions' pages.
func bracketed(host string) string {
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil {
		return "[" + host + "]"
	}
	return host
}

// ownSite is the operator's site, where there is one.
func (a *App) ownSite() website.Own {
	conf := a.conf.Load()
	own := website.Own{Dir: conf.WWWDir, Strict: conf.WWWStrict}
	if own.Dir != "" && config.Holds(own.Dir, a.StateDir) {
		own.Refused = "www_dir holds the state directory, with mail and keys"
	}
	return own
}

// reserved reports whether a path is that of a door of operators, be it open or not.
func (a *App) reserved(path string) bool {
	s := a.settings.Current()
	return adminui.Owns(s.Text(settings.AdminPath), path) || adminui.Owns(s.Text(settings.AdminWebPath), path)
}

// siteForDoctor looks at the pages of the operator's site.
func (a *App) siteForDoctor() (dir string, list []doctor.Page, err error) {
	own := a.ownSite()
	if own.Dir == "" {
		return "", nil, nil
	}
	found, err := website.Check(own)
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	for _, t := range found {
		list = append(list, doctor.Page{Text: t.String(), Broken: t.Broken})
	}
	return own.Dir, list, err
}

package website

import (
	"fmt"
	"html/template"
	"net"
	"strconv"
	"strings"
	"time"

	"madmail/internal/page"
	"madmail/internal/share"
	"madmail/internal/units"
)

// values are what a page may use. TurnOffTLS is always false: pages of the first version
// make links without TLS where it is true, and we take no passwords so. The names with a capital are those of earlier versions;
// Lang, Dir, Words, Join, JoinQR, Account, LoginQR, Problem and Settings are of our own
// page.
func values(f Facts, lang string, v view) map[string]any {
	dir := "ltr"
	if lang == "fa" {
		dir = "rtl"
	}
	m := map[string]any{
		"MailDomain": f.MailDomain, "MXDomain": f.MXDomain, "WebDomain": f.WebDomain, "PublicIP": f.PublicIP, "ClientHost": f.Host, "Version": f.Version,
		"TurnOffTLS": false, "RegistrationOpen": f.Open, "JitRegistrationEnabled": f.JIT, "TurnEnabled": f.TURN, "Language": lang,
		"ImapPortTLS": port(f.IMAPTLS), "ImapPortStartTLS": port(f.IMAP), "SmtpPortTLS": port(f.SMTPTLS), "SmtpPortStartTLS": port(f.SMTP),
		"DcloginImapSecurity": f.IMAPSecurity, "DcloginSmtpSecurity": f.SMTPSecurity,
		"DefaultQuota": f.Quota, "MaxMessageSize": units.FormatSize(f.MaxMessage),
		"SSURL": f.SSURL, "SSGrpcURL": "", "SSWsURL": "", "V2rayNGConfigWS": "", "V2rayNGConfigGRPC": "",
		"STUNAddr": f.STUN, "MessageRetentionLine": retention(f.Retention, lang),
		"Custom": contact(share.Link{}, ""), "Sharing": f.Sharing,

		"Lang": lang, "Dir": dir, "Words": words[lang], "Domain": f.Domain, "Host": f.Host, "Open": f.Open, "Quota": f.Quota, "MaxMessage": f.MaxMessage,
		"Problem": v.Problem, "Join": "", "JoinQR": template.URL(""), "LoginQR": template.URL(""), "Account": map[string]any{},
	}
	// Where the certificate is publicly valid clients can invent their account
	// themselves, so the join link names only the domain.
	if !f.SelfSigned && f.Open {
		join := "dcaccount:" + f.Domain
		m["Join"], m["JoinQR"] = join, picture(join)
	}
	if v.Contact != nil {
		m["Custom"] = contact(*v.Contact, v.At)
	}
	if v.Account != nil {
		m["Account"] = map[string]any{"Email": v.Account.Email, "Password": v.Account.Password, "Link": v.Account.Link}
		m["LoginQR"] = picture(v.Account.Link)
	}
	settings := []any{}
	for _, x := range []struct {
		name string
		port int
	}{{"IMAP TLS", f.IMAPTLS}, {"IMAP STARTTLS", f.IMAP}, {"SMTP TLS", f.SMTPTLS}, {"SMTP STARTTLS", f.SMTP}} {
		if x.port != 0 {
			settings = append(settings, map[string]any{"Name": x.name, "Value": net.JoinHostPort(f.Host, strconv.Itoa(x.port))})
		}
	}
	m["Settings"] = settings
	return m
}

// port prints a port, or nothing where a service is off.
func port(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// retention is a sentence about how long messages stay, or "".
func retention(d time.Duration, lang string) string {
	w := words[lang]
	switch n := int(d.Round(time.Hour) / time.Hour); {
	case n <= 0:
		return ""
	case n%24 == 0:
		return fmt.Sprintf(w["days"], n/24)
	default:
		return fmt.Sprintf(w["hours"], n)
	}
}

// reader reads the pages of a site.
var reader = page.Reader{Known: known, QR: func(s string) string { return string(picture(s)) }}

// known tells of the path of a variable whether there is one.
func known(path string) bool {
	first, rest, deeper := strings.Cut(path, ".")
	v, ok := sample[first]
	if !ok || !deeper {
		return ok
	}
	switch m := v.(type) {
	case map[string]any:
		_, ok = m[rest]
	case map[string]string:
		_, ok = m[rest]
	default:
		return false
	}
	return ok
}

// sample has a value for each variable that there is.
var sample = values(Facts{}, "en", view{Account: &Account{}})

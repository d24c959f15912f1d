package ops

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/settings"
	"madmail/internal/units"
)

// Disk is the file system that holds the state. All are 0 where the system does
// not tell.
type Disk struct {
	Total       int64   `json:"total_bytes"`
	Used        int64   `json:"used_bytes"`
	Available   int64   `json:"available_bytes"`
	PercentUsed float64 `json:"percent_used"`
}

// Sized is a file or directory and its size.
type Sized struct {
	Path string `json:"path"`
	Size int64  `json:"size_bytes"`
}

// Database is the database and its size.
type Database struct {
	Driver string `json:"driver"`
	Size   int64  `json:"size_bytes"`
}

// Storage is what this server takes.
type Storage struct {
	Disk     Disk     `json:"disk"`
	StateDir Sized    `json:"state_dir"`
	Database Database `json:"database"`
}

// Caches says which caches were filled anew.
type Caches struct {
	Credentials bool `json:"credentials_cache_reloaded"`
	Quota       bool `json:"quota_cache_reloaded"`
}

// Restarting says that a restart has begun.
type Restarting struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// Listener is a socket that is bound.
type Listener struct {
	Service string `json:"service"`
	Proto   string `json:"proto"`
	Addr    string `json:"addr"`
	Port    int    `json:"port"`
	TLS     bool   `json:"tls"`
	Source  string `json:"source"` // env, db, file or default
}

// Bound is what is really bound. An address is null and a port is "" where a
// service does not listen.
type Bound struct {
	SMTP               *string    `json:"smtp_addr"`
	Submission         *string    `json:"submission_plain_addr"`
	SubmissionTLS      *string    `json:"submission_tls_addr"`
	IMAP               *string    `json:"imap_plain_addr"`
	IMAPTLS            *string    `json:"imap_tls_addr"`
	HTTP               *string    `json:"http_plain_addr"`
	HTTPTLS            *string    `json:"http_tls_addr"`
	SubmissionPort     string     `json:"submission_plain_port"`
	SubmissionTLSPort  string     `json:"submission_tls_port"`
	IMAPPort           string     `json:"imap_plain_port"`
	IMAPTLSPort        string     `json:"imap_tls_port"`
	HTTPPort           string     `json:"http_plain_port"`
	HTTPTLSPort        string     `json:"http_tls_port"`
	Listeners          []Listener `json:"listeners"`
	ServerIsNotRunning bool       `json:"not_running,omitempty"`
}

func (d *Desk) bound(ctx context.Context, _ none) (Bound, error) {
	st := d.Status(ctx)
	b := Bound{Listeners: []Listener{}, ServerIsNotRunning: !st.Running}
	places := map[string]struct {
		addr **string
		port *string
	}{
		"smtp": {&b.SMTP, new(string)}, "submission": {&b.Submission, &b.SubmissionPort}, "submission_tls": {&b.SubmissionTLS, &b.SubmissionTLSPort},
		"imap": {&b.IMAP, &b.IMAPPort}, "imap_tls": {&b.IMAPTLS, &b.IMAPTLSPort}, "http": {&b.HTTP, &b.HTTPPort}, "http_tls": {&b.HTTPTLS, &b.HTTPTLSPort},
	}
	for _, p := range st.Ports {
		b.Listeners = append(b.Listeners, Listener{Service: p.Name, Proto: p.Proto, Addr: p.Addr, Port: p.Port, TLS: p.TLS, Source: p.Source})
		if at, ok := places[p.Name]; ok {
			addr := p.Addr
			*at.addr, *at.port = &addr, strconv.Itoa(p.Port)
		}
	}
	return b, nil
}

// PortService is where a service listens, by its settings.
type PortService struct {
	Name    string `json:"name"`
	Port    string `json:"port"`
	Mode    string `json:"mode"` // public, local or n/a
	Enabled *bool  `json:"enabled,omitempty"`
	Source  string `json:"source"` // db, or what counts without a stored port
	Bound   bool   `json:"bound"`
}

// portService is a service whose port is a setting.
type portService struct {
	name, label     string
	port, local, on settings.Key
	usual           int
}

// portServices are in the order in which operators see them.
var portServices = []portService{
	{"smtp", "smtp", settings.SMTPPort, settings.SMTPLocalOnly, "", 25},
	{"submission", "submission", settings.SubmissionPort, settings.SubmissionLocalOnly, "", 587},
	{"submission-tls", "submission_tls", settings.SubmissionTLSPort, settings.SubmissionTLSLocalOnly, "", 465},
	{"imap", "imap", settings.IMAPPort, settings.IMAPLocalOnly, "", 143},
	{"imap-tls", "imap_tls", settings.IMAPTLSPort, settings.IMAPTLSLocalOnly, "", 993},
	{"turn", "turn", settings.TURNPort, settings.TURNLocalOnly, "", 3478},
	{"sasl", "sasl", settings.SASLPort, settings.SASLLocalOnly, "", 24},
	{"iroh", "iroh", settings.IrohPort, settings.IrohLocalOnly, "", 3340},
	{"shadowsocks", "shadowsocks", settings.SSPort, "", "", 8388},
	{"http", "http", settings.HTTPPort, settings.HTTPLocalOnly, settings.HTTPEnabled, 80},
	{"https", "http_tls", settings.HTTPSPort, settings.HTTPSLocalOnly, settings.HTTPSEnabled, 443},
}

// PortNames are the services that "port" knows, with the keys of their settings.
func PortNames() (names []string) {
	for _, p := range portServices {
		names = append(names, p.name)
	}
	return names
}

// PortKeys returns the settings of a service: its port, whether it is local, and
// whether it is on; "" where there is none. ok is false for no service of ours.
func PortKeys(name string) (port, local, on settings.Key, ok bool) {
	for _, p := range portServices {
		if p.name == name {
			return p.port, p.local, p.on, true
		}
	}
	return "", "", "", false
}

func (d *Desk) ports(ctx context.Context, _ none) (map[string][]PortService, error) {
	s, st := d.Settings.Current(), d.Status(ctx)
	list := []PortService{}
	for _, p := range portServices {
		r := PortService{Name: p.name, Port: strconv.Itoa(p.usual), Mode: "n/a", Source: "default"}
		if n := s.Port(p.port); n != 0 {
			r.Port = strconv.Itoa(n)
		}
		if x, err := d.Settings.Explain(p.port); err == nil && x.IsSet {
			r.Source = "db"
		}
		if p.local != "" {
			r.Mode = map[bool]string{true: "local", false: "public"}[s.Bool(p.local)]
		}
		if p.on != "" {
			on := s.Bool(p.on)
			r.Enabled = &on
		}
		for _, b := range st.Ports {
			if b.Name == p.label {
				r.Bound, r.Port = true, strconv.Itoa(b.Port)
				if r.Source != "db" {
					r.Source = b.Source
				}
				if host, _, err := net.SplitHostPort(b.Addr); err == nil && p.local != "" {
					if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
						r.Mode = "local"
					}
				}
			}
		}
		list = append(list, r)
	}
	return map[string][]PortService{"services": list}, nil
}

func (d *Desk) language(ctx context.Context, p struct {
	Set   string
	Reset bool
}) (Language, error) {
	l := Language{}
	if p.Set != "" || p.Reset {
		var err error
		if l.Applied, err = d.Change(ctx, settings.Change{Key: settings.Language, Value: p.Set, Reset: p.Reset}); err != nil {
			return l, err
		}
	}
	now := d.Settings.Current()
	file, err := d.without(settings.Language)
	if err != nil {
		return l, err
	}
	l.Current, l.Language, l.Config = now.Enum(settings.Language), now.Enum(settings.Language), file.Enum(settings.Language)
	l.Source = sourceWords[now.Source(settings.Language)]
	return l, nil
}

// Language is the language of the pages.
type Language struct {
	Current  string `json:"current"`
	Language string `json:"language"`
	Config   string `json:"config_default"`
	Source   string `json:"source"`
	Applied  string `json:"applied,omitempty"`
}

// portIsFree refuses a port that another service of this server has by its settings.
// A server that runs sees the rest when it binds, before anything is stored; without
// one this is all that keeps the next start from failing.
func (d *Desk) portIsFree(ctx context.Context, k settings.Key, text string) error {
	n, err := units.ParsePort(strings.TrimSpace(text))
	if err != nil {
		return nil // the catalogue says what is wrong
	}
	s := d.Settings.Current()
	if from, to := s.Port(settings.TURNRelayPortMin), s.Port(settings.TURNRelayPortMax); k == settings.TURNPort && n >= from && n <= to {
		return fault.Newf(fault.Invalid, "port %d is among those that calls are relayed on (%d-%d)", n, from, to)
	}
	if d.Status(ctx).Running || !slices.ContainsFunc(portServices, func(p portService) bool { return p.port == k }) {
		return nil
	}
	for _, p := range portServices {
		if p.port != k && (p.on == "" || s.Bool(p.on)) && s.Port(p.port) == n {
			return fault.Newf(fault.Invalid, "port %d is that of %s", n, p.name)
		}
	}
	return nil
}

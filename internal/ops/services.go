package ops

import (
	"context"
	"strconv"

	"madmail/internal/fault"
	"madmail/internal/settings"
)

// ProxyFacts are what only the house knows of Shadowsocks.
type ProxyFacts struct {
	Addr bool   // the configuration says where it listens
	Port int    // that clients are told
	Link string // "" without a password
	// WSLink and HTTPSLink lead through WebSocket, on its own port and on that of HTTPS;
	// "" while that is off.
	WSLink, HTTPSLink string
}

// Proxy is how Shadowsocks is.
type Proxy struct {
	Configured         bool   `json:"configured"` // it has an address and a password
	Enabled            bool   `json:"enabled"`
	Port               string `json:"port"`
	Cipher             string `json:"cipher"`
	CipherSource       string `json:"cipher_source"` // default, config, db or env
	PasswordDBOverride bool   `json:"password_db_override"`
	URL                string `json:"shadowsocks_url"`
	WSEnabled          bool   `json:"ws_enabled"`
	GRPCEnabled        bool   `json:"grpc_enabled"`
	WSURL              string `json:"ws_url,omitempty"`    // on a port of its own
	HTTPSURL           string `json:"https_url,omitempty"` // on that of HTTPS
	HTTPProxy          bool   `json:"http_proxy_enabled"`
}

// Switched is a service that was switched.
type Switched struct {
	Enabled        bool   `json:"enabled"`
	ReloadRequired bool   `json:"reload_required"`
	Applied        string `json:"applied,omitempty"`
}

// ProxySetting is the cipher or the password of Shadowsocks. Value is a secret
// that somebody asked to see, or "***".
type ProxySetting struct {
	Configured     *bool  `json:"configured,omitempty"` // of a password
	Cipher         string `json:"cipher,omitempty"`
	Value          string `json:"value,omitempty"`
	Effective      string `json:"effective,omitempty"`
	DBOverride     bool   `json:"db_override"`
	Source         string `json:"source"`
	ReloadRequired bool   `json:"reload_required"`
	Applied        string `json:"applied,omitempty"`
}

// ProxyChange asks for a cipher or a password. Without Set and Reset it only asks.
type ProxyChange struct {
	Set      string
	Reset    bool
	Generate bool   // a password that fits For, else the present cipher
	For      string // cipher
	Show     bool   // the password in the answer
}

// Calls is how TURN is.
type Calls struct {
	Enabled    bool   `json:"enabled"`
	Configured bool   `json:"configured"` // turn_enable and a secret are set
	Applied    string `json:"applied,omitempty"`
}

// sourceWords are those of earlier versions.
var sourceWords = map[settings.Source]string{
	settings.FromDefault: "default", settings.FromFile: "config", settings.FromStore: "db", settings.FromEnv: "env",
}

func (d *Desk) proxyStatus(context.Context, none) (Proxy, error) {
	s, facts := d.Settings.Current(), d.Proxy()
	password, err := d.Settings.Explain(settings.SSPassword)
	return Proxy{
		Configured: facts.Addr && s.Text(settings.SSPassword) != "", Enabled: s.Bool(settings.SSEnabled), Port: strconv.Itoa(facts.Port),
		Cipher: s.Enum(settings.SSCipher), CipherSource: sourceWords[s.Source(settings.SSCipher)], PasswordDBOverride: password.IsSet, URL: facts.Link,
		WSEnabled: s.Bool(settings.SSWSEnabled), WSURL: facts.WSLink, HTTPSURL: facts.HTTPSLink, // gRPC is not served, whatever is stored
		HTTPProxy: s.Bool(settings.HTTPProxyEnabled) && s.Text(settings.HTTPProxyPassword) != "",
	}, err
}

// notYet reports whether a change waits for a server to start: always false when
// one runs, which makes it so.
func (d *Desk) notYet(ctx context.Context) bool { return !d.Status(ctx).Running }

func (d *Desk) proxyEnable(ctx context.Context, p struct{ Enabled bool }) (Switched, error) {
	applied, err := d.Change(ctx, settings.Change{Key: settings.SSEnabled, Value: strconv.FormatBool(p.Enabled)})
	return Switched{Enabled: p.Enabled, ReloadRequired: d.notYet(ctx), Applied: applied}, err
}

func (d *Desk) proxyCipher(ctx context.Context, p ProxyChange) (ProxySetting, error) {
	return d.proxySetting(ctx, settings.SSCipher, p)
}

func (d *Desk) proxyPassword(ctx context.Context, p ProxyChange) (ProxySetting, error) {
	if p.Generate {
		if p.For == "" {
			p.For = d.Settings.Current().Enum(settings.SSCipher)
		}
		var err error
		if p.Set, err = d.ProxyPassword(p.For); err != nil {
			return ProxySetting{}, err
		}
	}
	return d.proxySetting(ctx, settings.SSPassword, p)
}

func (d *Desk) proxySetting(ctx context.Context, k settings.Key, p ProxyChange) (r ProxySetting, err error) {
	c := settings.Change{Key: k, Value: p.Set, Reset: p.Reset}
	switch {
	case p.Set != "" && p.Reset:
		return r, fault.New(fault.Invalid, "either a value or none")
	case p.Set != "" || p.Reset:
		if r.Applied, err = d.Change(ctx, c); err != nil {
			return r, err
		}
		r.ReloadRequired = d.notYet(ctx)
	}
	s := d.Settings.Current()
	x, err := d.Settings.Explain(k)
	if err != nil {
		return r, err
	}
	r.DBOverride, r.Source = x.IsSet, sourceWords[x.Source]
	value := s.Value(k)
	if k == settings.SSPassword {
		has := value != ""
		r.Configured = &has
		if has && !p.Show {
			value = "***"
		}
	} else {
		r.Cipher = value
	}
	switch {
	case p.Set != "":
		r.Value = value
	case p.Reset:
		r.Effective = value
	case k == settings.SSPassword && p.Show:
		r.Value = value
	}
	return r, nil
}

func (d *Desk) calls(ctx context.Context, p struct{ Enabled *bool }) (c Calls, err error) {
	if p.Enabled != nil {
		c.Applied, err = d.Change(ctx, settings.Change{Key: settings.TURNEnabled, Value: strconv.FormatBool(*p.Enabled)})
		if err != nil {
			return c, err
		}
	}
	s := d.Settings.Current()
	c.Enabled, c.Configured = s.Bool(settings.TURNEnabled), d.TURN() && s.Text(settings.TURNSecret) != ""
	return c, nil
}

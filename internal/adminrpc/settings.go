package adminrpc

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/settings"
)

// The settings behind switches.
const (
	jitKey       = settings.JITRegistration
	turnKey      = settings.TURNEnabled
	irohKey      = settings.IrohEnabled
	adminWebKey  = settings.AdminWebEnabled
	purgeKey     = settings.AutoPurgeSeen
	retentionKey = settings.RetentionEnabled
)

func isIP(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

func word(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

// value is a setting as pages read it.
type value struct {
	Key             string `json:"key"`
	Value           string `json:"value"`
	IsSet           bool   `json:"is_set"`
	RestartRequired bool   `json:"restart_required"`
}

func get(ctx context.Context, c *call, k settings.Key) (ops.Setting, error) {
	return do[ops.Setting](ctx, c, "settings.get", ops.SettingName{Name: string(k)})
}

func set(ctx context.Context, c *call, k settings.Key, text string) (ops.Setting, error) {
	return do[ops.Setting](ctx, c, "settings.set", ops.SettingName{Name: string(k), Value: text})
}

func reset(ctx context.Context, c *call, k settings.Key) (ops.Setting, error) {
	return do[ops.Setting](ctx, c, "settings.reset", ops.SettingName{Name: string(k)})
}

func isOn(s ops.Setting) bool { return s.Value == "true" || s.Value == "enabled" }

// waits reports whether a change counts only from the next start. Pages then ask
// the operator to apply it.
func waits(s ops.Setting) bool { return strings.HasPrefix(s.Applied, "stored;") }

// action reads {action} of a switch.
func action(c *call) (string, error) {
	var p struct {
		Action string `json:"action"`
	}
	err := c.read(&p)
	return strings.ToLower(strings.TrimSpace(p.Action)), err
}

// enabling reads the action of an ordinary switch.
func enabling(c *call) (bool, error) {
	a, err := action(c)
	switch {
	case err != nil:
		return false, err
	case a == "enable":
		return true, nil
	case a == "disable":
		return false, nil
	}
	return false, fault.Newf(fault.Invalid, "invalid action: %.40s (expected enable|disable)", a)
}

func toggle(k settings.Key, doc string) []Method {
	return switchOf(k, doc, false, nil)
}

// switchOf makes the methods of a switch. may is asked before it is switched on.
func switchOf(k settings.Key, doc string, inverted bool, may func(context.Context, *call) error) []Method {
	return []Method{
		{Method: "GET", Doc: doc, Reply: "status (enabled, disabled)", run: func(ctx context.Context, c *call) (int, any, error) {
			s, err := get(ctx, c, k)
			return reply(object{"status": word(isOn(s) != inverted)}, err)
		}},
		{Method: "POST", Doc: "Switch it.", Request: "action (enable, disable)", Reply: "status, restart_required", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				on, err := enabling(c)
				if err != nil {
					return 0, nil, err
				}
				if on && may != nil {
					if err := may(ctx, c); err != nil {
						return 0, nil, err
					}
				}
				s, err := set(ctx, c, k, strconv.FormatBool(on != inverted))
				return reply(object{"status": word(isOn(s) != inverted), "restart_required": waits(s)}, err)
			}},
	}
}

func logging() []Method {
	return switchOf(settings.LogDisabled, "Write a log, where the configuration names one.", true, nil)
}

func shadowsocks(k settings.Key, doc string) []Method {
	return switchOf(k, doc, false, func(ctx context.Context, c *call) error {
		p, err := do[ops.Proxy](ctx, c, "proxy.status", nil)
		if err == nil && !p.Configured {
			err = fault.WithHint(fault.New(fault.Invalid, "Shadowsocks is not configured"), "set ss_addr and ss_password in the configuration")
		}
		return err
	})
}

func registration() []Method {
	shape := func(r ops.Registration) object {
		return object{"status": map[bool]string{true: "open", false: "closed"}[r.Open]}
	}
	return []Method{
		{Method: "GET", Doc: "Whether anybody may make an account.", Reply: "status (open, closed)", run: func(ctx context.Context, c *call) (int, any, error) {
			r, err := do[ops.Registration](ctx, c, "registration", nil)
			return reply(shape(r), err)
		}},
		{Method: "POST", Doc: "Open or close registration.", Request: "action (open, close)", Reply: "status", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				a, err := action(c)
				if err != nil {
					return 0, nil, err
				}
				if a != "open" && a != "close" {
					return 0, nil, fault.Newf(fault.Invalid, "invalid action: %.40s (expected open|close)", a)
				}
				r, err := do[ops.Registration](ctx, c, "registration", map[string]bool{"Open": a == "open"})
				return reply(shape(r), err)
			}},
	}
}

// pushFigures are the numbers of the notification service.
func pushFigures(p ops.Push) object {
	return object{"mode": p.Mode, "successful_notifications": p.Sent, "consecutive_failures": p.Failures, "auto_disable_after": p.Threshold}
}

// push has a mode beside the switch.
func push() []Method {
	shape := func(ctx context.Context, c *call, mode string) (object, error) {
		p, err := do[ops.Push](ctx, c, "push", ops.PushMode{Mode: mode})
		o := pushFigures(p)
		o["status"], o["restart_required"] = word(p.Enabled), false
		return o, err
	}
	return []Method{
		{Method: "GET", Doc: "Whether clients are woken by the notification service.", run: func(ctx context.Context, c *call) (int, any, error) { return reply(shape(ctx, c, "")) },
			Reply: "status, mode (auto, on, off), successful_notifications, consecutive_failures, auto_disable_after"},
		{Method: "POST", Doc: "Change the mode.", Request: "action (enable, on, disable, off, auto)", Reply: "status, mode, restart_required", Changes: true,
			run: func(ctx context.Context, c *call) (int, any, error) {
				a, err := action(c)
				if err != nil {
					return 0, nil, err
				}
				mode, ok := map[string]string{"enable": "on", "on": "on", "disable": "off", "off": "off", "auto": "auto"}[a]
				if !ok {
					return 0, nil, fault.Newf(fault.Invalid, "invalid action: %.40s (expected enable|disable|auto)", a)
				}
				return reply(shape(ctx, c, mode))
			}},
	}
}

// Fields of the listing of all settings, by the form that pages expect.
var (
	switchFields = map[string]settings.Key{
		"jit_registration": settings.JITRegistration, "turn_enabled": settings.TURNEnabled, "iroh_enabled": settings.IrohEnabled,
		"push_enabled": settings.PushEnabled, "admin_web_enabled": settings.AdminWebEnabled, "auto_purge_seen_enabled": settings.AutoPurgeSeen,
		"webimap_enabled": settings.WebIMAPEnabled, "websmtp_enabled": settings.WebSMTPEnabled,
		"ss_ws_enabled": settings.SSWSEnabled, "ss_grpc_enabled": settings.SSGRPCEnabled, "http_proxy_enabled": settings.HTTPProxyEnabled,
		"registration_token_required": settings.TokenRequired, "log_disabled": settings.LogDisabled, "allow_inbound_remote_rcpt": settings.AllowRemoteRcpt,
	}
	valueFields = []string{
		"smtp_port", "submission_port", "submission_tls_port", "imap_port", "imap_tls_port", "turn_port", "sasl_port", "iroh_port", "ss_port", "ss_ws_port",
		"ss_grpc_port", "http_port", "https_port", "http_proxy_port",
		"smtp_hostname", "turn_realm", "turn_secret", "turn_relay_ip", "turn_relay_port_min", "turn_relay_port_max", "turn_ttl", "iroh_relay_url", "ss_cipher",
		"ss_password", "http_proxy_path", "http_proxy_username", "http_proxy_password", "admin_path", "admin_web_path", "dclogin_imap_security",
		"dclogin_smtp_security", "language", "message_retention", "webmail_cors_origins", "appendlimit", "max_message_size", "max_federation_size",
	}
	accessFields = map[string]settings.Key{
		"smtp_access": settings.SMTPLocalOnly, "submission_access": settings.SubmissionLocalOnly, "submission_tls_access": settings.SubmissionTLSLocalOnly,
		"imap_access": settings.IMAPLocalOnly, "imap_tls_access": settings.IMAPTLSLocalOnly, "turn_access": settings.TURNLocalOnly,
		"sasl_access": settings.SASLLocalOnly, "iroh_access": settings.IrohLocalOnly, "http_access": settings.HTTPLocalOnly, "https_access": settings.HTTPSLocalOnly,
	}
)

func allSettings(ctx context.Context, c *call) (int, any, error) {
	return reply(settingsOfServer(ctx, c))
}

func settingsOfServer(ctx context.Context, c *call) (object, error) {
	list, err := do[map[string][]ops.Setting](ctx, c, "settings.list", ops.SettingsPick{Secrets: true})
	if err != nil {
		return nil, err
	}
	all := make(map[settings.Key]ops.Setting)
	for _, s := range list["settings"] {
		all[settings.Key(s.Key)] = s
	}
	retention, err := do[ops.Retention](ctx, c, "retention", nil)
	if err != nil {
		return nil, err
	}
	message, err := do[ops.MessageSize](ctx, c, "message-size", nil)
	if err != nil {
		return nil, err
	}
	federation, err := do[ops.FederationSize](ctx, c, "federation-size", nil)
	if err != nil {
		return nil, err
	}
	proxy, err := do[ops.Proxy](ctx, c, "proxy.status", nil)
	if err != nil {
		return nil, err
	}
	ports, err := do[map[string][]ops.PortService](ctx, c, "ports.status", nil)
	if err != nil {
		return nil, err
	}
	o := object{
		"registration": map[bool]string{true: "open", false: "closed"}[isOn(all[settings.RegistrationOpen])], "message_retention_enabled": word(retention.Enabled),
		"ss_enabled": word(proxy.Configured && proxy.Enabled), "push_mode": all[settings.PushMode].Value,
		"federation_enabled": isOn(all[settings.FederationEnabled]), "federation_policy": all[settings.FederationPolicy].Value,
		"message_size_effective": message.Effective, "message_size_effective_bytes": message.EffectiveBytes,
		"federation_size_effective": federation.Effective, "federation_size_effective_bytes": federation.EffectiveBytes,
		"shadowsocks_url": "",
	}
	if proxy.Configured && proxy.Enabled {
		o["shadowsocks_url"] = proxy.URL
	}
	for name, k := range switchFields {
		o[name] = word(effective(all[k]))
	}
	// Of these pages read true and false.
	for name, k := range map[string]settings.Key{"shared_port_imap": settings.SharedPortIMAP, "shared_port_smtp": settings.SharedPortSMTP} {
		o[name] = isOn(all[k])
	}
	for name, k := range accessFields {
		o[name] = map[bool]string{true: "local", false: "public"}[isOn(all[k])]
	}
	for _, name := range valueFields {
		e, err := settings.Lookup(name)
		if err != nil {
			return nil, err
		}
		o[name] = shape(all[e.Key])
	}
	// Where nobody set a port, the one that is bound.
	for _, p := range ports["services"] {
		k, _, _, _ := ops.PortKeys(p.Name)
		e, err := settings.Lookup(string(k))
		if err != nil {
			return nil, err
		}
		if v, ok := o[e.Name()].(value); ok && !v.IsSet && p.Bound {
			v.Value = p.Port
			if v.IsSet, err = left(ctx, c, e.Key, p.Port); err != nil {
				return nil, err
			}
			o[e.Name()] = v
		}
	}
	// Pages write these two into login links, as ports for TLS, and those for TLS where
	// there is nothing. They are for STARTTLS: unless somebody set one, nothing it is.
	for _, name := range []string{"imap_port", "submission_port"} {
		if v, ok := o[name].(value); ok && !v.IsSet {
			v.Value = ""
			o[name] = v
		}
	}
	return o, nil
}

// left reports whether a request came by a port that was closed since, while its
// connection lives on, and that port is the one for it now. Pages go on asking there
// after they reset the port; they follow to one that is set, and to no other.
func left(ctx context.Context, c *call, k settings.Key, port string) (bool, error) {
	own := k == settings.HTTPPort && !c.by.secure || k == settings.HTTPSPort && c.by.secure
	if !own || c.by.port == "" || c.by.port == port {
		return false, nil
	}
	b, err := do[ops.Bound](ctx, c, "ports.bound", nil)
	return !slices.ContainsFunc(b.Listeners, func(l ops.Listener) bool { return l.Proto == "tcp" && strconv.Itoa(l.Port) == c.by.port }), err
}

// shape is a setting as pages read it. What is not set shows the value that
// counts; but a secret of the file stays there.
func shape(s ops.Setting) value {
	v := value{Key: s.Key, Value: s.Value, IsSet: s.IsSet}
	if s.Kind == "list" { // pages show it in a field of one line
		v.Value = strings.ReplaceAll(v.Value, "\n", ",")
	}
	if s.Secret && !s.IsSet || s.Kind == "port" && v.Value == "0" {
		v.Value = ""
	}
	return v
}

// both are settings that some earlier versions had as a value and others as a
// switch: pages of either kind are served.
var both = map[settings.Key]bool{settings.TokenRequired: true, settings.AllowRemoteRcpt: true, settings.SharedPortIMAP: true, settings.SharedPortSMTP: true}

// settingResources gives every setting of the catalogue a resource.
func settingResources() (list []Resource) {
	for _, e := range settings.Entries() {
		m := []Method{
			{Method: "GET", Doc: e.Doc, Reply: "key, value, is_set, restart_required", run: func(ctx context.Context, c *call) (int, any, error) {
				return reply(getSetting(ctx, c, e))
			}},
			{Method: "POST", Doc: "Store a value, or forget it.", Request: "action (set, reset), value", Reply: "key, value, is_set, restart_required", Changes: true,
				run: func(ctx context.Context, c *call) (int, any, error) { return reply(postSetting(ctx, c, e)) }},
		}
		list = append(list, Resource{Name: "/admin/settings/" + e.Name(), Methods: m})
	}
	return list
}

func getSetting(ctx context.Context, c *call, e settings.Entry) (any, error) {
	got, err := do[map[string][]ops.Setting](ctx, c, "settings.list", ops.SettingsPick{Secrets: true})
	if err != nil {
		return nil, err
	}
	for _, s := range got["settings"] {
		if s.Key == string(e.Key) {
			return withStatus(e, shape(s), s), nil
		}
	}
	return nil, fault.New(fault.NotFound, "no such setting")
}

// withStatus adds the switch's form where pages of both kinds exist.
func withStatus(e settings.Entry, v value, s ops.Setting) any {
	if !both[e.Key] {
		return v
	}
	return object{"key": v.Key, "value": v.Value, "is_set": v.IsSet, "restart_required": v.RestartRequired, "status": word(isOn(s)), "enabled": isOn(s)}
}

func postSetting(ctx context.Context, c *call, e settings.Entry) (any, error) {
	var p struct {
		Action  string          `json:"action"`
		Value   json.RawMessage `json:"value"`
		Enabled *bool           `json:"enabled"` // of what pages show as a switch
	}
	if err := c.read(&p); err != nil {
		return nil, err
	}
	text := scalar(p.Value)
	switch a := strings.ToLower(p.Action); {
	case both[e.Key] && (a == "enable" || a == "disable"):
		p.Action, text = "set", strconv.FormatBool(a == "enable")
	case both[e.Key] && a == "" && p.Enabled != nil:
		p.Action, text = "set", strconv.FormatBool(*p.Enabled)
	case a == "set" || a == "reset":
		p.Action = a
	default:
		return nil, fault.Newf(fault.Invalid, "invalid action: %.40s (expected set|reset)", p.Action)
	}
	if e.Key == settings.AdminPath {
		if err := pathLeads(ctx, c, p.Action == "reset"); err != nil {
			return nil, err
		}
	}
	later := e.Effect != settings.Live
	if p.Action == "reset" {
		s, err := reset(ctx, c, e.Key)
		if err != nil {
			return nil, err
		}
		v := value{Key: string(e.Key), RestartRequired: later}
		if e.Key == settings.AdminWebPath || e.Key == settings.AdminPath {
			v.Value = s.Value // pages go there
		}
		return withStatus(e, v, s), nil
	}
	if strings.TrimSpace(text) == "" {
		return nil, fault.New(fault.Invalid, "value is required for action 'set'")
	}
	text, err := checked(e, text)
	if err != nil {
		return nil, err
	}
	if e.Key == settings.SMTPHostname && c.s.Reachable != nil {
		// Pages move to that name at once: it must lead here.
		if err := c.s.Reachable(ctx, text); err != nil {
			return nil, err
		}
	}
	s, err := set(ctx, c, e.Key, text)
	if err != nil {
		return nil, err
	}
	if e.Key == settings.AdminWebPath {
		if _, err := set(ctx, c, settings.AdminWebEnabled, "true"); err != nil {
			return nil, err
		}
	}
	if s.Secret {
		s.Value = text // who sent it knows it
	}
	return withStatus(e, value{Key: string(e.Key), Value: s.Value, IsSet: true, RestartRequired: later}, s), nil
}

// pathLeads refuses a change of the admin path after which pages would look where
// nothing is: they move to a new path whatever beats it, and after a reset to the
// built-in one whatever the file says.
func pathLeads(ctx context.Context, c *call, reset bool) error {
	s, err := get(ctx, c, settings.AdminPath)
	switch {
	case err != nil:
		return err
	case s.Source == settings.FromEnv.String():
		return fault.Newf(fault.Invalid, "the variable %s names the path of the admin API", s.Env)
	case reset && s.Unstored != s.Default:
		return fault.WithHint(fault.Newf(fault.Invalid, "the configuration names %s, and pages look at %s after a reset", s.Unstored, s.Default),
			"set it to "+s.Unstored+", or: madmail settings reset admin_path")
	}
	return nil
}

// scalar is a JSON string, number or bool as text; anything else is "".
func scalar(raw json.RawMessage) string {
	var v any
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return ""
	}
	switch x := v.(type) {
	case string:
		return x
	case json.Number:
		return x.String()
	case bool:
		return strconv.FormatBool(x)
	}
	return ""
}

// checked refuses what pages may not send, in the words that they know, and
// brings paths into form. The catalogue checks the rest.
func checked(e settings.Entry, text string) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case e.Kind == settings.Port:
		if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 65535 {
			return "", fault.New(fault.Invalid, "invalid port number: must be 1-65535")
		}
	case e.Key == settings.TURNTTL:
		if n, err := strconv.Atoi(text); err != nil || n < 1 {
			return "", fault.New(fault.Invalid, "invalid TTL: must be a positive integer")
		}
	case e.Key == settings.DCLoginIMAP || e.Key == settings.DCLoginSMTP:
		if text != "starttls" && text != "ssl" && text != "default" {
			return "", fault.New(fault.Invalid, "invalid dclogin security mode: expected starttls|ssl|default")
		}
	case e.Kind == settings.List:
		text = strings.NewReplacer("\r\n", ",", "\n", ",", "\r", ",").Replace(text)
	case strings.ContainsAny(text, "\x00\r\n"):
		return "", fault.New(fault.Invalid, "value contains disallowed characters")
	case e.Key == settings.SMTPHostname || e.Key == settings.AdminPath || e.Key == settings.AdminWebPath:
		good := func(r rune) bool {
			return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:/@-", r)
		}
		if len(text) > 253 || strings.ContainsFunc(text, func(r rune) bool { return !good(r) }) {
			return "", fault.New(fault.Invalid, "value contains disallowed characters")
		}
	}
	if e.Key == settings.AdminPath || e.Key == settings.AdminWebPath {
		text = "/" + strings.Trim(text, "/")
	}
	return text, nil
}

func federationSettings() []Method {
	shape := func(ctx context.Context, c *call, policy string) (int, any, error) {
		f, err := do[ops.FederationPolicy](ctx, c, "federation.policy", ops.FederationPolicy{Policy: policy})
		if err != nil {
			return 0, nil, err
		}
		e, err := do[ops.Setting](ctx, c, "settings.get", ops.SettingName{Name: string(settings.FederationEnabled)})
		if err != nil {
			return 0, nil, err
		}
		z, err := do[ops.FederationSize](ctx, c, "federation-size", nil)
		return http.StatusOK, object{
			"enabled": isOn(e), "policy": f.Policy, "max_federation_size": z.MaxFederationSize,
			"federation_size_effective": z.Effective, "federation_size_effective_bytes": z.EffectiveBytes,
		}, err
	}
	return []Method{
		{Method: "GET", Doc: "Whether mail is exchanged with other servers, and with whom.", Reply: "enabled, policy (ACCEPT, REJECT), max_federation_size, federation_size_effective, federation_size_effective_bytes",
			run: func(ctx context.Context, c *call) (int, any, error) { return shape(ctx, c, "") }},
		{Method: "POST", Doc: "Change it.", Request: "enabled, policy", Reply: "as GET", Changes: true, run: func(ctx context.Context, c *call) (int, any, error) {
			var p struct {
				Enabled *bool
				Policy  string
			}
			if err := c.read(&p); err != nil {
				return 0, nil, err
			}
			if p.Enabled != nil {
				if _, err := do[any](ctx, c, "settings.set", ops.SettingName{Name: string(settings.FederationEnabled), Value: strconv.FormatBool(*p.Enabled)}); err != nil {
					return 0, nil, err
				}
			}
			return shape(ctx, c, p.Policy)
		}},
	}
}

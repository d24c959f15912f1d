// Package config turns the static configuration file into one typed value.
//
// The file is TOML with flat keys; tables are accepted where an operator would
// expect them ([turn] realm equals turn_realm). Unknown keys and bad values are
// errors, all of them at once, each with file and line and what to write
// instead. Files of earlier versions, in blocks, are read as well: their bad
// values are errors, too, and what has no effect here is noted, because files
// that were installed are full of it. The package does not know the database: values that are dynamic
// settings are handed over by SettingsValues.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/throttle"
	"madmail/internal/units"
	"madmail/internal/verdict"
)

// Config is the file's values. The toml tag is the key; kind says how the text
// is read and checked.
type Config struct {
	Hostname      string `toml:"hostname" kind:"domain"`
	PrimaryDomain string `toml:"primary_domain" kind:"domain"`
	LocalDomains  string `toml:"local_domains" kind:"list"`
	MailDomain    string `toml:"mail_domain" kind:"domain"`
	MXDomain      string `toml:"mx_domain" kind:"domain"`
	WebDomain     string `toml:"web_domain" kind:"domain"`
	JITDomain     string `toml:"jit_domain" kind:"list"`
	PublicIP      string `toml:"public_ip" kind:"ip"`
	StateDir      string `toml:"state_dir"`
	RuntimeDir    string `toml:"runtime_dir"`

	TLSMode         string `toml:"tls_mode" kind:"enum" of:"autocert acme file self_signed"`
	TLSCert         string `toml:"tls_cert"`
	TLSKey          string `toml:"tls_key"`
	ACMEEmail       string `toml:"acme_email"`
	ACMENames       string `toml:"acme_names" kind:"list"`
	ACMEDirectory   string `toml:"acme_directory"`
	ACMERootCA      string `toml:"acme_root_ca"`
	ACMEHTTPListen  string `toml:"acme_http_listen" kind:"listen"`
	ACMEDNSProvider string `toml:"acme_dns_provider" kind:"enum" of:"cloudflare digitalocean gandi hetzner route53 vultr rfc2136"`
	ACMEDNSServer   string `toml:"acme_dns_server"`
	ACMEDNSToken    string `toml:"acme_dns_token"`

	Debug bool   `toml:"debug"`
	Log   string `toml:"log" kind:"log"`

	SMTPListen          string `toml:"smtp_listen" kind:"listens"`
	SubmissionListen    string `toml:"submission_listen" kind:"listens"`
	SubmissionTLSListen string `toml:"submission_tls_listen" kind:"listens"`
	IMAPListen          string `toml:"imap_listen" kind:"listens"`
	IMAPTLSListen       string `toml:"imap_tls_listen" kind:"listens"`
	HTTPListen          string `toml:"http_listen" kind:"listens"`
	HTTPTLSListen       string `toml:"http_tls_listen" kind:"listens"`
	OpenMetricsListen   string `toml:"openmetrics_listen" kind:"listens"`
	OpenMetricsUsername string `toml:"openmetrics_username"`
	OpenMetricsPassword string `toml:"openmetrics_password"`
	ProxyProtocol       string `toml:"proxy_protocol" kind:"networks"`
	ALPNSMTP            string `toml:"alpn_smtp" kind:"door" setting:"__SHARED_PORT_SMTP__"`
	ALPNIMAP            string `toml:"alpn_imap" kind:"door" setting:"__SHARED_PORT_IMAP__"`

	TURNEnable         bool   `toml:"turn_enable"`
	TURNServer         string `toml:"turn_server"`
	TURNPort           string `toml:"turn_port" kind:"port" setting:"__TURN_PORT__"`
	TURNSecret         string `toml:"turn_secret" setting:"__TURN_SECRET__"`
	TURNTTL            string `toml:"turn_ttl" kind:"duration" setting:"__TURN_TTL__"`
	TURNListenUDP      string `toml:"turn_listen_udp" kind:"listens"`
	TURNListenTLS      string `toml:"turn_listen_tls" kind:"listens"`
	TURNRealm          string `toml:"turn_realm" setting:"__TURN_REALM__"`
	TURNRelayIP        string `toml:"turn_relay_ip" kind:"ip" setting:"__TURN_RELAY_IP__"`
	TURNRelayPortMin   string `toml:"turn_relay_port_min" kind:"port" setting:"__TURN_RELAY_PORT_MIN__"`
	TURNRelayPortMax   string `toml:"turn_relay_port_max" kind:"port" setting:"__TURN_RELAY_PORT_MAX__"`
	TURNPrivatePeers   bool   `toml:"turn_allow_private_peers"`
	TURNTestForceRelay bool   `toml:"turn_test_force_relay"`
	TURNMaxPerUser     string `toml:"turn_max_per_user" kind:"count"`
	TURNMaxPerAddress  string `toml:"turn_max_per_address" kind:"count"`
	TURNMaxAllocations string `toml:"turn_max_allocations" kind:"count"`
	TURNRate           string `toml:"turn_rate" kind:"size"`

	AdminPath    string `toml:"admin_path" setting:"__ADMIN_PATH__"`
	AdminWebPath string `toml:"admin_web_path" setting:"__ADMIN_WEB_PATH__"`
	AdminToken   string `toml:"admin_token"`
	Language     string `toml:"language" kind:"enum" of:"en fa ru es" setting:"__LANGUAGE__"`
	WWWDir       string `toml:"www_dir"`
	WWWStrict    bool   `toml:"www_strict"`
	Camouflage   bool   `toml:"camouflage"`
	ServeBinary  string `toml:"serve_binary" kind:"bool"`

	ReleaseURL string `toml:"release_url"`
	ReleaseKey string `toml:"release_key"`

	AutoCreate string `toml:"auth_auto_create" kind:"bool" setting:"__REGISTRATION_OPEN__"`

	IrohEnable        bool   `toml:"iroh_enable"`
	IrohRelayURL      string `toml:"iroh_relay_url" setting:"__IROH_RELAY_URL__"`
	IrohMaxClients    string `toml:"iroh_max_clients" kind:"count"`
	IrohMaxPerAddress string `toml:"iroh_max_per_address" kind:"count"`
	IrohMaxHandshakes string `toml:"iroh_max_handshakes" kind:"count"`
	IrohMaxStandby    string `toml:"iroh_max_standby" kind:"count"`
	IrohRate          string `toml:"iroh_rate" kind:"size"`
	IrohTotalRate     string `toml:"iroh_total_rate" kind:"size"`
	IrohQueue         string `toml:"iroh_queue" kind:"size"`
	IrohQueueTotal    string `toml:"iroh_queue_total" kind:"size"`
	SSAddr            string `toml:"ss_addr" kind:"listens"`
	SSPassword        string `toml:"ss_password" setting:"__SS_PASSWORD__"`
	SSCipher          string `toml:"ss_cipher" setting:"__SS_CIPHER__"`
	SSAllowedPorts    string `toml:"ss_allowed_ports" kind:"ports"`

	DefaultQuota           string `toml:"default_quota" kind:"size"`
	AppendLimit            string `toml:"appendlimit" kind:"size" setting:"__APPENDLIMIT__"`
	MaxMessageSize         string `toml:"max_message_size" kind:"size" setting:"__MAX_MESSAGE_SIZE__"`
	MaxFederationSize      string `toml:"max_federation_size" kind:"size" setting:"__MAX_FEDERATION_SIZE__"`
	Retention              string `toml:"retention" kind:"duration" setting:"__MESSAGE_RETENTION__"`
	UnusedAccountRetention string `toml:"unused_account_retention" kind:"duration"`
	MailFsync              string `toml:"mail_fsync" kind:"enum" of:"always optimized never"`
	BlobDedup              string `toml:"blob_dedup" kind:"bool"`

	UsernameLength    int `toml:"username_length"`
	PasswordLength    int `toml:"password_length"`
	MinUsernameLength int `toml:"min_username_length"`
	MaxUsernameLength int `toml:"max_username_length"`
	PasswordMinLength int `toml:"password_min_length"`

	EnableContactSharing   string `toml:"enable_contact_sharing" kind:"bool" setting:"__CONTACT_SHARING_ENABLED__"`
	SharingDriver          string `toml:"sharing_driver" kind:"enum" of:"sqlite3 sqlite"`
	SharingDSN             string `toml:"sharing_dsn"`
	AllowInboundRemoteRcpt string `toml:"allow_inbound_remote_rcpt" kind:"bool" setting:"__ALLOW_INBOUND_REMOTE_RCPT__"`
	AllowClearSecureJoin   string `toml:"allow_clear_securejoin" kind:"bool" setting:"__ALLOW_CLEAR_SECUREJOIN__"`
	StripPlusTags          bool   `toml:"strip_plus_tags"`
	DBDriver               string `toml:"db_driver" kind:"enum" of:"sqlite3 sqlite"`
	DBDSN                  string `toml:"db_dsn"`
	DBCacheSize            string `toml:"db_cache_size" kind:"pages"`
	DBBusyTimeout          int    `toml:"db_busy_timeout"`

	EndpointRewrite string `toml:"endpoint_rewrite"`
	PushURL         string `toml:"push_url"`
	DNSServers      string `toml:"dns_servers" kind:"servers"`

	QueueLocation        string `toml:"queue_location"`
	QueueMaxTries        int    `toml:"queue_max_tries"`
	QueueMaxParallelism  int    `toml:"queue_max_parallelism"`
	QueueInitialRetry    string `toml:"queue_initial_retry" kind:"duration"`
	QueueRetryTimeScale  string `toml:"queue_retry_time_scale" kind:"factor"`
	QueuePostInitDelay   string `toml:"queue_post_init_delay" kind:"duration"`
	QueueMaxDeliveryTime string `toml:"queue_max_delivery_time" kind:"duration"`

	SMTPMaxMessageSize    string `toml:"smtp_max_message_size" kind:"size"`
	SMTPMaxHeaderSize     string `toml:"smtp_max_header_size" kind:"size"`
	SMTPMaxLineLength     string `toml:"smtp_max_line_length" kind:"size"`
	SMTPMaxReceived       int    `toml:"smtp_max_received"`
	SMTPMaxRecipients     int    `toml:"smtp_max_recipients"`
	SMTPReadTimeout       string `toml:"smtp_read_timeout" kind:"duration"`
	SMTPWriteTimeout      string `toml:"smtp_write_timeout" kind:"duration"`
	SMTPLimits            string `toml:"smtp_limits" kind:"limits"`
	SMTPDeferSenderReject string `toml:"smtp_defer_sender_reject" kind:"bool"`

	SubmissionMaxMessageSize    string `toml:"submission_max_message_size" kind:"size"`
	SubmissionMaxHeaderSize     string `toml:"submission_max_header_size" kind:"size"`
	SubmissionMaxLineLength     string `toml:"submission_max_line_length" kind:"size"`
	SubmissionMaxReceived       int    `toml:"submission_max_received"`
	SubmissionMaxRecipients     int    `toml:"submission_max_recipients"`
	SubmissionReadTimeout       string `toml:"submission_read_timeout" kind:"duration"`
	SubmissionWriteTimeout      string `toml:"submission_write_timeout" kind:"duration"`
	SubmissionLimits            string `toml:"submission_limits" kind:"limits"`
	SubmissionDeferSenderReject string `toml:"submission_defer_sender_reject" kind:"bool"`
	SubmissionInsecureAuth      bool   `toml:"submission_insecure_auth"`

	SPF             bool   `toml:"spf"`
	SPFEnforceEarly bool   `toml:"spf_enforce_early"`
	SPFNone         string `toml:"spf_none_action" kind:"action"`
	SPFNeutral      string `toml:"spf_neutral_action" kind:"action"`
	SPFFail         string `toml:"spf_fail_action" kind:"action"`
	SPFSoftFail     string `toml:"spf_softfail_action" kind:"action"`
	SPFPermError    string `toml:"spf_permerr_action" kind:"action"`
	SPFTempError    string `toml:"spf_temperr_action" kind:"action"`
	DKIMSelector    string `toml:"dkim_selector" kind:"label" setting:"__DKIM_SELECTOR__"`
	DKIMNoSignature string `toml:"dkim_no_sig_action" kind:"action"`
	DKIMBroken      string `toml:"dkim_broken_sig_action" kind:"action"`
	DKIMFailOpen    bool   `toml:"dkim_fail_open"`
	DMARC           bool   `toml:"dmarc"`
	RequireTLS      string `toml:"require_tls" kind:"action"`
	RequireMX       string `toml:"require_mx_record" kind:"action"`
	RequireReverse  string `toml:"require_matching_rdns" kind:"action"`
	JunkMailbox     string `toml:"junk_mailbox" kind:"folder"`

	IMAPAutoLogout          string `toml:"imap_auto_logout" kind:"duration"`
	IMAPInsecureAuth        bool   `toml:"imap_insecure_auth"`
	RemoteCommandTimeout    string `toml:"remote_command_timeout" kind:"duration"`
	RemoteSubmissionTimeout string `toml:"remote_submission_timeout" kind:"duration"`
	RemoteConnectTimeout    string `toml:"remote_connect_timeout" kind:"duration"`
	RemoteIdleTime          string `toml:"remote_conn_max_idle_time" kind:"duration"`
	RemoteMaxIdle           string `toml:"remote_conn_max_idle_count" kind:"count"`
	RemoteReuse             string `toml:"remote_conn_reuse_limit" kind:"count"`
	RemoteLocalIP           string `toml:"remote_local_ip" kind:"ip"`
	RemoteForceIPv4         bool   `toml:"remote_force_ipv4"`
	RemoteLimits            string `toml:"remote_limits" kind:"limits"`
	RemoteMTASTSDir         string `toml:"remote_mtasts_dir"`
	RemoteRootCA            string `toml:"remote_root_ca" kind:"files"`
	AutogeneratedMsgDomain  string `toml:"autogenerated_msg_domain" kind:"domain"`

	MaxUserSendPerMinute int `toml:"max_user_send_per_minute"`
	MaxUserSendBurst     int `toml:"max_user_send_burst_size"`

	// File is the path that was read, "" when there was none.
	File string `toml:"-"`
	// OldMail is where the first version kept its mail, as the block syntax says it.
	OldMail OldMail `toml:"-"`
	// Verbose are parts that log more than the rest, as module=level.
	Verbose []string `toml:"-"`
	// Notes are lines that have no effect, each with the reason.
	Notes []Problem `toml:"-"`
}

// tables maps a table name to the prefix of the flat keys it stands for.
var tables = map[string]string{
	"turn": "turn_", "queue": "queue_", "iroh": "iroh_", "shadowsocks": "ss_", "limits": "", "credentials": "", "db": "db_",
}

// Problem is one thing wrong with a file.
type Problem struct {
	File string
	Line int
	Key  string
	What string
	Hint string
}

func (p Problem) Error() string {
	s := fmt.Sprintf("%s:%d: ", p.File, p.Line)
	if p.Key != "" {
		s += p.Key + ": "
	}
	s += p.What
	if p.Hint != "" {
		s += " (" + p.Hint + ")"
	}
	return s
}

// Load reads a file. A file that does not exist gives the defaults. The error
// joins all Problems of the file; it is of kind fault.Invalid.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return &Config{}, nil
	}
	if err != nil {
		hint := "name a file with --config"
		if errors.Is(err, os.ErrPermission) {
			hint = "the server's user needs read access"
		}
		return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "config"), hint)
	}
	c, problems := parseFile(path, data)
	if len(problems) == 0 {
		c.File = path
		return c, nil
	}
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return nil, fault.Wrap(fault.Invalid, errors.Join(errs...), "")
}

// parseFile reads the text of a file in the syntax that it has.
func parseFile(path string, data []byte) (*Config, []Problem) {
	if isTOML(path, data) {
		return Parse(path, data)
	}
	return ParseBlocks(path, data, os.Getenv, os.ReadFile)
}

type field struct {
	index int
	kind  string
	of    []string
}

var fields = func() map[string]field {
	m := make(map[string]field)
	t := reflect.TypeOf(Config{})
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("toml")
		if key == "-" {
			continue
		}
		kind := f.Tag.Get("kind")
		switch f.Type.Kind() {
		case reflect.Bool:
			kind = "goBool"
		case reflect.Int:
			kind = "int"
		}
		m[key] = field{i, kind, strings.Fields(f.Tag.Get("of"))}
	}
	return m
}()

// Keys lists the known keys in order.
func Keys() []string {
	keys := make([]string, 0, len(fields))
	for k := range fields {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// Parse reads the text of a file.
func Parse(file string, data []byte) (*Config, []Problem) {
	c := &Config{}
	var problems []Problem
	var probe map[string]any
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // editors on some systems put it there
	if err := toml.Unmarshal(data, &probe); err != nil {
		line := 1
		var de *toml.DecodeError
		if errors.As(err, &de) {
			line, _ = de.Position()
		}
		return c, []Problem{{File: file, Line: line, What: strings.TrimPrefix(err.Error(), "toml: "), Hint: `write key = "value"`}}
	}
	v := reflect.ValueOf(c).Elem()
	prefix, table := "", ""
	lines := make(map[string]int) // of the keys that were read
	var p unstable.Parser
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		key := dotted(e.Key())
		line := 1
		it := e.Key()
		if it.Next() {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		bad := func(what, hint string) {
			problems = append(problems, Problem{file, line, key, what, hint})
		}
		switch e.Kind {
		case unstable.Table:
			known := false
			table = key
			if prefix, known = tables[key]; !known {
				bad("unknown table", "tables are "+strings.Join(tableNames(), ", "))
				prefix = "\x00"
			}
			continue
		case unstable.KeyValue:
		default:
			bad("a table is written once", "write ["+key+"]")
			continue
		}
		if prefix == "\x00" {
			continue
		}
		name := prefix + key
		if t, rest, ok := strings.Cut(key, "."); ok && table == "" {
			if pre, known := tables[t]; known {
				name = pre + rest
			}
		}
		key = strings.TrimPrefix(table+"."+key, ".")
		f, known := fields[name]
		if !known {
			bad("unknown key", nearest(name))
			continue
		}
		if first, twice := lines[name]; twice {
			bad(fmt.Sprintf("stands in line %d already, as %s or under its table", first, name), "keep one of them")
			continue
		}
		lines[name] = line
		if what, hint := set(v.Field(f.index), f, e.Value()); what != "" {
			bad(what, hint)
		}
	}
	if err := p.Error(); err != nil {
		problems = append(problems, Problem{File: file, Line: 1, What: err.Error()})
	}
	if len(problems) == 0 {
		at := func(key string) (string, int) { return file, max(1, lines[key]) }
		problems = c.together(at)
		c.Notes = c.idle(func(key string) bool { return lines[key] > 0 }, at)
	}
	return c, problems
}

// together finds values that are good alone and not beside each other. at says
// where a key stands.
func (c *Config) together(at func(key string) (file string, line int)) (problems []Problem) {
	bad := func(key, what, hint string) {
		file, line := at(key)
		problems = append(problems, Problem{file, line, key, what, hint})
	}
	switch {
	case c.TLSCert != "" && c.TLSKey == "":
		bad("tls_cert", "a certificate without its key", "add tls_key")
	case c.TLSKey != "" && c.TLSCert == "":
		bad("tls_key", "a key without its certificate", "add tls_cert")
	case c.TLSMode == "file" && c.TLSCert == "":
		bad("tls_mode", `"file" needs tls_cert and tls_key`, `add both, or write tls_mode = "self_signed"`)
	case c.TLSMode == "acme" && c.ACMEDNSProvider == "":
		bad("tls_mode", `"acme" needs acme_dns_provider`, `it proves the names in the DNS; tls_mode = "autocert" needs port 80 only`)
	case c.ACMEDNSProvider == "rfc2136" && c.ACMEDNSServer == "":
		bad("acme_dns_provider", `"rfc2136" needs acme_dns_server`, `name the server of the zone, as in acme_dns_server = "192.0.2.1:53"`)
	}
	for _, pair := range []struct {
		low, high string
		a, b      int
	}{
		{"min_username_length", "max_username_length", c.MinUsernameLength, c.MaxUsernameLength},
		{"turn_relay_port_min", "turn_relay_port_max", number(c.TURNRelayPortMin), number(c.TURNRelayPortMax)},
	} {
		if pair.a > 0 && pair.b > 0 && pair.a > pair.b {
			bad(pair.low, "is above "+pair.high, "swap the two")
		}
	}
	if low, high := number(c.TURNRelayPortMin), number(c.TURNRelayPortMax); low > 0 && high > 0 {
		control := max(number(c.TURNPort), number(portOf(c.TURNListenUDP)))
		if control == 0 {
			control = defaultTURNPort
		}
		switch {
		case low < 1024:
			bad("turn_relay_port_min", "is below 1024", "these ports are for services")
		case low <= control && control <= high:
			bad("turn_relay_port_min", fmt.Sprintf("the relay ports hold %d, the port of TURN itself", control), "choose a range beside it")
		}
	}
	for _, l := range strings.Fields(c.OpenMetricsListen) {
		if host, _, err := net.SplitHostPort(trimScheme(l)); err == nil && host != "localhost" && c.OpenMetricsPassword == "" {
			if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
				bad("openmetrics_listen", "is open to everybody", `set openmetrics_password, or listen on "127.0.0.1:9749"`)
				break
			}
		}
	}
	for _, t := range []struct{ key, text string }{
		{"imap_auto_logout", c.IMAPAutoLogout}, {"smtp_read_timeout", c.SMTPReadTimeout}, {"remote_command_timeout", c.RemoteCommandTimeout},
		{"remote_submission_timeout", c.RemoteSubmissionTimeout}, {"smtp_write_timeout", c.SMTPWriteTimeout}, {"submission_read_timeout", c.SubmissionReadTimeout},
		{"submission_write_timeout", c.SubmissionWriteTimeout},
	} {
		// Less would end sessions of slow networks, and stop all mail by a slip.
		if d, err := units.ParseDuration(t.text); t.text != "" && err == nil && d != 0 && d < minTimeout {
			bad(t.key, "is below "+minTimeout.String(), "write 0 for the usual time")
		}
	}
	seen := make(map[string]string)
	for _, l := range []struct{ key, addr string }{
		{"smtp_listen", c.SMTPListen}, {"submission_listen", c.SubmissionListen}, {"submission_tls_listen", c.SubmissionTLSListen},
		{"imap_listen", c.IMAPListen}, {"imap_tls_listen", c.IMAPTLSListen}, {"http_listen", c.HTTPListen}, {"http_tls_listen", c.HTTPTLSListen},
		{"openmetrics_listen", c.OpenMetricsListen}, {"turn_listen_udp", c.TURNListenUDP}, {"turn_listen_tls", c.TURNListenTLS}, {"ss_addr", c.SSAddr},
	} {
		for _, addr := range strings.Fields(l.addr) {
			addr = trimScheme(addr)
			if other := seen[addr]; other != "" && other != l.key {
				bad(l.key, fmt.Sprintf("%q is the address of %s, too", addr, other), "each listener needs a port of its own")
			}
			seen[addr] = l.key
		}
	}
	return problems
}

// minTimeout is the least time that a peer gets to answer.
const minTimeout = 10 * time.Second

func number(port string) int {
	n, err := units.ParsePort(port)
	if err != nil {
		return 0
	}
	return n
}

func tableNames() []string {
	var names []string
	for t := range tables {
		names = append(names, "["+t+"]")
	}
	sort.Strings(names)
	return names
}

func dotted(it unstable.Iterator) string {
	var parts []string
	for it.Next() {
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, ".")
}

// set checks a value and stores it; what is "" when all is well.
func set(v reflect.Value, f field, n *unstable.Node) (what, hint string) {
	text := string(n.Data)
	switch f.kind {
	case "goBool":
		if n.Kind != unstable.Bool && n.Kind != unstable.String && n.Kind != unstable.Integer {
			return "not a switch", "write true or false"
		}
		b, err := units.ParseBool(text)
		if err != nil {
			return fmt.Sprintf("%q is not a switch", text), "write true or false"
		}
		v.SetBool(b)
		return "", ""
	case "int":
		i, err := strconv.ParseInt(text, 0, 32) // TOML has 0x10 and 1_000, too
		if n.Kind != unstable.Integer || err != nil || i < 0 {
			return "not a number", "write a whole number, 0 or more"
		}
		v.SetInt(i)
		return "", ""
	case "list", "listens", "files", "limits":
		if n.Kind == unstable.Array {
			var all []string
			for it := n.Children(); it.Next(); {
				if it.Node().Kind != unstable.String {
					return "not a list of names", `write ["a.org", "b.org"]`
				}
				all = append(all, string(it.Node().Data))
			}
			between := " "
			if f.kind == "limits" {
				between = "; "
			}
			text = strings.Join(all, between)
		} else if n.Kind != unstable.String {
			return "not a list of names", `write "a.org b.org"`
		}
		return setText(v, f, text)
	}
	plain := false
	switch n.Kind {
	case unstable.String:
		plain = true
	case unstable.Integer:
		if plain = slices.Contains([]string{"bool", "size", "duration", "port", "factor", "count", "pages"}, f.kind); plain {
			i, err := strconv.ParseInt(text, 0, 64)
			if err != nil {
				return "not a number", "write a whole number"
			}
			text = strconv.FormatInt(i, 10)
		}
	case unstable.Float:
		plain = f.kind == "factor"
	case unstable.Bool:
		plain = f.kind == "bool" || f.kind == "log" || f.kind == "door"
	}
	if !plain && n.Kind == unstable.Float && f.kind != "" {
		return "not a whole number", "write it without a fraction"
	}
	if !plain {
		return "not a text", `write "text"`
	}
	return setText(v, f, text)
}

// setText checks the text of a value that is kept as text, and stores it.
func setText(v reflect.Value, f field, text string) (what, hint string) {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return "has a control character", "write one line of text"
	}
	if f.kind == "list" { // earlier versions take commas between names, too
		text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }), " ")
	}
	if what, hint = check(f, text); what == "" {
		v.SetString(text)
	}
	return what, hint
}

// Open reports whether a value of kind door lets clients in: it does unless it is a
// word for no. Earlier versions name the module behind it.
func Open(text string) bool {
	on, err := units.ParseBool(text)
	return on || err != nil
}

// Limit reads a value of kind count or size that limits something: 0 when it is
// not set, below 0 when there is to be no limit.
func Limit(text string) int64 {
	if text == "" {
		return 0
	}
	n, err := units.ParseSize(text) // it was checked
	if err != nil || n == 0 {
		return -1
	}
	return n
}

// check looks at the text of a value.
func check(f field, text string) (what, hint string) {
	if text == "" && (f.kind == "domain" || f.kind == "ip") {
		return "", "" // as if the line were not there
	}
	var err error
	noun := map[string]string{"bool": "switch", "listen": "listen address", "listens": "listen address", "ip": "IP address"}[f.kind]
	if noun == "" {
		noun = f.kind
	}
	switch f.kind {
	case "bool":
		_, err = units.ParseBool(text)
		hint = "write true or false"
	case "size":
		_, err = units.ParseSize(text)
		hint = `write a number with K, M, G or T, as in "1G"`
	case "duration":
		_, err = units.ParseDuration(text)
		hint = `write a number with s, m, h or d, as in "24h"`
	case "count":
		_, err = strconv.ParseUint(text, 10, 31)
		hint = "write a whole number; 0 is no limit"
	case "pages":
		_, err = strconv.ParseInt(text, 10, 32)
		noun, hint = "size of a cache", "write a number of pages, or with a minus one of KiB"
	case "action":
		if _, err = verdict.Parse(text); err != nil {
			return fault.UserText(err), `write "ignore", "quarantine" or "reject"`
		}
	case "folder":
		if text == "" || len(text) > 64 || strings.ContainsAny(text, "/%*\"\\\x7f") || strings.EqualFold(text, "inbox") {
			return fmt.Sprintf("%q is not a name for a folder", text), `write "Junk"`
		}
	case "label":
		for _, c := range []byte(text) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
				return fmt.Sprintf("%q is not a selector", text), "write letters, digits and dashes"
			}
		}
		if text == "" || len(text) > 63 {
			return fmt.Sprintf("%q is not a selector", text), "write letters, digits and dashes"
		}
	case "limits":
		if _, err = throttle.Parse(text); err != nil {
			return fault.UserText(err), `write lines such as "all rate 20 1s" and "ip concurrency 10"`
		}
	case "port":
		_, err = units.ParsePort(text)
		hint = "ports are 1 to 65535"
	case "listen", "listens":
		if f.kind == "listen" {
			err = checkListen(text)
		} else {
			err = checkListens(text)
		}
		hint = `write "host:port", as in "0.0.0.0:993"`
	case "ip":
		err = checkIP(text)
		hint = `write an IP address, as in "203.0.113.5"`
	case "domain":
		_, err = address.ParseDomain(text)
		hint = domainHint
	case "factor":
		var x float64
		if x, err = strconv.ParseFloat(text, 64); err == nil && !(x >= 1 && x <= 100) {
			err = strconv.ErrRange
		}
		hint = "write a number from 1 to 100, as in 1.25"
	case "networks":
		_, err = ParseNetworks(text)
		noun, hint = "list of networks", `write addresses and networks, as in "127.0.0.1 10.0.0.0/8"`
	case "servers":
		_, err = ParseServers(text)
		noun, hint = "list of DNS servers", `write addresses, as in "127.0.0.1 192.0.2.1:5353"`
	case "ports":
		_, err = ParsePorts(text)
		noun, hint = "list of ports", `write ports with blanks between them, as in "465 993"`
	case "list":
		for _, name := range strings.Fields(text) {
			if _, err := address.ParseDomain(name); err != nil {
				return fmt.Sprintf("%q is not a domain", name), domainHint
			}
		}
	case "enum":
		for _, o := range f.of {
			if o == text {
				return "", ""
			}
		}
		return fmt.Sprintf("%q is not one of %s", text, strings.Join(f.of, ", ")), nearestOf(text, f.of)
	}
	if err != nil {
		return fmt.Sprintf("%q is not %s %s", text, article(noun), noun), hint
	}
	return "", ""
}

const domainHint = `write a name such as "chat.example.org", or an IP address`

func article(noun string) string {
	if strings.ContainsRune("aeioAEIO", rune(noun[0])) {
		return "an"
	}
	return "a"
}

// nearest finds the known key that a typing error comes closest to.
func nearest(name string) string {
	if hint := nearestOf(name, Keys()); hint != "" {
		return hint
	}
	return "docs/operate.md lists the keys"
}

// nearestOf asks for the word that was meant, or returns "". Long words may
// have three mistakes, short ones fewer: "x" does not mean "log".
func nearestOf(name string, words []string) string {
	if len(name) > 64 {
		return ""
	}
	best, far := "", min(3, len(name)/3)+1
	for _, k := range words {
		if d := distance(name, k); d < far {
			best, far = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "did you mean " + best + "?"
}

// distance is the number of single-character edits between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := prev
			if a[i-1] != b[j-1] {
				cost++
			}
			prev, row[j] = row[j], min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}

// SettingsValues gives the file's values of dynamic settings by their stored key.
func (c *Config) SettingsValues() map[string]string {
	m := make(map[string]string)
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		tag, text := v.Type().Field(i).Tag, v.Field(i).String()
		key := tag.Get("setting")
		if key == "" || text == "" {
			continue
		}
		if tag.Get("kind") == "door" {
			text = strconv.FormatBool(Open(text))
		}
		m[key] = text
	}
	return m
}

// SharingPath is the database of contact links.
func (c *Config) SharingPath(stateDir string) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(c.SharingDSN, "file:"), "?") // as the first version's driver wants it
	if path == "" {
		path = "sharing.db"
	}
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(stateDir, path)
}

// Quota returns default_quota in bytes, or 0 when it is not set.
func (c *Config) Quota() int64 {
	n, err := units.ParseSize(c.DefaultQuota)
	if err != nil {
		return 0
	}
	return n
}

// UnusedAfter returns unused_account_retention, 0 for never.
func (c *Config) UnusedAfter() time.Duration {
	d, err := units.ParseDuration(c.UnusedAccountRetention)
	if err != nil {
		return 0
	}
	return d
}

// Value is one line of a configuration that says something.
type Value struct {
	Key   string `json:"key"`
	Value string `json:"value"` // "***" of a secret
}

// Values are the lines that were read or derived, in the order of the documentation,
// without secrets.
func (c *Config) Values() []Value {
	list := []Value{}
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("toml")
		if key == "" || v.Field(i).IsZero() {
			continue
		}
		text := fmt.Sprint(v.Field(i).Interface())
		if slices.ContainsFunc([]string{"secret", "password", "token", "dsn"}, func(word string) bool { return strings.Contains(key, word) }) {
			text = "***"
		}
		list = append(list, Value{key, text})
	}
	return list
}

// LogTargets splits log into its targets; nil means that nothing is said.
func (c *Config) LogTargets() []string { return strings.Fields(c.Log) }

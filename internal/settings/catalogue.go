package settings

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/route"
	"madmail/internal/units"
)

// Key is a setting's name in the database, such as "__IMAP_TLS_PORT__".
type Key string

// The keys. Their documentation stands in the catalogue.
const (
	RegistrationOpen  Key = "__REGISTRATION_OPEN__"
	JITRegistration   Key = "__JIT_REGISTRATION_ENABLED__"
	TokenRequired     Key = "__REGISTRATION_TOKEN_REQUIRED__"
	TURNEnabled       Key = "__TURN_ENABLED__"
	IrohEnabled       Key = "__IROH_ENABLED__"
	SSEnabled         Key = "__SS_ENABLED__"
	SSWSEnabled       Key = "__SS_WS_ENABLED__"
	SSGRPCEnabled     Key = "__SS_GRPC_ENABLED__"
	HTTPProxyEnabled  Key = "__HTTP_PROXY_ENABLED__"
	HTTPProxyPort     Key = "__HTTP_PROXY_PORT__"
	HTTPProxyPath     Key = "__HTTP_PROXY_PATH__"
	HTTPProxyUsername Key = "__HTTP_PROXY_USERNAME__"
	HTTPProxyPassword Key = "__HTTP_PROXY_PASSWORD__"

	AutoPurgeSeen    Key = "__AUTO_PURGE_SEEN__"
	RetentionEnabled Key = "__MESSAGE_RETENTION_ENABLED__"
	Retention        Key = "__MESSAGE_RETENTION__"
	DormantRetention Key = "__DORMANT_ACCOUNT_RETENTION__"

	AdminWebEnabled Key = "__ADMIN_WEB_ENABLED__"
	AdminPath       Key = "__ADMIN_PATH__"
	AdminWebPath    Key = "__ADMIN_WEB_PATH__"
	WebIMAPEnabled  Key = "__WEBIMAP_ENABLED__"
	WebSMTPEnabled  Key = "__WEBSMTP_ENABLED__"
	WebmailCORS     Key = "__WEBMAIL_CORS_ORIGINS__"
	Language        Key = "__LANGUAGE__"
	DCLoginIMAP     Key = "__DCLOGIN_IMAP_SECURITY__"
	DCLoginSMTP     Key = "__DCLOGIN_SMTP_SECURITY__"
	PushMode        Key = "__PUSH_MODE__"
	PushEnabled     Key = "__PUSH_ENABLED__"
	LogDisabled     Key = "__LOG_DISABLED__"

	OperatorWebhooks Key = "__OPERATOR_WEBHOOKS__"

	FederationPolicy  Key = "__FEDERATION_POLICY__"
	FederationEnabled Key = "__FEDERATION_ENABLED__"
	FederationHTTP    Key = "__FEDERATION_ALLOW_HTTP__"
	FederationBounce  Key = "__FEDERATION_BOUNCE__"
	RequireDKIM       Key = "__FEDERATION_REQUIRE_DKIM__"
	AllowRemoteRcpt   Key = "__ALLOW_INBOUND_REMOTE_RCPT__"
	ClearSecureJoin   Key = "__ALLOW_CLEAR_SECUREJOIN__"
	DKIMSelector      Key = "__DKIM_SELECTOR__"
	MTASTSMode        Key = "__MTA_STS_MODE__"
	AppendLimit       Key = "__APPENDLIMIT__"
	MaxMessageSize    Key = "__MAX_MESSAGE_SIZE__"
	MaxFederationSize Key = "__MAX_FEDERATION_SIZE__"

	NewAccountsPerMinute Key = "__NEW_ACCOUNTS_PER_MINUTE__"
	ContactSharing       Key = "__CONTACT_SHARING_ENABLED__"

	IMAPSessions        Key = "__IMAP_MAX_SESSIONS__"
	IMAPAddressSessions Key = "__IMAP_MAX_SESSIONS_PER_ADDRESS__"
	IMAPAccountSessions Key = "__IMAP_MAX_SESSIONS_PER_ACCOUNT__"
	IMAPMailboxes       Key = "__IMAP_MAX_MAILBOXES__"
	IMAPCommand         Key = "__IMAP_MAX_COMMAND__"
	IMAPLiterals        Key = "__IMAP_MAX_LITERALS__"
	IMAPNesting         Key = "__IMAP_MAX_NESTING__"

	SMTPPort          Key = "__SMTP_PORT__"
	SubmissionPort    Key = "__SUBMISSION_PORT__"
	SubmissionTLSPort Key = "__SUBMISSION_TLS_PORT__"
	IMAPPort          Key = "__IMAP_PORT__"
	IMAPTLSPort       Key = "__IMAP_TLS_PORT__"
	HTTPPort          Key = "__HTTP_PORT__"
	HTTPSPort         Key = "__HTTPS_PORT__"
	TURNPort          Key = "__TURN_PORT__"
	SASLPort          Key = "__SASL_PORT__"
	IrohPort          Key = "__IROH_PORT__"
	SSPort            Key = "__SS_PORT__"
	SSWSPort          Key = "__SS_WS_PORT__"
	SSGRPCPort        Key = "__SS_GRPC_PORT__"
	HTTPEnabled       Key = "__HTTP_ENABLED__"
	HTTPSEnabled      Key = "__HTTPS_ENABLED__"
	SharedPortIMAP    Key = "__SHARED_PORT_IMAP__"
	SharedPortSMTP    Key = "__SHARED_PORT_SMTP__"

	SMTPLocalOnly          Key = "__SMTP_LOCAL_ONLY__"
	SubmissionLocalOnly    Key = "__SUBMISSION_LOCAL_ONLY__"
	SubmissionTLSLocalOnly Key = "__SUBMISSION_TLS_LOCAL_ONLY__"
	IMAPLocalOnly          Key = "__IMAP_LOCAL_ONLY__"
	IMAPTLSLocalOnly       Key = "__IMAP_TLS_LOCAL_ONLY__"
	TURNLocalOnly          Key = "__TURN_LOCAL_ONLY__"
	SASLLocalOnly          Key = "__SASL_LOCAL_ONLY__"
	IrohLocalOnly          Key = "__IROH_LOCAL_ONLY__"
	HTTPLocalOnly          Key = "__HTTP_LOCAL_ONLY__"
	HTTPSLocalOnly         Key = "__HTTPS_LOCAL_ONLY__"

	SMTPHostname     Key = "__SMTP_HOSTNAME__"
	TURNRealm        Key = "__TURN_REALM__"
	TURNSecret       Key = "__TURN_SECRET__"
	TURNRelayIP      Key = "__TURN_RELAY_IP__"
	TURNTTL          Key = "__TURN_TTL__"
	TURNRelayPortMin Key = "__TURN_RELAY_PORT_MIN__"
	TURNRelayPortMax Key = "__TURN_RELAY_PORT_MAX__"
	IrohRelayURL     Key = "__IROH_RELAY_URL__"
	SSCipher         Key = "__SS_CIPHER__"
	SSPassword       Key = "__SS_PASSWORD__"
)

// Kind is the form of a setting's values.
type Kind uint8

// The kinds. Each has one getter of Snapshot.
const (
	Bool     Kind = iota
	Port          // 1 to 65535; 0 only as the value of a port that nobody named
	Size          // bytes
	Duration      // a bare integer is seconds
	Text          //
	Enum          // one of Values
	List          // separated by commas, spaces or newlines
	Number        // a whole number from Min to Max
)

var kindNames = [...]string{"bool", "port", "size", "duration", "text", "enum", "list", "number"}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

// Effect says what has to happen for a change to take effect.
type Effect uint8

// The effects, in rising order of what they disturb.
const (
	Live      Effect = iota // readers take the next snapshot
	Component               // the named components reload
	Rebind                  // the named listeners are opened anew
	Restart
)

var effectNames = [...]string{"live", "component", "rebind", "restart"}

// String returns the effect's name.
func (e Effect) String() string { return effectNames[e] }

// Entry describes one setting.
type Entry struct {
	Key     Key
	Kind    Kind
	Default string   // value when nobody says anything; "" is 0, none or empty
	Follows Key      // when set, the default is this setting's value, plus Plus
	Plus    int64    // added to a port that is followed
	Values  []string // of an Enum
	Min     int64    // of a Number
	Max     int64    // of a Number
	Effect  Effect
	Targets []string // components or listeners that the effect names
	Secret  bool     // never printed
	// Unserved says that this version keeps the value, for predecessors and admin
	// pages that ask for it, and does nothing with it.
	Unserved bool
	Env      string // environment variable that beats every other source
	Aliases  []Key  // names of the same setting in databases of predecessors
	Words    [2]string
	Doc      string

	check func(string) error // beyond the kind
}

// Name returns the short form of the key: "imap_tls_port".
func (e *Entry) Name() string { return strings.ToLower(strings.Trim(string(e.Key), "_")) }

// catalogue lists every setting once. It is never changed.
var catalogue = []Entry{
	{Key: RegistrationOpen, Default: "true", Doc: "Anybody may make an account at /new; on a fresh server this also decides whether a first login makes one."},
	{Key: JITRegistration, Follows: RegistrationOpen, Doc: "The first login with an unused name makes the account."},
	{Key: TokenRequired, Default: "false", Doc: "New accounts need a registration token, and first logins make none."},

	{Key: TURNEnabled, Default: "true", Effect: Component, Targets: []string{"turn"}, Doc: "Relay calls by TURN and announce it to clients."},
	{Key: IrohEnabled, Default: "true", Effect: Component, Targets: []string{"iroh"}, Doc: "Relay realtime channels and announce it to clients."},
	{Key: SSEnabled, Default: "true", Effect: Component, Targets: []string{"shadowsocks"}, Doc: "Serve Shadowsocks when it is configured."},
	{Key: SSWSEnabled, Default: "false", Effect: Component, Targets: []string{"shadowsocks"}, Doc: "Serve Shadowsocks inside WebSocket, too: on the HTTPS port at a path that the password makes, and at /ss on ss_ws_port."},
	{Key: SSGRPCEnabled, Unserved: true, Default: "false", Effect: Component, Targets: []string{"shadowsocks"}, Doc: "Kept for files and panels of earlier versions: Shadowsocks is served over TCP only."},
	{Key: HTTPProxyEnabled, Default: "false", Effect: Component, Targets: []string{"http"}, Doc: "Let clients with name and password reach the mail ports by the method CONNECT on the HTTPS port; others see the site."},
	{Key: HTTPProxyPort, Kind: Port, Effect: Rebind, Targets: []string{"http-proxy"}, Doc: "Port where the site is, too, over TLS, for clients of the HTTP proxy; unset leaves it to the HTTPS port."},
	{Key: HTTPProxyPath, Kind: Text, Default: "/proxy", Effect: Component, Targets: []string{"http"}, check: checkPath, Doc: "Path in the link to the HTTP proxy that pages show; it counts for a server in front only, since clients do not send it."},
	{Key: HTTPProxyUsername, Kind: Text, Default: "madmail", Effect: Component, Targets: []string{"http"}, Doc: "Name of the users of the HTTP proxy."},
	{Key: HTTPProxyPassword, Kind: Text, Effect: Component, Targets: []string{"http"}, Secret: true, check: checkProxyPassword, Doc: "Password of the users of the HTTP proxy: 8 characters or more."},

	{Key: AutoPurgeSeen, Default: "disabled", Words: [2]string{"disabled", "enabled"}, Doc: "Remove messages soon after they were read."},
	{Key: RetentionEnabled, Default: "false", Doc: "Remove messages that are older than the retention time."},
	{Key: Retention, Kind: Duration, Default: "30d", Doc: "Age at which messages are removed."},
	{Key: DormantRetention, Kind: Duration, Default: "0", Doc: "Remove accounts whose last login is older; 0 keeps them."},

	{Key: AdminWebEnabled, Default: "false", Doc: "Serve the operators' web page."},
	{Key: AdminPath, Kind: Text, Default: "/api/admin", Env: "CHATMAIL_ADMIN_PATH", check: checkOwnPath, Doc: "Path of the admin API."},
	{Key: AdminWebPath, Kind: Text, Default: "/admin", check: checkOwnPath, Doc: "Path of the operators' web page."},
	{Key: WebIMAPEnabled, Default: "false", Doc: "Serve mail access for browsers: requests and WebSocket below /webimap."},
	{Key: WebSMTPEnabled, Default: "false", Doc: "Serve sending for browsers: /webimap/send and /websmtp/send."},
	{Key: WebmailCORS, Kind: List, check: checkOrigins, Doc: "Origins whose pages may use mail for browsers, and /new, from elsewhere; * allows all, and pages of this host always may."},
	{Key: Language, Kind: Enum, Default: "en", Values: []string{"en", "fa", "ru", "es"}, Doc: "Language of the public pages."},
	{Key: DCLoginIMAP, Kind: Enum, Default: "default", Values: []string{"default", "ssl", "starttls", "plain"}, Doc: "Connection security for IMAP in login links."},
	{Key: DCLoginSMTP, Kind: Enum, Default: "default", Values: []string{"default", "ssl", "starttls", "plain"}, Doc: "Connection security for SMTP in login links."},
	{Key: PushMode, Kind: Enum, Default: "off", Values: []string{"off", "on", "auto"}, Doc: "Wake clients by the notification service."},
	{Key: PushEnabled, Default: "false", Doc: "Whether push is on while its mode is auto; kept by the server itself."},
	{Key: LogDisabled, Default: "false", Doc: "Write no log, whatever targets the file names."},
	{Key: OperatorWebhooks, Kind: Text, Secret: true, check: checkWebhooks, Doc: "Whom the server tells by HTTPS that an account was made or is full, as one JSON object; \"madmail webhooks\" changes its fields. Nobody, unless this is set."},

	{Key: FederationPolicy, Kind: Enum, Default: "ACCEPT", Values: []string{"ACCEPT", "REJECT"}, Doc: "What happens to servers without a rule of their own."},
	{Key: FederationEnabled, Default: "true", Doc: "Exchange mail with other servers."},
	{Key: FederationHTTP, Default: "false", Doc: "Exchange mail with servers that have a name by HTTP without TLS, when HTTPS does not answer; servers on an IP address always may."},
	{Key: FederationBounce, Default: "false", Doc: "Tell senders on other servers which recipients of a message were unknown or full when others here got it."},
	{Key: RequireDKIM, Kind: Enum, Default: "off", Values: []string{"off", "report", "require"}, Doc: "Mail from a domain name without a DKIM signature that holds: taken, taken with a warning in the log, or refused. Mail from IP addresses has none and is taken."},
	{Key: AllowRemoteRcpt, Default: "false", Doc: "Accept mail on port 25 for domains that are not ours (an open relay)."},
	{Key: ClearSecureJoin, Default: "true", Doc: "Let the first message of the old SecureJoin handshake pass, which is not encrypted; invite links of earlier clients need it."},
	{Key: DKIMSelector, Kind: Text, Default: "default", Effect: Component, Targets: []string{"dkim"}, check: checkLabel, Doc: "Selector of the DKIM key."},
	{Key: MTASTSMode, Kind: Enum, Default: "testing", Values: []string{"none", "testing", "enforce"}, Doc: "Mode in the published MTA-STS policy."},
	{Key: AppendLimit, Kind: Size, Default: "100M", check: checkPositiveSize, Doc: "Largest message that IMAP APPEND takes; the smaller of this and the message size counts."},
	{Key: MaxMessageSize, Kind: Size, Default: "100M", check: checkPositiveSize, Doc: "Largest message that SMTP takes; the smaller of this and the append limit counts."},
	{Key: MaxFederationSize, Kind: Size, Default: "70M", check: checkPositiveSize, Doc: "Largest message taken from another server."},

	{Key: NewAccountsPerMinute, Kind: Number, Default: "600", Min: 1, Max: 1_000_000, Doc: "Accounts that the invite page and /new make in a minute, for all visitors together."},
	{Key: ContactSharing, Default: "false", Doc: "Let visitors make contact pages under names of their own, at /share."},

	{Key: IMAPSessions, Kind: Number, Default: "20000", Min: 1, Max: 1_000_000, Doc: "IMAP sessions at a time, in all."},
	{Key: IMAPAddressSessions, Kind: Number, Default: "2000", Min: 1, Max: 1_000_000, Doc: "IMAP sessions at a time from one network address; many phones may share one."},
	{Key: IMAPAccountSessions, Kind: Number, Default: "64", Min: 2, Max: 10_000, Doc: "IMAP sessions at a time of one account."},
	{Key: IMAPMailboxes, Kind: Number, Default: "200", Min: 2, Max: 10_000, Doc: "Mailboxes of one account, INBOX included."},
	{Key: IMAPCommand, Kind: Size, Default: "64K", check: checkCommandSize, Doc: "Longest IMAP command, without its literals."},
	{Key: IMAPLiterals, Kind: Size, Default: "64K", check: checkCommandSize, Doc: "Literals of one IMAP command in all, the messages of APPEND aside."},
	{Key: IMAPNesting, Kind: Number, Default: "16", Min: 4, Max: 64, Doc: "How deep the keys of an IMAP search may be nested."},

	{Key: SMTPPort, Kind: Port, Effect: Rebind, Targets: []string{"smtp"}, Doc: "Port for mail from other servers."},
	{Key: SubmissionPort, Kind: Port, Effect: Rebind, Targets: []string{"submission"}, Doc: "Port for sending with STARTTLS."},
	{Key: SubmissionTLSPort, Kind: Port, Effect: Rebind, Targets: []string{"submissions"}, Doc: "Port for sending with TLS."},
	{Key: IMAPPort, Kind: Port, Effect: Rebind, Targets: []string{"imap"}, Doc: "Port for IMAP with STARTTLS."},
	{Key: IMAPTLSPort, Kind: Port, Effect: Rebind, Targets: []string{"imaps"}, Doc: "Port for IMAP with TLS."},
	{Key: HTTPPort, Kind: Port, Effect: Rebind, Targets: []string{"http"}, Doc: "Port for HTTP."},
	{Key: HTTPSPort, Kind: Port, Effect: Rebind, Targets: []string{"https"}, Doc: "Port for HTTPS."},
	{Key: TURNPort, Kind: Port, Default: "3478", Effect: Rebind, Targets: []string{"turn"}, Doc: "Port of TURN, bound and announced."},
	{Key: SASLPort, Unserved: true, Kind: Port, Default: "24", Effect: Rebind, Targets: []string{"sasl"}, Aliases: []Key{"__DOVECOT_PORT__"}, Doc: "Port of the SASL service for other mail servers."},
	{Key: IrohPort, Kind: Port, Default: "3340", Effect: Rebind, Targets: []string{"iroh"}, Doc: "Port of the relay for realtime channels."},
	{Key: SSPort, Kind: Port, Default: "8388", Effect: Rebind, Targets: []string{"shadowsocks"}, Doc: "Port of Shadowsocks."},
	{Key: SSWSPort, Kind: Port, Follows: SSPort, Plus: 2, Effect: Rebind, Targets: []string{"shadowsocks-ws"}, Doc: "Port of Shadowsocks inside WebSocket; without a value, that of Shadowsocks plus 2."},
	{Key: SSGRPCPort, Unserved: true, Kind: Port, Follows: SSPort, Plus: 1, Effect: Rebind, Targets: []string{"shadowsocks-grpc"}, Doc: "Kept for files and panels of earlier versions, as ss_grpc_enabled."},
	{Key: HTTPEnabled, Default: "true", Effect: Rebind, Targets: []string{"http"}, Doc: "Listen for HTTP."},
	{Key: HTTPSEnabled, Default: "true", Effect: Rebind, Targets: []string{"https"}, Doc: "Listen for HTTPS."},
	{Key: SharedPortIMAP, Default: "true", Doc: "Serve IMAP on the HTTPS port, too, for clients that name it in their first message (ALPN)."},
	{Key: SharedPortSMTP, Default: "true", Doc: "Serve submission on the HTTPS port, too, for clients that name it in their first message (ALPN)."},

	{Key: SMTPLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"smtp"}, Doc: "Listen for mail from other servers on loopback only."},
	{Key: SubmissionLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"submission"}, Doc: "Listen for sending with STARTTLS on loopback only."},
	{Key: SubmissionTLSLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"submissions"}, Doc: "Listen for sending with TLS on loopback only."},
	{Key: IMAPLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"imap"}, Doc: "Listen for IMAP with STARTTLS on loopback only."},
	{Key: IMAPTLSLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"imaps"}, Doc: "Listen for IMAP with TLS on loopback only."},
	{Key: TURNLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"turn"}, Doc: "Listen for TURN on loopback only."},
	{Key: SASLLocalOnly, Unserved: true, Default: "false", Effect: Rebind, Targets: []string{"sasl"}, Doc: "Listen for SASL on loopback only."},
	{Key: IrohLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"iroh"}, Doc: "Listen for realtime channels on loopback only."},
	{Key: HTTPLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"http"}, Doc: "Listen for HTTP on loopback only."},
	{Key: HTTPSLocalOnly, Default: "false", Effect: Rebind, Targets: []string{"https"}, Doc: "Listen for HTTPS on loopback only."},

	{Key: SMTPHostname, Kind: Text, Effect: Component, Targets: []string{"smtp", "imap"}, check: checkHost, Doc: "Name in greetings and derived URLs."},
	{Key: TURNRealm, Kind: Text, Effect: Component, Targets: []string{"turn"}, Doc: "Realm of TURN."},
	{Key: TURNSecret, Kind: Text, Effect: Component, Targets: []string{"turn"}, Secret: true, Doc: "Secret from which TURN credentials are derived."},
	{Key: TURNRelayIP, Kind: Text, Effect: Component, Targets: []string{"turn"}, check: checkIP, Doc: "Address that TURN gives to the callers."},
	{Key: TURNTTL, Kind: Duration, Default: "86400", Effect: Component, Targets: []string{"turn"}, Doc: "Life of TURN credentials."},
	{Key: TURNRelayPortMin, Kind: Port, Default: "49152", Effect: Component, Targets: []string{"turn"}, Doc: "First port that TURN relays on."},
	{Key: TURNRelayPortMax, Kind: Port, Default: "65535", Effect: Component, Targets: []string{"turn"}, Doc: "Last port that TURN relays on."},
	{Key: IrohRelayURL, Kind: Text, check: checkURL, Doc: "Relay for realtime channels that is announced to clients; empty means our own."},
	{Key: SSCipher, Kind: Enum, Default: "aes-128-gcm", Values: []string{"aes-128-gcm", "aes-256-gcm", "chacha20-ietf-poly1305", "2022-blake3-aes-128-gcm", "2022-blake3-aes-256-gcm"},
		Effect: Component, Targets: []string{"shadowsocks"}, Doc: "Cipher of Shadowsocks."},
	{Key: SSPassword, Kind: Text, Effect: Component, Targets: []string{"shadowsocks"}, Secret: true, Doc: "Password of Shadowsocks."},
}

// index maps keys and their aliases to places in the catalogue.
var index = func() map[Key]int {
	m := make(map[Key]int, len(catalogue))
	for i := range catalogue {
		m[catalogue[i].Key] = i
		for _, a := range catalogue[i].Aliases {
			m[a] = i
		}
	}
	return m
}()

// Entries returns the catalogue, for listings and generated documents. The
// caller must not change what the entries point to.
func Entries() []Entry { return append([]Entry(nil), catalogue...) }

// Lookup finds a setting by any of its names: "__IMAP_TLS_PORT__",
// "imap_tls_port", "imap-tls-port", or a predecessor's. Names with
// underscores around them that are not in the catalogue are fault.NotFound,
// as are all others.
func Lookup(name string) (Entry, error) {
	n := strings.ToUpper(strings.ReplaceAll(strings.TrimSpace(name), "-", "_"))
	if i, ok := index[Key("__"+strings.Trim(n, "_")+"__")]; ok {
		return catalogue[i], nil
	}
	return Entry{}, fault.WithHint(fault.New(fault.NotFound, "no such setting"), `"madmail settings list" names them all`)
}

// Reserved reports whether a row key is a setting's and never a user's: it
// begins with two underscores.
func Reserved(key string) bool { return strings.HasPrefix(key, "__") }

// maxValue bounds stored values, in bytes.
const maxValue = 4096

// value is a parsed value. Which fields count depends on the kind.
type value struct {
	text string // normal form, as it is stored
	num  int64  // Bool (0, 1), Port, Size, Duration, Number
	list []string
}

// parse reads text as a value of e. Errors are fault.Invalid and do not
// repeat the text of a secret.
func (e *Entry) parse(text string) (v value, err error) {
	if len(text) > maxValue {
		return v, fault.Newf(fault.Invalid, "%s: a value has at most %d bytes", e.Name(), maxValue)
	}
	s := strings.TrimSpace(text)
	for i := 0; i < len(s); i++ {
		if (s[i] < 0x20 && !(e.Kind == List && s[i] == '\n')) || s[i] == 0x7f {
			return v, fault.Newf(fault.Invalid, "%s: a value has no control characters", e.Name())
		}
	}
	v.text = s
	switch e.Kind {
	case Bool:
		var b bool
		if b, err = units.ParseBool(s); err == nil {
			v = e.boolean(b)
		}
	case Port:
		var p int
		p, err = units.ParsePort(s)
		v.num, v.text = int64(p), strconv.Itoa(p)
	case Size:
		v.num, err = units.ParseSize(s)
	case Duration:
		var d time.Duration
		d, err = units.ParseDuration(s)
		v.num = int64(d)
	case Number:
		if v.num, err = strconv.ParseInt(s, 10, 64); err != nil || v.num < e.Min || v.num > e.Max {
			err = fault.Newf(fault.Invalid, "%.40q is not a whole number from %d to %d", s, e.Min, e.Max)
		}
		v.text = strconv.FormatInt(v.num, 10)
	case Enum:
		v.text, err = e.oneOf(s)
	case List:
		v.list = strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
	}
	if err == nil && e.check != nil && s != "" {
		err = e.check(s)
	}
	if err == nil {
		return v, nil
	}
	if e.Secret {
		return value{}, fault.Newf(fault.Invalid, "%s: the value does not fit", e.Name())
	}
	return value{}, fault.Newf(fault.Invalid, "%s: %s", e.Name(), fault.UserText(err))
}

func (e *Entry) boolean(b bool) value {
	words := e.Words
	if words == [2]string{} {
		words = [2]string{"false", "true"}
	}
	if b {
		return value{text: words[1], num: 1}
	}
	return value{text: words[0]}
}

func (e *Entry) oneOf(s string) (string, error) {
	for _, w := range e.Values {
		if strings.EqualFold(w, s) {
			return w, nil
		}
	}
	return "", fault.Newf(fault.Invalid, "%q is none of %s", s, strings.Join(e.Values, ", "))
}

func checkProxyPassword(s string) error {
	if len(s) < 8 {
		return fault.New(fault.Invalid, "8 characters or more")
	}
	return nil
}

func checkPath(s string) error {
	if s[0] != '/' || strings.ContainsAny(s, " ?#%\\\"'<>{}") || strings.Contains(s, "//") || strings.Contains(s, "/.") {
		return fault.Newf(fault.Invalid, "%q is not a path such as /admin", s)
	}
	return nil
}

func checkOwnPath(s string) error {
	if err := checkPath(s); err != nil {
		return err
	}
	first := route.First(s)
	if first == "" || strings.HasSuffix(s, "/") {
		return fault.Newf(fault.Invalid, "%q is not a path such as /admin", s)
	}
	if route.Fixed(first) {
		return fault.Newf(fault.Invalid, "the path /%s belongs to another part of the server", first)
	}
	return nil
}

func checkHost(s string) error {
	_, err := address.ParseDomain(s)
	return err
}

func checkLabel(s string) error {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return fault.Newf(fault.Invalid, "%q is not a selector: letters, digits, hyphens and dots", s)
		}
	}
	return nil
}

func checkCommandSize(s string) error {
	if n, err := units.ParseSize(s); err == nil && (n < 8<<10 || n > 16<<20) {
		return fault.Newf(fault.Invalid, "%s is not between 8K and 16M", s)
	}
	return nil
}

func checkIP(s string) error {
	if _, err := netip.ParseAddr(s); err != nil {
		return fault.Newf(fault.Invalid, "%q is not an IP address", s)
	}
	return nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return fault.Newf(fault.Invalid, "%q is not an http or https URL", s)
	}
	return nil
}

func checkOrigins(s string) error {
	for _, o := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		if _, err := ParseOrigin(o); err != nil {
			return err
		}
	}
	return nil
}

// ParseOrigin checks an origin of pages (RFC 6454 section 6.2), or "*", and returns
// it as browsers write it.
func ParseOrigin(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "*" {
		return s, nil
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return "", fault.Newf(fault.Invalid, "%.200q is no origin: it begins with http:// or https://, and ends with the host or its port; or it is *", s)
	}
	if p := u.Port(); p != "" {
		if _, err := units.ParsePort(p); err != nil {
			return "", fault.Newf(fault.Invalid, "%.200q is no origin: %v", s, err)
		}
	}
	return u.Scheme + "://" + strings.ToLower(u.Host), nil
}

func checkPositiveSize(s string) error {
	if n, err := units.ParseSize(s); err != nil || n <= 0 {
		return fault.Newf(fault.Invalid, "%q is not a size above 0", s)
	}
	return nil
}

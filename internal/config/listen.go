package config

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/units"
	"madmail/internal/version"
)

func checkListen(s string) error {
	host, port, err := net.SplitHostPort(trimScheme(s))
	if err != nil {
		return err
	}
	if strings.ContainsAny(host, " /") {
		return errors.New("bad host")
	}
	_, err = units.ParsePort(port)
	return err
}

func checkListens(list string) error {
	all := strings.Fields(list)
	if len(all) == 0 {
		return errors.New("no address")
	}
	for _, s := range all {
		if err := checkListen(s); err != nil {
			return err
		}
	}
	return nil
}

// Address is a listen address without its scheme: host:port. Of several it is the first.
func Address(listen string) string {
	if all := strings.Fields(listen); len(all) > 0 {
		listen = all[0]
	}
	return trimScheme(listen)
}

func trimScheme(s string) string {
	for _, p := range []string{"tcp://", "tls://", "udp://", "tcp:"} {
		if rest, ok := strings.CutPrefix(s, p); ok {
			return rest
		}
	}
	return s
}

func checkIP(s string) error {
	_, err := netip.ParseAddr(s)
	return err
}

const defaultTURNPort = 3478

func portOf(listen string) string {
	_, port, _ := net.SplitHostPort(Address(listen))
	return port
}

// ParseNetworks reads addresses and networks with blanks or commas between them.
// An address is a network of one.
func ParseNetworks(s string) (list []netip.Prefix, err error) {
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' }) {
		p, err := netip.ParsePrefix(f)
		if err != nil {
			ip, err := netip.ParseAddr(f)
			if err != nil || ip.Zone() != "" {
				return nil, errors.New("bad network")
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

// ParseServers reads IP addresses, each with or without a port, with blanks or
// commas between them.
func ParseServers(s string) ([]string, error) {
	list := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
	for _, f := range list {
		if _, err := netip.ParseAddr(f); err == nil {
			continue
		}
		if _, err := netip.ParseAddrPort(f); err != nil {
			return nil, errors.New("bad server")
		}
	}
	return list, nil
}

// ParsePorts reads ports with blanks or commas between them.
func ParsePorts(s string) (list []int, err error) {
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' }) {
		n, err := units.ParsePort(f)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// Listener is one service that may listen. Addr is "" when it is off.
type Listener struct {
	Name   string // smtp, submission, submission_tls, imap, imap_tls, http, http_tls, turn, turn_tcp, turn_tls, shadowsocks, iroh, stun, openmetrics, shadowsocks_ws, http_proxy
	Net    string // tcp or udp
	Addr   string
	TLS    bool   // TLS from the start
	Source string // env, db, file or default
}

// Ports are the stored settings that bear on listeners; 0 means not set.
type Ports struct {
	Port  func(name string) int
	Local func(name string) bool
	Off   func(name string) bool // http, http_tls, turn, shadowsocks, shadowsocks_ws, http_proxy and iroh only
	Env   func(string) string
}

// Listeners resolves which services listen where: environment over stored
// port over file over default (operator specification 2.6).
func (c *Config) Listeners(p Ports) []Listener {
	env := p.Env
	imapEnv, httpEnv := env("CHATMAIL_IMAP_ADDR"), env("CHATMAIL_HTTP_ADDR")
	list := slices.Concat(
		p.each("smtp", c.SMTPListen, env("CHATMAIL_SMTP_ADDR"), "0.0.0.0:25", "", false),
		p.each("submission", c.SubmissionListen, "", "", c.SubmissionTLSListen, false),
		p.each("submission_tls", c.SubmissionTLSListen, "", "", c.SubmissionListen, true),
	)
	imapDefault := ""
	if c.IMAPListen == "" && c.IMAPTLSListen == "" && p.Port("imap_tls") == 0 {
		imapDefault = "0.0.0.0:143"
	}
	list = append(list, p.each("imap", c.IMAPListen, imapEnv, imapDefault, c.IMAPTLSListen, false)...)
	if imapEnv == "" {
		list = append(list, p.each("imap_tls", c.IMAPTLSListen, "", "", c.IMAPListen, true)...)
	}
	httpDefault := ""
	if c.HTTPListen == "" && c.HTTPTLSListen == "" && p.Port("http_tls") == 0 {
		httpDefault = "0.0.0.0:8080"
	}
	if !p.Off("http") {
		list = append(list, p.each("http", c.HTTPListen, httpEnv, httpDefault, c.HTTPTLSListen, false)...)
	}
	if httpEnv == "" && !p.Off("http_tls") {
		list = append(list, p.each("http_tls", c.HTTPTLSListen, "", "", c.HTTPListen, true)...)
	}
	if c.TURNEnable && !p.Off("turn") {
		file, fallback := c.TURNListenUDP, "0.0.0.0:"+strconv.Itoa(defaultTURNPort)
		if file == "" && c.TURNPort != "" {
			file = "0.0.0.0:" + c.TURNPort
		}
		udp := p.each("turn", file, "", fallback, "", false)
		for i := range udp {
			udp[i].Net = "udp"
		}
		list = slices.Concat(list, udp, p.each("turn_tcp", file, "", fallback, "", false), p.each("turn_tls", c.TURNListenTLS, "", "", "", true))
	}
	if c.SSAddr != "" && !p.Off("shadowsocks") {
		list = append(list, p.each("shadowsocks", c.SSAddr, "", "", "", false)...)
		if !p.Off("shadowsocks_ws") {
			list = append(list, p.each("shadowsocks_ws", streams(c.SSAddr), "", "", "", false)...)
		}
	}
	if p.Port("http_proxy") != 0 && !p.Off("http_proxy") {
		proxy := p.each("http_proxy", "", "", "", c.HTTPTLSListen, true)
		if !slices.ContainsFunc(list, func(l Listener) bool { return l.Name == "http_tls" && portOf(l.Addr) == portOf(proxy[0].Addr) }) {
			list = append(list, proxy...) // else the port of HTTPS is the one
		}
	}
	if (c.IrohEnable || c.IrohRelayURL != "" || p.Port("iroh") != 0) && !p.Off("iroh") {
		list = append(list, c.realtime(p, list)...)
	}
	if c.OpenMetricsListen != "" {
		list = append(list, p.each("openmetrics", c.OpenMetricsListen, "", "", "", false)...)
	}
	var on []Listener
	for _, l := range list {
		switch {
		case l.Addr == "":
		case p.Local(l.Name):
			on = append(on, narrowed(l)...)
		default:
			on = append(on, l)
		}
	}
	return single(on)
}

// streams are the addresses of Shadowsocks inside WebSocket, beside those of
// Shadowsocks itself: the port after the next.
func streams(addrs string) string {
	var list []string
	for _, a := range strings.Fields(addrs) {
		host, port, err := net.SplitHostPort(trimScheme(a))
		if n := number(port) + 2; err == nil && n < 1<<16 {
			list = append(list, net.JoinHostPort(host, strconv.Itoa(n)))
		}
	}
	return strings.Join(list, " ")
}

// narrowed is a listener on loopback: IPv4, and IPv6, too, where it was for both.
func narrowed(l Listener) []Listener {
	host, port, err := net.SplitHostPort(l.Addr)
	if err != nil {
		return []Listener{l}
	}
	hosts := []string{"127.0.0.1"}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		if hosts = []string{"::1"}; ip.IsUnspecified() {
			hosts = []string{"127.0.0.1", "::1"}
		}
	}
	var list []Listener
	for _, h := range hosts {
		l.Addr = net.JoinHostPort(h, port)
		list = append(list, l)
	}
	return list
}

// single leaves out what is there twice: a socket for all addresses of IPv6 takes
// IPv4, too.
func single(list []Listener) (rest []Listener) {
	has := func(list []Listener, l Listener, addr string) bool {
		return slices.ContainsFunc(list, func(o Listener) bool { return o.Name == l.Name && o.Addr == addr })
	}
	for _, l := range list {
		port, wide := strings.CutPrefix(l.Addr, "0.0.0.0:")
		if !has(rest, l, l.Addr) && !(wide && has(list, l, "[::]:"+port)) {
			rest = append(rest, l)
		}
	}
	return rest
}

// each resolves a service that may have several addresses. Those of its sibling
// lend their hosts where it has none. Some of the list may be there twice.
func (p Ports) each(name, file, env, fallback, sibling string, tls bool) (list []Listener) {
	words := func(s string) []string {
		if all := strings.Fields(s); len(all) > 0 {
			return all
		}
		return []string{""}
	}
	for _, f := range words(file) {
		for _, s := range words(sibling) {
			list = append(list, p.resolve(name, f, env, fallback, s, tls))
		}
	}
	return list
}

// IrohPort is the usual port of the relay for realtime channels.
const IrohPort = 3340

// PortOfURL returns the port that a URL without TLS names, or 0.
func PortOfURL(text string) int {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" {
		return 0
	}
	n, err := units.ParsePort(u.Port())
	if err != nil {
		return 0
	}
	return n
}

// realtime is the relay's own port and, where TURN does not answer STUN already,
// that of STUN: clients look for it on the same host. They listen for IPv6, too,
// which a client has to find out before it uses it. The relay is mounted on the
// ports of the site, too.
func (c *Config) realtime(p Ports, others []Listener) (list []Listener) {
	wide := func(l Listener) Listener {
		if port, ok := strings.CutPrefix(l.Addr, "0.0.0.0:"); ok {
			l.Addr = ":" + port
		}
		return l
	}
	file := ""
	if n := PortOfURL(c.IrohRelayURL); n != 0 {
		file = "0.0.0.0:" + strconv.Itoa(n)
	}
	taken := func(kind, addr string) bool {
		return slices.ContainsFunc(others, func(o Listener) bool { return o.Net == kind && o.Addr != "" && portOf(o.Addr) == portOf(addr) })
	}
	l := wide(p.resolve("iroh", file, "", "0.0.0.0:"+strconv.Itoa(IrohPort), "", false))
	if taken("tcp", l.Addr) { // the URL is that of the site; firewalls and earlier URLs know the usual port
		usual := Ports{Port: func(string) int { return 0 }, Local: p.Local}
		l = wide(usual.resolve("iroh", "", "", "0.0.0.0:"+strconv.Itoa(IrohPort), "", false))
	}
	if !taken("tcp", l.Addr) {
		list = append(list, l)
	}
	file = c.TURNListenUDP
	if file == "" && c.TURNPort != "" {
		file = "0.0.0.0:" + c.TURNPort
	}
	l = wide(p.resolve("stun", Address(file), "", "0.0.0.0:"+strconv.Itoa(defaultTURNPort), "", false))
	if l.Net = "udp"; !slices.ContainsFunc(others, func(o Listener) bool { return o.Name == "turn" }) && !taken("udp", l.Addr) {
		list = append(list, l)
	}
	return list
}

func (p Ports) resolve(name, file, env, fallback, sibling string, tls bool) Listener {
	l := Listener{Name: name, Net: "tcp", TLS: tls}
	stored := p.Port(name)
	host := "0.0.0.0"
	for _, s := range []string{file, sibling} {
		if h, _, err := net.SplitHostPort(trimScheme(s)); err == nil {
			host = h
			break
		}
	}
	switch {
	case env != "":
		l.Addr, l.Source = trimScheme(env), "env"
	case stored != 0:
		l.Addr, l.Source = net.JoinHostPort(host, strconv.Itoa(stored)), "db"
	case file != "":
		l.Addr, l.Source = trimScheme(file), "file"
	case fallback != "":
		l.Addr, l.Source = fallback, "default"
	default:
		return l
	}
	return l
}

// FindFile says where the configuration file is: flag, environment, then the
// usual places. A file that does not exist means defaults.
func FindFile(flag string, env func(string) string) string {
	for _, p := range []string{flag, env("CHATMAIL_CONFIG"), env("MADDY_CONFIG")} {
		if p != "" {
			return p
		}
	}
	name := BinaryName()
	for _, p := range []string{
		"data/chatmail.toml", "/etc/" + name + "/chatmail.toml", "/etc/" + name + "/" + name + ".conf",
		"/etc/madmail/madmail.conf", "/etc/maddy/maddy.conf",
	} {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p
		}
	}
	return "data/chatmail.toml"
}

// BinaryName is the base name of the running program, from which paths derive.
func BinaryName() string {
	if exe, err := os.Executable(); err == nil {
		return filepath.Base(exe)
	}
	return version.Name
}

// FindStateDir says where the state is: flag, environment, file, then the
// usual places. An explicit choice beats the file.
func (c *Config) FindStateDir(flag string, env func(string) string) string {
	for _, p := range []string{flag, env("CHATMAIL_STATE_DIR"), env("MADDY_STATE_DIR"), env("MADMAIL_STATE_DIR"), c.StateDir} {
		if p != "" {
			return p
		}
	}
	for _, f := range []string{"admin_token", "chatmail.db", "credentials.db", "chatmail.toml"} {
		if _, err := os.Stat(filepath.Join("data", f)); err == nil {
			return "data"
		}
	}
	for _, d := range []string{"/var/lib/" + BinaryName(), "/var/lib/madmail", "/var/lib/maddy"} {
		if f, err := os.Open(d); err == nil { // it may be entered
			st, err := f.Stat()
			f.Close()
			if err == nil && st.IsDir() {
				return d
			}
		}
	}
	return "data"
}

// PIDFile is the name of the file with the server's process id.
const PIDFile = "madmail.pid"

// FindRuntimeDir says where the socket and the process id of a server lie, or would: a
// server that may not write into the usual directory has them in the state directory.
func (c *Config) FindRuntimeDir(stateDir string) string {
	usual, own := c.UsualRuntimeDir(stateDir), OwnRuntimeDir(stateDir)
	there := func(dir string) bool { _, err := os.Stat(filepath.Join(dir, PIDFile)); return err == nil }
	if usual != own && !there(usual) && there(own) {
		return own
	}
	return usual
}

// OwnRuntimeDir is the runtime directory in a state directory.
func OwnRuntimeDir(stateDir string) string { return filepath.Join(stateDir, "run") }

// UsualRuntimeDir says where a server is to have its socket and its process id.
func (c *Config) UsualRuntimeDir(stateDir string) string {
	if c.RuntimeDir != "" {
		return c.RuntimeDir
	}
	if strings.HasPrefix(stateDir, "/var/lib/") {
		return "/run/" + BinaryName()
	}
	return OwnRuntimeDir(stateDir)
}

// Starter is the text of a first configuration file.
type Starter struct {
	Privileged bool // ports below 1024 may be bound
}

// Text returns a commented file that Parse takes without complaint.
func (s Starter) Text() []byte {
	port := func(low, high int) string {
		if s.Privileged {
			return strconv.Itoa(low)
		}
		return strconv.Itoa(high)
	}
	return []byte(`# Configuration of madmail, made for trying it out on this machine.
# Every key is optional; docs/operate.md lists them all.

# The domain of new addresses. An IP address needs no DNS: accounts are then
# called name@[127.0.0.1].
primary_domain = "127.0.0.1"
hostname = "127.0.0.1"
public_ip = "127.0.0.1"

# Where clients and other servers connect. Remove a line to switch it off.
smtp_listen           = "127.0.0.1:` + port(25, 2525) + `"   # mail from other servers
submission_listen     = "127.0.0.1:` + port(587, 2587) + `"   # clients, STARTTLS
submission_tls_listen = "127.0.0.1:` + port(465, 2465) + `"   # clients, TLS
imap_listen           = "127.0.0.1:` + port(143, 2143) + `"   # clients, STARTTLS
imap_tls_listen       = "127.0.0.1:` + port(993, 2993) + `"   # clients, TLS
http_listen           = "127.0.0.1:8080"
http_tls_listen       = "127.0.0.1:8443"

# self_signed makes a certificate by itself; file takes tls_cert and tls_key.
tls_mode = "self_signed"

# Storage of each account, and the largest message.
default_quota    = "1G"
max_message_size = "100M"

# Nothing is logged unless you say where: off, stderr, or a path.
log = "off"
debug = false
`)
}

// ErrNoState says that a command found no state directory.
func ErrNoState(dir string) error {
	return fault.Newf(fault.NotFound, "state directory not found: %s (use --state-dir)", dir)
}

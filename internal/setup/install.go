package setup

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/safefile"
	"madmail/internal/units"
)

// Options are what an operator chooses.
type Options struct {
	Layout
	Domain   string // of the addresses: a domain, or the IP address of this machine
	Hostname string // name of this machine; the domain without one
	IP       string // public address

	// TLSMode is self_signed, file, autocert or acme. "" is file when there is a pair of
	// files, else autocert for a name, self_signed for an address.
	TLSMode     string
	Cert, Key   string
	AutoIPCert  bool // autocert for an address, too
	ACMEEmail   string
	Staging     bool   // of an authority for tests
	DNSProvider string // with its token it makes the mode acme
	DNSToken    string
	Obtain      bool // order a certificate now, not when the server starts

	HTTPListen     string // "[::]:80" without one
	Language       string
	MaxMessageSize string

	TURN       bool
	TURNServer string
	TURNSecret string // drawn without one
	SS         bool
	SSPassword string // drawn without one
	Iroh       bool
	Sharing    bool

	// Program is the running binary, to be copied; "" copies nothing.
	Program string
	// Man, Bash, Zsh and Fish are documents to be installed; nil installs none.
	Man, Bash, Zsh, Fish []byte

	SkipUser bool
	SkipUnit bool
	Start    bool // enable and start the service
	Force    bool // replace a configuration that is there; a copy is kept
}

// Installed says what is there now.
type Installed struct {
	Domain       string
	ConfigKept   bool // there was one, and it stays
	Unit         bool
	Started      bool
	TURN, SS     bool
	Cert, Key    string // paths of a pair that was made or given
	TLSMode      string
	Ordered      string // what became of an order: issued, renewed or skipped
	Trouble      error  // why an order failed; the pair is self-signed then
	Config       string
	ConfigBackup string
}

// secret is 16 random octets for links and files.
func secret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// complete checks the choices and fills in what follows from them.
func (o *Options) complete() error {
	o.Layout = o.Fill()
	if err := o.check(); err != nil {
		return err
	}
	if o.Domain == "" {
		o.Domain = o.IP
	}
	if o.Domain == "" {
		return fault.WithHint(fault.New(fault.Invalid, "neither a domain nor an IP address is given"), "--domain chat.example.org, or --ip 192.0.2.1 without a domain")
	}
	var literal, public netip.Addr
	var err error
	if o.Domain, literal, err = host(o.Domain); err != nil {
		return err
	}
	if o.Hostname == "" {
		o.Hostname = o.Domain
	}
	if o.Hostname, _, err = host(o.Hostname); err != nil {
		return err
	}
	switch {
	case o.IP != "":
		if _, public, err = host(o.IP); err != nil || !public.IsValid() {
			return fault.Newf(fault.Invalid, "--ip: %.80q is not an IP address", o.IP)
		}
		o.IP = public.String()
	case literal.IsValid():
		o.IP = literal.String()
	}
	if o.TLSMode == "" {
		switch names := certs.Identifiers(o.Hostname, o.Domain); {
		case o.Cert != "" || o.Key != "":
			o.TLSMode = "file"
		case o.DNSProvider != "":
			o.TLSMode = "acme"
		case o.AutoIPCert || len(names) > 0 && !literal.IsValid():
			o.TLSMode = "autocert"
		default:
			o.TLSMode = "self_signed"
		}
	}
	switch o.TLSMode {
	case "self_signed":
	case "file":
		if o.Cert == "" || o.Key == "" {
			return fault.New(fault.Invalid, "--tls-mode file needs --cert-path and --key-path")
		}
	case "autocert", "acme":
		if len(certs.Identifiers(o.Hostname, o.Domain)) == 0 {
			return fault.WithHint(fault.Newf(fault.Invalid, "--tls-mode %s: nobody vouches for %s", o.TLSMode, o.Hostname), "a domain with a dot or a public IP address is needed; --tls-mode self_signed does without")
		}
	default:
		return fault.WithHint(fault.Newf(fault.Invalid, "--tls-mode: %.40q is no way to a certificate", o.TLSMode), "autocert, acme, file or self_signed")
	}
	if o.TLSMode != "acme" && o.DNSProvider+o.DNSToken != "" {
		return fault.Newf(fault.Invalid, "--acme-dns-provider and --acme-dns-token go with --tls-mode acme, not with %s", o.TLSMode)
	}
	o.Obtain = o.Obtain && (o.TLSMode == "autocert" || o.TLSMode == "acme")
	if o.HTTPListen == "" {
		o.HTTPListen = "[::]:80"
	}
	if _, _, err := net.SplitHostPort(o.HTTPListen); err != nil {
		return fault.Newf(fault.Invalid, "--http-listen: %.80q is not host:port", o.HTTPListen)
	}
	if o.MaxMessageSize != "" {
		if _, err := units.ParseSize(o.MaxMessageSize); err != nil {
			return fault.Wrap(fault.Invalid, err, "--max-message-size")
		}
	}
	if o.TURN && o.TURNSecret == "" {
		o.TURNSecret = secret()
	}
	if o.SS && o.SSPassword == "" {
		o.SSPassword = secret()
	}
	return nil
}

// ConfigText is the first configuration.
func (o Options) ConfigText() []byte {
	var b bytes.Buffer
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %q\n", key, value)
		}
	}
	fmt.Fprintf(&b, "# Configuration of %s. Every key is optional; docs/operate.md lists them all.\n# What was stored with \"%s settings set\" beats this file, and\n# \"%s reload\" reads it again.\n\n", o.Name, o.Name, o.Name)
	b.WriteString("# The name of this machine, and the domain of the addresses it makes.\n")
	line("hostname", o.Hostname)
	line("primary_domain", o.Domain)
	line("public_ip", o.IP)
	b.WriteString("\n# Where things are.\n")
	line("state_dir", o.StateDir)
	line("runtime_dir", "/run/"+o.Name)
	b.WriteString("\n# Where clients and other servers connect, by IPv4 and IPv6. Remove a line to switch it off.\n")
	for _, l := range [][2]string{
		{"smtp_listen", "[::]:25"}, {"submission_listen", "[::]:587"}, {"submission_tls_listen", "[::]:465"},
		{"imap_listen", "[::]:143"}, {"imap_tls_listen", "[::]:993"}, {"http_listen", o.HTTPListen}, {"http_tls_listen", "[::]:443"},
	} {
		line(l[0], l[1])
	}
	b.WriteString("\n# autocert gets a certificate from an authority that asks at port 80, acme one that\n# looks into the DNS; self_signed makes one by itself; file takes tls_cert and tls_key.\n")
	line("tls_mode", o.TLSMode)
	line("tls_cert", o.Cert)
	line("tls_key", o.Key)
	line("acme_email", o.ACMEEmail)
	line("acme_dns_provider", o.DNSProvider)
	line("acme_dns_token", o.DNSToken)
	if o.Staging {
		line("acme_directory", "staging")
	}
	if o.TURN {
		b.WriteString("\n# Relay calls: needs UDP and TCP 3478 and UDP 49152 to 65535 open to the world.\nturn_enable = true\n")
		line("turn_secret", o.TURNSecret)
		line("turn_server", o.TURNServer)
	}
	if o.SS {
		b.WriteString("\n# Shadowsocks, to the services of this server only.\nss_addr = \"[::]:8388\"\n")
		line("ss_password", o.SSPassword)
	}
	if o.Iroh {
		b.WriteString("\n# The relay for realtime apps.\niroh_enable = true\n")
	}
	if o.Sharing {
		b.WriteString("\n# Visitors may make contact pages, at /share.\nenable_contact_sharing = true\n")
	}
	b.WriteString("\n# Nothing is logged unless you say where: off, stderr (the journal), or a path.\nlog = \"off\"\n")
	if o.Language != "" || o.MaxMessageSize != "" {
		b.WriteString("\n")
	}
	line("language", o.Language)
	line("max_message_size", o.MaxMessageSize)
	return b.Bytes()
}

// Install plans what Options ask for. Nothing is done yet; the result is filled while
// the steps are carried out.
func (s System) Install(o Options) ([]Step, *Installed, error) {
	s.existing(&o)
	if err := o.complete(); err != nil {
		return nil, nil, err
	}
	if !o.Force {
		o.Layout = s.found(o.Layout)
	}
	text := o.ConfigText()
	if _, problems := config.Parse("chatmail.toml", text); len(problems) > 0 {
		return nil, nil, fault.Wrap(fault.Invalid, problems[0], "install")
	}
	out := &Installed{Domain: o.Domain, Config: o.Config(), TURN: o.TURN, SS: o.SS, Cert: o.Cert, Key: o.Key, TLSMode: o.TLSMode}
	var steps []Step
	step := func(text string, do func(ctx context.Context) error) { steps = append(steps, Step{text, do}) }
	uid, gid := -1, -1
	own := func(path string, u, g int) error {
		if s.Chown == nil || g < 0 {
			return nil
		}
		return s.Chown(s.at(path), u, g)
	}
	if !o.SkipUser && s.Root == "" {
		step("user "+o.User, func(ctx context.Context) error {
			var ok bool
			if uid, gid, ok = s.IDs(o.User, o.Group); ok {
				return nil
			}
			if _, err := s.Run(ctx, "useradd", "--system", "--user-group", "--home-dir", o.StateDir, "--no-create-home", "--shell", "/usr/sbin/nologin", o.User); err != nil {
				return fault.WithHint(err, "make the user by other means, and run this with --skip-user")
			}
			if uid, gid, ok = s.IDs(o.User, o.Group); !ok {
				return fault.Newf(fault.NotFound, "there is no user %s with a group %s", o.User, o.Group)
			}
			return nil
		})
	}
	dir := func(path string, mode os.FileMode, ours bool) {
		step("directory "+path, func(context.Context) error {
			if err := os.MkdirAll(s.at(path), mode); err != nil {
				return fault.Wrap(fault.Invalid, err, "make it")
			}
			if ours {
				return own(path, uid, gid)
			}
			return own(path, 0, gid)
		})
	}
	dir(o.ConfigDir, 0o755, false)
	dir(filepath.Join(o.ConfigDir, "certs"), 0o750, false)
	dir(o.StateDir, 0o750, true)
	dir(filepath.Join(o.StateDir, "certs"), 0o750, true)
	if o.TLSMode == "file" {
		step("certificate "+o.Cert, func(context.Context) error {
			_, err := certs.Open(certs.Options{Cert: s.at(o.Cert), Key: s.at(o.Key)})
			return err
		})
	} else {
		step("self-signed certificate for "+o.Hostname, func(context.Context) error {
			cert, key := certs.DefaultPaths(o.StateDir)
			out.Cert, out.Key = cert, key
			if _, err := certs.Open(certs.Options{Cert: s.at(cert), Key: s.at(key), Make: true, Names: []string{o.Hostname, o.Domain, o.IP}, Now: s.Now}); err != nil {
				return err
			}
			return errors.Join(own(cert, uid, gid), own(key, uid, gid))
		})
	}
	step("configuration "+o.Config(), func(context.Context) error {
		old, err := os.ReadFile(s.at(o.Config()))
		switch {
		case err == nil && !o.Force:
			out.ConfigKept = true
			return nil
		case err == nil:
			out.ConfigBackup = o.Config() + ".bak"
			if err := safefile.Write(s.at(out.ConfigBackup), old, 0o600); err != nil {
				return err
			}
		case !errors.Is(err, os.ErrNotExist):
			return fault.Wrap(fault.Invalid, err, "read it")
		}
		if err := safefile.Write(s.at(o.Config()), text, 0o640); err != nil {
			return err
		}
		return own(o.Config(), 0, gid)
	})
	if o.Obtain {
		step("certificate from an authority for "+o.Hostname, func(ctx context.Context) error {
			s.order(ctx, o, out)
			return nil
		})
	}
	if o.Program != "" {
		step("program "+o.Binary, func(context.Context) error { return s.copyProgram(o.Program, o.Binary) })
	}
	man, bash, zsh, fish := o.Documents()
	for _, f := range []struct {
		path string
		data []byte
	}{{man, o.Man}, {bash, o.Bash}, {zsh, o.Zsh}, {fish, o.Fish}} {
		if f.data != nil {
			step("file "+f.path, func(context.Context) error { return s.write(f.path, f.data) })
		}
	}
	if !o.SkipUnit {
		step("unit "+o.Unit(), func(ctx context.Context) error {
			out.Unit = true
			if err := s.write(o.Unit(), o.UnitText()); err != nil || !s.Manager {
				return err
			}
			_, err := s.Run(ctx, "systemctl", "daemon-reload")
			return err
		})
		if o.Start {
			step("start "+o.Service, func(ctx context.Context) error {
				if !s.Manager {
					return fault.New(fault.Refused, "systemd does not run here")
				}
				if _, err := s.Run(ctx, "systemctl", "enable", "--now", o.Service); err != nil {
					return fault.WithHint(err, "systemctl status "+o.Service)
				}
				out.Started = true
				return nil
			})
		}
	}
	return steps, out, nil
}

// existing finds a pair of an operator where one belongs.
func (s System) existing(o *Options) {
	l := o.Fill()
	cert, key := filepath.Join(l.ConfigDir, "certs", "fullchain.pem"), filepath.Join(l.ConfigDir, "certs", "privkey.pem")
	if o.TLSMode == "" && o.Cert == "" && o.Key == "" {
		if _, _, err := certs.Inspect(s.at(cert), s.at(key)); err == nil {
			o.Cert, o.Key = cert, key
		}
	}
}

// order gets a certificate. When that fails the self-signed one is good enough to
// start with, and the server goes on trying.
func (s System) order(ctx context.Context, o Options, out *Installed) {
	if s.Order == nil {
		return
	}
	w := certs.Order{Email: o.ACMEEmail, Names: certs.Identifiers(o.Hostname, o.Domain), HTTP: o.HTTPListen}
	w.Cert, w.Key = certs.DefaultPaths(s.at(o.StateDir))
	if o.Staging {
		w.Directory = certs.Staging
	}
	if o.TLSMode == "acme" {
		if w.Zone, out.Trouble = certs.OpenZone(certs.ZoneOptions{Provider: o.DNSProvider, Token: o.DNSToken}); out.Trouble != nil {
			return
		}
	}
	out.Ordered, out.Trouble = s.Order(ctx, s.at(o.StateDir), w)
}

// write puts a file that everybody may read where it belongs.
func (s System) write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(s.at(path)), 0o755); err != nil {
		return fault.Wrap(fault.Invalid, err, "make its directory")
	}
	return safefile.Write(s.at(path), data, 0o644)
}

// copyProgram replaces a binary that may be running: the old one lives on until it
// ends.
func (s System) copyProgram(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "read the program")
	}
	defer src.Close()
	a, aerr := src.Stat()
	b, berr := os.Stat(s.at(to))
	if aerr == nil && berr == nil && os.SameFile(a, b) {
		return nil // it is there already, perhaps by a link
	}
	if err := os.MkdirAll(filepath.Dir(s.at(to)), 0o755); err != nil {
		return fault.Wrap(fault.Invalid, err, "make its directory")
	}
	tmp := s.at(to) + ".new"
	dst, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "write the program")
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Chmod(0o755), dst.Sync(), dst.Close()); err == nil {
		err = os.Rename(tmp, s.at(to))
	}
	if err != nil {
		return errors.Join(fault.Wrap(fault.Busy, err, "write the program"), os.Remove(tmp))
	}
	return nil
}

// Ports lists what a firewall has to let in, as "tcp 993  clients fetch mail".
func Ports(turn, ss, iroh bool) []string {
	list := []string{
		"tcp 993  clients fetch mail (TLS)", "tcp 143  clients fetch mail (STARTTLS)", "tcp 465  clients send mail (TLS)", "tcp 587  clients send mail (STARTTLS)",
		"tcp 443  invite page, other servers, all of the above where a network lets nothing else through", "tcp 80   invite page", "tcp 25   mail from other servers",
	}
	if turn {
		list = append(list, "udp 3478  calls", "tcp 3478  calls", "udp 49152:65535  calls, what is relayed")
	}
	if ss {
		list = append(list, "tcp 8388  Shadowsocks")
	}
	if iroh {
		list = append(list, "tcp 3340  realtime apps")
	}
	return list
}

// Rules are the ports as arguments of ufw or nft scripts: "993/tcp".
func Rules(turn, ss, iroh bool) (list []string) {
	for _, p := range Ports(turn, ss, iroh) {
		f := strings.Fields(p)
		list = append(list, f[1]+"/"+f[0])
	}
	return list
}

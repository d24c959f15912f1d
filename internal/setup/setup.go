// Package setup puts the program on a machine and takes it away: the service's
// user, directories, a first configuration, a certificate, the systemd unit, the
// manual page and completions.
//
// It needs no server, knows nothing of mail, and never overwrites a configuration
// unless it is told to. What it does is a list of steps that can be shown before
// it is done; doing it twice changes nothing more. All paths derive from one name.
package setup

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"madmail/internal/address"
	"madmail/internal/certs"
	"madmail/internal/fault"
)

// System is the machine. Its zero value does nothing: use Machine, or fill it in a
// test.
type System struct {
	// Root is a prefix of every path that is written, for images; "" is the machine
	// itself. With one no program is run.
	Root string
	// Run runs a program and returns what it printed.
	Run func(ctx context.Context, name string, args ...string) (string, error)
	// IDs are the numbers of a user and a group; ok is false when one is not there.
	IDs func(userName, groupName string) (uid, gid int, ok bool)
	// Chown gives a path away; nil keeps it.
	Chown func(path string, uid, gid int) error
	// Manager reports whether systemd runs here.
	Manager bool
	Now     func() time.Time
	// Order gets a certificate from an authority, for the state directory. nil leaves
	// that to the server.
	Order func(ctx context.Context, stateDir string, o certs.Order) (action string, err error)
}

// Machine is this machine, or an image of one below root.
func Machine(root string) System {
	s := System{Root: root, Now: time.Now, Run: run, IDs: ids}
	if root == "" {
		_, err := os.Stat("/run/systemd/system")
		s.Manager = err == nil
		s.Order = func(ctx context.Context, stateDir string, o certs.Order) (string, error) {
			return certs.NewACME(stateDir, nil, nil).Obtain(ctx, o)
		}
		if os.Geteuid() == 0 {
			s.Chown = os.Lchown
		}
	}
	return s
}

// run runs a program of the system, for at most two minutes.
func run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fault.Wrap(fault.Internal, errors.Join(err, errors.New(text)), name+" "+strings.Join(args, " "))
	}
	return text, nil
}

func ids(userName, groupName string) (uid, gid int, ok bool) {
	u, uerr := user.Lookup(userName)
	g, gerr := user.LookupGroup(groupName)
	if uerr != nil || gerr != nil {
		return 0, 0, false
	}
	uid, uerr = strconv.Atoi(u.Uid)
	gid, gerr = strconv.Atoi(g.Gid)
	return uid, gid, uerr == nil && gerr == nil
}

// at is where a path of the machine lies.
func (s System) at(path string) string { return filepath.Join(s.Root, path) }

func (s System) exists(path string) bool {
	_, err := os.Lstat(s.at(path))
	return err == nil
}

// Layout says where things are. Fill names what is empty.
type Layout struct {
	Name      string // of the binary, the service and the directories
	Service   string // of the unit, without ".service"
	ConfigDir string
	StateDir  string
	Binary    string
	UnitDir   string
	User      string
	Group     string
	// ConfigFile is a configuration that is there already; "" is chatmail.toml of ours.
	ConfigFile string
}

// Fill derives what is empty from the name.
func (l Layout) Fill() Layout {
	for _, x := range []struct {
		at   *string
		text string
	}{
		{&l.Service, l.Name}, {&l.ConfigDir, "/etc/" + l.Name}, {&l.StateDir, "/var/lib/" + l.Name}, {&l.Binary, "/usr/local/bin/" + l.Name},
		{&l.UnitDir, "/etc/systemd/system"}, {&l.User, l.Name}, {&l.Group, l.User},
	} {
		if *x.at == "" {
			*x.at = x.text
		}
	}
	if l.Group == "" {
		l.Group = l.User
	}
	return l
}

// Config is the path of the configuration.
func (l Layout) Config() string {
	if l.ConfigFile != "" {
		return l.ConfigFile
	}
	return filepath.Join(l.ConfigDir, "chatmail.toml")
}

// found returns l with the configuration of an earlier version, where there is one and
// none of ours.
func (s System) found(l Layout) Layout {
	if old := filepath.Join(l.ConfigDir, l.Name+".conf"); !s.exists(l.Config()) && s.exists(old) {
		l.ConfigFile = old
	}
	return l
}

// Unit is the path of the systemd unit.
func (l Layout) Unit() string { return filepath.Join(l.UnitDir, l.Service+".service") }

// Documents are the paths of the manual page and of the completions.
func (l Layout) Documents() (man, bash, zsh, fish string) {
	return "/usr/share/man/man1/" + l.Name + ".1", "/usr/share/bash-completion/completions/" + l.Name,
		"/usr/share/zsh/site-functions/_" + l.Name, "/usr/share/fish/vendor_completions.d/" + l.Name + ".fish"
}

// UsualState reports whether the service manager makes the state directory.
func (l Layout) UsualState() bool { return l.StateDir == "/var/lib/"+l.Name }

//go:embed unit.tmpl
var unitText string

var unitTemplate = template.Must(template.New("unit").Parse(unitText))

// UnitText is the systemd unit.
func (l Layout) UnitText() []byte {
	var b bytes.Buffer
	// Every field of the template is one of the type: this cannot fail.
	_ = unitTemplate.Execute(&b, struct {
		Layout
		Config string
	}{l, l.Config()})
	return b.Bytes()
}

// check refuses names and paths that would write units or shells something else.
func (l Layout) check() error {
	for what, name := range map[string]string{"name": l.Name, "service": l.Service, "user": l.User, "group": l.Group} {
		if !plainName(name) {
			return fault.WithHint(fault.Newf(fault.Invalid, "%.60q is not a %s", name, what), "letters, digits, - and _, beginning with a letter or _")
		}
	}
	for what, path := range map[string]string{"config-dir": l.ConfigDir, "state-dir": l.StateDir, "binary-path": l.Binary, "systemd-path": l.UnitDir} {
		if !filepath.IsAbs(path) || strings.ContainsFunc(path, func(r rune) bool {
			return r <= ' ' || r == '"' || r == '\'' || r == '%' || r == '$' || r == '\\' || r == 0x7f
		}) {
			return fault.WithHint(fault.Newf(fault.Invalid, "--%s: %.200q is not a path for a service", what, path), "write it from / on, without blanks")
		}
	}
	return nil
}

func plainName(s string) bool {
	if s == "" || len(s) > 32 || s[0] == '-' || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	})
}

// host reads a domain or an address for the configuration: "192.0.2.1", "[192.0.2.1]"
// and "chat.example.org" are.
func host(text string) (name string, ip netip.Addr, err error) {
	d, err := address.ParseDomain(strings.TrimSpace(text))
	if err != nil {
		return "", netip.Addr{}, fault.WithHint(fault.Newf(fault.Invalid, "%.80q is neither a domain nor an IP address", text), `write "chat.example.org" or "192.0.2.1"`)
	}
	ip, _ = d.IP()
	return d.Host(), ip, nil
}

// Step is one thing to do.
type Step struct {
	Text string // what it does, for people
	Do   func(ctx context.Context) error
}

// Carry does the steps one after the other, and stops at the first that fails.
// told hears of each before it begins.
func Carry(ctx context.Context, steps []Step, told func(string)) error {
	for _, s := range steps {
		if told != nil {
			told(s.Text)
		}
		if err := s.Do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.Text, err)
		}
	}
	return nil
}

// Texts are what the steps do.
func Texts(steps []Step) []string {
	list := make([]string, len(steps))
	for i, s := range steps {
		list[i] = s.Text
	}
	return list
}

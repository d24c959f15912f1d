package setup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/config"
	"madmail/internal/fault"
)

// machine is a system in a directory whose programs are only written down.
type machine struct {
	System
	ran   []string
	user  bool
	owned map[string][2]int
	fail  string // a program that fails
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{owned: make(map[string][2]int)}
	root := t.TempDir()
	m.System = System{
		Manager: true, Now: time.Now,
		Run: func(_ context.Context, name string, args ...string) (string, error) {
			m.ran = append(m.ran, strings.Join(append([]string{name}, args...), " "))
			if name == m.fail {
				return "", errors.New("no")
			}
			if name == "useradd" {
				m.user = true
			}
			if name == "userdel" {
				m.user = false
				if slices.Contains(args, "-r") || slices.Contains(args, "--remove") {
					return "", os.RemoveAll(filepath.Join(root, "state")) // as the program does
				}
			}
			return "", nil
		},
		IDs:   func(string, string) (int, int, bool) { return 990, 991, m.user },
		Chown: func(path string, uid, gid int) error { m.owned[path] = [2]int{uid, gid}; return nil },
	}
	return m
}

// layout is below the machine's directory, without Root: programs are run.
func (m *machine) layout(dir string) Layout {
	return Layout{
		Name: "madmailtest", ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "state"), Binary: filepath.Join(dir, "bin", "madmailtest"), UnitDir: filepath.Join(dir, "units"),
	}
}

func carry(t *testing.T, steps []Step, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if err := Carry(t.Context(), steps, nil); err != nil {
		t.Fatal(err)
	}
}

func program(t *testing.T) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(p, []byte("binary"), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestInstallPutsEverythingInItsPlaceAndTwiceIsOnce: operator specification 10.1.
func TestInstallPutsEverythingInItsPlaceAndTwiceIsOnce(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	o := Options{Layout: m.layout(dir), Domain: "Chat.Example.org", TURN: true, SS: true, Language: "fa", MaxMessageSize: "50M", Start: true, Program: program(t)}
	steps, done, err := m.Install(o)
	if len(m.ran) > 0 || m.exists(o.ConfigDir) {
		t.Fatal("a plan changed something")
	}
	carry(t, steps, err)
	if !done.Unit || !done.Started || done.ConfigKept || done.Domain != "chat.example.org" {
		t.Errorf("%+v", done)
	}
	l := o.Fill()
	c, err := config.Load(l.Config())
	if err != nil {
		t.Fatal(err)
	}
	if c.Hostname != "chat.example.org" || c.StateDir != o.StateDir || !c.TURNEnable || len(c.TURNSecret) != 22 || len(c.SSPassword) != 22 || c.Language != "fa" || c.LogTargets()[0] != "off" {
		t.Errorf("%+v", c)
	}
	for path, mode := range map[string]os.FileMode{l.Config(): 0o640, o.Binary: 0o755, l.Unit(): 0o644, filepath.Join(o.StateDir, "certs", "privkey.pem"): 0o600} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	for path, ids := range map[string][2]int{o.StateDir: {990, 991}, l.Config(): {0, 991}, filepath.Join(o.StateDir, "certs", "privkey.pem"): {990, 991}} {
		if m.owned[path] != ids {
			t.Errorf("%s belongs to %v", path, m.owned[path])
		}
	}
	unit, _ := os.ReadFile(l.Unit())
	if !strings.Contains(string(unit), "ExecStart="+o.Binary+" --config "+l.Config()+" run --libexec "+o.StateDir+"\n") || strings.Contains(string(unit), "\nStateDirectory=") {
		t.Errorf("the unit is\n%s", unit)
	}
	want := []string{"useradd --system --user-group --home-dir " + o.StateDir + " --no-create-home --shell /usr/sbin/nologin madmailtest", "systemctl daemon-reload", "systemctl enable --now madmailtest"}
	if !slices.Equal(m.ran, want) {
		t.Errorf("ran %q", m.ran)
	}

	// Again: secrets, certificate and configuration stay (known-failures B75).
	before, _ := os.ReadFile(l.Config())
	key, _ := os.ReadFile(filepath.Join(o.StateDir, "certs", "privkey.pem"))
	o.Domain = "other.example.org"
	steps, done, err = m.Install(o)
	carry(t, steps, err)
	after, _ := os.ReadFile(l.Config())
	keyAfter, _ := os.ReadFile(filepath.Join(o.StateDir, "certs", "privkey.pem"))
	if !done.ConfigKept || string(before) != string(after) || string(key) != string(keyAfter) || strings.HasPrefix(m.ran[3], "useradd") {
		t.Errorf("installing again changed something: %+v, %q", done, m.ran[3:])
	}
	o.Force = true
	steps, done, err = m.Install(o)
	carry(t, steps, err)
	saved, _ := os.ReadFile(done.ConfigBackup)
	if string(saved) != string(before) {
		t.Errorf("%+v: the copy is not what was there", done)
	}
}

// TestUninstallKeepsTheData: known-failures A11. The user's home is the state
// directory; removing the user with its home lost all mail.
func TestUninstallKeepsTheData(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	o := Options{Layout: m.layout(dir), IP: "192.0.2.1", Program: program(t)}
	steps, _, err := m.Install(o)
	carry(t, steps, err)
	mail := filepath.Join(o.StateDir, "mail", "alice", "message")
	if err := os.MkdirAll(filepath.Dir(mail), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mail, []byte("mail"), 0o600); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(o.ConfigDir, "certs", "fullchain.pem")
	if err := os.WriteFile(own, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.ran = nil
	steps, err = m.Uninstall(Removal{Layout: o.Layout, KeepData: true})
	carry(t, steps, err)
	for _, path := range []string{mail, own} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("lost: %v", err)
		}
	}
	l := o.Fill()
	for _, path := range []string{o.Binary, l.Unit(), l.Config()} {
		if m.exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
	if want := []string{"systemctl disable --now madmailtest", "systemctl daemon-reload"}; !slices.Equal(m.ran, want) || !m.user {
		t.Errorf("ran %q", m.ran)
	}

	// With --force the user goes, and its home stays.
	m.ran = nil
	steps, err = m.Uninstall(Removal{Layout: o.Layout, KeepData: true, Force: true})
	carry(t, steps, err)
	if _, err := os.Stat(mail); err != nil || !slices.Equal(m.ran, []string{"userdel madmailtest"}) {
		t.Errorf("%v, ran %q", err, m.ran)
	}

	// Without it everything goes.
	steps, err = m.Uninstall(Removal{Layout: o.Layout})
	carry(t, steps, err)
	if m.exists(o.StateDir) || m.exists(o.ConfigDir) {
		t.Error("something is left")
	}
	if steps, err = m.Uninstall(Removal{Layout: o.Layout}); err != nil || len(steps) > 0 {
		t.Errorf("%q, %v: nothing was there", Texts(steps), err)
	}
}

// TestUninstallTakesNothingOfOthers: a directory without anything of ours, and those
// of the system, stay.
func TestUninstallTakesNothingOfOthers(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	l := m.layout(dir)
	if err := os.MkdirAll(filepath.Join(l.StateDir, "pictures"), 0o700); err != nil {
		t.Fatal(err)
	}
	if steps, err := m.Uninstall(Removal{Layout: l}); !fault.Is(err, fault.Refused) {
		t.Errorf("%q, %v", Texts(steps), err)
	}
	for _, path := range []string{"/", "/var/lib", "/etc/", "/home/../home"} {
		if err := (System{Root: t.TempDir()}).remove(path); !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// The first version's helper goes when it was ours, and stays when not.
	other := filepath.Join(l.UnitDir, "iroh-relay.service")
	if err := os.MkdirAll(l.UnitDir, 0o700); err != nil {
		t.Fatal(err)
	}
	for text, ours := range map[string]bool{"ExecStart=/bin/other\n": false, "ExecStart=" + l.StateDir + "/iroh-relay\n": true} {
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		steps, err := m.Uninstall(Removal{Layout: l, KeepData: true})
		if err != nil || slices.Contains(Texts(steps), "remove unit "+other) != ours {
			t.Errorf("%q: %q, %v", text, Texts(steps), err)
		}
	}
}

// TestTheConfigurationOfAnEarlierVersionCounts: it is used as it is, and the unit names
// it.
func TestTheConfigurationOfAnEarlierVersionCounts(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	o := Options{Layout: m.layout(dir), Domain: "a.example"}
	old := filepath.Join(o.ConfigDir, "madmailtest.conf")
	if err := errors.Join(os.MkdirAll(o.ConfigDir, 0o755), os.WriteFile(old, []byte("hostname a.example\n"), 0o640)); err != nil {
		t.Fatal(err)
	}
	steps, done, err := m.Install(o)
	carry(t, steps, err)
	unit, err := os.ReadFile(o.Fill().Unit())
	if err != nil || !done.ConfigKept || done.Config != old || m.exists(filepath.Join(o.ConfigDir, "chatmail.toml")) || !strings.Contains(string(unit), " --config "+old+" run ") {
		t.Errorf("%+v, %v, the unit is\n%s", done, err, unit)
	}
	if text, err := os.ReadFile(old); err != nil || string(text) != "hostname a.example\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestInstallRefusesWhatCannotWork(t *testing.T) {
	m := newMachine(t)
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"nothing said":      {Options{}, "neither a domain nor an IP address"},
		"no domain":         {Options{Domain: "chat example"}, "neither a domain nor an IP address"},
		"no address":        {Options{Domain: "a.example", IP: "b.example"}, "is not an IP address"},
		"ACME for nobody":   {Options{Domain: "localhost", TLSMode: "autocert"}, "nobody vouches for localhost"},
		"a provider":        {Options{Domain: "a.example", TLSMode: "acme", DNSProvider: "namecheap"}, "cloudflare, digitalocean"},
		"no provider":       {Options{Domain: "a.example", TLSMode: "acme"}, "needs acme_dns_provider"},
		"a token too much":  {Options{Domain: "a.example", TLSMode: "autocert", DNSToken: "x"}, "go with --tls-mode acme"},
		"half a pair":       {Options{Domain: "a.example", Cert: "/x"}, "--tls-mode file needs"},
		"another mode":      {Options{Domain: "a.example", TLSMode: "off"}, "is no way to a certificate"},
		"size":              {Options{Domain: "a.example", MaxMessageSize: "much"}, "--max-message-size"},
		"language":          {Options{Domain: "a.example", Language: "tlh"}, "language"},
		"listen":            {Options{Domain: "a.example", HTTPListen: "80"}, "--http-listen"},
		"a name for shells": {Options{Domain: "a.example", Layout: Layout{Name: "mad;mail"}}, "is not a"},
		"a path for units":  {Options{Domain: "a.example", Layout: Layout{Name: "madmail", StateDir: "/var/lib/%h"}}, "is not a path for a service"},
		"a relative path":   {Options{Domain: "a.example", Layout: Layout{Name: "madmail", StateDir: "data"}}, "is not a path for a service"},
	} {
		if c.o.Name == "" {
			c.o.Name = "madmail"
		}
		if _, _, err := m.Install(c.o); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestInstallStopsWhereSomethingFails: later steps are not done, and the error names
// the step.
func TestInstallStopsWhereSomethingFails(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	m.fail = "useradd"
	o := Options{Layout: m.layout(dir), Domain: "a.example"}
	steps, _, err := m.Install(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Carry(t.Context(), steps, nil); err == nil || !strings.HasPrefix(err.Error(), "user madmailtest: ") || m.exists(o.ConfigDir) {
		t.Errorf("%v", err)
	}
	// A certificate of one's own must be there and fit.
	o.SkipUser, o.TLSMode, o.Cert, o.Key = true, "file", filepath.Join(dir, "c"), filepath.Join(dir, "k")
	if steps, _, err = m.Install(o); err != nil {
		t.Fatal(err)
	}
	if err := Carry(t.Context(), steps, nil); err == nil || !strings.Contains(err.Error(), o.Cert) || m.exists(o.Fill().Config()) {
		t.Errorf("%v", err)
	}
}

// TestAllPathsDeriveFromOneName: a copy called maddy has directories of that name.
func TestAllPathsDeriveFromOneName(t *testing.T) {
	l := Layout{Name: "maddy"}.Fill()
	if l.Config() != "/etc/maddy/chatmail.toml" || l.StateDir != "/var/lib/maddy" || l.Binary != "/usr/local/bin/maddy" || l.Unit() != "/etc/systemd/system/maddy.service" || l.User != "maddy" || l.Group != "maddy" {
		t.Errorf("%+v", l)
	}
	if text := string(l.UnitText()); strings.Contains(text, "madmail") || !strings.Contains(text, "\nStateDirectory=maddy\n") {
		t.Errorf("the unit is\n%s", text)
	}
	// The relay's ports of calls are named (known-failures B61).
	if r := Rules(true, true, true); !slices.Contains(r, "49152:65535/udp") || !slices.Contains(r, "3478/tcp") || !slices.Contains(r, "8388/tcp") {
		t.Errorf("%q", r)
	}
}

package app

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/admintoken"
	"madmail/internal/adminui"
	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/doctor"
	"madmail/internal/fault"
	"madmail/internal/settings"
)

// clocks are web servers whose time is believed, and that operators of mail servers
// talk to anyway.
var clocks = []string{"https://acme-v02.api.letsencrypt.org/directory", "https://delta.chat/"}

// maxMeasured bounds how many accounts a checkup measures.
const maxMeasured = 200

// doctorFacts tell a doctor about this server.
func (a *App) doctorFacts(context.Context) (doctor.Facts, error) {
	running := !a.opt.Offline
	f := doctor.Facts{
		Running: running, PID: os.Getpid(), StateDir: absolute(a.StateDir), Hostname: a.clientHost(),
		Domain: a.domains.Registration(), Clocks: clocks, Token: a.currentToken, Disk: func() (int64, int64, uint64, uint64, bool) { return diskRoom(a.StateDir) },
		Descriptors: openFiles, Wanted: uint64(a.settings.Current().Number(settings.IMAPSessions)) + 1000, Configuration: a.configurationNow,
		Secrets: a.secretFiles(), Logging: a.loggingNow, State: func() error { return nil }, Foreign: func() ([]string, string) { return foreign(a.StateDir, a.secretFiles()) },
		Site: a.siteForDoctor,
		Panel: func() (bool, bool) {
			return adminui.Files() != nil, a.settings.Current().Bool(settings.AdminWebEnabled)
		},
		Registration: func() (open, jit, tokens bool) {
			s := a.settings.Current()
			return s.Bool(settings.RegistrationOpen), s.Bool(settings.RegistrationOpen) && s.Bool(settings.JITRegistration), s.Bool(settings.TokenRequired)
		},
		Sharing: func(ctx context.Context) (bool, int, []string, error) {
			hidden, links, err := a.shares.Hidden(ctx)
			return a.settings.Current().Bool(settings.ContactSharing), links, hidden, err
		},
		Queue: func() (int, map[string]string) {
			m := make(map[string]string)
			for d, why := range a.fed.trouble() {
				m[d.Host()] = why
			}
			return a.fed.queue.Stats().Entries, m
		},
	}
	if !running {
		f.PID = 0
		f.Sockets = a.triedSockets
		f.Certificate = a.certificateOfFile
		f.Renewal = a.renewalForDoctor
		return f, nil
	}
	f.Quota = a.measureForDoctor
	f.Push = func() (bool, int) { return a.pushFacts().Enabled, a.push.Stats().Failures }
	f.Executable, f.RunningFile = executable()
	for _, b := range a.Listeners() {
		l := doctor.Listener{Service: b.Name, Net: b.Net, Addr: b.l.Addr().String(), TLS: b.TLS}
		if ap, err := netip.ParseAddrPort(l.Addr); err == nil {
			l.Local = ap.Addr().IsLoopback()
		}
		f.Listeners = append(f.Listeners, l)
	}
	f.Certificate = func() (*x509.Certificate, bool, error) { return a.certs.Leaf(), a.certs.IsSelfSigned(), nil }
	f.Names = []string{a.clientHost()}
	if _, literal := f.Domain.IP(); !literal && a.stsPolicy() != "" {
		f.Names = append(f.Names, a.zoneFacts().Host)
	}
	path := a.settings.Current().Text(settings.AdminPath)
	if p := a.port("http"); p != 0 {
		f.AdminURL = "http://" + a.reachable("http", p) + path
	} else if p := a.port("http_tls"); p != 0 {
		f.AdminURL = "https://" + a.reachable("http_tls", p) + path
	}
	f.NewAccount = func(ctx context.Context) (doctor.Account, error) {
		c, err := a.accounts.CreateRandom(ctx, account.Random{Domain: a.domains.Registration()})
		return doctor.Account{Addr: c.Addr.Wire(), Password: string(c.Password)}, err
	}
	f.Drop = func(ctx context.Context, x doctor.Account) error {
		who, err := address.Parse(x.Addr)
		if err != nil {
			return err
		}
		return a.forget(ctx, who)
	}
	f.TURN = a.turnForDoctor
	f.Renewal = a.renewalForDoctor
	return f, nil
}

// Examine returns what a doctor can be told where the state cannot be opened, which is
// the trouble.
func Examine(opt Options, trouble error) doctor.Facts {
	conf, err := config.Load(opt.ConfigPath)
	if err != nil {
		conf = &config.Config{}
	}
	dir := conf.FindStateDir(opt.StateDir, opt.Env)
	return doctor.Facts{
		StateDir: absolute(dir), State: func() error { return trouble }, Descriptors: openFiles, Wanted: 21000,
		Configuration: func() (string, bool, error) { return opt.ConfigPath, false, err },
		Disk:          func() (int64, int64, uint64, uint64, bool) { return diskRoom(dir) },
		Foreign:       func() ([]string, string) { return foreign(dir, []string{filepath.Join(dir, admintoken.FileName)}) },
	}
}

// loggingNow tells whether a log is written, and why.
func (a *App) loggingNow() (on bool, why string) {
	conf := a.conf.Load()
	switch {
	case !a.Log.Enabled():
		return false, ""
	case a.opt.Debug:
		return true, "debug on the command line"
	case conf.Debug:
		return true, "debug in the configuration"
	}
	return true, "log = " + strings.Join(conf.LogTargets(), " ")
}

// triedSockets opens what a server would open, and closes it.
func (a *App) triedSockets() (errs []error) {
	for _, w := range a.wanted(a.conf.Load(), a.settings.Current()) {
		l, err := open(w)
		switch {
		case err == nil:
			l.Close()
		case w.Name != "stun": // goes without
			errs = append(errs, bindError(w, nil, err))
		}
	}
	return errs
}

// certificateOfFile is the certificate that a server would use.
func (a *App) certificateOfFile() (*x509.Certificate, bool, error) {
	cert, key := certs.DefaultPaths(a.StateDir)
	if conf := a.conf.Load(); conf.TLSCert != "" || conf.TLSKey != "" {
		cert, key = conf.TLSCert, conf.TLSKey
	} else if _, err := os.Stat(cert); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // the first start makes it
	}
	m, err := certs.Open(certs.Options{Cert: cert, Key: key})
	if err != nil {
		return nil, false, err
	}
	return m.Leaf(), m.IsSelfSigned(), nil
}

// reachable is where a listener answers on this machine.
func (a *App) reachable(name string, port int) string {
	host := "127.0.0.1"
	for _, b := range a.Listeners() {
		if ap, err := netip.ParseAddrPort(b.l.Addr().String()); b.Name == name && err == nil && !ap.Addr().IsUnspecified() {
			host = ap.Addr().String()
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// measureForDoctor compares what is counted with what lies on disk.
func (a *App) measureForDoctor(ctx context.Context) (n, wrong int, err error) {
	done := fault.New(fault.Full, "enough")
	err = a.store.Accounts(ctx, func(x address.Addr) error {
		// The counter moves while mail comes and goes: only the store, with nothing
		// under way, can tell a mistake from that.
		u, err := a.store.Usage(ctx, x)
		if err != nil {
			return err
		}
		if u.Mended {
			wrong++
		}
		if n++; n >= maxMeasured {
			return done
		}
		return nil
	})
	if fault.Is(err, fault.Full) {
		err = nil
	}
	return n, wrong, err
}

// configurationNow reads the file again and compares its time with that of the last
// reading.
func (a *App) configurationNow() (path string, newer bool, err error) {
	path = a.conf.Load().File
	if a.opt.ConfigPath != "" {
		path = a.opt.ConfigPath
	}
	if path == "" {
		return "", false, nil
	}
	if _, err := config.Load(path); err != nil {
		return path, false, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return path, false, nil
	}
	return path, !a.opt.Offline && info.ModTime().After(time.Unix(0, a.readAt.Load())), nil
}

// secretFiles are those that nobody else may read.
func (a *App) secretFiles() []string {
	list := []string{filepath.Join(a.StateDir, "admin_token"), a.db.Path(), a.shares.Path()}
	for _, r := range a.fed.keys.Records() {
		list = append(list, r.KeyPath)
	}
	if accounts, err := filepath.Glob(filepath.Join(a.StateDir, "autocert", "*account*")); err == nil {
		list = append(list, accounts...)
	}
	if key := a.conf.Load().TLSKey; key != "" {
		list = append(list, key)
	} else {
		list = append(list, filepath.Join(a.StateDir, "certs", "privkey.pem"))
	}
	return list
}

// turnForDoctor returns where calls are relayed, and credentials.
func (a *App) turnForDoctor() (addr, user, password string, on bool) {
	for _, b := range a.Listeners() {
		if b.Name == "turn" {
			addr = b.l.Addr().String()
		}
	}
	s := a.calls.turn.Load()
	if addr == "" || s == nil {
		return "", "", "", false
	}
	c := s.Credentials("doctor", time.Hour)
	return addr, c.User, c.Password, true
}

// executable returns the path of the program and what this process runs of it.
func executable() (path, running string) {
	path, err := os.Executable()
	if err != nil {
		return "", ""
	}
	running = "/proc/self/exe"
	if _, err := os.Stat(running); err != nil {
		return "", ""
	}
	return strings.TrimSuffix(path, " (deleted)"), running
}

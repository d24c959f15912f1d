package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"madmail/internal/config"
	"madmail/internal/fault"
)

// Removal is what an operator wants to be rid of.
type Removal struct {
	Layout
	KeepData, KeepConfig, KeepBinary, KeepUser bool
	// Force removes the user even where its data stay.
	Force bool
}

// belongs are names of which at least one is in a state directory of ours.
var belongs = []string{"credentials.db", "chatmail.db", "imapsql.db", "sharing.db", "admin_token", "mail", "remote_queue", "certs"}

// Uninstall plans the removal of what is found. No steps mean that nothing is
// there.
//
// The user's home is the state directory: it is never removed together with the
// user, and where data stay the user stays, too, so that their owner has a name.
func (s System) Uninstall(r Removal) ([]Step, error) {
	r.Layout = r.Fill()
	if err := r.check(); err != nil {
		return nil, err
	}
	r.Layout = s.found(r.Layout)
	var steps []Step
	step := func(text string, do func(ctx context.Context) error) { steps = append(steps, Step{text, do}) }
	state := r.StateDir
	if c, err := config.Load(s.at(r.Config())); err == nil && c.StateDir != "" && r.StateDir == "/var/lib/"+r.Name {
		state = c.StateDir
	}
	remove := func(what, path string) {
		if s.exists(path) {
			step("remove "+what+" "+path, func(context.Context) error { return s.remove(path) })
		}
	}
	units := []string{r.Unit()}
	if other := filepath.Join(r.UnitDir, "iroh-relay.service"); s.mentions(other, state) {
		units = append(units, other) // the first version had one
	}
	reload := false
	for _, u := range units {
		if !s.exists(u) {
			continue
		}
		reload = true
		if name := strings.TrimSuffix(filepath.Base(u), ".service"); s.Manager && s.Root == "" {
			step("stop "+name, func(ctx context.Context) error {
				_, err := s.Run(ctx, "systemctl", "disable", "--now", name)
				return err
			})
		}
		remove("unit", u)
	}
	if reload && s.Manager && s.Root == "" {
		step("tell systemd", func(ctx context.Context) error {
			_, err := s.Run(ctx, "systemctl", "daemon-reload")
			return err
		})
	}
	if !r.KeepBinary {
		remove("program", r.Binary)
		remove("versions", "/opt/"+r.Name)
	}
	man, bash, zsh, fish := r.Documents()
	for _, p := range []string{man, bash, zsh, fish} {
		remove("file", p)
	}
	switch {
	case r.KeepConfig:
	case r.KeepData: // certificates of others may lie beside it
		remove("configuration", r.Config())
	default:
		remove("configuration", r.ConfigDir)
	}
	remove("runtime directory", "/run/"+r.Name)
	remove("cache", "/var/cache/"+r.Name)
	if !r.KeepData {
		remove("logs", "/var/log/"+r.Name)
		if s.exists(state) {
			if !slices.ContainsFunc(belongs, func(name string) bool { return s.exists(filepath.Join(state, name)) }) && !s.empty(state) {
				return nil, fault.WithHint(fault.Newf(fault.Refused, "%s holds nothing of a mail server", state), "--keep-data leaves it; remove it by hand if it is to go")
			}
			remove("data", state)
		}
	}
	if _, _, ok := s.ids(r.User, r.Group); ok && !r.KeepUser && (!r.KeepData || r.Force) {
		step("remove user "+r.User, func(ctx context.Context) error {
			_, err := s.Run(ctx, "userdel", r.User) // never with -r
			return err
		})
	}
	return steps, nil
}

// InstallUnit writes the unit alone.
func (s System) InstallUnit(ctx context.Context, l Layout) error {
	l = s.found(l)
	if err := l.check(); err != nil {
		return err
	}
	if !s.exists(l.Config()) {
		return fault.WithHint(fault.Newf(fault.NotFound, "there is no configuration: %s", l.Config()), l.Name+" install makes one")
	}
	if err := s.write(l.Unit(), l.UnitText()); err != nil || !s.Manager {
		return err
	}
	_, err := s.Run(ctx, "systemctl", "daemon-reload")
	return err
}

// RemoveUnit stops the service and removes its unit.
func (s System) RemoveUnit(ctx context.Context, l Layout) error {
	if !s.exists(l.Unit()) {
		return fault.Newf(fault.NotFound, "there is no unit: %s", l.Unit())
	}
	if s.Manager {
		if _, err := s.Run(ctx, "systemctl", "disable", "--now", l.Service); err != nil {
			return err
		}
	}
	if err := s.remove(l.Unit()); err != nil || !s.Manager {
		return err
	}
	_, err := s.Run(ctx, "systemctl", "daemon-reload")
	return err
}

func (s System) ids(userName, groupName string) (uid, gid int, ok bool) {
	if s.Root != "" || s.IDs == nil {
		return 0, 0, false
	}
	return s.IDs(userName, groupName)
}

func (s System) empty(dir string) bool {
	list, err := os.ReadDir(s.at(dir))
	return err == nil && len(list) == 0
}

// mentions reports whether a file has a text.
func (s System) mentions(path, text string) bool {
	raw, err := os.ReadFile(s.at(path))
	return err == nil && strings.Contains(string(raw), text)
}

// system are directories that are nobody's to remove.
var system = []string{"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr",
	"/usr/bin", "/usr/local", "/usr/local/bin", "/usr/share", "/var", "/var/cache", "/var/lib", "/var/log", "/var/spool", "/var/tmp"}

func (s System) remove(path string) error {
	path = filepath.Clean(path)
	if slices.Contains(system, path) {
		return fault.Newf(fault.Refused, "%s belongs to the system", path)
	}
	if err := os.RemoveAll(s.at(path)); err != nil {
		return fault.Wrap(fault.Busy, err, "remove")
	}
	return nil
}

// Log writes what was done, one line each, to a file that only its owner reads.
func (s System) Log(path string, lines []string) error {
	if err := os.MkdirAll(filepath.Dir(s.at(path)), 0o755); err != nil {
		return fault.Wrap(fault.Invalid, err, "make the log's directory")
	}
	f, err := os.OpenFile(s.at(path), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "open the log")
	}
	now := s.Now().UTC().Format("2006-01-02 15:04:05")
	for _, l := range lines {
		if _, err = fmt.Fprintf(f, "%s %s\n", now, l); err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

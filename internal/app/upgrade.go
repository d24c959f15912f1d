package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"madmail/internal/config"
	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/setup"
	"madmail/internal/version"
)

// configuration is the file as it counts.
func (a *App) configuration() ops.Configuration {
	conf := a.conf.Load()
	c := ops.Configuration{File: conf.File, Values: []ops.ConfigValue{}, Notes: []string{}}
	for _, v := range conf.Values() {
		c.Values = append(c.Values, ops.ConfigValue(v))
	}
	for _, n := range conf.Notes {
		c.Notes = append(c.Notes, n.Error())
	}
	return c
}

func (a *App) tree() (setup.Tree, setup.Releases, error) {
	conf := a.conf.Load()
	from, err := setup.WhereReleases(conf.ReleaseURL, conf.ReleaseKey, a.opt.Env)
	if err != nil {
		return setup.Tree{}, from, err
	}
	t := setup.Versions("", config.BinaryName(), from.Key, a.opt.Env)
	t.Service = nil // this process is the service: it restarts by itself
	return t, from, nil
}

// upgrades tells what was installed last, and whether this server can do it by itself.
func (a *App) upgrades() ops.Upgrades {
	u := ops.Upgrades{Version: version.Version, Build: version.BuildID(), Platform: version.Platform()}
	t, _, err := a.tree()
	if err != nil {
		u.Reason = err.Error()
		return u
	}
	list, err := t.List()
	for _, v := range list {
		if v.Meta != nil && u.Last == nil {
			u.Last = &ops.LastUpgrade{Version: v.Version, InstalledAt: v.Meta.InstalledAt, Source: v.Meta.Source, SourceURL: v.Meta.SourceURL, SignatureOK: v.Meta.SignatureOK}
		}
	}
	switch {
	case err != nil:
		u.Reason = err.Error()
	case a.opt.Offline:
		u.Reason = "no server is running"
	case t.Key == nil:
		u.Reason = "this program knows no key of releases (release_key in the configuration)"
	case !startedBy(t):
		u.Reason = "this program was not started by " + t.Link + ", which an upgrade would replace"
	default:
		if u.Reason = mayWrite(t); u.Reason == "" {
			u.Possible = true
		}
	}
	return u
}

// startedBy reports whether a restart runs what the tree's link leads to.
func startedBy(t setup.Tree) bool {
	at, err := filepath.Abs(os.Args[0])
	return err == nil && at == t.Link
}

// mayWrite says why this process cannot change the tree, or "".
func mayWrite(t setup.Tree) string {
	for _, dir := range []string{t.Dir, filepath.Dir(t.Link)} {
		f, err := os.CreateTemp(dir, ".upgrade-*")
		if err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
		if err != nil {
			return "this server may not change " + dir + ", which is as it should be where the service has a user of its own"
		}
	}
	return ""
}

// upgrade takes a program that the key vouches for, and restarts with it.
func (a *App) upgrade(ctx context.Context, from string) (ops.Upgraded, error) {
	t, releases, err := a.tree()
	if err != nil {
		return ops.Upgraded{}, err
	}
	return a.upgradeIn(ctx, t, releases, from)
}

func (a *App) upgradeIn(ctx context.Context, t setup.Tree, releases setup.Releases, from string) (ops.Upgraded, error) {
	if from == "latest" {
		r, err := releases.Latest(ctx, false)
		if err != nil {
			return ops.Upgraded{}, err
		}
		from = r.URL
	}
	data, source, _, err := setup.Fetch(ctx, from, false, nil)
	if err != nil {
		return ops.Upgraded{}, err
	}
	p, err := t.Check(data, false)
	if err != nil {
		return ops.Upgraded{}, err
	}
	v, err := t.Keep(ctx, p, source, from)
	if err != nil {
		return ops.Upgraded{}, err
	}
	s, err := t.Use(ctx, v.Version)
	if err != nil {
		return ops.Upgraded{}, err
	}
	a.log.Info("another version was installed; the server restarts with it", "version", s.Version, "previous", s.Previous)
	if err := a.restart(ctx); err != nil {
		return ops.Upgraded{}, fault.Wrap(fault.KindOf(err), err, "upgrade")
	}
	return ops.Upgraded{Status: "restarting", Version: s.Version, Previous: s.Previous, SignatureOK: s.SignatureOK,
		Message: "version " + s.Version + " was verified and installed; the server restarts with it"}, nil
}

package app

import (
	"bytes"
	"context"
	"errors"
	"os"
	"time"

	"madmail/internal/address"
	"madmail/internal/backup"
	"madmail/internal/db"
	"madmail/internal/delivery"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/ops"
	"madmail/internal/settings"
	"madmail/internal/upkeep"
	"madmail/internal/version"
)

// openKeeper builds what removes old mail and idle accounts.
func (a *App) openKeeper() error {
	k, err := upkeep.NewKeeper(upkeep.KeeperOptions{
		Store: a.store, Accounts: a.accounts, Rules: a.keepingRules, Remove: a.forget,
		Extra: []upkeep.Task{a.blobsTask(), {
			Name: "expire-push-tokens", Doc: "Forget push tokens that no device renewed in 90 days", Every: 24 * time.Hour,
			On: func() (bool, string) { return true, "" },
			Run: func(ctx context.Context, _ time.Duration) (int, error) {
				return a.devices.Expire(ctx, time.Now().AddDate(0, 0, -90), a.accounts.Exists)
			},
		}, a.renewal()},
	})
	if err != nil {
		return err
	}
	a.keeper.Store(k)
	if conf := a.conf.Load(); conf.Retention != "" && a.db.Origin() == db.FromV2 && a.settings.Current().Source(settings.RetentionEnabled) == settings.FromDefault {
		a.log.Warn("the line retention of the configuration is not obeyed: the server before did not obey it, either, and mail would be removed; " +
			"to have it removed, madmail settings set message_retention_enabled true")
	}
	return nil
}

// keepingRules are the rules of this moment. What the file says about retention
// counts, unless the database is the second predecessor's: it never obeyed the
// line that its installer wrote, so obeying it would remove mail that people
// still have (decision D13 of the contract).
func (a *App) keepingRules() upkeep.Rules {
	s, conf := a.settings.Current(), a.conf.Load()
	on := s.Bool(settings.RetentionEnabled)
	if s.Source(settings.RetentionEnabled) == settings.FromDefault {
		on = conf.Retention != "" && a.db.Origin() != db.FromV2
	}
	r := upkeep.Rules{PurgeSeen: s.Bool(settings.AutoPurgeSeen), Unused: duration(conf.UnusedAccountRetention), Dormant: s.Duration(settings.DormantRetention)}
	if on {
		r.Retention = s.Duration(settings.Retention)
	}
	return r
}

// boxChanged is told by the store of every change.
func (a *App) boxChanged(b mailbox.Box) {
	a.bus.Publish(b)
	if k := a.keeper.Load(); k != nil {
		k.Changed(b, a.settings.Current().Bool(settings.AutoPurgeSeen))
	}
}

// forget removes an account with its mail. Its name is free afterwards.
func (a *App) forget(ctx context.Context, x address.Addr) error {
	if err := a.accounts.Delete(ctx, x, ""); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	return a.clear(ctx, x)
}

// clear removes all that belongs to an account whose rows are gone, and frees its
// name. It may be called again.
func (a *App) clear(ctx context.Context, x address.Addr) error {
	a.clearing.Lock()
	defer a.clearing.Unlock()
	if a.accounts.Exists(x) {
		return nil // cleared before, and made anew
	}
	if a.push != nil {
		a.push.Forget(x)
	}
	if err := errors.Join(a.devices.Remove(ctx, x), a.store.RemoveAccount(ctx, x), a.shares.RemoveOf(ctx, x)); err != nil {
		return err
	}
	return a.accounts.Cleared(ctx, x)
}

// clearRest does what a stop or a crash has left of removals.
func (a *App) clearRest(ctx context.Context) error {
	for _, x := range a.accounts.Removals() {
		if err := a.clear(ctx, x); err != nil {
			a.log.Warn("the rest of a removed account stays until the next start", "account", x, "err", err)
		}
	}
	return nil
}

// storage tells what this server takes: counters that are kept anyway, and one
// look at the file system.
func (a *App) storage(ctx context.Context) (ops.Storage, error) {
	s := ops.Storage{StateDir: ops.Sized{Path: absolute(a.StateDir)}, Database: ops.Database{Driver: "sqlite3"}}
	for _, suffix := range []string{"", "-wal"} {
		if st, err := os.Stat(a.db.Path() + suffix); err == nil {
			s.Database.Size += st.Size()
		}
	}
	bytes, _ := a.quota.Total() // pages ask often: what is counted anyway
	var err error
	if a.opt.Offline {
		_, bytes, err = a.measured(ctx)
	}
	s.StateDir.Size = bytes + s.Database.Size
	if total, free, ok := diskSpace(a.StateDir); ok {
		s.Disk = ops.Disk{Total: total, Available: free, Used: total - free}
		if total > 0 {
			s.Disk.PercentUsed = float64(s.Disk.Used*1000/total) / 10
		}
	}
	return s, err
}

// notify puts a message of the operator into inboxes.
func (a *App) notify(ctx context.Context, to []address.Addr, message []byte) (failed []string, err error) {
	res, err := a.intake.Accept(ctx, &delivery.Envelope{Via: delivery.Notice, To: to}, bytes.NewReader(message))
	for _, f := range res.Failed {
		failed = append(failed, f.To.Wire()+": "+fault.UserText(f.Err))
	}
	return failed, err
}

// reloadCaches reads what SQL may have changed. What accounts store is measured
// in rotation and need not be read.
func (a *App) reloadCaches(ctx context.Context) error {
	a.reload.Lock()
	defer a.reload.Unlock()
	if err := a.accounts.Reload(ctx); err != nil {
		return err
	}
	return a.devices.Reload(ctx)
}

// restart asks whoever runs the server to stop it and start it again.
func (a *App) restart(context.Context) error {
	if a.opt.Offline {
		return fault.WithHint(fault.New(fault.NotFound, "no server is running"), `"madmail run" starts one`)
	}
	a.restarting.Store(true)
	select {
	case a.again <- struct{}{}:
	default: // one is under way
	}
	return nil
}

// Restart delivers when an operator wants the server to stop and start again.
func (a *App) Restart() <-chan struct{} { return a.again }

// backup copies the state to a directory.
func (a *App) backup(ctx context.Context, dest string, p *backup.Progress) (backup.Manifest, error) {
	return backup.Create(ctx, backup.Source{
		Dir: a.StateDir, Version: version.Version, Settle: a.store.Settle, Still: a.store.Still, Database: a.db.Path(), Copy: a.db.Backup, Queue: a.fed.queue.Dir,
		Sharing: a.shares.Path(), CopySharing: a.shares.Backup,
	}, dest, p)
}

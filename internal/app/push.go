package app

import (
	"context"
	"path/filepath"

	"madmail/internal/ops"
	"madmail/internal/push"
	"madmail/internal/settings"
)

// openPush reads which clients are still to be woken.
func (a *App) openPush() (err error) {
	a.push, err = push.New(push.Options{
		Dir: filepath.Join(a.StateDir, "pending_notifications"), Tokens: a.devices, Mode: a.pushMode, GaveUp: a.pushFailed,
		URL: a.conf.Load().PushURL, Logger: a.Log.Logger("push"),
	})
	if err != nil || a.opt.Offline {
		return err
	}
	a.onEnd("push", a.push.Stop)
	return a.push.Start(context.Background())
}

func (a *App) pushMode() push.Mode {
	switch s := a.settings.Current(); s.Enum(settings.PushMode) {
	case "on":
		return push.On
	case "auto":
		if s.Bool(settings.PushEnabled) {
			return push.Auto
		}
	}
	return push.Off
}

// pushFailed switches push off until the operator says something.
func (a *App) pushFailed(ctx context.Context) {
	if _, err := a.change(ctx, settings.Change{Key: settings.PushEnabled, Value: "false"}); err != nil {
		a.log.Warn("push could not be switched off", "err", err)
	}
}

// pushFacts are what the desk shows.
func (a *App) pushFacts() ops.PushFacts {
	s := a.push.Stats()
	return ops.PushFacts{Enabled: a.pushMode() != push.Off, Pending: s.Pending, Sent: s.Sent, Gone: s.Gone, Failures: s.Failures, Threshold: push.Threshold}
}

package app

import (
	"context"

	"madmail/internal/address"
	"madmail/internal/delivery"
	"madmail/internal/ops"
	"madmail/internal/settings"
	"madmail/internal/webhook"
)

func (a *App) openWebhooks() (err error) {
	a.hooks, err = webhook.New(webhook.Options{Config: a.webhooks, Logger: a.Log.Logger("webhooks")})
	if err != nil || a.opt.Offline {
		return err
	}
	a.onEnd("webhooks", a.hooks.Stop)
	return a.hooks.Start(context.Background())
}

// webhooks is what the operator wants now. A value that does not fit tells nobody.
func (a *App) webhooks() settings.Webhooks {
	w, err := settings.ParseWebhooks(a.settings.Current().Text(settings.OperatorWebhooks))
	if err != nil {
		return settings.Webhooks{}
	}
	return w
}

func (a *App) webhookFacts() ops.WebhookFacts {
	s := a.hooks.Stats()
	return ops.WebhookFacts{Delivered: s.Delivered, Failures: s.Failures, Dropped: s.Dropped}
}

// made is told of accounts that users made.
func (a *App) made(x address.Addr, login, token bool) {
	by := webhook.Web
	if login {
		by = webhook.JIT
	}
	a.hooks.Registered(x, by, token)
}

// doorWords are the doors as webhooks call them.
var doorWords = map[delivery.Via]string{
	delivery.Append: "imap.append", delivery.Inbound: "smtp.inbound", delivery.Submission: "smtp.submission", delivery.Web: "websmtp",
	delivery.Federation: "mxdeliv", delivery.Bounce: "federation.inbound", delivery.Notice: "admin.notice",
}

// full is told of messages that did not fit.
func (a *App) full(to address.Addr, size int64, via delivery.Via) {
	used, _, limit := a.quota.Usage(to)
	a.hooks.QuotaExceeded(to, used, limit, size, doorWords[via])
}

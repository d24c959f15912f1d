package ops

import (
	"context"

	"madmail/internal/settings"
)

// WebhookFacts are counts since the start.
type WebhookFacts struct {
	Delivered, Failures, Dropped int64
}

// Webhooks is whom the server tells what happens to accounts, and how that goes. The
// secret is not shown.
type Webhooks struct {
	Enabled        bool   `json:"enabled"`
	URL            string `json:"url"`
	Secret         bool   `json:"secret_configured"`
	UserRegistered bool   `json:"event_user_registered"`
	QuotaExceeded  bool   `json:"event_quota_exceeded"`
	Timeout        int    `json:"timeout_seconds"`
	Retries        int    `json:"retry_attempts"`
	Delivered      int64  `json:"successful_deliveries"`
	Failures       int64  `json:"consecutive_failures"`
	Dropped        int64  `json:"dropped_events"`
}

// WebhookChange changes it; nil leaves a value, and a Secret of "" signs nothing any more.
type WebhookChange struct {
	Enabled        *bool   `json:"enabled,omitempty"`
	URL            *string `json:"url,omitempty"`
	Secret         *string `json:"secret,omitempty"`
	UserRegistered *bool   `json:"event_user_registered,omitempty"`
	QuotaExceeded  *bool   `json:"event_quota_exceeded,omitempty"`
	Timeout        *int    `json:"timeout_seconds,omitempty"`
	Retries        *int    `json:"retry_attempts,omitempty"`
}

// WebhookTested says what became of a trial event.
type WebhookTested struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func put[T any](to *T, from *T) bool {
	if from != nil {
		*to = *from
	}
	return from != nil
}

func (d *Desk) webhooks(ctx context.Context, p WebhookChange) (Webhooks, error) {
	w, err := settings.ParseWebhooks(d.Settings.Current().Text(settings.OperatorWebhooks))
	if err != nil {
		return Webhooks{}, err
	}
	changed := false
	for _, done := range []bool{
		put(&w.Enabled, p.Enabled), put(&w.URL, p.URL), put(&w.Secret, p.Secret), put(&w.UserRegistered, p.UserRegistered),
		put(&w.QuotaExceeded, p.QuotaExceeded), put(&w.Timeout, p.Timeout), put(&w.Retries, p.Retries),
	} {
		changed = changed || done
	}
	if changed {
		text, err := w.Text()
		if err != nil {
			return Webhooks{}, err
		}
		// The catalogue would refuse it too, but not say why: it is a secret.
		if _, err := settings.ParseWebhooks(text); err != nil {
			return Webhooks{}, err
		}
		if _, err := d.Change(ctx, settings.Change{Key: settings.OperatorWebhooks, Value: text}); err != nil {
			return Webhooks{}, err
		}
	}
	f := d.Webhooks()
	return Webhooks{Enabled: w.Enabled, URL: w.URL, Secret: w.Secret != "", UserRegistered: w.UserRegistered, QuotaExceeded: w.QuotaExceeded,
		Timeout: w.Timeout, Retries: w.Retries, Delivered: f.Delivered, Failures: f.Failures, Dropped: f.Dropped}, nil
}

func (d *Desk) webhookTest(ctx context.Context, _ none) (WebhookTested, error) {
	if err := d.TestWebhook(ctx); err != nil {
		return WebhookTested{}, err
	}
	return WebhookTested{"ok", "the webhook took a test event"}, nil
}

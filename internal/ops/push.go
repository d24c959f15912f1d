package ops

import (
	"context"

	"madmail/internal/settings"
)

// PushFacts are how the wake-ups go.
type PushFacts struct {
	Enabled    bool // mode and experience together
	Pending    int
	Sent, Gone int64 // since the start
	Failures   int   // in a row
	Threshold  int   // of those, in mode auto
}

// Push is how the waking of clients stands.
type Push struct {
	Mode      string `json:"mode"` // auto, on or off
	Enabled   bool   `json:"runtime_enabled"`
	Failures  int    `json:"failures"`
	Threshold int    `json:"auto_disable_threshold"`
	Pending   int    `json:"pending"`
	Sent      int64  `json:"successful_notifications"`
	Gone      int64  `json:"dead_tokens"`
}

// PushMode changes the mode; "" asks.
type PushMode struct {
	Mode string `json:"mode"`
}

func (d *Desk) push(ctx context.Context, p PushMode) (Push, error) {
	if p.Mode != "" {
		changes := []settings.Change{{Key: settings.PushMode, Value: p.Mode}}
		if p.Mode == "auto" {
			// First, so that no moment is off.
			changes = []settings.Change{{Key: settings.PushEnabled, Value: "true"}, changes[0]}
		}
		for _, c := range changes {
			if _, err := d.Change(ctx, c); err != nil {
				return Push{}, err
			}
		}
		d.ResetPush()
	}
	f := d.Push()
	return Push{Mode: d.Settings.Current().Enum(settings.PushMode), Enabled: f.Enabled, Failures: f.Failures, Threshold: f.Threshold, Pending: f.Pending, Sent: f.Sent, Gone: f.Gone}, nil
}

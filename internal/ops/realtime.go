package ops

import (
	"context"
	"strconv"

	"madmail/internal/settings"
)

// RealtimeFacts are what only the house knows of the relay for realtime channels.
type RealtimeFacts struct {
	Configured bool
	Listening  bool // on a port of its own
	Port       int
	URL        string // that clients are told, or would be
	Suggested  string // that would work
}

// Realtime is how the relay for realtime channels is.
type Realtime struct {
	Configured     bool   `json:"configured"`
	AdminEnabled   bool   `json:"admin_enabled"`
	RuntimeEnabled bool   `json:"runtime_enabled"` // both
	Port           int    `json:"port"`
	LocalOnly      bool   `json:"local_only"`
	URL            string `json:"relay_url"`
	Listening      bool   `json:"listening"`
	ReloadRequired bool   `json:"reload_required"`
}

// RealtimeInstalled is a relay that was given to clients.
type RealtimeInstalled struct {
	Configured     bool   `json:"configured"`
	ConfigUpdated  bool   `json:"config_updated"` // the file is never changed: the database keeps the URL
	Enabled        bool   `json:"enabled"`
	URL            string `json:"relay_url"`
	ReloadRequired bool   `json:"reload_required"`
	Applied        string `json:"applied,omitempty"`
}

func (d *Desk) realtimeStatus(context.Context, none) (Realtime, error) {
	s, f := d.Settings.Current(), d.Realtime()
	on := s.Bool(settings.IrohEnabled)
	return Realtime{
		Configured: f.Configured, AdminEnabled: on, RuntimeEnabled: on && f.Configured, Port: f.Port, LocalOnly: s.Bool(settings.IrohLocalOnly),
		URL: f.URL, Listening: f.Listening,
	}, nil
}

func (d *Desk) realtimeEnable(ctx context.Context, p struct{ Enabled bool }) (Switched, error) {
	applied, err := d.Change(ctx, settings.Change{Key: settings.IrohEnabled, Value: strconv.FormatBool(p.Enabled)})
	return Switched{Enabled: p.Enabled, ReloadRequired: d.notYet(ctx), Applied: applied}, err
}

// realtimeInstall keeps the URL: clients remember what they were told.
func (d *Desk) realtimeInstall(ctx context.Context, p struct{ URL string }) (r RealtimeInstalled, err error) {
	f := d.Realtime()
	for _, u := range []string{f.URL, f.Suggested} {
		if p.URL == "" {
			p.URL = u
		}
	}
	r.Applied, err = d.Change(ctx, settings.Change{Key: settings.IrohEnabled, Value: "true"}, settings.Change{Key: settings.IrohRelayURL, Value: p.URL})
	if err != nil {
		return r, err
	}
	r.Configured, r.Enabled, r.URL, r.ReloadRequired = true, true, p.URL, d.notYet(ctx)
	return r, nil
}

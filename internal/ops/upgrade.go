package ops

import (
	"context"
	"net/url"
	"strings"

	"madmail/internal/fault"
)

// ConfigValue is a line of the configuration. A secret is "***".
type ConfigValue struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Configuration is what the server works with: the file's lines, what is wrong with them,
// and the settings with where each comes from.
type Configuration struct {
	File     string        `json:"file"` // "" when there is none and defaults count
	Values   []ConfigValue `json:"values"`
	Notes    []string      `json:"notes"`
	Settings []Setting     `json:"settings"`
}

func (d *Desk) configuration(ctx context.Context, _ none) (Configuration, error) {
	c := d.Configuration()
	list, err := d.settingsList(ctx, SettingsPick{})
	c.Settings = list["settings"]
	return c, err
}

// LastUpgrade is the program that was installed last.
type LastUpgrade struct {
	Version     string `json:"version"`
	InstalledAt string `json:"installed_at"`
	Source      string `json:"source"`
	SourceURL   string `json:"source_url,omitempty"`
	SignatureOK bool   `json:"signature_ok"`
}

// Upgrades is what runs, and what was installed last.
type Upgrades struct {
	Version  string       `json:"version"`
	Build    string       `json:"build"`
	Platform string       `json:"platform"`
	Last     *LastUpgrade `json:"last_upgrade"`
	Possible bool         `json:"possible"` // by this server itself
	Reason   string       `json:"reason,omitempty"`
}

// UpgradeRequest names where a program is: an address, or "latest".
type UpgradeRequest struct {
	URL     string `json:"url"`
	Confirm bool   `json:"confirm"`
}

// Upgraded says what runs next.
type Upgraded struct {
	Status      string `json:"status"`
	Version     string `json:"version"`
	Previous    string `json:"previous"`
	SignatureOK bool   `json:"signature_ok"`
	Message     string `json:"message"`
}

// upgrade never reads a file of this machine: whoever asks may sit elsewhere.
func (d *Desk) upgrade(ctx context.Context, p UpgradeRequest) (Upgraded, error) {
	p.URL = strings.TrimSpace(p.URL)
	if !p.Confirm {
		return Upgraded{}, fault.WithHint(fault.New(fault.Invalid, "an upgrade restarts the server"), "send confirm: true")
	}
	if u, err := url.Parse(p.URL); p.URL != "latest" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
		return Upgraded{}, fault.New(fault.Invalid, `url is the https address of a program, or "latest"`)
	}
	if f := d.Upgrades(); !f.Possible {
		return Upgraded{}, fault.WithHint(fault.New(fault.Refused, f.Reason), "run as root: madmail upgrade "+p.URL)
	}
	return d.Upgrade(ctx, p.URL)
}

package ops

import (
	"context"
	"strconv"
	"strings"

	"madmail/internal/settings"
)

// AdminWeb is how the operators' page is.
type AdminWeb struct {
	Enabled bool   `json:"enabled"`
	Path    string `json:"path"`
	Built   bool   `json:"built"` // the page is in this program
	Applied string `json:"applied,omitempty"`
}

// AdminWebChange asks for changes. The zero value only asks how it is.
type AdminWebChange struct {
	Enabled *bool
	Path    string // where it is served; a slash in front is added
	Reset   bool   // the path of the file, or the built-in one
}

// adminWeb shows or changes whether and where the operators' page is served.
func (d *Desk) adminWeb(ctx context.Context, p AdminWebChange) (w AdminWeb, err error) {
	var changes []settings.Change
	if p.Enabled != nil {
		changes = append(changes, settings.Change{Key: settings.AdminWebEnabled, Value: strconv.FormatBool(*p.Enabled)})
	}
	switch {
	case p.Reset:
		changes = append(changes, settings.Change{Key: settings.AdminWebPath, Reset: true})
	case p.Path != "":
		changes = append(changes, settings.Change{Key: settings.AdminWebPath, Value: "/" + strings.TrimPrefix(p.Path, "/")})
	}
	if len(changes) > 0 {
		if w.Applied, err = d.Change(ctx, changes...); err != nil {
			return w, err
		}
	}
	s := d.Settings.Current()
	w.Enabled, w.Path, w.Built = s.Bool(settings.AdminWebEnabled), s.Text(settings.AdminWebPath), d.PanelBuilt()
	return w, nil
}

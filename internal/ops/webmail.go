package ops

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"madmail/internal/fault"
	"madmail/internal/settings"
)

// Webmail is how mail for browsers is.
type Webmail struct {
	Status  string `json:"status"` // enabled when both parts are
	Browser bool   `json:"browser_access_enabled"`
	Reading bool   `json:"webimap_enabled"`
	Sending bool   `json:"websmtp_enabled"`
	// Origins are those whose pages may call from elsewhere, as they are stored and as
	// a list. Pages of this host always may.
	Origins string   `json:"cors_origins"`
	List    []string `json:"cors_origins_list"`
	// Reflected says that any origin may.
	Reflected bool   `json:"auto_reflect_origin"`
	Origin    string `json:"origin,omitempty"` // that was added or removed
	Reset     bool   `json:"reset,omitempty"`  // the list was forgotten
	Applied   string `json:"applied,omitempty"`
}

// WebmailChange asks for changes, all or none. The zero value only asks how it is.
type WebmailChange struct {
	Reading, Sending *bool
	Set              *string // all origins, separated by commas
	Add, Remove      string  // one
	Reset            bool    // no origins
}

// webmail shows or changes what browsers may do.
func (d *Desk) webmail(ctx context.Context, p WebmailChange) (w Webmail, err error) {
	var changes []settings.Change
	for k, on := range map[settings.Key]*bool{settings.WebIMAPEnabled: p.Reading, settings.WebSMTPEnabled: p.Sending} {
		if on != nil {
			changes = append(changes, settings.Change{Key: k, Value: strconv.FormatBool(*on)})
		}
	}
	list, named := d.Settings.Current().List(settings.WebmailCORS), 0
	for _, x := range []bool{p.Set != nil, p.Add != "", p.Remove != "", p.Reset} {
		if x {
			named++
		}
	}
	if named > 1 {
		return w, fault.New(fault.Invalid, "one change of the origins at a time")
	}
	origins := settings.Change{Key: settings.WebmailCORS}
	switch {
	case p.Set != nil:
		if origins.Value = strings.TrimSpace(*p.Set); origins.Value == "" {
			return w, fault.WithHint(fault.New(fault.Invalid, "no origin is named"), "madmail webmail-cors reset forgets all")
		}
	case p.Add != "":
		if w.Origin, err = settings.ParseOrigin(p.Add); err != nil {
			return w, err
		}
		if !slices.Contains(list, w.Origin) {
			list = append(slices.Clone(list), w.Origin)
		}
		origins.Value = strings.Join(list, ",")
	case p.Remove != "":
		if w.Origin, err = settings.ParseOrigin(p.Remove); err != nil {
			return w, err
		}
		left := slices.DeleteFunc(slices.Clone(list), func(o string) bool { return o == w.Origin })
		if len(left) == len(list) {
			return w, fault.Newf(fault.NotFound, "origin is not in the list: %.200s", w.Origin)
		}
		origins.Value, origins.Reset = strings.Join(left, ","), len(left) == 0
	case p.Reset:
		origins.Reset, w.Reset = true, true
	}
	if named > 0 {
		changes = append(changes, origins)
	}
	if len(changes) > 0 {
		if w.Applied, err = d.Change(ctx, changes...); err != nil {
			return w, err
		}
	}
	s := d.Settings.Current()
	w.Reading, w.Sending = s.Bool(settings.WebIMAPEnabled), s.Bool(settings.WebSMTPEnabled)
	w.Status, w.Browser = "disabled", w.Reading && w.Sending
	if w.Browser {
		w.Status = "enabled"
	}
	w.List = append([]string{}, s.List(settings.WebmailCORS)...)
	w.Origins, w.Reflected = strings.Join(w.List, ","), slices.Contains(w.List, "*")
	return w, nil
}

package ops

import (
	"context"

	"madmail/internal/fault"
	"madmail/internal/settings"
)

// Setting is everything about one setting. Value and Stored are empty for a
// secret.
type Setting struct {
	Name   string `json:"name"`
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"` // default, file, stored or environment
	IsSet  bool   `json:"is_set"` // a value is stored
	Stored string `json:"stored,omitempty"`
	// Unstored is the value that would count if none were stored. Only one setting
	// that was asked for has it.
	Unstored string   `json:"value_if_reset,omitempty"`
	Default  string   `json:"default"`
	Follows  string   `json:"follows,omitempty"` // the setting whose value is the default
	Kind     string   `json:"kind"`
	Values   []string `json:"values,omitempty"` // that are allowed
	When     string   `json:"when"`             // live, component, rebind or restart
	Secret   bool     `json:"secret,omitempty"`
	Env      string   `json:"env,omitempty"` // variable that beats all other sources
	Doc      string   `json:"doc"`
	// Unserved says that the value is kept and nothing is done with it.
	Unserved bool `json:"unserved,omitempty"`
	// Applied says what became of a change.
	Applied string `json:"applied,omitempty"`
}

// SettingName names a setting, in any spelling, and its new value.
type SettingName struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func (d *Desk) setting(k settings.Key) (Setting, error) {
	x, err := d.Settings.Explain(k)
	if err != nil {
		return Setting{}, err
	}
	s := Setting{
		Name: x.Entry.Name(), Key: string(x.Entry.Key), Value: x.Value, Source: x.Source.String(), IsSet: x.IsSet, Stored: x.Stored,
		Default: x.Entry.Default, Kind: x.Entry.Kind.String(), Values: x.Entry.Values, When: x.Entry.Effect.String(),
		Secret: x.Entry.Secret, Env: x.Entry.Env, Doc: x.Entry.Doc, Unserved: x.Entry.Unserved,
	}
	if x.Entry.Follows != "" {
		f, err := settings.Lookup(string(x.Entry.Follows))
		if err != nil {
			return Setting{}, err
		}
		s.Follows = f.Name()
	}
	return s, nil
}

// SettingsPick picks settings.
type SettingsPick struct {
	Stored  bool // only those that were set
	Secrets bool // with the values of secrets
}

func (d *Desk) settingsList(_ context.Context, p SettingsPick) (map[string][]Setting, error) {
	list := []Setting{}
	for _, e := range settings.Entries() {
		s, err := d.setting(e.Key)
		if err != nil {
			return nil, err
		}
		if p.Secrets && s.Secret {
			s.Value = d.Settings.Current().Value(e.Key)
		}
		if !p.Stored || s.IsSet {
			list = append(list, s)
		}
	}
	return map[string][]Setting{"settings": list}, nil
}

// lookup finds a setting and repeats the name that was not found.
func lookup(name string) (settings.Key, error) {
	e, err := settings.Lookup(name)
	if err != nil {
		return "", fault.WithHint(fault.Newf(fault.NotFound, "no such setting: %.80q", name), `"madmail settings list" names them all`)
	}
	return e.Key, nil
}

func (d *Desk) settingsGet(_ context.Context, p SettingName) (Setting, error) {
	k, err := lookup(p.Name)
	if err != nil {
		return Setting{}, err
	}
	s, err := d.setting(k)
	if err != nil || s.Secret {
		return s, err
	}
	without, err := d.without(k)
	if err != nil {
		return Setting{}, err
	}
	s.Unstored = without.Value(k)
	return s, nil
}

func (d *Desk) settingsSet(ctx context.Context, p SettingName) (Setting, error) {
	k, err := lookup(p.Name)
	if err != nil {
		return Setting{}, err
	}
	if err := d.portIsFree(ctx, k, p.Value); err != nil {
		return Setting{}, err
	}
	return d.changed(ctx, settings.Change{Key: k, Value: p.Value})
}

func (d *Desk) settingsReset(ctx context.Context, p SettingName) (Setting, error) {
	k, err := lookup(p.Name)
	if err != nil {
		return Setting{}, err
	}
	return d.changed(ctx, settings.Change{Key: k, Reset: true})
}

func (d *Desk) changed(ctx context.Context, c settings.Change) (Setting, error) {
	applied, err := d.Change(ctx, c)
	if err != nil {
		return Setting{}, err
	}
	s, err := d.setting(c.Key)
	s.Applied = applied
	return s, err
}

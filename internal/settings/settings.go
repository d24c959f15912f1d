// Package settings holds the dynamic settings: those that an operator can
// change while the server runs.
//
// Every setting is written once, in the catalogue: its key, kind, default,
// effect and one sentence. Values come from the environment, the settings
// table, the configuration file (handed in by the caller: this package knows
// no file) and the catalogue, in this order; resolve is the one place that
// says so. A value that does not parse is passed over with one warning, and
// the next source counts.
//
// Readers take an immutable Snapshot, by Store.Current, and keep it no longer
// than one decision. Changes go in two phases: Plan checks everything and
// gives the candidate snapshot and the effects; when whoever carries out the
// effects is prepared, Commit stores and publishes. The package does not know
// components, nor how a change is carried out.
//
// In databases of the first predecessor, whose settings are rows of
// passwords(key, value), rows are read from both tables and written to both.
//
// All methods may be called from many goroutines.
package settings

import (
	"strconv"
	"strings"
	"time"

	"madmail/internal/fault"
)

// Source says where a value came from.
type Source uint8

// The sources, weakest first.
const (
	FromDefault Source = iota
	FromFile
	FromStore
	FromEnv
)

var sourceNames = [...]string{"default", "file", "stored", "environment"}

// String returns the source's name.
func (s Source) String() string { return sourceNames[s] }

// Snapshot is the value of every setting at one moment. It never changes.
// Getters panic when a key is not in the catalogue or of another kind: that
// is a mistake in the program, and every test that reads the key finds it.
type Snapshot struct {
	values  []value // in the order of the catalogue
	sources []Source
}

func (s *Snapshot) get(k Key, kind Kind) *value {
	i := at(k)
	if catalogue[i].Kind != kind {
		panic("settings: " + string(k) + " is not a " + kind.String())
	}
	return &s.values[i]
}

func at(k Key) int {
	i, ok := index[k]
	if !ok {
		panic("settings: no key " + string(k))
	}
	return i
}

// Bool returns a Bool.
func (s *Snapshot) Bool(k Key) bool { return s.get(k, Bool).num != 0 }

// Port returns a Port, 0 when nobody named one.
func (s *Snapshot) Port(k Key) int { return int(s.get(k, Port).num) }

// Size returns a Size in bytes.
func (s *Snapshot) Size(k Key) int64 { return s.get(k, Size).num }

// Duration returns a Duration.
func (s *Snapshot) Duration(k Key) time.Duration { return time.Duration(s.get(k, Duration).num) }

// Number returns a whole number.
func (s *Snapshot) Number(k Key) int { return int(s.get(k, Number).num) }

// Text returns a Text.
func (s *Snapshot) Text(k Key) string { return s.get(k, Text).text }

// Enum returns an Enum: one of the entry's Values.
func (s *Snapshot) Enum(k Key) string { return s.get(k, Enum).text }

// List returns a List. The caller must not change it.
func (s *Snapshot) List(k Key) []string { return s.get(k, List).list }

// Value returns any setting as text in normal form, secrets included.
func (s *Snapshot) Value(k Key) string { return s.values[at(k)].text }

// Source says where k's value comes from.
func (s *Snapshot) Source(k Key) Source { return s.sources[at(k)] }

// layers are the texts that each source has.
type layers struct {
	env, stored, file map[Key]string
}

// resolve is the order of the sources: environment, stored, file, default.
// invalid is told of each value that was passed over.
func resolve(l layers, invalid func(e *Entry, s Source, err error)) *Snapshot {
	snap := &Snapshot{values: make([]value, len(catalogue)), sources: make([]Source, len(catalogue))}
	for i := range catalogue {
		e := &catalogue[i]
		for _, layer := range []struct {
			source Source
			texts  map[Key]string
		}{{FromEnv, l.env}, {FromStore, l.stored}, {FromFile, l.file}} {
			text, ok := layer.texts[e.Key]
			if !ok {
				continue
			}
			v, err := e.parse(text)
			if err != nil {
				invalid(e, layer.source, err)
				continue
			}
			snap.values[i], snap.sources[i] = v, layer.source
			break
		}
		if snap.sources[i] == FromDefault {
			snap.values[i] = e.fallback(snap)
		}
	}
	return snap
}

// fallback is the value when no source has one. A followed setting stands
// earlier in the catalogue, so it is resolved already.
func (e *Entry) fallback(snap *Snapshot) value {
	if e.Follows != "" {
		v := snap.values[index[e.Follows]]
		if e.Kind == Port && v.num > 0 && v.num+e.Plus <= 65535 {
			n := v.num + e.Plus
			return value{text: strconv.FormatInt(n, 10), num: n}
		}
		return v
	}
	if e.Default == "" {
		return value{}
	}
	v, err := e.parse(e.Default)
	if err != nil {
		panic("settings: default of " + e.Name() + ": " + err.Error())
	}
	return v
}

// crossCheck refuses combinations that no single entry can see.
func (s *Snapshot) crossCheck() error {
	if s.Port(TURNRelayPortMin) > s.Port(TURNRelayPortMax) {
		return fault.New(fault.Invalid, "turn_relay_port_min is above turn_relay_port_max")
	}
	if s.Port(TURNRelayPortMin) < 1024 {
		return fault.New(fault.Invalid, "turn_relay_port_min is below 1024")
	}
	if p := s.Port(TURNPort); s.Port(TURNRelayPortMin) <= p && p <= s.Port(TURNRelayPortMax) {
		return fault.New(fault.Invalid, "turn_port lies among the relay ports")
	}
	if api, web := s.Text(AdminPath)+"/", s.Text(AdminWebPath)+"/"; strings.HasPrefix(api, web) || strings.HasPrefix(web, api) {
		return fault.New(fault.Invalid, "admin_path and admin_web_path lie within each other")
	}
	return nil
}

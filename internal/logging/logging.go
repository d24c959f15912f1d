// Package logging decides whether anything is logged, and where. The decision
// is made from the static configuration before anything else happens: the
// environment alone never switches logging on.
//
// Loggers are handed out once and stay valid: what they write to is swapped
// behind them. While logging is off a record is not even formatted. The
// package never sees message text or full addresses: they are not passed to it.
package logging

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"madmail/internal/fault"
)

// Trace is below debug: protocol frames and statements.
const Trace = slog.LevelDebug - 4

// Inputs are all that the decision depends on.
type Inputs struct {
	Debug    bool
	Targets  []string // of the log directive; nil when absent
	Disabled bool     // the stored setting
	Filter   string   // RUST_LOG or MADMAIL_LOG
}

// Decision says what is logged.
type Decision struct {
	Targets []string // none: nothing is written
	Filter  Filter
}

// Off reports whether nothing at all is logged (No-Log).
func (d Decision) Off() bool { return len(d.Targets) == 0 }

// LogOff reports whether the log directive means off: absent, off, none or false.
func LogOff(targets []string) bool {
	for _, t := range targets {
		switch strings.ToLower(t) {
		case "off", "none", "false":
			return true
		}
	}
	return len(targets) == 0
}

// ShouldDisable decides No-Log from the static file alone.
func ShouldDisable(debug bool, targets []string) bool { return !debug && LogOff(targets) }

// Decide is the table of the operator specification, 5.7. The error is a filter
// that does not parse; the decision is usable all the same.
func Decide(in Inputs) (Decision, error) {
	filter, err := ParseFilter(in.Filter)
	set := in.Filter != "" && err == nil
	level := slog.LevelWarn
	targets := in.Targets
	switch {
	case ShouldDisable(in.Debug, targets):
		return Decision{}, nil
	case !in.Debug && in.Disabled:
		return Decision{}, nil
	case in.Debug:
		level = slog.LevelDebug
		if LogOff(targets) {
			targets = []string{"stderr"}
		}
	}
	if !set {
		filter = Filter{base: level}
	}
	return Decision{Targets: targets, Filter: filter}, err
}

// Filter is a level per target.
type Filter struct {
	base    slog.Level
	targets map[string]slog.Level
}

// off is above every level.
const off = slog.Level(100)

var levels = map[string]slog.Level{
	"off": off, "error": slog.LevelError, "warn": slog.LevelWarn, "info": slog.LevelInfo, "debug": slog.LevelDebug, "trace": Trace,
}

// modules are several of ours that earlier versions had as one.
var modules = map[string][]string{
	"fed":  {"federation", "mxdeliv", "queue", "dns", "mta-sts", "exchange", "dkim"},
	"auth": {"account"},
	"acme": {"certs"},
}

// ParseFilter reads "level" and "target=level", comma-separated. The target
// chatmail or madmail means all modules, chatmail_smtp the module smtp.
func ParseFilter(s string) (Filter, error) {
	f := Filter{base: off, targets: make(map[string]slog.Level)}
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		target, name, ok := strings.Cut(part, "=")
		if !ok {
			if l, isLevel := levels[strings.ToLower(part)]; isLevel {
				f.base = l
				continue
			}
			target, name = part, "trace"
		}
		l, isLevel := levels[strings.ToLower(name)]
		if !isLevel {
			return Filter{base: slog.LevelWarn}, fault.Newf(fault.Invalid, "log filter: %q is not a level (error, warn, info, debug, trace, off)", name)
		}
		target = strings.ToLower(target)
		if target == "chatmail" || target == "madmail" {
			f.base = l
			continue
		}
		target = strings.TrimPrefix(strings.TrimPrefix(target, "chatmail_"), "madmail_")
		for _, t := range append(modules[target], target) {
			f.targets[t] = l
		}
	}
	return f, nil
}

func (f Filter) level(target string) slog.Level {
	if l, ok := f.targets[target]; ok {
		return l
	}
	return f.base
}

// Root owns the sink. Its loggers may be used from many goroutines and stay
// valid over Apply.
type Root struct {
	sink   atomic.Pointer[sink]
	syslog string // the socket

	mu sync.Mutex // guards Apply and Reopen against each other
}

type sink struct {
	filter Filter
	low    slog.Level // the lowest level that any target has
	out    []slog.Handler
	files  []io.Closer
	spec   Decision
}

// NewRoot returns a root that writes nothing until Apply.
func NewRoot() *Root { return &Root{syslog: "/dev/log"} }

// Apply makes d what counts. stderr is where the target of that name writes.
func (r *Root) Apply(d Decision, stderr io.Writer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.Off() {
		r.swap(nil)
		return nil
	}
	s := &sink{filter: d.Filter, low: d.Filter.base, spec: d}
	for _, l := range d.Filter.targets {
		s.low = min(s.low, l)
	}
	var errs []error
	for _, t := range d.Targets {
		opt := &slog.HandlerOptions{Level: Trace, ReplaceAttr: attr}
		switch strings.ToLower(t) {
		case "stderr", "on", "true", "yes":
			opt.ReplaceAttr = noTime
			s.out = append(s.out, slog.NewTextHandler(stderr, opt))
		case "syslog":
			w := &syslog{path: r.syslog, otherwise: stderr}
			opt.ReplaceAttr = noTime
			s.files = append(s.files, w)
			s.out = append(s.out, slog.NewTextHandler(w, opt))
		case "stderr_ts":
			s.out = append(s.out, slog.NewTextHandler(stderr, opt))
		default:
			f, err := os.OpenFile(t, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
			if err != nil {
				errs = append(errs, fault.Wrap(fault.Invalid, err, "log"))
				continue
			}
			s.files = append(s.files, f)
			s.out = append(s.out, slog.NewTextHandler(f, opt))
		}
	}
	r.swap(s)
	return errors.Join(errs...)
}

func (r *Root) swap(s *sink) {
	if old := r.sink.Swap(s); old != nil {
		for _, f := range old.files {
			f.Close()
		}
	}
}

// Reopen opens log files anew, after a rotation.
func (r *Root) Reopen(stderr io.Writer) error {
	if s := r.sink.Load(); s != nil {
		return r.Apply(s.spec, stderr)
	}
	return nil
}

// attr is asked for every attribute of every record. It is the last that could
// stop an address: file systems name the file that failed, and the mail of an
// account lies in a directory of its name.
func attr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(withoutNames(a.Value.String()))
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case slog.Level:
			if a.Key == slog.LevelKey && v == Trace {
				a.Value = slog.StringValue("TRACE")
			}
		case error:
			a.Value = slog.StringValue(withoutNames(v.Error()))
		}
	}
	return a
}

// withoutNames shortens what stands before an @: "…@example.org". Words end at
// what neither normal addresses nor paths contain, and at slashes.
func withoutNames(s string) string {
	if strings.IndexByte(s, '@') < 0 {
		return s
	}
	var b strings.Builder
	for {
		at := strings.IndexByte(s, '@')
		if at < 0 {
			b.WriteString(s)
			return b.String()
		}
		begin := strings.LastIndexAny(s[:at], " \t\r\n/\\<>\"'(),;:=|") + 1
		b.WriteString(s[:begin])
		b.WriteString("…@")
		s = s[at+1:]
	}
}

func noTime(g []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey && len(g) == 0 {
		return slog.Attr{}
	}
	return attr(g, a)
}

// Logger returns the logger of a module.
func (r *Root) Logger(target string) *slog.Logger {
	return slog.New(&handler{root: r, target: target})
}

// handler finds the sink anew for each record.
type handler struct {
	root   *Root
	target string
	with   []func(slog.Handler) slog.Handler
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool {
	s := h.root.sink.Load()
	return s != nil && l >= s.low && l >= s.filter.level(h.target)
}

func (h *handler) Handle(ctx context.Context, rec slog.Record) error {
	s := h.root.sink.Load()
	if s == nil {
		return nil
	}
	rec = rec.Clone()
	rec.AddAttrs(slog.String("target", h.target))
	var errs []error
	for _, out := range s.out {
		for _, w := range h.with {
			out = w(out)
		}
		errs = append(errs, out.Handle(ctx, rec))
	}
	return errors.Join(errs...)
}

func (h *handler) add(f func(slog.Handler) slog.Handler) slog.Handler {
	c := *h
	c.with = append(append([]func(slog.Handler) slog.Handler(nil), h.with...), f)
	return &c
}

func (h *handler) WithAttrs(a []slog.Attr) slog.Handler {
	return h.add(func(o slog.Handler) slog.Handler { return o.WithAttrs(a) })
}

func (h *handler) WithGroup(name string) slog.Handler {
	return h.add(func(o slog.Handler) slog.Handler { return o.WithGroup(name) })
}

// Enabled reports whether anything can be written at all.
func (r *Root) Enabled() bool { return r.sink.Load() != nil }

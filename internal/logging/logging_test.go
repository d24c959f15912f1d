package logging

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestREQ27TheDecisionTable is the table of the operator specification 5.7, REQ-26
// to REQ-28 and REQ-34 to REQ-38.
func TestREQ27TheDecisionTable(t *testing.T) {
	for _, c := range []struct {
		row   int
		in    Inputs
		off   bool
		level slog.Level
	}{
		{1, Inputs{}, true, 0},
		{1, Inputs{Targets: []string{"off"}, Filter: "trace"}, true, 0},
		{1, Inputs{Filter: "debug"}, true, 0},
		{2, Inputs{Targets: []string{"stderr"}, Disabled: true}, true, 0},
		{3, Inputs{Targets: []string{"stderr"}}, false, slog.LevelWarn},
		{4, Inputs{Targets: []string{"stderr"}, Filter: "info"}, false, slog.LevelInfo},
		{5, Inputs{Debug: true}, false, slog.LevelDebug},
		{5, Inputs{Debug: true, Targets: []string{"off"}, Disabled: true}, false, slog.LevelDebug},
		{6, Inputs{Debug: true, Filter: "info"}, false, slog.LevelInfo},
		{7, Inputs{Debug: true, Targets: []string{"stderr"}}, false, slog.LevelDebug},
		{8, Inputs{Debug: true, Targets: []string{"stderr"}, Filter: "chatmail=trace"}, false, Trace},
	} {
		d, err := Decide(c.in)
		if err != nil || d.Off() != c.off || !c.off && d.Filter.base != c.level {
			t.Errorf("row %d, %+v: %+v, %v", c.row, c.in, d, err)
		}
	}
	if d, err := Decide(Inputs{Targets: []string{"stderr"}, Filter: "chatmail=loud"}); err == nil || d.Filter.base != slog.LevelWarn {
		t.Errorf("a bad filter: %+v, %v", d, err)
	}
}

func TestModulesHaveTheirOwnLevel(t *testing.T) {
	r := NewRoot()
	d, err := Decide(Inputs{Targets: []string{"stderr"}, Filter: "warn,chatmail_smtp=debug"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	smtp, imap := r.Logger("smtp"), r.Logger("imap").With("a", 1).WithGroup("g")
	smtp.Error("before there is a sink")
	if err := r.Apply(d, &out); err != nil {
		t.Fatal(err)
	}
	smtp.Debug("one")
	imap.Debug("two")
	imap.Warn("three", "b", 2)
	if s := out.String(); !strings.Contains(s, "one") || strings.Contains(s, "two") || !strings.Contains(s, "msg=three a=1 g.b=2") || strings.Contains(s, "before") {
		t.Errorf("%s", s)
	}
	if err := r.Apply(Decision{}, &out); err != nil {
		t.Fatal(err)
	}
	n := out.Len()
	smtp.Error("four")
	if out.Len() != n {
		t.Error("something was written while logging is off")
	}
}

func TestFilesAreReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r := NewRoot()
	d, err := Decide(Inputs{Targets: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(d, nil); err != nil {
		t.Fatal(err)
	}
	log := r.Logger("x")
	log.Warn("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := r.Reopen(nil); err != nil {
		t.Fatal(err)
	}
	log.Warn("two")
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), "two") || strings.Contains(string(data), "one") {
		t.Errorf("%q, %v", data, err)
	}
	if err := r.Apply(Decision{}, nil); err != nil {
		t.Fatal(err)
	}
}

// TestREQ38ADisabledRecordCostsNothing is the first half of REQ-38; the benchmark is the other.
func TestREQ38ADisabledRecordCostsNothing(t *testing.T) {
	log := NewRoot().Logger("x")
	if n := testing.AllocsPerRun(100, func() { log.Debug("message", "n", 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDisabled(b *testing.B) {
	log := NewRoot().Logger("x")
	b.ReportAllocs()
	for b.Loop() {
		log.Debug("message")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add("info,chatmail=trace,chatmail_imap=off")
	f.Fuzz(func(t *testing.T, s string) { _, _ = ParseFilter(s) })
}

// TestNamesAreStopped: addresses reach no sink, by whatever attribute.
func TestNamesAreStopped(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "no address": "no address", "alice@example.org": "…@example.org", "@": "…@", "@x": "…@x", "a@b@c": "…@…@c",
		"open /var/lib/madmail/mail/alice@[127.0.0.1]/Maildir: denied": "open /var/lib/madmail/mail/…@[127.0.0.1]/Maildir: denied",
		"from <a.b+c@x.org> to \"d@y.org\"":                            "from <…@x.org> to \"…@y.org\"",
		"mailto:ü@x.org,b@y.org":                                       "mailto:…@x.org,…@y.org",
	} {
		if got := withoutNames(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	r := NewRoot()
	var out bytes.Buffer
	d, err := Decide(Inputs{Debug: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(d, &out); err != nil {
		t.Fatal(err)
	}
	l := r.Logger("x").With("with", "canary@w").WithGroup("g")
	l.Warn("message canary@m", "text", "canary@t", "err", fmt.Errorf("open: %w", &os.PathError{Op: "open", Path: "/mail/canary@p/x", Err: os.ErrNotExist}),
		slog.Group("deep", "text", "canary@d"), "list", slog.AnyValue(errors.New("canary@e")))
	if strings.Contains(out.String(), "canary") || strings.Count(out.String(), "…@") != 6 {
		t.Errorf("written: %s", out.String())
	}
}

func TestFramesHoldNobodysWords(t *testing.T) {
	vocabulary := map[string]bool{"FETCH": true, "FLAGS": true, "INBOX": true}
	for line, want := range map[string]string{
		`a1 UID FETCH 1:20 (FLAGS) "secret box"`: `a1 *** FETCH 1:20 (FLAGS) "*** ***"`,
		"a2 SELECT Grüße\x00\xff":                "a2 *** ***??",
		"a3 FETCH 123456789012 BODY[] {5}":       "a3 FETCH *** ***[] {5}",
		"":                                       "",
		"a5 fetch inbox":                         "a5 fetch inbox",
	} {
		if got := Frame(line, 1, vocabulary); got != want {
			t.Errorf("%.60q: %.200q, want %.200q", line, got, want)
		}
	}
	if got := Frame(strings.Repeat("x ", 100_000), 1, vocabulary); len(got) > 520 {
		t.Error("a frame of", len(got))
	}
}

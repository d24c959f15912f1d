package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"madmail/internal/fault"
	"madmail/internal/ops"
	"madmail/internal/units"
)

// webhookFields are what can be set, with the form of each.
var webhookFields = []struct{ name, kind string }{
	{"enabled", "bool"}, {"url", "text"}, {"secret", "text"}, {"event_user_registered", "bool"}, {"event_quota_exceeded", "bool"},
	{"timeout_seconds", "number"}, {"retry_attempts", "number"},
}

func (s *shell) webhooks() *cobra.Command {
	show := func(command string, p ops.WebhookChange) error {
		var r ops.Webhooks
		if err := s.call("webhooks", p, &r); err != nil {
			return err
		}
		return s.result(command, "", r, func(w io.Writer) {
			word := func(b bool) string { return map[bool]string{true: "yes", false: "no"}[b] }
			fmt.Fprintf(w, "Enabled: %s\nURL: %s\nSigned: %s\nEvents: user registered: %s, quota exceeded: %s\nOne try takes at most %d s, tries after the first: %d\nDelivered since the start: %d\nFailures in a row: %d\nDropped: %d\n",
				word(r.Enabled), r.URL, word(r.Secret), word(r.UserRegistered), word(r.QuotaExceeded), r.Timeout, r.Retries, r.Delivered, r.Failures, r.Dropped)
		})
	}
	status := &cobra.Command{Use: "status", Short: "Show who is told, and how that goes", Args: cobra.NoArgs, Example: "  madmail webhooks status --json",
		RunE: func(*cobra.Command, []string) error { return show("webhooks status", ops.WebhookChange{}) }}
	set := &cobra.Command{Use: "set FIELD=VALUE...", Short: "Change who is told what; secret=- reads the secret", Args: cobra.MinimumNArgs(1),
		Example: "  madmail webhooks set url=https://hooks.example.org/mail event_user_registered=yes enabled=yes\n  madmail webhooks set secret=-\n  madmail webhooks set enabled=no",
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := s.webhookChange(args)
			if err != nil {
				return err
			}
			return show("webhooks set", p)
		}}
	test := &cobra.Command{Use: "test", Short: "Send a trial event", Args: cobra.NoArgs, Example: "  madmail webhooks test",
		RunE: func(*cobra.Command, []string) error {
			var r ops.WebhookTested
			if err := s.call("webhooks.test", nil, &r); err != nil {
				return err
			}
			return s.result("webhooks test", r.Message, r, func(w io.Writer) { fmt.Fprintln(w, r.Message) })
		}}
	return s.orStatus(s.group("webhooks", "Tell a service of yours that an account was made or is full", "  madmail webhooks status\n  madmail webhooks test", status, set, test), status)
}

// webhookChange reads FIELD=VALUE pairs.
func (s *shell) webhookChange(args []string) (p ops.WebhookChange, err error) {
	m := make(map[string]any)
	for _, a := range args {
		name, text, ok := strings.Cut(a, "=")
		i := slices.IndexFunc(webhookFields, func(f struct{ name, kind string }) bool { return f.name == name })
		if !ok || i < 0 {
			var names []string
			for _, f := range webhookFields {
				names = append(names, f.name)
			}
			return p, usageError{fmt.Errorf("%q is not FIELD=VALUE; the fields are %s", a, strings.Join(names, ", "))}
		}
		switch webhookFields[i].kind {
		case "bool":
			m[name], err = units.ParseBool(text)
		case "number":
			m[name], err = strconv.Atoi(text)
		default:
			if name == "secret" && text == "-" {
				text, err = s.password("")
			}
			m[name] = text
		}
		if err != nil {
			return p, fault.Wrap(fault.Invalid, err, name)
		}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(raw, &p)
}

//go:build unix

package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"madmail/internal/adminrpc"
	"madmail/internal/metrics"
	"madmail/internal/settings"
	"madmail/internal/setup"
)

var update = flag.Bool("update", false, "write the reference anew")

const generated = "<!-- Written by make gen from the tables of the program. -->\n"

// cell is text in a table of Markdown.
func cell(s string) string {
	if s == "" {
		return " "
	}
	return strings.ReplaceAll(s, "|", `\|`)
}

func code1(s string) string {
	if s == "" {
		return " "
	}
	return "`" + cell(s) + "`"
}

func commandReference() string {
	var b strings.Builder
	root := (&shell{}).root()
	b.WriteString("# Commands\n\n" + generated + "\nEvery command takes `--config FILE`, `--state-dir DIRECTORY`, `--json` and `--help`. Exit code 2 is misuse, 1 everything else that failed.\n")
	for _, c := range written(root) {
		if c.Parent() == root {
			fmt.Fprintf(&b, "\n## %s\n\n%s.", c.Name(), c.Short)
			if len(c.Aliases) > 0 {
				fmt.Fprintf(&b, " Also `%s`.", strings.Join(c.Aliases, "`, `"))
			}
			b.WriteString("\n\n")
		}
		if c.HasAvailableSubCommands() {
			continue
		}
		fmt.Fprintf(&b, "- `%s`", strings.TrimSuffix(c.UseLine(), " [flags]"))
		if c.Parent() != root {
			fmt.Fprintf(&b, ": %s.", c.Short)
		}
		b.WriteString("\n")
		for _, f := range flags(c) {
			fmt.Fprintf(&b, "  - `%s`: %s\n", flagForm(f), flagText(f))
		}
	}
	return b.String()
}

func settingReference() string {
	var b strings.Builder
	b.WriteString("# Settings\n\n" + generated + "\nWhat can be changed while the server runs: `madmail settings set NAME VALUE`. In the database a key is the name in capitals between\n" +
		"two underscores on either side, unless the last column says otherwise.\n\n| name | form | default | counts | meaning |\n|---|---|---|---|---|\n")
	when := map[settings.Effect]string{settings.Live: "at once", settings.Component: "when its service is told", settings.Rebind: "at once, on new sockets", settings.Restart: "after a restart"}
	for _, e := range settings.Entries() {
		form := e.Kind.String()
		if len(e.Values) > 0 {
			form = strings.Join(e.Values, ", ")
		}
		def := e.Default
		if e.Follows != "" {
			def = "as " + strings.ToLower(strings.Trim(string(e.Follows), "_"))
			if e.Plus != 0 {
				def += fmt.Sprintf(" + %d", e.Plus)
			}
		}
		doc := e.Doc
		if e.Secret {
			doc += " Never shown."
		}
		if e.Env != "" {
			doc += " `" + e.Env + "` of the environment beats it."
		}
		if want := "__" + strings.ToUpper(e.Name()) + "__"; string(e.Key) != want {
			doc += " Key: `" + string(e.Key) + "`."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", e.Name(), cell(form), code1(def), when[e.Effect], cell(doc))
	}
	return b.String()
}

func apiReference() string {
	var b strings.Builder
	b.WriteString("# The admin API\n\n" + generated + `
One path, by default ` + "`/api/admin`" + `, takes a POST with an envelope:

` + "```json\n" + `{"method": "GET", "resource": "/admin/status", "headers": {"Authorization": "Bearer TOKEN"}, "body": {}}
` + "```" + `

The token is that of ` + "`madmail admin-token`" + `; it may also come as the header ` + "`Authorization`" + ` of HTTP. The answer is always HTTP 200 with
` + "`{\"status\", \"resource\", \"body\", \"error\", \"version\"}`" + `, where status is 200 or 201 for success and error is null then. An envelope has at most 1 MiB
(32 MiB for an import of accounts). Ten wrong tokens within a minute shut an address out for the rest of it. With ` + "`admin_token = \"disabled\"`" + ` there is no
such path.
`)
	var single []adminrpc.Resource
	for _, r := range adminrpc.Resources() {
		if strings.HasPrefix(r.Name, "/admin/settings/") && r.Name != "/admin/settings/federation" {
			single = append(single, r)
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n", r.Name)
		if len(r.Aliases) > 0 {
			fmt.Fprintf(&b, "Also `%s`.\n\n", strings.Join(r.Aliases, "`, `"))
		}
		b.WriteString("| method | does | body | reply |\n|---|---|---|---|\n")
		for _, m := range r.Methods {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.Method, cell(m.Doc), code1(m.Request), code1(m.Reply))
		}
	}
	b.WriteString("\n## /admin/settings/NAME\n\nOne for each setting; what they mean stands in [settings.md](settings.md).\n\n| method | body | reply |\n|---|---|---|\n")
	for _, m := range single[0].Methods {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", m.Method, code1(m.Request), code1(m.Reply))
	}
	b.WriteString("\nNames:")
	for i, r := range single {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, " `%s`", strings.TrimPrefix(r.Name, "/admin/settings/"))
	}
	b.WriteString(".\n")
	return b.String()
}

// TestTheReferenceIsThatOfTheTables: make gen writes it, this proves that
// somebody did.
func metricReference() string {
	var b strings.Builder
	b.WriteString("# Metrics\n\n" + generated + "\nServed where `openmetrics_listen` says, at `/metrics`, as OpenMetrics or in the older text form. No label holds an address or a domain. Beside these there\n" +
		"are `process_...` and `go_...` of the process. Counters begin anew with it.\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range metrics.Table {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, strings.Join(m.Labels, ", "), cell(m.Doc))
	}
	return b.String()
}

// panels are what the dashboard shows: a title, a unit of Grafana, and expressions.
var panels = []struct {
	title, unit string
	exprs       []string
}{
	{"Messages taken and refused", "short", []string{"rate(madmail_messages_accepted[5m])", "rate(madmail_messages_refused[5m])"}},
	{"By door and result", "short", []string{"rate(madmail_deliveries[5m])"}},
	{"Copies stored", "short", []string{"rate(madmail_copies_stored[5m])"}},
	{"IMAP sessions", "short", []string{"madmail_imap_sessions", "madmail_imap_idle_sessions", "madmail_imap_parked_sessions"}},
	{"IMAP commands", "short", []string{"rate(madmail_imap_commands[5m])"}},
	{"Woken, and woken in vain", "short", []string{"rate(madmail_event_wakeups[5m])", "rate(madmail_event_drops[5m])"}},
	{"Logins", "short", []string{"rate(madmail_imap_logins[5m])", "rate(madmail_imap_failed_logins[5m])", "rate(maddy_smtp_failed_logins[5m])"}},
	{"SMTP", "short", []string{"rate(maddy_smtp_started_transactions[5m])", "rate(maddy_smtp_smtp_completed_transactions[5m])", "rate(maddy_smtp_aborted_transactions[5m])", "rate(maddy_smtp_ratelimit_deferred[5m])"}},
	{"Refused SMTP commands", "short", []string{"rate(maddy_smtp_failed_commands[5m])"}},
	{"To other servers", "short", []string{"rate(madmail_federation_attempts[5m])", "rate(madmail_recipients_queued[5m])"}},
	{"From other servers", "short", []string{"rate(madmail_federation_received[5m])", "rate(madmail_http_deliveries[5m])", "rate(madmail_origin_verdicts[5m])"}},
	{"HTTP", "short", []string{"rate(madmail_http_requests[5m])"}},
	{"Full mailboxes", "short", []string{"rate(madmail_quota_refusals[5m])"}},
	{"Queue", "short", []string{"maddy_queue_length", "madmail_queue_taken", "madmail_queue_destinations", "madmail_federation_unreachable"}},
	{"Accounts", "short", []string{"madmail_accounts"}},
	{"Stored mail", "bytes", []string{"madmail_storage_bytes"}},
	{"Disk", "bytes", []string{"madmail_disk_free_bytes", "madmail_disk_total_bytes"}},
	{"Store", "short", []string{"rate(madmail_store_operations[5m])", "rate(madmail_store_syncs[5m])", "madmail_store_mailboxes_loaded"}},
	{"Store: slowest of a hundred", "s", []string{"histogram_quantile(0.99, sum by (le, operation) (rate(madmail_store_latency_seconds_bucket[5m])))"}},
	{"Database: slowest of a hundred", "s", []string{"histogram_quantile(0.99, sum by (le, operation) (rate(madmail_database_latency_seconds_bucket[5m])))", "histogram_quantile(0.99, rate(madmail_quota_walk_seconds_bucket[5m]))"}},
	{"Calls", "short", []string{"madmail_turn_allocations", "rate(madmail_turn_denied[5m])"}},
	{"Octets of calls", "Bps", []string{"rate(madmail_turn_bytes[5m])"}},
	{"Realtime apps", "short", []string{"madmail_iroh_connections"}},
	{"Mail for browsers", "short", []string{"madmail_webimap_sockets", "madmail_webimap_waiting", "rate(madmail_webimap_messages[5m])"}},
	{"Push", "short", []string{"rate(madmail_push_notifications[5m])", "madmail_push_pending"}},
	{"Webhooks", "short", []string{"rate(madmail_webhook_events[5m])"}},
	{"Certificate runs out in", "s", []string{"madmail_certificate_expiry_seconds - time()"}},
	{"Memory", "bytes", []string{"process_resident_memory_bytes"}},
	{"Processor", "percentunit", []string{"rate(process_cpu_seconds_total[5m])"}},
}

// dashboard is what Grafana imports. Every name in it is one of the table, or of the
// process.
func dashboard(t *testing.T) string {
	t.Helper()
	known := make(map[string]bool)
	for _, m := range metrics.Table {
		known[m.Name] = true
	}
	name := regexp.MustCompile(`\b(maddy|madmail)_[a-z_]+`)
	var list []map[string]any
	for i, p := range panels {
		var targets []map[string]any
		for k, e := range p.exprs {
			for _, n := range name.FindAllString(e, -1) {
				if !known[n] && !known[strings.TrimSuffix(n, "_bucket")] {
					t.Errorf("the dashboard names %s, which does not exist", n)
				}
			}
			targets = append(targets, map[string]any{"refId": string(rune('A' + k)), "expr": e, "datasource": map[string]string{"type": "prometheus", "uid": "${source}"}})
		}
		list = append(list, map[string]any{
			"id": i + 1, "type": "timeseries", "title": p.title, "targets": targets, "datasource": map[string]string{"type": "prometheus", "uid": "${source}"},
			"gridPos":     map[string]int{"x": i % 3 * 8, "y": i / 3 * 7, "w": 8, "h": 7},
			"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.unit, "min": 0}, "overrides": []any{}},
		})
	}
	raw, err := json.MarshalIndent(map[string]any{
		"title": "madmail", "uid": "madmail", "schemaVersion": 39, "editable": true, "refresh": "30s", "time": map[string]string{"from": "now-6h", "to": "now"}, "panels": list,
		"templating": map[string]any{"list": []any{map[string]any{"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}}},
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw) + "\n"
}

func TestTheReferenceIsThatOfTheTables(t *testing.T) {
	var man bytes.Buffer
	Manual(&man)
	for file, want := range map[string]string{
		"../../docs/reference/commands.md": commandReference(), "../../docs/reference/settings.md": settingReference(),
		"../../docs/reference/admin-api.md": apiReference(), "../../docs/reference/metrics.md": metricReference(), "../../dist/grafana/madmail.json": dashboard(t), "../../dist/madmail.1": man.String(),
		"../../dist/madmail.service": string(setup.Layout{Name: "madmail"}.Fill().UnitText()),
	} {
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s is not what the tables say (%v): make gen writes it", filepath.Base(file), err)
		}
	}
}

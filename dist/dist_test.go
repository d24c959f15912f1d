// Package dist holds what is installed beside the binary; its test keeps these
// files complete.
package dist

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// unit reads a systemd unit: section, then directive, then its values.
func unit(t *testing.T, path string) map[string]map[string][]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]map[string][]string)
	section := ""
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
			all[section] = make(map[string][]string)
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" || key != strings.TrimSpace(key) {
				t.Fatalf("%s:%d: %q is no directive", path, i+1, line)
			}
			all[section][key] = append(all[section][key], value)
		}
	}
	return all
}

// TestTheUnitHasWhatTheServerNeeds: the server tells readiness and life, binds
// low ports without being root, is not restarted over a bad configuration, and
// may write its state and nothing else.
func TestTheUnitHasWhatTheServerNeeds(t *testing.T) {
	u := unit(t, "madmail.service")
	for key, want := range map[string]string{
		"Type":                     "notify",
		"NotifyAccess":             "main",
		"TimeoutStartSec":          "120",
		"WatchdogSec":              "60",
		"User":                     "madmail",
		"Group":                    "madmail",
		"WorkingDirectory":         "/var/lib/madmail",
		"ConfigurationDirectory":   "madmail",
		"StateDirectory":           "madmail",
		"RuntimeDirectory":         "madmail",
		"LogsDirectory":            "madmail",
		"PrivateTmp":               "true",
		"ProtectHome":              "true",
		"ProtectSystem":            "strict",
		"NoNewPrivileges":          "true",
		"AmbientCapabilities":      "CAP_NET_BIND_SERVICE",
		"CapabilityBoundingSet":    "CAP_NET_BIND_SERVICE",
		"UMask":                    "0007",
		"LimitNOFILE":              "131072",
		"LimitNPROC":               "512",
		"Restart":                  "on-failure",
		"RestartPreventExitStatus": "2",
		"TimeoutStopSec":           "7s",
		"KillMode":                 "mixed",
		"ExecStart":                "/usr/local/bin/madmail --config /etc/madmail/chatmail.toml run --libexec /var/lib/madmail",
		"ExecReload":               "/bin/kill -HUP $MAINPID",
	} {
		if got := u["Service"][key]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if got := u["Install"]["WantedBy"]; !slices.Equal(got, []string{"multi-user.target"}) {
		t.Errorf("WantedBy is %q", got)
	}
	if got := u["Unit"]["After"]; !slices.Equal(got, []string{"network-online.target"}) {
		t.Errorf("After is %q", got)
	}
}

// TestTheExampleIsReadAndSoIsWhatItProposes reads the example as it is and with
// every proposal switched on.
func TestTheExampleIsReadAndSoIsWhatItProposes(t *testing.T) {
	data, err := os.ReadFile("chatmail.toml")
	if err != nil {
		t.Fatal(err)
	}
	known := []string{
		"hostname", "primary_domain", "local_domains", "public_ip", "state_dir", "runtime_dir",
		"smtp_listen", "submission_listen", "submission_tls_listen", "imap_listen", "imap_tls_listen", "http_listen", "http_tls_listen",
		"tls_mode", "tls_cert", "tls_key", "acme_email", "acme_names", "acme_dns_provider", "acme_dns_token", "auth_auto_create", "min_username_length", "max_username_length", "password_min_length",
		"default_quota", "max_message_size", "turn_enable", "turn_secret", "ss_addr", "ss_password", "proxy_protocol", "log", "debug", "language",
	}
	var proposed []string
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "# "); ok {
			if key, _, ok := strings.Cut(rest, " = "); ok && !strings.Contains(key, " ") {
				if key == "tls_mode" {
					continue // it stands there already, with its other value
				}
				line = rest
			}
		}
		proposed = append(proposed, line)
	}
	for name, text := range map[string]string{"as it is": string(data), "with proposals": strings.Join(proposed, "\n")} {
		var got map[string]any
		if err := toml.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for key := range got {
			if !slices.Contains(known, key) {
				t.Errorf("%s: unknown key %q", name, key)
			}
		}
		if name == "with proposals" && len(got) != len(known) {
			t.Errorf("%d of %d keys are shown", len(got), len(known))
		}
	}
}

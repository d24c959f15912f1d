//go:build interop && linux

package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"

	"madmail/test/load"
	"madmail/test/testserver"
)

// firstUnit is the unit that the first version's installer writes, but for comments.
const firstUnit = `[Unit]
Description=maddy mail server
After=network-online.target

[Service]
Type=notify
NotifyAccess=main
User=maddy
Group=maddy
WorkingDirectory=/var/lib/maddy
ConfigurationDirectory=maddy
RuntimeDirectory=maddy
StateDirectory=maddy
LogsDirectory=maddy
ReadOnlyPaths=/usr/lib/maddy
ReadWritePaths=/var/lib/maddy
PrivateTmp=true
ProtectHome=true
ProtectSystem=strict
ProtectKernelTunables=true
ProtectHostname=true
ProtectClock=true
ProtectControlGroups=true
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
NoNewPrivileges=true
PrivateDevices=true
DeviceAllow=/dev/syslog
RestrictSUIDSGID=true
ProtectKernelModules=true
MemoryDenyWriteExecute=true
RestrictNamespaces=true
RestrictRealtime=true
LockPersonality=true
TimeoutStopSec=7s
KillMode=mixed
KillSignal=SIGTERM
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
UMask=0007
LimitNOFILE=131072
LimitNPROC=512
Restart=on-failure
RestartPreventExitStatus=2
ExecStart=/usr/local/bin/maddy --config /etc/maddy/maddy.conf run --libexec /var/lib/maddy
ExecReload=/bin/kill -USR1 $MAINPID
ExecReload=/bin/kill -USR2 $MAINPID

[Install]
WantedBy=multi-user.target
`

// TestThisProgramInThePlaceOfTheFirst: the operator changes one file, the program, and
// starts the unit that is there, with its user, its configuration and its state.
func TestThisProgramInThePlaceOfTheFirst(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	for _, c := range [][2]string{{"nsenter", "util-linux"}, {"systemctl", "systemd"}, {"useradd", "passwd"}} {
		tool(t, c[0], c[1])
	}
	run(t, "", tool(t, "ip", "iproute2"), "link", "set", "lo", "up")
	given := t.TempDir()
	copied := func(name, from string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(given, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := newAuthority(t, given).issue(given, "example.org")
	copied("maddy", testserver.Binary(t))
	copied("fullchain.pem", cert)
	copied("privkey.pem", key)
	copied("state.tar.gz", "../../internal/app/testdata/first/state.tar.gz")
	write(t, filepath.Join(given, "maddy.service"), firstUnit)
	var conf strings.Builder
	err := template.Must(template.ParseFiles("../../internal/config/testdata/blocks/first.tmpl")).Execute(&conf, map[string]any{
		"Hostname": "example.org", "Domain": "example.org", "LocalDomains": "$(primary_domain)", "TLS": "file", "Log": "", "PGP": "lax",
		"Insecure": false, "TURN": true, "Iroh": false, "Chatmail": true, "SS": true, "TurnOffTLS": false, "Sharing": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	// The mail of the directory is older than a day.
	write(t, filepath.Join(given, "maddy.conf"), strings.Replace(conf.String(), "retention 24h", "", 1))

	h := boot(t, given)
	h.run("sh", "-ec", `
		useradd -mrU -s /sbin/nologin -d /var/lib/maddy maddy
		tar -xzf /programs/state.tar.gz -C /var/lib/maddy
		mkdir -p /etc/maddy/certs
		cp /programs/fullchain.pem /programs/privkey.pem /etc/maddy/certs
		cp /programs/maddy.conf /etc/maddy
		cp /programs/maddy /usr/local/bin/maddy
		cp /programs/maddy.service /etc/systemd/system
		chown -R maddy:maddy /var/lib/maddy /etc/maddy/certs
		chmod 755 /etc/maddy/certs; chmod 600 /etc/maddy/certs/privkey.pem; chmod 644 /etc/maddy/maddy.conf
		systemctl daemon-reload`)
	unit := func(property string) string {
		return strings.TrimSpace(h.run("systemctl", "show", "maddy", "--value", "-p", property))
	}
	if _, _, err := h.try("systemctl", "start", "maddy"); err != nil {
		out, _, _ := h.try("journalctl", "--no-pager", "-u", "maddy")
		t.Fatalf("it does not start: %v\n%s", err, out)
	}
	data, err := os.ReadFile("../../internal/app/testdata/first/want.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]map[string]struct {
		UIDValidity, UIDNext uint32
		Messages             []any
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		for user, pw := range map[string]string{"alice": "correct-horse", "bob": "battery-staple"} {
			r, err := load.Target{SMTP: "127.0.0.1:465", IMAP: "127.0.0.1:993", Domain: "example.org", Password: pw}.Login(user)
			if err != nil {
				t.Errorf("%s: %v", user, err)
				continue
			}
			for name, box := range want[user+"@example.org"] {
				if strings.ContainsAny(name, "üテ") {
					continue
				}
				lines, err := r.Do(fmt.Sprintf("STATUS %q (MESSAGES UIDNEXT UIDVALIDITY)", name))
				if want := fmt.Sprintf("(MESSAGES %d UIDNEXT %d UIDVALIDITY %d)", len(box.Messages), box.UIDNext, box.UIDValidity); err != nil || !strings.Contains(strings.Join(lines, " "), want) {
					t.Errorf("%s %s: %q, %v; want %s", user, name, lines, err, want)
				}
			}
			r.Close()
		}
	}
	look()
	if list := h.run("maddy", "creds", "list"); !strings.Contains(list, "alice@example.org") {
		t.Errorf("creds list: %s", list)
	}
	pid := unit("MainPID")
	h.run("systemctl", "reload", "maddy")
	if unit("MainPID") != pid || unit("ActiveState") != "active" {
		t.Errorf("after a reload: %s, %s", unit("ActiveState"), unit("MainPID"))
	}
	look()
	h.run("systemctl", "restart", "maddy")
	look()
	h.run("systemctl", "stop", "maddy")
	if unit("Result") != "success" {
		t.Errorf("it stopped with %s", unit("Result"))
	}
}

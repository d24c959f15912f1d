package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func nothing(string) string { return "" }

// nobody is a server without stored settings and without an environment.
func nobody() Ports {
	return Ports{
		Port: func(string) int { return 0 }, Local: func(string) bool { return false }, Off: func(string) bool { return false }, Env: nothing,
	}
}

// TestREQ02WhichListenersAreOn is REQ-02: the table of environment, stored ports,
// file and defaults.
func TestREQ02WhichListenersAreOn(t *testing.T) {
	type stored = map[string]int
	for _, x := range []struct {
		name       string
		file       string
		db         stored
		local, off string
		env        map[string]string
		want       string
	}{
		{name: "nothing at all", want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "smtp by file", file: `smtp_listen = "127.0.0.1:2525"`,
			want: "smtp 127.0.0.1:2525 file, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "stored smtp port takes the file's host", file: `smtp_listen = "127.0.0.1:2525"`, db: stored{"smtp": 26},
			want: "smtp 127.0.0.1:26 db, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "environment beats all for smtp", file: `smtp_listen = "127.0.0.1:2525"`, db: stored{"smtp": 26},
			env:  map[string]string{"CHATMAIL_SMTP_ADDR": "127.0.0.9:9025"},
			want: "smtp 127.0.0.9:9025 env, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "submission by stored port alone", db: stored{"submission": 587},
			want: "smtp 0.0.0.0:25 default, submission 0.0.0.0:587 db, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "submission takes its sibling's host", file: `submission_tls_listen = "127.0.0.1:465"`, db: stored{"submission": 587},
			want: "smtp 0.0.0.0:25 default, submission 127.0.0.1:587 db, submission_tls 127.0.0.1:465 file, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "submission TLS takes its sibling's host", file: `submission_listen = "127.0.0.1:587"`, db: stored{"submission_tls": 465},
			want: "smtp 0.0.0.0:25 default, submission 127.0.0.1:587 file, submission_tls 127.0.0.1:465 db, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "imap is off when only TLS is named", file: `imap_tls_listen = "0.0.0.0:993"`,
			want: "smtp 0.0.0.0:25 default, imap_tls 0.0.0.0:993 file, http 0.0.0.0:8080 default"},
		{name: "imap is off when only the TLS port is stored", db: stored{"imap_tls": 993},
			want: "smtp 0.0.0.0:25 default, imap_tls 0.0.0.0:993 db, http 0.0.0.0:8080 default"},
		{name: "imap by stored port beside TLS", file: `imap_tls_listen = "127.0.0.1:993"`, db: stored{"imap": 144},
			want: "smtp 0.0.0.0:25 default, imap 127.0.0.1:144 db, imap_tls 127.0.0.1:993 file, http 0.0.0.0:8080 default"},
		{name: "imap by environment switches TLS off", file: `imap_tls_listen = "0.0.0.0:993"`, db: stored{"imap_tls": 994, "imap": 144},
			env:  map[string]string{"CHATMAIL_IMAP_ADDR": "127.0.0.1:1143"},
			want: "smtp 0.0.0.0:25 default, imap 127.0.0.1:1143 env, http 0.0.0.0:8080 default"},
		{name: "http is off when only https is named", file: `http_tls_listen = "0.0.0.0:443"`,
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http_tls 0.0.0.0:443 file"},
		{name: "http is off when only the https port is stored", db: stored{"http_tls": 443},
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http_tls 0.0.0.0:443 db"},
		{name: "http by environment switches https off", file: `http_tls_listen = "0.0.0.0:443"`,
			env:  map[string]string{"CHATMAIL_HTTP_ADDR": "tcp://127.0.0.1:8081"},
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 127.0.0.1:8081 env"},
		{name: "http switched off beats the environment", off: "http", env: map[string]string{"CHATMAIL_HTTP_ADDR": "127.0.0.1:8081"},
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default"},
		{name: "the relay for realtime apps, and STUN", file: "iroh_enable = true",
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default, iroh :3340 default, stun :3478 default"},
		{name: "the relay where its URL says", file: "iroh_relay_url = \"http://192.0.2.1:3341\"\nturn_port = 3479",
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default, iroh :3341 file, stun :3479 file"},
		{name: "the relay on the site", file: "iroh_relay_url = \"http://192.0.2.1:8080\"",
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default, iroh :3340 default, stun :3478 default"},
		{name: "the relay on the site, which has the usual port", file: "http_listen = \"0.0.0.0:3340\"\niroh_relay_url = \"http://192.0.2.1:3340\"",
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:3340 file, stun :3478 default"},
		{name: "the relay under TLS has its own port, too", file: "iroh_relay_url = \"https://example.org\"", db: stored{"iroh": 3342},
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default, iroh :3342 db, stun :3478 default"},
		{name: "TURN answers STUN", file: "iroh_enable = true\nturn_enable = true",
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default, turn 0.0.0.0:3478 default, turn_tcp 0.0.0.0:3478 default, iroh :3340 default"},
		{name: "the relay switched off", file: "iroh_enable = true", off: "iroh",
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "https switched off", file: "http_listen = \"0.0.0.0:80\"\nhttp_tls_listen = \"0.0.0.0:443\"", off: "http_tls",
			want: "smtp 0.0.0.0:25 default, imap 0.0.0.0:143 default, http 0.0.0.0:80 file"},
		{name: "local only, by file, stored port, environment and default",
			file: "submission_listen = \"[::]:587\"\nhttp_listen = \"192.0.2.1:80\"", db: stored{"http": 81}, local: "smtp submission imap http",
			env:  map[string]string{"CHATMAIL_SMTP_ADDR": "0.0.0.0:26"},
			want: "smtp 127.0.0.1:26 env, submission 127.0.0.1:587 file, submission [::1]:587 file, imap 127.0.0.1:143 default, http 127.0.0.1:81 db"},
		{name: "the five of REQ-01", file: "smtp_listen = \"0.0.0.0:25\"\nimap_listen = \"0.0.0.0:143\"\nsubmission_listen = \"0.0.0.0:587\"\n" +
			"imap_tls_listen = \"0.0.0.0:993\"\nhttp_listen = \"0.0.0.0:8080\"",
			want: "smtp 0.0.0.0:25 file, submission 0.0.0.0:587 file, imap 0.0.0.0:143 file, imap_tls 0.0.0.0:993 file, http 0.0.0.0:8080 file"},
		{name: "a scheme before an address", file: "smtp_listen = \"tcp://0.0.0.0:25\"\nimap_tls_listen = \"tls://0.0.0.0:993\"",
			want: "smtp 0.0.0.0:25 file, imap_tls 0.0.0.0:993 file, http 0.0.0.0:8080 default"},
		{name: "several addresses", file: "smtp_listen = \"192.0.2.1:25 [2001:db8::1]:25\"\nimap_listen = [\"0.0.0.0:143\", \"[::]:143\", \"192.0.2.1:1143\"]\nhttp_listen = \"192.0.2.1:80 192.0.2.2:80\"",
			db: stored{"http": 81, "submission": 587}, local: "submission",
			want: "smtp 192.0.2.1:25 file, smtp [2001:db8::1]:25 file, submission 127.0.0.1:587 db, imap [::]:143 file, imap 192.0.2.1:1143 file, http 192.0.2.1:81 db, http 192.0.2.2:81 db"},
		{name: "several addresses on loopback only, and the hosts of a sibling", file: "smtp_listen = \"192.0.2.1:25 192.0.2.2:25 [2001:db8::1]:25\"\nsubmission_tls_listen = \"192.0.2.1:465 192.0.2.2:465\"",
			db: stored{"submission": 587}, local: "smtp",
			want: "smtp 127.0.0.1:25 file, smtp [::1]:25 file, submission 192.0.2.1:587 db, submission 192.0.2.2:587 db, submission_tls 192.0.2.1:465 file, submission_tls 192.0.2.2:465 file, " +
				"imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
		{name: "IPv6 hosts stay in brackets", file: `smtp_listen = "[2001:db8::1]:25"`, db: stored{"smtp": 26},
			want: "smtp [2001:db8::1]:26 db, imap 0.0.0.0:143 default, http 0.0.0.0:8080 default"},
	} {
		t.Run(x.name, func(t *testing.T) {
			got := []string{}
			for _, l := range parse(t, x.file).Listeners(Ports{
				Port:  func(n string) int { return x.db[n] },
				Local: func(n string) bool { return slices.Contains(strings.Fields(x.local), n) },
				Off:   func(n string) bool { return x.off == n },
				Env:   func(n string) string { return x.env[n] },
			}) {
				if l.TLS != strings.HasSuffix(l.Name, "_tls") {
					t.Errorf("%s: TLS %v", l.Name, l.TLS)
				}
				got = append(got, l.Name+" "+l.Addr+" "+l.Source)
			}
			if s := strings.Join(got, ", "); s != x.want {
				t.Errorf("got  %s\nwant %s", s, x.want)
			}
		})
	}
}

// TestWhereTheFilesAre walks the places of operator specification 1.1 down.
func TestWhereTheFilesAre(t *testing.T) {
	t.Chdir(t.TempDir())
	env := map[string]string{"CHATMAIL_CONFIG": "c", "MADDY_CONFIG": "m", "CHATMAIL_STATE_DIR": "cs", "MADDY_STATE_DIR": "ms", "MADMAIL_STATE_DIR": "mms"}
	get := func(k string) string { return env[k] }
	for _, step := range []struct{ unset, want string }{{"", "c"}, {"CHATMAIL_CONFIG", "m"}, {"MADDY_CONFIG", "data/chatmail.toml"}} {
		delete(env, step.unset)
		if got := FindFile("", get); got != step.want {
			t.Errorf("without %s the file is %s, want %s", step.unset, got, step.want)
		}
	}
	if got := FindFile("flag", get); got != "flag" {
		t.Errorf("the flag gives %s", got)
	}

	c := &Config{StateDir: "file"}
	for _, step := range []struct{ unset, want string }{{"", "cs"}, {"CHATMAIL_STATE_DIR", "ms"}, {"MADDY_STATE_DIR", "mms"}, {"MADMAIL_STATE_DIR", "file"}} {
		delete(env, step.unset)
		if got := c.FindStateDir("", get); got != step.want {
			t.Errorf("without %s the state is in %s, want %s", step.unset, got, step.want)
		}
	}
	// The flag beats the file: it was ignored once.
	if got := c.FindStateDir("flag", get); got != "flag" {
		t.Errorf("the flag gives %s", got)
	}
	c.StateDir = ""
	for _, name := range []string{"admin_token", "chatmail.db", "credentials.db", "chatmail.toml"} {
		if err := os.RemoveAll("data"); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir("data", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("data", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := c.FindStateDir("", get); got != "data" {
			t.Errorf("with data/%s the state is in %s", name, got)
		}
	}
	if got := c.FindRuntimeDir("data"); got != filepath.Join("data", "run") {
		t.Errorf("runtime directory %s", got)
	}
	if got := c.FindRuntimeDir("/var/lib/madmail"); !strings.HasPrefix(got, "/run/") {
		t.Errorf("runtime directory %s", got)
	}
	// A server that may not write into the usual one has its own; the usual one counts
	// as soon as there is a server in it.
	c.RuntimeDir = "elsewhere"
	for _, step := range []struct{ made, want string }{{"", "elsewhere"}, {filepath.Join("data", "run"), filepath.Join("data", "run")}, {"elsewhere", "elsewhere"}} {
		if step.made != "" {
			if err := errors.Join(os.MkdirAll(step.made, 0o700), os.WriteFile(filepath.Join(step.made, PIDFile), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.FindRuntimeDir("data"); got != step.want || c.UsualRuntimeDir("data") != "elsewhere" {
			t.Errorf("with a server in %q: %s", step.made, got)
		}
	}
}

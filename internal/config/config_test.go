package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"madmail/internal/fault"
	"madmail/internal/units"
)

var update = flag.Bool("update", false, "rewrite the expected sentences")

// TestBadFilesSayWhatIsWrong reads one file per mistake. Beside each stands
// what the operator sees: every problem with file, line, key, and what to
// write instead.
func TestBadFilesSayWhatIsWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.toml")
	blocks, err2 := filepath.Glob("testdata/bad/*.conf")
	if err != nil || err2 != nil || len(files) < 30 || len(blocks) < 15 {
		t.Fatalf("%d and %d files, %v, %v", len(files), len(blocks), err, err2)
	}
	for _, path := range append(files, blocks...) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".toml"), func(t *testing.T) {
			c, err := Load(path)
			if c != nil || !fault.Is(err, fault.Invalid) {
				t.Fatalf("got %v, %v; want fault.Invalid and no configuration", c, err)
			}
			got := strings.ReplaceAll(err.Error(), filepath.Dir(path)+string(filepath.Separator), "") + "\n"
			wantFile := strings.TrimSuffix(path, filepath.Ext(path)) + ".want"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestAFileThatCannotBeReadSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if c, err := Load(filepath.Join(dir, "none.toml")); err != nil || !reflect.DeepEqual(c, &Config{}) {
		t.Errorf("a missing file gives %+v, %v; want the defaults", c, err)
	}
	for path, hint := range map[string]string{
		dir:                                  "name a file with --config",
		filepath.Join(dir, "madmail/x.conf"): "",
	} {
		_, err := Load(path)
		if hint != "" && (!fault.Is(err, fault.Invalid) || fault.HintOf(err) != hint) {
			t.Errorf("%s: %v (%s)", path, err, fault.HintOf(err))
		}
	}
}

func parse(t testing.TB, text string) *Config {
	t.Helper()
	c, problems := Parse("test.toml", []byte(text))
	for _, p := range problems {
		t.Error(p)
	}
	return c
}

func TestValuesAreReadInEveryForm(t *testing.T) {
	c := parse(t, "\ufeff"+`hostname = "chat.example.org"
local_domains = ["a.example.org", "b.example.org"]
jit_domain = "c.example.org,d.example.org, 192.0.2.1"
mx_domain = ""
public_ip = "192.0.2.1"
debug = "yes"
log = true
turn_enable = 1
username_length = 1_0
auth_auto_create = false
max_message_size = 1_000_000
default_quota = "3M 5K"
retention = "30d"
smtp_listen = "tcp://[::]:25"
shadowsocks.cipher = "aes-128-gcm"

[turn]
port = 3_478
ttl = 3600

[queue]
max_tries = 0x10
retry_time_scale = 1.25

[limits]
appendlimit = "70M"

[credentials]
password_min_length = 9
`)
	for _, x := range []struct{ name, got, want string }{
		{"local_domains", c.LocalDomains, "a.example.org b.example.org"},
		{"jit_domain", c.JITDomain, "c.example.org d.example.org 192.0.2.1"},
		{"mx_domain", c.MXDomain, ""},
		{"log", c.Log, "true"},
		{"auth_auto_create", c.AutoCreate, "false"},
		{"max_message_size", c.MaxMessageSize, "1000000"},
		{"turn.port", c.TURNPort, "3478"},
		{"turn.ttl", c.TURNTTL, "3600"},
		{"queue.retry_time_scale", c.QueueRetryTimeScale, "1.25"},
		{"limits.appendlimit", c.AppendLimit, "70M"},
	} {
		if x.got != x.want {
			t.Errorf("%s = %q, want %q", x.name, x.got, x.want)
		}
	}
	if !c.Debug || !c.TURNEnable || c.UsernameLength != 10 || c.QueueMaxTries != 16 || c.PasswordMinLength != 9 {
		t.Errorf("%+v", c)
	}
	if c.Quota() != 3<<20+5<<10 {
		t.Errorf("quota %d", c.Quota())
	}
	if c.UnusedAfter() != 0 || parse(t, `unused_account_retention = "1d"`).UnusedAfter() != 24*time.Hour {
		t.Error("unused_account_retention")
	}
	want := map[string]string{
		"__TURN_PORT__": "3478", "__TURN_TTL__": "3600", "__APPENDLIMIT__": "70M", "__MAX_MESSAGE_SIZE__": "1000000",
		"__MESSAGE_RETENTION__": "30d", "__REGISTRATION_OPEN__": "false", "__SS_CIPHER__": "aes-128-gcm",
	}
	if got := c.SettingsValues(); !reflect.DeepEqual(got, want) {
		t.Errorf("settings %v, want %v", got, want)
	}
}

// TestEveryKeyTakesAValue: no key is listed that cannot be written.
func TestEveryKeyTakesAValue(t *testing.T) {
	good := map[string]string{
		"goBool": "true", "int": "9", "list": `"a.example.org"`, "files": `["/a.pem", "/b.pem"]`, "": `"text"`, "listen": `"127.0.0.1:2525"`, "listens": `"127.0.0.1:2525"`, "size": `"1G"`, "duration": `"1h"`,
		"port": "2525", "ip": `"192.0.2.1"`, "bool": "true", "log": `"stderr"`, "domain": `"a.example.org"`, "factor": "1.5", "count": "7", "door": `"imap"`,
		"networks": `"127.0.0.1 10.0.0.0/8"`, "ports": `"465, 993"`, "servers": `"127.0.0.1 [::1]:5353"`,
		"limits": `["all rate 20 1s", "ip concurrency 5"]`, "pages": "-2000", "action": `"reject 550 5.7.1 No"`, "folder": `"Junk"`, "label": `"mail"`,
	}
	for _, key := range Keys() {
		f := fields[key]
		value := good[f.kind]
		if f.kind == "enum" {
			value = `"` + f.of[0] + `"`
		}
		line := key + " = " + value + "\n"
		switch key {
		case "tls_cert":
			line += "tls_key = \"x\"\n"
		case "tls_key":
			line += "tls_cert = \"x\"\n"
		}
		c, problems := Parse("test.toml", []byte(line))
		if len(problems) > 0 {
			t.Errorf("%s: %v", key, problems)
		} else if reflect.ValueOf(c).Elem().Field(f.index).IsZero() {
			t.Errorf("%s was read and not kept", strings.TrimSpace(line))
		}
	}
}

func TestDoorsAreOpenUnlessSomebodySaysNo(t *testing.T) {
	for text, want := range map[string]bool{``: true, `"submission"`: true, `"smtp"`: true, `"on"`: true, "true": true, `"off"`: false, "false": false, `"no"`: false} {
		line := ""
		if text != "" {
			line = "alpn_smtp = " + text + "\n"
		}
		c, problems := Parse("test.toml", []byte(line))
		if len(problems) > 0 {
			t.Errorf("%s: %v", text, problems)
		} else if got := Open(c.ALPNSMTP); got != want {
			t.Errorf("%s: open: %v", text, got)
		} else if stored, ok := c.SettingsValues()["__SHARED_PORT_SMTP__"]; ok != (text != "") || ok && stored != strconv.FormatBool(want) {
			t.Errorf("%s: the setting is %q", text, stored)
		}
	}
}

func TestLimitsMayBeLifted(t *testing.T) {
	c, problems := Parse("test.toml", []byte("iroh_max_clients = 0\nturn_rate = \"1M\"\n[turn]\nmax_per_user = \"3\"\n"))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, x := range []struct {
		text string
		want int64
	}{{c.IrohMaxClients, -1}, {c.TURNRate, 1 << 20}, {c.TURNMaxPerUser, 3}, {c.TURNMaxPerAddress, 0}} {
		if got := Limit(x.text); got != x.want {
			t.Errorf("%q: %d, want %d", x.text, got, x.want)
		}
	}
	for _, line := range []string{"iroh_max_clients = -1", "iroh_max_clients = 1.5", `iroh_max_clients = "many"`, "turn_max_per_user = 3000000000", "iroh_max_standby = true", `iroh_rate = "fast"`} {
		if _, problems := Parse("test.toml", []byte(line+"\n")); len(problems) != 1 {
			t.Errorf("%s: %v", line, problems)
		}
	}
}

func TestTheStarterIsReadWithoutComplaint(t *testing.T) {
	for _, privileged := range []bool{false, true} {
		c := parse(t, string(Starter{Privileged: privileged}.Text()))
		low := 0
		for _, l := range c.Listeners(nobody()) {
			if l.Source != "file" || !strings.HasPrefix(l.Addr, "127.0.0.1:") {
				t.Errorf("%+v: a first try stays on this machine", l)
			}
			if _, port, _ := strings.Cut(l.Addr, ":"); port != "" {
				if n, err := units.ParsePort(port); err == nil && n < 1024 {
					low++
				}
			}
		}
		if privileged != (low > 0) {
			t.Errorf("privileged %v, %d low ports", privileged, low)
		}
		if c.LogTargets() == nil || c.Debug {
			t.Error("the starter says nothing about the log")
		}
	}
}

// TestTheExampleFileIsRead reads the file that is installed, as it is and with
// each of its proposals switched on.
func TestTheExampleFileIsRead(t *testing.T) {
	data, err := os.ReadFile("../../dist/chatmail.toml")
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, string(data))
	var on []string
	for _, l := range c.Listeners(nobody()) {
		on = append(on, l.Name+" "+l.Addr)
	}
	want := []string{"smtp [::]:25", "submission [::]:587", "submission_tls [::]:465", "imap [::]:143", "imap_tls [::]:993",
		"http [::]:80", "http_tls [::]:443"}
	if !slices.Equal(on, want) {
		t.Errorf("listeners %q, want %q", on, want)
	}
	proposals := 0
	for n, line := range strings.Split(string(data), "\n") {
		text, ok := strings.CutPrefix(line, "# ")
		key, _, assigns := strings.Cut(text, " = ")
		if !ok || !assigns || strings.Contains(key, " ") {
			continue
		}
		proposals++
		if !slices.Contains(Keys(), key) {
			t.Errorf("line %d proposes %q, which is no key", n+1, key)
			continue
		}
		if key == "tls_cert" || key == "tls_key" { // good together only
			text = "tls_cert = \"a\"\ntls_key = \"b\""
		}
		if key == "tls_mode" {
			text += "\ntls_cert = \"a\"\ntls_key = \"b\""
		}
		if _, problems := Parse("chatmail.toml", []byte(text)); len(problems) > 0 {
			t.Errorf("line %d: %v", n+1, problems)
		}
	}
	if proposals < 10 {
		t.Errorf("%d proposals were found", proposals)
	}
}

// TestTheDocumentsNameEveryKey: docs/operate.md has the list that the error
// messages point at, no key more and no key less.
func TestTheDocumentsNameEveryKey(t *testing.T) {
	data, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "## Keys of the configuration file\n")
	if !ok {
		t.Fatal("docs/operate.md has no list of keys")
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var listed []string
	for _, line := range strings.Split(rest, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, word := range strings.Split(cells[1], ",") {
				if word = strings.TrimSpace(word); strings.HasPrefix(word, "`") {
					listed = append(listed, strings.Trim(word, "`"))
				}
			}
		}
	}
	slices.Sort(listed)
	if want := Keys(); !slices.Equal(listed, want) {
		for _, k := range want {
			if !slices.Contains(listed, k) {
				t.Errorf("%s is not listed", k)
			}
		}
		for _, k := range listed {
			if !slices.Contains(want, k) {
				t.Errorf("%s is listed and no key", k)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Starter{}.Text())
	files, _ := filepath.Glob("testdata/bad/*.toml")
	for _, path := range files {
		if data, err := os.ReadFile(path); err == nil {
			f.Add(data)
		}
	}
	for _, s := range []string{"", "\ufeff", "[turn]", "[turn.port]", "turn.port.x = 1", "a = {b = [1, {c = 2}]}", "[[[", "\"\" = 1", "'' = ''", "log = \"\\u0000\"", "port = 1e999"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, problems := Parse("f", data)
		for _, p := range problems {
			if p.Line < 1 || p.What == "" {
				t.Errorf("%q: %+v", data, p)
			}
		}
		if len(problems) > 0 {
			return
		}
		// What was taken can be used without asking again.
		for _, l := range c.Listeners(nobody()) {
			if err := checkListen(l.Addr); err != nil {
				t.Errorf("%q: %+v: %v", data, l, err)
			}
		}
		if c.Quota() < 0 || c.UnusedAfter() < 0 || c.UsernameLength < 0 {
			t.Errorf("%q: %+v", data, c)
		}
		for k, v := range c.SettingsValues() {
			if strings.ContainsAny(v, "\x00\n") {
				t.Errorf("%q: %s = %q", data, k, v)
			}
		}
	})
}

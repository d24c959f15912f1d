package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/internal/fault"
)

// TestAnEditChangesOneLine: nothing but the line of the value changes, in either syntax
// (known-failures.md 73).
func TestAnEditChangesOneLine(t *testing.T) {
	for _, x := range []struct {
		name, file, before, dir string
		strict                  bool
		want                    string
	}{
		{"empty toml", "a.toml", "", "/srv/www", false, "www_dir = \"/srv/www\"\n"},
		{"toml, added behind the last key", "a.toml", "# first\nhostname = \"a.org\"   # name\n\n# tail\n", "/srv/www", false, "# first\nhostname = \"a.org\"   # name\nwww_dir = \"/srv/www\"\n\n# tail\n"},
		{"toml, before the tables", "a.toml", "debug = true\n[turn]\nenable = true # x\n", "/srv/www", true, "debug = true\nwww_dir = \"/srv/www\"\nwww_strict = true\n[turn]\nenable = true # x\n"},
		{"toml, tables only", "a.toml", "# c\n[turn]\nenable = true\n", "/srv/www", false, "www_dir = \"/srv/www\"\n# c\n[turn]\nenable = true\n"},
		{"toml, changed, comment kept", "a.toml", "a = 1\n", "", false, "bad"},
		{"toml, changed", "a.toml", "debug=true\n  www_dir  =  '/old' # the pages\nhostname = \"a.org\"", "/srv/www", false, "debug=true\n  www_dir  =  \"/srv/www\" # the pages\nhostname = \"a.org\""},
		{"toml, changed, several lines", "a.toml", "www_dir = \"\"\"/a\\\n  b\"\"\"\ndebug = true\n", "/srv/www", false, "www_dir = \"/srv/www\"\ndebug = true\n"},
		{"toml, removed", "a.toml", "# a\nwww_dir = \"/old\"\nwww_strict = true\ndebug = true\n", "", false, "# a\ndebug = true\n"},
		{"toml, removed, comment kept", "a.toml", "www_dir = \"/old\"  # mine\ndebug = true\n", "", false, "# mine\ndebug = true\n"},
		{"toml, removed at the end", "a.toml", "debug = true\nwww_dir = \"/old\"", "", false, "debug = true\n"},
		{"toml, under a table", "a.toml", "[limits]\nwww_dir = \"/old\"\n", "/new", false, "[limits]\nwww_dir = \"/new\"\n"},
		{"toml, a key with a dot", "a.toml", "limits.www_dir = \"/old\"\n", "/new", false, "limits.www_dir = \"/new\"\n"},
		{"toml, CRLF and a mark of the byte order", "a.toml", "\ufeff# a\r\ndebug = true\r\n", "/srv/www", false, "\ufeff# a\r\ndebug = true\r\nwww_dir = \"/srv/www\"\r\n"},
		{"toml, no end of line", "a.toml", "debug = true", "/srv/www", true, "debug = true\nwww_dir = \"/srv/www\"\nwww_strict = true"},
		{"toml, quotes", "a.toml", "", `/srv/a "b" 'c' \d`, false, "www_dir = \"/srv/a \\\"b\\\" 'c' \\\\d\"\n"},
		{"toml, the same", "a.toml", "www_dir=\"/srv\" # x\n", "/srv", false, "www_dir=\"/srv\" # x\n"},

		{"blocks, added", "a.conf", "# c\nchatmail tcp://0.0.0.0:80 { # web\n  mail_domain a.org\n}\n", "/srv/www", false,
			"# c\nchatmail tcp://0.0.0.0:80 { # web\n  www_dir /srv/www\n  mail_domain a.org\n}\n"},
		{"blocks, in every one", "a.conf", "chatmail tcp://0.0.0.0:80 {\n\twww_dir /old # x\n}\nimap tcp://0.0.0.0:143 {\n}\nchatmail tls://0.0.0.0:443 {\n\n\n\tmail_domain a.org\n}", "/srv/www", true,
			"chatmail tcp://0.0.0.0:80 {\n\twww_strict true\n\twww_dir /srv/www # x\n}\nimap tcp://0.0.0.0:143 {\n}\nchatmail tls://0.0.0.0:443 {\n\twww_dir /srv/www\n\twww_strict true\n\n\n\tmail_domain a.org\n}"},
		{"blocks, an empty one", "a.conf", "chatmail tcp://0.0.0.0:80 { }\n", "/srv/www", false, "chatmail tcp://0.0.0.0:80 {\n    www_dir /srv/www \n}\n"},
		{"blocks, blanks and quotes", "a.conf", "chatmail tcp://0.0.0.0:80 {\n    debug no\n}\n", `/srv/my "site" {#}`, false, "chatmail tcp://0.0.0.0:80 {\n    www_dir \"/srv/my \\\"site\\\" {#}\"\n    debug no\n}\n"},
		{"blocks, removed from each", "a.conf", "chatmail tcp://0.0.0.0:80 {\n    www_dir /old\n}\nchatmail tls://0.0.0.0:443 {\n    www_dir \"/old\" # mine\n    www_strict yes }\n", "", false,
			"chatmail tcp://0.0.0.0:80 {\n}\nchatmail tls://0.0.0.0:443 {\n    # mine\n    }\n"},
		{"blocks, by a variable", "a.conf", "$(dir) = /old\nchatmail tcp://0.0.0.0:80 {\n    www_dir $(dir)\n}\n", "/new", false, "$(dir) = /old\nchatmail tcp://0.0.0.0:80 {\n    www_dir /new\n}\n"},
		{"blocks, a line that goes on", "a.conf", "chatmail tcp://0.0.0.0:80 {\n    www_dir \\\n      /old\n}\n", "/new", false, "chatmail tcp://0.0.0.0:80 {\n    www_dir /new\n}\n"},
		{"blocks, in a snippet", "a.conf", "(web) {\n  www_dir /old\n}\nchatmail tcp://0.0.0.0:80 {\n  import web\n}\n", "", false, "(web) {\n}\nchatmail tcp://0.0.0.0:80 {\n  import web\n}\n"},
		{"blocks, CRLF", "a.conf", "chatmail tcp://0.0.0.0:80 {\r\n  debug no\r\n}\r\n", "/srv", false, "chatmail tcp://0.0.0.0:80 {\r\n  www_dir /srv\r\n  debug no\r\n}\r\n"},
		{"blocks, words of others", "a.conf", "imap tcp://0.0.0.0:143 {\n}\nchatmail tcp://0.0.0.0:80 {\n  tls {\n    loader file \"a\" \"b\"\n  }\n}\n", "/srv", false,
			"imap tcp://0.0.0.0:143 {\n}\nchatmail tcp://0.0.0.0:80 {\n  www_dir /srv\n  tls {\n    loader file \"a\" \"b\"\n  }\n}\n"},
	} {
		if x.want == "bad" {
			x.before, x.want = "www_dir = \"/old\" # keep\n\n\n# more\n", "# keep\n\n\n# more\n"
		}
		path := filepath.Join(t.TempDir(), x.file)
		if err := os.WriteFile(path, []byte(x.before), 0o640); err != nil {
			t.Fatal(err)
		}
		changed, err := ServeSite(path, x.dir, x.strict)
		got, rerr := os.ReadFile(path)
		if err != nil || rerr != nil || string(got) != x.want || changed != (x.before != x.want) {
			t.Errorf("%s: %v, changed %v:\n%q, want\n%q", x.name, err, changed, got, x.want)
			continue
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v %v", x.name, info, err)
		}
		c, err := Load(path)
		if err != nil || c.WWWDir != x.dir || c.WWWStrict != x.strict {
			t.Errorf("%s: read again: %v %+v", x.name, err, c)
		}
		if changed, err := ServeSite(path, x.dir, x.strict); err != nil || changed {
			t.Errorf("%s: again: %v, changed %v", x.name, err, changed)
		}
	}
}

func TestAnEditThatCannotBeIsRefused(t *testing.T) {
	for _, x := range []struct {
		file, text, dir, want string
		kind                  fault.Kind
	}{
		{"a.toml", "debug = maybe\n", "/srv", "a.toml:1: ", fault.Invalid},
		{"a.toml", "", "/srv/\nx", "cannot be written", fault.Invalid},
		{"a.conf", "imap tcp://0.0.0.0:143 {\n}\n", "/srv", "has no chatmail block", fault.Invalid},
		{"a.conf", "chatmail tcp://0.0.0.0:80 {\n", "/srv", "not closed", fault.Invalid},
		{"a.conf", "chatmail tcp://0.0.0.0:80 {\n}\n", "/srv/{env:HOME}", "without changing something else", fault.Invalid},
		{"a.conf", "chatmail tcp://0.0.0.0:80 {\n  import more\n}\n", "/srv", "without changing something else", fault.Invalid},
		{"none.toml", "", "/srv", "no such file", fault.NotFound},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, x.file)
		if err := os.WriteFile(filepath.Join(dir, "more"), []byte("www_dir /elsewhere\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if x.file != "none.toml" {
			if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := ServeSite(path, x.dir, false)
		if err == nil || !strings.Contains(err.Error(), x.want) || !fault.Is(err, x.kind) {
			t.Errorf("%q: %v, want %q", x.text, err, x.want)
		}
		if got, _ := os.ReadFile(path); string(got) != x.text {
			t.Errorf("%q became %q", x.text, got)
		}
	}
}

// TestALinkToTheConfigurationStays: what it leads to is replaced, not the link.
func TestALinkToTheConfigurationStays(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real.toml"), filepath.Join(dir, "link.toml")
	if err := os.WriteFile(real, []byte("debug = true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ServeSite(link, "/srv", false); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != real {
		t.Errorf("%q %v", to, err)
	}
	if c, err := Load(real); err != nil || c.WWWDir != "/srv" {
		t.Errorf("%v %+v", err, c)
	}
}

func TestHolds(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "state"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "a", "state")
	for path, want := range map[string]bool{"a": true, "a/state": true, ".": true, "link": true, "link/state": true, "a/state/www": false, "a/stat": false, "b": false, "a/state2": false} {
		if got := Holds(filepath.Join(dir, path), state); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func FuzzEdit(f *testing.F) {
	for _, s := range []string{"debug = true\n[turn]\n", "www_dir = '/a' # b\n", "limits.www_dir = \"\"\"a\"\"\"", "\ufeff\r\n"} {
		f.Add(true, s, "/srv", true)
	}
	for _, s := range []string{"chatmail tcp://:80 {\n www_dir /a # b\n}\n", "(x) {\n www_dir a }\nchatmail tls://:443 { }", "chatmail tcp://:80 {\n www_dir \"a\nb\"\\\n c\n}"} {
		f.Add(false, s, "/s r#v", false)
	}
	f.Fuzz(func(t *testing.T, isTOML bool, text, dir string, strict bool) {
		path := map[bool]string{true: "a.toml", false: "a.conf"}[isTOML]
		before, err := parsed(path, []byte(text))
		if err != nil || strings.Contains(text, "import") || strings.Contains(text, "{env:") {
			return
		}
		values := map[string]string{"www_dir": dir, "www_strict": map[bool]string{true: "true"}[strict && dir != ""]}
		out, err := edit(path, []byte(text), values, without)
		if err != nil {
			return
		}
		after, err := parsed(path, out)
		if err != nil || after.WWWDir != dir || after.Hostname != before.Hostname {
			t.Fatalf("%q with %q gives %q: %v", text, dir, out, err)
		}
		if again, err := edit(path, out, values, without); err != nil || string(again) != string(out) {
			t.Fatalf("%q, again: %q, %v", out, again, err)
		}
		for _, c := range strings.SplitAfter(text, "\n") { // comments stay
			if line := strings.TrimSpace(c); strings.HasPrefix(line, "#") && !strings.ContainsAny(text, "\"'\\") && !strings.Contains(string(out), line) {
				t.Fatalf("%q lost %q: %q", text, line, out)
			}
		}
	})
}

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"madmail/internal/fault"
)

// TestAnEditKeepsTheRest is known failure 73: who changes one line by command keeps
// the comments, the order and the mode of the file.
func TestAnEditKeepsTheRest(t *testing.T) {
	for _, x := range []struct {
		name, file, old, want string
		lines                 []Line
	}{
		{
			"TOML", "c.toml",
			"# ours\nhostname = \"a.example.org\" # the machine\ntls_mode = \"self_signed\"   # for now\ntls_cert = \"/c\"\ntls_key = \"/k\"\n\n[turn]\n# calls\nrealm = \"x\"\n",
			"# ours\nhostname = \"a.example.org\" # the machine\ntls_mode = \"autocert\"   # for now\n# tls_cert = \"/c\"\n# tls_key = \"/k\"\nacme_email = \"x@example.org\"\n\n[turn]\n# calls\nrealm = \"x\"\n",
			[]Line{{"tls_mode", "autocert"}, {"acme_email", "x@example.org"}, {"tls_cert", ""}, {"tls_key", ""}},
		}, {
			"TOML without an end of line", "c.toml", "hostname = \"a.example.org\"", "hostname = \"a.example.org\"\ntls_mode = \"autocert\"",
			[]Line{{"tls_mode", "autocert"}},
		}, {
			"a text of several lines", "c.toml", "admin_token = \"\"\"\\\ntls_mode = 1\"\"\"\n", "admin_token = \"\"\"\\\ntls_mode = 1\"\"\"\ntls_mode = \"autocert\"\n",
			[]Line{{"tls_mode", "autocert"}},
		}, {
			"blocks", "c.conf", "# ours\nhostname a.example.org\ntls file /c /k # pair\ntls_mode file\nimap tls://0.0.0.0:993 {\n  # tls_mode is not here\n}\n",
			"# ours\nhostname a.example.org\n# tls file /c /k # pair\ntls_mode autocert\nimap tls://0.0.0.0:993 {\n  # tls_mode is not here\n}\n",
			[]Line{{"tls_mode", "autocert"}, {"tls", ""}},
		}, {
			"blocks with braces in texts", "c.conf", "\ufeffhostname a.example.org # {\r\nchatmail tcp://:80 {\r\n  www_dir \"/a { b\"\r\n}\r\ntls_mode \"file\"",
			"\ufeffhostname a.example.org # {\r\nchatmail tcp://:80 {\r\n  www_dir \"/a { b\"\r\n}\r\ntls_mode autocert\r\nacme_email x@example.org\r\n",
			[]Line{{"tls_mode", "autocert"}, {"acme_email", "x@example.org"}},
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), x.file)
			if err := os.WriteFile(path, []byte(x.old), 0o640); err != nil {
				t.Fatal(err)
			}
			link := filepath.Join(t.TempDir(), x.file)
			if err := os.Symlink(path, link); err != nil {
				t.Fatal(err)
			}
			if err := Edit(link, x.lines...); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != x.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, x.want)
			}
			if bak, err := os.ReadFile(path + ".bak"); err != nil || string(bak) != x.old {
				t.Errorf("copy: %v, %q", err, bak)
			}
			if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 {
				t.Errorf("the link is gone: %v", err)
			}
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 {
				t.Errorf("mode: %v", st.Mode())
			}
			if err := Edit(link, x.lines...); err != nil {
				t.Errorf("twice: %v", err)
			}
			if again, err := os.ReadFile(path); err != nil || string(again) != x.want {
				t.Errorf("an edit that changes nothing does: %s", again)
			}
		})
	}
}

// TestAnEditThatCannotBeChangesNothing: what would not be read afterwards is not
// written.
func TestAnEditThatCannotBeChangesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Edit(filepath.Join(dir, "none.toml"), Line{"tls_mode", "autocert"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(dir, "c.toml")
	for text, line := range map[string]Line{
		"hostname = \"a.example.org\"\n":    {"tls_mode", "magic"},
		"[turn]\ntls_mode = \"broken\n":     {"tls_mode", "autocert"},
		"\"tls_mode\" = [\n\"autocert\"\n]": {"tls_mode", "autocert"},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Edit(path, line)
		got, rerr := os.ReadFile(path)
		if !fault.Is(err, fault.Invalid) || rerr != nil || string(got) != text {
			t.Errorf("%q: %v, %q", text, err, got)
		}
	}
}

func TestOrdersOfBlocks(t *testing.T) {
	c := blocks(t, `tls {
 loader acme {
  hostname mail.example.org
  extra_names mta-sts.example.org www.example.org
  email x@example.org
  agreed
  challenge dns-01
  dns cloudflare {
   api_token s3cret
  }
 }
}
hostname mail.example.org
`, nil)
	got := strings.Join([]string{c.TLSMode, c.ACMENames, c.ACMEEmail, c.ACMEDNSProvider, c.ACMEDNSToken}, "|")
	if want := "acme|mta-sts.example.org www.example.org|x@example.org|cloudflare|s3cret"; got != want || len(c.Notes) > 0 {
		t.Errorf("%s, want %s; notes %v", got, want, c.Notes)
	}
	_, problems := ParseBlocks("test.conf", []byte("tls {\n loader acme {\n dns namecheap {\n api_key x\n }\n }\n}"), os.Getenv, os.ReadFile)
	if len(problems) == 0 || !strings.Contains(problems[0].Error(), "cloudflare, digitalocean, gandi, hetzner, route53, vultr, rfc2136") {
		t.Errorf("an unknown provider: %v", problems)
	}
}

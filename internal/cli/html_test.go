package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConvertingPagesIsAskedFor: no is no.
func TestConvertingPagesIsAskedFor(t *testing.T) {
	dir := t.TempDir()
	page, conf := filepath.Join(dir, "index.html"), filepath.Join(dir, "chatmail.toml")
	for path, text := range map[string]string{page: "<p>{{.MailDomain}}</p>", conf: "www_dir = '" + dir + "'\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct{ answer, says, page string }{
		{"n\n", "Nothing was converted.", "<p>{{.MailDomain}}</p>"}, {"", "Nothing was converted.", "<p>{{.MailDomain}}</p>"}, {"y\n", "Converted 1 file(s).", "<p>{{ MailDomain }}</p>"},
	} {
		var out, err bytes.Buffer
		if code := Main([]string{"html-migrate", "--config", conf}, strings.NewReader(x.answer), &out, &err); code != 0 {
			t.Fatalf("exit code %d: %s", code, &err)
		}
		got, e := os.ReadFile(page)
		if e != nil || string(got) != x.page || !strings.Contains(out.String(), x.says) || !strings.Contains(err.String(), "Convert 1 file(s)") {
			t.Errorf("answer %q: %v %q, says %q, asks %q", x.answer, e, got, &out, &err)
		}
	}
}

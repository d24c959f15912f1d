package internal

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheListOfStandardsIsTrue checks that every test that docs/protocols.md
// names is there, and that it has a line for every IMAP capability.
func TestTheListOfStandardsIsTrue(t *testing.T) {
	doc, err := os.ReadFile("../docs/protocols.md")
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, root := range []string{".", "../test"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || d.IsDir():
				return err
			case strings.HasSuffix(p, ".dialog"):
				have[d.Name()] = true
			case strings.HasSuffix(p, "_test.go"):
				text, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				for _, m := range function.FindAllSubmatch(text, -1) {
					have[string(m[1])] = true
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+|[a-z0-9-]+\\.dialog)`").FindAllSubmatch(doc, -1)
	for _, m := range named {
		if name := string(m[1]); name != "x.dialog" && !have[name] {
			t.Errorf("docs/protocols.md names %s, which is not there", name)
		}
	}
	login, err := os.ReadFile("imapserver/login.go")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`c\.put\("(IMAP4rev1 IMAP4rev2 [^"]*)"`).FindSubmatch(login)
	if list == nil || len(named) < 50 {
		t.Fatalf("%d tests named, capabilities %q", len(named), list)
	}
	for _, c := range strings.Fields(string(list[1])) {
		if c = strings.TrimSuffix(c, "="); !strings.Contains(string(doc), c) {
			t.Errorf("docs/protocols.md has no line for %s", c)
		}
	}
}

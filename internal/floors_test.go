package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors is the drawing of docs/decisions/0002: a package imports from lower
// floors only. The names are those below internal/.
var floors = [][]string{
	0: {"address", "units", "fault", "safefile", "task", "threads", "heap", "latency", "readable", "inflate", "logging", "metrics", "version", "inlet", "throttle", "verdict", "route", "caller"},
	1: {"smtp", "imap", "message", "openpgp", "dkim", "dane", "blockconf", "page"},
	2: {"db", "config", "settings", "account", "mailbox", "quota", "event", "queue", "policy", "peers", "device", "share", "gate", "invite", "admintoken", "resolve", "mtasts", "authres", "totals"},
	3: {"auth", "delivery", "outbound", "exchange", "push", "webhook", "certs", "upkeep"},
	4: {"ops", "doctor", "setup", "importer", "backup"},
	5: {"smtpserver", "imapserver", "httpserver", "mxdeliv", "website", "webimap", "adminrpc", "adminui", "control", "turnserver", "irohrelay", "shadowsocks", "tunnel"},
	6: {"cli", "app", "supervisor"},
}

// sideways lists the imports within a floor that are allowed, and why.
var sideways = map[[2]string]string{
	{"address", "fault"}:  "errors have a kind from the lowest floor on",
	{"units", "fault"}:    "errors have a kind from the lowest floor on",
	{"logging", "fault"}:  "errors have a kind from the lowest floor on",
	{"safefile", "fault"}: "errors have a kind from the lowest floor on",
	{"verdict", "fault"}:  "errors have a kind from the lowest floor on",
	{"throttle", "fault"}: "errors have a kind from the lowest floor on",
	{"throttle", "units"}: "its rules have times",
	{"readable", "task"}:  "every goroutine has an owner",
	{"inlet", "task"}:     "every goroutine has an owner",
	{"inlet", "address"}:  "what counts as one source is said once",
	{"caller", "address"}: "what counts as one source is said once",
	{"settings", "db"}:    "the database handle is the cellar of floor 2",
	{"account", "db"}:     "the database handle is the cellar of floor 2",
	{"quota", "db"}:       "the database handle is the cellar of floor 2",
	{"policy", "db"}:      "the database handle is the cellar of floor 2",
	{"peers", "db"}:       "the database handle is the cellar of floor 2",
	{"totals", "db"}:      "the database handle is the cellar of floor 2",
	{"device", "db"}:      "the database handle is the cellar of floor 2",
	{"share", "db"}:       "the database handle is the cellar of floor 2",
	{"event", "mailbox"}:  "a wake-up names a mailbox",
	{"dkim", "message"}:   "a signature is made of header fields",
	{"ops", "backup"}:     "making a copy is an operator action",
	{"ops", "doctor"}:     "running the checks is an operator action",
	{"app", "supervisor"}: "somebody must hold the keys",
	{"cli", "app"}:        "somebody must hold the keys",
}

// opsDoors are the doors and the house that may import ops.
var opsDoors = []string{"adminrpc", "control", "cli", "app"}

func floorOf(pkg string) int {
	return slices.IndexFunc(floors, func(f []string) bool { return slices.Contains(f, pkg) })
}

func TestImportsGoDownTheFloors(t *testing.T) {
	const module = "madmail/internal/"
	seen := 0
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(p))
		if dir == "." {
			return nil
		}
		top, _, _ := strings.Cut(dir, "/")
		from := floorOf(top)
		if from < 0 {
			t.Errorf("package internal/%s stands on no floor: add it to the table and to docs/decisions/0002", top)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, im := range f.Imports {
			name, err := strconv.Unquote(im.Path.Value)
			if err != nil || !strings.HasPrefix(name, module) {
				continue
			}
			seen++
			target, _, _ := strings.Cut(strings.TrimPrefix(name, module), "/")
			// A sub-package implements or tests what its parent names.
			if target == top {
				if path.Base(dir) == top && strings.HasSuffix(p, "_test.go") || dir != top {
					continue
				}
				t.Errorf("%s imports its own sub-package %s", p, name)
				continue
			}
			to := floorOf(target)
			if target == "ops" && !slices.Contains(opsDoors, top) {
				t.Errorf("%s imports ops: only operator doors may", p)
			}
			if to < from || sideways[[2]string{top, target}] != "" {
				continue
			}
			// Tests may build what they need from the same floor.
			if to == from && strings.HasSuffix(p, "_test.go") {
				continue
			}
			t.Errorf("%s (floor %d) imports %s (floor %d): lower it, invert it with an interface in the consumer, or change the table and say why",
				p, from, name, to)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Fatal("no import was checked")
	}
}

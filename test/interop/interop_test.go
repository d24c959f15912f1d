//go:build interop

// Package interop runs programs of others against the real binary: what mail
// tools on any Debian expect of a server.
package interop

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/test/testserver"
)

const password = "Vq8sX2mLr5kTz7Wb9NcY3dJf"

// tool returns the path of a program. Its absence is a failure: a run without
// it has shown nothing.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is needed: apt-get install %s", name, pkg)
	}
	return p
}

// run runs a program to its end, a minute at most, and returns its output.
func run(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s%s", filepath.Base(name), args, err, out.String(), errs.String())
	}
	return out.String()
}

// account makes an account and returns its address.
func account(t *testing.T, srv *testserver.Server, name string) string {
	t.Helper()
	a := name + "@[127.0.0.1]"
	srv.Command("accounts", "create", a, "--password", password)
	return a
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

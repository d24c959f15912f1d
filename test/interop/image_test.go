//go:build interop && linux

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// TestImages starts the program as images of containers do: alone in an empty root, by
// what the Dockerfile says, and with the files of an image of the first version.
func TestImages(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	run(t, "", tool(t, "ip", "iproute2"), "link", "set", "lo", "up")
	data, err := os.ReadFile("../../dist/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, what := range []string{"\nENTRYPOINT ", "\nCMD "} {
		_, rest, ok := strings.Cut(string(data), what)
		line, _, _ := strings.Cut(rest, "\n")
		var list []string
		if err := json.Unmarshal([]byte(line), &list); !ok || err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		words = append(words, list...)
	}
	program, err := os.ReadFile(testserver.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	const text = `$(local_domains) = $(primary_domain)
$(primary_domain) = [127.0.0.1]
hostname 127.0.0.1
auth.pass_table local_authdb {
    auto_create yes
    table sql_table {
        driver sqlite3
        dsn credentials.db
        table_name passwords
    }
}
storage.imapsql local_mailboxes {
    driver sqlite3
    dsn imapsql.db
}
smtp tcp://0.0.0.0:25 {
    deliver_to &local_mailboxes
}
submission tls://0.0.0.0:465 tcp://0.0.0.0:587 {
    auth &local_authdb
}
imap tls://0.0.0.0:993 tcp://0.0.0.0:143 {
    auth &local_authdb
    storage &local_mailboxes
}
`
	dir := t.TempDir()
	certPath, keyPath := newAuthority(t, dir).issue(dir, "127.0.0.1")
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, c := range []struct {
		name  string
		args  []string
		files map[string]string
	}{
		{"ours", words, map[string]string{"/etc/madmail/madmail.conf": text}},
		{"the first version's", []string{"/bin/maddy", "--config", "/data/maddy.conf", "run"}, map[string]string{"/data/maddy.conf": "state_dir /data\nruntime_dir /tmp/run\ntls file /data/tls/fullchain.pem /data/tls/privkey.pem\n" + text, "/data/tls/fullchain.pem": read(certPath), "/data/tls/privkey.pem": read(keyPath)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			put := func(path, text string, mode os.FileMode) {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), mode); err != nil {
					t.Fatal(err)
				}
			}
			put(c.args[0], string(program), 0o755)
			for path, text := range c.files {
				put(path, text, 0o600)
			}
			var out bytes.Buffer
			cmd := exec.Command(c.args[0], c.args[1:]...)
			cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{}, "/", &out, &out
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }() // ends with the process
			t.Cleanup(func() {
				_ = cmd.Process.Signal(syscall.SIGTERM)
				if err := <-ended; err != nil || t.Failed() {
					t.Errorf("%v\n%s", err, out.String())
				}
			})
			tg := load.Target{SMTP: "127.0.0.1:465", IMAP: "127.0.0.1:993", Domain: "[127.0.0.1]", Password: password}
			wait(t, "a client is served", func() bool { return tg.Ensure("client-no-%d", 1) == nil })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			inside := exec.CommandContext(ctx, c.args[0], append(c.args[1:3:3], "status", "--json")...)
			inside.Env, inside.Dir = []string{}, "/"
			inside.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
			said, err := inside.Output()
			if err != nil || !strings.Contains(string(said), fmt.Sprintf("\"pid\":%d,", cmd.Process.Pid)) {
				t.Errorf("status inside: %s, %v", said, err)
			}
		})
	}
}

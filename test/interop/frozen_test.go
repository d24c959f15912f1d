//go:build interop && linux

package interop

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"madmail/test/load"
	"madmail/test/testport"
	"madmail/test/testserver"
)

// TestADiskThatStandsStill freezes the file system under a thousand sessions that write,
// of a server that may have as many threads as its unit allows, and thaws it.
func TestADiskThatStandsStill(t *testing.T) {
	const nobody, sessions = 65534, 1000
	dir, err := os.MkdirTemp("", "madmail-frozen-*") // t.TempDir is below a directory of ours alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image, disk := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	freeze := tool(t, "fsfreeze", "util-linux")
	run(t, "", tool(t, "truncate", "coreutils"), "-s", "600M", image)
	run(t, "", tool(t, "mkfs.ext4", "e2fsprogs"), "-q", image)
	run(t, "", tool(t, "mount", "mount"), "-o", "loop", image, disk)
	t.Cleanup(func() {
		_ = exec.Command(freeze, "-u", disk).Run() // it is thawed already when all went well
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	program, err := os.ReadFile(testserver.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	state, binary, config := filepath.Join(disk, "state"), filepath.Join(dir, "madmail"), filepath.Join(dir, "chatmail.toml")
	port := testport.Ports(t, 4)
	text := fmt.Sprintf("primary_domain = \"127.0.0.1\"\nsmtp_listen = \"127.0.0.1:%d\"\nsubmission_tls_listen = \"127.0.0.1:%d\"\nimap_tls_listen = \"127.0.0.1:%d\"\nhttp_tls_listen = \"127.0.0.1:%d\"\nruntime_dir = %q\nlog = \"off\"\n",
		port[0], port[1], port[2], port[3], filepath.Join(disk, "run"))
	for path, data := range map[string][]byte{binary: program, config: []byte(text)} {
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{state, filepath.Join(disk, "run")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	// What the unit says: LimitNPROC, which does not hold for root.
	cmd := exec.Command(tool(t, "prlimit", "util-linux"), "--nproc=512", binary, "--config", config, "--state-dir", state, "run")
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	tg := load.Target{SMTP: fmt.Sprintf("127.0.0.1:%d", port[1]), IMAP: fmt.Sprintf("127.0.0.1:%d", port[2]), Domain: "[127.0.0.1]", Password: password}
	wait(t, "the server listens", func() bool {
		c, err := net.Dial("tcp", tg.IMAP)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err := tg.Ensure("person-no-%d", 50); err != nil {
		t.Fatal(err)
	}
	var senders []*load.Sender
	for i := range sessions {
		s, err := tg.NewSender(fmt.Sprintf("person-no-%d", i%50))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		senders = append(senders, s)
	}
	run(t, "", freeze, "-f", disk)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent, errs := 0, make(map[string]int)
	for i, s := range senders {
		wg.Go(func() {
			from := fmt.Sprintf("person-no-%d@[127.0.0.1]", i%50)
			_, err := s.Send([]string{fmt.Sprintf("person-no-%d@[127.0.0.1]", (i+1)%50)}, load.Message(from, 90_000+i)) // larger than what is held in memory
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[err.Error()]++
			} else {
				sent++
			}
		})
	}
	// As many threads as may wait do, or the server is no more.
	threads := func() (n int) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(status), "Threads:")
		_, _ = fmt.Sscan(rest, &n) // 0 when the process is gone
		return n
	}
	most := 0
	wait(t, "the sessions wait for the disk", func() bool {
		n := threads()
		most = max(most, n)
		return n > 256 || n == 0
	})
	// A session that needs no disk is served meanwhile.
	r, err := tg.Login("person-no-1")
	if err != nil {
		t.Errorf("a login while the disk stands still: %v", err)
	} else {
		if _, err := r.Do("NOOP"); err != nil {
			t.Error(err)
		}
		r.Close()
	}
	most = max(most, threads())
	run(t, "", freeze, "-u", disk)
	wg.Wait()
	t.Logf("%d threads at most", most)
	if sent != sessions {
		list := fmt.Sprint(errs)
		t.Errorf("%d of %d messages were taken: %.300s", sent, sessions, list)
	}
	if most > 400 {
		t.Errorf("%d threads", most)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if stopped = true; <-ended != nil || strings.Contains(out.String(), "fatal error") {
		t.Errorf("the server ended badly: %.2000s", out.String())
	}
}

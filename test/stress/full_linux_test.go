//go:build crash

package stress

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

// TestAFullDisk fills the disk under the server's state directory: deliveries are
// refused for now and nothing that was accepted is lost, reading goes on, a
// restart on the full disk works or says what is wrong, and with room again
// everything is as before. It mounts a small file system and needs the right to.
func TestAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatalf("mount a small file system: %v (run as root)", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	srv := testserver.NewIn(t, dir, "")
	tg := target(srv)
	if err := tg.Ensure("readerreader%d", 1); err != nil {
		t.Fatal(err)
	}
	s, err := tg.NewSender("writerwriter")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	accepted := 0
	send := func() error {
		size := []int{2_000, 200_000}[accepted%2] // in the journal, and in files
		text := bytes.Replace(load.Message("writerwriter@"+tg.Domain, size), []byte("04478418-"), fmt.Appendf(nil, "%08d-", accepted), 1)
		_, err := s.Send([]string{"readerreader0@" + tg.Domain}, text)
		if err == nil {
			accepted++
		}
		return err
	}
	count := func() int {
		t.Helper()
		c, err := tg.Login("readerreader0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Do("SELECT INBOX"); err != nil {
			t.Fatal(err)
		}
		lines, err := c.Do("UID FETCH 1:* (UID BODY.PEEK[])")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, l := range lines {
			if strings.Contains(l, " FETCH (UID ") {
				n++
			}
		}
		return n
	}
	for range 10 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}

	// A file takes all the room.
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(block)
	}
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); err != nil {
			break
		}
	}
	f.Close()
	var refusal error
	for deadline := time.Now().Add(time.Minute); refusal == nil && time.Now().Before(deadline); {
		refusal = send()
	}
	if refusal == nil || !strings.Contains(refusal.Error(), `"4`) {
		t.Fatalf("on a full disk, after %d messages: %v", accepted, refusal)
	}
	t.Logf("%d messages taken, then: %v", accepted, refusal)
	s.Close()
	if n := count(); n != accepted {
		t.Errorf("%d of %d messages can be read on the full disk", n, accepted)
	}

	// Room again: it goes on without a restart.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for err = refusal; err != nil && time.Now().Before(deadline); {
		if s, err = tg.NewSender("writerwriter"); err == nil {
			if err = send(); err != nil {
				s.Close()
			}
		}
	}
	if err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if n := count(); n != accepted {
		t.Errorf("%d of %d messages are there with room again", n, accepted)
	}
	srv.Kill()
	srv.Start()
	if n := count(); n != accepted {
		t.Errorf("%d of %d messages are there after a restart", n, accepted)
	}
}

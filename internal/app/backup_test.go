//go:build unix

package app

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"madmail/internal/backup"
	"madmail/internal/fault"
	"madmail/test/load"
)

// TestABackupUnderLoadHoldsWhatWasAccepted: mail keeps coming, flags change and
// messages go while the copy is made; a server on the copy has every message that
// was accepted before it began, and its accounts, settings and keys.
func TestABackupUnderLoadHoldsWhatWasAccepted(t *testing.T) {
	h := newHouse(t)
	h.start()
	const user = "bobbobbob@[127.0.0.1]"
	reader := h.login("bobbobbob")
	sender, err := h.target().NewSender("alicealice")
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	sent := make(map[string]bool)
	var mu sync.Mutex
	send := func(n int) {
		msg := load.Message("alicealice@[127.0.0.1]", 1500+n%7*20000)
		id := fmt.Sprintf("message-%d@localhost", n)
		msg = []byte(strings.Replace(string(msg), "04478418-12fe-4376-814d-2991a9b69913@localhost", id, 1))
		if _, err := sender.Send([]string{user}, msg); err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		sent[id] = true
	}
	for n := range 60 {
		send(n)
	}
	h.must("settings.set", `{"name":"language","value":"es"}`)
	before := len(sent)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		for n := 60; ; n++ {
			select {
			case <-stop:
				return
			default:
				send(n)
			}
		}
	}()
	do(t, reader, "SELECT INBOX")
	flags := make(chan struct{})
	go func() { // ends with stop
		defer close(flags)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if _, err := reader.Do(fmt.Sprintf("STORE 1:40 %sFLAGS (\\Seen)", []string{"+", "-"}[i%2])); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	dest := filepath.Join(t.TempDir(), "copy")
	b := h.must("backup", fmt.Sprintf(`{"dest":%q}`, dest))
	close(stop)
	<-done
	<-flags
	if b["files"].(float64) < float64(before) {
		t.Errorf("%v", b)
	}
	if _, err := h.op("backup", fmt.Sprintf(`{"dest":%q}`, dest)); !fault.Is(err, fault.Exists) {
		t.Error("over another copy:", err)
	}
	if _, err := h.op("backup", fmt.Sprintf(`{"dest":%q}`, filepath.Join(h.dir, "inside"))); !fault.Is(err, fault.Invalid) {
		t.Error("inside the state directory:", err)
	}
	token := h.token()
	h.stop()

	two := newHouse(t)
	if err := os.RemoveAll(two.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), dest, two.dir, &backup.Progress{}); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), dest, two.dir, &backup.Progress{}); !fault.Is(err, fault.Exists) {
		t.Error("over a state:", err)
	}
	two.write()
	two.start()
	have := make(map[string]int)
	for _, m := range two.inbox(user) {
		_, after, _ := strings.Cut(m, "Message-ID: <")
		id, _, _ := strings.Cut(after, ">")
		have[id]++
	}
	for n := range before {
		if id := fmt.Sprintf("message-%d@localhost", n); have[id] != 1 {
			t.Errorf("%s is there %d times", id, have[id])
		}
	}
	if two.token() != token || two.settings.Current().Enum("__LANGUAGE__") != "es" {
		t.Error("token or settings differ")
	}
	if n := two.accounts.Count(); n != 2 {
		t.Error("accounts:", n)
	}
	do(t, two.login("bobbobbob"), "SELECT INBOX")
}

// TestWhatIsNoBackup is not restored, and nothing is changed.
func TestWhatIsNoBackup(t *testing.T) {
	dir, to := t.TempDir(), filepath.Join(t.TempDir(), "state")
	for _, text := range []string{"", "{}", `{"version":2,"database":"x.db"}`, `{"version":1,"database":"../x.db"}`} {
		if text != "" {
			if err := os.WriteFile(filepath.Join(dir, backup.ManifestName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := backup.Restore(t.Context(), dir, to, &backup.Progress{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
		if _, err := os.Stat(to); !os.IsNotExist(err) {
			t.Error("something was made")
		}
	}
}

//go:build crash

package stress

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/test/load"
	"madmail/test/testserver"
)

const (
	backlog = 100_000
	dead    = "[192.0.2.66]" // a server that refuses connections
	// linksPerBody is how many names a body has: file systems have limits.
	linksPerBody = 20_000
)

// fill puts messages for the dead server into a queue, as a server writes them.
func fill(t *testing.T, dir string) {
	t.Helper()
	body := bytes.TrimSuffix(load.Message("sender000000@[127.0.0.1]", 1500), []byte(".\r\n"))
	now := time.Now().Unix()
	workers := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for first := 0; first < backlog; first += linksPerBody {
		base := ""
		for i := range linksPerBody {
			var id [16]byte
			for k := range id {
				id[k] = byte(rand.Uint32())
			}
			h := hex.EncodeToString(id[:])
			name := fmt.Sprintf("%s-%s-4%s-8%s-%s", h[:8], h[8:12], h[13:16], h[17:20], h[20:])
			path := filepath.Join(dir, name)
			if i == 0 {
				if base = path + ".body"; os.WriteFile(base, body, 0o600) != nil {
					t.Fatal("no room for a body")
				}
			}
			workers <- struct{}{}
			wg.Go(func() {
				defer func() { <-workers }()
				if base != path+".body" {
					if err := os.Link(base, path+".body"); err != nil {
						t.Error(err)
					}
				}
				meta := fmt.Sprintf(`{"id":%q,"mail_from":"sender000000@[127.0.0.1]","rcpt_to":"b@%s","tries_count":1,"queued_at_unix":%d,"last_attempt_unix":%d,"next_attempt_unix":%d,"last_error":null}`, name, dead, now, now, now)
				if err := os.WriteFile(path+".meta", []byte(meta), 0o600); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
}

// TestABacklogDelaysNobody starts a server with a hundred thousand messages for another
// one that is dead, and sends to one that is not.
func TestABacklogDelaysNobody(t *testing.T) {
	one, two := testserver.New(t, "queue_post_init_delay = \"0s\"\n"), testserver.NewAt(t, "127.0.0.2", "")
	one.Command("endpoint-cache", "set", "[127.0.0.2]", fmt.Sprintf("https://127.0.0.2:%d", two.HTTPS))
	one.Command("endpoint-cache", "set", dead, "smtp://127.0.0.1:1") // where nothing listens
	there := target(two)
	there.SMTP, there.IMAP, there.Domain = fmt.Sprintf("127.0.0.2:%d", two.SubmissionTLS), fmt.Sprintf("127.0.0.2:%d", two.IMAPTLS), "[127.0.0.2]"
	number := 0
	median := func() time.Duration {
		t.Helper()
		r, err := there.Login("receiver0000")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Do("SELECT INBOX"); err != nil {
			t.Fatal(err)
		}
		s, err := target(one).NewSender("sender000000")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var took []time.Duration
		for range 15 {
			if err := r.Idle(); err != nil {
				t.Fatal(err)
			}
			number++
			sent, err := s.Send([]string{"receiver0000@[127.0.0.2]"}, load.Message("sender000000@[127.0.0.1]", 1500+20*number))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(sent))
			if err := r.Done(); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	alone, before := median(), rss(t, one)
	one.Stop()
	fill(t, filepath.Join(one.Dir, "remote_queue"))
	one.Start()
	with, after := median(), rss(t, one)
	t.Logf("to the other server: %v, with a backlog %v; resident memory %d and %d MiB", alone, with, before, after)
	if with > 10*alone+100*time.Millisecond {
		t.Errorf("a message took %v, and %v with a backlog", alone, with)
	}
	if after > before+100 {
		t.Errorf("resident memory went from %d to %d MiB", before, after)
	}
	var status struct{ Data struct{ Count, Broken int } }
	if err := json.Unmarshal([]byte(one.Command("queue", "status", "--json")), &status); err != nil || status.Data.Count != backlog || status.Data.Broken != 0 {
		t.Errorf("%+v, %v", status.Data, err)
	}
	if why := one.Command("queue", "why", dead); !strings.Contains(why, fmt.Sprintf("Waiting: %d,", backlog)) || !strings.Contains(why, "refused") {
		t.Error(why)
	}
}

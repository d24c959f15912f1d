//go:build interop

package interop

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/test/testport"
	"madmail/test/testserver"
)

// turnTime is how long sessions last: a minute, or TURN_SECONDS.
func turnTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("TURN_SECONDS")
	if text == "" {
		return time.Minute
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 600 {
		t.Fatalf("TURN_SECONDS=%q is not 1 to 600", text)
	}
	return time.Duration(n) * time.Second
}

var totals = regexp.MustCompile(`tot_send_msgs=(\d+), tot_recv_msgs=(\d+)`)

// overflows is how many UDP packets the system dropped since it started, because the
// program that they were for did not take them in time.
func overflows(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); 0 < i && i < len(f) {
			n, err := strconv.Atoi(f[i])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("the system does not count what it drops: %s", text)
	return 0
}

// TestCoturnClient relays a hundred sessions over each transport, all at once, with
// coturn's own client, which counts what is lost.
func TestCoturnClient(t *testing.T) {
	uclient := tool(t, "turnutils_uclient", "coturn")
	free := testport.Ports(t, 2)
	srv := testserver.New(t, fmt.Sprintf("turn_enable = true\nturn_secret = \"s3cret\"\nturn_listen_udp = \"127.0.0.1:%d\"\nturn_listen_tls = \"127.0.0.1:%d\"\nturn_allow_private_peers = true\n", free[0], free[1]))
	t.Cleanup(func() { // the server is still there
		if t.Failed() {
			t.Log(srv.Command("status", "--json"))
		}
	})
	last := turnTime(t)
	const (
		callers  = 20 // programs, each with an address and a user of its own
		sessions = 5  // of each
		pause    = 20 * time.Millisecond
	)
	messages := int(last / pause)
	before := overflows(t)
	var transports sync.WaitGroup
	for k, c := range []struct {
		name string
		port int
		args []string
	}{{"udp", free[0], nil}, {"tcp", free[0], []string{"-t"}}, {"tls", free[1], []string{"-t", "-S"}}} {
		transports.Go(func() {
			t.Run(c.name, func(t *testing.T) {
				var wg sync.WaitGroup
				var mu sync.Mutex
				sent, received := 0, 0
				for i := range callers {
					wg.Go(func() {
						args := append([]string{"-y", "-c", "-m", strconv.Itoa(sessions), "-n", strconv.Itoa(messages), "-l", "170", "-z", strconv.Itoa(int(pause / time.Millisecond)),
							"-L", fmt.Sprintf("127.0.%d.%d", k+1, i+1), "-u", fmt.Sprintf("%s%d", c.name, i), "-W", "s3cret", "-p", strconv.Itoa(c.port)}, append(c.args, "127.0.0.1")...)
						ctx, cancel := context.WithTimeout(t.Context(), last+time.Minute)
						defer cancel()
						var out bytes.Buffer
						cmd := exec.CommandContext(ctx, uclient, args...)
						cmd.Stdout, cmd.Stderr = &out, &out
						if err := cmd.Run(); err != nil {
							t.Errorf("caller %d: %v\n%s", i, err, tail(out.Bytes()))
							return
						}
						all := totals.FindAllSubmatch(out.Bytes(), -1)
						if len(all) == 0 {
							t.Errorf("caller %d says nothing about what it sent:\n%s", i, tail(out.Bytes()))
							return
						}
						s, _ := strconv.Atoi(string(all[len(all)-1][1]))
						r, _ := strconv.Atoi(string(all[len(all)-1][2]))
						mu.Lock()
						defer mu.Unlock()
						sent, received = sent+s, received+r
					})
				}
				wg.Wait()
				// Over UDP the system drops, and counts, what a program has no time to take.
				overflown := 0
				if c.name == "udp" {
					overflown = overflows(t) - before
				}
				if want := callers * sessions * messages; sent < want || received > sent || sent-received > overflown {
					t.Errorf("%d messages sent, %d received, want %d and none lost; the system dropped %d packets", sent, received, want, overflown)
				}
				t.Logf("%d sessions, %v: %d messages sent, %d received", callers*sessions, last, sent, received)
			})
		})
	}
	transports.Wait()
	var status struct {
		Data struct{ Counters map[string]int64 }
	}
	if err := json.Unmarshal([]byte(srv.Command("status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	n := status.Data.Counters
	if dropped, refused, ok := n["turn_dropped"], n["turn_refused_peers"], n["turn_created"] >= 3*callers*sessions; dropped != 0 || refused != 0 || !ok {
		t.Errorf("the server itself dropped something: %v", n)
	}
	for name, credential := range map[string][2]string{
		"forged":  {fmt.Sprintf("%d:x", time.Now().Add(time.Hour).Unix()), "bm90IGl0"},
		"expired": signedTURN("s3cret", time.Now().Add(-time.Minute)),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		out, err := exec.CommandContext(ctx, uclient, "-v", "-y", "-c", "-n", "1", "-u", credential[0], "-w", credential[1], "-p", strconv.Itoa(free[0]), "127.0.0.1").CombinedOutput()
		cancel()
		if err == nil || !bytes.Contains(out, []byte("Cannot complete Allocation")) || bytes.Contains(out, []byte("Received relay addr")) {
			t.Errorf("a credential that is %s: %v\n%s", name, err, tail(out))
		}
	}
}

// signedTURN makes a user name and its password (TURN REST API).
func signedTURN(secret string, until time.Time) [2]string {
	user := fmt.Sprintf("%d:x", until.Unix())
	h := hmac.New(sha1.New, []byte(secret))
	h.Write([]byte(user))
	return [2]string{user, base64.StdEncoding.EncodeToString(h.Sum(nil))}
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

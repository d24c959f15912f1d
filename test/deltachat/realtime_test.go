//go:build deltachat

package deltachat

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/test/testport"
	"madmail/test/testserver"
)

// walled is set in the process that runs behind walls.
const walled = "MADMAIL_TEST_WALLED"

// TestRealtimeApps lets two clients exchange data of an app in real time. Where
// this machine allows it, they live in networks that reach the server and not
// each other, so that everything has to go through the relay; else on loopback,
// where they find each other after a while.
func TestRealtimeApps(t *testing.T) {
	if os.Getenv(walled) == "" {
		if os.Getuid() == 0 && behindWalls(t, "-n") {
			return
		}
		realtime(t, "127.0.0.1", fmt.Sprintf("iroh_relay_url = \"http://127.0.0.1:%d\"\n", testport.Ports(t, 1)[0]), nil, nil, false)
		return
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("ip", "link", "set", "lo", "up")
	run("ip", "address", "add", "10.77.0.1/32", "dev", "lo")
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0o644); err != nil {
		t.Fatal(err)
	}
	var behind [2][]string
	for i := range behind {
		name, near := fmt.Sprintf("mm%d-%d", i, os.Getpid()), fmt.Sprintf("mm%d", i)
		run("ip", "netns", "add", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", name).Run() })
		run("ip", "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
		run("ip", "address", "add", fmt.Sprintf("10.77.%d.1/24", i+1), "dev", near)
		run("ip", "link", "set", near, "up")
		run("ip", "-n", name, "link", "set", "lo", "up")
		run("ip", "-n", name, "address", "add", fmt.Sprintf("10.77.%d.2/24", i+1), "dev", "eth0")
		run("ip", "-n", name, "link", "set", "eth0", "up")
		run("ip", "-n", name, "route", "add", "default", "via", fmt.Sprintf("10.77.%d.1", i+1))
		behind[i] = []string{"ip", "netns", "exec", name}
	}
	// A machine that is reached refuses a connection to a port that nobody has.
	for i, in := range behind {
		for to, reached := range map[string]bool{"10.77.0.1": true, fmt.Sprintf("10.77.%d.2", 2-i): false} {
			out, _ := exec.Command(in[0], append(in[1:], "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+to+"/9")...).CombinedOutput()
			if got := strings.Contains(string(out), "refused"); got != reached {
				t.Fatalf("from behind wall %d %s is reached: %v, want %v: %s", i, to, got, reached, out)
			}
		}
	}
	realtime(t, "10.77.0.1", "iroh_enable = true\n", behind[0], behind[1], true)
}

// behindWalls runs the test that calls it in namespaces of its own, as unshare makes
// them, and reports whether this machine allows that.
func behindWalls(t *testing.T, kinds ...string) bool {
	t.Helper()
	if out, err := exec.Command("unshare", append(kinds, "ip", "link", "set", "lo", "up")...).CombinedOutput(); err != nil {
		t.Logf("no walls here: %v %s", err, out)
		return false
	}
	cmd := exec.Command("unshare", append(kinds, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")...)
	cmd.Env = append(os.Environ(), walled+"=1", "MADMAIL_BINARY="+testserver.Binary(t))
	out, err := cmd.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Error(err)
	}
	return true
}

func realtime(t *testing.T, host, conf string, one, two []string, alone bool) {
	srv := testserver.NewAt(t, host, conf)
	alice := startCoreBy(t, one...).join(srv.Link("realtime1", "["+host+"]", password), "Alice")
	if alone {
		// Bob is told another URL of the same relay, and goes to both.
		srv.Command("iroh", "install", "--url", fmt.Sprintf("http://%s:%d", host, srv.HTTP))
	}
	bob := startCoreBy(t, two...).join(srv.Link("realtime2", "["+host+"]", password), "Bob")
	meet(alice, bob, nil, false)
	path := filepath.Join(t.TempDir(), "game.xdc")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	w, err := z.Create("index.html")
	if err == nil {
		_, err = w.Write([]byte("<html></html>"))
	}
	for _, e := range []error{err, z.Close(), f.Close()} {
		if e != nil {
			t.Fatal(e)
		}
	}
	var sent int
	bm := bob.mark()
	alice.call(&sent, "send_msg", alice.id, alice.chatWith(bob), map[string]any{"text": "a game", "file": path, "viewtype": "Webxdc"})
	got, _ := bob.receive(bm, "a game")

	at := time.Now()
	am := alice.mark()
	bob.call(nil, "send_webxdc_realtime_advertisement", bob.id, got)
	t.Logf("an advertisement took %v", time.Since(at))
	alice.waitKind(am, alice.id, "WebxdcRealtimeAdvertisementReceived")
	bm = bob.mark()
	alice.call(nil, "send_webxdc_realtime_advertisement", alice.id, sent)
	bob.waitKind(bm, bob.id, "WebxdcRealtimeAdvertisementReceived")

	// reach sends until something comes: until the clients are connected what
	// they say is lost.
	try := 0
	reach := func(from *person, fm int, to *person, tm int) {
		t.Helper()
		at := time.Now()
		for end := at.Add(90 * time.Second); ; {
			try++
			want := fmt.Sprintf("try %d", try)
			mark := to.mark()
			from.call(nil, "send_webxdc_realtime_data", from.id, fm, numbers([]byte(want)))
			if to.within(time.Second, mark, func(e event) bool {
				return e.Kind == "WebxdcRealtimeData" && e.num("msgId") == tm && strings.HasPrefix(string(octets(e)), "try ")
			}) {
				t.Logf("connected after %v", time.Since(at))
				return
			}
			if time.Now().After(end) {
				t.Fatal("no data came")
			}
		}
	}
	exchange := func(sizes ...int) {
		t.Helper()
		reach(alice, sent, bob, got)
		reach(bob, got, alice, sent)
		for _, n := range sizes {
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(i*i>>5 + n)
			}
			for _, x := range []struct {
				from     *person
				fm       int
				to       *person
				tm       int
				whatFrom string
			}{{alice, sent, bob, got, "Alice"}, {bob, got, alice, sent, "Bob"}} {
				mark, at := x.to.mark(), time.Now()
				x.from.call(nil, "send_webxdc_realtime_data", x.from.id, x.fm, numbers(data))
				x.to.wait(mark, x.to.id, fmt.Sprintf("%d octets of %s", n, x.whatFrom), func(e event) bool {
					return e.Kind == "WebxdcRealtimeData" && e.num("msgId") == x.tm && string(octets(e)) == string(data)
				})
				t.Logf("%d octets of %s took %v", n, x.whatFrom, time.Since(at))
			}
		}
	}
	exchange(1, 100, 1_000, 10_000, 50_000, 127_000)
	relayed := relayedOctets(t, srv)
	t.Logf("%d octets went through the relay", relayed)
	if relayed == 0 || alone && relayed < 2*188_101 {
		t.Errorf("%d octets went through the relay", relayed)
	}

	if n := counter(t, srv, "iroh_accepted"); alone && n > 6 {
		t.Errorf("%d connections: clients come back again and again", n)
	}

	// The apps stay open while the relay is away, and join again by themselves.
	srv.Stop()
	srv.Start()
	exchange(1, 127_000)
	if n := relayedOctets(t, srv); n < 2*127_001 && alone {
		t.Error("not everything went through the relay after its restart")
	}
	// Switched off and on, while mail goes on.
	srv.Command("iroh", "disable")
	srv.Command("iroh", "enable")
	exchange(1_000)
	// Bob's client crashes and comes back: under a new key, with the app to be
	// opened again. Alice's stays open.
	bob = bob.crash(two...)
	am = alice.mark()
	bob.call(nil, "send_webxdc_realtime_advertisement", bob.id, got)
	alice.waitKind(am, alice.id, "WebxdcRealtimeAdvertisementReceived")
	exchange(1, 127_000)
	for _, p := range []struct {
		*person
		msg int
	}{{alice, sent}, {bob, got}} {
		p.call(nil, "leave_webxdc_realtime", p.id, p.msg)
	}
}

// relayedOctets is how many the relay passed on since it started.
func relayedOctets(t *testing.T, srv *testserver.Server) int64 {
	t.Helper()
	return counter(t, srv, "iroh_bytes_out")
}

func counter(t *testing.T, srv *testserver.Server, name string) int64 {
	t.Helper()
	var status struct {
		Data struct {
			Counters map[string]int64 `json:"counters"`
		}
	}
	if err := json.Unmarshal([]byte(srv.Command("status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	n, ok := status.Data.Counters[name]
	if !ok {
		t.Fatalf("no counter %s", name)
	}
	return n
}

// numbers is how the interface to the core spells octets.
func numbers(p []byte) []int {
	list := make([]int, len(p))
	for i, b := range p {
		list[i] = int(b)
	}
	return list
}

func octets(e event) []byte {
	list, _ := e.Fields["data"].([]any)
	p := make([]byte, len(list))
	for i, v := range list {
		n, _ := v.(float64)
		p[i] = byte(n)
	}
	return p
}

// within is wait for those who can do without.
func (p *person) within(limit time.Duration, mark int, ok func(event) bool) bool {
	deadline := time.After(limit)
	for {
		p.mu.Lock()
		fresh := p.events[min(mark, len(p.events)):]
		news := p.news
		p.mu.Unlock()
		for _, e := range fresh {
			mark++
			if e.Account == p.id && ok(e) {
				return true
			}
		}
		select {
		case <-news:
		case <-deadline:
			return false
		}
	}
}

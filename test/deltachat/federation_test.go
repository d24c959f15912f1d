//go:build deltachat

package deltachat

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"madmail/test/testserver"
)

// TestTwoRelays lets real clients of two servers talk, by each transport alone,
// and while a server is away.
func TestTwoRelays(t *testing.T) {
	for _, transport := range []string{"smtp", "https", "http"} {
		t.Run(transport, func(t *testing.T) {
			one, two := testserver.NewAt(t, "127.0.0.1", ""), testserver.NewAt(t, "127.0.0.2", "")
			lead := func(from, to *testserver.Server) {
				port := map[string]int{"smtp": to.SMTP, "http": to.HTTP, "https": to.HTTPS}[transport]
				from.Command("endpoint-cache", "set", to.Host, fmt.Sprintf("%s://%s:%d", transport, to.Host, port))
			}
			lead(one, two)
			lead(two, one)
			c := startCore(t)
			alice := c.join(one.Link("alicealice", "[127.0.0.1]", password), "Alice")
			bob := c.join(two.Link("bobbobbob", "[127.0.0.2]", password), "Bob")
			carol := c.join(two.Link("carolcarol", "[127.0.0.2]", password), "Carol")
			meet(alice, bob, nil, false)
			ab, ba := alice.chatWith(bob), bob.chatWith(alice)

			for i := range 10 {
				am, bm := alice.mark(), bob.mark()
				alice.say(ab, fmt.Sprintf("over there, %d", i))
				_, m := bob.receive(bm, fmt.Sprintf("over there, %d", i))
				bob.say(ba, fmt.Sprintf("and back, %d", i))
				_, n := alice.receive(am, fmt.Sprintf("and back, %d", i))
				if !m.ShowPadlock || !n.ShowPadlock {
					t.Error("not encrypted")
				}
			}

			// A file of 12 MB.
			alice.file(ab, bob, 12_000_000)

			// A group over both servers: one entry for both members over there.
			meet(alice, carol, nil, false)
			var group int
			alice.call(&group, "create_group_chat", alice.id, "both sides", false)
			for _, p := range []*person{bob, carol} {
				var contact int
				alice.call(&contact, "lookup_contact_id_by_addr", alice.id, p.address)
				alice.call(nil, "add_contact_to_chat", alice.id, group, contact)
			}
			bm, cm := bob.mark(), carol.mark()
			alice.say(group, "hello to all of you")
			bob.receive(bm, "hello to all of you")
			carol.receive(cm, "hello to all of you")

			// The other server is away for a while; then everything arrives.
			two.Stop()
			alice.say(ab, "said while you were away")
			am := alice.mark()
			bm = bob.mark()
			two.Start()
			one.Command("queue", "retry")
			c.call(nil, "maybe_network")
			bob.receive(bm, "said while you were away")
			bob.sayOnce(ba, "got it")
			alice.receive(am, "got it")
		})
	}
}

// TestEveryDoorShutInTurn: two relays on the usual ports, in a network of their own,
// whose clients go on talking as long as one door is open.
func TestEveryDoorShutInTurn(t *testing.T) {
	const one, two = "198.18.0.2", "198.18.0.3"
	if os.Getenv(walled) == "" {
		kind := "-n"
		if os.Getuid() != 0 {
			kind = "-Urn"
		}
		if !behindWalls(t, kind) {
			t.Fatal("the usual ports are needed: run as root, or allow user namespaces")
		}
		return
	}
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"address", "add", one + "/32", "dev", "lo"}, {"address", "add", two + "/32", "dev", "lo"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	var relays []*testserver.Server
	for _, host := range []string{one, two} {
		relays = append(relays, testserver.NewWith(t, testserver.Options{Host: host, Dir: t.TempDir(), SMTPPort: 25, HTTPPort: 80, HTTPSPort: 443}))
	}
	usual := map[string]int{"http_tls": 443, "http": 80, "smtp": 25}
	c := startCore(t)
	move := func(doors []string, back bool) {
		if len(doors) == 0 {
			return
		}
		for _, s := range relays {
			s.Stop() // connections that stand would do without the door
		}
		for _, s := range relays {
			for _, d := range doors {
				from, to := usual[d], 8000+usual[d]
				if back {
					from, to = to, from
				}
				s.Move(d, from, to)
			}
			s.Start()
		}
		c.call(nil, "maybe_network")
	}
	alice := c.join(relays[0].Link("alicealice", "["+one+"]", password), "Alice")
	bob := c.join(relays[1].Link("bobbobbob", "["+two+"]", password), "Bob")
	meet(alice, bob, nil, false)
	ab, ba := alice.chatWith(bob), bob.chatWith(alice)
	// delivered says by which way how many messages went.
	delivered := func(s *testserver.Server) (n [3]int) {
		var got struct {
			Data struct {
				Traffic []struct {
					HTTPS int `json:"success_https"`
					HTTP  int `json:"success_http"`
					SMTP  int `json:"success_smtp"`
				}
			}
		}
		if err := json.Unmarshal([]byte(s.Command("federation", "status", "--json")), &got); err != nil || len(got.Data.Traffic) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		x := got.Data.Traffic[0]
		return [3]int{x.HTTPS, x.HTTP, x.SMTP}
	}
	for _, c := range []struct {
		shut []string
		way  int
	}{
		{nil, 0},
		{[]string{"smtp"}, 0},
		{[]string{"http"}, 0},
		{[]string{"smtp", "http"}, 0},
		{[]string{"http_tls"}, 1},
		{[]string{"http_tls", "smtp"}, 1},
		{[]string{"http_tls", "http"}, 2},
	} {
		before := [2][3]int{delivered(relays[0]), delivered(relays[1])}
		move(c.shut, false)
		for _, x := range []struct {
			from, to *person
			chat     int
		}{{alice, bob, ab}, {bob, alice, ba}} {
			mark := x.to.mark()
			text := fmt.Sprintf("shut: %v", c.shut)
			x.from.sayOnce(x.chat, text)
			x.to.receive(mark, text)
		}
		move(c.shut, true)
		for i, s := range relays {
			after := delivered(s)
			for way := range after {
				if went := after[way] > before[i][way]; went != (way == c.way) {
					t.Errorf("shut %v: by HTTPS, HTTP, SMTP went %v, and then %v", c.shut, before[i], after)
				}
			}
		}
	}
	// All shut: the message waits.
	all := []string{"http_tls", "http", "smtp"}
	move(all, false)
	mark := bob.mark()
	alice.sayOnce(ab, "when you are back")
	move(all, true)
	relays[0].Command("queue", "retry")
	bob.receive(mark, "when you are back")
}

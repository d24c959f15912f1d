//go:build deltachat

package deltachat

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"madmail/internal/irohrelay/irohtest"
	"madmail/test/testport"
	"madmail/test/testserver"
)

// TestCallsUseOurRelay asks the core what it tells the web engine that makes
// calls.
func TestCallsUseOurRelay(t *testing.T) {
	port := testport.Ports(t, 1)[0]
	srv := testserver.New(t, fmt.Sprintf("turn_enable = true\nturn_secret = \"s3cret\"\nturn_listen_udp = \"127.0.0.1:%d\"\n", port))
	c := startCore(t)
	p := c.join(srv.Link("callmecallme", "[127.0.0.1]", password), "Caller")
	var text string
	p.call(&text, "ice_servers", p.id)
	var servers []struct {
		URLs                 []string
		Username, Credential string
	}
	if err := json.Unmarshal([]byte(text), &servers); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	want := fmt.Sprintf("turn:127.0.0.1:%d", port)
	if len(servers) != 1 || len(servers[0].URLs) != 1 || servers[0].URLs[0] != want || len(servers[0].Username) != 10 || len(servers[0].Credential) != 28 {
		t.Errorf("the core uses %s, want %s", text, want)
	}
}

// TestShadowsocks lets clients reach the server through its own camouflage, with
// the links that operators hand out. Mail goes in both directions.
func TestShadowsocks(t *testing.T) {
	for _, cipher := range []string{"aes-128-gcm", "aes-256-gcm", "chacha20-ietf-poly1305", "2022-blake3-aes-128-gcm", "2022-blake3-aes-256-gcm"} {
		t.Run(cipher, func(t *testing.T) {
			srv := testserver.New(t, fmt.Sprintf("ss_addr = \"127.0.0.1:%d\"\nss_password = \"correct horse\"\n", testport.Ports(t, 1)[0]))
			srv.Command("proxy", "password", "set", "--cipher", cipher)
			srv.Command("proxy", "cipher", "set", cipher)
			var status struct {
				Data struct {
					URL string `json:"shadowsocks_url"`
				}
			}
			if err := json.Unmarshal([]byte(srv.Command("proxy", "--json")), &status); err != nil {
				t.Fatal(err)
			}
			c := startCore(t)
			p := &person{core: c}
			c.call(&p.id, "add_account")
			c.call(nil, "set_config", p.id, "proxy_url", status.Data.URL)
			c.call(nil, "set_config", p.id, "proxy_enabled", "1")
			mark := c.mark()
			c.call(nil, "add_transport_from_qr", p.id, srv.Link("hideandseek", "[127.0.0.1]", password))
			c.waitKind(mark, p.id, "ImapInboxIdle")
			o := c.join(srv.Link("opensesame", "[127.0.0.1]", password), "Open")
			meet(p, o, nil, false) // messages in both directions, through the proxy and beside it
			if out := srv.Command("status", "--json"); strings.Contains(out, `"shadowsocks_relayed":0`) || !strings.Contains(out, `"shadowsocks_relayed":`) {
				t.Errorf("nothing went through: %s", out)
			}
		})
	}
}

// TestShadowsocksClientOfOthers lets a client reach IMAP and submission through
// ss-local of shadowsocks-libev, as people do whose system has it already.
func TestShadowsocksClientOfOthers(t *testing.T) {
	program, err := exec.LookPath("ss-local")
	if err != nil {
		t.Fatal("ss-local is needed: apt-get install shadowsocks-libev")
	}
	free := testport.Ports(t, 2)
	const cipher = "chacha20-ietf-poly1305"
	srv := testserver.New(t, fmt.Sprintf("ss_addr = \"127.0.0.1:%d\"\nss_password = \"correct horse\"\nss_cipher = %q\n", free[0], cipher))
	local := exec.Command(program, "-s", "127.0.0.1", "-p", fmt.Sprint(free[0]), "-b", "127.0.0.1", "-l", fmt.Sprint(free[1]), "-k", "correct horse", "-m", cipher, "-t", "60")
	if err := local.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = local.Process.Kill()
		_ = local.Wait()
	})
	p := &person{core: startCore(t)}
	p.call(&p.id, "add_account")
	p.call(nil, "set_config", p.id, "proxy_url", fmt.Sprintf("socks5://127.0.0.1:%d", free[1]))
	p.call(nil, "set_config", p.id, "proxy_enabled", "1")
	mark := p.mark()
	p.call(nil, "add_transport_from_qr", p.id, srv.Link("socksuser", "[127.0.0.1]", password))
	p.waitKind(mark, p.id, "ImapInboxIdle")
	p.call(&p.address, "get_config", p.id, "addr")
	o := startCore(t).join(srv.Link("opensesame", "[127.0.0.1]", password), "Open")
	meet(p, o, nil, false) // messages in both directions: submission and IMAP
	before := counter(t, srv, "shadowsocks_relayed")
	mark = o.mark()
	p.say(p.chatWith(o), "through the wall")
	o.receive(mark, "through the wall")
	if before < 2 {
		t.Errorf("%d connections came through the proxy", before)
	}
	if n := counter(t, srv, "shadowsocks_probes"); n != 0 {
		t.Errorf("%d connections of the client were taken for probes", n)
	}
}

// TestOnePortForAll lets clients find IMAP and submission on the HTTPS port: they
// name the protocol in their first message there.
func TestOnePortForAll(t *testing.T) {
	srv := testserver.New(t, fmt.Sprintf("iroh_relay_url = \"http://127.0.0.1:%d\"\n", testport.Ports(t, 1)[0]))
	c := startCore(t)
	link := strings.NewReplacer(fmt.Sprintf("ip=%d", srv.IMAPTLS), fmt.Sprintf("ip=%d", srv.HTTPS), fmt.Sprintf("sp=%d", srv.SubmissionTLS), fmt.Sprintf("sp=%d", srv.HTTPS))
	a := c.join(link.Replace(srv.Link("oneport1", "[127.0.0.1]", password)), "One")
	b := c.join(link.Replace(srv.Link("oneport2", "[127.0.0.1]", password)), "Two")
	meet(a, b, nil, false)
	// Meanwhile the same port serves the site, and the relay for realtime apps.
	web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := web.Get(fmt.Sprintf("https://127.0.0.1:%d/", srv.HTTPS))
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || !strings.Contains(string(page), "<html") {
		t.Errorf("the site: %s %s, %v", resp.Proto, resp.Status, err)
	}
	var ends [2]*irohtest.Client
	for i := range ends {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", srv.HTTPS), &tls.Config{InsecureSkipVerify: true}) // no ALPN, as realtime clients
		if err != nil {
			t.Fatal(err)
		}
		if ends[i], err = irohtest.Over(conn, irohtest.Key()); err != nil {
			t.Fatal(err)
		}
		defer ends[i].Close()
	}
	if err := ends[0].Send(ends[1].ID, []byte("a move")); err != nil {
		t.Fatal(err)
	}
	if from, got, err := ends[1].Packet(); err != nil || from != ends[0].ID || string(got) != "a move" {
		t.Errorf("%q of %v, %v", got, from, err)
	}
}

// TestACall is placed, taken and ended between two real clients: the offer, the
// answer and the end are messages through our server, and each side is told the
// relay to speak over.
func TestACall(t *testing.T) {
	port := testport.Ports(t, 1)[0]
	srv := testserver.New(t, fmt.Sprintf("turn_enable = true\nturn_secret = \"s3cret\"\nturn_listen_udp = \"127.0.0.1:%d\"\n", port))
	alice := startCore(t).join(srv.Link("callalice", "[127.0.0.1]", password), "Alice")
	bob := startCore(t).join(srv.Link("callbobby", "[127.0.0.1]", password), "Bob")
	meet(alice, bob, nil, false)
	bm := bob.mark()
	alice.say(alice.chatWith(bob), "may I call?")
	bob.receive(bm, "may I call?")
	const offer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=offer\r\n"
	call := func(answer, forAlice, forBob string, end func(placed, ringing int)) {
		t.Helper()
		am, bm := alice.mark(), bob.mark()
		var placed int
		alice.call(&placed, "place_outgoing_call", alice.id, alice.chatWith(bob), offer, false)
		rings := bob.waitKind(bm, bob.id, "IncomingCall")
		if got := rings.Fields["place_call_info"]; got != offer {
			t.Errorf("rings with %v, want %q", rings.Fields, offer)
		}
		if answer != "" {
			bob.call(nil, "accept_incoming_call", bob.id, rings.num("msg_id"), answer)
			if taken := alice.waitKind(am, alice.id, "OutgoingCallAccepted"); taken.Fields["accept_call_info"] != answer || taken.num("msg_id") != placed {
				t.Errorf("taken with %v, want %q for %d", taken.Fields, answer, placed)
			}
		}
		am, bm = alice.mark(), bob.mark()
		end(placed, rings.num("msg_id"))
		for _, x := range []struct {
			p         *person
			mark, msg int
			state     string
		}{{alice, am, placed, forAlice}, {bob, bm, rings.num("msg_id"), forBob}} {
			x.p.wait(x.mark, x.p.id, "the end of the call", func(e event) bool { return e.Kind == "CallEnded" && e.num("msg_id") == x.msg })
			var info struct {
				Offer string `json:"sdpOffer"`
				State struct{ Kind string }
			}
			if x.p.call(&info, "call_info", x.p.id, x.msg); info.Offer != offer || info.State.Kind != x.state {
				t.Errorf("the call is %+v, want %s", info, x.state)
			}
		}
	}
	const answer = "v=0\r\ns=answer\r\n"
	call(answer, "Completed", "Completed", func(placed, _ int) { alice.call(nil, "end_call", alice.id, placed) })
	call(answer, "Completed", "Completed", func(_, ringing int) { bob.call(nil, "end_call", bob.id, ringing) })
	call("", "Declined", "Declined", func(_, ringing int) { bob.call(nil, "end_call", bob.id, ringing) })
	call("", "Canceled", "Missed", func(placed, _ int) { alice.call(nil, "end_call", alice.id, placed) })
}

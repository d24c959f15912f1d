//go:build deltachat

package deltachat

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

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

// TestOnePortForAll lets clients find IMAP and submission on the HTTPS port: they
// name the protocol in their first message there.
func TestOnePortForAll(t *testing.T) {
	srv := testserver.New(t, "")
	c := startCore(t)
	link := strings.NewReplacer(fmt.Sprintf("ip=%d", srv.IMAPTLS), fmt.Sprintf("ip=%d", srv.HTTPS), fmt.Sprintf("sp=%d", srv.SubmissionTLS), fmt.Sprintf("sp=%d", srv.HTTPS))
	a := c.join(link.Replace(srv.Link("oneport1", "[127.0.0.1]", password)), "One")
	b := c.join(link.Replace(srv.Link("oneport2", "[127.0.0.1]", password)), "Two")
	meet(a, b, nil, false)
}

//go:build unix

package app

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"madmail/internal/fault"
	"madmail/internal/shadowsocks"
	"madmail/test/testport"
)

// messages is a client's side of a WebSocket: each write is a message.
type messages struct {
	net.Conn
	r    *bufio.Reader
	left int
}

func (m *messages) Write(p []byte) (int, error) {
	b := binary.BigEndian.AppendUint16([]byte{0x82, 0x80 | 126}, uint16(len(p)))
	b = append(b, 0, 0, 0, 0) // a mask that changes nothing
	_, err := m.Conn.Write(append(b, p...))
	return len(p), err
}

func (m *messages) Read(p []byte) (int, error) {
	for m.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(m.r, head[:2]); err != nil {
			return 0, err
		}
		if m.left = int(head[1]); m.left == 126 {
			if _, err := io.ReadFull(m.r, head[2:]); err != nil {
				return 0, err
			}
			m.left = int(binary.BigEndian.Uint16(head[2:]))
		}
	}
	n, err := m.r.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

// request sends a request head to a port and returns the answer with its connection.
func request(t *testing.T, port int, overTLS bool, head string) (*http.Response, string, net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if overTLS {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n")
	br := bufio.NewReader(conn)
	method, _, _ := strings.Cut(head, " ")
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	var body []byte
	if resp.StatusCode >= 300 {
		if body, err = io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	resp.Header.Del("Date")
	return resp, fmt.Sprint(resp.Status, resp.Header, string(body)), conn, br
}

func upgradeTo(path string) string {
	return "GET " + path + " HTTP/1.1\nHost: first.example.org\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
}

// TestShadowsocksInsideWebSocket: contract of HTTP 7.1 and known failure 53. On the
// port of HTTPS at a path that the password makes, at /ss on a port of its own, live.
func TestShadowsocksInsideWebSocket(t *testing.T) {
	h := newHouse(t)
	h.lines["ss_addr"], h.lines["ss_password"] = fmt.Sprintf(`"127.0.0.1:%d"`, h.spare), `"our-secret"`
	h.write()
	h.start()
	old := testport.Ports(t, 1)[0]
	secret := shadowsocks.Path("our-secret")
	_, none, _, _ := request(t, h.ports["http_tls"], true, upgradeTo("/nothing"))
	if _, got, _, _ := request(t, h.ports["http_tls"], true, upgradeTo(secret)); got != none {
		t.Errorf("switched off: %s, want %s", got, none)
	}
	if got := h.must("proxy.status", ""); got["ws_enabled"] != false || got["ws_url"] != nil {
		t.Errorf("switched off: %v", got)
	}
	h.must("settings.set", fmt.Sprintf(`{"name":"ss_ws_port","value":"%d"}`, old))
	got := h.must("settings.set", `{"name":"ss_ws_enabled","value":"true"}`)
	if want := fmt.Sprintf("shadowsocks_ws listens on 127.0.0.1:%d", old); got["applied"] != want {
		t.Errorf("switched on: %v, want %s", got["applied"], want)
	}
	greeting := func(port int, overTLS bool, path, password string) string {
		t.Helper()
		resp, _, conn, br := request(t, port, overTLS, upgradeTo(path))
		if resp.StatusCode != 101 {
			t.Errorf("%s: %s", path, resp.Status)
			return ""
		}
		c := tls.Client(throughConn(t, &messages{Conn: conn, r: br}, password, "127.0.0.1", 993), &tls.Config{InsecureSkipVerify: true})
		line, _ := bufio.NewReader(c).ReadString('\n')
		return line
	}
	if got := greeting(h.ports["http_tls"], true, secret, "our-secret"); !strings.HasPrefix(got, "* OK") {
		t.Errorf("on the port of HTTPS: %q", got)
	}
	if got := greeting(old, false, "/ss", "our-secret"); !strings.HasPrefix(got, "* OK") {
		t.Errorf("on the old port: %q", got)
	}
	for _, path := range []string{"/ss", secret + "/", strings.ToUpper(secret)} {
		if _, got, _, _ := request(t, h.ports["http_tls"], true, upgradeTo(path)); got != none {
			t.Errorf("a guess, %s: %s, want %s", path, got, none)
		}
	}
	if _, got, _, _ := request(t, h.ports["http"], false, upgradeTo(secret)); !strings.HasPrefix(got, "404") {
		t.Errorf("without TLS: %s", got)
	}
	for _, head := range []string{"GET / HTTP/1.1\nHost: a", "GET /ss HTTP/1.1\nHost: a", "POST /api/admin HTTP/1.1\nHost: a\nContent-Length: 0"} {
		if resp, _, _, _ := request(t, old, false, head); resp.StatusCode != 404 {
			t.Errorf("%q on the old port: %s", head, resp.Status)
		}
	}
	st := h.must("proxy.status", "")
	plugin, err := url.QueryUnescape(fmt.Sprint(st["https_url"]))
	if err != nil || !strings.Contains(plugin, "v2ray-plugin;tls;mode=websocket;host=127.0.0.1;path="+secret) || !strings.Contains(fmt.Sprint(st["ws_url"]), fmt.Sprintf(":%d/?plugin=", old)) || st["ws_enabled"] != true {
		t.Errorf("links %v", st)
	}
	// A wrong password gets no answer, as on the port of Shadowsocks itself.
	probes := h.calls.shadowsocks.Load().Stats().Probes
	_, _, conn, br := request(t, old, false, upgradeTo("/ss"))
	throughConn(t, &messages{Conn: conn, r: br}, "wrong", "127.0.0.1", 993)
	conn.Close()
	for h.calls.shadowsocks.Load().Stats().Probes == probes {
	}
	// The switch ends what is open, and the password moves the path.
	h.must("proxy.password", `{"Set":"new-secret"}`)
	if got := greeting(h.ports["http_tls"], true, shadowsocks.Path("new-secret"), "new-secret"); !strings.HasPrefix(got, "* OK") {
		t.Errorf("a new password: %q", got)
	}
	if _, got, _, _ := request(t, h.ports["http_tls"], true, upgradeTo(secret)); got != none {
		t.Errorf("the old path: %s", got)
	}
	h.must("settings.set", `{"name":"ss_ws_enabled","value":"false"}`)
	if accepts(old) {
		t.Error("the old port is open")
	}
	if e := h.admin("POST", "/admin/services/ss_ws", `{"action":"enable"}`); e.Status != 200 || !accepts(old) {
		t.Errorf("by the admin API: %+v", e)
	}
	h.must("proxy.enable", `{"Enabled":false}`)
	if accepts(old) {
		t.Error("the old port is open without Shadowsocks")
	}
}

// TestTheHTTPProxyReachesMailOnly: contract of HTTP 7.2 and known failure 53.
func TestTheHTTPProxyReachesMailOnly(t *testing.T) {
	h := newHouse(t)
	h.start()
	connect := func(port int, to, credentials string) (*http.Response, string, net.Conn, *bufio.Reader) {
		t.Helper()
		head := "CONNECT " + to + " HTTP/1.1\nHost: " + to
		if credentials != "" {
			head += "\nProxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))
		}
		return request(t, port, true, head)
	}
	const good = "madmail:a good password"
	port := h.ports["http_tls"]
	_, none, _, _ := connect(port, "127.0.0.1:993", good)
	if !strings.HasPrefix(none, "404") {
		t.Errorf("switched off: %s", none)
	}
	if _, err := h.op("settings.set", `{"name":"http_proxy_enabled","value":"true"}`); !fault.Is(err, fault.Invalid) {
		t.Errorf("without a password: %v", err)
	}
	if e := h.admin("POST", "/admin/services/http_proxy", `{"action":"enable"}`); e.Status != 400 {
		t.Errorf("without a password, by the admin API: %+v", e)
	}
	if _, err := h.op("settings.set", `{"name":"http_proxy_password","value":"short"}`); !fault.Is(err, fault.Invalid) {
		t.Errorf("a short password: %v", err)
	}
	h.must("settings.set", `{"name":"http_proxy_password","value":"a good password"}`)
	if e := h.admin("POST", "/admin/services/http_proxy", `{"action":"enable"}`); e.Status != 200 {
		t.Errorf("by the admin API: %+v", e)
	}
	greeting := func(port int, to string) string {
		t.Helper()
		resp, _, conn, _ := connect(port, to, good)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", to, resp.Status)
			return ""
		}
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		line, _ := bufio.NewReader(c).ReadString('\n')
		return line
	}
	for to, want := range map[string]string{"127.0.0.1:993": "* OK", fmt.Sprintf("first.example.org:%d", h.ports["imap_tls"]): "* OK", "127.0.0.1:465": "220 "} {
		if got := greeting(port, to); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q", to, got)
		}
	}
	for _, to := range []string{"elsewhere.example:993", "127.0.0.1:22", "127.0.0.1:x"} {
		if resp, got, _, _ := connect(port, to, good); resp.StatusCode != 403 && resp.StatusCode != 400 {
			t.Errorf("%s: %s", to, got)
		}
	}
	for _, credentials := range []string{"", "madmail:wrong", "other:a good password"} {
		if _, got, _, _ := connect(port, "127.0.0.1:993", credentials); got != none {
			t.Errorf("a guess, %q: %s, want %s", credentials, got, none)
		}
	}
	if resp, _, _, _ := request(t, h.ports["http"], false, "CONNECT 127.0.0.1:993 HTTP/1.1\nHost: 127.0.0.1:993\nProxy-Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(good))); resp.StatusCode != 404 {
		t.Errorf("without TLS: %s", resp.Status)
	}
	// A port of its own, and off again: what is open ends.
	extra := testport.Ports(t, 1)[0]
	if got := h.must("settings.set", fmt.Sprintf(`{"name":"http_proxy_port","value":"%d"}`, extra)); !strings.HasPrefix(fmt.Sprint(got["applied"]), "http_proxy listens on") {
		t.Errorf("a port: %v", got["applied"])
	}
	if got := greeting(extra, "127.0.0.1:993"); !strings.HasPrefix(got, "* OK") {
		t.Errorf("on its own port: %q", got)
	}
	_, _, held, _ := connect(port, "127.0.0.1:993", good)
	h.must("settings.set", `{"name":"http_proxy_enabled","value":"false"}`)
	if _, err := io.ReadAll(held); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("an open connection stays: %v", err)
	}
	if accepts(extra) {
		t.Error("the port of its own is open")
	}
	if _, got, _, _ := connect(port, "127.0.0.1:993", good); got != none {
		t.Errorf("switched off again: %s, want %s", got, none)
	}
}

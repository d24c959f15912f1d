//go:build unix

package app

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/tls"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"madmail/internal/fault"
	"madmail/test/load"
	"madmail/test/testport"
)

const turnKey = "/shared/vendor/deltachat/turn"

// withCalls is a house that relays calls. It returns the ports of TURN and TURN
// over TLS.
func withCalls(t *testing.T) (h *house, port, tlsPort int) {
	h = newHouse(t)
	free := testport.Ports(t, 2)
	h.lines["turn_enable"], h.lines["turn_secret"] = "true", `"s3cret"`
	h.lines["turn_listen_udp"] = fmt.Sprintf(`"127.0.0.1:%d"`, free[0])
	h.lines["turn_listen_tls"] = fmt.Sprintf(`"127.0.0.1:%d"`, free[1])
	h.write()
	return h, free[0], free[1]
}

// metadata reads an entry as clients do; "" is none.
func (h *house) metadata(r *load.Reader, key string) string {
	h.t.Helper()
	for _, line := range strings.Split(do(h.t, r, `GETMETADATA "" (`+key+`)`), "\n") {
		if rest, ok := strings.CutPrefix(line, `* METADATA "" (`+key+` "`); ok {
			return strings.TrimSuffix(strings.TrimSpace(rest), `")`)
		}
	}
	return ""
}

// binding asks a STUN server on UDP where we are: is somebody there?
func binding(t *testing.T, port int) bool {
	t.Helper()
	conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes")); err != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second)) // a closed port answers at once, by ICMP
	n, err := conn.Read(make([]byte, 200))
	return err == nil && n > 20
}

func accepts(port int) bool {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func TestREQ23CallsAreAnnouncedAndSwitched(t *testing.T) {
	h, port, tlsPort := withCalls(t)
	h.env["CHATMAIL_TURN_TEST_FORCE_RELAY"] = "1"
	h.start()
	r := h.login("caller-one")
	check := func(on bool, what string) {
		t.Helper()
		for key, p := range map[string]int{turnKey: port, turnKey + "s": tlsPort} {
			value := h.metadata(r, key)
			if !on {
				if value != "" {
					t.Errorf("%s: %s is %q", what, key, value)
				}
				continue
			}
			// host:port:expiry:password, and the password is what it says it is.
			f := strings.SplitN(value, ":", 4)
			if len(f) != 4 || f[0] != "127.0.0.1" || f[1] != strconv.Itoa(p) {
				t.Errorf("%s: %s is %q", what, key, value)
				continue
			}
			expiry, err := strconv.ParseInt(f[2], 10, 64)
			if left := time.Until(time.Unix(expiry, 0)); err != nil || left > 24*time.Hour || left < 23*time.Hour-time.Minute {
				t.Errorf("%s: valid for %v", what, left)
			}
			m := hmac.New(sha1.New, []byte("s3cret"))
			io.WriteString(m, f[2])
			if f[3] != base64.StdEncoding.EncodeToString(m.Sum(nil)) {
				t.Errorf("%s: another password than the secret makes", what)
			}
		}
		if got := h.metadata(r, turnKey+"-test-relay-only"); (got == "1") != on {
			t.Errorf("%s: test mode %q", what, got)
		}
		if got := binding(t, port); got != on {
			t.Errorf("%s: an answer over UDP: %v", what, got)
		}
		for _, p := range []int{port, tlsPort} {
			if got := accepts(p); got != on {
				t.Errorf("%s: port %d accepts: %v", what, p, got)
			}
		}
	}
	check(true, "at start")
	got := h.must("settings.set", `{"name":"turn_enabled","value":"no"}`)
	if got["applied"] != "turn is closed; turn_tcp is closed; turn_tls is closed" {
		t.Errorf("%v", got["applied"])
	}
	check(false, "switched off")
	h.must("settings.set", `{"name":"turn_enabled","value":"yes"}`)
	check(true, "switched on")
	// By hand and reload, as with earlier versions.
	d, err := sql.Open("sqlite", filepath.Join(h.dir, "credentials.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Exec(`INSERT INTO settings (key, value) VALUES ('__TURN_ENABLED__', 'false') ON CONFLICT (key) DO UPDATE SET value = 'false'`); err != nil {
		t.Fatal(err)
	}
	h.must("reload", `{}`)
	check(false, "switched off by hand")
	h.must("settings.reset", `{"name":"turn_enabled"}`)
	check(true, "forgotten")
	if got := h.metadata(r, "/shared/vendor/deltachat/maxsmtprecipients"); got != "1000" {
		t.Errorf("other entries: %q", got)
	}

	// A stored port moves socket and announcement.
	free := testport.Ports(t, 1)[0]
	h.must("settings.set", fmt.Sprintf(`{"name":"turn_port","value":"%d"}`, free))
	if accepts(port) || binding(t, port) {
		t.Error("the old port is open")
	}
	port = free
	check(true, "moved")
	// The realm and the secret count at once, too.
	for _, x := range []struct{ key, value string }{{"turn_realm", "calls.example"}, {"turn_secret", "s3cret"}, {"turn_relay_ip", "192.0.2.1"}, {"turn_relay_port_min", "50000"}} {
		if got := h.must("settings.set", fmt.Sprintf(`{"name":%q,"value":%q}`, x.key, x.value)); got["applied"] != "in effect" && !strings.HasPrefix(got["applied"].(string), "nothing changes") {
			t.Errorf("%s: %v", x.key, got["applied"])
		}
	}
	check(true, "changed")
	for _, bad := range []string{`{"name":"turn_relay_port_min","value":"80"}`, `{"name":"turn_relay_ip","value":"0.0.0.0"}`, `{"name":"turn_port","value":"55555"}`, `{"name":"turn_relay_port_max","value":"49000"}`} {
		if _, err := h.op("settings.set", bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	check(true, "after what was refused")
	h.must("settings.set", `{"name":"turn_secret","value":"another"}`)
	if strings.HasSuffix(h.metadata(r, turnKey), ":") || h.metadata(r, turnKey) == "" {
		t.Error("no password")
	}
}

func TestCallsNeedASecret(t *testing.T) {
	h, port, _ := withCalls(t)
	delete(h.lines, "turn_secret")
	h.write()
	h.start()
	r := h.login("caller-two")
	if v := h.metadata(r, turnKey); v != "" || accepts(port) {
		t.Errorf("without a secret: %q", v)
	}
	h.must("settings.set", `{"name":"turn_secret","value":"x"}`)
	if v := h.metadata(r, turnKey); v == "" || !binding(t, port) {
		t.Errorf("with one: %q", v)
	}
	// A file that cannot be served is refused at start, with the reason.
	h.stop()
	h.lines["turn_relay_ip"] = `"224.0.0.1"`
	h.write()
	if a, err := New(t.Context(), h.options()); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Errorf("%v, %v", a, err)
	}
}

func TestMailOnThePortOfHTTPS(t *testing.T) {
	h := newHouse(t)
	h.start()
	say := func(protocol ...string) (string, string, error) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports["http_tls"]), &tls.Config{InsecureSkipVerify: true, NextProtos: protocol})
		if err != nil {
			return "", "", err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if len(protocol) == 0 || protocol[0] == "http/1.1" {
			fmt.Fprint(conn, "GET /robots.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		return line, conn.ConnectionState().NegotiatedProtocol, err
	}
	for protocol, want := range map[string]string{"imap": "* OK", "smtp": "220 ", "submission": "220 ", "http/1.1": "HTTP/1.1 404", "": "HTTP/1.1 404"} {
		var offers []string
		if protocol != "" {
			offers = []string{protocol}
		}
		line, got, err := say(offers...)
		if !strings.HasPrefix(line, want) || got != protocol || err != nil {
			t.Errorf("%q: %q by %q, %v", protocol, line, got, err)
		}
	}
	if _, _, err := say("pop3"); err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("another protocol: %v", err)
	}
	// What is for this machine only is not let out by another door.
	h.must("settings.set", `{"name":"imap_tls_local_only","value":"yes"}`)
	if _, _, err := say("imap"); err == nil {
		t.Error("IMAP is local, and served on the port of HTTPS")
	}
	if _, _, err := say("smtp"); err != nil {
		t.Error(err)
	}
	h.must("settings.reset", `{"name":"imap_tls_local_only"}`)
	for _, off := range []string{"imap", "smtp"} {
		h.lines["alpn_"+off] = `"off"`
		h.write()
		h.must("reload", `{}`)
		for _, protocol := range []string{"imap", "smtp", "submission"} {
			if _, _, err := say(protocol); (err != nil) != ((protocol == "imap") == (off == "imap")) {
				t.Errorf("alpn_%s is off, %s: %v", off, protocol, err)
			}
		}
		delete(h.lines, "alpn_"+off)
	}
	// On the mail ports: their own protocol, or none.
	for name, offer := range map[string]string{"imap_tls": "imap", "submission_tls": "smtp"} {
		for _, offers := range [][]string{nil, {offer}, {"http/1.1"}} {
			conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports[name]), &tls.Config{InsecureSkipVerify: true, NextProtos: offers})
			if bad := len(offers) > 0 && offers[0] == "http/1.1"; bad != (err != nil) {
				t.Errorf("%s, %q: %v", name, offers, err)
			}
			if err == nil {
				conn.Close()
			}
		}
	}
}

// through is a connection by Shadowsocks with aes-128-gcm: as little of a client
// as a TLS handshake needs.
type through struct {
	net.Conn
	up, down   cipher.AEAD
	upN, downN uint64
	key, left  []byte
}

func gcmOf(t *testing.T, key, salt []byte) cipher.AEAD {
	t.Helper()
	sub, err := hkdf.Key(sha1.New, key, salt, "ss-subkey", 16)
	if err != nil {
		t.Fatal(err)
	}
	b, err := aes.NewCipher(sub)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func dialThrough(t *testing.T, port int, password, host string, target int) *through {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	return throughConn(t, conn, password, host, target)
}

// throughConn asks for a service on a connection that was made.
func throughConn(t *testing.T, conn net.Conn, password, host string, target int) *through {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	sum := md5.Sum([]byte(password))
	salt := []byte(conn.LocalAddr().String() + strings.Repeat("x", 16))[:16]
	binary.BigEndian.PutUint64(salt, uint64(time.Now().UnixNano()))
	c := &through{Conn: conn, key: sum[:], up: gcmOf(t, sum[:], salt)}
	if _, err := conn.Write(salt); err != nil {
		t.Fatal(err)
	}
	head := append([]byte{3, byte(len(host))}, host...)
	if _, err := c.Write(binary.BigEndian.AppendUint16(head, uint16(target))); err != nil {
		t.Fatal(err)
	}
	return c
}

func number(n *uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, *n)
	*n++
	return append(b, 0, 0, 0, 0)
}

func (c *through) Write(p []byte) (int, error) {
	b := c.up.Seal(nil, number(&c.upN), binary.BigEndian.AppendUint16(nil, uint16(len(p))), nil)
	_, err := c.Conn.Write(c.up.Seal(b, number(&c.upN), p, nil))
	return len(p), err
}

func (c *through) Read(p []byte) (int, error) {
	open := func(n int) ([]byte, error) {
		b := make([]byte, n+16)
		if _, err := io.ReadFull(c.Conn, b); err != nil {
			return nil, err
		}
		return c.down.Open(nil, number(&c.downN), b, nil)
	}
	if c.down == nil {
		salt := make([]byte, 16)
		if _, err := io.ReadFull(c.Conn, salt); err != nil {
			return 0, err
		}
		sub, err := hkdf.Key(sha1.New, c.key, salt, "ss-subkey", 16)
		if err != nil {
			return 0, err
		}
		b, err := aes.NewCipher(sub)
		if err != nil {
			return 0, err
		}
		if c.down, err = cipher.NewGCM(b); err != nil {
			return 0, err
		}
	}
	if len(c.left) == 0 {
		size, err := open(2)
		if err != nil {
			return 0, err
		}
		if c.left, err = open(int(binary.BigEndian.Uint16(size))); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func TestShadowsocksReachesMailOnly(t *testing.T) {
	h, turn, _ := withCalls(t)
	h.lines["ss_addr"], h.lines["ss_password"] = fmt.Sprintf(`"127.0.0.1:%d"`, h.spare), `"our-secret"`
	h.write()
	h.start()
	greeting := func(password, host string, port int) string {
		t.Helper()
		c := tls.Client(dialThrough(t, h.spare, password, host, port), &tls.Config{InsecureSkipVerify: true})
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		line, _ := bufio.NewReader(c).ReadString('\n')
		return line
	}
	for port, want := range map[int]string{h.ports["imap_tls"]: "* OK", 993: "* OK", h.ports["submission_tls"]: "220 ", 465: "220 "} {
		for _, host := range []string{"127.0.0.1", "203.0.113.7", "first.example.org", "mail.first.example.org"} {
			if got := greeting("our-secret", host, port); !strings.HasPrefix(got, want) {
				t.Errorf("%s:%d: %q", host, port, got)
			}
		}
	}
	// TURN over TCP: a Binding request in, an answer out.
	c := dialThrough(t, h.spare, "our-secret", "127.0.0.1", turn)
	if _, err := c.Write([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 200)); err != nil || n < 20 {
		t.Errorf("TURN: %d octets, %v", n, err)
	}
	// The service sees the client, not this machine.
	held := tls.Client(dialThrough(t, h.spare, "our-secret", "127.0.0.1", 993), &tls.Config{InsecureSkipVerify: true})
	if _, err := bufio.NewReader(held).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	seen := 0
	h.imap.Each(func(ip netip.Addr, _ int) {
		if ip.String() == "127.0.0.1" {
			seen++
		}
	})
	if seen == 0 {
		t.Error("nobody is seen")
	}
	probes := h.calls.shadowsocks.Load().Stats().Probes
	for i, x := range []struct {
		password, host string
		port           int
	}{{"wrong", "127.0.0.1", 993}, {"our-secret", "elsewhere.example", 993}, {"our-secret", "127.0.0.1", 22}, {"our-secret", "127.0.0.1", h.spare}} {
		c := dialThrough(t, h.spare, x.password, x.host, x.port)
		for end := time.Now().Add(5 * time.Second); h.calls.shadowsocks.Load().Stats().Probes != probes+int64(i)+1; {
			if time.Now().After(end) {
				t.Fatalf("%+v is no probe", x)
			}
		}
		c.Close()
	}

	// A new password counts for new connections, and the switch for all.
	h.must("proxy.password", `{"Set":"new-secret"}`)
	if got := greeting("new-secret", "127.0.0.1", 993); !strings.HasPrefix(got, "* OK") {
		t.Errorf("the new password: %q", got)
	}
	if got := h.must("proxy.enable", `{"Enabled":false}`); got["applied"] != "shadowsocks is closed" || accepts(h.spare) {
		t.Errorf("%v", got)
	}
	if _, err := held.Read(make([]byte, 1)); err == nil {
		t.Error("an open connection stays")
	}
	if _, err := h.op("proxy.cipher", `{"Set":"2022-blake3-aes-128-gcm"}`); !fault.Is(err, fault.Invalid) {
		t.Errorf("a cipher that the password does not fit: %v", err)
	}
	h.must("proxy.enable", `{"Enabled":true}`)
	if got := greeting("new-secret", "127.0.0.1", 465); !strings.HasPrefix(got, "220 ") {
		t.Errorf("switched on again: %q", got)
	}
	// Fewer ports, by the file.
	h.lines["ss_allowed_ports"] = `"465"`
	h.write()
	h.must("reload", `{}`)
	if got := greeting("new-secret", "127.0.0.1", 465); !strings.HasPrefix(got, "220 ") {
		t.Errorf("an allowed port: %q", got)
	}
	if len(h.targets()) != 1 {
		t.Errorf("%d ports are allowed", len(h.targets()))
	}
}

func TestProxiesInFront(t *testing.T) {
	h := newHouse(t)
	h.lines["proxy_protocol"] = `"127.0.0.1"`
	h.write()
	h.start()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports["imap"]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("PROXY TCP4 192.0.2.9 198.51.100.1 4711 143\r\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "* OK") {
		t.Fatalf("%q, %v", line, err)
	}
	seen := false
	h.imap.Each(func(ip netip.Addr, _ int) { seen = seen || ip.String() == "192.0.2.9" })
	if !seen {
		t.Error("the proxy's word is not taken")
	}
	// HTTPS and its routes work behind a proxy, too.
	raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.ports["http_tls"]))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := raw.Write([]byte("PROXY TCP4 192.0.2.9 198.51.100.1 4711 443\r\n")); err != nil {
		t.Fatal(err)
	}
	secure := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"imap"}})
	if line, err := bufio.NewReader(secure).ReadString('\n'); err != nil || !strings.HasPrefix(line, "* OK") {
		t.Errorf("%q, %v", line, err)
	}
}

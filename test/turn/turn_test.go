// Package turn makes calls through a real server: two callers learn of TURN by
// IMAP METADATA, as clients do, and reach each other over it.
package turn

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"

	"madmail/test/load"
	"madmail/test/testport"
	"madmail/test/testserver"
)

const (
	password = "Vq8sX2mLr5kTz7Wb9NcY3dJf"
	key      = "/shared/vendor/deltachat/turn"
)

// quiet keeps the client library off standard output.
type quiet struct{}

func (quiet) NewLogger(string) logging.LeveledLogger {
	f := logging.NewDefaultLoggerFactory()
	f.DefaultLogLevel, f.Writer = logging.LogLevelDisabled, io.Discard
	return f.NewLogger("turn")
}

type house struct {
	*testserver.Server
	t             testing.TB
	port, tlsPort int
}

func newHouse(t testing.TB) *house {
	t.Helper()
	free := testport.Ports(t, 2)
	return &house{t: t, port: free[0], tlsPort: free[1], Server: testserver.New(t, fmt.Sprintf(
		"turn_enable = true\nturn_secret = \"s3cret\"\nturn_listen_udp = \"127.0.0.1:%d\"\nturn_listen_tls = \"127.0.0.1:%d\"\nturn_test_force_relay = true\n", free[0], free[1]))}
}

// metadata logs in and reads an entry; "" is none.
func (h *house) metadata(user, key string) string {
	h.t.Helper()
	r, err := load.Target{IMAP: fmt.Sprintf("127.0.0.1:%d", h.IMAPTLS), Domain: "[127.0.0.1]", Password: password}.Login(user)
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Close()
	lines, err := r.Do(`GETMETADATA "" (` + key + `)`)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, `* METADATA "" (`+key+` "`); ok {
			return strings.TrimSuffix(strings.TrimSpace(v), `")`)
		}
	}
	return ""
}

// call makes a relay with what an entry says: host:port:user:password.
func (h *house) call(kind, entry string) (*turn.Client, net.PacketConn, error) {
	h.t.Helper()
	f := strings.SplitN(entry, ":", 4)
	if len(f) != 4 {
		h.t.Fatalf("%q is not host:port:expiry:password", entry)
	}
	at := net.JoinHostPort(f[0], f[1])
	var pc net.PacketConn
	switch kind {
	case "udp":
		var err error
		if pc, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			h.t.Fatal(err)
		}
	case "tcp":
		conn, err := net.DialTimeout("tcp", at, 10*time.Second)
		if err != nil {
			return nil, nil, err
		}
		pc = turn.NewSTUNConn(conn)
	default:
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", at, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return nil, nil, err
		}
		pc = turn.NewSTUNConn(conn)
	}
	h.t.Cleanup(func() { pc.Close() })
	c, err := turn.NewClient(&turn.ClientConfig{STUNServerAddr: at, TURNServerAddr: at, Username: f[2], Password: f[3], Conn: pc, LoggerFactory: quiet{}, RTO: time.Second})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	if err := c.Listen(); err != nil {
		h.t.Fatal(err)
	}
	relay, err := c.Allocate()
	if err == nil {
		h.t.Cleanup(func() { relay.Close() })
	}
	return c, relay, err
}

func receive(t testing.TB, c net.PacketConn) ([]byte, net.Addr) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	p := make([]byte, 2000)
	n, from, err := c.ReadFrom(p)
	if err != nil {
		t.Fatal(err)
	}
	return p[:n], from
}

func TestTwoCallersMeetAtTheirRelays(t *testing.T) {
	h := newHouse(t)
	if h.metadata("caller-one", key+"-test-relay-only") != "1" {
		t.Error("the test mode is not announced")
	}
	for _, kinds := range [][2]string{{"udp", "udp"}, {"udp", "tls"}, {"tcp", "tls"}} {
		var clients [2]*turn.Client
		var relays [2]net.PacketConn
		for i, kind := range kinds {
			entry := h.metadata([]string{"caller-one", "caller-two"}[i], map[string]string{"udp": key, "tcp": key, "tls": key + "s"}[kind])
			if want := map[string]int{"udp": h.port, "tcp": h.port, "tls": h.tlsPort}[kind]; !strings.HasPrefix(entry, "127.0.0.1:"+strconv.Itoa(want)+":") {
				t.Fatalf("%s: %q", kind, entry)
			}
			var err error
			if clients[i], relays[i], err = h.call(kind, entry); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
		}
		for i := range 2 {
			if err := clients[i].CreatePermission(relays[1-i].LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		for round := range 10 {
			for i := range 2 {
				frame := bytes.Repeat([]byte{byte(round), byte(i)}, 600)
				if _, err := relays[i].WriteTo(frame, relays[1-i].LocalAddr()); err != nil {
					t.Fatal(err)
				}
				got, from := receive(t, relays[1-i])
				if !bytes.Equal(got, frame) || from.String() != relays[i].LocalAddr().String() {
					t.Fatalf("%v: %d octets from %v", kinds, len(got), from)
				}
			}
		}
	}
	// A guess gets nothing, and this machine's services are not reached.
	entry := h.metadata("caller-one", key)
	if _, _, err := h.call("udp", entry[:len(entry)-3]+"AA="); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a guessed password: %v", err)
	}
	c, _, err := h.call("udp", entry)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreatePermission(&net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 53}); err == nil {
		t.Error("the inner network is reached")
	}
	status := h.Command("status", "--details", "--json")
	for _, want := range []string{`"TURN"`, `"turn_created":`, fmt.Sprintf(`"port":%d,"proto":"udp"`, h.port)} {
		if !strings.Contains(status, want) {
			t.Errorf("status without %s: %s", want, status)
		}
	}
}

func TestSwitchingOffEndsACall(t *testing.T) {
	h := newHouse(t)
	entry := h.metadata("caller-one", key)
	if _, _, err := h.call("tcp", entry); err != nil {
		t.Fatal(err)
	}
	h.Command("creds", "turn", "off")
	if v := h.metadata("caller-one", key) + h.metadata("caller-one", key+"s"); v != "" {
		t.Errorf("announced: %q", v)
	}
	for _, port := range []int{h.port, h.tlsPort} {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			t.Errorf("port %d is open", port)
		}
	}
	if out := h.Command("status", "--json"); strings.Contains(out, `"TURN"`) {
		t.Errorf("a service still: %s", out)
	}
	h.Command("creds", "turn", "on")
	if _, _, err := h.call("udp", h.metadata("caller-one", key)); err != nil {
		t.Errorf("switched on again: %v", err)
	}
}

// TestLimitsOfCalls reads them from the configuration, also of a server that runs.
func TestLimitsOfCalls(t *testing.T) {
	free := testport.Ports(t, 1)
	const limit = "turn_max_per_user = 2\n"
	h := &house{t: t, port: free[0], Server: testserver.New(t, fmt.Sprintf("turn_enable = true\nturn_secret = \"s3cret\"\nturn_listen_udp = \"127.0.0.1:%d\"\n", free[0])+limit)}
	entry := h.metadata("caller-one", key)
	for i := range 3 {
		_, _, err := h.call("udp", entry)
		if over := err != nil && strings.Contains(err.Error(), "486"); over != (i == 2) || err != nil && !over { // Allocation Quota Reached
			t.Errorf("relay %d: %v", i, err)
		}
	}
	path := filepath.Join(h.Dir, "chatmail.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte(limit), []byte("turn_max_per_user = 3\n"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Command("reload")
	if _, _, err := h.call("udp", entry); err != nil {
		t.Errorf("after the limit was raised: %v", err)
	}
}

// TestREQ25TheDebugScriptShowsWhatIsMissing runs the script that operators are pointed at.
func TestREQ25TheDebugScriptShowsWhatIsMissing(t *testing.T) {
	h := newHouse(t)
	h.metadata("caller-one", key) // makes the account
	script, err := filepath.Abs("../../scripts/turn-debug-env.sh")
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(script, args...)
		cmd.Env = append(cmd.Environ(), "MADMAIL="+h.Program(), "CHATMAIL_STATE_DIR="+h.Dir, "CHATMAIL_CONFIG="+filepath.Join(h.Dir, "chatmail.toml"),
			"TURN_USER=caller-one@[127.0.0.1]", "TURN_PASSWORD="+password)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"export CHATMAIL_TURN_DEBUG=1", "turn_port", "turn_relay_port_min\t49152", "turn_secret\t(hidden)", fmt.Sprintf("%d\tudp\tTURN", h.port), fmt.Sprintf("%d\ttcp\tTURN TLS", h.tlsPort),
		`* METADATA "" (` + key + ` "127.0.0.1:` + strconv.Itoa(h.port) + ":", fmt.Sprintf("udp %d", h.port), fmt.Sprintf("tcp %d", h.port), "udp 49152-65535",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "s3cret") {
		t.Error("the secret is shown")
	}
	h.Command("creds", "turn", "off")
	if out, err := run(); err == nil || !strings.Contains(out, "TURN is off") {
		t.Errorf("switched off: %v\n%s", err, out)
	}
}

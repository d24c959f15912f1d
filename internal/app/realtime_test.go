//go:build unix

package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"madmail/internal/fault"
	"madmail/internal/irohrelay/irohtest"
	"madmail/test/testport"
)

const irohKey = "/shared/vendor/deltachat/irohrelay"

// pass lets two clients of the relay meet, on two of its ports.
func pass(t *testing.T, one, two int) error {
	t.Helper()
	a, err := irohtest.Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", one), irohtest.Key())
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := irohtest.Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", two), irohtest.Key())
	if err != nil {
		return err
	}
	defer b.Close()
	want := bytes.Repeat([]byte("x"), 14540)
	if err := a.Send(b.ID, want); err != nil {
		return err
	}
	if from, got, err := b.Packet(); err != nil || from != a.ID || !bytes.Equal(got, want) {
		return fmt.Errorf("got %d octets of %v, %v", len(got), from, err)
	}
	return nil
}

func TestRealtimeChannelsAreAnnouncedAndSwitched(t *testing.T) {
	h := newHouse(t)
	free := testport.Ports(t, 3)
	port, stun := free[0], free[1]
	h.lines["iroh_enable"] = "true"
	h.lines["iroh_relay_url"] = fmt.Sprintf(`"http://127.0.0.1:%d"`, port)
	h.lines["turn_port"] = strconv.Itoa(stun)
	h.write()
	h.start()
	r := h.login("realtime-one")
	check := func(on bool, what, url string, port int) {
		t.Helper()
		if got := h.metadata(r, irohKey); got != url {
			t.Errorf("%s: clients are told %q, want %q", what, got, url)
		}
		for _, p := range []int{port, h.ports["http"]} {
			if err := pass(t, p, h.ports["http"]); (err == nil) != on {
				t.Errorf("%s: port %d: %v", what, p, err)
			}
		}
		if got := binding(t, stun); got != on {
			t.Errorf("%s: STUN answers: %v", what, got)
		}
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	check(true, "at start", url, port)
	st := h.must("status", `{}`)
	if n := st["counters"].(map[string]any)["iroh_packets_out"]; n != 2.0 {
		t.Errorf("counted %v packets", n)
	}
	// A connection ends with the switch.
	c, err := irohtest.Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", port), irohtest.Key())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := h.must("iroh.enable", `{"Enabled":false}`); got["applied"] != "iroh is closed; stun is closed" {
		t.Errorf("%v", got["applied"])
	}
	if err := c.Closed(); err != nil {
		t.Error(err)
	}
	check(false, "switched off", "", port)
	h.must("iroh.enable", `{"Enabled":true}`)
	check(true, "switched on", url, port)
	// A stored port moves the socket; clients keep the URL.
	h.must("settings.set", fmt.Sprintf(`{"name":"iroh_port","value":"%d"}`, free[2]))
	check(true, "moved", url, free[2])
	if accepts(port) {
		t.Error("the old port is open")
	}
	h.must("settings.reset", `{"name":"iroh_port"}`)
	got := h.must("iroh.status", `{}`)
	if got["configured"] != true || got["runtime_enabled"] != true || got["listening"] != true || got["port"] != float64(port) || got["relay_url"] != url {
		t.Errorf("%v", got)
	}
	// Without a URL it is the one that works: the certificate is our own.
	delete(h.lines, "iroh_relay_url")
	h.write()
	h.must("settings.set", fmt.Sprintf(`{"name":"iroh_port","value":"%d"}`, port))
	h.must("reload", `{}`)
	check(true, "found out", url, port)
	// Under the site's port; the one of its own stays, for those who know it.
	h.lines["iroh_relay_url"] = fmt.Sprintf(`"http://127.0.0.1:%d"`, h.ports["http"])
	h.write()
	h.must("reload", `{}`)
	check(true, "on the site", fmt.Sprintf("http://127.0.0.1:%d", h.ports["http"]), port)
}

func TestLimitsOfTheRelay(t *testing.T) {
	h := newHouse(t)
	free := testport.Ports(t, 2)
	h.lines["iroh_relay_url"], h.lines["turn_port"] = fmt.Sprintf(`"http://127.0.0.1:%d"`, free[0]), strconv.Itoa(free[1])
	h.lines["iroh_max_clients"] = "1"
	h.write()
	h.start()
	var status irohtest.Status
	if err := pass(t, free[0], free[0]); !errors.As(err, &status) || status != 503 {
		t.Errorf("a second client: %v, want 503", err)
	}
	h.lines["iroh_max_clients"] = "0"
	h.write()
	h.must("reload", `{}`)
	h.must("iroh.enable", `{"Enabled":false}`)
	h.must("iroh.enable", `{"Enabled":true}`)
	if err := pass(t, free[0], free[0]); err != nil {
		t.Errorf("without a limit: %v", err)
	}
	h.lines["iroh_queue"] = `"1K"`
	h.write()
	if _, err := h.op("reload", `{}`); !fault.Is(err, fault.Invalid) {
		t.Errorf("a queue that holds no packet: %v", err)
	}
	if err := pass(t, free[0], free[0]); err != nil {
		t.Errorf("after what was refused: %v", err)
	}
}

func TestRelaysOfOthersAreOnlyAnnounced(t *testing.T) {
	h := newHouse(t)
	h.lines["iroh_relay_url"] = `"https://relay.example.net"`
	h.write()
	h.start()
	r := h.login("realtime-two")
	if got := h.metadata(r, irohKey); got != "https://relay.example.net" {
		t.Errorf("clients are told %q", got)
	}
	if err := pass(t, h.ports["http"], h.ports["http"]); err == nil {
		t.Error("served all the same")
	}
	h.must("iroh.enable", `{"Enabled":false}`)
	if got := h.metadata(r, irohKey); got != "" {
		t.Errorf("switched off, clients are told %q", got)
	}
}

// The port of STUN may be somebody else's; mail is served all the same.
func TestThePortOfSTUNMayBeTaken(t *testing.T) {
	h := newHouse(t)
	pc, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	h.lines["turn_port"] = portOf(pc.LocalAddr().String())
	h.write()
	h.start()
	port := testport.Ports(t, 1)[0]
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	if got := h.must("iroh.install", fmt.Sprintf(`{"URL":%q}`, url)); !strings.HasPrefix(got["applied"].(string), "iroh listens on") {
		t.Errorf("%v", got)
	}
	if got := h.metadata(h.login("realtime-three"), irohKey); got != url {
		t.Errorf("clients are told %q", got)
	}
	if err := pass(t, port, port); err != nil {
		t.Error(err)
	}
	if _, err := h.op("iroh.install", `{"URL":"relay"}`); !fault.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
}

// TURN answers STUN where it is on; the port changes hands while the server runs.
func TestSTUNAndTURNShareAPort(t *testing.T) {
	h := newHouse(t)
	free := testport.Ports(t, 2)
	h.lines["iroh_relay_url"] = fmt.Sprintf(`"http://127.0.0.1:%d"`, free[0])
	h.lines["turn_port"] = strconv.Itoa(free[1])
	h.write()
	h.start()
	for _, want := range []string{"stun", "turn", "stun", "turn"} {
		delete(h.lines, "turn_enable")
		if want == "turn" {
			h.lines["turn_enable"], h.lines["turn_secret"] = "true", `"s3cret"`
		}
		h.write()
		h.must("reload", `{}`)
		if h.port(want) != free[1] || !binding(t, free[1]) {
			t.Errorf("%s: port %d", want, h.port(want))
		}
	}
}

// Clients trust public authorities: where the certificate is of one the relay is
// under it.
func TestTheURLOfTheRelayFitsTheCertificate(t *testing.T) {
	h := newHouse(t)
	var keys [2]*ecdsa.PrivateKey // of the authority, and ours
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{"first.example.org"}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, keys[1].Public(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"tls_cert": {Type: "CERTIFICATE", Bytes: der}, "tls_key": {Type: "PRIVATE KEY", Bytes: raw}} {
		path := filepath.Join(h.dir, name+".pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
		h.lines[name] = strconv.Quote(path)
	}
	h.lines["tls_mode"], h.lines["iroh_enable"] = `"file"`, "true"
	free := testport.Ports(t, 1)[0]
	h.lines["turn_port"] = strconv.Itoa(free)
	h.write()
	h.start()
	if got, want := h.relayURL(), fmt.Sprintf("https://first.example.org:%d", h.ports["http_tls"]); got != want {
		t.Errorf("clients are told %q, want %q", got, want)
	}
	if got := h.must("iroh.install", `{}`); got["relay_url"] != h.relayURL() {
		t.Errorf("%v", got)
	}
}

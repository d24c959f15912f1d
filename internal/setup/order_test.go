package setup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/certs"
	"madmail/internal/config"
	"madmail/internal/fault"
)

// TestWhichCertificateFollowsFromWhatIsThere: operator specification 10.1.
func TestWhichCertificateFollowsFromWhatIsThere(t *testing.T) {
	for name, x := range map[string]struct {
		o    Options
		pair bool
		want string
	}{
		"a name":                {Options{Domain: "a.example"}, false, "autocert"},
		"an address":            {Options{IP: "192.0.2.1"}, false, "self_signed"},
		"an address, automatic": {Options{IP: "192.0.2.1", AutoIPCert: true}, false, "autocert"},
		"a name of nobody":      {Options{Domain: "localhost"}, false, "self_signed"},
		"a provider":            {Options{Domain: "a.example", DNSProvider: "gandi", DNSToken: "t0ken"}, false, "acme"},
		"a pair":                {Options{Domain: "a.example"}, true, "file"},
		"a pair, and a word":    {Options{Domain: "a.example", TLSMode: "self_signed"}, true, "self_signed"},
	} {
		t.Run(name, func(t *testing.T) {
			m, dir := newMachine(t), t.TempDir()
			x.o.Layout = m.layout(dir)
			if x.pair {
				etc := filepath.Join(x.o.ConfigDir, "certs")
				if err := certs.SelfSigned(filepath.Join(etc, "fullchain.pem"), filepath.Join(etc, "privkey.pem"), nil, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			steps, done, err := m.Install(x.o)
			carry(t, steps, err)
			c, err := config.Load(done.Config)
			if err != nil || c.TLSMode != x.want || done.TLSMode != x.want || c.ACMEDNSToken != x.o.DNSToken {
				t.Errorf("%q, %+v, %v, want %q", c.TLSMode, done, err, x.want)
			}
		})
	}
}

// TestAnOrderThatFailsLeavesAPair: the installation goes on, says why, and what is
// there is good enough to start with.
func TestAnOrderThatFailsLeavesAPair(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	var asked []certs.Order
	answer := fault.New(fault.Refused, "no")
	m.Order = func(_ context.Context, stateDir string, o certs.Order) (string, error) {
		if stateDir != filepath.Join(dir, "state") {
			t.Errorf("the state is in %s", stateDir)
		}
		asked = append(asked, o)
		return "", answer
	}
	o := Options{Layout: m.layout(dir), Domain: "a.example", Hostname: "mail.a.example", IP: "192.0.2.1", ACMEEmail: "x@a.example", Staging: true, HTTPListen: "127.0.0.1:8080"}
	steps, _, err := m.Install(o)
	carry(t, steps, err)
	if len(asked) != 0 {
		t.Fatal("the server orders, unless the operator says so")
	}
	o.Obtain = true
	steps, done, err := m.Install(o)
	carry(t, steps, err)
	if len(asked) != 1 || !slices.Equal(asked[0].Names, []string{"mail.a.example", "a.example"}) || asked[0].Directory != certs.Staging || asked[0].HTTP != o.HTTPListen || asked[0].Email != o.ACMEEmail {
		t.Errorf("%+v", asked)
	}
	if done.Trouble == nil || !strings.Contains(done.Trouble.Error(), "no") || done.Ordered != "" {
		t.Errorf("%+v", done)
	}
	if _, selfSigned, err := certs.Inspect(done.Cert, done.Key); err != nil || !selfSigned {
		t.Errorf("%v", err)
	}
	text, err := os.ReadFile(done.Config)
	if err != nil || !strings.Contains(string(text), "acme_directory = \"staging\"") {
		t.Errorf("%v\n%s", err, text)
	}
	m.Order = func(context.Context, string, certs.Order) (string, error) { return certs.Issued, nil }
	if steps, done, err = m.Install(o); err != nil {
		t.Fatal(err)
	}
	carry(t, steps, err)
	if done.Ordered != certs.Issued || done.Trouble != nil {
		t.Errorf("%+v", done)
	}
}

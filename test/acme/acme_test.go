//go:build unix

// Package acme runs the real server against a certificate authority on loopback.
package acme

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/test/dnstest"
	"madmail/test/pebble"
	"madmail/test/testport"
	"madmail/test/testserver"
)

// relay is a server and the authority that it asks.
type relay struct {
	*testserver.Server
	ca     *pebble.Authority
	binary string
	t      *testing.T
}

// start starts both. Lines that extra has not, say where the authority is. free leaves
// the port that the authority asks to a temporary listener.
func start(t *testing.T, domain, mode string, free bool) *relay {
	t.Helper()
	t.Setenv("MADMAIL_BINARY", testserver.Binary(t)) // built once for server and commands
	ports := testport.Ports(t, 3)
	dns := dnstest.New(t, "mail.example.org A 127.0.0.1\n")
	r := &relay{t: t, binary: os.Getenv("MADMAIL_BINARY")}
	r.ca = pebble.New(t, pebble.Options{HTTPPort: ports[0], TLSPort: ports[1], DNS: dns.Addr(), Life: map[string]time.Duration{"shortlived": 6 * 24 * time.Hour}})
	http := ports[0]
	if free {
		http = ports[2]
	}
	r.Server = testserver.NewWith(t, testserver.Options{
		Host: "127.0.0.1", Dir: t.TempDir(), Domain: domain, HTTPPort: http, HTTPSPort: ports[1],
		Extra: fmt.Sprintf("# ours\ntls_mode = %q # for now\nacme_directory = %q\nacme_root_ca = %q\nacme_http_listen = \"127.0.0.1:%d\"\n", mode, r.ca.Directory, r.ca.RootCA, ports[0]),
	})
	return r
}

// run runs a command beside the server and returns its data.
func (r *relay) run(args ...string) map[string]any {
	r.t.Helper()
	cmd := exec.Command(r.binary, append([]string{"--config", r.file(), "--state-dir", r.Dir, "--json"}, args...)...)
	out, err := cmd.Output()
	var reply struct{ Data map[string]any }
	if jerr := json.Unmarshal(out, &reply); err != nil || jerr != nil {
		r.t.Fatalf("%v: %v, %v\n%s\n%s", args, err, jerr, out, r.Output())
	}
	return reply.Data
}

func (r *relay) file() string { return filepath.Join(r.Dir, "chatmail.toml") }

// session is an IMAP session over TLS.
type session struct {
	*tls.Conn
	in *bufio.Reader
}

func (r *relay) session() *session {
	r.t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 20 * time.Second}, "tcp", fmt.Sprintf("127.0.0.1:%d", r.IMAPTLS), &tls.Config{InsecureSkipVerify: true}) // what it shows is looked at below
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	s := &session{c, bufio.NewReader(c)}
	if line := s.line(r.t); !strings.HasPrefix(line, "* OK") {
		r.t.Fatal(line)
	}
	return s
}

func (s *session) line(t *testing.T) string {
	t.Helper()
	_ = s.SetDeadline(time.Now().Add(20 * time.Second))
	line, err := s.in.ReadString('\n')
	if err != nil {
		t.Fatalf("the session ended: %v", err)
	}
	return line
}

func (s *session) noop(t *testing.T) {
	t.Helper()
	if _, err := s.Write([]byte("a NOOP\r\n")); err != nil {
		t.Fatal(err)
	}
	if line := s.line(t); !strings.HasPrefix(line, "a OK") {
		t.Error(line)
	}
}

func (s *session) leaf() *x509.Certificate { return s.ConnectionState().PeerCertificates[0] }

// trusted reports whether a certificate is the authority's for a name.
func (r *relay) trusted(s *session, name string) error {
	chain := x509.NewCertPool()
	for _, c := range s.ConnectionState().PeerCertificates[1:] {
		chain.AddCert(c)
	}
	_, err := s.leaf().Verify(x509.VerifyOptions{DNSName: name, Roots: r.ca.Roots, Intermediates: chain})
	return err
}

// TestAServerThatOrdersFromNowOn: a server with a certificate of its own is told to
// order one. It is answered by the listeners that are there, for a name and for an
// address, by the listener of HTTP and by a temporary one; a session that was open
// before is open after it, and after a renewal.
func TestAServerThatOrdersFromNowOn(t *testing.T) {
	for _, x := range []struct {
		name, domain string
		free         bool
	}{{"a name", "mail.example.org", false}, {"an address", "127.0.0.1", false}, {"a temporary listener", "mail.example.org", true}} {
		t.Run(x.name, func(t *testing.T) {
			r := start(t, x.domain, "self_signed", x.free)
			open := r.session()
			if err := r.trusted(open, x.domain); err == nil {
				t.Fatal("it has a certificate already")
			}
			d := r.run("certificate", "autocert", "enable", "--email", "x@example.org")
			if d["action"] != "issued" || d["domain"] != x.domain {
				t.Errorf("%v", d)
			}
			text, err := os.ReadFile(r.file())
			if err != nil || !strings.Contains(string(text), "# ours\ntls_mode = \"autocert\" # for now\n") || !strings.Contains(string(text), "acme_email = \"x@example.org\"") {
				t.Errorf("%v\n%s", err, text)
			}
			fresh := r.session()
			if err := r.trusted(fresh, x.domain); err != nil {
				t.Errorf("%v", err)
			}
			open.noop(t)
			if d := r.run("certificate", "get"); d["action"] != "skipped" {
				t.Errorf("%v", d)
			}
			if d := r.run("tasks", "run", "renew-certificate"); d["renewed"] != false || d["skipped"] != false {
				t.Errorf("%v", d)
			}
			if d := r.run("certificate", "regenerate", "--force"); d["action"] != "renewed" {
				t.Errorf("%v", d)
			}
			renewed := r.session()
			if renewed.leaf().SerialNumber.Cmp(fresh.leaf().SerialNumber) == 0 {
				t.Error("the old certificate is still shown")
			}
			open.noop(t)
			fresh.noop(t)
			s := r.run("certificate", "autocert", "status")
			if s["enabled"] != true || s["renew_within_days"] != 4.0 || s["email"] != "x@example.org" || s["failures"] != 0.0 || s["next_try"] != nil {
				t.Errorf("%v", s)
			}
			if s := r.run("certificate", "status"); s["cert_type"] != "ca" || s["tls_management"] != "autocert" || s["valid"] != true {
				t.Errorf("%v", s)
			}
			for path, mode := range map[string]os.FileMode{"certs/fullchain.pem": 0o640, "certs/privkey.pem": 0o600} {
				if st, err := os.Stat(filepath.Join(r.Dir, path)); err != nil || st.Mode().Perm() != mode {
					t.Errorf("%s: %v", path, err)
				}
			}
			accounts, err := filepath.Glob(filepath.Join(r.Dir, "autocert", "account-*.json"))
			if err != nil || len(accounts) != 1 {
				t.Fatalf("%v, %v", accounts, err)
			}
			if st, err := os.Stat(accounts[0]); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", st.Mode(), err)
			}
		})
	}
}

// TestAServerWithoutAnAuthority starts all the same, with a pair of its own; what
// failed is told, and a start does not ask again before the time. An authority that is
// back is asked by the task.
func TestAServerWithoutAnAuthority(t *testing.T) {
	r := start(t, "mail.example.org", "self_signed", false)
	r.Stop()
	r.ca.Down(true)
	text, err := os.ReadFile(r.file())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.file(), []byte(strings.Replace(string(text), `tls_mode = "self_signed"`, `tls_mode = "autocert"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(r.Dir, "certs")); err != nil {
		t.Fatal(err)
	}
	r.Start()
	r.session().noop(t)
	cmd := exec.Command(r.binary, "--config", r.file(), "--state-dir", r.Dir, "certificate", "get")
	out, err := cmd.CombinedOutput() // waits for the order of the start
	if err == nil || !strings.Contains(string(out), "Hint: ") {
		t.Errorf("%v: %s", err, out)
	}
	s := r.run("certificate", "autocert", "status")
	failures, ok := s["failures"].(float64)
	if !ok || failures < 1 || s["next_try"] == nil || s["error"] == "" {
		t.Errorf("%v", s)
	}
	r.Stop()
	r.ca.Down(false)
	r.Start()
	if err := r.trusted(r.session(), "mail.example.org"); err == nil {
		t.Error("a start asked before the time")
	}
	if d := r.run("tasks", "run", "renew-certificate"); d["renewed"] != true {
		t.Errorf("%v", d)
	}
	if err := r.trusted(r.session(), "mail.example.org"); err != nil {
		t.Error(err)
	}
	// Without a server the command answers the authority by itself.
	r.Stop()
	if d := r.run("certificate", "get", "--force"); d["action"] != "renewed" {
		t.Errorf("%v", d)
	}
}

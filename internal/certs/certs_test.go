package certs

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestASelfSignedPairServesTheNamesOfThisHost is REQ-04 and the certificate of
// the operator specification 2.6.
func TestASelfSignedPairServesTheNamesOfThisHost(t *testing.T) {
	cert, key := DefaultPaths(t.TempDir())
	m, err := Open(Options{Cert: cert, Key: key, Make: true, Names: []string{"mail.example.org", "203.0.113.5"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mail.example.org", "203.0.113.5", "localhost", "127.0.0.1", "::1"} {
		if err := m.Leaf().VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if !m.IsSelfSigned() || time.Until(m.Leaf().NotAfter) < 9*365*24*time.Hour {
		t.Errorf("self-signed %v until %v", m.IsSelfSigned(), m.Leaf().NotAfter)
	}
	if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	again, err := Open(Options{Cert: cert, Key: key, Make: true})
	if err != nil || again.Leaf().SerialNumber.Cmp(m.Leaf().SerialNumber) != 0 {
		t.Error("a second start made another pair", err)
	}
}

func TestAReloadIsSeenByTheNextHandshakeAndABadOneChangesNothing(t *testing.T) {
	dir := t.TempDir()
	cert, key := DefaultPaths(dir)
	m, err := Open(Options{Cert: cert, Key: key, Make: true, Names: []string{"one.test"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", m.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	name := func() string {
		t.Helper()
		done := make(chan struct{})
		go func() { // ends with the handshake
			defer close(done)
			c, err := l.Accept()
			if err == nil {
				_ = c.(*tls.Conn).Handshake()
				c.Close()
			}
		}()
		// ALPN that the server does not name must not fail the handshake.
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"imap"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		<-done
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if n := name(); n != "one.test" {
		t.Error(n)
	}
	if err := SelfSigned(cert, key, []string{"two.test"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(); err != nil {
		t.Fatal(err)
	}
	if n := name(); n != "two.test" {
		t.Error(n)
	}
	if err := os.WriteFile(filepath.Join(dir, "certs", "fullchain.pem"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Reload(); err == nil {
		t.Error("garbage was loaded")
	}
	if n := name(); n != "two.test" {
		t.Error(n)
	}
}

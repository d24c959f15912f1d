package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRegenerateOrdersAnyway: where get finds a good certificate and asks nobody.
func TestRegenerateOrdersAnyway(t *testing.T) {
	dir := t.TempDir()
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"chat.example.org"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour)}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, IsCA: true, BasicConstraintsValid: true}
	issuer.Subject.CommonName = "an authority"
	cert, err := x509.CreateCertificate(rand.Reader, leaf, issuer, &key.PublicKey, authority)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "chatmail.toml")
	err = errors.Join(os.Mkdir(filepath.Join(dir, "certs"), 0o700),
		os.WriteFile(filepath.Join(dir, "certs", "fullchain.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(filepath.Join(dir, "certs", "privkey.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600),
		os.WriteFile(config, []byte("hostname = \"chat.example.org\"\nprimary_domain = \"chat.example.org\"\ntls_mode = \"autocert\"\nacme_directory = \"http://127.0.0.1/no-tls\"\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	run := func(word string) (code int, all string) {
		var out bytes.Buffer
		code = Main([]string{"--config", config, "--state-dir", dir, "certificate", word}, strings.NewReader(""), &out, &out)
		return code, out.String()
	}
	if code, all := run("get"); code != done || !strings.Contains(all, "is good") {
		t.Errorf("get: %d, %s", code, all)
	}
	if code, all := run("regenerate"); code == done || !strings.Contains(all, "acme_directory") {
		t.Errorf("regenerate: %d, %s", code, all)
	}
}

// Package certs owns keys and certificates: it reads and makes the files, orders
// certificates by ACME, and hands out a tls.Config that never goes stale, and DKIM
// signatures without the keys. It is the one package that reads private keys.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"madmail/internal/fault"
)

// Options say where the pair is and whether it may be made.
type Options struct {
	Cert, Key string   // paths
	Make      bool     // make a self-signed pair when there is none
	Mend      bool     // and when what is there is no pair: it is this server's, not an operator's
	Names     []string // for a self-signed pair: host names and IP addresses
	Now       func() time.Time
}

// DefaultPaths are the pair's paths in a state directory.
func DefaultPaths(stateDir string) (cert, key string) {
	return filepath.Join(stateDir, "certs", "fullchain.pem"), filepath.Join(stateDir, "certs", "privkey.pem")
}

// Manager holds the current pair. Make one with Open.
type Manager struct {
	now atomic.Pointer[pair]
}

// pair is what was read, whole.
type pair struct {
	opt  Options
	cert *tls.Certificate
	read [2]time.Time // when the files that were read were written
}

// Open loads the pair, or makes one. Errors are fault.Invalid and name the path.
func Open(opt Options) (*Manager, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Make {
		if err := opt.make(); err != nil {
			return nil, err
		}
	}
	p, err := read(opt)
	if err != nil {
		return nil, err
	}
	m := &Manager{}
	m.now.Store(p)
	return m, nil
}

// make makes a self-signed pair where there is none.
func (opt Options) make() error {
	_, cerr := os.Stat(opt.Cert)
	_, kerr := os.Stat(opt.Key)
	none := errors.Is(cerr, os.ErrNotExist) && errors.Is(kerr, os.ErrNotExist)
	if !none && opt.Mend {
		_, err := tls.LoadX509KeyPair(opt.Cert, opt.Key)
		none = err != nil && !errors.Is(err, os.ErrPermission)
	}
	if !none {
		return nil
	}
	return SelfSigned(opt.Cert, opt.Key, opt.Names, opt.Now())
}

func read(opt Options) (*pair, error) {
	p := &pair{opt: opt, read: opt.stamp()} // before: what is written meanwhile is newer
	cert, err := tls.LoadX509KeyPair(opt.Cert, opt.Key)
	if err != nil {
		err = fault.Wrap(fault.Invalid, err, "certs: "+opt.Cert)
		if errors.Is(err, os.ErrPermission) {
			return nil, fault.WithHint(err, "give the server's user read access to the certificate and its key")
		}
		return nil, fault.WithHint(err, `set tls_mode = "self_signed", or tls_cert and tls_key to a matching pair`)
	}
	if cert.Leaf == nil {
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "certs: "+opt.Cert)
		}
	}
	p.cert = &cert
	return p, nil
}

// Reload reads the files anew. When that fails the old pair stays.
func (m *Manager) Reload() error {
	p, err := read(m.now.Load().opt)
	if err == nil {
		m.now.Store(p)
	}
	return err
}

// Adopt takes what another one has read, and where it read it from.
func (m *Manager) Adopt(other *Manager) { m.now.Store(other.now.Load()) }

// Refresh reloads the pair when a file is newer than what was read. ok reports
// whether it did.
func (m *Manager) Refresh() (ok bool, err error) {
	p := m.now.Load()
	if p.opt.stamp() == p.read {
		return false, nil
	}
	err = m.Reload()
	return err == nil, err
}

// stamp tells one state of the files from another.
func (opt Options) stamp() (s [2]time.Time) {
	for i, p := range []string{opt.Cert, opt.Key} {
		if st, err := os.Stat(p); err == nil {
			s[i] = st.ModTime()
		}
	}
	return s
}

// Inspect reads a pair and returns its certificate, without keeping anything. The
// error is fault.NotFound when a file is not there, fault.Invalid for a pair that
// does not fit together or cannot be read.
func Inspect(cert, key string) (leaf *x509.Certificate, selfSigned bool, err error) {
	for _, p := range []string{cert, key} {
		if _, err := os.Stat(p); errors.Is(err, os.ErrNotExist) {
			return nil, false, fault.Newf(fault.NotFound, "%s is not there", p)
		}
	}
	m, err := Open(Options{Cert: cert, Key: key})
	if err != nil {
		return nil, false, err
	}
	return m.Leaf(), m.IsSelfSigned(), nil
}

// Leaf returns the current certificate.
func (m *Manager) Leaf() *x509.Certificate { return m.now.Load().cert.Leaf }

// IsSelfSigned reports whether clients have to be told to accept the certificate.
func (m *Manager) IsSelfSigned() bool {
	l := m.Leaf()
	return l.CheckSignature(l.SignatureAlgorithm, l.RawTBSCertificate, l.Signature) == nil
}

// TLSConfig returns a configuration that always presents the current pair.
// Clients without ALPN are served; those that offer other protocols only are
// turned away, so that a browser cannot be led to speak to a mail port.
func (m *Manager) TLSConfig(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return m.now.Load().cert, nil
		},
	}
}

// SelfSigned writes a new key and a certificate for it that is valid for ten
// years, for names and for the names of this host on loopback.
func SelfSigned(certPath, keyPath string, names []string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: make a key")
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: make a serial number")
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	seen := make(map[string]bool)
	for _, n := range append(append([]string(nil), names...), "localhost", "127.0.0.1", "::1") {
		if n == "" || seen[n] {
			continue
		}
		seen[n] = true
		if t.Subject.CommonName == "" {
			t.Subject = pkix.Name{CommonName: n}
		}
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: make a certificate")
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: write a key")
	}
	if err := makeDir(filepath.Dir(certPath), 0o750); err != nil {
		return err
	}
	if err := writeOwned(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600); err != nil {
		return err
	}
	return writeOwned(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o640)
}

// Package pebble is a certificate authority for tests, in this process and on
// loopback: Pebble, with ports and names of the test's own.
package pebble

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"crypto/x509"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// Options say where the authority asks.
type Options struct {
	HTTPPort, TLSPort int
	DNS               string // host:port of its resolver
	// Life is how long certificates live, by profile; 90 days in one profile without it.
	Life map[string]time.Duration
}

// Authority is one that runs.
type Authority struct {
	Directory string         // URL
	RootCA    string         // file with the root of its HTTPS
	Roots     *x509.CertPool // of the certificates that it issues

	orders atomic.Int64
	down   atomic.Bool
}

// Orders returns how many orders were placed.
func (a *Authority) Orders() int { return int(a.orders.Load()) }

// Down lets it answer nothing but 503, or work again.
func (a *Authority) Down(down bool) { a.down.Store(down) }

// New starts an authority and ends its listener with the test. What validates lives on
// in a goroutine: Pebble has no way to end it.
func New(t testing.TB, o Options) *Authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	if len(o.Life) == 0 {
		o.Life = map[string]time.Duration{"default": 90 * 24 * time.Hour}
	}
	profiles := make(map[string]ca.Profile)
	for name, life := range o.Life {
		profiles[name] = ca.Profile{Description: name, ValidityPeriod: uint64(life / time.Second)}
	}
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, profiles)
	front := wfe.New(quiet, store, va.New(quiet, o.HTTPPort, o.TLSPort, false, o.DNS, store), issuer, []string{"pebble.test"}, false, false, 1, 1)
	handler := front.Handler()
	a := &Authority{Roots: x509.NewCertPool()}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/order-plz") {
			a.orders.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	a.Directory = srv.URL + wfe.DirectoryPath
	a.RootCA = filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(a.RootCA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Roots.AddCert(issuer.GetRootCert(0).Cert)
	return a
}

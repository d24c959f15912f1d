package certs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"madmail/internal/fault"
)

// TestARenewedPairIsTaken: a file that is newer is read, once, and what does not fit
// leaves the old pair.
func TestARenewedPairIsTaken(t *testing.T) {
	cert, key := filepath.Join(t.TempDir(), "c.pem"), filepath.Join(t.TempDir(), "k.pem")
	if _, _, err := Inspect(cert, key); !fault.Is(err, fault.NotFound) {
		t.Fatalf("nothing is there: %v", err)
	}
	m, err := Open(Options{Cert: cert, Key: key, Make: true, Names: []string{"a.example"}})
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Refresh(); ok || err != nil {
		t.Fatalf("nothing changed: %v, %v", ok, err)
	}
	first := m.Leaf()
	if err := SelfSigned(cert, key, []string{"b.example"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour) // file systems differ in how fine their times are
	if err := os.Chtimes(cert, later, later); err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Refresh(); !ok || err != nil || m.Leaf().Equal(first) || m.Leaf().DNSNames[0] != "b.example" {
		t.Fatalf("%v, %v, %v", ok, err, m.Leaf().DNSNames)
	}
	leaf, selfSigned, err := Inspect(cert, key)
	if err != nil || !selfSigned || !leaf.Equal(m.Leaf()) {
		t.Errorf("%v, %v", selfSigned, err)
	}
	if ok, err := m.Refresh(); ok || err != nil {
		t.Errorf("it is read twice: %v, %v", ok, err)
	}
	good := m.Leaf()
	if err := os.WriteFile(cert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	later = later.Add(time.Hour)
	if err := os.Chtimes(cert, later, later); err != nil {
		t.Fatal(err)
	}
	if ok, err := m.Refresh(); ok || err == nil || !m.Leaf().Equal(good) {
		t.Errorf("%v, %v: the old pair must stay", ok, err)
	}
	if _, _, err := Inspect(cert, key); !fault.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
}

package dane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"madmail/internal/fault"
)

type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func issue(t *testing.T, by *issuer, name string, ca bool, until time.Time) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-1, 0, 0), NotAfter: until,
		IsCA: ca, BasicConstraintsValid: true,
	}
	if ca {
		tmpl.KeyUsage = x509.KeyUsageCertSign
	} else {
		tmpl.DNSNames = []string{name}
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if by == nil {
		by = &issuer{tmpl, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{c, key}
}

func record(u Usage, s Selector, m Matching, c *x509.Certificate) Record {
	d := c.Raw
	if s == PublicKey {
		d = c.RawSubjectPublicKeyInfo
	}
	switch m {
	case SHA256:
		x := sha256.Sum256(d)
		d = x[:]
	case SHA512:
		x := sha512.Sum512(d)
		d = x[:]
	}
	return Record{u, s, m, d}
}

func TestVerify(t *testing.T) {
	later := now.AddDate(1, 0, 0)
	root := issue(t, nil, "root", true, later)
	mid := issue(t, &root, "middle", true, later)
	leaf := issue(t, &mid, "mx.example.org", false, later)
	old := issue(t, &mid, "mx.example.org", false, now.AddDate(0, -1, 0))
	self := issue(t, nil, "whatever", false, now.AddDate(0, -1, 0))
	stranger := issue(t, nil, "stranger", true, later)

	full := []*x509.Certificate{leaf.cert, mid.cert, root.cert}
	names := []string{"example.org", "mx.example.org"}
	good := record(EndEntity, PublicKey, SHA256, leaf.cert)
	cases := []struct {
		name  string
		rs    []Record
		chain []*x509.Certificate
		names []string
		ok    bool
	}{
		{"3 1 1", []Record{good}, full, names, true},
		{"3 0 1", []Record{record(EndEntity, FullCertificate, SHA256, leaf.cert)}, full, names, true},
		{"3 0 0", []Record{record(EndEntity, FullCertificate, Exact, leaf.cert)}, full, names, true},
		{"3 1 2", []Record{record(EndEntity, PublicKey, SHA512, leaf.cert)}, full, names, true},
		{"3 1 1 for any name", []Record{good}, full[:1], nil, true},
		{"3 1 1 expired and self-signed", []Record{record(EndEntity, PublicKey, SHA256, self.cert)}, []*x509.Certificate{self.cert}, names, true},
		{"3 1 1 of an issuer", []Record{record(EndEntity, PublicKey, SHA256, mid.cert)}, full, names, false},
		{"3 1 1 of another", []Record{record(EndEntity, PublicKey, SHA256, stranger.cert)}, full, names, false},
		{"second record matches", []Record{record(EndEntity, PublicKey, SHA256, stranger.cert), good}, full, names, true},
		{"2 0 1 root", []Record{record(TrustAnchor, FullCertificate, SHA256, root.cert)}, full, names, true},
		{"2 1 1 middle", []Record{record(TrustAnchor, PublicKey, SHA256, mid.cert)}, full[:2], names, true},
		{"2 0 0 not sent", []Record{record(TrustAnchor, FullCertificate, Exact, root.cert)}, full[:2], names, true},
		{"2 0 1 not sent", []Record{record(TrustAnchor, FullCertificate, SHA256, root.cert)}, full[:2], names, false},
		{"2 1 1 other name", []Record{record(TrustAnchor, PublicKey, SHA256, mid.cert)}, full, []string{"example.org"}, false},
		{"2 1 1 no name", []Record{record(TrustAnchor, PublicKey, SHA256, mid.cert)}, full, nil, false},
		{"2 1 1 expired", []Record{record(TrustAnchor, PublicKey, SHA256, mid.cert)}, []*x509.Certificate{old.cert, mid.cert}, names, false},
		{"2 1 1 beside a stranger's chain", []Record{record(TrustAnchor, PublicKey, SHA256, mid.cert)}, []*x509.Certificate{self.cert, mid.cert}, []string{"whatever"}, false},
		{"2 1 1 the leaf itself", []Record{record(TrustAnchor, PublicKey, SHA256, leaf.cert)}, full, names, false},
		{"2 0 0 nonsense", []Record{{TrustAnchor, FullCertificate, Exact, []byte("x")}}, full, names, false},
		{"usage 0", []Record{record(0, PublicKey, SHA256, leaf.cert)}, full, names, false},
		{"usage 1", []Record{record(1, PublicKey, SHA256, leaf.cert)}, full, names, false},
		{"short digest", []Record{{EndEntity, PublicKey, SHA256, good.Data[:31]}}, full, names, false},
		{"unknown selector", []Record{{EndEntity, 2, SHA256, good.Data}}, full, names, false},
		{"unknown matching", []Record{{EndEntity, PublicKey, 3, good.Data}}, full, names, false},
		{"no records", nil, full, names, false},
		{"no chain", []Record{good}, nil, names, false},
		{"endless chain", []Record{good}, make([]*x509.Certificate, MaxChain+1), names, false},
	}
	for _, c := range cases {
		err := Verify(c.rs, c.chain, c.names, now)
		if (err == nil) != c.ok || err != nil && !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestUsableIsBounded(t *testing.T) {
	rs := make([]Record, 1000)
	for i := range rs {
		rs[i] = Record{EndEntity, PublicKey, SHA256, make([]byte, 32)}
	}
	if n := len(Usable(rs)); n != MaxRecords {
		t.Error(n)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(uint8(3), uint8(1), uint8(1), []byte("0123456789abcdef0123456789abcdef"), []byte("x"))
	f.Add(uint8(2), uint8(0), uint8(0), []byte{0x30, 0x82}, []byte{0x30})
	f.Fuzz(func(t *testing.T, u, s, m uint8, data, cert []byte) {
		c, err := x509.ParseCertificate(cert)
		if err != nil {
			c = &x509.Certificate{Raw: cert, RawSubjectPublicKeyInfo: cert}
		}
		rs := []Record{{Usage(u), Selector(s), Matching(m), data}}
		if err := Verify(rs, []*x509.Certificate{c, c}, []string{"example.org"}, now); err == nil && !rs[0].Usable() {
			t.Error("an unusable record authenticates")
		}
	})
}

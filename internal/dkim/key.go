package dkim

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strconv"

	"madmail/internal/fault"
)

// Algorithm says what kind of key is made.
type Algorithm uint8

// The algorithms. RSA2048 is the zero value: it is the one that every peer takes.
const (
	RSA2048 Algorithm = iota
	RSA4096
	Ed25519
)

// Sizes of RSA keys that are taken for signing, in bits (RFC 8301 section 3.2).
const (
	minRSA = 1024
	maxRSA = 4096
)

// String returns the algorithm's name as the configuration spells it.
func (a Algorithm) String() string {
	switch a {
	case RSA2048:
		return "rsa2048"
	case RSA4096:
		return "rsa4096"
	case Ed25519:
		return "ed25519"
	}
	return "algorithm?"
}

// ParseAlgorithm reads the name of an algorithm; "" is RSA2048. The error is of
// kind fault.Invalid.
func ParseAlgorithm(s string) (Algorithm, error) {
	if s == "" {
		return RSA2048, nil
	}
	for a := RSA2048; a <= Ed25519; a++ {
		if a.String() == s {
			return a, nil
		}
	}
	return 0, fault.Newf(fault.Invalid, "%q is not a kind of DKIM key; use rsa2048, rsa4096 or ed25519", s)
}

// Key is a private signing key. It never prints itself. Make one with Generate
// or ParseKey.
type Key struct {
	signer crypto.Signer
}

// Generate makes a key from the system's randomness.
func Generate(a Algorithm) (*Key, error) {
	var s crypto.Signer
	var err error
	switch a {
	case RSA2048:
		s, err = rsa.GenerateKey(rand.Reader, 2048)
	case RSA4096:
		s, err = rsa.GenerateKey(rand.Reader, 4096)
	case Ed25519:
		_, s, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fault.New(fault.Invalid, "unknown kind of DKIM key")
	}
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "dkim: make a key")
	}
	return &Key{signer: s}, nil
}

// ParseKey reads a private key in PEM: PKCS #8, or PKCS #1 for RSA. RSA keys
// have 1024 to 4096 bits. Errors are fault.Invalid and never quote the input.
func ParseKey(text []byte) (*Key, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fault.New(fault.Invalid, "the DKIM key is not in PEM form")
	}
	var parsed any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	default:
		return nil, fault.New(fault.Invalid, "the DKIM key is no private key in PEM form")
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "the DKIM key cannot be read")
	}
	switch k := parsed.(type) {
	case *rsa.PrivateKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, fault.Newf(fault.Invalid, "the DKIM key has %d bits; RSA keys have %d to %d", n, minRSA, maxRSA)
		}
		return &Key{signer: k}, nil
	case ed25519.PrivateKey:
		return &Key{signer: k}, nil
	}
	return nil, fault.New(fault.Invalid, "the DKIM key is neither RSA nor Ed25519")
}

// PEM returns the private key as PKCS #8 in PEM. It is for a file of mode 0600.
func (k *Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "dkim: write a key")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// String says what kind of key it is, and nothing of the key.
func (k *Key) String() string {
	if r, ok := k.signer.(*rsa.PrivateKey); ok {
		return "rsa-" + strconv.Itoa(r.N.BitLen())
	}
	return "ed25519"
}

// GoString is String, so that %#v shows nothing either.
func (k *Key) GoString() string { return k.String() }

// Record returns the text of the TXT record that publishes the key (RFC 6376
// section 3.6.1): for RSA a SubjectPublicKeyInfo, because some verifiers do not
// take the bare PKCS #1 form; for Ed25519 the bare 32 octets (RFC 8463 section 4).
func (k *Key) Record() (string, error) {
	if pub, ok := k.signer.Public().(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub), nil
	}
	der, err := x509.MarshalPKIXPublicKey(k.signer.Public())
	if err != nil {
		return "", fault.Wrap(fault.Internal, err, "dkim: write a public key")
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der), nil
}

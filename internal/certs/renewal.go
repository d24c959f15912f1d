package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"madmail/internal/fault"
)

// Renewal says how the last orders went. It is on disk, so that a server that is
// started again and again does not use up what an authority allows.
type Renewal struct {
	Failures int       `json:"failures"` // in a row
	LastTry  time.Time `json:"last_try"`
	NextTry  time.Time `json:"next_try"`
	Error    string    `json:"error"` // of the last one
}

// maxRemembered bounds the text of an error that is kept.
const maxRemembered = 2000

// pause is how long after so many failures in a row the next try comes: 1 h, 6 h, then
// daily; hourly when a certificate is about to run out.
func pause(failures int, left time.Duration) time.Duration {
	switch {
	case failures <= 1 || 0 < left && left < 48*time.Hour:
		return time.Hour
	case failures == 2:
		return 6 * time.Hour
	}
	return 24 * time.Hour
}

// Renew is Obtain for a server that looks by itself: after a failure it waits until the
// time for the next try has come.
func (a *ACME) Renew(ctx context.Context, o Order) (action string, err error) {
	a.busy.Lock()
	defer a.busy.Unlock()
	if r := a.Renewal(); a.now().Before(r.NextTry) {
		return Skipped, nil
	}
	return a.obtain(ctx, o)
}

func (a *ACME) renewalPath() string { return filepath.Join(a.dir, "renewal.json") }

// Renewal returns how the last orders went; zero when the last one went well.
func (a *ACME) Renewal() (r Renewal) {
	raw, err := os.ReadFile(a.renewalPath())
	if err != nil || json.Unmarshal(raw, &r) != nil {
		return Renewal{}
	}
	// A clock that went back must not put it off for ever.
	if limit := a.now().Add(24 * time.Hour); r.NextTry.After(limit) {
		r.NextTry = limit
	}
	return r
}

// failed remembers a failure. old is the certificate that stays, nil without one.
func (a *ACME) failed(why error, old *x509.Certificate) error {
	r := a.Renewal()
	now := a.now().UTC()
	left := time.Duration(0)
	if old != nil {
		left = old.NotAfter.Sub(now)
	}
	r.Failures++
	r.LastTry, r.NextTry, r.Error = now, now.Add(pause(r.Failures, left)), why.Error()
	if len(r.Error) > maxRemembered {
		r.Error = strings.ToValidUTF8(r.Error[:maxRemembered], "")
	}
	a.log.Warn("no certificate was obtained; the old one stays", "failures", r.Failures, "next_try", r.NextTry, "err", why)
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: renewal")
	}
	if err := makeDir(a.dir, 0o750); err != nil {
		return err
	}
	return writeOwned(a.renewalPath(), append(raw, '\n'), 0o640)
}

// forget drops what is known of failures.
func (a *ACME) forget() error {
	if err := os.Remove(a.renewalPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(fault.Busy, err, "certs: renewal")
	}
	return nil
}

// accountFile is an account at an authority, in the form of earlier versions.
type accountFile struct {
	ID        string `json:"id"`        // URL of the account
	KeyPKCS8  string `json:"key_pkcs8"` // base64url without padding
	Directory string `json:"directory,omitempty"`

	key crypto.Signer
}

// accountPath is where the account at an authority is kept.
func (a *ACME) accountPath(directory string) string {
	if directory == LetsEncrypt {
		return filepath.Join(a.dir, "le-account.json")
	}
	host := Order{Directory: directory}.host()
	host = strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, host)
	return filepath.Join(a.dir, "account-"+host+".json")
}

// readAccount returns nil when there is no file.
func readAccount(path string) (*accountFile, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "certs: account")
	}
	return parseAccount(path, raw)
}

func parseAccount(path string, raw []byte) (*accountFile, error) {
	bad := func(err error) error {
		return fault.WithHint(fault.Wrap(fault.Invalid, err, "certs: "+path), "move the file away: a new account is made")
	}
	var f accountFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, bad(err)
	}
	der, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(f.KeyPKCS8), "="))
	if err != nil {
		return nil, bad(err)
	}
	if f.key, err = parseKey(der); err != nil {
		return nil, bad(err)
	}
	return &f, nil
}

// readAccountKey reads the key alone, as older versions kept it. It returns nil when
// there is no file.
func readAccountKey(path string) (*accountFile, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "certs: account")
	}
	b, _ := pem.Decode(raw)
	if b == nil {
		return nil, fault.WithHint(fault.Newf(fault.Invalid, "certs: %s: there is no key in PEM", path), "move the file away: a new account is made")
	}
	key, err := parseKey(b.Bytes)
	if err != nil {
		return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "certs: "+path), "move the file away: a new account is made")
	}
	return &accountFile{key: key}, nil
}

func parseKey(der []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		var e *ecdsa.PrivateKey
		if e, err = x509.ParseECPrivateKey(der); err == nil {
			return e, nil
		}
		return nil, errors.New("the key cannot be read")
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return s, nil
}

func writeAccount(path string, f accountFile) error {
	der, err := x509.MarshalPKCS8PrivateKey(f.key)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: account")
	}
	f.KeyPKCS8 = base64.RawURLEncoding.EncodeToString(der)
	raw, err := json.Marshal(f)
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs: account")
	}
	if err := makeDir(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return writeOwned(path, append(raw, '\n'), 0o600)
}

// reverse is the name of an address in the reverse DNS (RFC 1035 section 3.5, RFC 3596
// section 2.5).
func reverse(ip netip.Addr) string {
	ip = ip.Unmap()
	raw := ip.AsSlice()
	var b strings.Builder
	for i := len(raw) - 1; i >= 0; i-- {
		if ip.Is4() {
			b.WriteString(strconv.Itoa(int(raw[i])) + ".")
			continue
		}
		const hex = "0123456789abcdef"
		b.Write([]byte{hex[raw[i]&15], '.', hex[raw[i]>>4], '.'})
	}
	if ip.Is4() {
		return b.String() + "in-addr.arpa"
	}
	return b.String() + "ip6.arpa"
}

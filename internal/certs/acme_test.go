//go:build unix

package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"madmail/internal/fault"
	"madmail/test/dnstest"
	"madmail/test/pebble"
	"madmail/test/testport"
)

// desk is a state directory and an authority for it.
type desk struct {
	*ACME
	Order
	ca        *pebble.Authority
	http, tls int
}

func newDesk(t *testing.T, life map[string]time.Duration, names ...string) *desk {
	t.Helper()
	ports, dir := testport.Ports(t, 2), t.TempDir()
	dns := dnstest.New(t, "mail.example.org A 127.0.0.1\nexample.org A 127.0.0.1\n")
	d := &desk{http: ports[0], tls: ports[1]}
	d.ca = pebble.New(t, pebble.Options{HTTPPort: d.http, TLSPort: d.tls, DNS: dns.Addr(), Life: life})
	d.ACME = NewACME(dir, nil, nil)
	d.Order = Order{Directory: d.ca.Directory, RootCA: d.ca.RootCA, Email: "x@example.org", Names: names, HTTP: fmt.Sprintf("127.0.0.1:%d", d.http)}
	d.Cert, d.Key = DefaultPaths(dir)
	return d
}

// owner is the number of whom a file belongs to.
func owner(info os.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// serveTLS answers as the HTTPS listener of a server does.
func (d *desk) serveTLS(t *testing.T) {
	t.Helper()
	m, err := Open(Options{Cert: filepath.Join(t.TempDir(), "c"), Key: filepath.Join(t.TempDir(), "k"), Make: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", d.tls))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{TLSConfig: d.ForAuthorities(m.TLSConfig("h2", "http/1.1")), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error)
	go func() { done <- s.ServeTLS(l, "", "") }() // ends with the test
	t.Cleanup(func() {
		s.Close()
		<-done
	})
}

func (d *desk) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(d.Cert, d.Key)
	if err != nil {
		t.Fatal(err)
	}
	chain := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain.AddCert(c)
	}
	for _, name := range d.Names {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: d.ca.Roots, Intermediates: chain}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	return pair.Leaf
}

func modes(t *testing.T, want os.FileMode, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", p, st.Mode().Perm(), err, want)
		}
	}
}

func TestACertificateIsObtained(t *testing.T) {
	for _, x := range []struct {
		name  string
		names []string
		tls   bool
		life  map[string]time.Duration
		want  time.Duration
	}{
		{"names by HTTP", []string{"mail.example.org", "example.org"}, false, nil, 90 * 24 * time.Hour},
		{"a name by TLS", []string{"mail.example.org"}, true, nil, 90 * 24 * time.Hour},
		{"an address by HTTP", []string{"127.0.0.1"}, false, map[string]time.Duration{"default": 90 * 24 * time.Hour, "shortlived": 6 * 24 * time.Hour}, 6 * 24 * time.Hour},
		{"an address by TLS", []string{"127.0.0.1"}, true, map[string]time.Duration{"default": 90 * 24 * time.Hour, "shortlived": 6 * 24 * time.Hour}, 6 * 24 * time.Hour},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := newDesk(t, x.life, x.names...)
			if x.tls {
				d.serveTLS(t)
				d.TLS = true
				// Somebody else has the port of HTTP, and answers nothing of ours.
				l, err := net.Listen("tcp", d.HTTP)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
			}
			action, err := d.Obtain(t.Context(), d.Order)
			if err != nil || action != Issued {
				t.Fatalf("%q, %v", action, err)
			}
			leaf := d.leaf(t)
			if got := leaf.NotAfter.Sub(leaf.NotBefore).Round(time.Hour); got != x.want {
				t.Errorf("it lives for %v, want %v", got, x.want)
			}
			modes(t, 0o640, d.Cert)
			modes(t, 0o600, d.Key, d.accountPath(d.Directory))
			if action, err := d.Obtain(t.Context(), d.Order); err != nil || action != Skipped {
				t.Errorf("a good one: %q, %v", action, err)
			}
			if !x.tls {
				l, err := net.Listen("tcp", d.HTTP)
				if err != nil {
					t.Fatalf("the temporary listener lives on: %v", err)
				}
				l.Close()
			}
			if len(d.tokens) != 0 || len(d.hellos) != 0 {
				t.Errorf("challenges stay: %v, %v", d.tokens, d.hellos)
			}
		})
	}
}

// TestARenewalKeepsKeyAndAccount: clients and TLSA records know the key.
func TestARenewalKeepsKeyAndAccount(t *testing.T) {
	d := newDesk(t, nil, "mail.example.org")
	if _, err := d.Obtain(t.Context(), d.Order); err != nil {
		t.Fatal(err)
	}
	first := d.leaf(t)
	account, err := os.ReadFile(d.accountPath(d.Directory))
	if err != nil {
		t.Fatal(err)
	}
	now := first.NotAfter.Add(-30*24*time.Hour - time.Minute)
	d.now = func() time.Time { return now }
	if action, err := d.Renew(t.Context(), d.Order); err != nil || action != Skipped {
		t.Fatalf("more than 30 days are left: %q, %v", action, err)
	}
	now = now.Add(2 * time.Minute)
	if action, err := d.Renew(t.Context(), d.Order); err != nil || action != Renewed {
		t.Fatalf("less than 30 days are left: %q, %v", action, err)
	}
	second := d.leaf(t)
	if second.SerialNumber.Cmp(first.SerialNumber) == 0 || string(second.RawSubjectPublicKeyInfo) != string(first.RawSubjectPublicKeyInfo) {
		t.Error("it is the same certificate, or another key")
	}
	if again, err := os.ReadFile(d.accountPath(d.Directory)); err != nil || string(again) != string(account) {
		t.Errorf("the account changed: %v", err)
	}
	d.now = time.Now
	d.Force = true
	if action, err := d.Obtain(t.Context(), d.Order); err != nil || action != Renewed {
		t.Errorf("forced: %q, %v", action, err)
	}
	// Another name: what is there is not enough.
	d.Force, d.Names = false, []string{"mail.example.org", "example.org"}
	if action, err := d.Obtain(t.Context(), d.Order); err != nil || action != Renewed {
		t.Errorf("one more name: %q, %v", action, err)
	}
	d.leaf(t)
}

// TestTheKeyOfOneAccountFileIsUsed: files of earlier versions hold the account.
func TestTheKeyOfOneAccountFileIsUsed(t *testing.T) {
	d := newDesk(t, nil, "mail.example.org")
	key, _, err := usableKey("", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := writeAccount(d.accountPath(d.Directory), accountFile{ID: d.Directory + "/gone", Directory: d.Directory, key: key}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Obtain(t.Context(), d.Order); err != nil {
		t.Fatal(err)
	}
	f, err := readAccount(d.accountPath(d.Directory))
	if err != nil || !f.key.(*ecdsa.PrivateKey).Equal(key) || strings.HasSuffix(f.ID, "/gone") {
		t.Errorf("%v, %+v", err, f)
	}
}

// TestAFailureKeepsWhatIsThere: known failure 65; the old pair stays, the next try is an
// hour, then six, then a day away, and a start in between does not ask.
func TestAFailureKeepsWhatIsThere(t *testing.T) {
	d := newDesk(t, nil, "nowhere.example.net")
	if err := SelfSigned(d.Cert, d.Key, d.Names, time.Now()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(d.Cert)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	clock := func() time.Time { return now }
	d.now = clock
	for i, wait := range []time.Duration{time.Hour, 6 * time.Hour, 24 * time.Hour, 24 * time.Hour} {
		_, err := d.Renew(t.Context(), d.Order)
		if !fault.Is(err, fault.Refused) {
			t.Fatalf("try %d: %v", i, err)
		}
		asked := d.ca.Orders()
		if asked == 0 {
			t.Fatal("nobody was asked")
		}
		r := d.Renewal()
		if r.Failures != i+1 || !r.NextTry.Equal(now.UTC().Add(wait)) || r.Error == "" {
			t.Errorf("try %d: %+v, want the next in %v", i, r, wait)
		}
		d.ACME = NewACME(filepath.Dir(d.dir), clock, nil) // started again
		now = now.Add(wait - time.Second)
		if action, err := d.Renew(t.Context(), d.Order); err != nil || action != Skipped || d.ca.Orders() != asked {
			t.Errorf("too early: %q, %v, %d orders", action, err, d.ca.Orders()-asked)
		}
		now = now.Add(time.Second)
	}
	if after, err := os.ReadFile(d.Cert); err != nil || string(after) != string(before) {
		t.Errorf("the old certificate did not stay: %v", err)
	}
	if _, _, err := Inspect(d.Cert, d.Key); err != nil {
		t.Error(err)
	}
	d.Names = []string{"mail.example.org"} // somebody mended it
	now = time.Now()
	if _, err := d.Obtain(t.Context(), d.Order); err != nil {
		t.Fatal(err)
	}
	if r := d.Renewal(); r != (Renewal{}) {
		t.Errorf("failures are remembered after a success: %+v", r)
	}
}

// TestAnAuthorityThatIsDown is tried again later, and hourly when little time is left.
func TestAnAuthorityThatIsDown(t *testing.T) {
	d := newDesk(t, nil, "mail.example.org")
	if _, err := d.Obtain(t.Context(), d.Order); err != nil {
		t.Fatal(err)
	}
	d.ca.Down(true)
	now := d.leaf(t).NotAfter.Add(-36 * time.Hour)
	d.now = func() time.Time { return now }
	for i := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := d.Renew(ctx, d.Order)
		cancel()
		if !fault.Is(err, fault.Busy) {
			t.Fatalf("%v", err)
		}
		if r := d.Renewal(); r.Failures != i+1 || !r.NextTry.Equal(now.UTC().Add(time.Hour)) {
			t.Errorf("%+v", r)
		}
		now = now.Add(time.Hour)
	}
	d.ca.Down(false)
	if action, err := d.Renew(t.Context(), d.Order); err != nil || action != Renewed {
		t.Errorf("%q, %v", action, err)
	}
}

func TestOrdersThatCannotBe(t *testing.T) {
	for name, o := range map[string]Order{
		"no name":              {},
		"too many":             {Names: slices.Repeat([]string{"a.example.org"}, maxNames+1)},
		"a wildcard by HTTP":   {Names: []string{"*.example.org"}},
		"an address by DNS":    {Names: []string{"192.0.2.1"}, Zone: noZone{}},
		"not over TLS":         {Names: []string{"a.example.org"}, Directory: "http://127.0.0.1/dir"},
		"no root certificates": {Names: []string{"a.example.org"}, Directory: "https://127.0.0.1/dir", RootCA: "/nowhere"},
	} {
		dir := t.TempDir()
		o.Cert, o.Key = DefaultPaths(dir)
		if _, err := NewACME(dir, nil, nil).Obtain(t.Context(), o); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" && name == "no name" {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(o.Cert); err == nil {
			t.Errorf("%s: there is a certificate", name)
		}
	}
}

type noZone struct{ Zone }

func TestIdentifiers(t *testing.T) {
	got := Identifiers("Mail.Example.org.", "[192.0.2.1]", "192.0.2.1", "localhost", "", "bücher.example", "[2001:DB8::1]", "*.example.org", "a b.example", "mail.example.org")
	want := []string{"mail.example.org", "192.0.2.1", "xn--bcher-kva.example", "2001:db8::1", "*.example.org"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestContacts(t *testing.T) {
	for email, want := range map[string]string{
		"x@example.org": "mailto:x@example.org", "": "", "x@[192.0.2.1]": "", "x@192.0.2.1": "", "x@[IPv6:2001:db8::1]": "", "x@localhost": "", "@example.org": "",
	} {
		if got := strings.Join(contact(email), " "); got != want {
			t.Errorf("%q: %q, want %q", email, got, want)
		}
	}
}

func TestWindows(t *testing.T) {
	now := time.Now()
	const day = 24 * time.Hour
	for life, want := range map[time.Duration]time.Duration{
		90 * day: 30 * day, 45 * day: 30 * day, 6*day - time.Second: 4 * day, 160 * time.Hour: 4 * day, 2 * day: 36 * time.Hour, 398 * day: 30 * day,
	} {
		leaf := &x509.Certificate{NotBefore: now, NotAfter: now.Add(life)}
		if got := Window(leaf); got != want {
			t.Errorf("a life of %v: %v, want %v", life, got, want)
		}
	}
}

// TestAPairThatIsHalfWrittenIsMended: a start finds its own pair torn, and works.
func TestAPairThatIsHalfWrittenIsMended(t *testing.T) {
	cert, key := DefaultPaths(t.TempDir())
	o := Options{Cert: cert, Key: key, Make: true, Names: []string{"a.example.org"}}
	if _, err := Open(o); err != nil {
		t.Fatal(err)
	}
	other, okey := DefaultPaths(t.TempDir())
	if err := SelfSigned(other, okey, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(okey, key); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(o); !fault.Is(err, fault.Invalid) {
		t.Errorf("an operator's pair was replaced: %v", err)
	}
	o.Mend = true
	if m, err := Open(o); err != nil || m.Leaf().DNSNames[0] != "a.example.org" {
		t.Errorf("%v", err)
	}
}

// TestOnlyAuthoritiesGetAnswers: a token that is not of a running order is nobody's.
func TestOnlyAuthoritiesGetAnswers(t *testing.T) {
	a := NewACME(t.TempDir(), nil, nil)
	a.tokens["right"] = "right.thumb"
	for _, x := range []struct {
		method, path string
		want         bool
	}{
		{"GET", challengePath + "right", true}, {"HEAD", challengePath + "right", true}, {"POST", challengePath + "right", false},
		{"GET", challengePath + "wrong", false}, {"GET", challengePath, false}, {"GET", "/right", false}, {"GET", challengePath + "../right", false},
	} {
		r, err := http.NewRequest(x.method, "http://a.example"+x.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Answers(r) != nil; got != x.want {
			t.Errorf("%s %s: %v", x.method, x.path, got)
		}
	}
}

func FuzzAccountFile(f *testing.F) {
	key, _, err := usableKey("", "")
	if err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(f.TempDir(), "a.json")
	if err := writeAccount(path, accountFile{ID: "https://ca.example/acct/1", Directory: LetsEncrypt, key: key}); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"id":"x","key_pkcs8":"AAAA"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := parseAccount("f", raw)
		if err == nil && a.key == nil {
			t.Error("an account without a key")
		}
	})
}

// TestAProofThatFailsIsTriedAnotherWay: port 80 leads elsewhere, port 443 here.
func TestAProofThatFailsIsTriedAnotherWay(t *testing.T) {
	d := newDesk(t, nil, "mail.example.org")
	d.serveTLS(t)
	d.HTTP, d.TLS = "127.0.0.1:0", true
	if action, err := d.Obtain(t.Context(), d.Order); err != nil || action != Issued {
		t.Errorf("%q, %v", action, err)
	}
}

// TestAnAccountThatCannotBeReadIsMadeAnew, and is not lost.
func TestAnAccountThatCannotBeReadIsMadeAnew(t *testing.T) {
	d := newDesk(t, nil, "mail.example.org")
	path := d.accountPath(d.Directory)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("half a f"), 0o600); err != nil {
		t.Fatal(err)
	}
	if action, err := d.Obtain(t.Context(), d.Order); err != nil || action != Issued {
		t.Fatalf("%q, %v", action, err)
	}
	if raw, err := os.ReadFile(path + ".unreadable"); err != nil || string(raw) != "half a f" {
		t.Errorf("%q, %v", raw, err)
	}
	if f, err := readAccount(path); err != nil || f == nil {
		t.Errorf("%v", err)
	}
}

// TestTheKeyOfTheFirstVersionIsRead: it kept the key of the account alone.
func TestTheKeyOfTheFirstVersionIsRead(t *testing.T) {
	key, _, err := usableKey("", "")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := pemKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "account.key.pem")
	if f, err := readAccountKey(path); f != nil || err != nil {
		t.Errorf("no file: %v, %v", f, err)
	}
	for text, good := range map[string]bool{string(raw): true, "": false, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := readAccountKey(path)
		if good && (err != nil || !f.key.(*ecdsa.PrivateKey).Equal(key)) || !good && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, %v", text, f, err)
		}
	}
}

// TestRootLeavesFilesToTheService is known failure 65 (#93): what a command of root
// makes belongs to whom the state belongs. For others it is theirs.
func TestRootLeavesFilesToTheService(t *testing.T) {
	d := newDesk(t, nil, "mail.example.org")
	state, uid := filepath.Dir(d.dir), os.Getuid()
	if uid == 0 {
		uid = 4242
		if err := os.Chown(state, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Obtain(t.Context(), d.Order); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := filepath.WalkDir(state, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		if got := owner(info); got != uid {
			t.Errorf("%s belongs to %d, not to %d", p, got, uid)
		}
		n++
		return nil
	})
	if err != nil || n < 6 {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestARehearsalFindsWhatIsWrong: what doctor asks.
func TestARehearsalFindsWhatIsWrong(t *testing.T) {
	a := NewACME(t.TempDir(), nil, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := a.Rehearse(t.Context(), Order{HTTP: at}, ""); !fault.Is(err, fault.Busy) || fault.HintOf(err) == "" {
		t.Errorf("a port that is taken: %v", err)
	}
	closing := a.serveChallenges(l)
	if err := a.Rehearse(t.Context(), Order{}, at); err != nil {
		t.Errorf("ours answers: %v", err)
	}
	if err := NewACME(t.TempDir(), nil, nil).Rehearse(t.Context(), Order{}, at); !fault.Is(err, fault.Busy) {
		t.Errorf("another one answers: %v", err)
	}
	closing()
	if err := a.Rehearse(t.Context(), Order{}, at); !fault.Is(err, fault.Busy) {
		t.Errorf("nobody answers: %v", err)
	}
	if err := a.Rehearse(t.Context(), Order{HTTP: at}, ""); err != nil || len(a.tokens) != 0 {
		t.Errorf("a port that is free: %v, %v", err, a.tokens)
	}
}

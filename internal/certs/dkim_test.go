package certs

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/dkim"
	"madmail/internal/fault"
)

const testHeader, testBody = "From: <a@example.org>\r\n\r\n", "hello\r\n"

// published answers lookups from the records that have to be published.
func published(k *DKIM) dkim.LookupTXT {
	return func(_ context.Context, name string) ([]string, error) {
		for _, r := range k.Records() {
			if r.FQDN == name {
				return []string{r.TXT}, nil
			}
		}
		return nil, fault.New(fault.NotFound, "no such name")
	}
}

// selectorOf signs a message, verifies it and returns the selector.
func selectorOf(t *testing.T, k *DKIM, from address.Domain) string {
	t.Helper()
	sig, err := k.Sign(from, []byte(testHeader), strings.NewReader(testBody))
	if err != nil {
		t.Fatal(err)
	}
	if sig == nil {
		return ""
	}
	rep, err := dkim.Verify(t.Context(), strings.NewReader(string(sig)+testHeader+testBody), published(k), 0)
	best := rep.Best(string(from))
	if err != nil || best.State != dkim.Pass {
		t.Fatalf("%+v %v", rep, err)
	}
	return best.Selector
}

func phases(rs []DKIMRecord) string {
	var out []string
	for _, r := range rs {
		out = append(out, fmt.Sprintf("%s/%s=%s", r.Domain, r.Selector, r.Phase))
	}
	return strings.Join(out, " ")
}

func TestAKeyIsMadeOnceAndSigns(t *testing.T) {
	dir := t.TempDir()
	o := DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org", "[192.0.2.1]", "example.org"}}
	k, err := OpenDKIM(o)
	if err != nil {
		t.Fatal(err)
	}
	if s := selectorOf(t, k, "example.org"); s != "default" {
		t.Error(s)
	}
	for _, d := range []address.Domain{"[192.0.2.1]", "example.net", ""} {
		if s := selectorOf(t, k, d); s != "" {
			t.Errorf("%s is signed for: %s", d, s)
		}
	}
	rs := k.Records()
	if phases(rs) != "example.org/default=active" || rs[0].Name != "default._domainkey" || rs[0].FQDN != "default._domainkey.example.org" || !strings.HasPrefix(rs[0].TXT, "v=DKIM1; k=rsa; p=MIIB") {
		t.Errorf("%+v", rs)
	}
	for path, mode := range map[string]os.FileMode{"example.org_default.key": 0o600, "example.org_default.dns": 0o644, "state.json": 0o600, ".": 0o700} {
		if st, err := os.Stat(filepath.Join(dir, "dkim_keys", path)); err != nil || st.Mode().Perm() != mode {
			t.Error(path, st, err)
		}
	}
	again, err := OpenDKIM(o)
	if err != nil || again.Records()[0].TXT != rs[0].TXT {
		t.Error("a second start made another key", err)
	}
	if s := selectorOf(t, again, "example.org"); s != "default" {
		t.Error(s)
	}
}

func TestRotationKeepsTheOldRecordForAWhile(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	o := DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org", "example.net"}, Algorithm: dkim.Ed25519, Now: func() time.Time { return now }}
	k, err := OpenDKIM(o)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := k.Rotate("")
	if err != nil || phases(rs) != "example.org/s20261101=next example.net/s20261101=next" {
		t.Fatal(phases(rs), err)
	}
	if again, err := k.Rotate(""); err != nil || again[0] != rs[0] {
		t.Error("asked twice:", again, err)
	}
	if _, err := k.Rotate("other"); !fault.Is(err, fault.Exists) || fault.HintOf(err) == "" {
		t.Error(err)
	}
	if s := selectorOf(t, k, "example.org"); s != "default" {
		t.Error("signs before its record is published:", s)
	}
	// The rotation outlives a restart.
	if k, err = OpenDKIM(o); err != nil {
		t.Fatal(err)
	}
	if err := k.Use(o.Domains, "s20261101"); err != nil {
		t.Fatal(err)
	}
	if s := selectorOf(t, k, "example.net"); s != "s20261101" {
		t.Error(s)
	}
	want := "example.org/s20261101=active example.org/default=retired example.net/s20261101=active example.net/default=retired"
	if got := phases(k.Records()); got != want || !k.Records()[1].Until.Equal(now.Add(KeepRetired)) {
		t.Error(got)
	}
	if _, err := k.Rotate("default"); !fault.Is(err, fault.Exists) {
		t.Error("an old selector for a new key:", err)
	}
	now = now.Add(KeepRetired - time.Second)
	if gone, err := k.Prune(); gone != nil || err != nil {
		t.Error(gone, err)
	}
	now = now.Add(time.Second)
	if gone, err := k.Prune(); fmt.Sprint(gone) != "[default]" || err != nil {
		t.Error(gone, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "dkim_keys", "*_default.*")); len(left) != 0 || err != nil {
		t.Error(left, err)
	}
	o.Selector = "s20261101"
	if k, err = OpenDKIM(o); err != nil || phases(k.Records()) != "example.org/s20261101=active example.net/s20261101=active" {
		t.Error(phases(k.Records()), err)
	}
}

func TestRotationCanBeAbandonedAndTakenBack(t *testing.T) {
	o := DKIMOptions{StateDir: t.TempDir(), Domains: []address.Domain{"example.org"}, Algorithm: dkim.Ed25519}
	k, err := OpenDKIM(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Rotate("wrong"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := k.Abandon(); err != nil || phases(k.Records()) != "example.org/default=active" {
			t.Fatal(phases(k.Records()), err)
		}
	}
	if _, err := k.Rotate("two"); err != nil {
		t.Fatal(err)
	}
	if err := k.Use(o.Domains, "two"); err != nil {
		t.Fatal(err)
	}
	if err := k.Use(o.Domains, ""); err != nil || phases(k.Records()) != "example.org/default=active example.org/two=retired" {
		t.Error(phases(k.Records()), err)
	}
	if s := selectorOf(t, k, "example.org"); s != "default" {
		t.Error(s)
	}
}

func TestKeysOfPredecessorsAreTaken(t *testing.T) {
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(old)})
	key, err := dkim.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	record, err := key.Record()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("one for all", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "dkim", "default.private"), text)
		k, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org", "example.net"}})
		if err != nil {
			t.Fatal(err)
		}
		if rs := k.Records(); rs[0].TXT != record || rs[1].TXT == record {
			t.Errorf("%+v", rs)
		}
		if s := selectorOf(t, k, "example.org"); s != "default" {
			t.Error(s)
		}
	})
	t.Run("one for each", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "dkim_keys", "example.org_mail.key"), text)
		// The same key in another wording stays; a text that verifiers cannot read does not.
		write(t, filepath.Join(dir, "dkim_keys", "example.org_mail.dns"), []byte(strings.ReplaceAll(record, "; ", ";")))
		k, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org"}, Selector: "mail"})
		if err != nil || k.Records()[0].TXT != strings.ReplaceAll(record, "; ", ";") {
			t.Errorf("%v %v", k, err)
		}
		write(t, filepath.Join(dir, "dkim_keys", "example.org_mail.dns"), []byte("v=DKIM1; p=AAAA"))
		if k, err = OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org"}, Selector: "mail"}); err != nil || k.Records()[0].TXT != record {
			t.Errorf("%v %v", k, err)
		}
	})
	for name, domain := range map[string]address.Domain{"Example.ORG": "example.org", "bücher.example": "xn--bcher-kva.example"} {
		t.Run("as the file spelt "+name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "dkim_keys", "other.example_mail.key"), []byte("not of this domain"))
			write(t, filepath.Join(dir, "dkim_keys", name+"_mail.key"), text)
			for range 2 {
				k, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{domain}, Selector: "mail"})
				if err != nil || k.Records()[0].TXT != record {
					t.Fatalf("%v %v", k, err)
				}
			}
		})
	}
	t.Run("not readable", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "dkim_keys", "Example.org_default.key"), []byte("hello"))
		if _, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org"}}); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Error(err)
		}
		dir = t.TempDir()
		write(t, filepath.Join(dir, "dkim", "default.private"), []byte("hello"))
		if _, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org"}}); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Error(err)
		}
	})
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAKeyIsNeverReplacedInPlace(t *testing.T) {
	dir := t.TempDir()
	o := DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org"}, Algorithm: dkim.Ed25519}
	k, err := OpenDKIM(o)
	if err != nil {
		t.Fatal(err)
	}
	path := k.Records()[0].KeyPath
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDKIM(o); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), path) || fault.HintOf(err) == "" {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDKIM(o); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), path) || fault.HintOf(err) == "" {
		t.Error(err)
	}
	o.Selector = "new"
	if _, err := OpenDKIM(o); err != nil {
		t.Error(err)
	}
	// A change that cannot be made changes nothing.
	if err := k.Use(o.Domains, "default"); err == nil {
		t.Error("a missing key was used")
	}
	if sig, err := k.Sign("example.org", []byte(testHeader), strings.NewReader(testBody)); sig == nil || err != nil {
		t.Error(err)
	}
}

func TestBadNamesMakeNoFiles(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []string{"../x", "a/b", "a b", strings.Repeat("a", 64), "."} {
		if _, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"example.org"}, Selector: s}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"../../x"}}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	k, err := OpenDKIM(DKIMOptions{StateDir: dir, Domains: []address.Domain{"[192.0.2.1]"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Rotate(""); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 || len(k.Records()) != 0 {
		t.Error(files, err)
	}
	if err := k.Use([]address.Domain{"example.org"}, ""); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"../x", "a/b", "default", "DEFAULT/"} {
		if _, err := k.Rotate(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	write(t, filepath.Join(dir, "dkim_keys", "state.json"), []byte("{"))
	if _, err := OpenDKIM(DKIMOptions{StateDir: dir}); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
		t.Error(err)
	}
}

func TestCheckDKIM(t *testing.T) {
	k, err := OpenDKIM(DKIMOptions{StateDir: t.TempDir(), Domains: []address.Domain{"example.org"}, Algorithm: dkim.Ed25519})
	if err != nil {
		t.Fatal(err)
	}
	txt := k.Records()[0].TXT
	for _, c := range []struct {
		name string
		txts []string
		err  error
		want dkim.Match
		ask  bool
	}{
		{"published", []string{txt + ";t=s"}, nil, dkim.Matched, true},
		{"missing", nil, fault.New(fault.NotFound, "x"), dkim.Missing, true},
		{"other", []string{"v=DKIM1; k=ed25519; p=AAAA"}, nil, dkim.OtherKey, true},
		{"no answer", nil, fault.New(fault.Busy, "x"), dkim.Missing, false},
	} {
		got := CheckDKIM(t.Context(), k.Records(), func(_ context.Context, name string) ([]string, error) {
			if name != "default._domainkey.example.org" {
				t.Error(name)
			}
			return c.txts, c.err
		})
		if len(got) != 1 || got[0].Match != c.want || (got[0].Err == nil) != c.ask {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestSigningGoesOnWhileKeysChange(t *testing.T) {
	o := DKIMOptions{StateDir: t.TempDir(), Domains: []address.Domain{"example.org"}, Algorithm: dkim.Ed25519}
	k, err := OpenDKIM(o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if sig, err := k.Sign("example.org", []byte(testHeader), strings.NewReader(testBody)); err != nil || sig == nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 5 {
		if err := k.Use(o.Domains, fmt.Sprintf("s%d", i)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

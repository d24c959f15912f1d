package dkim

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"madmail/internal/fault"
)

var update = flag.Bool("update", false, "rewrite the wanted results in testdata")

// zone answers lookups from testdata/keys.txt.
func zone(t testing.TB) LookupTXT {
	t.Helper()
	raw, err := os.ReadFile("testdata/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	txts := make(map[string][]string)
	for line := range strings.Lines(string(raw)) {
		name, txt, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		txts[name] = append(txts[name], txt)
	}
	return func(_ context.Context, name string) ([]string, error) {
		if strings.HasPrefix(name, "temporary.") {
			return nil, fault.New(fault.Busy, "no answer")
		}
		if txts[name] == nil {
			return nil, fault.New(fault.NotFound, "no such name")
		}
		return txts[name], nil
	}
}

func show(r Report) string {
	var b strings.Builder
	for _, x := range r.Results {
		fmt.Fprintf(&b, "%s d=%s s=%s a=%s %s\n", x.State, x.Domain, x.Selector, x.Algorithm, x.Reason)
	}
	return b.String()
}

func TestForeignSignaturesAreJudged(t *testing.T) {
	files, err := filepath.Glob("testdata/*.eml")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			raw, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []io.Reader{bytes.NewReader(raw), iotest.OneByteReader(bytes.NewReader(raw))} {
				rep, err := Verify(t.Context(), r, zone(t), 0)
				if err != nil {
					t.Fatal(err)
				}
				got, name := show(rep), strings.TrimSuffix(f, ".eml")+".want"
				if *update {
					if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(name)
				if err != nil || got != string(want) {
					t.Errorf("got %swant %s(%v)", got, want, err)
				}
			}
		})
	}
}

// The signatures, message and keys of RFC 8463 appendix A.
func TestRFC8463Vector(t *testing.T) {
	msg := strings.ReplaceAll(`DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
`, "\n", "\r\n")
	keys := map[string]string{
		"brisbane._domainkey.football.example.com": "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
		"test._domainkey.football.example.com": "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR" +
			"+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB",
	}
	rep, err := Verify(t.Context(), strings.NewReader(msg), func(_ context.Context, name string) ([]string, error) { return []string{keys[name]}, nil }, 0)
	if err != nil || len(rep.Results) != 2 || rep.Results[0].State != Pass || rep.Results[1].State != Pass {
		t.Errorf("%s%v", show(rep), err)
	}
	if rep, err = Verify(t.Context(), strings.NewReader(msg), func(_ context.Context, name string) ([]string, error) { return []string{keys[name]}, nil }, 1); err != nil || len(rep.Results) != 1 || rep.Signatures != 2 {
		t.Errorf("one: %s%v", show(rep), err)
	}
}

func splitMessage(t testing.TB, raw []byte) (header []byte, body io.Reader) {
	t.Helper()
	i := bytes.Index(raw, []byte("\r\n\r\n"))
	if i < 0 {
		t.Fatal("no blank line")
	}
	return raw[:i+4], bytes.NewReader(raw[i+4:])
}

// unsigned returns 01-relaxed.eml without its signature.
func unsigned(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/01-relaxed.eml")
	if err != nil {
		t.Fatal(err)
	}
	return raw[bytes.Index(raw, []byte("From: ")):]
}

func TestOurSignatureStaysAsForeignersFoundItValid(t *testing.T) {
	text, err := os.ReadFile("testdata/golden.pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner("example.org", "plain", key)
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	synctest.Test(t, func(t *testing.T) {
		h, b := splitMessage(t, unsigned(t))
		if got, err = s.Sign(h, b); err != nil {
			t.Fatal(err)
		}
	})
	if *update {
		if err := os.WriteFile("testdata/golden.sig", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/golden.sig")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s\n%v", got, want, err)
	}
}

func keys(t testing.TB) map[Algorithm]*Key {
	t.Helper()
	out := make(map[Algorithm]*Key)
	for _, a := range []Algorithm{RSA2048, Ed25519} {
		k, err := Generate(a)
		if err != nil {
			t.Fatal(err)
		}
		// Through its file form, as a server has it after a restart.
		text, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		if out[a], err = ParseKey(text); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestWhatIsSignedVerifies(t *testing.T) {
	bodies := map[string]string{
		"empty": "", "one line": "x\r\n", "no last line end": "x\r\ny", "blank lines at the end": "x\r\n\r\n \r\n\r\n",
		"white space": " a \t b\t\r\n\r\n\tc\r\n", "8 bit": "h\xc3\xa9 \xff\r\n", "large": strings.Repeat("0123456789abcdef\r\n", 100_000),
	}
	for a, k := range keys(t) {
		record, err := k.Record()
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSigner("Example.ORG", "s1.mail", k)
		if err != nil {
			t.Fatal(err)
		}
		lookup := func(_ context.Context, name string) ([]string, error) {
			if name != "s1.mail._domainkey.example.org" {
				t.Errorf("looked up %q", name)
			}
			return []string{record}, nil
		}
		for name, body := range bodies {
			header := "From: <a@example.org>\r\nTo: b@example.net\r\nReceived: from x\r\nSubject: [...]\r\nChat-Version: 1.0\r\n\r\n"
			sig, err := s.Sign([]byte(header), strings.NewReader(body))
			if err != nil {
				t.Fatal(a, name, err)
			}
			for line := range strings.Lines(string(sig)) {
				if len(line) > 998 {
					t.Errorf("%v %s: line of %d octets", a, name, len(line))
				}
			}
			if !bytes.HasSuffix(sig, []byte("\r\n")) || bytes.Contains(sig, []byte("l=1")) || bytes.Contains(sig, []byte(" x=")) {
				t.Errorf("%s", sig)
			}
			rep, err := Verify(t.Context(), strings.NewReader(string(sig)+header+body), lookup, 0)
			if err != nil || rep.Best("EXAMPLE.org").State != Pass {
				t.Errorf("%v %s: %s %v", a, name, show(rep), err)
			}
			// Whatever is put in front on the way must not be believed.
			rep, err = Verify(t.Context(), strings.NewReader("From: <eve@example.com>\r\n"+string(sig)+header+body), lookup, 0)
			if err != nil || rep.Best("example.org").State == Pass {
				t.Errorf("%v %s: a second From passes: %s %v", a, name, show(rep), err)
			}
			rep, err = Verify(t.Context(), strings.NewReader(string(sig)+header+body+"more\r\n"), lookup, 0)
			if err != nil || rep.Best("example.org").State != Fail {
				t.Errorf("%v %s: a longer body: %s %v", a, name, show(rep), err)
			}
		}
	}
}

func TestLongestSignatureFieldStaysBelowTheLineLimit(t *testing.T) {
	k := keys(t)[RSA2048]
	s, err := NewSigner(strings.Repeat("a", 60)+".example.org", "default", k)
	if err != nil {
		t.Fatal(err)
	}
	var h strings.Builder
	for _, f := range signed {
		for range maxInstances {
			fmt.Fprintf(&h, "%s: a@example.org\r\n", f.name)
		}
	}
	sig, err := s.Sign([]byte(h.String()+"\r\n"), strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sig)) {
		if len(line) > 1000 {
			t.Errorf("%d octets: %s", len(line), line)
		}
	}
}

func TestClocks(t *testing.T) {
	k := keys(t)[Ed25519]
	record, _ := k.Record()
	lookup := func(context.Context, string) ([]string, error) { return []string{record}, nil }
	s, err := NewSigner("example.org", "s", k)
	if err != nil {
		t.Fatal(err)
	}
	const header = "From: <a@example.org>\r\n\r\n"
	// The signer's clock is the bubble's, in the year 2000; now and then are ours.
	var early []byte
	synctest.Test(t, func(t *testing.T) {
		if early, err = s.Sign([]byte(header), strings.NewReader("x\r\n")); err != nil {
			t.Fatal(err)
		}
	})
	today, err := s.Sign([]byte(header), strings.NewReader("x\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := Verify(t.Context(), strings.NewReader(string(early)+header+"x\r\n"), lookup, 0); err != nil || rep.Best("example.org").State != Pass {
		t.Errorf("an old signature: %s %v", show(rep), err)
	}
	synctest.Test(t, func(t *testing.T) {
		rep, err := Verify(t.Context(), strings.NewReader(string(today)+header+"x\r\n"), lookup, 0)
		if err != nil || rep.Best("example.org") != (Result{State: Fail, Domain: "example.org", Selector: "s", Algorithm: "ed25519-sha256", Reason: "signed in the future"}) {
			t.Errorf("a signature of the future: %s %v", show(rep), err)
		}
	})
}

func TestSignRefuses(t *testing.T) {
	k := keys(t)[Ed25519]
	for _, c := range []struct{ domain, selector string }{
		{"", "s"}, {"[192.0.2.1]", "s"}, {"192.0.2.1", "s"}, {"example.org", ""}, {"example.org", "a b"}, {"example.org", "a..b"},
		{"example.org", "a;b"}, {"example.org", strings.Repeat("a", 64)}, {strings.Repeat("abcdefg.", 30) + "org", "selector"},
	} {
		if _, err := NewSigner(c.domain, c.selector, k); !fault.Is(err, fault.Invalid) {
			t.Errorf("NewSigner(%q, %q): %v", c.domain, c.selector, err)
		}
	}
	if _, err := NewSigner("example.org", "s", nil); !fault.Is(err, fault.Invalid) {
		t.Error("no key:", err)
	}
	s, err := NewSigner("_x.example.org", "s", k)
	if err != nil {
		t.Fatal(err)
	}
	if s.Domain() != "_x.example.org" || s.Selector() != "s" {
		t.Error(s.Domain(), s.Selector())
	}
	for _, h := range []string{"", "From: a@b.c\r\n", "To: x\r\n\r\n", "nonsense\r\n\r\n", "From: a\r\n\r\nbody", strings.Repeat("From: a\r\n", 5) + "\r\n"} {
		if _, err := s.Sign([]byte(h), strings.NewReader("")); !fault.Is(err, fault.Invalid) {
			t.Errorf("Sign(%q): %v", h, err)
		}
	}
	if _, err := s.Sign([]byte("From: a\r\n\r\n"), iotest.ErrReader(errors.New("disk"))); !fault.Is(err, fault.Busy) {
		t.Error("a body that fails:", err)
	}
}

func TestVerifyGivesUpInTime(t *testing.T) {
	raw, err := os.ReadFile("testdata/16-two-signatures.eml")
	if err != nil {
		t.Fatal(err)
	}
	head, rest := raw[:bytes.Index(raw, []byte("\r\n\r\n"))+4], raw
	cases := []struct {
		name string
		r    io.Reader
		kind fault.Kind
	}{
		{"nothing", strings.NewReader(""), fault.Invalid},
		{"no blank line", strings.NewReader("From: a@b.c\r\n"), fault.Invalid},
		{"no header", strings.NewReader("hello\r\n\r\n"), fault.Invalid},
		{"long line without end", strings.NewReader("X: " + strings.Repeat("a", 9000)), fault.Invalid},
		{"header too large", strings.NewReader(strings.Repeat("X: "+strings.Repeat("a", 90)+"\r\n", 4000) + "\r\n"), fault.TooBig},
		{"line too large", strings.NewReader("X: " + strings.Repeat("a", MaxHeader) + "\r\n\r\n"), fault.TooBig},
		{"too many fields", strings.NewReader(strings.Repeat("X: y\r\n", maxFields+1) + "\r\n"), fault.TooBig},
		{"too many folds", strings.NewReader("X: y\r\n" + strings.Repeat(" z\r\n", maxFolds) + "\r\n"), fault.TooBig},
		{"header fails", io.MultiReader(bytes.NewReader(head[:40]), iotest.ErrReader(errors.New("disk"))), fault.Busy},
		{"body fails", io.MultiReader(bytes.NewReader(head), iotest.ErrReader(errors.New("disk"))), fault.Busy},
	}
	for _, c := range cases {
		if _, err := Verify(t.Context(), c.r, zone(t), 0); !fault.Is(err, c.kind) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Verify(ctx, bytes.NewReader(rest), func(ctx context.Context, _ string) ([]string, error) {
		cancel()
		return nil, ctx.Err()
	}, 0)
	if !fault.Is(err, fault.Busy) {
		t.Error("cancelled:", err)
	}
}

// A body of blank lines is the worst case of the library: it must not be hashed
// in quadratic time, nor kept.
func TestBlankLinesAreNotKept(t *testing.T) {
	for _, c := range []string{"simple/simple", "relaxed/relaxed"} {
		for _, run := range []string{"\r\n", "\n", "\r", " \r\n"} {
			head := "DKIM-Signature: v=1; a=rsa-sha256; c=" + c + "; d=example.org; s=plain; h=From; bh=AA==; b=AA==\r\nFrom: <a@example.org>\r\n\r\n"
			body := &endless{left: 64 << 20, unit: run}
			rep, err := Verify(t.Context(), io.MultiReader(strings.NewReader(head), body), zone(t), 0)
			if err != nil || len(rep.Results) != 1 || rep.Results[0].State != PermError || rep.Results[0].Reason != "too many blank lines" {
				t.Errorf("%s %q: %s %v", c, run, show(rep), err)
			}
			if read := 64<<20 - body.left; read > 1<<20 {
				t.Errorf("%s %q: %d octets were read", c, run, read)
			}
		}
	}
}

type endless struct {
	left int
	unit string
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := 0
	for n+len(e.unit) <= len(p) {
		n += copy(p[n:], e.unit)
	}
	e.left -= n
	return n, nil
}

func TestBadSignatureFields(t *testing.T) {
	const good = "v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.org; s=plain; h=From; bh=AA==; b=AA=="
	cases := []struct{ name, field, want string }{
		{"sha1", strings.Replace(good, "sha256", "sha1", 1), "permerror d=example.org s=plain a= rsa-sha1 is too weak\n"},
		{"algorithm", strings.Replace(good, "rsa-sha256", "dsa", 1), "permerror d=example.org s=plain a= unknown algorithm\n"},
		{"no domain", strings.Replace(good, "d=example.org; ", "", 1), "permerror d= s=plain a=rsa-sha256 domain or selector is no name\n"},
		{"domain with markup", strings.Replace(good, "example.org", "a@b", 1), "permerror d= s=plain a=rsa-sha256 domain or selector is no name\n"},
		{"domain too long", strings.Replace(good, "example.org", strings.Repeat("abcdefg.", 31), 1), "permerror d= s=plain a=rsa-sha256 domain or selector is no name\n"},
		{"tag twice", good + "; d=example.com", "permerror d= s= a= malformed signature\n"},
		{"no tags", "hello", "permerror d= s= a= malformed signature\n"},
		{"length", good + "; l=0", "permerror d=example.org s=plain a=rsa-sha256 body length tag\n"},
		{"From not signed", strings.Replace(good, "h=From", "h=To", 1), "permerror d=example.org s=plain a=rsa-sha256 From not signed\n"},
		{"many names", strings.Replace(good, "h=From", "h=From"+strings.Repeat(":a", 256), 1), "permerror d=example.org s=plain a=rsa-sha256 too many signed fields\n"},
		{"long", good + "; z=" + strings.Repeat("a", 16<<10), "permerror d= s= a= signature field too long\n"},
		{"body hash", good, "fail d=example.org s=plain a=rsa-sha256 body was changed\n"},
		{"expired", good + "; x=1", "fail d=example.org s=plain a=rsa-sha256 signature has expired\n"},
		{"wrong key", strings.Replace(good, "s=plain", "s=ed", 1), "permerror d=example.org s=ed a=rsa-sha256 key cannot be used\n"},
		{"version", strings.Replace(good, "v=1", "v=2", 1), "permerror d=example.org s=plain a=rsa-sha256 malformed signature\n"},
	}
	for _, c := range cases {
		rep, err := Verify(t.Context(), strings.NewReader("DKIM-Signature: "+c.field+"\r\nFrom: <a@example.org>\r\n\r\nx\r\n"), zone(t), 0)
		if got := show(rep); err != nil || got != c.want {
			t.Errorf("%s: got %q want %q %v", c.name, got, c.want, err)
		}
	}
}

func TestBestPrefersWhatMayPass(t *testing.T) {
	r := Report{Results: []Result{
		{State: Pass, Domain: "other.org"}, {State: PermError, Domain: "example.org"}, {State: Fail, Domain: "example.org"},
		{State: TempError, Domain: "example.org"}, {State: Pass, Domain: "sub.example.org"}}}
	if got := r.Best("Example.Org").State; got != TempError {
		t.Error(got)
	}
	if got := r.Best("example.com").State; got != None {
		t.Error(got)
	}
}

func TestCompareRecords(t *testing.T) {
	const want = "v=DKIM1; k=rsa; p=QUJD"
	for _, c := range []struct {
		name string
		txts []string
		want Match
	}{
		{"none", nil, Missing},
		{"equal", []string{want}, Matched},
		{"official form", []string{"v=DKIM1;k=rsa;p=QUJD;s=email;t=s"}, Matched},
		{"without version", []string{"p=QUJD"}, Matched},
		{"case of the tags' values", []string{"v=dkim1; k=RSA; p=QUJD"}, Matched},
		{"spaces and quotes", []string{`"v=DKIM1; k=rsa; p=QU" "JD"`}, Matched},
		{"case of the key", []string{"v=DKIM1; p=QUJd"}, OtherKey},
		{"shorter", []string{"v=DKIM1; p=QUJ"}, OtherKey},
		{"revoked", []string{"v=DKIM1; p="}, Revoked},
		{"type", []string{"v=DKIM1; k=ed25519; p=QUJD"}, OtherTags},
		{"version", []string{"v=DKIM2; k=rsa; p=QUJD"}, OtherTags},
		{"two", []string{want, "v=DKIM1; p=xx"}, TooMany},
		{"beside another text", []string{"hello", want}, Matched},
		{"another text", []string{"hello"}, Unreadable},
		{"huge", []string{strings.Repeat("p", 1<<20)}, Unreadable},
	} {
		if got := Compare(want, c.txts); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRecordsAreSplit(t *testing.T) {
	k := keys(t)[RSA2048]
	record, err := k.Record()
	if err != nil {
		t.Fatal(err)
	}
	p := Pieces(record)
	if len(p) != 2 || len(p[0]) != 255 || strings.Join(p, "") != record {
		t.Errorf("%q", p)
	}
	if got := ZoneLine("s._domainkey.example.org", "v=DKIM1; p=x"); got != `s._domainkey.example.org. 3600 IN TXT "v=DKIM1; p=x"` {
		t.Error(got)
	}
	if k.String() != "rsa-2048" || fmt.Sprintf("%v %+v %#v %s", k, k, k, k) != strings.Repeat("rsa-2048 ", 3)+"rsa-2048" {
		t.Errorf("%#v", k)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for _, c := range []string{"", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := ParseKey([]byte(c)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", c, err)
		}
	}
	if _, err := Generate(99); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	for _, a := range []Algorithm{RSA2048, RSA4096, Ed25519} {
		if got, err := ParseAlgorithm(a.String()); err != nil || got != a {
			t.Error(a, got, err)
		}
	}
	if _, err := ParseAlgorithm("rsa512"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	files, err := filepath.Glob("testdata/*.eml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, "v=DKIM1; k=rsa; p=")
	}
	lookup := zone(f)
	f.Fuzz(func(t *testing.T, raw []byte, record string) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		rep, err := Verify(ctx, bytes.NewReader(raw), func(ctx context.Context, name string) ([]string, error) {
			if txts, err := lookup(ctx, name); err == nil {
				return txts, nil
			}
			return []string{record, record}, nil
		}, MaxMax)
		if err == nil && len(rep.Results) > MaxMax {
			t.Error(len(rep.Results))
		}
		for _, r := range rep.Results {
			if r.Domain != "" && !dnsName(r.Domain) || r.Selector != "" && !dnsName(r.Selector) || r.State == None {
				t.Errorf("%+v", r)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add("v=DKIM1; k=rsa; p=QUJD", "v=DKIM1;p=QUJD")
	f.Add(`"p=" "QUJD"`, "k=ed25519; p=")
	f.Fuzz(func(t *testing.T, a, b string) {
		if m := Compare(a, []string{b, a}); m.String() == "match?" {
			t.Error(m)
		}
		if got, ok := pickRecord([]string{a, b}, "rsa"); ok && len(got) > MaxRecord {
			t.Error(len(got))
		}
		if strings.Join(Pieces(a), "") != a {
			t.Error("pieces")
		}
	})
}

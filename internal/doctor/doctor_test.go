package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"madmail/internal/admintoken"
	"madmail/internal/fault"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// renewing tells how orders go.
func renewing(r Renewal) func(context.Context) Renewal {
	return func(context.Context) Renewal { return r }
}

// leaf is a certificate for names, valid until a time.
func leaf(t *testing.T, until time.Time, names ...string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.AddDate(0, -3, 0), NotAfter: until, DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// speaks is a listener that says something to whoever connects.
func speaks(t *testing.T, word string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(word))
			c.Close()
		}
	}()
	return l.Addr().String()
}

// answers is a web server with a clock and an answer of its own.
func answers(t *testing.T, ahead time.Duration, text string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", now.Add(ahead).Format(http.TimeFormat))
		_, _ = w.Write([]byte(text))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func file(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEveryCheckFindsItsTrouble, and finds nothing where there is none.
func TestEveryCheckFindsItsTrouble(t *testing.T) {
	room := func(free int64, inodes uint64) func() (int64, int64, uint64, uint64, bool) {
		return func() (int64, int64, uint64, uint64, bool) { return 100 << 30, free, 1_000_000, inodes, true }
	}
	conf := func(path string, newer bool, err error) func() (string, bool, error) {
		return func() (string, bool, error) { return path, newer, err }
	}
	reg := func(open, jit, tokens bool) func() (bool, bool, bool) {
		return func() (bool, bool, bool) { return open, jit, tokens }
	}
	cert := func(until time.Time, self bool, names ...string) func() (*x509.Certificate, bool, error) {
		c := leaf(t, until, names...)
		return func() (*x509.Certificate, bool, error) { return c, self, nil }
	}
	dns := func(reason string, err error, r ...Record) func(context.Context) ([]Record, string, error) {
		return func(context.Context) ([]Record, string, error) { return r, reason, err }
	}
	queue := func(n int, down map[string]string) func() (int, map[string]string) {
		return func() (int, map[string]string) { return n, down }
	}
	token := func(s string, err error) func() (string, error) { return func() (string, error) { return s, err } }
	one, two := file(t, "one", "program", 0o755), file(t, "two", "program", 0o755)
	other := file(t, "three", "newer program", 0o755)
	good := []Listener{{"imap", "tcp", speaks(t, "* OK hello\r\n"), false, false}, {"submission", "tcp", speaks(t, "220 hello\r\n"), false, false}}
	for _, c := range []struct {
		check string
		f     Facts
		level Level
		word  string
	}{
		{"server", Facts{}, Failure, "no server"},
		{"server", Facts{Running: true, PID: 7}, OK, "running"},
		{"configuration", Facts{Configuration: conf("x", false, errors.New("x:3: bad"))}, Failure, "mistake"},
		{"configuration", Facts{Configuration: conf("x", true, nil)}, Warning, "changed"},
		{"configuration", Facts{Running: true, Configuration: conf("x", false, nil)}, OK, "in force"},
		{"configuration", Facts{Configuration: conf("x", false, nil)}, OK, "no mistakes"},
		{"configuration", Facts{Configuration: conf("", false, nil)}, OK, "no configuration"},
		{"binary", Facts{Running: true, Executable: one, RunningFile: two}, OK, "is the one"},
		{"binary", Facts{Running: true, Executable: other, RunningFile: two}, Warning, "older program"},
		{"binary", Facts{Running: true, Executable: one + "x", RunningFile: two}, Warning, "removed"},
		{"binary", Facts{Running: true, Executable: one, RunningFile: two + "x"}, Unknown, "cannot be read"},
		{"ports", Facts{Running: true, Listeners: good}, OK, "answer"},
		{"ports", Facts{Running: true, Listeners: good[:1]}, Warning, "other machines"},
		{"ports", Facts{Running: true, Listeners: []Listener{{"imap", "tcp", speaks(t, "* BYE go away\r\n"), false, false}}}, Failure, "does not answer"},
		{"ports", Facts{Running: true, Listeners: []Listener{{"imap", "tcp", "127.0.0.1:1", false, false}}}, Failure, "does not answer"},
		{"certificate", Facts{Certificate: cert(now.AddDate(0, 3, 0), false, "a.example"), Names: []string{"a.example"}}, OK, "valid"},
		{"certificate", Facts{Certificate: cert(now.AddDate(0, 0, 3), false, "a.example"), Names: []string{"a.example"}}, Warning, "runs out soon"},
		{"certificate", Facts{Certificate: cert(now.Add(-time.Minute), false, "a.example")}, Failure, "has run out"},
		{"certificate", Facts{Certificate: cert(now.AddDate(0, 3, 0), false, "a.example"), Names: []string{"b.example"}}, Warning, "does not name b.example"},
		{"certificate", Facts{Certificate: cert(now.AddDate(0, 3, 0), true, "a.example"), Domain: "a.example"}, Warning, "our own"},
		{"certificate", Facts{Certificate: cert(now.AddDate(0, 3, 0), true, "a.example"), Domain: "[192.0.2.1]"}, OK, "our own"},
		{"dns", Facts{Zone: dns("only an address", nil)}, OK, "only an address"},
		{"dns", Facts{Zone: dns("", nil, Record{"a.", "MX", "missing", "", true})}, Failure, "not published"},
		{"dns", Facts{Zone: dns("", nil, Record{"a.", "MX", "ok", "", true}, Record{"b.", "SRV", "missing", "", false})}, Note, "recommended"},
		{"dns", Facts{Zone: dns("", nil, Record{"a.", "MX", "unknown", "timeout", true})}, Unknown, "does not answer"},
		{"dns", Facts{Zone: dns("", nil, Record{"a.", "MX", "ok", "", true})}, OK, "all records"},
		{"dns", Facts{Zone: dns("", errors.New("x"))}, Unknown, "could not be asked"},
		{"clock", Facts{Clocks: []string{answers(t, 0, "")}}, OK, "right"},
		{"clock", Facts{Clocks: []string{answers(t, time.Minute, "")}}, Warning, "not exact"},
		{"clock", Facts{Clocks: []string{"http://127.0.0.1:1", answers(t, -time.Hour, "")}}, Failure, "wrong"},
		{"clock", Facts{Clocks: []string{"http://127.0.0.1:1"}}, Unknown, "nobody"},
		{"disk", Facts{Disk: room(50<<30, 900_000)}, OK, "room"},
		{"disk", Facts{Disk: room(500<<20, 900_000)}, Warning, "nearly full"},
		{"disk", Facts{Disk: room(1<<20, 900_000)}, Failure, "full"},
		{"disk", Facts{Disk: room(50<<30, 10)}, Failure, "no room for more files"},
		{"disk", Facts{Disk: room(50<<30, 10_000)}, Warning, "few more files"},
		{"files", Facts{StateDir: t.TempDir(), Secrets: []string{file(t, "a", "", 0o600)}}, OK, "right owner"},
		{"files", Facts{StateDir: t.TempDir(), Secrets: []string{file(t, "a", "", 0o644)}}, Warning, "can read secrets"},
		{"files", Facts{StateDir: filepath.Join(t.TempDir(), "none")}, Failure, "cannot be written"},
		{"descriptors", Facts{Descriptors: func() (uint64, bool) { return 1024, true }, Wanted: 21000}, Warning, "fewer open files"},
		{"descriptors", Facts{Descriptors: func() (uint64, bool) { return 65536, true }, Wanted: 21000}, OK, "enough"},
		{"registration", Facts{Registration: reg(true, true, false)}, OK, "anybody"},
		{"registration", Facts{Registration: reg(false, false, false)}, Note, "nobody"},
		{"registration", Facts{Registration: reg(true, true, true)}, Note, "token"},
		{"registration", Facts{Registration: reg(true, false, false)}, Note, "first login makes no account"},
		{"admin-token", Facts{Token: token("", fault.New(fault.NotFound, "gone"))}, Failure, "no usable"},
		{"admin-token", Facts{Token: token("", admintoken.ErrDamaged)}, Failure, "no usable"},
		{"admin-token", Facts{Token: token("disabled", nil)}, OK, "switched off"},
		{"admin-token", Facts{Token: token("t", nil), Running: true, AdminURL: answers(t, 0, `{"status":200}`)}, OK, "takes the token"},
		{"admin-token", Facts{Token: token("t", nil), Running: true, AdminURL: answers(t, 0, `{"status":401}`)}, Failure, "refuses"},
		{"admin-token", Facts{Token: token("t", nil), Running: true, AdminURL: "http://127.0.0.1:1"}, Failure, "does not answer"},
		{"panel", Facts{Panel: func() (bool, bool) { return false, true }}, Note, "not part of this program"},
		{"panel", Facts{Panel: func() (bool, bool) { return true, true }}, OK, "served"},
		{"site", Facts{Site: func() (string, []Page, error) { return "", nil, nil }}, OK, "those of the program"},
		{"site", Facts{Site: func() (string, []Page, error) { return "/srv/www", nil, nil }}, OK, "can be shown"},
		{"site", Facts{Site: func() (string, []Page, error) { return "/srv/www", nil, fs.ErrPermission }}, Failure, "cannot be read"},
		{"site", Facts{Site: func() (string, []Page, error) { return "/srv/www", []Page{{Text: "a.html:3: X"}}, nil }}, Note, "variables"},
		{"site", Facts{Site: func() (string, []Page, error) {
			return "/srv/www", []Page{{Text: "a.html:3: X"}, {Text: "b.html:4: Y", Broken: true}}, nil
		}}, Failure, "cannot be shown"},
		{"quota", Facts{Quota: func(context.Context) (int, int, error) { return 9, 0, nil }}, OK, "counted right"},
		{"quota", Facts{Quota: func(context.Context) (int, int, error) { return 9, 2, nil }}, Note, "by hand"},
		{"quota", Facts{Quota: func(context.Context) (int, int, error) { return 0, 0, errors.New("x") }}, Unknown, "could not be measured"},
		{"federation", Facts{Queue: queue(3, nil)}, OK, "goes through"},
		{"federation", Facts{Queue: queue(3000, nil)}, Warning, "much mail"},
		{"federation", Facts{Queue: queue(3, map[string]string{"x.example": "refused"})}, Note, "1 server(s)"},
		{"push", Facts{Push: func() (bool, int) { return true, 0 }}, OK, "woken"},
		{"push", Facts{Push: func() (bool, int) { return true, 4 }}, Warning, "fails"},
		{"push", Facts{Push: func() (bool, int) { return false, 0 }}, Note, "not woken"},
		{"no-log", Facts{Logging: func() (bool, string) { return false, "" }}, OK, "nothing is logged"},
		{"no-log", Facts{Logging: func() (bool, string) { return true, "log = stderr" }}, Note, "a log is written"},
		{"no-log", Facts{Logging: func() (bool, string) { return true, "debug" }}, Note, "a log is written"},
		{"state", Facts{State: func() error { return nil }}, OK, "can be opened"},
		{"state", Facts{State: func() error { return errors.New("db: migration 1 was changed") }}, Failure, "cannot be opened"},
		{"ports", Facts{Sockets: func() []error { return nil }}, OK, "are free"},
		{"ports", Facts{Sockets: func() []error { return []error{errors.New("imap: in use")} }}, Failure, "cannot start"},
		{"certificate", Facts{Certificate: cert(now.Add(-time.Minute), false, "a.example"), Renewal: renewing(Renewal{On: true})}, Failure, "has run out"},
		{"certificate", Facts{Certificate: func() (*x509.Certificate, bool, error) {
			return &x509.Certificate{NotBefore: now.AddDate(0, 0, -2), NotAfter: now.AddDate(0, 0, 4)}, false, nil // one for an address
		}}, OK, "valid"},
		{"renewal", Facts{Renewal: renewing(Renewal{On: true})}, OK, "no order failed"},
		{"renewal", Facts{Renewal: renewing(Renewal{On: true, Failures: 3, NextTry: now.Add(time.Hour), Error: "no"})}, Warning, "3 times in a row"},
		{"renewal", Facts{Renewal: renewing(Renewal{On: true, Door: errors.New("taken")})}, Warning, "would not be answered on port 80"},
		{"certificate", Facts{Certificate: func() (*x509.Certificate, bool, error) { return nil, false, errors.New("no key") }}, Failure, "cannot be used"},
		{"files", Facts{StateDir: t.TempDir(), Foreign: func() ([]string, string) { return []string{"a", "b", "c", "d", "e", "f"}, "madmail:" }}, Failure, "somebody else"},
		{"calls", Facts{Running: true, TURN: func() (string, string, string, bool) { return "", "", "", false }}, Note, "not relayed"},
		{"calls", Facts{Running: true, TURN: func() (string, string, string, bool) { return "127.0.0.1:1", "u", "p", true }, CallWait: 50 * time.Millisecond}, Failure, "gives no relay"},
		{"client", Facts{Running: true, NewAccount: func(context.Context) (Account, error) { return Account{}, nil }}, Unknown, "no client can be played"},
	} {
		c.f.Now = func() time.Time { return now }
		list, err := Run(t.Context(), c.f, []string{c.check}, false)
		if err != nil || len(list) != 1 || list[0].Check != c.check || list[0].Level != c.level || !strings.Contains(list[0].Finding, c.word) {
			t.Errorf("%s: %+v, %v, want %s %q", c.check, list, err, c.level, c.word)
			continue
		}
		if (c.level == Failure || c.level == Warning) && list[0].Next == "" {
			t.Errorf("%s: %q, and nothing to do next", c.check, list[0].Finding)
		}
	}
}

func TestFixMendsModes(t *testing.T) {
	path := file(t, "token", "secret", 0o666)
	list, err := Run(t.Context(), Facts{StateDir: t.TempDir(), Secrets: []string{path}}, []string{"files"}, true)
	if err != nil || list[0].Level != OK || list[0].Fixed == "" {
		t.Errorf("%+v, %v", list, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

func TestACheckThatPanicsIsAFinding(t *testing.T) {
	list, err := Run(t.Context(), Facts{Push: func() (bool, int) { panic("oh") }}, []string{"push"}, false)
	if err != nil || len(list) != 1 || list[0].Level != Unknown {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestUnknownChecks(t *testing.T) {
	if _, err := Run(t.Context(), Facts{}, []string{"heart"}, false); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.HintOf(err), "admin-token") {
		t.Error(err)
	}
	if Worst(nil) != OK || Worst([]Finding{{Level: Unknown}, {Level: Failure}, {Level: OK}}) != Failure {
		t.Error("worst")
	}
}

package settings

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/internal/db"
	"madmail/internal/fault"
)

func openDB(t testing.TB, statements ...string) *db.DB {
	t.Helper()
	dir := t.TempDir()
	if len(statements) > 0 {
		c, err := sql.Open("sqlite", filepath.Join(dir, db.FileName))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range statements {
			if _, err := c.Exec(s); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
	}
	d, err := db.Open(t.Context(), db.Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(context.Background()) })
	return d
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	if o.DB == nil {
		o.DB = openDB(t)
	}
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func rows(t testing.TB, d *db.DB, table string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := d.Read(t.Context(), func(ctx context.Context, q *db.Q) error {
		rows, err := q.Query(ctx, "SELECT key, value FROM "+table+" ORDER BY key")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k, v string
			if err := rows.Scan(&k, &v); err != nil {
				return err
			}
			all[k] = v
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func write(t testing.TB, d *db.DB, query string, args ...any) {
	t.Helper()
	err := d.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheCatalogueIsSound(t *testing.T) {
	name := regexp.MustCompile(`^__[A-Z0-9_]+__$`)
	s := openStore(t, Options{})
	for i, e := range catalogue {
		if !name.MatchString(string(e.Key)) || e.Doc == "" || index[e.Key] != i {
			t.Errorf("%s: bad name, no documentation, or listed twice", e.Key)
		}
		if e.Follows != "" && (index[e.Follows] >= i || catalogue[index[e.Follows]].Kind != e.Kind) {
			t.Errorf("%s follows %s, which is later or of another kind", e.Key, e.Follows)
		}
		if (e.Effect == Component || e.Effect == Rebind) != (len(e.Targets) > 0) {
			t.Errorf("%s: effect %v with targets %v", e.Key, e.Effect, e.Targets)
		}
		if (e.Kind == Number) != (e.Max > 0) {
			t.Errorf("%s: kind %v from %d to %d", e.Key, e.Kind, e.Min, e.Max)
		}
		if (e.Kind == Enum) != (len(e.Values) > 0) {
			t.Errorf("%s: kind %v with values %v", e.Key, e.Kind, e.Values)
		}
		for _, n := range []string{string(e.Key), e.Name(), strings.ReplaceAll(e.Name(), "_", "-")} {
			if got, err := Lookup(n); err != nil || got.Key != e.Key {
				t.Errorf("Lookup(%q) = %s, %v", n, got.Key, err)
			}
		}
		if x, err := s.Explain(e.Key); err != nil || (x.Source != FromDefault) != (e.Key == PushMode) {
			t.Errorf("%s on a fresh server: source %v, %v", e.Key, x.Source, err)
		}
	}
	if _, err := Lookup("no_such"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown name: %v", err)
	}
}

// D09, known failure B46: only the push mode is seeded, so the file counts.
func TestAFreshDatabaseHoldsOnlyThePushMode(t *testing.T) {
	d := openDB(t)
	s := openStore(t, Options{DB: d, File: map[Key]string{AppendLimit: "5M", RegistrationOpen: "no"}})
	if got := rows(t, d, "settings"); !reflect.DeepEqual(got, map[string]string{"__PUSH_MODE__": "off"}) {
		t.Errorf("stored: %v", got)
	}
	now := s.Current()
	if now.Size(AppendLimit) != 5<<20 || now.Source(AppendLimit) != FromFile {
		t.Errorf("append limit %d from %v", now.Size(AppendLimit), now.Source(AppendLimit))
	}
	if now.Bool(RegistrationOpen) || now.Size(MaxMessageSize) != 100<<20 || now.Size(MaxFederationSize) != 70<<20 {
		t.Error("file or defaults are not what counts")
	}
}

func TestTheSourcesHaveOneOrder(t *testing.T) {
	d := openDB(t)
	write(t, d, "INSERT INTO settings VALUES ('__ADMIN_PATH__', '/stored'), ('__LANGUAGE__', 'fa'), ('__FUTURE__', 'x')")
	s := openStore(t, Options{
		DB:        d,
		File:      map[Key]string{AdminPath: "/file", Language: "ru", SMTPHostname: "mx.example.org"},
		LookupEnv: func(k string) (string, bool) { return "/env", k == "CHATMAIL_ADMIN_PATH" },
	})
	now := s.Current()
	for _, c := range []struct {
		key    Key
		value  string
		source Source
	}{
		{AdminPath, "/env", FromEnv}, {Language, "fa", FromStore},
		{SMTPHostname, "mx.example.org", FromFile}, {AdminWebPath, "/admin", FromDefault},
	} {
		if now.Value(c.key) != c.value || now.Source(c.key) != c.source {
			t.Errorf("%s = %q from %v, want %q from %v", c.key, now.Value(c.key), now.Source(c.key), c.value, c.source)
		}
	}
	if _, err := s.Reset(t.Context(), Language); err != nil {
		t.Fatal(err)
	}
	if got := s.Current().Enum(Language); got != "ru" {
		t.Errorf("after a reset: %q", got)
	}
}

func TestAnInvalidStoredValueIsPassedOverWithOneWarning(t *testing.T) {
	d := openDB(t)
	write(t, d, "INSERT INTO settings VALUES ('__IMAP_TLS_PORT__', '99999'), ('__SS_PASSWORD__', 'marked\x01secret'), ('__MAX_MESSAGE_SIZE__', ?)", strings.Repeat("1", 5000))
	var log bytes.Buffer
	s := openStore(t, Options{DB: d, File: map[Key]string{IMAPTLSPort: "1993"}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err := s.Reload(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := s.Current().Port(IMAPTLSPort); got != 1993 {
		t.Errorf("port %d, want the file's", got)
	}
	if got := s.Current().Size(MaxMessageSize); got != 100<<20 {
		t.Errorf("size %d", got)
	}
	if n := strings.Count(log.String(), "__IMAP_TLS_PORT__"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, log.String())
	}
	if strings.Contains(log.String(), "marked") {
		t.Error("a secret is in the log")
	}
}

// D14, known failure A9: one chain, no seeding.
func TestJustInTimeFollowsRegistrationUntilItIsNamed(t *testing.T) {
	s := openStore(t, Options{})
	set := func(k Key, v string) {
		t.Helper()
		if _, err := s.Set(t.Context(), k, v); err != nil {
			t.Fatal(err)
		}
	}
	want := func(open, jit bool) {
		t.Helper()
		now := s.Current()
		if now.Bool(RegistrationOpen) != open || now.Bool(JITRegistration) != jit {
			t.Errorf("open %v, just in time %v; want %v, %v", now.Bool(RegistrationOpen), now.Bool(JITRegistration), open, jit)
		}
	}
	want(true, true)
	set(RegistrationOpen, "off")
	want(false, false)
	set(JITRegistration, "enabled")
	want(false, true)
	set(RegistrationOpen, "1")
	set(JITRegistration, "0")
	want(true, false)
	closed := openStore(t, Options{File: map[Key]string{RegistrationOpen: "no"}})
	if closed.Current().Bool(JITRegistration) {
		t.Error("auto_create no leaves just in time open")
	}
}

func TestValuesAreStoredInNormalForm(t *testing.T) {
	d := openDB(t)
	s := openStore(t, Options{DB: d})
	for _, c := range []struct {
		key      Key
		in, want string
	}{
		{TokenRequired, "Yes", "true"}, {AutoPurgeSeen, "on", "enabled"}, {AutoPurgeSeen, "0", "disabled"},
		{FederationPolicy, "reject", "REJECT"}, {IMAPPort, " 143 ", "143"}, {Retention, "12h", "12h"},
		{MaxMessageSize, "50M", "50M"}, {Language, "FA", "fa"}, {WebmailCORS, "https://a.example\nhttps://b.example", "https://a.example\nhttps://b.example"},
	} {
		if _, err := s.Set(t.Context(), c.key, c.in); err != nil {
			t.Errorf("%s = %q: %v", c.key, c.in, err)
		}
		if got := rows(t, d, "settings")[string(c.key)]; got != c.want {
			t.Errorf("%s = %q is stored as %q, want %q", c.key, c.in, got, c.want)
		}
	}
	now := s.Current()
	if got := now.List(WebmailCORS); len(got) != 2 {
		t.Errorf("list %q", got)
	}
	if now.Duration(Retention) != 12*time.Hour || now.Duration(TURNTTL) != 24*time.Hour {
		t.Errorf("durations %v, %v", now.Duration(Retention), now.Duration(TURNTTL))
	}
}

func TestBadValuesAreRefusedAndChangeNothing(t *testing.T) {
	d := openDB(t)
	s := openStore(t, Options{DB: d})
	before := s.Current()
	for _, c := range []Change{
		{Key: IMAPPort, Value: "0"}, {Key: IMAPPort, Value: "65536"}, {Key: IMAPPort, Value: ""}, {Key: TokenRequired, Value: "maybe"},
		{Key: IMAPNesting, Value: "3"}, {Key: IMAPNesting, Value: "65"}, {Key: IMAPNesting, Value: "1e1"}, {Key: IMAPNesting, Value: ""}, {Key: IMAPCommand, Value: "7K"}, {Key: IMAPCommand, Value: "17M"},
		{Key: Language, Value: "xx"}, {Key: MaxMessageSize, Value: "0"}, {Key: MaxMessageSize, Value: "-1"}, {Key: Retention, Value: "-1h"},
		{Key: AdminPath, Value: "admin"}, {Key: AdminPath, Value: "/a/../b"}, {Key: SMTPHostname, Value: "a b"}, {Key: TURNRelayIP, Value: "localhost"},
		{Key: IrohRelayURL, Value: "ftp://x"}, {Key: WebmailCORS, Value: "a.example"}, {Key: SSPassword, Value: "a\nb"},
		{Key: TURNRealm, Value: strings.Repeat("a", 4097)}, {Key: TURNRelayPortMin, Value: "60000"},
	} {
		changes := []Change{c}
		if c.Key == TURNRelayPortMin {
			changes = append(changes, Change{Key: TURNRelayPortMax, Value: "50000"})
		}
		if _, err := s.Plan(changes...); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s = %.20q: %v, want invalid", c.Key, c.Value, err)
		}
	}
	if _, err := s.Set(t.Context(), "__NO_SUCH__", "1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown key: %v", err)
	}
	if s.Current() != before || len(rows(t, d, "settings")) != 1 {
		t.Error("something changed")
	}
}

func TestAPlanChangesNothingUntilItIsCommitted(t *testing.T) {
	d := openDB(t)
	s := openStore(t, Options{DB: d})
	var seen []bool
	cancel := s.Subscribe(func(old, now *Snapshot) {
		seen = append(seen, old.Bool(SMTPLocalOnly) != now.Bool(SMTPLocalOnly))
	})
	p, err := s.Plan(Change{Key: SMTPLocalOnly, Value: "yes"}, Change{Key: SMTPPort, Value: "2525"}, Change{Key: TokenRequired, Value: "on"},
		Change{Key: IMAPPort, Value: "1143"}, Change{Key: HTTPEnabled, Value: "true"})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Effects[Rebind]; !reflect.DeepEqual(got, []string{"imap", "smtp"}) {
		t.Errorf("rebinds %v", got)
	}
	if _, ok := p.Effects[Live]; !ok || len(p.Changed) != 4 {
		t.Errorf("effects %v, changed %v", p.Effects, p.Changed)
	}
	if !p.Candidate.Bool(SMTPLocalOnly) || s.Current().Bool(SMTPLocalOnly) || len(rows(t, d, "settings")) != 1 {
		t.Error("the plan is not a plan")
	}
	other, err := s.Plan(Change{Key: Language, Value: "es"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if s.Current() != p.Candidate || !reflect.DeepEqual(seen, []bool{true}) {
		t.Errorf("published %v, watchers saw %v", s.Current() == p.Candidate, seen)
	}
	if err := s.Commit(t.Context(), other); !fault.Is(err, fault.Busy) {
		t.Errorf("a plan on an old snapshot: %v", err)
	}
	cancel()
	if _, err := s.Set(t.Context(), Language, "es"); err != nil || len(seen) != 1 {
		t.Errorf("%v, watchers saw %v", err, seen)
	}
}

func TestParallelChangesAllCount(t *testing.T) {
	d := openDB(t)
	s := openStore(t, Options{DB: d})
	keys := []Key{SMTPPort, IMAPPort, HTTPPort, HTTPSPort, SubmissionPort, SubmissionTLSPort, IMAPTLSPort, TURNPort}
	var wg sync.WaitGroup
	for i, k := range keys {
		wg.Go(func() {
			if _, err := s.Set(t.Context(), k, fmt.Sprint(2000+i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, k := range keys {
		if got := s.Current().Port(k); got != 2000+i {
			t.Errorf("%s = %d", k, got)
		}
	}
}

func TestPortsMayFollowAnother(t *testing.T) {
	s := openStore(t, Options{})
	if _, err := s.Set(t.Context(), SSPort, "9000"); err != nil {
		t.Fatal(err)
	}
	now := s.Current()
	if now.Port(SSWSPort) != 9002 || now.Port(SSGRPCPort) != 9001 || now.Value(SSWSPort) != "9002" || now.Port(SMTPPort) != 0 {
		t.Errorf("ports %d, %d, %d", now.Port(SSWSPort), now.Port(SSGRPCPort), now.Port(SMTPPort))
	}
}

// REQ-29: also in the layout of the first predecessor all settings appear in
// settings, and changes reach both tables.
func TestTheKeyValueLayoutIsReadAndWritten(t *testing.T) {
	d := openDB(t, "CREATE TABLE passwords (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
		"INSERT INTO passwords VALUES ('__REGISTRATION_OPEN__', 'false'), ('__DOVECOT_PORT__', '2400'), ('a@example.org', 'hash')")
	s := openStore(t, Options{DB: d})
	now := s.Current()
	if now.Bool(RegistrationOpen) || now.Port(SASLPort) != 2400 || now.Source(SASLPort) != FromStore {
		t.Errorf("open %v, sasl %d", now.Bool(RegistrationOpen), now.Port(SASLPort))
	}
	if _, err := s.Set(t.Context(), SASLPort, "2401"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Set(t.Context(), TokenRequired, "yes"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"__REGISTRATION_OPEN__": "false", "__DOVECOT_PORT__": "2401", "__SASL_PORT__": "2401",
		"__REGISTRATION_TOKEN_REQUIRED__": "true", "__PUSH_MODE__": "off"}
	if got := rows(t, d, "settings"); !reflect.DeepEqual(got, want) {
		t.Errorf("settings %v", got)
	}
	delete(want, "__PUSH_MODE__")
	want["a@example.org"] = "hash"
	if got := rows(t, d, "passwords"); !reflect.DeepEqual(got, want) {
		t.Errorf("passwords %v", got)
	}
	if _, err := s.Reset(t.Context(), SASLPort); err != nil {
		t.Fatal(err)
	}
	if s.Current().Port(SASLPort) != 24 || rows(t, d, "passwords")["__DOVECOT_PORT__"] != "" {
		t.Error("the reset left a row")
	}
}

// What the first predecessor had set, and the second went on with, counts here too.
func TestTheKeyValueLayoutOfTheSecondPredecessor(t *testing.T) {
	d := openDB(t, "CREATE TABLE passwords (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
		"INSERT INTO passwords VALUES ('__REGISTRATION_OPEN__', 'false')",
		"CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, success BOOLEAN)")
	s := openStore(t, Options{DB: d})
	if s.Current().Bool(RegistrationOpen) {
		t.Error("registration is open")
	}
	if _, err := s.Set(t.Context(), Language, "fa"); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, d, "passwords")["__LANGUAGE__"]; got != "fa" {
		t.Errorf("language for the second predecessor: %q", got)
	}
}

// The second predecessor keeps webhooks in five rows: they count until ours are set, are
// kept in step, and go when ours are reset.
func TestWebhooksOfTheSecondPredecessor(t *testing.T) {
	d := openDB(t)
	write(t, d, "INSERT INTO settings VALUES ('__WEBHOOK_ENABLED__', 'yes'), ('__WEBHOOK_URL__', 'https://hooks.example/x'), ('__WEBHOOK_SECRET__', 'whs'), ('__WEBHOOK_EVENT_QUOTA_EXCEEDED__', '0')")
	s := openStore(t, Options{DB: d})
	want := Webhooks{Enabled: true, URL: "https://hooks.example/x", Secret: "whs", UserRegistered: true, Timeout: 5, Retries: 2}
	if w, err := ParseWebhooks(s.Current().Text(OperatorWebhooks)); err != nil || w != want {
		t.Errorf("%+v, %v", w, err)
	}
	want.Enabled, want.QuotaExceeded = false, true
	text, err := want.Text()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Set(t.Context(), OperatorWebhooks, text); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, d, "settings"); got["__WEBHOOK_ENABLED__"] != "false" || got["__WEBHOOK_EVENT_QUOTA_EXCEEDED__"] != "true" || got["__WEBHOOK_URL__"] != want.URL {
		t.Errorf("rows %v", got)
	}
	if _, err := s.Reset(t.Context(), OperatorWebhooks); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if text := s.Current().Text(OperatorWebhooks); text != "" || rows(t, d, "settings")["__WEBHOOK_URL__"] != "" {
		t.Errorf("after a reset: %s", text)
	}
}

func TestSecretsAreNotExplained(t *testing.T) {
	s := openStore(t, Options{})
	if _, err := s.Set(t.Context(), TURNSecret, "hidden"); err != nil {
		t.Fatal(err)
	}
	x, err := s.Explain(TURNSecret)
	if err != nil || x.Value != "" || x.Stored != "" || !x.IsSet || x.Source != FromStore {
		t.Errorf("%+v, %v", x, err)
	}
	if s.Current().Text(TURNSecret) != "hidden" {
		t.Error("the server cannot read its secret")
	}
}

func TestReloadTakesRowsAndFileAnew(t *testing.T) {
	d := openDB(t)
	s := openStore(t, Options{DB: d, File: map[Key]string{Language: "fa"}})
	write(t, d, "INSERT INTO settings VALUES ('__TURN_REALM__', 'by hand')")
	if err := s.Reload(t.Context(), map[Key]string{Language: "es"}); err != nil {
		t.Fatal(err)
	}
	if s.Current().Text(TURNRealm) != "by hand" || s.Current().Enum(Language) != "es" {
		t.Error("reload missed a change")
	}
}

func FuzzValues(f *testing.F) {
	for _, s := range []string{"true", "143", "100M", "30d", "/admin", "https://a.example", "1h 5m", "\x00", "*", "fa", "9223372036854775807T"} {
		for i := range catalogue {
			f.Add(uint8(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, s string) {
		e := &catalogue[int(i)%len(catalogue)]
		v, err := e.parse(s)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("kind %v", fault.KindOf(err))
			}
			return
		}
		if again, err := e.parse(v.text); err != nil || !reflect.DeepEqual(again, v) {
			t.Fatalf("%s: %q gives %+v, whose text gives %+v, %v", e.Key, s, v, again, err)
		}
		if len(v.text) > maxValue || v.num < 0 || strings.ContainsAny(v.text, "\x00\r\t\x7f") {
			t.Fatalf("%s: %q gives %+v", e.Key, s, v)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	s := openStore(b, Options{})
	b.ReportAllocs()
	for b.Loop() {
		if !s.Current().Bool(JITRegistration) {
			b.Fatal("closed")
		}
	}
}

func TestOriginsOfPages(t *testing.T) {
	for in, want := range map[string]string{
		"*": "*", " https://Mail.Example:8443/ ": "https://mail.example:8443", "http://127.0.0.1:5173": "http://127.0.0.1:5173", "http://[2001:DB8::1]": "http://[2001:db8::1]",
		"HTTPS://a.example": "https://a.example",
		"":                  "", "a.example": "", "https://": "", "https://a.example/x": "", "https://a.example?x": "", "https://a@b.example": "", "ftp://a.example": "", "https://a.example:0": "", "https://a.example:x": "", "null": "", "https://a.example#x": "",
	} {
		got, err := ParseOrigin(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

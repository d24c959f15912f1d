package ops

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/account"
	"madmail/internal/address"
	"madmail/internal/backup"
	"madmail/internal/certs"
	"madmail/internal/db"
	"madmail/internal/dkim"
	"madmail/internal/doctor"
	"madmail/internal/exchange"
	"madmail/internal/fault"
	"madmail/internal/mailbox"
	"madmail/internal/mailbox/mailboxtest"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
	"madmail/internal/settings"
	"madmail/internal/share"
	"madmail/internal/upkeep"
)

// house is a desk over real accounts and settings, with fakes for what lies
// above them.
type house struct {
	renewal RenewalFacts // how orders of certificates go
	Table
	t        testing.TB
	dir      string
	accounts *account.Store
	settings *settings.Store
	queue    *queue.Queue
	ended    []string // who lost sessions and why
	used     map[string]int64
	mail     *mailboxtest.Memory
	rules    upkeep.Rules
	ports    []Port
	fail     error // of Change

	notices     []string
	undelivered []string
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), used: make(map[string]int64)}
	d, err := db.Open(t.Context(), db.Options{StateDir: h.dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(h.accounts.Close(context.Background()), d.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	if h.settings, err = settings.Open(t.Context(), settings.Options{DB: d}); err != nil {
		t.Fatal(err)
	}
	h.accounts, err = account.Open(t.Context(), account.Options{DB: d, Ended: func(a address.Addr, why account.Ending) {
		h.ended = append(h.ended, a.Local()+map[account.Ending]string{account.Removed: " removed", account.Blocked: " blocked", account.PasswordChanged: " password"}[why])
	}})
	if err != nil {
		t.Fatal(err)
	}
	domains, err := account.NewDomains(account.DomainOptions{Primary: "example.org", Local: []string{"192.0.2.1"}})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Open(t.Context(), policy.Options{DB: d, Switches: func() policy.Switches {
		return policy.Switches{Reject: h.settings.Current().Enum(settings.FederationPolicy) == "REJECT"}
	}})
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := queue.Open(t.Context(), queue.Options{Dir: filepath.Join(h.dir, "remote_queue")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := waiting.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	h.queue = waiting
	counts, err := peers.Open(peers.Options{DB: d, Queued: waiting.Depths})
	if err != nil {
		t.Fatal(err)
	}
	boxes, err := exchange.Open(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	shares := share.New(share.Options{Path: filepath.Join(h.dir, share.FileName)})
	t.Cleanup(func() { _ = shares.Close(context.Background()) })
	keys, err := certs.OpenDKIM(certs.DKIMOptions{StateDir: h.dir, Domains: []address.Domain{"x.example"}, Algorithm: dkim.Ed25519})
	if err != nil {
		t.Fatal(err)
	}
	mail := func(a address.Addr) string { return filepath.Join(h.dir, "mail", a.Wire()) }
	h.mail = mailboxtest.NewMemory()
	keeper, err := upkeep.NewKeeper(upkeep.KeeperOptions{
		Store: h.mail, Accounts: h.accounts, Rules: func() upkeep.Rules { return h.rules },
		Remove: func(ctx context.Context, a address.Addr) error { return h.accounts.Delete(ctx, a, "") },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Table = NewTable(&Desk{
		Registered: func(address.Addr) {}, Webhooks: func() WebhookFacts { return WebhookFacts{Delivered: 3} }, TestWebhook: func(context.Context) error { return nil },
		Configuration: func() Configuration { return Configuration{Values: []ConfigValue{}, Notes: []string{}} },
		Upgrades:      func() Upgrades { return Upgrades{Reason: "there is no tree"} },
		Accounts:      h.accounts, Domains: domains, Settings: h.settings, Where: Where{StateDir: h.dir, Database: d.Path()},
		Usage: func(_ context.Context, a address.Addr) (int64, int64, int64, error) {
			return h.used[a.Local()], h.used[a.Local()] / 10, h.accounts.Limit(a), nil
		},
		Certificate: func() CertificateFacts {
			cert, key := certs.DefaultPaths(h.dir)
			return CertificateFacts{Mode: "self_signed", Domain: "example.org", Names: []string{"example.org"}, Cert: cert, Key: key, Ours: true}
		},
		CertificateChanged: func() error { return nil },
		Obtain: func(_ context.Context, p CertificateOrder) (CertificateMade, error) {
			return CertificateMade{Domain: "example.org", Action: certs.Renewed}, nil
		},
		Renewal: func() RenewalFacts { return h.renewal },
		Append: func(ctx context.Context, t mailbox.Target, r io.Reader, _ int64) (mailbox.Placed, error) {
			w, err := h.mail.NewBody(ctx)
			if err != nil {
				return mailbox.Placed{}, err
			}
			if _, err := io.Copy(w, r); err != nil {
				return mailbox.Placed{}, err
			}
			b, err := w.Seal()
			if err != nil {
				return mailbox.Placed{}, err
			}
			placed, err := h.mail.Add(ctx, t.Box, []mailbox.Arrival{{Body: b, Flags: t.Flags, Keywords: t.Keywords, Internal: t.Internal}}, nil)
			if err != nil {
				return mailbox.Placed{}, err
			}
			return placed[0], nil
		},
		Federation: Federation{
			Policy: rules, Peers: counts, Queue: waiting,
			Trouble: func() map[address.Domain]string { return nil },
			Limits:  func() QueueStatus { return QueueStatus{MaxTries: 3, Parallel: 16} },
		},
		Exchangers: boxes, Shares: shares, PanelBuilt: func() bool { return false },
		Facts: func(context.Context) (doctor.Facts, error) { return doctor.Facts{StateDir: h.dir}, nil },
		Backup: func(context.Context, string, *backup.Progress) (backup.Manifest, error) {
			return backup.Manifest{}, h.fail
		},
		Push: func() PushFacts { return PushFacts{Threshold: 5} }, ResetPush: func() {},
		Keys: Keys{
			Records: keys.Records, Rotate: keys.Rotate, Abandon: keys.Abandon, Forget: func() error { return nil },
			TXT:       func(context.Context, string) ([]string, error) { return nil, fault.New(fault.NotFound, "no such name") },
			Data:      func(context.Context, string, string) ([]string, error) { return nil, nil },
			Addresses: func(context.Context, string) ([]netip.Addr, error) { return nil, nil },
			Facts:     func() ZoneFacts { return ZoneFacts{Domain: "x.example", Host: "x.example"} },
		},
		Measured: func(context.Context) (int, int64, error) { return 2, 300, nil },
		Mail:     mail, Keeper: keeper, Boxes: h.mail,
		Storage:      func(context.Context) (Storage, error) { return Storage{}, h.fail },
		ReloadCaches: func(ctx context.Context) error { return h.accounts.Reload(ctx) },
		Restart:      func(context.Context) error { return h.fail },
		Notify: func(_ context.Context, to []address.Addr, m []byte) ([]string, error) {
			h.notices = append(h.notices, string(m))
			return h.undelivered, h.fail
		},
		Link: func(a address.Addr, password string) string { return "dclogin:" + a.Wire() + "?p=" + password },
		RemoveMail: func(ctx context.Context, a address.Addr) error {
			delete(h.used, a.Local())
			return errors.Join(os.RemoveAll(mail(a)), h.accounts.Cleared(ctx, a))
		},
		Status: func(context.Context) Status { return Status{Running: true, Services: []Service{}, Ports: h.ports} },
		Realtime: func() RealtimeFacts {
			u := h.settings.Current().Text(settings.IrohRelayURL)
			return RealtimeFacts{Configured: u != "", Port: 3340, URL: u, Suggested: "http://192.0.2.1:3340"}
		},
		Proxy:         func() ProxyFacts { return ProxyFacts{Addr: true, Port: 8388, Link: "ss://link"} },
		ProxyPassword: func(cipher string) (string, error) { return "drawn for " + cipher, nil },
		TURN:          func() bool { return true },
		Reload:        func(context.Context) (Reloaded, error) { return Reloaded{Reloaded: true}, h.fail },
		AdminToken: func(rotate bool) (AdminToken, error) {
			return AdminToken{Token: map[bool]string{false: "old", true: "new"}[rotate]}, h.fail
		},
		Change: func(ctx context.Context, c ...settings.Change) (string, error) {
			if h.fail != nil {
				return "", h.fail
			}
			p, err := h.settings.Plan(c...)
			if err != nil {
				return "", err
			}
			return "in effect", h.settings.Commit(ctx, p)
		},
	})
	return h
}

// run runs an action with JSON parameters and returns its result as the JSON
// that programs see, decoded.
func (h *house) run(op, params string) (map[string]any, error) {
	h.t.Helper()
	v, err := h.Run(h.t.Context(), op, json.RawMessage(params))
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		h.t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		h.t.Fatal(err)
	}
	return m, nil
}

func (h *house) must(op, params string) map[string]any {
	h.t.Helper()
	m, err := h.run(op, params)
	if err != nil {
		h.t.Fatalf("%s %s: %v", op, params, err)
	}
	return m
}

func TestEveryActionIsDescribedAndBounded(t *testing.T) {
	h := newHouse(t)
	for name, op := range h.Table {
		if name != op.Name || op.Doc == "" || strings.HasSuffix(op.Doc, ".") || op.Run == nil {
			t.Errorf("%s: %+v", name, op)
		}
		for _, bad := range []string{`[]`, `7`, `"x"`, `{`, `{"username":7,"name":7,"token":7,"Open":7,"Rotate":7,"Pending":7,"Stored":7,"domain":7,"task":7}`} {
			_, err := h.run(name, bad)
			if takes := bad != `[]` && bad != `7` && bad != `"x"` && bad != `{`; err == nil && !takes || err != nil && !fault.Is(err, fault.Invalid) {
				t.Errorf("%s %s: %v, want fault.Invalid", name, bad, err)
			}
		}
	}
	if _, err := h.run("no.such", ""); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

// TestRefusals lists what is refused, with the kind that decides the exit code
// and the sentence that the operator sees.
func TestRefusals(t *testing.T) {
	h := newHouse(t)
	h.must("accounts.create", `{"username":"alice","password":"secret"}`)
	h.must("accounts.block", `{"username":"mallory"}`)
	h.must("tokens.create", `{"token":"friends"}`)
	long := strings.Repeat("x", 2000)
	for _, x := range []struct {
		op, params string
		kind       fault.Kind
		text       string
	}{
		{"accounts.create", `{}`, fault.Invalid, ""},
		{"accounts.create", `{"username":"alice"}`, fault.Invalid, "the password is empty"},
		{"accounts.create", `{"username":"alice","password":"x"}`, fault.Exists, "account already exists: alice@example.org"},
		{"accounts.create", `{"username":"ALICE@EXAMPLE.ORG","password":"x"}`, fault.Exists, "account already exists: alice@example.org"},
		{"accounts.create", `{"username":"mallory","password":"x"}`, fault.Refused, "username is blocklisted: mallory@example.org"},
		{"accounts.create", `{"username":"bob@other.org","password":"x"}`, fault.Invalid, "other.org is not a domain of this server"},
		{"accounts.create", `{"username":"bob@","password":"x"}`, fault.Invalid, ""},
		{"accounts.create", `{"username":"../bob","password":"x"}`, fault.Invalid, ""},
		{"accounts.create", `{"username":"__X__","password":"x"}`, fault.Invalid, ""},
		{"accounts.create", `{"username":"b b","password":"x"}`, fault.Invalid, ""},
		{"accounts.create", `{"username":"` + long + `","password":"x"}`, fault.Invalid, ""},
		{"accounts.create", `{"username":"bob","password":"` + strings.Repeat(long, 40) + `"}`, fault.Invalid, ""},
		{"accounts.info", `{"username":"nobody"}`, fault.NotFound, "no such account: nobody@example.org"},
		{"accounts.info", `{"username":"@"}`, fault.Invalid, ""},
		{"accounts.set-password", `{"username":"nobody","password":"x"}`, fault.NotFound, "no such account: nobody@example.org"},
		{"accounts.set-password", `{"username":"alice"}`, fault.Invalid, "the password is empty"},
		{"accounts.set-password", `{"username":"","password":"x"}`, fault.Invalid, ""},
		{"accounts.delete", `{"username":"nobody"}`, fault.NotFound, "no such account: nobody@example.org"},
		{"accounts.delete", `{"username":"a@b@c"}`, fault.Invalid, ""},
		{"accounts.ban", `{"username":"alice","reason":"two\nlines"}`, fault.Invalid, "a reason is one line of at most 1024 bytes"},
		{"accounts.ban", `{"username":"alice","reason":"` + long + `"}`, fault.Invalid, "a reason is one line of at most 1024 bytes"},
		{"accounts.ban", `{}`, fault.Invalid, ""},
		{"accounts.block", `{"username":"bob","reason":"\u0007"}`, fault.Invalid, "a reason is one line of at most 1024 bytes"},
		{"accounts.block", `{"username":" "}`, fault.Invalid, ""},
		{"accounts.unban", `{"username":"a b"}`, fault.Invalid, ""},
		{"settings.get", `{}`, fault.NotFound, `no such setting: ""`},
		{"settings.get", `{"name":"colour"}`, fault.NotFound, `no such setting: "colour"`},
		{"settings.set", `{"name":"colour","value":"green"}`, fault.NotFound, `no such setting: "colour"`},
		{"settings.set", `{"name":"language","value":"de"}`, fault.Invalid, `language: "de" is none of en, fa, ru, es`},
		{"settings.set", `{"name":"imap_port","value":"0"}`, fault.Invalid, `imap_port: "0" is not a port`},
		{"settings.set", `{"name":"max_message_size","value":"1 gig"}`, fault.Invalid, ""},
		{"settings.set", `{"name":"turn_secret","value":"a\u0000b"}`, fault.Invalid, "turn_secret: a value has no control characters"},
		{"settings.set", `{"name":"turn_realm","value":"` + strings.Repeat(long, 3) + `"}`, fault.Invalid, "turn_realm: a value has at most 4096 bytes"},
		{"settings.reset", `{"name":"colour"}`, fault.NotFound, `no such setting: "colour"`},
		{"tokens.create", `{"token":"friends"}`, fault.Exists, "token already exists"},
		{"tokens.create", `{"max_uses":0}`, fault.Invalid, "a token has at least one use"},
		{"tokens.create", `{"max_uses":-1}`, fault.Invalid, "a token has at least one use"},
		{"tokens.create", `{"expires":"soon"}`, fault.Invalid, `"soon" is not a time to expire after`},
		{"tokens.create", `{"expires":"-1h"}`, fault.Invalid, ""},
		{"tokens.create", `{"expires":"0"}`, fault.Invalid, ""},
		{"tokens.create", `{"expires":"100000d"}`, fault.Invalid, ""},
		{"tokens.create", `{"token":"with space"}`, fault.Invalid, ""},
		{"tokens.create", `{"comment":"` + long + `"}`, fault.Invalid, ""},
		{"tokens.status", `{"token":"none"}`, fault.NotFound, "token not found"},
		{"tokens.delete", `{"token":"none"}`, fault.NotFound, "token not found"},
	} {
		got, err := h.run(x.op, x.params)
		if err == nil || fault.KindOf(err) != x.kind || x.text != "" && err.Error() != x.text {
			t.Errorf("%s %.80s: %v, %v (%s); want %s %q", x.op, x.params, got, err, fault.KindOf(err), x.kind, x.text)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: the error has %d bytes", x.op, len(err.Error()))
		}
	}
	if h.accounts.Count() != 1 {
		t.Errorf("%d accounts after refusals", h.accounts.Count())
	}
}

func TestAnAccountFromMakingToBan(t *testing.T) {
	h := newHouse(t)
	if got := h.must("accounts.list", ""); !reflect.DeepEqual(got["accounts"], []any{}) {
		t.Errorf("no accounts are %v, want an empty list", got)
	}
	h.must("accounts.create", `{"username":"Alice","password":"short"}`) // the policy does not bind operators
	h.must("accounts.create", `{"username":"bob@192.0.2.1","password":"x"}`)
	r := h.must("accounts.create-random", "")
	name, password := r["username"].(string), r["password"].(string)
	if len(name) != 12 || len(password) != 24 || r["email"] != name+"@example.org" || r["dclogin"] != "dclogin:"+name+"@example.org?p="+password {
		t.Errorf("%v", r)
	}
	h.used["alice"] = 120
	if err := os.MkdirAll(filepath.Join(h.dir, "mail", "alice@example.org"), 0o700); err != nil {
		t.Fatal(err)
	}
	i := h.must("accounts.info", `{"username":"alice"}`)
	for key, want := range map[string]any{
		"username": "alice@example.org", "credentials": true, "blocklisted": false, "block_reason": nil, "first_login_at": nil, "last_login_at": nil,
		"first_login_pending": true, "used_bytes": 120.0, "message_count": 12.0, "max_bytes": float64(1 << 30), "maildir_present": true,
		"maildir_path": filepath.Join(h.dir, "mail", "alice@example.org"),
	} {
		if got, ok := i[key]; !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if i["created_at"].(float64) < float64(time.Now().Add(-time.Hour).Unix()) {
		t.Errorf("created_at %v", i["created_at"])
	}
	if err := h.accounts.SetLimit(t.Context(), addr(t, "alice@example.org"), -1); err != nil {
		t.Fatal(err)
	}
	if i = h.must("accounts.info", `{"username":"alice"}`); i["max_bytes"] != nil {
		t.Errorf("no limit is %v", i["max_bytes"])
	}
	if err := h.accounts.LoggedIn(t.Context(), addr(t, "alice@example.org")); err != nil {
		t.Fatal(err)
	}
	if i = h.must("accounts.info", `{"username":"alice"}`); i["first_login_pending"] != false || i["last_login_at"] == nil {
		t.Errorf("after a login: %v", i)
	}
	if list := h.must("accounts.list", `{"Pending":true}`)["accounts"].([]any); len(list) != 2 {
		t.Errorf("%d accounts wait for their first login, want 2", len(list))
	}
	h.must("accounts.set-password", `{"username":"alice","password":"other"}`)
	if got := h.must("accounts.ban", `{"username":"alice","reason":"  spam "}`); got["reason"] != "spam" || got["username"] != "alice@example.org" {
		t.Errorf("%v", got)
	}
	if i = h.must("accounts.info", `{"username":"alice"}`); i["credentials"] != false || i["block_reason"] != "spam" || i["maildir_present"] != false {
		t.Errorf("after a ban: %v", i)
	}
	h.must("accounts.ban", `{"username":"stranger"}`)
	entries := h.must("accounts.ban-list", "")["entries"].([]any)
	if len(entries) != 2 || entries[0].(map[string]any)["reason"] != "spam" || entries[1].(map[string]any)["reason"] != "banned via CLI" {
		t.Errorf("%v", entries)
	}
	if at, err := time.Parse(time.RFC3339, entries[0].(map[string]any)["blocked_at"].(string)); err != nil || at.Location() != time.UTC {
		t.Errorf("%v, %v", at, err)
	}
	h.must("accounts.unban", `{"username":"alice"}`)
	h.must("accounts.unban", `{"username":"never-blocked"}`)
	h.must("accounts.create", `{"username":"alice","password":"again"}`)
	if got := h.must("accounts.delete", `{"username":"alice","no_block":true}`); got["reason"] != nil {
		t.Errorf("%v", got)
	}
	if h.accounts.Blocked(addr(t, "alice@example.org")) {
		t.Error("the name was blocked all the same")
	}
	if got := h.must("accounts.delete", `{"username":"bob@[192.0.2.1]"}`); got["reason"] != "account deleted via CLI" {
		t.Errorf("%v", got)
	}
	want := []string{"alice password", "alice removed", "stranger removed", "alice removed", "bob removed"}
	if !slices.Equal(h.ended, want) {
		t.Errorf("sessions ended for %q, want %q", h.ended, want)
	}
	s := h.must("accounts.status", "")
	for key, want := range map[string]any{
		"login_count": 1.0, "registration_open": true, "token_required": false, "jit_enabled": true, "blocklisted": 2.0,
		"mail_directories": 2.0, "storage_bytes": 300.0, "state_dir": h.dir,
	} {
		if s[key] != want {
			t.Errorf("%s is %v, want %v", key, s[key], want)
		}
	}
}

// TestADeletionThatWasInterruptedCanBeRepeated: credentials are gone, mail is
// not.
func TestADeletionThatWasInterruptedCanBeRepeated(t *testing.T) {
	h := newHouse(t)
	dir := filepath.Join(h.dir, "mail", "carol@example.org")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h.must("accounts.delete", `{"username":"carol","no_block":true}`)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mail stays: %v", err)
	}
}

func TestRegistrationOpensAndCloses(t *testing.T) {
	h := newHouse(t)
	for _, x := range []struct {
		params    string
		open, jit bool
	}{{"", true, true}, {`{"Open":null}`, true, true}, {`{"Open":false}`, false, false}, {`{}`, false, false}, {`{"Open":true}`, true, true}} {
		if got := h.must("registration", x.params); got["open"] != x.open || got["jit_enabled"] != x.jit {
			t.Errorf("%s: %v", x.params, got)
		}
	}
	h.must("settings.set", `{"name":"jit_registration_enabled","value":"yes"}`)
	if got := h.must("registration", `{"Open":false}`); got["open"] != false || got["jit_enabled"] != true {
		t.Errorf("first logins that were allowed by name go on: %v", got)
	}
	h.fail = fault.New(fault.Busy, "later")
	if _, err := h.run("registration", `{"Open":true}`); !fault.Is(err, fault.Busy) {
		t.Error(err)
	}
}

func TestSettings(t *testing.T) {
	h := newHouse(t)
	list := h.must("settings.list", "")["settings"].([]any)
	if len(list) != len(settings.Entries()) {
		t.Errorf("%d settings, the catalogue has %d", len(list), len(settings.Entries()))
	}
	for _, x := range list {
		s := x.(map[string]any)
		for _, key := range []string{"name", "key", "value", "source", "is_set", "default", "kind", "when", "doc"} {
			if _, ok := s[key]; !ok {
				t.Errorf("%v has no %s", s["name"], key)
			}
		}
	}
	for _, name := range []string{"imap_tls_port", "imap-tls-port", "IMAP_TLS_PORT", "__IMAP_TLS_PORT__", " imap_tls_port "} {
		if got := h.must("settings.get", `{"name":"`+name+`"}`); got["name"] != "imap_tls_port" || got["source"] != "default" {
			t.Errorf("%q: %v", name, got)
		}
	}
	got := h.must("settings.set", `{"name":"max_message_size","value":" 50M "}`)
	if got["value"] != "50M" || got["source"] != "stored" || got["is_set"] != true || got["applied"] != "in effect" {
		t.Errorf("%v", got)
	}
	if stored := h.must("settings.list", `{"Stored":true}`)["settings"].([]any); len(stored) != 2 { // and push_mode, which is seeded
		t.Errorf("%d stored settings", len(stored))
	}
	if got = h.must("settings.reset", `{"name":"max_message_size"}`); got["value"] != "100M" || got["source"] != "default" || got["is_set"] != false {
		t.Errorf("%v", got)
	}
	if got = h.must("settings.get", `{"name":"ss_ws_port"}`); got["follows"] != "ss_port" {
		t.Errorf("%v", got)
	}
	got = h.must("settings.set", `{"name":"turn_secret","value":"canary"}`)
	if raw, _ := json.Marshal(got); strings.Contains(string(raw), "canary") || got["is_set"] != true {
		t.Errorf("%s", raw)
	}
	h.fail = fault.New(fault.Busy, "a port is taken")
	if _, err := h.run("settings.set", `{"name":"imap_port","value":"1"}`); !fault.Is(err, fault.Busy) || h.settings.Current().Port(settings.IMAPPort) != 0 {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	h := newHouse(t)
	if got := h.must("tokens.list", ""); !reflect.DeepEqual(got["tokens"], []any{}) {
		t.Errorf("%v", got)
	}
	drawn := h.must("tokens.create", "")
	if token := drawn["token"].(string); len(token) != 24 || drawn["max_uses"] != 1.0 || drawn["expires_at"] != nil || drawn["status"] != "active" {
		t.Errorf("%v", drawn)
	}
	mine := h.must("tokens.create", `{"token":"friends","max_uses":2,"comment":"for friends","expires":"7d"}`)
	at, err := time.Parse(time.RFC3339, mine["expires_at"].(string))
	if left := time.Until(at).Hours() / 24; err != nil || math.Abs(left-7) > 0.1 || mine["available"] != 2.0 {
		t.Errorf("%v, %v", mine, err)
	}
	domain := addr(t, "x@example.org").Domain()
	c, err := h.accounts.CreateRandom(t.Context(), account.Random{Domain: domain, Token: "friends"})
	if err != nil {
		t.Fatal(err)
	}
	got := h.must("tokens.status", `{"token":"friends"}`)
	holders := []any{map[string]any{"username": c.Addr.Wire(), "status": "awaiting first login"}}
	if got["pending"] != 1.0 || got["available"] != 1.0 || !reflect.DeepEqual(got["pending_accounts"], holders) {
		t.Errorf("%v", got)
	}
	if err := h.accounts.LoggedIn(t.Context(), c.Addr); err != nil {
		t.Fatal(err)
	}
	if got = h.must("tokens.status", `{"token":"friends"}`); got["used_count"] != 1.0 || got["uses"] != 1.0 || got["pending"] != 0.0 || got["token_required"] != false {
		t.Errorf("%v", got)
	}
	if list := h.must("tokens.list", "")["tokens"].([]any); len(list) != 2 {
		t.Errorf("%v", list)
	}
	h.must("tokens.delete", `{"token":"friends"}`)
	if _, err := h.run("tokens.status", `{"token":"friends"}`); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

func TestTheRestIsPassedOn(t *testing.T) {
	h := newHouse(t)
	if got := h.must("status", ""); got["running"] != true {
		t.Errorf("%v", got)
	}
	if got := h.must("reload", ""); got["reloaded"] != true {
		t.Errorf("%v", got)
	}
	if a, b := h.must("admin-token", ""), h.must("admin-token", `{"Rotate":true}`); a["token"] != "old" || b["token"] != "new" {
		t.Errorf("%v, %v", a, b)
	}
	h.fail = fault.New(fault.Refused, "no")
	for _, op := range []string{"reload", "admin-token"} {
		if _, err := h.run(op, ""); !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func addr(t testing.TB, s string) address.Addr {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

//go:build unix

package app

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/mailbox"
	"madmail/test/dnstest"
	"madmail/test/load"
)

// keptBox is a mailbox as a client saw it at the program that the first version was made
// from (testdata/first.readme).
type keptBox struct {
	UIDValidity uint32
	UIDNext     mailbox.UID
	Special     string
	Subscribed  bool
	Messages    []keptMessage
}

type keptMessage struct {
	UID      mailbox.UID
	Flags    []string
	Internal int64
	Size     int64
	SHA256   string
}

// attempt is when something was tried, in the queue: what is too old is given up.
var attempt = regexp.MustCompile(`"(First|Last)Attempt":"[^"]*"`)

// unpack puts the state directory of testdata/first where this server's is.
func (h *house) unpack() {
	h.t.Helper()
	packed, err := os.ReadFile("testdata/first/state.tar.gz")
	if err != nil {
		h.t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		h.t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			h.t.Fatal(err)
		}
		path := filepath.Join(h.dir, f.Name)
		if f.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				data = attempt.ReplaceAll(data, []byte(`"${1}Attempt":"`+time.Now().UTC().Format(time.RFC3339Nano)+`"`))
				err = os.WriteFile(path, data, 0o644)
			}
		}
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// change runs a script in a database of the state directory.
func (h *house) change(name, script string) {
	h.t.Helper()
	d, err := sql.Open("sqlite", filepath.Join(h.dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = d.Exec(script)
	if err = errors.Join(err, d.Close()); err != nil {
		h.t.Fatal(err)
	}
}

// The tables that the first version adds, as its ORM makes them, and times as its
// drivers write them. Exchangers are in the database of accounts.
const (
	firstIndexTables = "CREATE TABLE `quota` (`username` text,`max_storage` integer,`created_at` integer,`first_login_at` integer,`last_login_at` integer,`used_token` text,PRIMARY KEY (`username`));" +
		"CREATE INDEX `idx_used_token_pending` ON `quota`(`used_token`);" +
		"INSERT INTO quota VALUES ('alice@example.org', 50000000, 1600000000, 1600000001, 1600000002, ''), ('bob@example.org', 0, 1600000000, 1, 0, ''), ('__GLOBAL_DEFAULT__', 70000000, 0, 0, 0, '');" +
		"CREATE TABLE `blocked_users` (`username` text,`reason` text,`blocked_at` datetime,PRIMARY KEY (`username`));" +
		"INSERT INTO blocked_users VALUES ('mallory@example.org', 'spam', '2025-03-04 10:38:09.123456789 +0330 +0330 m=+42.5');" +
		"CREATE TABLE `registration_tokens` (`token` text,`max_uses` integer DEFAULT 1,`used_count` integer DEFAULT 0,`comment` text,`created_at` datetime,`expires_at` datetime,PRIMARY KEY (`token`));" +
		"INSERT INTO registration_tokens VALUES ('t0ken', 3, 1, 'friends', '2025-03-04 07:08:09+00:00', '2031-03-04 10:38:09.5 +0330 +0330');" +
		"CREATE TABLE `dns_overrides` (`lookup_key` text,`target_host` text NOT NULL,`comment` text,`created_at` datetime,`updated_at` datetime,PRIMARY KEY (`lookup_key`));" +
		"INSERT INTO dns_overrides VALUES ('peer.example', '192.0.2.7', '', NULL, NULL), ('192.0.2.8', '192.0.2.9', '', NULL, NULL);" +
		"CREATE TABLE `federation_rules` (`id` integer PRIMARY KEY AUTOINCREMENT,`domain` text,`created_at` integer);CREATE UNIQUE INDEX `idx_federation_rules_domain` ON `federation_rules`(`domain`);" +
		"INSERT INTO federation_rules (domain, created_at) VALUES ('bad.example', 1700000000), ('192.0.2.66', 1700000001);" +
		"CREATE TABLE `message_stats` (`name` text,`count` integer,PRIMARY KEY (`name`)); INSERT INTO message_stats VALUES ('sent_messages', 17), ('received_messages', 4);" +
		"CREATE TABLE `federation_server_stats` (`domain` text,`queued_messages` integer,`failed_http` integer,`failed_http_s` integer,`failed_smtp` integer,`success_http` integer,`success_http_s` integer,`success_smtp` integer,`inbound_deliveries` integer,`successful_deliveries` integer,`total_latency_ms` integer,`last_active` integer,PRIMARY KEY (`domain`));" +
		"INSERT INTO federation_server_stats VALUES ('peer.example', 0, 1, 2, 3, 4, 5, 6, 7, 15, 900, 1700000000);"
	firstAccountTables = "CREATE TABLE `exchangers` (`name` text,`url` text NOT NULL,`enabled` numeric DEFAULT true,`poll_interval` integer DEFAULT 60,`last_poll_at` datetime,`created_at` datetime,`updated_at` datetime,PRIMARY KEY (`name`));" +
		"INSERT INTO exchangers VALUES ('ex', 'http://192.0.2.5/mxdeliv', 0, 120, '0001-01-01 00:00:00+00:00', '2025-03-04 10:38:09.1 +0330 +0330 m=+1', '2025-03-04 10:38:09.1 +0330 +0330 m=+1');" +
		"INSERT INTO passwords VALUES ('__FEDERATION_POLICY__', 'ACCEPT'), ('__REGISTRATION_OPEN__', 'false'), ('__LANGUAGE__', 'fa'), ('__SUBMISSION_LOCAL_ONLY__', 'true');"
)

// TestAStateDirectoryOfARealServerIsTakenOver: nothing of it is lost, changed or doubled,
// also when the start is repeated. (Known failure A5.)
func TestAStateDirectoryOfARealServerIsTakenOver(t *testing.T) {
	h := newHouse(t)
	h.lines["primary_domain"] = `"example.org"`
	h.lines["dns_servers"] = fmt.Sprintf("%q", dnstest.New(t, "").Addr())
	h.lines["queue_post_init_delay"] = `"1h"` // nothing is tried meanwhile
	h.write()
	h.unpack()
	h.change("imapsql.db", firstIndexTables)
	h.change("credentials.db", firstAccountTables)
	before, err := os.ReadFile(filepath.Join(h.dir, "imapsql.db"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/first/want.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]map[string]keptBox
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h.start()
		for account, boxes := range want {
			h.compare(account, boxes)
		}
		h.firstTables()
		h.stop()
	}
	if after, err := os.ReadFile(filepath.Join(h.dir, "imapsql.db")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the index of the first version was changed, %v", err)
	}
}

// compare looks at every mailbox of an account, and lets it log in.
func (h *house) compare(account string, want map[string]keptBox) {
	h.t.Helper()
	a, err := address.Parse(account)
	if err != nil {
		h.t.Fatal(err)
	}
	x := h.at("example.org")
	x.Password = map[string]string{"alice": "correct-horse", "bob": "battery-staple"}[a.Local()]
	r, err := x.Login(a.Local())
	if err != nil {
		h.t.Errorf("%s cannot log in: %v", account, err)
		return
	}
	r.Close()
	if got, want := h.accounts.Limit(a), map[string]int64{"alice": 50_000_000, "bob": 70_000_000}[a.Local()]; got != want {
		h.t.Errorf("%s may store %d octets, want %d", account, got, want)
	}
	infos, err := h.store.Boxes(h.t.Context(), a)
	if err != nil || len(infos) != len(want) {
		h.t.Errorf("%s has %d mailboxes, %v; want %d", account, len(infos), err, len(want))
	}
	for _, info := range infos {
		w := want[info.Name]
		if info.SpecialUse != w.Special || info.Subscribed != w.Subscribed {
			h.t.Errorf("%s %s: special use %q, subscribed %v; want %q, %v", account, info.Name, info.SpecialUse, info.Subscribed, w.Special, w.Subscribed)
		}
		key := mailbox.Box{Account: a, Name: info.Name}
		v, err := h.store.View(h.t.Context(), key)
		if err != nil {
			h.t.Errorf("%s %s: %v", account, info.Name, err)
			continue
		}
		if v.UIDValidity != w.UIDValidity || v.UIDNext != w.UIDNext || v.Len() != len(w.Messages) {
			h.t.Errorf("%s %s: UIDVALIDITY %d, UIDNEXT %d, %d messages; want %d, %d, %d", account, info.Name, v.UIDValidity, v.UIDNext, v.Len(), w.UIDValidity, w.UIDNext, len(w.Messages))
			continue
		}
		for i, wm := range w.Messages {
			if got, want := h.kept(key, v.At(i)), fmt.Sprint(wm); got != want {
				h.t.Errorf("%s %s:\n got %s\nwant %s", account, info.Name, got, want)
			}
		}
	}
}

// kept is a message in the form of the list.
func (h *house) kept(key mailbox.Box, m mailbox.Message) string {
	h.t.Helper()
	c, err := h.store.Open(h.t.Context(), key, m.UID)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(c, 0, c.Size())); err != nil {
		return err.Error()
	}
	flags := slices.Clone(m.Keywords)
	for f, name := range map[mailbox.Flags]string{mailbox.Seen: `\Seen`, mailbox.Answered: `\Answered`, mailbox.Flagged: `\Flagged`, mailbox.Deleted: `\Deleted`, mailbox.Draft: `\Draft`} {
		if m.Flags&f != 0 {
			flags = append(flags, name)
		}
	}
	slices.Sort(flags)
	return fmt.Sprint(keptMessage{m.UID, flags, m.Internal, m.Size, fmt.Sprintf("%x", sum.Sum(nil))})
}

// says looks for words in what operations say.
func (h *house) says(want map[string][]string) {
	h.t.Helper()
	for command, words := range want {
		got := fmt.Sprint(h.must(command, "{}"))
		for _, w := range words {
			if !strings.Contains(got, w) {
				h.t.Errorf("%s: %q is not in %s", command, w, got)
			}
		}
	}
}

// firstTables looks at what else was taken over.
func (h *house) firstTables() {
	h.t.Helper()
	h.says(map[string][]string{
		"accounts.ban-list": {"mallory@example.org", "spam", "2025-03-04"},
		"tokens.list":       {"t0ken", "friends", "2031-03-04"},
		"exchangers.list":   {"http://192.0.2.5/mxdeliv", "enabled:false", "poll_interval:120"},
		"endpoints.list":    {"peer.example", "192.0.2.7", "192.0.2.9"},
		"federation.list":   {"bad.example", "192.0.2.66"},
		"federation.status": {"peer.example"},
		"queue.list":        {"alice@example.org", "q@fail.example", "r@fail.example", "s@fail.example", "tries_count:1"},
		"accounts.list":     {"alice@example.org", "bob@example.org"},
	})
	// The first version keeps addresses without their brackets.
	for from, want := range map[string]int{"frank@bad.example": 403, "frank@[192.0.2.66]": 403} {
		if status, text := h.post("http_tls", from, load.Message(from, 1200), "alice@example.org"); status != want {
			h.t.Errorf("mail from %s: %d %s, want %d", from, status, text, want)
		}
	}
}

package share

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
)

const (
	fpr    = "0123456789abcdef0123456789ABCDEF01234567"
	invite = "https://i.delta.chat/#" + fpr + "&v=3&i=70lZf7fOpNJwrWwn&s=-iSBbDKGeJm9&a=alice%40example.org&n=Alice+B"
	stored = "openpgp4fpr:" + fpr + "#v=3&i=70lZf7fOpNJwrWwn&s=-iSBbDKGeJm9&a=alice%40example.org&n=Alice+B"
)

func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), FileName)
	}
	s := New(o)
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestInvites(t *testing.T) {
	long := strings.Repeat("a", maxURL)
	for _, x := range []struct{ text, visitor, operator string }{
		{invite, stored, stored},
		{"  https://I.Delta.Chat/#" + fpr + "&a=x%40y.org\n", "openpgp4fpr:" + fpr + "#a=x%40y.org", "openpgp4fpr:" + fpr + "#a=x%40y.org"},
		{"https://i.delta.chat#" + fpr + "&a=x", "openpgp4fpr:" + fpr + "#a=x", "openpgp4fpr:" + fpr + "#a=x"},
		{"https://i.delta.chat/#" + strings.Repeat("a1", 32) + "&a=x", "openpgp4fpr:" + strings.Repeat("a1", 32) + "#a=x", "openpgp4fpr:" + strings.Repeat("a1", 32) + "#a=x"},
		{stored, "", stored}, {"OPENPGP4FPR:AAAA", "", "openpgp4fpr:AAAA"}, {"openpgp4fpr:BBBB#a=x", "", "openpgp4fpr:BBBB#a=x"},
		{"", "", ""}, {"reserved", "", ""}, {"https://i.delta.chat/", "", ""}, {"https://i.delta.chat/#", "", ""}, {"https://i.delta.chat/#" + fpr, "", ""},
		{"https://i.delta.chat/#" + fpr + "&", "", ""}, {"https://i.delta.chat/#" + fpr[1:] + "&a=x", "", ""}, {"https://i.delta.chat/#" + fpr[1:] + "g&a=x", "", ""},
		{"http://i.delta.chat/#" + fpr + "&a=x", "", ""}, {"https://i.delta.chat.evil.example/#" + fpr + "&a=x", "", ""}, {"https://i.delta.chat@evil.example/#" + fpr + "&a=x", "", ""},
		{"https://u@i.delta.chat/#" + fpr + "&a=x", "", ""}, {"https://i.delta.chat:8443/#" + fpr + "&a=x", "", ""}, {"https://i.delta.chat/x#" + fpr + "&a=x", "", ""},
		{"https://i.delta.chat/?q#" + fpr + "&a=x", "", ""}, {"https://i.delta.chat/?#" + fpr + "&a=x", "", ""}, {"javascript:alert(1)//https://i.delta.chat/#" + fpr + "&a=x", "", ""},
		{"https://i.delta.chat/#" + fpr + "&a=\"><script>", "", ""}, {"https://i.delta.chat/#" + fpr + "&a=x y", "", ""}, {"https://i.delta.chat/#" + fpr + "&a=x#y", "", ""},
		{"https://i.delta.chat/#" + fpr + "&n=\u202ex", "", ""}, {"https://i.delta.chat/#" + fpr + "&a=x\r\ny", "", ""}, {"https://i.delta.chat/#" + fpr + "&a=" + long, "", ""},
		{"openpgp4fpr:", "", ""}, {"openpgp4fpr:xyz", "", ""}, {"openpgp4fpr:AAAA#<", "", ""}, {"openpgp4fpr:AAAA#" + long, "", ""}, {"dclogin:a@b/?p=x", "", ""},
	} {
		for _, how := range []struct {
			parse func(string) (string, error)
			want  string
		}{{ParseInvite, x.visitor}, {parseStored, x.operator}} {
			got, err := how.parse(x.text)
			if got != how.want || (err == nil) != (how.want != "") || err != nil && !errors.Is(err, ErrURL) {
				t.Errorf("%.200q: %q, %v, want %q", x.text, got, err, how.want)
			}
		}
	}
	if got := (Link{URL: stored}).Invite(); got != invite {
		t.Errorf("back: %s", got)
	}
	if got := (Link{URL: "openpgp4fpr:AAAA"}).Invite(); got != "https://i.delta.chat/#AAAA" {
		t.Errorf("back: %s", got)
	}
}

func FuzzInvite(f *testing.F) {
	for _, s := range []string{invite, stored, "https://i.delta.chat/#" + fpr + "&a=%zz", "openpgp4fpr:AAAA", "https://[::1]/#", "https://i.delta.chat/#" + fpr + "&a=a%40b&a=c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, parse := range []func(string) (string, error){ParseInvite, parseStored} {
			got, err := parse(text)
			if err != nil {
				continue
			}
			if !strings.HasPrefix(got, Scheme) || strings.ContainsAny(got, "\"<>\\` \r\n\x00") || len(got) > len(text)+len(Scheme) {
				t.Errorf("%q became %q", text, got)
			}
			if again, err := parseStored(got); again != got {
				t.Errorf("%q is %q when read again: %v", got, again, err)
			}
			if a := ownerOf(got); a != "" {
				if _, err := address.Parse(a); err != nil {
					t.Errorf("%q belongs to %q", got, a)
				}
			}
		}
	})
}

func TestSlugsAndNames(t *testing.T) {
	s := open(t, Options{Taken: func(slug string) bool { return strings.EqualFold(slug, "share") }})
	for _, x := range []struct {
		slug, name        string
		visitor, operator error
	}{
		{"abc", "Alice", nil, ErrTaken}, {"ABC", "", ErrTaken, ErrTaken}, {"a1b2", strings.Repeat("ی", 64), nil, ErrTaken},
		{"al-ice", "", ErrSlug, nil}, {"test-api-share", "Test Share", ErrSlug, nil},
		{"ab", "", ErrSlug, ErrSlug}, {"a-b", "", ErrSlug, ErrSlug}, {"-abc", "", ErrSlug, ErrSlug}, {"abc-", "", ErrSlug, ErrSlug}, {"a/bc", "", ErrSlug, ErrSlug},
		{"a.bc", "", ErrSlug, ErrSlug}, {"..", "", ErrSlug, ErrSlug}, {"a bc", "", ErrSlug, ErrSlug}, {"ab\x00c", "", ErrSlug, ErrSlug}, {"علی", "", ErrSlug, ErrSlug},
		{strings.Repeat("a", 65), "", ErrSlug, ErrSlug}, {strings.Repeat("a", 64), "", nil, ErrTaken},
		{"share", "", ErrReserved, ErrReserved}, {"SHARE", "", ErrReserved, ErrReserved},
		{"name1", strings.Repeat("ی", 65), ErrName, ErrName}, {"name1", "a\nb", ErrName, ErrName}, {"name1", "a\u202eb", ErrName, ErrName}, {"name1", "\xff", ErrName, ErrName},
	} {
		if _, err := s.Create(t.Context(), x.slug, invite, x.name); !errors.Is(err, x.visitor) {
			t.Errorf("visitor %q %q: %v, want %v", x.slug, x.name, err, x.visitor)
		}
		if _, err := s.Add(t.Context(), x.slug, invite, x.name); !errors.Is(err, x.operator) {
			t.Errorf("operator %q %q: %v, want %v", x.slug, x.name, err, x.operator)
		}
	}
	for _, f := range []func() error{
		func() error { _, err := s.Add(t.Context(), "", invite, ""); return err },
		func() error { _, err := s.Reserve(t.Context(), ""); return err },
	} {
		if err := f(); !errors.Is(err, ErrSlug) {
			t.Errorf("an operator without a slug: %v", err)
		}
	}
	l, err := s.Create(t.Context(), "", invite, " Bob ")
	if err != nil || len(l.Slug) != 8 || strings.Trim(l.Slug, alphabet) != "" || l.Name != "Bob" || l.URL != stored {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestLinksLive(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	s := open(t, Options{Now: func() time.Time { now = now.Add(time.Minute); return now }})
	ctx := t.Context()
	// Who only asks makes no file.
	list, err := s.List(ctx)
	if err != nil || list == nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := s.Get(ctx, "abc"); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if err := s.Remove(ctx, "abc"); !fault.Is(err, fault.NotFound) || err.Error() != "slug abc not found" {
		t.Error(err)
	}
	if err := s.RemoveOf(ctx, parse(t, "alice@example.org")); err != nil {
		t.Error(err)
	}
	if err := s.Backup(ctx, filepath.Join(t.TempDir(), "copy")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Path()); !os.IsNotExist(err) {
		t.Fatalf("asking made the file: %v", err)
	}
	for _, slug := range []string{"first", "second"} {
		if _, err := s.Add(ctx, slug, invite, slug); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(s.Path()); err != nil || info.Mode().Perm() != 0o600 && os.PathSeparator == '/' {
		t.Errorf("%v, %v", info, err)
	}
	if r, err := s.Reserve(ctx, "kept"); err != nil || !r.Reserved() || r.URL != "reserved" || r.Name != "Reserved" {
		t.Errorf("%+v, %v", r, err)
	}
	list, err = s.List(ctx)
	if err != nil || len(list) != 3 || list[0].Slug != "kept" || list[2].Slug != "first" || !list[2].Created.Before(list[1].Created) {
		t.Errorf("%+v, %v", list, err)
	}
	other, name := strings.Replace(invite, "alice", "bob", 1), "Other"
	if l, err := s.Edit(ctx, "first", &other, nil); err != nil || l.Name != "first" || !strings.Contains(l.URL, "bob") {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := s.Edit(ctx, "first", nil, &name); err != nil || l.Name != "Other" || !strings.Contains(l.URL, "bob") {
		t.Errorf("%+v, %v", l, err)
	}
	bad := "https://example.org"
	if _, err := s.Edit(ctx, "first", &bad, nil); !errors.Is(err, ErrURL) {
		t.Error(err)
	}
	if _, err := s.Edit(ctx, "never", &other, nil); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	// What leads to an account goes with it, also after an edit.
	if err := s.RemoveOf(ctx, parse(t, "alice@example.org")); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(ctx, "second"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a link to an account that is gone: %v", err)
	}
	if l, err := s.Get(ctx, "first"); err != nil || l.Name != "Other" {
		t.Errorf("%+v, %v", l, err)
	}
	if err := s.Remove(ctx, "first"); err != nil {
		t.Error(err)
	}
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.List(ctx); !fault.Is(err, fault.Busy) {
		t.Errorf("after Close: %v", err)
	}
}

func parse(t testing.TB, text string) address.Addr {
	t.Helper()
	a, err := address.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestSlugsAreUniqueUnderConcurrency: of many who choose one slug at a time one gets it;
// those who choose none all get one, also when the dice fall alike.
func TestSlugsAreUniqueUnderConcurrency(t *testing.T) {
	var mu sync.Mutex
	next := 0
	s := open(t, Options{random: func() string {
		mu.Lock()
		defer mu.Unlock()
		next++
		return fmt.Sprintf("random%02d", next/3) // each thrice
	}})
	const n = 20
	var got sync.Map
	var all sync.WaitGroup
	won := make(chan string, 2*n)
	for i := range n {
		all.Go(func() {
			slug := []string{"wanted", "Wanted", "WANTED"}[i%3]
			_, err := s.Create(t.Context(), slug, invite, "")
			switch {
			case err == nil:
				won <- slug
			case !errors.Is(err, ErrTaken):
				t.Error(err)
			}
		})
		all.Go(func() {
			l, err := s.Create(t.Context(), "", invite, "")
			if err != nil {
				t.Error(err)
				return
			}
			if _, twice := got.LoadOrStore(l.Slug, true); twice {
				t.Errorf("%s was given twice", l.Slug)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Errorf("%d got the slug", len(won))
	}
}

func TestTheTableIsBounded(t *testing.T) {
	s := open(t, Options{max: 3})
	for i := range 5 {
		_, err := s.Create(t.Context(), fmt.Sprintf("slug%d", i), invite, "")
		if full := i >= 3; errors.Is(err, ErrMany) != full || !full && err != nil {
			t.Errorf("link %d: %v", i, err)
		}
	}
}

// former writes a database as a predecessor does.
func former(t testing.TB, path string, statements ...string) {
	t.Helper()
	d, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, s := range statements {
		if _, err := d.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	tableV1 = "CREATE TABLE `contacts` (`slug` text,`url` text NOT NULL,`name` text,`created_at` datetime,PRIMARY KEY (`slug`))"
	tableV2 = "CREATE TABLE contacts (slug TEXT PRIMARY KEY, url TEXT NOT NULL, name TEXT, created_at TEXT DEFAULT CURRENT_TIMESTAMP)"
)

// TestTheTablesOfPredecessorsAreKept: their links are served, they can still read theirs
// and ours, and what belongs to an account is known.
func TestTheTablesOfPredecessorsAreKept(t *testing.T) {
	for name, table := range map[string]string{"v1": tableV1, "v2": tableV2, "no key": "CREATE TABLE contacts (slug TEXT, url TEXT NOT NULL, name TEXT, created_at DATETIME)"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), FileName)
			former(t, path, table,
				"INSERT INTO contacts VALUES ('alice', '"+stored+"', 'Alice', '2024-05-01 10:00:00.123456789+00:00')",
				"INSERT INTO contacts VALUES ('x', 'openpgp4fpr:AAAA', NULL, NULL)",
				"INSERT INTO contacts VALUES ('secret', 'reserved', 'Reserved', '2024-05-02 10:00:00')",
				"INSERT INTO contacts VALUES ('relay', '"+stored+"', '', '2024-05-03T10:00:00Z')")
			for range 2 { // the second time it is ours
				s := open(t, Options{Path: path, Taken: func(slug string) bool { return slug == "relay" }})
				list, err := s.List(t.Context())
				var slugs []string
				for _, l := range list {
					slugs = append(slugs, l.Slug)
				}
				if err != nil || !slices.Equal(slugs, []string{"relay", "secret", "alice", "x"}) {
					t.Fatalf("%v, %v", slugs, err)
				}
				if l := list[2]; l.URL != stored || l.Name != "Alice" || !l.Created.Equal(time.Date(2024, 5, 1, 10, 0, 0, 0, time.UTC)) {
					t.Errorf("%+v", l)
				}
				hidden, n, err := s.Hidden(t.Context())
				if err != nil || n != 4 || !slices.Equal(hidden, []string{"relay"}) {
					t.Errorf("hidden %v of %d, %v", hidden, n, err)
				}
				if _, err := s.Add(t.Context(), "ALICE", invite, ""); !errors.Is(err, ErrTaken) {
					t.Error(err)
				}
				if err := s.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			// The predecessor goes on.
			former(t, path, "INSERT INTO contacts (slug, url, name, created_at) VALUES ('later', '"+stored+"', 'L', CURRENT_TIMESTAMP)")
			s := open(t, Options{Path: path})
			if err := s.RemoveOf(t.Context(), parse(t, "alice@example.org")); err != nil {
				t.Fatal(err)
			}
			if list, err := s.List(t.Context()); err != nil || len(list) != 2 {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}

func TestImport(t *testing.T) {
	old := filepath.Join(t.TempDir(), "old.db")
	former(t, old, tableV1, "INSERT INTO contacts VALUES ('alice', '"+stored+"', 'Alice', '2024-05-01 10:00:00+00:00')", "INSERT INTO contacts VALUES ('bob', 'openpgp4fpr:AAAA', NULL, NULL)")
	s := open(t, Options{})
	if n, err := s.Import(t.Context(), old, true); n != 2 || err != nil {
		t.Errorf("dry: %d, %v", n, err)
	}
	if _, err := os.Stat(s.Path()); !os.IsNotExist(err) {
		t.Errorf("a dry run wrote: %v", err)
	}
	if _, err := s.Add(t.Context(), "Bob", invite, "ours"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{1, 0} {
		if n, err := s.Import(t.Context(), old, false); n != want || err != nil {
			t.Errorf("%d, %v, want %d", n, err, want)
		}
	}
	if l, err := s.Get(t.Context(), "alice"); err != nil || l.Name != "Alice" || l.URL != stored || l.Created.Year() != 2024 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := s.Import(t.Context(), old+".none", false); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if err := os.WriteFile(old+".text", []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), old+".text", false); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	small := open(t, Options{max: 1})
	if _, err := small.Import(t.Context(), old, false); !errors.Is(err, ErrMany) {
		t.Error(err)
	}
}

// TestADamagedDatabaseIsOneError: and is left as it is.
func TestADamagedDatabaseIsOneError(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, bytes.Repeat([]byte("no database "), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Path: path})
	if _, err := s.List(t.Context()); err == nil {
		t.Error("it was read")
	}
	if _, err := s.Create(t.Context(), "abc", invite, ""); err == nil {
		t.Error("it was written")
	}
	if raw, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(raw, []byte("no database no")) {
		t.Errorf("%.20q, %v", raw, err)
	}
}

// TestNothingOfAnInviteIsLogged: at the finest level, with everything that goes wrong.
func TestNothingOfAnInviteIsLogged(t *testing.T) {
	var log bytes.Buffer
	s := open(t, Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.Level(-100)}))})
	var errs []error
	for range 2 {
		_, err := s.Create(t.Context(), "sesame", invite, "Alice B")
		errs = append(errs, err)
	}
	_, err := s.Create(t.Context(), "sesame2", invite+"<", "Alice B")
	errs = append(errs, err, s.RemoveOf(t.Context(), parse(t, "alice@example.org")), s.Remove(t.Context(), "never"))
	if log.Len() == 0 {
		t.Error("nothing is logged at all: this test sees nothing")
	}
	for _, secret := range []string{"alice", "Alice", "70lZf7fOpNJwrWwn", fpr} {
		if text := fmt.Sprint(log.String(), errs); strings.Contains(text, secret) {
			t.Errorf("%s is in %s", secret, text)
		}
	}
}

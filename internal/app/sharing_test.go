//go:build unix

package app

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"madmail/internal/adminui"
	"madmail/internal/backup"
	"madmail/internal/doctor"
	"madmail/internal/fault"
	"madmail/internal/irohrelay"
	"madmail/internal/mxdeliv"
	"madmail/internal/route"
	"madmail/internal/settings"
	"madmail/internal/share"
)

const testFPR = "0123456789ABCDEF0123456789ABCDEF01234567"

// inviteOf is an invite as clients give it, and its stored form.
func inviteOf(user string) (link, stored string) {
	rest := "i=70lZf7fOpNJw&s=-iSBbDKGeJm9&a=" + url.QueryEscape(user+"@[127.0.0.1]") + "&n=x"
	return "https://i.delta.chat/#" + testFPR + "&" + rest, "openpgp4fpr:" + testFPR + "#" + rest
}

// visit asks the site, as a browser does.
func (h *house) visit(path string, form ...string) (status int, body string) {
	h.t.Helper()
	at := fmt.Sprintf("http://127.0.0.1:%d%s", h.ports["http"], path)
	var resp *http.Response
	var err error
	if len(form) == 0 {
		resp, err = h.web().Get(at)
	} else {
		v := url.Values{}
		for i := 0; i+1 < len(form); i += 2 {
			v.Set(form[i], form[i+1])
		}
		resp, err = h.web().PostForm(at, v)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestContactPagesLive: what one face changes all others show at once.
func TestContactPagesLive(t *testing.T) {
	h := newHouse(t)
	h.start()
	alice, stored := inviteOf("alicealice")
	if code, _ := h.visit("/share"); code != 404 {
		t.Errorf("before it is switched on: %d", code)
	}
	if _, err := os.Stat(filepath.Join(h.dir, share.FileName)); !os.IsNotExist(err) {
		t.Errorf("a file that nobody asked for: %v", err)
	}
	// Operators prepare names first.
	h.must("sharing.reserve", `{"slug":"support"}`)
	if got := h.must("settings.set", `{"name":"contact_sharing_enabled","value":"true"}`); !strings.Contains(fmt.Sprint(got), "in effect") {
		t.Errorf("%v", got)
	}
	if code, body := h.visit("/share", "url", alice, "name", "Alice", "slug", "alice"); code != 200 || !strings.Contains(body, `href="/alice"`) {
		t.Fatalf("%d %s", code, body)
	}
	if code, _ := h.visit("/share", "url", alice, "slug", "support"); code != 400 {
		t.Errorf("a reserved name: %d", code)
	}
	if code, _ := h.visit("/support"); code != 404 {
		t.Errorf("a reserved name is shown: %d", code)
	}
	if code, body := h.visit("/alice"); code != 200 || !strings.Contains(body, strings.ReplaceAll(stored, "&", "&amp;")) {
		t.Errorf("%d %s", code, body)
	}
	if e := h.admin("GET", "/admin/shares", `{}`); !bytes.Contains(e.Body, []byte(`"slug":"alice"`)) || !bytes.Contains(e.Body, []byte(`"total":2`)) {
		t.Errorf("%s", e.Body)
	}
	h.admin("PUT", "/admin/shares", `{"slug":"alice","name":"Alicia"}`)
	if _, body := h.visit("/alice"); !strings.Contains(body, "<h1>Alicia</h1>") {
		t.Errorf("%s", body)
	}
	list := h.must("sharing.list", `{}`)
	for _, key := range []string{"entries", "links"} {
		if l, ok := list[key].([]any); !ok || len(l) != 2 || l[0].(map[string]any)["slug"] != "alice" || l[0].(map[string]any)["url"] != stored {
			t.Errorf("%s: %v", key, list[key])
		}
	}
	// Paths that the operator chooses are reserved, too.
	h.must("settings.set", `{"name":"admin_web_path","value":"/backstage"}`)
	if _, err := h.op("sharing.create", fmt.Sprintf(`{"slug":"Backstage","url":%q}`, alice)); !fault.Is(err, fault.Invalid) {
		t.Errorf("the operators' path: %v", err)
	}
	if _, err := h.op("sharing.create", fmt.Sprintf(`{"slug":"forlater","url":%q}`, alice)); err != nil {
		t.Fatal(err)
	}
	h.must("settings.set", `{"name":"admin_web_path","value":"/forlater"}`)
	if code, _ := h.visit("/forlater"); code != 404 {
		t.Errorf("a link where the operator is: %d", code)
	}
	found := h.must("doctor", `{"checks":["sharing"]}`)
	if !strings.Contains(fmt.Sprint(found), "cannot be opened: 1") || !strings.Contains(fmt.Sprint(found), string(doctor.Warning)) {
		t.Errorf("%v", found)
	}
	h.must("sharing.remove", `{"slug":"forlater"}`)
	// What leads to an account goes with it.
	h.login("alicealice").Close()
	h.must("accounts.delete", `{"username":"alicealice"}`)
	if code, _ := h.visit("/alice"); code != 404 {
		t.Errorf("the account is gone, its page is not: %d", code)
	}
	h.must("settings.set", `{"name":"contact_sharing_enabled","value":"false"}`)
	for _, path := range []string{"/share", "/alice"} {
		if code, _ := h.visit(path); code != 404 {
			t.Errorf("%s when it is off again: %d", path, code)
		}
	}
}

// TestTheFileSwitchesContactPages, also while the server runs; and the links outlive it.
func TestTheFileSwitchesContactPages(t *testing.T) {
	h := newHouse(t)
	h.lines["enable_contact_sharing"], h.lines["sharing_dsn"] = `true`, `"file:links.db?cache=shared"`
	h.write()
	h.start()
	link, _ := inviteOf("bobbobbob")
	if code, body := h.visit("/share", "url", link, "slug", "bob"); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	h.stop()
	info, err := os.Stat(filepath.Join(h.dir, "links.db"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	h.start()
	if code, _ := h.visit("/bob"); code != 200 {
		t.Errorf("after a restart: %d", code)
	}
	h.lines["enable_contact_sharing"], h.lines["sharing_dsn"] = `false`, `"other.db"`
	h.write()
	r := h.must("reload", `{}`)
	if !strings.Contains(fmt.Sprint(r["restart_needed"]), "sharing_dsn") {
		t.Errorf("%v", r)
	}
	if code, _ := h.visit("/bob"); code != 404 {
		t.Errorf("after a reload: %d", code)
	}
}

// TestTheMainDatabaseIsNotThatOfLinks: its ledger is another one.
func TestTheMainDatabaseIsNotThatOfLinks(t *testing.T) {
	h := newHouse(t)
	h.lines["enable_contact_sharing"], h.lines["sharing_dsn"] = `true`, `"credentials.db"`
	h.write()
	h.start()
	link, _ := inviteOf("bobbobbob")
	if code, _ := h.visit("/share", "url", link, "slug", "bob"); code != 200 {
		t.Errorf("%d", code)
	}
	if _, err := os.Stat(filepath.Join(h.dir, share.FileName)); err != nil {
		t.Error(err)
	}
}

// TestADamagedSharingDatabaseDoesNotStopMail: it is told, and the pages are away.
func TestADamagedSharingDatabaseDoesNotStopMail(t *testing.T) {
	h := newHouse(t)
	h.lines["enable_contact_sharing"] = `true`
	h.write()
	junk := bytes.Repeat([]byte("no database "), 500)
	if err := os.WriteFile(filepath.Join(h.dir, share.FileName), junk, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.login("alicealice").Close()
	link, _ := inviteOf("alicealice")
	if code, _ := h.visit("/share", "url", link, "slug", "alice"); code != 503 {
		t.Errorf("%d", code)
	}
	if found := fmt.Sprint(h.must("doctor", `{"checks":["sharing"]}`)); !strings.Contains(found, string(doctor.Failure)) || !strings.Contains(found, "mail is not concerned") {
		t.Errorf("%s", found)
	}
	if got, err := os.ReadFile(filepath.Join(h.dir, share.FileName)); err != nil || !bytes.Equal(got, junk) {
		t.Errorf("the file was changed, or is gone: %v", err)
	}
	h.must("settings.set", `{"name":"contact_sharing_enabled","value":"false"}`)
	if _, err := h.op("settings.set", `{"name":"contact_sharing_enabled","value":"true"}`); err == nil {
		t.Error("it could be switched on")
	}
	if h.settings.Current().Bool(settings.ContactSharing) {
		t.Error("a switch that failed was stored")
	}
}

// TestABackupHoldsTheLinks that were made before it began.
func TestABackupHoldsTheLinks(t *testing.T) {
	h := newHouse(t)
	h.lines["enable_contact_sharing"] = `true`
	h.write()
	h.start()
	link, stored := inviteOf("bobbobbob")
	for i := range 20 {
		h.must("sharing.create", fmt.Sprintf(`{"slug":"before%d","url":%q}`, i, link))
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if _, err := h.op("sharing.create", fmt.Sprintf(`{"slug":"during%d","url":%q}`, i, link)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	dest := filepath.Join(t.TempDir(), "copy")
	_, err := h.op("backup", fmt.Sprintf(`{"dest":%q}`, dest))
	close(stop)
	work.Wait()
	if err != nil {
		t.Fatal(err)
	}
	h.stop()
	to := filepath.Join(t.TempDir(), "state")
	if _, err := backup.Restore(t.Context(), dest, to, &backup.Progress{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{share.FileName + "-wal", share.FileName + "-shm"} {
		if _, err := os.Stat(filepath.Join(to, name)); !os.IsNotExist(err) {
			t.Errorf("%s is in the copy: %v", name, err)
		}
	}
	s := share.New(share.Options{Path: filepath.Join(to, share.FileName)})
	for i := range 20 {
		if l, err := s.Get(t.Context(), fmt.Sprintf("before%d", i)); err != nil || l.URL != stored {
			t.Errorf("%+v, %v", l, err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// oldLinks writes the links of a predecessor.
func oldLinks(t testing.TB, path string) {
	t.Helper()
	_, stored := inviteOf("alicealice")
	d, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Exec("CREATE TABLE `contacts` (`slug` text,`url` text NOT NULL,`name` text,`created_at` datetime,PRIMARY KEY (`slug`)); INSERT INTO contacts VALUES ('alice', '" + stored + "', 'Alice', '2024-05-01 10:00:00+00:00'), ('x', 'openpgp4fpr:AAAA', NULL, NULL)"); err != nil {
		t.Fatal(err)
	}
}

// TestTheLinksOfTheFirstVersionAreTakenOver, where they are and from beside the index.
func TestTheLinksOfTheFirstVersionAreTakenOver(t *testing.T) {
	for _, beside := range []bool{false, true} {
		t.Run(fmt.Sprint("beside the index: ", beside), func(t *testing.T) {
			h := newHouse(t)
			h.firstVersion()
			old := h.dir
			if beside {
				old = t.TempDir()
				if err := os.Rename(filepath.Join(h.dir, "imapsql.db"), filepath.Join(old, "imapsql.db")); err != nil {
					t.Fatal(err)
				}
			}
			oldLinks(t, filepath.Join(old, share.FileName))
			o := h.options()
			if beside {
				o.ConfigPath = filepath.Join(h.dir, "maddy.conf")
				text := fmt.Sprintf("hostname first.example.org\nprimary_domain 127.0.0.1\nstate_dir %s\nstorage.imapsql local_mailboxes {\n driver sqlite3\n dsn %s\n msg_store fs %s\n}\n",
					h.dir, filepath.Join(old, "imapsql.db"), filepath.Join(h.dir, "messages"))
				if err := os.WriteFile(o.ConfigPath, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			dry, err := ImportV1(t.Context(), o, true, nil)
			if err != nil || dry.Contacts != 2 {
				t.Fatalf("dry run: %+v, %v", dry, err)
			}
			for _, want := range []int{2, 0} {
				r, err := ImportV1(t.Context(), o, false, nil)
				if err != nil || r.Contacts != want || r.NotTaken != 0 {
					t.Fatalf("%+v, %v, want %d", r, err, want)
				}
			}
			h.lines["enable_contact_sharing"] = `true`
			h.write()
			h.start()
			for _, path := range []string{"/alice", "/x"} {
				if code, _ := h.visit(path); code != 200 {
					t.Errorf("%s: %d", path, code)
				}
			}
			if _, err := os.Stat(filepath.Join(old, share.FileName)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEveryPathIsKnownToBeOne: whoever names something below "/" asks package route, so
// a door that it does not know would be hidden by a contact page, or hide one.
func TestEveryPathIsKnownToBeOne(t *testing.T) {
	paths := []string{mxdeliv.Path, adminui.RelayPath, "/.well-known/acme-challenge/x", "/inv/x", "/app", "/docs", "/madmail", "/webimap/ws", "/websmtp/send", "/metrics", "/debug/pprof/"}
	for _, e := range settings.Entries() {
		if e.Key == settings.AdminPath || e.Key == settings.AdminWebPath {
			paths = append(paths, e.Default)
		}
	}
	for _, p := range []string{"/relay", "/derp", "/ping", "/relay/probe", "/generate_204"} {
		if !irohrelay.Owns(p) {
			t.Errorf("%s is not the relay's any more", p)
		}
		paths = append(paths, p)
	}
	for _, p := range paths {
		if !route.Taken(route.First(p)) {
			t.Errorf("%s is not known", p)
		}
	}
}

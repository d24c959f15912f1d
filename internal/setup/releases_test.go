package setup

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"madmail/internal/fault"
)

// releaseServer lists releases as code hosts do, and serves files.
func releaseServer(t *testing.T, files map[string][]byte, rows string) *httptest.Server {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/list" {
			_, _ = w.Write([]byte(rows))
			return
		}
		if to, ok := strings.CutPrefix(r.URL.Path, "/hop"); ok && to != "" {
			http.Redirect(w, r, "/hop"+to[1:], http.StatusFound)
			return
		}
		data, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(web.Close)
	return web
}

func none(string) string { return "" }

// TestTheNewestReleaseIsTaken from a server on this machine: drafts, trials and programs
// for others are passed over; the program is verified and kept (operator specification 10.3).
func TestTheNewestReleaseIsTaken(t *testing.T) {
	tree, key, _ := newTree(t)
	asset := "madmail-" + runtime.GOOS + "-" + runtime.GOARCH + ".tar.gz"
	good := archive(t, map[string][]byte{"madmail": sign(key, script("3.1"))})
	row := func(tag, name string, more string) string {
		return fmt.Sprintf(`{"tag_name":%q,"published_at":"2026-01-02T03:04:05Z"%s,"assets":[{"name":"other.txt","size":1,"browser_download_url":"/other"},{"name":%q,"size":%d,"browser_download_url":"/files/%s"}]}`,
			tag, more, name, len(good), tag)
	}
	rows := []string{row("v4.0", asset, `,"draft":true`), row("v3.9", asset, `,"prerelease":true`), row("v3.5", "madmail-plan9-mips.tar.gz", ""), row("../../x", asset, ""), row("v3.1", asset, "")}
	for i := range 30 {
		rows = append(rows, row(fmt.Sprintf("v2.%d", 30-i), asset, ""))
	}
	web := releaseServer(t, map[string][]byte{"/files/v3.1": good}, "["+strings.Join(rows, ",")+"]")
	from := Releases{URL: web.URL + "/list", Key: tree.Key}
	list, err := from.List(t.Context(), false)
	if err != nil || len(list) != maxReleases || list[0].Version != "3.1" || list[0].Asset != asset || list[0].Size != int64(len(good)) || list[1].Version != "2.30" {
		t.Fatalf("%+v, %v", list, err)
	}
	r, err := from.Latest(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	var got, total int64
	data, source, plain, err := Fetch(t.Context(), r.URL, false, func(g, of int64) { got, total = g, of })
	if err != nil || !plain || got != int64(len(good)) || total != got {
		t.Fatalf("%v, plain %v, %d of %d", err, plain, got, total)
	}
	p, err := tree.Check(data, false)
	if err != nil || !p.Archived || !p.Signed {
		t.Fatalf("%v", err)
	}
	if err := tree.Try(t.Context(), p); err != nil {
		t.Error(err)
	}
	v, err := tree.Keep(t.Context(), p, source, r.URL)
	if err != nil || v.Version != "3.1" || v.Meta.SourceURL != r.URL {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestWhereReleasesAre: the environment, else the configuration, else the build, which
// knows none; without a place the error names what to set.
func TestWhereReleasesAre(t *testing.T) {
	tree, _, _ := newTree(t)
	key := base64.StdEncoding.EncodeToString(tree.Key)
	r, err := WhereReleases("https://a.example/list", key, none)
	if err != nil || r.URL != "https://a.example/list" || !r.Key.Equal(tree.Key) {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = WhereReleases("https://a.example/list", "", func(name string) string {
		return map[string]string{"MADMAIL_RELEASE_URL": "https://b.example/list", "MADMAIL_RELEASE_KEY": key}[name]
	})
	if err != nil || r.URL != "https://b.example/list" || !r.Key.Equal(tree.Key) {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := WhereReleases("", "c2hvcnQ=", none); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	r, err = WhereReleases("", "", none)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Latest(t.Context(), false); !fault.Is(err, fault.NotFound) || !strings.Contains(fault.HintOf(err), "release_url") {
		t.Error(err, fault.HintOf(err))
	}
}

// TestAListThatIsNone: not JSON, endless, not there, for nobody.
func TestAListThatIsNone(t *testing.T) {
	empty, err := json.Marshal([]int{})
	if err != nil {
		t.Fatal(err)
	}
	for name, rows := range map[string]string{"no JSON": "<html>", "too long": "[" + strings.Repeat(" ", maxList) + "]"} {
		web := releaseServer(t, nil, rows)
		if _, err := (Releases{URL: web.URL + "/list"}).List(t.Context(), false); !fault.Is(err, fault.Invalid) {
			t.Error(name, err)
		}
	}
	web := releaseServer(t, map[string][]byte{"/hop": []byte("x")}, string(empty))
	if _, err := (Releases{URL: web.URL + "/nothing"}).List(t.Context(), false); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if _, err := (Releases{URL: web.URL + "/list"}).Latest(t.Context(), false); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if _, _, _, err := Fetch(t.Context(), web.URL+"/hop12345", false, nil); err != nil {
		t.Error("five redirects:", err)
	}
	if _, _, _, err := Fetch(t.Context(), web.URL+"/hop123456", false, nil); !fault.Is(err, fault.Refused) {
		t.Error("six redirects:", err)
	}
	tls := httptest.NewTLSServer(http.RedirectHandler(web.URL+"/hop", http.StatusFound))
	defer tls.Close()
	if _, _, _, err := Fetch(t.Context(), tls.URL, true, nil); !fault.Is(err, fault.Refused) {
		t.Error("from https to http:", err)
	}
}

package setup

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/version"
)

// Releases is where releases are listed, and who vouches for them.
type Releases struct {
	URL string            // of the list; "" is nowhere
	Key ed25519.PublicKey // nil is nobody
}

// Names of the variables and keys that say where releases are.
const (
	releaseURLVar = "MADMAIL_RELEASE_URL"
	releaseKeyVar = "MADMAIL_RELEASE_KEY"
)

// WhereReleases takes the environment's word, else the configuration's, else that of the
// build. A key that is none is an error of kind fault.Invalid.
func WhereReleases(confURL, confKey string, env func(string) string) (Releases, error) {
	r := Releases{URL: cmp.Or(env(releaseURLVar), confURL, version.ReleaseURL)}
	if text := cmp.Or(env(releaseKeyVar), confKey, version.ReleaseKey); text != "" {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return r, fault.WithHint(fault.New(fault.Invalid, "the key of releases is not an Ed25519 public key in base64"), "see release_key in the configuration, and "+releaseKeyVar)
		}
		r.Key = key
	}
	return r, nil
}

// Release is a program that can be fetched for this machine.
type Release struct {
	Version     string `json:"version"`
	PublishedAt string `json:"published_at"`
	Asset       string `json:"asset"`
	Size        int64  `json:"asset_size"`
	URL         string `json:"url"`
}

// Bounds of a list of releases.
const (
	maxReleases = 20
	maxList     = 4 << 20
	listTimeout = 30 * time.Second
)

// List returns the releases for this machine, the newest first: no drafts, no trials, at
// most 20. The list is JSON as code hosts give it; programs are called by the product, not
// by what this one is called here.
func (r Releases) List(ctx context.Context, insecure bool) ([]Release, error) {
	if r.URL == "" {
		return nil, fault.WithHint(fault.New(fault.NotFound, "this program does not know where releases are"),
			"set release_url (and release_key) in the configuration, or "+releaseURLVar+"; or give the path or the URL of a program")
	}
	base, err := url.Parse(r.URL)
	if err != nil || base.Host == "" {
		return nil, fault.WithHint(fault.New(fault.Invalid, "release_url is not an address"), "it is the https address of a list of releases")
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	body, _, done, err := download(ctx, r.URL, insecure)
	if err != nil {
		return nil, err
	}
	defer done()
	raw, err := io.ReadAll(io.LimitReader(body, maxList+1))
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "the list of releases")
	}
	var rows []struct {
		Tag         string `json:"tag_name"`
		Draft       bool   `json:"draft"`
		Prerelease  bool   `json:"prerelease"`
		PublishedAt string `json:"published_at"`
		Assets      []struct {
			Name string `json:"name"`
			Size int64  `json:"size"`
			URL  string `json:"browser_download_url"`
		} `json:"assets"`
	}
	if len(raw) > maxList || json.Unmarshal(raw, &rows) != nil {
		return nil, fault.New(fault.Invalid, "what release_url answers is no list of releases")
	}
	list := []Release{}
	for _, x := range rows {
		id := strings.TrimPrefix(x.Tag, "v")
		if x.Draft || x.Prerelease || checkID(id) != nil || len(list) == maxReleases {
			continue
		}
		for _, suffix := range []string{".tar.gz", ".tgz", ""} {
			want := version.Name + "-" + runtime.GOOS + "-" + runtime.GOARCH + suffix
			found := false
			for _, a := range x.Assets {
				at, err := base.Parse(a.URL)
				if a.Name != want || a.URL == "" || err != nil {
					continue
				}
				list = append(list, Release{Version: id, PublishedAt: x.PublishedAt, Asset: a.Name, Size: a.Size, URL: at.String()})
				found = true
				break
			}
			if found {
				break
			}
		}
	}
	return list, nil
}

// Latest returns the newest release for this machine.
func (r Releases) Latest(ctx context.Context, insecure bool) (Release, error) {
	list, err := r.List(ctx, insecure)
	if err == nil && len(list) == 0 {
		err = fault.Newf(fault.NotFound, "there is no release for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	if err != nil {
		return Release{}, err
	}
	return list[0], nil
}

// Versions is the tree of this machine, or of an image below root, for the program called
// name.
func Versions(root, name string, key ed25519.PublicKey, env func(string) string) Tree {
	m := Machine(root)
	t := Tree{System: m, Name: name, Key: key, Link: "/usr/local/bin/" + name,
		Dir: cmp.Or(env("MADMAIL_INSTALL_ROOT"), env("MADMAIL_OPT_ROOT"), "/opt/"+name)}
	l := Layout{Name: name}.Fill()
	if _, err := os.Stat(l.Unit()); err == nil && m.Manager && env("MADMAIL_VERSION_MANAGER_NO_SERVICE") != "1" {
		t.Service = func(ctx context.Context, word string) error {
			if word == "start" {
				// Several starts in a few seconds are no reason to refuse one. It fails for
				// a unit that nothing is known of; then there is nothing to reset.
				_, _ = m.Run(ctx, "systemctl", "reset-failed", l.Service)
			}
			_, err := m.Run(ctx, "systemctl", word, l.Service)
			return err
		}
	}
	return t
}

// Progress is told how many octets of a download are there; total is -1 when the server
// did not say.
type Progress func(got, total int64)

// idle is how long a download may make no headway.
const idle = time.Minute

const maxRedirects = 5

// download begins to read an address. done ends it. Redirects are followed, but never
// from https to http.
func download(ctx context.Context, from string, insecure bool) (body io.Reader, size int64, done func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	slow := time.AfterFunc(idle, func() { cancel(fault.New(fault.Busy, "nothing came for a minute")) })
	client := &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{InsecureSkipVerify: insecure}},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			switch {
			case len(via) > maxRedirects:
				return fault.New(fault.Refused, "too many redirects")
			case r.URL.Scheme != "https" && via[0].URL.Scheme == "https":
				return fault.New(fault.Refused, "a redirect leads from https to "+r.URL.Scheme)
			}
			return nil
		},
	}
	end := func() { slow.Stop(); cancel(nil); client.CloseIdleConnections() }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		end()
		return nil, 0, nil, fault.Wrap(fault.Invalid, err, "fetch")
	}
	res, err := client.Do(req)
	if err != nil {
		end()
		kind := fault.Busy
		if fault.Is(err, fault.Refused) {
			kind = fault.Refused
		}
		return nil, 0, nil, fault.Wrap(kind, errors.Join(err, context.Cause(ctx)), "fetch")
	}
	if res.StatusCode != http.StatusOK {
		defer end()
		_ = res.Body.Close()
		return nil, 0, nil, fault.Newf(fault.NotFound, "%s answered %s", req.URL.Redacted(), res.Status)
	}
	return &patient{r: res.Body, slow: slow, ctx: ctx}, res.ContentLength, func() { _ = res.Body.Close(); end() }, nil
}

// patient reads as long as something comes.
type patient struct {
	r    io.Reader
	slow *time.Timer
	ctx  context.Context
}

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.slow.Reset(idle)
	}
	if err != nil && err != io.EOF && context.Cause(p.ctx) != nil {
		err = context.Cause(p.ctx)
	}
	return n, err
}

// counted tells how far a reader is.
type counted struct {
	r          io.Reader
	got, total int64
	tell       Progress
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.got += int64(n)
	c.tell(c.got, c.total)
	return n, err
}

package setup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// MaxProgram bounds a program and an archive of one, in octets.
const MaxProgram = 100 << 20

// Tree is the versions of the program that are kept side by side:
//
//	Dir/versions/VERSION/NAME       the program
//	Dir/versions/VERSION/meta.json  where it is from
//	Dir/current                     a link to the one in use
//
// and Link, which leads to the program in current.
type Tree struct {
	System
	Name string // of the program
	Dir  string
	Link string
	// Key verifies programs: their last 64 octets are an Ed25519 signature (RFC 8032)
	// of the rest. nil verifies none.
	Key ed25519.PublicKey
	// Service stops and starts the service, by the words "stop" and "start"; start
	// returns when it is ready. nil leaves it alone.
	Service func(ctx context.Context, word string) error
}

// Meta is what is known of a version.
type Meta struct {
	Version     string `json:"version"`
	InstalledAt string `json:"installed_at"`
	Source      string `json:"source"` // file, url or adopted
	SourceURL   string `json:"source_url,omitempty"`
	SHA256      string `json:"sha256"`
	OS          string `json:"os"`
	SignatureOK bool   `json:"signature_ok"`
}

// Version is one that is kept.
type Version struct {
	Version string `json:"version"`
	Path    string `json:"path"`
	Binary  string `json:"binary"`
	Active  bool   `json:"active"`
	Meta    *Meta  `json:"meta"`
}

// Switched says what Use and Upgrade did.
type Switched struct {
	Version     string `json:"version"`
	Previous    string `json:"previous"`
	Path        string `json:"path"`
	SignatureOK bool   `json:"signature_ok"`
	RolledBack  bool   `json:"rolled_back"`
}

func (t Tree) versions() string         { return filepath.Join(t.Dir, "versions") }
func (t Tree) place(id string) string   { return filepath.Join(t.versions(), id) }
func (t Tree) program(id string) string { return filepath.Join(t.place(id), t.Name) }

// Program is the file of a version that is kept.
func (t Tree) Program(id string) string { return t.program(id) }

// checkID refuses names that would lead out of the tree.
func checkID(id string) error {
	bad := strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("._+-", r))
	})
	if id == "" || len(id) > 100 || bad || strings.Trim(id, ".") == "" {
		return fault.Newf(fault.Invalid, "%.100q is not a version", id)
	}
	return nil
}

// Current is the version in use, or "".
func (t Tree) Current() string {
	to, err := os.Readlink(t.at(filepath.Join(t.Dir, "current")))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// List returns the versions, the newest first.
func (t Tree) List() ([]Version, error) {
	entries, err := os.ReadDir(t.at(t.versions()))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fault.Wrap(fault.Invalid, err, "versions")
	}
	list, current := []Version{}, t.Current()
	for _, e := range entries {
		id := e.Name()
		if checkID(id) != nil || !t.exists(t.program(id)) {
			continue
		}
		v := Version{Version: id, Path: t.place(id), Binary: t.program(id), Active: id == current}
		if raw, err := os.ReadFile(t.at(filepath.Join(t.place(id), "meta.json"))); err == nil {
			var m Meta
			if json.Unmarshal(raw, &m) == nil {
				v.Meta = &m
			}
		}
		list = append(list, v)
	}
	when := func(v Version) string {
		if v.Meta == nil {
			return ""
		}
		return v.Meta.InstalledAt
	}
	slices.SortStableFunc(list, func(a, b Version) int { return strings.Compare(when(b)+b.Version, when(a)+a.Version) })
	return list, nil
}

// ErrSignature says that a program is not what the key vouches for.
var ErrSignature = fault.WithHint(fault.New(fault.Refused, "INVALID SIGNATURE"), "nothing was changed; take the file from where releases are")

// signed reports whether a program carries a good signature.
func (t Tree) signed(program []byte) bool {
	n := len(program) - ed25519.SignatureSize
	return t.Key != nil && n > 0 && ed25519.Verify(t.Key, program[:n], program[n:])
}

// Fetch reads a program from a path or a URL. insecure takes any certificate. Plain HTTP
// is taken as well, and told by plain: who is at the other end is for the signature to
// say. tell, when not nil, is told how far it is.
func Fetch(ctx context.Context, from string, insecure bool, tell Progress) (program []byte, source string, plain bool, err error) {
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		f, err := os.Open(from)
		if err != nil {
			return nil, "", false, fault.Wrap(fault.Invalid, err, "upgrade")
		}
		defer f.Close()
		program, err = limited(f)
		return program, "file", false, err
	}
	body, size, done, err := download(ctx, from, insecure)
	if err != nil {
		return nil, "", false, err
	}
	defer done()
	if size > MaxProgram {
		return nil, "", false, errLarge
	}
	if tell != nil {
		body = &counted{r: body, total: size, tell: tell}
	}
	program, err = limited(body)
	return program, "url", u.Scheme == "http", err
}

var errLarge = fault.New(fault.TooBig, "a program has at most 100 MiB")

func limited(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxProgram+1))
	if err != nil {
		return nil, fault.Wrap(fault.Busy, err, "read the program")
	}
	if len(data) > MaxProgram {
		return nil, errLarge
	}
	return data, nil
}

var gzipMagic = []byte{0x1f, 0x8b}

// unpack takes the program out of a .tar.gz with one file, or returns what is no
// archive as it is.
func unpack(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, gzipMagic) {
		if bytes.HasPrefix(data, []byte("PK\x03\x04")) || bytes.HasPrefix(data, []byte("\xfd7zXZ")) || bytes.HasPrefix(data, []byte("BZh")) {
			return nil, fault.New(fault.Invalid, "this kind of archive is not read; .tar.gz is")
		}
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "unpack")
	}
	files := tar.NewReader(z)
	var program []byte
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "unpack")
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || program != nil {
			return nil, fault.New(fault.Invalid, "the archive holds more than one program")
		}
		if program, err = limited(files); err != nil && !fault.Is(err, fault.TooBig) {
			err = fault.Wrap(fault.Invalid, err, "unpack")
		}
		if err != nil {
			return nil, err
		}
	}
	if len(program) == 0 {
		return nil, fault.New(fault.Invalid, "the archive holds no program")
	}
	return program, nil
}

// Program is one that was looked at: unpacked, and its signature checked.
type Program struct {
	data     []byte
	Archived bool // it came in an archive
	Signed   bool // the key vouches for it
}

// Check unpacks a program and verifies its signature. It writes and runs nothing.
// unsigned takes one that the key does not vouch for.
func (t Tree) Check(data []byte, unsigned bool) (Program, error) {
	program, err := unpack(data)
	if err != nil {
		return Program{}, err
	}
	p := Program{data: program, Archived: bytes.HasPrefix(data, gzipMagic), Signed: t.signed(program)}
	if !p.Signed && !unsigned {
		if t.Key == nil {
			return Program{}, fault.WithHint(fault.New(fault.Refused, "this program knows no key of releases, and cannot tell who made the new one"),
				"--unsigned takes what you built or checked yourself; release_key in the configuration or "+releaseKeyVar+" says who signs releases")
		}
		return Program{}, ErrSignature
	}
	return p, nil
}

// Try runs a program once, in a directory of its own, to see whether it runs here.
func (t Tree) Try(ctx context.Context, p Program) error {
	dir, err := os.MkdirTemp("", "preflight-*")
	if err != nil {
		return fault.Wrap(fault.Busy, err, "preflight")
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, t.Name)
	if err := safefile.Write(path, p.data, 0o755); err != nil {
		return err
	}
	if _, err = preflight(ctx, path); errors.Is(err, os.ErrPermission) {
		return nil // nothing runs in that place; Keep tries where programs are
	}
	return err
}

// Add is Check and Keep.
func (t Tree) Add(ctx context.Context, data []byte, source, from string, unsigned bool) (Version, error) {
	p, err := t.Check(data, unsigned)
	if err != nil {
		return Version{}, err
	}
	return t.Keep(ctx, p, source, from)
}

// Keep keeps a program. It is run once, to learn its version and that it runs here; when
// that fails nothing stays.
func (t Tree) Keep(ctx context.Context, p Program, source, from string) (Version, error) {
	program, good := p.data, p.Signed
	if err := os.MkdirAll(t.at(t.versions()), 0o755); err != nil {
		return Version{}, fault.Wrap(fault.Invalid, err, "versions")
	}
	tmp, err := os.MkdirTemp(t.at(t.versions()), ".new-*")
	if err != nil {
		return Version{}, fault.Wrap(fault.Invalid, err, "versions")
	}
	defer os.RemoveAll(tmp)
	path := filepath.Join(tmp, t.Name)
	if err := errors.Join(os.Chmod(tmp, 0o755), safefile.Write(path, program, 0o755)); err != nil {
		return Version{}, err
	}
	id, err := preflight(ctx, path)
	if err != nil {
		return Version{}, err
	}
	sum := sha256.Sum256(program)
	m := Meta{Version: id, InstalledAt: t.Now().UTC().Format(time.RFC3339), Source: source, SHA256: hex.EncodeToString(sum[:]), OS: runtime.GOOS + "/" + runtime.GOARCH, SignatureOK: good}
	if source == "url" {
		m.SourceURL = from
	}
	list, err := t.List()
	if err != nil {
		return Version{}, err
	}
	for _, v := range list {
		if v.Meta != nil && v.Meta.SHA256 == m.SHA256 {
			return v, nil // it is there
		}
	}
	if t.exists(t.place(id)) { // another build of the same version
		id += "+" + m.SHA256[:8]
	}
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Version{}, err
	}
	if err := safefile.Write(filepath.Join(tmp, "meta.json"), append(raw, '\n'), 0o644); err != nil {
		return Version{}, err
	}
	if err := os.Rename(tmp, t.at(t.place(id))); err != nil {
		return Version{}, fault.Wrap(fault.Busy, err, "versions")
	}
	return Version{Version: id, Path: t.place(id), Binary: t.program(id), Meta: &m}, nil
}

// preflight runs a program with "version" and returns what it says.
func preflight(ctx context.Context, path string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fault.WithHint(fault.Wrap(fault.Refused, err, "preflight: the new program does not run here, and the installed one was NOT replaced"), "is it for "+runtime.GOOS+"/"+runtime.GOARCH+"?")
	}
	line, _, _ := strings.Cut(string(out), "\n")
	words := strings.Fields(line)
	if len(words) < 2 || checkID(words[1]) != nil {
		return "", fault.WithHint(fault.Newf(fault.Refused, "the new program says %.60q when asked for its version", line), "nothing was changed; is it a mail server?")
	}
	return words[1], nil
}

// Use lets a version run. When the service does not come back with it, the one before
// runs again and RolledBack is set, with an error.
func (t Tree) Use(ctx context.Context, id string) (Switched, error) {
	if err := checkID(id); err != nil {
		return Switched{}, err
	}
	program, err := os.ReadFile(t.at(t.program(id)))
	if err != nil {
		return Switched{}, fault.WithHint(fault.Newf(fault.NotFound, "version %s is not here", id), t.Name+" versions list")
	}
	s := Switched{Version: id, Path: t.program(id), SignatureOK: t.signed(program)}
	list, err := t.List()
	if err != nil {
		return s, err
	}
	for _, v := range list {
		if v.Version == id && v.Meta != nil && v.Meta.SHA256 != "" { // the second version notes no sum, and its key is another
			if sum := sha256.Sum256(program); hex.EncodeToString(sum[:]) != v.Meta.SHA256 || v.Meta.SignatureOK && t.Key != nil && !s.SignatureOK {
				return s, ErrSignature // somebody changed it here
			}
		}
	}
	if s.Previous = t.Current(); s.Previous == "" {
		if s.Previous, err = t.adopt(ctx); err != nil {
			return s, err
		}
	}
	if t.Service == nil {
		return s, t.point(id)
	}
	if err := t.Service(ctx, "stop"); err != nil {
		return s, err
	}
	err = t.point(id)
	if err == nil {
		err = t.Service(ctx, "start")
	}
	if err == nil || s.Previous == "" || s.Previous == id {
		return s, err
	}
	s.RolledBack = true
	back := t.point(s.Previous)
	if back == nil {
		back = t.Service(ctx, "start")
	}
	if back != nil {
		return s, fault.WithHint(fault.Wrap(fault.Internal, errors.Join(err, back), fmt.Sprintf("version %s does not start, and %s does not start again", id, s.Previous)), "systemctl status "+t.Name)
	}
	return s, fault.Wrap(fault.Refused, err, fmt.Sprintf("version %s does not start; %s runs again", id, s.Previous))
}

// adopt keeps the program that was installed without a tree, so that there is a way
// back. "" is none.
func (t Tree) adopt(ctx context.Context) (string, error) {
	data, err := os.ReadFile(t.at(t.Link))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "keep the present program")
	}
	v, err := t.Add(ctx, data, "adopted", "", true)
	return v.Version, err
}

// point lets the links lead to a version, each at once.
func (t Tree) point(id string) error {
	current := filepath.Join(t.Dir, "current")
	for _, l := range [][2]string{{current, filepath.Join("versions", id)}, {t.Link, filepath.Join(current, t.Name)}} {
		if to, err := os.Readlink(t.at(l[0])); err == nil && to == l[1] {
			continue
		}
		tmp := t.at(l[0]) + ".new"
		if err := os.MkdirAll(filepath.Dir(tmp), 0o755); err != nil {
			return fault.Wrap(fault.Invalid, err, "versions")
		}
		if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fault.Wrap(fault.Busy, err, "versions")
		}
		if err := errors.Join(os.Symlink(l[1], tmp), os.Rename(tmp, t.at(l[0]))); err != nil {
			return fault.Wrap(fault.Busy, err, "versions")
		}
	}
	return nil
}

// Remove forgets a version that is not in use.
func (t Tree) Remove(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	switch {
	case id == t.Current():
		return fault.Newf(fault.Refused, "version %s is in use", id)
	case !t.exists(t.place(id)):
		return fault.Newf(fault.NotFound, "version %s is not here", id)
	}
	return t.remove(t.place(id))
}

// Prune forgets all but the newest keep versions. The one in use stays in any case.
func (t Tree) Prune(keep int) (removed []string, err error) {
	list, err := t.List()
	removed = []string{}
	for i, v := range list {
		if i < keep || v.Active {
			continue
		}
		if err := t.Remove(v.Version); err != nil {
			return removed, err
		}
		removed = append(removed, v.Version)
	}
	return removed, err
}

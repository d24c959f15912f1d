package certs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"madmail/internal/address"
	"madmail/internal/dkim"
	"madmail/internal/fault"
	"madmail/internal/safefile"
)

// DefaultSelector is the selector when the setting names none.
const DefaultSelector = "default"

// KeepRetired is how long the record of a replaced key has to stay in the DNS, and
// its files here: peers retry mail for days, and check it when it arrives.
const KeepRetired = 7 * 24 * time.Hour

// maxDKIMFile bounds what is read of a key or a state file, in octets.
const maxDKIMFile = 64 << 10

// DKIMOptions say where the keys are and whom they are for.
type DKIMOptions struct {
	StateDir string
	// Domains are ours, the primary one first. IP literals have no key.
	Domains []address.Domain
	// Selector is the active one; "" is DefaultSelector.
	Selector string
	// Algorithm is that of keys made here.
	Algorithm dkim.Algorithm
	Logger    *slog.Logger
	Now       func() time.Time
}

// DKIM keeps the signing keys of our domains. One selector is active; a rotation
// adds a next one, which signs only after its record was seen in the DNS and Use was
// called; the old one is retired, and removed KeepRetired later. A key is never
// replaced under its selector: peers keep keys without end and would refuse our mail.
//
// On disk, below the state directory:
//
//	dkim_keys/<domain>_<selector>.key   private key, PKCS #8 in PEM, mode 0600
//	dkim_keys/<domain>_<selector>.dns   text of the TXT record to publish, mode 0644
//	dkim_keys/state.json                selectors: active, next, retired since when
//	dkim/default.private                key of a later predecessor, copied when there is none of ours
//
// All methods may be called from many goroutines. Make one with OpenDKIM.
type DKIM struct {
	opt     DKIMOptions
	dir     string
	signers atomic.Pointer[map[address.Domain]*dkim.Signer]

	mu      sync.Mutex // guards the fields below and the files; held over syncs
	domains []address.Domain
	state   dkimState
}

// dkimState is state.json.
type dkimState struct {
	Active  string    `json:"active"`
	Next    string    `json:"next,omitempty"`
	Retired []retired `json:"retired,omitempty"`
}

type retired struct {
	Selector string    `json:"selector"`
	Since    time.Time `json:"since"`
}

// Phase says what a key is used for.
type Phase string

// The phases.
const (
	Active  Phase = "active"  // signs
	Next    Phase = "next"    // made by a rotation, waits for its record
	Retired Phase = "retired" // signs no more; its record stays for a while
)

// DKIMRecord is a key and the record that publishes it.
type DKIMRecord struct {
	Domain   address.Domain
	Selector string
	Phase    Phase
	Name     string // relative to the domain: default._domainkey
	FQDN     string
	KeyPath  string
	TXTPath  string
	TXT      string
	// Until is when a retired record may be removed from the DNS.
	Until time.Time
}

// DKIMCheck compares a record with what the DNS says.
type DKIMCheck struct {
	DKIMRecord
	Published []string
	Match     dkim.Match
	// Err is why nothing could be asked; Match says nothing then. A name that does
	// not exist is no error but dkim.Missing.
	Err error
}

// OpenDKIM loads the keys, and makes those that are missing. It makes none when
// everything of a key but the private part is there.
//
// Errors: fault.Invalid names the file, the domain or the selector that is wrong;
// fault.Busy for a full disk.
func OpenDKIM(o DKIMOptions) (*DKIM, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	k := &DKIM{opt: o, dir: filepath.Join(o.StateDir, "dkim_keys")}
	k.signers.Store(&map[address.Domain]*dkim.Signer{})
	raw, err := readSmall(k.statePath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fault.Wrap(fault.Invalid, err, "certs")
	default:
		if err := json.Unmarshal(raw, &k.state); err != nil {
			return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "certs: "+k.statePath()), "remove the file; it only remembers when keys were replaced")
		}
	}
	if entries, err := os.ReadDir(k.dir); err == nil {
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), ".tmp") {
				_ = os.Remove(filepath.Join(k.dir, e.Name())) // of a write that was interrupted
			}
		}
	}
	return k, k.Use(o.Domains, o.Selector)
}

// Use makes a selector the active one, for these domains. When it fails everything
// stays as it was. Errors are those of OpenDKIM.
func (k *DKIM) Use(domains []address.Domain, selector string) error {
	selector = cmp.Or(selector, DefaultSelector)
	var named []address.Domain
	for _, d := range domains {
		if _, literal := d.IP(); !literal && d != "" && !slices.Contains(named, d) {
			named = append(named, d)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	signers := make(map[address.Domain]*dkim.Signer, len(named))
	for i, d := range named {
		key, err := k.keyLocked(d, selector, i == 0)
		if err != nil {
			return err
		}
		if signers[d], err = dkim.NewSigner(string(d), selector, key); err != nil {
			return err
		}
	}
	state := k.state
	if state.Active != selector && len(named) > 0 {
		state.Retired = slices.Clone(state.Retired)
		if state.Active != "" {
			state.Retired = append(state.Retired, retired{state.Active, k.opt.Now().UTC().Truncate(time.Second)})
		}
		state.Retired = slices.DeleteFunc(state.Retired, func(r retired) bool { return r.Selector == selector })
		state.Active = selector
		if state.Next == selector {
			state.Next = ""
		}
		if err := k.saveLocked(state); err != nil {
			return err
		}
	}
	k.state, k.domains = state, named
	k.signers.Store(&signers)
	return nil
}

// Sign returns the signature field for a message From a domain, or nil when the
// domain has no key: an IP literal, or not ours. Otherwise as dkim.Signer.Sign.
func (k *DKIM) Sign(from address.Domain, header []byte, body io.Reader) ([]byte, error) {
	s := (*k.signers.Load())[from]
	if s == nil {
		return nil, nil
	}
	return s.Sign(header, body)
}

// Records returns every record that has to be in the DNS: active, next, retired.
func (k *DKIM) Records() []DKIMRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []DKIMRecord
	for _, d := range k.domains {
		out = k.appendLocked(out, d, k.state.Active, Active, time.Time{})
		if k.state.Next != "" {
			out = k.appendLocked(out, d, k.state.Next, Next, time.Time{})
		}
		for _, r := range k.state.Retired {
			out = k.appendLocked(out, d, r.Selector, Retired, r.Since.Add(KeepRetired))
		}
	}
	return out
}

// appendLocked adds a record if its text is there.
func (k *DKIM) appendLocked(out []DKIMRecord, d address.Domain, selector string, p Phase, until time.Time) []DKIMRecord {
	key, txt := k.paths(d, selector)
	raw, err := readSmall(txt)
	if err != nil {
		if p != Retired {
			k.opt.Logger.Error("read a DKIM record", "err", err)
		}
		return out
	}
	return append(out, DKIMRecord{Domain: d, Selector: selector, Phase: p, Name: selector + "._domainkey", FQDN: dkim.Name(selector, string(d)),
		KeyPath: key, TXTPath: txt, TXT: strings.TrimSpace(string(raw)), Until: until})
}

// CheckDKIM compares records with what lookup finds. It asks for one after the other.
func CheckDKIM(ctx context.Context, records []DKIMRecord, lookup dkim.LookupTXT) []DKIMCheck {
	out := make([]DKIMCheck, len(records))
	for i, r := range records {
		out[i] = DKIMCheck{DKIMRecord: r, Match: dkim.Missing}
		txts, err := lookup(ctx, r.FQDN)
		switch {
		case fault.Is(err, fault.NotFound):
		case err != nil:
			out[i].Err = err
		default:
			out[i].Published, out[i].Match = txts, dkim.Compare(r.TXT, txts)
		}
	}
	return out
}

// Rotate makes keys under a new selector; "" chooses one by the date. They do not
// sign: publish the records, check them, then store the selector as the setting and
// call Use. While a rotation is under way its records are returned again.
//
// Errors: fault.Exists when the selector was used before or another rotation is under
// way, fault.Invalid for a bad selector or when no domain of ours is a name.
func (k *DKIM) Rotate(selector string) ([]DKIMRecord, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.domains) == 0 {
		return nil, fault.New(fault.Invalid, "only IP addresses here: there is nothing to sign for")
	}
	switch {
	case k.state.Next == "" && selector == "":
		selector = k.freeSelectorLocked()
	case k.state.Next != "" && (selector == "" || selector == k.state.Next):
		selector = k.state.Next
	case k.state.Next != "":
		return nil, fault.WithHint(fault.Newf(fault.Exists, "a rotation to selector %q is under way", k.state.Next), "finish it, or abandon it first")
	}
	// Before it becomes a file name.
	if err := dkim.CheckNames(string(k.domains[0]), selector); err != nil {
		return nil, err
	}
	if selector != k.state.Next && k.usedLocked(selector) {
		return nil, fault.WithHint(fault.Newf(fault.Exists, "selector %q was used before", selector), "peers remember keys by their selector; choose a new one")
	}
	for i, d := range k.domains {
		if _, err := k.keyLocked(d, selector, i == 0); err != nil {
			return nil, err
		}
	}
	if state := k.state; state.Next != selector {
		state.Next = selector
		if err := k.saveLocked(state); err != nil {
			return nil, err
		}
		k.state = state
	}
	var out []DKIMRecord
	for _, d := range k.domains {
		out = k.appendLocked(out, d, selector, Next, time.Time{})
	}
	return out, nil
}

// Abandon ends a rotation that was not finished, and removes its keys. Without one it
// does nothing.
func (k *DKIM) Abandon() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	state := k.state
	selector := state.Next
	if selector == "" {
		return nil
	}
	state.Next = ""
	if err := k.saveLocked(state); err != nil {
		return err
	}
	k.state = state
	return k.removeLocked(selector)
}

// Prune removes the files of keys that were retired KeepRetired ago, and returns
// their selectors. It belongs into a daily job.
func (k *DKIM) Prune() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.opt.Now()
	var gone []string
	state := k.state
	state.Retired = slices.DeleteFunc(slices.Clone(state.Retired), func(r retired) bool {
		old := now.Sub(r.Since) >= KeepRetired
		if old {
			gone = append(gone, r.Selector)
		}
		return old
	})
	if len(gone) == 0 {
		return nil, nil
	}
	// Files first: a crash between leaves a line without files, which is removed next time.
	for _, s := range gone {
		if err := k.removeLocked(s); err != nil {
			return nil, err
		}
	}
	if err := k.saveLocked(state); err != nil {
		return nil, err
	}
	k.state = state
	return gone, nil
}

func (k *DKIM) statePath() string { return filepath.Join(k.dir, "state.json") }

// paths returns the files of a key. Domain and selector hold no slash: both are
// checked names when this is called.
func (k *DKIM) paths(d address.Domain, selector string) (key, txt string) {
	base := filepath.Join(k.dir, string(d)+"_"+selector)
	return base + ".key", base + ".dns"
}

// keyLocked loads a key, or makes it. primary lets it take over a key of another
// layout.
func (k *DKIM) keyLocked(d address.Domain, selector string, primary bool) (*dkim.Key, error) {
	// Before anything becomes a file name.
	if err := dkim.CheckNames(string(d), selector); err != nil {
		return nil, err
	}
	keyPath, txtPath := k.paths(d, selector)
	raw, err := readSmall(keyPath)
	switch {
	case err == nil:
		key, err := dkim.ParseKey(raw)
		if err != nil {
			return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "certs: "+keyPath), "restore the key from a backup, or choose another selector")
		}
		return key, k.publishLocked(key, txtPath)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "certs"), "give the server's user read access to the DKIM keys")
	}
	if _, err := os.Stat(txtPath); err == nil {
		return nil, fault.WithHint(fault.Newf(fault.Invalid, "certs: %s is missing, and its record was published", keyPath),
			"restore the key from a backup, or choose another selector: peers refuse a new key under an old one")
	}
	key, err := k.otherwise(d, selector)
	if err == nil && key == nil {
		key, err = k.legacy(selector, primary)
	}
	if err != nil {
		return nil, err
	}
	if key == nil {
		if key, err = dkim.Generate(k.opt.Algorithm); err != nil {
			return nil, err
		}
		k.opt.Logger.Info("DKIM key made", "domain", string(d), "selector", selector, "key", key.String())
	}
	pem, err := key.PEM()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Busy, err, "certs")
	}
	if err := safefile.Write(keyPath, pem, 0o600); err != nil {
		return nil, err
	}
	return key, k.publishLocked(key, txtPath)
}

// otherwise returns the key of a file with another spelling of the domain, or nil: the
// first version named it as its configuration spelt it, in capitals or beyond ASCII.
func (k *DKIM) otherwise(d address.Domain, selector string) (*dkim.Key, error) {
	list, err := os.ReadDir(k.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "certs")
	}
	for _, f := range list {
		name, ours := strings.CutSuffix(f.Name(), "_"+selector+".key")
		if same, err := address.ParseDomain(name); !ours || err != nil || same != d {
			continue
		}
		path := filepath.Join(k.dir, f.Name())
		raw, err := readSmall(path)
		if err != nil {
			return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "certs"), "give the server's user read access to the DKIM keys")
		}
		key, err := dkim.ParseKey(raw)
		if err != nil {
			return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "certs: "+path), "restore the key from a backup, or choose another selector")
		}
		return key, nil
	}
	return nil, nil
}

// legacy returns the key of a later predecessor, which had one for all, or nil.
func (k *DKIM) legacy(selector string, primary bool) (*dkim.Key, error) {
	if !primary || selector != DefaultSelector {
		return nil, nil
	}
	path := filepath.Join(k.opt.StateDir, "dkim", "default.private")
	raw, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "certs")
	}
	key, err := dkim.ParseKey(raw)
	if err != nil {
		return nil, fault.WithHint(fault.Wrap(fault.Invalid, err, "certs: "+path), "move the file away to have a new key made")
	}
	return key, nil
}

// publishLocked writes the record's text, unless the file says the same in other words.
func (k *DKIM) publishLocked(key *dkim.Key, path string) error {
	record, err := key.Record()
	if err != nil {
		return err
	}
	if raw, err := readSmall(path); err == nil && dkim.Compare(record, []string{string(raw)}) == dkim.Matched {
		return nil
	}
	return safefile.Write(path, []byte(record+"\n"), 0o644)
}

func (k *DKIM) saveLocked(s dkimState) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fault.Wrap(fault.Internal, err, "certs")
	}
	return safefile.Write(k.statePath(), append(raw, '\n'), 0o600)
}

func (k *DKIM) removeLocked(selector string) error {
	var errs []error
	for _, d := range k.domains {
		key, txt := k.paths(d, selector)
		for _, p := range []string{key, txt} {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return fault.Wrap(fault.Internal, errors.Join(errs...), "certs: remove a DKIM key")
}

func (k *DKIM) usedLocked(selector string) bool {
	if selector == k.state.Active || slices.ContainsFunc(k.state.Retired, func(r retired) bool { return r.Selector == selector }) {
		return true
	}
	return slices.ContainsFunc(k.domains, func(d address.Domain) bool {
		key, txt := k.paths(d, selector)
		_, kerr := os.Lstat(key)
		_, terr := os.Lstat(txt)
		return kerr == nil || terr == nil
	})
}

// freeSelectorLocked returns a selector named after the day that was not used.
func (k *DKIM) freeSelectorLocked() string {
	base := "s" + k.opt.Now().UTC().Format("20060102")
	selector := base
	for c := 'b'; k.usedLocked(selector) && c <= 'z'; c++ {
		selector = base + string(c)
	}
	return selector
}

// readSmall reads a file of a bounded size.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxDKIMFile+1))
	if err == nil && len(raw) > maxDKIMFile {
		err = errors.New(path + ": file too large")
	}
	return raw, err
}

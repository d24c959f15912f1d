package certs

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/net/idna"

	"madmail/internal/fault"
	"madmail/internal/safefile"
	"madmail/internal/version"
)

// The directories of Let's Encrypt.
const (
	LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"
	Staging     = "https://acme-staging-v02.api.letsencrypt.org/directory"
)

const (
	// ChallengeAddr is where authorities ask over HTTP (RFC 8555 section 8.3).
	ChallengeAddr = ":80"

	longWindow  = 30 * 24 * time.Hour // a certificate for names is renewed when less is left
	shortWindow = 4 * 24 * time.Hour  // one for an address, which lives for six days
	short       = 10 * 24 * time.Hour // what lives less long is short-lived
	maxNames    = 100                 // in one order
	orderTime   = 110 * time.Second   // for all of it; an operator waits
	requestTime = 30 * time.Second    // for one request
)

// Order says which certificate is wanted, of whom, and where it goes.
type Order struct {
	Directory string // URL of the authority; "" is Let's Encrypt
	RootCA    string // file with the roots that its HTTPS is checked against; "" takes the system's
	Email     string // contact; left out when it is at an IP address
	Names     []string
	Cert, Key string // paths

	// HTTP is where challenges are answered while the order runs; "" opens nothing,
	// because a listener of this server is where authorities ask.
	HTTP string
	// TLS: a listener of this server answers TLS-ALPN-01 challenges.
	TLS bool
	// Zone takes the records of DNS-01; with one nothing else is tried.
	Zone Zone

	Force bool // also when there is a good certificate
}

// What Obtain did.
const (
	Issued  = "issued"
	Renewed = "renewed"
	Skipped = "skipped" // what is there is good
)

// ACME orders certificates (RFC 8555), one at a time, and answers the challenges of
// the authority. Make one with NewACME. All methods may be called from many
// goroutines.
//
// On disk, in {state}/autocert: le-account.json, the account at Let's Encrypt;
// account-HOST.json, one at another authority; renewal.json, when a failed order is
// tried again.
type ACME struct {
	dir string
	now func() time.Time
	log *slog.Logger
	// issue asks the authority; tests put another one in its place.
	issue func(ctx context.Context, o Order, key crypto.Signer) (chain []byte, err error)

	lookup func(ctx context.Context, name string) (texts []string, err error)

	busy sync.Mutex // one order at a time; held over the network by purpose

	mu     sync.Mutex                  // guards the fields below
	tokens map[string]string           // key authorisations by token (HTTP-01)
	hellos map[string]*tls.Certificate // by name in the client's hello (TLS-ALPN-01)
}

// NewACME returns one whose account is in {stateDir}/autocert. now and log may be nil.
func NewACME(stateDir string, now func() time.Time, log *slog.Logger) *ACME {
	a := &ACME{dir: filepath.Join(stateDir, "autocert"), now: now, log: log, tokens: make(map[string]string), hellos: make(map[string]*tls.Certificate)}
	if now == nil {
		a.now = time.Now
	}
	if log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.issue, a.lookup = a.ask, net.DefaultResolver.LookupTXT
	return a
}

// Identifiers are the names of list that an authority can vouch for: without
// brackets, in ASCII, each once, in order. Names without a dot are nobody's.
func Identifiers(list ...string) (names []string) {
	for _, n := range list {
		n = strings.ToLower(strings.TrimSuffix(strings.Trim(strings.TrimSpace(n), "[]"), "."))
		if ip, err := netip.ParseAddr(n); err == nil {
			n = ip.Unmap().String()
		} else {
			// A wildcard is no host name, its base is.
			base, wild := strings.CutPrefix(n, "*.")
			base, err := idna.Lookup.ToASCII(base)
			if err != nil || !strings.Contains(base, ".") {
				continue
			}
			if n = base; wild {
				n = "*." + base
			}
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// Window is how long before its end a certificate is renewed: 30 days, 4 days for one
// that lives less than 10, and never more than three quarters of its life.
func Window(leaf *x509.Certificate) time.Duration {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	if life < short {
		return min(shortWindow, life*3/4)
	}
	return min(longWindow, life*3/4)
}

// need says why a certificate is wanted in place of the one that is there, "" when it
// is good.
func (o Order) need(now time.Time) (reason string, old *x509.Certificate) {
	leaf, selfSigned, err := Inspect(o.Cert, o.Key)
	switch {
	case err != nil:
		return "there is none that can be used", nil
	case selfSigned:
		return "the one that is there is self-signed", nil
	case o.Directory != Staging && strings.Contains(leaf.Issuer.String(), "(STAGING)"):
		return "the one that is there is for tests only", nil
	}
	for _, n := range o.Names {
		if !slices.Contains(leaf.DNSNames, n) && leaf.VerifyHostname(n) != nil {
			return "the one that is there does not name " + n, leaf
		}
	}
	switch {
	case now.Before(leaf.NotBefore):
		return "the one that is there is not valid yet", leaf
	case leaf.NotAfter.Sub(now) < Window(leaf):
		return "the one that is there runs out on " + leaf.NotAfter.UTC().Format(time.DateTime), leaf
	}
	return "", leaf
}

// Obtain orders the certificate of o, unless there is a good one, and writes the pair;
// whoever serves it has to read it. The key that is there is kept where it can be:
// clients and TLSA records know it. On an error the old pair stays as it was, and the
// next try is put off.
//
// Errors: fault.Invalid for an order that cannot be, fault.Refused when the authority
// says no, fault.Busy for what may be better later.
func (a *ACME) Obtain(ctx context.Context, o Order) (action string, err error) {
	a.busy.Lock()
	defer a.busy.Unlock()
	return a.obtain(ctx, o)
}

func (a *ACME) obtain(ctx context.Context, o Order) (action string, err error) {
	if o.Directory == "" {
		o.Directory = LetsEncrypt
	}
	reason, old := o.need(a.now())
	if reason == "" && !o.Force {
		return Skipped, nil
	}
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	if err = o.check(); err == nil {
		err = a.fetch(ctx, o)
	}
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return "", err // given up from here: that says nothing about the next one
		}
		return "", errors.Join(err, a.failed(err, old))
	}
	if err := a.forget(); err != nil {
		return "", err
	}
	if old != nil {
		return Renewed, nil
	}
	return Issued, nil
}

// check finds what no authority has to be asked about.
func (o Order) check() error {
	switch {
	case len(o.Names) == 0:
		return fault.WithHint(fault.New(fault.Invalid, "there is no name to order a certificate for"), "set hostname and primary_domain to names that the DNS knows, or to the public IP address")
	case len(o.Names) > maxNames:
		return fault.Newf(fault.Invalid, "%d names are too many for one certificate; %d is the limit", len(o.Names), maxNames)
	}
	for _, n := range o.Names {
		if _, literal := literalIP(n); o.Zone != nil && literal {
			return fault.WithHint(fault.Newf(fault.Invalid, "%s: the DNS cannot prove an address", n), `set tls_mode = "autocert"`)
		} else if o.Zone == nil && strings.HasPrefix(n, "*.") {
			return fault.WithHint(fault.Newf(fault.Invalid, "%s: only the DNS can prove a wildcard", n), `set tls_mode = "acme" and acme_dns_provider`)
		}
	}
	if u, err := url.Parse(o.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		return fault.Newf(fault.Invalid, "acme_directory: %.200q is not an https URL", o.Directory)
	}
	return nil
}

func literalIP(name string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(name)
	return ip, err == nil
}

// fetch gets the certificate and writes it.
func (a *ACME) fetch(ctx context.Context, o Order) error {
	key, kept, err := usableKey(o.Cert, o.Key)
	if err != nil {
		return err
	}
	chain, err := a.issue(ctx, o, key)
	if err != nil {
		return err
	}
	keyPEM, err := pemKey(key)
	if err != nil {
		return err
	}
	if err := fits(chain, keyPEM, o.Names); err != nil {
		return err
	}
	if err := makeDir(filepath.Dir(o.Cert), 0o750); err != nil {
		return err
	}
	if !kept { // the only moment in which the files do not fit
		if err := writeOwned(o.Key, keyPEM, 0o600); err != nil {
			return err
		}
	}
	return writeOwned(o.Cert, chain, 0o640)
}

// usableKey returns the key that is there when it is a pair's and good enough, else a
// new one.
func usableKey(cert, key string) (k crypto.Signer, kept bool, err error) {
	if pair, err := tls.LoadX509KeyPair(cert, key); err == nil {
		switch k := pair.PrivateKey.(type) {
		case *ecdsa.PrivateKey:
			if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
				return k, true, nil
			}
		case *rsa.PrivateKey:
			if k.N.BitLen() >= 2048 {
				return k, true, nil
			}
		}
	}
	n, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, false, fault.Wrap(fault.Internal, err, "certs: make a key")
	}
	return n, false, nil
}

func pemKey(key crypto.Signer) ([]byte, error) {
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "certs: write a key")
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}

// fits examines what an authority sent before it replaces anything.
func fits(chain, key []byte, names []string) error {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fault.Wrap(fault.Refused, err, "certs: what the authority sent")
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fault.Wrap(fault.Refused, err, "certs: what the authority sent")
	}
	for _, n := range names {
		if !slices.Contains(leaf.DNSNames, n) && leaf.VerifyHostname(n) != nil {
			return fault.Newf(fault.Refused, "certs: the authority sent a certificate that does not name %s", n)
		}
	}
	return nil
}

// ask has the authority issue a certificate for key and returns it with its chain.
func (a *ACME) ask(ctx context.Context, o Order, key crypto.Signer) ([]byte, error) {
	web, err := o.client()
	if err != nil {
		return nil, err
	}
	defer web.CloseIdleConnections()
	client := &acme.Client{Directory: o.Directory, HTTPClient: web, UserAgent: version.Name + "/" + version.Version, PollTimeout: orderTime}
	dir, err := client.GetDirectory(ctx)
	if err != nil {
		return nil, fault.WithHint(fault.Wrap(fault.Busy, err, "certs: ask "+o.host()), "is there a way from here to "+o.host()+", and is the clock right?")
	}
	account, err := a.account(ctx, client, o)
	if err != nil {
		return nil, err
	}
	ways, closing, err := a.ways(o)
	if err != nil {
		return nil, err
	}
	defer closing()
	csr, err := acmez.NewCSR(key, o.Names)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "certs: order")
	}
	p, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "certs: order")
	}
	if dir.Meta != nil && slices.ContainsFunc(o.Names, func(n string) bool { _, ok := literalIP(n); return ok }) {
		if _, ok := dir.Meta.Profiles["shortlived"]; ok {
			p.Profile = "shortlived" // the one that has addresses
		}
	}
	// One way after the other: the client library would draw lots.
	var errs []error
	for _, w := range ways {
		c := &acmez.Client{Client: client, ChallengeSolvers: map[string]acmez.Solver{w.kind: w.solver}}
		chains, err := c.ObtainCertificate(ctx, p)
		if err == nil && len(chains) == 0 {
			err = errors.New("no certificate came")
		}
		if err == nil {
			return chains[0].ChainPEM, nil
		}
		errs = append(errs, refusal(w.kind, err))
		// Another way helps against a proof that failed, and against nothing else.
		var p acme.Problem
		if ctx.Err() != nil || !errors.As(err, &p) || p.Type == acme.ProblemTypeRateLimited {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// refusal gives what an authority says its kind.
func refusal(way string, err error) error {
	var p acme.Problem
	kind := fault.Busy
	if errors.As(err, &p) && p.Type != acme.ProblemTypeServerInternal {
		kind = fault.Refused
	}
	err = fault.Wrap(kind, err, "certs: "+way)
	switch {
	case p.Type == acme.ProblemTypeRateLimited:
		return fault.WithHint(err, "wait as long as it says; --staging is there for trying")
	case way == acme.ChallengeTypeHTTP01 && kind == fault.Refused:
		return fault.WithHint(err, "every name has to lead here in the DNS, and port 80 has to be open to the world")
	}
	return err
}

func (o Order) host() string {
	u, err := url.Parse(o.Directory)
	if err != nil {
		return o.Directory
	}
	return u.Hostname()
}

// client returns one that speaks to the authority.
func (o Order) client() (*http.Client, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: requestTime, ResponseHeaderTimeout: requestTime, IdleConnTimeout: time.Minute}
	if o.RootCA != "" {
		raw, err := os.ReadFile(o.RootCA)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(raw) {
			return nil, fault.WithHint(fault.Newf(fault.Invalid, "acme_root_ca: %s has no certificate that can be read", o.RootCA), "it is a file in PEM")
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t, Timeout: requestTime}, nil
}

// way is one proof that the names are ours.
type way struct {
	kind   string
	solver acmez.Solver
}

// ways are those that are open, the surest first. closing ends what was opened.
func (a *ACME) ways(o Order) (list []way, closing func(), err error) {
	closing = func() {}
	if o.Zone != nil {
		return []way{{acme.ChallengeTypeDNS01, records{o.Zone, a.lookup}}}, closing, nil
	}
	if o.HTTP == "" {
		list = append(list, way{acme.ChallengeTypeHTTP01, byHTTP{a}})
	} else if l, lerr := net.Listen("tcp", o.HTTP); lerr == nil {
		closing = a.serveChallenges(l)
		list = append(list, way{acme.ChallengeTypeHTTP01, byHTTP{a}})
	} else {
		err = taken(o.HTTP, lerr)
	}
	if o.TLS {
		list = append(list, way{acme.ChallengeTypeTLSALPN01, byTLS{a}})
	}
	if len(list) == 0 {
		return nil, closing, err
	}
	return list, closing, nil
}

// account returns ours at the authority, made anew where there is none.
func (a *ACME) account(ctx context.Context, client *acme.Client, o Order) (acme.Account, error) {
	path := a.accountPath(o.Directory)
	stored, err := readAccount(path)
	if fault.Is(err, fault.Invalid) {
		// An account is made in a second, and no order must wait for somebody to do it.
		a.log.WarnContext(ctx, "the account cannot be read and is made anew; the file is kept", "file", path+".unreadable", "err", err)
		err = os.Rename(path, path+".unreadable")
	}
	if err != nil {
		return acme.Account{}, fault.Wrap(fault.Busy, err, "certs: account")
	}
	if stored == nil && o.Directory == LetsEncrypt {
		if stored, err = readAccountKey(filepath.Join(a.dir, "account.key.pem")); err != nil {
			return acme.Account{}, err
		}
	}
	account := acme.Account{TermsOfServiceAgreed: true, Contact: contact(o.Email)}
	if stored != nil {
		account.PrivateKey = stored.key
		if stored.ID != "" && (stored.Directory == "" || stored.Directory == o.Directory) {
			account.Location, account.Status = stored.ID, acme.StatusValid
			// The authority may have forgotten it; then it is made again.
			known, err := client.GetAccount(ctx, account)
			var p acme.Problem
			if err == nil && known.Status == acme.StatusValid {
				known.PrivateKey = stored.key
				if len(account.Contact) > 0 && !slices.Equal(known.Contact, account.Contact) {
					known.Contact = account.Contact
					if updated, err := client.UpdateAccount(ctx, known); err == nil {
						updated.PrivateKey, updated.Location = stored.key, stored.ID
						known = updated
					} else {
						a.log.WarnContext(ctx, "the authority does not take the contact address", "err", err)
					}
				}
				known.Location = stored.ID
				return known, nil
			}
			if err != nil && !errors.As(err, &p) {
				return acme.Account{}, fault.Wrap(fault.Busy, err, "certs: account")
			}
			account.Location, account.Status = "", ""
		}
	}
	if account.PrivateKey == nil {
		if account.PrivateKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return acme.Account{}, fault.Wrap(fault.Internal, err, "certs: make a key")
		}
	}
	made, err := client.NewAccount(ctx, account)
	var p acme.Problem
	if stored != nil && errors.As(err, &p) && (p.Type == acme.ProblemTypeUnauthorized || p.Type == acme.ProblemTypeAccountDoesNotExist) {
		// It was switched off: its key will never do again.
		if account.PrivateKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return acme.Account{}, fault.Wrap(fault.Internal, err, "certs: make a key")
		}
		made, err = client.NewAccount(ctx, account)
	}
	if err != nil {
		return acme.Account{}, refusal("account", err)
	}
	made.PrivateKey = account.PrivateKey
	return made, writeAccount(path, accountFile{ID: made.Location, Directory: o.Directory, key: account.PrivateKey})
}

// contact is the account's, none for an address that no authority accepts.
func contact(email string) []string {
	at := strings.LastIndexByte(email, '@')
	if at < 1 {
		return nil
	}
	host := strings.Trim(email[at+1:], "[]")
	if _, literal := literalIP(strings.TrimPrefix(strings.ToLower(host), "ipv6:")); literal || !strings.Contains(host, ".") {
		return nil
	}
	return []string{"mailto:" + email}
}

// makeDir makes a directory that belongs to whom its parent belongs.
func makeDir(path string, mode os.FileMode) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return fault.Wrap(fault.Busy, err, "certs")
	}
	return ownAs(path, filepath.Dir(path))
}

// writeOwned is safefile.Write for a file that belongs to whom its directory belongs
// when it is new: a command that root runs must not lock the server out.
func writeOwned(path string, data []byte, mode os.FileMode) error {
	_, serr := os.Lstat(path)
	if err := safefile.Write(path, data, mode); err != nil {
		return err
	}
	if errors.Is(serr, os.ErrNotExist) {
		return ownAs(path, filepath.Dir(path))
	}
	return nil
}

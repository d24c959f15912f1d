package ops

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/certs"
	"madmail/internal/dkim"
	"madmail/internal/fault"
	"madmail/internal/settings"
)

// Keys is what the desk needs of the signing keys and the DNS.
type Keys struct {
	Records func() []certs.DKIMRecord
	Rotate  func(selector string) ([]certs.DKIMRecord, error)
	Abandon func() error
	// Forget drops what was cached of the DNS: who asks has just changed it.
	Forget func() error
	TXT    dkim.LookupTXT
	// Data returns what the records of a type say.
	Data func(ctx context.Context, name, typ string) ([]string, error)
	// Addresses returns those of a host.
	Addresses func(ctx context.Context, host string) ([]netip.Addr, error)
	Facts     func() ZoneFacts
}

// ZoneFacts are what the records of our domain have to say.
type ZoneFacts struct {
	Domain    address.Domain
	Host      string // the mail exchanger
	Addresses []netip.Addr
	Services  []ZoneService
	STSMode   string // "" for none
	ACME      bool
}

// ZoneService is a service that clients look up (RFC 6186, RFC 8314).
type ZoneService struct {
	Name string
	Port int
}

// DKIMKey is a key and the record that publishes it.
type DKIMKey struct {
	Selector string `json:"selector"`
	Domain   string `json:"domain"`
	Phase    string `json:"phase"` // active, next or retired
	Name     string `json:"dns_name"`
	FQDN     string `json:"dns_fqdn"`
	KeyPath  string `json:"private_key"`
	TXTPath  string `json:"public_txt_file"`
	TXT      string `json:"txt"`
	Until    string `json:"until,omitempty"` // of a retired one: the record may go then
}

// DKIMKeys are the keys of our domains. The first one stands at the top, too.
type DKIMKeys struct {
	DKIMKey
	Keys []DKIMKey `json:"keys"`
	// Switched says that a rotation was finished.
	Switched bool `json:"switched,omitempty"`
}

// DKIMCheck compares a record with what is published.
type DKIMCheck struct {
	Selector  string   `json:"selector"`
	Domain    string   `json:"domain"`
	Phase     string   `json:"phase"`
	Name      string   `json:"dns_name"`
	FQDN      string   `json:"dns_fqdn"`
	Expected  string   `json:"expected_txt"`
	Published []string `json:"dns_txt"`
	Matched   bool     `json:"matched"`
	Checked   bool     `json:"checked"`
	Reason    string   `json:"reason,omitempty"`
	Error     string   `json:"lookup_error,omitempty"`
}

// DKIMChecks are the checks of all records that matter.
type DKIMChecks struct {
	DKIMCheck
	Checks []DKIMCheck `json:"checks"`
}

// DKIMSelect picks keys by domain; "" picks all.
type DKIMSelect struct{ Domain string }

// DKIMRotation asks for a new key, or finishes its introduction. Selector "" is
// chosen by the date. Force does not wait for the record to be seen.
type DKIMRotation struct {
	Selector       string
	Abandon, Force bool
}

// ZoneRecord is a record that belongs into the DNS.
type ZoneRecord struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Value    string `json:"value"`
	Required bool   `json:"required"`
	// State is "" when nothing was asked, else ok, missing, differs or unknown.
	State     string   `json:"state,omitempty"`
	Published []string `json:"published,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// Zone is what the DNS should say about this server.
type Zone struct {
	Domain  string       `json:"domain"`
	Records []ZoneRecord `json:"records"`
	// Reason says why there are no records.
	Reason string `json:"reason,omitempty"`
	OK     bool   `json:"ok"` // every required record is there; true when nothing was asked
}

// ZoneRequest asks for the zone. Check compares it with what is published.
type ZoneRequest struct{ Check bool }

func (d *Desk) defineDKIM(t Table) {
	Define(t, "dkim.show", "Show the signing keys and their records", d.dkimShow)
	Define(t, "dkim.check", "Compare the published records with the keys", d.dkimCheck)
	Define(t, "dkim.rotate", "Replace the signing keys", d.dkimRotate)
	Define(t, "dns", "Tell what belongs into the DNS", d.zone)
}

var errNoName = fault.WithHint(fault.New(fault.NotFound, "only IP addresses here: there is nothing to sign for"), "mail from an IP address is taken without a signature")

func dkimKeys(list []certs.DKIMRecord) DKIMKeys {
	k := DKIMKeys{Keys: make([]DKIMKey, len(list))}
	for i, r := range list {
		k.Keys[i] = DKIMKey{Selector: r.Selector, Domain: string(r.Domain), Phase: string(r.Phase), Name: r.Name, FQDN: r.FQDN,
			KeyPath: r.KeyPath, TXTPath: r.TXTPath, TXT: r.TXT, Until: stamp(r.Until)}
	}
	if len(list) > 0 {
		k.DKIMKey = k.Keys[0]
	}
	return k
}

// keysOf returns the records of a domain, or all.
func (d *Desk) keysOf(domain string) ([]certs.DKIMRecord, error) {
	list := d.Keys.Records()
	if domain != "" {
		list = slices.DeleteFunc(list, func(r certs.DKIMRecord) bool { return !strings.EqualFold(string(r.Domain), domain) })
	}
	switch {
	case len(list) == 0 && domain != "":
		return nil, fault.Newf(fault.NotFound, "no DKIM key for %s: it is not a domain name of this server", domain)
	case len(list) == 0:
		return nil, errNoName
	}
	return list, nil
}

func (d *Desk) dkimShow(_ context.Context, p DKIMSelect) (DKIMKeys, error) {
	list, err := d.keysOf(p.Domain)
	if err != nil {
		return DKIMKeys{}, err
	}
	return dkimKeys(list), nil
}

func (d *Desk) dkimCheck(ctx context.Context, p DKIMSelect) (DKIMChecks, error) {
	list, err := d.keysOf(p.Domain)
	if err != nil {
		return DKIMChecks{}, err
	}
	list = slices.DeleteFunc(list, func(r certs.DKIMRecord) bool { return r.Phase == certs.Retired })
	return d.compare(ctx, list)
}

func (d *Desk) compare(ctx context.Context, list []certs.DKIMRecord) (DKIMChecks, error) {
	var c DKIMChecks
	if err := d.Keys.Forget(); err != nil {
		return c, err
	}
	for _, r := range certs.CheckDKIM(ctx, list, d.Keys.TXT) {
		x := DKIMCheck{Selector: r.Selector, Domain: string(r.Domain), Phase: string(r.Phase), Name: r.Name, FQDN: r.FQDN, Expected: r.TXT,
			Published: r.Published, Checked: r.Err == nil, Matched: r.Err == nil && r.Match == dkim.Matched}
		if x.Published == nil {
			x.Published = []string{}
		}
		switch {
		case r.Err != nil:
			x.Error = r.Err.Error()
		case !x.Matched:
			x.Reason = r.Match.String()
		}
		c.Checks = append(c.Checks, x)
	}
	if len(c.Checks) > 0 {
		c.DKIMCheck = c.Checks[0]
	}
	return c, nil
}

// dkimRotate makes the next key; or, when it was made and its record is published,
// lets it sign.
func (d *Desk) dkimRotate(ctx context.Context, p DKIMRotation) (DKIMKeys, error) {
	var next []certs.DKIMRecord
	for _, r := range d.Keys.Records() {
		if r.Phase == certs.Next {
			next = append(next, r)
		}
	}
	switch {
	case p.Abandon && len(next) == 0:
		return DKIMKeys{}, fault.New(fault.NotFound, "no rotation is under way")
	case p.Abandon:
		return dkimKeys(next), d.Keys.Abandon()
	case len(next) == 0 || p.Selector != "" && p.Selector != next[0].Selector:
		list, err := d.Keys.Rotate(p.Selector)
		if err != nil {
			return DKIMKeys{}, err
		}
		return dkimKeys(list), nil
	}
	if !p.Force {
		seen, err := d.compare(ctx, next)
		if err != nil {
			return DKIMKeys{}, err
		}
		for _, c := range seen.Checks {
			if !c.Matched {
				return DKIMKeys{}, fault.WithHint(fault.Newf(fault.Refused, "the next key does not sign yet: %s: %s", c.FQDN, c.Reason+c.Error),
					"publish what madmail dkim show prints for it, and run this command again; --abandon gives it up")
			}
		}
	}
	if _, err := d.Change(ctx, settings.Change{Key: settings.DKIMSelector, Value: next[0].Selector}); err != nil {
		return DKIMKeys{}, err
	}
	list, err := d.keysOf("")
	k := dkimKeys(list)
	k.Switched = true
	return k, err
}

// zone lists the records of the domain that new accounts get.
func (d *Desk) zone(ctx context.Context, p ZoneRequest) (Zone, error) {
	f := d.Keys.Facts()
	z := Zone{Domain: f.Domain.Host(), Records: []ZoneRecord{}, OK: true}
	if _, literal := f.Domain.IP(); literal {
		z.Reason = "this server has an IP address for its name; the DNS is not needed"
		return z, nil
	}
	z.Records = d.records(f)
	if !p.Check {
		return z, nil
	}
	if err := d.Keys.Forget(); err != nil {
		return Zone{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i := range z.Records {
		r := &z.Records[i]
		d.published(ctx, f, r)
		z.OK = z.OK && (r.State == "ok" || !r.Required)
	}
	return z, nil
}

func (d *Desk) records(f ZoneFacts) (list []ZoneRecord) {
	add := func(required bool, name, typ, value string) {
		list = append(list, ZoneRecord{Name: name + ".", Type: typ, Value: value, Required: required})
	}
	domain := string(f.Domain)
	hosted := f.Host == domain || strings.HasSuffix(f.Host, "."+domain)
	for _, ip := range f.Addresses {
		typ := "A"
		if ip.Is6() {
			typ = "AAAA"
		}
		if hosted {
			add(true, f.Host, typ, ip.String())
		}
	}
	if len(f.Addresses) == 0 && hosted {
		add(true, f.Host, "A", "<the address of this machine>")
	}
	add(true, domain, "MX", "10 "+f.Host+".")
	for _, r := range d.Keys.Records() {
		if r.Domain == f.Domain {
			add(r.Phase == certs.Active, r.FQDN, "TXT", r.TXT)
		}
	}
	if f.STSMode != "" && !strings.HasPrefix(domain, "_") {
		sum := sha256.Sum256([]byte(f.STSMode + " " + f.Host))
		add(false, "_mta-sts."+domain, "TXT", "v=STSv1; id="+hex.EncodeToString(sum[:8]))
		add(false, "mta-sts."+domain, "CNAME", f.Host+".")
	}
	add(false, "www."+domain, "CNAME", f.Host+".")
	add(false, domain, "TXT", "v=spf1 mx ~all")
	add(false, "_dmarc."+domain, "TXT", "v=DMARC1;p=reject;adkim=s;aspf=s")
	add(false, "_adsp._domainkey."+domain, "TXT", "dkim=discardable")
	if f.ACME {
		add(false, domain, "CAA", `0 issue "letsencrypt.org"`)
	}
	for _, s := range f.Services {
		add(false, s.Name+"."+domain, "SRV", "0 1 "+strconv.Itoa(s.Port)+" "+f.Host+".")
	}
	return list
}

// published compares a record with what the DNS says.
func (d *Desk) published(ctx context.Context, f ZoneFacts, r *ZoneRecord) {
	name := strings.TrimSuffix(r.Name, ".")
	var err error
	same := func(p string) bool { return p == strings.ToLower(r.Value) }
	switch r.Type {
	case "A", "AAAA", "CNAME":
		var got, want []netip.Addr
		if got, err = d.Keys.Addresses(ctx, name); err != nil {
			break
		}
		for _, ip := range got {
			r.Published = append(r.Published, ip.String())
		}
		if r.Type == "CNAME" {
			if want, err = d.Keys.Addresses(ctx, f.Host); err != nil {
				break
			}
		} else if ip, err := netip.ParseAddr(r.Value); err == nil {
			want = []netip.Addr{ip}
		}
		same = func(p string) bool {
			return len(want) == 0 || slices.ContainsFunc(want, func(ip netip.Addr) bool { return ip.String() == p })
		}
	case "TXT":
		if r.Published, err = d.Keys.TXT(ctx, name); err != nil {
			break
		}
		kind, _, _ := strings.Cut(r.Value, ";")
		kind, _, _ = strings.Cut(kind, " ")
		switch {
		case strings.Contains(r.Name, "._domainkey.") && !strings.HasPrefix(r.Name, "_adsp."):
			expected, all := r.Value, r.Published
			same = func(string) bool { return dkim.Compare(expected, all) == dkim.Matched }
		case kind == "v=STSv1":
			// Any id will do; it only has to change with the policy.
			same = func(p string) bool { return strings.HasPrefix(p, kind) && strings.Contains(p, "id=") }
		default:
			// Wishes of the operator count: it is there, in whatever words.
			r.Published = slices.DeleteFunc(slices.Clone(r.Published), func(p string) bool { return !strings.HasPrefix(p, kind) })
			same = func(p string) bool { return strings.HasPrefix(p, kind) }
		}
	case "MX":
		if r.Published, err = d.Keys.Data(ctx, name, "MX"); err != nil {
			break
		}
		same = func(p string) bool {
			_, host, _ := strings.Cut(p, " ")
			return host == f.Host+"."
		}
	default:
		r.Published, err = d.Keys.Data(ctx, name, r.Type)
	}
	switch {
	case fault.Is(err, fault.NotFound) || err == nil && len(r.Published) == 0:
		r.State = "missing"
	case err != nil:
		r.State, r.Error = "unknown", err.Error()
	case slices.ContainsFunc(r.Published, same):
		r.State = "ok"
	default:
		r.State = "differs"
	}
}

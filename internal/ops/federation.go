package ops

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"madmail/internal/address"
	"madmail/internal/fault"
	"madmail/internal/peers"
	"madmail/internal/policy"
	"madmail/internal/queue"
	"madmail/internal/settings"
)

// DomainName names a domain.
type DomainName struct {
	Domain string `json:"domain"`
}

// FederationPolicy is ACCEPT or REJECT; "" asks.
type FederationPolicy struct {
	Policy string `json:"policy"`
}

// FederationChange is the outcome of a change to the rules or the dismissals.
type FederationChange struct {
	Domain    string `json:"domain,omitempty"`
	Action    string `json:"action,omitempty"`
	Policy    string `json:"policy,omitempty"`
	Total     int    `json:"total"`
	Remaining int    `json:"remaining"`
	Flushed   int    `json:"flushed,omitempty"`
}

// FederationRule is an exception to the policy.
type FederationRule struct {
	Domain string `json:"domain"`
	Action string `json:"action,omitempty"`
	Added  string `json:"added"` // RFC 3339, UTC
	// What was said about ways to the domain: allow, block or "".
	HTTPS string `json:"https"`
	HTTP  string `json:"http"`
	SMTP  string `json:"smtp"`
}

// FederationRules are the policy and its exceptions.
type FederationRules struct {
	Policy string           `json:"policy"`
	Rules  []FederationRule `json:"rules"`
	// Transports are the domains for which something was said about ways or
	// certificates, with what counts for them.
	Transports []TransportPolicy `json:"transports"`
}

// Dismissals are the domains to which mail is dropped.
type Dismissals struct {
	Domains []FederationRule `json:"domains"`
	Total   int              `json:"total"`
}

// Traffic is what happened with one other server.
type Traffic struct {
	Domain     string `json:"domain"`
	Delivered  int64  `json:"successful_deliveries"`
	Queued     int64  `json:"queued_messages"`
	FailedHTTP int64  `json:"failed_http"`
	FailedTLS  int64  `json:"failed_https"`
	FailedSMTP int64  `json:"failed_smtp"`
	OverHTTP   int64  `json:"success_http"`
	OverTLS    int64  `json:"success_https"`
	OverSMTP   int64  `json:"success_smtp"`
	Inbound    int64  `json:"inbound_deliveries"`
	Sent       int64  `json:"sent"`
	Failed     int64  `json:"failed"`
	LatencyMS  int64  `json:"latency_ms"` // mean, from acceptance to delivery
	LastActive string `json:"last_active"`
	// The same for programs: with fractions, and in unix seconds, 0 for never.
	MeanLatency    float64 `json:"mean_latency_ms"`
	LastActiveUnix int64   `json:"last_active_unix"`
	// Trouble is why the server cannot be reached at present, or "".
	Trouble string `json:"trouble,omitempty"`
}

// TransportPolicy says how mail may go to a domain. "" leaves or asks.
type TransportPolicy struct {
	Domain string `json:"domain"`
	HTTPS  string `json:"https"`
	HTTP   string `json:"http"`
	SMTP   string `json:"smtp"`
	TLS    string `json:"tls"` // strict or relaxed
}

// Endpoint says where a domain is reached instead of where the DNS says.
type Endpoint struct {
	Key     string `json:"lookup_key"`
	Target  string `json:"target_host"`
	Comment string `json:"comment"`
	Created string `json:"created_at"`
	Updated string `json:"updated_at"`
}

// QueueStatus tells about the outbound queue.
type QueueStatus struct {
	Path         string  `json:"path"`
	Count        int     `json:"count"`
	InFlight     int     `json:"in_flight"`
	Destinations int     `json:"destinations"`
	Broken       int     `json:"broken"`
	Oldest       string  `json:"oldest,omitempty"`
	MaxTries     int     `json:"max_tries"`
	Parallel     int     `json:"max_parallelism"`
	InitialRetry int64   `json:"initial_retry_secs"`
	Scale        float64 `json:"retry_time_scale"`
	Lifetime     int64   `json:"max_delivery_secs"`
	Delay        int64   `json:"post_init_delay_secs"`
}

// QueueEntry is one entry of the queue.
type QueueEntry struct {
	ID   string `json:"id"`
	From string `json:"mail_from"`
	// To is the first recipient, Recipients are all of them, as in the files.
	To         string   `json:"rcpt_to"`
	Recipients []string `json:"recipients"`
	Domain     string   `json:"domain"`
	Tries      int      `json:"tries_count"`
	Queued     int64    `json:"queued_at_unix"`
	Last       int64    `json:"last_attempt_unix"`
	Next       int64    `json:"next_attempt_unix"`
	Expires    int64    `json:"expires_unix"`
	Error      *string  `json:"last_error"` // null before the first try
	InFlight   bool     `json:"in_flight"`
	Bytes      int64    `json:"body_bytes"`
	Path       string   `json:"path,omitempty"`
	Deleted    bool     `json:"deleted,omitempty"`
}

// QueueList is a part of the queue.
type QueueList struct {
	Path    string       `json:"path"`
	Count   int          `json:"count"`
	Entries []QueueEntry `json:"entries"`
}

// QueueFilter picks entries: by destination, sender or recipient; "" picks all.
type QueueFilter struct {
	Domain, Sender, Recipient string
	Limit                     int
}

// QueueID names an entry.
type QueueID struct{ ID string }

// Federation is what the desk needs of the way to other servers.
type Federation struct {
	Policy *policy.Store
	Peers  *peers.Store
	Queue  *queue.Queue
	// Trouble returns why destinations cannot be reached at present.
	Trouble func() map[address.Domain]string
	// Limits are the parts of QueueStatus that the configuration decides.
	Limits func() QueueStatus
}

func (d *Desk) defineFederation(t Table) {
	Define(t, "federation.policy", "Show or change what happens to servers without a rule", d.federationPolicy)
	Define(t, "federation.rule", "Add an exception to the policy", d.federationRule)
	Define(t, "federation.remove", "Remove an exception", d.federationRemove)
	Define(t, "federation.flush", "Remove all exceptions", d.federationFlush)
	Define(t, "federation.list", "List policy and exceptions", d.federationList)
	Define(t, "federation.status", "Tell what happened with other servers", d.federationStatus)
	Define(t, "federation.dismiss", "Accept mail to a domain and drop it", d.dismiss)
	Define(t, "federation.undismiss", "Send mail to a domain again", d.undismiss)
	Define(t, "federation.dismiss-list", "List the domains to which mail is dropped", d.dismissList)
	Define(t, "federation.dismiss-flush", "Drop mail to nobody any more", d.dismissFlush)
	Define(t, "federation.transports", "Show or change how mail may go to a domain", d.transports)
	Define(t, "endpoints.list", "List where domains are reached", d.endpointList)
	Define(t, "endpoints.get", "Show where a domain is reached", d.endpointGet)
	Define(t, "endpoints.set", "Say where a domain is reached", d.endpointSet)
	Define(t, "endpoints.remove", "Reach a domain where the DNS says", d.endpointRemove)
	Define(t, "queue.status", "Tell about the outbound queue", d.queueStatus)
	Define(t, "queue.list", "List what waits for other servers", d.queueList)
	Define(t, "queue.show", "Show one entry of the queue", d.queueShow)
	Define(t, "queue.remove", "Remove an entry of the queue", d.queueRemove)
	Define(t, "queue.purge", "Remove entries of the queue", d.queuePurge)
	Define(t, "queue.retry", "Try entries again now", d.queueRetry)
	Define(t, "queue.why", "Tell why mail to a domain waits", d.queueWhy)
}

func (d *Desk) policyName() string { return d.Settings.Current().Enum(settings.FederationPolicy) }

func (d *Desk) federationPolicy(ctx context.Context, p FederationPolicy) (FederationPolicy, error) {
	if p.Policy != "" {
		if _, err := d.settingsSet(ctx, SettingName{Name: string(settings.FederationPolicy), Value: strings.ToUpper(p.Policy)}); err != nil {
			return FederationPolicy{}, err
		}
	}
	return FederationPolicy{Policy: d.policyName()}, nil
}

// action is what a rule means under the present policy.
func (d *Desk) action() string {
	if d.policyName() == "REJECT" {
		return "allow"
	}
	return "block"
}

// normal is a domain as rules keep it, or what was written when it is none.
func normal(domain string) string {
	if d, err := address.ParseDomain(domain); err == nil {
		return d.Host()
	}
	return domain
}

// ruleAction is a rule and what its author thinks that it means.
type ruleAction struct{ Domain, Action string }

func (d *Desk) federationRule(ctx context.Context, p ruleAction) (FederationChange, error) {
	if p.Action != "" && p.Action != d.action() {
		return FederationChange{}, fault.WithHint(
			fault.Newf(fault.Invalid, "under the policy %s a rule means %s, not %s", d.policyName(), d.action(), p.Action),
			"change the policy first: madmail federation policy accept|reject")
	}
	err := d.Federation.Policy.AddRule(ctx, p.Domain)
	return FederationChange{Domain: normal(p.Domain), Action: d.action(), Total: len(d.Federation.Policy.Rules())}, err
}

func (d *Desk) federationRemove(ctx context.Context, p DomainName) (FederationChange, error) {
	err := d.Federation.Policy.RemoveRule(ctx, p.Domain)
	return FederationChange{Domain: normal(p.Domain), Remaining: len(d.Federation.Policy.Rules())}, err
}

func (d *Desk) federationFlush(ctx context.Context, _ none) (FederationChange, error) {
	n, err := d.Federation.Policy.FlushRules(ctx)
	return FederationChange{Flushed: n, Total: len(d.Federation.Policy.Rules())}, err
}

func rules(list []policy.Rule, action string) []FederationRule {
	out := make([]FederationRule, len(list))
	for i, r := range list {
		out[i] = FederationRule{Domain: r.Domain.Host(), Action: action, Added: stamp(r.Added)}
	}
	return out
}

// stamp is a time for JSON; "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func (d *Desk) federationList(context.Context, none) (FederationRules, error) {
	list := rules(d.Federation.Policy.Rules(), d.action())
	ways := []TransportPolicy{}
	for _, t := range d.Federation.Policy.TransportRules() {
		ways = append(ways, d.ways(t.Domain))
		for i := range list {
			if list[i].Domain == t.Domain.Host() {
				list[i].HTTPS, list[i].HTTP, list[i].SMTP = t.HTTPS.String(), t.HTTP.String(), t.SMTP.String()
			}
		}
	}
	return FederationRules{Policy: d.policyName(), Rules: list, Transports: ways}, nil
}

func (d *Desk) federationStatus(ctx context.Context, _ none) (map[string][]Traffic, error) {
	list, err := d.Federation.Peers.List(ctx, 1000)
	trouble := d.Federation.Trouble()
	out := make([]Traffic, len(list))
	for i, s := range list {
		t := Traffic{
			Domain: s.Domain.Host(), Delivered: s.Delivered, Queued: s.Queued, Inbound: s.Inbound, Sent: s.Delivered, LastActive: stamp(s.LastActive),
			FailedTLS: s.Failed[peers.HTTPS], FailedHTTP: s.Failed[peers.HTTP], FailedSMTP: s.Failed[peers.SMTP],
			OverTLS: s.Succeeded[peers.HTTPS], OverHTTP: s.Succeeded[peers.HTTP], OverSMTP: s.Succeeded[peers.SMTP],
			Trouble: trouble[s.Domain],
		}
		t.Failed = t.FailedHTTP + t.FailedTLS + t.FailedSMTP
		if s.Delivered > 0 {
			t.LatencyMS = (s.Latency / time.Duration(s.Delivered)).Milliseconds()
			t.MeanLatency = float64(s.Latency/time.Microsecond) / 1000 / float64(s.Delivered)
		}
		if !s.LastActive.IsZero() {
			t.LastActiveUnix = s.LastActive.Unix()
		}
		out[i] = t
	}
	return map[string][]Traffic{"traffic": out}, err
}

func (d *Desk) dismiss(ctx context.Context, p DomainName) (FederationChange, error) {
	err := d.Federation.Policy.AddDismissal(ctx, p.Domain)
	return FederationChange{Domain: normal(p.Domain), Total: len(d.Federation.Policy.Dismissed())}, err
}

func (d *Desk) undismiss(ctx context.Context, p DomainName) (FederationChange, error) {
	err := d.Federation.Policy.RemoveDismissal(ctx, p.Domain)
	return FederationChange{Domain: normal(p.Domain), Remaining: len(d.Federation.Policy.Dismissed())}, err
}

func (d *Desk) dismissList(context.Context, none) (Dismissals, error) {
	list := rules(d.Federation.Policy.Dismissed(), "")
	return Dismissals{Domains: list, Total: len(list)}, nil
}

func (d *Desk) dismissFlush(ctx context.Context, _ none) (FederationChange, error) {
	n, err := d.Federation.Policy.FlushDismissals(ctx)
	return FederationChange{Flushed: n, Total: len(d.Federation.Policy.Dismissed())}, err
}

func (d *Desk) transports(ctx context.Context, p TransportPolicy) (TransportPolicy, error) {
	to, err := address.ParseDomain(p.Domain)
	if err != nil {
		return TransportPolicy{}, err
	}
	var now policy.Transports
	for _, r := range d.Federation.Policy.TransportRules() {
		if r.Domain == to {
			now = r.Transports
		}
	}
	changed := false
	for _, x := range []struct {
		text string
		at   *policy.Permission
	}{{p.HTTPS, &now.HTTPS}, {p.HTTP, &now.HTTP}, {p.SMTP, &now.SMTP}} {
		if x.text == "" {
			continue
		}
		changed = true
		if *x.at = policy.Usual; x.text == "usual" {
			continue
		}
		if *x.at, err = policy.ParsePermission(x.text); err != nil {
			return TransportPolicy{}, err
		}
	}
	switch p.TLS {
	case "":
	case "strict", "relaxed":
		changed, now.RelaxedTLS = true, p.TLS == "relaxed"
	default:
		return TransportPolicy{}, fault.Newf(fault.Invalid, "%.20q is neither strict nor relaxed", p.TLS)
	}
	if changed {
		if err := d.Federation.Policy.SetTransports(ctx, p.Domain, now); err != nil {
			return TransportPolicy{}, err
		}
	}
	return d.ways(to), nil
}

// ways is what counts for a domain.
func (d *Desk) ways(to address.Domain) TransportPolicy {
	t := d.Federation.Policy.Transports(to)
	out := TransportPolicy{Domain: to.Host(), HTTPS: t.HTTPS.String(), HTTP: t.HTTP.String(), SMTP: t.SMTP.String(), TLS: "strict"}
	if t.RelaxedTLS {
		out.TLS = "relaxed"
	}
	return out
}

func endpoint(o policy.Override) Endpoint {
	return Endpoint{Key: o.Key, Target: o.Target, Comment: o.Comment, Created: stamp(o.Created), Updated: stamp(o.Updated)}
}

func (d *Desk) endpointList(context.Context, none) (map[string][]Endpoint, error) {
	list := []Endpoint{}
	for _, o := range d.Federation.Policy.Overrides() {
		list = append(list, endpoint(o))
	}
	return map[string][]Endpoint{"entries": list}, nil
}

// EndpointKey names an override.
type EndpointKey struct {
	Key string `json:"lookup_key"`
}

func (d *Desk) endpointGet(_ context.Context, p EndpointKey) (Endpoint, error) {
	o, err := d.Federation.Policy.Override(p.Key)
	return endpoint(o), err
}

func (d *Desk) endpointSet(ctx context.Context, p Endpoint) (Endpoint, error) {
	if err := d.Federation.Policy.SetOverride(ctx, p.Key, p.Target, p.Comment); err != nil {
		return Endpoint{}, err
	}
	return d.endpointGet(ctx, EndpointKey{p.Key})
}

func (d *Desk) endpointRemove(ctx context.Context, p EndpointKey) (EndpointKey, error) {
	return p, d.Federation.Policy.RemoveOverride(ctx, p.Key)
}

func (d *Desk) queueStatus(context.Context, none) (QueueStatus, error) {
	s, st := d.Federation.Limits(), d.Federation.Queue.Stats()
	s.Path, s.Count, s.InFlight, s.Destinations, s.Broken = d.Federation.Queue.Dir, st.Entries, st.Taken, st.Destinations, st.Broken
	s.Oldest = stamp(d.Federation.Queue.Oldest())
	return s, nil
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func queueEntry(i queue.Info) QueueEntry {
	e := QueueEntry{
		ID: i.ID.String(), From: i.From.Wire(), Domain: i.Destination.Host(), Tries: i.Tries, InFlight: i.Taken, Bytes: i.Size,
		Queued: unix(i.Queued), Last: unix(i.Last), Next: unix(i.Due), Expires: unix(i.Expires),
	}
	for _, r := range i.To {
		e.Recipients = append(e.Recipients, r.Addr.Wire())
	}
	e.To = e.Recipients[0] // there is one
	if i.Error != "" {
		e.Error = &i.Error
	}
	return e
}

// filter reads what p says. A name without a domain is one of ours.
func (d *Desk) filter(p QueueFilter) (f queue.Filter, err error) {
	if p.Domain != "" {
		if f.Destination, err = address.ParseDomain(p.Domain); err != nil {
			return f, err
		}
	}
	if p.Sender != "" {
		if f.From, err = d.parse(p.Sender); err != nil {
			return f, err
		}
	}
	if p.Recipient != "" {
		f.To, err = d.parse(p.Recipient)
	}
	return f, err
}

func (d *Desk) queueList(ctx context.Context, p QueueFilter) (QueueList, error) {
	f, err := d.filter(p)
	if err != nil {
		return QueueList{}, err
	}
	if p.Limit <= 0 {
		p.Limit = math.MaxInt32
	}
	list, total, err := d.Federation.Queue.List(ctx, f, 0, p.Limit)
	out := QueueList{Path: d.Federation.Queue.Dir, Count: total, Entries: []QueueEntry{}}
	for _, i := range list {
		out.Entries = append(out.Entries, queueEntry(i))
	}
	return out, err
}

func (d *Desk) queueShow(_ context.Context, p QueueID) (QueueEntry, error) {
	id, err := queue.ParseID(p.ID)
	if err != nil {
		return QueueEntry{}, err
	}
	i, err := d.Federation.Queue.Get(id)
	if err != nil {
		return QueueEntry{}, err
	}
	e := queueEntry(i)
	e.Path = fmt.Sprintf("%s/%s.meta", d.Federation.Queue.Dir, e.ID)
	return e, nil
}

func (d *Desk) queueRemove(ctx context.Context, p QueueID) (QueueEntry, error) {
	e, err := d.queueShow(ctx, p)
	if err != nil {
		return e, err
	}
	id, err := queue.ParseID(p.ID)
	if err != nil {
		return e, err
	}
	if err := d.Federation.Queue.Remove(id); err != nil {
		return e, err
	}
	e.Deleted = true
	return e, nil
}

// QueuePurged says how many entries were removed.
type QueuePurged struct {
	Path    string `json:"path"`
	Deleted int    `json:"deleted"`
}

func (d *Desk) queuePurge(ctx context.Context, p QueueFilter) (QueuePurged, error) {
	f, err := d.filter(p)
	if err != nil {
		return QueuePurged{}, err
	}
	n, err := d.Federation.Queue.Purge(ctx, f)
	return QueuePurged{Path: d.Federation.Queue.Dir, Deleted: n}, err
}

// QueueRetry names what is due now: an entry, a domain, or all.
type QueueRetry struct {
	ID     string `json:"id,omitempty"`
	Domain string `json:"domain,omitempty"`
	Due    int    `json:"due"`
}

func (d *Desk) queueRetry(_ context.Context, p QueueRetry) (QueueRetry, error) {
	q := d.Federation.Queue
	if p.ID != "" {
		id, err := queue.ParseID(p.ID)
		if err != nil {
			return p, err
		}
		p.Due = 1
		return p, q.WakeOne(id)
	}
	if p.Domain != "" {
		to, err := address.ParseDomain(p.Domain)
		if err != nil {
			return p, err
		}
		p.Due = q.Wake(to)
		return p, nil
	}
	for to := range q.Depths() {
		p.Due += q.Wake(to)
	}
	return p, nil
}

// Why says why mail to a domain waits.
type Why struct {
	Domain     string          `json:"domain"`
	Verdict    string          `json:"policy"` // send, refuse or dismiss
	Transports TransportPolicy `json:"transports"`
	Endpoint   *Endpoint       `json:"endpoint,omitempty"`
	Waiting    int             `json:"waiting"`
	Trouble    string          `json:"trouble,omitempty"`
	Next       string          `json:"next_attempt,omitempty"`
	Error      string          `json:"last_error,omitempty"`
}

func (d *Desk) queueWhy(ctx context.Context, p DomainName) (Why, error) {
	to, err := address.ParseDomain(p.Domain)
	if err != nil {
		return Why{}, err
	}
	w := Why{Domain: to.Host(), Verdict: [...]string{policy.Send: "send", policy.Refuse: "refuse", policy.Dismiss: "dismiss"}[d.Federation.Policy.Outbound(to)]}
	if w.Transports, err = d.transports(ctx, TransportPolicy{Domain: p.Domain}); err != nil {
		return w, err
	}
	if o, err := d.Federation.Policy.Override(p.Domain); err == nil {
		e := endpoint(o)
		w.Endpoint = &e
	}
	w.Trouble = d.Federation.Trouble()[to]
	list, total, err := d.Federation.Queue.List(ctx, queue.Filter{Destination: to}, 0, 1)
	if w.Waiting = total; len(list) > 0 {
		w.Next, w.Error = stamp(list[0].Due), list[0].Error
	}
	return w, err
}
